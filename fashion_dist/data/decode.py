"""Decoding on the CPU, with a cache in front of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from fashion_dist.data.batch_plan import Work
from fashion_dist.data.cache import GpuCache, PixelCache, bounded_sizes
from fashion_dist.data.cpu_transforms import reduce
from fashion_dist.data.dali import Decoder, Pixels
from fashion_dist.data.shard_reader import Encoded


class CachedDecoder:
    """The pixels of crop boxes, out of the cache or decoded; one batch at a time is between `begin` and `finish`.

    Args:
        max_images: largest number of images in a batch.
        threads: DALI's.
        sizes: int32 [N, 2], width and height of the images of the split as they are stored.
        cache_px: images are reduced to this shorter side first; 0 is as they are.
        cache: where decoded images are kept, or None.
    """

    def __init__(
        self, max_images: int, threads: int, sizes: np.ndarray, cache_px: int, cache: PixelCache | None
    ) -> None:
        self._sizes = sizes
        self._bounded = bounded_sizes(sizes, cache_px)
        self._reduced: np.ndarray = (self._bounded != sizes).any(axis=1)
        self._cache = cache
        self._decoder = Decoder(max_images, threads)
        self._wanted = np.zeros(0, np.int64)
        self._is_whole = np.zeros(0, bool)

    def missing(self, rows: np.ndarray) -> np.ndarray:
        """Bool [n], which of the images (rows of the split) must be fetched and decoded."""
        return self._cache.missing(rows) if self._cache else np.ones(len(rows), bool)

    def begin(self, work: Work, encoded: Sequence[Encoded | None]) -> None:
        """Begin to decode the batch; `encoded` is None where the cache has the image."""
        images = [image for image in encoded if image is not None]
        if not images:
            self._wanted = np.zeros(0, np.int64)
            return
        rows, boxes = work.rows, work.draws.boxes
        if len(images) == len(encoded):
            self._wanted = np.arange(len(images))
        else:
            self._wanted = np.array([i for i, image in enumerate(encoded) if image is not None], np.int64)
            rows, boxes = rows[self._wanted], boxes[self._wanted]
        self._is_whole = self._whole(rows)
        if self._is_whole.any():
            boxes = np.where(self._is_whole[:, None], whole_boxes(self._sizes[rows]), boxes)
        self._decoder.start(images, boxes)

    def finish(self, work: Work) -> Decoded:
        """Wait for the batch begun last."""
        decoded = Decoded(work, self._cache)
        if self._decoder.busy:
            decoded.decoded, wrong = self._decoder.finish()
            places = self._wanted.tolist()
            decoded.numbers = dict(zip(places, range(len(places)), strict=True))
            decoded.is_whole, decoded.sizes = self._is_whole, self._bounded
            decoded.wrong = {places[i]: reason for i, reason in wrong.items()}
        return decoded

    def block(self, work: Work, decoded: Decoded, side: int) -> np.ndarray | Tensor | None:
        """All of the cache as uint8 [places, side, side, 3], if it has the whole batch and no crop needs resizing."""
        if self._cache is None or decoded.numbers or (block := self._cache.block(side)) is None:
            return None
        return block if (work.draws.boxes == whole_boxes(self._bounded[work.rows])).all() else None

    def probe(self, image: Encoded, row: int) -> str | None:
        """What is wrong with one image, or None; only between batches."""
        return self._decoder.probe(image, whole_boxes(self._sizes[row][None])[0])

    def close(self) -> None:
        """Forget a batch that was begun, and the cache."""
        self.drop()
        if self._cache is not None:
            self._cache.close()

    def drop(self) -> None:
        """Forget a batch that was begun and not finished."""
        if self._decoder.busy:
            self._decoder.finish()

    def _whole(self, rows: np.ndarray) -> np.ndarray:
        """Bool [n], of which images all is decoded: those that the cache will keep, and those to be reduced."""
        reduced: np.ndarray = self._reduced[rows]
        return reduced | self._cache.keeps(rows) if self._cache else reduced


class Decoded:
    """A decoded batch: `pixels` gives the crops, from any thread, and fills the cache on the way."""

    def __init__(self, work: Work, cache: PixelCache | None) -> None:
        self._work = work
        self._cache = cache
        self.decoded: Callable[[int], Pixels] = _nothing
        self.numbers: dict[int, int] = {}
        """The number in `decoded` for each position that was decoded."""
        self.is_whole = np.zeros(0, bool)
        """Of which of those there is all of the image, not the crop box alone."""
        self.sizes = np.zeros((0, 2), np.int32)
        """What whole images are reduced to, by row of the split."""
        self.wrong: dict[int, str] = {}
        """What is wrong with the images at these positions; empty, as a rule."""

    def fill(self, move: Callable[[Sequence[Pixels]], Sequence[Tensor]]) -> None:
        """Give a cache on the GPU what it keeps of the batch, all at once and as `move` brings it there.

        Image by image from pageable memory, each would wait for the step that the GPU has queued.
        """
        if not isinstance(self._cache, GpuCache) or not self.numbers:
            return
        positions = np.array(list(self.numbers))
        kept = positions[self._cache.keeps(self._work.rows[positions])].tolist()
        rows = self._work.rows[kept].tolist()
        whole = [reduce(self.decoded(self.numbers[i]), self.sizes[row]) for i, row in zip(kept, rows, strict=True)]
        self._cache.put_all(rows, move(whole))
        for position in kept:
            del self.numbers[position]

    def pixels(self, position: int) -> Any:
        """uint8 [height, width, 3], the crop box of the image at `position`; a tensor where the GPU keeps it."""
        row = int(self._work.rows[position])
        if position in self.numbers:
            number = self.numbers[position]
            pixels = self.decoded(number)
            if not self.is_whole[number]:
                return pixels
            pixels = reduce(pixels, self.sizes[row])
            if self._cache is not None:
                self._cache.put(row, pixels)
        else:
            assert self._cache is not None, "only a cache leaves images undecoded"
            pixels = self._cache.get(row)
        left, top, width, height = self._work.draws.boxes[position].tolist()
        return pixels[top : top + height, left : left + width]


def _nothing(number: int) -> Pixels:
    raise AssertionError(f"no image {number} was decoded")


def whole_boxes(sizes: np.ndarray) -> np.ndarray:
    """int32 [n, 4], the boxes (left, top, width, height) that are all of the images of `sizes` [n, 2]."""
    return np.column_stack([np.zeros_like(sizes), sizes]).astype(np.int32)
