"""Lines and CSV as people save them: UTF-8, UTF-16 with a byte-order mark, any line end, quoted commas."""

from __future__ import annotations

import contextlib
import csv
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from shards.errors import InputError
from shards.safe_io import hole_fault, is_there


def encoding(path: Path) -> str:
    """UTF-16 where a byte-order mark says so, as of Excel's "Unicode text"; else UTF-8."""
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def told(error: UnicodeDecodeError) -> str:
    """What is wrong with text that does not decode, and what to type."""
    if error.encoding.startswith("utf-16"):
        return f"not UTF-16, as it begins: {error.reason}"
    return f"not UTF-8: {error.reason}; save it as UTF-8, as by `iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW`"


def _sound(file: Iterable[str], path: Path) -> Iterator[str]:
    """Lines that hold no zero bytes."""
    for number, line in enumerate(file, 1):
        if "\0" in line:
            raise InputError(f"{path}, line {number}: a zero byte, which no text has; save it as UTF-8, or remove it")
        yield "\n" if number == 1 and re.fullmatch('"?sep=."?\\s*', line) else line  # as Excel is told the delimiter


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line without blanks around it) of each line, streamed.

    Raises:
        InputError: no such file, most of it is not on the disk, or (while iterating) a line is not UTF-8.
    """
    number = 0
    with _opened(path) as file:
        try:
            for number, line in enumerate(_sound(file, path), 1):
                yield number, line.strip()
        except UnicodeDecodeError as error:
            raise InputError(f"{path}, after line {number}: {told(error)}") from None


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
        having = ", ".join(header) or "none"
        raise InputError(
            f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; it has: {having[:300]}"
        )
    doubled = sorted({name for name in header if header.count(name) > 1})
    if doubled:
        raise InputError(f"{path} has the column {doubled[0]!r} twice")
    return header, stream


def delimiter(path: Path, names: Sequence[str]) -> str:
    """What parts the cells: with it a column has one of the `names`, or else header and first row have as many."""

    def fits(sign: str) -> tuple[bool, bool, int]:
        first: list[list[str]] = []
        with contextlib.suppress(InputError):
            first.extend(cells for _, cells in itertools.islice(_cells(path, sign), 2))
        header, row = (*first, [], [])[:2]
        named = len(header) > 1 and any(name.strip().lower() in names for name in header)
        return named, 1 < len(header) == len(row), len(header)

    return max(",\t;|", key=fits)  # a comma where all are absent


def _cells(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    with _opened(path, newline="") as file:
        reader = csv.reader(_sound(file, path), strict=True, delimiter=delimiter)
        try:
            for cells in reader:
                if cells:
                    yield reader.line_num, cells
        except UnicodeDecodeError as error:
            raise InputError(f"{path}, line {reader.line_num + 1}: {told(error)}") from None
        except csv.Error as error:
            raise InputError(f"{path}, line {reader.line_num}: {error}") from None


def _opened(path: Path, newline: str | None = None) -> TextIO:
    if not is_there(path):
        raise InputError(f"{path} does not exist")
    file = path.open(encoding=encoding(path), newline=newline)
    if (fault := hole_fault(file.fileno())) is not None:
        file.close()
        raise InputError(f"{path}: {fault}")
    return file
