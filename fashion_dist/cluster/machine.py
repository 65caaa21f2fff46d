"""What a rank runs on, in words, and what it has used; read without torch."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fashion_dist.errors import InputError
from fashion_dist.io import names_in, parse_dataclass, read_object
from fashion_dist.paths import RunDir
from shards.portable import cpus

_CPUINFO = Path("/proc/cpuinfo")
_GPUS = Path("/proc/driver/nvidia/gpus")
_OF_RANK = re.compile(r"rank_(\d{1,9})\.json")
_SIDE_BY_SIDE = 32


def hardware() -> str:
    """This node's GPUs and the cores that this process may use, such as `1 x NVIDIA L4, 8 cores of AMD EPYC 7B13`."""
    parts = []
    models = sorted(found for path in _GPUS.glob("*/information") if (found := _field(path, "Model")))
    parts += [f"{models.count(model)} x {model}" for model in dict.fromkeys(models)]
    cores = len(cpus())
    name = _field(_CPUINFO, "model name") or platform.machine()
    parts.append(f"{cores} core{'s' * (cores != 1)} of {name}")
    return ", ".join(parts)


def installed(*packages: str) -> dict[str, str]:
    """The versions of those packages that are installed; read without importing them."""
    found = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _field(path: Path, name: str) -> str:
    try:
        found = re.search(rf"^{name}\s*:\s*(.+)$", path.read_text(), re.MULTILINE)
    except OSError:
        return ""
    return " ".join(found[1].split()) if found else ""


def cpu_seconds(run: RunDir, attempt: int) -> float:
    """CPU time of rank 0, which asks, and by their last signs of life of the start's other ranks; of all threads."""
    return time.process_time() + sum(beat.cpu_s for rank, beat in Beat.read_all(run, attempt).items() if rank)


@dataclass(frozen=True)
class Beat:
    """A rank's sign of life: the how manieth `beat`, in which of our functions (the innermost), signals it was sent."""

    attempt: int
    beat: int
    steps: int
    host: str
    where: str
    signals: tuple[str, ...] = ()
    cpu_s: float = 0.0

    @classmethod
    def read(cls, path: Path, attempt: int) -> Beat | None:
        """The last one in that start; None where there is none, or none that can be read now."""
        try:
            beat = parse_dataclass(cls, read_object(path), path)
        except InputError:
            return None
        return beat if beat.attempt == attempt else None

    @classmethod
    def read_all(cls, run: RunDir, attempt: int) -> dict[int, Beat]:
        """The last ones of all ranks of that start, read side by side: a call may wait for a server."""
        names = filter(None, map(_OF_RANK.fullmatch, names_in(run.heartbeats)))
        there = {int(found[1]): run.heartbeats / found[0] for found in names}
        with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
            beats = pool.map(lambda path: cls.read(path, attempt), there.values())
            return {rank: beat for rank, beat in zip(there, beats, strict=True) if beat is not None}
