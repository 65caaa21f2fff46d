"""Decoded images in memory, kept over the epochs and shared by the ranks of a node.

An image is kept with the pixels that crops are taken from, so that a crop is the same whether its image was decoded
just now or kept. What does not fit is decoded every time: a small cache costs time, never another result.
"""

from __future__ import annotations

import mmap

import numpy as np

from fashion_dist.data.pipeline import Pixels


def bounded_sizes(sizes: np.ndarray, cache_px: int) -> np.ndarray:
    """Width and height of what crops are taken from: the shorter side is at most `cache_px` (0: as stored).

    Takes and gives int32 [n, 2].
    """
    shorter = sizes.min(axis=1)
    if cache_px == 0 or not (shorter > cache_px).any():
        return sizes
    factor = np.minimum(cache_px / np.maximum(shorter, 1), 1.0)
    return np.asarray(np.maximum(np.rint(sizes * factor[:, None]), 1), np.int32)


class Cache:
    """A block of memory with a place for each image.

    Args:
        sizes: int32 [N, 2], width and height of the images as they are kept.
        memory: shared or private, of at least `needed_bytes(sizes)` or what is to be used of it.
    """

    def __init__(self, sizes: np.ndarray, memory: mmap.mmap, capacity: int) -> None:
        count = len(sizes)
        self._sizes = sizes
        areas = sizes[:, 0].astype(np.int64) * sizes[:, 1] * 3
        self._ends = np.cumsum(areas)
        self._memory = memory
        self._ready = np.frombuffer(memory, np.uint8, count)
        self._pixels = np.frombuffer(memory, np.uint8, capacity, offset=count)
        self._fits = int(np.searchsorted(self._ends, capacity, side="right"))
        self._uniform = count > 0 and bool((sizes == sizes[0]).all())

    def keeps(self, rows: np.ndarray) -> np.ndarray:
        """Bool [n], which of the images have a place."""
        return np.asarray(rows < self._fits)

    def missing(self, rows: np.ndarray) -> np.ndarray:
        """Bool [n], which of the images are not there (yet)."""
        missing = np.ones(len(rows), bool)
        placed = rows < self._fits
        missing[placed] = self._ready[rows[placed]] == 0
        return missing

    def get(self, row: int) -> Pixels:
        """The image in `row`: uint8 [height, width, 3], a view that must not be written."""
        width, height = self._sizes[row]
        end = int(self._ends[row])
        return self._pixels[end - int(width) * int(height) * 3 : end].reshape(height, width, 3)

    def put(self, row: int, pixels: Pixels) -> None:
        """Keep the image in `row`, if it has a place; another rank may do the same with the same pixels."""
        if row < self._fits and not self._ready[row]:
            self.get(row)[...] = pixels
            self._ready[row] = 1

    def block(self, rows: np.ndarray, side: int) -> np.ndarray | None:
        """All kept images as uint8 [N, side, side, 3], where all are squares of that side."""
        del rows
        if not self._uniform or (self._sizes[0] != side).any():
            return None
        return self._pixels[: self._fits * side * side * 3].reshape(self._fits, side, side, 3)

    def close(self) -> None:
        """Give the memory back, when no view is left."""
        self._ready = self._pixels = np.empty(0, np.uint8)
