"""Predictions that carry keys: each rank writes the rows of the samples it saw, and nobody guesses an order."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fashion_dist.data import Batch, Loader
from fashion_dist.tasks import load
from fashion_dist.train.checkpoint import Checkpoints
from fashion_dist.train.distributed import Link, World
from fashion_dist.train.state import Learner

if TYPE_CHECKING:
    from fashion_dist.runs import OpenRun
    from fashion_dist.train.session import Session, SplitFeed


def forward_all(learner: Learner, loader: Loader) -> Iterator[tuple[Batch, dict[str, Tensor]]]:
    """This rank's blocks of a split with the evaluated model's outputs, in fp32.

    Blocks have the same samples in the same order whatever the number of ranks, so that outputs do too.
    """
    model = learner.evaluated_model()
    # Between forwards each rank's normalisation statistics are its own; rank 0's are the ones that are saved.
    learner.link.broadcast([buffer for buffer in model.buffers() if buffer.numel()])
    model.eval()
    for batch in loader.epoch(0):
        with torch.inference_mode(), learner.autocast():
            outputs = model(batch.images)
            if learner.config.data.eval_flip:
                mirrored = model(batch.images.flip(-1))
                outputs = {name: (value + mirrored[name]) / 2 for name, value in outputs.items()}
        yield batch, {name: value.float() for name, value in outputs.items()}


def gather_rows(session: Session, feed: SplitFeed) -> dict[str, np.ndarray]:
    """The task's columns for every example of the feed, in its order, on every rank."""
    mine = _own_rows(session, feed)
    parts = [part for part in session.link.gather(mine) if part]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(joined.pop("index"), kind="stable")
    return {name: values[order] for name, values in joined.items()}


def ask_model(session: Session, split: str, px: int) -> dict[str, np.ndarray]:
    """The task's columns for each image of a split by the current weights, the same bits on any number of ranks."""
    from fashion_dist.train.session import SplitFeed

    with SplitFeed(session, split, alone=True) as feed, _one_thread():
        feed.begin(0, px)
        return gather_rows(session, feed)


def _own_rows(session: Session, feed: SplitFeed) -> dict[str, np.ndarray]:
    """`index` and the task's columns for this rank's examples; empty where it has none."""
    columns: dict[str, list[np.ndarray]] = {}
    for batch, outputs in forward_all(session.learner, feed.loader):
        rows = session.task.rows(outputs, session.config)
        for column, values in {"index": batch.index.numpy(), **rows}.items():
            columns.setdefault(column, []).append(values)
    return {column: np.concatenate(parts) for column, parts in columns.items()}


def predict(session: Session, feed: SplitFeed, name: str) -> None:
    """Write `predictions/<split>/rank_<r>.parquet`: index, key and the task's columns, one row per example.

    The folder is made anew and appears whole, by rename, once every rank has written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    link = session.link
    final = session.folder.predictions(name)
    temporary = final.with_name(f".{name}.new")
    if link.world.is_main:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    link.barrier()
    with _one_thread():
        joined = _own_rows(session, feed)
    if joined:
        table = pa.table({column: _arrow(values) for column, values in joined.items()})
        keys = [feed.key(int(i)) for i in joined["index"]]
        pq.write_table(table.add_column(1, "key", pa.array(keys)), temporary / f"rank_{link.world.rank}.parquet")
    link.barrier()
    if link.world.is_main:
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
    link.barrier()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Compute in one thread on the CPU, so that predictions are the same bits whatever the cores of a rank.

    Elementwise kernels treat the last few values of each thread's share differently, in the last bit.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _arrow(values: np.ndarray) -> object:
    """A column of an array [N] or [N, K]."""
    import pyarrow as pa

    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def predict_run(run: OpenRun, split: str) -> None:
    """Predict `split` with the best weights of a run, in this process alone.

    Raises:
        CheckpointError: the run has no best weights yet.
    """
    from fashion_dist.train.session import FitOptions, Session, SplitFeed

    task = load(run.config.task)
    checkpoints = Checkpoints(run.folder.checkpoints)
    link = Link(World(), World().device())
    # The average is a copy of the model's shape; best weights are its state, so one plain model is enough here.
    config = dataclasses.replace(run.config, train=dataclasses.replace(run.config.train, ema=0.0))
    learner = Learner(task.build_model(config, run.shard_set.schema), config, link)
    session = Session(run.folder, config, task, run.shard_set, link, learner, checkpoints, FitOptions(), lambda: False)
    try:
        session.load_best()
        with SplitFeed(session, split) as feed:
            predict(session, feed, split)
    finally:
        checkpoints.close()
