"""What a rank runs on, in words, and what it has used; read without torch."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import re
import time
from pathlib import Path

from fashion_dist.io import read_json
from fashion_dist.paths import RunDir
from shards.portable import cpus

_CPUINFO = Path("/proc/cpuinfo")
_GPUS = Path("/proc/driver/nvidia/gpus")


def hardware() -> str:
    """This node's GPUs and the cores that this process may use, such as `1 x NVIDIA L4, 8 cores of AMD EPYC 7B13`."""
    parts = []
    models = sorted(found for path in _GPUS.glob("*/information") if (found := _field(path, "Model")))
    parts += [f"{models.count(model)} x {model}" for model in dict.fromkeys(models)]
    cores = len(cpus())
    name = _field(_CPUINFO, "model name") or platform.machine()
    parts.append(f"{cores} core{'s' * (cores != 1)} of {name}")
    return ", ".join(parts)


def versions() -> dict[str, str]:
    """Of what decides a run's numbers; read without importing it."""
    found = {}
    for name in ("torch", "torchvision"):
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
    beats = [read_json(path) for path in run.heartbeats.glob("rank_*.json") if path != run.heartbeat(0)]
    return time.process_time() + sum(float(beat.get("cpu_s", 0.0)) for beat in beats if beat.get("attempt") == attempt)
