"""`clean` removes what is ours of what does not live; `status --disk` says what lies where."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path

import pytest
from made_sweep import GONE, make_run, make_sweep

from fashion_dist.cluster import slurm
from fashion_dist.cluster.job_record import JobRecord, LockOwner
from fashion_dist.cluster.resources import Resources
from fashion_dist.cluster.slurm import JobRef
from fashion_dist.commands import clean, status
from fashion_dist.errors import ConfigError
from fashion_dist.io import OwnFiles
from fashion_dist.monitor import disk
from fashion_dist.paths import Home, RunDir
from fashion_dist.sweep.sweep_record import SubmittedArray, write_arrays


def made(home: Path, name: str, state: str = "done", sweep: str = "") -> RunDir:
    run = RunDir(home / "runs" / name)
    for folder in ("step-00000010", "step-00000020", "best-00000020", ".step-00000030.abcdef"):
        (run.checkpoints / folder).mkdir(parents=True)
        (run.checkpoints / folder / "state.pt").write_bytes(b"x" * 10_000)
    for path in (run.predictions("test") / "rank_0.parquet", run.logs / "1.err", run.code / "ab" / "x.py"):
        path.parent.mkdir(parents=True)
        path.write_text("x")
    run.config.write_text('{"task": "clipart", "train": {"batch_size": 20}}')
    run.metrics.write_text("{}\n")
    run.state.write_text(json.dumps({"state": state, "attempt": 1}))
    JobRecord("local", Resources(), job=JobRef("local", "1", os.uname().nodename, 5), sweep=sweep).write(run)
    OwnFiles(run.submission).write("answers.csv", "a")
    run.path.chmod(0o700)
    return run


@pytest.fixture(autouse=True)
def _no_staged_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))


def run_clean(home: Path, *names: str, **flags: object) -> dict[str, object]:
    result = clean.main(clean.Args(home=str(home), runs=names, **flags))  # type: ignore[arg-type]
    return {**result.data, "status": result.exit_status}


def test_old_checkpoints_go_and_results_stay(tmp_path: Path) -> None:
    run = made(tmp_path, "a")
    dry = run_clean(tmp_path, "a", keep_best=True, dry_run=True)
    assert (run.checkpoints / "step-00000010").is_dir()
    found = run_clean(tmp_path, "a", keep_best=True)
    assert found == dry and found["kept"] == {} and found["status"] == 0
    assert [path.name for path in run.checkpoints.iterdir()] == ["best-00000020"]
    assert not run.code.exists() and (run.predictions("test") / "rank_0.parquet").exists()
    assert (run.submission / "answers.csv").exists() and run.metrics.exists()


def test_where_a_run_goes_on_stays(tmp_path: Path) -> None:
    run = made(tmp_path, "a", state="failed")
    run_clean(tmp_path, "a", keep_best=True)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["best-00000020", "step-00000020"]
    assert disk.checkpoints_share(Home(tmp_path)) == 0


def test_what_is_not_ours_stays_and_is_named(tmp_path: Path) -> None:
    run, elsewhere = made(tmp_path, "a"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "thesis.txt").write_text("x")
    (run.path / "notes.txt").write_text("mine")
    (run.submission / "mine.csv").write_text("mine")
    (run.path / "wandb").symlink_to(elsewhere)
    found = run_clean(tmp_path, "a")
    assert found["kept"] == dict.fromkeys([str(run.path / "notes.txt"), str(run.submission / "mine.csv")], "not ours")
    assert sorted(path.name for path in run.path.iterdir()) == ["notes.txt", "submission"]
    assert (elsewhere / "thesis.txt").exists() and not (run.submission / "answers.csv").exists()
    other = made(tmp_path, "b")
    assert run_clean(tmp_path, "b")["kept"] == {} and not other.path.exists()


def test_a_name_goes_with_its_run(tmp_path: Path) -> None:
    run, names = made(tmp_path, "a"), Home(tmp_path).names
    (run.path / "notes.txt").write_text("mine")
    names.give("model-a", "a")
    run_clean(tmp_path, "model-a", keep_best=True)
    assert "names/model-a" in str(run_clean(tmp_path, "a", dry_run=True)["removed"])
    assert names.all() == {"a": "model-a"}
    run_clean(tmp_path, "a")
    assert list(names.folder.iterdir()) == [] and run.path.exists()
    made(tmp_path, "b")
    names.give("model-a", "b")


def test_a_run_that_lives_stays(tmp_path: Path) -> None:
    run = made(tmp_path, "a", "running")
    me = JobRef.of_process(os.getpid())
    JobRecord("local", Resources(), job=me).write(run)
    found = run_clean(tmp_path, "a")
    assert found["status"] == 1 and "its job may live" in str(found["kept"]) and run.metrics.exists()
    held = made(tmp_path, "b")
    gone = JobRef("local", "1", os.uname().nodename, 5)
    held.lock.write_text(json.dumps(dataclasses.asdict(LockOwner(gone, 0, 1, "h"))))
    assert "lock.json" in str(run_clean(tmp_path, "b")["kept"]) and held.metrics.exists()


def test_only_what_is_old_and_only_when_asked(tmp_path: Path) -> None:
    old, new = made(tmp_path, "old"), made(tmp_path, "new")
    for path in (old.state, old.job, old.metrics):
        os.utime(path, (0, time.time() - 40 * 86400))
    found = run_clean(tmp_path, older=30)
    assert not old.path.exists() and new.metrics.exists() and "changed 0.0 days ago" in str(found["kept"])
    with pytest.raises(ConfigError, match="needs runs or sweeps"):
        run_clean(tmp_path)
    with pytest.raises(ConfigError, match="unknown run"):
        run_clean(tmp_path, "x")


def test_a_sweep_goes_with_its_trials_and_stays_while_one_waits(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path)
    trials = [make_run(sweep, number, "stopped", [0.5]) for number in (0, 1)]
    for run in trials:  # written before the working folder was moved here
        JobRecord("local", Resources(), job=GONE, sweep="/elsewhere/sweeps/s").write(run)
        run.path.chmod(0o700)
    sweep.folder.path.chmod(0o700)
    me = JobRef.of_process(os.getpid())
    write_arrays(sweep.folder, [SubmittedArray("local", 0, (0, 2), Resources(), job=me)])
    found = run_clean(tmp_path, trials[0].run_id)
    assert found["kept"] == {trials[0].run_id: "sweep s is not over"} and trials[0].config.exists()
    found = run_clean(tmp_path, "s")
    assert found["kept"] == {trials[0].run_id: "sweep s is not over", "s": "1 of its trials stay"}
    assert not trials[1].path.exists() and sweep.folder.sweep.exists()
    write_arrays(sweep.folder, [SubmittedArray("local", 0, (2,), Resources(), job=me)])
    assert run_clean(tmp_path, "s")["kept"] == {"s": "1 of its trials stay"} and sweep.folder.sweep.exists()
    write_arrays(sweep.folder, [])
    assert run_clean(tmp_path, "s")["kept"] == {} and not sweep.folder.path.exists()


def test_what_is_followed_by_a_job_that_may_live_stays(tmp_path: Path) -> None:
    run, sweep = made(tmp_path, "a"), make_sweep(tmp_path)
    trial = make_run(sweep, 0, "done", [0.5])
    JobRecord("local", Resources(), job=GONE, sweep=str(sweep.folder.path)).write(trial)
    for folder in (run.path, trial.path, sweep.folder.path):
        folder.chmod(0o700)
    me = JobRef.of_process(os.getpid()).to_json()
    for folder in (run.path, sweep.folder.path):
        (folder / "then.json").write_text(json.dumps({"collect": me, "report": None}))
    found = run_clean(tmp_path, "a")
    assert (
        found["status"] == 1 and found["kept"] == {"a": "collect may live, which follows it"} and run.metrics.exists()
    )
    for name in ("s", trial.run_id):
        assert run_clean(tmp_path, name)["kept"][trial.run_id] == "sweep s is not over"  # type: ignore[index]
    assert trial.metrics.exists() and sweep.folder.sweep.exists()
    for folder in (run.path, sweep.folder.path):
        (folder / "then").mkdir()
        (folder / "then" / "collect.json").write_text('{"exit_status": 0}')
    assert run_clean(tmp_path, "a", "s")["kept"] == {}
    assert not run.path.exists() and not trial.path.exists() and not sweep.folder.path.exists()


def test_copies_on_this_machine_go_when_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, "a")
    there: list[int | None] = [7]  # other tests' ranks may run beside this one
    monkeypatch.setattr(slurm, "find_process", lambda *_: there[0])
    copy = tmp_path / "tmp" / f"fashion-dist-{os.getuid()}" / ("0" * 16)
    copy.mkdir(parents=True)
    (copy / "x.tar").write_bytes(b"x")
    run_clean(tmp_path, "a", keep_best=True)
    assert copy.exists()
    there[0] = None
    run_clean(tmp_path, "a", keep_best=True)
    assert not copy.exists()


def test_status_says_what_lies_where(tmp_path: Path) -> None:
    made(tmp_path, "a")
    result = status.main(status.Args(home=str(tmp_path), disk=True))
    assert result.data["places"][0]["what"] == "runs/a" and result.data["places"][0]["bytes"] > 40_000
    assert 30_000 < result.data["old_bytes"] < 80_000
    assert "free of" in result.text and "RUN --keep-best removes them" in result.text and Home(tmp_path)


def test_a_trial_that_waits_is_told_by_its_id(tmp_path: Path) -> None:
    for name in ("s", "t"):
        sweep = tmp_path / "sweeps" / name / "sweep.json"
        sweep.parent.mkdir(parents=True)
        sweep.write_text(json.dumps({"trials": [None, {"run_id": "clipart-0123456789"}, {"run_id": "clipart-0200"}]}))
    home = Home(tmp_path)
    with pytest.raises(
        ConfigError, match=r"is trial 1 of sweep s and has not started; .*status.* clipart-0123456789 says"
    ):
        home.find_run("clipart-01")
    assert home.find_run("clipart-01", is_waiting_found=True) == home.run_dir("clipart-0123456789")
    with pytest.raises(ConfigError, match=r"ambiguous in .*: clipart-0123456789, clipart-0200"):
        home.find_run("clipart-0")
    with pytest.raises(ConfigError, match="no run 'x'"):
        home.find_run("x")


def test_what_runs_will_occupy_is_what_one_like_them_does(tmp_path: Path) -> None:
    home, free = Home(tmp_path), disk.free(tmp_path)
    assert disk.needs(home, "clipart", "resnet18", 3) == f"disk: {free}"
    for name, state, network in (
        ("clipart-0", "running", "resnet18"), ("clipart-1", "done", "resnet50"), ("polyvore-2", "done", "resnet18"),
        ("clipart-3", "done", "resnet18"),
    ):  # fmt: skip
        made(tmp_path, name, state).config.write_text(json.dumps({"task": "clipart", "model": {"name": network}}))
    size, files = disk.size_of(tmp_path / "runs" / "clipart-3")
    said = f"disk: 3 runs take about {disk.human(3 * size)} in {3 * files} files, as clipart-3 does; "
    assert disk.needs(home, "clipart", "resnet18", 3).startswith(said)
    assert "a run takes about" in disk.needs(home, "clipart", "resnet18") and size > 40_000
