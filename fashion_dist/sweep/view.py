"""Where every trial of a sweep stands, put together from its files, its runs' and the scheduler."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fashion_dist.cluster import slurm
from fashion_dist.cluster.run_view import STATES, RunView, Scheduler, read_run_view
from fashion_dist.cluster.slurm import JobRef
from fashion_dist.io import read_json
from fashion_dist.paths import SweepDir
from fashion_dist.sweep import decisions
from fashion_dist.sweep.sweep_record import SubmittedArray, Sweep, Trial, read_arrays

UNFINISHED = ("failed", "cancelled", "stopped")
"""States of trials that `--rerun-failed` runs again."""


@dataclass(frozen=True)
class TrialView:
    """One trial.

    Args:
        number: from 0.
        settings: what it was given; empty while a search has not started it.
        view: its run; a run id of "" while it has none.
    """

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
class SweepView:
    """One sweep, as a table or a program shows it."""

    sweep: Sweep
    trials: Sequence[TrialView]
    arrays: Sequence[SubmittedArray] = field(default_factory=tuple)

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
        sign = -1 if self.sweep.base.train.mode == "max" else 1
        having = [(sign * value, t.number, t) for t in self.trials if (value := t.value) is not None]
        return [trial for _, _, trial in sorted(having, key=lambda item: item[:2])]

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
    folder: SweepDir, slurm: Scheduler | None = None, known: Mapping[str, RunView] | None = None
) -> SweepView:
    """Everything about one sweep; Slurm is asked twice at most.

    Args:
        folder: the sweep's.
        slurm: what has been asked already.
        known: runs that have been looked at already, by run id.
    """
    slurm, known = slurm or Scheduler(), known or {}
    sweep, arrays = Sweep.read(folder), read_arrays(folder)
    last = {number: array for array in arrays for number in array.numbers}
    gone = decisions.given_up(folder) if sweep.is_studied else {}
    queue = _Queue(folder, arrays)
    slurm.expect([job for number, array in last.items() if (job := array.job_of(number)) is not None])
    trials = [
        _look(sweep, number, last.get(number), slurm, queue, gone.get(number, ""), known)
        for number in range(len(sweep.trials))
    ]
    return SweepView(sweep, trials, arrays)


class _Queue:
    """The local queue, when one runs."""

    def __init__(self, folder: SweepDir, arrays: Sequence[SubmittedArray]) -> None:
        last = arrays[-1] if arrays else None
        self.job = last.job if last is not None and last.cluster == "local" else None
        self.is_running = self.job is not None and slurm.job_status(self.job) in ("running", "unknown")
        values = read_json(folder.queue)
        is_its = JobRef.from_json(values.get("job"), folder.queue) == self.job
        self.started = set(values.get("started", [])) if is_its else set()
        self.refused: Mapping[str, str] = values.get("refused", {}) if is_its else {}


def _look(
    sweep: Sweep, number: int, array: SubmittedArray | None, slurm: Scheduler, queue: _Queue, gone: str,
    known: Mapping[str, RunView],
) -> TrialView:  # fmt: skip
    trial = sweep.trial(number)
    run = sweep.run_of(trial) if trial is not None else None
    view = known.get(run.run_id) if run is not None else None
    if view is None and run is not None and run.config.is_file():
        view = read_run_view(run, slurm)
    settings = trial.settings if trial is not None else {}
    if view is not None and (view.state == "done" or view.is_active):
        return TrialView(number, settings, view)
    base = view or _nothing(sweep, trial)
    if gone:
        return TrialView(number, settings, dataclasses.replace(base, state="pruned", detail=gone))
    job = array.job_of(number) if array is not None else None
    if array is None or job is None:
        return TrialView(number, settings, base)
    if array.cluster == "local":
        return TrialView(number, settings, _locally(number, base, job, queue))
    there = slurm.job_status(job)
    if there != "gone":
        state = "queued" if there == "queued" else "starting"
        entry = slurm.entry(job.job_id)
        reason = entry.reason if entry is not None and state == "queued" and entry.reason != "None" else ""
        return TrialView(number, settings, dataclasses.replace(base, state=state, detail=reason, job=job, there=there))
    if base.state == "new" or base.job != job:  # it ended before its run could say anything
        words, log = _before_the_run(sweep, job, slurm.ended(job))
        state = "failed" if log is not None else "cancelled"
        base = dataclasses.replace(base, state=state, detail=words, job=job, log=log)
    return TrialView(number, settings, base)


def _nothing(sweep: Sweep, trial: Trial | None) -> RunView:
    return RunView(run_id=trial.run_id if trial is not None else "", task=sweep.base.task, state="new")


def _locally(number: int, base: RunView, job: JobRef, queue: _Queue) -> RunView:
    if words := queue.refused.get(str(number)):
        return dataclasses.replace(base, state="failed", detail=words)
    if queue.is_running and queue.job == job and number not in queue.started:
        return dataclasses.replace(base, state="queued", detail="", job=job)
    return base


def _before_the_run(sweep: Sweep, job: JobRef, ended: str) -> tuple[str, Path | None]:
    """Why a task ended before its run could say anything, and its log; without a log it was cancelled."""
    log = sweep.folder.logs / f"{job.job_id}_0_log.err"
    if ended.startswith("CANCELLED"):
        return "the job was cancelled", None
    try:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except FileNotFoundError:
        # Slurm forgets the last task of an array when it is cancelled while it waits.
        return ("the job was cancelled before it started", None) if not ended else (f"the job ended: {ended}", log)
    return (lines[-1] if lines else f"the job ended without a word ({ended or 'state unknown'})"), log
