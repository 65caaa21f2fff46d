"""Whether a GPU waits for its host: told once a start, with what helps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

ENOUGH, MOST = 20, 0.5
"""Steps to judge by, and the share of them at whose beginning a GPU may be idle without a word."""


class IdleSteps:
    """Counts an epoch's steps at whose beginning the GPU has nothing left to do, and what the host does meanwhile.

    The first epoch of a start says nothing: it fills caches and chooses kernels.

    Args:
        make_event: a CUDA event; None where nothing is counted: on a CPU, or where the host waits for each step.
        graphed: the network's kernels are started at once, by `train.cuda_graph`.
    """

    def __init__(self, make_event: Callable[[], Any] | None, graphed: bool = False) -> None:
        self._make_event, self._graphed = make_event, graphed
        self._done: Any = None
        self._first, self._steps = True, list[tuple[bool, float, float]]()

    @contextmanager
    def step(self, images_s: float) -> Iterator[None]:
        """Around a step, for whose images the host has waited so long."""
        if self._make_event is None:
            yield
            return
        before, began = self._done, time.monotonic()
        idle = before is not None and before.query()
        yield
        if before is not None:
            self._steps.append((idle, images_s, time.monotonic() - began))
        self._done = self._make_event()
        self._done.record()

    def forget(self) -> None:
        """The host has just waited for the GPU, which says nothing about the next step."""
        self._done = None

    def end_epoch(self) -> str:
        """What the GPU waited for in it and what helps, in a sentence; empty where it did not, and once it was told."""
        (steps, self._steps), (first, self._first) = (self._steps, []), (self._first, False)
        idle = sum(step[0] for step in steps)
        if first or len(steps) < ENOUGH or idle <= MOST * len(steps):
            return ""
        self._make_event = None
        images, kernels = (1000 * sum(step[i] for step in steps) / len(steps) for i in (1, 2))
        told = f"the GPU had nothing to do at the start of {idle} of {len(steps)} steps: the host waits {images:.1f} ms"
        told += f" for a step's images and takes {kernels:.1f} ms to start its kernels; "
        if images > kernels or self._graphed:
            return told + "--cache, more cores (--cpus-per-task) or another --decode may help"
        others = "train.accumulate, train.compile, train.sync_batchnorm and model.freeze=epochs:N"
        return told + f"--set train.cuda_graph=true starts them at once, without {others}"
