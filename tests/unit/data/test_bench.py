from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from shards import ShardSet

BENCH = Path(__file__).parents[3] / "jobs" / "bench.py"


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(BENCH), *arguments], capture_output=True, text=True, check=False)


def test_the_loader_s_bench_measures_and_writes_its_figures(photos_set: ShardSet, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    settings = {"shards": photos_set.path, "rounds": 1, "images": 64, "batch-size": 16, "image-px": 32, "out": out}
    done = bench("loader", *(f"--{name}={value}" for name, value in settings.items()), "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())
    assert set(figures["contenders"]) == {
        "ImageFolder + DataLoader",
        "webdataset + WebLoader",
        "DALI's own reader",
        "libjpeg-turbo alone",
        "ours, first epoch",
        "ours, later epochs",
    }
    assert all(contender["images_per_s"] > 0 for contender in figures["contenders"].values())
    assert figures["first_epoch_over_best_peer"] > 0 and figures["later_epochs_over_best_peer"] > 0
    assert json.loads(done.stdout)["images"] == 64


def test_the_cost_of_checkpoints_is_measured(packed_home: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    settings = {"home": packed_home, "image-px": 16, "batch-size": 8, "steps": 2, "rounds": 1, "out": out}
    done = bench("checkpoint", *(f"--{name}={value}" for name, value in settings.items()), "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())
    assert figures["checkpoint_bytes"] > 1e6 and figures["alone_cpu_s"] > 0 and figures["held_s"] > 0
    assert len(figures["cpu"]["with_s"]) == len(figures["wall"]["without_s"]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name], "what it wrote is gone"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["loadr"], "unknown bench 'loadr'; known: checkpoint, ddp, loader"),
        (["loader", "--home", "nowhere"], "no shard set in"),
        (["loader", "--shards", "nowhere"], "is no shard set"),
        (["checkpoint", "--steps", "0"], "--rounds and --steps must be 1 or more"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: list[str], told: str) -> None:
    done = bench(*arguments)
    assert done.returncode == 2 and told in done.stderr and done.stderr.count("\n") == 1, done.stderr
