"""What grows, row by row: how n of it are made, and the product's work on them that is measured."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from report_runs import make_run, write_answers

from fashion_dist.cluster.launcher import LaunchRequest
from fashion_dist.paths import Home
from growth.polyvore import planning
from shards import Manifest, PackOptions, ReadOptions, Schema, ShardSet, Split, index, pack, tar
from shards.manifest import INDEX, MANIFEST, Shard

Work = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One curve.

    Args:
        name: for people.
        of: what is counted.
        least: n; also measured at 4 n and 16 n.
        prepare: makes so many in an empty folder; returns the work to measure.
    """

    name: str
    of: str
    least: int
    prepare: Callable[[int, Path], Work]


LABELS = Schema(columns={"label": "int", "file": "str"}, names={"label": tuple("abcdefghij")})


def picture(px: int, kind: str, seed: int = 0) -> bytes:
    """An encoded picture of noise."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (px, px, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def bare_set(
    folder: Path, samples: int, shards: int, splits: Sequence[str] = ("train",), schema: Schema = LABELS,
    **facts: pa.Array,
) -> ShardSet:  # fmt: skip
    """A set of one picture many times over, whose shards are links to one tar, as many of each split; `facts` are
    columns of one shard.
    """
    folder.mkdir(parents=True)
    each, image = samples // shards, picture(16, "JPEG")
    block = tar.header(b"picture.jpg", len(image)) + image + tar.padding(len(image))
    first = folder / "0.tar"
    first.write_bytes(block * each + tar.END)
    size, share = first.stat().st_size, shards // len(splits)
    told = [Shard(f"{n}.tar", splits[n // share], each, size, f"{n:064x}") for n in range(shards)]
    for shard in told[1:]:
        os.link(first, folder / shard.name)
    alike = {
        "offset": np.arange(each) * len(block) + tar.BLOCK, "size": np.full(each, len(image)),
        "crc32": np.full(each, zlib.crc32(image), np.uint32), "width": np.full(each, 16, np.int32),
        "height": np.full(each, 16, np.int32), "label": np.arange(each) % 10,
    }  # fmt: skip
    columns = {name: pa.array(values) for name, values in alike.items() if name != "label" or "label" in schema.columns}

    def rows(number: int) -> tuple[str, dict[str, Any]]:
        keys = [f"{number:05d}{at:07d}" for at in range(each)]
        named = {"file": pa.array([f"{key}.jpg" for key in keys])} if "file" in schema.columns else {}
        return told[number].split, {**columns, **named, **facts, "key": pa.array(keys)}

    index.write(folder / INDEX, schema, map(rows, range(shards)))
    (folder / MANIFEST).write_bytes(Manifest("image_folder", schema, tuple(told)).encoded())
    return ShardSet.open(folder)


def images(folder: Path, count: int) -> Path:
    """An image folder of two classes, each picture a file of its own."""
    content = picture(8, "PNG")
    for number in range(count):
        path = folder / "ab"[number % 2] / f"{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def packing(n: int, folder: Path) -> Work:
    source = images(folder / "raw", n)
    options = PackOptions(shard_mb=0.0001, check="header")
    return lambda: pack("image_folder", source, folder / "set", options, ReadOptions())


def verifying(n: int, folder: Path) -> Work:
    from shards.verify import verify

    packing(n, folder)()

    def work() -> None:
        assert verify(folder / "set") == []

    return work


def opening(n: int, folder: Path) -> Work:
    from fashion_dist.data.shard_reader import ShardFiles

    bare_set(folder / "set", n, n)

    def work() -> None:
        ShardFiles(ShardSet.open(folder / "set").split("train")).check()

    return work


def rank_of(n: int, folder: Path) -> Work:
    """Everything that a rank holds of the data: the index, an epoch's order, the first batch of two epochs."""
    from fashion_dist.config import DataConfig
    from fashion_dist.data.loader import Loader

    bare_set(folder / "set", n, n // 10_000)

    def work() -> None:
        split = ShardSet.open(folder / "set").split("train")
        rows = np.arange(len(split))[:, None]
        with Loader(split, rows, DataConfig(image_px=16), batch_size=64, training=True) as loader:
            for epoch in range(2):
                next(loader.epoch(epoch))

    return work


def weighing(n: int, folder: Path) -> Work:
    from fashion_dist.data import sampler

    classes = np.random.default_rng(0).integers(0, 1000, n)
    weights = sampler.balanced_weights(classes)
    return lambda: sampler.weighted_order(weights, classes, 0, 1)


def counting(n: int, folder: Path) -> Work:
    """20 batches of 64 answers of n classes."""
    import torch

    from fashion_dist.tasks import load
    from fashion_dist.train.distributed import ProcessGroup, World

    task = load("clipart")
    schema = Schema(columns={"label": "int"}, names={"label": tuple(map(str, range(n)))})
    logits, label = torch.randn(64, n), torch.randint(0, n, (64,))

    def work() -> None:
        evaluator = task.evaluator(Split("val", schema, Path(), Path(), (), 0, 1280), task.recipe)
        for batch in range(20):
            evaluator.update({"label": logits}, {"label": label}, torch.arange(64) + 64 * batch)
        evaluator.reduce(ProcessGroup(World(), torch.device("cpu")))
        evaluator.compute()

    return work


def reporting(n: int, folder: Path) -> Work:
    """The figures and the confusions of 1,000 answers of n classes."""
    from fashion_dist.report import classes, scores

    rng = np.random.default_rng(0)
    truth, answers = rng.integers(0, n, (2, 1000))
    probability = rng.random((1000, n), np.float32)

    def work() -> None:
        found = classes.ClassAnswers(np.arange(1000), truth, answers, probability, [str(k) for k in range(n)])
        scores.class_figures(truth, probability, answers)
        found.matrix(classes._most_confused(found, scores.mistakes(truth, answers, n)))

    return work


def collecting(n: int, folder: Path) -> Work:
    """Predictions of 1,000 classes, of which the submission needs one column."""
    from fashion_dist.results.collect import collect
    from fashion_dist.tasks import load

    shard_set, config = bare_set(folder / "shards" / "clipart", n, 10, ("test",)), load("clipart").recipe
    run = make_run(folder / "runs" / "clipart-0123456789", config, shard_set, {})
    probability = np.random.default_rng(0).random((n, 1000), np.float32)
    answers: dict[str, np.ndarray] = {"label": np.arange(n) % 10, "probability": probability}
    write_answers(run, shard_set, "test", answers)
    return lambda: collect(run, config, shard_set)


def looking(n: int, folder: Path) -> Work:
    """All runs of a working folder, which are done."""
    from fashion_dist.monitor import overview
    from fashion_dist.tasks import load

    shard_set = bare_set(folder / "shards" / "clipart", 10, 1)
    first = make_run(folder / "runs" / "clipart-0000000000", load("clipart").recipe, shard_set, {})
    for number in range(1, n):
        shutil.copytree(first.path, folder / "runs" / f"clipart-{number:010x}")
    return lambda: overview.look_at_all(Home(folder).all_runs(), [])


def searching(n: int, folder: Path) -> Work:
    """The trials of a random search, resolved and checked."""
    from fashion_dist.sweep.launcher import SweepRequest, resolve

    bare_set(folder / "shards" / "clipart", 640, 2, ("train", "val"))
    file = folder / "search.yaml"
    file.write_text(f"method: random\nrun_cap: {n}\nparameters: {{model.dropout: {{min: 0.0, max: 0.5}}}}\n")
    request = LaunchRequest("clipart", home=str(folder), cluster="local")
    return lambda: resolve(SweepRequest(request, str(file), yes=True))


def reading_metrics(n: int, folder: Path) -> Work:
    """The validation's lines out of n, of which they are a fiftieth."""
    from fashion_dist.tracking.metrics_log import iter_metrics

    path = folder / "metrics.jsonl"
    values = {"loss": 1.2345, "lr": 0.001, "samples_per_s": 512.5, "grad_norm": 1.5, "attempt": 1, "time": 1.7e9}
    with path.open("w") as file:
        for step in range(n):
            head = {"split": "train" if step % 50 else "val", "step": step, "epoch": step / 100}
            file.write(json.dumps({**head, **values}) + "\n")
    return lambda: sum(1 for _ in iter_metrics(path, "val"))


def targets(n: int, folder: Path) -> Work:
    """1,000 attributes of each of n pictures, as a rank holds them."""
    from fashion_dist.tasks import load

    schema = Schema(columns={"labels": "ints:1000"}, names={"labels": tuple(map(str, range(1000)))})
    each = n // 5
    flat = pa.array(np.random.default_rng(0).integers(0, 2, each * 1000, dtype=np.int32))
    column = pa.FixedSizeListArray.from_arrays(flat, 1000)
    bare_set(folder / "set", n, 5, schema=schema, labels=column)
    task = load("multilabel")
    config = dataclasses.replace(task.recipe, options={**task.recipe.options, "label": "labels"})

    def work() -> object:
        return task.image_targets(ShardSet.open(folder / "set").split("train"), config)

    return work


def checkpointing(n: int, folder: Path) -> Work:
    """n parameters with Adam's two moments: saved, and loaded."""
    import torch

    from fashion_dist.train.checkpoint import Checkpoints

    state = {name: {"weight": torch.randn(n)} for name in ("model", "mean", "square")}

    def work() -> None:
        checkpoints = Checkpoints(folder / "checkpoints")
        checkpoints.save("step", 1, state, {})
        checkpoints.wait()
        checkpoints.load()
        checkpoints.close()

    return work


ROWS = (
    Row("packing, a picture a shard", "shards", 250, packing),
    Row("verify, a picture a shard", "shards", 250, verifying),
    Row("opening a set, one rank", "shards", 1250, opening),
    Row("a rank's data to its 2nd epoch", "samples", 625_000, rank_of),
    Row("weighted order of an epoch", "samples", 625_000, weighing),
    Row("counting 20 batches' answers", "classes", 3125, counting),
    Row("figures of a report", "classes", 1000, reporting),
    Row("collect, 1,000 classes", "pictures", 2500, collecting),
    Row("targets, 1,000 attributes", "pictures", 5000, targets),
    Row("an epoch of Polyvore's pairs", "outfits", 3330, planning),
    Row("status of runs that are done", "runs", 250, looking),
    Row("a random search's trials", "trials", 125, searching),
    Row("metrics.jsonl, of one split", "lines", 62_500, reading_metrics),
    Row("a checkpoint and back", "parameters", 2_500_000, checkpointing),
)
