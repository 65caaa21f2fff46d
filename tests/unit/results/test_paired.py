"""Two runs of categories and attributes: the figures are the task's own, the interval is of what differs."""

from __future__ import annotations

import csv
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from report_runs import guess, make_run, with_settings
from sklearn.metrics import accuracy_score, f1_score

from fashion_dist.commands import compare as command
from fashion_dist.errors import ConfigError
from fashion_dist.paths import RunDir
from fashion_dist.results.paired import PAIR_DRAWS, _difference, _mean, differences
from fashion_dist.runs import OpenRun
from fashion_dist.tasks import deepfashion
from shards import ShardSet


def test_attributes_and_categories_of_two_runs(packed_home: Path, tmp_path: Path) -> None:
    shard_set, config = ShardSet.open(packed_home / "shards" / "deep_fashion"), with_settings(deepfashion.RECIPE)
    given = [guess(shard_set, "val", seed=n, right=right) for n, right in enumerate((0.95, 0.2))]
    runs = [make_run(tmp_path / "runs" / f"r{n}", config, shard_set, {"val": g}).path for n, g in enumerate(given)]
    opened = [OpenRun(RunDir(path), config, shard_set) for path in runs]
    found = {d.name: d for d in differences(opened[0], opened[1], "val")}
    truth = shard_set.split("val").columns("category", "attributes")
    for at, name in ((0, "first"), (1, "second")):
        assert getattr(found["category accuracy"], name) == accuracy_score(truth["category"], given[at]["category"])
        expected = f1_score(truth["attributes"], given[at]["attributes"], average="samples", zero_division=1.0)
        assert getattr(found["attribute_f1"], name) == pytest.approx(expected)
    assert found["category accuracy"].low > 0 and not found["category accuracy"].by_chance
    assert found["attribute_f1"].low <= found["attribute_f1"].first - found["attribute_f1"].second
    assert all(d.by_chance for d in differences(opened[0], opened[0], "val"))
    out = tmp_path / "table.csv"
    command.main(command.Args(first=str(runs[0]), second=str(runs[1]), split="val", out=str(out)))
    with out.open(encoding="utf-8-sig", newline="") as file:
        (head, first, *_) = csv.reader(file)
    with pytest.raises(ConfigError, match="both names mean run r0; allowed: two runs"):
        command.main(command.Args(first=str(runs[0]), second=str(runs[0]), split="val", out=str(tmp_path / "other")))
    assert not (tmp_path / "other").exists()
    assert head[:4] == ["measure", "r0", "r1", "difference"] and float(first[1]) == found[first[0]].first


def test_draws_of_many_examples_take_the_memory_of_one() -> None:
    right = np.arange(20_000) % 3 > 0
    tracemalloc.start()
    (found,) = _difference("auc", len(right), _mean(right), _mean(~right))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    drawn = np.random.default_rng(0).multinomial(len(right), np.full(len(right), 1 / len(right)), size=PAIR_DRAWS)
    assert peak < drawn.nbytes / 8, "all at once would be 8 GB of a million"
    expected = np.quantile([(2 * times @ right - len(right)) / len(right) for times in drawn], [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx(tuple(expected))
