"""The official DeepFashion Category and Attribute Prediction benchmark: `list_*.txt` files.

`Anno_coarse/` (or `Anno/`) holds `list_category_cloth.txt`, `list_category_img.txt`, `list_attr_cloth.txt`,
`list_attr_img.txt` and `list_bbox.txt`; `Eval/` holds `list_eval_partition.txt`; the images are below `img/` or
`Img/img/`. Every file opens with a line that counts its rows and a header line. Names of attributes may contain
blanks; categories count from 1; an attribute is 1, -1 (absent) or 0 (unknown), stored as 1, 0 and -1. The box, where
there is one, is the fact `box` (x1, y1, x2, y2 in pixels).

Liu et al., DeepFashion: Powering Robust Clothes Recognition and Retrieval with Rich Annotations, CVPR 2016.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path, PurePosixPath
from typing import Any

from shards.errors import InputError
from shards.readers import ReadOptions, Source, _text, select
from shards.safe_io import is_there
from shards.schema import SPLITS, Record, Schema
from shards.typed_json import is_count

ANNOTATIONS = ("Anno_coarse", "Anno")
FINE = "Anno_fine"
"""26 attributes of a part of the images, in files of another layout, which is not read."""
_STORED = {"1": 1, "-1": 0, "0": -1}


def annotated(folder: Path) -> Path | None:
    """The folder of the lists where `folder` is laid out so."""
    there = (folder / name for name in ANNOTATIONS if is_there(folder / name / "list_category_img.txt"))
    return next(there, None)


def read(folder: Path, annotations: Path, options: ReadOptions) -> Source:
    """The benchmark in `folder`, whose lists are in `annotations`."""
    categories = _names(annotations / "list_category_cloth.txt")
    attributes = _names(annotations / "list_attr_cloth.txt")
    kept_categories = select("category", options.categories, categories)
    kept_attributes = select("attribute", options.attributes, attributes)
    facts = {"file_path": "str", "row": "int", "category": "int", "attributes": f"ints:{len(kept_attributes)}"}
    if is_there(annotations / "list_bbox.txt"):
        facts["box"] = "ints:4"
    names = {
        "category": tuple(categories[i] for i in kept_categories),
        "attributes": tuple(attributes[i] for i in kept_attributes),
    }
    lists = _Lists(folder, annotations, len(categories), kept_categories, len(attributes), kept_attributes)
    beside = [name for name in (*ANNOTATIONS, FINE) if (folder / name).is_dir() and name != annotations.name]
    found = f"{annotations}: {len(categories)} categories, {len(attributes)} attributes"
    found += f"; not read, beside it: {', '.join(beside)}" if beside else ""
    return Source(Schema(facts, names), folder, lists.records, problems=lists.problems, found=found)


def _names(path: Path) -> list[str]:
    """First column of a list of names; the last column is a type, and names may contain blanks."""
    return [line.rsplit(None, 1)[0] for _, line in _lines(path, [])]


def _lines(path: Path, problems: list[str]) -> Iterator[tuple[int, str]]:
    """(line number, line) after the count and the header; a count that is wrong is a problem."""
    stream = _text.lines(path)
    _, told = next(stream, (1, ""))
    if not is_count(told):
        raise InputError(f"{path}, line 1: {told[:60]!r} is no count of rows")
    next(stream, None)
    count = 0
    for number, line in stream:
        if line:
            count += 1
            yield number, line
    if count != int(told):
        problems.append(f"{path.name}, line 1: announces {told} rows, there are {count}")


@dataclass
class _Lists:
    """Reads the lists of images side by side, one line of each at a time: the attributes alone are 600 MB."""

    folder: Path
    annotations: Path
    category_count: int
    kept_categories: list[int]
    attribute_count: int
    kept_attributes: list[int]
    problems: list[str] = field(default_factory=list)

    def records(self) -> Iterator[Record]:
        """One record for each line of `list_category_img.txt` whose category is kept."""
        folder = self.folder
        images = folder if (folder / "img").is_dir() or not (folder / "Img").is_dir() else folder / "Img"
        new_number = {old: new for new, old in enumerate(self.kept_categories)}
        split_of = self._partition()
        rows = dict.fromkeys(SPLITS, -1)
        categories = _lines(self.annotations / "list_category_img.txt", self.problems)
        attributes = _lines(self.annotations / "list_attr_img.txt", self.problems)
        listed = self.annotations / "list_bbox.txt"
        boxes = _lines(listed, self.problems) if is_there(listed) else repeat(None)
        for line, text in categories:
            where = f"list_category_img.txt, line {line}"
            name, _, label = text.rpartition(" ")
            name = name.strip()
            told, box = next(attributes, (0, "")), next(boxes, (0, ""))
            split = split_of.get(name)
            if split is None:
                self.problems.append(f"{where}: {name!r} is not in list_eval_partition.txt")
                continue
            rows[split] += 1
            facts: dict[str, Any] = {"file_path": name, "row": rows[split]}
            if not is_count(label) or not 1 <= int(label) <= self.category_count:
                self.problems.append(f"{where}: category {label!r}, allowed: 1 to {self.category_count}")
                continue
            facts["attributes"] = self._attributes(name, *told)
            if box is not None:
                facts["box"] = self._box(name, *box)
            if int(label) - 1 not in new_number:
                continue
            facts["category"] = new_number[int(label) - 1]
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                self.problems.append(f"{where}: the path {name!r} leads out of {self.folder}")
                continue
            yield Record(name[: -len(path.suffix)] if path.suffix else name, images / path, facts, split, where)
        for number, _ in attributes:
            self.problems.append(f"list_attr_img.txt, line {number}: more rows than list_category_img.txt")
            break

    def _partition(self) -> dict[str, str]:
        paths = [p / "list_eval_partition.txt" for p in (self.folder / "Eval", self.annotations, self.folder)]
        path = next((path for path in paths if is_there(path)), paths[0])
        split_of: dict[str, str] = {}
        for line, text in _lines(path, self.problems):
            name, _, split = text.rpartition(" ")
            where = f"list_eval_partition.txt, line {line}"
            if split not in SPLITS:
                self.problems.append(f"{where}: {split!r}, allowed: {', '.join(SPLITS)}")
            elif name.strip() in split_of:
                self.problems.append(f"{where}: {name.strip()!r} is listed twice")
            else:
                split_of[name.strip()] = split
        return split_of

    def _attributes(self, name: str, line: int, text: str) -> list[int] | None:
        where = f"list_attr_img.txt, line {line}"
        if not text.startswith(name + " "):
            told = text.split()[:1] or ["nothing"]
            self.problems.append(f"{where}: names {told[0]!r} where list_category_img.txt has {name!r}")
            return None
        values = text[len(name) :].split()
        if len(values) != self.attribute_count:
            self.problems.append(f"{where}: {len(values)} attributes, list_attr_cloth.txt has {self.attribute_count}")
            return None
        strange = [values[i] for i in self.kept_attributes if values[i] not in _STORED]
        if strange:
            self.problems.append(f"{where}: attribute {strange[0]!r}, allowed: 1, -1, 0")
            return None
        return [_STORED[values[i]] for i in self.kept_attributes]

    def _box(self, name: str, line: int, text: str) -> list[int] | None:
        values = text[len(name) :].split()
        if (
            not text.startswith(name + " ")
            or len(values) != 4
            or not all(is_count(v.removeprefix("-")) for v in values)
        ):
            self.problems.append(f"list_bbox.txt, line {line}: needs {name!r} and four whole numbers")
            return None
        return [int(value) for value in values]
