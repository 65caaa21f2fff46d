"""A file dropped into `fashion_dist/tasks` is a task: it goes from shards to its submission with no other edit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from shards import ShardSet

REPO = Path(__file__).parents[2]

TOY = '''
"""Which of two piles a garment lies on: those with even and those with odd numbers."""

import dataclasses

import numpy as np

from fashion_dist.tasks import Task, fashion_mnist


def build_model(config, schema):
    from fashion_dist.models.backbone import build_network
    from fashion_dist.models.heads import Head

    return build_network(config.model, {"odd": Head(1)}, config.data.image_px)


def targets(facts, config):
    return {"odd": np.where(facts["label"] < 0, -1, facts["label"] % 2).astype(np.float32)}


def loss(outputs, targets, config):
    import torch.nn.functional as F

    return {"loss": F.binary_cross_entropy_with_logits(outputs["odd"][:, 0], targets["odd"])}


def sums(outputs, targets, config):
    right = (outputs["odd"][:, 0] > 0) == (targets["odd"] > 0.5)
    return {"right": right.sum(), "images": (right >= 0).sum()}


def metrics(sums, schema):
    return {"accuracy": float(sums["right"] / sums["images"])}


def rows(outputs, config):
    return {"odd": (outputs["odd"][:, 0] > 0).cpu().numpy()}


def submission(columns, split, config):
    return {"piles.txt": "".join(f"{key} {int(odd)}\\n" for key, odd in zip(columns["key"], columns["odd"]))}


TASK = Task(
    recipe=dataclasses.replace(fashion_mnist.RECIPE, task="piles"), facts=("label",), build_model=build_model,
    targets=targets, loss=loss, sums=sums, metrics=metrics, rows=rows, submission=submission, monitor="accuracy",
)
'''


def test_a_toy_task_goes_from_shards_to_its_submission(
    mini_home: Path, mini_set: Callable[[str], ShardSet], tmp_path: Path
) -> None:
    split = mini_set("fashion_mnist").split("test")
    for part in ("fashion_dist", "shards", "jobs"):
        shutil.copytree(REPO / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "fashion_dist" / "tasks" / "piles.py").write_text(TOY)
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def job(command: str, *arguments: str) -> dict[str, str]:
        script = [sys.executable, str(tmp_path / "jobs" / f"{command}.py"), *arguments, "--home", str(mini_home)]
        done = subprocess.run([*script, "--json"], capture_output=True, text=True, check=False, cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
        result: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
        return result

    settings = ("train.batch_size=8", "train.eval_batch_size=8")
    launch = ("--task", "piles", "--debug", "--cluster", "local", "--nodes", "2", "--wait")
    run_id = job("launch", *launch, "--set", *settings)["run_id"]
    job("collect", run_id, "--out", str(tmp_path / "out"))
    lines = [line.split(" ") for line in (tmp_path / "out" / "piles.txt").read_text().splitlines()]
    assert [key for key, _ in lines] == list(split.keys)
    assert {answer for _, answer in lines} <= {"0", "1"}
