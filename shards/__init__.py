"""Shard sets: images and their facts in plain WebDataset tars, with an index that makes every sample one `pread` away.

    from shards import ShardSet
    train = ShardSet.open("workspace/shards/deep_fashion").split("train")
    train.columns("category")["category"]

Format, guarantees and ways to read the tars without this package: docs/shard-format.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shards.errors import DamageError as DamageError
from shards.errors import InputError as InputError
from shards.errors import RowsError as RowsError
from shards.errors import ShardsError as ShardsError
from shards.errors import SpaceError as SpaceError
from shards.lazy import imports

if TYPE_CHECKING:
    from shards.manifest import Manifest as Manifest
    from shards.pack_plan import PackOptions as PackOptions
    from shards.packing import pack as pack
    from shards.readers import ReadOptions as ReadOptions
    from shards.schema import Record as Record
    from shards.schema import Schema as Schema
    from shards.schema import decode_key as decode_key
    from shards.schema import encode_key as encode_key
    from shards.shard_set import ShardSet as ShardSet
    from shards.shard_set import Split as Split

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
