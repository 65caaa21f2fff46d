"""Decoded images in memory, kept over the epochs and shared by the ranks of a node.

An image is kept with the pixels that crops are taken from, so that a crop is the same whether its image was decoded
just now or kept. What does not fit is decoded every time: a small cache costs time, never another result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch

from fashion_dist.data.dali import Pixels
from fashion_dist.data.memory import Block, free_bytes
from fashion_dist.data.options import LoaderOptions
from fashion_dist.errors import ConfigError

_OF_GPU = 4
"""The share of a GPU's free memory that a cache takes unasked: training's and validation's are made before optimizer
and activations have their place."""
_WORTH = 0.5
"""`auto` keeps part of a split if at least that share of its images fits."""


def bounded_sizes(sizes: np.ndarray, cache_px: int) -> np.ndarray:
    """Width and height of what crops are taken from: the shorter side is at most `cache_px` (0: as stored).

    Takes and gives int32 [n, 2].
    """
    shorter = sizes.min(axis=1, initial=2**30)
    if cache_px == 0 or not (shorter > cache_px).any():
        return sizes
    factor = np.minimum(cache_px / np.maximum(shorter, 1), 1.0)
    return np.asarray(np.maximum(np.rint(sizes * factor[:, None]), 1), np.int32)


def areas(sizes: np.ndarray) -> np.ndarray:
    """int64 [n], bytes of the decoded images of `sizes` (int32 [n, 2])."""
    return np.asarray(sizes[:, 0].astype(np.int64) * sizes[:, 1] * 3)


@dataclass(frozen=True)
class Choice:
    """Where decoded images are kept, in how many bytes, and a sentence that says so."""

    place: Literal["none", "ram", "gpu"]
    capacity: int
    told: str


def choose(options: LoaderOptions, sizes: np.ndarray, gpu_free: int | None) -> Choice:
    """What becomes of `options.cache` for images of `sizes` (int32 [N, 2]).

    `gpu_free` is the free memory of this rank's GPU, None without one.

    Raises:
        ConfigError: the GPU's memory is asked for where there is no GPU, or more memory than there is.
    """
    if options.cache == "none" or not len(sizes):
        return Choice("none", 0, "cache: none")
    if options.cache == "gpu" and gpu_free is None:
        raise ConfigError("--cache gpu needs a CUDA GPU, and this rank has none; allowed: none, ram, auto")
    sums = np.cumsum(areas(sizes))
    asked, free = int(options.cache_gb * 1e9), free_bytes()
    on_gpu = gpu_free is not None and (
        options.cache == "gpu" or (options.cache == "auto" and sums[-1] <= (asked or gpu_free // _OF_GPU))
    )
    limit = gpu_free if on_gpu and gpu_free is not None else free
    place: Literal["ram", "gpu"] = "gpu" if on_gpu else "ram"
    if asked > limit:
        raise ConfigError(
            f"--cache-gb {options.cache_gb:g} is more than the {limit / 1e9:.1f} GB free for --cache {place}"
        )
    kept = int(np.searchsorted(sums, asked or limit // (_OF_GPU if on_gpu else 2), side="right"))
    if options.cache == "auto" and kept < _WORTH * len(sizes):
        return Choice("none", 0, f"cache: none; only {kept} of {len(sizes)} decoded images would fit in {place}")
    capacity = int(sums[kept - 1]) if kept else 0
    return Choice(place, capacity, f"cache: {place}, {kept} of {len(sizes)} decoded images, {capacity / 1e9:.2f} GB")


class PixelCache(Protocol):
    """What keeps decoded images."""

    def keeps(self, rows: np.ndarray) -> np.ndarray:
        """Bool [n], which of the images have a place."""

    def missing(self, rows: np.ndarray) -> np.ndarray:
        """Bool [n], which of the images are not there (yet)."""

    def get(self, row: int) -> Any:
        """The image in `row`: uint8 [height, width, 3], an array or a tensor that must not be written."""

    def put(self, row: int, pixels: Any) -> None:
        """Keep the image in `row`, an array or a tensor as `get` gives it, if it has a place."""

    def block(self, side: int) -> np.ndarray | torch.Tensor | None:
        """All places as uint8 [places, side, side, 3], where all images are squares of that side."""

    def close(self) -> None:
        """Give the memory back."""


class Places:
    """Where each image lies in one long array of pixels, as far as it reaches.

    Args:
        sizes: int32 [N, 2], width and height of the images as they are kept.
        capacity: bytes of the array.
        ready: uint8 [N], 1 where the image is there.
    """

    def __init__(self, sizes: np.ndarray, capacity: int, ready: np.ndarray) -> None:
        self.sizes = sizes
        self.ready = ready
        self._areas = areas(sizes)
        self._ends = np.cumsum(self._areas)
        self.fits = int(np.searchsorted(self._ends, capacity, side="right"))

    def are_squares(self) -> bool:
        """Whether all images are squares of one side."""
        return len(self.sizes) > 0 and bool((self.sizes == self.sizes[0, 0]).all())

    def keeps(self, rows: np.ndarray) -> np.ndarray:
        """Bool [n], which of the images have a place."""
        return np.asarray(rows < self.fits)

    def missing(self, rows: np.ndarray) -> np.ndarray:
        """Bool [n], which of the images are not there (yet)."""
        missing = np.ones(len(rows), bool)
        placed = rows < self.fits
        missing[placed] = self.ready[rows[placed]] == 0
        return missing

    def span(self, row: int) -> slice:
        """The bytes of the image in `row`."""
        return slice(int(self._ends[row] - self._areas[row]), int(self._ends[row]))


class Cache:
    """A place in memory for each image, as far as it reaches.

    Args:
        sizes: int32 [N, 2], width and height of the images as they are kept.
        capacity: bytes for pixels.
        ranks: processes of this node that share it.
        name: of what is kept, the same for all of them.
    """

    def __init__(self, sizes: np.ndarray, capacity: int, ranks: int = 1, name: str = "") -> None:
        count = len(sizes)
        self._block = Block(count + capacity, ranks, name)
        start = self._block.start
        ready = np.frombuffer(self._block.map, np.uint8, count, offset=start)
        self._pixels = np.frombuffer(self._block.map, np.uint8, self._block.size - count, offset=start + count)
        self._places = Places(sizes, len(self._pixels), ready)
        self._squares = self._places.are_squares()
        self.keeps, self.missing = self._places.keeps, self._places.missing

    def get(self, row: int) -> Pixels:
        """The image in `row`: uint8 [height, width, 3], a view that must not be written."""
        width, height = self._places.sizes[row].tolist()
        return self._pixels[self._places.span(row)].reshape(height, width, 3)

    def put(self, row: int, pixels: Pixels) -> None:
        """Keep the image in `row`, if it has a place; another rank may do the same with the same pixels."""
        if row < self._places.fits and not self._places.ready[row]:
            self.get(row)[...] = pixels
            self._places.ready[row] = 1

    def block(self, side: int) -> np.ndarray | None:
        """All places as uint8 [places, side, side, 3], where all images are squares of that side."""
        if not self._squares or self._places.sizes[0, 0] != side:
            return None
        fits = self._places.fits
        return self._pixels[: fits * side * side * 3].reshape(fits, side, side, 3)

    def close(self) -> None:
        """Give the memory back once no view of it is left."""
        self._places.ready = self._pixels = np.empty(0, np.uint8)
        self._block.close()


class GpuCache:
    """The same in the memory of this rank's GPU.

    Args:
        sizes: int32 [N, 2], width and height of the images as they are kept.
        capacity: bytes for pixels.
        device: the GPU.
    """

    def __init__(self, sizes: np.ndarray, capacity: int, device: torch.device) -> None:
        self._pixels = torch.empty(capacity, dtype=torch.uint8, device=device)
        self._places = Places(sizes, capacity, np.zeros(len(sizes), np.uint8))
        self._squares = self._places.are_squares()
        self.keeps, self.missing = self._places.keeps, self._places.missing

    def get(self, row: int) -> torch.Tensor:
        """The image in `row`: uint8 [height, width, 3] on the GPU."""
        width, height = self._places.sizes[row].tolist()
        return self._pixels[self._places.span(row)].view(height, width, 3)

    def put(self, row: int, pixels: torch.Tensor) -> None:
        """Keep the image in `row`, on the GPU already, if it has a place."""
        self.put_all([row], [pixels])

    def put_all(self, rows: Sequence[int], images: Sequence[torch.Tensor]) -> None:
        """Keep images, by a few kernels for all of them."""
        new = [i for i, row in enumerate(rows) if row < self._places.fits and not self._places.ready[row]]
        if new:
            torch._foreach_copy_([self.get(rows[i]) for i in new], [images[i] for i in new])
        self._places.ready[[rows[i] for i in new]] = 1

    def block(self, side: int) -> torch.Tensor | None:
        """All places as uint8 [places, side, side, 3] on the GPU, where all images are squares of that side."""
        if not self._squares or self._places.sizes[0, 0] != side:
            return None
        fits = self._places.fits
        return self._pixels[: fits * side * side * 3].view(fits, side, side, 3)

    def close(self) -> None:
        """Give the memory back."""
        self._pixels = self._pixels.new_empty(0)
