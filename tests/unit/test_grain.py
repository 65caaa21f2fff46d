"""The network's part that looks at how sharp and how noisy a photo is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor
from torch.nn import functional

from fashion_dist.config import ModelConfig
from fashion_dist.models import Head, build_network
from fashion_dist.models._grain import Grain, border_weights, photo_bounds
from fashion_dist.models.fashionnet import FashionNet, build

SIDE = 160
CONFIG = dataclasses.replace(ModelConfig(), grain=True, frame=True)


def photo(noise: float, seed: int = 0) -> Tensor:
    """A smooth picture under gray noise of that standard deviation, float [1, 3, 160, 160]."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 4, generator=draw) * 2 - 1
    smooth = functional.interpolate(coarse, size=SIDE, mode="bicubic")
    return smooth + noise * torch.randn(1, 1, SIDE, SIDE, generator=draw)


def described(image: Tensor) -> Tensor:
    """By level, moment and channel: [5, 3, 3]."""
    return Grain().describe(image).view(5, 3, 3)


def test_photos_of_one_noise_are_alike_and_others_are_not() -> None:
    first, second, noisy = (described(photo(*each)) for each in ((0.2, 1), (0.2, 2), (0.8, 3)))
    assert abs(first[0, 0, 0] - second[0, 0, 0]) < 0.05
    assert noisy[0, 0, 0] - first[0, 0, 0] == pytest.approx(np.log(4), abs=0.15)


def test_the_moments_are_those_of_the_border_s_details() -> None:
    image = photo(0.2)
    coarse = functional.avg_pool2d(image, 2)
    luma = torch.einsum("c,nchw->nhw", torch.tensor([0.299, 0.587, 0.114]), image[:, :, ::2, ::2] - coarse)[0]
    place = np.minimum.outer(*(np.minimum(at := np.arange(80) + 0.5, 80 - at),) * 2)
    values = np.log(luma.abs().numpy() + 0.01)[place < 0.12 * 80]
    expected = [values.mean(), values.std(), scipy.stats.skew(values)]
    np.testing.assert_allclose(described(image)[0, :, 0], expected, rtol=1e-3)


@pytest.mark.parametrize("colour", [1.9, -2.0])
def test_padding_is_no_part_of_a_photo(colour: float) -> None:
    padded = torch.full((2, 3, SIDE, SIDE), colour)
    padded[0, :, :, 32:128] = photo(0.2)[0, :, :, 32:128]
    padded[1, :, 32:128] = photo(0.2)[0, :, 32:128]
    weights = border_weights(photo_bounds(padded), 10, 10, share=0.2)
    assert torch.allclose(weights.sum((1, 2)), torch.ones(2))
    assert not weights[0][:, [0, 1, 8, 9]].any() and not weights[1][[0, 1, 8, 9]].any()
    assert (weights[0][[0, 9], 2:8] > 0).all() and (weights[0][:, [2, 7]] > 0).all()
    assert not weights[0][2:8, 3:7].any()
    assert torch.allclose(weights[0], weights[1].T)


def test_an_image_of_one_colour_is_described_by_numbers() -> None:
    grain = Grain()
    assert grain.describe(torch.ones(2, 3, SIDE, SIDE)).isfinite().all()
    assert grain(torch.ones(2, 3, SIDE, SIDE)).isfinite().all()


def test_the_other_parts_see_a_large_photo_small() -> None:
    torch.manual_seed(0)
    large, _ = build(CONFIG, 300)
    assert isinstance(large, FashionNet) and large.shrink == 4
    large.eval()
    image = torch.randn(2, 3, 300, 300)
    blurred = functional.interpolate(functional.avg_pool2d(image, 4), scale_factor=4)
    with torch.no_grad():
        sharp, soft = large(image), large(blurred)
    grain = large.parts["grain"]
    assert torch.allclose(sharp[:, : grain.start], soft[:, : grain.start], atol=1e-5)
    assert not torch.allclose(sharp[:, grain], soft[:, grain])
    for px, shrink in ((28, 1), (96, 1), (128, 2)):
        small, width = build(CONFIG, px)
        assert isinstance(small, FashionNet) and small.shrink == shrink
        assert small(torch.randn(2, 3, px, px)).shape == (2, width)
    assert build(ModelConfig(), 300)[0].shrink == 1


def test_a_head_may_rest_on_the_grain_and_trains_it() -> None:
    torch.manual_seed(0)
    network = build_network(CONFIG, {"place": Head(3, "grain")}, SIDE)
    network(torch.cat([photo(0.1), photo(0.4, 1)]))["place"].square().sum().backward()
    assert isinstance(network.backbone, FashionNet) and network.backbone.grain is not None
    assert all(p.grad is not None and p.grad.any() for p in network.backbone.grain.parameters())
