"""What a node is doing: processors, memory, disks, network and GPUs, sampled while it trains.

The first rank of every node samples from its watching thread, into a small file beside the signs of life; rank 0's
watching thread collects those of all nodes, and the training loop has them in metrics.jsonl. It is the whole node that
is measured, other people's jobs on it included.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fashion_dist.errors import InputError
from fashion_dist.io import parse_dataclass, read_object
from fashion_dist.paths import RunDir

_MB = 1e6
EACH_NODE = 4
"""Nodes up to which each has figures of its own in metrics.jsonl."""


class NodeSampler:
    """This node's figures; rates and shares are means since the sample before, or since this was made.

    Made and asked in one thread: psutil has a mark for each.
    """

    def __init__(self) -> None:
        import psutil  # here: `launch.py` comes by this file, and has no time for it

        self._psutil: Any = psutil
        psutil.cpu_percent()  # the first call only sets the mark
        self._gpus = _Gpus()
        self._counters, self._at = self._count(), time.monotonic()

    def sample(self) -> dict[str, float]:
        """Figures by name, such as `cpu_percent`, `memory_percent`, `disk_read_mb_s`, `gpu0_percent`.

        What the machine does not tell is left out.
        """
        now, at = self._count(), time.monotonic()
        passed_s = max(at - self._at, 1e-3)
        rates = {name: max(0.0, now[name] - self._counters.get(name, now[name])) / passed_s / _MB for name in now}
        self._counters, self._at = now, at
        memory = self._psutil.virtual_memory().percent
        found = {"cpu_percent": self._psutil.cpu_percent(), "memory_percent": memory}
        return {name: round(value, 3) for name, value in {**found, **rates, **self._gpus.sample()}.items()}

    def _count(self) -> dict[str, float]:
        """Bytes since the node started, under the name that their rate has."""
        found: dict[str, float] = {}
        with contextlib.suppress(OSError, RuntimeError):  # psutil's words for a container without /proc/diskstats
            if (disks := self._psutil.disk_io_counters()) is not None:
                found |= {"disk_read_mb_s": disks.read_bytes, "disk_write_mb_s": disks.write_bytes}
        with contextlib.suppress(OSError):
            if (network := self._psutil.net_io_counters()) is not None:
                found |= {"network_in_mb_s": network.bytes_recv, "network_out_mb_s": network.bytes_sent}
        return found


class _Gpus:
    """The GPUs that this node's driver shows to the job; none without a driver."""

    def __init__(self) -> None:
        import pynvml

        self._nvml: Any = pynvml
        self._handles: dict[int, Any] = {}
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            for at in range(pynvml.nvmlDeviceGetCount()):
                with contextlib.suppress(pynvml.NVMLError):  # a card that fails takes no other's figures with it
                    self._handles[at] = pynvml.nvmlDeviceGetHandleByIndex(at)

    def sample(self) -> dict[str, float]:
        nvml, found = self._nvml, {}
        figures: dict[str, Callable[[Any], float]] = {
            "percent": lambda handle: nvml.nvmlDeviceGetUtilizationRates(handle).gpu,
            "memory_gb": lambda handle: nvml.nvmlDeviceGetMemoryInfo(handle).used / 1e9,
            "power_w": lambda handle: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
        }
        for at, handle in self._handles.items():
            for name, ask in figures.items():
                with contextlib.suppress(nvml.NVMLError):  # a slice of a card (MIG) does not know all of them
                    found[f"gpu{at}_{name}"] = ask(handle)
        return found


@dataclass(frozen=True)
class _NodeFigures:
    """The content of a node's file: of which start, the how manieth, and the figures by name."""

    attempt: int
    sample: int
    figures: Mapping[str, float]


class AllNodes:
    """What the nodes of one start have sampled, as rank 0 sees it; what an earlier start left is not looked at."""

    def __init__(self, run: RunDir, attempt: int, nodes: int) -> None:
        self._run, self._attempt, self._nodes = run, attempt, nodes
        self._seen: dict[int, int] = {}
        self._found: dict[int, Mapping[str, float]] = {}

    def look(self) -> None:
        """Read what is new; of a node that has fallen silent there is nothing."""
        found: dict[int, Mapping[str, float]] = {}
        for node in range(self._nodes):
            path = self._run.node_figures(node)
            try:
                noted = parse_dataclass(_NodeFigures, read_object(path), path)
            except InputError:  # none yet, or none that can be read now
                continue
            if noted.attempt == self._attempt and self._seen.get(node) != noted.sample:
                self._seen[node] = noted.sample
                found[node] = noted.figures
        if found:
            self._found = found

    def take(self) -> dict[str, float]:
        """The newest figures, each once; empty when there are none since the last time.

        Of up to `EACH_NODE` nodes as `node<number>/<name>`; of more only what `summed` makes of them.
        """
        found, self._found = self._found, {}
        if self._nodes > EACH_NODE:
            return summed(found)
        return {f"node{node}/{name}": value for node, figures in found.items() for name, value in figures.items()}


def summed(by_node: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """`nodes/<name>_` least, mean, most, and the nodes of these, over all nodes; the GPUs of all count as one kind.

    A line of 64 nodes with 8 GPUs each has 40 numbers so, not 1,920.
    """
    kinds: dict[str, list[tuple[float, int]]] = {}
    for node, figures in by_node.items():
        for name, value in figures.items():
            kinds.setdefault(re.sub(r"^gpu\d+_", "gpu_", name), []).append((value, node))
    found: dict[str, float] = {}
    for name, values in kinds.items():
        (least, low), (most, high) = min(values), max(values)
        mean = round(sum(value for value, _ in values) / len(values), 3)
        parts = {"min": least, "mean": mean, "max": most, "min_node": low, "max_node": high}
        found |= {f"nodes/{name}_{part}": value for part, value in parts.items()}
    return found
