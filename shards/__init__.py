"""Shard sets: images and their facts in plain WebDataset tars, with an index that makes every sample one `pread` away.

    from shards import ShardSet
    train = ShardSet.open("workspace/shards/deep_fashion").split("train")
    train.facts("category")["category"]

Format, guarantees and ways to read the tars without this package: shards/README.md.
"""

from shards.errors import DamageError, InputError, RowsError, ShardsError, SpaceError
from shards.manifest import Manifest
from shards.pack import pack
from shards.plan import PackOptions
from shards.readers import ReadOptions
from shards.record import Record, Schema, decode_key, encode_key
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
