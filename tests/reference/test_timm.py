"""What timm has too: learning rates, who decays, averages of weights, losses of mixed and of smoothed labels."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torchvision
from timm.data.mixup import mixup_target
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import nn

from fashion_dist.config import OptimConfig
from fashion_dist.models.fashionnet import FashionNet
from fashion_dist.tasks import load
from fashion_dist.train.mixup import Mixed
from fashion_dist.train.optim import WeightAverage, learning_rate, parameter_groups

TIMM = (
    "resnet18", "convnext_tiny", "efficientnet_b0", "vit_tiny_patch16_224", "cait_xxs24_224",
    "swin_tiny_patch4_window7_224", "beit_base_patch16_224", "levit_128", "xcit_nano_12_p16_224",
)  # fmt: skip


@pytest.mark.parametrize(("warmup", "final"), [(2, 0.0), (3, 0.1)])
def test_cosine_is_timms_and_its_warmup_a_step_ahead(warmup: int, final: float) -> None:
    """timm's first step is at 0 and learns nothing; ours is at its second."""
    config = OptimConfig(lr=0.3, schedule="cosine", warmup_epochs=warmup, final_lr=final)
    steps, total, rise = 10, 100, 10 * warmup
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = CosineLRScheduler(
        optimizer, t_initial=total - rise, lr_min=0.3 * final, warmup_t=rise, warmup_lr_init=0.0, warmup_prefix=True,
        t_in_epochs=False,
    )  # fmt: skip
    theirs = []
    for step in range(total):
        scheduler.step_update(step)
        theirs.append(optimizer.param_groups[0]["lr"])
    ours = [learning_rate(step, steps, 10, config) for step in range(total)]
    assert theirs[0] == 0 and ours[: rise - 1] == pytest.approx(theirs[1:rise], abs=1e-15)
    assert ours[rise:] == pytest.approx(theirs[rise:], abs=1e-15) and ours[rise - 1] == pytest.approx(max(theirs))


def decaying(groups: list[dict[str, Any]], whole: nn.Module) -> set[str]:
    found = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    return {name for name, parameter in whole.named_parameters() if id(parameter) in found}


def decays_of(whole: nn.Module) -> set[str]:
    model = nn.Module()
    model.backbone = whole
    groups = parameter_groups(model, OptimConfig(name="adamw", weight_decay=0.05, no_decay="network"))
    return decaying(groups, whole)


@pytest.mark.parametrize("name", [*TIMM, "torchvision/vit_b_16", "torchvision/swin_t", "fashionnet"])
def test_who_decays_is_timms_choice(name: str) -> None:
    with torch.device("meta"):
        if name == "fashionnet":
            whole: nn.Module = FashionNet()
        elif name.startswith("torchvision/"):
            whole = getattr(torchvision.models, name.partition("/")[2])()
        else:
            whole = timm.create_model(name)
    kept = whole.no_weight_decay() if hasattr(whole, "no_weight_decay") else ()
    groups = param_groups_weight_decay(whole, 0.05, no_weight_decay_list=kept)
    expected = decaying(groups, whole)
    assert decays_of(whole) == expected and 0 < len(expected) < len(list(whole.parameters()))


def test_the_average_of_weights_and_statistics_is_timms_once_it_is_warm() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    ours = WeightAverage(model, decay=0.1)  # below the (1 + n) / (10 + n) of every later step
    ours.update_parameters(model)
    theirs = ModelEmaV3(model, decay=0.1)
    for _ in range(4):
        model(torch.randn(8, 4))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        ours.update_parameters(model)
        theirs.update(model)
    for name, value in theirs.module.state_dict().items():
        torch.testing.assert_close(ours.module.state_dict()[name], value)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_of_smoothed_and_of_mixed_labels_are_timms(smoothing: float, precision: torch.dtype) -> None:
    """In fp32 whatever the logits are in."""
    task = load("fashion_mnist")
    config = task.recipe.override([f"train.label_smoothing={smoothing}"])
    torch.manual_seed(0)
    logits, label = (torch.randn(32, 10) * 3).to(precision), torch.randint(10, (32,))

    def losses(targets: object) -> dict[str, torch.Tensor]:
        return {"loss": task.loss({"label": logits}, targets, config)["loss"]}  # type: ignore[arg-type]

    found = losses({"label": label})["loss"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, LabelSmoothingCrossEntropy(smoothing)(logits.float(), label))
    mixed = Mixed(torch.empty(0), partner=torch.arange(31, -1, -1), share=0.3)  # timm's partner is the batch reversed
    soft = mixup_target(label, 10, lam=0.3, smoothing=smoothing)
    torch.testing.assert_close(
        mixed.losses(losses, {"label": label})["loss"], SoftTargetCrossEntropy()(logits.float(), soft)
    )
