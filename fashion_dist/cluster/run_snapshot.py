"""What a run folder says, read once, and what follows from that and from what the scheduler says.

Others may have made the folder, or closed it: whatever cannot be read is a sentence among the snapshot's problems.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from fashion_dist.cluster import failures, job_record
from fashion_dist.cluster.failures import Failure, JobLog
from fashion_dist.cluster.job_record import Attempt, JobRecord, LockOwner
from fashion_dist.cluster.queue_view import QueueView
from fashion_dist.cluster.slurm import JobRef, JobStatus
from fashion_dist.errors import InputError
from fashion_dist.io import names_in, read_object
from fashion_dist.paths import RunDir
from fashion_dist.run_status import RunState

T = TypeVar("T")

STATES = (
    "running", "starting", "suspended", "queued", "stopped", "cancelled", "failed", "pruned", "done", "new",
    "unreadable",
)  # fmt: skip

Cause = Literal[
    "", "error", "killed", "out of memory", "node failure", "time limit", "pre-empted", "cancelled", "peer lost",
    "never started", "ended while starting", "not started again", "machine restarted", "process gone", "unexplained",
    "no answer",
]  # fmt: skip
"""Why a run is not where it was to be: `error` is a rank's own report, `unexplained` is gone without any word."""


@dataclass(frozen=True)
class RunSnapshot:
    """A run folder at one moment.

    Args:
        config: its settings, nested.
        progress: state.json.
        attempts: its starts, oldest first.
        reports: what ranks of the last start said of their end; empty where it ended well.
        logs: what the files of its jobs say, where it may have failed.
        problems: what cannot be read and decides how the run is, as `FILE: why`.
        unread: what cannot be read beside that.
    """

    run: RunDir
    config: Mapping[str, Any] = field(default_factory=dict)
    record: JobRecord | None = None
    progress: RunState | None = None
    attempts: tuple[Attempt, ...] = ()
    owner: LockOwner | None = None
    reports: tuple[Failure, ...] = ()
    logs: Mapping[JobRef, JobLog] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    @classmethod
    def read(cls, run: RunDir) -> RunSnapshot:
        """The folder as it is now; five small files, and its errors and logs where it is not done. Never raises."""
        problems: list[str] = []

        def of(read: Callable[[], T]) -> T | None:
            try:
                return read()
            except InputError as error:
                problems.append(str(error))
                return None

        try:
            there = names_in(run.path)
        except OSError:  # closed to this user, as what is in it is
            there = {path.name for path in (run.config, run.job, run.state, run.attempts, run.lock)}
        config = (of(lambda: _read_config(run)) if run.config.name in there else None) or {}
        record = of(lambda: JobRecord.read(run)) if run.job.name in there else None
        progress = of(lambda: RunState.load(run.state)) if run.state.name in there else None
        attempts = tuple((of(lambda: job_record.attempts(run)) if run.attempts.name in there else None) or ())
        owner = of(lambda: LockOwner.read(run)) if run.lock.name in there else None
        made = cls(run, config, record, progress, attempts, owner, problems=tuple(problems))
        if problems or (progress is not None and progress.state == "done"):
            return made
        unread: list[str] = []
        has_reports = attempts and run.errors.name in there
        reports = tuple(failures.read(run, attempts[-1].attempt, unread)) if has_reports else ()
        began = {made.last.job: made.last.attempt} if made.last is not None else {}
        logs = {job: failures.read_log(made.logs_of(job), job, began.get(job, 0), unread) for job in made.jobs}
        return cls(run, config, record, progress, attempts, owner, reports, logs, (), tuple(unread))

    @property
    def last(self) -> Attempt | None:
        """The last start."""
        return self.attempts[-1] if self.attempts else None

    @property
    def jobs(self) -> list[JobRef]:
        """Jobs that may be the run's now: the submitted one, the one that holds it, the last that started."""
        found = [
            self.record.job if self.record is not None else None,
            self.owner.job if self.owner is not None else None,
            self.last.job if self.last is not None else None,
        ]
        return list(dict.fromkeys(job for job in found if job is not None))

    @property
    def is_done(self) -> bool:
        """Whether it has trained to its end."""
        return self.progress is not None and self.progress.state == "done"

    def is_over(self, job: JobRef) -> bool:
        """Whether the files say that a job has ended, where nobody else can: its start is, and it holds nothing."""
        last = self.last
        return self.owner is None and last is not None and last.job == job and bool(last.end) and not last.goes_on

    def job_now(self, queue: QueueView) -> JobRef | None:
        """The job that the run's state is about: a live one that was started by hand comes before a submitted one."""
        submitted = self.record.job if self.record is not None else None
        if self.owner is not None and self.owner.job != submitted and queue.status(self.owner.job) != "gone":
            return self.owner.job
        return submitted or (self.last.job if self.last is not None else None)

    def logs_of(self, job: JobRef) -> Path:
        """The folder of a job's output."""
        record = self.record
        if record is None or record.job != job or not record.logs:
            return self.run.logs
        is_moved = record.sweep and not Path(record.logs).is_dir()  # with the whole working folder
        return self.run.home.sweep_dir(Path(record.sweep).name).logs if is_moved else Path(record.logs)


def _read_config(run: RunDir) -> dict[str, Any]:
    """Only what a table needs is looked at: what trains or predicts reads the configuration by `runs.read_config`."""
    values = read_object(run.config)
    if not isinstance(values.get("task", ""), str):
        raise InputError(f"{run.config}: task is no text")
    train = values.get("train", {})
    if not isinstance(train, dict) or not isinstance(train.get("batch_size", 0), int):
        raise InputError(f"{run.config}: train.batch_size is no number")
    return values


@dataclass(frozen=True)
class RunStatus:
    """How a run is: one of `STATES`, why (in a sentence, and by its kind), what to do about it, and in which log."""

    state: str
    message: str = ""
    hint: str = ""
    cause: Cause = ""
    job: JobRef | None = None
    job_status: JobStatus = "gone"
    log: Path | None = None


def derive_status(snapshot: RunSnapshot, queue: QueueView) -> RunStatus:
    """How a run is, by its files and by what the scheduler says of `snapshot.jobs`; the files win if they disagree."""
    if snapshot.problems:
        return RunStatus("unreadable", f"unreadable: {snapshot.problems[0]}")
    job, last, progress = snapshot.job_now(queue), snapshot.last, snapshot.progress
    there = queue.status(job)
    began = last is not None and job is not None and last.job == job
    is_fresh = began and last is not None and progress is not None and progress.attempt == last.attempt
    stopped = is_fresh and progress is not None and progress.state == "stopped"
    goes_on = last is not None and last.goes_on
    if snapshot.is_done:
        return RunStatus("done", job=job, job_status=there)
    if there == "gone" and began and last is not None and last.end == "pruned":
        return RunStatus("pruned", progress.message if progress else "", job=job)
    if job is None:
        return RunStatus("new")
    if job in queue.elsewhere and not stopped and not snapshot.is_over(job):
        words = f"on cluster {job.name}, which alone knows of its job; this is what its files say"
        state = progress.state if is_fresh and progress else "starting" if began else "queued"
        return RunStatus(state, words, "", "no answer", job, there)
    if job in queue.suspended:
        words = "suspended by Slurm; it goes on when Slurm lets it"
        return RunStatus("suspended", words, job=job, job_status=there)
    if there == "queued" or (there != "gone" and stopped and goes_on):
        return RunStatus("queued", queue.reasons.get(job, ""), job=job, job_status=there)
    if there == "gone" and not (stopped and not goes_on):
        return _why_it_ended(snapshot, queue, job, began=began)
    state = progress.state if is_fresh and progress is not None else "starting"
    if state == "failed":
        return _why_it_ended(snapshot, queue, job, began=began)
    if there == "unknown" and not stopped:
        who = (
            f"Slurm does not answer ({queue.silent})" if job.cluster == "slurm" else f"only {job.host} knows of its job"
        )
        return RunStatus(state, f"{who}; this is what its files say", "", "no answer", job, there)
    return RunStatus(state, progress.message if stopped and progress else "", job=job, job_status=there)


_BY_SLURM: Mapping[str, tuple[Cause, str, str]] = {
    "CANCELLED": ("cancelled", "the job was cancelled", ""),
    "NODE_FAIL": ("node failure", "a node of the job failed", "launching again goes on from the last checkpoint"),
    "BOOT_FAIL": ("node failure", "the job's nodes did not boot", "launching again goes on from the last checkpoint"),
    "OUT_OF_MEMORY": ("out of memory", "the job ran out of memory", "ask for more with --mem"),
    "TIMEOUT": (
        "time limit", "the job was ended at its time limit before it could save",
        "launching again goes on; a longer --time-min, or a longer signal_delay_s in the preset, lets it save",
    ),
    "DEADLINE": ("time limit", "the job was ended at its deadline", "launching again goes on from the last checkpoint"),
    "PREEMPTED": (
        "pre-empted", "the job was pre-empted before it could save", "launching again goes on from the last checkpoint"
    ),
}  # fmt: skip


def _why_it_ended(snapshot: RunSnapshot, queue: QueueView, job: JobRef, *, began: bool) -> RunStatus:
    """The cause, from the surest witness to the least: a rank's own words, the scheduler's, the system's, peers'."""
    log = snapshot.logs.get(job, JobLog(snapshot.logs_of(job)))
    reports = snapshot.reports if began else ()
    ended = queue.ends.get(job, "")
    there = queue.status(job)

    def status(cause: Cause, message: str, hint: str = "", path: Path | None = None) -> RunStatus:
        state = "cancelled" if cause == "cancelled" else "failed"
        return RunStatus(state, message, hint, cause, job, there, path or log.path)

    found = failures.cause(reports, log.killed)
    if any(not report.is_of_a_peer for report in reports):
        assert found is not None, "there is a report"
        return status("error", found.sentence, "", log.of_rank(found.rank))
    # Accounting, where there is any, says FAILED of a job whose step was killed; Slurm's lines in the log say by what.
    by_slurm = next(
        (_BY_SLURM[word] for end in (ended, log.ended) if (word := end.partition(" ")[0]) in _BY_SLURM), None
    )
    if by_slurm is not None:
        cause, message, hint = by_slurm
        if cause == "out of memory" and snapshot.record is not None and snapshot.record.options.cache != "none":
            hint += (
                f", or take less: --cache {snapshot.record.options.cache} kept decoded images, --cache none keeps none"
            )
        before = "" if began else " before it started"
        seen = f" ({found.sentence})" if found is not None else ""
        return status(cause, f"{message}{before if cause == 'cancelled' else ''}{seen}", hint)
    if found is not None:
        is_killed = not set(log.killed) <= {report.rank for report in reports}
        memory = "the system kills what uses more memory than there is; dmesg on that node tells"
        hint = memory if found.sentence.endswith(("signal 9", "was killed")) else ""
        return status("killed" if is_killed else "peer lost", found.sentence, hint, log.of_rank(found.rank))
    return _without_a_word(snapshot, queue, job, log, ended, status, began=began)


def _without_a_word(
    snapshot: RunSnapshot, queue: QueueView, job: JobRef, log: JobLog, ended: str,
    status: Callable[..., RunStatus], *, began: bool,
) -> RunStatus:  # fmt: skip
    """Why a job ended of which no rank, no log and no accounting says why."""
    last, progress = snapshot.last, snapshot.progress
    of_slurm = f"Slurm says {ended}" if ended else "Slurm does not say why"
    tail = f"; its log ends with: {log.last}" if log.last else f"; {snapshot.unread[0]}" if snapshot.unread else ""
    since = last.started if began and last is not None else snapshot.record.submitted if snapshot.record else 0.0
    if began and progress is not None and progress.state == "failed" and progress.message:
        return status("error", progress.message)
    if began and last is not None and (last.goes_on or log.ended == "REQUEUED"):
        words = f"the job was to go on by itself after its {last.end or 'requeue'} and is gone"
        return status("not started again", words, "launching again goes on from the last checkpoint")
    if job.cluster == "local":
        if 0 < since < queue.booted:
            words = "this machine was restarted while the job ran"
            return status("machine restarted", words, "launching again goes on from the last checkpoint")
        if not began:
            cause: Cause = "ended while starting" if log.written else "never started"
            return status(cause, f"the job ended before rank 0 took the run's lock{tail}")
        return status("process gone", f"the job's processes were ended from outside, without a report{tail}")
    if not began and not log.written:
        if not ended:  # Slurm forgets a job that is cancelled while it waits
            return status("cancelled", "the job was cancelled before it started")
        return status("never started", f"the job ended before it could write a log ({of_slurm})")
    if not began:
        return status("ended while starting", f"the job ended before rank 0 took the run's lock ({of_slurm}){tail}")
    return status("unexplained", f"the job is gone without a report ({of_slurm}){tail}")
