"""What a split of Polyvore says of its items: outfits, the lines of the compatibility file, questions.

Legend: I items of a split, as rows of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fashion_dist.errors import ConfigError
from fashion_dist.tasks.common.mates import Mates, pairs_of
from shards import ShardSet, Split


@dataclass(frozen=True)
class Line:
    """A line of a compatibility file: items as rows, how the file names them, and whether they make an outfit."""

    items: np.ndarray
    references: tuple[str, ...]
    label: int


@dataclass(frozen=True)
class Question:
    """A fill-in-the-blank question: the outfit's other items and the answers on offer, as rows."""

    items: np.ndarray
    answers: np.ndarray
    references: tuple[str, ...]
    correct: int


class Wardrobe:
    """The outfits, compatibility lines and questions of one split.

    Raises:
        ConfigError: one of them names an item whose image is in another split.
    """

    def __init__(self, split: Split) -> None:
        self.split = split
        self._set = ShardSet.open(split.path)
        self._row_of = {key: row for row, key in enumerate(split.keys)}

    def _table(self, name: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._set.table(name).to_pylist()
        return [row for row in rows if row["split"] == self.split.name]

    def _rows(self, what: str, items: Iterable[str]) -> np.ndarray:
        try:
            return np.array([self._row_of[item] for item in items], np.int64)
        except KeyError as error:
            raise ConfigError(
                f"{self.split.path}: {what} names item {error.args[0]}, which is not in split {self.split.name!r}; "
                f"`pack --replace` stores items that splits share in each of them"
            ) from None

    @cached_property
    def outfits(self) -> list[np.ndarray]:
        """int64 [n] rows of each outfit."""
        return [self._rows(f"outfit {row['set_id']}", row["items"]) for row in self._table("outfits")]

    @cached_property
    def lines(self) -> list[Line]:
        """The compatibility file."""
        return [
            Line(self._rows(f"compatibility line {row['line']}", row["items"]), tuple(row["references"]), row["label"])
            for row in self._table("compatibility")
        ]

    @cached_property
    def questions(self) -> list[Question]:
        """The fill-in-the-blank file."""
        return [
            Question(
                self._rows(f"question {row['row']}", row["items"]),
                self._rows(f"question {row['row']}", row["answers"]),
                tuple(row["answer_references"]),
                row["correct"],
            )
            for row in self._table("questions")
        ]

    @cached_property
    def mates(self) -> Mates:
        """Which items share an outfit."""
        return Mates(self.outfits, len(self.split))

    @cached_property
    def positives(self) -> np.ndarray:
        """int64 [M, 2], the pairs that share an outfit, each once, in order."""
        return self.mates.positives

    @cached_property
    def listed_negatives(self) -> np.ndarray:
        """int64 [L, 2], pairs in lines that make no outfit, of items that share none; each once, in order."""
        pairs = np.unique(np.sort(pairs_of([line.items for line in self.lines if line.label == 0]), axis=1), axis=0)
        return np.asarray(pairs[~self.mates.are_related(pairs[:, 0], pairs[:, 1])])


def wardrobe_of(split: Split) -> Wardrobe:
    """The wardrobe of a split, read once a process."""
    key = (split.path, split.name)
    if key not in _READ:
        _READ[key] = Wardrobe(split)
    return _READ[key]


_READ: dict[tuple[Path, str], Wardrobe] = {}
