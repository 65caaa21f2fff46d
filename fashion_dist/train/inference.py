"""Outputs and predictions of a split, each sample once whatever the number of ranks.

Predictions carry keys: each rank writes the rows of the samples it saw, and nobody guesses an order.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fashion_dist.data import Batch
from fashion_dist.io import write_json
from fashion_dist.tasks import Arrays
from fashion_dist.tasks.common.evaluators import concatenate
from fashion_dist.train.distributed import ProcessGroup
from shards import ShardSet
from shards.safe_io import refuse_link, remove_folder, require_ours

_FILES = re.compile(r"rank_\d+\.parquet")
_GROUP_BYTES = 16_000_000
"""Of a row group in memory: what predicting, collecting and reports hold at a time."""


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Compute in fp32 without TF32, which rounds products to 10 bits: predictions are the same lines on any machine."""
    flags: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [flag.allow_tf32 for flag in flags]
    try:
        for flag in flags:
            flag.allow_tf32 = False
        yield
    finally:
        for flag, allowed in zip(flags, before, strict=True):
            flag.allow_tf32 = allowed


def iter_outputs(
    model: nn.Module,
    batches: Iterable[Batch],
    dist: ProcessGroup,
    autocast: Callable[[], AbstractContextManager[Any]],
    mirror: bool = False,
) -> Iterator[tuple[Batch, dict[str, Tensor]]]:
    """This rank's batches of a split with the model's outputs, in fp32.

    Batches have the same samples in the same order whatever the number of ranks, so that outputs do too.

    Args:
        model: what is asked.
        batches: of this rank.
        dist: the ranks.
        autocast: makes the context of a forward pass, which decides its precision.
        mirror: average the outputs of each image and of its mirror image.
    """
    # Between forwards each rank's normalisation statistics are its own; rank 0's are the ones that are saved.
    dist.broadcast([buffer for buffer in model.buffers() if buffer.numel()])
    model.eval()
    for batch in batches:
        with torch.inference_mode(), autocast():
            outputs = {name: value.float() for name, value in model(batch.images).items()}
            if mirror:
                mirrored = model(batch.images.flip(-1))
                outputs = {name: (value + mirrored[name].float()) / 2 for name, value in outputs.items()}
        yield batch, outputs


def write_predictions(
    folder: Path, rows: Iterable[Arrays], keys: Callable[[np.ndarray], list[str]], dist: ProcessGroup,
    of: Mapping[str, object],
) -> None:  # fmt: skip
    """Write `folder/rank_<r>.parquet`: `index`, `key` and the columns of `rows`, a row per example.

    The folder is made anew and appears whole, by rename, once every rank has written; beside it says `of` what they
    are, see `made_of`.

    Raises:
        InputError: the folder is a link, or holds something that no rank wrote.
    """
    if dist.world.is_main:
        begin_predictions(folder)
    dist.barrier()
    write_rank(folder, rows, keys, dist.world.rank)
    dist.barrier()
    if dist.world.is_main:
        publish_predictions(folder, of)
    dist.barrier()


def begin_predictions(folder: Path) -> None:
    """Make the hidden folder beside `folder` that ranks write to; raises as `write_predictions` does."""
    refuse_link(folder.parent)
    require_ours(folder, _FILES)  # before the work, not after it
    remove_folder(_hidden(folder), _FILES)
    _hidden(folder).mkdir(parents=True)


def write_rank(folder: Path, rows: Iterable[Arrays], keys: Callable[[np.ndarray], list[str]], rank: int) -> int:
    """Write one rank's rows into the hidden folder of `folder`, a row group at a time; returns their number."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    written = 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(one_thread())
        writer: pq.ParquetWriter | None = None
        for group in _grouped(rows):
            table = pa.table({name: _arrow(values) for name, values in group.items()})
            table = table.add_column(1, "key", pa.array(keys(group["index"]), pa.string()))
            if writer is None:
                path = _hidden(folder) / f"rank_{rank}.parquet"
                writer = stack.enter_context(pq.ParquetWriter(path, table.schema, write_page_checksum=True))
            writer.write_table(table, row_group_size=len(table))
            written += len(table)
    return written


def made_of(shard_set: ShardSet, split: str, source: str = "") -> dict[str, object]:
    """What the predictions of a split are of; `source` is what the user named, empty for a run's own set."""
    content, samples = shard_set.manifest.hash_of(split), len(shard_set.split(split))
    return {
        "shard_set": str(shard_set.path), "split": split, "source": source, "samples": samples, "content": content
    }  # fmt: skip


def publish_predictions(folder: Path, of: Mapping[str, object]) -> None:
    """Put the hidden folder in the place of `folder`, and what it is `of` beside it; files by name that were written of
    other predictions go.
    """
    for ending in ("csv", "parquet"):
        refuse_link(folder.with_name(f"{folder.name}.{ending}")).unlink(missing_ok=True)
    remove_folder(folder, _FILES)
    _hidden(folder).rename(folder)
    write_json(folder.with_name(f"{folder.name}.json"), dict(of))


def _hidden(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.new")


def _grouped(batches: Iterable[Arrays]) -> Iterator[dict[str, np.ndarray]]:
    """Batches joined to row groups of about `_GROUP_BYTES`."""
    held: list[Arrays] = []
    size = 0
    for batch in batches:
        held.append(batch)
        size += sum(values.nbytes for values in batch.values())
        if size >= _GROUP_BYTES:
            yield concatenate(held)
            held, size = [], 0
    if held:
        yield concatenate(held)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
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
