"""The one door to files in folders that others may have made: downloaded, handed over, or shared with a group.

No symbolic link is followed at a file's own name, only regular files are read, a file is written under a name that
nobody can have made before and then renamed, and whole folders are removed only when all in them is known to be ours.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from shards.errors import InputError
from shards.limits import limit, over
from shards.portable import OPEN_FLAGS, user_id

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_KINDS = {
    stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip
_SHOWN = 5
SHARED = 0o644
"""Mode of files that others may read, whatever the umask: what is read back and believed is written by us alone."""
SHARED_FOLDER = 0o755


def name_fault(name: object) -> str | None:
    """Why `name`, which stands in a file, names no file of one folder, or None."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in (".", ".."):
        return f"{name!r} is no file name; allowed: letters, digits and ._-"
    return None


def expanded(path: str | Path) -> Path:
    """`path` with the home folder that `~` or `~user` means; raises InputError where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        user = Path(path).parts[0]
        raise InputError(f"{path}: {user} is no user's home folder; allowed: ./{user} for a folder so named") from None


def some(names: Iterable[str]) -> str:
    """The first few of many names, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more


def require_regular(path: Path) -> Path:
    """`path`, which is a regular file and no link to one.

    Raises:
        FileNotFoundError: there is nothing.
        InputError: it is something else.
    """
    _require_regular(path, os.lstat(path).st_mode)
    return path


def _require_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is {_KINDS.get(stat.S_IFMT(mode), 'special')}, where only a regular file is taken")


def is_regular(path: Path) -> bool:
    """Whether `path` is a regular file and no link to one."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def open_regular(path: Path, flags: int = os.O_RDONLY, mode: int = SHARED) -> int:
    """A descriptor of a regular file; with `O_CREAT` in `flags` it is made where there is nothing.

    Raises:
        FileNotFoundError: there is nothing, and `flags` make nothing.
        InputError: it is a link, a FIFO or the like; or it has a second name and would be written.
    """
    try:
        require_regular(path)  # opening a device may already do something
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
    # O_NONBLOCK: what was a file at the look before may be a FIFO now.
    descriptor = os.open(path, flags | OPEN_FLAGS, mode)
    try:
        found = os.fstat(descriptor)
        _require_regular(path, found.st_mode)
        if flags & (os.O_WRONLY | os.O_RDWR) and found.st_nlink > 1:
            raise InputError(
                f"{path} has a second name (a hard link), so it is not written to; make it a file of its own"
            )
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError of reading or writing an open file says which one, as that of opening it does."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def words_of(error: BaseException) -> str:
    """What an error says to a person: of a file, `FILE: why`, without the number of the cause."""
    if isinstance(error, OSError) and error.filename:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error)


def read_regular(path: Path, most: str = "") -> bytes:
    """The content of a regular file; raises as `open_regular` does, and where it is over the limit `most`."""
    with naming(path), os.fdopen(open_regular(path), "rb") as file:
        if most and (fault := over(most, os.fstat(file.fileno()).st_size, "bytes")) is not None:
            raise InputError(f"{path}: {fault}")
        if (fault := hole_fault(file.fileno())) is not None:
            raise InputError(f"{path}: {fault}")
        return file.read()


def read_source(path: Path, most: str = "") -> bytes:
    """`read_regular` of a file of a user's or of a raw data set, which may be reached by a link."""
    return read_regular(Path(os.path.realpath(path)), most)


def is_there(path: Path) -> bool:
    """Whether a raw data set has a file that it may lack; InputError where its name is a folder or a broken link."""
    if os.path.lexists(path) and not path.is_file():
        kind = _KINDS.get(stat.S_IFMT(os.lstat(path).st_mode), "special")
        raise InputError(f"{path} is {kind}{' to no file' * path.is_symlink()}, where only a regular file is taken")
    return path.is_file()


def hole_fault(descriptor: int) -> str | None:
    """Why an open file is not read: most of it is not on the disk, and would be read as zeros; else None."""
    if not hasattr(os, "SEEK_HOLE"):
        return None
    position, end, found, most = 0, os.fstat(descriptor).st_size, 0, limit("HOLES")
    while end > most >= found and position < end and (hole := os.lseek(descriptor, position, os.SEEK_HOLE)) < end:
        try:
            position = os.lseek(descriptor, hole, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # no data follow
                raise
            position = end
        found += position - hole
    os.lseek(descriptor, 0, os.SEEK_SET)
    fault = over("HOLES", found, "bytes that are not on the disk")
    return None if fault is None else f"it is sparse: {fault}"


def create(path: Path, mode: int = SHARED) -> int:
    """A descriptor of a new file to write; raises FileExistsError where anything, a link too, has its name."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | OPEN_FLAGS, mode)


def temporary(path: Path) -> Path:
    """A name beside `path` that nobody can guess."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = True, mode: int = SHARED) -> Iterator[IO[bytes]]:
    """A file under a temporary name, which has its own afterwards: all or nothing, whenever it is killed.

    `durable` makes that hold for power cuts, too; `mode` is less the umask. A link at `path` is replaced, and what it
    points to is left alone.
    """
    fresh = temporary(path)
    try:
        with os.fdopen(create(fresh, mode), "wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: bytes | memoryview, *, durable: bool = True, mode: int = SHARED) -> None:
    """Write `content` as `replacing` does."""
    with naming(path), replacing(path, durable=durable, mode=mode) as file:
        file.write(content)


def refuse_link(folder: Path) -> Path:
    """`folder`, which is no symbolic link and need not exist; raises InputError where it is one."""
    if folder.is_symlink():
        raise InputError(f"{folder} is a symbolic link; nothing is written or removed through it")
    return folder


def private_folder(folder: Path) -> Path:
    """`folder`, made where there is none; raises InputError for somebody else's, a link, or one others can write to."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        found = os.lstat(folder)
        if not stat.S_ISDIR(found.st_mode):
            raise InputError(f"{folder} is {_KINDS.get(stat.S_IFMT(found.st_mode), 'a file')}, not a folder") from None
        if found.st_uid != user_id():
            raise InputError(f"{folder} belongs to another user (uid {found.st_uid}); it is not used") from None
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise InputError(
                f"{folder} can be written to by other users (mode {stat.S_IMODE(found.st_mode):o}); remove it, "
                "or close it if you trust what is in it"
            ) from None
    return folder


def require_ours(folder: Path, ours: re.Pattern[str]) -> None:
    """See that a folder, if it is there, is no link and holds regular files named as `ours` alone; else InputError."""
    if not refuse_link(folder).exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is a file, where a folder is to be; move it away")
    with os.scandir(folder) as entries:
        others = [e.name for e in entries if not ours.fullmatch(e.name) or not e.is_file(follow_symlinks=False)]
    if others:
        raise InputError(f"{folder} is not removed: it holds {some(others)}, which we did not write; move it away")


def remove_folder(folder: Path, ours: re.Pattern[str]) -> None:
    """Remove a folder in which every entry is ours, if it is there; raises as `require_ours` does, before removing."""
    require_ours(folder, ours)
    if not folder.exists():
        return
    for path in list(folder.iterdir()):
        path.unlink(missing_ok=True)
    folder.rmdir()
