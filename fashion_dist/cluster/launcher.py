"""From what the user typed to one submitted run, with everything that can be refused refused first.

`resolve` and `resume` check and write nothing. `launch` writes the run folder and submits, under a lock of the folder,
so that two launchers, or one that was killed at any moment and started again, make one job: what is written before and
after the submission lets the next launcher find a job whose id nobody wrote down.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fashion_dist import __version__, runs, tasks
from fashion_dist.cluster import (
    code_version,
    finetuning,
    machine,
    permissions,
    placement,
    requirements,
    run_lock,
    sbatch_options,
    step_memory,
)
from fashion_dist.cluster.job_record import JobRecord, RuntimeOptions, attempts
from fashion_dist.cluster.queue_view import Scheduler
from fashion_dist.cluster.resources import Resources
from fashion_dist.cluster.run_snapshot import RunSnapshot
from fashion_dist.cluster.run_view import RunView, read_run_view
from fashion_dist.cluster.slurm import Cluster, JobRef
from fashion_dist.config import Config
from fashion_dist.errors import ConfigError, RunError
from fashion_dist.io import is_listed, read_json, write_json, write_text
from fashion_dist.models import pretrained, registry
from fashion_dist.paths import Home, RunDir
from shards import program

if TYPE_CHECKING:
    from fashion_dist.cluster.worker import TrainJob
    from shards import ShardSet


_LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pyarrow", "submitit", *requirements.DALI, "wandb")


@dataclass(frozen=True)
class LaunchRequest:
    """What the user asks for; None and empty values leave the recipe's, the preset's or the cluster's own."""

    task: str
    dataset: str = ""
    model: str = ""
    weights: str = ""
    settings: tuple[str, ...] = ()
    home: str = ""
    cluster: Literal["auto", "slurm", "local"] = "auto"
    preset: str = ""
    resources: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `Resources` that replace the preset's; None replaces nothing."""
    options: RuntimeOptions = field(default_factory=RuntimeOptions)
    fresh: bool = False
    group: str = ""
    """May read the folders of the runs; empty leaves them as they are, closed at first."""
    debug: bool = False
    """All the steps on a hundredth of the data."""
    shards: str = ""
    """Where the shard set lies, see `Home.find`."""
    snapshot: bool = False
    """Run from a copy of the code, made now."""
    name: str = ""
    """What the run is to be called beside its id."""


@dataclass(frozen=True)
class RunSpec:
    """A run that can be submitted."""

    config: Config
    shard_set: Path
    data_hash: str
    run: RunDir
    cluster: Cluster
    resources: Resources
    options: RuntimeOptions
    command: str = ""
    """What the user typed."""
    sweep: str = ""
    """The folder of the sweep that the run is a trial of."""
    trial: int = -1
    """The trial's number."""
    group: str = ""
    """May read the run's folder."""
    snapshot: bool = False
    """Run from a copy of the code, made when it is submitted."""
    code: str = ""
    """Hash of the code that the user launched; empty is that which runs here."""
    differs: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    """Where the configuration with which the run began differs from today's: key -> (the run's, today's)."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Where each of the resources was asked for: a line of a preset, a variable of the shell, a flag."""
    notes: tuple[str, ...] = ()
    """What the user should know of where and how it will run."""
    config_origins: Mapping[str, str] = field(default_factory=dict)
    """Where the values of the configuration come from that are not the recipe's."""
    name: str = ""
    """What the run is to be called beside its id; empty leaves it as it is."""

    @property
    def comment(self) -> str:
        """Marks the run's jobs in the queue."""
        return comment_of(self.run.path)


def comment_of(folder: Path) -> str:
    """Marks the jobs of a run or a sweep in the queue: their names are equal in different working folders."""
    return "fashion-dist-" + hashlib.sha256(str(folder).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Launched:
    """What came of a launch: `submitted`, `active` (it was waiting or running already) or `done`.

    `attempt` is the number of the start that was submitted, from 1.
    """

    outcome: Literal["submitted", "active", "done"]
    run: RunDir
    job: JobRef | None
    view: RunView
    attempt: int = 0


@dataclass(frozen=True)
class LaunchContext:
    """What the runs of one request have in common, whatever their settings; see `RunSpec`.

    `config` is the recipe with the request's flags and settings.
    """

    request: LaunchRequest
    task: tasks.Task
    home: Home
    config: Config
    shard_set: ShardSet
    cluster: Cluster
    resources: Resources
    origins: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    config_origins: Mapping[str, str] = field(default_factory=dict)

    def require(self, config: Config) -> Config:
        """`config`, when it can be trained here; raises InputError where it cannot."""
        requirements.require_trainable(config, self.task, self.shard_set, self.resources, self.home)
        return config

    def run_spec(self, config: Config, *, fresh: bool = False) -> RunSpec:
        """The plan of a run of `config`, which `require` has seen."""
        run_id = runs.id_on(config, self.home, self.shard_set.manifest)
        run = _beside(self.home, run_id) if fresh else self.home.run_dir(run_id)
        own = runs.taken_up(run, config)
        requirements.require_decode(self.request.options, run, self.resources)
        return RunSpec(
            own, self.shard_set.path, self.shard_set.training_hash, run, self.cluster, self.resources,
            self.request.options, program.typed(),
            differs=runs.differences(own, config), origins=self.origins,
            notes=(*self.notes, *filter(None, self._notes(own))),
            config_origins=self.config_origins,
        )  # fmt: skip

    def _notes(self, config: Config) -> list[str]:
        warmup = "" if self.request.debug else requirements.long_warmup(config)
        slow = requirements.slow_precision(config, self.resources)
        return [self._left_out(config), requirements.small_share(config, self.resources), warmup, slow]

    def _left_out(self, config: Config) -> str:
        batch = config.train.batch_size
        if config.train.fraction < 1 or self.shard_set.splits["train"] >= 10 * batch:
            return ""
        count = len(self.task.build_examples(self.shard_set.split("train"), config))
        return requirements.left_out(count, batch, self.resources.ranks * config.train.accumulate)


def resolve(request: LaunchRequest) -> RunSpec:
    """The plan that a request means; raises InputError, one sentence with what would be possible."""
    context = prepare(request)
    config = context.require(context.config)
    requirements.require_shards(context.shard_set)
    plan = context.run_spec(config, fresh=request.fresh)
    if warning := step_memory.note(plan.config, plan.resources, plan.cluster, context.home, ask=False):
        plan = dataclasses.replace(plan, notes=(*plan.notes, warning))
    if request.name:
        context.home.names.require_free(request.name, plan.run.run_id)
    return dataclasses.replace(plan, group=request.group, snapshot=request.snapshot, name=request.name)


def resume(request: LaunchRequest, name: str, options: Mapping[str, Any]) -> RunSpec:
    """The plan to go on with a run that was launched before, with its own configuration.

    What the request leaves open is as the last submission asked; `options` are fields of `RuntimeOptions` instead.

    Raises:
        InputError: it cannot be done as asked; one sentence with what would be possible.
    """
    home = Home.find(request.home, request.shards)
    opened = runs.open_run(home.find_run(name), moved=home if request.shards else None)
    runs.require_weights(opened)
    run, config = opened.folder, opened.config
    requirements.require_writable(run.path)
    if request.name:
        run.home.names.require_free(request.name, run.run_id)
    last = JobRecord.read(run)
    was_here = last is not None and last.cluster == "local" and request.cluster == "auto"
    cluster = placement.choose_cluster("local" if was_here else request.cluster)
    is_as_before = last is not None and last.cluster == cluster and not request.preset
    placed = placement.resolve(request, cluster, last.resources if last is not None and is_as_before else None)
    resources = placed.resources
    task = tasks.load(config.task)
    LaunchContext(request, task, home, config, opened.shard_set, cluster, resources).require(config)
    requirements.require_shards(opened.shard_set)
    own = dataclasses.replace(last.options if last is not None else RuntimeOptions(), **options)
    requirements.require_decode(own, run, resources)
    return RunSpec(
        config, opened.shard_set.path, opened.shard_set.training_hash, run, cluster, resources, own,
        group=request.group, snapshot=request.snapshot, differs=runs.differences(config, task.recipe),
        origins=placed.origins, notes=(*placed.notes, *_closed_to(request, run.home)), name=request.name,
    )  # fmt: skip


def prepare(request: LaunchRequest) -> LaunchContext:
    """Everything about a request that can be refused before its settings are looked at together; writes nothing.

    Raises:
        InputError: it cannot be done as asked; one sentence with what would be possible.
    """
    if request.model:
        registry.locate(request.model)  # before the task's file and its numpy are read
    task = tasks.load(request.task)
    home = Home.find(request.home, request.shards)
    requirements.require_writable(home.path)
    dataset = requirements.plain_name("dataset", request.dataset) if request.dataset else task.recipe.dataset
    from shards import ShardSet

    dataset = dataset or _only_set(home, task)
    drawn = _drawn_for(dataset, home, task) if request.debug and not request.dataset else []
    dataset = "synthetic" if drawn else dataset
    shard_set = ShardSet.open(home.shard_set(dataset))
    requirements.require_splits(dataset, shard_set)
    named = dataclasses.replace(request, dataset=dataset)
    config, config_origins = resolve_config(task, named, home, recipe=task.recipe_for(shard_set))
    config = task.resolve(shard_set, config)
    requirements.require_facts(config, task, shard_set)
    cluster = placement.choose_cluster(request.cluster)
    placed = placement.resolve(request, cluster)
    return LaunchContext(
        request, task, home, config, shard_set, cluster, placed.resources, placed.origins,
        (*drawn, *placed.notes, *_closed_to(request, home)), config_origins,
    )  # fmt: skip


def _closed_to(request: LaunchRequest, home: Home) -> list[str]:
    return list(filter(None, [permissions.closed_way(home.path, request.group) if request.group else ""]))


def resolve_config(
    task: tasks.Task, request: LaunchRequest, home: Home, *more: str, recipe: Config | None = None
) -> tuple[Config, Mapping[str, str]]:
    """`finetuning.resolve` of the task's recipe, or `recipe`, with the request's flags, its settings and `more`."""
    flags = {"model.name": request.model, "model.weights": request.weights}
    asked = [*(f"{key}={value}" for key, value in flags.items() if value), *request.settings, *more]
    recipe = recipe or task.recipe
    if request.dataset:
        recipe = dataclasses.replace(recipe, dataset=requirements.plain_name("dataset", request.dataset))
    return finetuning.resolve(recipe, asked, home, debug=request.debug)


def _only_set(home: Home, task: tasks.Task) -> str:
    """The data set of a task that has none of its own: `--shards` may name the one folder that it can be.

    Raises:
        ConfigError: it does not; names those that are packed.
    """
    place = home.shard_set("")
    if (place / "manifest.json").is_file():
        return place.name
    packed = sorted(path.parent.name for path in place.glob("*/manifest.json"))
    make = f"{program.command('pack')} --dataset image_folder --source DIR"
    having = f"packed in {place}: {', '.join(packed)}" if packed else f"none is packed in {place} yet: {make}"
    raise ConfigError(f"task {task.recipe.task!r} needs --dataset with the name of a shard set; {having}")


def _drawn_for(dataset: str, home: Home, task: tasks.Task) -> list[str]:
    """A sentence where a debug run can try its steps on drawn images alone, as its own set is not packed."""
    from shards import ShardSet

    own, drawn = home.shard_set(dataset), home.shard_set("synthetic")
    if own.exists() or not drawn.exists() or not set(task.columns) <= set(ShardSet.open(drawn).schema.columns):
        return []
    return [f"{dataset} is not packed in {own.parent}: this run tries its steps on drawn images, {drawn}"]


def _beside(home: Home, run_id: str) -> RunDir:
    number = 1
    while (run := home.run_dir(run_id if number == 1 else f"{run_id}-{number}")).path.exists():
        number += 1
    return run


def launch(plan: RunSpec, job_type: type[TrainJob] | None = None) -> Launched:
    """Submit the plan's run, whose ranks call `TrainJob` or `job_type`, unless it is done, waits or runs already.

    Raises:
        ConfigError: the scheduler refuses the job, or published weights cannot be fetched.
        RunError: Slurm stopped answering.
    """
    run = plan.run
    if pretrained.kind(plan.config.model.weights) in ("imagenet", "tag"):
        pretrained.fetch(pretrained.published_of(plan.config.model, run.home.networks), run.home.weights)
    make_folder(run, plan.group)
    if plan.name:
        run.home.names.give(plan.name, run.run_id)
    with run_lock.file_lock(run.path, "launch"):
        before = _already(plan, job_type)
        if before is not None:
            return before
        write_run(plan)
        # Counted before the job starts and counts itself; its node makes the file.
        attempt = 1 + (len(attempts(run)) if is_listed(run.attempts) else 0)
        noted = JobRecord(
            plan.cluster, plan.resources, plan.options, plan.comment, None, time.time(), plan.sweep, plan.trial,
            code=plan.code or code_version.code_hash(),
        )  # fmt: skip
        code = code_version.snapshot(run.code) if plan.snapshot else None
        noted.write(run)
        from fashion_dist.cluster import submitit_executor  # 0.2 s, so only when there is something to submit
        from fashion_dist.cluster.worker import TrainJob

        call = (job_type or TrainJob)(str(run.path))
        try:
            job = submitit_executor.submit(call, plan.cluster, plan.resources, run.logs, run.run_id, plan.comment, code)
        except ConfigError as error:
            raise ConfigError(f"{error}{blamed(str(error), plan.resources, plan.origins)}") from None
        dataclasses.replace(noted, job=job).write(run)
        return Launched("submitted", run, job, read_run_view(run, Scheduler()), attempt)


def blamed(words: str, resources: Resources, origins: Mapping[str, str]) -> str:
    """Where the options stand that sbatch's words of refusal are about; see `sbatch_options.blamed`."""
    values = {**dataclasses.asdict(resources), "gpus_per_node": resources.gpus_asked, **resources.sbatch}
    return sbatch_options.blamed(words, values, origins)


def make_folder(run: RunDir, group: str = "") -> None:
    """Make a run's folder, for its owner and that group, where there is none; see `permissions.make`."""
    run.path.parent.mkdir(parents=True, exist_ok=True)
    permissions.make(run.path, group)


def _already(plan: RunSpec, job_type: type[TrainJob] | None) -> Launched | None:
    """The run as it stands, when there is nothing to submit."""
    run = plan.run
    noted = JobRecord.read(run)
    if noted is not None and noted.job is None:
        _recover_orphan_job(plan, noted, job_type)
    snapshot = RunSnapshot.read(run)
    queue = Scheduler().ask(snapshot.jobs)
    view = RunView.of(snapshot, queue)
    if view.state == "unreadable":
        raise ConfigError(f"run {run.run_id} is {view.detail}")
    if view.state == "done":
        return Launched("done", run, None, view)
    for job in snapshot.jobs:
        there = queue.status(job)
        if there == "gone" or (there == "unknown" and snapshot.is_over(job)):
            continue
        if there == "unknown" and job.cluster == "slurm" and job not in queue.elsewhere:
            raise RunError(
                f"Slurm does not say whether {job} of run {run.run_id} still runs ({queue.silent}); nothing was "
                f"submitted; if that job is gone for good, remove {run.job} and {run.lock}"
            )
        return Launched("active", run, job, view)
    return None


def _recover_orphan_job(plan: RunSpec, noted: JobRecord, job_type: type[TrainJob] | None) -> None:
    """Take up the job of a launcher that was killed before it wrote the job's id."""
    from fashion_dist.cluster import submitit_executor
    from fashion_dist.cluster.worker import TrainJob

    run = plan.run
    job = submitit_executor.queued_before(run.logs, noted.cluster, run.run_id, noted.comment)
    if job is not None:
        submitit_executor.complete(job, (job_type or TrainJob)(str(run.path)), noted.resources, run.logs)
        dataclasses.replace(noted, job=job).write(run)


def write_run(plan: RunSpec) -> None:
    """Write what the ranks read: the configuration with which the run began, and what it was made from."""
    run, before = plan.run, read_json(plan.run.run)
    config = runs.taken_up(run, plan.config)
    if not run.config.is_file() or runs.own_config(run) != config:
        write_text(run.config, config.to_json())
    if not run.schema.is_file():
        from shards import ShardSet

        learned = ShardSet.open(plan.shard_set)
        write_json(run.schema, {**learned.schema.to_json(), "packed": learned.manifest.reshaped})
    facts = {
        "run_id": run.run_id,
        "shard_set": str(plan.shard_set),
        "data_hash": plan.data_hash,
        "weights": before.get("weights") or pretrained.content(config.model, run.home),
        "weights_sha256": before.get("weights_sha256") or pretrained.file_sha256(config.model, run.home),
        "command": before.get("command") or plan.command,
        "created": before.get("created") or time.time(),
        "versions": {"fashion-dist": __version__, "python": sys.version.split()[0], **machine.installed(*_LIBRARIES)},
    }
    write_json(run.run, facts)
