"""Sweeps on a real Slurm: one array, what is cancelled runs again alone, many trials in a few files."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_home import SETTINGS, Said, Workplace, read, told, until
from slurm_cluster import SlurmCluster

from fashion_dist.cluster import slurm

pytestmark = pytest.mark.slurm


@pytest.fixture
def place(slurm_cluster: SlurmCluster, make_home: Callable[[], Path]) -> Iterator[Workplace]:
    place = Workplace(make_home(), cluster="slurm")
    yield place
    for path in place.home.glob("sweeps/*/arrays.json"):
        for array in read(path)["arrays"]:
            subprocess.run(["scancel", array["job"]["job_id"]], check=False)


SHORT = tuple(setting for setting in SETTINGS if not setting.startswith("train.epochs"))


def sweep(place: Workplace, *flags: str, settings: tuple[str, ...]) -> Said:
    argv = place.argv("sweep", "--task", "deepfashion", "--cluster", place.cluster, "--wandb", "off", "--json", *flags)
    return place.do([*argv, "--set", *SHORT, *settings])


def view(place: Workplace) -> dict[str, Any]:
    (found,) = json.loads(place.status("--json").out)["sweeps"]
    return dict(found)


def states(place: Workplace) -> list[str]:
    return [trial["state"] for trial in view(place)["trials"]]


def test_an_array_ends_with_a_best_trial_and_only_the_cancelled_one_runs_again(place: Workplace) -> None:
    def go(*flags: str) -> Said:
        flags = ("--max-parallel", "1", "--name", "rates; rm -rf 'x'", *flags)
        return sweep(place, *flags, settings=("optim.lr=0.001,0.002,0.003", "train.epochs=1"))

    said = go()
    assert said.status == 0, said.err
    (array,) = said.json["arrays"]
    assert said.json["submitted"] == 3 and [trial["state"] for trial in said.json["trials"]].count("queued") >= 2
    subprocess.run(["scancel", f"{array['job_id']}_2"], check=True)
    until(lambda: states(place) == ["done", "done", "cancelled"], "two trials are done and one is cancelled")
    assert go().json["submitted"] == 0
    again = go("--rerun-failed")
    assert again.json["submitted"] == 1
    until(lambda: states(place) == ["done"] * 3, "all trials are done")
    found = view(place)
    assert found["name"] == "rates; rm -rf 'x'"
    assert [trial["attempts"] for trial in found["trials"]] == [1, 1, 1]
    assert found["best"]["best"]["value"] == max(trial["best"]["value"] for trial in found["trials"])
    # The trial is the run that launch.py makes of the same settings.
    launch = place.launch(settings=("optim.lr=0.001", "train.epochs=1"))
    assert launch.json["outcome"] == "done" and launch.json["run_id"] == found["trials"][0]["run"]


def test_a_thousand_trials_are_a_few_files_and_nothing_is_submitted_twice(place: Workplace) -> None:
    many = ",".join(f"{number / 10_000}" for number in range(1, 1001))
    said = sweep(place, "--hold", "--name", "many", settings=(f"optim.lr={many}",))
    assert said.status == 0, said.err
    assert said.json["submitted"] == 1000 == said.json["counts"]["queued"]
    assert len([path for path in (place.home / "sweeps").rglob("*") if path.is_file()]) < 20
    assert place.runs == []
    assert sweep(place, "--hold", "--name", "many", settings=(f"optim.lr={many}",)).json["submitted"] == 0
    other = sweep(place, "--hold", "--name", "many", settings=("optim.lr=0.1,0.2",))
    assert other.status == 2 and "a sweep named 'many' with other content" in other.err
    assert place.status("many", "--cancel").status == 0
    until(lambda: set(states(place)) == {"cancelled"}, "all trials are cancelled")


def test_a_launcher_killed_after_sbatch_is_found_out(place: Workplace) -> None:
    assert sweep(place, "--hold", "--name", "lost", settings=("optim.lr=0.1,0.2",)).status == 0
    path = place.home / "sweeps" / "lost" / "arrays.json"
    values = read(path)
    job = values["arrays"][0]["job"]
    path.write_text(json.dumps({"arrays": [{**values["arrays"][0], "job": None}]}))
    assert sweep(place, "--hold", "--name", "lost", settings=("optim.lr=0.1,0.2",)).json["submitted"] == 0
    assert [array["job"] for array in read(path)["arrays"]] == [job]


def test_an_array_that_slurm_refuses_leaves_nothing(place: Workplace) -> None:
    said = sweep(place, "--constraint", "no-such-feature", settings=("optim.lr=0.1,0.2",))
    assert said.status == 2 and said.err.startswith("error: the job array was refused, nothing was submitted: ")
    assert read(next(place.home.glob("sweeps/*/arrays.json")))["arrays"] == []


def test_a_trial_on_two_nodes_that_is_requeued_takes_up_itself(place: Workplace) -> None:
    said = sweep(place, "--nodes", "2", settings=("train.epochs=1000",))
    assert said.status == 0, said.err
    (array,) = said.json["arrays"]
    until(lambda: bool(place.runs), "the first trial's folder")
    run = place.home / "runs" / said.json["trials"][0]["run"]
    place.wait_for_steps(run)
    slurm.requeue(f"{array['job_id']}_0")
    place.wait_for_steps(run, attempt=2)
    assert read(run / "job.json")["trial"] == 0 and place.runs == [run]
    assert read(run / "attempts.json")["attempts"][1]["ranks"] == 2
    assert place.status(said.json["sweep"], "--cancel").status == 0
    # `stopped` where a step took less than Slurm's patience, so that it saved.
    until(lambda: states(place) in (["stopped"], ["cancelled"]), "the trial is stopped", lambda: told(run))
