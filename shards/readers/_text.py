"""Lines and CSV as people save them: UTF-8 with or without a byte-order mark, any line end, quoted commas."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from shards.errors import InputError
from shards.safe_io import hole_fault, is_there


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line without blanks around it) of each line, streamed.

    Raises:
        InputError: no such file, most of it is not on the disk, or (while iterating) a line is not UTF-8.
    """
    number = 0
    with _opened(path) as file:
        try:
            for number, line in enumerate(file, 1):
                yield number, line.strip()
        except UnicodeDecodeError as error:
            raise InputError(f"{path}, after line {number}: not UTF-8: {error.reason}") from None


def rows(
    path: Path, required: Sequence[str], delimiter: str = ","
) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Column names, and (line number, cells) of each row that is not blank.

    Raises:
        InputError: no such file, not UTF-8, a missing or doubled column, or (while iterating) a row of another length.
    """
    stream = _cells(path, delimiter)
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


def _cells(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    with _opened(path, newline="") as file:
        reader = csv.reader(file, strict=True, delimiter=delimiter)
        try:
            for cells in reader:
                if cells:
                    yield reader.line_num, cells
        except UnicodeDecodeError as error:
            raise InputError(f"{path}, line {reader.line_num + 1}: not UTF-8: {error.reason}") from None
        except csv.Error as error:
            raise InputError(f"{path}, line {reader.line_num}: {error}") from None


def _opened(path: Path, newline: str | None = None) -> TextIO:
    if not is_there(path):
        raise InputError(f"{path} does not exist")
    file = path.open(encoding="utf-8-sig", newline=newline)
    if (fault := hole_fault(file.fileno())) is not None:
        file.close()
        raise InputError(f"{path}: {fault}")
    return file
