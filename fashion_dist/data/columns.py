"""The index in memory once a node: ranks put the columns that loading needs into one shared block."""

from __future__ import annotations

import numpy as np

from fashion_dist.data.memory import Block
from fashion_dist.errors import ConfigError
from shards import Split

COLUMNS = ("offset", "size", "shard", "crc32", "width", "height")
"""Long ones first, so that each begins where its type wants to."""
_WORTH_BYTES = 1_000_000
"""Less than this is not worth a file of /dev/shm."""


def share_columns(split: Split, ranks: int) -> tuple[Split, Block | None]:
    """The split with its columns in memory shared by the `ranks` of this node, and that memory.

    Each rank reads the index and writes the same numbers to the same places, so that none has to wait for another;
    then it lets go of its own copy. Where /dev/shm has no room every rank keeps its own. All of a node's ranks must
    call this in the same order.
    """
    columns = {name: getattr(split, name) for name in COLUMNS} if ranks > 1 else {}
    size = sum(column.nbytes for column in columns.values())
    if size < _WORTH_BYTES:
        return split, None
    try:
        block = Block(size, ranks, f"{split.tar_folder} {split.name} index")
    except ConfigError:
        return split, None
    start = block.start
    shared = {}
    for name, column in columns.items():
        view = np.frombuffer(block.map, column.dtype, len(column), offset=start)
        view[:] = column
        shared[name] = view
        start += column.nbytes
    return split.with_columns(shared), block
