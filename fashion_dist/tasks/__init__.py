"""Tasks: one file each, found by file name. Dropping a file with a `TASK` into this folder is all that adds a task.

A task says what to learn from the facts of a shard set, and how to answer: everything else (loading, training,
launching, surviving) is the same for all. Torch is imported inside the functions that need it, so that reading a
recipe takes milliseconds and `launch.py` can refuse bad input at once.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fashion_dist.config import Config
from fashion_dist.errors import unknown
from shards import Schema, Split

if TYPE_CHECKING:
    from torch import Tensor, nn

Arrays = Mapping[str, np.ndarray]
Tensors = Mapping[str, "Tensor"]


@dataclass(frozen=True)
class Examples:
    """What one split is trained or asked on.

    Args:
        images: int64 [N, k], the images each example is made of, as rows of the split.
        targets: arrays of length N, read-only; empty where the split has no labels.
    """

    images: np.ndarray
    targets: Arrays

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labelled(self) -> bool:
        """Whether any label is known; unknown ones are negative in every task's targets."""
        return any(bool((values >= 0).any()) for values in self.targets.values())

    def sample(self, fraction: float, least: int, seed: int) -> Examples:
        """`fraction` of the examples, in their order, but not fewer than `least` where there are so many."""
        count = min(len(self), max(least, round(fraction * len(self)), 1))
        rows = np.sort(np.random.default_rng(seed).permutation(len(self))[:count])
        return Examples(self.images[rows], {name: values[rows] for name, values in self.targets.items()})


@dataclass(frozen=True)
class Task:
    """Everything about one task. The functions are pure; `N` is a batch, `outputs` what the model returned.

    Args:
        recipe: the configuration that trains it well; `recipe.options` are the task's own settings.
        facts: the shard set's facts that it needs.
        build_model: (config, schema) -> module whose forward takes images [N, 3, H, W] and gives named outputs.
        targets: (facts, config) -> arrays of one row per image.
        loss: (outputs, targets, config) -> named scalars, of which `loss` is the one to minimise.
        sums: (outputs, targets, config) -> float64 tensors that add up over batches and ranks.
        metrics: (added sums, schema) -> named numbers.
        rows: (outputs, config) -> prediction columns, N rows each.
        submission: (columns of predictions and facts in the split's order, schema, config) -> {file name: text}.
        monitor: the metric that `best` means; more is better.
        unmixable: targets that say nothing of a mixed image (mixup, CutMix); its loss takes them as unknown, -1.
        shown_metrics: the metrics that the run's curves show beside it.
        examples: (split, config, epoch) -> Examples, where an example is not one image.
        tables: (added sums, schema, config) -> {file name: text}, what is measured beside the metrics.
    """

    recipe: Config
    facts: tuple[str, ...]
    build_model: Callable[[Config, Schema], nn.Module]
    targets: Callable[[Arrays, Config], Arrays]
    loss: Callable[[Tensors, Tensors, Config], dict[str, Tensor]]
    sums: Callable[[Tensors, Tensors, Config], dict[str, Tensor]]
    metrics: Callable[[Arrays, Schema], dict[str, float]]
    rows: Callable[[Tensors, Config], dict[str, np.ndarray]]
    submission: Callable[[Mapping[str, Sequence[object] | np.ndarray], Schema, Config], dict[str, str]]
    monitor: str
    unmixable: tuple[str, ...] = ()
    shown_metrics: tuple[str, ...] = ()
    examples: Callable[[Split, Config, int], Examples] | None = None
    tables: Callable[[Arrays, Schema, Config], dict[str, str]] | None = None

    def make_examples(self, split: Split, config: Config, epoch: int = 0) -> Examples:
        """The examples of a split: the task's own, or one per image."""
        if self.examples is not None:
            return self.examples(split, config, epoch)
        return Examples(np.arange(len(split), dtype=np.int64)[:, None], self.targets(split.facts(*self.facts), config))


def names() -> list[str]:
    """The tasks there are: the modules of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def load(name: str) -> Task:
    """The task of the module `name`; raises ConfigError naming the known ones."""
    if name not in names():
        raise unknown("task", name, names())
    task = importlib.import_module(f"{__name__}.{name}").TASK
    assert isinstance(task, Task), f"{__name__}.{name}.TASK is not a Task"
    assert task.recipe.task == name, f"{__name__}.{name}: the recipe names task {task.recipe.task!r}"
    return task
