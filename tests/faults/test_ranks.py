"""Ranks that die, fail, stop or hang, on this machine's processes."""

from __future__ import annotations

import json
import time

import pytest
from fault_matrix import Figures
from trial import Trial


@pytest.mark.fault(1)
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_takes_its_peers_with_it_and_the_run_goes_on(trial: Trial, victim: int, figures: Figures) -> None:
    launcher = trial.start("--wait")
    trial.wait_for_step(9, rank=victim)
    began = time.monotonic()
    trial.kill(victim)
    trial.gone()
    figures.took(time.monotonic() - began, limit_s=10)
    out, err = launcher.communicate()
    assert launcher.returncode == 1
    assert json.loads(out)["detail"] == f"rank {victim} was killed by signal 9", err
    assert f"rank {victim} was killed by signal 9" in trial.place.status(trial.run.name).out
    figures.holds("I4", "I5")

    again = trial.launch("--wait")
    assert again.status == 0, again.err
    assert "attempt 2: it goes on from its last checkpoint" in again.err
    trial.ended_well(figures)
    points = [json.loads(line) for line in (trial.run / "metrics.jsonl").read_text().splitlines()]
    assert [point["epoch"] for point in points if point["split"] == "val"] == [1, 2, 3, 4]
