"""One split on its way to the model: its examples, their targets on the device, and the loader of their images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fashion_dist.config import Config
from fashion_dist.data import Batch, Loader, LoaderOptions
from fashion_dist.data.batch import on_device
from fashion_dist.errors import unknown
from fashion_dist.tasks import ExampleSet
from fashion_dist.train.distributed import ProcessGroup, World
from shards import Split


class SplitLoader:
    """The examples of one split and the loader of their images; closes with its context.

    Args:
        split: where the images are.
        examples: what is read: shuffled and augmented in training, else in order, each once.
        config: the run's configuration.
        dist: the ranks.
        training: which of the two.
        dtype: of the batches, float32 or bfloat16.
        options: how to load, without changing what.
        bad_log: file that lists skipped samples, one JSON object a line.
        epoch: that `examples` were made for.
        world: whose part to read, if not this rank's.
    """

    def __init__(
        self,
        split: Split,
        examples: ExampleSet,
        config: Config,
        dist: ProcessGroup,
        *,
        training: bool,
        dtype: torch.dtype = torch.float32,
        options: LoaderOptions | None = None,
        bad_log: Path | None = None,
        epoch: int = 0,
        world: World | None = None,
    ) -> None:
        self.split, self.training, self.epoch = split, training, epoch
        self._device = dist.device
        self._set_examples(examples)
        world, train = world or dist.world, config.train
        loaded = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
        micro_batch = train.batch_size // train.accumulate // world.world_size
        self._blank = micro_batch, examples.images.shape[1], config.data.image_px, loaded
        self.loader = Loader(
            split,
            examples.images,
            config.data,
            classes=self._drawn_by(config.data.class_balanced),
            weights=self._drawn_by(config.data.sample_weight),
            batch_size=train.batch_size if training else train.eval_batch_size,
            accumulate=train.accumulate if training else 1,
            training=training,
            rank=world.rank,
            world_size=world.world_size,
            local_world_size=world.local_world_size,
            seed=train.seed,
            device=dist.device,
            dtype=loaded,
            options=options,
            bad_log=bad_log,
        )

    @property
    def steps(self) -> int:
        """Optimizer steps an epoch; in evaluation the batches of this rank."""
        return self.loader.steps

    def set_epoch(self, epoch: int, examples: ExampleSet) -> None:
        """From the next epoch on, read `examples`: as many as before."""
        self.epoch = epoch
        self._set_examples(examples)
        self.loader.show(examples.images)

    def _set_examples(self, examples: ExampleSet) -> None:
        self.examples = examples
        self.targets = {
            name: torch.from_numpy(np.ascontiguousarray(values)).to(self._device)
            for name, values in examples.targets.items()
        }

    def _drawn_by(self, name: str) -> np.ndarray | None:
        """The target by which training examples are drawn, if one is named."""
        if not name or not self.training:
            return None
        if name not in self.examples.targets:
            raise unknown("target (data.class_balanced, data.sample_weight)", name, self.examples.targets)
        return self.examples.targets[name]

    def blank_images(self) -> Tensor:
        """Zeros of the shape, type and layout that a micro-batch of training has, on the device."""
        count, k, side, dtype = self._blank
        blank = torch.zeros(count * k, side, side, 3, dtype=dtype, device=self._device).permute(0, 3, 1, 2)
        return blank if k == 1 else blank.view(count, k, *blank.shape[1:])

    def targets_of(self, batch: Batch) -> Mapping[str, Tensor]:
        """The targets of a batch by name, on the device."""
        index = on_device(batch.index, self._device)
        return {name: values[index] for name, values in self.targets.items()}

    def keys(self, index: np.ndarray) -> list[str]:
        """The keys of examples; one of several images has all their keys, joined by blanks."""
        return [" ".join(self.split.keys[int(row)] for row in self.examples.images[int(i)]) for i in index]

    def __enter__(self) -> SplitLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.loader.close()
