"""Tables of any of the usual forms, column by column: CSV, TSV, JSON lines, JSON and Parquet."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shards import index
from shards.errors import InputError
from shards.readers import _text
from shards.safe_io import read_source
from shards.schema import RESERVED
from shards.tar_summary import kind_of, merged, stored
from shards.typed_json import is_sound

PATHS = (
    "path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "image_file", "image_name",
    "img", "img_path", "imagepath", "imagename",
)  # fmt: skip
"""Usual names of the column of paths."""
_NOTHING = frozenset({"", "nan", "NaN"})


@dataclass
class Table:
    """One table in memory.

    Args:
        path: its file.
        columns: values of each column, in the order of the rows; None where a cell is blank.
        lines: number of each row in the file, from 1.
        problems: (line, what is wrong with it) of rows that were not read.
    """

    path: Path
    columns: dict[str, list[Any]]
    lines: Sequence[int]
    problems: list[tuple[int, str]] = field(default_factory=list)

    def where(self, row: int) -> str:
        """How messages name a row."""
        return f"{self.path.name}, {'row' if self.path.suffix == '.parquet' else 'line'} {self.lines[row]}"


def load(path: Path) -> Table:
    """The table in a file, read by its ending; raises InputError where it is not what that says, or has no rows."""
    table = LOADERS[path.suffix.lower()](path)
    if not table.lines and not table.problems:
        raise InputError(f"{path} has no rows")
    return table


def _load_csv(path: Path) -> Table:
    header, rows = _text.rows(path, [], _text.delimiter(path, PATHS))
    cells: list[list[Any]] = [[] for _ in header]
    lines: list[int] = []
    table = Table(path, dict(zip(header, cells, strict=True)), lines)
    for line, values in rows:
        if len(values) != len(header):
            table.problems.append((line, f"{len(values)} cells, {len(header)} columns"))
            continue
        lines.append(line)
        for column, value in zip(cells, values, strict=True):
            column.append(value.strip())
    table.columns = {name: typed(values) for name, values in table.columns.items()}
    return table


def typed(cells: list[str]) -> list[Any]:
    """Text as whole numbers where all of it is, else as fractions where all is, else as it stands; blank as None.

    Numbers with leading zeros are names: `007` stays what it is.
    """
    told = [cell for cell in cells if cell not in _NOTHING]
    if not told:
        return [None] * len(cells)
    kinds: tuple[Callable[[str], Any], ...] = (_whole, _fraction)
    for read in kinds:
        try:
            numbers = {cell: read(cell) for cell in set(told)}
        except ValueError:
            continue
        return [numbers.get(cell) for cell in cells]
    return [None if cell in _NOTHING else cell for cell in cells]


def _whole(text: str) -> int:
    number = int(text)
    if str(number) != text or not -(2**63) <= number < 2**63:
        raise ValueError(text)
    return number


def _fraction(text: str) -> float:
    number = float(text)
    if not math.isfinite(number) or not re.fullmatch(r"-?(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][-+]?[0-9]+)?", text):
        raise ValueError(text)
    return number


def _load_json(path: Path) -> Table:
    try:
        text = read_source(path).decode(_text.encoding(path))
        if text.lstrip()[:1] == "[":
            objects = list(enumerate(json.loads(text), 1))
        else:
            objects = [(n, json.loads(line)) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: {_text.told(error)}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is neither JSON lines nor a JSON list of objects: {error}") from None
    lines: list[int] = []
    table = Table(path, {}, lines)
    for line, value in objects:
        if not isinstance(value, dict):
            table.problems.append((line, "not a JSON object"))
            continue
        for name in value:
            table.columns.setdefault(name, [None] * len(lines))
        lines.append(line)
        for name, column in table.columns.items():
            column.append(value.get(name))
    return table


def _load_parquet(path: Path) -> Table:
    _, columns = index.read_foreign(path, "")
    count = len(next(iter(columns.values()), []))
    return Table(path, columns, range(1, count + 1))


LOADERS: dict[str, Callable[[Path], Table]] = {
    ".csv": _load_csv,
    ".tsv": _load_csv,
    ".jsonl": _load_json,
    ".ndjson": _load_json,
    ".json": _load_json,
    ".parquet": _load_parquet,
}


def stored_column(values: Sequence[Any]) -> tuple[str, list[Any]] | None:
    """A further column as a set can hold it, (type, values); None where no type of a column holds it."""
    values = [None if isinstance(value, float) and math.isnan(value) else value for value in values]
    kind = functools.reduce(merged, map(kind_of, values), "")
    made = [stored(value, kind) for value in values]
    if kind in ("", "other") or (kind == "float" and not all(is_sound(value) for value in made if value is not None)):
        return None
    return kind, made


def column_name(name: str, taken: set[str]) -> str:
    """`name` as a column of an index may be called, and as none of `taken` is."""
    plain = re.sub(r"\W", "_", name, flags=re.ASCII) or "_"
    plain = f"_{plain}" if plain[0].isdigit() else plain
    while plain in RESERVED or plain in taken:
        plain += "_"
    return plain
