"""Packing as one Slurm array gives the bytes of packing here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_cluster import ROOT, SlurmCluster

from shards.verify import verify

pytestmark = pytest.mark.slurm


def packed(source: Path, out: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "jobs" / "pack.py", "--dataset", "deep_fashion", "--source", source, "--out", out]
    return subprocess.run(
        [*map(str, command), "--shard-mb", "0.05", *flags], capture_output=True, text=True, check=False
    )


def test_two_nodes_write_the_bytes_of_one(slurm_cluster: SlurmCluster, garments: Path, tmp_path: Path) -> None:
    here = packed(garments, tmp_path / "here", "--workers", "1")
    array = packed(garments, slurm_cluster.folder / "array", "--nodes", "2", "--workers", "1", "--json")
    assert here.returncode == array.returncode == 0, array.stderr
    assert len(list((tmp_path / "here").glob("*.tar"))) > 4
    names = sorted(path.name for path in (tmp_path / "here").iterdir())
    assert names == sorted(path.name for path in (slurm_cluster.folder / "array").iterdir())
    for name in names:
        assert (slurm_cluster.folder / "array" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    assert verify(slurm_cluster.folder / "array") == []
    assert json.loads(array.stdout)["splits"] == {"train": 96, "val": 40, "test": 37}


def test_a_bad_image_found_by_a_task_is_what_the_user_sees(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    source = slurm_cluster.folder / "deep_fashion"
    (source / "train").mkdir(parents=True)
    (source / "train" / "0.jpg").write_bytes(b"no image")
    (source / "train.csv").write_text("file_path,category_label\ntrain/0.jpg,0\n")
    told = packed(source, slurm_cluster.folder / "bad", "--nodes", "1")
    assert told.returncode == 1
    assert "train/0.jpg (train.csv, line 2): not an image" in told.stderr.splitlines()[-1]
    assert not list((slurm_cluster.folder / "bad").glob("*.tar"))
