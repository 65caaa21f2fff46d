"""Damaged input by the thousand: python tests/fuzz/run.py [--cases 100000] [--seed 0] [SURFACE ...]

A surface is a file in `surfaces/` with a `SURFACE`. Case n of a surface is a function of seed, surface and n, so that
a failure is seen again with `--only n`. Each surface runs in a process of its own, which may take 1 GiB more than it
began with; a case has 5 seconds. A case is good when what was read equals the undamaged reading, or is refused by one
of the surface's own errors.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import json
import os
import pkgutil
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [
    str(HERE),
    str(HERE.parents[1]),
    str(HERE.parent),
    str(HERE.parent / "contract"),
    str(HERE.parent / "unit" / "shards"),
]
from surface import Surface, damaged  # noqa: E402 - where these files find each other is said above

CASE_SECONDS, EXTRA_BYTES = 5, 1 << 30


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules([str(HERE / "surfaces")]))


def load(name: str) -> Surface:
    surface = importlib.import_module(f"surfaces.{name}").SURFACE
    assert isinstance(surface, Surface)
    return surface


def one(surface: Surface, seeds: Sequence[bytes], name: str, seed: int, number: int, folder: Path) -> str:
    """Runs a case: `same`, `refused`, or what is wrong."""
    draw = random.Random(f"{seed} {name} {number}")
    chosen = draw.randrange(len(seeds))
    data = (surface.damage or damaged)(seeds[chosen], seeds, draw)

    def too_long(*_: object) -> None:
        raise TimeoutError(f"longer than {CASE_SECONDS} s")

    signal.signal(signal.SIGALRM, too_long)
    with tempfile.TemporaryDirectory(dir=folder) as own:
        signal.setitimer(signal.ITIMER_REAL, CASE_SECONDS)
        faulthandler.dump_traceback_later(4 * CASE_SECONDS, exit=True)  # where a library does not look at signals
        try:
            surface.check(data, chosen, Path(own))
            return "same"
        except surface.clean:
            return "refused"
        except BaseException as error:  # whatever it is, it is what the run is for
            if isinstance(error, KeyboardInterrupt):
                raise
            return "".join(traceback.format_exception(error)[-8:])
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def serve(name: str, seed: int, numbers: range) -> None:
    """In a process of its own: a line before each case and one after it."""
    surface = load(name)
    shared = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        (Path(folder) / "once").mkdir()
        seeds = surface.seeds(Path(folder) / "once")
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + EXTRA_BYTES,) * 2)
        for number in numbers:
            print(json.dumps([number]), flush=True)
            print(json.dumps([number, one(surface, seeds, name, seed, number, Path(folder))]), flush=True)


def run(name: str, seed: int, cases: range, seconds: float = float("inf")) -> tuple[Counter[str], dict[int, str]]:
    """Cases of a surface, as far as the seconds after its start reach: how many went how, what is wrong with which."""
    counts: Counter[str] = Counter()
    wrong: dict[int, str] = {}
    end, first = float("inf"), cases.start
    while first < cases.stop and time.monotonic() < end:
        command = [sys.executable, __file__, "--serve", name, "--seed", str(seed), "--only", f"{first}-{cases.stop}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            began = -1
            for line in process.stdout:
                number, *told = json.loads(line)
                end = min(end, time.monotonic() + seconds)
                began, first = (number, first) if not told else (-1, number + 1)
                if told:
                    counts[told[0] if told[0] in ("same", "refused") else "wrong"] += 1
                    if told[0] not in ("same", "refused"):
                        wrong[number] = told[0]
                if time.monotonic() > end:
                    process.kill()
                    break
        if process.returncode and time.monotonic() < end:
            if began < 0:
                raise RuntimeError(f"surface {name} does not start (exit status {process.returncode})")
            counts["wrong"] += 1
            wrong[began] = f"the process ended with status {process.returncode}"
            first = began + 1
    return counts, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("surfaces", nargs="*", default=[])
    parser.add_argument("--cases", type=int, default=10_000, help="of all surfaces together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a case, or FIRST-LAST")
    parser.add_argument("--serve", default="", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    first, _, last = asked.only.partition("-")
    only = range(int(first), int(last or int(first) + 1)) if asked.only else None
    if asked.serve:
        serve(asked.serve, asked.seed, only or range(0))
        return 0
    chosen = asked.surfaces or names()
    failed = 0
    for name in chosen:
        began = time.monotonic()
        counts, wrong = run(name, asked.seed, only or range(asked.cases // len(chosen)))
        failed += len(wrong)
        print(f"{name}: {sum(counts.values())} cases in {time.monotonic() - began:.0f} s, {dict(counts)}", flush=True)
        for number, told in list(wrong.items())[:20]:
            print(f"  case {number}: {told}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    sys.exit(main())
