"""Our own network: its switches, its two kinds of evidence, and images that grow."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fashion_dist.config import DataConfig, ModelConfig
from fashion_dist.models import Head, build_network
from fashion_dist.models.fashionnet import FashionNet, build


def net(**settings: str | bool) -> FashionNet:
    torch.manual_seed(0)
    backbone, num_features = build(dataclasses.replace(ModelConfig(), **settings), 64)  # type: ignore[arg-type]
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


def test_recolouring_reaches_the_trunk_in_training_only() -> None:
    backbone = net()
    images = torch.rand(8, 3, 64, 64) - 0.5
    backbone.train()
    recoloured = backbone.recolour(images)
    assert not torch.allclose(recoloured, images)
    kept = (recoloured == images).flatten(1).all(1)
    assert not kept.all()
    backbone.eval()
    assert torch.equal(backbone.recolour(images), images)
    with torch.no_grad():
        look = backbone(images)[:, backbone.parts["look"]]
        backbone.recolour.train()
        assert torch.equal(backbone(images)[:, backbone.parts["look"]], look)


def test_recolouring_keeps_gray_gray() -> None:
    backbone = net().train()
    gray = torch.rand(16, 1, 8, 8).expand(-1, 3, -1, -1) - 0.5
    recoloured = backbone.recolour(gray)
    assert torch.allclose(recoloured[:, 0], recoloured[:, 1], atol=1e-2)
    assert torch.allclose(recoloured[:, 1], recoloured[:, 2], atol=1e-2)


def test_the_look_is_of_the_middle() -> None:
    backbone = net().eval()
    images = torch.zeros(1, 3, 96, 96)
    border, middle = images.clone(), images.clone()
    border[:, :, :8] = 1
    middle[:, :, 44:52, 44:52] = 1
    with torch.no_grad():
        plain, framed, dotted = (backbone(x)[:, backbone.parts["look"]] for x in (images, border, middle))
    assert torch.equal(plain, framed)
    assert not torch.allclose(plain, dotted)


def test_the_place_is_of_the_border_and_there_only_when_asked_for() -> None:
    backbone = net(frame=True).eval()
    images = torch.zeros(1, 3, 96, 96)
    dotted, floored = images.clone(), images.clone()
    dotted[:, :, 44:52, 44:52] = 1
    floored[:, :, 90:] = 1
    with torch.no_grad():
        plain, middle, floor = (backbone(x)[:, backbone.parts["place"]] for x in (images, dotted, floored))
    assert torch.equal(plain, middle)
    assert not torch.allclose(plain, floor)
    assert net().parts["place"] == slice(net().num_features, net().num_features)


def test_without_a_palette_there_is_the_trunk_alone() -> None:
    backbone = net(palette=False).eval()
    features = backbone(torch.randn(2, 3, 64, 64))
    assert features.shape == (2, 256)
    assert backbone.parts["look"] == backbone.parts["shape"] == slice(0, 256)
    features.sum().backward()
    assert all(p.grad is not None for p in backbone.parameters())
    assert net(palette=False, frame=True).parts["place"].start == 256


def test_small_pictures_keep_their_size_at_first() -> None:
    torch.manual_seed(0)
    maps = [build(ModelConfig(), px)[0].stem(torch.zeros(1, 3, 32, 32)).shape[2:] for px in (28, 64)]  # type: ignore[operator]
    assert maps == [(16, 16), (8, 8)]


def test_a_head_rests_on_the_part_it_names() -> None:
    torch.manual_seed(0)
    heads = {"kind": Head(4, "shape"), "colour": Head(3, "look", hidden=8), "all": Head(2)}
    network = build_network(ModelConfig(), heads, 64).eval()
    outputs = network(torch.randn(2, 3, 64, 64))
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "kind": (2, 4),
        "colour": (2, 3),
        "all": (2, 2),
    }
    outputs["kind"].sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in network.backbone.palette.parameters())  # type: ignore[union-attr]
    plain = build_network(ModelConfig(name="resnet18"), heads, 64)
    assert plain.heads["kind"].in_features == 512


def test_images_grow_to_full_size_and_end_there() -> None:
    data = DataConfig(image_px=128, start_px=64, grow_until=0.75)
    sizes = [data.px_at(epoch, 40) for epoch in range(40)]
    assert sizes == sorted(sizes)
    assert set(sizes) == {64, 96, 128}
    assert sizes.count(64) == sizes.count(96) == 15
    assert DataConfig(image_px=128).px_at(0, 40) == 128
    assert data.px_at(0, 1) == 128
    assert DataConfig(image_px=48, start_px=64).px_at(0, 40) == 48
