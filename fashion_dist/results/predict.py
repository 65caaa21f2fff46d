"""Predictions of a run that is trained: of its own splits, of any other set, and of pictures that come later.

Pictures are packed into a shard set of their own first, so that there is one way of reading. Each rank predicts its
blocks of samples alone: `--nodes N` is a job array of Slurm, or processes of this machine, and no rank waits for
another. Batches hold the same samples whatever the ranks, and so predictions are the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fashion_dist.errors import ConfigError, InputError, RunError
from fashion_dist.io import read_json
from fashion_dist.paths import Home, RunDir
from fashion_dist.results.named import write_named
from fashion_dist.results.prediction_files import PredictionFiles
from fashion_dist.runs import OpenRun, open_run, own_config, read_config
from fashion_dist.tasks.common.learned_set import LearnedSet
from shards import ReadOptions, Schema, ShardSet, worker_pool

OnProgress = Callable[[str, int, int], Any]


@dataclass(frozen=True)
class Target:
    """A split that is predicted, into a folder of this name beside the run; `source` is what the user named."""

    name: str
    shard_set: Path
    split: str
    source: str = ""


@dataclass(frozen=True)
class Part:
    """One rank's share of a prediction: picklable, for a job array."""

    run: str
    schema: Schema
    shard_set: str
    split: str
    name: str
    rank: int = 0
    world_size: int = 1
    threads: int = 0


@dataclass(frozen=True)
class Predicted:
    """What was written of one target."""

    target: Target
    samples: int
    folder: Path
    files: tuple[Path, ...]


def predict_run(run: OpenRun, split: str) -> None:
    """Predict a split of a run's own set with its best weights, in this process.

    Raises:
        CheckpointError: the run has no best weights yet.
    """
    from fashion_dist.train import inference

    folder = run.folder.predictions(split)
    inference.begin_predictions(folder)
    _predict(run, Part(str(run.folder.path), run.schema, str(run.shard_set.path), split, split))
    inference.publish_predictions(folder, inference.made_of(run.shard_set, split))


def predict_part(part: Part) -> int:
    """Write one rank's share of the predictions; returns the number of its samples."""
    folder = RunDir(Path(part.run))
    return _predict(OpenRun(folder, own_config(folder), ShardSet.open(part.shard_set), learned=part.schema), part)


def predict_here(parts: list[Part], on_progress: OnProgress, total: int) -> list[int]:
    """`predict_part` of all of them, in as many processes of this machine; one part in this process."""
    return worker_pool.each(_counted, parts, len(parts), lambda done: on_progress("predict", done, total))


def _counted(part: Part, count: Callable[[int], Any]) -> int:
    count(done := predict_part(part))
    return done


def _predict(run: OpenRun, part: Part) -> int:
    from fashion_dist.data.options import LoaderOptions
    from fashion_dist.tasks import ExampleSet
    from fashion_dist.train import inference
    from fashion_dist.train.distributed import World
    from fashion_dist.train.options import TrainerOptions
    from fashion_dist.train.trainer import Trainer

    # Each image once: the task's examples of `train` are drawn, and labels may lack what a target needs.
    images = ExampleSet.of_images(len(run.shard_set.split(part.split)))
    options = TrainerOptions(LoaderOptions(threads=part.threads))
    world = World(part.rank, part.world_size)
    with Trainer.for_inference(run, options) as trainer, trainer.split_loader(part.split, images, world) as loader:
        rows = trainer.iter_predictions(loader)
        return inference.write_rank(run.folder.predictions(part.name), rows, loader.keys, part.rank)


def predict(
    run: RunDir, schema: Schema, target: Target, ranks: Callable[[list[Part], int], list[int]], count: int = 1
) -> Predicted:
    """Predict a target by `count` ranks, check that each sample is there exactly once, and write names beside.

    `ranks` runs `predict_part` for each share of so many samples and returns their results.

    Raises:
        CheckpointError: the run has no best weights yet.
        RunError: a rank failed, or a sample is missing; what was there before stays.
    """
    from fashion_dist.train import inference

    shard_set = LearnedSet.of(ShardSet.open(target.shard_set), schema)
    folder, split = run.predictions(target.name), shard_set.split(target.split)
    inference.begin_predictions(folder)
    base = Part(str(run.path), schema, str(target.shard_set), target.split, target.name, 0, count)
    written = sum(ranks([dataclasses.replace(base, rank=rank) for rank in range(count)], len(split)))
    if written != len(split):
        raise RunError(f"{written} of the {len(split)} samples of {target.name} were predicted; nothing was replaced")
    inference.publish_predictions(folder, inference.made_of(shard_set, target.split, target.source))
    files = PredictionFiles(folder, split).require_complete()
    config, _ = read_config(run)
    named = write_named(files, config, schema, run.named(target.name, "parquet"), run.named(target.name, "csv"))
    return Predicted(target, written, folder, tuple(named))


def own_split(home: Home, name: str, split: str, moved: bool) -> tuple[OpenRun, Target]:
    """A split of the set that a run learned from; raises as `open_run` does, or where there is no such split."""
    opened = open_run(home.find_run(name), moved=home if moved else None)
    opened.shard_set.split(split)
    if _is_of_other(opened.folder, split, "", split):
        source = read_json(opened.folder.named(split, "json")).get("source")
        raise ConfigError(
            f"run {opened.folder.run_id} has predictions {split!r} of {source}; allowed: a split of another name, or "
            f"removing {opened.folder.predictions(split)} first"
        )
    return opened, Target(split, opened.shard_set.path, split)


def targets_of(run: RunDir, shard_set: ShardSet, name: str, split: str, source: str) -> list[Target]:
    """One target a split of a set that is not the run's own, or the one that is wanted.

    They are called as the user says (`name`), else as what the user named (`source`) is.
    """
    splits = [split] if split else list(shard_set.splits)
    shard_set.split(splits[0])
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name or Path(source).stem).strip("-.") or "pictures"
    found, own = [], ("train", "val", "test")
    for one in splits:
        called = plain if len(splits) == 1 else f"{plain}-{one}"
        if called in own or _is_of_other(run, called, source, one):
            if name:
                told = f"keeps {called!r} for its split" if called in own else f"has {called!r} of other pictures"
                raise ConfigError(f"--name {name}: run {run.run_id} {told}; allowed: another name")
            called += "-" + hashlib.sha256(f"{source} {one}".encode()).hexdigest()[:6]
        found.append(Target(called, shard_set.path, one, source))
    return found


def _is_of_other(run: RunDir, called: str, source: str, split: str) -> bool:
    """Whether there are predictions of this name, of other pictures."""
    known = read_json(run.named(called, "json"))
    return run.predictions(called).exists() and (known.get("source", ""), known.get("split", split)) != (source, split)


def pack_source(
    home: Home,
    source: Path,
    schema: Schema,
    options: ReadOptions,
    reshaped: Mapping[str, Any],
    *,
    workers: int,
    on_progress: OnProgress,
    on_found: Callable[[str], object],
) -> ShardSet:
    """The shard set of a folder of pictures, a picture, a table, a shard set, a tar or a folder of tars.

    What is no shard set is packed or indexed in `HOME/sources`, and taken from there while its content is the same.
    `options` say how a table is read, and whether what cannot be read is skipped. Pictures are `reshaped` as those were
    that the run learned from (`Manifest.reshaped`).

    Raises:
        InputError: there are no pictures, or some that cannot be read.
    """
    from fashion_dist.data.dali import open_check
    from shards import PackOptions, readers
    from shards.manifest import MANIFEST
    from shards.packing import pack_opened
    from shards.readers import _folders, _pictures, _tables
    from shards.reindex import ReindexOptions, reindex

    if not source.exists():
        raise InputError(f"--source {source} does not exist; allowed: a folder, picture, table, tar or shard set")
    columns, skip_bad = (options.path_column, options.split_column), options.skip_bad
    is_table = source.is_file() and source.suffix.lower() in _tables.LOADERS
    if any(columns) and not is_table:
        raise InputError(f"--path-column and --split-column are of a table, and {source} is none")
    if (source / MANIFEST).is_file():
        return ShardSet.open(source)
    told = repr([str(source.resolve()), schema.to_json(), skip_bad, *columns * any(columns), *sorted(reshaped.items())])
    out = home.sources / f"{source.stem[:40] or 'pictures'}-{hashlib.sha256(told.encode()).hexdigest()[:10]}"
    if source.suffix == ".tar" or any(source.glob("*.tar")):
        reindex(source, out, ReindexOptions(skip_bad=skip_bad), workers=workers, on_progress=on_progress)
        return ShardSet.open(out)
    if is_table:
        opened = _pictures.as_learned(readers.load("table").read(source, options), schema)
    else:
        walk = _folders.Walk(skip_bad, frozenset({home.path.resolve(), home.shards.resolve()}))
        opened = _pictures.read(source, _pictures.prediction_schema(schema), "pictures", walk)
    if opened.found:
        on_found(opened.found)
    packing = PackOptions(**reshaped, skip_bad=skip_bad)
    pack_opened(
        "pictures", opened, out, packing, workers=workers, open_decoder=open_check, while_same=True,
        on_progress=on_progress,
    )  # fmt: skip
    return ShardSet.open(out)
