"""DeepFashion's further settings: thresholds per attribute, learned weights of the heads, settings that are refused."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from fashion_dist.cluster import requirements
from fashion_dist.errors import ConfigError
from fashion_dist.tasks import load
from fashion_dist.tasks.common.attributes import best_threshold, thresholds
from fashion_dist.tasks.deepfashion import RECIPE
from shards import Schema, ShardSet, Split

TASK = load("deepfashion")
SCHEMA = Schema(
    columns={"category": "int", "attributes": "ints:4"},
    names={"category": tuple("abc"), "attributes": tuple("ABCD")},
)


@settings(deadline=None)
@given(
    truth=st.lists(st.integers(0, 1), min_size=1, max_size=25), seed=st.integers(0, 5), levels=st.sampled_from([2, 9])
)
def test_the_best_threshold_has_the_best_f1(truth: list[int], seed: int, levels: int) -> None:
    probabilities = np.random.default_rng(seed).integers(levels, size=len(truth)) / levels
    labels = np.array(truth)
    found = best_threshold(probabilities, labels, 0.4)
    if not labels.any():
        assert found == 0.4
        return

    def f1(threshold: float) -> float:
        return float(f1_score(labels, probabilities >= threshold, zero_division=0))

    assert 0 <= found <= 1
    assert f1(found) == pytest.approx(max(f1(value) for value in np.linspace(0, 1, 4 * levels + 1)))


def test_tuned_thresholds_decide_in_rows_and_in_the_submission() -> None:
    config = RECIPE.override(["task.thresholds=0.9,0.2,0.5,0.5"])
    probability = torch.tensor([[0.8, 0.3, 0.1, 0.6], [0.1, 0.1, 0.15, 0.1]])
    outputs = {"category": torch.zeros(2, 3), "attributes": probability.logit()}
    rows = TASK.predictions(outputs, config)
    # The most probable attribute is named even below its threshold.
    assert rows["attributes"].tolist() == [[True, True, False, True], [False, False, True, False]]
    columns = {**TASK.predictions(outputs, RECIPE), "row": [0, 1], "file_path": ["x", "y"]}
    split = Split("test", SCHEMA, Path(), Path(), (), 0, 2)
    lines = list(csv.reader(io.StringIO(TASK.submission(columns, split, config)["attribute.csv"])))
    assert lines[1:] == [["x", "0 1 3"], ["y", "2"]]


@pytest.mark.parametrize("text", ["0.5", "0.5,0.5,0.5,1.5", "0.5,0.5,0.5,x", "0.5,0.5,0.5,nan"])
def test_thresholds_that_do_not_fit_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="allowed: 4 numbers from 0 to 1"):
        thresholds(RECIPE.override([f"task.thresholds={text}"]), 4)
    assert thresholds(RECIPE, 4).tolist() == pytest.approx([0.4] * 4)


def test_learned_variances_weigh_the_heads() -> None:
    config = RECIPE.override(["task.weighting=uncertainty", "data.image_px=32"])
    torch.manual_seed(0)
    model = TASK.build_model(config, SCHEMA)
    images = torch.randn(8, 3, 32, 32)
    targets = {"category": torch.arange(8) % 3, "attributes": (torch.rand(8, 4) < 0.5).float()}
    terms = TASK.loss(model(images), targets, config)
    terms["loss"].backward()
    values = {name: float(value.detach()) for name, value in terms.items()}
    assert values["loss"] == pytest.approx(values["category_loss"] + values["attribute_loss"], rel=1e-5)
    parameters = dict(model.named_parameters())
    # d/ds [exp(-s) L + s / 2] at s = 0 is 1/2 - L: the head with the greater loss becomes the more uncertain one.
    for name, term in (("category", "category_loss"), ("attributes", "attribute_loss")):
        gradient = parameters[f"log_variances.{name}"].grad
        assert gradient is not None
        assert float(gradient) == pytest.approx(0.5 - values[term], rel=1e-4)
    rows = TASK.predictions({name: value.detach() for name, value in model(images).items()}, config)
    assert rows.keys() == {"category", "category_probability", "attributes", "attribute_probability"}


def test_a_batch_without_a_known_category_has_a_finite_loss() -> None:
    outputs = {"category": torch.randn(4, 3), "attributes": torch.randn(4, 4)}
    targets = {"category": torch.full((4,), -1), "attributes": torch.full((4, 4), -1.0)}
    assert float(TASK.loss(outputs, targets, RECIPE)["loss"]) == 0


def test_thresholds_are_tuned_on_a_split_and_a_weighting_is_checked(packed_home: Path) -> None:
    shard_set = ShardSet.open(packed_home / "shards" / "deep_fashion")
    TASK.validate(shard_set, RECIPE)
    with pytest.raises(ConfigError, match=r"task\.weighting = 'guess' is not possible; allowed: fixed, uncertainty"):
        TASK.validate(shard_set, RECIPE.override(["task.weighting=guess"]))
    split = shard_set.split("val")
    truth = split.columns("attributes")["attributes"]
    probability = np.where(truth == 1, 0.3, 0.1)
    found = TASK.tune_thresholds(split, {"attribute_probability": probability}, RECIPE)
    values = thresholds(RECIPE.override([f"task.thresholds={found['thresholds']}"]), truth.shape[1])
    seen = (truth == 1).any(axis=0)
    assert np.array_equal((probability >= values)[:, seen], (truth == 1)[:, seen])
    assert values[~seen] == pytest.approx(0.4)


def test_to_mix_every_step_is_refused_where_a_head_learns_from_others_alone() -> None:
    with pytest.raises(ConfigError, match="learns attributes from steps that do not mix; allowed: 0 <= mix_prob < 1"):
        requirements.require_unmixed(TASK, RECIPE.override(["train.mix_prob=1"]))
    for allowed in (["train.mix_prob=0.9"], ["train.mix_prob=1", "train.mixup=0", "train.cutmix=0"]):
        requirements.require_unmixed(TASK, RECIPE.override(allowed))
