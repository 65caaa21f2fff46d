"""Slow and failing storage (storage/storage.c) under what users type: nothing is lost, each error is one sentence."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import storage
from cluster_home import Said, Workplace, read
from fault_matrix import Figures
from storage import Fault, Storage
from trial import Trial

from fashion_dist.io import write_json
from fashion_dist.paths import RunDir

pytestmark = [
    pytest.mark.skipif(storage.compiler() is None, reason="a C compiler makes the slow storage"),
    pytest.mark.fault(32),
]
INHERITED = ("LD_PRELOAD", *(f"STORAGE_{name}" for name in ("ROOT", "META_US", "READ_US", "SHORT", "FAULTS")))


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return storage.build(tmp_path_factory.mktemp("storage"))


def launched(trial: Trial, slow: Storage) -> Said:
    """The run to its end, launcher and ranks on that storage."""
    inherit = [word for name in INHERITED for word in ("--export", name)]
    return trial.launch("--wait", *inherit, variables=slow.environment(), pace_s=0)


def test_on_slow_storage_with_short_reads_everything_works_and_nothing_is_lost(
    trial: Trial, library: Path, figures: Figures
) -> None:
    tars = f"{trial.place.home}/shards/*.tar"
    faults = [Fault("read", errno.EINTR, "*", 20, 3), Fault("read", errno.ESTALE, tars, 9, 1)]
    slow = Storage(library, [trial.place.home], meta_ms=2, read_ms=5, short=65536, faults=faults)
    said = launched(trial, slow)
    assert said.status == 0, (said.err, read(trial.run / "state.json"))
    trial.ended_well(figures)
    for command in ("status", "collect"):
        done = trial.place.do(trial.place.argv(command, trial.run.name), **slow.environment())
        assert done.status == 0, done.err
    plain = trial.undisturbed(2).place
    assert plain.do(plain.argv("collect", plain.run().name)).status == 0
    answers = [(run / "submission" / "category.csv").read_bytes() for run in (trial.run, plain.run())]
    assert answers[0] == answers[1]


@pytest.mark.slow
def test_a_sweep_on_slow_storage_ends_with_all_its_trials(trial: Trial, library: Path) -> None:
    slow = Storage(library, [trial.place.home], meta_ms=2, read_ms=5, short=65536)
    words = ["--task", "deepfashion", "--cluster", "local", "--wandb", "off", "--wait", "--json"]
    words += [word for name in INHERITED for word in ("--export", name)]
    said = trial.place.do(
        trial.place.argv("sweep", *words, "--set", *trial.settings, "optim.lr=0.1,0.2"), **slow.environment()
    )
    assert said.status == 0, said.err
    assert [read(run / "state.json")["state"] for run in trial.place.runs] == ["done", "done"]


WATCH = """
import sys, time
from pathlib import Path
from fashion_dist.cluster import failures
from fashion_dist.cluster.heartbeat import HeartbeatThread
from fashion_dist.cluster.job_record import LockOwner
from fashion_dist.cluster.rank_env import RankInfo
from fashion_dist.cluster.slurm import JobRef
from fashion_dist.paths import RunDir

run, job = RunDir(Path(sys.argv[1])), JobRef("slurm", "7")
HeartbeatThread(run, RankInfo(1, 512, 1, 8, 0, 64, job), LockOwner(job, 0, 1, "h"), stalled_s=3, beat_s=0.5).start()
while not (found := failures.read(run, 1)):
    time.sleep(0.1)
time.sleep(1)
print(*(failure.rank for failure in found))
"""


def test_the_watch_over_512_ranks_names_the_one_that_stalls_at_6_ms_a_call(library: Path, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for folder in (run.heartbeats, run.errors):
        folder.mkdir()
    slow = Storage(library, [tmp_path], meta_ms=6, read_ms=6, faults=[Fault("list", errno.EIO, "*/heartbeats", 2, 1)])
    watch = subprocess.Popen(
        [sys.executable, "-c", WATCH, str(tmp_path)], env={**os.environ, **slow.environment()}, text=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    beat, until = 0, time.monotonic() + 60
    while watch.poll() is None and time.monotonic() < until:
        beat += 1
        for rank in range(512):
            values = {"attempt": 1, "beat": beat if rank != 300 else 1, "steps": 1, "host": "h", "where": "here"}
            write_json(run.heartbeat(rank), values)
        time.sleep(0.5)
    watch.kill()
    assert watch.communicate()[0].split() == ["300"]


@pytest.mark.slow
def test_a_quota_that_ends_at_a_checkpoint_is_told_and_the_run_goes_on_from_the_one_before(
    trial: Trial, library: Path, figures: Figures
) -> None:
    full = Fault("write", errno.EDQUOT, f"{trial.place.home}/runs/*/checkpoints/*", 5)
    said = launched(trial, Storage(library, [trial.place.home], faults=[full]))
    message = read(trial.run / "state.json")["message"]
    assert said.status == 1 and "your quota is used up at checkpoint" in message and "\n" not in message
    assert trial.launch("--wait", pace_s=0).status == 0
    trial.ended_well(figures)
    figures.holds("I3")


@pytest.mark.parametrize(
    ("command", "kind", "number", "place", "told"),
    [
        ("launch", "read", errno.EIO, "shards/*/manifest.json", "manifest.json: Input/output error"),
        ("launch", "write", errno.EDQUOT, "runs/*/.job.json*", "job.json: Disk quota exceeded"),
        ("launch", "open", errno.ESTALE, "shards/*/index.parquet", "index.parquet: Stale file handle"),
        ("status", "read", errno.EIO, "runs/*/metrics.jsonl", "metrics.jsonl: Input/output error"),
        ("collect", "write", errno.ENOSPC, "runs/*/submission/*", "No space left on device"),
        ("collect", "open", errno.EIO, "runs/*/predictions/*", "Input/output error"),
    ],
)
def test_what_the_storage_refuses_is_one_sentence_with_the_file(
    undisturbed: Callable[[int], Trial], library: Path, tmp_path: Path,
    command: str, kind: str, number: int, place: str, told: str,
) -> None:  # fmt: skip
    plain = undisturbed(2).place
    home = tmp_path / "home"
    shutil.copytree(plain.home, home)
    here = Workplace(home)
    words = here.argv(command, plain.run().name)
    if command == "launch":
        words = here.launch_argv("--fresh", settings=(*undisturbed(2).settings, "train.epochs=1"))
    before = sorted(path.name for path in here.run().iterdir())
    said = here.do(words, **Storage(library, [home], faults=[Fault(kind, number, f"{home}/{place}")]).environment())
    last = said.err.splitlines()[-1]
    assert said.status in (1, 2) and last.startswith(f"error: {home}") and told in last, said
    assert "Traceback" not in said.err
    assert command == "launch" or sorted(path.name for path in here.run().iterdir() if path.name != "submission") == [
        name for name in before if name != "submission"
    ]
