"""`make growth`: time, memory and file-system calls of n, 4 n and 16 n, with the exponent from 4 n to 16 n.

    python tests/growth [WORDS OF A ROW'S NAME ...]

Each point is a process of its own. Times are those of this machine; the exponents are what a change of code can spoil.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

import storage  # noqa: E402

from growth.rows import ROWS, Row  # noqa: E402

FACTORS = (1, 4, 16)


def resident(name: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise AssertionError(name)


def child(row: Row, n: int, folder: Path, counts: Path) -> dict[str, float]:
    """One point, measured in this process."""
    import torch  # noqa: F401 - what every rank has is no part of a row

    (folder / "work").mkdir()
    work = row.prepare(n, folder / "work")
    held = storage.Storage(Path(), [folder], counts=counts)
    before = sum(held.calls().values(), Counter())
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    memory, began = resident("VmRSS"), time.perf_counter()
    kept = work()  # what it returns is held while the peak is read
    took, peak = time.perf_counter() - began, resident("VmHWM")
    del kept
    after = sum(held.calls().values(), Counter())
    after.subtract(before)
    return {"s": took, "MB": max(0, peak - memory) / 1e6, "calls": storage.metadata(after) + after["read"]}


def point(row: Row, n: int, library: Path | None) -> dict[str, float]:
    """The same in a fresh process and folder."""
    with tempfile.TemporaryDirectory(prefix="growth-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        counts = folder / "counts"
        counts.mkdir()
        variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[:2])}
        if library:
            variables |= storage.Storage(library, [folder / "work"], counts=counts).environment()
        words = [sys.executable, __file__, "--child", row.name, str(n), str(folder)]
        done = subprocess.run(words, env=variables, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{row.name}, {n} {row.of}: {done.stderr.strip()[-2000:]}")
        told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return told


def exponent(values: list[float], least: float) -> str:
    """How the last factor of 4 in n shows; a dash below `least`, where it is noise."""
    if values[-1] < least or values[-2] <= 0:
        return "-"
    return f"{math.log(values[-1] / values[-2]) / math.log(FACTORS[-1] / FACTORS[-2]):.2f}"


def line(row: Row, points: list[dict[str, float]]) -> str:
    """The row of the table."""
    cells = [f"{row.name:<32}{row.least:>9,} {row.of:<10}"]
    for name, least, width, form in (("s", 0.05, 8, ".2f"), ("MB", 20, 7, ".0f"), ("calls", 50, 8, ",.0f")):
        values = [found[name] for found in points]
        cells += [f"{value:>{width}{form}}" for value in values] + [f"{exponent(values, least):>6}"]
    return "".join(cells)


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="make growth", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="words of rows' names; else all")
    parser.add_argument("--child", nargs=3, metavar=("ROW", "N", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        name, n, folder = args.child
        row = next(row for row in ROWS if row.name == name)
        print(json.dumps(child(row, int(n), Path(folder), Path(folder) / "counts")))
        return 0
    chosen = [row for row in ROWS if not args.names or any(word in row.name for word in args.names)]
    if not chosen:
        print(f"error: no row has {' or '.join(args.names)} in its name; known: "
              + "; ".join(row.name for row in ROWS), file=sys.stderr)  # fmt: skip
        return 2
    with tempfile.TemporaryDirectory(prefix="growth-") as folder:
        library = storage.build(Path(folder)) if storage.compiler() else None
        if library is None:
            print("There is no C compiler here, so calls are not counted.")
        heads = [f"{head + ' of n':>{width}}{'4 n':>{width}}{'16 n':>{width}}{'exp':>6}"
                 for head, width in (("s", 8), ("MB", 7), ("calls", 8))]  # fmt: skip
        print(f"{'':<32}{'n':>9} {'':<10}" + "".join(heads), flush=True)
        for row in chosen:
            points: list[dict[str, Any]] = [point(row, row.least * factor, library) for factor in FACTORS]
            print(line(row, points), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
