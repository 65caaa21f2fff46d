"""Who reads what, when: pure integers, no I/O.

Every random number of the loader is a hash of (seed, epoch, purpose, sample), so that a sample's treatment does not
depend on how many ranks there are, where an epoch was entered, or what was drawn before it.

Legend: N examples, B global batch, W ranks, A micro-batches a step, n samples of one micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fashion_dist.errors import ConfigError

WINDOW_SAMPLES = 16384
"""Samples that are shuffled together: whole shards, in an order of their own; a rank reads a few shards at a time."""

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_ORDER, _SHARDS, _WEIGHTED = 1, 2, 3
"""Purposes of the plan's own numbers; those of `fashion_dist.data.augment` start at 16."""


def _mix_int(value: int) -> int:
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * _FIRST) & _MASK
    value = ((value ^ (value >> 27)) * _SECOND) & _MASK
    return value ^ (value >> 31)


def mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele et al. 2014) of uint64 values, any shape."""
    values = values + np.uint64(_GOLDEN)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(_FIRST)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(_SECOND)
    return np.asarray(values ^ (values >> np.uint64(31)), np.uint64)


def hashes(seed: int, epoch: int, purpose: int, ids: np.ndarray) -> np.ndarray:
    """uint64 numbers, one per id (uint64 or int64, any shape): a function of the four arguments and nothing else."""
    base = _mix_int(_mix_int(_mix_int(seed & _MASK) ^ epoch) ^ purpose)
    return mix(mix(ids.astype(np.uint64)) ^ np.uint64(base))


def uniform(seed: int, epoch: int, purpose: int, ids: np.ndarray) -> np.ndarray:
    """float64 numbers in [0, 1), 53 random bits each."""
    return np.asarray((hashes(seed, epoch, purpose, ids) >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def epoch_order(shards: np.ndarray, seed: int, epoch: int, window: int = WINDOW_SAMPLES) -> np.ndarray:
    """The order in which one epoch reads its examples: int64 [N], a permutation.

    Shards are put in random order and joined to windows of about `window` samples; each window is shuffled. `shards`
    is int [N], the shard that each example (its first image) lies in.
    """
    counts = np.bincount(shards, minlength=1)
    shard_order = np.argsort(hashes(seed, epoch, _SHARDS, np.arange(len(counts))), kind="stable")
    first = np.empty(len(counts), np.int64)
    first[shard_order] = np.cumsum(counts[shard_order]) - counts[shard_order]
    windows = (first // window).astype(np.uint64)[shards]
    keys = hashes(seed, epoch, _ORDER, np.arange(len(shards))) >> np.uint64(24)
    return np.argsort((windows << np.uint64(40)) | keys, kind="stable")


def weighted_order(weights: np.ndarray, groups: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """N draws in proportion to the weights: int64 [N], examples may repeat or be missing.

    Systematic sampling (Madow 1949) over examples sorted by group and shuffled within: every example is drawn its
    expected number of times rounded up or down, and so is every group, where drawing one by one would scatter both.
    `weights` is float [N], not negative, with a positive sum; `groups` int [N], such as the class, or zeros.
    """
    count = len(weights)
    order = np.argsort(hashes(seed, epoch, _ORDER, np.arange(count)), kind="stable")
    least, most = int(groups.min()), int(groups.max())
    if most > least:
        near = groups[order] - least
        # Of 16 bits NumPy sorts by digits: a tenth of the time.
        order = order[np.argsort(near.astype(np.uint16) if most - least < 1 << 16 else near, kind="stable")]
    edges = np.cumsum(weights[order].astype(np.float64))
    start = float(uniform(seed, epoch, _WEIGHTED, np.zeros(1, np.int64))[0])
    points = (np.arange(count) + start) * (edges[-1] / count)
    drawn: np.ndarray = order[
        np.minimum(np.searchsorted(edges, points, side="right"), np.flatnonzero(weights[order])[-1])
    ]
    return drawn[np.argsort(hashes(seed, epoch, _SHARDS, np.arange(count)), kind="stable")]


def balanced_weights(classes: np.ndarray) -> np.ndarray:
    """float64 [N] that give every class (int [N]) the same share; examples without a class (negative) get none."""
    known = classes >= 0
    counts = np.bincount(classes[known], minlength=1)
    weights = np.zeros(len(classes))
    weights[known] = 1.0 / counts[classes[known]]
    return weights


def occurrences(order: np.ndarray) -> np.ndarray:
    """How often each position's example came before in `order`: int64 [N]; zeros for a permutation."""
    by_example = np.argsort(order, kind="stable")
    ordered = order[by_example]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    before = np.empty(len(order), np.int64)
    before[by_example] = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    return before


@dataclass(frozen=True)
class BatchPartition:
    """How the global batches of training are divided.

    Args:
        examples: N.
        batch_size: B, the global batch; a remainder of N modulo B is left out, another one each epoch.
        world_size: W.
        accumulate: A.

    Raises:
        ConfigError: B is not divisible by W x A (the nearest sizes that are get named), or is more than N.
    """

    examples: int
    batch_size: int
    world_size: int = 1
    accumulate: int = 1

    def __post_init__(self) -> None:
        parts = self.world_size * self.accumulate
        if self.batch_size < 1 or self.batch_size % parts:
            below = self.batch_size // parts * parts
            nearest = f"{below} or {below + parts}" if below > 0 else f"{parts}"
            raise ConfigError(
                f"global batch {self.batch_size} is not divisible by {self.world_size} ranks x {self.accumulate} "
                f"accumulated micro-batches; nearest that is: {nearest}"
            )
        if self.batch_size > self.examples:
            raise ConfigError(
                f"global batch {self.batch_size} is more than the {self.examples} examples there are; "
                f"allowed: up to {self.examples // parts * parts}"
                if self.examples >= parts
                else f"{self.examples} examples are fewer than {self.world_size} ranks x {self.accumulate} "
                "accumulated micro-batches need; use fewer ranks"
            )

    @property
    def steps(self) -> int:
        """Optimiser steps an epoch."""
        return self.examples // self.batch_size

    @property
    def micro_size(self) -> int:
        """Samples of one micro-batch of one rank."""
        return self.batch_size // (self.world_size * self.accumulate)

    def positions(self, rank: int, step: int, micro: int) -> slice:
        """Where in the epoch's order a rank's micro-batch stands: ranks hold contiguous parts of each global batch."""
        start = step * self.batch_size + (rank * self.accumulate + micro) * self.micro_size
        return slice(start, start + self.micro_size)


def eval_blocks(examples: int, block: int, rank: int, world_size: int) -> Iterator[slice]:
    """The blocks of consecutive examples that `rank` evaluates: every example is in one block of one rank.

    A block holds the same examples whatever the number of ranks, so that a network's outputs, whose last bits may
    depend on the batch, do not depend on it. The last block may be smaller; a rank may have none.
    """
    for start in range(rank * block, examples, world_size * block):
        yield slice(start, min(start + block, examples))
