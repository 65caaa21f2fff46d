"""What a start takes until its first step, part by part: a line in the log, and numbers in state.json."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Mapping

from fashion_dist.io import process_started


class StartupTimer:
    """Splits the time since this process began: `record_phase` ends a part and begins the next."""

    def __init__(self) -> None:
        self._at = time.monotonic() - _process_age_s()
        self.parts: dict[str, float] = {}
        """Seconds of each part, in their order."""
        self.record_phase("process")

    def record_phase(self, part: str) -> None:
        """What ran since the last call was `part`."""
        now = time.monotonic()
        self.parts[part] = round(self.parts.get(part, 0.0) + now - self._at, 3)
        self._at = now


def import_late() -> None:
    """Import now what would else be imported behind the ranks' meeting, where each waits for the slowest."""
    importlib.import_module("torch._dynamo")  # by every optimiser, for 2 s of processor time
    from fashion_dist.data import dali

    dali.import_dali()


def _process_age_s() -> float:
    started = process_started(os.getpid())
    assert started is not None, "this process runs"
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK"))


def format_startup(parts: Mapping[str, float]) -> str:
    """`first step after 9.3 s: imports 4.1, model 0.6, ...`; parts below a twentieth of a second are left out."""
    shown = ", ".join(f"{name} {seconds:.1f}" for name, seconds in parts.items() if seconds >= 0.05)
    return f"first step after {sum(parts.values()):.1f} s" + (f": {shown}" if shown else "")
