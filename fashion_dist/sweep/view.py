"""Where every trial of a sweep stands, put together from its files, its runs' and the scheduler."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fashion_dist.cluster import failures, slurm
from fashion_dist.cluster.job_record import JobRecord
from fashion_dist.cluster.queue_view import QueueView, Scheduler
from fashion_dist.cluster.run_snapshot import STATES, RunSnapshot, derive_status
from fashion_dist.cluster.run_view import RunView, read_run_views
from fashion_dist.cluster.slurm import JobRef
from fashion_dist.io import names_in, parse_dataclass, read_object
from fashion_dist.paths import SweepDir
from fashion_dist.sweep import decisions
from fashion_dist.sweep.sweep_record import SubmittedArray, Sweep, read_arrays

UNFINISHED = ("failed", "cancelled", "stopped")
"""States of trials that `--rerun-failed` runs again."""


@dataclass(frozen=True)
class TrialView:
    """One trial: its settings, none while a search has not started it, and its run, of id "" while it has none."""

    number: int
    settings: Mapping[str, Any]
    view: RunView

    @property
    def value(self) -> float | None:
        """The best value of the sweep's metric so far."""
        found = self.view.progress.best.get("value")
        return None if found is None else float(found)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        p = self.view.progress
        return {
            "trial": self.number, "run": self.view.run_id, "state": self.view.state, "settings": dict(self.settings),
            "best": p.best, "epoch": p.epoch, "epochs": p.epochs, "attempts": self.view.attempts,
            "detail": self.view.detail, "job": self.view.job.to_json() if self.view.job else None,
        }  # fmt: skip


@dataclass(frozen=True)
class UnreadableSweep:
    """A sweep of which nothing is known but why."""

    sweep_id: str
    detail: str
    task: str = ""
    trials: Sequence[TrialView] = ()
    is_active: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"sweep": self.sweep_id, "state": "unreadable", "detail": self.detail, "trials": []}


@dataclass(frozen=True)
class SweepView:
    """One sweep, as a table or a program shows it."""

    sweep: Sweep
    trials: Sequence[TrialView]
    arrays: Sequence[SubmittedArray] = field(default_factory=tuple)

    @property
    def task(self) -> str:
        """What its trials learn."""
        return self.sweep.base.task

    @property
    def counts(self) -> dict[str, int]:
        """How many trials are in each state that occurs."""
        found = {state: sum(trial.view.state == state for trial in self.trials) for state in STATES}
        return {state: count for state, count in found.items() if count}

    @property
    def is_active(self) -> bool:
        """Whether any trial waits or runs."""
        return any(trial.view.is_active for trial in self.trials)

    @property
    def ranked(self) -> list[TrialView]:
        """The trials that have a value of the metric, the best first."""
        score = self.sweep.monitor.score
        having = [trial for trial in self.trials if trial.value is not None]
        return sorted(having, key=lambda trial: (-score(trial.value), trial.number))

    @property
    def best(self) -> TrialView | None:
        """The best trial so far."""
        return next(iter(self.ranked), None)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        sweep = self.sweep
        return {
            "sweep": sweep.folder.sweep_id, "name": sweep.name, "task": sweep.base.task, "method": sweep.spec.method,
            "counts": self.counts, "best": self.best.to_json() if self.best else None,
            "jobs": [array.job.to_json() for array in self.arrays if array.job is not None],
            "trials": [trial.to_json() for trial in self.trials],
        }  # fmt: skip


def read_sweep_view(
    folder: SweepDir, scheduler: Scheduler | None = None, known: Mapping[str, RunView] | None = None
) -> SweepView:
    """Everything about one sweep; Slurm is asked twice at most. `known` has runs looked at already, by id.

    Raises:
        RunError: there is no sweep.
        InputError: it cannot be read: `FILE: why`.
    """
    scheduler = scheduler or Scheduler()
    sweep, arrays = Sweep.read(folder), read_arrays(folder)
    trials = [sweep.trial(number) for number in range(len(sweep.trials))]
    runs = [sweep.run_of(trial) for trial in trials if trial is not None]
    there = names_in(folder.home.runs)
    new = [run for run in runs if run.run_id not in (known or {}) and run.run_id in there]
    views = {**(known or {}), **{view.run_id: view for view in read_run_views(new, scheduler)}}
    last = {number: array for array in arrays for number in array.numbers if number < len(trials)}
    jobs = {number: job for number, array in last.items() if (job := array.job_of(number)) is not None}
    given_up = decisions.given_up(folder) if sweep.is_studied else {}
    queue, local = scheduler.ask(jobs.values()), _LocalQueue.read(folder, arrays)
    found = []
    for number, trial in enumerate(trials):
        run_id = trial.run_id if trial is not None else ""
        view = views.get(run_id) or RunView(run_id, sweep.base.task, "new")
        if view.state not in ("done", "unreadable") and not view.is_active:
            if number in given_up:
                view = dataclasses.replace(view, state="pruned", detail=given_up[number])
            elif number in jobs and last[number].cluster == "local":
                view = local.seen(view, number, jobs[number])
            elif number in jobs:
                view = _seen_in_array(view, folder, last[number], jobs[number], queue)
        found.append(TrialView(number, trial.settings if trial is not None else {}, view))
    return SweepView(sweep, found, arrays)


@dataclass(frozen=True)
class _LocalQueue:
    """The local queue: its process, whether that runs, which trials it has started, and which it could not and why."""

    job: JobRef | None = None
    is_running: bool = False
    started: tuple[int, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: SweepDir, arrays: Sequence[SubmittedArray]) -> _LocalQueue:
        last = arrays[-1] if arrays else None
        if last is None or last.cluster != "local" or last.job is None:
            return cls()
        is_running = slurm.job_status(last.job) in ("running", "unknown")
        noted = parse_dataclass(cls, {**read_object(folder.queue), "is_running": is_running}, folder.queue)
        return noted if noted.job == last.job else cls(last.job, is_running)

    def seen(self, view: RunView, number: int, job: JobRef) -> RunView:
        """A trial as its queue has it, where its run says nothing of its last job."""
        if words := self.refused.get(str(number)):
            return dataclasses.replace(view, state="failed", detail=words)
        if self.is_running and self.job == job and number not in self.started:
            return dataclasses.replace(view, state="queued", detail="", job=job)
        return view


def _seen_in_array(view: RunView, folder: SweepDir, array: SubmittedArray, job: JobRef, queue: QueueView) -> RunView:
    """A trial by its last job, where its run says nothing of that."""
    is_gone = queue.status(job) == "gone"
    if is_gone and view.state != "new" and view.job == job:
        return view
    # The job waits, or ended before its run could say anything: all that there is of it is its log.
    record = JobRecord("slurm", array.resources, job=job, logs=str(folder.logs))
    logs = {job: failures.read_log(folder.logs, job, 0, [])} if is_gone else {}
    status = derive_status(RunSnapshot(folder.home.run_dir(view.run_id), record=record, logs=logs), queue)
    return dataclasses.replace(
        view, state=status.state, detail=status.message, hint=status.hint, cause=status.cause, job=job,
        there=status.job_status, log=status.log,
    )  # fmt: skip
