"""Text files as people save them: UTF-8 with or without a byte-order mark, any line end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from shards.errors import InputError
from shards.safe_io import refuse_holes


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line without blanks around it) of each line, streamed.

    Raises:
        InputError: no such file, most of it is not on the disk, or (while iterating) a line is not UTF-8.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    refuse_holes(path)
    number = 0
    with path.open(encoding="utf-8-sig") as file:
        try:
            for number, line in enumerate(file, 1):
                yield number, line.strip()
        except UnicodeDecodeError as error:
            raise InputError(f"{path}, after line {number}: not UTF-8: {error.reason}") from None
