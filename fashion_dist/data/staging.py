"""Shards copied to a node's own disk before they are read: once per node, verified, resumable."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from fashion_dist.errors import ConfigError, DamageError
from shards import Manifest, Split, program
from shards.locks import locked
from shards.portable import user_id
from shards.safe_io import create, expanded, is_regular, open_regular, private_folder

Progress = Callable[[str, int, int], None]
"""(what, bytes done, bytes in all)"""

_CHUNK = 1 << 22
_LOG = logging.getLogger(__name__)
_TELL_EVERY_S = 5.0


def stage(split: Split, where: str, on_progress: Progress | None = None) -> Split:
    """The same split with its shards on local disk.

    The first process of a node copies, the others wait for it. A copy gets its name when its SHA-256 is the
    manifest's; copies that are there already, from an earlier attempt or another run, are taken as they are.

    Args:
        split: as opened.
        where: a folder, or `auto` for `$SLURM_TMPDIR`, else `$TMPDIR`.
        on_progress: told every few megabytes; without it the log is, every few seconds.

    Raises:
        ConfigError: no such folder, or no room in it, or something else has a shard's name there.
        InputError: our folder in it is a link, somebody else's, or can be written to by others.
        DamageError: a shard is not the one that was packed.
    """
    manifest = Manifest.load(split.path)
    used = {split.shard_names[i] for i in np.unique(split.shard)}
    shards = list({shard.name: shard for shard in manifest.shards if shard.name in used}.values())
    base = _folder(where) / f"fashion-dist-{user_id()}"
    folder = base / manifest.data_hash[:16]
    try:
        base.parent.mkdir(parents=True, exist_ok=True)
        private_folder(base)
        private_folder(folder)
        path = folder / ".lock"
        with os.fdopen(open_regular(path, os.O_RDWR | os.O_CREAT), "rb") as lock, locked(lock.fileno(), path):
            missing = [shard for shard in shards if not _is_there(folder / shard.name, shard.size)]
            _check_room(folder, sum(shard.size for shard in missing))
            tell = on_progress or _Told()
            done, total = 0, sum(shard.size for shard in missing)
            for shard in missing:
                for copied in _copy(split.tar_folder / shard.name, folder / shard.name, shard.sha256):
                    tell("stage", done + copied, total)
                done += shard.size
    except OSError as error:
        raise ConfigError(f"--stage {where}: cannot copy shards to {folder}: {error.strerror or error}") from error
    return replace(split, tar_folder=folder)


def _folder(where: str) -> Path:
    if where != "auto":
        return expanded(where).absolute()
    for name in ("SLURM_TMPDIR", "TMPDIR"):
        if os.environ.get(name):
            return Path(os.environ[name])
    raise ConfigError("--stage auto needs $SLURM_TMPDIR or $TMPDIR, and neither is set; give a folder, or --stage off")


def _is_there(path: Path, size: int) -> bool:
    """Whether a whole copy is there; raises ConfigError for anything else of its name."""
    if not os.path.lexists(path):
        return False
    if not is_regular(path) or path.stat().st_size != size:
        raise ConfigError(f"--stage: {path} is not the copy of a shard that was put there; remove it")
    return True


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(f"--stage needs {needed / 1e9:.2f} GB in {folder}, which has {free / 1e9:.2f} GB free")


def _copy(source: Path, target: Path, sha256: str) -> Iterator[int]:
    """Yield the bytes copied so far."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # tars that were only indexed may lie in folders
    temporary = target.with_name(f".{target.name}.part")
    temporary.unlink(missing_ok=True)  # of a copier that was killed: the folder is private, and its lock ours
    digest, done = hashlib.sha256(), 0
    with os.fdopen(open_regular(source), "rb") as reading, os.fdopen(create(temporary), "wb") as writing:
        while data := reading.read(_CHUNK):
            digest.update(data)
            writing.write(data)
            done += len(data)
            yield done
    if digest.hexdigest() != sha256:
        temporary.unlink()
        raise DamageError(
            source.name, "", 0, f"its SHA-256 is not the manifest's; {program.command('pack')} --verify says more"
        )
    temporary.replace(target)


class _Told:
    """Progress for the log."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _TELL_EVERY_S

    def __call__(self, what: str, done: int, total: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _TELL_EVERY_S
            _LOG.info("%s: %.1f of %.1f GB", what, done / 1e9, total / 1e9)
