from __future__ import annotations

import multiprocessing
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from fashion_dist.config import DataConfig
from fashion_dist.data import Loader, LoaderOptions
from fashion_dist.data import staging as staging
from fashion_dist.data.staging import stage
from fashion_dist.errors import ConfigError, DamageError
from shards import ShardSet


def test_staged_shards_give_the_same_batches(photos_set: ShardSet, tmp_path: Path) -> None:
    split = photos_set.split("train")
    images = np.arange(len(split))[:, None]
    data = DataConfig(image_px=32)
    ledgers = []
    for where in ("off", str(tmp_path)):
        options = LoaderOptions(stage=where)
        with Loader(split, images, data, batch_size=16, training=True, options=options) as loader:
            ledgers.append([(b.index.tolist(), b.images.sum().item()) for b in loader.epoch(0)])
    assert ledgers[0] == ledgers[1]
    staged = sorted(path.name for path in tmp_path.rglob("*.tar"))
    assert staged == sorted(name for name in photos_set.split("train").shard_names if name.startswith("train"))


def test_what_is_there_is_not_copied_again(photos_set: ShardSet, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    split = stage(photos_set.split("train"), str(tmp_path), lambda *progress: told.append(progress))
    total = sum(path.stat().st_size for path in split.tar_folder.glob("*.tar"))
    assert told[-1] == ("stage", total, total)
    first = sorted(split.tar_folder.glob("*.tar"))[0]
    shutil.copy(first, tmp_path / "kept")
    times = {path: path.stat().st_mtime_ns for path in split.tar_folder.glob("*.tar")}
    first.unlink()
    told.clear()
    stage(photos_set.split("train"), str(tmp_path), lambda *progress: told.append(progress))
    assert told[-1][2] == first.stat().st_size, "only the missing one is copied"
    assert first.read_bytes() == (tmp_path / "kept").read_bytes()
    assert all(path.stat().st_mtime_ns == time for path, time in times.items() if path != first)


def test_a_damaged_shard_is_not_staged(own_set: ShardSet, tmp_path: Path) -> None:
    path = own_set.path / own_set.split("train").shard_names[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    split = own_set.split(own_set.manifest.shards[0].split)
    with pytest.raises(DamageError, match=path.name):
        stage(split, str(tmp_path / "there"))
    assert not list((tmp_path / "there").rglob(path.name)), "only a whole copy has its name"


def test_no_room_is_refused_before_copying(
    photos_set: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda _: usage._replace(free=10_000))
    with pytest.raises(ConfigError, match=r"needs 0.00 GB in .* which has 0.00 GB free"):
        stage(photos_set.split("train"), str(tmp_path))
    assert not list(tmp_path.rglob("*.tar"))


def test_auto_is_the_job_s_own_folder(photos_set: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_TMPDIR", raising=False)
    monkeypatch.delenv("TMPDIR", raising=False)
    with pytest.raises(ConfigError, match="SLURM_TMPDIR"):
        stage(photos_set.split("val"), "auto")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "t"))
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path / "s"))
    assert stage(photos_set.split("val"), "auto").tar_folder.is_relative_to(tmp_path / "s")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot copy shards"):
        stage(photos_set.split("val"), str(tmp_path / "file"))


def _stage_and_tell(path: str, where: str, results: multiprocessing.Queue[tuple[int, int]]) -> None:
    copied = [0]

    def count(_what: str, done: int, _total: int) -> None:
        copied[0] = done

    stage(ShardSet.open(path).split("train"), where, count)
    results.put((os.getpid(), copied[0]))


def test_one_rank_of_a_node_copies_for_all(photos_set: ShardSet, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[tuple[int, int]] = context.Queue()
    ranks = [
        context.Process(target=_stage_and_tell, args=(str(photos_set.path), str(tmp_path), results)) for _ in range(3)
    ]
    for rank in ranks:
        rank.start()
    copied = [results.get(timeout=60)[1] for _ in ranks]
    for rank in ranks:
        rank.join()
    total = sum(path.stat().st_size for path in tmp_path.rglob("*.tar"))
    assert sorted(copied) == [0, 0, total]
