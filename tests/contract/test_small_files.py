"""Every small file of a run, a sweep, a shard set and a half packed one, damaged in each of many ways.

Whoever reads it goes on or says one sentence; overviews always go on, and name the file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damaged_json import WHOLE, damaged, flip
from made_sweep import make_run as make_trial
from made_sweep import make_sweep
from report_runs import make_run

from fashion_dist import tasks
from fashion_dist.cluster.job_record import JobRecord, LockOwner
from fashion_dist.cluster.resources import Resources
from fashion_dist.cluster.slurm import JobRef
from fashion_dist.errors import ConfigError, FashionDistError, ShardsError
from fashion_dist.monitor import overview
from fashion_dist.paths import Home, RunDir, SweepDir
from fashion_dist.report.run_data import read_facts
from fashion_dist.results.media import _summary
from fashion_dist.runs import open_run, require_weights
from fashion_dist.sweep import decisions
from fashion_dist.sweep.study import Study
from fashion_dist.sweep.sweep_record import Sweep
from fashion_dist.tracking.wandb_run import SyncRecord
from fashion_dist.tracking.wandb_sync import is_synced
from fashion_dist.train.checkpoint import Checkpoints
from shards import PackOptions, ShardSet, pack, writer
from shards.pack_plan import Plan
from shards.verify import verify

REFUSALS = (FashionDistError, ShardsError, OSError)


def quietly(read: Callable[[], object]) -> None:
    with contextlib.suppress(*REFUSALS), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read()


@pytest.fixture(scope="module")
def run(mini_set: Callable[[str], ShardSet], tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    recipe = tasks.load("clipart").recipe.override(["data.image_px=16", "train.epochs=3"])
    folder = Home(tmp_path_factory.mktemp("home")).run_dir("clipart-1")
    made = make_run(folder.path, dataclasses.replace(recipe, dataset="clipart"), mini_set("clipart"), {})
    JobRecord("local", Resources(), job=JobRef("local", "999999999", "elsewhere", 1)).write(made)
    owner = LockOwner(JobRef("local", "999999999", "elsewhere", 1), 0, 2, "h")
    made.lock.write_text(json.dumps(dataclasses.asdict(owner)))
    note = SyncRecord(made.synced, "server x")
    note.add("train 10 1")
    note.arrived(1)
    with contextlib.closing(Checkpoints(made.checkpoints)) as checkpoints:
        facts = {"data_hash": mini_set("clipart").data_hash, "config": recipe.plain()}
        for step in (1, 2):
            checkpoints.save("step", step, {"step": step}, facts)
            checkpoints.wait()
    return made


def read_run(run: RunDir) -> None:
    seen = overview.look_at_all([run], [])
    assert overview.draw([], seen, run.home, 120)
    assert overview.draw([run], seen, run.home, 120)
    for read in (
        lambda: require_weights(open_run(run)),
        lambda: [facts.at_best("val") for facts in read_facts([run])],
        lambda: read_facts([run])[0].wall_s,
        lambda: is_synced(run, None), lambda: _summary(run),
        lambda: SyncRecord(run.synced, "server x").agree(1, []),
    ):  # fmt: skip
        quietly(read)


@pytest.mark.parametrize("name", ["config", "run", "job", "state", "attempts", "lock", "metrics", "synced"])
def test_a_damaged_file_of_a_run_ends_no_overview(name: str, run: RunDir) -> None:
    path = getattr(run, name)
    content = path.read_bytes()
    try:
        for bad in damaged(content, 60, seed=len(name)):
            path.write_bytes(bad)
            read_run(run)
    finally:
        path.write_bytes(content)


def test_an_overview_names_the_file_that_it_cannot_read(run: RunDir, tmp_path: Path) -> None:
    good = RunDir(shutil.copytree(run.path, tmp_path / "runs" / "good"))
    bad = RunDir(shutil.copytree(run.path, tmp_path / "runs" / "bad"))
    bad.state.write_text('{"state": "running", "best": 7, "attempt": 1}')
    views = {view.run_id: view for view in overview.look_at_all([bad, good], []).runs}
    assert views["good"].state == "done"
    assert views["bad"].state == "unreadable" and f"unreadable: {bad.state}: best = 7" in views["bad"].detail


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(run: RunDir) -> None:
    newest = sorted(run.checkpoints.glob("step-*"))[-1] / "manifest.json"
    content = newest.read_bytes()
    try:
        for bad in (*WHOLE, *damaged(content, 60, seed=3)):
            newest.write_bytes(bad)
            with contextlib.closing(Checkpoints(run.checkpoints)) as checkpoints:
                found = checkpoints.load("step")
            assert found is not None and type(found[0].step) is int
            assert found[1] == {"step": 1 if found[0].path != newest.parent else 2}
            if bad in WHOLE:
                assert found[0].step == 1
            opened = open_run(run)
            quietly(lambda found=found, opened=opened: found[0].require_own(opened.config, opened.shard_set.manifest))  # type: ignore[misc]
    finally:
        newest.write_bytes(content)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> SweepDir:
    raw = {
        "method": "bayes", "run_cap": 3, "metric": {"name": "accuracy", "goal": "maximize"},
        "parameters": {"optim.lr": {"min": 0.001, "max": 0.1}}, "early_terminate": {"type": "hyperband", "min_iter": 1},
    }  # fmt: skip
    made = make_sweep(tmp_path_factory.mktemp("home"), raw)
    Study(made).create()
    Study(made).begin(0)
    make_trial(made, 0, "done", [0.1, 0.2])
    decisions.note(made.folder, 0, "is given up", "x")
    array = {"cluster": "local", "first": 0, "numbers": "0-2", "resources": {}, "options": {}, "max_parallel": 1,
             "job": {"cluster": "local", "job_id": "999999999", "host": "h", "started": 1}}  # fmt: skip
    made.folder.arrays.write_text(json.dumps({"arrays": [array]}))
    queue = {"job": array["job"], "started": [0], "refused": {"1": "no"}}
    made.folder.queue.write_text(json.dumps(queue))
    return made.folder


def read_sweep(folder: SweepDir) -> None:
    seen = overview.look_at_all([], [folder])
    assert len(seen.sweeps) == 1 and overview.draw([], seen, folder.home, 120)
    quietly(lambda: [t.run_id for n in range(3) if (t := Sweep.read(folder).trial(n)) is not None])


@pytest.mark.parametrize("name", ["sweep", "arrays", "queue", "decisions", "trial"])
def test_a_damaged_file_of_a_sweep_ends_no_overview(name: str, sweep: SweepDir) -> None:
    path = sweep.trial(0) if name == "trial" else getattr(sweep, name)
    content = path.read_bytes()
    try:
        for bad in damaged(content, 40, seed=len(name)):
            path.write_bytes(bad)
            read_sweep(sweep)
    finally:
        path.write_bytes(content)


def test_a_damaged_journal_ends_no_trial(sweep: SweepDir) -> None:
    """Lines that are no operation are passed over; a trial whose own line is lost is told so."""
    content = sweep.journal.read_bytes()
    made = Sweep.read(sweep)
    refused = 0
    try:
        for bad in (*damaged(content, 25, seed=1), b"\n" + content, content + b"torn", b"[]\n".join([content, b""])):
            sweep.journal.write_bytes(bad)
            try:
                Study(made).begin(0)
            except REFUSALS:
                refused += 1
    finally:
        sweep.journal.write_bytes(content)
    assert Study(made).begin(0) == made.trial(0)
    assert refused < len(WHOLE) + 15


@pytest.fixture(scope="module")
def packed(mini_set: Callable[[str], ShardSet], tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = mini_set("clipart").path.parents[1] / "raw" / "clipart"
    out = tmp_path_factory.mktemp("packed") / "set"
    pack("clipart", source, out, PackOptions(shard_mb=0.05))
    return out


def everything(folder: Path) -> list[Any]:
    """All that a run reads of a set but its images."""
    shard_set = ShardSet.open(folder)
    found: list[Any] = [shard_set.data_hash, shard_set.splits, dict(shard_set.schema.names)]
    for name in shard_set.splits:
        part = shard_set.split(name)
        found += [list(part.keys), *(getattr(part, f).tolist() for f in ("shard", "offset", "size", "crc32", "width"))]
        found += [values.tolist() for values in part.columns(*part.schema.columns).values()]
    return found


@pytest.mark.parametrize(("name", "count"), [("manifest.json", 100), ("index.parquet", 150)])
def test_a_damaged_set_is_read_as_it_was_or_refused(name: str, count: int, packed: Path) -> None:
    path, truth = packed / name, everything(packed)
    content = path.read_bytes()
    chosen = random.Random(5)
    bad = damaged(content, count, 2) if name.endswith("json") else (flip(content, chosen) for _ in range(count))
    refused = 0
    try:
        for case in bad:
            path.write_bytes(case)
            try:
                assert everything(packed) == truth
            except ShardsError:
                refused += 1
    finally:
        path.write_bytes(content)
    assert refused > count / 5


class Killed(BaseException):
    pass


def test_a_damaged_half_packed_set_is_packed_as_if_it_were_whole(
    packed: Path, mini_set: Callable[[str], ShardSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, truth = mini_set("clipart").path.parents[1] / "raw" / "clipart", everything(packed)

    def die(*_: object) -> None:
        raise Killed

    half = tmp_path / "half"
    with monkeypatch.context() as patched:
        patched.setattr(writer, "finish", die)
        with pytest.raises(Killed):
            pack("clipart", source, half, PackOptions(shard_mb=0.05))
    assert isinstance(Plan.load(half / ".packing"), Plan)
    chosen = random.Random(7)
    names = sorted(p.name for p in (half / ".packing").iterdir() if p.name != "lock" and p.suffix != ".tar")
    rows = next(name for name in names if name.endswith("rows.json"))
    for at, name in enumerate([*chosen.sample(names, 8), "plan.json", "order.npy", "records.bin", rows]):
        folder = shutil.copytree(half, tmp_path / f"half-{at}")
        path = folder / ".packing" / name
        path.write_bytes(flip(path.read_bytes(), chosen) if at % 2 else path.read_bytes()[: chosen.randrange(40)])
        pack("clipart", source, folder, PackOptions(shard_mb=0.05))
        assert everything(folder) == truth, name
        assert verify(folder) == [], name


def test_a_flipped_bit_in_predictions_gives_no_other_submission(run: RunDir, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from fashion_dist.results.prediction_files import PredictionFiles
    from shards.shard_set import Keys

    keys = [f"k{i}" for i in range(200)]
    split: Any = type("Split", (), {"keys": Keys(pa.chunked_array([keys])), "__len__": lambda _: len(keys)})()

    def read_predictions() -> dict[str, np.ndarray]:
        return dict(PredictionFiles(folder, split).require_complete().columns())

    folder = run.predictions("odd")
    folder.mkdir(parents=True)
    path = folder / "rank_0.parquet"
    rng = np.random.default_rng(0)
    table = pa.table({"key": keys, "label": rng.integers(0, 9, 200)})
    pq.write_table(table, path, write_page_checksum=True)
    truth, content = read_predictions(), path.read_bytes()
    chosen, refused = random.Random(3), 0
    for _ in range(200):
        path.write_bytes(flip(content, chosen))
        try:
            found = read_predictions()
        except (ShardsError, FashionDistError):
            refused += 1
            continue
        assert found.keys() != truth.keys() or all((found[name] == truth[name]).all() for name in truth)
    assert refused > 50


@pytest.mark.parametrize(("settings", "told"), [
    (["train.epochs=" + "9" * 5000], "takes"), (["optim.lr=inf"], "finite"), (["optim.lr=nan"], "finite"),
    (["train.seed=99999999999999999999"], "finite"), (["data.mean=1e9,0,0"], "data.mean"),
])  # fmt: skip
def test_numbers_of_settings_are_finite_and_bounded(settings: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        tasks.load("clipart").recipe.override(settings)


def test_numbers_of_thousands_of_digits_are_told_in_a_sentence() -> None:
    """`int` raises for them, and takes the digits of other scripts."""
    from fashion_dist.cluster import sbatch_options
    from shards.labels import natural

    for digits in ("9" * 5000, "\N{SUPERSCRIPT TWO}"):
        for read in (
            lambda digits=digits: sbatch_options.minutes(digits),
            lambda digits=digits: sbatch_options.gpus(f"a100:{digits}"),
            lambda digits=digits: sbatch_options.layer({"nodes": digits}),
            lambda digits=digits: tasks.load("clipart").recipe.override([f"model.freeze=epochs:{digits}"]),
        ):  # fmt: skip
            with pytest.raises(ConfigError):
                read()
    assert sorted(["img10", "img2", "img" + "9" * 5000], key=natural)[:2] == ["img2", "img10"]
