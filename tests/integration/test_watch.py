"""`status.py --watch` in a real terminal, 80 and 200 columns wide."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from made_sweep import GONE, make_run, make_sweep
from terminal import Terminal

from fashion_dist.cluster.job_record import JobRecord, begin_attempt
from fashion_dist.cluster.resources import Resources
from fashion_dist.cluster.slurm import JobRef
from fashion_dist.paths import RunDir
from fashion_dist.sweep.sweep_record import SubmittedArray, Sweep, write_arrays

ROOT = Path(__file__).parents[2]
NAMED = {"method": "grid", "parameters": {"model.pool": {"values": ["max", "avg"]}, "optim.lr": {"values": [0.1, 0.2]}}}


def a_sweep(home: Path) -> tuple[Sweep, RunDir]:
    """One trial done, one that this process holds, one failed, one not begun."""
    sweep = make_sweep(home, NAMED, name="many", train__epochs=9)
    write_arrays(sweep.folder, [SubmittedArray("local", 0, (0, 1, 2), Resources(), job=GONE)])
    make_run(sweep, 0, "done", [0.2, 0.6, 0.5])
    make_run(sweep, 2, "failed", [0.1])
    run = make_run(sweep, 1, "running", [0.3])
    me = JobRef.of_process(os.getpid())
    JobRecord("local", Resources(), job=me).write(run)
    run.attempts.unlink()
    begin_attempt(run, {"attempt": 1, "job": me.to_json(), "host": "h", "nodes": "h", "ranks": 1})
    return sweep, run


def cut(line: str, columns: int) -> str:
    return line if len(line) <= columns else line[: columns - 1] + "…"


def finish(run: RunDir) -> None:
    values = json.loads(run.state.read_text())
    run.state.write_text(json.dumps({**values, "state": "done"}))


@pytest.mark.parametrize("columns", [80, 200])
def test_the_screen_of_a_sweep_that_is_watched(tmp_path: Path, columns: int) -> None:
    sweep, run = a_sweep(tmp_path)
    argv = [sys.executable, str(ROOT / "jobs" / "status.py"), "--home", str(tmp_path), "many", "--watch"]
    terminal = Terminal(argv, columns, 50, tmp_path)
    begun = terminal.until("   3  new").splitlines()
    assert "  state      1 running, 1 failed, 1 done, 1 new" in begun
    table = begun[next(at for at, line in enumerate(begun) if line.startswith("TRIAL")) :]
    ids = [trial.run_id for trial in sweep.trials if trial is not None]
    detail = "the job's processes were ended from outside, without a report"
    wide = [
        "TRIAL  STATE    EPOCH    BEST  LEFT  model.pool  optim.lr  RUN                 DETAIL",
        f"    0  done       3/9  0.6000     -  max         0.1       {ids[0]}",
        f"    1  running    1/9  0.3000     -  max         0.2       {ids[1]}",
        f"    2  failed     1/9  0.1000     -  avg         0.1       {ids[2]}  {detail}",
        f"    3  new          -       -     -  avg         0.2       {ids[3]}",
    ]
    assert table == [cut(line, columns) for line in wide]
    finish(run)
    ended = terminal.until("1 failed, 2 done, 1 new").splitlines()
    assert terminal.end() == 1  # one trial failed and one was not begun
    assert len(ended) == len(begun) - 2 and "--watch" not in "".join(ended)  # redrawn in place
    assert all(len(line) <= columns for line in ended if line.startswith((" ", "TRIAL")) and "HOME" not in line)


@pytest.mark.parametrize("columns", [80, 200])
def test_the_screen_of_all_runs_that_is_watched(tmp_path: Path, columns: int) -> None:
    sweep, run = a_sweep(tmp_path)
    argv = [sys.executable, str(ROOT / "jobs" / "status.py"), "--home", str(tmp_path), "--watch"]
    terminal = Terminal(argv, columns, 50, tmp_path)
    lines = terminal.until("more are trials").splitlines()
    best = sweep.trial(0)
    assert best is not None
    told = f"many   grid         4  1 running, 1 failed, 1 done, 1 new  0.6000  {best.run_id}"
    assert lines == [
        "SWEEP  METHOD  TRIALS  STATE                                 BEST  BEST RUN",
        cut(told, columns),
        "",
        "3 more are trials of sweeps: python jobs/status.py SWEEP",
    ]
    finish(run)
    terminal.until("1 failed, 2 done, 1 new")
    terminal.end()
