"""W&B's own engine, the package `sweeps`: the same grids, the same rungs, and who is stopped there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fashion_dist.sweep import expand, spec
from fashion_dist.sweep.study import goes_on
from fashion_dist.tasks import Monitor, load

FILES = sorted((Path(__file__).parents[2] / "jobs" / "sweeps").glob("*.yaml"))

# Run by a Python that has the package: reads a list of requests, prints a list of answers.
ENGINE = """
import json, sys
import sweeps
from sweeps import RunState, SweepRun, stop_runs

def grid(config):
    config, points, runs = sweeps.SweepConfig(config), [], []
    while config["method"] == "grid":
        (run,) = sweeps.next_runs(config, runs, n=1)
        if run is None:
            break
        runs.append(run)
        points.append(run.config)
    return points

def stops(config, histories):
    runs = [SweepRun(name=str(n), state=RunState.running, history=[{"accuracy": value} for value in values])
            for n, values in enumerate(histories)]
    stopped = [int(run.name) for run in stop_runs(config, runs)]
    return stopped, runs[0].early_terminate_info["bands"]

asked = json.load(sys.stdin)
print(json.dumps([grid(*given) if what == "grid" else stops(*given) for what, *given in asked]))
"""
HALVINGS: list[dict[str, Any]] = [
    {"min_iter": 1}, {"min_iter": 2, "eta": 2}, {"min_iter": 3, "strict": True}, {"min_iter": 3, "strict": False},
    {"max_iter": 50, "s": 4, "eta": 2, "strict": False}, {"max_iter": 27, "s": 3}, {"max_iter": 5, "s": 9},
]  # fmt: skip


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[Any]], list[Any]]:
    """Asks the engine, which needs numpy < 2 and so an environment of its own: $WANDB_SWEEPS_PYTHON, or made here."""
    engine = os.environ.get("WANDB_SWEEPS_PYTHON", "")
    if not engine or shutil.which(engine) is None:
        folder = tmp_path_factory.mktemp("engine")
        made = subprocess.run([sys.executable, "-m", "venv", str(folder)], check=False, capture_output=True)
        engine = str(folder / "bin" / "python")
        got = subprocess.run([engine, "-m", "pip", "install", "-q", "sweeps", "numpy<2", "pyyaml"], check=False)
        assert made.returncode == got.returncode == 0, "the package `sweeps` could not be installed"

    def answers(asked: list[Any]) -> list[Any]:
        done = subprocess.run(
            [engine, "-c", ENGINE], input=json.dumps(asked), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        found: list[Any] = json.loads(done.stdout)
        return found

    return answers


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """W&B's `{key: {"value": ...}}`, nested ones with further mappings as values, under dotted keys."""
    found: dict[str, Any] = {}
    for key, entry in config.items():
        value = entry["value"] if not prefix else entry
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


@pytest.mark.slow
def test_grids_are_wandbs(ask: Callable[[list[Any]], list[Any]]) -> None:
    raw = [spec.read_yaml(path) for path in FILES]
    for path, values, points in zip(FILES, raw, ask([("grid", each) for each in raw]), strict=True):
        found = spec.parse(values, path.name, load(path.stem.partition("-")[0]).recipe.keys())
        ours = expand.expand(found, 0) if found.method == "grid" else []
        assert [flat(point) for point in points] == ours, path.name


@pytest.mark.slow
def test_rungs_are_wandbs_and_at_each_one_trial_fewer_goes_on(ask: Callable[[list[Any]], list[Any]]) -> None:
    """W&B keeps whoever is no worse than the one behind the best 1/eta: one more than successive halving does."""
    draw, keys = np.random.default_rng(0), load("clipart").recipe.keys()
    parameters = {"optim.lr": {"values": [0.1, 0.2]}}
    plans = []
    for halving in HALVINGS:
        raw = {
            "method": "grid", "metric": {"name": "accuracy", "goal": "maximize"}, "parameters": parameters,
            "early_terminate": {"type": "hyperband", "eta": 3, "strict": True, **halving},
        }  # fmt: skip
        found = spec.parse(raw, "test", keys).halving
        assert found is not None
        values = draw.random((24, found.rungs[0])).round(6)
        plans.append((raw, found, values))
    answers = ask([("stops", raw, values.tolist()) for raw, _, values in plans])
    for (raw, found, values), (stopped, bands) in zip(plans, answers, strict=True):
        same = min(len(found.rungs), 8)
        assert list(found.rungs[:same]) == bands[:same], raw
        judged = values[:, -1] if found.strict else values.max(axis=1)
        for number, mine in enumerate(judged.tolist()):
            others = np.delete(values[:, -1], number).tolist()
            _, place, places = goes_on(mine, others, found.eta, Monitor("accuracy", "max"))
            assert (number in stopped) == (place > places + 1), raw
