"""The learning rate over time, and who decays."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fashion_dist.config import OptimConfig
from fashion_dist.train.optim import WeightAverage, build_optimizer, learning_rate, parameter_groups, set_learning_rate

SCHEDULES = ("cosine", "constant", "step", "onecycle")


@given(
    schedule=st.sampled_from(SCHEDULES),
    steps=st.integers(1, 40),
    epochs=st.integers(1, 40),
    warmup=st.floats(0, 50),
    final=st.floats(0, 1),
)
def test_learning_rate_stays_within_its_bounds(
    schedule: str, steps: int, epochs: int, warmup: float, final: float
) -> None:
    config = OptimConfig(lr=0.5, schedule=schedule, warmup_epochs=warmup, final_lr=final)  # type: ignore[arg-type]
    rates = [learning_rate(step, steps, epochs, config) for step in range(steps * epochs)]
    assert all(0 <= rate <= 0.5 + 1e-12 for rate in rates)
    assert any(rate > 0 for rate in rates)


def test_cosine_is_torchs_after_warmup() -> None:
    config = OptimConfig(lr=0.4, schedule="cosine", warmup_epochs=2, final_lr=0.1)
    parameter = nn.Parameter(torch.zeros(1))
    reference = torch.optim.SGD([parameter], lr=0.4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(reference, T_max=80, eta_min=0.04)
    assert [learning_rate(step, 10, 10, config) for step in (0, 9, 19)] == pytest.approx([0.02, 0.2, 0.4])
    for step in range(20, 100):
        assert learning_rate(step, 10, 10, config) == pytest.approx(scheduler.get_last_lr()[0])
        reference.step()
        scheduler.step()


def test_step_schedule_falls_twice() -> None:
    config = OptimConfig(lr=1.0, schedule="step", warmup_epochs=0)
    assert [learning_rate(step, 10, 10, config) for step in (0, 59, 60, 84, 85, 99)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 2)


def test_biases_and_norms_do_not_decay_and_the_backbone_has_its_own_rate() -> None:
    model = Small()
    config = OptimConfig(name="adamw", lr=0.1, weight_decay=0.05, backbone_lr=0.1)
    optimizer = build_optimizer(model, config)
    set_learning_rate(optimizer, 0.01)
    of = {p: group for group in optimizer.param_groups for p in group["params"]}
    assert len(of) == len(list(model.parameters()))
    assert [of[p]["weight_decay"] for p in model.backbone.parameters()] == [0.05, 0, 0, 0]
    assert [of[p]["weight_decay"] for p in model.head.parameters()] == [0.05, 0]
    assert of[model.head.weight]["lr"] == 0.01
    assert of[model.backbone[0].weight]["lr"] == pytest.approx(0.001)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_every_optimiser_lowers_a_loss(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 1)
    optimizer = build_optimizer(model, dataclasses.replace(OptimConfig(), name=name, lr=0.02, weight_decay=0))  # type: ignore[arg-type]
    x = torch.randn(64, 5)
    y = x.sum(dim=1, keepdim=True)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]


def test_groups_hold_each_parameter_once() -> None:
    model = Small()
    held = [p for group in parameter_groups(model, OptimConfig()) for p in group["params"]]
    assert sorted(map(id, held)) == sorted(map(id, model.parameters()))


def test_average_follows_the_warmed_up_decay() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = WeightAverage(model, decay=0.9)
    expected = None
    for n, value in enumerate([1.0, 2.0, 4.0, 8.0]):
        with torch.no_grad():
            model.weight.fill_(value)
        average.update_parameters(model)
        # The first update copies; after it, update n has decay min(0.9, (1 + n) / (10 + n)).
        decay = min(0.9, (1 + n) / (10 + n))
        expected = value if expected is None else decay * expected + (1 - decay) * value
    assert float(average.module.weight.detach()) == pytest.approx(expected)


def test_average_takes_normalisation_statistics_along() -> None:
    model = nn.BatchNorm1d(3)
    average = WeightAverage(model, decay=0.5)
    model(torch.randn(16, 3) + 5)
    average.update_parameters(model)
    model(torch.randn(16, 3) + 5)
    average.update_parameters(model)
    assert average.module.num_batches_tracked == 2
    assert (average.module.running_mean > 0).all()
