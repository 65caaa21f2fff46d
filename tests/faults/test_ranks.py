"""Ranks that die, fail, stop or hang, on this machine's processes."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import pytest
from cluster_home import read, until
from fault_matrix import Figures
from trial import Trial


@pytest.mark.fault(1)
@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
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


@pytest.mark.fault(2)
def test_an_exception_on_one_rank_is_what_the_user_sees(trial: Trial, figures: Figures) -> None:
    launcher = trial.start("--wait", **{"raise": {"rank": 1, "at": 9}})
    trial.wait_for_step(9, rank=1)
    began = time.monotonic()
    out, err = launcher.communicate()
    figures.took(time.monotonic() - began)
    assert launcher.returncode == 1
    told = json.loads(out)
    assert re.fullmatch(r"rank 1 on \S+: ValueError: injected at step 9", told["detail"]), err
    assert "ValueError: injected at step 9" in Path(told["paths"]["log"]).read_text()
    assert "injected at step 9" in trial.place.status(trial.run.name).out
    assert read(trial.run / "errors" / "rank_1.json")["type"] == "ValueError"
    trial.gone()
    figures.holds("I4", "I5")

    assert trial.launch("--wait").status == 0
    trial.ended_well(figures)


@pytest.mark.fault(3)
def test_a_stopped_rank_is_named_before_the_job_ends(trial: Trial, figures: Figures) -> None:
    launcher = trial.start("--wait", "--peer-timeout-s", "20", pace_s=5)
    trial.wait_for_step(2)
    until(lambda: (trial.run / "heartbeats" / "rank_1.json").exists(), "rank 1 gives a sign of life")
    began = time.monotonic()
    trial.kill(1, signal.SIGSTOP)
    out, err = launcher.communicate()
    trial.gone()
    figures.took(time.monotonic() - began, limit_s=20 + 45)
    assert launcher.returncode == 1
    told = json.loads(out)["detail"]
    assert told.startswith("rank 1 on ") and "Stalled: no sign of life for 10 s" in told, err
    assert "steps of this start" in told and re.search(r"last seen in \w+\.\w+:\d+", told)
    figures.holds("I4", "I5")


@pytest.mark.fault(8)
def test_a_signal_inside_a_collective_loses_an_interval_at_most(trial: Trial, figures: Figures, tmp_path: Path) -> None:
    (tmp_path / "held").touch()
    trial.launch(hold={"rank": 0, "at": 9, "while": str(tmp_path / "held")})
    trial.wait_for_step(9, rank=1)
    until(lambda: (trial.run / "checkpoints" / "step-00000008").is_dir(), "the checkpoint before is there")
    trial.kill(1, signal.SIGUSR2)  # rank 1 waits for rank 0's gradients and cannot act on it
    time.sleep(1)
    began = time.monotonic()
    for rank in (0, 1):
        trial.kill(rank)  # the grace is over
    trial.gone()
    figures.took(time.monotonic() - began)
    assert trial.launch("--wait").status == 0
    trial.ended_well(figures)
    assert figures.lost is not None and figures.lost <= 2, "SHORT saves at every second step"


@pytest.mark.fault(19)
@pytest.mark.slow
def test_an_hour_between_clocks_changes_nothing(trial: Trial, figures: Figures) -> None:
    trial.launch(clock={"rank": 1, "s": 3600})
    trial.wait_for_step(9)
    began = time.monotonic()
    trial.kill(1)
    trial.gone()
    said = trial.launch("--wait", clock={"rank": 0, "s": -3600})  # the later start looks older
    assert said.status == 0, said.err
    figures.took(time.monotonic() - began)
    trial.ended_well(figures)
    (view,) = trial.place.status(trial.run.name, "--json").json["runs"]
    assert (view["state"], view["attempts"]) == ("done", 2)
    times = [json.loads(line)["time"] for line in (trial.run / "metrics.jsonl").read_text().splitlines()]
    assert max(times) - min(times) > 3000, "the clocks did differ"


@pytest.mark.fault(26)
def test_a_loss_that_is_not_finite_ends_all_ranks_alike(trial: Trial, figures: Figures) -> None:
    launcher = trial.start("--wait", nan={"rank": 0, "at": 9})
    trial.wait_for_step(9)
    began = time.monotonic()
    out, err = launcher.communicate()
    figures.took(time.monotonic() - began)
    assert launcher.returncode == 1, err
    assert "RunError: the gradient is not finite at epoch 1, step 9" in json.loads(out)["detail"]
    reports = [read(trial.run / "errors" / f"rank_{rank}.json") for rank in (0, 1)]
    assert reports[0]["message"] == reports[1]["message"]
    trial.gone()
    figures.holds("I4", "I5")
    assert trial.launch("--wait").status == 0
    trial.ended_well(figures)


@pytest.mark.fault(26)
@pytest.mark.slow
def test_steps_that_are_not_finite_are_passed_over_and_leave_no_trace(trial: Trial, figures: Figures) -> None:
    import torch

    trial.settings = (*trial.settings, "train.on_nonfinite=skip")
    said = trial.launch("--wait", nan={"rank": 0, "at": 9})
    assert said.status == 0, said.err
    newest = max((trial.run / "checkpoints").glob("step-*"))
    state = torch.load(newest / "state.pt", weights_only=True)
    for part in ("model", "ema"):
        assert [name for name, value in state[part].items() if not value.isfinite().all()] == []
    losses = [
        json.loads(line)["loss"] for line in (trial.run / "metrics.jsonl").read_text().splitlines() if "val" in line
    ]
    assert len(losses) == 4 and None not in losses
    trial.covered(figures)
