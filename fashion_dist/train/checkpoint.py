"""Checkpoints that are committed or absent.

    checkpoints/
      step-00000480/   state.pt  manifest.json      the history, bounded; the newest is where a run resumes
      best-00000400/   state.pt  manifest.json      the best by the monitored metric

Saving: copy the state (the only part the training loop waits for), then, in a thread: write it into a hidden folder,
fsync, write the manifest with the SHA-256 of the state, fsync, rename, fsync the parent. A kill at any moment leaves a
complete checkpoint or a hidden folder that the next start removes. A state is held twice at most: itself and its copy,
whose memory is kept for the next one.

Loading, by rank 0 for all, verifies the hash and reads tensors and plain values only (`weights_only=True`), so a
checkpoint can run no code. A damaged one is passed over with a warning for the one before.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import secrets
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from fashion_dist.config import Config
from fashion_dist.errors import CheckpointError, InputError
from fashion_dist.io import parse_dataclass, read_object, sha256_of_open
from fashion_dist.models import pretrained
from fashion_dist.runs import differences, parse_config
from fashion_dist.train.state_tensors import CopyBuffers, state_bytes
from shards import Manifest
from shards.safe_io import create, hole_fault, open_regular, refuse_link, remove_folder

logger = logging.getLogger(__name__)

_STATE = "state.pt"
_MANIFEST = "manifest.json"
_FILES = re.compile(r"state\.pt|manifest\.json")
_COMMITTED = re.compile(r"(step|best)-\d+")
_LEFTOVER = re.compile(r"\.(step|best)-\d+\.[0-9a-f]+")


@dataclass(frozen=True)
class Saved:
    """A committed checkpoint's folder and what its manifest says of it."""

    path: Path
    step: int
    facts: Mapping[str, Any]

    def require_own(self, config: Config, manifest: Manifest) -> None:
        """Raise CheckpointError where it was not saved by a run of this configuration and shard set."""
        if not manifest.learned_as(str(self.facts.get("data_hash"))):
            raise CheckpointError(f"checkpoint {self.path} is of another shard set; --fresh starts over beside it")
        try:
            saved, gone = parse_config(self.facts.get("config", {}))
        except InputError as error:
            raise CheckpointError(
                f"checkpoint {self.path}: its manifest: {error}; --fresh starts over beside it"
            ) from None
        if other := [*gone, *differences(saved, config)]:
            raise CheckpointError(
                f"checkpoint {self.path} is of another recipe ({', '.join(other)}); --fresh starts over beside it"
            )


@dataclass(frozen=True)
class _Pending:
    """A write in the background: when it has ended, the bytes of its copy, and when that is no longer needed."""

    done: Future[None]
    size: int
    written: threading.Event


class Checkpoints:
    """The checkpoint folder of one run.

    Args:
        folder: where; created at the first save.
        keep: step checkpoints kept behind the newest one.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._buffers = CopyBuffers()
        self._pending: deque[_Pending] = deque()
        """Writes that are not known to have ended well."""

    def save(self, name: str, step: int, state: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Commit `state` as `<name>-<step>`; returns when it is copied, and writes it in the background.

        Copies are written one after another, and one that is written, if not yet durable, makes room for the next. The
        one before may also wait where it is less than half as large, as the best weights are beside the state that
        follows them; else this call waits for it.

        Args:
            name: `step` or `best`.
            step: optimiser steps done.
            state: tensors and plain values.
            facts: plain values for the manifest.

        Raises:
            CheckpointError: an earlier write failed; the message has the path and the bytes needed.
        """
        size = state_bytes(state)
        waiting = deque(write for write in self._pending if not write.written.is_set())
        while sum(write.size for write in waiting) > size // 2:
            waiting.popleft().written.wait()
        self.check()
        copied, written = self._buffers.copy(state), threading.Event()

        def release() -> None:
            self._buffers.give_back(copied)
            written.set()

        def write() -> None:
            copied.wait()
            self._commit(name, step, copied.state, size, dict(facts), release)

        done = self._writer.submit(write)
        done.add_done_callback(lambda _: written.set())  # also of a write that failed
        self._pending.append(_Pending(done, size, written))

    def wait(self) -> None:
        """Return when nothing is in flight; raises CheckpointError when a write failed."""
        while self._pending:
            self._pending.popleft().done.result()

    def check(self) -> None:
        """Raise CheckpointError when a write has failed; costs nothing, so every step may ask."""
        while self._pending and self._pending[0].done.done():
            self._pending.popleft().done.result()

    def _commit(
        self,
        name: str,
        step: int,
        state: dict[str, Any],
        size: int,
        facts: dict[str, Any],
        release: Callable[[], None],
    ) -> None:
        final = self.folder / f"{name}-{step:08d}"
        temporary = self.folder / f".{final.name}.{secrets.token_hex(6)}"
        try:
            refuse_link(self.folder).mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            written = _write_state(temporary / _STATE, state, release)
            manifest = {**facts, "step": step, **written}
            _write_synced(temporary / _MANIFEST, (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode())
            _sync_folder(temporary)
            # A resumed run reaches the same step again; what it saved there before is the same state.
            remove_folder(final, _FILES)
            temporary.rename(final)
            _sync_folder(self.folder)
        except (OSError, InputError) as error:
            _remove(temporary)
            raise _write_error(final, size, error) from error
        kept = self.keep + 1 if name == "step" else 1
        for old in self._folders(name)[kept:]:
            _remove(old)

    def _folders(self, name: str) -> list[Path]:
        """Committed folders, newest step first."""
        found = (path for path in self.folder.glob(f"{name}-*") if _COMMITTED.fullmatch(path.name))
        return sorted(found, reverse=True)

    def clean(self) -> None:
        """Remove what killed writers left behind; only the run's lock holder may call this.

        Raises:
            InputError: the folder is a symbolic link, so what is in it may be anybody's.
        """
        for leftover in refuse_link(self.folder).glob(".*"):
            if _LEFTOVER.fullmatch(leftover.name):
                _remove(leftover)

    def load(self, name: str = "step", map_location: str | torch.device = "cpu") -> tuple[Saved, dict[str, Any]] | None:
        """The newest checkpoint that is whole, or None without any.

        Raises:
            CheckpointError: there are checkpoints and all are damaged.
        """
        self._buffers = CopyBuffers()  # what is read takes as much memory
        folders = self._folders(name)
        for folder in folders:
            try:
                return _load(folder, map_location)
            except CheckpointError as error:
                logger.warning("%s; falling back to the one before", error)
        if folders:
            raise CheckpointError(f"{self.folder}: all {len(folders)} checkpoints named {name!r} are damaged")
        return None

    def close(self) -> None:
        """Wait for the last write and end the thread."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()


def _remove(folder: Path) -> None:
    """Remove a checkpoint's folder, unless there is something in it that we did not write."""
    try:
        remove_folder(folder, _FILES)
    except (OSError, InputError) as error:
        logger.warning("%s", error)


def _load(folder: Path, map_location: str | torch.device) -> tuple[Saved, dict[str, Any]]:
    try:
        values = read_object(folder / _MANIFEST)
        manifest = parse_dataclass(_Manifest, values, folder / _MANIFEST)
        file = os.fdopen(open_regular(folder / _STATE), "rb")
    except (OSError, InputError) as error:
        raise CheckpointError(f"checkpoint {folder} cannot be read: {error}") from error
    with file:
        try:
            fault = hole_fault(file.fileno())
            digest = "" if fault else sha256_of_open(file)
            file.seek(0)
        except OSError as error:
            raise CheckpointError(f"checkpoint {folder} cannot be read: {error}") from error
        if fault is not None:
            raise CheckpointError(f"checkpoint {folder} cannot be read: {folder / _STATE}: {fault}")
        if digest != manifest.sha256:
            raise CheckpointError(f"checkpoint {folder} is damaged: {_STATE} is not what its manifest says")
        try:
            state = torch.load(file, map_location=map_location, weights_only=True)
        except Exception as error:  # torch.load raises many kinds; each means that this file is no checkpoint of ours
            raise CheckpointError(f"checkpoint {folder} is refused: {pretrained.why_not_loaded(error)}") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"checkpoint {folder} is refused: {_STATE} holds no state")
    return Saved(folder, manifest.step, values), state


@dataclass(frozen=True)
class _Manifest:
    """What every checkpoint's manifest says, beside the facts of its run."""

    step: int
    sha256: str


class _HashedFile:
    """What torch writes a state to: kept, counted and hashed. An error is told at the end: torch's writer, which is not
    Python, survives none.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest, self.size = file, hashlib.sha256(), 0
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        """All of it, or none from the first error on."""
        size = memoryview(data).nbytes
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
            self.digest.update(data)
            self.size += size
        return size

    def flush(self) -> None:
        """Nothing: the file is fsynced when it is whole."""


def _write_state(path: Path, state: dict[str, Any], release: Callable[[], None]) -> dict[str, Any]:
    """Write it as torch does, durably, and `release` its tensors before that; `bytes` and `sha256` of the file."""
    with os.fdopen(create(path), "wb") as file:
        hashed = _HashedFile(file)
        torch.save(state, hashed)  # type: ignore[arg-type]
        release()
        if hashed.error is not None:
            raise hashed.error
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": hashed.size, "sha256": hashed.digest.hexdigest()}


def _write_synced(path: Path, data: bytes | memoryview) -> None:
    with os.fdopen(create(path), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # Some network filesystems refuse fsync on folders; their rename is then as durable as it gets.
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _write_error(path: Path, size: int, error: OSError | InputError) -> CheckpointError:
    before = any(_COMMITTED.fullmatch(other.name) for other in path.parent.glob("*"))
    told = f"{path}: {size:,} bytes needed; {'the one before is intact' if before else 'there is none before it'}"
    if isinstance(error, OSError) and error.errno == errno.EDQUOT:
        return CheckpointError(f"your quota is used up at checkpoint {told}")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return CheckpointError(f"no space for checkpoint {told}")
    return CheckpointError(f"checkpoint {path} ({size:,} bytes) could not be written: {error}")
