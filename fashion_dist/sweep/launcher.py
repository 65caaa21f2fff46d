"""From what `fashion-dist sweep` was given to job arrays, with everything that can be refused refused first.

`resolve` checks and writes nothing. `submit` writes the folder and submits what is not done, under a lock of the
folder: a second launcher, or one that was killed and started again, finds what was submitted before.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fashion_dist import runs, tasks
from fashion_dist.cluster import code_version, launcher, permissions, requirements, run_lock, safe_python, slurm
from fashion_dist.cluster.launcher import LaunchContext, LaunchRequest
from fashion_dist.cluster.slurm import JobRef
from fashion_dist.config import Config
from fashion_dist.errors import ConfigError
from fashion_dist.io import read_json
from fashion_dist.models import pretrained
from fashion_dist.paths import Home, SweepDir
from fashion_dist.settings import require_setting
from fashion_dist.sweep import expand, spec
from fashion_dist.sweep.spec import Spec
from fashion_dist.sweep.sweep_record import SubmittedArray, Sweep, Trial, ranges, read_arrays, sweep_id, write_arrays
from fashion_dist.sweep.view import UNFINISHED, SweepView, read_sweep_view
from shards import program
from shards.shard_set import OnceReadSet

MOST_OF_FLAG = (1 << 53) - 1


@dataclass(frozen=True)
class SweepRequest:
    """What the user asks for: the flags of `fashion-dist sweep`.

    `request` has the task, where it runs and with which resources, and no settings: those are `settings`, `key=value`
    for all trials and `key=value,value` for a list of them. `seed` is of random draws and searches.
    """

    request: LaunchRequest
    file: str = ""
    settings: tuple[str, ...] = ()
    name: str = ""
    seeds: int = 1
    seed: int = 0
    max_parallel: int = 0
    rerun_failed: bool = False
    hold: bool = False
    yes: bool = False
    max_submit: int = 0


@dataclass(frozen=True)
class SweepDraft:
    """A sweep that can be submitted."""

    sweep: Sweep
    context: LaunchContext
    request: SweepRequest
    configs: Sequence[Config]
    """Of the trials; of a search, of some that it could make."""
    doubled: int = 0
    """Points left out because another gives the same run."""


def resolve(sweep_request: SweepRequest) -> SweepDraft:
    """The sweep that a request means; raises InputError, which says what would be possible, where it cannot be done."""
    for name, least in (("seeds", 1), ("max_parallel", 0), ("seed", 0), ("max_submit", 0)):
        if not least <= (value := getattr(sweep_request, name)) <= MOST_OF_FLAG:
            flag = {"seed": "search-seed"}.get(name, name.replace("_", "-"))
            raise ConfigError(f"--{flag} {value} is not possible; allowed: {least} to {MOST_OF_FLAG}")
    task = tasks.load(sweep_request.request.task)
    home = Home.find(sweep_request.request.home, sweep_request.request.shards)
    recipe, _ = launcher.resolve_config(task, sweep_request.request, home)
    raw = read(sweep_request, recipe)
    where = sweep_request.file or "--set"
    searched = spec.parse(raw, where, recipe.keys())
    spec.require_whole(raw, where)
    _require_choice(searched, where)
    _require_repeats(searched, sweep_request, where)
    if (searched.method == "bayes" or searched.halving) and importlib.util.find_spec("optuna") is None:
        raise ConfigError(f"{where}: bayes and early_terminate need Optuna: pip install 'fashion-dist[sweep]'")
    expand.require_few(searched, sweep_request.seeds, sweep_request.yes)
    context = launcher.prepare(dataclasses.replace(sweep_request.request, settings=_learned(searched, where)))
    if context.cluster == "local" and (sweep_request.hold or sweep_request.max_submit):
        flag = "--hold" if sweep_request.hold else f"--max-submit {sweep_request.max_submit}"
        raise ConfigError(f"{flag} is of Slurm's queue; on this machine --max-parallel bounds what runs at once")
    request = dataclasses.replace(sweep_request.request, shards=str(context.home.elsewhere or ""))
    base = _monitored(context.config, searched, where)
    sweep = Sweep(
        context.home.sweep_dir("unnamed"), "", raw, request, base, context.shard_set.training_hash, sweep_request.seed,
        sweep_request.seeds, (), program.typed(), time.time(),
    )  # fmt: skip
    sweep = _named(sweep, context, sweep_request.name or searched.name)
    points = _points(sweep, searched)
    made: dict[str, tuple[expand.Settings, Config]] = {}
    for point in points:
        config = sweep.config_of(point)
        made.setdefault(runs.run_id(config, context.home, sweep.data_hash), (point, config))
    configs = [config for _, config in made.values()]
    _require(context, searched, configs)
    if searched.method == "bayes":
        trials: list[Trial | None] = [None] * searched.run_cap
    else:
        trials = [Trial(at, point, run_id) for at, (run_id, (point, _)) in enumerate(made.items())]
    requirements.require_shards(context.shard_set)
    if context.cluster == "local":
        context = _shared(context, sweep_request.max_parallel or 1)
    sweep = dataclasses.replace(sweep, trials=tuple(trials))
    _require_same(sweep)
    doubled = expand.count(searched, sweep.seeds) - len(made) if searched.method != "bayes" else 0
    return SweepDraft(sweep, context, sweep_request, configs, doubled)


def _named(sweep: Sweep, context: LaunchContext, asked: str) -> Sweep:
    """The sweep under its name; one that is there keeps the hash that it noted of the same data."""
    found = []
    for noted in context.shard_set.manifest.hashes:
        candidate = dataclasses.replace(sweep, data_hash=noted)
        name = asked or f"{sweep.base.task}-sweep-{candidate.content[:8]}"
        if not name.isprintable():
            raise ConfigError(f"--name {name!r} has a control character; allowed: one line of text")
        plain = sweep_id(name)
        if run_id := context.home.names.run_id(plain) or plain * context.home.run_dir(plain).config.is_file():
            raise ConfigError(f"--name {name} is that of run {run_id}; allowed: another")
        found.append(dataclasses.replace(candidate, folder=context.home.sweep_dir(plain), name=name))
    return next((one for one in found if read_json(one.folder.sweep).get("content") == one.content), found[0])


def _shared(context: LaunchContext, slots: int) -> LaunchContext:
    """On this machine: every trial gets its part of the GPUs, unless the user said how many."""
    if context.request.resources.get("gpus_per_node") is not None:
        return context
    gpus = context.resources.gpus_per_node
    return dataclasses.replace(
        context, resources=context.resources.replace(gpus_per_node=gpus // slots or min(gpus, 1))
    )


def read(sweep_request: SweepRequest, recipe: Config) -> dict[str, object]:
    """W&B's words for the file and the settings together.

    Raises:
        ConfigError: neither is given, or both name a setting.
    """
    settings = spec.from_settings(sweep_request.settings, recipe)
    raw = spec.read_yaml(Path(sweep_request.file)) if sweep_request.file else {"method": "grid"}
    if not sweep_request.file and not settings and sweep_request.seeds == 1:
        raise ConfigError("nothing to try: allowed: --sweep FILE.yaml, --set key=value,value, or --seeds N")
    known: Any = raw.get("parameters", {})
    if not isinstance(known, dict):
        raise ConfigError(f"{sweep_request.file}: parameters is not a mapping")
    keys = recipe.keys()
    for key in settings:
        require_setting(key, keys)
        if key in known:
            raise ConfigError(f"--set {key} is given by {sweep_request.file} as well; allowed: either")
    if sweep_request.file and not known and not settings:
        raise ConfigError(f"{sweep_request.file} has no parameters, so there is nothing to try")
    return {**raw, "parameters": {**known, **settings}}


def _require_repeats(searched: Spec, sweep_request: SweepRequest, where: str) -> None:
    if sweep_request.seeds == 1:
        return
    if searched.method == "bayes":
        raise ConfigError("--seeds repeats points that are known before; allowed with grid and random, not with bayes")
    if any(parameter.key == "train.seed" for parameter in searched.parameters):
        raise ConfigError(f"--seeds {sweep_request.seeds} and {where} both choose train.seed; allowed: either")


def _require_choice(searched: Spec, where: str) -> None:
    """Refuse a search all of whose trials would be one run."""
    free = (p for p in searched.parameters if len(expand.choices(p, 2)) != 1 and (p.kind != "normal" or p.high))
    if searched.method == "bayes" and not any(free):
        raise ConfigError(
            f"{where}: every parameter has one value, so all {searched.run_cap} trials of the search would be one run; "
            f"allowed: a parameter with several values or a range, or method: grid"
        )


def _learned(searched: Spec, where: str) -> tuple[str, ...]:
    """The column that all trials learn, as a setting, where it is named; raises ConfigError where it is not one."""
    named = sorted(
        {str(v) for parameter in searched.parameters if parameter.key == "task.label" for v in parameter.values}
    )
    if len(named) > 1:
        raise ConfigError(
            f"{where}: trials would learn other columns ({', '.join(named)}), and no metric ranks them together; "
            f"allowed: one task.label, and a sweep for each column"
        )
    return tuple(f"task.label={column}" for column in named)


def _monitored(config: Config, searched: Spec, where: str) -> Config:
    """`config`, whose best weights are best by the sweep's metric.

    Raises:
        ConfigError: the sweep's goal is not the metric's, or trials would be best by several metrics.
    """
    given = {str(v) for parameter in searched.parameters if parameter.key == "train.monitor" for v in parameter.values}
    if len(named := given | ({searched.metric} if searched.metric else set())) > 1:
        raise ConfigError(
            f"{where}: trials would be best by several metrics, {', '.join(sorted(named))}; allowed: one for all, as "
            f"the metric of a file or as train.monitor"
        )
    if not searched.metric:
        return config
    if searched.metric != tasks.load(config.task).monitored(config).metric:
        config = config.override([f"train.monitor={searched.metric}"])
    config = tasks.directed(config)
    goal = "maximize" if config.train.mode == "max" else "minimize"
    asked = dict(searched.raw["metric"]).get("goal", goal)  # where it says none, the metric's, not W&B's `minimize`
    if asked != goal:
        raise ConfigError(
            f"{where}: metric.goal is {asked!r}, and of {searched.metric} {goal[:3]}imum is best; "
            f"allowed: goal: {goal}, or none"
        )
    return config


def _points(sweep: Sweep, searched: Spec) -> list[expand.Settings]:
    """The settings of all trials; of a search, some that it could choose."""
    if searched.method == "bayes":
        return [expand.draw(searched.parameters, sweep.seed, number) for number in range(16)]
    return expand.repeated(expand.expand(searched, sweep.seed), sweep.seeds, sweep.base.train.seed)


def _require(context: LaunchContext, searched: Spec, configs: Sequence[Config]) -> None:
    """Refuse trials that cannot be trained; what tasks and models look at is looked at once for equal ones."""
    first = searched.halving.rungs[0] if searched.halving is not None and searched.halving.rungs else 0
    context = dataclasses.replace(context, shard_set=OnceReadSet.of(context.shard_set))
    seen: set[str] = set()
    for config in configs:
        train, data = config.train, config.data
        if first >= train.epochs > 1:
            raise ConfigError(
                f"early_terminate first looks after {first} epochs and a trial has {train.epochs}; "
                f"allowed: a first look after 1 to {train.epochs - 1}"
            )
        sizes = (train.batch_size, train.accumulate)
        read = (data.image_px, data.class_balanced, data.sample_weight)
        part = repr((config.model, config.options, read, sizes, train.monitor, train.mode))
        if part not in seen:
            seen.add(part)
            context.require(config)


def _require_same(sweep: Sweep) -> None:
    before = read_json(sweep.folder.sweep)
    if before and before.get("content") != sweep.content:
        raise ConfigError(
            f"a sweep named {sweep.name!r} with other content is in {sweep.folder.path}; "
            f"allowed: the same content again, which goes on with it, or another --name"
        )


@dataclass(frozen=True)
class Submitted:
    """What came of a submission: the arrays that were made, and the sweep as it stands."""

    arrays: Sequence[SubmittedArray]
    view: SweepView
    left: int = 0
    """Trials that the same command submits next time."""


def submit(draft: SweepDraft) -> Submitted:
    """Submit the trials that nobody has run, and with `rerun_failed` those that did not end well.

    Raises:
        ConfigError: the scheduler refuses an array, or published weights cannot be fetched.
        RunError: Slurm stopped answering.
    """
    sweep, sweep_request = draft.sweep, draft.request
    folder = sweep.folder
    _fetch_weights(draft)
    folder.path.parent.mkdir(parents=True, exist_ok=True)
    permissions.make(folder.path, sweep_request.request.group, "another --name makes one of your own")
    with run_lock.file_lock(folder.path, "launch"):
        _require_same(sweep)
        if not folder.sweep.is_file():
            if sweep.is_studied:
                from fashion_dist.sweep.study import Study

                Study(sweep).create()
            sweep.write()
        _recover_orphan_array(folder)
        view = read_sweep_view(folder)
        wanted = ("new", *UNFINISHED) if sweep_request.rerun_failed else ("new",)
        numbers = [trial.number for trial in view.trials if trial.view.state in wanted]
        if draft.context.cluster == "local":
            made = _queue_here(draft, view, numbers)
            return Submitted(made, read_sweep_view(folder) if made else view)
        now = numbers[: sweep_request.max_submit or None]
        made = _arrays(draft, now)
        return Submitted(made, read_sweep_view(folder) if made else view, len(numbers) - len(now))


def _fetch_weights(draft: SweepDraft) -> None:
    home = draft.context.home
    wanted = {
        pretrained.published_of(config.model, home.networks).file: config.model
        for config in draft.configs
        if pretrained.kind(config.model.weights) in ("imagenet", "tag")
    }
    for model in wanted.values():
        pretrained.fetch(pretrained.published_of(model, home.networks), home.weights)


def _recover_orphan_array(folder: SweepDir) -> None:
    """Take up the array of a launcher that was killed before it wrote the array's id."""
    arrays = read_arrays(folder)
    if not arrays or arrays[-1].job is not None:
        return
    last = arrays.pop()
    if last.cluster == "slurm":
        known = {array.job.job_id for array in arrays if array.job is not None}
        found = {
            entry.job_id.partition("_")[0]
            for entry in slurm.queue(name=folder.sweep_id)
            if entry.comment == last.comment and entry.status != "gone"
        } - known
        job = JobRef("slurm", sorted(found)[0], name=slurm.cluster_name()) if found else None
    else:
        pid = slurm.find_process("fashion_dist.sweep.local_queue", str(folder.path))
        job = JobRef.of_process(pid) if pid is not None else None
    write_arrays(folder, [*arrays, dataclasses.replace(last, job=job)] if job is not None else arrays)


def _arrays(draft: SweepDraft, numbers: Sequence[int]) -> list[SubmittedArray]:
    from fashion_dist.cluster import submitit_executor as jobs

    folder, sweep_request, context = draft.sweep.folder, draft.request, draft.context
    code = code_version.snapshot(folder.code) if sweep_request.request.snapshot else None
    size = slurm.max_array_size()
    if not size and numbers:
        raise ConfigError(
            "this cluster allows no job arrays (MaxArraySize = 0), and a sweep is one; launch trials one by one, or "
            "--cluster local runs them here"
        )
    made: list[SubmittedArray] = []
    for first in range(0, len(draft.sweep.trials), max(1, size)):
        part = [number for number in numbers if first <= number < first + size]
        if not part:
            continue
        noted = SubmittedArray(
            "slurm", first, tuple(part), context.resources, context.request.options, sweep_request.max_parallel,
            launcher.comment_of(folder.path), code=code_version.code_hash(),
        )  # fmt: skip
        before = read_arrays(folder)
        write_arrays(folder, [*before, noted])
        # A throttle is an array's own: with several, one follows the other.
        last = made[-1].job if made and sweep_request.max_parallel else None
        after = f"afterany:{last.job_id}" if last is not None else ""
        try:
            job = jobs.submit_module(
                ("fashion_dist.sweep.trial", str(folder.path), str(first)), ranges(n - first for n in part),
                resources=context.resources, folder=folder.logs, name=folder.sweep_id, comment=noted.comment,
                max_parallel=sweep_request.max_parallel, after=after, hold=sweep_request.hold, code=code,
            )  # fmt: skip
        except ConfigError as error:
            write_arrays(folder, before)
            limit = f"{launcher.blamed(str(error), context.resources, context.origins)}{of_limit(str(error))}"
            if not made:
                raise ConfigError(f"{error}{limit}") from None
            raise ConfigError(
                f"{sum(len(array.numbers) for array in made)} trials were submitted, then Slurm took no more: {error}; "
                f"the same command again submits the rest{limit}"
            ) from None
        made.append(dataclasses.replace(noted, job=job))
        write_arrays(folder, [*before, made[-1]])
    return made


def of_limit(words: str) -> str:
    """What to do about a limit on jobs, where sbatch's words of refusal name one."""
    found = re.search(r"\w*(?:Max|Grp)(?:Submit)?Jobs?\w*Limit", words)
    if found is None and "MaxArraySize" not in words:
        return ""
    return f"; {found[0] if found else 'MaxArraySize'} is a limit on jobs: --max-submit N submits N trials at a time"


def _queue_here(draft: SweepDraft, view: SweepView, numbers: Sequence[int]) -> list[SubmittedArray]:
    """Start this machine's queue, unless it runs."""
    from fashion_dist.cluster.job_environment import job_environment

    folder = draft.sweep.folder
    last = view.arrays[-1] if view.arrays else None
    if not numbers or (
        last is not None and last.cluster == "local" and last.job is not None and slurm.job_status(last.job) != "gone"
    ):
        return []
    noted = SubmittedArray(
        "local", 0, tuple(numbers), draft.context.resources, draft.context.request.options,
        draft.request.max_parallel or 1, code=code_version.code_hash(),
    )  # fmt: skip
    write_arrays(folder, [*view.arrays, noted])
    folder.logs.mkdir(parents=True, exist_ok=True)
    code = code_version.snapshot(folder.code) if draft.request.request.snapshot else None
    with job_environment("local", code, draft.context.resources), (folder.logs / "queue.log").open("ab") as log:
        words = ("fashion_dist.sweep.local_queue", str(folder.path))
        process = safe_python.start_detached(*words, env=os.environ, output=log)
    made = dataclasses.replace(noted, job=JobRef.of_process(process.pid))
    write_arrays(folder, [*view.arrays, made])
    return [made]
