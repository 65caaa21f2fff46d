"""What the tests on Slurm share."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster_home import Workplace, read
from slurm_cluster import SlurmCluster


@pytest.fixture
def place(slurm_cluster: SlurmCluster, make_home: Callable[[], Path]) -> Iterator[Workplace]:
    """A working folder whose jobs go to Slurm, and end with the test."""
    place = Workplace(make_home(), cluster="slurm")
    yield place
    for run in place.runs:
        job = read(run / "job.json").get("job")
        if job:
            subprocess.run(["scancel", job["job_id"]], check=False)
