"""Near-duplicate images across splits, by perceptual hash: what would flatter a test score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

HASH_PX, LOOK_PX = 32, 16
MAX_BITS = 6
"""Hashes that differ in at most so many of 64 bits are looked at more closely."""
MAX_DIFFERENCE = 5.0
"""Mean difference of two 16-pixel gray pictures, of 255, up to which they count as the same photo."""
MAX_IMAGES = 300_000
"""Above this only images with the same bytes are found; comparing hashes of all pairs would take minutes."""
_BLOCK = 4096


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


def find(hashes: np.ndarray, looks: np.ndarray, splits: np.ndarray) -> list[Pair]:
    """All near-duplicate pairs across splits, the most alike first.

    Args:
        hashes: uint64 [N], perceptual hashes.
        looks: uint8 [N, 256], 16-pixel gray pictures.
        splits: int [N], the split each row is in; rows of a split stand together.
    """
    pairs: list[Pair] = []
    boundaries = np.flatnonzero(np.diff(splits)) + 1
    groups = np.split(np.arange(len(hashes)), boundaries)
    for number, group in enumerate(groups):
        for other in groups[number + 1 :]:
            pairs += _between(hashes, looks, group, other)
    return sorted(pairs, key=lambda pair: (pair.bits, pair.first, pair.second))


def _between(hashes: np.ndarray, looks: np.ndarray, group: np.ndarray, other: np.ndarray) -> list[Pair]:
    found: list[Pair] = []
    for start in range(0, len(group), _BLOCK):
        rows = group[start : start + _BLOCK]
        for begin in range(0, len(other), _BLOCK):
            columns = other[begin : begin + _BLOCK]
            bits = np.bitwise_count(hashes[rows][:, None] ^ hashes[columns][None, :])
            for i, j in zip(*np.nonzero(bits <= MAX_BITS), strict=True):
                a, b = int(rows[i]), int(columns[j])
                difference = np.abs(looks[a].astype(np.int16) - looks[b]).mean()
                if difference <= MAX_DIFFERENCE:
                    found.append(Pair(a, b, int(bits[i, j])))
    return found


def same_bytes(sizes: np.ndarray, crcs: np.ndarray, splits: np.ndarray) -> list[Pair]:
    """Pairs across splits whose encoded bytes have one size and CRC; arrays [N]."""
    order = np.lexsort((splits, crcs, sizes))
    same = (sizes[order][1:] == sizes[order][:-1]) & (crcs[order][1:] == crcs[order][:-1])
    same &= splits[order][1:] != splits[order][:-1]
    return [Pair(int(order[i]), int(order[i + 1]), 0) for i in np.flatnonzero(same)]
