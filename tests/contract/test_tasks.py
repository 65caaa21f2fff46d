"""What every task promises. A task dropped into the folder is tested here without an edit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from evaluation import evaluated, parts
from minis import dataset_of
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fashion_dist import tasks
from fashion_dist.config import Config
from fashion_dist.tasks import ExampleSet, Task
from fashion_dist.train.mixup import mix_batch
from shards import ShardSet

COUNT = 24
PX = 32
LABELLED_IMAGES = [name for name in tasks.names() if not tasks.load(name).overrides("build_examples")]


@pytest.fixture(params=tasks.names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def task(name: str) -> Task:
    return tasks.load(name)


@pytest.fixture
def shard_set(task: Task, mini_set: Callable[[str], ShardSet]) -> ShardSet:
    return mini_set(dataset_of(task.recipe.task))


@pytest.fixture
def config(task: Task, shard_set: ShardSet) -> Config:
    """The recipe on pictures and batches small enough for a test."""
    data = dataclasses.replace(task.recipe.data, image_px=PX)
    return task.resolve(shard_set, dataclasses.replace(task.recipe, data=data).override(["train.batch_size=8"]))


@pytest.fixture
def model(task: Task, shard_set: ShardSet, config: Config) -> nn.Module:
    torch.manual_seed(0)
    return task.build_model(config, shard_set.schema)


@pytest.fixture
def examples(task: Task, shard_set: ShardSet, config: Config) -> ExampleSet:
    """The first training examples."""
    every = task.build_examples(shard_set.split("train"), config)
    return ExampleSet(every.images[:COUNT], {name: values[:COUNT] for name, values in every.targets.items()})


@pytest.fixture
def targets(examples: ExampleSet) -> dict[str, Tensor]:
    return {key: torch.from_numpy(np.ascontiguousarray(values)) for key, values in examples.targets.items()}


def images_of(examples: ExampleSet) -> Tensor:
    torch.manual_seed(1)
    count, k = examples.images.shape
    return torch.randn(count, 3, PX, PX) if k == 1 else torch.randn(count, k, 3, PX, PX)


@pytest.fixture
def outputs(model: nn.Module, examples: ExampleSet) -> dict[str, Tensor]:
    with torch.no_grad():
        made: dict[str, Tensor] = model(images_of(examples))
    return made


def perfect(targets: dict[str, Tensor], outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Logits that say exactly the targets: a class's is highest, a yes is above and a no below every threshold."""
    made = {}
    for key, target in targets.items():
        if target.ndim == 1 and not target.is_floating_point():
            made[key] = torch.full_like(outputs[key], -20).scatter(1, target[:, None], 20.0)
        else:
            made[key] = (target * 2 - 1) * 20
    return made


def test_its_own_recipe_is_accepted(task: Task, shard_set: ShardSet, config: Config) -> None:
    assert Config.read(task.recipe.plain())[0] == task.recipe
    assert task.recipe.check() is task.recipe
    task.recipe.debug().check()
    task.validate(shard_set, config)
    with pytest.raises(ValueError, match="unknown setting"):
        task.recipe.override(["task.no_such_option=1"])


def test_the_loss_is_finite_and_reaches_every_weight(
    task: Task, model: nn.Module, config: Config, examples: ExampleSet, targets: dict[str, Tensor]
) -> None:
    model.train()
    terms = task.loss(model(images_of(examples)), targets, config)
    assert all(value.ndim == 0 and value.isfinite() for value in terms.values())
    terms["loss"].backward()
    without = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert not without
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


def test_each_term_of_the_loss_reaches_a_head_of_its_own(
    task: Task, model: nn.Module, config: Config, examples: ExampleSet, targets: dict[str, Tensor]
) -> None:
    terms, counts = task.losses(model(images_of(examples)), targets, config), task.counts(targets, config)
    assert terms.keys() == counts.keys() and all(float(count) > 0 for count in counts.values())
    heads = [parameter for name, parameter in model.named_parameters() if not name.startswith("backbone.")]
    for name, value in terms.items():
        found = torch.autograd.grad(value, heads, retain_graph=True, allow_unused=True)
        assert any(gradient is not None and gradient.any() for gradient in found), name


def test_the_examples_are_the_same_each_time_and_as_many_each_epoch(
    task: Task, shard_set: ShardSet, config: Config
) -> None:
    train = shard_set.split("train")
    made, again, later = (task.build_examples(train, config, epoch) for epoch in (0, 0, 1))
    assert np.array_equal(made.images, again.images)
    assert all(np.array_equal(values, again.targets[name]) for name, values in made.targets.items())
    assert made.images.shape == later.images.shape and made.images.shape[1] == task.images_per_example
    assert made.images.dtype == np.int64
    assert 0 <= made.images.min() <= made.images.max() < len(train)
    for split in ("val", "test"):
        other = task.build_examples(shard_set.split(split), config)
        assert np.array_equal(other.images[:, 0], np.arange(len(shard_set.split(split))))


@pytest.mark.parametrize("name", LABELLED_IMAGES, indirect=True)
def test_a_perfect_answer_has_the_perfect_score(
    task: Task, shard_set: ShardSet, config: Config, targets: dict[str, Tensor], outputs: dict[str, Tensor]
) -> None:
    split = shard_set.split("train")
    found = evaluated(task, split, config, (perfect(targets, outputs), targets)).compute()
    assert found[task.monitor] == pytest.approx(1.0)
    assert found.keys() == set(task.metrics(shard_set.schema, config))
    assert evaluated(task, split, config, (outputs, targets)).compute()[task.monitor] < 0.95


class NoWaiting(TorchDispatchMode):
    """Refuses what would wait for a GPU: a number asked for, or a size that depends on values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        indexed = [i for i in args[1] if i is not None] if func is torch.ops.aten.index.Tensor else []
        waits = ("_local_scalar_dense", "nonzero", "masked_select", "_to_copy.device", "is_nonzero", "unique")
        assert not any(name in str(func) for name in waits) and not any(i.dtype == torch.bool for i in indexed), func
        return func(*args, **(kwargs or {}))


def test_training_is_measured_as_validation_is_without_waiting_for_the_device(
    task: Task, shard_set: ShardSet, config: Config, targets: dict[str, Tensor], outputs: dict[str, Tensor]
) -> None:
    task.train_metrics(outputs, targets, config)  # what is kept on the device is made once
    with NoWaiting():
        found = task.train_metrics(outputs, targets, config)
    shares = {name: float(value[0] / value[1]) for name, value in found.items()}
    assert shares and shares.keys() <= set(task.metrics(shard_set.schema, config))
    if not task.overrides("build_examples"):
        expected = evaluated(task, shard_set.split("train"), config, (outputs, targets)).compute()
        assert shares == pytest.approx({name: expected[name] for name in shares})
    nothing = {name: torch.full_like(target, -1) for name, target in targets.items()}
    assert all(not value[1] for value in task.train_metrics(outputs, nothing, config).values())


def test_a_step_on_a_gpu_takes_nothing_from_the_cpu_and_asks_for_no_number(
    task: Task, model: nn.Module, config: Config, examples: ExampleSet, targets: dict[str, Tensor]
) -> None:
    """By fake CUDA tensors, which hold no values: a read of one raises, as does a tensor left on the CPU."""
    train = dataclasses.replace(config.train, mixup=0.4, cutmix=1.0, mix_prob=1.0)
    images, parts = images_of(examples), {**dict(model.named_parameters()), **dict(model.named_buffers())}
    task.train_metrics(task_outputs := model(images), targets, config)  # what is kept on the device is made once
    with FakeTensorMode():
        fake = {name: torch.empty(value.shape, dtype=value.dtype, device="cuda") for name, value in parts.items()}
        on_gpu = {name: torch.empty(value.shape, dtype=value.dtype, device="cuda") for name, value in targets.items()}
        for step in range(4):  # plain, mixup and CutMix
            mixed = mix_batch(torch.empty(images.shape, device="cuda"), train, step)
            torch.set_autocast_enabled("cuda", True)
            torch.set_autocast_dtype("cuda", torch.bfloat16)
            try:
                outputs = torch.func.functional_call(model.train(), fake, (mixed.images,))
                sums = mixed.losses(lambda targets, outputs=outputs: task.losses(outputs, targets, config), on_gpu)
                minimised = task.objective(sums, task.counts(on_gpu, config), outputs, config)
            finally:
                torch.set_autocast_enabled("cuda", False)
            assert outputs.keys() == task_outputs.keys()
            assert all(value.device.type == "cuda" for value in (*outputs.values(), *minimised.values()))


@pytest.mark.parametrize("name", LABELLED_IMAGES, indirect=True)
def test_metrics_and_tables_do_not_depend_on_the_batches(
    task: Task, shard_set: ShardSet, config: Config, targets: dict[str, Tensor], outputs: dict[str, Tensor]
) -> None:
    split = shard_set.split("train")
    whole = evaluated(task, split, config, (outputs, targets))
    by_parts = evaluated(task, split, config, *parts(outputs, targets, 7, 8))
    losses = task.loss(outputs, targets, config).keys()
    found, expected = by_parts.compute(), whole.compute()
    assert found.keys() == expected.keys() >= losses
    assert {k: v for k, v in found.items() if k not in losses} == pytest.approx(
        {k: v for k, v in expected.items() if k not in losses}
    )
    assert {name: found[name] for name in losses} == pytest.approx(
        {name: float(value) for name, value in task.loss(outputs, targets, config).items()}, rel=1e-6
    )
    assert by_parts.tables() == whole.tables()
    assert all(text.endswith("\n") for text in whole.tables().values())


def test_predictions_become_a_submission(task: Task, model: nn.Module, shard_set: ShardSet, config: Config) -> None:
    split = shard_set.split("test")
    model.eval()
    with torch.no_grad():
        outputs = model(images_of(task.build_examples(split, config)))
    rows = task.predictions(outputs, config)
    assert {len(values) for values in rows.values()} == {len(split)}
    keys = np.array(list(split.keys), dtype=object)
    files = task.submission({**split.columns(*shard_set.schema.columns), **rows, "key": keys}, split, config)
    assert files
    assert all(text.endswith("\n") for text in files.values())
    if not task.overrides("build_examples"):
        assert all(len(text.splitlines()) in (len(split), len(split) + 1) for text in files.values())
    examples = task.build_examples(split, config)
    known = {key: torch.from_numpy(np.ascontiguousarray(values)) for key, values in examples.targets.items()}
    found = evaluated(task, split, config, (outputs, known)).compute()
    assert all(np.isfinite(value) for value in found.values())
    assert {task.monitor, *task.summary_metrics} <= found.keys() <= set(task.metrics(shard_set.schema, config))


def test_a_report_view_shows_what_the_task_has(
    task: Task, model: nn.Module, shard_set: ShardSet, config: Config, examples: ExampleSet, outputs: dict[str, Tensor]
) -> None:
    columns = task.predictions(outputs, config) if not task.overrides("build_examples") else {"embedding": 0}
    assert task.report_views()
    for view in task.report_views():
        assert set(view.predictions) <= columns.keys()
        assert not view.truth or view.truth in examples.targets
        assert not isinstance(view.names, str) or not view.names or view.names in shard_set.schema.names
