"""The main job as a user types it: pack, launch on two nodes, collect; killed, launched again, and predicted anew."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from cluster_home import job

REPO = Path(__file__).parents[2]
SETTINGS = ("train.epochs=3", "train.batch_size=16", "train.eval_batch_size=16", "data.image_px=32", "optim.lr=0.02")


def launch(home: Path, *arguments: str, settings: tuple[str, ...] = SETTINGS) -> dict[str, Any]:
    where = ("--home", str(home), "--cluster", "local", "--nodes", "2", "--wandb", "off")
    return job("launch", "--task", "deepfashion", *where, "--set", *settings, *arguments)


def weights_hash(run: Path) -> str:
    """SHA-256 over the final checkpoint's tensors."""
    import torch

    newest = max((run / "checkpoints").glob("step-*"))
    state = torch.load(newest / "state.pt", weights_only=True)
    digest = hashlib.sha256()
    for name, value in sorted(state["model"].items()):
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def home(garments: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("main_job")
    job("pack", "--dataset", "deep_fashion", "--source", str(garments), "--home", str(path))
    return path


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    """A finished run on two ranks."""
    return home / "runs" / launch(home, "--wait")["run_id"]


def test_the_submission_covers_the_test_split_exactly(home: Path, run: Path, garments: Path) -> None:
    files = job("collect", run.name, "--home", str(home))["paths"]
    with (garments / "test.csv").open() as file:
        asked = [row["file_path"] for row in csv.DictReader(file)]
    with Path(files["category.csv"]).open() as file:
        categories = list(csv.DictReader(file))
    with Path(files["attribute.csv"]).open() as file:
        attributes = list(csv.DictReader(file))
    assert [row["file_path"] for row in categories] == asked
    assert [row["file_path"] for row in attributes] == asked
    assert all(0 <= int(row["category_label"]) < 10 for row in categories)
    for row in attributes:
        indices = [int(index) for index in row["attribute_label"].split(" ")]
        assert indices == sorted(set(indices))
        assert 0 <= indices[0] <= indices[-1] < 15


def test_metrics_and_curves_are_there(home: Path, run: Path) -> None:
    points = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [p["epoch"] for p in points if p["split"] == "val"] == [1, 2, 3]
    assert {"loss", "lr", "samples_per_s", "time", "step"} <= points[0].keys()
    drawn = job("report", run.name, "--home", str(home))
    assert Path(drawn["paths"]["curves"]).stat().st_size > 10_000
    assert drawn["metrics"]["score"] == max(p["score"] for p in points if p["split"] == "val")


def test_launching_a_finished_run_again_says_that_it_is_done(home: Path, run: Path) -> None:
    before = (run / "metrics.jsonl").read_bytes()
    again = launch(home)
    assert again["run_id"] == run.name
    assert "done" in again["message"]
    assert (run / "metrics.jsonl").read_bytes() == before


def test_one_process_predicts_what_two_nodes_predicted(home: Path, run: Path) -> None:
    folder = run / "predictions" / "test"
    two = pq.read_table(folder).sort_by("key").to_pydict()
    assert len(list(folder.glob("rank_*.parquet"))) == 2
    job("predict", run.name, "--split", "test", "--home", str(home))
    assert [path.name for path in folder.iterdir()] == ["rank_0.parquet"]
    one = pq.read_table(folder).sort_by("key").to_pydict()
    assert one["key"] == two["key"]
    for column in ("category", "category_probability", "attributes", "attribute_probability"):
        assert np.array_equal(np.asarray(one[column]), np.asarray(two[column])), column


def test_a_missing_prediction_is_refused(home: Path, run: Path, tmp_path: Path) -> None:
    file = run / "predictions" / "test" / "rank_0.parquet"
    whole = file.read_bytes()
    table = pq.read_table(file)
    try:
        pq.write_table(table.slice(1), file)
        command = [sys.executable, str(REPO / "jobs/collect.py"), str(run), "--out", str(tmp_path / "out")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        file.write_bytes(whole)
    assert done.returncode == 1
    assert "1 of 37 samples missing" in done.stderr
    assert str(table["key"][0]) in done.stderr
    assert not (tmp_path / "out").exists()


def test_killed_and_launched_again_it_ends_with_the_same_weights(make_home: Callable[[], Path]) -> None:
    settings = (*SETTINGS, "train.checkpoint_steps=1")
    undisturbed, killed = make_home(), make_home()
    expected = undisturbed / "runs" / launch(undisturbed, "--wait", settings=settings)["run_id"]
    run = killed / "runs" / launch(killed, settings=settings)["run_id"]
    _wait_for_step(run, 8)
    for process in _ranks(run):
        os.kill(process, signal.SIGKILL)
    _wait_until_gone(run)
    done = launch(killed, "--wait", settings=settings)
    assert done["run_id"] == run.name
    points = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [p["epoch"] for p in points if p["split"] == "val"] == [1, 2, 3]
    assert {p["attempt"] for p in points} == {1, 2}
    assert weights_hash(run) == weights_hash(expected)


def _ranks(run: Path) -> list[int]:
    """The processes that have the run's folder on their command line or in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if str(run).encode() in command:
                found.append(int(folder.name))
    return found


def _wait_for_step(run: Path, step: int, timeout_s: float = 180) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if list((run / "checkpoints").glob(f"step-{step:08d}")):
            return
        time.sleep(0.02)
    raise AssertionError(f"{run} did not reach step {step} in {timeout_s} s")


def _wait_until_gone(run: Path, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while _ranks(run):
        assert time.monotonic() < deadline, f"processes of {run} are still there: {_ranks(run)}"
        time.sleep(0.1)
