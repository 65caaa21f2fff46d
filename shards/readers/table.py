"""Images that a table names: CSV, TSV, JSON lines, JSON or Parquet, with a column of paths and one of labels.

The source is the table, or a folder that holds one, or one a split (`train.csv`, `valid.csv`). Paths are relative to
its folder, or to a folder in it such as `images`. Columns are found by their usual names, or named.

Facts: `file` (path below the source), `row` (position in its split), the label's column under its own name (a number
with names, or a 0 or 1 per name where there can be several), and every further column that a set can hold.
"""

from __future__ import annotations

import itertools
import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from shards.errors import InputError, RowsError
from shards.labels import Coding, Observed, UnknownLabelError, check_count, read_classes, shown, told_unknown
from shards.readers import Reader, ReadOptions, Rejected, Source, _folders, _tables
from shards.readers._tables import PATHS, Table
from shards.schema import Record, Schema, split_fault, split_order

LABELS = (
    "label", "labels", "class", "classes", "category", "categories", "target", "cls", "class_name", "classname",
    "label_name", "class_id", "category_id", "label_id", "tags", "tag", "y",
)  # fmt: skip
SPLITS = ("split", "set", "subset", "partition")


def read(source: Path, options: ReadOptions) -> Source:
    """The table in `source`.

    Raises:
        InputError: no table or several, no column of paths or of labels or several that could be, labels that cannot
            be classes.
    """
    root, found = _find(source)
    reading = _Reading(root, [(_tables.load(path), split) for path, split in found], options)
    return Source(
        reading.schema, root, reading.records, problems=reading.problems, rejected=reading.rejected,
        total=len(reading.files), found=reading.found(),
    )  # fmt: skip


def _find(source: Path) -> tuple[Path, list[tuple[Path, str]]]:
    """The folder that paths are relative to, and the tables in it, each with the split that its name says."""
    if source.is_file():
        if source.suffix.lower() not in _tables.LOADERS:
            raise InputError(f"{source} is no table; allowed: {', '.join(_tables.LOADERS)}")
        return source.parent, [(source, "")]
    paths = sorted(path for path in source.iterdir() if path.suffix.lower() in _tables.LOADERS and path.is_file())
    named = [(path, split) for path in paths if (split := _folders.split_of(path.stem)) is not None]
    if len(paths) == 1:
        return source, [(paths[0], named[0][1] if named else "")]
    of_split = {split: path for path, split in named}
    if "train" in of_split and len(of_split) == len(named):
        return source, [(of_split[split], split) for split in sorted(of_split, key=split_order)]
    if not paths:
        raise InputError(f"{source} holds no table; allowed: {', '.join(_tables.LOADERS)}")
    names = shown(path.name for path in paths)
    raise InputError(f"{source} holds {len(paths)} tables ({names}): --source FILE names one")


def _column(tables: Sequence[Table], named: str, usual: Sequence[str], what: str, advice: str) -> str:
    """The column that is `named`, else the only one with a usual name, else none."""
    known = list(dict.fromkeys(name for table in tables for name in table.columns))
    if named:
        if named not in known:
            raise InputError(f"{tables[0].path} has no column {named!r}; it has: {shown(known)}")
        return named
    fitting = [name for name in known if name.lower().strip() in usual]
    if len(fitting) > 1:
        raise InputError(f"{tables[0].path}: {' and '.join(fitting)} could each be the {what}; {advice}")
    return fitting[0] if fitting else ""


class _Reading:
    """All rows, in the order of the tables: where their images are, their splits and their columns."""

    def __init__(self, root: Path, tables: Sequence[tuple[Table, str]], options: ReadOptions) -> None:
        self.root, self.options = root, options
        self.tables = [table for table, _ in tables]
        self.problems: list[str] = []
        self.rejected: list[Rejected] = []
        self.rows = [(table, row) for table in self.tables for row in range(len(table.lines))]
        self.bad: dict[int, str] = {}
        for table in self.tables:
            for line, fault in table.problems:
                self._refuse(f"{table.path.name}, line {line}", fault)
        self.files = self._files(dict(zip([t.path for t in self.tables], [s for _, s in tables], strict=True)))
        self.splits = self._splits([split for table, split in tables for _ in table.lines])
        if self.problems:  # before what they may be the cause of
            raise RowsError(str(root), self.problems, skippable=True)
        self.columns: dict[str, list[Any]] = {}
        kinds: dict[str, str] = {"file": "str", "row": "int"}
        self.names: dict[str, tuple[str, ...]] = {}
        self.left_out: list[str] = []
        self.used = {self.path_column, self.split_column}
        coded = self._coded() if options.labelled else {}
        self._hold_out(next(iter(coded.values()), None))
        for name, (coding, values) in coded.items():
            own = _tables.column_name(name, {*kinds})
            kinds[own], self.names[own] = coding.kind, coding.names
            self.columns[own] = self._encoded(name, coding, values)
        for name in dict.fromkeys(name for table in self.tables for name in table.columns):
            if name in self.used:
                continue
            stored = _tables.stored_column(self._values(name))
            if stored is None:
                self.left_out.append(name)
                continue
            own = _tables.column_name(name, {*kinds})
            kinds[own], self.columns[own] = stored
        self.schema = Schema(kinds, self.names)

    def _values(self, name: str) -> list[Any]:
        return list(self._iter_values(name))

    def _iter_values(self, name: str) -> Iterator[Any]:
        for table in self.tables:
            yield from table.columns.get(name, itertools.repeat(None, len(table.lines)))

    def _refuse(self, where: str, fault: str, row: int = -1) -> None:
        """Notes a row that cannot be used."""
        if row >= 0:
            self.bad[row] = fault
        if self.options.skip_bad:
            self.rejected.append(Rejected(where, "" if row < 0 else self.files[row] or "", fault))
        else:
            self.problems.append(f"{where}: {fault}")

    def _files(self, split_of: dict[Path, str]) -> list[str]:
        """Path below the root of each row's image; rows without one are noted."""
        self.path_column = _column(
            self.tables, self.options.path_column, PATHS, "path", "--path-column NAME tells which"
        )
        if not self.path_column:
            known = shown(self.tables[0].columns)
            raise InputError(f"{self.tables[0].path} has no column of paths: --path-column names it; it has: {known}")
        told = self._values(self.path_column)
        self.files = [""] * len(told)
        bases = {table.path: self._base(table, split_of[table.path]) for table in self.tables}
        seen: dict[str, int] = {}
        for number, ((table, row), path) in enumerate(zip(self.rows, told, strict=True)):
            file, fault = self._located(path, bases[table.path])
            self.files[number] = file
            if not fault and file in seen:
                fault = f"{file!r} is already in {self._where(seen[file])}"
            if not fault and self.options.skip_bad and not os.path.lexists(self.root / file):
                fault = f"{file} does not exist"
            if fault:
                self._refuse(table.where(row), fault, number)
            seen.setdefault(file, number)
        return self.files

    def _where(self, number: int) -> str:
        table, row = self.rows[number]
        return table.where(row)

    def _base(self, table: Table, split: str) -> str:
        """The folder below the root that a table's paths are relative to, by its first few: the root, or one in it."""
        told = (self._located(path, "") for path in table.columns.get(self.path_column, []))
        first = list(itertools.islice((file for file, fault in told if not fault), 5))  # of which some may be missing
        if any((self.root / path).exists() for path in first):
            return ""
        inside = sorted(path.name for path in self.root.iterdir() if path.is_dir() and not path.name.startswith("."))
        fitting = [name for name in inside if any((self.root / name / path).is_file() for path in first)]
        fitting = [name for name in fitting if split and _folders.split_of(name) == split] or fitting
        return fitting[0] if len(fitting) == 1 else ""

    def _located(self, path: object, base: str) -> tuple[str, str]:
        """(path below the root, what is wrong with it)."""
        if not isinstance(path, str) or not path:
            return "", f"{str(path)[:60]!r} is no path" if path is not None else "no path"
        if "\0" in path:
            return "", f"{path!r} has a zero byte, which no path has"
        if "://" in path:
            return "", f"{path!r} is an address, not a file: download the images first, as with img2dataset"
        if "\\" in path and not os.path.lexists(self.root / base / path):
            path = path.replace("\\", "/")  # a table that Windows wrote
        if path.startswith("/"):
            if not Path(path).is_relative_to(self.root):
                return "", f"{path!r} lies outside of {self.root}; paths are relative to it"
            return Path(path).relative_to(self.root).as_posix(), ""
        file = posixpath.normpath(posixpath.join(base, path))
        return ("", f"{path!r} leads out of {self.root}") if file.split("/")[0] == ".." else (file, "")

    def _splits(self, of_table: list[str]) -> list[str]:
        """Each row's split, empty where the table says nothing."""
        self.split_column = _column(
            self.tables, self.options.split_column, SPLITS, "split", "--split-column NAME tells which"
        )
        if not self.split_column:
            return of_table
        found = []
        for number, value in enumerate(self._values(self.split_column)):
            split = _folders.split_of(str(value)) or str(value).strip().lower()
            fault = "no split" if value is None else split_fault(split)
            if fault and number not in self.bad:
                self._refuse(self._where(number), f"{fault}; usual ones: train, val, test", number)
            found.append(split)
        return found

    def _hold_out(self, first: tuple[Coding, Iterable[Any]] | None) -> None:
        """Gives rows without a split one: training, but for what is held out of it, each class its part."""
        self.splits = [split or ("train" if self.options.labelled else "test") for split in self.splits]
        grouped = _column(self.tables, self.options.group_column, (), "group", "")
        groups = self._values(grouped) if grouped else [None] * len(self.rows)
        self._refuse_divided(grouped, groups)
        if not self.options.labelled:
            return
        labels = list(first[1]) if first is not None and not first[0].several else [""] * len(self.rows)
        if self.options.test_fraction:
            if "test" in self.splits:
                raise InputError(f"{self.tables[0].path} has a test split of its own; --test cannot draw another")
            self._draw("test", self.options.test_fraction, f"test {self.options.seed}", labels, groups)
        if "val" not in self.splits:
            self._draw("val", self.options.val_fraction, self.options.seed, labels, groups)

    def _refuse_divided(self, column: str, groups: list[Any]) -> None:
        """Notes groups that stand in several of the splits that the table gives."""
        splits_of: dict[str, set[str]] = {}
        for number, group in enumerate(groups):
            if group is not None and number not in self.bad:
                splits_of.setdefault(str(group), set()).add(self.splits[number])
        divided = [group for group, splits in splits_of.items() if len(splits) > 1]
        if divided:
            where = " and ".join(sorted(splits_of[divided[0]], key=split_order))
            self.problems.append(
                f"{self.tables[0].path}, column {column!r}: {len(divided):,} group{'s' * (len(divided) > 1)} in "
                f"several splits, such as {divided[0]!r} in {where}; give the rows of a group one split, or leave out "
                "--group-column"
            )

    def _draw(self, split: str, fraction: float, seed: int | str, labels: list[Any], groups: list[Any]) -> None:
        """Moves a fraction of the training rows into `split`; groups stay together, counted with their main label."""
        units: dict[str, list[int]] = {}
        for number, of in enumerate(self.splits):
            if of == "train" and number not in self.bad:
                unit = self.files[number] if groups[number] is None else f"group {groups[number]}"
                units.setdefault(unit, []).append(number)
        of_class: dict[str, list[str]] = {}
        for unit, numbers in units.items():
            ((label, _),) = Counter(str(labels[number]) for number in numbers).most_common(1)
            of_class.setdefault(label, []).append(unit)
        drawn = _folders.held_out(of_class.values(), fraction, seed)
        if fraction and units and not drawn:
            told = f"--{split} {fraction:g} draws nothing, for no class has a second image, or group, to train on"
            self.problems.append(f"{self.tables[0].path}: {told}; --{split} 0 draws none")
        for unit in drawn:
            for number in units[unit]:
                self.splits[number] = split

    def _coded(self) -> dict[str, tuple[Coding, Iterable[Any]]]:
        """Coding and values of each column of labels, by the column's name."""
        classes = self.options.classes or ()
        classes = read_classes(classes) if isinstance(classes, Path) else classes
        there = {name for table in self.tables for name in table.columns}
        if self.options.label_bits and (classes or self.options.label_columns):
            raise InputError(
                "--label-columns are the labels and their names; allowed without --label-column, --classes"
            )
        if self.options.label_bits:
            return {} if self.options.added and not there & {*self.options.label_bits} else {"labels": self._bits()}
        usual = "--label-column A takes one, --label-column A,B keeps both"
        named: Sequence[str] = self.options.label_columns or (_column(self.tables, "", LABELS, "label", usual),)
        if self.options.added:
            named = [name for name in named if name in there]
        elif not named[0]:
            raise InputError(
                f"{self.tables[0].path} has no column of labels: --label-column names it, --unlabelled packs without; "
                f"it has: {shown(self.tables[0].columns)}"
            )
        coded: dict[str, tuple[Coding, Iterable[Any]]] = {}
        for name in named:
            _column(self.tables, name, (), "label", "")
            self.used.add(name)
            values = self._values(name)
            observed = Observed(f"{self.tables[0].path}, column {name!r}")
            training = [n for n, split in enumerate(self.splits) if split in ("", "train") and n not in self.bad]
            for number in training or range(len(values)):
                observed.add(values[number])
            if self.options.added and not (observed.counts or observed.faults):
                for value in values:
                    observed.add(value)
                if not (observed.counts or observed.faults):  # blank everywhere
                    continue
            coded[name] = observed.coding(classes, least=1 if self.options.added else 2), values
        return coded

    def _bits(self) -> tuple[Coding, Iterable[Any]]:
        """One column of 0 and 1 per label, as vectors."""
        for name in self.options.label_bits:
            _column(self.tables, name, (), "label", "")
        self.used.update(self.options.label_bits)
        check_count(len(self.options.label_bits), str(self.tables[0].path), least=1)
        rows = zip(*(self._iter_values(name) for name in self.options.label_bits), strict=True)
        values = (None if all(cell is None for cell in row) else list(row) for row in rows)  # once, and never all
        return Coding(self.options.label_bits, "vector", several=True), values

    def _encoded(self, name: str, coding: Coding, values: Iterable[Any]) -> list[Any]:
        """A column's labels as they are stored, vectors as bytes; rows whose labels cannot be used are noted."""
        encoded: list[Any] = []
        unknown: Counter[str] = Counter()
        blank = 0
        for number, value in enumerate(values):
            encoded.append(None)
            if number in self.bad:
                continue
            fault = ""
            try:
                stored = coding.encode(value)
                encoded[-1] = bytes(stored) if isinstance(stored, list) else stored  # a list takes eight times as much
                if encoded[-1] is None and self.splits[number] in ("train", "val") and not self.options.added:
                    blank += 1
                    fault = f"no label in {name!r}"
            except UnknownLabelError as error:
                unknown[error.label] += 1
                fault = str(error)
            except ValueError as error:
                self._refuse(self._where(number), str(error), number)
            if fault and self.options.unknown == "skip":
                self.bad[number] = fault
                self.rejected.append(Rejected(self._where(number), self.files[number], fault))
        where = f"{self.tables[0].path}, column {name!r}"
        if unknown and self.options.unknown == "fail":
            lacking = "--classes lacks" if self.options.classes else "the training rows lack"
            self.problems.append(told_unknown(where, unknown, lacking, added=self.options.added))
        if blank and self.options.unknown == "fail":
            none = "; [] says that none applies" if coding.several else ""
            self.problems.append(
                f"{where}: {blank:,} row{'s' * (blank > 1)} to train or validate on without a label{none}; "
                "--unknown skip leaves them out"
            )
        return encoded

    def records(self) -> Iterator[Record]:
        """Records in the order of the tables."""
        kept = [number for number in range(len(self.rows)) if number not in self.bad]
        keys = _folders.keys([self.files[number] for number in kept])
        rows: Counter[str] = Counter()
        for number, key in zip(kept, keys, strict=True):
            split, file = self.splits[number], self.files[number]
            told = {name: list(v) if isinstance(v := of[number], bytes) else v for name, of in self.columns.items()}
            facts = {"file": file, "row": rows[split], **told}
            rows[split] += 1
            yield Record(key, self.root / file, facts, split, self._where(number))

    def found(self) -> str:
        """What there is, in a sentence or two."""
        counts = Counter(split for number, split in enumerate(self.splits) if number not in self.bad)
        told = f"{self.root}, {shown(table.path.name for table in self.tables)}: {sum(counts.values()):,} images, "
        told += ", ".join(f"{split} {counts[split]:,}" for split in sorted(counts, key=split_order))
        for name, words in self.names.items():
            told += f"; {name!r} has {len(words):,} classes ({shown(words)})"
            if self.schema.columns[name] == "int":
                rows = (row for row, split in enumerate(self.splits) if split != "test" and row not in self.bad)
                sizes = Counter(label for row in rows if (label := self.columns[name][row]) is not None)
                single = [words[label] for label, size in sorted(sizes.items()) if size == 1]
                if single:
                    told += f", {len(single)} of one image, which gives none for validation ({shown(single)})"
        further = [name for name in self.columns if name not in self.names]
        told += f"; further columns: {shown(further)}" if further else ""
        return told + (f"; columns that a set cannot hold: {shown(self.left_out)}" if self.left_out else "")


READER = Reader(
    layout="a table (.csv, .tsv, .jsonl, .json, .parquet) with a column of paths and one of labels, or is that table",
    read=read,
    uses=(
        "val_fraction", "test_fraction", "labelled", "unknown", "path_column", "label_columns", "label_bits",
        "split_column", "group_column", "classes",
    ),
)  # fmt: skip
