"""What is read of a set does not grow with the square of its shards: counts of files opened, never times."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from sources import write_csv_source

from fashion_dist.data import memory
from fashion_dist.data.columns import share_arrays
from fashion_dist.data.shard_reader import ShardFiles
from fashion_dist.errors import ConfigError
from fashion_dist.tasks import load
from shards import PackOptions, Schema, ShardSet, index, pack
from shards.manifest import Manifest, Shard
from shards.verify import verify

opened: Counter[str] = Counter()
_counting = False


def _count(event: str, values: tuple[object, ...]) -> None:
    if _counting and event == "open":
        opened[Path(str(values[0])).name] += 1


sys.addaudithook(_count)  # cannot be taken away again, so it looks at a flag


@pytest.fixture
def counted() -> Iterator[Counter[str]]:
    global _counting
    opened.clear()
    _counting = True
    yield opened
    _counting = False


def test_packing_and_verifying_read_what_names_all_shards_once(tmp_path: Path, counted: Counter[str]) -> None:
    source = write_csv_source(tmp_path / "deep_fashion", train=120, val=2, test=2)
    manifest = pack("deep_fashion", source, tmp_path / "set", PackOptions(shard_mb=0.005))
    assert len(manifest.shards) > 20
    assert counted["plan.json"] <= 4
    counted.clear()
    assert verify(tmp_path / "set") == []
    assert counted["manifest.json"] <= 4 and counted["index.parquet"] <= 4
    counted.clear()
    ShardFiles(ShardSet.open(tmp_path / "set").split("train")).check()
    assert counted["manifest.json"] <= 2
    tars = {name: count for name, count in counted.items() if name.endswith(".tar")}
    assert max(tars.values()) == 1
    counted.clear()
    for rank in range(3):  # of one job, which share the looks
        ShardFiles(ShardSet.open(tmp_path / "set").split("train")).check(rank, 3)
    assert {name: count for name, count in counted.items() if name.endswith(".tar")} == tars


def made_set(folder: Path, labels: list[list[int] | None], shards: int) -> ShardSet:
    """A set of an index alone: in each split `shards` of two samples, whose vectors are `labels` in turn."""
    schema = Schema({"label": f"ints:{len(labels[0] or ())}", "row": "int"}, {"label": ("a", "b", "c")})
    given, groups = cycle(enumerate(labels)), []
    for split in ("train", "val"):
        for number in range(shards):
            rows, facts = zip(*islice(given, 2), strict=True)
            places = {name: [8, 8] for name in index.PLACES if name != "key"}
            keys = [f"{split}-{number}-{k}" for k in range(2)]
            groups.append((split, {**places, "key": keys, "label": facts, "row": rows}))
    folder.mkdir()
    index.write(folder / "index.parquet", schema, groups)
    tars = tuple(Shard(f"{split}-{k}.tar", split, 2, 2048, "0" * 64) for k, (split, _) in enumerate(groups))
    (folder / "manifest.json").write_bytes(Manifest("made", schema, tars).encoded())
    return ShardSet.open(folder)


def test_vectors_are_read_in_pieces_and_targets_are_bytes(tmp_path: Path) -> None:
    labels = [[0, 1, 1], None, [0, 0, 0], [1, 0, -1], [1, 1, 1]]
    made = made_set(tmp_path / "set", labels, shards=4)
    split = made.split("val")
    pieces = list(split.iter_columns("label", "row", numbers=6))
    assert len(pieces) >= 4 and max(piece["label"].size for piece in pieces) <= 6
    whole = split.columns("label", "row")
    for name in whole:
        assert np.array_equal(np.concatenate([piece[name] for piece in pieces]), whole[name])
    assert whole["label"].tolist() == [labels[row] or [-1] * 3 for row in whole["row"].tolist()]

    task, config = load("multilabel"), load("multilabel").resolve(made, load("multilabel").recipe)
    targets = task.build_examples(split, config).targets["labels"]
    assert targets.dtype == np.int8 and np.array_equal(targets, whole["label"])
    task.validate(made, config)
    logits = torch.randn(len(split), 3, generator=torch.Generator().manual_seed(0))
    known = torch.from_numpy(targets)
    losses = [task.losses({"labels": logits}, {"labels": t}, config)["loss"] for t in (known, known.float())]
    assert losses[0] == losses[1]

    odd = made_set(tmp_path / "odd", [[0, 1, 300], [0, 0, 1]], shards=2)
    with pytest.raises(ConfigError, match="train-0-0 of split 'train' has 300 for 'c'"):
        task.validate(odd, config)


def test_targets_stand_once_on_a_node() -> None:
    arrays = {
        "labels": np.full((500, 2001), 7, np.int8),
        "": np.arange(70_001)[:, None],
        "share": np.ones(3, np.float32),
    }
    first, block = share_arrays(arrays, 2, "test targets once")
    memory._opened.clear()  # as another rank, which has opened none
    second, _ = share_arrays(arrays, 2, "test targets once")
    assert block is not None and all(np.array_equal(first[name], arrays[name]) for name in arrays)
    second["labels"][1, 2] = 99
    assert first["labels"][1, 2] == 99 and arrays["labels"][1, 2] == 7
    assert share_arrays({"few": np.ones(9)}, 2, "few")[1] is None
