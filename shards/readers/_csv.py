"""Tables as people save them: with or without a byte-order mark, any line end, quoted commas."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from shards.errors import InputError
from shards.safe_io import refuse_holes


def rows(
    path: Path, required: Sequence[str], delimiter: str = ","
) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Column names, and (line number, cells) of each row that is not blank.

    Raises:
        InputError: no such file, not UTF-8, a missing or doubled column, or (while iterating) a row of another length.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    refuse_holes(path)
    stream = _rows(path, delimiter)
    _, header = next(stream, (0, []))
    header = [name.strip() for name in header]
    missing = [name for name in required if name not in header]
    if missing:
        told = ", ".join(header) or "none"
        raise InputError(
            f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; it has: {told[:300]}"
        )
    doubled = sorted({name for name in header if header.count(name) > 1})
    if doubled:
        raise InputError(f"{path} has the column {doubled[0]!r} twice")
    return header, stream


def _rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True, delimiter=delimiter)
        try:
            for cells in reader:
                if cells:
                    yield reader.line_num, cells
        except UnicodeDecodeError as error:
            raise InputError(f"{path}, line {reader.line_num + 1}: not UTF-8: {error.reason}") from None
        except csv.Error as error:
            raise InputError(f"{path}, line {reader.line_num}: {error}") from None
