"""What rank 0 writes of a run while it trains: metrics.jsonl and trackers, state.json, and how long the start took."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fashion_dist.config import Config
from fashion_dist.io import write_text
from fashion_dist.paths import RunDir
from fashion_dist.run_status import StateFile
from fashion_dist.tracking import trackers
from fashion_dist.tracking.metrics_log import MetricsLogger
from fashion_dist.train.distributed import ProcessGroup
from fashion_dist.train.options import Callbacks, TrainerOptions
from fashion_dist.train.startup_timer import format_startup
from fashion_dist.train.state import TrainState
from shards.safe_io import refuse_link


class RunLogger:
    """The record of one run; on every rank but 0 all methods do nothing.

    Args:
        run: the run's folder.
        dist: the ranks.
        options: number of this start, and which trackers to tell.
        callbacks: whose `system_metrics`, `media` and `startup` are asked.
    """

    def __init__(self, run: RunDir, dist: ProcessGroup, options: TrainerOptions, callbacks: Callbacks) -> None:
        self._run, self._dist, self._options, self._callbacks = run, dist, options, callbacks
        self._metrics: MetricsLogger | None = None
        self._status = StateFile(run.state, options.attempt, options.note) if dist.world.is_main else None
        self._first_step_told = callbacks.startup is None

    def open(self, config: Config, global_step: int) -> None:
        """Open metrics.jsonl behind the line of `global_step`, and trackers beside it."""
        if self._dist.world.is_main:
            options = self._options
            self._metrics = MetricsLogger(self._run, global_step, options.attempt)
            told = trackers.TrackerOptions(options.wandb, options.group)
            self._metrics.add(trackers.start(options.track, self._run, config, told))

    def update_status(self, **values: Any) -> None:
        """Update state.json."""
        if self._status is not None:
            self._status.update(**values)

    def log(self, split: str, global_step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Add a line to metrics.jsonl."""
        if self._metrics is not None:
            self._metrics.log(split, global_step, epoch, values)

    def log_window(self, window: Sequence[Mapping[str, Tensor]], state: TrainState, epoch: float, rate: float) -> None:
        """Add a line of the means of the last steps' terms, each over the steps that have it; each rank calls it.

        Of a term [2] the numerators and denominators are added and divided; it is left out where there was nothing to
        divide by.

        Raises:
            RunError: a loss or a gradient was not finite, and the run is to fail of it.
        """
        stacked = {name: torch.stack([terms[name].float() for terms in window]) for name in window[0]}
        norms = stacked.pop("gradient_norm").double()
        added = {**self._dist.all_reduce_sum(stacked), "gradient_norm": norms}
        found = {name: value.cpu() for name, value in added.items()}
        # A batch of which nothing is known has no loss, and a gradient of 0.
        judged = found["loss"][~(found["loss"].isnan() & (found["gradient_norm"] == 0))]
        state.require_finite(*judged.tolist(), *found["gradient_norm"].tolist())
        values: dict[str, float] = {}
        for name, each in found.items():
            if each.ndim > 1:
                top, bottom = each.sum(dim=0).tolist()
                values |= {name: top / bottom} if bottom > 0 else {}
            elif each.isfinite().any():
                values[name] = float(each[each.isfinite()].mean())
        if state.may_skip:
            values["skipped_steps"] = float(state.skipped["run"])
        lr = max(group["lr"] for group in state.optimizer.param_groups)
        self.log("train", state.global_step, epoch, {**values, "lr": lr, "samples_per_s": rate})
        self.log_system(state.global_step, epoch)
        loss = values.get("loss", math.nan)
        self.update_status(samples_per_s=rate, loss=loss if math.isfinite(loss) else None)

    def log_system(self, global_step: int, epoch: float) -> None:
        """Add a line of what the nodes are doing, when there is news of them."""
        ask = self._callbacks.system_metrics
        if self._metrics is not None and ask is not None and (found := ask()):
            self._metrics.log("system", global_step, epoch, found)

    def write_tables(self, split: str, tables: Mapping[str, str]) -> None:
        """Keep what was measured on a split as files, {file name: text}."""
        if self._dist.world.is_main and tables:
            folder = self._run.measures(split)
            refuse_link(refuse_link(folder.parent) / folder.name).mkdir(parents=True, exist_ok=True)
            for name, text in tables.items():
                write_text(folder / name, text)

    def record_phase(self, phase: str) -> None:
        """A part of the start is over."""
        if self._callbacks.startup is not None:
            self._callbacks.startup.record_phase(phase)

    def first_step_done(self, compiled: bool) -> None:
        """Say once, after this start's first step, how long it took to get there."""
        if self._first_step_told:
            return
        self._first_step_told = True
        startup, device = self._callbacks.startup, self._dist.device
        assert startup is not None
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # once a start
        startup.record_phase("first step and compilation" if compiled else "first step")
        if self._dist.world.is_main:
            print(format_startup(startup.parts), flush=True)
            self.update_status(startup=startup.parts)

    def show_media(self) -> None:
        """Let trackers show what there is beside the curves."""
        if self._metrics is not None and self._callbacks.media is not None:
            self._metrics.show(self._callbacks.media)

    def close(self) -> None:
        """End the record."""
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
