"""A surface of many files, each damaged where it lies, read by whoever reads it, and put back."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import damaged_json
from sound import require_sound
from surface import Surface, damaged

from fashion_dist.errors import FashionDistError, ShardsError

REFUSALS = (FashionDistError, ShardsError, OSError)


@dataclass(frozen=True)
class Row:
    """A file and who reads it.

    Args:
        path: the file.
        read: what is read of it.
        exact: what is read must be what is read of the undamaged file; else it must have its types.
    """

    path: Path
    read: Callable[[], object]
    exact: bool = False


def damage(content: bytes, others: Sequence[bytes], draw: random.Random) -> bytes:
    """JSON's own damage in two of three cases, else that of any bytes."""
    if content[:1] == b"{" and draw.random() < 0.66:
        return draw.choice(damaged_json.WHOLE) if draw.random() < 0.03 else damaged_json.one(content, draw)
    return damaged(content, others, draw)


def surface(make: Callable[[Path], Sequence[Row]]) -> Surface:
    """A surface of the rows that `make` makes in a folder."""
    rows: list[Row] = []
    truths: dict[int, object] = {}

    def seeds(folder: Path) -> Sequence[bytes]:
        rows[:] = make(folder)
        for number, row in enumerate(rows):
            truths[number] = row.read()
            if not row.exact:
                require_sound(truths[number], at=str(row.path))
        return [row.path.read_bytes() for row in rows]

    def check(data: bytes, number: int, folder: Path) -> None:
        del folder
        row = rows[number]
        content = row.path.read_bytes()
        row.path.write_bytes(data)
        try:
            found = row.read()
        finally:
            row.path.write_bytes(content)
        if row.exact:
            assert found == truths[number], f"{row.path} is read as something else"
        else:
            require_sound(found, at=str(row.path))

    return Surface(seeds, check, REFUSALS, damage)
