"""Small files that other processes read while they are written: replaced whole, or not at all.

No link is followed, and in folders that people use as well only files that we wrote there are replaced.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import hashlib
import json
import os
import stat
import time
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from fashion_dist.errors import ConfigError, RunError
from shards.portable import OPEN_FLAGS, user_id
from shards.safe_io import open_regular, read_regular, refuse_link, some, write_whole

T = TypeVar("T")

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step; readers see the old or the new content, never a part."""
    write_whole(path, text.encode(), durable=False)


def append(path: Path) -> IO[str]:
    """`path` opened to add text at its end, made where there is none; raises InputError for a link."""
    return os.fdopen(open_regular(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "a")


class OwnFiles:
    """What our commands wrote into a folder, whose names stand in its file `.fashion-dist`.

    Args:
        folder: of a run, or one that the user chose; made by the first `claim`.

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
            self.folder.mkdir(parents=True, exist_ok=True)
            with append(self.folder / self.LIST) as file:
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
        values = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


_SMALL = 1 << 24
_LARGEST_INT = 1 << 53
_LARGEST_FLOAT = 1e300
Parse = Callable[[Any, Path], Any]


def _refuse_constant(name: str) -> None:
    raise json.JSONDecodeError(f"{name} is no number", "", 0)


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def read_object(path: Path, *, again: bool = False) -> dict[str, Any]:
    """The JSON object in a small file that others may have made; empty where there is no file.

    Args:
        path: the file.
        again: it was tried before, and had been replaced meanwhile.

    Raises:
        ConfigError: it is no plain file, cannot be read, is torn, large or nested too deep, or holds NaN: `FILE: why`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | OPEN_FLAGS)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        if error.errno == errno.ESTALE and not again:  # it was replaced on another node at this moment
            return read_object(path, again=True)
        raise ConfigError(f"{path}: {'a link' if error.errno == errno.ELOOP else error.strerror}") from None
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise ConfigError(f"{path}: no plain file")
        if facts.st_size > _SMALL:
            raise ConfigError(f"{path}: larger than {_SMALL >> 20} MiB")
        content = os.read(descriptor, facts.st_size)
        values = _DECODER.decode(content.decode())
        if b"\\ud" in content:  # half of a character: what a file name outside UTF-8 leaves, which no terminal prints
            values = json.loads(json.dumps(values, ensure_ascii=False).encode(errors="replace"))
    except RecursionError:
        raise ConfigError(f"{path}: nested too deep") from None
    except OSError as error:
        if error.errno == errno.ESTALE and not again:
            return read_object(path, again=True)
        raise ConfigError(f"{path}: {error.strerror}") from None
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{path}: no JSON: {error}") from None
    finally:
        os.close(descriptor)
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: no JSON object")
    return values


@functools.cache
def _fields(kind: Any) -> tuple[tuple[str, Any, Parse, bool], ...]:
    hints, missing = typing.get_type_hints(kind), dataclasses.MISSING
    return tuple(
        (
            f.name,
            hint if (hint := hints[f.name]) in (str, bool) else None,
            _parser(hint),
            f.default is missing and f.default_factory is missing,
        )
        for f in dataclasses.fields(kind)
    )


def parse_dataclass(kind: type[T], values: Any, where: Path) -> T:
    """A dataclass of what `dataclasses.asdict` and JSON made of one, in this edition or another.

    Fields that are gone are passed over, and those that came later keep their defaults.

    Raises:
        ConfigError: a field is missing or of another type: `FILE: why`.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: {_short(values)} is no object with the fields of a {kind.__name__}")
    made: dict[str, Any] = {}
    name = ""
    try:
        for name, plain, parse, required in _fields(cast("Any", kind)):
            if name in values:
                value = values[name]
                made[name] = value if type(value) is plain else parse(value, where)
            elif required:
                raise ConfigError(f"{where}: {name} is missing")
    except TypeError as error:
        raise ConfigError(f"{where}: {name} = {_short(values[name])} is not possible; allowed: {error}") from None
    try:
        return kind(**made)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _parser(hint: Any) -> Parse:
    """What makes of a value that was read from JSON one as the type hint has it, or raises TypeError(allowed)."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return lambda value, where: value  # noqa: ARG005
    if hint is float:
        return _checked("a number", lambda v: type(v) in (int, float) and abs(v) < _LARGEST_FLOAT)
    if hint is int:
        return _checked("a whole number", lambda v: type(v) is int and abs(v) < _LARGEST_INT)
    if hint in (str, bool):
        return _checked("text" if hint is str else "true, false", lambda v: type(v) is hint)
    if origin is typing.Literal:
        return _checked(", ".join(inner), lambda v: isinstance(v, str) and v in inner)
    if origin in (typing.Union, types.UnionType):  # X | None
        of = _parser(inner[0])
        return lambda value, where: None if value is None else of(value, where)
    if origin is tuple:
        item = _parser(inner[0])
        check = _checked("a list", lambda v: isinstance(v, list | tuple))
        return lambda value, where: tuple(item(part, where) for part in check(value, where))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        part = _parser(inner[1])
        check = _checked("an object", lambda v: isinstance(v, Mapping))
        return lambda value, where: {key: part(item, where) for key, item in check(value, where).items()}
    if hasattr(hint, "from_json"):
        return cast("Parse", hint.from_json)
    assert dataclasses.is_dataclass(hint), f"no values of {hint} are read from files"
    return lambda value, where: parse_dataclass(cast("type[Any]", hint), value, where)


def _checked(allowed: str, is_right: Callable[[Any], bool]) -> Parse:
    def parse(value: Any, where: Path) -> Any:  # noqa: ARG001
        if not is_right(value):
            raise TypeError(allowed)
        return value

    return parse


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, one a line; a torn one is passed over."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


_LARGE = 1 << 24
_RECENT_S = 2.0


def sha256_of(path: Path, known: Path) -> str:
    """SHA-256 of a file in hexadecimal.

    Args:
        path: the file; links are followed.
        known: keeps the hashes of large files by path, size and mtime, where it can be written.
    """
    stat = path.stat()
    return _sha256(str(path.absolute()), stat.st_size, stat.st_mtime_ns, known)


@functools.cache
def _sha256(name: str, size: int, mtime_ns: int, known: Path) -> str:
    key = f"{name} {size} {mtime_ns}"
    found = read_json(known).get(key)
    if isinstance(found, str):
        return found
    content = hashlib.sha256()
    with Path(name).open("rb") as file:
        while chunk := file.read(1 << 20):
            content.update(chunk)
    digest = content.hexdigest()
    # A file that was written a moment ago may be written again within the clock's tick.
    if size >= _LARGE and time.time() - mtime_ns / 1e9 > _RECENT_S and known.parent.is_dir():
        with contextlib.suppress(OSError):  # a working folder of somebody else
            write_json(known, {**read_json(known), key: digest})
    return digest


def process_started(pid: int) -> int | None:
    """When a process of this machine started, in clock ticks since boot; None when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])  # fields 3 (state) and 22 (starttime) of proc(5)
