"""Launchers and jobs that meet each other, die between two writes, or find another number of ranks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from cluster_home import ROOT, Said, job, ranks, read, until
from fault_matrix import Figures
from trial import Trial

from shards import PackOptions, ReadOptions, pack


def by_hand(trial: Trial) -> Said:
    """A second job on the run's folder, as `srun` or a shell would start it."""
    return trial.place.do(
        [sys.executable, "-m", "fashion_dist.cluster.worker", str(trial.run)], **trial.environment()
    )  # fmt: skip


@pytest.mark.fault(7)
def test_after_the_allowed_time_limits_a_run_says_so_and_can_be_launched_again(trial: Trial, figures: Figures) -> None:
    launcher = trial.start("--wait", "--time-limits", "1")
    for attempt, step in ((1, 3), (2, 9)):
        trial.wait_for_step(step, attempt)
        os.kill(ranks(trial.run)[attempt - 1], 12)  # SIGUSR2, the scheduler's warning; any rank may hear it
    out, err = launcher.communicate()
    assert trial.ends() == ["time limit", "time limit"]
    assert launcher.returncode == 1
    told = json.loads(out)
    assert (told["state"], told["detail"]) == ("stopped", "reached its time limit 2 times; launch again to go on"), err
    assert trial.launch("--wait").status == 0
    trial.ended_well(figures)
    assert figures.lost == 0, "a warned run saves before it ends"


@pytest.mark.fault(20)
def test_a_second_job_on_a_run_refuses_and_names_the_first(trial: Trial, figures: Figures) -> None:
    launcher = trial.start("--wait", pace_s=1)
    trial.wait_for_step(1)
    holder = read(trial.run / "lock.json")["job"]
    began = time.monotonic()
    said = by_hand(trial)
    figures.took(time.monotonic() - began, limit_s=10)
    assert said.status == 2
    assert f"run {trial.run.name} is held by local job {holder['job_id']} on {holder['host']}" in said.err
    assert trial.launch().json["outcome"] == "active"
    assert launcher.wait() == 0
    launcher.communicate()
    assert trial.ends() == ["done"]
    trial.ended_well(figures)


@pytest.mark.fault(21)
@pytest.mark.slow
def test_another_number_of_ranks_goes_on_with_the_same_batches(
    trial: Trial, undisturbed: Callable[[int], Trial], figures: Figures
) -> None:
    for nodes, step, attempt in ((2, 8, 1), (1, 14, 2)):
        trial.launch(nodes=nodes)
        trial.wait_for_step(step, attempt)
        trial.kill(0)
        trial.gone()
    began = time.monotonic()
    assert trial.launch("--wait", nodes=4).status == 0
    figures.took(time.monotonic() - began)
    trial.covered(figures)
    assert [attempt["ranks"] for attempt in read(trial.run / "attempts.json")["attempts"]] == [2, 1, 4]
    assert trial.batches() == undisturbed(2).batches()


@pytest.mark.fault(21)
def test_another_batch_size_or_other_data_is_refused(trial: Trial, photos: Path, figures: Figures) -> None:
    trial.launch(nodes=1)
    trial.wait_for_step(3)
    trial.kill(0)
    trial.gone()
    config = trial.run / "config.json"
    whole = config.read_text()
    config.write_text(json.dumps({**json.loads(whole), "train": {**json.loads(whole)["train"], "batch_size": 32}}))
    said = by_hand(trial)
    assert said.status != 0 and "is of another recipe (train.batch_size); --fresh starts over beside it" in said.err
    config.write_text(whole)
    shards = trial.place.home / "shards" / "deep_fashion"
    for path in shards.iterdir():
        path.rename(path.with_name(f"{path.name}.old"))
    pack("deep_fashion", photos, shards.with_name("other"), PackOptions(seed=1), ReadOptions(), workers=1)
    shards.rename(shards.with_name("before"))
    shards.with_name("other").rename(shards)
    said = by_hand(trial)
    assert said.status != 0 and f"{shards}: train or val has changed since run {trial.run.name} was made" in said.err
    assert len(trial.ends()) == 3 and list((trial.run / "checkpoints").glob("step-*")), "what was learnt is still there"
    figures.holds("I3", "I4")


@pytest.mark.fault(22)
@pytest.mark.slow
def test_two_jobs_that_are_given_the_same_port_both_run(make_trial: Callable[..., Trial], figures: Figures) -> None:
    with socket.create_server(("", 0)) as taken:
        port = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1])}
        trials = [make_trial(), make_trial()]
        began = time.monotonic()
        for trial in trials:
            assert trial.launch(variables=port).json["outcome"] == "submitted"
        for trial in trials:
            until(lambda trial=trial: read(trial.run / "state.json").get("state") == "done", "the run is done")
            figures.took(time.monotonic() - began)
            trial.ended_well(figures)


@pytest.mark.fault(23)
@pytest.mark.parametrize(
    "cluster", ["local", pytest.param("slurm", marks=[pytest.mark.slurm, pytest.mark.slow])], ids=str
)
def test_a_launcher_killed_around_the_submission_makes_no_second_job(
    make_trial: Callable[..., Trial], cluster: str, figures: Figures, request: pytest.FixtureRequest
) -> None:
    if cluster == "slurm":
        request.getfixturevalue("local_cluster")
    trial = make_trial(cluster)
    for moment in ("before submission", "after submission"):
        assert trial.launch(die=moment).status == -9
        assert read(trial.run / "job.json")["job"] is None
    began = time.monotonic()
    again = trial.launch("--wait")
    assert again.status == 0, again.err
    figures.took(time.monotonic() - began)
    assert f"{read(trial.run / 'job.json')['job']['job_id']}" in again.err and "nothing was submitted" in again.err
    assert trial.ends() == ["done"]
    trial.ended_well(figures)


@pytest.mark.fault(25)
def test_collect_waits_for_late_files_and_then_names_what_is_missing(
    undisturbed: Callable[[int], Trial], tmp_path: Path, figures: Figures
) -> None:
    run = undisturbed(2).run
    folder = run / "predictions" / "test"
    command = [sys.executable, str(ROOT / "jobs" / "collect.py"), str(run), "--out", str(tmp_path / "out")]
    (late,) = folder.glob("rank_1.parquet")
    keys = pq.read_table(late)["key"].to_pylist()
    away = late.rename(tmp_path / late.name)
    try:
        began = time.monotonic()
        done = subprocess.run([*command, "--wait-s", "2"], capture_output=True, text=True, check=False)
        figures.took(time.monotonic() - began)
        assert done.returncode == 1
        assert f"{len(keys)} of 37 samples missing: {keys[0]}, " in done.stderr
        assert not (tmp_path / "out").exists()
        waiting = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True)
        time.sleep(4)
        assert waiting.poll() is None
    finally:
        away.rename(late)
    out, _ = waiting.communicate()
    assert waiting.returncode == 0 and json.loads(out)["samples"] == 37
    assert job("collect", str(run))["samples"] == 37
