"""The main job as a user types it: pack, launch on two nodes, collect; killed, launched again, and predicted anew."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from cluster_home import job

from shards.readers.synthetic import ATTRIBUTES

REPO = Path(__file__).parents[2]
SETTINGS = ("train.epochs=3", "train.batch_size=16", "train.eval_batch_size=16", "data.image_px=32", "optim.lr=0.02")


def launch(home: Path, *arguments: str, settings: tuple[str, ...] = SETTINGS) -> dict[str, Any]:
    where = ("--home", str(home), "--cluster", "local", "--nodes", "2", "--wandb", "off")
    return job("launch", "--task", "deepfashion", *where, "--set", *settings, *arguments)


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
        categories = list(csv.DictReader(file, skipinitialspace=True))
    with Path(files["attribute.csv"]).open() as file:
        attributes = list(csv.DictReader(file))
    assert [row["file_path"] for row in categories] == asked
    assert [row["file_path"] for row in attributes] == asked
    assert all(0 <= int(row["category_label"]) < 10 for row in categories)
    for row in attributes:
        indices = [int(index) for index in row["attribute_label"].split(" ")]
        assert indices == sorted(set(indices))
        assert 0 <= indices[0] <= indices[-1] < len(ATTRIBUTES)


def test_metrics_and_curves_are_there(home: Path, run: Path) -> None:
    points = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [p["epoch"] for p in points if p["split"] == "val"] == [1, 2, 3]
    assert {"loss", "lr", "samples_per_s", "time", "step"} <= points[0].keys()
    startup = json.loads((run / "state.json").read_text())["startup"]
    parts = ["process", "run folder", "imports", "model", "process group", "resuming", "data", "first step"]
    assert list(startup) == parts and all(seconds >= 0 for seconds in startup.values())
    drawn = job("report", run.name, "--home", str(home))
    assert Path(drawn["paths"]["page"]).stat().st_size > 100_000
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
