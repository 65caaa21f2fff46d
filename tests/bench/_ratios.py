"""Contenders measured in alternating rounds, and their ratios, which are taken within a round.

So a busy machine blurs a ratio but does not bend it.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fashion_dist import cli
from fashion_dist.paths import Home

Contenders = Mapping[str, tuple[Callable[[], int], str]]
"""Name -> a function that works on some images and gives how many, and how it is set."""


@dataclass
class Measured:
    """The rounds of one contender."""

    rates: list[float] = field(default_factory=list)
    """Images/s of each round."""
    cpu_ms: list[float] = field(default_factory=list)
    """Processor time per image, over all threads and processes."""
    host: list[float] = field(default_factory=list)
    """Share of the time in which the calling thread was busy outside of what `measure` was told of."""
    setting: str = ""

    @property
    def images_per_s(self) -> float:
        """The median rate."""
        return statistics.median(self.rates)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "images_per_s": round(self.images_per_s, 1),
            "rounds": [round(rate, 1) for rate in self.rates],
            "cpu_ms_per_image": round(statistics.median(self.cpu_ms), 4),
            "setting": self.setting,
        }


def measure(
    contenders: Contenders, rounds: int, progress: cli.Progress, inside: Callable[[], float] = lambda: 0.0
) -> dict[str, Measured]:
    """Each contender once to get warm, then in `rounds` rounds; `inside` gives seconds that `host` does not count."""
    results = {name: Measured(setting=setting) for name, (_, setting) in contenders.items()}
    for work, _ in contenders.values():
        work()  # compilation, pools, page cache, and our own cache
    cpu = cpu_seconds()
    names, total = list(contenders), rounds * len(contenders)
    for turn in range(total):
        # Every other round in the opposite order, so that nobody always follows the same neighbour.
        order = names if turn // len(names) % 2 == 0 else names[::-1]
        name = order[turn % len(names)]
        next(cpu)
        thread, began = time.thread_time() - inside(), time.perf_counter()
        images = contenders[name][0]()
        taken, busy = time.perf_counter() - began, time.thread_time() - inside() - thread
        results[name].rates.append(images / taken)
        results[name].cpu_ms.append(next(cpu) * 1000 / images)
        results[name].host.append(busy / taken)
        progress("rounds", turn + 1, total)
    return results


def fastest(
    make: Callable[[int], Callable[[], int]], counts: Sequence[int], tried: Callable[[], None]
) -> tuple[Callable[[], int], str]:
    """The contender that `make` makes of a number of workers, with the one of the `counts` whose second run is fastest.

    `tried` is called after each of them.
    """
    best: tuple[float, Callable[[], int], int] | None = None
    for workers in counts:
        contender = make(workers)
        contender()
        began = time.perf_counter()
        rate = contender() / (time.perf_counter() - began)
        if best is None or rate > best[0]:
            best = rate, contender, workers
        tried()
    assert best is not None, "there is always a number to try"
    return best[1], f"{best[2]} workers"


def ratio(results: Mapping[str, Measured], mine: str, others: Sequence[str]) -> float | None:
    """Median over the rounds of the rate of `mine` over that of the best of the `others`; None without any."""
    present = [results[other].rates for other in others if other in results]
    if not present:
        return None
    best = [max(rates) for rates in zip(*present, strict=True)]
    return float(statistics.median(rate / other for rate, other in zip(results[mine].rates, best, strict=True)))


def cpu_ratio(results: Mapping[str, Measured], mine: str, others: Sequence[str]) -> float | None:
    """The same of images per second of processor time, which other users of the machine disturb less.

    None without others, or where the clock of processor time did not move (it ticks a hundred times a second).
    """
    best = [statistics.median(results[other].cpu_ms) for other in others if other in results]
    own = statistics.median(results[mine].cpu_ms)
    return min(best) / own if best and own else None


def cpu_seconds() -> Iterator[float]:
    """Processor time that this process and its living and ended children took, since the value before."""
    import psutil

    process = psutil.Process()
    before = 0.0
    while True:
        total = sum(os.times()[:4])
        for child in process.children(recursive=True):
            try:
                times = child.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
        yield total - before
        before = total


def figures_file(out: str, home: Home, name: str) -> Path:
    """Where a bench's JSON goes, `out` or HOME/bench/NAME.json, its folder made."""
    path = Path(out).expanduser().absolute() if out else home.path / "bench" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def cores() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0))


def cpu_name() -> str:
    """The processor's name, as Linux tells it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"
