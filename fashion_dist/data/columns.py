"""Index and targets in memory once a node: ranks put what is the same for all of them into one shared block."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fashion_dist.data.memory import Block
from fashion_dist.errors import ConfigError
from shards import Split

COLUMNS = ("offset", "size", "shard", "crc32", "width", "height")
_WORTH_BYTES = 1_000_000
"""Less than this is not worth a file of /dev/shm."""


def share_columns(split: Split, ranks: int) -> tuple[Split, Block | None]:
    """The split with its columns in memory shared by the `ranks` of this node, and that memory; see `share_arrays`."""
    if ranks == 1:
        return split, None
    columns, block = share_arrays(
        {name: getattr(split, name) for name in COLUMNS}, ranks, f"{split.tar_folder} {split.name} index"
    )
    return (split, None) if block is None else (split.with_columns(columns), block)


def share_arrays(
    arrays: Mapping[str, np.ndarray], ranks: int, name: str
) -> tuple[Mapping[str, np.ndarray], Block | None]:
    """The arrays in memory shared by the `ranks` of this node, and that memory, or where they are.

    Each rank writes the same numbers to the same places, so that none has to wait for another; then it lets go of its
    own copy. Where /dev/shm has no room every rank keeps its own. All of a node's ranks must call this in the same
    order, with arrays of the same sizes.
    """
    size = sum(array.nbytes for array in arrays.values())
    if ranks == 1 or size < _WORTH_BYTES:
        return arrays, None
    try:
        block = Block(size, ranks, name)
    except ConfigError:
        return arrays, None
    start = block.start
    shared = {}
    for key in sorted(arrays, key=lambda key: -arrays[key].itemsize):  # each begins where its type wants to
        array = arrays[key]
        view = np.frombuffer(block.map, array.dtype, array.size, offset=start).reshape(array.shape)
        view[...] = array
        shared[key] = view
        start += array.nbytes
    return shared, block
