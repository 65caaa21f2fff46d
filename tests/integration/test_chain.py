"""`--then collect,report`: what follows a run by itself, on this machine; where it stands, and going on at any link."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster_home import Workplace, kill_all, until

from fashion_dist.errors import ConfigError
from fashion_dist.monitor import chain


def test_collecting_and_the_report_follow_a_run(make_home: Callable[[], Path]) -> None:
    place = Workplace(make_home())
    said = place.launch("--debug", "--then", "collect,report", "--wait")
    run = place.run()
    try:
        assert said.status == 0, said.err
        assert (run / "submission" / "category.csv").is_file() and (run / "report" / "index.html").is_file()
        assert said.err.splitlines()[-1] == "then: collect done, report done"
        assert [(link["name"], link["exit_status"]) for link in said.json["then"]] == [("collect", 0), ("report", 0)]
        assert place.status(run.name, "--json").json["runs"][0]["then"] == said.json["then"]
        assert "then      collect done, report done" in place.status(run.name).out
        # What was undone is done again by the same command, and no more than that.
        (run / "then" / "collect.json").unlink()
        (run / "submission" / "category.csv").unlink()
        before = (run / "then" / "report.json").stat().st_mtime_ns
        again = place.launch("--debug", "--then", "collect,report", "--wait")
        assert again.status == 0 and json.loads(again.out)["outcome"] == "done", again.err
        assert (run / "submission" / "category.csv").is_file()
        assert (run / "then" / "report.json").stat().st_mtime_ns == before
    finally:
        kill_all(run)


def test_nothing_follows_a_run_that_fails(make_home: Callable[[], Path]) -> None:
    place = Workplace(make_home())
    said = place.launch("--then", "collect", settings=("optim.lr=1e30", "train.precision=fp32"))
    run = place.run()
    try:
        assert said.status == 0, said.err
        until(lambda: chain.line(run) == "collect did not begin", "the link has ended with the run")
        assert not (run / "submission").exists()
    finally:
        kill_all(run)


def test_what_cannot_follow() -> None:
    assert chain.parse("collect, report") == ("collect", "report") and chain.parse("") == ()
    with pytest.raises(ConfigError, match=r"unknown link \(--then\) 'launch'"):
        chain.parse("launch")
    with pytest.raises(ConfigError, match="names one twice"):
        chain.parse("collect,collect")
