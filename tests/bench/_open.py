"""A run in one process, for benches that measure the real training loop."""

from __future__ import annotations

from pathlib import Path

import torch

from fashion_dist.config import Config
from fashion_dist.errors import ConfigError
from fashion_dist.paths import Home, RunDir
from fashion_dist.tasks import load
from fashion_dist.train.distributed import ProcessGroup, World
from fashion_dist.train.options import TrainerOptions
from fashion_dist.train.trainer import Trainer
from shards import ShardSet


def open_trainer(
    config: Config, home: Home, folder: Path, options: TrainerOptions | None = None, device: torch.device | None = None
) -> Trainer:
    """A fresh run of `config` in `folder`, with state and metrics written as in any run.

    It runs on `device`, else on a GPU where there is one.

    Raises:
        ConfigError: the shard set has fewer training images than a batch.
        InputError: there is no such shard set in HOME/shards.
    """
    shard_set = ShardSet.open(home.shard_set(config.dataset))
    if shard_set.splits["train"] < config.train.batch_size:
        raise ConfigError(f"--batch-size {config.train.batch_size} is more than the images of {shard_set.path}")
    folder.mkdir(parents=True)
    dist, options = ProcessGroup(World(), device or World().device()), options or TrainerOptions(wandb="off")
    trainer = Trainer(config, load(config.task), shard_set, dist, RunDir(folder), options)
    trainer.logger.open(config, 0)
    return trainer
