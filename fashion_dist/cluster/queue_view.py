"""What the scheduler and this machine say about jobs, asked once for many runs and then left as it is."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fashion_dist.cluster import slurm
from fashion_dist.cluster.slurm import JobRef, JobStatus
from fashion_dist.errors import RunError

_MANY = 50


@dataclass(frozen=True)
class QueueView:
    """Answers about some jobs at one moment.

    Args:
        statuses: whether each waits, runs or is gone; a job that was not asked about is unknown.
        reasons: why those that wait do.
        ends: how those that are gone ended, such as CANCELLED, where accounting knows.
        silent: why Slurm did not answer; empty where it did, or was not asked.
        booted: Unix time at which this machine started; 0 where it does not tell.
    """

    statuses: Mapping[JobRef, JobStatus] = field(default_factory=dict)
    reasons: Mapping[JobRef, str] = field(default_factory=dict)
    ends: Mapping[JobRef, str] = field(default_factory=dict)
    silent: str = ""
    booted: float = 0.0

    def status(self, job: JobRef | None) -> JobStatus:
        """Whether a job waits or runs; no job is gone."""
        return "gone" if job is None else self.statuses.get(job, "unknown")


class Scheduler:
    """Asks Slurm once for many runs: its queue is read when the first run needs it, then kept."""

    def __init__(self) -> None:
        self._queue: dict[str, slurm.Queued] | None = None
        self._accounting: dict[str, str] = {}
        self._silent = ""

    def ask(self, jobs: Iterable[JobRef], ended: Iterable[JobRef] | None = None) -> QueueView:
        """What is known of `jobs`; accounting is asked how those of `ended` did that have left the queue, or all."""
        known = list(dict.fromkeys(jobs))
        statuses = {job: self._status(job) for job in known}
        wanted = [job for job in (known if ended is None else ended) if job.cluster == "slurm"]
        self._ask_accounting([job.job_id for job in wanted if statuses[job] == "gone"])
        entries = {job: self._entry(job) for job in known if job.cluster == "slurm"}
        return QueueView(
            statuses,
            {job: entry.reason for job, entry in entries.items() if entry is not None and entry.reason != "None"},
            {job: found for job in wanted if (found := self._accounting.get(job.job_id))},
            self._silent,
            _booted(),
        )

    def _status(self, job: JobRef) -> JobStatus:
        if job.cluster == "local":
            return slurm.job_status(job)
        entry = self._entry(job)
        return "unknown" if self._silent else entry.status if entry is not None else "gone"

    def _entry(self, job: JobRef) -> slurm.Queued | None:
        if self._queue is None:
            try:
                self._queue = {entry.job_id: entry for entry in slurm.queue()}
            except RunError as error:
                self._queue, self._silent = {}, str(error)
        return self._queue.get(job.job_id)

    def _ask_accounting(self, job_ids: list[str]) -> None:
        new = [job_id for job_id in job_ids if job_id not in self._accounting]
        many = len(new) > _MANY  # a command line has an end, and an array answers for all its tasks
        asked = dict.fromkeys(job_id.partition("_")[0] if many else job_id for job_id in new)
        self._accounting |= dict.fromkeys(new, "") | slurm.accounting(asked)


def _booted() -> float:
    if not hasattr(time, "CLOCK_BOOTTIME"):  # Linux alone
        return 0.0
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
