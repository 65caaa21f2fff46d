"""Slow and failing storage under real processes: storage.c, built once by the C compiler, and what it counted."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

SOURCE = Path(__file__).with_name("storage.c")
KINDS = ("open", "stat", "list", "change", "read", "write", "sync", "loader")
METADATA = ("open", "stat", "list", "change", "loader")


def compiler() -> str | None:
    """The machine's C compiler, or None where there is none."""
    return shutil.which("cc") or shutil.which("gcc")


def build(folder: Path) -> Path:
    """The library, built in `folder` if it is not there yet."""
    made = folder / "storage.so"
    if not made.exists():
        flags = ["-O2", "-shared", "-fPIC", "-fno-builtin", "-o", f"{made}.tmp", str(SOURCE), "-ldl"]
        subprocess.run([compiler() or "cc", *flags], check=True, capture_output=True)
        Path(f"{made}.tmp").replace(made)
    return made


@dataclass(frozen=True)
class Fault:
    """Calls that fail: `count` of them from the `first` on, counted in each process.

    Args:
        kind: one of `KINDS`, but no loader.
        number: errno.
        pattern: of whole paths, as in a shell.
    """

    kind: str
    number: int
    pattern: str
    first: int = 1
    count: int = 1_000_000

    def __str__(self) -> str:
        return f"{self.kind} {self.number} {self.pattern} {self.first} {self.count}"


@dataclass(frozen=True)
class Storage:
    """Folders on slow or failing storage, as processes that start with `environment()` see them.

    Args:
        library: of `build`.
        roots: the folders.
        meta_ms, read_ms: what a call that names a file, and a read, take longer.
        short: most bytes that a read gives; 0 for all.
        faults: which calls fail.
        counts: a folder in which each process counts its calls.
        loader: also count and slow down what the loader of shared libraries looks for.
    """

    library: Path
    roots: Sequence[Path]
    meta_ms: float = 0
    read_ms: float = 0
    short: int = 0
    faults: Sequence[Fault] = ()
    counts: Path | None = None
    loader: bool = False
    more: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """The variables that put a process and its children on this storage."""
        variables = {
            "LD_PRELOAD": str(self.library),
            "STORAGE_ROOT": ":".join(str(root) for root in self.roots),
            "STORAGE_META_US": str(round(self.meta_ms * 1000)),
            "STORAGE_READ_US": str(round(self.read_ms * 1000)),
            "STORAGE_SHORT": str(self.short),
            "STORAGE_FAULTS": ";".join(str(fault) for fault in self.faults),
        }
        if self.counts:
            self.counts.mkdir(parents=True, exist_ok=True)
            variables["STORAGE_COUNTS"] = str(self.counts)
        if self.loader:
            variables["LD_AUDIT"] = str(self.library)
        return variables | self.more

    def calls(self, root: int = 0) -> dict[int, Counter[str]]:
        """How many calls of each kind every process made below a root, by its id; without processes that made none."""
        found, size = {}, 8 * len(KINDS)
        for path in self.counts.iterdir() if self.counts else ():
            mine = path.read_bytes()[root * size : (root + 1) * size]
            numbers = dict(zip(KINDS, struct.unpack(f"{len(KINDS)}Q", mine), strict=True))
            if any(numbers.values()):
                found[int(path.name)] = Counter(numbers)
        return found


def metadata(calls: Counter[str]) -> int:
    """How many of the calls name a file: what a server of metadata answers."""
    return sum(calls[kind] for kind in METADATA)


def preloaded() -> bool:
    """Whether this very process is on such storage."""
    return "STORAGE_ROOT" in os.environ
