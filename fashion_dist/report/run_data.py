"""What is written down about a run, read once: configuration, starts, measured points, and what is missing of them."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from fashion_dist.cluster.job_record import Attempt
from fashion_dist.cluster.run_snapshot import RunSnapshot
from fashion_dist.cluster.run_view import RunView, view_snapshots
from fashion_dist.config import Config
from fashion_dist.errors import ConfigError, FashionDistError, ShardsError
from fashion_dist.paths import Home, RunDir
from fashion_dist.runs import RunFacts, read_config, set_of
from fashion_dist.runs import read_facts as read_made
from fashion_dist.settings import gone_settings
from fashion_dist.tasks import Monitor, Task, load
from fashion_dist.tracking.metrics_log import PLAIN, read_metrics
from shards import ShardSet
from shards.safe_io import read_regular

_TERMS = ("loss", "lr", "samples_per_s", "gradient_norm", "mining_s")


@dataclass(frozen=True)
class RunData:
    """One run, as its folder describes it.

    Args:
        view: state and job, as `fashion-dist status` sees them.
        made: run.json.
        snapshot: its other small files.
        points: the lines of metrics.jsonl.
        shard_set: what it learns from, where that is still there and the same.
        notes: what is missing or not as it should be, in sentences.
        gone: settings that it was made with and that are gone; its network cannot be built.
    """

    run: RunDir
    config: Config
    view: RunView
    made: RunFacts
    snapshot: RunSnapshot
    points: Sequence[dict[str, Any]]
    shard_set: ShardSet | None = None
    notes: Sequence[str] = field(default_factory=tuple)
    gone: Mapping[str, Any] = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        """The folder's name."""
        return self.run.run_id

    @property
    def called(self) -> str:
        """The name that it was given, else its id."""
        return self.view.name or self.run_id

    @property
    def titled(self) -> str:
        """Its id, with the name that it was given."""
        return f"{self.run_id} ({self.view.name})" if self.view.name else self.run_id

    @cached_property
    def task(self) -> Task:
        """What it learns."""
        return load(self.config.task)

    @property
    def monitor(self) -> str:
        """The metric that `best` means."""
        return self.task.monitored(self.config).metric

    def score(self, metric: str) -> float:
        """A number that is higher the better a metric is on validation at the best epoch; see `Monitor.score`."""
        return Monitor(metric, self.task.direction(metric)).score(self.at_best("val").get(metric))

    @property
    def best_epoch(self) -> float | None:
        """The epoch with the best value so far."""
        best = self.view.progress.best
        return float(best["epoch"]) if "epoch" in best else None

    @cached_property
    def metrics(self) -> list[str]:
        """The metrics measured on validation, the monitored and the shown ones first; no losses but a monitored one."""
        found = {name for p in self.points if p["split"] in ("val", "test") for name in p} - PLAIN
        losses = {name for name in found if name in _TERMS or name.endswith("_loss")}
        found -= losses - {self.monitor}
        first = [name for name in (self.monitor, *self.task.summary_metrics) if name in found]
        return list(dict.fromkeys([*first, *sorted(found)]))

    def series(self, split: str, name: str) -> list[tuple[float, float]]:
        """(epoch, value) of one metric."""
        return [(p["epoch"], p[name]) for p in self.points if p["split"] == split and _is_number(p.get(name))]

    def at_best(self, split: str) -> dict[str, float]:
        """What was measured on a split after the best epoch; its last evaluation where there is no best."""
        lines = [p for p in self.points if p["split"] == split]
        chosen = [p for p in lines if p["epoch"] == self.best_epoch] or lines
        return {k: v for k, v in chosen[-1].items() if k not in PLAIN and _is_number(v)} if chosen else {}

    @property
    def wall_s(self) -> float:
        """Seconds from the beginning of each start to its end; a start that still runs counts up to now."""
        return sum(self._seconds(start) for start in self.starts)

    @property
    def node_hours(self) -> float:
        """Hours times nodes, of all starts."""
        record = self.snapshot.record
        nodes = record.resources.nodes if record is not None and record.cluster == "slurm" else 1
        # Of starts from before they were counted there are as many as the job has.
        return sum(self._seconds(start) * (start.node_count or nodes) for start in self.starts) / 3600

    @property
    def starts(self) -> Sequence[Attempt]:
        """Every start of it, oldest first."""
        return self.snapshot.attempts

    def _seconds(self, start: Attempt) -> float:
        last = max((p["time"] for p in self.points if p.get("attempt") == start.attempt), default=start.started)
        end = start.ended or (time.time() if self.view.is_active and start is self.starts[-1] else last)
        return max(0.0, float(end) - start.started)

    @property
    def cpu_s(self) -> float | None:
        """CPU seconds of all ranks of all starts; None where one was not measured."""
        found = [start.cpu_s for start in self.starts]
        return sum(s for s in found if s is not None) if found and None not in found else None

    @property
    def samples_per_s(self) -> float | None:
        """The median of the training lines' rates: the first steps and pauses weigh little."""
        rates = sorted(p["samples_per_s"] for p in self.points if _is_number(p.get("samples_per_s")))
        return rates[len(rates) // 2] if rates else None

    @property
    def epoch_s(self) -> float | None:
        """Seconds of an epoch with its validation, the median; of a single one those of training; None if unknown."""
        val = [p for p in self.points if p["split"] == "val"]
        spans = [
            (after["time"] - before["time"]) / (after["epoch"] - before["epoch"])
            for before, after in itertools.pairwise(val)
            if before.get("attempt") == after.get("attempt") and after["epoch"] > before["epoch"]
        ]
        if spans:
            return float(sorted(spans)[len(spans) // 2])
        samples = self.shard_set.splits.get("train", 0) if self.shard_set is not None else 0
        return samples / self.samples_per_s if samples and self.samples_per_s else None

    @property
    def changed(self) -> dict[str, tuple[Any, Any]]:
        """Settings that differ from the task's recipe: key -> (the recipe's, this run's)."""
        recipe, mine = self.task.recipe.flat(), self.config.flat()
        return {key: (recipe.get(key, ""), value) for key, value in mine.items() if recipe.get(key, value) != value}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def find_runs(home: Home, named: Sequence[str]) -> list[RunDir]:
    """The runs that are named, each once; a sweep stands for its trials that have begun.

    Raises:
        ConfigError: a name means no run and no sweep, or several; or none of a sweep's trials has begun.
    """
    runs: list[RunDir] = []
    for name in named:
        sweep = home.find_sweep(name)
        if sweep is None:
            runs.append(home.find_run(name))
            continue
        from fashion_dist.sweep.sweep_record import Sweep

        begun = [run for run in Sweep.read(sweep).run_dirs if run.config.is_file()]
        if not begun:
            raise ConfigError(f"none of the trials of sweep {sweep.sweep_id} has begun, so there is nothing to report")
        runs += begun
    return list(dict.fromkeys(runs))


def read_facts(runs: Sequence[RunDir], damaged: dict[str, str] | None = None) -> list[RunData]:
    """The facts of each run; Slurm is asked about all of them at once.

    `damaged` takes those that cannot be read, run id -> why, where at least one can.

    Raises:
        ConfigError: a configuration cannot be read, or its task is gone; names the run.
    """
    snapshots = [RunSnapshot.read(run) for run in runs]
    found, refused = [], {}
    for snapshot, view in zip(snapshots, view_snapshots(snapshots), strict=True):
        try:
            found.append(_read(snapshot, view))
        except ConfigError as error:
            refused[snapshot.run.run_id] = error
    if refused and (damaged is None or not found):
        raise next(iter(refused.values()))
    if damaged is not None:
        damaged |= {run_id: str(error) for run_id, error in refused.items()}
    return found


def _read(snapshot: RunSnapshot, view: RunView) -> RunData:
    run = snapshot.run
    if snapshot.problems:
        raise ConfigError(f"run {run.run_id} is {view.detail}")
    config, gone = read_config(run)
    made, points = RunFacts("", ""), read_metrics(run.metrics)
    notes: list[str] = []
    if gone:
        notes.append(f"The run was made with {gone_settings(gone)}; its network is not built, only its answers shown.")
    shard_set = None
    try:
        made = read_made(run)
        shard_set = ShardSet.open(set_of(run, config, made))
        if not shard_set.manifest.learned_as(made.data_hash):
            shard_set = None
            notes.append(f"The shard set {made.shard_set} has changed since; its images and labels are not shown.")
    except (ShardsError, FashionDistError) as error:
        notes.append(f"The shard set cannot be opened, so images and labels are not shown: {error}")
    damaged = _damaged(run, len(points))
    if damaged:
        lines = f"{damaged} line{'s' * (damaged != 1)}"
        notes.append(f"{lines} of metrics.jsonl could not be read and {'is' if damaged == 1 else 'are'} left out.")
    return RunData(run, config, view, made, snapshot, points, shard_set, tuple(notes), gone)


def _damaged(run: RunDir, read: int) -> int:
    """Lines of metrics.jsonl that `read_metrics` passed over."""
    try:
        lines = read_regular(run.metrics).splitlines()
    except OSError:
        return 0
    return sum(bool(line.strip()) for line in lines) - read


def plain_json(value: object) -> str:
    """A setting as one would type it."""
    if isinstance(value, tuple | list):
        return ", ".join(str(part) for part in value)
    return value if isinstance(value, str) else json.dumps(value, default=str)
