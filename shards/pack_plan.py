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
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from shards import images, tar
from shards.errors import NO_SPACE, InputError, RowsError, SpaceError
from shards.index import table_hash
from shards.portable import pread
from shards.readers import Rejected, Source
from shards.safe_io import create, read_regular, temporary, write_whole
from shards.schema import (
    Record,
    Schema,
    encode_key,
    folded,
    key_fault,
    split_fault,
    split_order,
    whole_characters,
)
from shards.typed_json import parse_dataclass, parse_object

MB = 10**6
AUTO_SHARD_MB, AUTO_SHARDS, AUTO_LEAST_MB = 64, 8, 4
OnProgress = Callable[[str, int, int], Any]
_ENCODE = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


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


class Entry(NamedTuple):
    """One spooled record; `facts` is JSON, `inline` the image where the reader made it."""

    key: str
    split: str
    size: int
    facts: str
    path: str
    where: str
    inline: bytes = b""

    @property
    def source(self) -> str:
        """How messages name it."""
        return f"{self.path or self.key} ({self.where})" if self.where else self.path or self.key


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
                yield _read_entry(spool.fileno(), *place)


def _read_entry(spool: int, offset: int, text_bytes: int, inline_bytes: int) -> Entry:
    data = pread(spool, text_bytes + inline_bytes, offset)
    key, split, size, facts, path, where = data[:text_bytes].decode("utf-8", "surrogateescape").split("\0")
    return Entry(key, split, int(size), facts, path, where, data[text_bytes:])


class _Spool:
    """Writes the records down and keeps some 60 bytes of each in memory."""

    def __init__(self, path: Path, source: Source, options: PackOptions) -> None:
        self.source, self.schema, self.skip_bad = source, source.schema, options.skip_bad
        self.problems: list[str] = []
        self.content = hashlib.blake2b(json.dumps([source.schema.to_json(), options.shaping]).encode())
        self.files_hash = hashlib.blake2b()
        self.seed = options.seed.to_bytes(8, "little", signed=True)
        self.file = os.fdopen(create(path), "wb", buffering=1 << 20)
        self.path = path
        self.position = 0
        self.places = _Longs("q")
        self.sizes, self.splits, self.order = _Longs("q"), _Longs("B"), _Longs("Q")
        self.folded = bytearray()
        self.split_names: list[str] = []
        self.files = _Files(source.root)

    def add(self, record: Record) -> None:
        """Spools one record, or notes why it cannot be."""
        where = record.where or record.key
        unnamed = key_fault(record.key)
        if unnamed is not None and self.skip_bad:
            self.source.rejected.append(Rejected(where, record.key, unnamed))
            return
        fault = unnamed or self.schema.fault(record.columns) or split_fault(record.split)
        size = mtime = 0
        if fault is None:
            if isinstance(record.image, bytes):
                size = len(record.image)
            else:
                fault, size, mtime = self.files.look(str(record.image))
        if fault is not None:
            self.problems.append(f"{where}: {fault}")
            return
        key = encode_key(record.key)
        facts = whole_characters(_ENCODE(record.columns))
        inline, path = (record.image, "") if isinstance(record.image, bytes) else (b"", str(record.image))
        content = f"{key}\0{record.split}\0{size}\0{facts}".encode()
        text = content + f"\0{path}\0{record.where}".encode("utf-8", "surrogateescape")
        self.content.update(b"%d %b%b" % (len(content), content, inline))
        self.files_hash.update(f"{path}\0{mtime}\0".encode("utf-8", "surrogateescape"))
        self.file.write(text + inline)
        self.places.extend((self.position, len(text), len(inline)))
        self.position += len(text) + len(inline)
        self.sizes.append(tar.padded(size) + tar.padded(len(facts)))
        self.splits.append(self._split(record.split))
        hashed = hashlib.blake2b(self.seed + key.encode(), digest_size=8).digest()
        self.order.append(int.from_bytes(hashed, "little"))
        self.folded += hashlib.blake2b(folded(key).encode(), digest_size=16).digest()

    def _split(self, name: str) -> int:
        if name not in self.split_names:
            if len(self.split_names) == 256:
                raise InputError(f"{self.source.root} has more than 256 splits")
            self.split_names.append(name)
        return self.split_names.index(name)

    def doubled(self) -> dict[int, Rejected]:
        """By row, each key that one before it equals, at most in case."""
        folds = np.frombuffer(bytes(self.folded), dtype="V16")
        order = np.argsort(folds.view("<u8").reshape(-1, 2)[:, 0], kind="stable")
        ordered = folds[order]
        same = np.flatnonzero(ordered[1:] == ordered[:-1])
        found = {}
        places = self.places.array().reshape(-1, 3)
        with self.path.open("rb") as spool:
            for position in same.tolist():
                rows = sorted((int(order[position]), int(order[position + 1])))
                first, second = (_read_entry(spool.fileno(), *places[row].tolist()) for row in rows)
                how = "is doubled" if first.key == second.key else f"differs from {first.key!r} only in case"
                told = f"key {second.key!r} {how}; see {first.where or first.source}"
                found[rows[1]] = Rejected(second.where or second.source, second.key, told)
        return found

    def close(self) -> None:
        """Makes the spool durable."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()


class _Longs:
    """A growing column of integers, 8 bytes or less each."""

    def __init__(self, kind: str) -> None:
        from array import array

        self._values = array(kind)
        self.append, self.extend = self._values.append, self._values.extend

    def array(self) -> np.ndarray:
        """The column as a NumPy array."""
        return np.array(self._values)


class _Files:
    """Looks at files and refuses those that are missing or lie outside of the source."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._folders: dict[str, bool] = {}

    def look(self, path: str) -> tuple[str | None, int, int]:
        """(what is wrong, size, modification time in ns)."""
        try:
            status = os.lstat(path)
            if not self._inside(path.rpartition("/")[0]):
                return f"{path} lies outside of {self.root}, behind a symbolic link", 0, 0
            if stat.S_ISLNK(status.st_mode):
                status = Path(path).stat()  # fails where links go in circles
                if not Path(path).resolve().is_relative_to(self.root):
                    return f"{path} is a symbolic link out of {self.root}", 0, 0
        except (FileNotFoundError, NotADirectoryError):
            return f"{path} does not exist", 0, 0
        except OSError as error:
            return f"{path} cannot be read: {error.strerror}", 0, 0
        if not stat.S_ISREG(status.st_mode):
            return f"{path} is not a file", 0, 0
        return None, status.st_size, status.st_mtime_ns

    def _inside(self, folder: str) -> bool:
        if folder not in self._folders:
            self._folders[folder] = Path(folder).resolve().is_relative_to(self.root)
        return self._folders[folder]


def make(folder: Path, dataset: str, source: Source, options: PackOptions, on_progress: OnProgress) -> Plan:
    """Streams the source into `folder` and plans the shards; nothing in `folder` counts until `Plan.save`.

    Raises:
        RowsError: what is wrong with the source, row by row.
        InputError: the source is empty, or cannot be read at all.
    """
    spool = _Spool(folder / "records.bin", source, options)
    try:
        for count, record in enumerate(source.records(), 1):
            spool.add(record)
            if count % 2000 == 0:
                on_progress("read", count, max(count, source.total))
        spool.close()
        total = len(spool.splits.array())
        on_progress("read", total, total)
        doubled = spool.doubled()
        problems = source.problems + spool.problems
        if options.skip_bad:
            source.rejected.extend(doubled.values())
        else:
            problems += [f"{item.where}: {item.reason}" for item in doubled.values()]
    except OSError as error:
        if error.errno in NO_SPACE:
            needed = spool.position + int(spool.sizes.array().sum())
            raise SpaceError(str(folder), needed, shutil.disk_usage(folder).free) from None
        raise
    finally:
        with contextlib.suppress(OSError):  # what is buffered does not fit on a full disk either
            spool.file.close()
    if problems:
        raise RowsError(str(source.root), problems)
    if not total:
        raise InputError(f"{source.root} holds no images for {dataset}")
    kept = np.setdiff1d(np.arange(total), list(doubled))
    columns = (spool.splits.array()[kept], spool.order.array()[kept], spool.sizes.array()[kept])
    order, shards = arrange(*columns, spool.split_names, options.shard_mb)
    np.save(folder / "order.npy", spool.places.array().reshape(-1, 3)[kept[order]])
    tables = {name: write_table(folder / f"{name}.parquet", table) for name, table in sorted(source.tables().items())}
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

    fresh = temporary(path)
    with os.fdopen(create(fresh), "wb") as file:
        pq.write_table(table, file, compression="zstd", write_page_checksum=True)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    return table_hash(table)
