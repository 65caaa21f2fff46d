"""What is written down about a run's submissions and starts: job.json, attempts.json and lock.json."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fashion_dist.cluster import machine
from fashion_dist.cluster.resources import Resources
from fashion_dist.cluster.slurm import Cluster, JobRef
from fashion_dist.errors import InputError
from fashion_dist.io import parse_dataclass, read_object, write_json
from fashion_dist.paths import RunDir

End = Literal["done", "failed", "cancelled", "time limit", "pre-empted", "requeued", "pruned"]

GOES_ON: tuple[End, ...] = ("time limit", "pre-empted", "requeued")
"""Ends after which the scheduler starts the run again."""


@dataclass(frozen=True)
class RuntimeOptions:
    """What may differ between two starts of a run without changing its outcome; read anew at every start."""

    stage: str = "off"
    """Where shards are copied to before training."""
    cache: Literal["none", "ram", "gpu", "auto"] = "none"
    """Where decoded images are kept."""
    decode: Literal["auto", "gpu", "gpu-whole", "cpu"] = "auto"
    """How images are decoded for GPUs, if the run has not begun yet: see `train.decode_choice`."""
    bad_samples: Literal["fail", "skip"] = "fail"
    """What to do with a sample that does not decode."""
    wandb: Literal["auto", "online", "offline", "off"] = "auto"
    """Weights & Biases: online, offline, off, or online with a key."""
    track: str = "wandb"
    """The trackers that are told, by name, with commas between."""
    peer_timeout_s: float = 120.0
    """Longest wait of a rank for its peers."""
    time_limits: int = 20
    """How many times the run goes on by itself after its job's time limit."""


@dataclass(frozen=True)
class JobRecord:
    """The content of job.json.

    Args:
        comment: by which the job is found in the queue when `job` was not written down.
        job: None from before the submission until the scheduler has answered.
        sweep: the folder of the sweep that started the run as one of its trials; empty for a run of its own.
        logs: where the job's output goes; empty is the run's own folder of logs.
        code: hash of the code that was launched; empty where nobody noted it.
    """

    cluster: Cluster
    resources: Resources
    options: RuntimeOptions = field(default_factory=RuntimeOptions)
    comment: str = ""
    job: JobRef | None = None
    submitted: float = 0.0
    sweep: str = ""
    trial: int = -1
    logs: str = ""
    code: str = ""

    def write(self, run: RunDir) -> None:
        """Replace the run's job.json."""
        write_json(run.job, dataclasses.asdict(self))

    @classmethod
    def read(cls, run: RunDir) -> JobRecord | None:
        """The run's last submission, or None; raises InputError where it cannot be read: `FILE: why`."""
        values = read_object(run.job)
        return parse_dataclass(cls, values, run.job) if values else None


@dataclass(frozen=True)
class LockOwner:
    """Who may write to a run folder: the content of lock.json; see `Attempt`."""

    job: JobRef
    restart: int
    attempt: int
    host: str

    @classmethod
    def read(cls, run: RunDir) -> LockOwner | None:
        """Who holds the folder, gone or not; raises InputError where it cannot be read: `FILE: why`."""
        values = read_object(run.lock)
        return parse_dataclass(cls, values, run.lock) if values.get("job") else None

    @classmethod
    def peek(cls, run: RunDir) -> LockOwner | None:
        """Who holds the folder; None where that cannot be read now, for who looks again."""
        with contextlib.suppress(InputError):
            return cls.read(run)
        return None


@dataclass(frozen=True)
class Attempt:
    """One start of a run, as attempts.json has it.

    Args:
        attempt: its number, from 1.
        restart: how often the scheduler had requeued its job.
        host: node of its rank 0.
        nodes: Slurm's list of its nodes.
        node_count: how many; 0 in runs from before they were counted.
        hardware: of rank 0's node, in words.
        end: how it ended; empty while it runs, and where it was killed.
        message: why, in a sentence.
        note: what people should know of it beside that.
        goes_on: whether the scheduler is to make another one.
        cpu_s: of all ranks.
    """

    attempt: int
    job: JobRef | None = None
    restart: int = 0
    host: str = ""
    nodes: str = ""
    node_count: int = 0
    ranks: int = 0
    hardware: str = ""
    started: float = 0.0
    end: str = ""
    message: str = ""
    note: str = ""
    goes_on: bool = False
    ended: float | None = None
    cpu_s: float | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


def changed_versions(starts: Sequence[Attempt]) -> str:
    """What the last start runs with that the one before did not; empty where nothing changed or is known."""
    if len(starts) < 2:
        return ""
    before, now = starts[-2].versions, starts[-1].versions
    changed = [
        f"{name} {before[name]} -> {now[name]}" for name in before if now.get(name, before[name]) != before[name]
    ]
    return f"other versions than the start before: {', '.join(changed)}" if changed else ""


def hardware_of(starts: Sequence[Attempt]) -> str:
    """What the last start runs on, and what those before it ran on where that was something else."""
    told = starts[-1].hardware if starts else ""
    others = [f"start {start.attempt}: {start.hardware}" for start in starts if start.hardware not in ("", told)]
    return f"{told or 'unknown'} ({'; '.join(others)})" if others else told


def attempts(run: RunDir) -> list[Attempt]:
    """Every start of the run, oldest first; raises InputError where they cannot be read: `FILE: why`."""
    return [parse_dataclass(Attempt, values, run.attempts) for values in _listed(run)]


def _noted(run: RunDir) -> list[dict[str, Any]]:
    """Every start as it was written down, which may be more than this edition knows; raises as `attempts` does."""
    attempts(run)
    return _listed(run)


def _listed(run: RunDir) -> list[dict[str, Any]]:
    found = read_object(run.attempts).get("attempts", [])
    if not isinstance(found, list):
        raise InputError(f"{run.attempts}: attempts is no list")
    return found


def begin_attempt(run: RunDir, facts: Mapping[str, Any]) -> None:
    """Note that a start of the run begins; only the lock's holder may call this."""
    write_json(run.attempts, {"attempts": [*_noted(run), {**facts, "started": time.time(), "end": ""}]})


def note_attempt(run: RunDir, attempt: int, note: str) -> None:
    """Note something that people should know of a start of the run; for the lock's holder only."""
    noted = [{**old, "note": note} if old["attempt"] == attempt else old for old in _noted(run)]
    write_json(run.attempts, {"attempts": noted})


def end_attempt(run: RunDir, attempt: int, end: End, message: str = "", *, goes_on: bool = False) -> None:
    """Note how a start of the run ended, and whether the scheduler is to make another; for the lock's holder only."""
    facts = {"end": end, "message": message, "goes_on": goes_on, "ended": time.time()}
    facts["cpu_s"] = round(machine.cpu_seconds(run, attempt), 1)
    noted = [{**old, **facts} if old["attempt"] == attempt else old for old in _noted(run)]
    write_json(run.attempts, {"attempts": noted})
