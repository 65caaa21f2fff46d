"""Small files of JSON, damaged: a value replaced, left out or cut, a bit flipped, or wholly other things."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, -1, 0, 7, 2**70, 1e308, 0.5, "", "x", "\ud800", "/dev/zero", "--user=victim", [], {}, [[]], [None],
    {"a": 1}, [1, "a"], float("nan"), float("inf"),
)  # fmt: skip
WHOLE = (b"", b"[]", b"5", b"null", b'"x"', b"{", b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe{}", b"{}\n{}", b"NaN")


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*at, key)
        yield from places(item, (*at, key))


def flip(content: bytes, chosen: random.Random) -> bytes:
    flipped = bytearray(content)
    flipped[chosen.randrange(len(flipped))] ^= 1 << chosen.randrange(8)
    return bytes(flipped)


def one(content: bytes, chosen: random.Random) -> bytes:
    """`content`, JSON or lines of it, with one damage."""
    how = chosen.randrange(8)
    if how == 0:
        return content[: chosen.randrange(len(content))]
    if how == 1:
        return flip(content, chosen)
    lines = content.splitlines() if not content.startswith(b"{\n") else [content]
    number = chosen.randrange(len(lines))
    value = json.loads(lines[number])
    *path, last = chosen.choice(list(places(value)))
    owner = value
    for key in path:
        owner = owner[key]
    if how == 2:
        del owner[last]
    else:
        owner[last] = chosen.choice(ODD)
    return b"\n".join([*lines[:number], json.dumps(value).encode(), *lines[number + 1 :], b""])


def damaged(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """`WHOLE`, and `content` with one damage in `count` ways."""
    chosen = random.Random(seed)
    yield from WHOLE
    yield from (one(content, chosen) for _ in range(count))
