"""Writes one planned shard, or all of them, or the set's index and manifest: each step complete or not there."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from shards import images, index, tar
from shards.errors import InputError, SpaceError
from shards.manifest import (
    CARD,
    INDEX,
    MANIFEST,
    REJECTED,
    SCHEMA_MEMBER,
    Manifest,
    Shard,
    fsync_folder,
    write_durably,
)
from shards.plan import Entry, Plan, ShardPlan
from shards.readers import Rejected
from shards.record import Schema

_CHUNK = 1 << 20
_OURS = re.compile(r"[a-z0-9_]+-[0-9]{5}\.(tar|idx)")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _Tar:
    """A tar under a temporary name, hashed while it is written."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb", buffering=0)
        self.hash = hashlib.sha256()
        self.parts: list[bytes] = []
        self.held = self.size = 0

    def add(self, name: str, content: bytes) -> int:
        """Appends a member; returns the offset of its content."""
        head = tar.header(name.encode(), len(content))
        self.parts += (head, content, tar.padding(len(content)))
        offset = self.size + tar.BLOCK
        self.size += tar.padded(len(content))
        self.held += tar.padded(len(content))
        if self.held >= _CHUNK:
            self.flush()
        return offset

    def flush(self) -> None:
        """Hands what is held to the file; one large write instead of six small ones a sample."""
        data = b"".join(self.parts)
        self.hash.update(data)
        view = memoryview(data)
        while view:
            view = view[self.file.write(view) :]
        self.parts, self.held = [], 0

    def close(self) -> None:
        """Ends the archive and makes it durable."""
        self.parts.append(tar.END)
        self.size += len(tar.END)
        self.flush()
        os.fsync(self.file.fileno())
        self.file.close()


def schema_member(dataset: str, schema: Schema, split: str) -> bytes:
    """Content of the first member of each tar."""
    value = {"dataset": dataset, "split": split, **schema.to_json()}
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def rows_path(folder: Path, shard: ShardPlan) -> Path:
    """The file whose presence says that a shard is finished."""
    return folder / f"{shard.name}.rows.json"


def write_shard(plan: Plan, shard: ShardPlan, on_samples: Callable[[int], Any]) -> None:
    """Writes one shard into the staging folder: tar, then DALI index, then rows.

    Raises:
        InputError: an image that is none, is cut, or changed since the plan was made; names its file.
        SpaceError: the disk is full.
    """
    temporary = plan.folder / f"{shard.name}.tar.{os.getpid()}.tmp"
    try:
        rows, sample_members, archive = _write_tar(plan, shard, temporary, on_samples)
        rows["sha256"], rows["bytes"] = archive.hash.hexdigest(), archive.size
        temporary.replace(plan.folder / f"{shard.name}.tar")
        write_durably(plan.folder / f"{shard.name}.idx", index.dali_index(sample_members))
        write_durably(rows_path(plan.folder, shard), json.dumps(rows, ensure_ascii=False).encode())
        fsync_folder(plan.folder)
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise SpaceError(str(temporary), shard.size, shutil.disk_usage(plan.folder).free) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _write_tar(
    plan: Plan, shard: ShardPlan, path: Path, on_samples: Callable[[int], Any]
) -> tuple[dict[str, Any], list[list[tuple[str, int, int, str]]], _Tar]:
    archive = _Tar(path)
    members: list[list[tuple[str, int, int, str]]] = []
    facts: list[str] = []
    rows: dict[str, Any] = {name: [] for name in index.PLACES} | {"rejected": [], "converted": {}}
    keys, offsets, sizes, crcs, widths, heights = (
        rows[n] for n in ("key", "offset", "size", "crc32", "width", "height")
    )
    decode, resize_px, skip_bad = plan.options.check == "decode", plan.options.resize_px, plan.options.skip_bad
    unreported = 0
    try:
        archive.add(SCHEMA_MEMBER, schema_member(plan.dataset, plan.schema, shard.split))
        for entry in plan.entries(shard):
            unreported += 1
            if unreported == 64:
                on_samples(unreported)
                unreported = 0
            data = entry.inline or _read(entry)
            try:
                image = images.prepare(data, decode=decode, resize_px=resize_px)
            except images.BadImageError as error:
                if not skip_bad:
                    raise InputError(
                        f"{entry.source}: {error}; --skip-bad lists such images and packs the rest"
                    ) from None
                rows["rejected"].append([entry.source, entry.key, str(error)])
                continue
            name, told = f"{entry.key}.{image.extension}", entry.facts.encode()
            offset = archive.add(name, image.data)
            facts_offset = archive.add(f"{entry.key}.json", told)
            members.append(
                [
                    (image.extension, offset, len(image.data), name),
                    ("json", facts_offset, len(told), f"{entry.key}.json"),
                ]
            )
            keys.append(entry.key)
            offsets.append(offset)
            sizes.append(len(image.data))
            crcs.append(zlib.crc32(image.data))
            widths.append(image.width)
            heights.append(image.height)
            facts.append(entry.facts)
            if image.converted:
                rows["converted"][image.converted] = rows["converted"].get(image.converted, 0) + 1
        archive.close()
    finally:
        archive.file.close()
    on_samples(unreported)
    rows["facts"] = facts
    return rows, members, archive


def _read(entry: Entry) -> bytes:
    try:
        with Path(entry.path).open("rb", buffering=0) as file:
            data = file.read()
    except OSError as error:
        raise InputError(f"{entry.source} cannot be read: {error.strerror}") from None
    if len(data) != entry.size:
        raise InputError(f"{entry.source} had {entry.size} bytes when packing began and has {len(data)} now")
    return data


def finish(plan: Plan, out: Path, on_progress: Callable[[str, int, int], Any]) -> Manifest:
    """Writes the index, moves everything from the staging folder to its final name, and writes the manifest last.

    May be killed and run again: what is already moved stays where it is.

    Raises:
        InputError: no image was left after rejecting the bad ones.
        SpaceError: the disk is full.
    """
    staging = plan.folder
    try:
        shards, rejected, converted = _summary(plan)
        manifest = Manifest(
            dataset=plan.dataset,
            schema=plan.schema,
            shards=shards,
            tables=plan.tables,
            options=plan.options.shaping,
            source_hash=plan.source_hash,
            rejected=len(rejected),
            converted=dict(sorted(converted.items())),
        )
        if not manifest.shards:
            raise InputError(f"all {len(rejected)} images of {plan.dataset} were rejected")
        on_progress("index", 0, 1)
        index.write(staging / INDEX, plan.schema, _index_rows(plan))
        if rejected:
            write_durably(staging / REJECTED, rejected_csv(rejected))
        on_progress("index", 1, 1)
        _name_finally(plan, manifest, out)
        return manifest
    except OSError as error:
        if error.errno in _NO_SPACE:
            needed = 200 * sum(shard.last - shard.first for shard in plan.shards)
            raise SpaceError(str(staging / INDEX), needed, shutil.disk_usage(out).free) from None
        raise


def _name_finally(plan: Plan, manifest: Manifest, out: Path) -> None:
    """Moves the finished files to `out` and removes what an earlier set with other shards left there."""
    (out / MANIFEST).unlink(missing_ok=True)
    names = {INDEX, *(f"{table}.parquet" for table in plan.tables), *([REJECTED] if manifest.rejected else [])}
    for shard in manifest.shards:
        names |= {shard.name, shard.name.removesuffix(".tar") + ".idx"}
    for name in sorted(names):
        if (plan.folder / name).exists():
            (plan.folder / name).replace(out / name)
    for path in out.iterdir():
        if path.name not in names and (_OURS.fullmatch(path.name) or path.name in (REJECTED, CARD)):
            path.unlink()
    fsync_folder(out)


def commit(manifest: Manifest, out: Path, staging: Path) -> None:
    """Writes the manifest, which makes the folder a set, and removes the staging folder."""
    write_durably(out / MANIFEST, manifest.to_json().encode())
    fsync_folder(out)
    shutil.rmtree(staging)


def _rows(plan: Plan) -> Iterator[tuple[ShardPlan, dict[str, Any]]]:
    for shard in plan.shards:
        yield shard, json.loads(rows_path(plan.folder, shard).read_bytes())


def _summary(plan: Plan) -> tuple[tuple[Shard, ...], list[Rejected], dict[str, int]]:
    shards: list[Shard] = []
    rejected = list(plan.rejected)
    converted: dict[str, int] = {}
    for shard, rows in _rows(plan):
        rejected += [Rejected(*item) for item in rows["rejected"]]
        for name, count in rows["converted"].items():
            converted[name] = converted.get(name, 0) + count
        if rows["key"]:
            shards.append(Shard(f"{shard.name}.tar", shard.split, len(rows["key"]), rows["bytes"], rows["sha256"]))
    return tuple(shards), rejected, converted


def _index_rows(plan: Plan) -> Iterator[tuple[str, dict[str, Any]]]:
    for shard, rows in _rows(plan):
        if rows["key"]:
            facts = [json.loads(text) for text in rows["facts"]]
            columns = {name: [item[name] for item in facts] for name in plan.schema.facts}
            yield shard.split, columns | {name: rows[name] for name in index.PLACES}


def rejected_csv(rejected: list[Rejected]) -> bytes:
    """Content of `rejected.csv`."""
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["source", "key", "reason"])
    writer.writerows((item.where, item.key, item.reason) for item in rejected)
    return text.getvalue().encode()
