"""Learning rates, random crops, erasing, colours and mixing: what PyTorch and torchvision have."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torchvision.transforms import v2

from fashion_dist.config import DataConfig, OptimConfig, TrainConfig
from fashion_dist.data.augment import crop_boxes, sample_augmentation
from fashion_dist.train.mixup import mix_batch
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


def test_one_cycle_is_torchs_but_for_where_it_ends() -> None:
    """The last step is one before `final_lr`, as cosine's is; torch's is at it, so that its cycle is a step shorter."""
    total, rise = 100, 30
    config = OptimConfig(lr=0.3, schedule="onecycle", final_lr=1e-4, warmup_epochs=0)

    def cycle(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=0.3, total_steps=total + 1, pct_start=(rise + 1) / (total + 1), div_factor=25,
            final_div_factor=0.04 / 1e-4, cycle_momentum=False,
        )  # fmt: skip

    found = [learning_rate(step, 10, 10, config) for step in range(total)]
    assert found == pytest.approx(by_torch(cycle, total, 0.3), abs=1e-12)


@pytest.mark.parametrize("total", [7, 10, 33, 999, 2999])
def test_steps_are_torchs_at_exact_fractions(total: int) -> None:
    config = OptimConfig(lr=1.0, schedule="step", warmup_epochs=0)
    milestones = [math.ceil(Fraction(part, 100) * total) for part in (60, 85)]
    found = [learning_rate(step, total, 1, config) for step in range(total)]
    expected = by_torch(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, milestones), total, 1.0)
    assert found == pytest.approx(expected)


IDS = np.arange(4000, dtype=np.uint64)


def drawn(transform: v2.Transform, size: tuple[int, int], count: int) -> np.ndarray:
    """int [n, 8] of torchvision: top, left, height and width, under one of two names each."""
    image = torch.zeros(3, size[1], size[0])
    found = [transform.make_params([image]) for _ in range(count)]
    return np.array([[p.get(k) or 0 for k in ("top", "left", "i", "j", "height", "width", "h", "w")] for p in found])


@pytest.mark.parametrize("size", [(90, 90), (120, 70), (64, 96), (200, 48)], ids=str)
def test_random_crops_are_drawn_as_torchvisions(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    data, count, (width, height) = DataConfig(image_px=32, crop_scale=(0.3, 1.0)), 2000, size
    theirs = drawn(v2.RandomResizedCrop(32, scale=(0.3, 1.0)), size, count)
    ours = crop_boxes(data, np.tile(np.array([[width, height]], np.int32), (count, 1)), 1, 0, IDS[:count])
    for mine, other in ((0, 1), (1, 0), (2, 5), (3, 4)):
        assert stats.ks_2samp(ours[:, mine], theirs[:, other], method="asymp").pvalue > 0.001


def test_rectangles_are_erased_as_torchvisions() -> None:
    torch.manual_seed(0)
    data, count = DataConfig(image_px=64, erase=1.0), 2000
    theirs = drawn(v2.RandomErasing(p=1.0, scale=(0.02, 0.33), ratio=(0.3, 3.3)), (64, 64), count)
    ours = sample_augmentation(data, np.full((count, 2), 64, np.int32), IDS[:count], 1, 0).erased
    assert abs((ours[:, 2] * ours[:, 3]).mean() - (theirs[:, 6] * theirs[:, 7]).mean()) < 0.006 * 64 * 64
    for mine, other in ((0, 3), (1, 2), (2, 7), (3, 6)):
        assert stats.ks_2samp(ours[:, mine], theirs[:, other], method="asymp").pvalue > 0.001


@pytest.mark.parametrize("kind", ["brightness", "saturation"])
def test_colours_are_changed_as_by_torchvision(kind: str) -> None:
    """But for clamping, which comes once, at the end."""
    data = dataclasses.replace(DataConfig(image_px=32, mean=(0, 0, 0), std=(1, 1, 1)), **{kind: 0.3})
    rgb = np.array([0.5, 0.3, 0.4])
    for matrix in sample_augmentation(data, np.full((40, 2), 64, np.int32), IDS[:40], 1, 0).colours.astype(float):
        made = matrix[:, :3] @ rgb * 255 + matrix[:, 3]
        factor = float(matrix[0, 0] - (matrix[1, 0] if kind == "saturation" else 0)) * 255
        change = getattr(v2.functional, f"adjust_{kind}")
        theirs = change(torch.tensor(rgb)[:, None, None].float(), factor)[:, 0, 0].numpy()
        assert 0.69 < factor < 1.31 and np.abs(made - theirs).max() < 1e-3


def test_shares_of_mixed_images_are_drawn_as_by_torchvision() -> None:
    torch.manual_seed(0)
    images, count = torch.zeros(2, 3, 32, 32), 500
    mixup, cutmix = (v2.MixUp(alpha=0.4, num_classes=2), v2.CutMix(alpha=1.0, num_classes=2))
    theirs = [mixup.make_params([images])["lam"] for _ in range(count)]
    ours = [mix_batch(images, TrainConfig(mixup=0.4), step).share for step in range(count)]
    assert stats.ks_2samp(ours, theirs, method="asymp").pvalue > 0.001
    theirs = [cutmix.make_params([images])["lam_adjusted"] for _ in range(count)]
    ours = [mix_batch(images, TrainConfig(cutmix=1.0), step).share for step in range(count)]
    assert stats.ks_2samp(ours, theirs, method="asymp").pvalue > 0.001
