"""Shards and images that are not what was packed, and numbers that do not divide."""

from __future__ import annotations

import shutil
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cluster_home import Workplace, read
from fault_matrix import Figures
from garments import draw_garments
from trial import Trial

from fashion_dist.config import DataConfig
from fashion_dist.data import Loader
from fashion_dist.errors import DamageError
from shards import PackOptions, ReadOptions, ShardSet, pack


def change(folder: Path, row: int, **columns: int) -> None:
    """Write other values into one row of a shard set's index."""
    table = pq.read_table(folder / "index.parquet")
    for name, value in columns.items():
        values = table[name].to_pylist()
        values[row] = value
        position = table.schema.get_field_index(name)
        table = table.set_column(position, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    pq.write_table(table, folder / "index.parquet")


def last_of(folder: Path, name: str) -> int:
    split = ShardSet.open(folder).split(name)
    return split.row0 + int(np.argmax(split.offset))


@pytest.mark.fault(12)
@pytest.mark.parametrize(
    "harm", ["cut", "empty", "gone", "another", "no index", "bad index", "cut index", "index past the end"]
)
def test_shards_that_are_not_those_of_the_index_are_named_before_anything_starts(
    packed_home: Path, tmp_path: Path, harm: str, figures: Figures
) -> None:
    shutil.copytree(packed_home / "shards", tmp_path / "shards")
    folder = tmp_path / "shards" / "deep_fashion"
    shard, index = next(folder.glob("val-*.tar")), folder / "index.parquet"
    if harm == "cut":
        shard.write_bytes(shard.read_bytes()[:-1024])
    elif harm == "empty":
        shard.write_bytes(b"")
    elif harm == "gone":
        shard.unlink()
    elif harm == "another":
        shutil.copyfile(next(folder.glob("test-*.tar")), shard)
    elif harm == "no index":
        index.unlink()
    elif harm == "bad index":
        index.write_bytes(b"garbage" * 1000)
    elif harm == "cut index":
        index.write_bytes(index.read_bytes()[:-100])
    else:
        change(folder, last_of(folder, "val"), offset=shard.stat().st_size + 4096)
    began = time.monotonic()
    said = Workplace(tmp_path).launch()
    figures.took(time.monotonic() - began, limit_s=5)
    assert said.status == (1 if "index" in harm and "end" not in harm else 2), said.err
    assert (index.name if "index" in harm and "end" not in harm else shard.name) in said.err
    assert said.err.count("\n") == 1
    assert Workplace(tmp_path).runs == []


@pytest.mark.fault(13)
@pytest.mark.slow
def test_a_shard_replaced_in_mid_run_changes_nothing(trial: Trial, figures: Figures) -> None:
    launcher = trial.start("--wait", nodes=1)
    trial.wait_for_step(3)
    shard = next((trial.place.home / "shards" / "deep_fashion").glob("train-*.tar"))
    other = shard.with_name("other")
    other.write_bytes(bytes(shard.stat().st_size))
    began = time.monotonic()
    other.replace(shard)  # as an atomic repack does; the old content lives on in the open file
    launcher.communicate()
    figures.took(time.monotonic() - began)
    assert launcher.returncode == 0
    trial.ended_well(figures, nodes=1)


@pytest.mark.fault(14)
@pytest.mark.slow
def test_a_flipped_bit_is_named_and_repaired_the_run_goes_on(trial: Trial, figures: Figures) -> None:
    folder = trial.place.home / "shards" / "deep_fashion"
    split = ShardSet.open(folder).split("train")
    row = 50
    shard = folder / split.shard_names[split.shard[row]]
    whole = shard.read_bytes()
    data = bytearray(whole)
    data[int(split.offset[row] + split.size[row] // 2)] ^= 1
    shard.write_bytes(data)
    began = time.monotonic()
    said = trial.launch("--wait", nodes=1)
    figures.took(time.monotonic() - began)
    assert said.status == 1
    assert "DamageError" in said.json["detail"] and "CRC-32" in said.json["detail"]
    assert shard.name in said.json["detail"] and split.keys[row] in said.json["detail"]
    figures.holds("I4")
    shard.write_bytes(whole)
    assert trial.launch("--wait", nodes=1).status == 0
    trial.ended_well(figures, nodes=1)


@pytest.mark.fault(14)
@pytest.mark.parametrize("harm", ["cut", "garbage", "empty"])
def test_an_image_that_was_packed_unseen_is_named(packed_photos: Path, tmp_path: Path, harm: str) -> None:
    """The index agrees with the bytes, so that only the decoder can tell."""
    folder = shutil.copytree(packed_photos, tmp_path / "set")
    split = ShardSet.open(folder).split("train")
    row = 40
    shard = folder / split.shard_names[split.shard[row]]
    at, size = int(split.offset[row]), int(split.size[row])
    data = bytearray(shard.read_bytes())
    image = {
        "cut": bytes(data[at : at + size // 3]),
        "garbage": np.random.default_rng(0).bytes(size),
        "empty": b"",
    }[harm]
    data[at : at + size] = image.ljust(size, b"\0")
    shard.write_bytes(data)
    change(folder, split.row0 + row, size=len(image), crc32=zlib.crc32(image))
    damaged = ShardSet.open(folder).split("train")
    examples = np.arange(len(damaged))[:, None]
    with (
        Loader(damaged, examples, DataConfig(image_px=16), batch_size=16, training=True) as loader,
        pytest.raises(DamageError) as caught,
    ):
        list(loader.epoch(0))
    assert (caught.value.key, caught.value.shard) == (split.keys[row], shard.name)


@pytest.mark.fault(16)
def test_few_samples_on_more_ranks_are_each_there_once(
    make_trial: Callable[..., Trial], tmp_path: Path, figures: Figures
) -> None:
    source = draw_garments(tmp_path / "deep_fashion", {"train": 20, "val": 2, "test": 2})
    pack("deep_fashion", source, tmp_path / "few", PackOptions(), ReadOptions(), workers=1)
    trial = make_trial(packed=tmp_path / "few")
    trial.settings = (*trial.settings, "train.batch_size=6", "train.eval_batch_size=1", "train.epochs=2")
    began = time.monotonic()
    said = trial.launch("--wait", nodes=3, pace_s=0)
    assert said.status == 0, said.err
    figures.took(time.monotonic() - began)
    trial.gone()
    for epoch in (0, 1):
        keys = [key for line in trial.ledger() if line["epoch"] == epoch for key in line["keys"]]
        assert len(keys) == len(set(keys)) == 18, "two of 20 are left out, others in each epoch"
    predicted = pq.read_table(trial.run / "predictions" / "test")["key"].to_pylist()
    assert sorted(predicted) == sorted(ShardSet.open(tmp_path / "few").split("test").keys)
    assert read(trial.run / "attempts.json")["attempts"][0]["ranks"] == 3
    figures.holds("I2", "I5")
