"""What a shard set says about its images: facts, their types, and the names that keys may have."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from shards.errors import InputError
from shards.limits import over
from shards.typed_json import parse_dataclass

SPLITS = ("train", "val", "test")
MAX_NAME_BYTES = 100
"""A member's name in a USTAR header."""

_ROOM = MAX_NAME_BYTES - len(".json")
_PLAIN = re.compile(r"[A-Za-z0-9_/-]*")
_UNIT = re.compile(r"%[0-9A-F]{2}|.", re.DOTALL)

_VECTOR = re.compile(r"ints:([1-9][0-9]*)")
FACT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SPLIT = re.compile(r"[a-z0-9][a-z0-9_]*")
RESERVED = frozenset({"shard", "offset", "size", "crc32", "key", "split", "width", "height"})


@dataclass(frozen=True)
class Schema:
    """The facts every image of a set has, and the names behind numbers.

    Args:
        columns: name -> type, one of `int`, `float`, `str`, `ints:K` (K whole numbers).
        names: class names of a fact, by its number (`category`) or position (`attributes`).
    """

    columns: Mapping[str, str]
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (fault := over("FACTS", len(self.columns), "facts")) is not None:
            raise InputError(fault)
        for name, kind in self.columns.items():
            if not FACT_NAME.fullmatch(name) or name in RESERVED:
                raise InputError(f"fact {name!r} cannot be a column of the index; taken: {', '.join(sorted(RESERVED))}")
            if kind not in ("int", "float", "str") and not _VECTOR.fullmatch(kind):
                raise InputError(f"fact {name!r} has the unknown type {kind!r}; known: int, float, str, ints:K")
            width = _VECTOR.fullmatch(kind)
            if width and (fault := over("VECTOR", int(width.group(1)[:18]), "numbers")) is not None:
                raise InputError(f"fact {name!r}: {fault}")
        for name in self.names:
            if name not in self.columns:
                raise InputError(f"names are given for {name!r}, which is no fact; facts: {', '.join(self.columns)}")
        whole = {name: tuple(map(whole_characters, words)) for name, words in self.names.items()}
        object.__setattr__(self, "names", whole)

    def width(self, fact: str) -> int:
        """K of an `ints:K` fact."""
        match = _VECTOR.fullmatch(self.columns[fact])
        assert match, f"{fact} is no vector"
        return int(match.group(1))

    def fault(self, facts: Mapping[str, Any]) -> str | None:
        """What is wrong with one image's facts, or None. A missing label is None, not absent."""
        if facts.keys() != self.columns.keys():
            lacking, extra = sorted(self.columns.keys() - facts.keys()), sorted(facts.keys() - self.columns.keys())
            return f"facts lack {lacking} and have unknown {extra}" if extra else f"facts lack {lacking}"
        for name, kind in self.columns.items():
            value = facts[name]
            if value is None:
                continue
            if kind == "int":
                ok = type(value) is int and -(2**63) <= value < 2**63
            elif kind == "float":
                ok = type(value) in (int, float)
            elif kind == "str":
                ok = type(value) is str
            else:
                ok = (
                    isinstance(value, (list, tuple))
                    and len(value) == self.width(name)
                    and set(map(type, value)) == {int}
                    and -(2**31) <= min(value) <= max(value) < 2**31
                )
            if not ok:
                return f"fact {name} is {str(value)[:60]!r}, not of type {kind}"
        return None

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists, in a fixed order."""
        return {"facts": dict(self.columns), "names": {name: list(words) for name, words in self.names.items()}}

    @classmethod
    def from_json(cls, value: Any, where: object = "the schema") -> Schema:
        """What `to_json` made; raises InputError where it is something else, naming `where` it stands."""
        made = parse_dataclass(_SchemaJson, value, where)
        return cls(made.facts, made.names)


@dataclass(frozen=True)
class _SchemaJson:
    facts: Mapping[str, str]
    names: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Record:
    """One image on its way into a shard.

    Args:
        key: the image's name, unique in the set whatever the case; may contain dots (see `encode_key`).
        image: the path of the file, or its encoded bytes.
        columns: one value for each fact of the schema; None for a label that is not known.
        split: such as `train`, `val` or `test`.
        where: the file and line that named it, for messages.
    """

    key: str
    image: Path | str | bytes
    columns: Mapping[str, Any]
    split: str
    where: str = ""


def encode_key(key: str) -> str:
    """`key` as it stands in tars, reversibly.

    Written as `%` and two hexadecimal digits a byte are `%`, a dot (which ends a key in a WebDataset), a blank (which
    ends a name in DALI's index), what is not printable (line breaks, other blanks, joiners), bytes of a file name that
    are no UTF-8, and the first `_` of a part like `__x__` at the front (which WebDataset readers skip). A key that no
    USTAR header can hold otherwise is divided by `%/`.
    """
    if not _PLAIN.fullmatch(key):
        key = "".join(_escaped(c) if c in "%. " or not c.isprintable() else c for c in key)
    if is_skipped(key):
        key = "%5F" + key[1:]
    data = key.encode("utf-8", "surrogatepass")
    if _fits(data):
        return key
    end = len(data)
    for at in reversed(list(_UNIT.finditer(key))):
        size = len(at.group().encode("utf-8", "surrogatepass"))
        if len(data) - (end - size) > _ROOM:
            return f"{key[: at.end()]}%/{key[at.end() :]}"
        end -= size
    return key


def _escaped(character: str) -> str:
    try:
        return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return character  # half a character, which is refused


def is_skipped(key: str) -> bool:
    """Whether WebDataset readers skip a member of this name, as their own notes are called."""
    first = key.partition("/")[0]
    return len(first) > 1 and first.startswith("__") and first.endswith("__")


def _fits(data: bytes) -> bool:
    """Whether a USTAR header holds the name: 100 bytes, or 155 more before one of its slashes."""
    return len(data) <= _ROOM or (len(data) - data.rfind(b"/", 1, 156) - 1 <= _ROOM and b"/" in data[1:156])


def decode_key(stored: str) -> str:
    """The key that `encode_key` stored."""
    return unquote_to_bytes(stored.replace("%/", "")).decode("utf-8", "surrogateescape") if "%" in stored else stored


def whole_characters(text: str) -> str:
    """`text` with U+FFFD for half a character or a byte that is no UTF-8, which no column can hold."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def folded(stored: str) -> str:
    """The form in which two keys must differ, so that no file system merges them: composed and without case."""
    return stored.lower() if stored.isascii() else unicodedata.normalize("NFC", stored).casefold()


def key_fault(key: str) -> str | None:
    """Why `key` (before `encode_key`) cannot name a sample in a tar of ours, or None."""
    stored = encode_key(key)
    fault = _parts_fault(key) or stored_key_fault(stored)
    if fault is not None:
        return fault
    data = stored.encode()
    if not _fits(data):
        return f"key {key!r} takes {len(data)} bytes in the tar; at most {_ROOM + 154} fit in a tar's name"
    return None


def _parts_fault(key: str) -> str | None:
    if not key:
        return "an empty key"
    if key.startswith("/"):
        return f"key {key!r} starts with /"
    return f"key {key!r} has an empty, . or .. part" if {"", ".", ".."} & set(key.split("/")) else None


def stored_key_fault(key: str) -> str | None:
    """Why `key` cannot name a sample in any tar, or None."""
    if not key.isprintable():
        return f"key {key!r} has a control character, or half of a character"
    if (fault := _parts_fault(key)) is not None:
        return fault
    if is_skipped(key):
        return f"key {key!r} starts with a part like __x__, which WebDataset readers skip"
    return None


def split_fault(split: str) -> str | None:
    """Why `split` cannot name a split, or None."""
    return None if _SPLIT.fullmatch(split) else f"split {split!r} is not made of lower case letters, digits and _"


def split_order(split: str) -> tuple[int, str]:
    """Sorts train, val, test first and the rest by name."""
    return (SPLITS.index(split) if split in SPLITS else len(SPLITS), split)
