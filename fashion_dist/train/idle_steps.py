"""Whether a GPU waits for its host: told once a start, with what helps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

ENOUGH, MOST = 20, 0.5
"""Steps to judge by, and the share of them at whose beginning a GPU may be idle without a word."""


class IdleSteps:
    """Counts the steps at whose beginning the GPU has nothing left to do, and what the host does meanwhile.

    Args:
        make_event: a CUDA event; None on a CPU, where nothing is counted.
        graphed: the network's kernels are started at once, by `train.cuda_graph`.
    """

    def __init__(self, make_event: Callable[[], Any] | None, graphed: bool = False) -> None:
        self._make_event, self._graphed = make_event, graphed
        self._done: Any = None
        self._steps = self._idle = 0
        self._images_s = self._kernels_s = 0.0

    @classmethod
    def on(cls, device: torch.device, graphed: bool) -> IdleSteps:
        """Of that device."""
        return cls(torch.cuda.Event if device.type == "cuda" else None, graphed)

    @contextmanager
    def step(self, images_s: float) -> Iterator[None]:
        """Around a step, for whose images the host has waited so long."""
        if self._make_event is None:
            yield
            return
        if self._done is not None:
            self._steps, self._idle = self._steps + 1, self._idle + bool(self._done.query())
            self._images_s += images_s
        began = time.monotonic()
        yield
        self._kernels_s += time.monotonic() - began if self._done is not None else 0.0
        self._done = self._make_event()
        self._done.record()

    def forget(self) -> None:
        """The host has just waited for the GPU, which says nothing about the next step."""
        self._done = None

    def told(self) -> str:
        """What the GPU waits for and what helps, in a sentence; empty before enough steps, where it does not wait, and
        after it was told.
        """
        if self._steps < ENOUGH or self._idle < MOST * self._steps:
            return ""
        images, kernels = (1000 * seconds / self._steps for seconds in (self._images_s, self._kernels_s))
        self._make_event = None
        told = f"the GPU had nothing to do at the start of {self._idle} of {self._steps} steps: "
        told += f"the host waits {images:.0f} ms for a step's images and takes {kernels:.0f} ms to start its kernels; "
        if images > kernels or self._graphed:
            return told + "--cache, more cores (--cpus-per-task) or another --decode may help"
        return told + "--set train.cuda_graph=true starts them at once"
