"""Losses, metrics, thresholds and intervals: what PyTorch, scikit-learn and SciPy have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from evaluation import evaluated, parts
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import f1_score, log_loss, roc_auc_score, top_k_accuracy_score

from fashion_dist.report import scores
from fashion_dist.tasks import load
from fashion_dist.tasks.common.attributes import best_threshold, tuned_thresholds
from fashion_dist.tasks.deepfashion import RECIPE
from shards import Schema, Split

ATTRIBUTES = Schema(
    columns={"category": "int", "attributes": "ints:6"},
    names={"category": tuple("abc"), "attributes": tuple("uvwxyz")},
)


def test_label_smoothing_is_torchs_with_unknown_labels() -> None:
    task = load("fashion_mnist")
    config = task.recipe.override(["train.label_smoothing=0.1"])
    logits, label = torch.randn(64, 10), torch.arange(64) % 10
    label[::3] = -1
    expected = F.cross_entropy(logits, label, ignore_index=-1, label_smoothing=0.1)
    found = task.loss({"label": logits}, {"label": label}, config)["loss"]
    assert float(found) == pytest.approx(float(expected))
    other = torch.randn(64, 10)  # of a network whose parts answer each by itself, the mean of both losses
    both = {"label": logits + other, "label/one": logits, "label/two": other}
    mean = (expected + F.cross_entropy(other, label, ignore_index=-1, label_smoothing=0.1)) / 2
    assert float(task.loss(both, {"label": label}, config)["loss"]) == pytest.approx(float(mean))


def test_the_best_threshold_is_the_best_of_all() -> None:
    draw = np.random.default_rng(0)
    for _ in range(10):
        truth = (draw.random(60) < 0.2).astype(int)
        probability = draw.random(60).astype(np.float32)
        cut = best_threshold(probability, truth, 0.5)
        cuts = np.append(probability, 2.0)
        best = max(f1_score(truth, probability >= c, zero_division=0) for c in cuts)
        if truth.any():
            assert f1_score(truth, probability >= cut) == pytest.approx(best)


def test_intervals_of_pairs_know_that_pairs_share_items() -> None:
    """Items that err as a whole: drawing pairs alone gives an interval too narrow; the figures are scikit-learn's."""
    draw = np.random.default_rng(3)
    pairs = np.array([(a, b) for a in range(24) for b in range(a + 1, 24)])
    truth = (draw.random(len(pairs)) < 0.5).astype(int)
    bias = draw.normal(size=24)
    score = 1 / (1 + np.exp(-(truth - 0.5 + bias[pairs[:, 0]] + bias[pairs[:, 1]])))
    auc, accuracy = scores.pair_figures(pairs, score, truth)
    alone = scores.mean_figure("pair_accuracy", (score > 0.5) == truth)
    assert auc.value == pytest.approx(roc_auc_score(truth, score))
    assert accuracy.value == pytest.approx(alone.value)
    assert None not in (auc.low, auc.high, accuracy.low, accuracy.high, alone.low, alone.high)
    assert auc.low < auc.value < auc.high  # type: ignore[operator]
    assert accuracy.high - accuracy.low > alone.high - alone.low  # type: ignore[operator]


@pytest.mark.parametrize("block", [8, 16, 50])
def test_losses_of_validation_are_means_over_what_is_known_whatever_the_blocks(block: int) -> None:
    task, config = load("deepfashion"), RECIPE.override(["train.label_smoothing=0"])
    split = Split("val", ATTRIBUTES, Path(), Path(), (), 0, 120)
    draw = torch.Generator().manual_seed(0)
    outputs = {
        "category": torch.randn(120, 3, generator=draw), "attributes": torch.randn(120, 6, generator=draw),
    }  # fmt: skip
    category = torch.randint(-1, 3, (120,), generator=draw)
    attributes = torch.randint(0, 2, (120, 6), generator=draw).float()
    attributes[torch.rand(120, 6, generator=draw) < 0.74] = -1
    attributes[:, 5] = torch.where(attributes[:, 5] > 0, 0.0, attributes[:, 5])  # never there
    outputs["attributes"][:, 5] = -9.0  # and never named
    batches = parts(outputs, {"category": category, "attributes": attributes}, *range(block, 120, block))
    found = evaluated(task, split, config, *batches).compute()
    known, probability = attributes >= 0, outputs["attributes"].sigmoid().numpy()
    expected = log_loss(attributes[known], probability[known.numpy()], labels=[0, 1])
    assert found["attribute_loss"] == pytest.approx(expected, rel=1e-5)
    rows = category >= 0
    assert found["category_loss"] == pytest.approx(float(F.cross_entropy(outputs["category"][rows], category[rows])))
    # Of a label that neither occurs nor is named there is no F1: scikit-learn's zero_division=nan.
    named = (probability >= 0.4) | (probability == probability.max(1, keepdims=True))
    each = [f1_score(attributes[known[:, a], a], named[known[:, a].numpy(), a], zero_division=np.nan) for a in range(6)]
    assert np.isnan(each[5]) and found["attribute_class_f1"] == pytest.approx(np.nanmean(each))
    asked = known.any(1).numpy()
    images = f1_score(
        (attributes[asked] == 1).int(), named[asked] & known[asked].numpy(), average="samples", zero_division=1.0
    )
    assert found["attribute_f1"] == pytest.approx(images)


def test_equal_answers_are_ranked_as_by_scikit_learn() -> None:
    truth, probability = np.arange(10), np.full((10, 10), 0.1)
    found = {figure.name: figure.value for figure in scores.class_figures(truth, probability, np.zeros(10, int))}
    assert found["top5_accuracy"] == 0.5 == top_k_accuracy_score(truth, probability, k=5)


def test_the_calibration_error_is_that_of_scikit_learns_bins() -> None:
    draw = np.random.default_rng(0)
    confidence = draw.beta(4, 2, 4000)
    right = draw.random(4000) < confidence**1.5
    share, mean = calibration_curve(right, confidence, n_bins=scores.BINS)
    images = np.histogram(confidence, bins=scores.BINS, range=(0, 1))[0]
    expected = np.average(np.abs(share - mean), weights=images[images > 0])
    assert scores.reliability(confidence, right).error == pytest.approx(expected) and expected > 0.05


def test_intervals_are_scipys() -> None:
    values = (np.random.default_rng(1).random(400) < 0.3).astype(float)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=0).confidence_interval
    found = scores.mean_figure("accuracy", values)
    assert (found.low, found.high) == (pytest.approx(theirs.low, abs=0.005), pytest.approx(theirs.high, abs=0.005))


def test_thresholds_are_kept_unrounded() -> None:
    """Of a rare label the best threshold may be smaller than four decimals can tell."""
    draw = np.random.default_rng(0)
    truth = (draw.random((4000, 1)) < 0.002).astype(int)
    probability = (draw.random((4000, 1)) * 1.3e-4 + 1e-4 * truth).astype(np.float32)
    cut = float(tuned_thresholds(truth, probability, RECIPE))
    best = f1_score(truth, probability >= cut)
    assert best == max(f1_score(truth, probability >= c) for c in np.unique(probability)[-200:])
    assert best > f1_score(truth, probability >= round(cut, 4))
