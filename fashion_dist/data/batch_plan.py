"""One micro-batch on its way through fetching, decoding and rendering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fashion_dist.config import DataConfig
from fashion_dist.data.augment import AugmentParams, center_crop_params, image_ids, sample_augmentation
from fashion_dist.data.cache import bounded_sizes
from fashion_dist.data.shard_reader import Encoded, Fetched
from shards import Split


@dataclass
class Work:
    """What one micro-batch is made of: n examples of k images each, image by image.

    Args:
        index: int64 [n], the examples.
        rows: int64 [n * k], their images as rows of the split.
        draws: the treatment of the n * k images.
        epoch: that it belongs to.
        fetched: the encoded images on their way.
        encoded: the encoded images, None where one is cached.
    """

    index: np.ndarray
    rows: np.ndarray
    draws: AugmentParams
    epoch: int = 0
    fetched: Fetched | None = None
    encoded: Sequence[Encoded | None] = ()

    def part(self, examples: slice) -> Work:
        """The same for some neighbouring examples, which have not been fetched yet."""
        k = len(self.rows) // len(self.index)
        images = slice(examples.start * k, examples.stop * k)
        return Work(self.index[examples], self.rows[images], self.draws.where(images), self.epoch)

    def without(self, examples: np.ndarray) -> Work:
        """The same without the examples at the positions where `examples` (bool [n]) is true."""
        images = np.repeat(~examples, len(self.rows) // len(self.index))
        return replace(self, index=self.index[~examples], rows=self.rows[images], draws=self.draws.where(images))

    def with_example(self, position: int, other: Work) -> Work:
        """The same with the only example of `other` at `position`."""
        k = len(other.rows)
        index, rows = self.index.copy(), self.rows.copy()
        index[position] = other.index[0]
        rows[position * k : (position + 1) * k] = other.rows
        return replace(self, index=index, rows=rows, draws=self.draws.with_rows(position * k, other.draws))


class BatchPlanner:
    """The examples of one split and what is done to them: makes `Work` of examples.

    Args:
        split: of k images an example.
        images: int64 [N, k], rows of the split.
        data: the configuration.
        training: augmented, or as evaluation sees them.
        seed: of the run.
    """

    def __init__(self, split: Split, images: np.ndarray, data: DataConfig, training: bool, seed: int) -> None:
        self._row0 = split.row0
        self.images = images
        self.stored_sizes = np.column_stack([split.width, split.height])
        """int32 [images of the split, 2], width and height."""
        self.sizes = bounded_sizes(self.stored_sizes, data.cache_px)
        """int32 [images of the split, 2], width and height of what crops are taken from."""
        self.data = data
        self._training = training
        self._seed = seed

    def work(self, index: np.ndarray, epoch: int, repeats: np.ndarray) -> Work:
        """The images of the examples `index` (int64 [n]), the `repeats`-th time (int64 [n]) in this epoch."""
        images = self.images[index]
        k = images.shape[1]
        rows = images.ravel()
        sizes = self.sizes[rows]
        if not self._training:
            return Work(index, rows, center_crop_params(self.data, sizes), epoch)
        occasions = repeats
        if k > 1:
            # The same image in two examples, or twice in one, is treated anew each time.
            occasions = (1 + index[:, None] * k + np.arange(k) + (repeats[:, None] << 44)).ravel()
        ids = image_ids(self._row0 + rows, occasions)
        return Work(index, rows, sample_augmentation(self.data, sizes, ids, self._seed, epoch), epoch)
