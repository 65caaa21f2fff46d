"""Dropout drawn in bytes: the right share, the same mean, the same values for the same seed."""

from __future__ import annotations

import pytest
import torch

from fashion_dist.models._dropout import Dropout


@pytest.mark.parametrize("probability", [0.05, 0.2, 0.5, 0.9])
def test_the_share_that_is_dropped_and_the_mean_that_is_kept(probability: float) -> None:
    torch.manual_seed(0)
    dropped = Dropout(probability)(torch.ones(1001, 1003))
    share = float((dropped == 0).float().mean())
    assert share == pytest.approx(round(probability * 256) / 256, abs=0.002)
    assert float(dropped.mean()) == pytest.approx(1, abs=0.01)
    assert len(dropped.unique()) == 2
    # No value is dropped with its neighbours: of two side by side, both go as often as chance has it.
    gone = (dropped == 0).float()
    for distance in range(1, 9):
        both = float((gone[:, distance:] * gone[:, :-distance]).mean())
        assert both == pytest.approx(share**2, abs=0.003)


def test_a_value_that_is_dropped_has_no_gradient() -> None:
    values = torch.rand(7, 5, requires_grad=True)
    dropped = Dropout(0.5)(values)
    dropped.sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad == 0, dropped == 0)


def test_the_seed_decides() -> None:
    drawn = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        drawn.append(Dropout(0.3)(torch.ones(64, 64)))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("module", [Dropout(0.3).eval(), Dropout(0.0)])
def test_nothing_is_dropped(module: Dropout) -> None:
    values = torch.rand(9, 9)
    assert torch.equal(module(values), values)


def test_all_is_dropped_and_types_are_kept() -> None:
    assert not Dropout(1.0)(torch.rand(8)).any()
    assert Dropout(0.5)(torch.ones(8, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert Dropout(0.5)(torch.ones(0, 4)).shape == (0, 4)
