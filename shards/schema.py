"""What a shard set says about its images: facts, their types, and the names that keys may have."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shards.errors import InputError
from shards.typed_json import parse_dataclass

SPLITS = ("train", "val", "test")
MAX_NAME_BYTES = 100
"""A member's name in a USTAR header."""

_VECTOR = re.compile(r"ints:([1-9][0-9]*)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
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
        for name, kind in self.columns.items():
            if not _NAME.fullmatch(name) or name in RESERVED:
                raise InputError(f"fact {name!r} cannot be a column of the index; taken: {', '.join(sorted(RESERVED))}")
            if kind not in ("int", "float", "str") and not _VECTOR.fullmatch(kind):
                raise InputError(f"fact {name!r} has the unknown type {kind!r}; known: int, float, str, ints:K")
        for name in self.names:
            if name not in self.columns:
                raise InputError(f"names are given for {name!r}, which is no fact; facts: {', '.join(self.columns)}")

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
    """`key` as it stands in tars: `%`, `.` and blank become `%25`, `%2E` and `%20`.

    A dot ends a key in a WebDataset, a blank ends a name in DALI's index.
    """
    return key.replace("%", "%25").replace(".", "%2E").replace(" ", "%20")


def decode_key(stored: str) -> str:
    """The key that `encode_key` stored."""
    return stored.replace("%20", " ").replace("%2E", ".").replace("%25", "%")


def folded(stored: str) -> str:
    """The form in which two keys must differ, so that no file system merges them: composed and without case."""
    return stored.lower() if stored.isascii() else unicodedata.normalize("NFC", stored).casefold()


def key_fault(key: str) -> str | None:
    """Why `key` (before `encode_key`) cannot name a sample in a tar of ours, or None."""
    fault = stored_key_fault(key)
    if fault is not None:
        return fault
    name_bytes = len(encode_key(key).encode())
    if name_bytes + len(".json") > MAX_NAME_BYTES:
        limit = MAX_NAME_BYTES - len(".json")
        return f"key {key!r} takes {name_bytes} bytes in the tar; at most {limit} fit beside .json in a tar's name"
    return None


def stored_key_fault(key: str) -> str | None:
    """Why `key` cannot name a sample in any tar, or None."""
    if not key:
        return "an empty key"
    if not key.isprintable():
        return f"key {key!r} has a control character"
    if key.startswith("/"):
        return f"key {key!r} starts with /"
    parts = key.split("/")
    if ".." in parts or "." in parts or "" in parts:
        return f"key {key!r} has an empty, . or .. part"
    if parts[0].startswith("__") and parts[0].endswith("__"):
        return f"key {key!r} starts with a part like __x__, which WebDataset readers skip"
    return None


def split_fault(split: str) -> str | None:
    """Why `split` cannot name a split, or None."""
    return None if _SPLIT.fullmatch(split) else f"split {split!r} is not made of lower case letters, digits and _"


def split_order(split: str) -> tuple[int, str]:
    """Sorts train, val, test first and the rest by name."""
    return (SPLITS.index(split) if split in SPLITS else len(SPLITS), split)
