"""What a file in `surfaces/` holds."""

from __future__ import annotations

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
    """

    seeds: Callable[[Path], Sequence[bytes]]
    check: Callable[[bytes, int, Path], object]
    clean: tuple[type[BaseException], ...]
