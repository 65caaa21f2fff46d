"""A run as tables, pages and programs show it."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fashion_dist.cluster import job_record
from fashion_dist.cluster.queue_view import QueueView, Scheduler
from fashion_dist.cluster.run_snapshot import Cause, RunSnapshot, derive_status
from fashion_dist.cluster.slurm import JobRef, JobStatus
from fashion_dist.config import RENAMED
from fashion_dist.errors import DamageError, InputError
from fashion_dist.paths import Home, RunDir, SweepDir
from fashion_dist.run_status import RunState
from fashion_dist.runs import read_facts
from shards import Manifest, program


@dataclass(frozen=True)
class RunView:
    """One run, as a table or a program shows it.

    Args:
        state, detail, hint, cause, job, there, log: of its `RunStatus`.
        nodes: the nodes of its last start.
        attempts: how often it was started.
        left_s: estimated seconds to the end of training; None while unknown.
        config: its settings under dotted keys.
        hardware: of its last start, in words, and of earlier ones where it was other.
        name: that it was given; may be empty.
    """

    run_id: str
    task: str
    state: str
    detail: str = ""
    hint: str = ""
    cause: Cause = ""
    job: JobRef | None = None
    there: JobStatus = "gone"
    nodes: str = ""
    attempts: int = 0
    progress: RunState = field(default_factory=RunState)
    left_s: float | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    log: Path | None = None
    hardware: str = ""
    name: str = ""

    @classmethod
    def of(cls, snapshot: RunSnapshot, queue: QueueView) -> RunView:
        """The run of a snapshot, by the answers for its jobs."""
        status, config = derive_status(snapshot, queue), snapshot.config
        progress = snapshot.progress or RunState(state="running", attempt=0)
        return cls(
            snapshot.run.run_id, config.get("task", ""), status.state, status.message, status.hint, status.cause,
            status.job, status.job_status, snapshot.last.nodes if snapshot.last is not None else "",
            len(snapshot.attempts), progress, _left_s(progress, config), _flat(config), status.log,
            job_record.hardware_of(snapshot.attempts),
        )  # fmt: skip

    @property
    def is_active(self) -> bool:
        """Whether a job waits or runs for it."""
        return self.state in ("running", "starting", "suspended", "queued")

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values = dataclasses.asdict(self)
        return {**values, "job": self.job.to_json() if self.job else None, "log": str(self.log) if self.log else None}


def read_run_view(run: RunDir, scheduler: Scheduler) -> RunView:
    """Everything about one run."""
    return read_run_views([run], scheduler)[0]


def read_run_views(runs: Sequence[RunDir], scheduler: Scheduler | None = None) -> list[RunView]:
    """All of the runs as they are now; Slurm is asked twice at most, and every file read once."""
    return view_snapshots([RunSnapshot.read(run) for run in runs], scheduler)


def view_snapshots(snapshots: Sequence[RunSnapshot], scheduler: Scheduler | None = None) -> list[RunView]:
    """The runs of snapshots, by what the scheduler says now."""
    jobs = [job for snapshot in snapshots for job in snapshot.jobs]
    ended = [job for snapshot in snapshots if not snapshot.is_done for job in snapshot.jobs]
    queue = (scheduler or Scheduler()).ask(jobs, ended)
    names = {home: home.names.all() for home in {snapshot.run.home for snapshot in snapshots}}
    views = [(snapshot.run, RunView.of(snapshot, queue)) for snapshot in snapshots]
    return [dataclasses.replace(view, name=names[run.home].get(run.run_id, "")) for run, view in views]


def _left_s(progress: RunState, config: Mapping[str, Any]) -> float | None:
    batch = config.get("train", {}).get("batch_size", 0)
    if progress.samples_per_s <= 0 or not progress.total_steps:
        return None
    return max(0, progress.total_steps - progress.step) * float(batch) / progress.samples_per_s


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a stored configuration by today's dotted names."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= {f"{'task' if key == 'options' else key}.{name}": item for name, item in value.items()}
        else:
            flat[key] = value
    if isinstance(args := flat.pop("model.args", None), dict):
        flat |= {f"model.{name}": item for name, item in args.items()}
    return {RENAMED.get(key, key): value for key, value in flat.items()}


def duration(seconds: float | None) -> str:
    """`45 s`, `3:05`, `2:03:05` or `3 d 2 h`; a dash for None."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def line(view: RunView, width: int = 0) -> str:
    """One line about a run that is followed; of `width` columns, unless 0, what matters least is left out.

    Epoch, loss, the best of the monitored metric and the time left stay longest.
    """
    p = view.progress
    why = f" ({view.detail})" if view.detail and view.is_active else ""
    parts = [(2, view.name or view.run_id), (9 if why or view.state != "running" else 3, view.state + why)]
    if view.state == "running":
        if p.phase == "training":
            parts.append((9, f"epoch {min(p.epoch + 1, p.epochs)}/{p.epochs}"))
            parts.append((0, f"step {p.step}/{p.total_steps}" if p.total_steps else f"step {p.step}"))
            if p.loss is not None:
                parts.append((8, f"loss {p.loss:.4f}"))
            if view.left_s is not None:
                parts += [(1, f"{p.samples_per_s:.0f} samples/s"), (8, f"{duration(view.left_s)} left")]
        else:
            parts.append((9, p.phase))
        if view.attempts > 1:
            parts.append((4, f"attempt {view.attempts}"))
    if p.best:
        parts.append((8, f"best {p.best['metric']} {p.best['value']:.4f}"))
        parts.append((5, f"(epoch {p.best['epoch']})"))

    def text() -> str:
        return "  ".join(part for _, part in parts).replace("  (epoch", " (epoch")

    while width and len(text()) > width and min(parts)[0] < 8:
        parts.remove(min(parts))
    return text()


def typed(name: str, folder: RunDir | SweepDir, flags: str = "") -> str:
    """A command about a run or a sweep that works when pasted, from the same folder."""
    home = home_flag(folder.home)
    option = "--resume " if name == "launch" else ""
    return f"{program.command(name)} {option}{shlex.quote(folder.path.name)}{home}{' ' + flags if flags else ''}"


def answers(run: RunDir) -> dict[str, str]:
    """The command that gives what a trained run answers: of its test split, or where it has none, of new pictures."""
    with contextlib.suppress(InputError, DamageError, OSError):
        if "test" not in Manifest.load(Path(read_facts(run).shard_set)).splits:
            return {"predict": typed("predict", run, "--source DIR")}
    return {"collect": typed("collect", run)}


def home_flag(home: Home) -> str:
    """` --home DIR` where commands typed in this folder would look elsewhere."""
    return "" if Home.find().path == home.path else f" --home {shlex.quote(str(home.path))}"
