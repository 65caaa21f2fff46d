from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fashion_dist.cluster import run_lock
from fashion_dist.cluster.job_record import JobRecord, RuntimeOptions, attempts, begin_attempt, end_attempt
from fashion_dist.cluster.queue_view import Scheduler
from fashion_dist.cluster.resources import Resources
from fashion_dist.cluster.run_snapshot import RunSnapshot
from fashion_dist.cluster.run_view import RunView, duration, line, read_run_view, read_run_views, typed
from fashion_dist.cluster.slurm import JobRef
from fashion_dist.errors import ConfigError
from fashion_dist.io import write_text
from fashion_dist.monitor import overview, run_index, table
from fashion_dist.paths import Home, RunDir
from fashion_dist.run_status import RunState

HERE = JobRef.of_process(os.getpid())
GONE = dataclasses.replace(HERE, started=HERE.started - 1)
STATE = {"epoch": 1, "epochs": 4, "step": 30, "total_steps": 120, "samples_per_s": 60.0, "attempt": 1, "updated": 1.0}


def make_run(home: Path, name: str, job: JobRef | None, state: dict[str, Any] | None = None, end: str = "") -> RunDir:
    """A run's files; with a state, its job has started."""
    run = RunDir(home / "runs" / name)
    run.path.mkdir(parents=True)
    run.config.write_text(json.dumps({"task": "clipart", "train": {"batch_size": 20}, "options": {"debug": True}}))
    JobRecord("local", Resources(setup=("a",)), RuntimeOptions(), "c", job, 1.0).write(run)
    if state is not None and job is not None:
        facts = {"attempt": 1, "job": job.to_json(), "restart": 0, "host": "h", "nodes": "h", "ranks": 2}
        begin_attempt(run, facts)
        run.state.write_text(json.dumps({**STATE, **state}))
        if end:
            end_attempt(run, 1, end.removesuffix("..."), goes_on=end.endswith("..."))  # type: ignore[arg-type]
    return run


@pytest.mark.parametrize(
    ("job", "state", "end", "expected"),
    [
        (None, None, "", "new"),
        (HERE, None, "", "starting"),
        (GONE, None, "", "failed"),
        (HERE, {"state": "running"}, "", "running"),
        (GONE, {"state": "running"}, "", "failed"),
        (GONE, {"state": "done"}, "done", "done"),
        (HERE, {"state": "done"}, "done", "done"),
        (GONE, {"state": "stopped"}, "cancelled", "stopped"),
        (GONE, {"state": "stopped"}, "pruned", "pruned"),
        (GONE, {"state": "stopped"}, "time limit", "stopped"),
        (GONE, {"state": "stopped"}, "time limit...", "failed"),
        (HERE, {"state": "stopped"}, "time limit...", "queued"),
        (HERE, {"state": "stopped", "attempt": 0}, "", "starting"),
        (GONE, {"state": "failed"}, "failed", "failed"),
    ],
)
def test_the_state_is_what_files_and_processes_say_together(
    job: JobRef | None, state: dict[str, Any] | None, end: str, expected: str, tmp_path: Path
) -> None:
    assert read_run_view(make_run(tmp_path, "r", job, state, end), Scheduler()).state == expected


@pytest.mark.parametrize(("job", "state", "ending"), [(GONE, "done", ""), (HERE, "running", ", predicting")])
def test_what_a_run_is_doing_is_told_while_it_runs(job: JobRef, state: str, ending: str, tmp_path: Path) -> None:
    run = make_run(tmp_path, "r", job, {"state": state, "phase": "predicting"}, "done" if state == "done" else "")
    (epoch,) = (s for s in table.page(run, read_run_view(run, Scheduler()), "", 80).splitlines() if " epoch " in s)
    assert epoch.split(maxsplit=1)[1] == f"1 of 4, step 30 of 120{ending}"


def test_everything_known_of_a_running_run(tmp_path: Path) -> None:
    run = make_run(tmp_path, "r", HERE, {"state": "running", "best": {"metric": "f1", "value": 0.5, "epoch": 1}})
    view = read_run_view(run, Scheduler())
    assert (view.task, view.attempts, view.nodes, view.left_s) == ("clipart", 1, "h", 90 * 20 / 60)
    assert view.config == {"task": "clipart", "train.batch_size": 20, "task.debug": True}
    assert json.loads(json.dumps(view.to_json()))["progress"]["best"]["value"] == 0.5


def test_attempts_are_kept_and_ended(tmp_path: Path) -> None:
    run = make_run(tmp_path, "r", HERE, {"state": "running"})
    begin_attempt(run, {"attempt": 2})
    end_attempt(run, 1, "time limit", "words")
    first, second = attempts(run)
    assert (first.end, first.message, second.end) == ("time limit", "words", "")


def test_a_submission_is_read_as_written(tmp_path: Path) -> None:
    written = JobRecord("slurm", Resources(nodes=2, setup=("a", "b")), RuntimeOptions(cache="ram"), "c", HERE, 5.0)
    written.write(RunDir(tmp_path))
    assert JobRecord.read(RunDir(tmp_path)) == written
    assert JobRecord.read(RunDir(tmp_path / "none")) is None


def view(run_id: str, state: str, detail: str = "", value: float | None = None, updated: float = 0) -> RunView:
    best = {"metric": "m", "value": value, "epoch": 1} if value is not None else {}
    return RunView(run_id, "t", state, detail, progress=RunState(best=best, updated=updated, epochs=3))


VIEWS = [
    view("deepfashion-0000000001", "done", value=0.25, updated=3),
    view("deepfashion-0000000002", "failed", "rank 1 on n2: ValueError: " + "long words " * 30 + "\nmore", updated=2),
    view("deepfashion-0000000003", "running", value=0.75, updated=1),
]


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_table_fits_its_terminal(width: int) -> None:
    lines = table.table(VIEWS, width).splitlines()
    assert len(lines) == 1 + len(VIEWS)
    assert all(len(line) <= width for line in lines)
    assert lines[0].startswith("RUN") and "STATE" in lines[0] and "DETAIL" in lines[0]
    assert "deepfashion-0000000002  failed" in lines[2]
    wide = {"JOB", "TRIES", "NODES"} & set(lines[0].split())
    assert (wide == {"JOB", "TRIES", "NODES"}) == (width >= 120)


def test_a_table_of_80_columns_as_it_looks() -> None:
    shown = table.table([dataclasses.replace(VIEWS[0], attempts=1), VIEWS[1]], 80)
    assert shown == (
        "RUN                     STATE   EPOCH    BEST  LEFT  JOB  DETAIL\n"
        "deepfashion-0000000001  done      0/3  0.2500     -  -\n"
        "deepfashion-0000000002  failed    0/3       -     -  -    rank 1 on n2: ValueEr…"
    )


@settings(deadline=None)
@given(st.text(), st.integers(0, 30))
def test_cut_text_fits(text: str, width: int) -> None:
    assert len(table.cut(text, width)) <= max(width, 0) or len(text) <= width


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=300), st.integers(1, 60))
def test_sparklines_fit_and_never_fail(values: list[float], width: int) -> None:
    assert len(table.sparkline(values, width)) <= width


def test_a_sparkline() -> None:
    assert table.sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert table.sparkline([5, 5, 5], 8) == "▁▁▁"
    assert table.sparkline([], 8) == ""


def test_sorting_and_filtering() -> None:
    def ids(**how: str) -> list[str]:
        asked = {"state": "", "task": "", "sort": "updated", **how}
        return [v.run_id[-1] for v in overview.select(VIEWS, **asked)]

    assert ids() == ["1", "2", "3"]
    assert ids(sort="best") == ["3", "1", "2"]
    assert ids(sort="state") == ["1", "2", "3"]
    assert ids(state="failed") == ["2"]
    assert ids(task="other") == []
    with pytest.raises(ConfigError, match=r"unknown state 'rnning'; known: .*running"):
        ids(state="rnning")


def test_looking_at_many_runs(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert home.all_runs() == []
    for index in range(20):
        make_run(tmp_path, f"r-{index:02}", GONE, {"state": "done"})
    views = read_run_views(home.all_runs())
    assert [v.run_id for v in views] == [f"r-{index:02}" for index in range(20)]
    assert "20 runs: 20 done" in overview.draw([], overview.Overview(views), home, 80)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0, "0 s"), (59.4, "59 s"), (185, "3:05"), (7385, "2:03:05"), (180000, "2 d 2 h")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_commands_name_the_home_unless_it_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir(tmp_path / "my runs" / "runs" / "r-1")
    assert typed("status", run, "--watch") == f"python jobs/status.py r-1 --home '{tmp_path}/my runs' --watch"
    monkeypatch.setenv("FASHION_DIST_HOME", str(tmp_path / "my runs"))
    assert typed("status", run) == "python jobs/status.py r-1"


def test_a_job_started_by_hand_is_the_runs_job(tmp_path: Path) -> None:
    run = make_run(tmp_path, "r", GONE, {"state": "failed"}, "failed")
    run_lock.acquire(run, HERE, restart=0, attempt=2)
    begin_attempt(run, {"attempt": 2, "job": HERE.to_json(), "nodes": "h"})
    seen = read_run_view(run, Scheduler())
    assert (seen.job, seen.state, seen.attempts) == (HERE, "starting", 2)


def test_the_line_of_a_followed_run_keeps_what_matters_in_80_columns(tmp_path: Path) -> None:
    best = {"metric": "outfit_auc", "value": 0.5, "epoch": 1}
    state = {"state": "running", "phase": "training", "loss": 0.25, "best": best, "total_steps": 120000}
    view = read_run_view(make_run(tmp_path, "polyvore_outfits-0123456789", HERE, state), Scheduler())
    whole = line(view)
    assert "polyvore_outfits-0123456789  running" in whole and "(epoch 1)" in whole and "samples/s" in whole
    short = line(view, 80)
    assert len(short) <= 80
    assert all(part in short for part in ("epoch 2/4", "loss 0.2500", "best outfit_auc 0.5000", " left"))


def test_the_table_has_the_columns_of_one_s_choice(tmp_path: Path) -> None:
    for n, size in enumerate((40, 8, 20)):
        run = make_run(tmp_path, f"r{n}", HERE, {"state": "running"})
        run.config.write_text(run.config.read_text().replace("20", str(size)))
    views = read_run_views([RunDir(tmp_path / "runs" / f"r{n}") for n in range(3)])
    ordered = overview.select(views, "", "", "train.batch_size")
    shown = table.table(ordered, 80, ["run", "train.batch_size", "task"]).splitlines()
    assert [line.split() for line in shown] == [
        ["RUN", "TRAIN.BATCH_SIZE", "TASK"], ["r1", "8", "clipart"], ["r2", "20", "clipart"], ["r0", "40", "clipart"]
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"unknown column 'batch_size'; nearest: train\.batch_size"):
        table.table(views, 80, ["batch_size"])


def test_runs_that_are_done_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, read, of_disk = Home(tmp_path), [""][:0], RunSnapshot.read
    runs = [make_run(tmp_path, f"r-{n:02}", GONE, {"state": "done", "epoch": n}, "done") for n in range(25)]
    runs.append(make_run(tmp_path, "r-99", GONE, {"state": "running"}))
    for run in runs:
        os.utime(run.path, (1e9, 1e9))

    def counted(run: RunDir) -> RunSnapshot:
        read.append(run.run_id)
        return of_disk(run)

    monkeypatch.setattr(RunSnapshot, "read", counted)
    assert run_index.read_indexed_views(home, runs) == read_run_views(runs) and len(read) == 2 * len(runs)
    read.clear()
    home.names.give("mine", "r-03")
    write_text(runs[4].state, json.dumps({**STATE, "state": "running"}))
    views = run_index.read_indexed_views(home, runs)
    assert read == ["r-04", "r-99"]
    assert views == read_run_views(runs) and views[3].name == "mine" and views[4].state == "failed"
    run_index.index_of(home).write_text("{")
    assert run_index.read_indexed_views(home, runs) == views
