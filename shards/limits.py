"""How much one file, one picture and one sample may ask for, before memory is taken: the one place that says so.

Each is raised, or lowered, by an environment variable: `SHARDS_MAX_PIXELS=500000000 fashion-dist pack ...`.
"""

from __future__ import annotations

import os

from shards.errors import InputError

DEFAULTS = {
    "PIXELS": 2**27,
    "SIDE": 65_535,
    "PICTURE_BYTES": 2**29,
    "VECTOR": 65_536,
    "NUMBERS": 2**30,
    "FACTS": 4096,
    "FACT_BYTES": 2**22,
    "MEMBERS": 1024,
    "HOLES": 2**30,
    "MANIFEST_BYTES": 2**26,
}
"""PIXELS and SIDE of a picture, bytes of its file; K of `ints:K`, and numbers of such a column in a split; FACTS of a
set, bytes of a `json`, `cls` or `txt` of a tar, members of a sample; bytes of a tar that are not on the disk, and of a
manifest."""


def limit(name: str) -> int:
    """The limit `name`, one of `DEFAULTS`; raises InputError where the environment holds no number."""
    text = os.environ.get(f"SHARDS_MAX_{name}", "")
    if not text:
        return DEFAULTS[name]
    if not (text.isascii() and text.isdigit()) or not 0 < len(text) < 19 or int(text) < 1:
        raise InputError(f"SHARDS_MAX_{name}={text!r} is not possible; allowed: whole numbers from 1")
    return int(text)


def over(name: str, value: int, what: str) -> str | None:
    """The sentence for `value` of `what` above the limit `name`, or None."""
    most = limit(name)
    return None if value <= most else f"{value} {what}, more than {most}; SHARDS_MAX_{name} raises the limit"
