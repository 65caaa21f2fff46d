"""Runs on this machine's processes, from the command line: done, killed, cancelled, requeued, found again."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster_home import ROOT, SETTINGS, Workplace, kill_all, processes_of, read, until
from terminal import Terminal

LONG = ("train.epochs=400",)
CANARY = "canary-4f1c8e"


@pytest.fixture
def place(make_home: Callable[[], Path]) -> Iterator[Workplace]:
    place = Workplace(make_home())
    yield place
    for run in place.runs:
        kill_all(run)


def files_with(folder: Path, text: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_a_run_is_done_once(place: Workplace) -> None:
    said = place.launch("--nodes", "2", "--wait", SOME_API_KEY=CANARY, WANDB_API_KEY=CANARY)
    assert said.status == 0, said.err
    run = place.run()
    assert said.json["state"] == "done" and said.json["best"]["value"] > 0
    assert run.stat().st_mode & 0o777 == 0o700
    assert "submitted local job" in said.err and "done" in said.err.splitlines()[-1]
    assert files_with(place.home, CANARY) == []
    (attempt,) = read(run / "attempts.json")["attempts"]
    assert (attempt["end"], attempt["ranks"]) == ("done", 2)
    assert not (run / "lock.json").exists()
    assert processes_of(run) == []

    again = place.launch("--nodes", "1")
    assert again.status == 0 and again.json["outcome"] == "done" and "--fresh" in again.json["message"]
    assert place.runs == [run] and len(read(run / "attempts.json")["attempts"]) == 1

    fresh = place.launch("--nodes", "2", "--fresh", "--wait")
    assert fresh.status == 0
    assert [path.name for path in place.runs] == [run.name, f"{run.name}-2"]

    table = place.status()
    assert table.status == 0 and table.out.count("done") >= 3 and "2 runs: 2 done" in table.out
    page = place.status(run.name)
    assert "val score" in page.out and "jobs/collect.py" in page.out and str(run) in page.out
    (view,) = place.status(run.name, "--json").json["runs"]
    assert view["state"] == "done" and view["config"]["train.epochs"] == 2


def test_a_cancelled_run_is_stopped_and_can_go_on(place: Workplace) -> None:
    small = (*LONG, "train.batch_size=16")
    (note,) = place.launch("--nodes", "2", settings=small).json["notes"]
    assert "--set train.batch_size=32" in note, "a program is told what a person is"
    run = place.run()
    place.wait_for_steps(run, steps=2)
    assert place.launch("--nodes", "2", settings=small).json["outcome"] == "active"
    shards = Path(read(run / "run.json")["shard_set"])
    before = (shards / "manifest.json").read_bytes()
    refused = place.do(place.argv("pack", "--dataset", "synthetic", "--out", str(shards), "--replace"))
    assert refused.status == 2 and f"is not replaced, which run {run.name} trains on; allowed: another" in refused.err
    assert (shards / "manifest.json").read_bytes() == before
    assert place.status(run.name, "--cancel").status == 0
    until(lambda: processes_of(run) == [], "the ranks have ended")
    (view,) = place.status(run.name, "--json").json["runs"]
    assert (view["state"], view["attempts"]) == ("stopped", 1)
    assert read(run / "attempts.json")["attempts"][0]["end"] == "cancelled"


def test_ctrl_c_ends_the_following_and_twice_the_run(place: Workplace) -> None:
    def followed() -> Terminal:
        words = [
            sys.executable,
            str(ROOT / "jobs" / "launch.py"),
            "--task",
            "deepfashion",
            "--cluster",
            "local",
            "--wait",
        ]
        settings = ["--home", str(place.home), "--set", *SETTINGS, *LONG]
        terminal = Terminal([*words, *settings], 120, 24, place.home)
        terminal.until("epoch ", still=False)
        terminal.press("\x03")
        return terminal

    terminal = followed()
    assert terminal.end() == 130
    (run,) = place.runs
    look = f"status.py {run.name}"
    assert "the run goes on" in terminal.screen.text and f"{look} --home" in terminal.screen.text
    assert place.status(run.name, "--json").json["runs"][0]["state"] == "running"

    terminal = followed()
    terminal.until("Ctrl-C once more within")
    terminal.press("\x03")
    assert terminal.end() == 130 and "told to save and end" in terminal.screen.text
    until(lambda: processes_of(run) == [], "the ranks have ended")
    assert place.status(run.name, "--json").json["runs"][0]["state"] == "stopped"


def test_two_launchers_at_once_make_one_job(place: Workplace) -> None:
    launchers = [place.start("--nodes", "1", settings=LONG) for _ in range(3)]
    said = [json.loads(launcher.communicate()[0]) for launcher in launchers]
    assert sorted(one["outcome"] for one in said) == ["active", "active", "submitted"]
    assert len({one["job"]["job_id"] for one in said}) == 1


def test_ranks_do_not_outlive_the_process_that_started_them(place: Workplace) -> None:
    place.launch("--nodes", "2", settings=LONG)
    run = place.run()
    place.wait_for_steps(run)
    os.kill(int(read(run / "job.json")["job"]["job_id"]), signal.SIGKILL)
    until(lambda: processes_of(run) == [], "the ranks have noticed")
    assert place.status(run.name, "--json").json["runs"][0]["state"] == "failed"
