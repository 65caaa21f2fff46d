"""Any tree with one folder per class, below folders of splits or not.

Facts: `file` (path below the source), `row` (position in its split), `label` (position of its class among the sorted
class folders; None in a test folder without classes). Without a validation folder, a fraction of every class is held
out of the training images.

Folders of splits have any usual name and case (`Train`, `training_set`, `valid`, `dev`). Where it cannot be told
whether a folder is a split or a class, `layout` has to say it. Without labels (`labelled=False`) every image below the
source is one of the split `test`, wherever it lies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from shlex import quote

from shards.errors import InputError
from shards.labels import check_count, natural, shown, told_unknown
from shards.readers import Reader, ReadOptions, Rejected, Source, _folders
from shards.schema import Record, Schema

Namer = Callable[[Path, list[str]], Mapping[str, str]]


def read(source: Path, options: ReadOptions) -> Source:
    """The tree in `source`."""
    return read_tree(source, options, lambda _root, _classes: {})


def read_tree(root: Path, options: ReadOptions, namer: Namer) -> Source:
    """The tree in `root`, with the better names that `namer` has, of (root, class folders), for some classes.

    Raises:
        InputError: there are no class folders or one only, or it cannot be told what is a class.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder")
    if options.class_depth < 1:
        raise InputError(f"class-depth {options.class_depth} is not possible; allowed: 1 (the folders) or more")
    tree = _Tree(root, options)
    if options.labelled:
        tree.find_classes()
    else:
        tree.files["test"] = [("", tree.walk.images(root))]
    better = namer(root, tree.names)
    facts = {"file": "str", "row": "int"} | ({"label": "int"} if options.labelled else {})
    names = {"label": tuple(better.get(name, name) for name in tree.names)} if options.labelled else {}
    tree.walk.finish()
    total = sum(len(files) for listed in tree.files.values() for _, files in listed)
    found = tree.found(total, names.get("label", ()))
    problems, rejected = tree.walk.problems, tree.walk.rejected
    return Source(
        Schema(facts, names), root, tree.records, problems=problems, rejected=rejected, total=total, found=found
    )


class _Tree:
    """The images of a tree, listed split by split and class by class."""

    def __init__(self, root: Path, options: ReadOptions) -> None:
        self.root, self.options = root, options
        self.walk = _folders.Walk(options.skip_bad, options.exclude)
        self.names: list[str] = []
        self.splits: dict[str, Path] = {}
        self.files: dict[str, list[tuple[str, list[str]]]] = {}
        self.held: set[str] = set()

    def find_classes(self) -> None:
        """Finds splits, classes and files."""
        self.splits = _splits(self.root, self.options.layout, self.walk)
        listed = {split: self._listed(folder) for split, folder in self.splits.items()}
        of_training = listed.get("train") or {name: [] for classes in listed.values() for name in classes}
        self.names = sorted(of_training, key=natural)
        if not self.names:
            raise InputError(f"{self.splits.get('train', self.root)} has no class folders; expected {READER.layout}")
        least = 1 if self.options.added else 2
        if len(self.names) < least and self.walk.folders(only := self.root / self.names[0]):  # as archives unpack
            raise InputError(f"{self.root} holds one folder, of folders: --source {quote(str(only))} reads these")
        check_count(len(self.names), f"{self.root}: folders of classes ({shown(self.names)})", least)
        for split, classes in listed.items():
            folder = self.splits[split]
            loose = self.walk.images(folder, deep=False)
            if split == "test" and not classes:
                self.files[split] = [("", loose)]
                continue
            for name in loose:
                self.walk.refuse(folder / name, "beside the class folders")
            self.files[split] = [(name, classes[name]) for name in self.names if name in classes]
        self._judge_unknown(listed)
        if "train" in listed and "val" not in listed:
            of_class = [[f"{name}/{file}" for file in files] for name, files in self.files["train"]]
            self.held = _folders.held_out(of_class, self.options.val_fraction, self.options.seed)

    def _listed(self, folder: Path) -> dict[str, list[str]]:
        """Files of each class folder; folders that hold other files only are no classes."""
        classes = [""]
        for depth in range(self.options.class_depth):
            if depth:
                for name in classes:
                    for file in self.walk.images(folder / name, deep=False):
                        self.walk.refuse(folder / name / file, "above the class folders")
            classes = [f"{name}/{below}".lstrip("/") for name in classes for below in self.walk.folders(folder / name)]
        listed = {}
        for name in classes:
            side = sum(self.walk.side.values())
            files = self.walk.images(folder / name)
            if files or sum(self.walk.side.values()) == side:
                listed[name] = files
        return listed

    def _judge_unknown(self, listed: Mapping[str, Mapping[str, list[str]]]) -> None:
        known = {*self.names}
        for split, classes in listed.items():
            unknown = {name: files for name, files in classes.items() if name not in known}
            if unknown and self.options.unknown == "fail":
                counts = {name: len(files) for name, files in unknown.items()}
                lacking, added = "the training folders lack", self.options.added
                self.walk.problems.append(told_unknown(str(self.splits[split]), counts, lacking, added=added))
                continue
            self.walk.rejected += [
                Rejected(str(self.splits[split] / name / file), "", "a class that the training folders lack")
                for name, files in unknown.items()
                for file in files
            ]

    def records(self) -> Iterator[Record]:
        """Records of train and val, then test."""
        rows: dict[str, int] = {}
        labels = {name: label for label, name in enumerate(self.names)}
        for split, listed in self.files.items():
            folder = self.splits.get(split, self.root)
            for name, files in listed:
                label = {"label": labels.get(name)} if self.options.labelled else {}
                below = (folder / name).relative_to(self.root).as_posix().removeprefix(".")
                paths = [f"{below}/{file}".lstrip("/") for file in files]
                for file, path, key in zip(files, paths, _folders.keys(paths), strict=True):
                    into = "val" if f"{name}/{file}" in self.held and split == "train" else split
                    row = rows[into] = rows.get(into, -1) + 1
                    yield Record(key, self.root / path, {"file": path, "row": row, **label}, into, path)

    def found(self, total: int, names: tuple[str, ...]) -> str:
        """What there is, in a sentence or two."""
        counts = {split: sum(len(files) for _, files in listed) for split, listed in self.files.items()}
        if self.held:
            counts = {"train": counts.pop("train") - len(self.held), "val": len(self.held), **counts}
        told = f"{self.root}: {total:,} images"
        if names:
            told += f" in {len(names):,} classes ({shown(names)}): "
            told += ", ".join(f"{split} {count:,}" for split, count in counts.items())
        sizes = {name: len(files) for name, files in self.files.get("train", [])}
        for count, what in ((0, "without an image"), (1, "of one image, which gives none for validation")):
            some = [name for name, size in sizes.items() if size == count]
            told += f"; {len(some)} classes {what} ({shown(some)})" if some else ""
        below = [files for _, files in self.files.get("train", []) if files]
        if names and below and all("/" in file for files in below for file in files):
            told += "; its class folders hold folders only: --class-depth 2 makes classes of these"
        return told + self.walk.left_out()


def _splits(root: Path, layout: str, walk: _folders.Walk) -> dict[str, Path]:
    """Folders of the splits, train first; the root as train where its own folders are the classes.

    Raises:
        InputError: it cannot be told, or two folders stand for one split.
    """
    if layout not in ("", "classes", "splits"):
        raise InputError(f"layout {layout!r} is not possible; allowed: classes, splits")
    inside = walk.folders(root)
    found: dict[str, list[str]] = {}
    for name in inside:
        if (split := _folders.split_of(name)) is not None:
            found.setdefault(split, []).append(name)
    if layout == "classes" or not (found or layout):
        return {"train": root}
    named = ", ".join(name for names in found.values() for name in names)
    beside = _folders.Walk(exclude=walk.exclude)  # what stands there stops nothing
    others = [name for name in inside if _folders.split_of(name) is None and beside.images(root / name)]
    if not found:
        raise InputError(f"{root} has no folders of splits such as train, val and test; it has: {shown(inside)}")
    if others and layout != "splits":
        raise InputError(
            f"{root} holds folders named as splits ({named}) beside others ({shown(others)}): --layout classes makes "
            "each folder a class, --layout splits takes the splits alone"
        )
    for split, names in found.items():
        if len(names) > 1:
            raise InputError(f"{root}: {' and '.join(names)} both stand for {split}; move one away")
    if not any(walk.folders(root / name) for names in found.values() for name in names):
        raise InputError(
            f"{root}: the folders {named} hold images and no class folders: --layout classes takes them for the "
            "classes, --dataset table reads the labels of a table, --unlabelled packs without labels"
        )
    walk.system.update({str(root / name): 1 for name in inside if _folders.split_of(name) is None})
    return {split: root / found[split][0] for split in ("train", "val", "test") if split in found}


READER = Reader(
    layout="a folder per class, or train/, val/ and test/ that each hold a folder per class (test/ may be flat)",
    read=read,
    uses=("val_fraction", "layout", "class_depth", "unknown", "labelled"),
)
