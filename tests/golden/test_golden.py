"""What no machine changes is what it was: see `golden_files.py`, and `compare.py` for what machines do change."""

from __future__ import annotations

import difflib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from compare import STEPS, Outcome, compare_losses, compare_predictions, compare_weights

HERE = Path(__file__).parent
EXPECTED = sorted(path.name for path in (HERE / "expected").iterdir())
RENEW = "If that is meant: `make golden-renew` writes it anew, and CHANGELOG.md has to name the reason."
LOSSES_DIFFER_BY = 1e-3
"""Of a loss in fp32 on two processors, relative."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All golden files, made by this code in one process."""
    folder = tmp_path_factory.mktemp("golden")
    script = [sys.executable, str(HERE / "golden_files.py"), str(folder)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_same_files_are_made(made: Path) -> None:
    assert sorted(path.name for path in made.iterdir()) == EXPECTED, RENEW


@pytest.mark.parametrize("name", [name for name in EXPECTED if name != "losses.json"])
def test_a_golden_file_is_the_same(made: Path, name: str) -> None:
    expected, found = ((folder / name).read_text().splitlines() for folder in (HERE / "expected", made))
    changed = list(difflib.unified_diff(expected, found, "expected", "found", lineterm="", n=1))
    told = "\n".join([f"{name} is not what it was.", *changed[:40], *(["..."] if len(changed) > 40 else []), RENEW])
    assert not changed, told


def test_losses_are_the_same(made: Path) -> None:
    expected, found = (json.loads((folder / "losses.json").read_text()) for folder in (HERE / "expected", made))
    assert found.keys() == expected.keys(), RENEW
    for task, losses in expected.items():
        assert found[task] == pytest.approx(losses, rel=LOSSES_DIFFER_BY), f"losses of {task}. {RENEW}"


def test_a_comparison_finds_one_bit() -> None:
    def outcome(weight: float = 1.0, score: float = 0.0, loss: float = 2.0) -> Outcome:
        weights = {"model.a": torch.zeros(3), "model.b": torch.tensor([[0.5, weight]])}
        scores = pa.FixedSizeListArray.from_arrays(pa.array([0.1, 0.2, score, 0.4], pa.float32()), 2)
        return Outcome([[loss] * STEPS] * 2, weights, {"test.score": scores})

    same, next_to_one = outcome(), float(np.nextafter(np.float32(1), np.float32(2)))
    for compare in (compare_losses, compare_weights, compare_predictions):
        assert compare(same, outcome()) == "equal"
    assert compare_weights(same, outcome(weight=next_to_one)) == "model.b: by 1.2e-07; 1 of 2 differ"
    assert compare_predictions(same, outcome(score=-0.0)) == "test.score: 1 of 2 rows differ"
    assert compare_losses(same, outcome(loss=2.0000001)).startswith("step 1, rank 0: 2 and 2")
