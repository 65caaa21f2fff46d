"""A file dropped into `fashion_dist/models` is a network with settings of its own, with no other edit.

The file is the one that docs/adding-a-model.md has the reader write.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pages
import pytest

from shards import ShardSet

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code with a new file."""
    folder = tmp_path_factory.mktemp("checkout")
    for part in ("fashion_dist", "shards", "jobs"):
        shutil.copytree(REPO / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for path, text in pages.saved_as(REPO / "docs" / "adding-a-model.md").items():
        (folder / path).write_text(text)
    return folder


def test_a_toy_network_goes_from_a_dry_run_to_its_weights(
    checkout: Path, mini_home: Path, mini_set: Callable[[str], ShardSet]
) -> None:
    mini_set("fashion_mnist")
    env = {**os.environ, "PYTHONPATH": str(checkout)}

    def launch(*arguments: str, status: int = 0) -> str:
        script = [sys.executable, str(checkout / "jobs" / "launch.py"), "--task", "fashion_mnist", "--model", "toy"]
        command = [*script, "--cluster", "local", "--debug", "--home", str(mini_home), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=checkout, env=env)
        assert done.returncode == status, done.stderr
        return done.stdout + (done.stderr if status else "")

    small = ("--set", "train.batch_size=8", "train.eval_batch_size=8")
    assert '"width": 5' in launch(*small, "model.width=5", "--dry-run")
    assert "model.width = 0 is not possible; allowed: 1 or more" in launch(*small, "model.width=0", status=2)
    assert "does not take model.depth; it takes model.weights, model.dropout, model.freeze, model.width" in launch(
        *small, "model.depth=3", status=2
    )
    run_id = json.loads(launch(*small, "model.width=5", "--wait", "--json").splitlines()[-1])["run_id"]
    run = mini_home / "runs" / run_id
    assert json.loads((run / "config.json").read_text())["model"]["args"] == {"width": 5}
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
