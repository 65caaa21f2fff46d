"""The sweep files in jobs/sweeps are read, and their settings exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from fashion_dist.models import registry
from fashion_dist.sweep import expand, spec
from fashion_dist.tasks import load

FILES = sorted((Path(__file__).parents[3] / "jobs" / "sweeps").glob("*.yaml"))


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
