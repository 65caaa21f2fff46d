"""Small files that other processes read while they are written: replaced whole, or not at all.

No link is followed, and in folders that people use as well only files that we wrote there are replaced.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from fashion_dist.errors import ConfigError, InputError, RunError
from shards.portable import OPEN_FLAGS, user_id
from shards.safe_io import SHARED_FOLDER, naming, open_regular, read_regular, refuse_link, some, write_whole
from shards.typed_json import parse_dataclass as parse_dataclass
from shards.typed_json import parse_object
from shards.typed_json import read_object as read_object

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step; readers see the old or the new content, never a part."""
    write_whole(path, text.encode(), durable=False)


def append(path: Path) -> IO[str]:
    """`path` opened to add text at its end, made where there is none; raises InputError for a link."""
    return os.fdopen(open_regular(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "a")


class OwnFiles:
    """What our commands wrote into a folder, whose names stand in its file `.fashion-dist`; made by the first `claim`.

    Raises:
        InputError: the folder is a symbolic link.
    """

    LIST = ".fashion-dist"

    def __init__(self, folder: Path) -> None:
        self.folder = refuse_link(folder)
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{folder} is a file, where a folder is to be; move it away, or give another folder")

    def claim(self, *names: str) -> None:
        """Note that files of these names are ours to write and to replace from now on.

        Raises:
            ConfigError: something that we did not write has such a name; nothing was touched.
        """
        try:
            known = set(read_regular(self.folder / self.LIST).decode().splitlines())
        except FileNotFoundError:
            known = set()
        new = [name for name in names if name not in known]
        others = [name for name in new if os.path.lexists(self.folder / name)]
        if others:
            raise ConfigError(
                f"{self.folder} holds {some(others)}, which our commands did not write there; nothing was touched: "
                "move it away, or give another folder"
            )
        if new:
            self.folder.mkdir(mode=SHARED_FOLDER, parents=True, exist_ok=True)
            with naming(self.folder / self.LIST), append(self.folder / self.LIST) as file:
                file.write("".join(f"{name}\n" for name in new))

    def write(self, name: str, content: str | bytes) -> Path:
        """Replace or make the file `name`, in one step; raises as `claim` does."""
        self.claim(name)
        write_whole(self.folder / name, content.encode() if isinstance(content, str) else content, durable=False)
        return self.folder / name


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Replace `path` by `values` as indented JSON, in one step."""
    write_text(path, json.dumps(dict(values), indent=2, default=str) + "\n")


def write_private(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step, for this user's eyes alone."""
    write_whole(path, text.encode(), durable=False, mode=0o600)


def read_own(path: Path) -> bytes:
    """The content of a file that is believed or executed: this user's own, that nobody else may write.

    Who may write to a folder above can put another file there, but none that belongs to this user.

    Raises:
        RunError: it is a link, no plain file, another user's, or others may write it.
        FileNotFoundError: there is none.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | OPEN_FLAGS)
    except OSError as error:
        if path.is_symlink():
            raise RunError(f"{path} is a link and is not read") from None
        raise error
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise RunError(f"{path} is no plain file and is not read")
        if facts.st_uid != user_id():
            raise RunError(f"{path} belongs to another user ({facts.st_uid}) and is not read")
        if facts.st_mode & OTHERS_WRITE:
            raise RunError(f"{path} can be written by others (mode {stat.S_IMODE(facts.st_mode):o}) and is not read")
        return file.read()


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; empty where there is no file, or none that can be read as one."""
    try:
        return read_object(path)
    except InputError:
        return {}


FILESYSTEM_S = 60.0
"""How long a network filesystem may go on to say that a file is not there, which another node has made: NFS remembers
a miss for 30 s, and up to 60."""


def names_in(folder: Path) -> set[str]:
    """The names in a folder; none where it is not there.

    To list a folder asks the server, while looking for a name that is not there yet leaves the miss behind: so who
    waits for a file lists, and opens it when it is listed.
    """
    try:
        return set(os.listdir(folder))  # noqa: PTH208 - names are all that is wanted
    except (FileNotFoundError, NotADirectoryError):
        return set()


def is_listed(path: Path) -> bool:
    """Whether a file that another node may make is there by now, by its folder's list; true of a folder that is closed,
    since opening the file then tells why.
    """
    try:
        return path.name in names_in(path.parent)
    except OSError:
        return True


def await_file(path: Path, timeout_s: float, poll_s: float = 0.05) -> bool:
    """Wait until another process has made a file or a folder, and until it can be opened here; False if it is late."""
    deadline = time.monotonic() + timeout_s
    while path.name not in names_in(path.parent):
        if time.monotonic() > deadline:
            return False
        time.sleep(poll_s)
    deadline = max(deadline, time.monotonic() + FILESYSTEM_S)
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(poll_s)
    return True


def read_lines(path: Path, *, but: tuple[bytes, ...] = ()) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file, one a line; a torn one, or one with NaN in it, is passed over.

    Lines that begin with one of `but` are neither parsed nor kept: a file of a million lines is read one by one.
    """
    try:
        descriptor = open_regular(path)
    except FileNotFoundError:
        return
    # Of Python's own 8 KiB a read, a million lines would be 40,000 calls, some of which wait for a server.
    with naming(path), os.fdopen(descriptor, "rb", buffering=1 << 20) as file:
        for line in file:
            if not line.startswith(but):
                with contextlib.suppress(InputError):
                    yield parse_object(line, path)


_LARGE = 1 << 24
_RECENT_S = 2.0


def sha256_of(path: Path, known: Path) -> str:
    """SHA-256 of a file in hexadecimal; links are followed. `known` keeps the hashes of large files by path, size and
    mtime, where it can be written.
    """
    stat = path.stat()
    return _sha256(str(path.absolute()), stat.st_size, stat.st_mtime_ns, known)


def sha256_of_open(file: IO[bytes]) -> str:
    """SHA-256 in hexadecimal of what is left of an open file; `hashlib.file_digest` is Python 3.11's."""
    content = hashlib.sha256()
    while chunk := file.read(1 << 20):
        content.update(chunk)
    return content.hexdigest()


@functools.cache
def _sha256(name: str, size: int, mtime_ns: int, known: Path) -> str:
    key = f"{name} {size} {mtime_ns}"
    found = read_notes(known)
    if isinstance(found.get(key), str):
        return str(found[key])
    with Path(name).open("rb") as file:
        digest = sha256_of_open(file)
    # A file that was written a moment ago may be written again within the clock's tick.
    if size >= _LARGE and time.time() - mtime_ns / 1e9 > _RECENT_S and known.parent.is_dir():
        with contextlib.suppress(OSError):  # a working folder of somebody else
            write_private(known, json.dumps({**read_notes(known), key: digest}, indent=2) + "\n")
    return digest


def read_notes(path: Path) -> dict[str, Any]:
    """The JSON object that this user has noted; what others may have written is nothing to go by."""
    try:
        return parse_object(read_own(path), path)
    except (OSError, InputError, RunError):
        return {}


def process_started(pid: int) -> int | None:
    """When a process of this machine started, in clock ticks since boot; None when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])  # fields 3 (state) and 22 (starttime) of proc(5)
