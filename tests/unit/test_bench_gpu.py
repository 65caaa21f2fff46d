"""What `make bench-gpu` runs, on a CPU and small: every part, the table, the refusal where there is no GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bench import gpu

from fashion_dist import cli
from fashion_dist.paths import Home

BENCH = Path(__file__).parents[2] / "jobs" / "bench.py"
SMALL = {"image_px": 32, "batch_size": 8, "steps": 1, "rounds": 1, "images": 16, "minutes": 1e6}


def test_every_part_is_measured_and_what_is_not_is_named(packed_home: Path, tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    code = (
        f"import sys; sys.path.insert(0, {str(BENCH.parents[1] / 'tests')!r}); "
        "from fashion_dist import cli; from bench import gpu; from fashion_dist.paths import Home; "
        f"gpu.measured(gpu.Args(model='resnet18', dataset='deep_fashion', **{SMALL}), Home.find({str(packed_home)!r}), "
        f"__import__('pathlib').Path({str(out)!r}), cli.Progress(enabled=False))"
    )
    # A process of its own: peers fork workers, and leave files open.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    values = json.loads(out.read_text())
    assert set(values["left_out"]) == {"fashion_mnist"}
    assert {gpu.PEER, gpu.ON_CPU, gpu.CACHED} <= set(values["loader"]["contenders"])
    training = values["training"]
    assert {"bare loop", "ours, synthetic", "ours, cached", "timm", "torchvision"} <= set(training["contenders"])
    named = {"waiting for data", "targets to the device", "forward", "backward", "optimizer", "logging"}
    assert named <= set(training["segments"]) and sum(training["segments"].values()) == pytest.approx(1, abs=0.01)
    text = gpu.table(values)
    assert "fashion_mnist: left out: no shard set" in text and "ours, cached / timm" in text
    assert [path.name for path in tmp_path.iterdir()] == ["gpu.json"], "scratch files are gone"


def test_what_would_begin_too_late_is_left_out(packed_home: Path, tmp_path: Path) -> None:
    args = gpu.Args(dataset="deep_fashion", **{**SMALL, "minutes": -1.0})  # type: ignore[arg-type]
    values = gpu.measured(args, Home.find(str(packed_home)), tmp_path / "gpu.json", cli.Progress(enabled=False))
    assert set(values["left_out"]) == {"loader", "training", "fashion_mnist"}
    assert gpu.table(values).count("left out: more than -1 minutes had passed") == 3


@pytest.mark.parametrize(("accuracy", "told"), [(0.941, "94% reached"), (0.93, "94% NOT reached")])
def test_the_table_says_whether_the_accuracy_was_reached(accuracy: float, told: str) -> None:
    found: dict[str, Any] = {"test_accuracy": accuracy, "seconds": 21.5, "first_step_s": 7.0}
    assert told in gpu.table({"fashion_mnist": found, "left_out": {}})


def test_a_machine_without_a_gpu_is_refused() -> None:
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, str(BENCH), "gpu"], capture_output=True, text=True, env=hidden, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "needs a CUDA GPU" in done.stderr
