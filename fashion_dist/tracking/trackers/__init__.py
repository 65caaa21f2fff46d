"""Trackers, one file each: who is told the lines of metrics.jsonl as they are written. `--track NAME,NAME` chooses.

Dropping a file with a function `start(run, config, options) -> Tracker | None` into this folder is all that adds one.
What it needs beside our own dependencies stands in its `PACKAGE`: the module, and how it is installed.
"""

from __future__ import annotations

import importlib.util
import logging
import pkgutil
from dataclasses import dataclass
from types import ModuleType

from fashion_dist.config import Config
from fashion_dist.errors import ConfigError, unknown
from fashion_dist.paths import RunDir
from fashion_dist.tracking.metrics_log import Tracker
from fashion_dist.tracking.wandb_run import WandbMode
from shards.errors import import_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrackerOptions:
    """What a tracker may want to know beside the run: whether W&B may send, and the run's sweep, if any."""

    wandb: WandbMode = "auto"
    group: str = ""


def names() -> list[str]:
    """The trackers there are: the modules of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def parse(text: str) -> list[str]:
    """The trackers that `wandb,tensorboard` means; `none` is none.

    Raises:
        ConfigError: no such tracker, or what it needs is not installed.
    """
    chosen = [name.strip() for name in text.split(",") if name.strip() not in ("", "none")]
    for name in chosen:
        if name not in names():
            raise unknown("tracker (--track)", name, [*names(), "none"])
        package, how = getattr(_module(name), "PACKAGE", ("", ""))
        if package and importlib.util.find_spec(package) is None:
            raise ConfigError(f"--track {name} needs {package}, which is not installed here: {how}")
    return list(dict.fromkeys(chosen))


def start(text: str, run: RunDir, config: Config, options: TrackerOptions) -> dict[str, Tracker]:
    """The trackers that `text` names, by name; one that does not start is left out and told."""
    started: dict[str, Tracker] = {}
    for name in text.split(","):
        try:
            tracker = _module(name).start(run, config, options) if parse(name) else None
        except Exception as error:  # a full disk, a broken install, somebody's own file: none may end the training
            logger.warning("%s did not start (%s); training goes on with metrics.jsonl", name, error)
            continue
        if tracker is not None:
            started[name] = tracker
    return started


def _module(name: str) -> ModuleType:
    return import_file(f"{__name__}.{name}")
