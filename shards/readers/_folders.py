"""Trees with a folder per class, for `clipart` and `image_folder`."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from shards.errors import InputError

SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
IGNORED = frozenset({"Thumbs.db", "desktop.ini"})


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts `2` before `10`, and `img2` before `img10`."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((0, int(part), part) if part.isascii() and part.isdigit() else (1, 0, part) for part in parts)


def split_folder(root: Path, split: str) -> Path | None:
    """The folder of a split, whatever of its usual names it has."""
    return next((root / name for name in SPLIT_FOLDERS[split] if (root / name).is_dir()), None)


def classes(folder: Path) -> list[str]:
    """Names of the class folders, sorted as numbers where they are numbers."""
    with os.scandir(folder) as entries:
        return sorted((e.name for e in entries if e.is_dir() and not e.name.startswith(".")), key=natural)


def files(folder: Path, problems: list[str], below: str = "") -> Iterator[str]:
    """Paths of all files under `folder`, relative to it, in natural order; hidden files are none of ours.

    Links to folders are noted in `problems`: they may lead out of the source, or round in circles.
    """
    with os.scandir(folder / below) as entries:
        found = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: natural(e.name))
    for entry in found:
        name = f"{below}/{entry.name}" if below else entry.name
        if entry.is_dir():
            if entry.is_symlink():
                problems.append(f"{folder / name}: a symbolic link to a folder; copy what it points to")
            else:
                yield from files(folder, problems, name)
        elif entry.name not in IGNORED:
            yield name


def loose_files(folder: Path) -> list[str]:
    """Names of the files that stand in `folder` itself."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_file() and not e.name.startswith(".") and e.name not in IGNORED)


def held_out(keys_of_class: Iterable[Sequence[str]], fraction: float, seed: int) -> set[str]:
    """The keys to hold out for validation: the same fraction of every class, chosen by a hash of seed and key.

    Raises:
        InputError: the fraction is not between 0 and 1.
    """
    if not 0 <= fraction < 1:
        raise InputError(f"val-fraction {fraction:g} is not possible; allowed: 0 to below 1")
    chosen: set[str] = set()
    for keys in keys_of_class:
        ordered = sorted(keys, key=lambda key: hashlib.blake2b(f"{seed} {key}".encode(), digest_size=8).digest())
        chosen.update(ordered[: round(fraction * len(ordered))])
    return chosen


def without_extension(path: str) -> str:
    """`a/b.c.jpg` as `a/b.c`."""
    stem, dot, _ = path.rpartition(".")
    return stem if dot and "/" not in path[len(stem) :] and not stem.endswith("/") and stem else path
