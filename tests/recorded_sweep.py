"""A sweep that was trained once and written down: validation accuracies of 27 trials after each of 9 epochs.

`recorded_sweep.csv` was made of the first 1,600 training images of Fashion-MNIST (801 to train on, 799 to validate):

    python jobs/pack.py --dataset fashion_mnist --source DIR --val 0.5
    python jobs/sweep.py --task fashion_mnist --cluster local --cache ram --wandb off \\
        --set optim.lr=0.0001,0.0002,0.0005,0.001,0.002,0.005,0.01,0.02,0.05 model.dropout=0,0.3,0.6 \\
        train.epochs=9 train.batch_size=50 train.ema=0 train.patience=0 optim.warmup_epochs=0 train.keep=1

The sweep's trials were given to `train.fit` one after another in one process with one thread, which saves 27 starts;
the one trial that its queue had trained before, with two threads, differs in one and in two images of two epochs. A row
is a trial: its two settings, then the runs' `accuracy` after each epoch.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

RATE, DROP = "optim.lr", "model.dropout"
EPOCHS = 9


@functools.cache
def curves() -> dict[tuple[float, float], list[float]]:
    """(learning rate, dropout) -> validation accuracy after epochs 1 to `EPOCHS`."""
    with Path(__file__).with_suffix(".csv").open(newline="") as file:
        _, *rows = list(csv.reader(file))
    return {(float(rate), float(drop)): [float(value) for value in values] for rate, drop, *values in rows}


def axes() -> tuple[list[float], list[float]]:
    """The learning rates and the dropouts that were tried, in all combinations."""
    rates, drops = zip(*curves(), strict=True)
    return sorted(set(rates)), sorted(set(drops))


@functools.cache
def _best() -> np.ndarray:
    rates, drops = axes()
    return np.array([[max(curves()[rate, drop]) for drop in drops] for rate in rates])


def surface(settings: Mapping[str, Any]) -> float:
    """The best accuracy of a trial with these settings: what was recorded, and straight lines between (in log rate)."""
    rates, drops = axes()
    along = [np.interp(settings[DROP], drops, row) for row in _best()]
    return float(np.interp(np.log(settings[RATE]), np.log(rates), along))
