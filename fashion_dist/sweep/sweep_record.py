"""What is written down about a sweep: what was asked for and its trials, once; its submissions, as they are made."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fashion_dist import runs, tasks
from fashion_dist.cluster.job_record import RuntimeOptions
from fashion_dist.cluster.resources import Resources
from fashion_dist.cluster.slurm import Cluster, JobRef
from fashion_dist.config import RENAMED, Config
from fashion_dist.errors import ConfigError, InputError, RunError
from fashion_dist.io import parse_dataclass, read_object, write_json
from fashion_dist.models import pretrained, registry
from fashion_dist.paths import Home, RunDir, SweepDir
from fashion_dist.settings import RETIRED, gone_settings
from fashion_dist.sweep import expand, spec
from fashion_dist.sweep.spec import Spec
from shards.typed_json import parse_value

if TYPE_CHECKING:
    from fashion_dist.cluster.launcher import LaunchRequest
    from shards import ShardSet


@dataclass(frozen=True)
class Trial:
    """One run of a sweep, and the settings in which it differs from what is common to all.

    Less its array's first number, its `number` is the array's task id.
    """

    number: int
    settings: Mapping[str, Any]
    run_id: str

    @classmethod
    def from_json(cls, values: Mapping[str, Any], number: int, where: object) -> Trial:
        """The trial that a file has, its settings by the names that they have now."""
        made = parse_dataclass(cls, {**values, "number": number}, where)
        return dataclasses.replace(made, settings={RENAMED.get(key, key): v for key, v in made.settings.items()})


@dataclass(frozen=True)
class Sweep:
    """The content of sweep.json: it never changes, and equal questions have equal ones but for `command` and `created`.

    Args:
        name: what the user calls it; any text.
        raw: W&B's words for what is searched.
        request: whose runs its trials are.
        base: the configuration that all trials share.
        seed: of random draws and searches.
        seeds: repeats of every point.
        trials: all of them, in order; of a search `None` each until it has started.
        gone: settings of `base` that are gone; no trial of it can be trained.
    """

    folder: SweepDir
    name: str
    raw: Mapping[str, Any]
    request: LaunchRequest
    base: Config
    data_hash: str
    seed: int
    seeds: int
    trials: tuple[Trial | None, ...]
    command: str = ""
    created: float = 0.0
    gone: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def spec(self) -> Spec:
        """What is searched."""
        return spec.parse(self.raw, str(self.folder.sweep), [*self.base.keys(), *self.gone, *RETIRED])

    @property
    def is_studied(self) -> bool:
        """Whether Optuna's journal is needed: parameters are asked for, or trials stopped early."""
        return self.spec.method == "bayes" or self.spec.halving is not None

    @cached_property
    def monitor(self) -> tasks.Monitor:
        """The metric that `best` means: the one that all trials are given, else the base's."""
        found = {p.key: p.values for p in self.spec.parameters}.get("train.monitor", ())
        given = expand.texts({"train.monitor": found[0]}) if len(found) == 1 else []
        return tasks.load(self.base.task).monitored(self.base.override(given))

    @property
    def varied(self) -> list[str]:
        """The settings that differ between trials."""
        keys = [p.key for p in self.spec.parameters if len(p.values) != 1]
        return keys + (["train.seed"] if self.seeds > 1 and "train.seed" not in keys else [])

    def trial(self, number: int) -> Trial | None:
        """One trial; None where a search has not started it yet."""
        known = self.trials[number]
        if known is not None:
            return known
        path = self.folder.trial(number)
        values = read_object(path)
        return Trial.from_json(values, number, path) if values else None

    def make_trial(self, number: int, settings: Mapping[str, Any]) -> Trial:
        """The trial with these settings; raises ConfigError where its configuration cannot be."""
        return Trial(number, settings, runs.run_id(self.config_of(settings), self.folder.home, self.data_hash))

    def config_of(self, settings: Mapping[str, Any]) -> Config:
        """The configuration of a trial with these settings; raises ConfigError where it cannot be."""
        if self.gone:
            raise ConfigError(f"sweep {self.folder.sweep_id} was made with {gone_settings(self.gone)}: it cannot go on")
        texts = expand.texts(settings)
        config, base = self.base.override(texts), self.base.model
        begins = (config.model.name, config.model.weights)
        if config.model.weights != "none" and begins != (base.name, base.weights):
            return self._finetuned(texts)
        config = tasks.directed(registry.resolve(config).check(), settings)
        task = tasks.load(config.task)
        if task.overrides("resolve") and any(key.startswith("task.") for key in settings):
            return task.resolve(self._shard_set(), config)
        return config

    def _finetuned(self, texts: Sequence[str]) -> Config:
        """A trial that begins with other weights than the others: it has a recipe of its own."""
        from fashion_dist.cluster import launcher

        task, shard_set, train = tasks.load(self.base.task), self._shard_set(), self.base.train
        own = [f"train.monitor={train.monitor}", f"train.mode={train.mode}"] if train.monitor else []
        request = dataclasses.replace(self.request, dataset=self.base.dataset)
        recipe = task.recipe_for(shard_set)
        made, _ = launcher.resolve_config(task, request, self.folder.home, *own, *texts, recipe=recipe)
        return task.resolve(shard_set, made)

    def _shard_set(self) -> ShardSet:
        from shards import ShardSet

        home = Home.find(str(self.folder.home.path), self.request.shards)
        return ShardSet.open(home.shard_set(self.base.dataset))

    def run_of(self, trial: Trial) -> RunDir:
        """The trial's folder."""
        return self.folder.home.run_dir(trial.run_id)

    @property
    def run_dirs(self) -> list[RunDir]:
        """The folders of all trials that are known."""
        return [self.run_of(t) for t in map(self.trial, range(len(self.trials))) if t is not None]

    @property
    def content(self) -> str:
        """A hash of everything that decides what the trials are."""
        # Published weights are of the networks that the trials name, and these may be among what they try.
        base, published = self.base, "" if pretrained.is_file(self.base.model) else self.base.model.weights
        if published:
            base = base.override(["model.weights=none"])
        raw = spec.by_names(self.raw, spec.FORMER)
        facts = [
            {key: value for key, value in raw.items() if key not in ("name", "description")},
            runs.run_id(base, self.folder.home, self.data_hash), published, self.seed, self.seeds,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=list).encode()).hexdigest()

    def write(self) -> None:
        """Write sweep.json."""
        values = {
            "name": self.name, "content": self.content, "sweep": self.raw, "request": dataclasses.asdict(self.request),
            "base": self.base.plain(), "data_hash": self.data_hash, "seed": self.seed,
            "seeds": self.seeds, "command": self.command, "created": self.created,
            "trials": [trial and {"settings": trial.settings, "run_id": trial.run_id} for trial in self.trials],
        }  # fmt: skip
        write_json(self.folder.sweep, values)

    @classmethod
    def read(cls, folder: SweepDir) -> Sweep:
        """The sweep of a folder.

        Raises:
            RunError: the folder has no sweep.json.
            ConfigError: it cannot be read: `FILE: why`; or its task is gone.
        """
        from fashion_dist.cluster.launcher import LaunchRequest  # 0.1 s, which `status.py --help` need not wait for

        values = read_object(folder.sweep)
        if not values:
            raise RunError(f"{folder.sweep} cannot be read; submit the sweep again under another name")
        try:
            made = parse_dataclass(_SweepFile, values, folder.sweep)
            # Tuples among the resources became lists.
            listed = parse_value(Mapping[str, Any], made.request.get("resources", {}), "resources", folder.sweep)
            given = {k: tuple(v) if isinstance(v, list) else v for k, v in listed.items()}
            request = parse_dataclass(LaunchRequest, {**made.request, "resources": given}, folder.sweep)
            trials = tuple(
                None if trial is None else Trial.from_json(trial, number, folder.sweep)
                for number, trial in enumerate(made.trials)
            )
            base, gone = runs.parse_config(made.base)
        except InputError as error:
            raise ConfigError(f"the configuration of sweep {folder.sweep_id}, {folder.sweep}: {error}") from None
        return cls(
            folder, made.name, spec.by_names(made.sweep, RENAMED), request, base, made.data_hash, made.seed, made.seeds,
            trials, made.command, made.created, gone,
        )  # fmt: skip


@dataclass(frozen=True)
class _SweepFile:
    """The types of sweep.json."""

    name: str
    sweep: Mapping[str, Any]
    request: Mapping[str, Any]
    base: Mapping[str, Any]
    data_hash: str
    seed: int
    seeds: int
    trials: tuple[Mapping[str, Any] | None, ...]
    command: str
    created: float


def sweep_id(name: str) -> str:
    """A folder's and a job's name for any text: plain characters, and where others were left out, a hash of all."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60]
    return plain if plain == name else f"{plain or 'sweep'}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


_RANGES = re.compile(r"(\d{1,7}(-\d{1,7})?(,(?=\d)|$))*")
_MOST_TRIALS = 10_000_000


@dataclass(frozen=True)
class SubmittedArray:
    """One submission of trials.

    Args:
        first: the trial whose array task id would be 0.
        numbers: the trials in it.
        resources: what each trial's job asks for.
        max_parallel: trials that run at once; 0 is no bound.
        comment: by which the array is found in the queue when `job` was not written down.
        job: the array, or the local queue's process; None from before the submission until the scheduler has answered.
        submitted: Unix time.
        code: hash of the code that was launched; empty where nobody noted it.
    """

    cluster: Cluster
    first: int
    numbers: tuple[int, ...]
    resources: Resources
    options: RuntimeOptions = field(default_factory=RuntimeOptions)
    max_parallel: int = 0
    comment: str = ""
    job: JobRef | None = None
    submitted: float = field(default_factory=time.time)
    code: str = ""

    def job_of(self, number: int) -> JobRef | None:
        """The trial's own job."""
        if self.job is None or self.cluster == "local":
            return self.job
        return JobRef("slurm", f"{self.job.job_id}_{number - self.first}", name=self.job.name)

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: object) -> SubmittedArray:
        """What `to_json` gave, from the file `where`."""
        numbers = values.get("numbers") if isinstance(values, Mapping) else None
        if not isinstance(numbers, str) or not _RANGES.fullmatch(numbers):
            raise InputError(f"{where}: the trials of a submission are not {str(numbers)[:60]!r}; allowed: 0-2,5")
        return parse_dataclass(cls, {**values, "numbers": parse_ranges(numbers)}, where)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**dataclasses.asdict(self), "numbers": ranges(self.numbers)}


def read_arrays(folder: SweepDir) -> list[SubmittedArray]:
    """Every submission of the sweep, oldest first."""
    found = read_object(folder.arrays).get("arrays", [])
    if not isinstance(found, list):
        raise InputError(f"{folder.arrays}: arrays is no list")
    return [SubmittedArray.from_json(values, folder.arrays) for values in found]


def write_arrays(folder: SweepDir, arrays: Sequence[SubmittedArray]) -> None:
    """Replace the list of submissions."""
    write_json(folder.arrays, {"arrays": [array.to_json() for array in arrays]})


def ranges(numbers: Iterable[int]) -> str:
    """Slurm's way to write increasing numbers: `0-2,5`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)


def parse_ranges(text: str) -> list[int]:
    """The numbers that `ranges` wrote."""
    numbers: list[int] = []
    for part in filter(None, text.split(",")):
        low, _, high = part.partition("-")
        numbers += range(int(low), min(int(high or low), int(low) + _MOST_TRIALS - len(numbers)) + 1)
    return numbers
