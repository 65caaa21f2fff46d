"""A packed set whose index, table or manifest is damaged: read as it was, or refused."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sources import write_csv_source
from surface import Surface

from shards import PackOptions, ShardsError, ShardSet, pack

NAMES = ("manifest.json", "index.parquet")
once: dict[str, Any] = {}


def seeds(folder: Path) -> Sequence[bytes]:
    once["set"] = folder / "out"
    pack("deep_fashion", write_csv_source(folder / "deep_fashion", 12, 6, 5), once["set"], PackOptions())
    once["told"] = told(once["set"])
    return [(once["set"] / name).read_bytes() for name in NAMES]


def told(folder: Path) -> dict[str, object]:
    """All that a run reads of a set, less the images."""
    shard_set = ShardSet.open(folder)
    found: dict[str, object] = {"schema": shard_set.schema, "splits": shard_set.splits}
    for name in shard_set.splits:
        split = shard_set.split(name)
        arrays = [split.shard, split.offset, split.size, split.crc32, split.width, split.height]
        columns = split.columns(*shard_set.schema.columns).values()
        found[name] = [np.asarray(a).tolist() for a in (*arrays, *columns)] + [list(split.keys), split.shard_names]
    return found


def check(data: bytes, number: int, folder: Path) -> None:
    for name in NAMES:
        shutil.copy(once["set"] / name, folder / name)
    (folder / NAMES[number]).write_bytes(data)
    assert told(folder) == once["told"], "read as something else"


SURFACE = Surface(seeds, check, (ShardsError,))
