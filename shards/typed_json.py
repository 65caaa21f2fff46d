"""Small JSON files that others may have made, read as dataclasses; anything else is a sentence `FILE: why`."""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
import os
import stat
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from shards.errors import InputError
from shards.portable import OPEN_FLAGS, pread

T = TypeVar("T")
Parse = Callable[[Any, object], Any]

_SMALL = 1 << 24
_LARGEST_INT = 1 << 63
_LARGEST_FLOAT = 1e300


def _refuse_constant(name: str) -> None:
    raise json.JSONDecodeError(f"{name} is no number", "", 0)


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def is_sound(value: object) -> bool:
    """Whether a value is a number that is finite and not so large that arithmetic with it fails."""
    return (type(value) is int and abs(value) < _LARGEST_INT) or (type(value) is float and abs(value) < _LARGEST_FLOAT)


def is_count(text: str) -> bool:
    """Whether a text is a whole number from 0, in ASCII digits and of at most 18; `int` refuses thousands of them."""
    return text.isascii() and text.isdigit() and len(text) < 19


def parse_object(content: str | bytes, where: object) -> dict[str, Any]:
    """The JSON object that a text is.

    Raises:
        InputError: it is torn, no UTF-8, nested too deep, no object, or holds NaN or infinity: `WHERE: why`.
    """
    try:
        text = content if isinstance(content, str) else content.decode()
        values = _DECODER.decode(text)
    except RecursionError:
        raise InputError(f"{where}: nested too deep") from None
    except ValueError as error:
        raise InputError(f"{where}: no JSON: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{where}: no JSON object")
    return values


def read_object(path: Path, *, again: bool = False) -> dict[str, Any]:
    """The JSON object in a small file that others may have made; empty where there is no file.

    Raises:
        InputError: it is no plain file, cannot be read, or is large, or `parse_object` refuses it: `FILE: why`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | OPEN_FLAGS)
        try:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                raise InputError(f"{path}: no plain file")
            if facts.st_size > _SMALL:
                raise InputError(f"{path}: larger than {_SMALL >> 20} MiB")
            content = pread(descriptor, facts.st_size, 0)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        if error.errno == errno.ESTALE and not again:  # it was replaced on another node at this moment
            return read_object(path, again=True)
        raise InputError(f"{path}: {'a link' if error.errno == errno.ELOOP else error.strerror}") from None
    values = parse_object(content, path)
    if b"\\ud" in content or b"\\uD" in content:  # half a character, as in file names outside UTF-8: not to be printed
        return cast("dict[str, Any]", json.loads(json.dumps(values, ensure_ascii=False).encode(errors="replace")))
    return values


@functools.cache
def _fields(kind: Any) -> tuple[tuple[str, Any, Parse, bool], ...]:
    hints, missing = typing.get_type_hints(kind), dataclasses.MISSING
    found = []
    for f in dataclasses.fields(kind):
        hint, required = hints[f.name], f.default is missing and f.default_factory is missing
        found.append((f.name, hint if hint in (str, bool) else None, _parser(hint), required))
    return tuple(found)


def parse_dataclass(kind: type[T], values: Any, where: object) -> T:
    """A dataclass of what `dataclasses.asdict` and JSON made of one, in this edition or another.

    Fields that are gone are passed over, and those that came later keep their defaults.

    Raises:
        InputError: a field is missing or of another type: `FILE: why`.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: {_short(values)} is no object with the fields of a {kind.__name__}")
    made: dict[str, Any] = {}
    name = ""
    try:
        for name, plain, parse, required in _fields(cast("Any", kind)):
            if name in values:
                value = values[name]
                made[name] = value if type(value) is plain else parse(value, where)
            elif required:
                raise InputError(f"{where}: {name} is missing")
    except TypeError as error:
        raise InputError(f"{where}: {name} = {_short(values[name])} is not possible; allowed: {error}") from None
    try:
        return kind(**made)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


@functools.cache
def _parser(hint: Any) -> Parse:
    """What makes of a value that was read from JSON one as the type hint has it, or raises TypeError(allowed)."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return lambda value, where: value  # noqa: ARG005
    if hint is float:
        return _checked("a number", lambda v: type(v) in (int, float) and abs(v) < _LARGEST_FLOAT)
    if hint is int:
        return _checked("a whole number", lambda v: type(v) is int and abs(v) < _LARGEST_INT)
    if hint is Path:
        check = _checked("a path", lambda v: isinstance(v, str | Path))
        return lambda value, where: Path(check(value, where))
    if hint in (str, bool):
        return _checked("text" if hint is str else "true, false", lambda v: type(v) is hint)
    if origin is typing.Literal:
        return _checked(", ".join(inner), lambda v: isinstance(v, str) and v in inner)
    if origin in (typing.Union, types.UnionType):
        return _any_of([_parser(one) for one in inner if one is not type(None)], type(None) in inner)
    if origin is tuple:
        return _tuple_of([_parser(one) for one in inner if one is not Ellipsis], Ellipsis in inner)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        part = _parser(inner[1])
        check = _checked("an object", lambda v: isinstance(v, Mapping))
        return lambda value, where: {key: part(item, where) for key, item in check(value, where).items()}
    if hasattr(hint, "from_json"):
        return cast("Parse", hint.from_json)
    assert dataclasses.is_dataclass(hint), f"no values of {hint} are read from files"
    return lambda value, where: parse_dataclass(cast("type[Any]", hint), value, where)


def parse_value(hint: Any, value: Any, name: str, where: object) -> Any:
    """A value of the type `hint`; raises InputError naming `where`, `name` and what is allowed."""
    try:
        return _parser(hint)(value, where)
    except TypeError as error:
        raise InputError(f"{where}: {name} = {_short(value)} is not possible; allowed: {error}") from None


def _any_of(parsers: list[Parse], with_none: bool) -> Parse:
    def parse(value: Any, where: object) -> Any:
        if value is None and with_none:
            return None
        allowed = []
        for one in parsers:
            try:
                return one(value, where)
            except TypeError as error:
                allowed.append(str(error))
        raise TypeError(" or ".join(allowed))

    return parse


def _tuple_of(parsers: list[Parse], any_length: bool) -> Parse:
    def parse(value: Any, where: object) -> Any:
        if not isinstance(value, list | tuple):
            raise TypeError("a list")
        if any_length:
            return tuple(parsers[0](part, where) for part in value)
        if len(value) != len(parsers):
            raise TypeError(f"a list of {len(parsers)}")
        return tuple(one(part, where) for one, part in zip(parsers, value, strict=True))

    return parse


def _checked(allowed: str, is_right: Callable[[Any], bool]) -> Parse:
    def parse(value: Any, where: object) -> Any:  # noqa: ARG001
        if not is_right(value):
            raise TypeError(allowed)
        return value

    return parse


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
