"""Any tree with one folder per class, below `train`, `val` and `test` or not.

Facts: `file` (path below the source), `row` (position in its split), `label` (position of its class among the sorted
class folders; None in a test folder without classes). Without a validation folder, a fraction of every class is held
out of the training images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from shards.errors import InputError
from shards.readers import Reader, ReadOptions, Source, _folders
from shards.schema import Record, Schema

Namer = Callable[[Path, list[str]], Mapping[str, str]]


def read(source: Path, options: ReadOptions) -> Source:
    """The tree in `source`."""
    return read_tree(source, options, lambda _root, _classes: {})


def read_tree(root: Path, options: ReadOptions, namer: Namer) -> Source:
    """The tree in `root`.

    Args:
        root: the folder of the classes, or of `train`, `val` and `test`.
        options: `val_fraction` and `seed`.
        namer: (root, class folders) -> a better name for some of them.

    Raises:
        InputError: there are no class folders, or a split has classes that the training images lack.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder")
    train = _folders.split_folder(root, "train") or root
    names = _folders.classes(train)
    if not names:
        raise InputError(f"{train} has no class folders; expected {READER.layout}")
    better = namer(root, names)
    schema = Schema(
        {"file": "str", "row": "int", "label": "int"}, {"label": tuple(better.get(name, name) for name in names)}
    )
    problems: list[str] = []
    tree = _Tree(root, train, names, options, problems)
    return Source(schema, root, tree.records, problems=problems)


class _Tree:
    """Streams the images of a tree, split by split and class by class."""

    def __init__(self, root: Path, train: Path, names: list[str], options: ReadOptions, problems: list[str]) -> None:
        self.root, self.names, self.options, self.problems = root, names, options, problems
        self.folders = {"train": train}
        for split in ("val", "test"):
            folder = _folders.split_folder(root, split) if train != root else None
            if folder is not None:
                self.folders[split] = folder
        self.rows: dict[str, int] = {}

    def records(self) -> Iterator[Record]:
        """Records of train and val, then test."""
        for split, folder in self.folders.items():
            present = _folders.classes(folder)
            if split == "test" and not present:
                yield from self._records(folder, "", None, split, list(_folders.files(folder, self.problems)), set())
                continue
            for stranger in [name for name in present if name not in self.names]:
                self.problems.append(f"{folder / stranger}: a class that {self.folders['train']} lacks")
            if folder != self.root:
                self.problems += [f"{folder / name}: beside the class folders" for name in _folders.loose_files(folder)]
            listed = {
                name: list(_folders.files(folder / name, self.problems)) for name in self.names if name in present
            }
            held: set[str] = set()
            if split == "train" and "val" not in self.folders:
                keys = [[f"{name}/{file}" for file in files] for name, files in listed.items()]
                held = _folders.held_out(keys, self.options.val_fraction, self.options.seed)
            for name, files in listed.items():
                yield from self._records(folder, name, self.names.index(name), split, files, held)

    def _records(
        self, folder: Path, name: str, label: int | None, split: str, files: list[str], held: set[str]
    ) -> Iterator[Record]:
        for file in files:
            path = folder / name / file
            below = path.relative_to(self.root).as_posix()
            into = "val" if f"{name}/{file}" in held else split
            row = self.rows[into] = self.rows.get(into, -1) + 1
            facts = {"file": below, "row": row, "label": label}
            yield Record(_folders.without_extension(below), path, facts, into, below)


READER = Reader(
    layout="a folder per class, or train/, val/ and test/ that each hold a folder per class (test/ may be flat)",
    read=read,
    uses=("val_fraction",),
)
