"""A Slurm that answers, seen through its own commands."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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
