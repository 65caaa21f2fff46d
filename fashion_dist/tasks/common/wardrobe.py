"""What a split of Polyvore says of its items: outfits, the lines of the compatibility file, questions.

Legend: I items of a split, as rows of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fashion_dist.errors import ConfigError
from fashion_dist.tasks.common.mates import Mates, distinct, pairs_of
from shards import ShardSet, Split

if TYPE_CHECKING:
    import pyarrow as pa


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

    def _table(self, name: str) -> pa.Table:
        import pyarrow.compute as pc

        table = self._set.table(name)
        return table.filter(pc.equal(table["split"], self.split.name))

    def _rows(self, table: pa.Table, column: str, what: str, named: str) -> list[np.ndarray]:
        """int64 [n] rows of the items that each row of a table lists; messages call it `what` and its cell `named`."""
        import pyarrow.compute as pc

        ends = np.cumsum(pc.list_value_length(table[column]).to_numpy())
        items = pc.list_flatten(table[column])
        rows = pc.index_in(items, value_set=self.split.keys.to_arrow()).fill_null(-1).to_numpy().astype(np.int64)
        if (rows < 0).any():
            place = int(np.argmax(rows < 0))
            told = f"{what} {table[named][int(np.searchsorted(ends, place, side='right'))]}"
            raise ConfigError(
                f"{self.split.path}: {told} names item {items[place]}, which is not in split {self.split.name!r}; "
                f"`pack --replace` stores items that splits share in each of them"
            )
        return np.split(rows, ends)[:-1]

    @cached_property
    def outfits(self) -> list[np.ndarray]:
        """int64 [n] rows of each outfit."""
        return self._rows(self._table("outfits"), "items", "outfit", "set_id")

    @cached_property
    def _compatibility(self) -> pa.Table:
        return self._table("compatibility")

    @cached_property
    def lines(self) -> list[np.ndarray]:
        """int64 [n] rows of each line of the compatibility file."""
        return self._rows(self._compatibility, "items", "compatibility line", "line")

    @property
    def labels(self) -> np.ndarray:
        """int64 [N], 1 for each line that makes an outfit, else 0."""
        return np.asarray(self._compatibility["label"].to_numpy(), np.int64)

    @property
    def references(self) -> list[list[str]]:
        """How the file names the items of each line."""
        return list(self._compatibility["references"].to_pylist())

    @cached_property
    def questions(self) -> list[Question]:
        """The fill-in-the-blank file."""
        table = self._table("questions")
        items, answers = (self._rows(table, name, "question", "row") for name in ("items", "answers"))
        references = map(tuple, table["answer_references"].to_pylist())
        return list(map(Question, items, answers, references, table["correct"].to_pylist()))

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
        apart = np.sort(pairs_of([self.lines[place] for place in np.flatnonzero(self.labels == 0)]), axis=1)
        items = max(1, len(self.split))
        pairs = np.stack(np.divmod(distinct(apart @ [items, 1]), items), axis=1)
        return np.asarray(pairs[~self.mates.are_related(pairs[:, 0], pairs[:, 1])])


def wardrobe_of(split: Split) -> Wardrobe:
    """The wardrobe of a split, read once a process."""
    key = (split.path, split.name)
    if key not in _READ:
        _READ[key] = Wardrobe(split)
    return _READ[key]


_READ: dict[tuple[Path, str], Wardrobe] = {}
