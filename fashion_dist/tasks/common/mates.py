"""Which items share an outfit, and which share a mate, in memory and time of the pairs there are and that are asked.

Legend: I items, M pairs that share an outfit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_AT_ONCE = 1 << 21
"""Mates that are looked at together: 16 MB an array."""


def pairs_of(groups: Sequence[np.ndarray]) -> np.ndarray:
    """int64 [P, 2], every two places of each group of rows, groups of one length together."""
    by_length: dict[int, list[np.ndarray]] = {}
    for group in groups:
        by_length.setdefault(len(group), []).append(group)
    found = [np.empty((0, 2), np.int64)]
    for length, alike in by_length.items():
        first, second = np.triu_indices(length, 1)
        rows = np.stack(alike)
        found.append(np.stack([rows[:, first].ravel(), rows[:, second].ravel()], axis=1))
    return np.concatenate(found)


def distinct(keys: np.ndarray) -> np.ndarray:
    """Each of these int64 [n], from 0, once and in order; NumPy's `unique` takes several times as long."""
    keys = np.sort(keys)
    return np.asarray(keys[np.diff(keys, prepend=-1) > 0])


class Mates:
    """The mates of each item: those it shares an outfit with.

    Args:
        outfits: int64 [n] rows of each outfit.
        items: I.
    """

    def __init__(self, outfits: Sequence[np.ndarray], items: int) -> None:
        pairs = pairs_of(outfits)
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        self._items = items
        self._keys = distinct(np.concatenate([pairs @ [items, 1], pairs @ [1, items]]).astype(np.int64))
        """int64 [2 M], item * I + mate, in order."""
        self._bits = max(16, (16 * len(self._keys)).bit_length())
        self._maybe = np.zeros(1 << self._bits, bool)
        """By hash, whether there may be such a key: of 16 strangers it spares 15 the search."""
        self._maybe[self._hashed(self._keys)] = True
        self._mates = self._keys % max(items, 1)
        starts = np.searchsorted(self._keys, np.arange(items + 1, dtype=np.int64) * items)
        self._first, self._count = starts[:-1], np.diff(starts)

    @property
    def positives(self) -> np.ndarray:
        """int64 [M, 2], the pairs that share an outfit, each once, in order."""
        items = self._keys // max(self._items, 1)
        once = items < self._mates
        return np.stack([items[once], self._mates[once]], axis=1)

    def are_mates(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Whether items `first` share an outfit with items `second`, both int64 [n]: bool [n]; none with itself."""
        asked = first * self._items + second
        found: np.ndarray = self._maybe[self._hashed(asked)]
        maybe = np.flatnonzero(found)
        at = np.searchsorted(self._keys, asked[maybe])
        found[maybe] = self._keys[np.minimum(at, len(self._keys) - 1)] == asked[maybe]
        return found

    def _hashed(self, keys: np.ndarray) -> np.ndarray:
        hashed: np.ndarray = (keys.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - self._bits)
        return hashed

    def are_related(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Whether two items are one, mates, or mates of a mate, and so no safe negatives of each other: bool [n].

        Of each two the mates of the one that has fewer are looked at.
        """
        fewer = self._count[first] <= self._count[second]
        one, other = np.where(fewer, first, second), np.where(fewer, second, first)
        related = (first == second) | self.are_mates(first, second)
        open_pairs = np.flatnonzero(~related)
        ends = np.cumsum(self._count[one[open_pairs]])
        start = 0
        while start < len(open_pairs):
            before = int(ends[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + _AT_ONCE, side="right")))
            chosen = open_pairs[start:stop]
            counts = self._count[one[chosen]]
            within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
            between = self._mates[np.repeat(self._first[one[chosen]], counts) + within]
            # Of one pair the keys stand side by side, so that the search stays in the cache.
            hits = self.are_mates(np.repeat(other[chosen], counts), between)
            related[chosen[np.repeat(np.arange(len(chosen)), counts)[hits]]] = True
            start = stop
        return np.asarray(related)

    def first_stranger(self, items: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """int64 [n], the first column of `candidates` [n, T] that is not related to `items` [n]; -1 where all are."""
        found, still = np.full(len(items), -1), np.arange(len(items))
        for column in range(candidates.shape[1]):
            related = self.are_related(items[still], candidates[still, column])
            found[still[~related]] = column
            still = still[related]
            if not len(still):
                break
        return found

    def draw(self, items: np.ndarray, share: np.ndarray) -> np.ndarray:
        """int64 [n], of each item [n] the mate at `share` [n], from 0 to below 1, of its mates; itself without any."""
        counts = self._count[items]
        at = self._first[items] + (share * counts).astype(np.int64)
        mates = self._mates[np.minimum(at, len(self._mates) - 1)] if len(self._mates) else items
        return np.asarray(np.where(counts > 0, mates, items))
