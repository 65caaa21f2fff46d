"""The learning rate over time, and who decays."""

from __future__ import annotations

import dataclasses
from typing import Literal

import pytest
import timm
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from timm.optim import param_groups_layer_decay
from torch import nn

from fashion_dist.config import OptimConfig
from fashion_dist.errors import ConfigError
from fashion_dist.tasks import deepfashion
from fashion_dist.train.optim import (
    WeightAverage,
    build_optimizer,
    layer_depths,
    learning_rate,
    optim_phase_at,
    parameter_groups,
    plateau_scale,
    set_learning_rate,
)

SCHEDULES = ("cosine", "constant", "step", "onecycle", "plateau")


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


def test_keras_inverse_time_decay() -> None:
    config = OptimConfig(name="sgd", lr=0.01, schedule="constant", warmup_epochs=0, lr_decay=1e-6)
    assert [learning_rate(step, 500, 30, config) for step in (0, 1, 14_999)] == [
        0.01 / (1 + 1e-6 * step) for step in (0, 1, 14_999)
    ]
    with pytest.raises(ConfigError, match=r"optim\.lr_decay = 1e-06 is not possible; allowed: with .*constant"):
        OptimConfig(lr_decay=1e-6)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_plateau_is_torchs(mode: Literal["min", "max"]) -> None:
    values = [3.0, 2, 2, 2, 2, 1, 1, 5, 5, 0.5, 7, 7, 7, 7, 7, float("nan"), 0.4]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode=mode, factor=0.5, patience=2, threshold=0)
    signed = [value if mode == "max" else -value for value in values]
    for seen, value in enumerate(values, 1):
        reference.step(value)
        assert plateau_scale(signed[:seen], 2, 0.5) == pytest.approx(optimizer.param_groups[0]["lr"])


def of_timm(name: str) -> nn.Module:
    """A whole network of timm's, its classifier on top, as a backbone with a head."""
    model = nn.Module()
    with torch.device("meta"):
        model.backbone = timm.create_model(name, num_classes=0)
        model.heads = nn.Linear(3, 2)
    return model


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_tiny", "resnet18"])
def test_layers_and_what_does_not_decay_are_timms(name: str) -> None:
    config = OptimConfig(name="adamw", lr=1.0, weight_decay=0.05, layer_decay=0.75, no_decay="network")
    model = of_timm(name)
    ours = {
        p: (group["scale"], group["weight_decay"]) for group in parameter_groups(model, config) for p in group["params"]
    }
    names = {p: n.removeprefix("backbone.") for n, p in model.named_parameters()}
    with torch.device("meta"):
        whole = timm.create_model(name)
    groups = param_groups_layer_decay(whole, 0.05, whole.no_weight_decay() if hasattr(whole, "no_weight_decay") else ())
    theirs = {id(p): (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}
    of = {n: theirs[id(p)] for n, p in whole.named_parameters()}
    for parameter, (scale, decay) in ours.items():
        if names[parameter] in of:
            assert (pytest.approx(scale), decay) == of[names[parameter]], names[parameter]
        else:
            assert names[parameter].startswith("heads") and scale == 1


def test_layers_of_other_networks_are_in_their_order() -> None:
    with torch.device("meta"):
        depths = layer_depths(torchvision.models.convnext_tiny())
    assert depths["features.0.0.weight"] == 0 < depths["features.1.0.block.0.weight"]
    assert depths["features.1.0.block.0.weight"] == depths["features.1.0.layer_scale"]
    assert depths["features.7.2.block.5.bias"] < depths["classifier.2.weight"] == max(depths.values())
    with torch.device("meta"):
        depths = layer_depths(torchvision.models.vit_b_16())
    first, last = (f"encoder.layers.encoder_layer_{i}.ln_1.weight" for i in (0, 11))
    assert depths["conv_proj.weight"] < depths["encoder.pos_embedding"] < depths[first] < depths[last]
    assert depths["encoder.ln.weight"] == depths[last] < depths["heads.head.weight"]


@pytest.mark.parametrize(
    ("settings", "decay"),
    [
        ("", 0.05),
        ("optim.name=adamw", 0.05),
        ("optim.name=sgd", 5e-4),
        ("optim.weight_decay=0.01 optim.name=adam", 0.01),
        ("optim.name=adam optim.weight_decay=0.05", 0.05),
    ],
)
def test_a_weight_decay_belongs_to_an_optimiser(settings: str, decay: float) -> None:
    assert deepfashion.RECIPE.override(settings.split()).optim.weight_decay == decay


def test_each_stage_has_its_optimisers_weight_decay() -> None:
    def decays(*settings: str) -> list[float]:
        config = deepfashion.RECIPE.override(["train.epochs=9", *settings]).check()
        return [optim_phase_at(config.optim, 9, epoch).config.weight_decay for epoch in (0, 3, 6)]

    stages = "optim.stages=adamw:0.001:3,sgd:0.01:3,adam:0.001:3"
    assert decays(stages) == [0.05, 5e-4, 5e-4]
    assert decays(stages + ":0.1") == [0.05, 5e-4, 0.1]
    assert decays(stages, "optim.weight_decay=0.02") == [0.02] * 3
    # A run that was made before has its stages as they stand.
    stored = dataclasses.replace(deepfashion.RECIPE.optim, stages=("sgd:0.1:9",))
    assert optim_phase_at(stored, 9, 0).config.weight_decay == 0.05
    with pytest.raises(ConfigError, match=r"optim\.weight_decay = '0\.1' .* every stage of optim\.stages has its own"):
        decays("optim.stages=sgd:0.01:9:0.001", "optim.weight_decay=0.1")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("optim.warmup_epochs=75", "warmup_epochs = 75.0 is not possible; allowed: less than the 75 epochs of the run"),
        ("train.epochs=4 optim.stages=sgd:.1:1,adam:.1:3 optim.warmup_epochs=1", "less than the 1 epochs of the first"),
        ("optim.schedule=onecycle optim.warmup_epochs=1", "which rises by itself; allowed: leave it out, or 0"),
        ("optim.plateau_factor=1", "0 < factor < 1"),
        ("optim.stages=sgd:0.1:3:-1", "DECAY >= 0"),
    ],
)
def test_schedules_that_cannot_be_are_refused(settings: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        deepfashion.RECIPE.override(settings.split())
    assert words in str(refused.value)
