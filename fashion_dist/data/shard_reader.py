"""Encoded images out of the shards: positioned reads, checked, ahead of the decoder.

`pread`, not `mmap`: a shard that shrinks while it is read is an error naming shard, key and offset, not a signal.
"""

from __future__ import annotations

import errno
import math
import os
import threading
import time
import zlib
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fashion_dist.errors import DamageError, InputError
from shards import Manifest, Split, program
from shards.portable import open_files as files_allowed
from shards.portable import pread
from shards.safe_io import open_regular

OPEN_FILES = 64
"""Shards of one loader that are open at once; the one not used for longest is closed first."""
_LOOKS = 16
"""Shards that one pool task looks at: to hand a task over costs more than a look at a file in memory."""
_CHUNK_S = 0.02
"""What one pool task should take: shorter wastes time on handing over, longer leaves slow disks waiting."""

Encoded = np.ndarray
"""uint8 [size], the bytes of one image file."""


class ShardFiles:
    """The shards of one split, open for positioned reads by any number of threads."""

    def __init__(self, split: Split, open_files: int = OPEN_FILES) -> None:
        self._split = split
        self._limit = min(open_files, files_allowed())
        self._open: OrderedDict[int, _Handle] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, row: int) -> Encoded:
        """The bytes of the image in `row`, checked.

        Raises:
            DamageError: they cannot be read, or are not what was packed.
        """
        split = self._split
        shard, offset, size = int(split.shard[row]), int(split.offset[row]), int(split.size[row])
        try:
            data = self._pread(shard, size, offset)
        except OSError as error:
            raise self.damage(row, f"cannot be read: {error.strerror or error}") from error
        if len(data) < size:
            raise self.damage(row, f"the shard ends after {len(data)} of the image's {size} bytes")
        found = zlib.crc32(data)
        if found != int(split.crc32[row]):
            raise self.damage(row, f"the image's CRC-32 is {found:08x}, packed was {int(split.crc32[row]):08x}")
        return np.frombuffer(data, np.uint8)

    def damage(self, row: int, reason: str) -> DamageError:
        """The error that names the image in `row`."""
        split = self._split
        return DamageError(split.shard_names[split.shard[row]], split.keys[row], int(split.offset[row]), reason)

    def check(self, rank: int = 0, world_size: int = 1) -> None:
        """See that the shards are the ones the index is about, many at once where the storage is slow.

        Args:
            rank: this process among those that read the same files.
            world_size: how many they are; each looks at its share.

        Raises:
            InputError: a shard is missing, or its size, its count or where its samples lie is not what index and
                manifest say.
        """
        split = self._split
        told = {(shard.name, shard.split): shard for shard in Manifest.load(split.path).shards}
        counts = np.bincount(split.shard, minlength=len(split.shard_names))
        order = np.lexsort((split.offset, split.shard))
        firsts = np.flatnonzero(np.diff(split.shard[order], prepend=-1))
        lasts = np.append(firsts[1:], len(order)) - 1 if len(order) else firsts

        def look(ends: tuple[int, int]) -> None:
            first, last = ends
            number = split.shard[first]
            shard = told[split.shard_names[number], split.name]
            path = split.tar_folder / shard.name
            if counts[number] != shard.samples:
                raise InputError(
                    f"{path}: {counts[number]} samples in the index, {shard.samples} in the manifest; "
                    + _reindex(split.path)
                )
            try:
                descriptor = open_regular(path)
                try:
                    length = os.fstat(descriptor).st_size
                    if length != shard.size:
                        raise InputError(
                            f"{path}: {length} bytes, which does not match the manifest's {shard.size}; "
                            + _reindex(split.path)
                        )
                    for row in {first, last}:
                        _check_header(pread(descriptor, 512, int(split.offset[row]) - 512), split, row)
                finally:
                    os.close(descriptor)
            except FileNotFoundError:
                raise InputError(f"{path}: no such shard, but the index names it; {_reindex(split.path)}") from None
            except OSError as error:
                raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error

        mine = slice(rank, None, world_size)
        ends = list(zip(order[firsts[mine]].tolist(), order[lasts[mine]].tolist(), strict=True))
        each = max(1, min(_LOOKS, len(ends) // OPEN_FILES))
        with ThreadPoolExecutor(min(self._limit, max(1, len(ends)))) as pool:
            # `map` raises what was wrong with the first shard of all, whichever thread was first
            list(pool.map(lambda first: list(map(look, ends[first : first + each])), range(0, len(ends), each)))

    def close(self) -> None:
        """Close all files; reads under way in other threads finish first."""
        with self._lock:
            for handle in self._open.values():
                handle.leave()
            self._open.clear()

    def _pread(self, shard: int, size: int, offset: int, again: bool = False) -> bytes:
        handle = self._acquire(shard)
        try:
            return pread(handle.descriptor, size, offset)
        except OSError as error:
            # NFS forgets an open file that was replaced; whether it is still the same the CRC-32 will tell.
            if error.errno != errno.ESTALE or again:
                raise
            with self._lock:
                if self._open.get(shard) is handle:
                    self._open.pop(shard).leave()
        finally:
            self._release(handle)
        return self._pread(shard, size, offset, again=True)

    def _acquire(self, shard: int) -> _Handle:
        with self._lock:
            handle = self._open.get(shard)
            if handle is None:
                path = self._split.tar_folder / self._split.shard_names[shard]
                handle = self._open[shard] = _Handle(open_regular(path))
                if len(self._open) > self._limit:
                    self._open.popitem(last=False)[1].leave()
            else:
                self._open.move_to_end(shard)
            handle.users += 1
            return handle

    def _release(self, handle: _Handle) -> None:
        with self._lock:
            handle.leave()


@dataclass
class _Handle:
    """A file descriptor, closed when the table of open files and the last reader have left it."""

    descriptor: int
    users: int = 1

    def leave(self) -> None:
        self.users -= 1
        if self.users == 0:
            os.close(self.descriptor)


def _reindex(folder: Path) -> str:
    """What to type for an index that fits: as the one that is there was made."""
    manifest = Manifest.load(folder)
    taking = manifest.options.get("taking", {})
    held = taking.get("held_out", {})
    words = ["--reindex", manifest.tar_folder or folder, *(["--out", folder] if manifest.tar_folder else [])]
    for flag, value in (("label", taking.get("label")), ("image", taking.get("image")), *held.items()):
        words += [f"--{flag}", value] if value and flag != "keys" else []
    words += ["--prefix-keys"] if taking.get("prefix_keys") else []
    return f"{program.command('pack', *words)} makes a fitting index"


def _check_header(header: bytes, split: Split, row: int) -> None:
    path, size = split.tar_folder / split.shard_names[split.shard[row]], int(split.size[row])
    if header[257:262] != b"ustar" or int(header[124:135].strip(b" \0") or b"0", 8) != size:
        advice = _reindex(split.path)
        raise InputError(
            f"{path}: does not match the index: no image of {size} bytes at {int(split.offset[row])}; {advice}"
        )


@dataclass
class Fetched:
    """The images of one batch on their way."""

    rows: np.ndarray
    images: list[Encoded | DamageError | None]
    parts: list[Future[None]] = field(default_factory=list)

    def wait(self) -> list[Encoded | DamageError | None]:
        """Each image's bytes, what is wrong with it, or None where it was not wanted; blocks until all are read."""
        for part in self.parts:
            part.result()
        return self.images

    def cancel(self) -> None:
        """Do not begin what has not begun."""
        for part in self.parts:
            part.cancel()


class Fetcher:
    """Reads batches ahead with a pool that grows to as many threads as the disk's slowness asks for."""

    def __init__(self, files: ShardFiles, split: Split, threads: int) -> None:
        self._files = files
        self._split = split
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="fetch")
        self._read_s = 0.0
        """Running mean of the time that one image takes."""

    def start(self, rows: np.ndarray, wanted: np.ndarray) -> Fetched:
        """Begin to read the images in `rows` (int64 [n]) that are `wanted` (bool [n])."""
        batch = Fetched(rows, [None] * len(rows))
        positions = np.flatnonzero(wanted)
        if len(positions):
            count = len(positions)
            tasks = min(max(math.ceil(count * self._read_s / _CHUNK_S), 1), count, self._threads)
            parts = [positions] if tasks == 1 else np.array_split(self._sorted(rows, positions), tasks)
            batch.parts = [self._pool.submit(self._read, batch, part) for part in parts]
        return batch

    def ahead(self, batch: int) -> int:
        """How many batches of that many images should be under way: enough to keep the pool busy on a slow disk."""
        return int(np.clip(np.ceil(4 * self._threads / max(batch, 1)), 2, 64)) if self._read_s > 0.001 else 2

    def close(self) -> None:
        """Drop what has not begun and wait for what has."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _sorted(self, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """In the order they lie on the disk, so that neighbours are read one after the other."""
        at = rows[positions]
        return positions[np.lexsort((self._split.offset[at], self._split.shard[at]))]

    def _read(self, batch: Fetched, positions: np.ndarray) -> None:
        began = time.perf_counter()
        for position in self._sorted(batch.rows, positions).tolist():
            try:
                batch.images[position] = self._files.read(int(batch.rows[position]))
            except DamageError as error:
                batch.images[position] = error
        taken = (time.perf_counter() - began) / len(positions)
        self._read_s += 0.2 * (taken - self._read_s)
