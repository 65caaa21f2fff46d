"""A search as a plain job array: no agent, no server, and a killed task takes up its own trial again."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from cluster_home import read, until
from made_sweep import make_sweep
from recorded_sweep import surface
from slurm_cluster import SlurmCluster

from fashion_dist.cluster import slurm, submitit_executor
from fashion_dist.cluster.resources import Resources
from fashion_dist.paths import Home
from fashion_dist.sweep import decisions, expand
from fashion_dist.sweep.study import Study
from fashion_dist.sweep.sweep_record import Sweep
from fashion_dist.sweep.view import read_sweep_view

pytestmark = pytest.mark.slurm

SPACE = {
    "optim.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 0.05},
    "model.dropout": {"min": 0.0, "max": 0.6},
    "model.pool": {"values": ["max", "avg"]},
}
TRIALS = 40


def searched(home: Path, seed: int) -> Sweep:
    raw = {"method": "bayes", "run_cap": TRIALS, "parameters": SPACE}
    sweep = make_sweep(home, raw, seed=seed)
    Study(sweep).create()
    return sweep


def array_of(sweep: Sweep, tasks: str, slow: str = "") -> str:
    words = ("surface_trial", str(sweep.folder.path), "0", slow)
    job = submitit_executor.submit_module(
        words, tasks, resources=Resources(time_min=30), folder=sweep.folder.logs, name="search", max_parallel=4
    )
    return job.job_id


def test_forty_trials_four_at_once_two_of_them_killed(
    slurm_cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = Path(__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tests), str(tests / "slurm")]))
    sweep = searched(tmp_path, 0)
    job = array_of(sweep, f"0-{TRIALS - 1}", slow="5,9")

    def begun(number: int) -> bool:
        trial = sweep.trial(number)
        return trial is not None and (sweep.run_of(trial).path / "started").exists()

    def is_done(number: int) -> bool:
        trial = sweep.trial(number)
        return trial is not None and read(sweep.run_of(trial).state).get("state") == "done"

    until(lambda: begun(5), "trial 5 has begun")
    before = sweep.trial(5)
    slurm.requeue(f"{job}_5")
    until(lambda: begun(9), "trial 9 has begun")
    subprocess.run(["scancel", "--signal=KILL", f"{job}_9"], check=True)
    until(lambda: not slurm.queue(job_ids=[job]), "the array is over")
    assert not is_done(9)
    again = array_of(sweep, "9")
    until(lambda: not slurm.queue(job_ids=[again]), "the killed trial ran again")

    view = read_sweep_view(sweep.folder)
    assert view.counts == {"done": TRIALS}
    assert sweep.trial(5) == before
    assert len({trial.view.run_id for trial in view.trials}) == TRIALS
    begins = [decision["trial"] for decision in decisions.read(sweep.folder) if decision["what"] == "begins"]
    assert sorted(begins) == list(range(TRIALS))
    drawn = max(surface(expand.draw(sweep.spec.parameters, 0, number)) for number in range(TRIALS))
    assert view.best is not None and view.best.value is not None and view.best.value > drawn
    assert Home(tmp_path).all_sweeps() == [sweep.folder]
