"""Run folders as training leaves them, with answers that a test knows, for tests of the report."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fashion_dist.cluster import failures
from fashion_dist.config import Config
from fashion_dist.errors import RunError
from fashion_dist.models import registry
from fashion_dist.paths import RunDir
from fashion_dist.train.inference import _arrow
from shards import ShardSet

STARTED = 1_790_000_000.0


def make_run(
    folder: Path,
    config: Config,
    shard_set: ShardSet,
    answers: Mapping[str, Mapping[str, np.ndarray]],
    *,
    state: str = "done",
    scores: Sequence[float] = (0.2, 0.5, 0.4),
    monitor: str = "score",
    message: str = "",
    damaged: int = 0,
) -> RunDir:
    """A run that measured `scores` on validation after its epochs, and answered `answers` (split -> columns)."""
    run = RunDir(folder)
    folder.mkdir(parents=True)
    run.config.write_text(config.to_json())
    made = {"run_id": run.run_id, "shard_set": str(shard_set.path), "data_hash": shard_set.data_hash,
            "command": f"python jobs/launch.py --task {config.task}", "created": STARTED}  # fmt: skip
    run.run.write_text(json.dumps(made))
    lines: list[dict[str, Any]] = []
    for epoch, score in enumerate(scores, 1):
        attempt = 1 if epoch < 3 else 2
        head = {"step": 10 * epoch, "epoch": epoch, "attempt": attempt, "time": STARTED + 60 * epoch}
        seen = {"loss": 2 / epoch, "accuracy": score / 2 + 0.1, "lr": 0.1 / epoch, "samples_per_s": 50.0 + epoch}
        lines.append({"split": "train", **head, **seen})
        lines.append({"split": "val", **head, "loss": 2.1 / epoch, monitor: score, "accuracy": score / 2})
    texts = [json.dumps(line) for line in lines] + ['{"split": "val", "st'] * damaged
    run.metrics.write_text("".join(text + "\n" for text in texts))
    best = int(np.argmax(scores)) + 1 if scores else 0
    told = {"metric": monitor, "value": max(scores), "epoch": best} if scores else {}
    values = {"state": state, "epoch": len(scores), "epochs": config.train.epochs, "best": told, "message": message,
              "attempt": 2, "updated": time.time()}  # fmt: skip
    run.state.write_text(json.dumps(values))
    job = {"cluster": "local", "job_id": "999999", "host": "elsewhere", "started": 1}
    starts = []
    for n, end in ((1, "time limit"), (2, state)):
        began = STARTED + 100 * (n - 1)
        where = {"job": job, "host": "h", "nodes": "h", "node_count": 2, "ranks": 2}
        ended = {"end": end, "ended": began + 90, "cpu_s": 30.0, "message": ""}
        starts.append({"attempt": n, **where, "started": began, **ended})
    run.attempts.write_text(json.dumps({"attempts": starts}))
    if state == "failed":
        failures.report(run, 0, 2, RunError(message))
    for split, columns in answers.items():
        write_answers(run, shard_set, split, columns)
    return run


def write_answers(run: RunDir, shard_set: ShardSet, split: str, columns: Mapping[str, np.ndarray]) -> None:
    """The columns, one row for each sample of the split, in two files and out of order."""
    part = shard_set.split(split)
    folder = run.predictions(split)
    folder.mkdir(parents=True)
    order = np.random.default_rng(5).permutation(len(part))
    for rank in (0, 1):
        rows = order[rank::2]
        table = {"index": pa.array(rows), "key": pa.array([part.keys[int(i)] for i in rows])}
        table |= {name: _arrow(values[rows]) for name, values in columns.items()}
        pq.write_table(pa.table(table), folder / f"rank_{rank}.parquet")


def guess(shard_set: ShardSet, split: str, seed: int = 0, right: float = 0.7) -> dict[str, np.ndarray]:
    """Columns of the task deepfashion that are right in about that share."""
    rng = np.random.default_rng(seed)
    part = shard_set.split(split)
    facts = part.columns("category", "attributes")
    count, width = len(shard_set.schema.names["category"]), facts["attributes"].shape[1]
    logits = rng.normal(size=(len(part), count))
    hit = rng.random(len(part)) < right
    logits[np.flatnonzero(hit), np.maximum(facts["category"], 0)[hit]] += 3
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    attribute = np.clip(0.7 * (facts["attributes"] == 1) + 0.4 * rng.random((len(part), width)), 0.01, 0.99)
    chosen = attribute >= 0.4
    return {
        "category": probability.argmax(axis=1), "category_probability": probability.astype(np.float32),
        "attributes": chosen, "attribute_probability": attribute.astype(np.float32),
    }  # fmt: skip


def with_settings(config: Config, *settings: str) -> Config:
    """The configuration with `key=value` settings, for small pictures."""
    return registry.resolve(config.override(["data.image_px=32", "train.epochs=3", *settings]))
