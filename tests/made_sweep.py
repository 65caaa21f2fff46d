"""A sweep's folder and its runs as files, made without training."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from fashion_dist.cluster.job_record import JobRecord, begin_attempt, end_attempt
from fashion_dist.cluster.launcher import LaunchRequest
from fashion_dist.cluster.resources import Resources
from fashion_dist.cluster.slurm import JobRef
from fashion_dist.paths import Home, RunDir
from fashion_dist.sweep import expand, spec
from fashion_dist.sweep.sweep_record import Sweep, sweep_id
from fashion_dist.tasks.clipart import RECIPE

GONE = JobRef("local", "999999999", os.uname().nodename, 1)
GRID = {"method": "grid", "parameters": {"optim.lr": {"values": [0.1, 0.2, 0.3]}}}


def make_sweep(home: Path, raw: dict[str, Any] | None = None, name: str = "s", seed: int = 0, **base: Any) -> Sweep:
    """A written sweep of the clipart recipe with `base` settings in it."""
    raw = raw or GRID
    config = RECIPE.override(expand.texts({key.replace("__", "."): value for key, value in base.items()}))
    folder = Home(home).sweep_dir(sweep_id(name))
    folder.path.mkdir(parents=True)
    sweep = Sweep(folder, name, raw, LaunchRequest("clipart", home=str(home)), config, "hash", seed, 1, ())
    searched = spec.parse(raw, "test", config.keys())
    if searched.method == "bayes":
        trials: list[Any] = [None] * searched.run_cap
    else:
        trials = [sweep.make_trial(number, point) for number, point in enumerate(expand.expand(searched, seed))]
    sweep = Sweep(folder, name, raw, sweep.request, config, "hash", seed, 1, tuple(trials))
    sweep.write()
    return sweep


def make_run(sweep: Sweep, number: int, state: str, values: list[float]) -> RunDir:
    """The trial's run after so many epochs, each with its value of `accuracy`."""
    trial = sweep.trial(number)
    assert trial is not None
    run = sweep.run_of(trial)
    run.path.mkdir(parents=True, exist_ok=True)
    run.attempts.unlink(missing_ok=True)
    config = sweep.config_of(trial.settings)
    run.config.write_text(config.to_json())
    best = max(values) if values else None
    progress: dict[str, Any] = {"state": state, "epoch": len(values), "epochs": config.train.epochs, "attempt": 1}
    if best is not None:
        progress["best"] = {"metric": "accuracy", "value": best, "epoch": values.index(best) + 1}
    run.state.write_text(json.dumps(progress))
    points = [
        {"split": "val", "step": 10 * (at + 1), "epoch": at + 1, "accuracy": value, "loss": 1 - value}
        for at, value in enumerate(values)
    ]
    JobRecord("local", Resources(), job=GONE).write(run)
    begin_attempt(run, {"attempt": 1, "job": GONE.to_json(), "host": "h", "nodes": "h", "ranks": 1})
    end_attempt(run, 1, "failed" if state == "failed" else "done" if state == "done" else "cancelled")
    run.metrics.write_text("".join(json.dumps(point) + "\n" for point in points))
    return run
