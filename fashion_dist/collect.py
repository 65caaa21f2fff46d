"""From prediction files to submission files, only when every sample of the split is there exactly once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fashion_dist.config import Config
from fashion_dist.errors import InputError, RunError
from fashion_dist.paths import RunDir
from fashion_dist.tasks import load
from fashion_dist.tracking import write_atomic
from shards import ShardSet, Split


def collect(
    run: RunDir, config: Config, shard_set: ShardSet, out: Path | None = None, split: str = "test"
) -> list[Path]:
    """Write the task's submission files for `split` into `out` (default: the run's folder); returns their paths.

    Raises:
        InputError: the shard set has no such split, or the run has not predicted it yet.
        RunError: a sample of the split is missing or doubled in the predictions; nothing is written.
    """
    part = shard_set.split(split)
    columns = read_predictions(run, split)
    index = _order(columns, part, run.predictions(split))
    ordered = {name: values[index] for name, values in columns.items()}
    facts = part.facts(*shard_set.schema.facts)
    files = load(config.task).submission({**facts, **ordered, "key": np.asarray(part.keys)}, shard_set.schema, config)
    folder = out or run.submission
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        write_atomic(folder / name, text)
    return [folder / name for name in files]


def read_predictions(run: RunDir, split: str, wait_s: float = 0.0) -> dict[str, np.ndarray]:
    """The prediction columns of all ranks, one behind the other.

    Args:
        run: the run's folder.
        split: name of the predicted split.
        wait_s: longest wait for the files, which a network filesystem may show late.

    Raises:
        InputError: there are none.
    """
    import pyarrow.parquet as pq

    folder = run.predictions(split)
    deadline = time.monotonic() + wait_s
    while not (files := sorted(folder.glob("rank_*.parquet"))):
        if time.monotonic() >= deadline:
            hint = f"python jobs/status.py {run.run_id} shows how far it is"
            raise InputError(f"run {run.run_id} has no predictions for {split!r} yet in {folder}; {hint}")
        time.sleep(0.5)
    tables = [pq.read_table(file) for file in files]
    return {name: np.concatenate([_numpy(table[name]) for table in tables]) for name in tables[0].column_names}


def _numpy(column: object) -> np.ndarray:
    """A column as an array [N], or [N, K] where it holds lists."""
    import pyarrow as pa

    assert isinstance(column, pa.ChunkedArray)
    array = column.combine_chunks()
    if isinstance(array, pa.FixedSizeListArray):
        return np.asarray(array.flatten().to_numpy(zero_copy_only=False)).reshape(len(array), array.type.list_size)
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _order(columns: Mapping[str, np.ndarray], part: Split, where: Path) -> np.ndarray:
    """Positions in `columns` of the split's samples, in the split's order."""
    row_of: dict[str, int] = {}
    doubled = []
    for row, key in enumerate(columns["key"]):
        if key in row_of:
            doubled.append(key)
        row_of[key] = row
    keys = list(part.keys)
    missing = [key for key in keys if key not in row_of]
    unknown = sorted(row_of.keys() - set(keys))
    for what, names in (("missing", missing), ("there more than once", doubled), ("not of this split", unknown)):
        if names:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            raise RunError(f"{where}: {len(names)} of {len(keys)} samples {what}: {shown}; no submission was written")
    return np.array([row_of[key] for key in keys], dtype=np.int64)
