"""Every head sees all that a backbone sees: each loss of each task reaches every parameter of every network of ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from minis import dataset_of
from torch import Tensor, nn

from fashion_dist import tasks
from fashion_dist.models import registry
from fashion_dist.settings import Scalar
from shards import ShardSet

COUNT, PX = 8, 32
OTHERS: dict[str, list[dict[str, Scalar]]] = {
    "fashionnet": [
        {"palette": False, "sketch": True, "pool": "max", "norm": "none"},
        {"palette": True, "sketch": True, "norm": "group"},
    ],
    "mlp": [{"edges": True, "norm": "group"}],
}
"""Settings beside a network's own defaults."""
NETWORKS = [(name, args) for name in registry.own_models() for args in [{}, *OTHERS.get(name, [])]]
IDS = [" ".join((name, *map(str, args.values()))) for name, args in NETWORKS]


def woken(model: nn.Module) -> nn.Module:
    """With some of every weight: a residual branch begins at zero, and passes nothing on before the first step."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.train()


def without_gradient(value: Tensor, backbone: nn.Module) -> list[str]:
    names, parameters = zip(*backbone.named_parameters(), strict=True)
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return [name for name, gradient in zip(names, found, strict=True) if gradient is None or not gradient.any()]


@pytest.mark.parametrize("task_name", tasks.names())
@pytest.mark.parametrize(("network", "args"), NETWORKS, ids=IDS)
def test_every_loss_of_a_task_reaches_every_parameter_of_the_backbone(
    task_name: str, network: str, args: Mapping[str, Scalar], mini_set: Callable[[str], ShardSet]
) -> None:
    task = tasks.load(task_name)
    shard_set = mini_set(dataset_of(task_name))
    config = task.resolve(shard_set, task.recipe.override(["train.batch_size=8", f"data.image_px={PX}"]))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, name=network, args=args))
    torch.manual_seed(0)
    model = woken(task.build_model(config, shard_set.schema))
    examples = task.build_examples(shard_set.split("train"), config)
    k = examples.images.shape[1]
    targets = {n: torch.from_numpy(np.ascontiguousarray(v[:COUNT])) for n, v in examples.targets.items()}
    outputs = model(torch.randn(COUNT, *((k,) if k > 1 else ()), 3, PX, PX))
    backbone = model.get_submodule("backbone")
    for name, value in task.loss(outputs, targets, config).items():
        assert not without_gradient(value, backbone), f"loss {name}"
    for name, logits in outputs.items():
        if "/" not in name:  # an independent head is one of those whose sum is the output
            assert not without_gradient(logits.float().square().sum(), backbone), f"output {name}"
