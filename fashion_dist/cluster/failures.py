"""What a failing rank says, and which of several reports is the cause.

When one rank dies, its peers die of it: of "connection closed by peer", seconds later. Their reports are true and
useless, so the cause is looked for among the others first.
"""

from __future__ import annotations

import os
import re
import socket
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fashion_dist.cluster.slurm import JobRef
from fashion_dist.io import names_in, parse_dataclass, read_object, write_json
from fashion_dist.paths import RunDir
from shards.errors import InputError
from shards.safe_io import open_regular, words_of

_STARTED = time.monotonic()

_OF_A_PEER = re.compile(
    r"connection (closed|reset|refused)|broken pipe|remote process exited|timed out|timeout|socket ?closed|"
    r"NCCL (communicator|error|operation)|gloo|could not join|did not start within|did not take the run's lock|"
    r"rank 0 did not|KeyboardInterrupt|ended by a signal",
    re.IGNORECASE,
)
_PEER_TYPES = {"DistBackendError", "DistNetworkError", "DistStoreError", "KeyboardInterrupt"}


@dataclass(frozen=True)
class Failure:
    """One rank's report of an exception in a start of the run, `elapsed_s` after it began, by its own clock."""

    rank: int
    attempt: int
    host: str
    type: str
    message: str
    traceback: str = ""
    elapsed_s: float = 0.0

    @property
    def is_of_a_peer(self) -> bool:
        """Whether it only says that another rank went away."""
        return self.type in _PEER_TYPES or (self.type != "Stalled" and bool(_OF_A_PEER.search(self.message)))

    @property
    def sentence(self) -> str:
        """Rank, node and the first line of the words."""
        words = self.message.strip().splitlines()
        return f"rank {self.rank} on {self.host}: {self.type}: {words[0] if words else 'no message'}"


def report(run: RunDir, rank: int, attempt: int, error: BaseException) -> Failure:
    """Write this rank's exception into the run folder; a full disk must not hide it, so it is returned too."""
    failure = Failure(
        rank, attempt, socket.gethostname(), type(error).__name__, words_of(error),
        "".join(traceback.format_exception(type(error), error, error.__traceback__)), time.monotonic() - _STARTED,
    )  # fmt: skip
    _write(run, failure)
    return failure


def report_stalled(run: RunDir, rank: int, attempt: int, host: str, message: str) -> None:
    """Write on behalf of a rank that cannot, unless it has said something itself."""
    if not any(failure.rank == rank for failure in read(run, attempt)):
        _write(run, Failure(rank, attempt, host, "Stalled", message, "", time.monotonic() - _STARTED))


def _write(run: RunDir, failure: Failure) -> None:
    try:
        run.errors.mkdir(exist_ok=True)
        write_json(run.error(failure.rank), {**failure.__dict__, "time": time.time()})
    except OSError as error:
        print(f"the error report could not be written: {error}", flush=True)


def read(run: RunDir, attempt: int, problems: list[str] | None = None) -> list[Failure]:
    """The reports of one start of the run, in the order of ranks; `problems` takes what cannot be read: `FILE: why`."""
    found: list[Failure] = []
    for path in run.errors.glob("rank_*.json"):
        try:
            found.append(parse_dataclass(Failure, read_object(path), path))
        except InputError as error:
            if problems is not None:
                problems.append(str(error))
    return sorted((failure for failure in found if failure.attempt == attempt), key=lambda failure: failure.rank)


@dataclass(frozen=True)
class Cause:
    """Why a start of the run failed: the rank whose log tells more, and the sentence."""

    rank: int
    sentence: str


def cause(failures: Sequence[Failure], killed: Mapping[int, str] | None = None) -> Cause | None:
    """Why a start failed, by the ranks' own reports and `JobLog.killed`; None when nothing is known."""
    in_order = sorted(failures, key=lambda f: (f.elapsed_s, f.rank))
    own = [Cause(f.rank, f.sentence) for f in in_order if not f.is_of_a_peer]
    reported = {f.rank for f in failures}
    silent = [Cause(rank, f"rank {rank} was {words}") for rank, words in (killed or {}).items() if rank not in reported]
    peers = [Cause(f.rank, f.sentence) for f in in_order if f.is_of_a_peer]
    return next(iter([*own, *silent, *peers]), None)


def start_mark(attempt: int) -> str:
    """The line that begins a start's part of rank 0's log; a requeued job appends to the log it had."""
    return f"--- attempt {attempt} of this run"


@dataclass(frozen=True)
class JobLog:
    """What a job's own files say of how it ended.

    Args:
        path: rank 0's standard error, where Slurm and srun write as well.
        written: whether there is such a file.
        killed: ranks that ended without a report, such as `{1: "killed by signal 9"}`, first come first.
        ended: what Slurm wrote there of the job's end, as accounting would say it, such as TIMEOUT; may be empty.
        last: the last line of the job's own; may be empty.
    """

    path: Path
    written: bool = False
    killed: Mapping[int, str] = field(default_factory=dict)
    ended: str = ""
    last: str = ""

    def of_rank(self, rank: int) -> Path:
        """That rank's standard error."""
        return self.path.with_name(self.path.name.replace("_0_log", f"_{rank}_log"))


_TAIL = 1 << 16
_SRUN = re.compile(r"^\w+: error: (?:\S+: )?tasks? (?P<ranks>[\d,-]+): (?P<words>(?!Exited with).+)$", re.MULTILINE)
_OF_SLURM = re.compile(r"(srun|slurmstepd|slurmd)(-[\w.-]+)?: ")  # with the node's name where a host plays several
_ENDS = {
    "OUT_OF_MEMORY": re.compile(r"oom.kill|: Out Of Memory|exceeded (\w+ )?memory limit", re.IGNORECASE),
    "TIMEOUT": re.compile(r"CANCELLED AT \S+ DUE TO TIME LIMIT"),
    "NODE_FAIL": re.compile(r"CANCELLED AT \S+ DUE TO NODE FAIL|Node failure on|UNCORRECTABLE MEMORY ERROR"),
    "PREEMPTED": re.compile(r"CANCELLED AT \S+ DUE TO PREEMPTION"),
    # A step is cancelled for a failed rank, too; the signal is named since Slurm 25.05.
    "CANCELLED": re.compile(r"\*\*\* JOB \S+ ON \S+ CANCELLED AT \S+ (DUE to SIGNAL .+ )?\*\*\*"),
    "REQUEUED": re.compile(r"CANCELLED AT \S+ DUE TO JOB REQUEUE"),
}


def read_log(folder: Path, job: JobRef, attempt: int, problems: list[str]) -> JobLog:
    """What the files of one job in the `folder` of its logs say, of the part of start `attempt` unless that is 0."""
    path = folder / f"{job.job_id}_0_log.err"
    try:
        if path.name not in names_in(folder):  # a miss would be remembered
            raise FileNotFoundError(path)
        with os.fdopen(open_regular(path), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            text = file.read(_TAIL).decode(errors="replace")
    except FileNotFoundError:
        written, text = False, ""
    except (OSError, InputError) as error:
        problems.append(f"{path}: {error.strerror}" if isinstance(error, OSError) else str(error))
        written, text = True, ""
    else:
        written, text = True, text.rpartition(start_mark(attempt))[2]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    own = [line for line in lines if not _OF_SLURM.match(line)]
    last = (own or lines or [""])[-1]
    if job.cluster == "local":
        return JobLog(path, written, _killed_by_signal(exits_file(folder, job.job_id), problems), "", last)
    slurm = "\n".join(line for line in lines if _OF_SLURM.match(line))
    ended = next((state for state, pattern in _ENDS.items() if pattern.search(slurm)), "")
    return JobLog(path, written, killed_by_srun(slurm), ended, last)


def killed_by_srun(text: str) -> dict[int, str]:
    """The ranks that srun saw die of a signal, in the order it said so."""
    found: dict[int, str] = {}
    for match in _SRUN.finditer(text):
        words = match["words"].strip()
        for rank in _ranks(match["ranks"]):
            found.setdefault(rank, "killed" if words == "Killed" else f"ended by the system: {words}")
    return found


def _ranks(text: str) -> list[int]:
    ranks: list[int] = []
    for part in text.split(","):
        if found := re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part):
            ranks += range(int(found[1]), int(found[2] or found[1]) + 1)
    return ranks


def exits_file(folder: Path, job_id: str) -> Path:
    """Where a local job's controller notes the exit codes of its ranks."""
    return folder / f"{job_id}_exits.json"


@dataclass(frozen=True)
class Exits:
    """How the ranks of a local job ended in its last start: negative is a signal, None still running."""

    exit_codes: tuple[int | None, ...] = ()


def _killed_by_signal(path: Path, problems: list[str]) -> dict[int, str]:
    try:
        codes = parse_dataclass(Exits, read_object(path), path).exit_codes
    except InputError as error:
        problems.append(str(error))
        codes = ()
    return {rank: f"killed by signal {-code}" for rank, code in enumerate(codes) if code is not None and code < 0}
