"""A sweep on this machine, from the command line to the files of its best trials."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
from cluster_home import SETTINGS, Said, Workplace, read, until

SHORT = tuple(setting for setting in SETTINGS if not setting.startswith("train.epochs"))
NAME = 'it\'s "odd"; rm -rf ~ ñ'


def sweep(place: Workplace, *flags: str) -> Said:
    argv = place.argv(
        "sweep", "--task", "deepfashion", "--cluster", "local", "--wandb", "off", "--json", "--name", NAME
    )
    return place.do([*argv, *flags, "--set", *SHORT, "train.epochs=1", "optim.lr=0.001,0.002,0.003"])


def states(place: Workplace, name: str) -> list[str]:
    return [trial["state"] for trial in place.status(name, "--json").json["sweeps"][0]["trials"]]


def test_a_queue_of_three_trials_two_at_once(make_home: Callable[[], Path]) -> None:
    place = Workplace(make_home())
    said = sweep(place, "--max-parallel", "2")
    assert said.status == 0 and said.json["submitted"] == 3, said.err
    name = said.json["sweep"]
    folder = place.home / "sweeps" / name
    # The queue dies; what it started goes on, and the same command again starts the rest.
    until(lambda: len(read(folder / "queue.json").get("started", [])) >= 2, "two trials have been launched")
    os.kill(int(read(folder / "arrays.json")["arrays"][0]["job"]["job_id"]), signal.SIGKILL)
    until(lambda: states(place, name) == ["done", "done", "new"], "two trials are done and one was not begun")
    early = place.do(place.argv("collect", name, "--best", "--json"))
    assert early.status == 0 and early.json["missing"] == "missing: 1 new (2)"
    waited = sweep(place, "--wait")
    assert waited.status == 0 and states(place, name) == ["done"] * 3, waited.err
    assert sweep(place).json["submitted"] == 0
    assert [len(read(run / "attempts.json")["attempts"]) for run in place.runs] == [1, 1, 1]

    collected = place.do(place.argv("collect", name, "--ensemble", "3", "--out", str(place.home / "o u t"), "--json"))
    assert collected.status == 0, collected.err
    files = {path.name: path for path in (place.home / "o u t").glob("[!.]*")}  # but the list of what is ours
    assert set(files) == {"trials.csv", "trials.parquet", "category.csv", "attribute.csv"}
    with files["category.csv"].open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 37
    rows = pq.read_table(files["trials.parquet"]).to_pylist()
    assert [row["optim.lr"] for row in rows] == [0.001, 0.002, 0.003] and all(
        row["val/score"] is not None for row in rows
    )
    ranked = [trial["best"]["value"] for trial in collected.json["trials"]]
    assert ranked == sorted(ranked, reverse=True)
    too_many = place.do(place.argv("collect", name, "--ensemble", "4"))
    assert too_many.status == 2 and "3 trials of sweep" in too_many.err

    run = place.runs[0].name
    synced = place.do(place.argv("sync", run, "--to-folder", str(place.home / "offline"), "--json"))
    lines = (place.home / "runs" / run / "metrics.jsonl").read_text().splitlines()
    assert synced.json["rows"] == len(lines) + 1, synced.err  # and the examples with their pictures
    assert len(list((place.home / "offline").rglob("*.wandb"))) == 1
    keyless = place.do(place.argv("sync", run), WANDB_API_KEY="", NETRC=str(place.home / "none"))
    assert keyless.status == 2 and keyless.err.startswith("error: no key for W&B at ")


def test_a_refused_sweep_is_one_line_and_writes_nothing(packed_home: Path) -> None:
    place = Workplace(packed_home)
    for flags, words in (
        (("--set", "optim.lrr=1,2"), "unknown setting 'optim.lrr'; nearest: optim.lr"),
        (("--sweep", "none.yaml"), "none.yaml: No such file or directory"),
    ):
        said = place.do(place.argv("sweep", "--task", "deepfashion", "--cluster", "local", "--json", *flags))
        assert said.status == 2 and said.err.startswith("error: ") and said.err.count("\n") == 1 and words in said.err
        assert said.json["exit_status"] == 2
    assert not (packed_home / "sweeps").exists()
