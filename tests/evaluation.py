"""A task's evaluator over batches in this process alone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fashion_dist.config import Config
from fashion_dist.tasks import Task
from fashion_dist.tasks.common.evaluators import Evaluator
from fashion_dist.train.distributed import ProcessGroup, World
from shards import Split

Batch = tuple[Mapping[str, Tensor], Mapping[str, Tensor]]


def evaluated(task: Task, split: Split, config: Config, *batches: Batch) -> Evaluator:
    """The reduced evaluator of (outputs, targets), whose samples are numbered as they come."""
    evaluator, start = task.evaluator(split, config), 0
    for outputs, targets in batches:
        count = len(next(iter(outputs.values())))
        evaluator.update(outputs, targets, torch.arange(start, start + count))
        start += count
    evaluator.reduce(ProcessGroup(World(), torch.device("cpu")))
    return evaluator


def parts(outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor], *ends: int) -> Sequence[Batch]:
    """The rows of a batch up to each of `ends`, and the rest."""
    edges = [0, *ends, len(next(iter(outputs.values())))]
    return [
        ({k: v[a:b] for k, v in outputs.items()}, {k: v[a:b] for k, v in targets.items()})
        for a, b in itertools.pairwise(edges)
    ]
