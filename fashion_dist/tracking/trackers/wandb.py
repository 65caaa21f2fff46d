"""Weights & Biases."""

from __future__ import annotations

from fashion_dist.config import Config
from fashion_dist.paths import RunDir
from fashion_dist.tracking.metrics_log import Tracker
from fashion_dist.tracking.trackers import TrackerOptions
from fashion_dist.tracking.wandb_run import start_wandb


def start(run: RunDir, config: Config, options: TrackerOptions) -> Tracker | None:
    """See `start_wandb`."""
    return start_wandb(run, config, options.wandb, options.group)
