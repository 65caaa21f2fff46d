"""What can go wrong with a shard set.

    ShardsError
    ├── InputError (also ValueError)   the user's mistake: one sentence says what, where and what is allowed
    │   └── RowsError                  several bad rows or files at once: the first 20 and their count
    ├── DamageError                    stored bytes are not what was packed: names shard, key and offset
    └── SpaceError                     no space left: names the path and the bytes needed

Commands exit with status 2 for `InputError` and 1 for the rest.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import os
import shutil
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Numbers of an `OSError` that mean a full disk, a quota or a limit on file sizes."""


class ShardsError(Exception):
    """Base of every error this package raises on purpose."""


class InputError(ShardsError, ValueError):
    """The user's mistake; nothing was written."""


class RowsError(InputError):
    """Several bad rows: `str()` lists the first 20 of them and how many there are.

    Args:
        where: the file or folder the rows stand in.
        problems: one sentence a row, in the order they were found.
        skippable: whether `--skip-bad` leaves all of them out.
    """

    SHOWN = 20

    def __init__(self, where: str, problems: Sequence[str], *, skippable: bool = False) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        told = f"{where}: {count} bad row{'s' if count != 1 else ''}, nothing was written"
        told += "; --skip-bad leaves such out and lists them" if skippable else ""
        lines = [told, *self.problems[: self.SHOWN]]
        if count > self.SHOWN:
            lines.append(f"... and {count - self.SHOWN} more")
        super().__init__("\n  ".join(lines))


class DamageError(ShardsError):
    """A sample whose bytes do not match the index (short read, CRC) or do not decode; or a file that is not readable.

    Args:
        shard: name of the tar or other file.
        key: the sample's key; empty where the damage is of no one sample.
        offset: byte offset of the image in the tar.
        reason: what was found.
    """

    def __init__(self, shard: str, key: str, offset: int, reason: str) -> None:
        self.shard, self.key, self.offset, self.reason = shard, key, offset, reason
        if key:
            where = f"shard {shard}, key {key!r}, offset {offset}"
        else:
            where = f"{shard}, offset {offset}" if shard.endswith(".tar") else shard
        super().__init__(f"{where}: {reason}")

    def __reduce__(self) -> tuple[type[DamageError], tuple[str, str, int, str]]:
        return type(self), (self.shard, self.key, self.offset, self.reason)


class SpaceError(ShardsError):
    """No space left: `str()` names the path and the bytes needed, and those free where no quota is used up."""

    def __init__(self, path: str, needed: int, free: int, *, is_quota: bool = False) -> None:
        self.path, self.needed, self.free, self.is_quota = path, needed, free, is_quota
        what = f"your quota is used up at {path}" if is_quota else f"no space left for {path}"
        super().__init__(f"{what}: {needed} bytes needed" + ("" if is_quota else f", {free} free"))

    @classmethod
    @contextlib.contextmanager
    def told(cls, path: Path, needed: Callable[[], int]) -> Iterator[None]:
        """Within, an OSError whose number is of `NO_SPACE`, on writing `path`, becomes one of these."""
        try:
            yield
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            there = next(folder for folder in (path, *path.parents) if folder.is_dir())
            free, is_quota = shutil.disk_usage(there).free, error.errno == errno.EDQUOT
            raise cls(str(path), needed(), free, is_quota=is_quota) from None

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(type(self), is_quota=self.is_quota), (self.path, self.needed, self.free)


def import_file(name: str) -> ModuleType:
    """The module `name`, of anybody's file; raises InputError naming file, line and fault if it cannot be imported."""
    try:
        return importlib.import_module(name)
    except ShardsError:
        raise
    except SyntaxError as error:
        raise InputError(f"{error.filename}, line {error.lineno}: {error.msg}") from error
    except Exception as error:  # of many kinds; each is a mistake in that file, or in what it imports
        frames = traceback.extract_tb(error.__traceback__)
        file = os.sep + name.rpartition(".")[2] + ".py"
        at = next((frame for frame in reversed(frames) if frame.filename.endswith(file)), frames[-1])
        raise InputError(f"{at.filename}, line {at.lineno}: {type(error).__name__}: {error}") from error
