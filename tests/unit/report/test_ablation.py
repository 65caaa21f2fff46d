"""Which runs of many a comparison tests."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from fashion_dist import tasks
from fashion_dist.report import ablation


@pytest.mark.parametrize(("monitor", "best"), [("accuracy", [9, 8]), ("loss", [0, 1])])
def test_of_many_runs_the_two_that_are_best_by_the_metrics_own_direction_are_tested(
    monitor: str, best: list[int]
) -> None:
    task = tasks.load("clipart")
    config = task.recipe.override([f"train.monitor={monitor}", f"train.mode={'min' if monitor == 'loss' else 'max'}"])

    def run(number: int) -> Any:
        value = math.nan if number == 5 else number / 10
        progress = SimpleNamespace(best={"value": value} if number != 6 else {})
        return SimpleNamespace(config=config, task=task, view=SimpleNamespace(progress=progress), number=number)

    chosen = ablation._worth_testing([run(number) for number in range(10)])
    assert [one.number for one in chosen] == best  # type: ignore[attr-defined]
