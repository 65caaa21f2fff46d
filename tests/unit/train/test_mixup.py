"""Mixup and CutMix: what is mixed, and that it is the same everywhere."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from fashion_dist.config import TrainConfig
from fashion_dist.train.mixup import mix_batch


def images(n: int = 6) -> Tensor:
    return torch.arange(n, dtype=torch.float32)[:, None, None, None].expand(n, 3, 16, 16).clone()


def identity_loss(targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"loss": targets["y"].sum()}


def test_off_changes_nothing() -> None:
    x = images()
    mixed = mix_batch(x, TrainConfig(), step=3)
    assert mixed.images is x
    assert mixed.losses(identity_loss, {"y": torch.arange(6.0)})["loss"] == 15


@pytest.mark.parametrize("settings", [TrainConfig(mixup=0.4), TrainConfig(cutmix=1.0)])
def test_the_share_is_the_share_of_the_pixels(settings: TrainConfig) -> None:
    for step in range(20):
        mixed = mix_batch(images(), settings, step)
        assert mixed.partner is not None
        own, other = torch.arange(6.0), torch.tensor([1.0, 0, 3, 2, 5, 4])
        expected = mixed.share * own + (1 - mixed.share) * other
        assert torch.allclose(mixed.images.mean((1, 2, 3)), expected, atol=1e-5)


def test_two_ranks_mix_what_one_rank_mixes() -> None:
    settings = TrainConfig(mixup=0.4, cutmix=1.0, seed=5)
    for step in range(10):
        whole = mix_batch(images(8), settings, step).images
        halves = [mix_batch(half, settings, step).images for half in images(8).split(4)]
        assert torch.equal(whole, torch.cat(halves))


def test_an_odd_batch_mixes_its_last_image_with_itself() -> None:
    mixed = mix_batch(images(5), TrainConfig(mixup=0.4), step=0)
    assert torch.allclose(mixed.images[4], images(5)[4])


def test_a_mixed_image_is_told_by_its_larger_share() -> None:
    targets = {"y": torch.arange(6.0)}
    for step in range(20):
        mixed = mix_batch(images(), TrainConfig(mixup=0.4), step)
        nearest = mixed.images.mean((1, 2, 3)).round()  # neighbours are one apart
        assert torch.equal(mixed.larger(targets)["y"], nearest)
    plain = mix_batch(images(), TrainConfig(), step=0)
    assert plain.larger(targets) is targets
