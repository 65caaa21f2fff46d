"""What goes into which shard, decided before the first byte is packed.

The reader's records are spooled to one file, so that a million of them take little memory; then the order is a hash of
(seed, key) and the shards are cut by the sources' sizes. Any process on any machine can then write any shard alone,
and the bytes are the same whoever does.

Staging folder, `.packing/` inside the set's folder:

    lock            who is packing
    ours.json       what in the set's folder is ours to replace, once final names are given
    records.bin     each record's key, split, size, facts, path and place, NUL between them, and then the image's bytes
                    where the reader made them
    order.npy       int64 [N, 3], offset in records.bin, bytes of text, bytes of image, in the order of packing
    plan.json       written last
    <shard>.tar, <shard>.idx, <shard>.rows.json      finished shards; the rows last
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from shards import images
from shards.errors import InputError, RowsError, SpaceError
from shards.index import table_hash
from shards.readers import Rejected, Source
from shards.safe_io import read_regular, replacing, write_whole
from shards.schema import Schema, split_order
from shards.spool import Entry, Spool, read_entry
from shards.typed_json import parse_dataclass, parse_object

MB = 10**6
AUTO_SHARD_MB, AUTO_SHARDS, AUTO_LEAST_MB = 64, 8, 4
OnProgress = Callable[[str, int, int], Any]


@dataclass(frozen=True)
class PackOptions:
    """How to pack.

    Args:
        seed: of the order of packing.
        shard_mb: MB of source a shard; 0 means 64, or less where that gives a split fewer than 8 shards of 4 MB.
        resize_px: re-encode images whose shorter side is longer than this; 0 keeps every byte.
        check: `decode` decodes each image once, `header` only parses its header and looks for its end.
        skip_bad: list images that do not decode in `rejected.csv` instead of stopping.
        background: the colour that transparent pixels are laid over; empty shows the colours beneath them.
    """

    seed: int = 0
    shard_mb: float = 0.0
    resize_px: int = 0
    check: str = "decode"
    skip_bad: bool = False
    background: str = ""

    def __post_init__(self) -> None:
        if self.check not in ("decode", "header"):
            raise InputError(f"check {self.check!r} is not possible; allowed: decode, header")
        if not 0 <= self.shard_mb <= 8000:
            raise InputError(f"shard-mb {self.shard_mb:g} is not possible; allowed: 0 (chosen by size) to 8000")
        if self.resize_px < 0:
            raise InputError(f"resize {self.resize_px} is not possible; allowed: 0 (keep the bytes) or pixels")
        if self.background:
            try:
                images.colour(self.background)
            except ValueError:
                told = "a colour's CSS name, such as white, or #rrggbb"
                raise InputError(f"background {self.background!r} is not possible; allowed: {told}") from None

    @property
    def shaping(self) -> dict[str, Any]:
        """The options that change what is packed, or how well it was checked."""
        found = {"seed": self.seed, "shard_mb": self.shard_mb, "resize_px": self.resize_px, "check": self.check}
        return found | ({"background": self.background} if self.background else {})


@dataclass(frozen=True)
class ShardPlan:
    """One shard to be: records `first` to `last` (exclusive) of the order, about `size` bytes."""

    name: str
    split: str
    first: int
    last: int
    size: int


@dataclass(frozen=True)
class Plan:
    """A staged plan.

    Args:
        source_hash: of all records and their sizes, and of the shaping options; stored in the manifest.
        fingerprint: that and the records' files with their times, so that a shard is not kept when its source changed.
        noted: what the manifest says of the source beside the options.
        former: what runs may have noted of the set that this one is packed over.
    """

    folder: Path
    dataset: str
    schema: Schema
    shards: tuple[ShardPlan, ...]
    options: PackOptions
    source_hash: str
    fingerprint: str
    tables: dict[str, str]
    rejected: tuple[Rejected, ...]
    noted: Mapping[str, Any] = field(default_factory=dict)
    former: tuple[str, ...] = ()

    def save(self) -> None:
        """Writes `plan.json`, after which the plan counts."""
        value = {
            "dataset": self.dataset,
            "schema": self.schema.to_json(),
            "shards": [asdict(shard) for shard in self.shards],
            "options": asdict(self.options),
            "source_hash": self.source_hash,
            "fingerprint": self.fingerprint,
            "tables": self.tables,
            "rejected": [asdict(item) for item in self.rejected],
            "noted": dict(self.noted),
            "former": list(self.former),
        }
        write_whole(self.folder / "plan.json", json.dumps(value).encode())

    @classmethod
    def load(cls, folder: Path) -> Plan:
        """The plan staged in `folder`.

        Raises:
            FileNotFoundError: there is none yet.
            InputError: it is no plan.
        """
        path = folder / "plan.json"
        return parse_dataclass(cls, {**parse_object(read_regular(path), path), "folder": folder}, path)

    def entries(self, shard: ShardPlan) -> Iterator[Entry]:
        """The records of one shard, in order."""
        order = np.load(self.folder / "order.npy", mmap_mode="r")
        with (self.folder / "records.bin").open("rb", buffering=0) as spool:
            for place in order[shard.first : shard.last].tolist():
                yield read_entry(spool.fileno(), *place)


def make(folder: Path, dataset: str, source: Source, options: PackOptions, on_progress: OnProgress) -> Plan:
    """Streams the source into `folder` and plans the shards; nothing in `folder` counts until `Plan.save`.

    Raises:
        RowsError: what is wrong with the source, row by row.
        InputError: the source is empty, or cannot be read at all.
    """
    spool = Spool(folder / "records.bin", source, options)
    with SpaceError.told(folder, lambda: spool.position + sum(spool.sizes)):
        try:
            for count, record in enumerate(source.records(), 1):
                spool.add(record)
                if count % 2000 == 0:
                    on_progress("read", count, max(count, source.total))
            spool.close()
            total = len(spool.splits)
            on_progress("read", total, total)
            doubled = spool.doubled()
            problems = source.problems + spool.problems
            if options.skip_bad:
                source.rejected.extend(doubled.values())
            else:
                problems += [f"{item.where}: {item.reason}" for item in doubled.values()]
        finally:
            with contextlib.suppress(OSError):  # what is buffered does not fit on a full disk either
                spool.file.close()
        if problems:
            raise RowsError(str(source.root), problems, skippable=not (source.problems or options.skip_bad))
        if not total:
            left_out = [f"; left out: {len(source.rejected)}, {one.where}: {one.reason}" for one in source.rejected[:1]]
            raise InputError(f"{source.root} holds no images for {dataset}{''.join(left_out)}")
        kept = np.setdiff1d(np.arange(total), list(doubled))
        columns = (np.array(spool.splits)[kept], np.array(spool.order)[kept], np.array(spool.sizes)[kept])
        order, shards = arrange(*columns, spool.split_names, options.shard_mb)
        np.save(folder / "order.npy", np.array(spool.places).reshape(-1, 3)[kept[order]])
        tables = {name: write_table(folder / f"{name}.parquet", it) for name, it in sorted(source.tables().items())}
    source_hash = hashlib.sha256((spool.content.hexdigest() + json.dumps(tables)).encode()).hexdigest()
    fingerprint = hashlib.sha256((source_hash + spool.files_hash.hexdigest()).encode()).hexdigest()
    rejected = tuple(source.rejected)
    return Plan(folder, dataset, source.schema, shards, options, source_hash, fingerprint, tables, rejected)


def arrange(
    splits: np.ndarray, hashes: np.ndarray, sizes: np.ndarray, split_names: list[str], shard_mb: float
) -> tuple[np.ndarray, tuple[ShardPlan, ...]]:
    """The order of all records, and the shards cut from it; a pure function of its arguments.

    Args:
        splits: uint8 [N], positions in `split_names`.
        hashes: uint64 [N], the order within a split.
        sizes: int64 [N], bytes in the tar.
        split_names: the splits, in any order.
        shard_mb: size of a shard, 0 for a choice by size.

    Returns:
        int64 [N], the records in order of packing; shards of about equal size within a split.
    """
    ranks = np.array([sorted(split_names, key=split_order).index(name) for name in split_names])
    order = np.lexsort((hashes, ranks[splits]))
    shards: list[ShardPlan] = []
    start = 0
    for name in sorted(split_names, key=split_order):
        count = int((splits == split_names.index(name)).sum())
        if not count:
            continue
        ends = np.cumsum(sizes[order[start : start + count]])
        total = int(ends[-1])
        wanted = shard_count(total, shard_mb)
        # A record belongs to the shard in whose stretch of bytes it begins.
        shard_of = np.minimum((ends - sizes[order[start : start + count]]) * wanted // total, wanted - 1)
        used, firsts = np.unique(shard_of, return_index=True)
        lasts = [*firsts[1:].tolist(), count]
        for number, (first, last) in enumerate(zip(firsts.tolist(), lasts, strict=True)):
            size = int(ends[last - 1] - (ends[first - 1] if first else 0))
            shards.append(ShardPlan(f"{name}-{number:05d}", name, start + first, start + last, size))
        assert len(used) == len(firsts)
        start += count
    return order, tuple(shards)


def shard_count(total: int, shard_mb: float) -> int:
    """How many shards a split of `total` bytes gets."""
    if shard_mb:
        return max(1, -(-total // int(shard_mb * MB)))
    return max(-(-total // (AUTO_SHARD_MB * MB)), min(AUTO_SHARDS, -(-total // (AUTO_LEAST_MB * MB))))


def write_table(path: Path, table: Any) -> str:
    """Writes a table beside the shards; returns its hash."""
    import pyarrow.parquet as pq

    with replacing(path) as file:
        pq.write_table(table, file, compression="zstd", write_page_checksum=True)
    return table_hash(table)
