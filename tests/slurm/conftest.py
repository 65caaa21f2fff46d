from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NoReturn

import pytest
from slurm_cluster import UP, SlurmCluster, run


def unavailable(reason: str) -> NoReturn:
    """Skip, or fail where the Slurm tests have to run (continuous integration)."""
    if os.environ.get("FASHION_DIST_REQUIRE_SLURM"):
        pytest.fail(f"the Slurm tests have to run here: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def slurm_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A Slurm that answers: the local one if it is up, else the one this shell reaches, else the tests are skipped."""
    told = run(UP, "--env")
    if told.returncode != 0:
        unavailable(told.stderr.strip())
    name, _, conf = told.stdout.strip().removeprefix("export ").partition("=")
    before = os.environ.get("SLURM_CONF")
    if name == "SLURM_CONF":
        os.environ["SLURM_CONF"] = conf
    yield SlurmCluster(ours=name == "SLURM_CONF", folder=tmp_path_factory.mktemp("slurm"))
    if before is None:
        os.environ.pop("SLURM_CONF", None)
    else:
        os.environ["SLURM_CONF"] = before


@pytest.fixture
def local_cluster(slurm_cluster: SlurmCluster) -> SlurmCluster:
    """The Slurm of slurm/local/, whose partitions and nodes are known."""
    if not slurm_cluster.ours:
        unavailable("another Slurm than that of slurm/local/up.sh answers here")
    return slurm_cluster
