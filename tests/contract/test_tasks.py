"""What every task promises. A task dropped into the folder is tested here without an edit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from schemas import SCHEMAS, random_facts
from torch import Tensor

from fashion_dist import tasks
from fashion_dist.config import Config
from fashion_dist.tasks import Task
from shards import Schema

COUNT = 24


@pytest.fixture(params=tasks.names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def task(name: str) -> Task:
    return tasks.load(name)


@pytest.fixture
def schema(task: Task) -> Schema:
    return SCHEMAS[task.recipe.dataset]


@pytest.fixture
def config(task: Task) -> Config:
    """The recipe on pictures small enough for a test."""
    return dataclasses.replace(task.recipe, data=dataclasses.replace(task.recipe.data, image_px=32))


@pytest.fixture
def targets(task: Task, schema: Schema, config: Config) -> dict[str, Tensor]:
    arrays = task.targets(random_facts(schema, COUNT), config)
    return {key: torch.from_numpy(np.ascontiguousarray(values)) for key, values in arrays.items()}


def perfect(targets: dict[str, Tensor], outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Logits that say exactly the targets: a class's is highest, a yes is above and a no below every threshold."""
    made = {}
    for key, target in targets.items():
        if target.ndim == 1 and not target.is_floating_point():
            made[key] = torch.full_like(outputs[key], -20).scatter(1, target[:, None], 20.0)
        else:
            made[key] = (target * 2 - 1) * 20
    return made


@pytest.fixture
def outputs(task: Task, schema: Schema, config: Config) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = task.build_model(config, schema)
    made: dict[str, Tensor] = model(torch.randn(COUNT, 3, 32, 32))
    return made


def test_the_loss_is_finite_and_reaches_every_weight(
    task: Task, schema: Schema, config: Config, targets: dict[str, Tensor]
) -> None:
    torch.manual_seed(0)
    model = task.build_model(config, schema)
    model.train()
    terms = task.loss(model(torch.randn(COUNT, 3, 32, 32)), targets, config)
    assert all(value.ndim == 0 and value.isfinite() for value in terms.values())
    terms["loss"].backward()
    without = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert not without
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


def test_a_perfect_answer_has_the_perfect_score(
    task: Task, schema: Schema, config: Config, targets: dict[str, Tensor], outputs: dict[str, Tensor]
) -> None:
    sums = task.sums(perfect(targets, outputs), targets, config)
    found = task.metrics({key: value.numpy() for key, value in sums.items()}, schema)
    assert found[task.monitor] == pytest.approx(1.0)
    chance = task.sums(outputs, targets, config)
    assert task.metrics({key: value.numpy() for key, value in chance.items()}, schema)[task.monitor] < 0.95


def test_two_ranks_measure_what_one_rank_measures(
    task: Task, schema: Schema, config: Config, targets: dict[str, Tensor], outputs: dict[str, Tensor]
) -> None:
    def sums(rows: slice) -> dict[str, np.ndarray]:
        part = task.sums({k: v[rows] for k, v in outputs.items()}, {k: v[rows] for k, v in targets.items()}, config)
        return {key: value.detach().double().numpy() for key, value in part.items()}

    left, right, whole = sums(slice(0, 7)), sums(slice(7, COUNT)), sums(slice(0, COUNT))
    added = {key: left[key] + right[key] for key in whole}
    assert task.metrics(added, schema) == pytest.approx(task.metrics(whole, schema))


def test_rows_become_a_submission_with_every_sample_once(
    task: Task, schema: Schema, config: Config, outputs: dict[str, Tensor]
) -> None:
    rows = task.rows({key: value.detach() for key, value in outputs.items()}, config)
    assert {len(values) for values in rows.values()} == {COUNT}
    facts = random_facts(schema, COUNT)
    keys = np.array([f"key{i:03d}" for i in range(COUNT)], dtype=object)
    files = task.submission({**facts, **rows, "key": keys}, schema, config)
    assert files
    for text in files.values():
        assert text.endswith("\n")
        assert len(text.splitlines()) in (COUNT, COUNT + 1)


def test_the_recipe_survives_json_and_refuses_what_it_does_not_know(task: Task) -> None:
    assert Config.from_json(task.recipe.to_json()) == task.recipe
    assert task.monitor
    with pytest.raises(ValueError, match="unknown setting"):
        task.recipe.override(["task.no_such_option=1"])
