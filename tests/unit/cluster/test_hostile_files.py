"""What others can put into a folder: job ids, pickles, modules in the current folder, links."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from calls import NoteEnvironment
from cluster_home import SOMEBODY, as_somebody

from fashion_dist.cluster import permissions, pickled_rank, safe_python, slurm, submitit_executor
from fashion_dist.cluster.job_record import JobRecord
from fashion_dist.cluster.resources import Resources
from fashion_dist.cluster.run_view import read_run_views
from fashion_dist.cluster.slurm import JobRef
from fashion_dist.errors import ConfigError, InputError, RunError
from fashion_dist.io import process_started
from fashion_dist.monitor import overview
from fashion_dist.paths import RunDir

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def wait_for(job: JobRef) -> None:
    deadline = time.monotonic() + 120
    while slurm.job_status(job) != "gone":
        assert time.monotonic() < deadline, f"{job} did not end"
        time.sleep(0.05)


def handed_over(folder: Path, job: Any) -> RunDir:
    """A run folder whose job.json somebody else wrote."""
    run = RunDir(folder)
    run.path.mkdir(parents=True, exist_ok=True)
    run.config.write_text("{}")
    values = {"cluster": "local", "resources": {}, "options": {}, "comment": "", "job": job}
    run.job.write_text(json.dumps(values))
    return run


BAD_JOBS = [
    {"cluster": "local", "job_id": "-1", "host": os.uname().nodename, "started": None},
    *({"cluster": "local", "job_id": j, "host": "here", "started": 0} for j in ("-1", "0", "", "1e3", "٣")),
    {"cluster": "local", "job_id": 5, "host": "", "started": 1},
    {"cluster": "local", "job_id": "77", "host": "a;b", "started": 1},
    {"cluster": "local", "job_id": "77", "host": "", "started": True},
    *({"cluster": "slurm", "job_id": j} for j in ("--user=victim", "-1", "12 13", "12,13", "12_", "../12", "12\n", "")),
    *({"cluster": c, "job_id": "12"} for c in ("", "pbs", None, ["slurm"])),
    {"job_id": "12"}, [1], "12", 12,
]  # fmt: skip


@pytest.mark.parametrize("job", BAD_JOBS)
def test_an_id_that_is_none_ends_in_a_sentence_that_names_the_file(job: Any, tmp_path: Path) -> None:
    run = handed_over(tmp_path / "runs" / "a", job)
    with pytest.raises(ConfigError, match=r"job\.json: .*allowed: "):
        JobRecord.read(run)
    good = handed_over(tmp_path / "runs" / "b", None)
    states = {view.run_id: (view.state, view.detail) for view in read_run_views([run, good])}
    assert states["b"][0] == "new"
    assert states["a"][0] == "unreadable" and str(run.job) in states["a"][1]
    with pytest.raises(InputError, match=r"job\.json: "):
        overview.cancel([run])


@needs_root
def test_cancelling_a_run_that_was_handed_over_ends_no_other_process() -> None:
    shared = Path(tempfile.mkdtemp(dir="/tmp"))  # pytest's own folders are closed to other users
    shared.chmod(0o755)
    process = subprocess.Popen(["sleep", "60"], user=SOMEBODY, group=SOMEBODY)
    started = process_started(process.pid)
    try:
        for job_id, at in (("-1", None), ("0", None), (str(process.pid), None), (str(process.pid), started)):
            job = {"cluster": "local", "job_id": job_id, "host": os.uname().nodename, "started": at}
            run = handed_over(shared / "runs" / "a", job)
            for folder in (shared / "runs", run.path):
                folder.chmod(0o755)
            said = as_somebody(lambda run=run: str(overview.cancel([run])))  # type: ignore[misc]
            assert said.startswith("ConfigError: "), said
        assert f"process {process.pid} is no job of fashion-dist and was not ended" in said
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(shared)


def test_a_process_without_a_start_is_never_running() -> None:
    assert slurm.job_status(JobRef("local", "999999999", os.uname().nodename, 0)) == "gone"
    assert slurm.job_status(JobRef("local", str(os.getpid()), os.uname().nodename, 0)) == "gone"


def test_scancel_takes_an_id_and_no_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "bin" / "scancel"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/words\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    slurm.cancel(JobRef("slurm", "12_3"))
    assert (tmp_path / "words").read_text() == "--\n12_3\n"


def planted(folder: Path) -> Path:
    """A downloaded folder with modules that Python might take for the real ones; the canary is made by any."""
    canary = folder.parent / "ran"
    code = f"import pathlib; pathlib.Path({str(canary)!r}).touch()\n"
    for name in ("submitit", "fashion_dist", "multiprocessing", "numpy", "runpy", "pickle", "torch"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(code)
    return canary


@pytest.mark.parametrize("inherited", ["", ":", os.pathsep.join(["", "/nowhere"])])
def test_no_module_of_the_current_folder_is_run(
    inherited: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = planted(tmp_path / "download")
    monkeypatch.chdir(tmp_path / "download")
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}{inherited}")
    job = submitit_executor.submit(
        NoteEnvironment(str(tmp_path)), "local", Resources(nodes=2), tmp_path / "logs", "x"
    )  # fmt: skip
    wait_for(job)
    assert (tmp_path / "env-0.json").exists() and (tmp_path / "env-1.json").exists()
    assert not canary.exists()


def test_old_pythons_leave_the_current_folder_out_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = planted(tmp_path / "download")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "told.py").write_text("import sys, pickle, runpy\nprint(sys.argv[1:], __name__)\n")
    monkeypatch.chdir(tmp_path / "download")
    command = [sys.executable, "-u", "-c", safe_python._WITHOUT_P, "-m", "told", "a b", "-m"]
    environment = {**os.environ, **safe_python.search_path({"PYTHONPATH": f":{tmp_path / 'own'}:"})}
    del environment["PYTHONSAFEPATH"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "['a b', '-m'] __main__\n" and not canary.exists()
    naive = [sys.executable, "-m", "told"]
    subprocess.run(naive, env=environment, capture_output=True, check=False)
    assert canary.exists(), "the trap works"


class Bomb:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.canary,)


@needs_root
@pytest.mark.parametrize("how", ["another's", "group writes", "link"])
def test_a_pickle_that_others_can_have_written_is_not_loaded(how: str, tmp_path: Path) -> None:
    path, canary = tmp_path / "1_submitted.pkl", tmp_path / "ran"
    path.write_bytes(pickle.dumps(Bomb(canary)))
    path.chmod(0o664 if how == "group writes" else 0o644)
    if how == "another's":
        os.chown(path, SOMEBODY, -1)
    if how == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="is not read"):
        pickled_rank.load(path)
    assert not canary.exists()
    (tmp_path / "own.pkl").write_bytes(pickle.dumps(Bomb(canary)))
    (tmp_path / "own.pkl").chmod(0o640)
    pickled_rank.load(tmp_path / "own.pkl")
    assert canary.exists(), "the trap works"


@needs_root
def test_a_run_folder_that_was_replaced_before_its_job_starts_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a group's project folder a colleague can rename what is not theirs."""
    canary, logs = tmp_path / "ran", tmp_path / "logs"
    logs.mkdir()
    path = logs / "77_submitted.pkl"
    path.write_bytes(pickle.dumps(Bomb(canary)))
    os.chown(path, SOMEBODY, -1)
    environment = {
        **os.environ, **safe_python.search_path(os.environ), "SUBMITIT_EXECUTOR": "local",
        "SUBMITIT_LOCAL_JOB_ID": "77", "SUBMITIT_LOCAL_GLOBALID": "0", "SUBMITIT_LOCAL_LOCALID": "0",
        "SUBMITIT_LOCAL_NTASKS": "1", "SUBMITIT_LOCAL_NODEID": "0", "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
    }  # fmt: skip
    command = submitit_executor.local_command(logs)
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and f"{path} belongs to another user ({SOMEBODY})" in done.stderr
    assert not canary.exists()


def test_what_is_submitted_under_an_open_umask_is_the_users_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    before = os.umask(0o002)
    try:
        job = submitit_executor.submit(NoteEnvironment(str(tmp_path)), "local", Resources(), tmp_path / "logs", "x")
        wait_for(job)
        assert (tmp_path / "env-0.json").exists()
        assert submitit_executor.result(tmp_path / "logs", job.job_id, wait_s=5) is None
    finally:
        assert os.umask(before) == 0o002
    assert [path for path in (tmp_path / "logs").glob("*.pkl") if path.stat().st_mode & 0o022] == []


def test_a_run_folder_is_no_link_and_nobody_elses_to_write(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "a").symlink_to(tmp_path / "shards")
    with pytest.raises(ConfigError, match="is a link"):
        permissions.make(tmp_path / "a")
    for mode in (0o770, 0o2770, 0o702):
        folder = tmp_path / f"b{mode:o}"
        folder.mkdir()
        folder.chmod(mode)
        with pytest.raises(ConfigError, match=rf"others may write to .*\(mode {mode:o}\).*chmod go-w "):
            permissions.make(folder)
        folder.chmod(mode & ~0o022)
        permissions.make(folder)
    assert list((tmp_path / "shards").iterdir()) == []
