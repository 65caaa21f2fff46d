"""What several tests share: a small data set of drawn garments, packed once a session, and a Slurm that answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fault_matrix import (  # noqa: F401 - pytest finds hooks and fixtures here
    figures,
    pytest_configure,
    pytest_runtest_makereport,
    pytest_terminal_summary,
)
from garments import draw_garments
from slurm_cluster import UP, SlurmCluster, run, unavailable

from shards import PackOptions, ReadOptions, pack


@pytest.fixture(autouse=True)
def paths_of_children() -> Iterator[None]:
    """Commands that a test calls in this process keep the processes that they start from the current folder's code."""
    before = os.environ.get("PYTHONSAFEPATH")
    yield
    if before is None:
        os.environ.pop("PYTHONSAFEPATH", None)


@pytest.fixture(scope="session")
def garments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw data set of drawn garments."""
    return draw_garments(tmp_path_factory.mktemp("raw") / "deep_fashion")


@pytest.fixture(scope="session")
def packed_home(garments: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder whose shard set `deep_fashion` holds the drawn garments; for tests that only read it."""
    return _pack(garments, tmp_path_factory.mktemp("home"))


@pytest.fixture
def make_home(garments: Path, tmp_path: Path) -> Callable[[], Path]:
    """Makes working folders of the test's own, packed like `packed_home`."""
    made: list[Path] = []

    def make() -> Path:
        home = tmp_path / f"home{len(made)}"
        made.append(home)
        return _pack(garments, home)

    return make


def _pack(source: Path, home: Path) -> Path:
    pack("deep_fashion", source, home / "shards" / "deep_fashion", PackOptions(), ReadOptions(), workers=1)
    return home


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
