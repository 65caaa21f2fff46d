"""A run folder read once: what follows from its files and the scheduler's answers, and files that cannot be read."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

import pytest
from cluster_home import as_somebody
from made_sweep import make_run as make_trial
from made_sweep import make_sweep
from test_hostile_files import needs_root

from fashion_dist.cluster import failures, launcher
from fashion_dist.cluster.job_record import Attempt, JobRecord, LockOwner, RuntimeOptions
from fashion_dist.cluster.queue_view import QueueView
from fashion_dist.cluster.resources import Resources
from fashion_dist.cluster.run_snapshot import STATES, RunSnapshot, derive_status
from fashion_dist.cluster.run_view import read_run_views
from fashion_dist.cluster.slurm import JobRef, JobStatus
from fashion_dist.errors import ConfigError, RunError
from fashion_dist.monitor import overview, table
from fashion_dist.paths import Home, RunDir
from fashion_dist.run_status import RunState

SLURM, LOCAL = JobRef("slurm", "7"), JobRef("local", "77", "h", 5)
PEER = "Connection closed by peer [127.0.0.1]:6359"
GOES_ON_BY_HAND = "launching again goes on from the last checkpoint"


def folder(
    path: Path, job: JobRef | None = SLURM, *, state: str = "", end: str = "", message: str = "",
    log: str | None = None, reports: tuple[str, ...] = (), exits: list[int | None] | None = None, goes_on: bool = False,
) -> RunDir:  # fmt: skip
    """A run's files, as a job leaves them: with a `state` rank 0 had begun, with a `log` the job had started."""
    run = RunDir(path / "runs" / "r")
    run.logs.mkdir(parents=True)
    run.config.write_text(json.dumps({"task": "clipart", "train": {"batch_size": 20}}))
    JobRecord("slurm", Resources(), job=job, submitted=1000.0).write(run)
    if state and job is not None:
        attempt = Attempt(1, job, host="h", nodes="n[1-2]", ranks=2, started=1000.0, end=end, goes_on=goes_on)
        run.attempts.write_text(json.dumps({"attempts": [dataclasses.asdict(attempt)]}))
        run.state.write_text(json.dumps({"state": state, "attempt": 1, "message": message}))
    for rank, words in enumerate(reports):
        run.errors.mkdir(exist_ok=True)
        failure = failures.Failure(rank, 1, f"n{rank}", "ValueError", words, "", 1.0 + rank)
        run.error(rank).write_text(json.dumps(dataclasses.asdict(failure)))
    if job is not None and log is not None:
        (run.logs / f"{job.job_id}_0_log.err").write_text(log)
    if job is not None and exits is not None:
        failures.exits_file(run.logs, job.job_id).write_text(json.dumps({"exit_codes": exits}))
    return run


def queue(status: JobStatus = "gone", end: str = "", job: JobRef = SLURM, **more: Any) -> QueueView:
    return QueueView({job: status}, ends={job: end} if end else {}, **more)


RUNNING = {"state": "running", "log": "words\n"}
KILLED = "srun: error: n1: task 1: Killed\n"
GRID: list[tuple[dict[str, Any], QueueView, tuple[str, str, str]]] = [
    # A run without a job, with one that waits, and with one that runs.
    ({"job": None}, queue(), ("new", "", "")),
    ({}, queue("queued", reasons={SLURM: "Priority"}), ("queued", "", "Priority")),
    ({}, queue("running"), ("starting", "", "")),
    (RUNNING, queue("running"), ("running", "", "")),
    ({"state": "done", "end": "done"}, queue("running"), ("done", "", "")),
    ({"state": "stopped", "end": "cancelled", "message": "why"}, queue("running"), ("stopped", "", "why")),
    ({"state": "stopped", "end": "time limit", "goes_on": True}, queue("running"), ("queued", "", "")),
    ({"state": "failed", "reports": ("bad",)}, queue("running"), ("failed", "error", "rank 0 on n0: ValueError: bad")),
    # Gone, well.
    ({"state": "done", "end": "done"}, queue("gone", "COMPLETED"), ("done", "", "")),
    ({"state": "stopped", "end": "cancelled", "message": "why"}, queue(), ("stopped", "", "why")),
    ({"state": "stopped", "end": "pruned", "message": "why"}, queue(), ("pruned", "", "why")),
    # Gone before it wrote anything: refused, cancelled while it waited.
    ({}, queue("gone", "CANCELLED"), ("cancelled", "cancelled", "the job was cancelled before it started")),
    ({}, queue(), ("cancelled", "cancelled", "the job was cancelled before it started")),
    ({}, queue("gone", "FAILED"),
     ("failed", "never started", "the job ended before it could write a log (Slurm says FAILED)")),
    ({"job": LOCAL}, queue(job=LOCAL), ("failed", "never started", "the job ended before rank 0 took the run's lock")),
    # Gone while it started, before rank 0 wrote.
    ({"log": "no module\nsrun: error: n1: task 0: Exited with exit code 1\n"}, queue("gone", "FAILED"),
     ("failed", "ended while starting",
      "the job ended before rank 0 took the run's lock (Slurm says FAILED); its log ends with: no module")),
    ({"job": LOCAL, "log": "no module\n"}, queue(job=LOCAL),
     ("failed", "ended while starting",
      "the job ended before rank 0 took the run's lock; its log ends with: no module")),
    ({"log": "x\n"}, queue("gone", "NODE_FAIL"), ("failed", "node failure", "a node of the job failed")),
    # Gone in the middle.
    (RUNNING, queue("gone", "CANCELLED"), ("cancelled", "cancelled", "the job was cancelled")),
    (RUNNING, queue("gone", "NODE_FAIL"), ("failed", "node failure", "a node of the job failed")),
    (RUNNING, queue("gone", "BOOT_FAIL"), ("failed", "node failure", "the job's nodes did not boot")),
    (RUNNING, queue("gone", "OUT_OF_MEMORY"), ("failed", "out of memory", "the job ran out of memory")),
    (RUNNING, queue("gone", "TIMEOUT"),
     ("failed", "time limit", "the job was ended at its time limit before it could save")),
    (RUNNING, queue("gone", "PREEMPTED"), ("failed", "pre-empted", "the job was pre-empted before it could save")),
    (RUNNING, queue("gone", "FAILED"),
     ("failed", "unexplained", "the job is gone without a report (Slurm says FAILED); its log ends with: words")),
    (RUNNING, queue(),
     ("failed", "unexplained", "the job is gone without a report (Slurm does not say why); its log ends with: words")),
    # The same without accounting: Slurm's own lines in the log.
    ({**RUNNING, "log": "slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT T DUE TO TIME LIMIT ***\n"}, queue(),
     ("failed", "time limit", "the job was ended at its time limit before it could save")),
    ({**RUNNING, "log": "slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT T ***\n"}, queue(),
     ("cancelled", "cancelled", "the job was cancelled")),
    ({**RUNNING, "log": "srun: error: n3: task 1: Out Of Memory\n", "reports": (PEER,)}, queue("gone", "FAILED"),
     ("failed", "out of memory",
      "the job ran out of memory (rank 1 was ended by the system: Out Of Memory)")),
    ({**RUNNING, "log": KILLED, "reports": (PEER,)}, queue("gone", "FAILED"),
     ("failed", "killed", "rank 1 was killed")),
    ({**RUNNING, "reports": (PEER,)}, queue("gone", "FAILED"),
     ("failed", "peer lost", f"rank 0 on n0: ValueError: {PEER}")),
    # What a rank said itself comes before what Slurm saw of it; what its peers said does not.
    ({**RUNNING, "reports": ("bad", PEER), "log": KILLED}, queue("gone", "OUT_OF_MEMORY"),
     ("failed", "error", "rank 0 on n0: ValueError: bad")),
    ({**RUNNING, "reports": ("bad",)}, queue("gone", "CANCELLED"),
     ("failed", "error", "rank 0 on n0: ValueError: bad")),
    ({**RUNNING, "reports": (PEER,)}, queue("gone", "NODE_FAIL"),
     ("failed", "node failure", f"a node of the job failed (rank 0 on n0: ValueError: {PEER})")),
    ({"state": "failed", "message": "rank 3: words"}, queue("gone", "FAILED"), ("failed", "error", "rank 3: words")),
    ({"state": "stopped", "end": "time limit", "goes_on": True}, queue(),
     ("failed", "not started again", "the job was to go on by itself after its time limit and is gone")),
    ({**RUNNING, "log": "slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT T DUE TO JOB REQUEUE ***\n"}, queue(),
     ("failed", "not started again", "the job was to go on by itself after its requeue and is gone")),
    # On this machine.
    ({**RUNNING, "job": LOCAL, "exits": [None, -9]}, queue(job=LOCAL),
     ("failed", "killed", "rank 1 was killed by signal 9")),
    ({**RUNNING, "job": LOCAL}, queue(job=LOCAL), ("failed", "process gone",
     "the job's processes were ended from outside, without a report; its log ends with: words")),
    ({**RUNNING, "job": LOCAL}, queue(job=LOCAL, booted=2000.0),
     ("failed", "machine restarted", "this machine was restarted while the job ran")),
    # Nobody answers.
    (RUNNING, queue("unknown", silent="squeue: no"),
     ("running", "no answer", "Slurm does not answer (squeue: no); this is what its files say")),
    ({}, queue("unknown", silent="squeue: no"),
     ("starting", "no answer", "Slurm does not answer (squeue: no); this is what its files say")),
    ({**RUNNING, "job": LOCAL}, queue("unknown", job=LOCAL),
     ("running", "no answer", "only h knows of its job; this is what its files say")),
    ({"state": "stopped", "end": "cancelled", "message": "why"}, queue("unknown", silent="squeue: no"),
     ("stopped", "", "why")),
    ({"state": "done"}, queue("unknown", silent="squeue: no"), ("done", "", "")),
]  # fmt: skip


@pytest.mark.parametrize(("files", "says", "expected"), GRID)
def test_how_a_run_is(files: dict[str, Any], says: QueueView, expected: tuple[str, str, str], tmp_path: Path) -> None:
    run = folder(tmp_path, **files)
    found = derive_status(RunSnapshot.read(run), says)
    assert (found.state, found.cause, found.message) == expected
    assert found.state in STATES and (found.log is None) == (found.state not in ("failed", "cancelled"))


@pytest.mark.parametrize("cache", ["none", "ram"])
def test_slurm_s_end_of_memory_names_what_takes_less(cache: Literal["none", "ram"], tmp_path: Path) -> None:
    run = folder(tmp_path, **RUNNING)
    JobRecord("slurm", Resources(), RuntimeOptions(cache=cache), job=SLURM, submitted=1000.0).write(run)
    hint = derive_status(RunSnapshot.read(run), queue("gone", "OUT_OF_MEMORY")).hint
    assert "--mem" in hint and ("--cache none" in hint) is (cache == "ram")


def test_every_mixture_of_files_and_answers_has_a_state_and_a_failure_a_sentence(tmp_path: Path) -> None:
    """3,240 mixtures: none raises, none is a failure without a word, and what is done stays done."""
    states = ("", "running", "stopped", "failed", "done")
    answers: tuple[JobStatus, ...] = ("queued", "running", "gone", "unknown")
    ends = ("", "CANCELLED", "COMPLETED", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT", "PREEMPTED", "DEADLINE")
    logs = (None, "", f"words\n{KILLED}")
    seen = set()
    for job, state, log, reports in itertools.product((SLURM, LOCAL), states, logs, ((), ("bad",), (PEER,))):
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        snapshot = RunSnapshot.read(folder(tmp_path, job, state=state, log=log, reports=reports))
        for status, end in itertools.product(answers, ends):
            found = derive_status(snapshot, queue(status, end, job))
            assert found.state in STATES
            assert found.message or found.state not in ("failed", "cancelled")
            assert (found.state == "done") == (state == "done")
            assert status != "queued" or found.state in ("queued", "done")
            seen.add(found.cause)
    assert {"error", "killed", "peer lost", "never started", "ended while starting", "unexplained"} <= seen


def test_a_snapshot_does_not_change_and_reads_nothing_again(tmp_path: Path) -> None:
    run = folder(tmp_path, state="running")
    snapshot = RunSnapshot.read(run)
    shutil.rmtree(run.path)
    assert derive_status(snapshot, queue("running")).state == "running"
    with pytest.raises(dataclasses.FrozenInstanceError):
        snapshot.run = run  # type: ignore[misc]
    assert RunSnapshot.read(run) == RunSnapshot(run)


def test_logs_of_a_trial_are_found_where_its_sweep_was_moved(tmp_path: Path) -> None:
    run = folder(tmp_path, state="running")
    record = JobRecord(
        "slurm", Resources(), job=SLURM, submitted=1000.0, sweep="/old/sweeps/s", logs="/old/sweeps/s/logs"
    )
    record.write(run)
    logs = tmp_path / "sweeps" / "s" / "logs"
    logs.mkdir(parents=True)
    (logs / "7_0_log.err").write_text("words\n")
    assert RunSnapshot.read(run).logs_of(SLURM) == logs
    assert derive_status(RunSnapshot.read(run), queue("gone", "FAILED")).message.endswith("its log ends with: words")


def test_a_live_job_that_was_started_by_hand_is_the_runs_job(tmp_path: Path) -> None:
    run, other = folder(tmp_path, state="failed", reports=("bad",)), JobRef("slurm", "9")
    run.lock.write_text(json.dumps(dataclasses.asdict(LockOwner(other, 0, 2, "n9"))))
    snapshot = RunSnapshot.read(run)
    assert snapshot.jobs == [SLURM, other]
    found = derive_status(snapshot, QueueView({SLURM: "gone", other: "running"}))
    assert (found.job, found.state) == (other, "starting")
    assert derive_status(snapshot, QueueView({SLURM: "gone", other: "gone"})).state == "failed"


BAD = [
    ("state.json", "{", "no JSON"),
    ("state.json", "[1]", "no JSON object"),
    ("state.json", "[" * 100_000, "nested too deep"),
    ("state.json", '{"best": 7}', "best = 7"),
    ("state.json", '{"best": {"metric": "m", "value": null, "epoch": 1}}', "value = None"),
    ("state.json", '{"best": {"value": 0.5}}', "metric is missing"),
    ("state.json", '{"samples_per_s": NaN}', "NaN is no number"),
    ("state.json", '{"samples_per_s": 1e999}', "samples_per_s = inf"),
    ("state.json", '{"step": true}', "step = True"),
    ("state.json", '{"epochs": ' + "9" * 400 + "}", "epochs = 999"),
    ("state.json", '{"state": "gone"}', "allowed: running, done, failed, stopped"),
    ("job.json", '{"job": 5}', "cluster is missing"),
    ("job.json", '{"cluster": "slurm", "resources": {"nodes": "2"}, "job": null}', "nodes = '2'"),
    ("job.json", '{"cluster": "slurm", "resources": {"nodes": 0}, "job": null}', "nodes = 0"),
    ("job.json", '{"cluster": "slurm", "resources": [], "job": null}', "no object"),
    ("attempts.json", '{"attempts": {}}', "attempts is no list"),
    ("attempts.json", '{"attempts": [[]]}', "no object"),
    ("attempts.json", '{"attempts": [{"attempt": "1"}]}', "attempt = '1'"),
    ("attempts.json", '{"attempts": [{"attempt": 1, "job": {"cluster": "slurm", "job_id": "-1"}}]}', "job id '-1'"),
    ("lock.json", '{"job": {"cluster": "slurm", "job_id": "7"}}', "restart is missing"),
    ("config.json", '{"task": 5}', "task is no text"),
    ("config.json", '{"train": {"batch_size": []}}', "train.batch_size is no number"),
]


@pytest.mark.parametrize(("name", "content", "why"), BAD)
def test_a_file_that_cannot_be_read_is_one_row_and_the_others_are_shown(
    name: str, content: str, why: str, tmp_path: Path
) -> None:
    run = folder(tmp_path, state="running")
    good = tmp_path / "runs" / "s"
    shutil.copytree(run.path, good)
    (good / "state.json").write_text('{"state": "done", "attempt": 1}')
    (run.path / name).write_text(content)
    bad, other = read_run_views(Home(tmp_path).all_runs())
    assert other.state == "done" and bad.state == "unreadable"
    assert bad.detail.startswith(f"unreadable: {run.path / name}: ") and why in bad.detail
    text = table.table([bad, other], 400)
    assert text.count("\n") == 2 and bad.detail in text and json.dumps(bad.to_json())


@pytest.mark.parametrize("name", ["job.json", "attempts.json", "lock.json", "state.json"])
def test_what_is_no_plain_file_is_named(name: str, tmp_path: Path) -> None:
    run = folder(tmp_path, state="running")
    path = run.path / name
    for make in (os.mkfifo, os.mkdir, lambda at: Path(at).symlink_to("/dev/zero")):
        path.unlink(missing_ok=True)
        make(path)
        (problem,) = RunSnapshot.read(run).problems
        assert problem.startswith(f"{path}: ")
        path.rmdir() if path.is_dir() else path.unlink()


def test_errors_that_cannot_be_read_hide_no_failure(tmp_path: Path) -> None:
    run = folder(tmp_path, state="running", reports=("bad",))
    run.error(1).write_text('{"rank": []}')
    snapshot = RunSnapshot.read(run)
    assert snapshot.unread == (f"{run.error(1)}: rank = [] is not possible; allowed: a whole number",)
    assert derive_status(snapshot, queue()).message == "rank 0 on n0: ValueError: bad"


def test_nothing_is_launched_over_a_lock_that_cannot_be_read(tmp_path: Path) -> None:
    from fashion_dist.cluster import run_lock

    run = folder(tmp_path, state="running")
    run.lock.write_text('{"job": 5}')
    with pytest.raises(ConfigError, match=r"lock\.json: a job is not '5'"):
        run_lock.acquire(run, JobRef("slurm", "8"), 0, 2)
    plan = launcher.RunSpec(None, tmp_path, "", run, "local", Resources(), launcher.RuntimeOptions())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"run r is unreadable: .*lock\.json: "):
        launcher._already(plan, None)
    assert run.lock.read_text() == '{"job": 5}'


def test_a_state_without_a_number_is_never_written(tmp_path: Path) -> None:
    from fashion_dist.run_status import StateFile

    state = StateFile(tmp_path / "state.json", 1)
    state.update(phase="training", best={"metric": "f1", "value": float("nan"), "epoch": 1})
    assert RunState.load(tmp_path / "state.json") == dataclasses.replace(state.state, best={})


SWEEP_FILES = [
    ("sweep.json", "[" * 100_000, "nested too deep"),
    ("sweep.json", '{"name": 5}', "name = 5"),
    ("arrays.json", '{"arrays": 5}', "arrays is no list"),
    ("arrays.json", '{"arrays": [{"numbers": "0-99999999999"}]}', "allowed: 0-2,5"),
    ("arrays.json", '{"arrays": [{"numbers": "0", "cluster": "slurm"}]}', "first is missing"),
]


@pytest.mark.parametrize(("name", "content", "why"), SWEEP_FILES)
def test_a_sweep_that_cannot_be_read_is_one_row(name: str, content: str, why: str, tmp_path: Path) -> None:
    bad, good = make_sweep(tmp_path, name="a"), make_sweep(tmp_path, name="b")
    make_trial(good, 0, "done", [0.5])
    (bad.folder.path / name).write_text(content)
    home = Home(tmp_path)
    seen = overview.look_at_all(home.all_runs(), home.all_sweeps())
    text = overview.draw([], seen, home, 400)
    (line,) = [line for line in text.splitlines() if line.startswith("a ")]
    assert "unreadable: " in line and f"{bad.folder.path / name}: " in line and why in line
    assert "1 done, 2 new" in text and all(json.dumps(sweep.to_json()) for sweep in seen.sweeps)


@needs_root
def test_folders_that_another_user_closed_are_one_row_each() -> None:
    shared = Path(tempfile.mkdtemp(dir="/tmp"))  # pytest's own folders are closed to other users
    try:
        sweep = make_sweep(shared, name="closed")
        make_trial(sweep, 0, "done", [0.5])
        make_trial(make_sweep(shared, name="open", train__epochs=7), 0, "done", [0.5])
        closed = [sweep.folder.path, folder(shared, state="running").path]
        for path in [shared, *shared.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        for path in closed:
            path.chmod(0o700)

        def look() -> str:
            home = Home(shared)
            return overview.draw([], overview.look_at_all(home.all_runs(), home.all_sweeps()), home, 400)

        said = as_somebody(look).splitlines()
        for path, name in zip(closed, ("sweep.json", "config.json"), strict=True):
            (line,) = [line for line in said if line.startswith(f"{path.name} ")]
            assert line.endswith(f"{path / name}: Permission denied"), line
        assert any(line.startswith("open ") and "1 done, 2 new" in line for line in said)
    finally:
        shutil.rmtree(shared)


def test_a_sweep_that_is_gone_is_an_error_where_it_is_asked_for(tmp_path: Path) -> None:
    from fashion_dist.sweep.view import read_sweep_view

    with pytest.raises(RunError, match=r"sweep\.json cannot be read"):
        read_sweep_view(Home(tmp_path).sweep_dir("x"))
