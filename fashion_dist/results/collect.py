"""From prediction files to submission files, only when every sample of the split is there exactly once."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fashion_dist.config import Config
from fashion_dist.errors import ConfigError, DamageError, InputError, RunError
from fashion_dist.io import OwnFiles, write_json
from fashion_dist.paths import RunDir
from fashion_dist.run_status import RunState
from fashion_dist.tasks import load
from shards import ShardSet, Split, index, program


def collect(
    run: RunDir, config: Config, shard_set: ShardSet, out: Path | None = None, split: str = "test", wait_s: float = 0.0
) -> list[Path]:
    """Write the submission files of `config`'s task for `split` into `out` (default: the run's folder).

    Args:
        run: the run's folder.
        config: whose task answers.
        shard_set: what was predicted.
        out: where the files go.
        split: the predicted split.
        wait_s: how long to wait for the predictions of a run that is done, which a network filesystem may show late.

    Returns:
        Their paths.

    Raises:
        InputError: the shard set has no such split, or the run has not predicted it yet, or `out` holds a file of the
            same name that we did not write.
        RunError: a sample of the split is missing or doubled in the predictions; nothing is written.
    """
    part = shard_set.split(split)
    files = load(config.task).submission(ordered_predictions(run, part, wait_s), part, config)
    written = _write(files, out or run.submission)
    if out is None:
        write_json(run.submitted, {"task": config.task, "split": split, "options": dict(config.options)})
    return written


def collect_average(
    runs: Sequence[RunDir], config: Config, shard_set: ShardSet, out: Path, split: str = "test", wait_s: float = 0.0
) -> list[Path]:
    """`collect` for the mean of several runs of one task, whose probabilities are averaged sample by sample.

    Raises:
        ConfigError: answers of the task have no mean.
    """
    task = load(config.task)
    if not task.overrides("ensemble"):
        raise ConfigError(f"answers of task {config.task!r} cannot be averaged; allowed: the best trial alone, --best")
    part = shard_set.split(split)
    members = [ordered_predictions(run, part, wait_s) for run in runs]
    return _write(task.submission({**members[0], **task.ensemble(members)}, part, config), out)


def _write(files: Mapping[str, str], folder: Path) -> list[Path]:
    own = OwnFiles(folder)
    own.claim(*files)
    return [own.write(name, text) for name, text in files.items()]


def ordered_predictions(run: RunDir, part: Split, wait_s: float = 0.0) -> dict[str, np.ndarray]:
    """The columns of a split's samples and what the run predicted for them, in the split's order; see `collect`."""
    columns, index = _when_complete(run, part, wait_s)
    ordered = {name: values[index] for name, values in columns.items()}
    return {**part.columns(*part.schema.columns), **ordered, "key": np.asarray(part.keys)}


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
        make = program.command("predict", run.run_id, "--split", "val")
        raise InputError(f"run {run.run_id} has no predictions for 'val' to tune thresholds on; {make} makes them")
    found = task.tune_thresholds(part, ordered_predictions(run, part), config)
    return dataclasses.replace(config, options={**config.options, **found})


def _when_complete(run: RunDir, part: Split, wait_s: float) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The prediction columns and the rows of the split's samples in them."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            columns = read_predictions(run, part.name)
            return columns, _order(columns, part, run.predictions(part.name))
        except (InputError, RunError):
            state = RunState.read(run.state)
            if state is None or state.state != "done" or time.monotonic() >= deadline:
                raise
        time.sleep(0.5)


def read_predictions(run: RunDir, split: str) -> dict[str, np.ndarray]:
    """The prediction columns of all ranks, one behind the other.

    Args:
        run: the run's folder.
        split: name of the predicted split.

    Raises:
        InputError: there are none.
        DamageError: a file is not what was written.
    """
    import pyarrow as pa

    folder = run.predictions(split)
    files = sorted(folder.glob("rank_*.parquet"))
    if not files:
        hint = f"{program.command('status', run.run_id)} shows how far it is"
        raise InputError(f"run {run.run_id} has no predictions for {split!r} yet in {folder}; {hint}")
    tables = []
    for path in files:
        try:
            tables.append(index.open_table(path).read())
        except (OSError, pa.ArrowException) as error:
            raise DamageError(path.name, "", 0, f"{path} cannot be read: {error}; predict again") from None
    columns = {tuple(table.schema) for table in tables}
    if len(columns) != 1 or "key" not in tables[0].column_names:
        raise DamageError(
            folder.name, "", 0, f"its files in {folder} have different columns, or no keys; predict again"
        )
    return {name: np.concatenate([_numpy(table[name]) for table in tables]) for name in tables[0].column_names}


def _numpy(column: object) -> np.ndarray:
    """A column as an array [N], or [N, K] where it holds lists."""
    import pyarrow as pa

    assert isinstance(column, pa.ChunkedArray)
    array = column.combine_chunks()
    if isinstance(array, pa.FixedSizeListArray):
        return np.asarray(array.flatten().to_numpy(zero_copy_only=False)).reshape(len(array), array.type.list_size)
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _order(columns: Mapping[str, np.ndarray], part: Split, where: Path) -> np.ndarray:
    """Positions in `columns` of the split's samples, in the split's order."""
    row_of: dict[str, int] = {}
    doubled = []
    for row, key in enumerate(columns["key"]):
        if key in row_of:
            doubled.append(key)
        row_of[key] = row
    keys = list(part.keys)
    missing = [key for key in keys if key not in row_of]
    unknown = sorted(row_of.keys() - set(keys))
    for what, names in (("missing", missing), ("there more than once", doubled), ("not of this split", unknown)):
        if names:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            raise RunError(f"{where}: {len(names)} of {len(keys)} samples {what}: {shown}; no submission was written")
    return np.array([row_of[key] for key in keys], dtype=np.int64)
