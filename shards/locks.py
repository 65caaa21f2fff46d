"""Locks of files, which the kernel drops when their holder dies, and the one that lets a single packer in."""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shards.errors import InputError, SpaceError
from shards.portable import pread
from shards.safe_io import open_regular

_POLL_S = 0.05
_BEHIND = 1 << 30
"""Where Windows locks a byte: behind any content, for what it locks nobody else can read."""


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


_fcntl, _msvcrt = _module("fcntl"), _module("msvcrt")


def lock_file(descriptor: int, path: Path, *, wait: bool = True, between_nodes: bool = False) -> None:
    """Lock a file until `unlock_file`, or until this process ends.

    `between_nodes` takes POSIX locks, which more network filesystems pass on; they are a process's, not a descriptor's,
    so closing any descriptor of the file gives the lock up.

    Raises:
        BlockingIOError: somebody else holds it, and `wait` is False.
        OSError: the filesystem, or this system, has no locks.
    """
    if _fcntl is not None:
        lock = _fcntl.lockf if between_nodes else _fcntl.flock
        try:
            lock(descriptor, _fcntl.LOCK_EX | (0 if wait else _fcntl.LOCK_NB))
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES) and not wait:
                raise BlockingIOError(errno.EWOULDBLOCK, "held by another", str(path)) from None
            raise
        return
    if _msvcrt is None:
        raise OSError(errno.ENOLCK, "no locks", str(path))
    while not _lock_windows(descriptor):
        if not wait:
            raise BlockingIOError(errno.EWOULDBLOCK, "held by another", str(path))
        time.sleep(_POLL_S)


def unlock_file(descriptor: int) -> None:
    """Let go of what `lock_file` locked; closes nothing."""
    if _fcntl is not None:
        _fcntl.flock(descriptor, _fcntl.LOCK_UN)
        with contextlib.suppress(OSError):
            _fcntl.lockf(descriptor, _fcntl.LOCK_UN)
    elif _msvcrt is not None:
        os.lseek(descriptor, _BEHIND, os.SEEK_SET)
        _msvcrt.locking(descriptor, _msvcrt.LK_UNLCK, 1)


@contextlib.contextmanager
def locked(descriptor: int, path: Path) -> Iterator[None]:
    """Within, this process alone holds the file."""
    lock_file(descriptor, path)
    try:
        yield
    finally:
        unlock_file(descriptor)


def _lock_windows(descriptor: int) -> bool:
    os.lseek(descriptor, _BEHIND, os.SEEK_SET)
    try:
        _msvcrt.locking(descriptor, _msvcrt.LK_NBLCK, 1)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def single_packer(path: Path, what: str) -> Iterator[None]:
    """Within, this process alone packs `what`, whose lock is `path`; the kernel drops it when the process dies.

    Raises:
        InputError: another packer holds it; names host, process, command and since when. Or it is a link, or a file
            that is no lock of ours.
    """
    descriptor = open_regular(path, os.O_RDWR | os.O_CREAT)
    try:
        try:
            lock_file(descriptor, path, wait=False)
        except BlockingIOError:
            who = _holder(pread(descriptor, 4096, 0)) or "another process"
            raise InputError(f"{what} is being packed by {who}; wait for it or stop it") from None
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
                raise
            warnings.warn(f"{path.parent} has no file locks: start no second packer there", stacklevel=3)
        else:
            _sign(descriptor, path)
        yield
    finally:
        os.close(descriptor)  # which unlocks, too


def _sign(descriptor: int, path: Path) -> None:
    """Write into a lock who holds it."""
    told = pread(descriptor, 4096, 0)
    if told and not _holder(told):
        raise InputError(f"{path} is no lock of ours; move it away")
    note = json.dumps({
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "command": " ".join(sys.argv)[:400],
        "since": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    }).encode()  # fmt: skip
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    with SpaceError.told(path, note.__len__):
        os.write(descriptor, note)


def _holder(told: bytes) -> str:
    """Who a note names; empty where it is none of ours."""
    try:
        note = json.loads(told)
        return f"process {note['pid']} on {note['host']} since {note['since']} ({note['command']})"
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
