"""Re-reads every byte of a shard set and lists every fault."""

from __future__ import annotations

import functools
import os
import zlib
from collections.abc import Callable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards import index, worker_pool
from shards.errors import DamageError, InputError
from shards.labels import Coding
from shards.manifest import INDEX, MANIFEST, REJECTED, Manifest, Shard, index_name
from shards.pack_plan import OnProgress
from shards.portable import pread
from shards.safe_io import is_regular, open_regular, read_regular
from shards.scan import Scanned, Taking, scan
from shards.shard_set import ShardSet
from shards.spreadsheet import text_of
from shards.tar_summary import stored
from shards.typed_json import parse_dataclass


@dataclass(frozen=True)
class Fault:
    """Something that is not as it was packed; `key` is empty where a whole file is meant."""

    shard: str
    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.shard}, key {self.key!r}: {self.reason}" if self.key else f"{self.shard}: {self.reason}"


def verify(
    folder: Path, *, workers: int = 1, on_progress: OnProgress = lambda _stage, _done, _total: None
) -> list[Fault]:
    """All faults of the set in `folder`: SHA-256 of each tar, CRC of each sample, index and DALI index against the tar,
    facts against schema and index, tables.

    Raises:
        InputError: `folder` is no shard set.
        DamageError: its manifest cannot be read.
    """
    shard_set = ShardSet.open(folder)
    manifest = shard_set.manifest
    total = sum(shard.size for shard in manifest.shards)
    faults, groups = _check_files(shard_set)
    jobs = [(folder, shard_set.tar_folder, number, groups) for number in range(len(manifest.shards))]
    for found in worker_pool.each(_check_shard, jobs, workers, lambda done: on_progress("verify", done, total)):
        faults += found
    return faults


def _check_files(shard_set: ShardSet) -> tuple[list[Fault], bool]:
    """Faults of everything but the tars, and whether the index can be read shard by shard."""
    import pyarrow as pa

    faults: list[Fault] = []
    manifest, folder = shard_set.manifest, shard_set.path
    readable = False
    try:
        file = index.open_table(folder / INDEX)
        counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        readable = counts == [shard.samples for shard in manifest.shards]
        if not readable:
            faults.append(Fault(INDEX, "", f"its rows per shard are {counts[:8]}..., not those of the manifest"))
        wanted = index.arrow_schema(manifest.schema)
        if not file.schema_arrow.equals(wanted):
            faults.append(Fault(INDEX, "", f"its columns are not those of the schema: {', '.join(wanted.names)}"))
            readable = False
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        faults.append(Fault(INDEX, "", f"cannot be read: {error}"))
    for name in manifest.tables:
        try:
            shard_set.table(name)
        except DamageError as error:
            faults.append(Fault(error.shard, "", error.reason))
    known = {shard.name for shard in manifest.shards}
    strangers = sorted(path.name for path in shard_set.tar_folder.glob("*.tar") if path.name not in known)
    if not manifest.options.get("reindexed", False):
        faults += [Fault(name, "", "a tar that the manifest does not know") for name in strangers]
    return faults, readable


def _check_shard(job: tuple[Path, Path, int, bool], count: Callable[[int], Any]) -> list[Fault]:
    """Faults of one shard."""
    folder, tar_folder, number, indexed = job
    known = _known(folder, *(os.lstat(folder / name).st_mtime_ns for name in (MANIFEST, INDEX)[: 1 + indexed]))
    manifest = known.manifest
    shard = manifest.shards[number]
    path = tar_folder / shard.name
    faults: list[Fault] = []
    of_tar = known.of_tar[shard.name]
    if number != of_tar[0]:  # its other split was looked at with the whole tar
        count(shard.size)
        return []
    rows = [row for part in of_tar for row in known.index.read_row_group(part).to_pylist()] if indexed else []
    if len(of_tar) > 1:
        rows.sort(key=lambda row: int(row["offset"]))
    try:
        faults += _check_samples(path, rows)
        scanned = _scanned(path, manifest, shard)
    except FileNotFoundError:
        faults.append(Fault(shard.name, "", "does not exist"))
    except OSError as error:
        faults.append(Fault(shard.name, "", f"cannot be read: {error.strerror}"))
    except (DamageError, InputError) as error:
        faults.append(Fault(shard.name, "", str(error)))
    else:
        if scanned.sha256 != shard.sha256:
            faults.append(Fault(shard.name, "", f"SHA-256 {scanned.sha256[:16]}..., packed as {shard.sha256[:16]}..."))
        faults += _compare(folder, known, shard, scanned, rows, indexed)
    count(shard.size)
    return faults


@dataclass(frozen=True)
class _Known:
    """What all shards of a set are compared with."""

    manifest: Manifest
    index: Any
    rejected: Set[str]
    of_tar: dict[str, list[int]]
    """Numbers of the shards that are in each tar: two, where the index says that some of its samples are held out."""


@functools.lru_cache(maxsize=1)
def _known(folder: Path, *changed: int) -> _Known:
    """Read once by each process: it all tells of every shard, so that reading it for each takes their square."""
    manifest = Manifest.load(folder)
    of_tar: dict[str, list[int]] = {}
    for number, shard in enumerate(manifest.shards):
        of_tar.setdefault(shard.name, []).append(number)
    return _Known(
        manifest,
        index.open_table(folder / INDEX) if len(changed) > 1 else None,
        _rejected_keys(folder) if manifest.rejected else set(),
        of_tar,
    )


def _check_samples(path: Path, rows: list[dict[str, Any]]) -> list[Fault]:
    """Reads each image where the index says it is: names damage by key even in a tar that cannot be walked."""
    faults = []
    with os.fdopen(open_regular(path), "rb") as file:
        total = os.fstat(file.fileno()).st_size
        for row in rows:
            data = pread(file.fileno(), max(0, min(row["size"], total - row["offset"])), row["offset"])
            if len(data) != row["size"]:
                reason = f"{len(data)} of {row['size']} bytes at offset {row['offset']}"
                faults.append(Fault(path.name, row["key"], reason))
            elif zlib.crc32(data) != row["crc32"]:
                faults.append(
                    Fault(path.name, row["key"], f"CRC of the image at offset {row['offset']} does not match")
                )
    return faults


def _compare(
    folder: Path, kept: _Known, shard: Shard, scanned: Scanned, rows: list[dict[str, Any]], indexed: bool
) -> list[Fault]:
    """Faults of index, DALI index and facts against what the tar holds."""
    faults, schema, rejected = [], kept.manifest.schema, kept.rejected
    known = {row["key"] for row in rows}
    faults += [Fault(shard.name, key, reason) for key, reason in scanned.problems if _listed(key) not in rejected]
    if indexed:
        strangers = [key for key in scanned.rows["key"] if key not in known and _listed(key) not in rejected]
        faults += [Fault(shard.name, key, "in the tar, but not in the index") for key in strangers]
        scanned.keep(lambda row: scanned.rows["key"][row] in known or _listed(scanned.rows["key"][row]) not in rejected)
    at = {key: position for position, key in enumerate(scanned.rows["key"])}
    for number, row in enumerate(rows):
        position = at.get(row["key"])
        if position is None:
            faults.append(Fault(shard.name, row["key"], "in the index, but not in the tar"))
            continue
        if position != number:
            faults.append(Fault(shard.name, row["key"], f"row {number} of the index, sample {position} of the tar"))
        for name in index.PLACES:
            if name != "crc32" and row[name] != scanned.rows[name][position]:
                told = f"the index says {row[name]!r}, the tar {scanned.rows[name][position]!r}"
                faults.append(Fault(shard.name, row["key"], f"{name}: {told}"))
        facts = scanned.facts[position]
        held = {name: stored(facts.get(name), kind) for name, kind in schema.columns.items()}
        fault = schema.fault(held)
        if fault is not None:
            faults.append(Fault(shard.name, row["key"], fault))
        for name, kind in schema.columns.items():
            if fault is None and stored(row[name], kind) != held[name]:
                told = f"the index says {row[name]!r}, the tar {facts.get(name)!r}"
                faults.append(Fault(shard.name, row["key"], f"fact {name}: {told}"))
    idx = folder / index_name(shard.name)
    told_index = index.dali_index(scanned.members)
    if not is_regular(idx) or idx.stat().st_size != len(told_index) or read_regular(idx) != told_index:
        faults.append(Fault(idx.name, "", "is missing" if not idx.exists() else "is not the DALI index of its tar"))
    return faults


def _scanned(path: Path, manifest: Manifest, shard: Shard) -> Scanned:
    """What the tar holds, with the label's column as it was made when the tars were indexed."""
    told = dict(manifest.options.get("taking", {}))
    taking = parse_dataclass(Taking, told, MANIFEST)
    scanned = scan(path, taking, shard.name)
    if taking.label:
        column = told.get("column", "")
        coding = Coding(manifest.schema.names.get(column, ()), told.get("form", ""), told.get("several", False))
        for facts, label in zip(scanned.facts, scanned.labels, strict=True):
            try:
                facts[column] = coding.encode(label)
            except ValueError:  # a sample that was left out, or one that changed
                facts[column] = None
    return scanned


def _listed(key: str) -> str:
    """A key as it stands in `rejected.csv`."""
    return key.encode("utf-8", "backslashreplace").decode()


def _rejected_keys(folder: Path) -> set[str]:
    import csv
    import io

    if not (folder / REJECTED).exists():
        return set()
    text = read_regular(folder / REJECTED).decode("utf-8", "replace")
    return {text_of(row.get("key") or "") for row in csv.DictReader(io.StringIO(text, newline=""))}
