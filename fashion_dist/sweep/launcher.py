"""From what `fashion-dist sweep` was given to job arrays, with everything that can be refused refused first.

`resolve` checks and writes nothing. `submit` writes the folder and submits what is not done, under a lock of the
folder: a second launcher, or one that was killed and started again, finds what was submitted before.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fashion_dist import runs, tasks
from fashion_dist.cluster import code_version, launcher, permissions, run_lock, safe_python, slurm
from fashion_dist.cluster.launcher import Ground, Request
from fashion_dist.cluster.slurm import JobRef
from fashion_dist.config import Config, require_setting
from fashion_dist.errors import ConfigError
from fashion_dist.io import read_json
from fashion_dist.models import pretrained
from fashion_dist.paths import SweepDir
from fashion_dist.sweep import expand, spec
from fashion_dist.sweep.spec import Spec
from fashion_dist.sweep.sweep_record import Array, Sweep, Trial, ranges, read_arrays, sweep_id, write_arrays
from fashion_dist.sweep.view import UNFINISHED, SweepView, look_at_sweep
from shards import program


@dataclass(frozen=True)
class Question:
    """What the user asks for.

    Args:
        request: the task, where, and with which resources; its settings are empty.
        file: W&B's YAML; empty where the settings say it all.
        settings: `key=value` for all trials, `key=value,value` for a list of them.
        name: of the sweep; empty takes the file's, or makes one of the content.
        seeds: repeats of every point with other seeds of the training.
        seed: of random draws and searches.
        max_parallel: trials at once; 0 is all on Slurm, and one on this machine.
        rerun_failed: run again what failed, was cancelled or stopped.
        hold: leave the array in Slurm's queue until `scontrol release`.
        yes: go on with any number of trials.
    """

    request: Request
    file: str = ""
    settings: tuple[str, ...] = ()
    name: str = ""
    seeds: int = 1
    seed: int = 0
    max_parallel: int = 0
    rerun_failed: bool = False
    hold: bool = False
    yes: bool = False


@dataclass(frozen=True)
class Draft:
    """A sweep that can be submitted."""

    sweep: Sweep
    ground: Ground
    question: Question
    configs: Sequence[Config]
    """Of the trials; of a search, of some that it could make."""
    doubled: int = 0
    """Points left out because another gives the same run."""


def resolve(question: Question) -> Draft:
    """The sweep that a question means.

    Raises:
        InputError: it cannot be done as asked; one sentence with what would be possible.
    """
    for name, least in (("seeds", 1), ("max_parallel", 0), ("seed", 0)):
        if (value := getattr(question, name)) < least:
            raise ConfigError(f"--{name.replace('_', '-')} {value} is not possible; allowed: {least} or more")
    task = tasks.load(question.request.task)
    recipe = launcher.resolve_config(task.recipe, question.request)
    raw = read(question, recipe)
    where = question.file or "--set"
    searched = spec.parse(raw, where, recipe.keys())
    _require_repeats(searched, question, where)
    if (searched.method == "bayes" or searched.halving) and importlib.util.find_spec("optuna") is None:
        raise ConfigError(f"{where}: bayes and early_terminate need Optuna: pip install 'fashion-dist[sweep]'")
    expand.require_few(searched, question.seeds, question.yes)
    ground = launcher.survey(question.request)
    request = dataclasses.replace(question.request, shards=str(ground.home.elsewhere or ""))
    base = _monitored(ground.config, searched, task.monitor)
    sweep = Sweep(
        ground.home.sweep_dir("unnamed"), "", raw, request, base, ground.shard_set.data_hash, question.seed,
        question.seeds, (), program.typed(), time.time(),
    )  # fmt: skip
    points = _points(sweep, searched)
    made: dict[str, tuple[expand.Settings, Config]] = {}
    for point in points:
        config = sweep.config_of(point)
        made.setdefault(runs.run_id(config, ground.home, sweep.data_hash), (point, config))
    configs = [config for _, config in made.values()]
    _require(ground, searched, configs)
    if searched.method == "bayes":
        trials: list[Trial | None] = [None] * searched.run_cap
    else:
        trials = [Trial(at, point, run_id) for at, (run_id, (point, _)) in enumerate(made.items())]
    launcher.require_shards(ground.shard_set)
    if ground.cluster == "local":
        ground = _shared(ground, question.max_parallel or 1)
    name = question.name or searched.name or f"{base.task}-sweep-{sweep.content[:8]}"
    if not name.isprintable():
        raise ConfigError(f"--name {name!r} has a control character; allowed: one line of text")
    sweep = dataclasses.replace(sweep, folder=ground.home.sweep_dir(sweep_id(name)), name=name, trials=tuple(trials))
    _require_same(sweep)
    doubled = len(points) - len(made) if searched.method != "bayes" else 0
    return Draft(sweep, ground, question, configs, doubled)


def _shared(ground: Ground, slots: int) -> Ground:
    """On this machine: every trial gets its part of the GPUs, unless the user said how many."""
    if ground.request.resources.get("gpus_per_node") is not None:
        return ground
    gpus = ground.resources.gpus_per_node
    return dataclasses.replace(ground, resources=ground.resources.replace(gpus_per_node=gpus // slots or min(gpus, 1)))


def read(question: Question, recipe: Config) -> dict[str, object]:
    """W&B's words for the file and the settings together.

    Raises:
        ConfigError: neither is given, or both name a setting.
    """
    settings = spec.from_settings(question.settings, recipe)
    raw = spec.read_yaml(Path(question.file).expanduser()) if question.file else {"method": "grid"}
    if not question.file and not settings and question.seeds == 1:
        raise ConfigError("nothing to try: allowed: --sweep FILE.yaml, --set key=value,value, or --seeds N")
    known: Any = raw.get("parameters", {})
    if not isinstance(known, dict):
        raise ConfigError(f"{question.file}: parameters is not a mapping")
    keys = recipe.keys()
    for key in settings:
        require_setting(key, keys)
        if key in known:
            raise ConfigError(f"--set {key} is given by {question.file} as well; allowed: either")
    if question.file and not known and not settings:
        raise ConfigError(f"{question.file} has no parameters, so there is nothing to try")
    return {**raw, "parameters": {**known, **settings}}


def _require_repeats(searched: Spec, question: Question, where: str) -> None:
    if question.seeds == 1:
        return
    if searched.method == "bayes":
        raise ConfigError("--seeds repeats points that are known before; allowed with grid and random, not with bayes")
    if any(parameter.key == "train.seed" for parameter in searched.parameters):
        raise ConfigError(f"--seeds {question.seeds} and {where} both choose train.seed; allowed: either")


def _monitored(config: Config, searched: Spec, usual: str) -> Config:
    """`config`, whose best weights are best by the sweep's metric."""
    if not searched.metric:
        return config
    mode = "max" if searched.goal == "maximize" else "min"
    if searched.metric != (config.train.monitor or usual):
        config = config.override([f"train.monitor={searched.metric}"])
    return config if config.train.mode == mode else config.override([f"train.mode={mode}"])


def _points(sweep: Sweep, searched: Spec) -> list[expand.Settings]:
    """The settings of all trials; of a search, some that it could choose."""
    if searched.method == "bayes":
        return [expand.draw(searched.parameters, sweep.seed, number) for number in range(16)]
    return expand.repeated(expand.expand(searched, sweep.seed), sweep.seeds, sweep.base.train.seed)


def _require(ground: Ground, searched: Spec, configs: Sequence[Config]) -> None:
    """Refuse trials that cannot be trained; what tasks and models look at is looked at once for equal ones."""
    first = searched.halving.rungs[0] if searched.halving is not None and searched.halving.rungs else 0
    seen: set[str] = set()
    for config in configs:
        train, data = config.train, config.data
        if first >= train.epochs > 1:
            raise ConfigError(
                f"early_terminate first looks after {first} epochs and a trial has {train.epochs}; "
                f"allowed: a first look after 1 to {train.epochs - 1}"
            )
        sizes = (train.batch_size, train.accumulate)
        part = repr((config.model, config.options, data.balance, data.weigh, sizes))
        if part not in seen:
            seen.add(part)
            ground.require(config)


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

    arrays: Sequence[Array]
    view: SweepView


def submit(draft: Draft) -> Submitted:
    """Submit the trials that nobody has run, and with `rerun_failed` those that did not end well.

    Raises:
        ConfigError: the scheduler refuses an array, or published weights cannot be fetched.
        RunError: Slurm stopped answering.
    """
    sweep, question = draft.sweep, draft.question
    folder = sweep.folder
    _fetch_weights(draft)
    folder.path.parent.mkdir(parents=True, exist_ok=True)
    permissions.make(folder.path, question.request.group, "another --name makes one of your own")
    with run_lock.guard(folder.path, "launch"):
        _require_same(sweep)
        if not folder.sweep.is_file():
            if sweep.is_studied:
                from fashion_dist.sweep.study import Study

                Study(sweep).create()
            sweep.write()
        _adopt(folder)
        view = look_at_sweep(folder)
        wanted = ("new", *UNFINISHED) if question.rerun_failed else ("new",)
        numbers = [trial.number for trial in view.trials if trial.view.state in wanted]
        made = _queue_here(draft, view, numbers) if draft.ground.cluster == "local" else _arrays(draft, numbers)
        return Submitted(made, look_at_sweep(folder) if made else view)


def _fetch_weights(draft: Draft) -> None:
    models = {(config.model.name, config.model.weights) for config in draft.configs}
    for name, wanted in sorted(models):
        if wanted == "imagenet":
            pretrained.fetch(pretrained.published(name), draft.ground.home.weights)


def _adopt(folder: SweepDir) -> None:
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
            if entry.comment == last.comment and entry.presence != "gone"
        } - known
        job = JobRef("slurm", sorted(found)[0]) if found else None
    else:
        pid = slurm.find_process("fashion_dist.sweep.local_queue", str(folder.path))
        job = JobRef.of_process(pid) if pid is not None else None
    write_arrays(folder, [*arrays, dataclasses.replace(last, job=job)] if job is not None else arrays)


def _arrays(draft: Draft, numbers: Sequence[int]) -> list[Array]:
    from fashion_dist.cluster import submitit_executor as jobs

    folder, question, ground = draft.sweep.folder, draft.question, draft.ground
    code = code_version.snapshot(folder.code) if question.request.snapshot else None
    size = slurm.max_array_size()
    made: list[Array] = []
    for first in range(0, len(draft.sweep.trials), size):
        part = [number for number in numbers if first <= number < first + size]
        if not part:
            continue
        noted = Array(
            "slurm", first, tuple(part), ground.resources, ground.request.options, question.max_parallel,
            launcher.comment_of(folder.path), code=code_version.code_hash(),
        )  # fmt: skip
        before = read_arrays(folder)
        write_arrays(folder, [*before, noted])
        # A throttle is an array's own: with several, one follows the other.
        after = made[-1].job.job_id if made and made[-1].job is not None and question.max_parallel else ""
        try:
            job = jobs.submit_module(
                ("fashion_dist.sweep.trial", str(folder.path), str(first)), ranges(n - first for n in part),
                resources=ground.resources, folder=folder.logs, name=folder.sweep_id, comment=noted.comment,
                max_parallel=question.max_parallel, after=after, hold=question.hold, code=code,
            )  # fmt: skip
        except ConfigError as error:
            write_arrays(folder, before)
            if not made:
                raise
            raise ConfigError(
                f"{sum(len(array.numbers) for array in made)} trials were submitted, then Slurm took no more: {error}; "
                f"the same command again submits the rest"
            ) from None
        made.append(dataclasses.replace(noted, job=job))
        write_arrays(folder, [*before, made[-1]])
    return made


def _queue_here(draft: Draft, view: SweepView, numbers: Sequence[int]) -> list[Array]:
    """Start this machine's queue, unless it runs."""
    from fashion_dist.cluster.submitit_executor import job_environment

    folder = draft.sweep.folder
    last = view.arrays[-1] if view.arrays else None
    if not numbers or (
        last is not None and last.cluster == "local" and last.job is not None and slurm.presence(last.job) != "gone"
    ):
        return []
    noted = Array(
        "local", 0, tuple(numbers), draft.ground.resources, draft.ground.request.options,
        draft.question.max_parallel or 1, code=code_version.code_hash(),
    )  # fmt: skip
    write_arrays(folder, [*view.arrays, noted])
    folder.logs.mkdir(parents=True, exist_ok=True)
    code = code_version.snapshot(folder.code) if draft.question.request.snapshot else None
    with job_environment("local", code), (folder.logs / "queue.log").open("ab") as log:
        process = subprocess.Popen(
            [*safe_python.interpreter(), "-m", "fashion_dist.sweep.local_queue", str(folder.path)],
            env=dict(os.environ), start_new_session=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    process.returncode = 0  # it is not ours to wait for; Popen would warn about that
    made = dataclasses.replace(noted, job=JobRef.of_process(process.pid))
    write_arrays(folder, [*view.arrays, made])
    return [made]
