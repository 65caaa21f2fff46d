"""The sweep files in jobs/sweeps are read, their settings exist, and W&B's own engine sees the same grids."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fashion_dist.models import registry
from fashion_dist.sweep import expand, spec
from fashion_dist.tasks import load

FILES = sorted((Path(__file__).parents[3] / "jobs" / "sweeps").glob("*.yaml"))

# Run by the Python that has W&B's package `sweeps`, which needs numpy < 2: prints the grid's points, or nothing.
ENGINE = """
import json, sys, yaml
import sweeps
config = sweeps.SweepConfig(yaml.safe_load(open(sys.argv[1])))
points, runs = [], []
while config["method"] == "grid":
    (run,) = sweeps.next_runs(config, runs, n=1)
    if run is None:
        break
    runs.append(run)
    points.append(run.config)
print(json.dumps(points))
"""


def test_there_is_the_ablation() -> None:
    assert "clipart-ablation" in {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_file_makes_trials_of_its_task(path: Path) -> None:
    recipe = load(path.stem.partition("-")[0]).recipe
    found = spec.parse(spec.read_yaml(path), path.name, recipe.keys())
    assert found.name == path.stem and f"jobs/sweeps/{path.name}" in path.read_text()
    points = (
        [expand.draw(found.parameters, 0, n) for n in range(9)] if found.method == "bayes" else expand.expand(found, 0)
    )
    configs = {registry.resolve(recipe.override(expand.texts(point))).check().to_json() for point in points}
    assert len(configs) == len(points) > 1
    assert found.halving is None or found.halving.rungs[-1] < recipe.train.epochs


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """W&B's `{key: {"value": ...}}`, nested ones with further mappings as values, under dotted keys."""
    found: dict[str, Any] = {}
    for key, entry in config.items():
        value = entry["value"] if not prefix else entry
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_wandbs_own_engine_makes_the_same_grid(path: Path, tmp_path: Path) -> None:
    engine = os.environ.get("WANDB_SWEEPS_PYTHON", "")
    if not engine or shutil.which(engine) is None:
        made = subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=False, capture_output=True)
        engine = str(tmp_path / "env" / "bin" / "python")
        got = subprocess.run([engine, "-m", "pip", "install", "-q", "sweeps", "numpy<2", "pyyaml"], check=False)
        assert made.returncode == got.returncode == 0, "the package `sweeps` could not be installed"
    done = subprocess.run([engine, "-c", ENGINE, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = spec.parse(spec.read_yaml(path), path.name, load(path.stem.partition("-")[0]).recipe.keys())
    ours = expand.expand(found, 0) if found.method == "grid" else []
    assert [flat(point) for point in json.loads(done.stdout)] == ours
