"""What a file in `surfaces/` holds."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Surface:
    """Something that reads files of others.

    Args:
        seeds: (a folder for what is made once) -> good files; each case damages one of them.
        check: (damaged file, number of its seed, an empty folder) reads it; raises AssertionError where the reading is
            neither that of the undamaged file nor refused.
        clean: the errors that refuse it in one sentence.
        damage: (a good file, all good files, chance) -> a damaged one; else that of any bytes.
    """

    seeds: Callable[[Path], Sequence[bytes]]
    check: Callable[[bytes, int, Path], object]
    clean: tuple[type[BaseException], ...]
    damage: Callable[[bytes, Sequence[bytes], random.Random], bytes] | None = None


def damaged(data: bytes, others: Sequence[bytes], draw: random.Random) -> bytes:
    """One to four kinds of damage: bits, bytes, stretches cut, doubled, filled, moved, or taken from another file."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        at = draw.randrange(len(changed) + 1)
        # Headers are where most is decided.
        at = min(at, draw.randrange(64) * 8) if draw.random() < 0.4 else at
        size = draw.choice((1, 2, 4, 8, 64, 512, 4096))
        kind = draw.randrange(9)
        if kind == 0 and changed:
            changed[min(at, len(changed) - 1)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            changed[at : at + 1] = bytes([draw.randrange(256)])
        elif kind == 2:
            del changed[at:]
        elif kind == 3:
            del changed[at : at + size]
        elif kind == 4:
            changed[at:at] = changed[at : at + size]
        elif kind == 5:
            changed[at : at + size] = draw.choice((b"\0", b"\xff", b"9", b" ", b"[")) * size
        elif kind == 6:
            changed[at : at + 4] = draw.choice((b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0"))
        elif kind == 7:
            other = draw.choice(others)
            start = draw.randrange(len(other) + 1)
            changed[at : at + size] = other[start : start + size]
        else:
            changed[at:at] = draw.randbytes(size)
    return bytes(changed)
