"""From what the user typed to one submitted run, with everything that can be refused refused first.

`resolve` and `resume` check and write nothing. `launch` writes the run folder and submits, under a lock of the folder,
so that two launchers, or one that was killed at any moment and started again, make one job: what is written before and
after the submission lets the next launcher find a job whose id nobody wrote down.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fashion_dist import __version__, runs, tasks
from fashion_dist.cluster import (
    code_version,
    finetuning,
    network_check,
    permissions,
    placement,
    run_lock,
    sbatch_options,
)
from fashion_dist.cluster.job_record import JobRecord, RuntimeOptions, attempts
from fashion_dist.cluster.queue_view import Scheduler
from fashion_dist.cluster.resources import Resources
from fashion_dist.cluster.run_snapshot import RunSnapshot
from fashion_dist.cluster.run_view import RunView, read_run_view
from fashion_dist.cluster.slurm import Cluster, JobRef
from fashion_dist.config import Config
from fashion_dist.data.decode_record import DecodeRecord, require_possible
from fashion_dist.errors import ConfigError, RunError, unknown
from fashion_dist.io import is_listed, read_json, write_json, write_text
from fashion_dist.models import pretrained, registry
from fashion_dist.paths import Home, RunDir
from shards import program

if TYPE_CHECKING:
    from fashion_dist.cluster.worker import TrainJob
    from shards import ShardSet

ENOUGH = 16
"""Images over which batch normalisation still takes sound statistics (Wu & He 2018 see losses below)."""
_DALI = ("nvidia-dali-cuda120", "nvidia-dali-cuda130")
"""DALI's builds, of which an environment holds one."""


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
    """What the runs of one request have in common, whatever their settings.

    Args:
        request: what was asked for.
        task: what is learned.
        home: the working folder.
        config: the recipe with the request's flags and settings.
        shard_set: on what.
        cluster: where.
        resources: what each job asks for.
        origins: see `RunSpec`.
        notes: see `RunSpec`.
        config_origins: see `RunSpec`.
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
        """`config`, when it can be trained here.

        Raises:
            InputError: it cannot.
        """
        _require_dali()
        tasks.require_monitor(config, self.shard_set.schema)
        network_check.require_network(config, self.task.recipe, self.home)
        self.task.validate(self.shard_set, config)
        require_drawn_by(config, self.shard_set)
        _require_unmixed(self.task, config)
        require_divisible(config, self.resources)
        samples = self.shard_set.splits["train"]
        if samples < config.train.batch_size:
            raise ConfigError(
                f"train.batch_size = {config.train.batch_size} is more than the {samples} samples of 'train'"
            )
        return config

    def run_spec(self, config: Config, *, fresh: bool = False, command: str = "") -> RunSpec:
        """The plan of a run of `config`, which `require` has seen."""
        run_id = runs.id_on(config, self.home, self.shard_set.manifest)
        run = _beside(self.home, run_id) if fresh else self.home.run_dir(run_id)
        own = runs.taken_up(run, config)
        _require_decode(self.request.options, run, self.resources)
        return RunSpec(
            own, self.shard_set.path, self.shard_set.training_hash, run, self.cluster, self.resources,
            self.request.options, command or program.typed(),
            differs=runs.differences(own, config), origins=self.origins,
            notes=(*self.notes, *filter(None, [self._left_out(own), small_share(own, self.resources)])),
            config_origins=self.config_origins,
        )  # fmt: skip

    def _left_out(self, config: Config) -> str:
        batch = config.train.batch_size
        if config.train.fraction < 1 or self.shard_set.splits["train"] >= 10 * batch:
            return ""
        count = len(self.task.build_examples(self.shard_set.split("train"), config))
        return left_out(count, batch, self.resources.ranks * config.train.accumulate)


def resolve(request: LaunchRequest) -> RunSpec:
    """The plan that a request means.

    Raises:
        InputError: it cannot be done as asked; one sentence with what would be possible.
    """
    context = prepare(request)
    config = context.require(context.config)
    require_shards(context.shard_set)
    plan = context.run_spec(config, fresh=request.fresh)
    if request.name:
        context.home.names.require_free(request.name, plan.run.run_id)
    return dataclasses.replace(plan, group=request.group, snapshot=request.snapshot, name=request.name)


def resume(request: LaunchRequest, name: str, options: Mapping[str, Any]) -> RunSpec:
    """The plan to go on with a run that was launched before, with its own configuration.

    Args:
        request: where; what it leaves open is as the run's last submission asked.
        name: see `Home.find_run`.
        options: fields of `RuntimeOptions` that replace the last submission's.

    Raises:
        InputError: it cannot be done as asked; one sentence with what would be possible.
    """
    home = Home.find(request.home, request.shards)
    opened = runs.open_run(home, name, moved=bool(request.shards))
    runs.require_weights(opened)
    run, config = opened.folder, opened.config
    _require_writable(run.path)
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
    require_shards(opened.shard_set)
    own = dataclasses.replace(last.options if last is not None else RuntimeOptions(), **options)
    _require_decode(own, run, resources)
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
    _require_writable(home.path)
    dataset = _plain_name("dataset", request.dataset) if request.dataset else task.recipe.dataset
    from shards import ShardSet

    dataset = dataset or _only_set(home, task)
    shard_set = ShardSet.open(home.shard_set(dataset))
    _require_splits(dataset, shard_set)
    resolved = resolve_config(
        task, dataclasses.replace(request, dataset=dataset), home, recipe=recipe_for(task, shard_set)
    )
    config = task.resolve(shard_set, resolved.config)
    _require_facts(config, task, shard_set)
    cluster = placement.choose_cluster(request.cluster)
    placed = placement.resolve(request, cluster)
    return LaunchContext(
        request, task, home, config, shard_set, cluster, placed.resources, placed.origins,
        (*placed.notes, *_closed_to(request, home)), resolved.origins,
    )  # fmt: skip


def _closed_to(request: LaunchRequest, home: Home) -> list[str]:
    return list(filter(None, [permissions.closed_way(home.path, request.group) if request.group else ""]))


def resolve_config(
    task: tasks.Task, request: LaunchRequest, home: Home, *more: str, recipe: Config | None = None
) -> finetuning.Resolved:
    """The task's recipe, or `recipe`, with the request's flags, its settings and `more`, the last ones win, checked as
    a whole.
    """
    flags = {"model.name": request.model, "model.weights": request.weights}
    asked = [*(f"{key}={value}" for key, value in flags.items() if value), *request.settings, *more]
    recipe = recipe or task.recipe
    if request.dataset:
        recipe = dataclasses.replace(recipe, dataset=_plain_name("dataset", request.dataset))
    return finetuning.resolve(task, recipe, asked, home, debug=request.debug)


def recipe_for(task: tasks.Task, shard_set: ShardSet) -> Config:
    """The task's recipe from scratch for a shard set."""
    return task.recipe_for(shard_set) if task.overrides("recipe_for") else task.recipe


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


def require_drawn_by(config: Config, shard_set: ShardSet) -> None:
    """Refuse `data.balance` or `data.weigh` by a target that the task does not have, or has not in that form."""
    for key, name in (("data.balance", config.data.balance), ("data.weigh", config.data.weigh)):
        if not name:
            continue
        targets = tasks.load(config.task).build_examples(shard_set.split("train"), config).targets
        if name not in targets:
            raise unknown(f"target ({key})", name, targets)
        values = targets[name]
        if values.ndim != 1 or (key == "data.balance" and (values.dtype.kind != "i" or not (values >= 0).any())):
            what = "one class" if key == "data.balance" else "one number"
            raise ConfigError(f"{key} = {name!r} is not possible; allowed: a target with {what} per example")


def require_shards(shard_set: ShardSet) -> None:
    """Refuse tars that are not those of the index, before a job waits in a queue only to find out."""
    from fashion_dist.data.shard_reader import ShardFiles  # pyarrow with it, so only when all else is right

    for name in shard_set.splits:
        ShardFiles(shard_set.split(name)).check()


def _require_decode(options: RuntimeOptions, run: RunDir, resources: Resources) -> None:
    """Refuse a way of decoding that cannot be there, or is another than the run began with."""
    maybe = placement.asks_for_gpus(resources) or "gres" in resources.sbatch
    require_possible(options.decode, options.cache, DecodeRecord.read(run), None if maybe else resources.gpus)


def _require_unmixed(task: tasks.Task, config: Config) -> None:
    """Refuse to mix every step where a head learns from steps that do not mix."""
    train, never = config.train, ", ".join(task.ignore_targets_when_mixed)
    if never and (train.mixup or train.cutmix) and train.mix == 1:
        raise ConfigError(
            f"train.mix = {train.mix} is not possible: task {config.task!r} learns {never} from steps that do not mix; "
            f"allowed: 0 <= mix < 1, or train.mixup=0 and train.cutmix=0"
        )


def _plain_name(kind: str, name: str) -> str:
    if not name.isprintable() or Path(name).name != name or name in (".", ".."):
        raise ConfigError(f"{kind} {name!r} is not the plain name of a folder")
    return name


def _require_writable(path: Path) -> None:
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    if not existing.is_dir():
        raise ConfigError(f"the working folder {path} cannot be: {existing} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"the working folder {path} cannot be written: no permission for {existing}")


def _require_dali() -> None:
    how = f"pip install {_DALI[1]}, or {_DALI[0]} where the GPUs' driver is older than 580"
    if importlib.util.find_spec("nvidia") is None or importlib.util.find_spec("nvidia.dali") is None:
        raise ConfigError(f"training needs NVIDIA DALI, which is not installed here (Linux only): {how}")
    if len(there := _installed(_DALI)) > 1:
        both = " and ".join(there)
        raise ConfigError(
            f"{both} are installed, whose files are in each other's place: pip uninstall both, then {how}"
        )


def _installed(packages: Sequence[str]) -> dict[str, str]:
    """The versions of those packages that are installed."""
    found = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _require_splits(dataset: str, shard_set: ShardSet) -> None:
    for name in ("train", "val"):
        if not shard_set.splits.get(name):
            having = ", ".join(f"{split} ({count})" for split, count in shard_set.splits.items())
            raise ConfigError(
                f"shard set {dataset!r} has no samples in split {name!r}; it has {having or 'none'}"
                + ("; packing with --val 0.1, of tars with --label, too, holds some out" if name == "val" else "")
            )


def _require_facts(config: Config, task: tasks.Task, shard_set: ShardSet) -> None:
    missing = [fact for fact in task.columns_of(config) if fact not in shard_set.schema.columns]
    if missing:
        raise ConfigError(
            f"task {config.task!r} needs the fact{'s' if len(missing) > 1 else ''} {', '.join(missing)}, which "
            f"shard set {config.dataset!r} does not have; it has {', '.join(sorted(shard_set.schema.columns))}"
        )


def require_divisible(config: Config, resources: Resources) -> None:
    """Refuse a global batch that cannot be dealt evenly; the nearest batches and rank counts are named."""
    batch, accumulate, ranks = config.train.batch_size, config.train.accumulate, resources.ranks
    unit = ranks * accumulate
    if batch % unit == 0:
        return
    batches = sorted({size for size in (batch // unit * unit, batch // unit * unit + unit) if size > 0})
    counts = [count for count in range(1, batch + 1) if batch % (count * accumulate) == 0]
    near = sorted(sorted(counts, key=lambda count: abs(count - ranks))[:2])
    shared = f"{ranks} ranks" + (f" x {accumulate} micro-batches" if accumulate > 1 else "")
    advice = f"nearest batch sizes: {', '.join(map(str, batches))}"
    if near:
        advice += f"; nearest numbers of ranks: {', '.join(map(str, near))}"
    raise ConfigError(f"train.batch_size = {batch} does not divide over {shared}; {advice}")


def small_share(config: Config, resources: Resources) -> str:
    """That each rank normalises over few images; empty where they are enough, one rank has all, or none are counted."""
    train, ranks = config.train, resources.ranks
    share = train.batch_size // (ranks * train.accumulate)
    if ranks == 1 or not 0 < share < ENOUGH or train.sync_batchnorm or train.freeze_bn:
        return ""
    or_sync = " or train.sync_batchnorm=true" if resources.gpus else ""
    larger = -(-ENOUGH // share) * train.batch_size
    return (
        f"each of {ranks} ranks computes {share} images at a time, few for the statistics of a network's batch "
        f"normalisation: --set train.batch_size={larger}{or_sync}"
    )


def left_out(examples: int, batch: int, unit: int) -> str:
    """That the last, partial batch is much of a small set; empty where it is less than a tenth of it.

    Args:
        examples: of training.
        batch: the global batch.
        unit: what divides every batch: ranks x micro-batches.
    """
    rest = examples % batch
    if rest * 10 < examples:
        return ""
    better = min(range(batch, batch // 2, -1), key=lambda size: (size % unit > 0, examples % size))
    fewer = better % unit == 0 and examples % better < rest
    return (
        f"{rest} of the {examples} training examples ({rest / examples:.0%}) are left out of each epoch, others each "
        f"time, because they fill no batch of {batch}"
        + (f"; of train.batch_size={better} it would be {examples % better}" if fewer else "")
    )


def _beside(home: Home, run_id: str) -> RunDir:
    number = 1
    while (run := home.run_dir(run_id if number == 1 else f"{run_id}-{number}")).path.exists():
        number += 1
    return run


def launch(plan: RunSpec, job_type: type[TrainJob] | None = None) -> Launched:
    """Submit the plan's run, unless it is done, waits or runs already.

    Args:
        plan: of the run.
        job_type: what the ranks call, `TrainJob` or a kind of it.

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

        write_json(run.schema, ShardSet.open(plan.shard_set).schema.to_json())
    facts = {
        "run_id": run.run_id,
        "shard_set": str(plan.shard_set),
        "data_hash": plan.data_hash,
        "weights": before.get("weights") or pretrained.content(config.model, run.home),
        "weights_sha256": before.get("weights_sha256") or pretrained.file_sha256(config.model, run.home),
        "command": before.get("command") or plan.command,
        "created": before.get("created") or time.time(),
        "versions": {"fashion-dist": __version__, **_versions()},
    }
    write_json(run.run, facts)


def _versions() -> dict[str, str]:
    names = ("torch", "torchvision", "timm", "numpy", "pyarrow", "submitit", *_DALI, "wandb")
    return {"python": sys.version.split()[0], **_installed(names)}


def dry_run(plan: RunSpec) -> str:
    """The resolved configuration and the sbatch script, or the local command; writes nothing."""
    from fashion_dist.cluster import submitit_executor

    shell = {name: where for name, where in plan.origins.items() if where.startswith("SBATCH_")}
    values = {**dataclasses.asdict(plan.resources), **plan.resources.sbatch}
    notes = [f"# {name} = {values[name]}, from {variable} of this shell" for name, variable in shell.items()]
    notes += [f"# note: {note}" for note in plan.notes]
    if plan.cluster == "slurm":
        title, text = (
            "sbatch script",
            submitit_executor.script(plan.resources, plan.run.logs, plan.run.run_id, plan.comment),
        )
    else:
        title = f"on this machine, {plan.resources.ranks} times"
        text = submitit_executor.local_command(plan.run.logs)
    told = _of_origins(plan) + "".join(f"{note}\n" for note in notes)
    return f"# resolved configuration\n{plan.config.to_json()}\n{told}# {title}\n{text}"


def _of_origins(plan: RunSpec) -> str:
    """Which values are not the recipe's, and where each comes from."""
    values = plan.config.flat()
    shown = {f"{key} = {_short(values[key])}": origin for key, origin in plan.config_origins.items() if key in values}
    if not shown:
        return ""
    width = max(map(len, shown))
    lines = "".join(f"{setting:<{width}}  {origin}\n" for setting, origin in shown.items())
    return f"# not the recipe's, and where from\n{lines}\n"


def _short(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
