"""What a step takes of memory, before there is a card: beside figures of one, and beside a step on the CPU."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from fashion_dist.cluster.resources import Resources
from fashion_dist.cluster.step_memory import StepMemory, card_bytes
from fashion_dist.config import Config, ModelConfig
from fashion_dist.models.backbone import require_built
from fashion_dist.models.step_cost import step_cost

RESNET = {"parameters": 94_000_000, "buffers": 0, "casts": 47_000_000, "activations_fp32": 86_000_000,
          "activations_half": 44_000_000}  # fmt: skip
SGD = Config("t", "d").override(["train.ema=0"])


def estimated(settings: list[str], resources: Resources, cost: dict[str, int] = RESNET) -> StepMemory:
    made = StepMemory.of(SGD.override(settings), cost, resources, 1)
    assert made is not None
    return made


@pytest.mark.parametrize(("batch", "measured_gb"), [(64, 3.1), (256, 11.6)])
def test_resnet_50_takes_what_it_took_on_an_h200(batch: int, measured_gb: float) -> None:
    cost = step_cost(require_built(ModelConfig(name="torchvision/resnet50"), 224), 224)
    found = estimated([f"train.batch_size={batch}"], Resources(gpus_per_node=1), cost)
    assert found.bytes / 1e9 == pytest.approx(measured_gb, rel=0.05)


def test_a_step_on_the_cpu_takes_what_is_estimated() -> None:
    """The most that torch's allocator held at once in a step after the first, with what the optimizer keeps."""
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(inplace=True),
        nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4096),
    ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    images = torch.randn(16, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    for number in range(2):
        optimizer.zero_grad(set_to_none=True)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=bool(number)) as found:
            network(images).square().mean().backward()
            optimizer.step()
    events = found.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = [event.nbytes() for event in events if event.name() == "[memory]"]
    state = [value for values in optimizer.state.values() for value in values.values()]
    stay = sum(value.numel() * value.element_size() for value in (*network.parameters(), *network.buffers(), *state))
    expected = estimated(["train.batch_size=16", "optim.name=adamw"], Resources(), step_cost(network, 64))
    assert expected.bytes == pytest.approx(stay + max(accumulate(changes)), rel=0.1)


def test_a_network_that_looks_at_values_is_not_known() -> None:
    class Looking(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images if float(images.mean()) > 0 else -images

    assert step_cost(Looking(), 32) == {}
    frozen = ["model.weights=imagenet", "model.freeze=backbone"]
    assert StepMemory.of(SGD, {}, Resources(), 1) is StepMemory.of(SGD.override(frozen), RESNET, Resources(), 1) is None


@pytest.mark.parametrize(
    ("settings", "resources", "expected"),
    [
        ([], Resources(), 3 * 94 + 64 * 86),
        (["train.precision=bf16"], Resources(), 3 * 94 + 47 + 64 * 44),
        ([], Resources(gpus_per_node=1), 3 * 94 + 47 + 64 * 44),
        (["train.precision=fp32"], Resources(gpus_per_node=4), 3 * 94 + 16 * 86),
        (["train.accumulate=4"], Resources(), 3 * 94 + 16 * 86),
        (["optim.momentum=0"], Resources(), 2 * 94 + 64 * 86),
        (["optim.stages=sgd:0.1:1,adam:0.01:1"], Resources(), 4 * 94 + 64 * 86),
        (["train.ema=0.9"], Resources(), 4 * 94 + 64 * 86),
    ],
)
def test_what_counts(settings: list[str], resources: Resources, expected: int) -> None:
    assert estimated(["train.batch_size=64", *settings], resources).bytes == expected * 10**6


def test_more_than_a_card_has_is_told_with_what_fits() -> None:
    config = SGD.override(["train.batch_size=256", "train.accumulate=2"])
    step = estimated(["train.batch_size=256", "train.accumulate=2"], Resources(gpus_per_node=1))
    assert step.too_much(6 * 10**9, config, 1) == ""
    told = step.too_much(2 * 10**9, config, 1)
    assert "about 6.0 GB" in told and "a GPU has 2.0 GB" in told and "activations of 128 images" in told
    assert told.endswith("--set train.accumulate=8 with the same global batch of 256 fits")
    graphed = SGD.override(["train.batch_size=256", "train.cuda_graph=true"])
    told = step.too_much(2 * 10**9, graphed, 1)
    assert "--set train.accumulate=4 train.cuda_graph=false with" in told, "graphs take one micro-batch"
    assert step.too_much(10**8, config, 1).endswith("only a smaller network or data.image_px fits")


@pytest.mark.parametrize(
    ("resources", "expected_gb"),
    [
        (Resources(gpus_per_node=2), 0),
        (Resources(gpu_mem_gb=80), 0),
        (Resources(gpus_per_node=2, gpu_mem_gb=80), 80),
        (Resources(gpus_per_node=2, gpu_type="a100-40g", gpu_mem_gb=80), 40),
        (Resources(sbatch={"gres": "gpu:nvidia_a100_3g.20gb:1"}), 20),
        (Resources(gpus_per_node=2, gpu_type="h100"), 0),
    ],
)
def test_whose_memory_is_known(resources: Resources, expected_gb: int) -> None:
    assert card_bytes(resources, "slurm") == expected_gb * 10**9


def test_a_card_of_this_machine_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert card_bytes(Resources(gpus_per_node=2), "local") == 0
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 81559; echo 40960\n")
    tool.chmod(0o755)
    assert card_bytes(Resources(gpus_per_node=2), "local") == 40960 << 20
    assert card_bytes(Resources(), "local") == 0
