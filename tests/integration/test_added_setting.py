"""A run made before a setting was added, by the code that has it: found, resumed from its checkpoint, and collected."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fashion_dist.cluster import launcher
from fashion_dist.cluster.launcher import LaunchRequest
from fashion_dist.tasks import load
from fashion_dist.train.distributed import ProcessGroup, World
from fashion_dist.train.options import Callbacks, TrainerOptions
from fashion_dist.train.trainer import Trainer
from shards import ShardSet

ROOT = Path(__file__).parents[2]
SETTINGS = (
    "data.image_px=32", "train.batch_size=32", "train.eval_batch_size=16", "train.epochs=2", "train.checkpoint_steps=1",
)  # fmt: skip
FIELD = "    clip_norm: float = 0.0\n"
NEW = '    lookahead: int = added(0, as_before=0)\n    """Steps that the optimiser looks ahead."""\n'


class Edition:
    """A copy of the code with changes in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("fashion_dist", "shards", "jobs", "slurm"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))

    def change(self, path: str, old: str, new: str) -> None:
        file = self.folder / path
        assert file.read_text().count(old) == 1
        file.write_text(file.read_text().replace(old, new))

    def job(self, name: str, *arguments: str) -> dict[str, Any]:
        argv = [sys.executable, str(self.folder / "jobs" / f"{name}.py"), *arguments, "--json"]
        environment = {**os.environ, "PYTHONPATH": str(self.folder)}
        done = subprocess.run(argv, capture_output=True, text=True, env=environment, cwd=self.folder, check=False)
        assert done.returncode == 0, done.stderr
        said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return said


def test_found_resumed_and_collected(make_home: Callable[[], Path], tmp_path: Path) -> None:
    home = make_home()
    plan = launcher.resolve(LaunchRequest("deepfashion", home=str(home), cluster="local", settings=SETTINGS))
    run = plan.run
    launcher.make_folder(run)
    launcher.write_run(plan)
    link = ProcessGroup(World(), torch.device("cpu"))
    asked = itertools.count()
    shard_set = ShardSet.open(plan.shard_set)
    callbacks = Callbacks(should_stop=lambda: next(asked) >= 2)
    task, options = load(plan.config.task), TrainerOptions(wandb="off")
    outcome = Trainer(plan.config, task, shard_set, link, run, options, callbacks).fit()
    assert outcome == "stopped" and sorted(run.checkpoints.glob("step-*"))

    edition = Edition(tmp_path / "later")
    edition.change("fashion_dist/config.py", FIELD, NEW + FIELD)
    at = ("--task", "deepfashion", "--home", str(home), "--cluster", "local", "--wandb", "off", "--set", *SETTINGS)
    assert edition.job("launch", *at, "optim.lookahead=4", "--dry-run")["run_id"] != run.run_id
    done = edition.job("launch", *at, "--wait")
    assert (done["run_id"], done["state"]) == (run.run_id, "done")
    assert [path.name for path in run.path.parent.iterdir()] == [run.run_id]
    points = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert [point["epoch"] for point in points if point["split"] == "val"] == [1, 2]
    last = max(run.checkpoints.glob("step-*"))
    assert json.loads((last / "manifest.json").read_text())["config"]["optim"]["lookahead"] == 0
    assert "lookahead" not in run.config.read_text()
    assert edition.job("collect", run.run_id, "--home", str(home))["samples"] == shard_set.splits["test"]

    edition.change("fashion_dist/tasks/deepfashion.py", "lr=3e-3", "lr=4e-3")
    assert edition.job("launch", *at, "--dry-run")["run_id"] != run.run_id
    again = edition.job("launch", "--resume", run.run_id, "--home", str(home))
    assert (again["run_id"], again["outcome"]) == (run.run_id, "done")
    assert again["differs"]["optim.lr"] == {"run": 0.003, "today": 0.004}
