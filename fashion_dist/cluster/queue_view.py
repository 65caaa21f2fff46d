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
        elsewhere: those of another cluster, which only that one knows.
        suspended: those that Slurm has stopped for a while.
    """

    statuses: Mapping[JobRef, JobStatus] = field(default_factory=dict)
    reasons: Mapping[JobRef, str] = field(default_factory=dict)
    ends: Mapping[JobRef, str] = field(default_factory=dict)
    silent: str = ""
    booted: float = 0.0
    elsewhere: frozenset[JobRef] = frozenset()
    suspended: frozenset[JobRef] = frozenset()

    def status(self, job: JobRef | None) -> JobStatus:
        """Whether a job waits or runs; no job is gone."""
        return "gone" if job is None else self.statuses.get(job, "unknown")


ASK_S = 10.0
"""Least time between two questions about the queue of whoever looks again and again."""


LATE_S = 60.0
"""How late accounting may know how a job ended."""


class Scheduler:
    """Asks Slurm for many runs at once, by the ids of their jobs; answers are kept until `refresh`."""

    def __init__(self) -> None:
        self._queue: dict[str, slurm.Queued] = {}
        self._asked: set[str] = set()
        self._accounting: dict[str, str] = {}
        self._first_asked: dict[str, float] = {}
        self._accounting_next = 0.0
        self._silent = ""
        self._name: str | None = None
        self._since = time.monotonic()

    def refresh(self) -> None:
        """Forget what the queue said once that is `ASK_S` old; how jobs ended stays known."""
        if time.monotonic() - self._since > ASK_S:
            self._queue, self._asked, self._silent = {}, set(), ""
            self._since = time.monotonic()

    def ask(self, jobs: Iterable[JobRef], ended: Iterable[JobRef] | None = None) -> QueueView:
        """What is known of `jobs`; accounting is asked how those of `ended` did that have left the queue, or all."""
        known = list(dict.fromkeys(jobs))
        self._ask_queue([job for job in known if job.cluster == "slurm"])
        statuses = {job: self._status(job) for job in known}
        wanted = [job for job in (known if ended is None else ended) if job.cluster == "slurm"]
        self._ask_accounting([job.job_id for job in wanted if statuses[job] == "gone"])
        entries = {job: entry for job in known if job.cluster == "slurm" and (entry := self._entry(job)) is not None}
        return QueueView(
            statuses,
            {job: entry.reason for job, entry in entries.items() if entry.reason != "None"},
            {job: found for job in wanted if (found := self._accounting.get(job.job_id))},
            self._silent,
            _booted(),
            frozenset(job for job in known if job.cluster == "slurm" and self._is_elsewhere(job)),
            frozenset(job for job, entry in entries.items() if entry.state in ("SUSPENDED", "STOPPED")),
        )

    def _ask_queue(self, jobs: list[JobRef]) -> None:
        """Of an array the whole is asked about, so that its tasks are one question."""
        new = {job.job_id.partition("_")[0].partition("+")[0] for job in jobs if not self._is_elsewhere(job)}
        new -= self._asked
        if new and not self._silent:
            self._asked |= new
            try:
                self._queue |= {entry.job_id: entry for entry in slurm.queue(job_ids=sorted(new))}
            except RunError as error:
                self._silent = str(error)

    def _is_elsewhere(self, job: JobRef) -> bool:
        if job.name and self._name is None:
            try:
                self._name = slurm.cluster_name()
            except RunError as error:
                self._name, self._silent = "", str(error)
        return bool(job.name and self._name) and job.name != self._name

    def _status(self, job: JobRef) -> JobStatus:
        if job.cluster == "local":
            return slurm.job_status(job)
        if self._is_elsewhere(job):
            return "unknown"
        entry = self._entry(job)
        return "unknown" if self._silent else entry.status if entry is not None else "gone"

    def _entry(self, job: JobRef) -> slurm.Queued | None:
        # Of a heterogeneous job the ranks know the id, and the queue its parts.
        return None if self._is_elsewhere(job) else self._queue.get(job.job_id, self._queue.get(f"{job.job_id}+0"))

    def _ask_accounting(self, job_ids: list[str]) -> None:
        # Accounting may be some seconds late with how a job ended, so an empty answer is asked for again for a while.
        now = time.monotonic()
        again = now >= self._accounting_next
        new = [
            job_id
            for job_id in job_ids
            if job_id not in self._accounting
            or (again and not self._accounting[job_id] and now - self._first_asked[job_id] < LATE_S)
        ]
        if not new:
            return
        self._accounting_next = now + ASK_S
        for job_id in new:
            self._first_asked.setdefault(job_id, now)
        many = len(new) > _MANY  # a command line has an end, and an array answers for all its tasks
        asked = dict.fromkeys(job_id.partition("_")[0] if many else job_id for job_id in new)
        self._accounting |= dict.fromkeys(new, "") | slurm.accounting(asked)


def _booted() -> float:
    if not hasattr(time, "CLOCK_BOOTTIME"):  # Linux alone
        return 0.0
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
