"""The only place where metrics of a split are computed: evaluators, each sample counted once on any number of ranks.

    SumEvaluator        float64 sums that add up over batches and ranks, and the means of the loss terms, divided once
    GatheredEvaluator   the predictions of the whole split, gathered and judged at once

Legend: N samples of a batch, K classes.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fashion_dist.config import Config
from fashion_dist.tasks.common.base import Arrays, Task, Tensors
from shards import Split

if TYPE_CHECKING:
    from torch import Tensor

    from fashion_dist.train.distributed import ProcessGroup


class Evaluator(ABC):
    """Metrics of one split: `update` with each batch of this rank, `reduce` once, then `compute` and `tables`."""

    needs_whole_split = False
    """Whether the metrics mean something only of all samples of a split, which then has its labels elsewhere."""

    def __init__(self, task: Task, split: Split, config: Config) -> None:
        self.task, self.split, self.config = task, split, config

    @abstractmethod
    def update(self, outputs: Tensors, targets: Tensors, index: Tensor) -> None:
        """Add a batch.

        Args:
            outputs: of the model, in fp32.
            targets: of the batch, on the device.
            index: int64 [N] on the CPU, the examples, as rows of the split's examples.
        """

    @abstractmethod
    def reduce(self, dist: ProcessGroup) -> None:
        """Bring the ranks' parts together on every rank; all ranks call it, with or without batches."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The metrics by name."""

    def tables(self) -> dict[str, str]:
        """File name -> text, what is measured beside the metrics."""
        return {}


class SumEvaluator(Evaluator):
    """Sums that add up over batches and ranks. A subclass has `add_batch`, and `metrics` of the sums.

    Where labels are smoothed in training, `loss` is that of smoothed ones and `plain_loss`, beside it, of the labels as
    they are, which other trainers report.

    An update costs what the batch costs: nothing of the size of all classes is allocated after the first.
    """

    def __init__(self, task: Task, split: Split, config: Config) -> None:
        super().__init__(task, split, config)
        self._plain = dataclasses.replace(config, train=dataclasses.replace(config.train, label_smoothing=0.0))
        self._sums: dict[str, Tensor] = {}
        self.sums: dict[str, np.ndarray] = {}
        """After `reduce`, float64."""
        self._losses: dict[str, float] = {}

    @abstractmethod
    def add_batch(self, outputs: Tensors, targets: Tensors) -> None:
        """`add` what the metrics need of a batch."""

    @abstractmethod
    def metrics(self, sums: Arrays) -> dict[str, float]:
        """The metrics of the sums over the whole split, without the loss terms."""

    def add(self, name: str, value: Tensor) -> None:
        """Add a tensor to the sum `name`, in float64."""
        import torch

        if name not in self._sums:
            self._sums[name] = torch.zeros(value.shape, dtype=torch.float64, device=value.device)
        self._sums[name] += value.detach()

    def update(self, outputs: Tensors, targets: Tensors, index: Tensor) -> None:
        """See `Evaluator.update`."""
        self.add_batch(outputs, targets)
        sums, counts = self.task.losses(outputs, targets, self.config), self.task.counts(targets, self.config)
        kinds = {"loss": sums, "count": counts, "minimised": self.task.objective(sums, counts, outputs, self.config)}
        if self.config.train.label_smoothing:
            plain = self.task.losses(outputs, targets, self._plain)
            kinds["plain"] = self.task.objective(plain, counts, outputs, self._plain)
        for kind, values in kinds.items():
            for name, value in values.items():
                self.add(f"{kind}:{name}", value)

    def reduce(self, dist: ProcessGroup) -> None:
        """See `Evaluator.reduce`."""
        added = {name: value.cpu().numpy() for name, value in dist.all_reduce_sum_ragged(self._sums).items()}
        self._losses, self.sums = {"loss": 0.0}, {name: value for name, value in added.items() if ":" not in name}
        if self.config.train.label_smoothing:
            self._losses["plain_loss"] = 0.0
        for name, count in ((name, float(value)) for name, value in added.items() if name.startswith("count:")):
            term = name.removeprefix("count:")
            if count > 0:  # else there is no such loss on this split
                self._losses["loss"] += float(added[f"minimised:{term}"]) / count
                if f"plain:{term}" in added:
                    self._losses["plain_loss"] += float(added[f"plain:{term}"]) / count
                if term != "loss":
                    self._losses[term] = float(added[f"loss:{term}"]) / count

    def compute(self) -> dict[str, float]:
        """See `Evaluator.compute`; the means of the loss terms over what is known come last. Where the loss is NaN all
        is: the largest of NaN is the first class, and right as often as that occurs.
        """
        found = self.metrics(self.sums)
        return {**(dict.fromkeys(found, math.nan) if math.isnan(self._losses["loss"]) else found), **self._losses}


class GatheredEvaluator(Evaluator):
    """The task's predictions of all samples, judged as a whole. A subclass has `compute`."""

    needs_whole_split = True

    def __init__(self, task: Task, split: Split, config: Config) -> None:
        super().__init__(task, split, config)
        self._batches: list[Arrays] = []
        self.predictions: dict[str, np.ndarray] = {}
        """After `reduce`, the columns in the order of the split, on every rank; see `gather_in_order`."""
        self.there = np.ones(len(split), bool)
        """After `reduce`, bool [N], which samples of the split could be read."""

    def update(self, outputs: Tensors, targets: Tensors, index: Tensor) -> None:
        """See `Evaluator.update`."""
        self._batches.append({"index": index.numpy(), **self.task.predictions(outputs, self.config)})

    def reduce(self, dist: ProcessGroup) -> None:
        """See `Evaluator.reduce`."""
        self.predictions, self.there = gather_in_order(concatenate(self._batches), dist, len(self.split))


def concatenate(batches: Sequence[Arrays]) -> dict[str, np.ndarray]:
    """Each column of the batches as one array; no columns of no batches."""
    return {name: np.concatenate([batch[name] for batch in batches]) for name in (batches[0] if batches else ())}


def gather_in_order(mine: Arrays, dist: ProcessGroup, count: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The columns of all ranks in the places of their `index`, which is left out, on every rank; and bool [count],
    which of so many samples are there. The others, which could not be read, are NaN, or 0 where a column has none.
    """
    joined = concatenate([part for part in dist.gather_arrays(mine) if part])
    index = joined.pop("index", np.empty(0, np.int64))
    there = np.bincount(index, minlength=count) > 0
    found = {}
    for name, values in joined.items():
        found[name] = np.full((len(there), *values.shape[1:]), np.nan if values.dtype.kind == "f" else 0, values.dtype)
        found[name][index] = values
    return found, there


def macro_f1(right: np.ndarray, named: np.ndarray, true: np.ndarray) -> float:
    """F1 averaged over the classes that occur or are answered, each 2 right / (named + true); 0 where none does.

    Args:
        right: [K], samples that are of the class and answered so.
        named: [K], samples that are answered so.
        true: [K], samples of the class.
    """
    occurs = (both := named + true) > 0
    return float((2 * right[occurs] / both[occurs]).mean()) if occurs.any() else 0.0


def area_under_roc(scores: np.ndarray, truth: np.ndarray) -> float:
    """The area under the ROC curve of scores [n] against truth [n], 1 or 0; 0.5 where all are of one kind, NaN where a
    score is not finite.
    """
    from sklearn.metrics import roc_auc_score

    if not np.isfinite(scores).all():
        return float("nan")
    return float(roc_auc_score(truth, scores)) if 0 < np.mean(truth) < 1 else 0.5
