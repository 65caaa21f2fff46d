"""Learning rates, label smoothing, random crops and erasing, thresholds and intervals: what the references have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from sklearn.metrics import f1_score, roc_auc_score
from torch import nn
from torchvision.transforms import v2

from fashion_dist.config import DataConfig, OptimConfig
from fashion_dist.data.augment import crop_boxes, sample_augmentation
from fashion_dist.report import scores
from fashion_dist.tasks import load
from fashion_dist.tasks.common.attributes import best_threshold
from fashion_dist.train.optim import learning_rate


def by_torch(make: object, steps: int, lr: float) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimizer)  # type: ignore[operator]
    rates = []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


def test_warmup_and_cosine_are_torchs_at_every_step() -> None:
    config = OptimConfig(lr=0.3, schedule="cosine", warmup_epochs=2)
    schedulers = torch.optim.lr_scheduler

    def sequence(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        warm = schedulers.LinearLR(optimizer, start_factor=1 / 20, total_iters=19)
        cosine = schedulers.CosineAnnealingLR(optimizer, T_max=80)
        return schedulers.SequentialLR(optimizer, [warm, cosine], milestones=[20])

    found = [learning_rate(step, 10, 10, config) for step in range(100)]
    assert found == pytest.approx(by_torch(sequence, 100, 0.3), abs=1e-15)


def test_label_smoothing_is_torchs_with_unknown_labels() -> None:
    task = load("fashion_mnist")
    config = task.recipe.override(["train.label_smoothing=0.1"])
    logits, label = torch.randn(64, 10), torch.arange(64) % 10
    label[::3] = -1
    expected = F.cross_entropy(logits, label, ignore_index=-1, label_smoothing=0.1)
    assert float(task.loss({"label": logits}, {"label": label}, config)["loss"]) == pytest.approx(float(expected))


def drawn(transform: v2.Transform, side: int, count: int) -> np.ndarray:
    """int [n, 4] of torchvision: top, left, height, width."""
    image = torch.zeros(3, side, side)
    found = [transform.make_params([image]) for _ in range(count)]
    return np.array([[p.get(k) or 0 for k in ("top", "left", "i", "j", "height", "width", "h", "w")] for p in found])


def test_random_crops_are_drawn_as_torchvisions() -> None:
    torch.manual_seed(0)
    data, count = DataConfig(image_px=32, crop_scale=(0.3, 1.0)), 2000
    theirs = drawn(v2.RandomResizedCrop(32, scale=(0.3, 1.0)), 90, count)
    ours = crop_boxes(data, np.full((count, 2), 90, np.int32), 1, 0, np.arange(count, dtype=np.uint64))
    for mine, other in ((0, 1), (1, 0), (2, 5), (3, 4)):
        assert stats.ks_2samp(ours[:, mine], theirs[:, other]).pvalue > 0.001


def test_rectangles_are_erased_as_torchvisions() -> None:
    torch.manual_seed(0)
    data, count = DataConfig(image_px=64, erase=1.0), 2000
    theirs = drawn(v2.RandomErasing(p=1.0, scale=(0.02, 0.33), ratio=(0.3, 3.3)), 64, count)
    sizes, ids = np.full((count, 2), 64, np.int32), np.arange(count, dtype=np.uint64)
    ours = sample_augmentation(data, sizes, ids, 1, 0).erased
    assert abs((ours[:, 2] * ours[:, 3]).mean() - (theirs[:, 6] * theirs[:, 7]).mean()) < 0.006 * 64 * 64
    for mine, other in ((0, 3), (1, 2), (2, 7), (3, 6)):
        assert stats.ks_2samp(ours[:, mine], theirs[:, other]).pvalue > 0.001


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
