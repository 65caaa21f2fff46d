"""A Slurm that answers, seen through its own commands."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).parents[1]
UP, DOWN = ROOT / "slurm" / "local" / "up.sh", ROOT / "slurm" / "local" / "down.sh"

# Far beyond what anything takes here, so that a busy machine fails no test.
PATIENCE_S = 180.0


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command with variables added; its exit status is the caller's to look at."""
    return subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@contextlib.contextmanager
def started(site: str, cpus: int = 4) -> Iterator[Path]:
    """A second Slurm of two nodes by that site's rules, beside the one that the tests run on; its slurm.conf.

    Raises:
        RuntimeError: it does not start here.
    """
    folder = Path(f"/var/tmp/fashion-dist-{site}-{os.getpid()}")  # of a path that daemons of other users may walk
    rules = UP.parent / "sites" / site
    asked = {"FASHION_DIST_SLURM_DIR": folder, "SITE": rules, "CPUS_PER_NODE": cpus, "NODES": 2, "NETNS": 0}
    variables = {name: value for name, value in os.environ.items() if name != "SLURM_CONF"}
    variables |= {name: str(value) for name, value in asked.items()}

    def do(*command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=PATIENCE_S, check=False)

    try:
        done = do(UP)
        if done.returncode != 0 or not (folder / "slurm.conf").exists():
            raise RuntimeError(done.stderr or done.stdout)
        yield folder / "slurm.conf"
    finally:
        do(DOWN, "--purge")


def output(*command: str | Path) -> str:
    """What a command that has to succeed prints."""
    done = run(*command)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr or done.stdout}"
    return done.stdout.strip()


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait for something that the scheduler does in its own time."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:.0f} s in vain until {what}\n{run('squeue').stdout}"
        time.sleep(0.5)


def unavailable(reason: str) -> NoReturn:
    """Skip, or fail where the Slurm tests have to run (continuous integration)."""
    if os.environ.get("FASHION_DIST_REQUIRE_SLURM"):
        pytest.fail(f"the Slurm tests have to run here: {reason}")
    pytest.skip(reason)


@dataclass(frozen=True)
class SlurmCluster:
    """The cluster that this process's SLURM_CONF leads to.

    Args:
        ours: whether slurm/local/up.sh started it.
        folder: where jobs write, seen by all nodes.
    """

    ours: bool
    folder: Path

    def submit(self, body: str, *options: str) -> str:
        """Submit a script that writes to `log(job)`; returns the job's id."""
        script = self.folder / f"job-{time.monotonic_ns()}.sh"
        script.write_text(f"#!/bin/bash\n{body}\n")
        where = f"--output={self.folder}/%j.log"
        return output("sbatch", "--parsable", "--time=10", "--open-mode=append", where, *options, script)

    def log(self, job: str) -> str:
        """What the job has written so far, over all its attempts."""
        path = self.folder / f"{job}.log"
        return path.read_text() if path.exists() else ""

    def states(self, job: str) -> list[str]:
        """The states of all its attempts that the accounting knows, oldest first."""
        return output("sacct", "--noheader", "--duplicates", "--allocations", "--format=state%30", "-j", job).split()

    def cancel(self, *jobs: str) -> None:
        """End jobs and wait until the nodes are free of them."""
        run("scancel", *jobs)
        until(lambda: not run("squeue", "--noheader", "--jobs", ",".join(jobs)).stdout.strip(), f"{jobs} are gone")
