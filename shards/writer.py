"""Writes one planned shard, or all of them, or the set's index and manifest: each step complete or not there."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import zlib
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shards import checking, images, index, staging, tar
from shards.checking import Stored
from shards.errors import InputError, SpaceError
from shards.images import OpenDecoder
from shards.manifest import INDEX, MANIFEST, REJECTED, SCHEMA_MEMBER, Manifest, Shard, fsync_files, fsync_folder
from shards.pack_plan import Plan, ShardPlan
from shards.readers import Rejected
from shards.safe_io import create, is_regular, read_regular, temporary, write_whole
from shards.spreadsheet import csv_for_people
from shards.typed_json import parse_dataclass, parse_object

_CHUNK = 1 << 20
_CHUNKS_HELD = 8
"""How many chunks may wait to be written."""
_SHARDS_HELD = 4
"""How many written shards may wait to be durable."""


class _Tar:
    """A tar under a temporary name; a thread of its own hashes, writes and syncs while the next images are read."""

    def __init__(self, path: Path, thread: ThreadPoolExecutor) -> None:
        self.file = os.fdopen(create(path), "wb", buffering=0)
        self.hash = hashlib.sha256()
        self.thread = thread
        self.parts: list[bytes] = []
        self.held = self.size = 0
        self.writing: deque[Future[None]] = deque()

    def add(self, name: bytes, content: bytes) -> int:
        """Appends a member; returns the offset of its content."""
        size = len(content)
        self.parts += (tar.header(name, size), content, tar.padding(size))
        offset = self.size + tar.BLOCK
        taken = tar.padded(size)
        self.size += taken
        self.held += taken
        if self.held >= _CHUNK:
            self._flush()
        return offset

    def _flush(self) -> None:
        while len(self.writing) >= _CHUNKS_HELD:
            self.writing.popleft().result()
        self.writing.append(self.thread.submit(self._write, self.parts))
        self.parts, self.held = [], 0

    def _write(self, parts: list[bytes]) -> None:
        data = b"".join(parts)
        self.hash.update(data)
        view = memoryview(data)
        while view:
            view = view[self.file.write(view) :]

    def end(self) -> None:
        """Ends the archive; what was added is written by the thread."""
        self.parts.append(tar.END)
        self.size += len(tar.END)
        self._flush()

    def sync(self) -> None:
        """Makes the file durable, once the thread has written it."""
        for written in self.writing:
            written.result()
        os.fsync(self.file.fileno())
        self.file.close()


def rows_path(folder: Path, shard: ShardPlan) -> Path:
    """The file whose presence says that a shard is finished."""
    return folder / f"{shard.name}.rows.json"


def is_finished(plan: Plan, shard: ShardPlan, out: Path) -> bool:
    """Whether the shard was written, by this run or an earlier one, and nothing of it was left out.

    What was left out is looked at once more: limits, decoders and `skip_bad` may be others by now.
    """
    places = (plan.folder, out)
    try:
        head, _ = _read_rows(plan, shard)
        tars = [path for folder in places if is_regular(path := folder / f"{shard.name}.tar")]
        indices = [read_regular(path) for folder in places if is_regular(path := folder / f"{shard.name}.idx")]
    except (FileNotFoundError, InputError):
        return False
    has_index = any(hashlib.sha256(content).hexdigest() == head.index_sha256 for content in indices)
    return has_index and not head.rejected and any(path.stat().st_size == head.bytes for path in tars)


@dataclass(frozen=True)
class _Head:
    """The second line of a finished shard's rows: what the manifest will say, and the hash of its DALI index."""

    samples: int
    bytes: int
    sha256: str
    rejected: tuple[tuple[str, str, str], ...]
    converted: Mapping[str, int]
    index_sha256: str


def _read_rows(plan: Plan, shard: ShardPlan) -> tuple[_Head, bytes]:
    """What is known of a finished shard, and the line of its columns; InputError where it is not what was written."""
    path = rows_path(plan.folder, shard)
    told, _, content = read_regular(path).partition(b"\n")
    if hashlib.sha256(content).hexdigest().encode() != told:
        raise InputError(f"{path}: not what was written; move it away, and its shard is packed again")
    line, _, rows = content.partition(b"\n")
    return parse_dataclass(_Head, parse_object(line, path), path), rows


def write_shards(
    plan: Plan,
    shards: Sequence[ShardPlan],
    on_samples: Callable[[int], Any],
    open_decoder: OpenDecoder = images.open_pillow,
    threads: int = 1,
) -> None:
    """Writes shards into the staging folder, each complete or not there: tar, then DALI index, then rows.

    `on_samples` is called with the samples that are done since the last call. Pictures are checked and re-encoded by so
    many `threads`, beside one that reads and one that writes.

    Raises:
        InputError: an image that is none, is cut, or changed since the plan was made; names its file.
        SpaceError: the disk is full.
    """
    with (
        ThreadPoolExecutor(threads) as checking_threads,
        ThreadPoolExecutor(1) as writing,
        ThreadPoolExecutor(_SHARDS_HELD) as syncing,
    ):
        entries = (entry for shard in shards for entry in plan.entries(shard))
        pictures = checking.checked(entries, plan.options, open_decoder, checking_threads, threads + 1)
        ending: deque[Future[None]] = deque()
        for shard in shards:
            own = itertools.islice(pictures, shard.last - shard.first)
            archive, rows, fresh = _begin_shard(plan, shard, writing, own, on_samples)
            ending.append(syncing.submit(_end_shard, plan, shard, archive, rows, fresh))
            while len(ending) > _SHARDS_HELD:
                ending.popleft().result()
        while ending:
            ending.popleft().result()
    fsync_folder(plan.folder)


def _begin_shard(
    plan: Plan,
    shard: ShardPlan,
    thread: ThreadPoolExecutor,
    pictures: Iterable[Stored],
    on_samples: Callable[[int], Any],
) -> tuple[_Tar, _Rows, Path]:
    """Adds one shard's images; `thread` goes on writing them."""
    fresh = temporary(plan.folder / f"{shard.name}.tar")
    archive: _Tar | None = None
    with SpaceError.told(fresh, lambda: shard.size):
        try:
            archive = _Tar(fresh, thread)
            rows = _fill(plan, shard, archive, pictures, on_samples)
            archive.end()
        except BaseException:
            if archive is not None:
                thread.submit(archive.file.close).result()
            fresh.unlink(missing_ok=True)
            raise
    return archive, rows, fresh


def _end_shard(plan: Plan, shard: ShardPlan, archive: _Tar, rows: _Rows, fresh: Path) -> None:
    """Waits until the tar is written and durable, and names it."""
    with SpaceError.told(fresh, lambda: shard.size):
        try:
            archive.sync()
            fresh.replace(plan.folder / f"{shard.name}.tar")
            # These need no fsync: a power cut leaves rows that do not parse, and the shard is written again.
            dali_index = index.dali_index(rows.members())
            write_whole(plan.folder / f"{shard.name}.idx", dali_index, durable=False)
            rows_json = rows.to_json(archive.hash.hexdigest(), archive.size, hashlib.sha256(dali_index).hexdigest())
            write_whole(rows_path(plan.folder, shard), rows_json, durable=False)
        except OSError:
            archive.file.close()
            fresh.unlink(missing_ok=True)
            raise


class _Rows:
    """What the index will say of one shard."""

    def __init__(self) -> None:
        self.places: list[tuple[int, int, int, str, int, int]] = []
        self.extensions: list[str] = []
        self.facts: list[str] = []
        self.rejected: list[tuple[str, str, str]] = []
        self.converted: Counter[str] = Counter()

    def members(self) -> list[list[tuple[str, int, int, str]]]:
        """Extension, offset, size and name of each sample's two members."""
        members = []
        for (offset, size, _, key, _, _), ext, facts in zip(self.places, self.extensions, self.facts, strict=True):
            after = offset - tar.BLOCK + tar.padded(size) + tar.BLOCK
            members.append([(ext, offset, size, f"{key}.{ext}"), ("json", after, len(facts.encode()), f"{key}.json")])
        return members

    def to_json(self, sha256: str, size: int, index_sha256: str) -> bytes:
        """A line of the others' SHA-256, one about the shard, and one of its columns."""
        columns = dict(zip(index.PLACES, zip(*self.places, strict=True), strict=True)) if self.places else {}
        rows = json.dumps({**columns, "facts": self.facts}, ensure_ascii=False).encode()
        head = _Head(len(self.places), size, sha256, tuple(self.rejected), self.converted, index_sha256)
        content = json.dumps(vars(head)).encode() + b"\n" + rows
        return hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def _fill(
    plan: Plan, shard: ShardPlan, archive: _Tar, pictures: Iterable[Stored], on_samples: Callable[[int], Any]
) -> _Rows:
    rows = _Rows()
    own = {"dataset": plan.dataset, "split": shard.split, **plan.schema.to_json()}
    archive.add(SCHEMA_MEMBER.encode(), json.dumps(own, ensure_ascii=False, separators=(",", ":")).encode())
    for entry, image in pictures:
        on_samples(1)
        if isinstance(image, images.BadImageError):
            if not plan.options.skip_bad:
                told = f"{entry.source}: {image}; --skip-bad lists such images and packs the rest"
                raise InputError(told)
            rows.rejected.append((entry.source, entry.key, str(image)))
            continue
        key = entry.key
        offset = archive.add(f"{key}.{image.extension}".encode(), image.data)
        archive.add(f"{key}.json".encode(), entry.facts.encode())
        rows.places.append((offset, len(image.data), zlib.crc32(image.data), key, image.width, image.height))
        rows.extensions.append(image.extension)
        rows.facts.append(entry.facts)
        if image.converted:
            rows.converted[image.converted] += 1
    return rows


def finish(plan: Plan, out: Path, on_progress: Callable[[str, int, int], Any]) -> Manifest:
    """Writes the index, moves everything from the staging folder to its final name, and writes the manifest last.

    May be killed and run again: what is already moved stays where it is.

    Raises:
        InputError: no image was left after rejecting the bad ones, or a file that is not ours stands where one goes.
        SpaceError: the disk is full.
    """
    with SpaceError.told(plan.folder / INDEX, lambda: 200 * sum(shard.last - shard.first for shard in plan.shards)):
        shards, rejected, converted = summary(plan)
        manifest = Manifest(
            dataset=plan.dataset,
            schema=plan.schema,
            shards=shards,
            tables=plan.tables,
            options={**plan.options.shaping, **plan.noted},
            source_hash=plan.source_hash,
            rejected=len(rejected),
            converted=dict(sorted(converted.items())),
        )
        if manifest.training_hash in plan.former:
            manifest = replace(manifest, former=tuple(noted for noted in plan.former if noted not in manifest.hashes))
        if not manifest.shards:
            staging.clear(plan.folder)
            raise InputError(f"all {len(rejected)} images of {plan.dataset} were rejected")
        on_progress("index", 0, 1)
        index.write(plan.folder / INDEX, plan.schema, index_rows(plan, {shard.name for shard in shards}))
        if rejected:
            write_whole(plan.folder / REJECTED, rejected_csv(rejected))
        on_progress("index", 1, 1)
        names = manifest.files - {MANIFEST}
        idx_files = (folder / name for name in names if name.endswith(".idx") for folder in (plan.folder, out))
        fsync_files(path for path in idx_files if path.exists())
        staging.publish(out, plan.folder, names)
        return manifest


def commit(manifest: Manifest, out: Path, folder: Path) -> None:
    """Writes the manifest, which makes the folder a set, and removes the staging folder."""
    write_whole(folder / MANIFEST, manifest.encoded())  # a killed packer leaves no temporary file outside `folder`
    (folder / MANIFEST).replace(out / MANIFEST)
    fsync_folder(out)
    staging.remove(folder)


def summary(plan: Plan) -> tuple[tuple[Shard, ...], list[Rejected], Counter[str]]:
    """Of a plan whose shards are written: those with samples, what was left out, and format -> images converted."""
    shards: list[Shard] = []
    rejected = list(plan.rejected)
    converted: Counter[str] = Counter()
    for shard in plan.shards:
        head, _ = _read_rows(plan, shard)
        rejected += [Rejected(*item) for item in head.rejected]
        converted.update(head.converted)
        if head.samples:
            shards.append(Shard(f"{shard.name}.tar", shard.split, head.samples, head.bytes, head.sha256))
    return tuple(shards), rejected, converted


def index_rows(plan: Plan, kept: Container[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(split, columns of the index) of each shard of a plan whose tar is in `kept`."""
    for shard in plan.shards:
        if f"{shard.name}.tar" in kept:
            rows = json.loads(_read_rows(plan, shard)[1])
            facts = json.loads(f"[{','.join(rows.pop('facts'))}]")
            yield shard.split, rows | {name: [item[name] for item in facts] for name in plan.schema.columns}


def rejected_csv(rejected: list[Rejected]) -> bytes:
    """Content of `rejected.csv`."""
    lines = [("source", "key", "reason"), *((item.where, item.key, item.reason) for item in rejected)]
    return csv_for_people(lines).encode("utf-8", "backslashreplace")
