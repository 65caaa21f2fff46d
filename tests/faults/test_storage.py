"""Slow and failing storage (storage/storage.c) under what users type: nothing is lost, each error is one sentence."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import storage
from cluster_home import Said, Workplace, read
from fault_matrix import Figures
from storage import Fault, Storage
from trial import Trial

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
