"""What Linux has and macOS or Windows lack: a process's CPUs, positioned reads, flags of `open`, users."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

_affinity: Any = getattr(os, "sched_getaffinity", None)
_set_affinity: Any = getattr(os, "sched_setaffinity", None)
_seek = threading.Lock()

OPEN_FLAGS: int = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
"""For files that others may have put there: follow no link, wait for no FIFO, hand nothing to children."""
READ_FLAGS: int = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_BINARY"))
"""For a user's own files, which may be links."""


def cpus() -> list[int]:
    """The CPUs that this process may use, ascending; all of them where the system does not say."""
    return sorted(_affinity(0)) if _affinity is not None else list(range(os.cpu_count() or 1))


def set_cpus(cores: Iterable[int]) -> None:
    """Keep this process to these CPUs, where the system can."""
    if _set_affinity is not None:
        _set_affinity(0, cores)


def open_files() -> int:
    """How many files one user of many in this process may have open: a quarter of the process's limit."""
    try:
        import resource
    except ImportError:  # Windows
        return 512
    return max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)


def user_id() -> int:
    """The number of the user that this process acts as; 0 where users have none, as their files do."""
    return int(os.geteuid()) if hasattr(os, "geteuid") else 0


def _pread(descriptor: int, size: int, offset: int, /) -> bytes:
    with _seek:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, size)


_read_at: Callable[[int, int, int], bytes] = getattr(os, "pread", _pread)


def pread(descriptor: int, size: int, offset: int) -> bytes:
    """`size` bytes at `offset` of an open file, fewer only at its end; network filesystems may take several reads."""
    data = _read_at(descriptor, size, offset)
    while len(data) < size and (more := _read_at(descriptor, size - len(data), offset + len(data))):
        data += more
    return data
