"""What figures show: maps whose scale no single point decides, machines, gradient norms, one size told in words."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from report_runs import STARTED, make_run, with_settings

from fashion_dist.cluster.system_metrics import summed
from fashion_dist.report import make
from fashion_dist.report.blocks import SHAPES
from fashion_dist.report.dataset_card import _sizes
from fashion_dist.report.feature_sections import NAMED, _core, _mark
from fashion_dist.report.figure_writer import FigureWriter
from fashion_dist.report.run_data import read_facts
from fashion_dist.report.run_sections import machines
from fashion_dist.tasks import deepfashion
from shards import ShardSet


def test_no_single_point_decides_the_scale_of_a_map() -> None:
    points = np.random.default_rng(0).normal(size=(500, 2))
    low, high = _core(points)
    assert (low == points.min(axis=0)).all() and (high == points.max(axis=0)).all()
    points[7] = (350, -2)
    low, high = _core(points)
    assert high[0] < 10 and low[1] == points[:, 1].min()
    low, high = _core(np.zeros((5, 2)))
    assert (low == 0).all() and (high == 0).all()


def test_every_class_with_a_name_has_a_mark_of_its_own() -> None:
    marks = [_mark(rank) for rank in range(NAMED)]
    assert len(set(marks)) == NAMED and {shape for _, shape in marks} <= set(SHAPES)


def test_images_of_one_size_are_told_in_a_sentence() -> None:
    section = _sizes(np.full((9, 2), 28))
    assert section.words == ["All images are 28 × 28 pixels."] and not section.blocks
    assert len(_sizes(np.array([[28, 28], [30, 28]])).blocks) == 2


def test_many_nodes_are_three_lines(packed_home: Path, tmp_path: Path) -> None:
    shard_set = ShardSet.open(packed_home / "shards" / "deep_fashion")
    run = make_run(tmp_path / "runs" / "deepfashion-1", with_settings(deepfashion.RECIPE), shard_set, {})
    nodes = {node: {"gpu0_percent": 90.0 - node, "gpu1_percent": 50.0} for node in range(64)}
    head = {"split": "system", "step": 1, "epoch": 0.5, "attempt": 2, "time": STARTED}
    with run.metrics.open("a") as file:
        file.write(json.dumps({**head, **summed(nodes)}) + "\n")
    (facts,) = read_facts([run])
    section = machines(facts, FigureWriter(tmp_path))
    assert section is not None and [block.title for block in section.blocks] == ["GPU, %"]  # type: ignore[union-attr]
    with (tmp_path / "figures" / "system-gpu_percent.csv").open() as file:
        assert [row["node"] for row in csv.DictReader(file)] == ["min", "mean", "max"]


def test_a_page_shows_what_the_machines_did(packed_home: Path, tmp_path: Path) -> None:
    shard_set = ShardSet.open(packed_home / "shards" / "deep_fashion")
    run = make_run(tmp_path / "runs" / "deepfashion-1", with_settings(deepfashion.RECIPE), shard_set, {})
    with run.metrics.open("a") as file:
        for step in range(1, 5):
            head = {"step": step, "epoch": step / 2, "attempt": 2, "time": STARTED + step}
            system = {"node0/cpu_percent": 40.0 + step, "node1/cpu_percent": 60.0, "node0/gpu0_memory_gb": 7.5}
            file.write(json.dumps({"split": "train", **head, "loss": 1.0, "gradient_norm": 3.0 / step}) + "\n")
            file.write(json.dumps({"split": "system", **head, **system}) + "\n")
    (facts,) = read_facts([run])
    page = make.report_run(facts, quick=True).page
    text = page.read_text()
    assert 'id="machines"' in text and "CPU, %" in text and "GPU 0 memory gb" in text and "Gradient norm" in text
    with (page.parent / "figures" / "system-cpu_percent.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 and {row["node"] for row in rows} == {"node0", "node1"}
    assert (page.parent / "figures" / "curve-gradient_norm.csv").is_file()
