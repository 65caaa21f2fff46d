"""What a run is doing now, in one small file that rank 0 replaces and everybody may read."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fashion_dist.errors import InputError
from fashion_dist.io import parse_dataclass, read_object, write_text

Phase = Literal["starting", "training", "evaluating", "predicting"]


@dataclass(frozen=True)
class RunState:
    """The content of `state.json`.

    `state` is `running`, `done`, `failed` or `stopped` (a signal or a time limit; launching again continues).
    """

    state: Literal["running", "done", "failed", "stopped"] = "running"
    phase: Phase = "starting"
    epoch: int = 0
    epochs: int = 0
    step: int = 0
    total_steps: int = 0
    samples_per_s: float = 0.0
    loss: float | None = None
    """Of the last training line; None before it, and where it is not finite."""
    best: dict[str, Any] = field(default_factory=dict)
    """`metric`, `value` and `epoch` of the best evaluation so far."""
    startup: dict[str, float] = field(default_factory=dict)
    """Seconds of each part of the last start, from its process's beginning to its first step."""
    decode: str = ""
    """By which way images are decoded for GPUs; empty on CPUs."""
    attempt: int = 1
    message: str = ""
    """What to tell the user about it, if anything."""
    updated: float = 0.0
    """Unix time of the last change."""

    @property
    def best_words(self) -> str:
        """The best evaluation so far, such as `accuracy 0.9121 at epoch 7`; empty before it."""
        best = self.best
        return f"{best['metric']} {best['value']:.4f} at epoch {best['epoch']}" if best else ""

    @classmethod
    def read(cls, path: Path) -> RunState | None:
        """The state in `path`, or None where there is none that can be read."""
        try:
            return cls.load(path)
        except InputError:
            return None

    @classmethod
    def load(cls, path: Path) -> RunState | None:
        """The state in `path`, or None where there is none; raises InputError where it cannot be read: `FILE: why`."""
        values = read_object(path)
        if not values:
            return None
        state = parse_dataclass(cls, values, path)
        if state.best:
            parse_dataclass(_Best, state.best, path)
        return state


@dataclass(frozen=True)
class _Best:
    metric: str
    value: float
    epoch: int


class StateFile:
    """Rank 0's hand on `state.json`: at most one write every `INTERVAL_S`, save for changes of phase or state."""

    INTERVAL_S = 1.0

    def __init__(self, path: Path, attempt: int, message: str = "") -> None:
        self.path = path
        self.state = RunState(attempt=attempt, message=message)
        self._written = float("-inf")

    def update(self, **values: Any) -> None:
        """Change fields; a new `phase` or `state` is written at once."""
        now = time.monotonic()
        urgent = any(
            name in ("phase", "state") and getattr(self.state, name) != value for name, value in values.items()
        )
        self.state = dataclasses.replace(self.state, **values)
        if urgent or now - self._written >= self.INTERVAL_S:
            self._written = now
            self.state = dataclasses.replace(self.state, updated=time.time())
            shown = self.state.best if math.isfinite(self.state.best.get("value", 0.0)) else {}  # JSON has no NaN
            write_text(self.path, json.dumps({**dataclasses.asdict(self.state), "best": shown}) + "\n")
