"""DeepFashion: the assignment's CSV files, and the official Category and Attribute Prediction benchmark.

The CSV layout: `train.csv` and `val.csv` with the columns `file_path,category_label` and then one 0/1 column per
attribute, `test.csv` with `file_path`, `categories.txt` with one name a line. The benchmark's layout is described in
`shards.readers._deep_fashion_lists`. Both give the same facts:

    file_path    as the source spells it
    row          position in its CSV file or list, from 0: the order of a submission
    category     0-based; None where it is not given
    attributes   0 or 1 each (-1 unknown); None where they are not given
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from shards.errors import InputError
from shards.readers import Reader, ReadOptions, Source, _deep_fashion_lists, _text, select
from shards.readers._folders import without_extension
from shards.safe_io import is_there
from shards.schema import Record, Schema
from shards.typed_json import is_count

LABEL = "category_label"


def read(source: Path, options: ReadOptions) -> Source:
    """The data set in `source`, which holds `train.csv` or the benchmark's lists, or in its folder `deep_fashion`."""
    for folder in (source, source / "deep_fashion"):
        if is_there(folder / "train.csv"):
            return read_csv(folder, options)
        if (annotations := _deep_fashion_lists.annotated(folder)) is not None:
            return _deep_fashion_lists.read(folder, annotations, options)
        if (folder / _deep_fashion_lists.FINE).is_dir():
            told = "Anno_fine alone, whose layout is not read; Anno_coarse of the same benchmark is"
            raise InputError(f"{folder} holds {told}")
    raise InputError(f"{source} holds no DeepFashion: {READER.layout}")


def read_csv(folder: Path, options: ReadOptions) -> Source:
    """The assignment's layout in `folder`."""
    header, _ = _text.rows(folder / "train.csv", ["file_path", LABEL])
    attributes = [name for name in header if name not in ("file_path", LABEL)]
    path = folder / "categories.txt"
    categories = [line for _, line in _text.lines(path) if line] if is_there(path) else []
    kept_categories = select("category", options.categories, categories)
    kept_attributes = select("attribute", options.attributes, attributes)
    names = {"attributes": tuple(attributes[i] for i in kept_attributes)}
    if categories:
        names = {"category": tuple(categories[i] for i in kept_categories)} | names
    facts = {"file_path": "str", "row": "int", "category": "int"}
    if kept_attributes:
        facts["attributes"] = f"ints:{len(kept_attributes)}"
    else:
        del names["attributes"]
    reading = _Csv(folder, attributes, kept_attributes, len(categories), kept_categories)
    return Source(Schema(facts, names), folder, reading.records, problems=reading.problems)


@dataclass
class _Csv:
    """Streams the rows of the three CSV files and notes what is wrong with them."""

    folder: Path
    attributes: list[str]
    kept_attributes: list[int]
    category_count: int
    kept_categories: list[int]
    problems: list[str] = field(default_factory=list)
    seen: dict[str, str] = field(default_factory=dict)
    inside: dict[str, bool] = field(default_factory=dict)

    def records(self) -> Iterator[Record]:
        """Records of train, val (where there is one) and test."""
        for split in ("train", "val", "test"):
            if split == "train" or is_there(self.folder / f"{split}.csv"):
                yield from self._split(split)

    def _split(self, split: str) -> Iterator[Record]:
        path = self.folder / f"{split}.csv"
        labelled = [] if split == "test" else [LABEL, *self.attributes]
        header, rows = _text.rows(path, ["file_path", *labelled])
        extra = [name for name in header if name not in ("file_path", LABEL, *self.attributes)]
        if extra:
            raise InputError(f"{path} has the column {extra[0]!r}, which train.csv lacks")
        at_path = header.index("file_path")
        at_label = header.index(LABEL) if LABEL in header else -1
        at_attributes = [header.index(self.attributes[i]) for i in self.kept_attributes if self.attributes[i] in header]
        new_number = {old: new for new, old in enumerate(self.kept_categories)}
        for row, (line, cells) in enumerate(rows):
            where = f"{path.name}, line {line}"
            if len(cells) != len(header):
                self.problems.append(f"{where}: {len(cells)} cells, {len(header)} columns")
                continue
            file_path = cells[at_path]
            category = self._category(where, cells[at_label]) if at_label >= 0 else None
            attributes = self._attributes(where, [cells[i] for i in at_attributes])
            if file_path in self.seen:
                self.problems.append(f"{where}: {file_path!r} is already in {self.seen[file_path]}")
                continue
            self.seen[file_path] = where
            image = self._located(file_path)
            if image is None:
                self.problems.append(f"{where}: the path {file_path!r} leads out of {self.folder}")
                continue
            if category is not None and self.category_count:
                if category not in new_number:
                    continue  # not among the --categories
                category = new_number[category]
            facts = {"file_path": file_path, "row": row, "category": category}
            if self.kept_attributes:
                facts["attributes"] = attributes
            yield Record(without_extension(file_path), image, facts, split, where)

    def _category(self, where: str, text: str) -> int | None:
        if is_count(text):
            category = int(text)
            if category < self.category_count or not self.category_count:
                return category
        top = self.category_count - 1
        allowed = f"0 to {top}" if self.category_count else "a whole number from 0"
        self.problems.append(f"{where}: {LABEL} is {text!r}, allowed: {allowed}")
        return None

    def _attributes(self, where: str, cells: list[str]) -> list[int] | None:
        if not cells:
            return None
        if not all(cell in ("0", "1") for cell in cells):
            column = next(i for i, cell in enumerate(cells) if cell not in ("0", "1"))
            name = self.attributes[self.kept_attributes[column]]
            self.problems.append(f"{where}: attribute {name} is {cells[column]!r}, allowed: 0, 1")
            return None
        return [int(cell) for cell in cells]

    def _located(self, file_path: str) -> str | None:
        """The file, there or not, of a path from the folder or from the one above it; None if it leads outside."""
        first, slash, rest = file_path.partition("/")
        if not first or first == ".." or "/../" in file_path or file_path.endswith("/.."):
            return None
        if first not in self.inside:
            self.inside[first] = not slash or (self.folder / first).is_dir()
        return f"{self.folder}/{file_path if self.inside[first] else rest}"


READER = Reader(
    layout="train.csv, val.csv and test.csv (columns file_path, category_label, then the attributes), or the official "
    "benchmark's Anno_coarse/list_category_img.txt and its neighbours",
    read=read,
    uses=("categories", "attributes"),
)
