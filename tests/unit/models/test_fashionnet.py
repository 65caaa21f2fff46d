"""FashionNet: its settings, and what its trunk and its palette see."""

from __future__ import annotations

import pytest
import torch

from fashion_dist.config import ModelConfig
from fashion_dist.models.fashionnet import FashionNet, build

PALETTE = slice(256, None)


def net(**settings: str | bool) -> FashionNet:
    torch.manual_seed(0)
    backbone, num_features = build(ModelConfig(args=settings), 64)
    assert isinstance(backbone, FashionNet)
    assert num_features == backbone.num_features
    return backbone


@pytest.mark.parametrize("pool", ["avg", "max"])
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_every_switch_trains(pool: str, norm: str) -> None:
    backbone = net(pool=pool, norm=norm)
    features = backbone(torch.randn(4, 3, 64, 64))
    assert features.shape == (4, backbone.num_features)
    features.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())


def test_initialisations_differ_and_norms_are_the_ones_asked_for() -> None:
    weights = {name: net(init=name).stem[0].weight for name in ("kaiming", "xavier", "normal", "orthogonal")}
    assert len({float(weight.detach().std()) for weight in weights.values()}) == 4
    flat = weights["orthogonal"].detach().flatten(1)
    assert torch.allclose(flat @ flat.T, torch.eye(len(flat)), atol=1e-5)
    assert not [m for m in net(norm="group").modules() if isinstance(m, torch.nn.BatchNorm2d)]


def test_colour_jitter_reaches_the_trunk_in_training_only() -> None:
    backbone = net()
    images = torch.rand(8, 3, 64, 64) - 0.5
    backbone.train()
    jittered = backbone.hue_jitter(images)
    assert not torch.allclose(jittered, images)
    kept = (jittered == images).flatten(1).all(1)
    assert not kept.all()
    backbone.eval()
    assert torch.equal(backbone.hue_jitter(images), images)
    with torch.no_grad():
        palette = backbone(images)[:, PALETTE]
        backbone.hue_jitter.train()
        assert torch.equal(backbone(images)[:, PALETTE], palette)


def test_colour_jitter_keeps_gray_gray() -> None:
    backbone = net().train()
    gray = torch.rand(16, 1, 8, 8).expand(-1, 3, -1, -1) - 0.5
    jittered = backbone.hue_jitter(gray)
    assert torch.allclose(jittered[:, 0], jittered[:, 1], atol=1e-2)
    assert torch.allclose(jittered[:, 1], jittered[:, 2], atol=1e-2)


def test_the_palette_is_of_the_middle() -> None:
    backbone = net().eval()
    images = torch.zeros(1, 3, 96, 96)
    border, middle = images.clone(), images.clone()
    border[:, :, :8] = 1
    middle[:, :, 44:52, 44:52] = 1
    with torch.no_grad():
        plain, framed, dotted = (backbone(x)[:, PALETTE] for x in (images, border, middle))
    assert torch.equal(plain, framed)
    assert not torch.allclose(plain, dotted)


def test_without_a_palette_there_is_the_trunk_alone() -> None:
    backbone = net(palette=False).eval()
    features = backbone(torch.randn(2, 3, 64, 64))
    assert features.shape == (2, 256)
    features.sum().backward()
    assert all(p.grad is not None for p in backbone.parameters())


def test_small_pictures_keep_their_size_at_first() -> None:
    torch.manual_seed(0)
    maps = [build(ModelConfig(), px)[0].stem(torch.zeros(1, 3, 32, 32)).shape[2:] for px in (28, 64)]  # type: ignore[operator]
    assert maps == [(16, 16), (8, 8)]
