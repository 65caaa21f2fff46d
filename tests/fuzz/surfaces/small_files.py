"""The small files of runs, sweeps, checkpoints and sets, each damaged where it lies.

What has checksums is read as it was or refused; of the rest, what is read has the types that it says, and no overview
ends.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import made_sweep
import numpy as np
import pyarrow.parquet as pq
import report_runs
import torch
from in_place import REFUSALS, Row, surface
from safetensors.torch import save_file
from sources import write_csv_source

from fashion_dist import tasks
from fashion_dist.cluster import failures, machine
from fashion_dist.cluster.job_record import JobRecord, LockOwner
from fashion_dist.cluster.resources import Resources
from fashion_dist.cluster.run_snapshot import RunSnapshot
from fashion_dist.cluster.slurm import JobRef
from fashion_dist.io import write_json
from fashion_dist.models import pretrained
from fashion_dist.models.state_dict import read_state_dict
from fashion_dist.monitor import overview
from fashion_dist.paths import Home, RunDir, SweepDir
from fashion_dist.report.run_data import read_facts
from fashion_dist.results import collect
from fashion_dist.results.media import _summary
from fashion_dist.results.prediction_files import PredictionFiles
from fashion_dist.runs import learned_schema, open_run, own_config
from fashion_dist.sweep import decisions
from fashion_dist.sweep.study import Study
from fashion_dist.sweep.sweep_record import Sweep, read_arrays
from fashion_dist.sweep.view import _LocalQueue
from fashion_dist.tracking.metrics_log import read_metrics
from fashion_dist.tracking.wandb_run import SyncLine, SyncRecord
from fashion_dist.tracking.wandb_sync import is_synced
from fashion_dist.train.checkpoint import Checkpoints
from shards import PackOptions, ShardSet, pack, writer


def quietly(read: Callable[[], object]) -> object:
    with contextlib.suppress(*REFUSALS):
        return read()
    return None


def run_rows(folder: Path, shard_set: ShardSet) -> list[Row]:
    """The files of a run, read by overviews, reports and a job that goes on."""
    config = replace(tasks.load("deepfashion").recipe.override(["train.epochs=3"]), dataset="deep_fashion")
    made = Home(folder / "home").run_dir("deepfashion-1")
    run = report_runs.make_run(made.path, config, shard_set, {}, state="failed", message="x")
    job = JobRef("local", "999999999", "elsewhere", 1)
    JobRecord("local", Resources(), job=job).write(run)
    run.lock.write_text(json.dumps(asdict(LockOwner(job, 0, 2, "h"))))
    note = SyncRecord(run.synced, "server x")
    note.add("train 10 1")
    note.arrived(1)
    write_json(run.schema, shard_set.schema.to_json())
    for path in (run.heartbeats, run.logs):
        path.mkdir()
    write_json(run.heartbeat(1), asdict(machine.Beat(2, 1, 1, "h", "here", ("USR2",), 0.5)))
    of_source = run.named("later", "json")
    of_source.parent.mkdir()
    write_json(of_source, {"shard_set": str(shard_set.path), "split": "train", "source": "pictures", "samples": 3})
    exits = failures.exits_file(run.logs, "999999999")
    write_json(exits, {"exit_codes": [0, 137]})

    def look() -> object:
        seen = overview.look_at_all([run], [])
        assert overview.draw([run], seen, run.home, 120)
        snapshot = RunSnapshot.read(run)
        return [snapshot.record, snapshot.progress, snapshot.attempts, snapshot.owner, snapshot.reports]

    def report() -> object:
        facts = read_facts([run])[0]
        quietly(lambda: (facts.at_best("val"), facts.wall_s))
        return [read_metrics(run.metrics), quietly(lambda: _summary(run))]

    def sync() -> object:
        quietly(lambda: SyncRecord(run.synced, "server x").agree(1, []))
        return [is_synced(run, None), SyncLine.read(run.synced)]

    def go_on() -> object:
        return [own_config(run), open_run(run).config]

    return [
        *(Row(getattr(run, name), look) for name in ("config", "job", "state", "attempts", "lock")),
        Row(run.error(0), look), Row(exits, look), Row(run.config, go_on), Row(run.run, go_on), Row(run.run, report),
        Row(run.metrics, report), Row(run.synced, sync), Row(run.schema, lambda: learned_schema(run)),
        Row(of_source, lambda: collect.open_predicted(run.home, run.run_id, "later")[1]),
        Row(run.heartbeat(1), lambda: [machine.Beat.read(run.heartbeat(1), 2), machine.cpu_seconds(run, 2)]),
    ]  # fmt: skip


def sweep_rows(folder: Path) -> list[Row]:
    """The files of a sweep whose trials are chosen as it goes."""
    raw = {
        "method": "bayes", "run_cap": 3, "metric": {"name": "accuracy", "goal": "maximize"},
        "parameters": {"optim.lr": {"min": 0.001, "max": 0.1}}, "early_terminate": {"type": "hyperband", "min_iter": 1},
    }  # fmt: skip
    made = made_sweep.make_sweep(folder / "searched", raw)
    Study(made).create()
    Study(made).begin(0)
    made_sweep.make_run(made, 0, "done", [0.1, 0.2])
    decisions.note(made.folder, 0, "is given up", "x")
    where: SweepDir = made.folder
    job = {"cluster": "local", "job_id": "999999999", "host": "h", "started": 1}
    array = {"cluster": "local", "first": 0, "numbers": "0-2", "resources": {}, "options": {}, "max_parallel": 1}
    where.arrays.write_text(json.dumps({"arrays": [{**array, "job": job}]}))
    where.queue.write_text(json.dumps({"job": job, "started": [0], "refused": {"1": "no"}}))

    def look() -> object:
        seen = overview.look_at_all([], [where])
        assert len(seen.sweeps) == 1 and overview.draw([], seen, where.home, 120)
        return quietly(lambda: [Sweep.read(where).trial(0), _LocalQueue.read(where, read_arrays(where))])

    def begin() -> object:
        return asdict(Study(made).begin(0))

    return [
        *(Row(getattr(where, name), look) for name in ("sweep", "arrays", "decisions", "queue")),
        Row(where.trial(0), look), Row(where.journal, begin),
    ]  # fmt: skip


def checkpoint_rows(folder: Path) -> list[Row]:
    """The newer of two checkpoints: it, or the one before."""
    with contextlib.closing(Checkpoints(folder / "checkpoints")) as checkpoints:
        for step in (1, 2):
            checkpoints.save("step", step, {"w": torch.full((9,), float(step)), "step": step}, {"epoch": step})
            checkpoints.wait()
    newest = folder / "checkpoints" / "step-00000002"

    def read() -> object:
        with contextlib.closing(Checkpoints(folder / "checkpoints")) as checkpoints:
            found = checkpoints.load("step")
        assert found is not None
        step = 2 if found[0].path == newest else 1
        assert found[1]["step"] == step and found[1]["w"].tolist() == [float(step)] * 9, found
        assert type(found[0].step) is int
        return None

    return [Row(newest / name, read) for name in ("manifest.json", "state.pt")]


def weights_rows(folder: Path) -> list[Row]:
    """Files of tensors, with the hash that the launch noted and without."""
    state = {"a.weight": torch.arange(60.0).reshape(6, 10), "a.bias": torch.ones(6), "n": torch.tensor(3)}
    paths = [folder / "w.safetensors", folder / "w.pt", folder / "old.pt"]
    save_file(state, paths[0])
    torch.save(state, paths[1])
    torch.save({"model": state}, paths[2], _use_new_zipfile_serialization=False)

    def read(path: Path, sha256: str = "") -> object:
        found = read_state_dict(path, sha256)
        assert all(type(name) is str and torch.isfinite(value).all() for name, value in found.items())
        return {name: value.tolist() for name, value in found.items()} if sha256 else None

    def of(path: Path, sha256: str) -> Row:
        return Row(path, lambda: read(path, sha256), exact=bool(sha256))

    hashes = [pretrained.sha256_of(path, folder / "none") for path in paths]
    return [of(path, told) for path, digest in zip(paths, hashes, strict=True) for told in (digest, "")]


def prediction_rows(run: RunDir, shard_set: ShardSet) -> list[Row]:
    """Prediction files as a job writes them."""
    split = shard_set.split("train")
    folder = run.predictions("train")
    columns = {"label": np.arange(len(split)) % 7, "p": np.linspace(0, 1, 3 * len(split)).reshape(-1, 3)}
    report_runs.write_answers(run, shard_set, "train", columns)
    path = folder / "rank_0.parquet"
    table = pq.read_table(path)
    pq.write_table(table, path, write_page_checksum=True)

    def read() -> object:
        files = PredictionFiles(folder, split).require_complete()
        whole = {name: values.tolist() for name, values in files.columns().items()}
        blocks = [{n: v.tolist() for n, v in block.items()} for _, block in files.blocks(list(whole), 7)]
        assert {name: [v for block in blocks for v in block[name]] for name in whole} == whole
        return whole

    return [Row(path, read, exact=True)] * 3


def half_packed_rows(folder: Path, source: Path) -> list[Row]:
    """What a packer that was killed left: packing goes on and ends with the same set."""

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    half, finish = folder / "half", writer.finish
    writer.finish = die  # type: ignore[assignment]
    with contextlib.suppress(Killed):
        pack("deep_fashion", source, half, PackOptions())
    writer.finish = finish

    def packed(place: Path) -> dict[str, bytes]:
        pack("deep_fashion", source, place, PackOptions())
        return {path.name: path.read_bytes() for path in sorted(place.iterdir())}

    def again() -> object:
        with tempfile.TemporaryDirectory(dir=folder) as other:
            return packed(Path(shutil.copytree(half, Path(other) / "set")))

    names = sorted(path.name for path in (half / ".packing").iterdir() if path.name != "lock" and path.suffix != ".tar")
    return [Row(half / ".packing" / name, again, exact=True) for name in names]


def make(folder: Path) -> Sequence[Row]:
    """All of them; the runs' twice, for there are the most readers."""
    source = write_csv_source(folder / "deep_fashion", 12, 6, 5)
    pack("deep_fashion", source, folder / "home" / "shards" / "deep_fashion", PackOptions())
    shard_set = ShardSet.open(folder / "home" / "shards" / "deep_fashion")
    run = run_rows(folder, shard_set)
    return [
        *run * 2, *sweep_rows(folder), *checkpoint_rows(folder), *weights_rows(folder),
        *prediction_rows(RunDir(run[0].path.parent), shard_set), *half_packed_rows(folder, source),
    ]  # fmt: skip


SURFACE = surface(make)
