"""metrics.jsonl is complete, readable while it is written, and has each step once after a resume."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fashion_dist import io
from fashion_dist.paths import RunDir
from fashion_dist.tasks.deepfashion import RECIPE
from fashion_dist.tracking import trackers
from fashion_dist.tracking.metrics_log import MetricsLogger, read_metrics
from fashion_dist.tracking.trackers import TrackerOptions


def run_dir(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    return run


def test_lines_are_there_as_soon_as_they_are_logged(tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    tracker = MetricsLogger(run, 0, 1)
    tracker.log("train", 20, 0.5, {"loss": 1.5, "lr": 0.1})
    assert read_metrics(run.metrics) == [
        {
            **read_metrics(run.metrics)[0],
            "split": "train",
            "step": 20,
            "epoch": 0.5,
            "loss": 1.5,
            "lr": 0.1,
            "attempt": 1,
        }
    ]
    tracker.close()


def test_a_value_that_is_not_finite_stays_valid_json(tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    tracker = MetricsLogger(run, 0, 1)
    tracker.log("val", 1, 1, {"loss": math.nan, "score": math.inf})
    tracker.close()
    line = json.loads(run.metrics.read_text(), parse_constant=lambda name: (_ for _ in ()).throw(ValueError(name)))
    assert line["loss"] is None
    assert line["score"] is None


def test_a_resumed_run_has_each_step_once_and_a_torn_line_is_gone(tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    first = MetricsLogger(run, 0, 1)
    for step in (20, 40, 60):
        first.log("train", step, step / 40, {"loss": float(step)})
    first.close()
    with run.metrics.open("a") as file:
        file.write('{"split": "train", "ste')
    second = MetricsLogger(run, 40, 2)
    second.log("train", 60, 1.5, {"loss": 61.0})
    second.close()
    points = read_metrics(run.metrics)
    assert [(p["step"], p["attempt"], p["loss"]) for p in points] == [(20, 1, 20.0), (40, 1, 40.0), (60, 2, 61.0)]
    assert len(run.metrics.read_text().splitlines()) == 3


DROPPING = """
import contextlib, os, socket, sys, time
server = socket.socket()
server.bind(("127.0.0.1", 0))
server.listen(0)
address = server.getsockname()
waiting = [socket.socket() for _ in range(4)]
for client in waiting:  # until the queue is full: from then on the kernel drops what asks for a connection
    client.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        client.connect(address)
os.environ |= {"WANDB_BASE_URL": f"http://127.0.0.1:{address[1]}", "WANDB_API_KEY": "local-" + "0" * 40}
from pathlib import Path
from test_metrics_log import RECIPE, run_dir
from fashion_dist.tracking import wandb_run
began = time.monotonic()
assert wandb_run._silent_server()
print(time.monotonic() - began)
feed = wandb_run.start_wandb(run_dir(Path(sys.argv[1])), RECIPE, "auto")
print(feed.wandb.offline)
feed.finish()
"""


def test_a_server_that_drops_packets_costs_a_second_and_the_start_is_offline(tmp_path: Path) -> None:
    script = [sys.executable, "-c", DROPPING, str(tmp_path)]
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment = {**kept, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    began = time.monotonic()
    done = subprocess.run(script, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    waited, offline = done.stdout.split()
    assert 0.5 < float(waited) < 3 and offline == "True"
    assert time.monotonic() - began < 45, "W&B's own client waits 90 s"
    assert done.stderr.count("cannot be reached") == 1


def test_wandb_offline_gets_the_same_points(tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    tracker = MetricsLogger(run, 0, 1)
    tracker.add(trackers.start("wandb", run, RECIPE, TrackerOptions("offline")))
    tracker.log("val", 40, 1.0, {"score": 0.5})
    tracker.close()
    files = list((run.path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 1
    deadline = time.monotonic() + 20  # W&B's helper process writes on after finish() has returned
    while b"val/score" not in files[0].read_bytes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert b"val/score" in files[0].read_bytes()
    assert len(read_metrics(run.metrics)) == 1


def test_training_goes_on_when_wandb_cannot_start(tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    (run.path / "wandb").write_text("a file where W&B wants its folder")
    tracker = MetricsLogger(run, 0, 1)
    tracker.add(trackers.start("wandb", run, RECIPE, TrackerOptions("offline")))
    tracker.log("val", 40, 1.0, {"score": 0.5})
    tracker.close()
    assert len(read_metrics(run.metrics)) == 1


def test_lines_of_other_splits_are_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    nodes = "".join(json.dumps({"split": "system", "step": n, "epoch": 1.0, "node0/cpu": n}) + "\n" for n in range(500))
    val = json.dumps({"split": "val", "step": 7, "epoch": 1.0, "loss": 0.5}) + "\n"
    odd = json.dumps({"step": 8, "epoch": 2.0, "loss": 0.25, "split": "val"}) + "\n"  # by another's hand
    path.write_text(nodes + val + nodes + odd + '{"split": "val", "st')
    parsed: list[bytes] = []
    parse = io.parse_object

    def counted(line: bytes, where: object) -> Any:
        parsed.append(line)
        return parse(line, where)

    monkeypatch.setattr(io, "parse_object", counted)
    assert [point["loss"] for point in read_metrics(path, "val")] == [0.5, 0.25]
    assert len(parsed) == 3
    assert len(read_metrics(path)) == 1002
