"""Signals that end a start of a run, the time that is left to it, and what Slurm meant by either."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Mapping

from fashion_dist.cluster import job_record, slurm
from fashion_dist.cluster.job_record import JobRecord, LockOwner
from fashion_dist.cluster.machine import Beat
from fashion_dist.cluster.rank_env import RankInfo
from fashion_dist.errors import RunError
from fashion_dist.paths import RunDir


class PreemptionFlag:
    """Set by signals, asked by the training loop at each step.

    USR2 is the scheduler's warning before the time limit or a pre-emption: save and go on later. TERM ends the run
    here: save. Python runs handlers between bytecodes of the main thread, so one that comes during a collective
    waits for its end.
    """

    def __init__(self) -> None:
        self.signals: list[str] = []

    @property
    def requested(self) -> bool:
        """Whether to stop at the next step."""
        return bool(self.signals)

    def install(self) -> None:
        """Listen; replaces submitit's handlers, which would leave in the middle of a step."""
        signal.signal(signal.SIGUSR2, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGCONT, signal.SIG_DFL)  # Slurm sends it before every other; submitit would log it

    def _on_signal(self, number: int, _frame: object) -> None:
        name = signal.Signals(number).name
        self.signals.append(name)
        print(f"{name}: stopping at the next step", file=sys.stderr, flush=True)


def time_left(rank_info: RankInfo) -> float | None:
    """Seconds to this job's time limit, as an administrator may have moved it; None without one."""
    if rank_info.job.cluster == "local":
        return None
    try:
        entries = slurm.queue(job_ids=[rank_info.job.job_id])
    except RunError as error:
        print(f"the time limit is the one that the job began with: {error}", file=sys.stderr, flush=True)
        return _left_by_clock(os.environ)
    return entries[0].left_s if entries else 0.0


def was_suspended(rank_info: RankInfo) -> bool:
    """Whether Slurm has suspended this job at some time; where it cannot be asked, that is believed."""
    with contextlib.suppress(RunError):
        found = re.search(r"SuspendTime=(\S+)", slurm.ask(["scontrol", "show", "job", rank_info.job.job_id]))
        return found is None or found[1] not in ("None", "Unknown")
    return True


def ask_why_stopped(run: RunDir, rank_info: RankInfo, owner: LockOwner) -> job_record.End:
    """What the signals meant: Slurm sends the same ones for different reasons, so it is asked."""
    signals = {name for beat in Beat.read_all(run, owner.attempt).values() for name in beat.signals}
    if rank_info.job.cluster == "local":
        return "time limit" if signals == {"SIGUSR2"} else "cancelled"
    record = JobRecord.read(run)
    delay_s = record.resources.signal_delay_s if record is not None else 120
    try:
        entries = slurm.queue(job_ids=[rank_info.job.job_id])
        facts = slurm.ask(["scontrol", "show", "job", rank_info.job.job_id]) if entries else ""
    except RunError as error:
        print(f"the signals are taken for what they say, for {error}", file=sys.stderr, flush=True)
        return why_stopped(signals, _left_by_clock(os.environ), delay_s)
    if not entries or entries[0].status == "gone":
        return "cancelled"
    return why_stopped(signals, entries[0].left_s, delay_s, facts, rank_info.restart)


def why_stopped(
    signals: set[str], left_s: float | None, delay_s: float, facts: str = "", restart: int = 0
) -> job_record.End:
    """What ended a start of a job that Slurm still knows.

    Args:
        signals: that any rank got: USR2 is a warning, TERM the end.
        left_s: until the time limit; None without one, 0 once it has passed.
        delay_s: how long before the limit Slurm warns.
        facts: what `scontrol show job` says.
        restart: how often this start had been requeued.
    """
    restarts = re.search(r"Restarts=(\d+)", facts)
    if restarts is not None and int(restarts[1]) > restart:
        return "requeued"  # by an administrator or Slurm itself, while this start is still ending
    preempted = re.search(r"PreemptTime=(\S+)", facts)
    if preempted is not None and preempted[1] not in ("None", "Unknown"):
        return "pre-empted"
    if "SIGTERM" in signals and (left_s is None or left_s > 0):
        return "cancelled"  # a limit sends TERM when nothing is left, so this one is a person's
    if left_s is not None and left_s <= delay_s + 60:
        return "time limit"
    return "pre-empted" if "SIGUSR2" in signals else "cancelled"


def _left_by_clock(environment: Mapping[str, str]) -> float | None:
    end = environment.get("SLURM_JOB_END_TIME", "")
    return max(0.0, int(end) - time.time()) if end.isdigit() else None
