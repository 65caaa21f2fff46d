"""From prediction files to submission files, only when every sample of the split is there exactly once."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from fashion_dist.cluster.run_view import typed
from fashion_dist.config import Config
from fashion_dist.errors import ConfigError, InputError, RunError
from fashion_dist.io import OwnFiles, parse_dataclass, read_object, write_json
from fashion_dist.paths import Home, RunDir
from fashion_dist.results.named import write_named
from fashion_dist.results.prediction_files import LazyColumns, PredictionFiles
from fashion_dist.run_status import RunState
from fashion_dist.runs import OpenRun, learned_schema, open_run, read_config
from fashion_dist.tasks import load
from fashion_dist.tasks.common.learned_set import LearnedSet
from shards import Schema, ShardSet, Split


def collect(
    run: RunDir,
    config: Config,
    shard_set: ShardSet,
    out: Path | None = None,
    split: str = "test",
    wait_s: float = 0.0,
    name: str = "",
) -> list[Path]:
    """Write the submission files of `config`'s task for `split` into `out`; returns their paths.

    Those of `test` go into the run's folder `submission/`, of other splits below it, where they are in nobody's way.

    `wait_s` is how long to wait for the predictions of a run that is done, which a network filesystem may show late;
    `name` is what the predictions are called, if not as the split.

    Raises:
        InputError: the shard set has no such split, or the run has not predicted it yet, or `out` holds a file of the
            same name that we did not write.
        RunError: a sample of the split is missing or doubled in the predictions; nothing is written.
    """
    part = shard_set.split(split)
    files = load(config.task).submission(ordered_predictions(run, part, wait_s, name), part, config)
    written = _write(files, out or run.submission_of(name or split))
    if out is None and (name or split) == "test":
        write_json(run.submitted, {"task": config.task, "split": split, "options": dict(config.options)})
    return written


def collect_average(
    runs: Sequence[RunDir], config: Config, shard_set: ShardSet, out: Path, split: str = "test", wait_s: float = 0.0
) -> list[Path]:
    """`collect` for the mean of several runs of one task, whose probabilities are averaged sample by sample.

    Raises:
        ConfigError: answers of the task have no mean, or the runs learn other columns.
    """
    task = load(config.task)
    if not task.overrides("ensemble"):
        raise ConfigError(f"answers of task {config.task!r} cannot be averaged; allowed: the best trial alone, --best")
    if len(asked := {task.columns_of(read_config(run)[0]) for run in runs}) > 1:
        told = ", ".join(sorted(", ".join(columns) for columns in asked))
        raise ConfigError(f"the runs learn other columns ({told}), whose answers have no mean; allowed: --best")
    part = shard_set.split(split)
    members = [ordered_predictions(run, part, wait_s) for run in runs]
    return _write(task.submission(members[0].replaced(task.ensemble(members)), part, config), out)


def _write(files: Mapping[str, str], folder: Path) -> list[Path]:
    own = OwnFiles(folder)
    own.claim(*files)
    return [own.write(name, text) for name, text in files.items()]


@dataclasses.dataclass(frozen=True)
class _Predicted:
    """Which pictures predictions are of."""

    shard_set: str
    split: str
    source: str


def open_predicted(home: Home, name: str, predictions: str) -> tuple[OpenRun, str]:
    """A run with the set that its predictions of this name are of, numbered as it learned, and their split in it.

    Raises:
        InputError: the run has no such split and has predicted nothing of that name, or the set is gone.
    """
    folder = home.find_run(name)
    path = folder.named(predictions, "json")
    if (values := read_object(path)).get("source"):
        made, (config, gone) = parse_dataclass(_Predicted, values, path), read_config(folder)
        learned = learned_schema(folder)
        return OpenRun(folder, config, LearnedSet.of(ShardSet.open(made.shard_set), learned), gone, learned), made.split
    opened = open_run(folder, strict=False)
    opened.shard_set.split(predictions)
    return opened, predictions


def write_names(run: RunDir, config: Config, schema: Schema, part: Split, name: str) -> list[Path]:
    """Write the predictions with class names beside those of the ranks; see `named.write_named`."""
    files = PredictionFiles.of_run(run, part, name).require_complete()
    return write_named(files, config, schema, run.named(name, "parquet"), run.named(name, "csv"))


def ordered_predictions(run: RunDir, part: Split, wait_s: float = 0.0, name: str = "") -> LazyColumns:
    """The columns of a split's samples and what the run predicted for them, in the split's order; see `collect`."""
    files = _when_complete(run, part, wait_s, name)
    read = {column: lambda name=column: part.columns(name)[name] for column in part.schema.columns}
    predicted = {column: partial(files.column, column) for column in files.names if column != "key"}
    return LazyColumns({**read, **predicted, "key": lambda: np.asarray(part.keys)})


_ANSWERING = ("build_model", "predictions", "class_names")
"""The methods that say what a run of a task predicts."""


def answered_as(config: Config, name: str) -> Config:
    """The configuration of a run, to answer as the task `name` does, from the same predictions.

    Raises:
        ConfigError: no such task, or one that learns from other columns or predicts something else.
    """
    mine, other = load(config.task), load(name)
    kin = isinstance(mine, type(other)) or isinstance(other, type(mine))
    if not kin or any(getattr(type(mine), m) is not getattr(type(other), m) for m in _ANSWERING):
        raise ConfigError(f"a run of task {config.task!r} predicts nothing that task {name!r} could answer with")
    kept = {key: value for key, value in config.options.items() if key in other.recipe.options}
    return dataclasses.replace(config, task=name, options={**other.recipe.options, **kept})


def tuned(run: RunDir, config: Config, shard_set: ShardSet) -> Config:
    """`config` with the options that suit the run's predictions of the validation split best, such as thresholds.

    Raises:
        ConfigError: the task has nothing to tune.
        InputError: the run has not predicted the validation split yet.
    """
    task = load(config.task)
    if not task.overrides("tune_thresholds"):
        raise ConfigError(f"task {config.task!r} has no thresholds to tune")
    part = shard_set.split("val")
    if not run.predictions("val").is_dir():
        make = typed("predict", run, "--split val")
        raise InputError(f"run {run.run_id} has no predictions for 'val' to tune thresholds on; {make} makes them")
    found = task.tune_thresholds(part, ordered_predictions(run, part), config)
    return dataclasses.replace(config, options={**config.options, **found})


def _when_complete(run: RunDir, part: Split, wait_s: float, name: str = "") -> PredictionFiles:
    """The prediction files, when every sample of the split is in them exactly once."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return PredictionFiles.of_run(run, part, name).require_complete()
        except (InputError, RunError):
            state = RunState.read(run.state)
            if state is None or state.state != "done" or time.monotonic() >= deadline:
                raise
        time.sleep(0.5)
