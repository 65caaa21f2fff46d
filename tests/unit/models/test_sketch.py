"""The network's part that looks at drawings line by line, and the frame that a drawing gets."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from fashion_dist.config import ModelConfig
from fashion_dist.models._sketch import Sketch, framed
from fashion_dist.models.backbone import build_network
from fashion_dist.models.fashionnet import FashionNet
from fashion_dist.models.heads import Head

SIDE = 64
CONFIG = ModelConfig(args={"sketch": True, "palette": False})


def drawing(left: int, top: int, side: int) -> Tensor:
    """A cross in a box, dark on light, float [1, 3, 64, 64]."""
    shape = torch.ones(1, 1, 16, 16)
    shape[:, :, 0], shape[:, :, -1], shape[:, :, :, 0], shape[:, :, :, -1], shape[:, :, 7:9] = -1, -1, -1, -1, -1
    image = torch.ones(1, 3, SIDE, SIDE)
    image[:, :, top : top + side, left : left + side] = functional.interpolate(shape, size=side)
    return image


def test_a_drawing_is_framed_alike_wherever_it_stands_and_however_large_it_is() -> None:
    whole = framed(drawing(1, 1, SIDE - 2))
    assert (whole[0, 0, 0] < -0.9).all() and (whole[0, 0, :, -1] < -0.9).all()
    together = torch.cat([drawing(20, 5, 32), drawing(0, 16, 48), drawing(31, 31, 33)])
    made = framed(together)
    assert (made - whole).abs().mean() < 0.2 < 0.3 < (together - whole).abs().mean()
    assert torch.equal(framed(together[1:2]), made[1:2])  # in any company


def test_an_oblong_drawing_keeps_its_proportions() -> None:
    image = torch.ones(1, 3, SIDE, SIDE)
    image[:, :, 30:34, 16:48] = -1  # 4 high, 32 wide
    dark = framed(image)[0, 0] < 0
    assert dark.any(0).sum() >= SIDE - 1 and 7 <= int(dark.any(1).sum()) <= 9
    assert abs(int(dark.any(1).nonzero().float().mean()) - SIDE // 2) <= 1


def test_a_picture_without_a_drawing_stays_as_it_is() -> None:
    plain = torch.full((2, 3, SIDE, SIDE), 0.3)
    assert torch.allclose(framed(plain), plain)


def test_lines_are_told_by_direction_and_place_and_not_by_sense_or_strength() -> None:
    sketch = Sketch(cells=4, directions=8, num_features=16)
    lines = slice(0, 4 * 4 * 8)
    image = torch.ones(1, 3, SIDE, SIDE)
    image[:, :, :, 24:] = -1  # one upright edge
    maps = sketch.describe(image)[:, lines].view(8, 4, 4)
    assert maps[0, :, 1].min() > 1 and maps[[2, 4, 6]].abs().max() < 1e-6 and maps[0, :, 3].max() < 1e-6
    turned = sketch.describe(image.transpose(2, 3))[:, lines].view(8, 4, 4)
    assert torch.allclose(turned[4], maps[0].T, atol=1e-4)
    negative, faint = sketch.describe(-image), sketch.describe(image * 0.5)
    assert torch.allclose(negative[:, lines].view(8, 4, 4), maps, atol=1e-4)
    assert torch.allclose(faint[:, lines].view(8, 4, 4), maps, rtol=0.1, atol=1e-3)


def test_both_slices_answer_for_themselves_and_an_output_is_their_sum() -> None:
    torch.manual_seed(0)
    network = build_network(CONFIG, {"all": Head(5)}, SIDE)
    backbone = network.backbone
    assert isinstance(backbone, FashionNet) and backbone.sketch is not None
    images = torch.cat([drawing(4 * n, 2 * n, 30) for n in range(8)])
    outputs = network.train()(images)
    assert sorted(outputs) == ["all", "all/lines", "all/shape"] and outputs["all"].shape == (8, 5)
    assert torch.equal(outputs["all"], outputs["all/shape"] + outputs["all/lines"])
    outputs["all/lines"].square().sum().backward(retain_graph=True)
    assert not any(p.grad is not None and p.grad.any() for p in backbone.trunk.parameters()), (
        "the trunk learns from its own answer"
    )
    outputs["all"].square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())
    network.eval()
    assert torch.equal(network(images)["all"], network(images)["all"])


def test_an_image_learns_through_its_frame() -> None:
    images = drawing(20, 5, 32).requires_grad_()
    framed(images).square().sum().backward()
    assert images.grad is not None and images.grad[0, :, 5:37, 20:52].any() and not images.grad[0, :, 45:].any()
