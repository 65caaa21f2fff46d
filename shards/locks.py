"""One packer at a time: a lock the kernel drops when its holder dies, and a note that says who holds it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
import time
import warnings
from pathlib import Path
from types import TracebackType

from shards.errors import InputError
from shards.safe_io import open_regular


class Lock:
    """Holds `path` from `__enter__` to `__exit__`; the kernel drops it when the process dies, however it does.

    Raises:
        InputError: another packer holds it; names host, process, command and since when. Or it is a link, or a file
            that is no lock of ours.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        self._descriptor = -1

    def __enter__(self) -> Lock:
        descriptor = open_regular(self.path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            told = os.pread(descriptor, 4096, 0)
            os.close(descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
                    warnings.warn(f"{self.path.parent} has no file locks: start no second packer there", stacklevel=2)
                    return self
                raise
            who = _holder(told) or "another process"
            raise InputError(f"{self.what} is being packed by {who}; wait for it or stop it") from None
        told = os.pread(descriptor, 4096, 0)
        if told and not _holder(told):
            os.close(descriptor)
            raise InputError(f"{self.path} is no lock of ours; move it away")
        note = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "command": " ".join(sys.argv)[:400],
            "since": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(note).encode(), 0)
        self._descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


def _holder(told: bytes) -> str:
    """Who a note names; empty where it is none of ours."""
    try:
        note = json.loads(told)
        return f"process {note['pid']} on {note['host']} since {note['since']} ({note['command']})"
    except (ValueError, KeyError, TypeError):
        return ""
