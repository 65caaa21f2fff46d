"""The multilayer perceptron, with and without the edges beside its pixels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fashion_dist.config import ModelConfig
from fashion_dist.models.backbone import build_network
from fashion_dist.models.heads import Head
from fashion_dist.models.mlp import MLP

SIDE = 4
PIXELS = SIDE * SIDE


def first_inputs(network: MLP, images: Tensor) -> Tensor:
    """What the first layer of `network` is given for `images`."""
    seen: list[Tensor] = []
    hook = network.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network.eval()(images)
    hook.remove()
    return seen[0]


def gray(*rows: list[float]) -> Tensor:
    return torch.tensor(rows).expand(1, 3, SIDE, SIDE)


STEP = gray([0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 3.0, 3.0])


def test_without_edges_the_first_layer_sees_the_flattened_pixels_alone() -> None:
    seen = first_inputs(MLP(SIDE), STEP)
    assert torch.allclose(seen, STEP[:, 0].flatten(1))


def test_edges_are_told_by_place_and_strength_and_not_by_which_side_is_darker() -> None:
    network = MLP(SIDE, edges=True)
    seen = first_inputs(network, STEP)
    assert torch.allclose(seen[:, :PIXELS], STEP[:, 0].flatten(1))
    across, down = seen[0, PIXELS:].split([SIDE * (SIDE - 1), (SIDE - 1) * SIDE])
    across, down = across.view(SIDE, SIDE - 1), down.view(SIDE - 1, SIDE)
    unit = across[0, 1]
    assert unit > 0
    assert torch.allclose(across, unit * torch.tensor([[0.0, 1, 0], [0, 1, 0], [0, 1, 0], [0, 3, 0]]))
    assert torch.allclose(down, unit * torch.tensor([[0.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 2, 2]]))
    assert torch.allclose(first_inputs(network, -STEP)[:, PIXELS:], seen[:, PIXELS:])


@pytest.mark.parametrize("edges", [False, True])
def test_the_switch_reaches_the_network_and_every_weight_learns(edges: bool) -> None:
    config = ModelConfig(name="mlp", args={"edges": edges})
    network = build_network(config, {"label": Head(3)}, SIDE)
    first = next(module for module in network.modules() if isinstance(module, nn.Linear))
    assert first.in_features == PIXELS + (2 * SIDE * (SIDE - 1) if edges else 0)
    network.train()(torch.randn(8, 3, SIDE, SIDE))["label"].square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())
