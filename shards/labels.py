"""Class labels as people write them, made into numbers: words, whole numbers, lists of either, vectors of 0 and 1."""

from __future__ import annotations

import ast
import json
import math
import re
import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from shards.errors import InputError
from shards.safe_io import read_source
from shards.schema import whole_characters
from shards.typed_json import is_count

MAX_CLASSES = 100_000
"""More are a mistake nearly always: a column of file names or ids taken for the label."""


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts `2` before `10`, and `img2` before `img10`."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((0, int(part), part) if is_count(part) else (1, 0, part) for part in parts)


class UnknownLabelError(ValueError):
    """A label that is not among the classes; `label` is it."""

    def __init__(self, label: str) -> None:
        self.label = label
        super().__init__(f"the label {label!r} is not among the classes")


@dataclass(frozen=True)
class Coding:
    """How the labels of one column become numbers.

    Args:
        names: class names, by number.
        form: `name` where labels are names (a number stands for its digits), `index` where they are positions in
            `names`, `vector` where they are lists of a 0 or 1 per class.
        several: any number of classes an image, stored as a 0 or 1 per class; else one class, stored as its number.
    """

    names: tuple[str, ...]
    form: str = "name"
    several: bool = False

    @property
    def kind(self) -> str:
        """The column's type in a schema."""
        return f"ints:{len(self.names)}" if self.several else "int"

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    def encode(self, value: object) -> int | list[int] | None:
        """What is stored for one label; None where there is none.

        Raises:
            UnknownLabelError: a label that is not among the classes.
            ValueError: no label at all, such as 0.5.
        """
        value = parse(value)
        if value is None:
            return None
        if not self.several:
            if isinstance(value, list):
                raise ValueError(f"{value} are several labels, where one is expected")
            return self._number(value)
        if self.form == "vector":
            if not isinstance(value, list) or len(value) != len(self.names) or not set(value) <= {0, 1}:
                raise ValueError(f"{str(value)[:60]} is no list of {len(self.names)} zeros and ones")
            return list(value)
        row = [0] * len(self.names)
        for one in value if isinstance(value, list) else [value]:
            row[self._number(one)] = 1
        return row

    def _number(self, value: int | str) -> int:
        if self.form == "index":
            if isinstance(value, int) and 0 <= value < len(self.names):
                return value
        elif (number := self._numbers.get(str(value))) is not None:
            return number
        raise UnknownLabelError(str(value))

    def to_json(self) -> dict[str, Any]:
        """All but the names, which a schema has."""
        return {"form": self.form, "several": self.several}


def parse(value: object) -> int | str | list[Any] | None:
    """One label as it is meant: None for nothing, blank and NaN, a list for `red|striped` and for lists in text.

    Raises:
        ValueError: fractions, objects, and lists of anything but words and whole numbers.
    """
    if isinstance(value, str):
        value = whole_characters(value.strip())
        if value[:1] == "[" and value[-1:] == "]":
            value = _listed(value)
        elif "|" in value:
            value = [part.strip() for part in value.split("|") if part.strip()]
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, int)):
        return int(value)
    if isinstance(value, float):
        if not value.is_integer():
            raise ValueError(f"{value:g} is a fraction; classes are words or whole numbers")
        return int(value)
    if isinstance(value, (list, tuple)) and not any(isinstance(part, (list, tuple)) for part in value):
        parts = [parse(part) for part in value]
        if not any(part is None or isinstance(part, list) for part in parts):
            return parts
    raise ValueError(f"{reprlib.repr(value)!r} is no label; labels are words, whole numbers, or lists of these")


def _listed(text: str) -> object:
    """A list in text, as JSON or as Python writes it."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return text


class Observed:
    """What a column of labels holds, gathered label by label.

    Args:
        where: what messages call the column.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.counts: Counter[int | str] = Counter()
        self.several = False
        self.lengths: set[int] = set()
        self.repeats = False
        self.faults: Counter[str] = Counter()

    def add(self, value: object) -> None:
        """Takes one label into account."""
        try:
            label = parse(value)
        except ValueError as error:
            self.faults[str(error)] += 1
            return
        if isinstance(label, list):
            self.several = True
            self.lengths.add(len(label))
            self.repeats = self.repeats or len(set(label)) < len(label)
            self.counts.update(label)
        elif label is not None:
            self.lengths.add(0)
            self.counts[label] += 1

    def coding(self, classes: Sequence[str] = (), least: int = 2) -> Coding:
        """The coding that fits; `classes` are the names, by number, where the user gave them.

        Raises:
            InputError: no labels, fewer than `least` classes, too many, or labels that cannot be classes.
        """
        if self.faults:
            told = "; ".join(f"{count} times {fault}" for fault, count in self.faults.most_common(3))
            raise InputError(f"{self.where}: {told}")
        if not self.counts:
            raise InputError(f"{self.where}: no training image has a label; classes are words or whole numbers")
        found = sorted({str(label) for label in self.counts}, key=natural)
        numbers = all(isinstance(label, int) for label in self.counts)
        if negative := [label for label in self.counts if isinstance(label, int) and label < 0]:
            raise InputError(f"{self.where}: {min(negative)} is a negative number; classes are words or numbers from 0")
        form = "index" if classes and numbers and not set(found) <= set(classes) else "name"
        if self._vectors(len(classes)):
            form, found = "vector", [str(number) for number in range(max(self.lengths))]
        names = tuple(classes) or tuple(found)
        check_count(len(names), self.where, least=1 if self.several else least)
        if form == "vector" and len(names) != max(self.lengths):
            raise InputError(f"{self.where}: vectors of {max(self.lengths)} zeros and ones, but {len(names)} classes")
        return Coding(names, form, self.several)

    def _vectors(self, classes: int) -> bool:
        """Whether all labels are vectors of 0 and 1: of one length, and no lists of the class numbers 0 and 1."""
        if not self.several or len(self.lengths) != 1 or not set(self.counts) <= {0, 1} or max(self.lengths) < 2:
            return False
        return self.repeats or classes == max(self.lengths)


def check_count(count: int, where: str, least: int = 2) -> None:
    """Raises InputError where so many classes cannot be meant."""
    if not least <= count <= MAX_CLASSES:
        found = f"{count:,} class{'es' * (count != 1)}"
        raise InputError(f"{where}: {found}; allowed: {least} to {MAX_CLASSES:,}")


def shown(names: Iterable[str], most: int = 10) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


def told_unknown(where: str, unknown: Mapping[str, int], lacking: str, *, added: bool = False) -> str:
    """The sentence that refuses labels which are not among the classes; a split that is added can skip none."""
    count = sum(unknown.values())
    some = shown(f"{label!r} ({count})" for label, count in sorted(unknown.items()))
    skip = "" if added else "; --unknown skip leaves them out"
    return f"{where}: {count:,} image{'s' * (count > 1)} of classes that {lacking}: {some}{skip}"


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names by number: one a line, a JSON list, or a JSON object of number -> name (or -> [id, name]).

    Raises:
        InputError: no such file, or not one of these, or a name is doubled.
    """
    try:
        text = read_source(path, "MANIFEST_BYTES").decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    names: list[Any] = [line.strip() for line in text.splitlines() if line.strip()]
    if text.lstrip()[:1] in ("[", "{"):
        try:
            value = json.loads(text)
            names = [value[str(number)] for number in range(len(value))] if isinstance(value, dict) else value
            names = [name[-1] if isinstance(name, list) else name for name in names]
        except (ValueError, KeyError, IndexError, RecursionError):
            names = [None]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise InputError(f"{path}: expected one class name a line, a JSON list, or a JSON object of number: name")
    doubled = [name for name, count in Counter(map(whole_characters, names)).items() if count > 1]
    if doubled:
        raise InputError(f"{path}: the class {doubled[0]!r} stands twice")
    return tuple(map(whole_characters, names))
