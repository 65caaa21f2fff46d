"""What is known of a run, put together from its own files and the scheduler; the files win where they disagree."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fashion_dist.cluster import failures, job_record, run_lock, slurm
from fashion_dist.cluster.slurm import JobRef, JobStatus
from fashion_dist.errors import RunError
from fashion_dist.io import read_json
from fashion_dist.paths import Home, RunDir
from fashion_dist.run_status import RunState
from shards import program

_MANY = 50

STATES = ("running", "starting", "queued", "stopped", "cancelled", "failed", "pruned", "done", "new", "unreadable")

_BY_SLURM = {
    "CANCELLED": "the job was cancelled",
    "NODE_FAIL": "a node of the job failed",
    "OUT_OF_MEMORY": "the job ran out of memory; ask for more with --mem-gb",
    "TIMEOUT": "the job was ended at its time limit before it could save",
    "DEADLINE": "the job was ended at its deadline",
    "BOOT_FAIL": "the job's nodes did not boot",
}


@dataclass(frozen=True)
class RunView:
    """One run, as a table or a program shows it.

    Args:
        run_id: the folder's name.
        task: what it learns.
        state: one of `STATES`.
        detail: why it waits or failed, in a sentence; may be empty.
        job: its last job.
        there: whether that job waits, runs or is gone.
        nodes: the nodes of its last start.
        attempts: how often it was started.
        progress: state.json's numbers.
        left_s: estimated seconds to the end of training; None while unknown.
        config: its settings under dotted keys.
        log: where the cause of a failure can be read on.
    """

    run_id: str
    task: str
    state: str
    detail: str = ""
    job: JobRef | None = None
    there: JobStatus = "gone"
    nodes: str = ""
    attempts: int = 0
    progress: RunState = field(default_factory=RunState)
    left_s: float | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    log: Path | None = None

    @property
    def is_active(self) -> bool:
        """Whether a job waits or runs for it."""
        return self.state in ("running", "starting", "queued")

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values = dataclasses.asdict(self)
        return {**values, "job": self.job.to_json() if self.job else None, "log": str(self.log) if self.log else None}


class Scheduler:
    """One question to Slurm for many runs: its queue is read when the first run needs it, then kept."""

    def __init__(self) -> None:
        self._queue: dict[str, slurm.Queued] | None = None
        self._accounting: dict[str, str] = {}
        self.silent = ""

    def expect(self, jobs: Iterable[JobRef]) -> None:
        """Ask accounting about these jobs at once, where they have left the queue."""
        ids = [job.job_id for job in jobs if job.cluster == "slurm"]
        gone = [job_id for job_id in ids if self.entry(job_id) is None and not self.silent]
        many = len(gone) > _MANY  # a command line has an end, and an array answers for all its tasks
        asked = dict.fromkeys(job_id.partition("_")[0] if many else job_id for job_id in gone)
        self._accounting |= dict.fromkeys(gone, "") | slurm.accounting(asked)

    def entry(self, job_id: str) -> slurm.Queued | None:
        """The job's line in the queue."""
        if self._queue is None:
            try:
                self._queue = {entry.job_id: entry for entry in slurm.queue()}
            except RunError as error:
                self._queue, self.silent = {}, str(error)
        return self._queue.get(job_id)

    def job_status(self, job: JobRef) -> JobStatus:
        """As `slurm.job_status`; `unknown` when Slurm is silent."""
        if job.cluster == "local":
            return slurm.job_status(job)
        entry = self.entry(job.job_id)
        if self.silent:
            return "unknown"
        return entry.status if entry is not None else "gone"

    def ended(self, job: JobRef) -> str:
        """How a job that is gone ended, such as CANCELLED; empty when unknown."""
        if job.cluster == "local":
            return ""
        if job.job_id not in self._accounting and not self.silent:
            self.expect([job])
        return self._accounting.get(job.job_id, "")


def read_run_view(run: RunDir, slurm: Scheduler) -> RunView:
    """Everything about one run."""
    return read_run_view_with(run, job_record.JobRecord.read(run), RunState.read(run.state), slurm)


def read_run_view_with(
    run: RunDir, record: job_record.JobRecord | None, progress: RunState | None, slurm: Scheduler
) -> RunView:
    """`read_run_view`, where job.json and state.json have been read already."""
    config = read_json(run.config)
    progress = progress or RunState(state="running", attempt=0)
    starts = job_record.attempts(run)
    job = record.job if record is not None else None
    held = run_lock.owner(run)
    if held is not None and held.job != job and slurm.job_status(held.job) != "gone":
        job = held.job  # started by hand, without launch.py
    elif job is None and starts:
        job = JobRef.from_json(starts[-1]["job"], run.attempts)
    there: JobStatus = slurm.job_status(job) if job is not None else "gone"
    began = bool(starts) and job is not None and JobRef.from_json(starts[-1]["job"], run.attempts) == job
    fresh = began and progress.attempt == starts[-1]["attempt"]
    promised = bool(starts) and bool(starts[-1].get("goes_on"))
    pruned = began and starts[-1]["end"] == "pruned"
    state = _state(progress, there, fresh=fresh, submitted=job is not None, promised=promised, pruned=pruned)
    if (
        state == "failed"
        and job is not None
        and slurm.ended(job).startswith("CANCELLED")
        and not _has_report(run, starts)
    ):
        state = "cancelled"
    base = RunView(
        run_id=run.run_id, task=str(config.get("task", "")), state=state, job=job, there=there, attempts=len(starts),
        nodes=str(starts[-1]["nodes"]) if starts else "", progress=progress, left_s=_left_s(progress, config),
        config=_flat(config),
    )  # fmt: skip
    if state in ("failed", "cancelled"):
        detail, log = why(run, job, starts, slurm.ended(job) if job is not None else "")
        return dataclasses.replace(base, detail=detail, log=log)
    if state == "queued" and job is not None and (entry := slurm.entry(job.job_id)) is not None:
        return dataclasses.replace(base, detail=entry.reason if entry.reason != "None" else "")
    return dataclasses.replace(base, detail=progress.message if state in ("stopped", "pruned") else "")


def _state(progress: RunState, there: JobStatus, *, fresh: bool, submitted: bool, promised: bool, pruned: bool) -> str:
    """The run's state.

    Args:
        progress: state.json.
        there: where the last job is.
        fresh: whether state.json was written by the last start of that job.
        submitted: whether there was a job at all.
        promised: whether the last start ended so that the scheduler was to start another.
        pruned: whether it ended because its sweep stopped it early.
    """
    if progress.state == "done":
        return "done"
    if there == "gone" and pruned:
        return "pruned"
    if there == "queued" or (there != "gone" and fresh and progress.state == "stopped" and promised):
        return "queued"
    if there in ("running", "unknown"):
        return progress.state if fresh else "starting"
    if not submitted:
        return "new"
    return "stopped" if fresh and progress.state == "stopped" and not promised else "failed"


def _has_report(run: RunDir, starts: list[dict[str, Any]]) -> bool:
    return bool(starts) and any(not f.is_of_a_peer for f in failures.read(run, starts[-1]["attempt"]))


def why(run: RunDir, job: JobRef | None, starts: list[dict[str, Any]], ended: str) -> tuple[str, Path | None]:
    """The cause of a failure in a sentence, and the log that tells more.

    Args:
        run: the run.
        job: its last job.
        starts: its attempts.
        ended: Slurm's state of the job; empty when unknown or local.
    """
    if job is None:
        return "", None
    began = bool(starts) and JobRef.from_json(starts[-1]["job"], run.attempts) == job
    reports = failures.read(run, starts[-1]["attempt"]) if began else []
    if job.cluster == "local":
        codes = read_json(run.logs / f"{job.job_id}_exits.json").get("exit_codes", [])
        killed = failures.killed_by_signal(codes)
    else:
        killed = failures.killed_by_srun(log_of(run, job, 0), starts[-1]["attempt"] if began else 1)
    found = failures.cause(reports, killed)
    log = log_of(run, job, found.rank if found else 0)
    known = next((words for state, words in _BY_SLURM.items() if ended.startswith(state)), "")
    if known and all(report.is_of_a_peer for report in reports):
        return known + (f" ({found.sentence})" if found else ""), log
    if found is not None:
        return found.sentence, log
    last = _last_line(log)
    return f"the job ended without a report; its log ends with: {last}" if last else "the job ended without a word", log


def log_of(run: RunDir, job: JobRef, rank: int) -> Path:
    """Where a rank's standard error goes."""
    record = job_record.JobRecord.read(run)
    elsewhere = record.logs if record is not None and record.job == job else ""
    return (Path(elsewhere) if elsewhere else run.logs) / f"{job.job_id}_{rank}_log.err"


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _left_s(progress: RunState, config: Mapping[str, Any]) -> float | None:
    batch = config.get("train", {}).get("batch_size", 0)
    if progress.samples_per_s <= 0 or not progress.total_steps:
        return None
    return max(0, progress.total_steps - progress.step) * float(batch) / progress.samples_per_s


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= {f"{'task' if key == 'options' else key}.{name}": item for name, item in value.items()}
        else:
            flat[key] = value
    return flat


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


def line(view: RunView) -> str:
    """One line about a run that is followed."""
    p = view.progress
    parts = [f"{view.run_id} {view.state}" + (f" ({view.detail})" if view.detail and view.is_active else "")]
    if view.state == "running":
        if p.phase == "training":
            parts.append(f"epoch {min(p.epoch + 1, p.epochs)}/{p.epochs}")
            parts.append(f"step {p.step}/{p.total_steps}" if p.total_steps else f"step {p.step}")
            if view.left_s is not None:
                parts.append(f"{p.samples_per_s:.0f} samples/s, {duration(view.left_s)} left")
        else:
            parts.append(p.phase)
        if view.attempts > 1:
            parts.append(f"attempt {view.attempts}")
    if p.best:
        parts.append(f"best {p.best['metric']} {p.best['value']:.4f} (epoch {p.best['epoch']})")
    return "  ".join(parts)


def typed(name: str, run: RunDir, flags: str = "") -> str:
    """A command about a run that works when pasted, from the same folder."""
    default = Home.find().runs == run.path.parent
    home = "" if default else f" --home {shlex.quote(str(run.path.parent.parent))}"
    option = "--resume " if name == "launch" else ""
    return f"{program.command(name)} {option}{run.run_id}{home}{' ' + flags if flags else ''}"
