"""What is written down about a run's submissions and starts: job.json and attempts.json."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast

from fashion_dist.cluster import machine
from fashion_dist.cluster.resources import Resources
from fashion_dist.cluster.slurm import Cluster, JobRef
from fashion_dist.io import read_json, write_json
from fashion_dist.paths import RunDir

T = TypeVar("T")
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
    bad_samples: Literal["fail", "skip"] = "fail"
    """What to do with a sample that does not decode."""
    wandb: Literal["auto", "online", "offline", "off"] = "auto"
    """Weights & Biases: online, offline, off, or online with a key."""
    peer_timeout_s: float = 120.0
    """Longest wait of a rank for its peers."""
    time_limits: int = 20
    """How many times the run goes on by itself after its job's time limit."""


@dataclass(frozen=True)
class JobRecord:
    """The content of job.json.

    Args:
        cluster: where the job was submitted.
        resources: what it asked for.
        options: see `RuntimeOptions`.
        comment: by which the job is found in the queue when `job` was not written down.
        job: None from before the submission until the scheduler has answered.
        submitted: Unix time, for people.
        sweep: the folder of the sweep that started the run as one of its trials; empty for a run of its own.
        trial: the trial's number in it.
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
        """The run's last submission, or None."""
        values = read_json(run.job)
        if not values:
            return None
        job = JobRef.from_json(values["job"], run.job)
        resources = read_fields(Resources, values["resources"])
        options = read_fields(RuntimeOptions, values["options"])
        rest = {name: values[name] for name in ("submitted", "sweep", "trial", "logs", "code") if name in values}
        return cls(values["cluster"], resources, options, values["comment"], job, **rest)


def read_fields(kind: type[T], values: Mapping[str, Any]) -> T:
    """A dataclass of what `dataclasses.asdict` and JSON made of one, in this edition or another.

    Fields that are gone are passed over: they only say how an earlier job was submitted.
    """
    names = {f.name for f in dataclasses.fields(cast("Any", kind))}
    kept = {name: value for name, value in values.items() if name in names}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in kept.items()})


def attempts(run: RunDir) -> list[dict[str, Any]]:
    """Every start of the run, oldest first: `attempt`, `job`, `restart`, `host`, `nodes`, `node_count`, `ranks`,
    `hardware` of rank 0's node, `started`, `end`; once ended also `ended`, `cpu_s` of all ranks, and `message`; and a
    `note`, where there is one.
    """
    return list(read_json(run.attempts).get("attempts", []))


def begin_attempt(run: RunDir, facts: Mapping[str, Any]) -> None:
    """Note that a start of the run begins; only the lock's holder may call this."""
    write_json(run.attempts, {"attempts": [*attempts(run), {**facts, "started": time.time(), "end": ""}]})


def note_attempt(run: RunDir, attempt: int, note: str) -> None:
    """Note something that people should know of a start of the run; for the lock's holder only."""
    noted = [{**old, "note": note} if old["attempt"] == attempt else old for old in attempts(run)]
    write_json(run.attempts, {"attempts": noted})


def end_attempt(run: RunDir, attempt: int, end: End, message: str = "", *, goes_on: bool = False) -> None:
    """Note how a start of the run ended, and whether the scheduler is to make another; for the lock's holder only."""
    facts = {"end": end, "message": message, "goes_on": goes_on, "ended": time.time()}
    facts["cpu_s"] = round(machine.cpu_seconds(run, attempt), 1)
    noted = [{**old, **facts} if old["attempt"] == attempt else old for old in attempts(run)]
    write_json(run.attempts, {"attempts": noted})
