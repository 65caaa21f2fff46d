"""A run in one process, for benches that measure the real training loop."""

from __future__ import annotations

import threading
from pathlib import Path

import torch

from fashion_dist.config import Config
from fashion_dist.errors import ConfigError
from fashion_dist.paths import Home, RunDir
from fashion_dist.run_status import StateFile
from fashion_dist.tasks import load
from fashion_dist.tracking.metrics_log import Tracker
from fashion_dist.train.checkpoint import Checkpoints
from fashion_dist.train.distributed import Link, World
from fashion_dist.train.session import FitOptions, Session
from fashion_dist.train.state import Learner
from shards import ShardSet


def open_session(
    config: Config, home: Home, folder: Path, options: FitOptions | None = None, device: torch.device | None = None
) -> Session:
    """A fresh run of `config` in `folder`, with state and metrics written as in any run and nothing frozen.

    It runs on `device`, else on a GPU where there is one.

    Raises:
        ConfigError: the shard set has fewer training images than a batch.
        InputError: there is no such shard set in HOME/shards.
    """
    shard_set = ShardSet.open(home.shard_set(config.dataset))
    if shard_set.splits["train"] < config.train.batch_size:
        raise ConfigError(f"--batch-size {config.train.batch_size} is more than the images of {shard_set.path}")
    run, task, link = RunDir(folder), load(config.task), Link(World(), device or World().device())
    folder.mkdir(parents=True)
    torch.manual_seed(config.train.seed)
    learner = Learner(task.build_model(config, shard_set.schema), config, link)
    options = options or FitOptions(wandb="off")
    session = Session(
        run, config, task, shard_set, link, learner, Checkpoints(run.checkpoints, config.train.keep), options,
        threading.Event().is_set, state_file=StateFile(run.state, 1),
    )  # fmt: skip
    session.tracker = Tracker(run, config, 0, 1, "off")
    learner.train(config.train.epochs - 1)  # with nothing frozen
    return session


def close_session(session: Session) -> None:
    """Give files and threads back."""
    session.checkpoints.close()
    if session.tracker is not None:
        session.tracker.close()
