"""Runs on a real Slurm, from the command line: done, cancelled and launched again, requeued, refused, in arrays."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from cluster_home import Workplace, kill_all, ranks, read, until
from slurm_calls import squared
from slurm_cluster import SlurmCluster

from fashion_dist import runs
from fashion_dist.cluster import slurm, submitit_executor
from fashion_dist.cluster.resources import Resources
from fashion_dist.errors import ConfigError, RunError
from fashion_dist.paths import Home

pytestmark = pytest.mark.slurm

LONG = ("train.epochs=1000",)


def job_of(run: Path) -> str:
    return str(read(run / "job.json")["job"]["job_id"])


def ends(run: Path) -> list[str]:
    return [attempt["end"] for attempt in read(run / "attempts.json")["attempts"]]


def gone(job_id: str) -> bool:
    return all(entry.status == "gone" for entry in slurm.queue(job_ids=[job_id]))


def test_two_nodes_from_launch_to_predictions(place: Workplace) -> None:
    # What an enclosing job has set must not reach ours.
    outer = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "9", "SLURM_CPU_BIND": "x", "SBATCH_ARRAY_INX": "0-9"}
    said = place.launch("--nodes", "2", "--wait", **outer)
    assert said.status == 0, said.err
    run = place.run()
    (attempt,) = read(run / "attempts.json")["attempts"]
    assert attempt["ranks"] == 2 and attempt["job"] == {**attempt["job"], "cluster": "slurm", "job_id": job_of(run)}
    assert len(list((run / "predictions" / "test").glob("*.parquet"))) >= 1
    assert place.launch("--nodes", "1").json["outcome"] == "done"


def test_cancelled_near_its_limit_it_stays_so_and_goes_on_where_it_was_moved_and_where_it_was_copied(
    place: Workplace, tmp_path: Path
) -> None:
    place.launch("--nodes", "2", "--time-min", "3", settings=LONG)
    run = place.run()
    place.wait_for_steps(run, steps=5)
    assert place.launch("--nodes", "2", settings=LONG).json["outcome"] == "active"
    assert place.status(run.name, "--cancel").status == 0
    job = job_of(run)
    until(lambda: gone(job), "the job is gone")
    until(lambda: place.status(run.name, "--json").json["runs"][0]["state"] == "stopped", "the run is stopped")
    done = read(run / "state.json")["step"]
    assert ends(run) == ["cancelled"], "the last minutes before a limit are none"
    copied = Workplace(shutil.copytree(place.home, tmp_path / "copied"))
    moved = Workplace(place.home.rename(tmp_path / "moved"), cluster="slurm")
    assert runs.open_run(Home(moved.home).find_run(run.name)).shard_set.path.is_relative_to(moved.home)
    said = moved.launch("--nodes", "2", settings=LONG)
    run = moved.run()
    assert said.json["outcome"] == "submitted" and job_of(run) != job
    try:
        moved.wait_for_steps(run, attempt=2)
    finally:
        slurm.cancel(slurm.JobRef("slurm", job_of(run)))
    until(lambda: ends(run) == ["cancelled", "cancelled"], "it is stopped again")
    until(lambda: read(run / "state.json")["step"] > done > 0, "it says how far it came")

    # On a machine without Slurm, with another torch than before.
    run = copied.run()
    first = read(run / "attempts.json")["attempts"]
    first[0]["versions"]["torch"] = "1.13.1"
    (run / "attempts.json").write_text(json.dumps({"attempts": first}))
    (tmp_path / "bin").mkdir()
    try:
        argv = [word if word != "local" else "auto" for word in copied.launch_argv("--resume", run.name)]
        said = copied.do(without_settings(argv), PATH=str(tmp_path / "bin"), SLURM_CONF="")
        assert said.status == 0 and said.json["job"]["cluster"] == "local", said
        copied.wait_for_steps(run, attempt=2)
        until(lambda: read(run / "state.json")["step"] > done, "it goes on")
        second = read(run / "attempts.json")["attempts"][1]
        assert "other versions than the start before: torch 1.13.1 -> " in second["note"]
    finally:
        kill_all(run)


def without_settings(argv: list[str]) -> list[str]:
    """A command of `Workplace.launch_argv` without the task and its settings, for --resume."""
    at = argv.index("--task")
    return [*argv[:at], *argv[at + 2 : argv.index("--set")]]


def test_requeued_it_goes_on_and_a_killed_rank_is_named(place: Workplace, local_cluster: SlurmCluster) -> None:
    place.launch("--nodes", "2", settings=LONG)
    run = place.run()
    job = job_of(run)
    place.wait_for_steps(run)
    slurm.requeue(job)
    until(lambda: len(ends(run)) == 2, "the second start")
    assert job_of(run) == job and ends(run)[0] == "requeued"
    assert place.launch("--nodes", "2", settings=LONG).json["outcome"] == "active"
    place.wait_for_steps(run, attempt=2)
    os.kill(ranks(run)[1], signal.SIGKILL)
    until(lambda: gone(job), "the job is gone")
    until(lambda: "rank 1 was killed" in place.status(run.name).out, "the killed rank is named")
    (view,) = place.status(run.name, "--json").json["runs"]
    assert (view["state"], view["attempts"]) == ("failed", 2)


def test_pre_empted_it_saves_and_goes_on(place: Workplace, local_cluster: SlurmCluster) -> None:
    place.launch("--nodes", "2", settings=LONG)
    run = place.run()
    place.wait_for_steps(run)
    urgent = slurm.ask(["sbatch", "--parsable", "-p", "urgent", "-N2", "-o", "/dev/null", "--wrap", "sleep 5"])
    until(lambda: len(ends(run)) == 2, "the second start")
    assert ends(run)[0] == "pre-empted" and gone(urgent.strip())
    place.wait_for_steps(run, attempt=2)


def test_a_job_that_slurm_refuses_leaves_nothing_running_or_lying_about(place: Workplace) -> None:
    said = place.launch("--constraint", "no-such-feature")
    assert said.status == 2 and said.err.startswith("error: the job was refused, nothing was submitted: ")
    assert list((place.run() / "logs").iterdir()) == []
    for flags, words in (
        (("--partition", "no-such"), "unknown partition 'no-such'; known: "),
        (("--nodes", "64", "--set", "train.batch_size=64"), "--nodes 64 is more than the"),
    ):
        said = place.launch(*flags)
        assert said.status == 2 and words in said.err


def test_the_script_of_a_dry_run_is_one_that_slurm_takes(place: Workplace) -> None:
    argv = [*place.argv("launch"), "--task", "deepfashion", "--cluster", "slurm", "--nodes", "2", "--dry-run"]
    text = place.do(argv).out.partition("# sbatch script\n")[2].partition("\nnothing was submitted")[0]
    assert text.startswith("#!/bin/bash")
    done = subprocess.run(["sbatch", "--test-only"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_array_is_a_map(slurm_cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    said: list[int] = []

    def run(numbers: list[int], folder: Path) -> list[int]:
        return submitit_executor.run_array(
            squared, numbers, resources=Resources(time_min=5), folder=folder, name="squares",
            on_progress=lambda done, _: said.append(done),
        )  # fmt: skip

    assert run([1, 2, 3], tmp_path / "good") == [1, 4, 9]
    assert said[0] == 0 and said[-1] == 3
    with pytest.raises(RunError, match="five is refused"):
        run([4, 5], tmp_path / "bad")


def test_a_single_task_is_no_array(
    slurm_cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    arguments = {"resources": Resources(time_min=5), "folder": tmp_path, "name": "one"}
    assert submitit_executor.run_array(squared, [7], **arguments) == [49]  # type: ignore[arg-type]


def test_an_array_that_slurm_refuses_leaves_nothing(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the job array was refused"):
        submitit_executor.submit_array(
            squared, [1, 2], resources=Resources(constraint="no-such-feature"), folder=tmp_path, name="x"
        )
    assert list(tmp_path.iterdir()) == []
