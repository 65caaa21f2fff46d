"""Decoding and rendering on the CPU: DALI decodes the next batch while the one before is resized."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fashion_dist.config import DataConfig
from fashion_dist.data.batch import Buffers
from fashion_dist.data.cache import Cache, bounded_sizes
from fashion_dist.data.fetch import Encoded
from fashion_dist.data.pipeline import Decoder, Pixels
from fashion_dist.data.render import Rendered, Renderer
from fashion_dist.data.work import Work


class CpuEngine:
    """From encoded bytes to a normalised batch; one batch at a time is between `begin` and `render`.

    Args:
        data: the configuration.
        max_images: largest number of images in a batch.
        threads: of DALI and of the renderer, each; they take turns on the same cores.
        dtype: of the batch.
        sizes: int32 [N, 2], width and height of the images of the split as they are stored.
        cache: where decoded images are kept, or None.
    """

    def __init__(
        self,
        data: DataConfig,
        max_images: int,
        threads: int,
        dtype: torch.dtype,
        sizes: np.ndarray,
        cache: Cache | None,
    ) -> None:
        self._side = data.image_px
        self._dtype = dtype
        self._sizes = sizes
        self._bounded = bounded_sizes(sizes, data.cache_px)
        self._cache = cache
        self._decoder = Decoder(max_images, threads)
        self._renderer = Renderer(data.image_px, threads)
        self._buffers = Buffers()
        self._work: Work | None = None
        self._decoded: list[Pixels | None] = []

    def missing(self, rows: np.ndarray) -> np.ndarray:
        """Bool [n], which of the images (rows of the split) must be fetched and decoded."""
        return self._cache.missing(rows) if self._cache else np.ones(len(rows), bool)

    def begin(self, work: Work, encoded: Sequence[Encoded | None]) -> None:
        """Begin to decode the batch; `encoded` is None where the cache has the image."""
        self._work = work
        self._wanted = np.array([i for i, image in enumerate(encoded) if image is not None], np.int64)
        boxes = np.where(self._whole(work.rows)[:, None], whole_boxes(self._sizes[work.rows]), work.draws.boxes)
        self._decoder.start([image for image in encoded if image is not None], boxes[self._wanted])

    def finish(self) -> dict[int, str]:
        """Wait for the decoder: what is wrong with the images at these positions; nothing, as a rule."""
        assert self._work is not None, "no batch was begun"
        decoded = self._decoder.finish()
        self._decoded = [None] * len(self._work.rows)
        wrong: dict[int, str] = {}
        for position, pixels in zip(self._wanted.tolist(), decoded, strict=True):
            if isinstance(pixels, str):
                wrong[position] = pixels
            else:
                self._decoded[position] = pixels
        return wrong

    def render(self) -> Rendered:
        """Begin to render the batch that `finish` had nothing to say about."""
        work, decoded, cache = self._work, self._decoded, self._cache
        assert work is not None, "no batch was begun"
        self._work, self._decoded = None, []
        out = self._buffers.take((len(work.rows), self._side, self._side, 3), self._dtype)
        if cache is not None and len(self._wanted) == 0:
            block = cache.block(work.rows, self._side)
            if block is not None and work.draws.diagonal:
                return self._renderer.start_block(block, work.rows, work.draws, out)
        whole = self._whole(work.rows)

        def pixels_of(position: int) -> Pixels:
            row, pixels = int(work.rows[position]), decoded[position]
            if pixels is None:
                assert cache is not None, "only a cache leaves images undecoded"
                pixels = cache.get(row)
            elif whole[position]:
                pixels = self._renderer.reduce(pixels, self._bounded[row])
                if cache is not None:
                    cache.put(row, pixels)
            else:
                return pixels
            left, top, width, height = work.draws.boxes[position]
            return pixels[top : top + height, left : left + width]

        return self._renderer.start(pixels_of, work.draws, out)

    def probe(self, image: Encoded, row: int) -> str | None:
        """What is wrong with one image, or None; only between batches."""
        return self._decoder.probe(image, whole_boxes(self._sizes[row][None])[0])

    def close(self) -> None:
        """Stop the threads and drop the cache."""
        self._renderer.close()
        if self._cache is not None:
            self._cache.close()

    def drop(self) -> None:
        """Forget a batch that was begun and not finished."""
        if self._work is not None and self._decoder.busy:
            self._decoder.finish()
        self._work = None

    def _whole(self, rows: np.ndarray) -> np.ndarray:
        """Bool [n], of which images all is decoded: those that the cache will keep, and those to be reduced."""
        reduced: np.ndarray = (self._bounded[rows] != self._sizes[rows]).any(axis=1)
        return reduced | self._cache.keeps(rows) if self._cache else reduced


def whole_boxes(sizes: np.ndarray) -> np.ndarray:
    """int32 [n, 4], the boxes (left, top, width, height) that are all of the images of `sizes` [n, 2]."""
    return np.column_stack([np.zeros_like(sizes), sizes]).astype(np.int32)
