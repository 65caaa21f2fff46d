"""Shard sets: images and their facts in plain WebDataset tars, with an index that makes every sample one `pread` away.

    from shards import ShardSet
    train = ShardSet.open("workspace/shards/deep_fashion").split("train")
    train.columns("category")["category"]

Format, guarantees and ways to read the tars without this package: docs/shard-format.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shards.errors import DamageError, InputError, RowsError, ShardsError, SpaceError
from shards.lazy import imports

if TYPE_CHECKING:
    from shards.manifest import Manifest
    from shards.pack_plan import PackOptions
    from shards.packing import pack
    from shards.readers import ReadOptions
    from shards.schema import Record, Schema, decode_key, encode_key
    from shards.shard_set import ShardSet, Split

__all__ = [
    "DamageError",
    "InputError",
    "Manifest",
    "PackOptions",
    "ReadOptions",
    "Record",
    "RowsError",
    "Schema",
    "ShardSet",
    "ShardsError",
    "SpaceError",
    "Split",
    "decode_key",
    "encode_key",
    "pack",
]

# Imported when first asked for: commands that only need the errors have to answer in half a second.
_HOMES = {
    "Manifest": "manifest",
    "PackOptions": "pack_plan",
    "ReadOptions": "readers",
    "Record": "schema",
    "Schema": "schema",
    "ShardSet": "shard_set",
    "Split": "shard_set",
    "decode_key": "schema",
    "encode_key": "schema",
    "pack": "packing",
}
__getattr__ = imports(__name__, _HOMES)
