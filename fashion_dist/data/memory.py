"""Memory for the cache: how much there is to take, and one block of it for all ranks of a node.

Ranks share the block as a file of /dev/shm. The last of them to open it removes its name, so that the kernel gives the
memory back when the last rank ends, however it ends; what a death before that moment leaves is removed at the next
start.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import re
import stat
from collections import Counter
from pathlib import Path

from fashion_dist.errors import ConfigError
from shards.locks import lock_file, unlock_file

SHARED = Path("/dev/shm")
_PREFIX = "fashion-dist"
_HEADER = mmap.PAGESIZE
"""Bytes before the block: the first 8 count the ranks that have opened it."""
_opened: Counter[str] = Counter()
_taken = 0
"""Bytes promised to caches of this process: pages not written yet still count as free for the system."""


def free_bytes() -> int:
    """Memory of this node, or of this job's control group, that could still be taken."""
    free = [_meminfo_available()]
    for limit, usage in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):
            free.append(int(Path(limit).read_text()) - int(Path(usage).read_text()))
    return max(min(free) - _taken, 0)


def _meminfo_available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("/proc/meminfo tells MemAvailable since Linux 3.14")


class Block:
    """A block of zeroed memory, private or shared by the ranks of a node.

    Args:
        size: bytes; the first rank's decides.
        ranks: processes that share it; each must open it, under the same `name` and as children of one parent.
        name: what it is for.

    Raises:
        ConfigError: /dev/shm has no room for it, or somebody else's file in its place.
    """

    def __init__(self, size: int, ranks: int = 1, name: str = "") -> None:
        global _taken
        self._promised = size if ranks == 1 else 0
        _taken += self._promised
        if ranks == 1:
            self.map = mmap.mmap(-1, max(size, 1))
            self.start, self.size = 0, size
            return
        _opened[name] += 1
        digest = hashlib.sha256(f"{name}\n{_opened[name]}".encode()).hexdigest()[:16]
        self.map = _open_shared(SHARED / f"{_PREFIX}-{os.getuid()}-{os.getppid()}-{digest}", size, ranks)
        self.start, self.size = _HEADER, len(self.map) - _HEADER

    def close(self) -> None:
        """Give the memory back once no view of it is left."""
        global _taken
        _taken -= self._promised
        self._promised = 0
        with contextlib.suppress(BufferError):
            # Views that are still held keep the map alive; it goes with the last of them.
            self.map.close()


def remove_stale() -> None:
    """Remove what earlier jobs of this user left in /dev/shm because they died while opening it."""
    ours = re.compile(rf"{_PREFIX}-{os.getuid()}-(\d+)-[0-9a-f]{{16}}")
    for path in SHARED.glob(f"{_PREFIX}-{os.getuid()}-*"):
        named = ours.fullmatch(path.name)
        if named and not Path(f"/proc/{named[1]}").exists() and _is_ours(os.lstat(path)):
            path.unlink(missing_ok=True)


def _is_ours(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()


def _open_shared(path: Path, size: int, ranks: int) -> mmap.mmap:
    while True:
        descriptor = _make_or_open(path)
        try:
            lock_file(descriptor, path)
            if os.fstat(descriptor).st_nlink == 0:
                continue  # the last rank of an earlier block removed it between our open and our lock
            if os.fstat(descriptor).st_size == 0:
                _reserve(descriptor, path, _HEADER + size)
            opened = int.from_bytes(os.pread(descriptor, 8, 0), "little") + 1
            os.pwrite(descriptor, opened.to_bytes(8, "little"), 0)
            if opened == ranks:
                path.unlink()
            return mmap.mmap(descriptor, 0)
        finally:
            # Closing would not unlock: the map keeps a duplicate of the descriptor.
            unlock_file(descriptor)
            os.close(descriptor)


def _make_or_open(path: Path) -> int:
    """A descriptor of the block, which the first rank makes; never of what another user put in its place.

    Raises:
        ConfigError: somebody else's file has its name, or one that others can open.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        with contextlib.suppress(FileExistsError):
            return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            continue  # its last rank has opened it and removed its name
        except OSError as error:
            raise ConfigError(f"{path} cannot be shared by ranks: {error.strerror}; remove it") from None
        found = os.fstat(descriptor)
        if _is_ours(found) and not found.st_mode & 0o077 and found.st_nlink < 2:
            return descriptor
        os.close(descriptor)
        raise ConfigError(f"{path} is not a block of this user's alone; remove it, or use --cache none")


def _reserve(descriptor: int, path: Path, size: int) -> None:
    remove_stale()
    try:
        # All of it now: a page that cannot be had later would be a SIGBUS in the middle of an epoch.
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        path.unlink()
        raise ConfigError(
            f"--cache ram needs {size / 1e9:.2f} GB of {SHARED}, which does not have them ({error.strerror}); "
            "allowed: a smaller --cache-gb, or --cache none"
        ) from None
