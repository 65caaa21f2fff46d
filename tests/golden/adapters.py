"""The only place where the golden files touch the product's modules: change the imports when modules move."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fashion_dist.cluster import resources
from fashion_dist.config import DataConfig
from fashion_dist.data.augment import center_crop_params, image_ids, sample_augmentation
from fashion_dist.data.sampler import BatchPartition, epoch_order, weighted_order
from fashion_dist.paths import RunDir
from fashion_dist.tasks import load
from fashion_dist.train.distributed import ProcessGroup, World
from fashion_dist.train.options import TrainerOptions
from fashion_dist.train.trainer import Trainer
from shards import ShardSet


def preset_names() -> list[str]:
    return sorted(resources.preset_names())


def order(shards: np.ndarray, seed: int, epoch: int, window: int) -> np.ndarray:
    """The order of an epoch's examples; `shards` is the shard of each, `window` how many are shuffled together."""
    return epoch_order(shards, seed, epoch, window)


def weighted(weights: np.ndarray, groups: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The same where examples are drawn by weight, in groups."""
    return weighted_order(weights, groups, seed, epoch)


def positions(examples: int, batch_size: int, ranks: int, accumulate: int) -> list[list[list[int]]]:
    """By rank and micro-batch, the positions in that order that a rank reads."""
    division = BatchPartition(examples, batch_size, ranks, accumulate)
    every = np.arange(examples)
    return [
        [
            every[division.positions(rank, step, micro)].tolist()
            for step in range(division.steps)
            for micro in range(accumulate)
        ]
        for rank in range(ranks)
    ]


def augmentation(settings: dict[str, Any], sizes: np.ndarray, seed: int, epoch: int) -> dict[str, np.ndarray]:
    """Parameters of training for images of `sizes`, the second half of them seen again, and those of evaluation."""
    config, count = DataConfig(**settings), len(sizes)
    ids = image_ids(np.arange(count), np.where(np.arange(count) < count // 2, 0, 1 + np.arange(count)))
    drawn, still = sample_augmentation(config, sizes, ids, seed, epoch), center_crop_params(config, sizes)
    values = {
        "crop": drawn.boxes, "flip": drawn.flips, "colour": drawn.colours, "erased": drawn.erased,
        "map": drawn.maps, "center_crop": still.boxes, "center_resized": still.resized, "center_colour": still.colours,
    }  # fmt: skip
    return {name: value for name, value in values.items() if value is not None}


def train_losses(task: str, settings: tuple[str, ...], shard_set: Path, run: Path) -> list[float]:
    """Train in this process alone; the loss of each step."""
    run.mkdir(parents=True)
    config = load(task).recipe.override(settings).check()
    dist, options = ProcessGroup(World(), torch.device("cpu")), TrainerOptions(wandb="off", predict=())
    with _recorded() as losses:
        Trainer(config, load(task), ShardSet.open(shard_set), dist, RunDir(run), options).fit()
    return losses


@contextlib.contextmanager
def _recorded() -> Iterator[list[float]]:
    """What is passed to `torch.autograd.backward`, which `Tensor.backward` calls as well."""
    losses: list[float] = []
    original = torch.autograd.backward

    def backward(tensors: Any, *args: Any, **kwargs: Any) -> None:
        losses.append(float(tensors.detach()))
        original(tensors, *args, **kwargs)

    torch.autograd.backward = backward
    try:
        yield losses
    finally:
        torch.autograd.backward = original
