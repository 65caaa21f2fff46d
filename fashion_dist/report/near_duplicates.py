"""Near-duplicate images across splits, by perceptual hash: what would flatter a test score."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

HASH_PX, LOOK_PX = 32, 16
MAX_BITS = 6
"""Hashes that differ in at most so many of 64 bits are looked at more closely."""
MAX_DIFFERENCE = 5.0
"""Mean difference of two 16-pixel gray pictures, of 255, up to which they count as the same photo."""
MAX_IMAGES = 300_000
"""Above this only images with the same bytes are found; comparing hashes of all pairs would take minutes."""
_BLOCK = 2048
_AT_ONCE = 1 << 16
"""Pairs whose pictures are compared together: 50 MB."""


@dataclass(frozen=True)
class Pair:
    """Two rows of the index, of different splits, that show about the same."""

    first: int
    second: int
    bits: int


def _cosines() -> np.ndarray:
    """float64 [8, 32], the lowest rows of a discrete cosine transform."""
    frequency, place = np.mgrid[:8, :HASH_PX]
    return np.asarray(np.cos(np.pi * frequency * (2 * place + 1) / (2 * HASH_PX)))


_COSINES = _cosines()


def perceptual_hash(gray: np.ndarray) -> int:
    """64 bits of a uint8 [32, 32] picture: which low frequencies are above their median (Zauner 2010)."""
    low = (_COSINES @ gray.astype(np.float64) @ _COSINES.T).ravel()
    bits = low > np.median(low[1:])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def find(hashes: np.ndarray, looks: np.ndarray, splits: np.ndarray, most: int) -> tuple[int, list[Pair]]:
    """How many near-duplicate pairs there are across splits, and `most` of them, the most alike first.

    Pictures that a split has several times are compared once, and the first stands for them in the list: there may be
    more pairs than memory.

    Args:
        hashes: uint64 [N], perceptual hashes.
        looks: uint8 [N, 256], 16-pixel gray pictures.
        splits: int [N], the split each row is in; rows of a split stand together.
        most: pairs to list.
    """
    total, best = 0, np.empty((0, 3), np.int64)
    boundaries = np.flatnonzero(np.diff(splits)) + 1
    groups = [_distinct(hashes, looks, rows) for rows in np.split(np.arange(len(hashes)), boundaries)]
    for (rows, times), (columns, others) in itertools.combinations(groups, 2):
        for place, other, bits in _alike(hashes, looks, rows, columns):
            total += int(times[place] @ others[other])
            best = np.concatenate([best, np.stack([bits, rows[place], columns[other]], axis=1)])
            best = best[np.lexsort(best.T[::-1])[:most]]
    return total, [Pair(first, second, bits) for bits, first, second in best.tolist()]


def _distinct(hashes: np.ndarray, looks: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first of `rows` of each picture, in order, and how many it stands for."""
    told = np.concatenate([hashes[rows, None].view(np.uint8), looks[rows]], axis=1)
    _, first, times = np.unique(told.view(f"S{told.shape[1]}").ravel(), return_index=True, return_counts=True)
    order = np.argsort(first)
    return rows[first[order]], times[order]


def _alike(
    hashes: np.ndarray, looks: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Places in `rows` and in `columns` of pictures that are about the same, and the bits that differ, int64 [n]."""
    for start, begin in itertools.product(range(0, len(rows), _BLOCK), range(0, len(columns), _BLOCK)):
        some, others = rows[start : start + _BLOCK], columns[begin : begin + _BLOCK]
        bits = np.bitwise_count(hashes[some][:, None] ^ hashes[others][None, :])
        near = np.flatnonzero(bits <= MAX_BITS)
        for at in range(0, len(near), _AT_ONCE):
            i, j = np.divmod(near[at : at + _AT_ONCE], len(others))
            difference = np.abs(looks[some[i]].astype(np.int16) - looks[others[j]]).mean(axis=1)
            same = difference <= MAX_DIFFERENCE
            i, j = i[same], j[same]
            yield start + i, begin + j, bits[i, j].astype(np.int64)


def same_bytes(sizes: np.ndarray, crcs: np.ndarray, splits: np.ndarray, most: int) -> tuple[int, list[Pair]]:
    """As `find`, of pairs whose encoded bytes have one size and CRC; arrays [N]. Of equal rows two neighbours count."""
    order = np.lexsort((splits, crcs, sizes))
    same = (sizes[order][1:] == sizes[order][:-1]) & (crcs[order][1:] == crcs[order][:-1])
    same &= splits[order][1:] != splits[order][:-1]
    places = np.flatnonzero(same)
    return len(places), [Pair(int(order[i]), int(order[i + 1]), 0) for i in places[:most]]
