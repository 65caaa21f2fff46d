"""Tasks: one file each, found by file name. Dropping a file with a `Task` into this folder is all that adds a task.

A task says what to learn from the columns of a shard set, and how to answer: everything else (loading, training,
launching, surviving) is the same for all.
"""

from __future__ import annotations

import dataclasses
import functools
import pkgutil
from collections.abc import Collection
from typing import TYPE_CHECKING

from fashion_dist.config import Config
from fashion_dist.errors import ConfigError, unknown
from fashion_dist.tasks.common.base import Arrays, Columns, Embed, ExampleSet, Monitor, ReportView, Task, Tensors
from shards.errors import import_file

if TYPE_CHECKING:
    from shards import Schema

__all__ = ["Arrays", "Columns", "Embed", "ExampleSet", "Monitor", "ReportView", "Task", "Tensors", "load", "names"]
OURS = (
    "classification", "clipart", "deepfashion", "fashion_mnist", "fashion_mnist_binary", "multilabel",
    "polyvore_category", "polyvore_outfits", "polyvore_pairs",
)  # fmt: skip
"""Tasks that came with this edition; the other files of the folder are the user's."""


def names() -> list[str]:
    """The tasks there are: the modules of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)


@functools.cache
def load(name: str) -> Task:
    """The task that the module `name` defines, the same object at each call.

    Raises:
        ConfigError: there is no such module, or not one whole `Task` in it; says what is missing.
    """
    if name not in names():
        raise unknown("task", name, names())
    module = import_file(f"{__name__}.{name}")
    classes = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]
    defined = [c for c in dict.fromkeys(classes) if issubclass(c, Task)]
    whole = [c for c in defined if not _missing(c)]
    if len(whole) != 1:
        raise ConfigError(f"{module.__file__} cannot be trained as task {name!r}: {_fault(defined, whole)}")
    task = whole[0]()
    if task.recipe.task != name:
        raise ConfigError(
            f"{module.__file__}: {whole[0].__name__}.recipe is of task {task.recipe.task!r}, not {name!r}"
        )
    kinds = [view.kind for view in task.report_views()]
    if len(set(kinds)) < len(kinds):
        raise ConfigError(f"{module.__file__}: report_views() has {', '.join(kinds)}; allowed: one of each kind")
    return task


def directed(config: Config, given: Collection[str] = ()) -> Config:
    """`config` with the `train.mode` of its monitored metric, unless that is among the settings `given`."""
    mode = load(config.task).monitored(config).mode
    if "train.mode" in given or config.train.mode == mode:
        return config
    return dataclasses.replace(config, train=dataclasses.replace(config.train, mode=mode))


def require_monitor(config: Config, schema: Schema) -> None:
    """Refuse a monitored metric that validation will not have, and a direction that is not the metric's.

    Raises:
        ConfigError: names the metrics that there are, or the direction.
    """
    task = load(config.task)
    monitor, known = task.monitored(config), task.metrics(schema, config)
    if monitor.metric not in known:
        listed = ", ".join(sorted(known))
        raise ConfigError(f"train.monitor = {monitor.metric!r} is not measured; known: {listed}")
    if config.train.mode != monitor.mode:
        better = "more" if monitor.mode == "max" else "less"
        raise ConfigError(
            f"train.mode = {config.train.mode!r} is not possible: of {monitor.metric} {better} is better; "
            f"allowed: {monitor.mode}, or no train.mode at all"
        )


def _missing(task: type[Task]) -> list[str]:
    """The required attributes and methods that a class lacks."""
    attributes = [name for name in ("recipe", "columns", "monitor") if not hasattr(task, name)]
    return attributes + sorted(task.__abstractmethods__)


def _fault(defined: list[type[Task]], whole: list[type[Task]]) -> str:
    if whole:
        return f"it defines several tasks, {', '.join(c.__name__ for c in whole)}; allowed: one"
    if defined:
        return "; ".join(f"{c.__name__} lacks {', '.join(_missing(c))}" for c in defined)
    return "it defines no subclass of fashion_dist.tasks.Task"
