"""Questions to Slurm and to this machine's processes. Whoever asks gets an answer or `RunError`, never a guess.

A job is known by a `JobRef`. On Slurm that is the job id; locally it is the process that started the ranks, with the
time it started at, because process ids are used again.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fashion_dist.cluster.sbatch_options import gpu_count, gpu_parts
from fashion_dist.errors import ConfigError, RunError
from fashion_dist.io import process_started

Cluster = Literal["slurm", "local"]
JobStatus = Literal["queued", "running", "gone", "unknown"]

_TIMEOUT_S = 20.0
_FILTERS = ("SQUEUE_", "SACCT_", "SINFO_", "SCANCEL_", "SCONTROL_", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT")
_MANY = 2000
"""Job ids of one question: a command line has an end."""
_JOB_IDS = {"slurm": re.compile(r"[0-9]+([_+][0-9]+)?"), "local": re.compile(r"[1-9][0-9]{0,9}")}
_HOST = re.compile(r"[A-Za-z0-9._-]*")
_QUEUED = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "CONFIGURING", "RESV_DEL_HOLD"}
_ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}


@dataclass(frozen=True)
class JobRef:
    """One submitted job; files that others made may say what it is, so it is looked at before anybody acts on it.

    Raises:
        ConfigError: an id that is none, which could mean other processes, or be an option of a command.
    """

    cluster: Cluster
    job_id: str
    host: str = ""
    """Where a local job runs; empty on Slurm."""
    started: int = 0
    """When a local job's process started, in clock ticks since boot; 0 on Slurm."""
    name: str = ""
    """The cluster's own name, for ids are given by each cluster; empty on this machine, and where nobody noted it."""

    def __post_init__(self) -> None:
        known = _JOB_IDS.get(self.cluster) if isinstance(self.cluster, str) else None
        if known is None:
            raise ConfigError(f"cluster {self.cluster!r} is not possible; allowed: slurm, local")
        if not isinstance(self.job_id, str) or known.fullmatch(self.job_id) is None:
            allowed = "a process id" if self.cluster == "local" else "digits, or digits_digits"
            raise ConfigError(f"{self.cluster} job id {self.job_id!r} is not possible; allowed: {allowed}")
        if not isinstance(self.host, str) or _HOST.fullmatch(self.host) is None:
            raise ConfigError(f"host {self.host!r} of job {self.job_id} is not possible; allowed: a node's name")
        if type(self.started) is not int or self.started < 0:
            raise ConfigError(f"start {self.started!r} of job {self.job_id} is not possible; allowed: 0 or more")
        if not isinstance(self.name, str) or _HOST.fullmatch(self.name) is None:
            raise ConfigError(f"name {self.name!r} of job {self.job_id} is not possible; allowed: a cluster's name")

    @classmethod
    def of_process(cls, pid: int) -> JobRef:
        """The local job whose controlling process is `pid`, on this host."""
        return cls("local", str(pid), socket.gethostname(), process_started(pid) or 0)

    @property
    def is_elsewhere(self) -> bool:
        """Whether another cluster than this machine's has it; raises RunError where Slurm does not answer."""
        return self.cluster == "slurm" and bool(self.name) and self.name != cluster_name()

    @classmethod
    def from_json(cls, values: Any, where: object) -> JobRef | None:
        """What `to_json` gave, or None; raises ConfigError, naming the file `where` it stands, for what is no job."""
        if not values:
            return None
        known = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(values, Mapping) or not {"cluster", "job_id"} <= values.keys():
            raise ConfigError(f"{where}: a job is not {str(values)[:80]!r}; allowed: {', '.join(known)}")
        try:
            return cls(**{name: values[name] for name in known if name in values})
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return f"Slurm job {self.job_id}" if self.cluster == "slurm" else f"local job {self.job_id} on {self.host}"

    @property
    def cancel_command(self) -> str:
        """What a user types to end it."""
        return f"scancel {self.job_id}" if self.cluster == "slurm" else f"kill {self.job_id}"


@dataclass(frozen=True)
class Queued:
    """One line of the queue; ids have `_<index>` in an array, states are Slurm's long ones, such as RUNNING."""

    job_id: str
    name: str
    state: str
    reason: str
    nodes: str
    left_s: int | None
    comment: str

    @property
    def status(self) -> JobStatus:
        """Queued or running; what Slurm is still cleaning up after runs no longer, but may yet be requeued."""
        if self.state in _QUEUED:
            return "queued"
        return "gone" if self.state in _ENDED else "running"


def ask(command: Sequence[str], timeout_s: float = _TIMEOUT_S) -> str:
    """The standard output of a scheduler's command.

    Raises:
        RunError: it is not installed, failed, or did not answer in time; with its own words.
    """
    # The user's SQUEUE_PARTITION and its like would hide jobs from us; 0 or long lists of array tasks are cut.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FILTERS)}
    environment = {**kept, "SLURM_BITSTR_LEN": "0"}
    try:
        # A site's own words may be in any encoding.
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=timeout_s, check=False,
            env=environment,
        )  # fmt: skip
    except FileNotFoundError:
        raise RunError(f"{command[0]} is not on the PATH: this machine has no Slurm commands") from None
    except subprocess.TimeoutExpired:
        raise RunError(f"{command[0]} did not answer within {timeout_s:.0f} s") from None
    if done.returncode != 0:
        words = " ".join((done.stderr or done.stdout).split()) or f"exit status {done.returncode}"
        raise RunError(f"{command[0]}: {words.removeprefix(f'{command[0]}: ')}")
    return done.stdout


class NoSlurmError(RunError):
    """This machine belongs to no cluster: no commands of Slurm, or none that know of one."""


def require_answer() -> None:
    """That jobs can be submitted from here.

    Raises:
        NoSlurmError: there is no Slurm.
        RunError: there is one, and it does not answer.
    """
    if shutil.which("sbatch") is None:
        raise NoSlurmError("sbatch is not on the PATH: this machine has no Slurm commands")
    survey()


@dataclass(frozen=True)
class Partition:
    """What sinfo says of a partition: CPUs of its smallest node, GPUs of the smallest that has some, `gpu:4`."""

    name: str
    is_default: bool
    nodes: int
    cpus: int
    limit_min: int | None = None
    gpus: int = 0
    gres: str = ""


def survey() -> list[Partition]:
    """All partitions, hidden ones too.

    Raises:
        NoSlurmError: the commands know of no cluster.
        RunError: Slurm does not answer.
    """
    try:
        return parse_partitions(ask(["sinfo", "--all", "--noheader", "--format=%P|%D|%c|%l|%G"]))
    except RunError as error:
        if "configuration source" in str(error) and "SLURM_CONF" not in os.environ:
            raise NoSlurmError("sinfo finds no configuration: this machine belongs to no cluster") from None
        raise


def parse_partitions(text: str) -> list[Partition]:
    """The lines of `sinfo` in the format that `survey` asks for; a partition has one for each kind of node."""
    found: dict[str, Partition] = {}
    for line in text.splitlines():
        parts = [part.strip() for part in line.split("|", 4)]
        if len(parts) < 5:
            continue
        name, limit = parts[0].rstrip("*"), seconds(parts[3])
        cpus = re.fullmatch(r"(\d+)(K?)\+?", parts[2])  # 1024 are shown as 1K
        mine = Partition(
            name, parts[0].endswith("*"), int(parts[1]), int(cpus[1]) * 1024 ** len(cpus[2]) if cpus else 1,
            None if limit is None else limit // 60, gpu_count(parts[4]), ",".join(gpu_parts(parts[4])),
        )  # fmt: skip
        before = found.get(name)
        if before is not None:
            mine = dataclasses.replace(
                mine, nodes=before.nodes + mine.nodes, cpus=min(before.cpus, mine.cpus),
                gpus=min(filter(None, (before.gpus, mine.gpus)), default=0), gres=before.gres or mine.gres,
            )  # fmt: skip
        found[name] = mine
    return list(found.values())


@functools.cache
def configuration() -> Mapping[str, str]:
    """slurm.conf as the controller holds it, by key, such as `ClusterName`; asked once, and raises as `ask` does."""
    lines = ask(["scontrol", "show", "config"]).splitlines()
    return {key.strip(): value.strip() for key, bar, value in (line.partition("=") for line in lines) if bar}


def cluster_name() -> str:
    """The cluster that this machine, or this job, belongs to; raises RunError where Slurm does not answer."""
    return os.environ.get("SLURM_CLUSTER_NAME") or configuration().get("ClusterName", "")


def max_array_size() -> int:
    """How many tasks one array may have; 0 where the cluster allows no arrays."""
    found = configuration().get("MaxArraySize", "")
    return max(0, int(found) - 1) if found.isdigit() else 1000


def seconds(text: str) -> int | None:
    """Slurm's `[days-][[hours:]minutes:]seconds` as seconds; None for UNLIMITED, INVALID and the like."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(?:(\d+):)?(\d+):)?(\d+)", text.strip())
    if found is None:
        return None
    days, hours, minutes, rest = (int(group or 0) for group in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def parse_queue(text: str) -> list[Queued]:
    """The lines of `squeue` in the format that `queue` asks for; the comment comes last as it may hold a bar."""
    jobs = []
    for line in text.splitlines():
        parts = line.split("|", 6)
        if len(parts) == 7:
            job_id, state, reason, nodes, left, name, comment = (part.strip() for part in parts)
            left_s = 0 if left == "INVALID" else seconds(left)  # which is how squeue prints a limit that has passed
            jobs.append(Queued(job_id, name, state, reason, nodes, left_s, comment))
    return jobs


def queue(*, job_ids: Iterable[str] | None = None, name: str = "") -> list[Queued]:
    """The jobs in Slurm's queue: those ids, whoever owns them, or this user's of one name; raises as `ask` does."""
    base = ["squeue", "--all", "--noheader", "--array", "--format=%i|%T|%r|%N|%L|%j|%k"]
    if job_ids is None:
        return parse_queue(ask([*base, "--me", f"--name={name}"]))
    found: list[Queued] = []
    for jobs in _jobs_flags(job_ids):
        try:
            found += parse_queue(ask([*base, jobs]))
        except RunError as error:
            if "Invalid job id" not in str(error):  # said of a job that has left the queue
                raise
    return found


def accounting(job_ids: Iterable[str]) -> dict[str, str]:
    """The last state of jobs by sacct, such as `{"12": "TIMEOUT"}`; without accounting nothing."""
    found: dict[str, str] = {}
    base = ["sacct", "--allusers", "--allocations", "--noheader", "--parsable2", "--format=JobID,State"]
    for jobs in _jobs_flags(job_ids):
        try:
            found |= parse_accounting(ask([*base, jobs]))
        except RunError:
            return {}
    return found


def _jobs_flags(job_ids: Iterable[str]) -> list[str]:
    ids = list(dict.fromkeys(job_ids))
    return [f"--jobs={','.join(ids[first : first + _MANY])}" for first in range(0, len(ids), _MANY)]


def parse_accounting(text: str) -> dict[str, str]:
    """The lines of `sacct` in the format that `accounting` asks for."""
    rows = (line.partition("|") for line in text.splitlines())
    return {job_id: state.split()[0] for ids, _, state in rows if state.strip() for job_id in _each(ids)}


def _each(text: str) -> list[str]:
    """The jobs of one line of sacct: tasks that never started stand together, as `12_[0-2,5%2]`."""
    array, bracket, rest = text.partition("_[")
    if not bracket:
        return [text]
    return [f"{array}_{task}" for task in numbers(rest.partition("]")[0].partition("%")[0])]


def numbers(text: str) -> list[str]:
    """Slurm's `01-03,7` as `["01", "02", "03", "7"]`."""
    ranges = re.findall(r"(\d+)(?:-(\d+))?", text)
    return [f"{n:0{len(low)}}" for low, high in ranges for n in range(int(low), int(high or low) + 1)]


def job_status(job: JobRef) -> JobStatus:
    """Whether a job waits, runs or is gone; `unknown` when only another machine could say. Raises as `ask` does."""
    if job.cluster == "slurm":
        if job.is_elsewhere:
            return "unknown"
        found = queue(job_ids=[job.job_id])
        states = {entry.status for entry in found}
        return "running" if "running" in states else "queued" if "queued" in states else "gone"
    if job.host != socket.gethostname():
        return "unknown"
    return "running" if job.started and process_started(int(job.job_id)) == job.started else "gone"


def find_process(*arguments: str) -> int | None:
    """This user's process whose command line holds all of these arguments as whole words, or None."""
    for path in Path("/proc").glob("[0-9]*"):
        words = _command_line(int(path.name))
        if words and all(argument in words for argument in arguments):
            return int(path.name)
    return None


def _command_line(pid: int) -> list[str]:
    """The words of a process of this user's; none when it is gone or another's."""
    path = Path(f"/proc/{pid}/cmdline")
    try:
        words = path.read_bytes().decode(errors="replace").split("\0")
        return words if path.stat().st_uid == os.getuid() else []
    except OSError:
        return []


def cancel(job: JobRef) -> None:
    """End a job: its ranks save a checkpoint within the cluster's grace time, and are not requeued.

    Raises:
        RunError: Slurm refused, or the job runs on another machine.
        ConfigError: the process runs, and is none of ours: a file that others made names it.
    """
    if job.cluster == "slurm" and job.is_elsewhere:
        raise RunError(f"{job} is on cluster {job.name} and can only be ended from there: {job.cancel_command}")
    if job.cluster == "slurm":
        ask(["scancel", "--", job.job_id])
    elif job_status(job) == "running":
        pid = int(job.job_id)
        deadline = time.monotonic() + 1  # a process that has just begun has no command line for a moment
        while not (words := [word for word in _command_line(pid) if word]) and time.monotonic() < deadline:
            time.sleep(0.01)
        if pid == 1 or not any(word.startswith("fashion_dist.") for word in words):
            raise ConfigError(
                f"process {pid} is no job of fashion-dist and was not ended; {job.cancel_command} does so"
            )
        os.kill(pid, signal.SIGTERM)
    elif job_status(job) == "unknown":
        raise RunError(f"{job} can only be ended there: {job.cancel_command}")


def requeue(job_id: str) -> None:
    """Put a running Slurm job back into the queue, under its id."""
    ask(["scontrol", "requeue", job_id])
