"""Trees of images in folders: what is an image, what is left out, which folder is a split, what is held out."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shards.errors import InputError
from shards.labels import natural, shown
from shards.readers import Rejected

_SPLIT = re.compile(r"(train|training|trn|val|valid|validation|dev|test|testing)([ _.-]?(set|data|split|images|imgs))?")
_SPLIT_OF = {"train": "train", "training": "train", "trn": "train", "test": "test", "testing": "test"}
_SYSTEM = frozenset({
    "__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information", "thumbs.db", "desktop.ini",
})  # fmt: skip
_SIDE = frozenset({
    "xml", "txt", "json", "jsonl", "csv", "tsv", "parquet", "md", "html", "htm", "yaml", "yml", "mat", "npy", "npz",
    "pkl", "log", "db", "py", "rst", "xls", "xlsx", "ods", "doc", "docx",
})  # fmt: skip
"""Endings of files that lie beside images and are none."""
_UNREADABLE = frozenset({
    "heic", "heif", "raw", "cr2", "cr3", "nef", "arw", "dng", "orf", "rw2", "svg", "pdf", "mp4", "mov", "avi", "jxl",
})  # fmt: skip
"""Endings of images that nothing here reads."""


def split_of(name: str) -> str | None:
    """The split that a folder, a table or a cell of this name stands for: `Training_Set` is train."""
    match = _SPLIT.fullmatch(name.strip().lower())
    return _SPLIT_OF.get(match.group(1), "val") if match else None


def ending(name: str) -> str:
    """`jpg` of `a.JPG`."""
    return name.rpartition(".")[2].lower() if "." in name else ""


@dataclass
class Walk:
    """Goes through the folders of a source, and counts what it leaves out.

    Args:
        skip_bad: files in formats that nothing reads are listed in `rejected` instead of stopping.
        exclude: folders that are none of the source, such as the one that is written to.
        problems, rejected: as in `Source`.
    """

    skip_bad: bool = False
    exclude: frozenset[Path] = frozenset()
    problems: list[str] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    system: Counter[str] = field(default_factory=Counter)
    side: Counter[str] = field(default_factory=Counter)
    unreadable: dict[str, list[str]] = field(default_factory=dict)

    def folders(self, folder: Path) -> list[str]:
        """Names of the folders in `folder`, sorted as numbers where they are numbers."""
        return [name for name, is_folder in self._entries(folder) if is_folder]

    def images(self, folder: Path, below: str = "", *, deep: bool = True) -> list[str]:
        """Paths of all images under `folder / below`, or in it alone, relative to `folder`, in natural order."""
        found: list[str] = []
        for name, is_folder in self._entries(folder / below):
            path = f"{below}/{name}" if below else name
            if is_folder:
                if deep and (folder / path).is_symlink():  # it may lead out of the source, or round in circles
                    self.refuse(folder / path, "a symbolic link to a folder; copy what it points to")
                elif deep:
                    found += self.images(folder, path)
            elif ending(name) in _SIDE:
                self.side[f".{ending(name)}"] += 1
            elif ending(name) in _UNREADABLE:
                self.unreadable.setdefault(ending(name), []).append(str(folder / path))
            else:
                found.append(path)
        return found

    def _entries(self, folder: Path) -> list[tuple[str, bool]]:
        kept = []
        with os.scandir(folder) as entries:
            for entry in entries:
                # An entry knows without a call what it is, but for a link, which may lead round in circles.
                is_folder = (folder / entry.name).is_dir() if entry.is_symlink() else entry.is_dir()
                if (
                    entry.name.startswith(".")
                    or entry.name.lower() in _SYSTEM
                    or (is_folder and self.exclude and (folder / entry.name).resolve() in self.exclude)
                ):
                    self.system[str(folder / entry.name)] = 1
                else:
                    kept.append((entry.name, is_folder))
        return sorted(kept, key=lambda entry: natural(entry[0]))

    def refuse(self, path: Path, reason: str) -> None:
        """Notes a path that cannot be packed, as a problem or as what was left out."""
        if self.skip_bad:
            self.rejected.append(Rejected(str(path), "", reason))
        else:
            self.problems.append(f"{path}: {reason}")

    def finish(self) -> None:
        """Notes the files in formats that nothing reads, as problems or as what was left out."""
        for kind, paths in self.unreadable.items():
            told = f"{kind.upper()} is read by nothing here; convert it, as with `magick mogrify -format jpg *.{kind}`"
            if self.skip_bad:
                self.rejected += [Rejected(path, "", told) for path in paths]
            else:
                count = f"{len(paths)} .{kind} file{'s' * (len(paths) > 1)}, the first {paths[0]}"
                self.problems.append(f"{count}: {told}, or leave them out with --skip-bad")

    def left_out(self) -> str:
        """What was left out, in words; empty where nothing was."""
        told = []
        if self.system:
            names = shown(sorted({Path(path).name for path in self.system}))
            told.append(f"hidden or system files and folders ({len(self.system)}: {names})")
        if self.side:
            kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self.side.items()))
            told.append(f"files that are no images ({sum(self.side.values())}: {kinds})")
        if self.skip_bad and self.unreadable:
            kinds = ", ".join(f".{kind} {len(paths)}" for kind, paths in sorted(self.unreadable.items()))
            told.append(f"images that nothing here reads ({kinds})")
        return f"; left out: {', '.join(told)}" if told else ""


def keys(files: Sequence[str]) -> list[str]:
    """The files' paths without extension; with it where that would give two files of a folder one key."""
    stems = [without_extension(file) for file in files]
    counts = Counter(stem.lower() for stem in stems)
    taken = [file if counts[stem.lower()] > 1 else stem for file, stem in zip(files, stems, strict=True)]
    again = Counter(key.lower() for key in taken)  # a.jpg, a.png and a.jpg.png
    return [file if again[key.lower()] > 1 else key for file, key in zip(files, taken, strict=True)]


def held_out(keys_of_class: Iterable[Sequence[str]], fraction: float, seed: int | str) -> set[str]:
    """The keys to hold out: the same fraction of every class, chosen by a hash of seed and key.

    A class of two or more keeps at least one and gives at least one.

    Raises:
        InputError: the fraction is not between 0 and 1.
    """
    if not 0 <= fraction < 1:
        raise InputError(f"a fraction of {fraction:g} cannot be held out; allowed: 0 to below 1")
    chosen: set[str] = set()
    for of_class in keys_of_class:
        ordered = sorted(of_class, key=lambda key: _drawn(f"{seed} {key}"))
        count = max(1, min(len(ordered) - 1, round(fraction * len(ordered)))) if fraction and len(ordered) > 1 else 0
        chosen.update(ordered[:count])
    return chosen


def _drawn(text: str) -> bytes:
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a character, which no key may have: it is told later, where the row is known
        data = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=8).digest()


def without_extension(path: str) -> str:
    """`a/b.c.jpg` as `a/b.c`."""
    stem, dot, _ = path.rpartition(".")
    return stem if dot and "/" not in path[len(stem) :] and not stem.endswith("/") and stem else path
