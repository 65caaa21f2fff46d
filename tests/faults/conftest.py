"""What the rows of the matrix share: photos, an undisturbed run of each kind, and homes for disturbed ones.

`FASHION_DIST_PHOTOS` is a folder whose `deep_fashion/` holds photos in that data set's layout; without it garments are
drawn.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster_home import Workplace
from slurm_cluster import SlurmCluster
from trial import SAMPLES, Trial

from shards import PackOptions, ReadOptions, pack

TIMEOUT_S = 1800
"""Of one test: a row starts a run up to four times, on a machine that may be busy."""
COUNTS = {"train": SAMPLES, "val": 40, "test": 37}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


def some_photos(source: Path, folder: Path) -> Path:
    """The first photos of each split, in the same layout."""
    for split, count in COUNTS.items():
        with (source / f"{split}.csv").open(newline="") as file:
            rows = list(csv.reader(file))[: count + 1]
        column = rows[0].index("file_path")
        for row in rows[1:]:
            name = row[column].removeprefix("deep_fashion/")
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, folder / name)
        with (folder / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    shutil.copyfile(source / "categories.txt", folder / "categories.txt")
    return folder


@pytest.fixture(scope="session")
def photos(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw data set: real photos where there are some."""
    source = os.environ.get("FASHION_DIST_PHOTOS")
    if not source:
        garments: Path = request.getfixturevalue("garments")
        return garments
    return some_photos(Path(source) / "deep_fashion", tmp_path_factory.mktemp("photos") / "deep_fashion")


@pytest.fixture(scope="session")
def packed_photos(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos as a shard set, to be read only."""
    folder = tmp_path_factory.mktemp("packed") / "deep_fashion"
    pack("deep_fashion", photos, folder, PackOptions(), ReadOptions(), workers=1)
    return folder


@pytest.fixture(scope="session")
def undisturbed(packed_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Trial]:
    """A finished run of `SHORT` on so many ranks of this machine; made when the first test asks for it."""
    made: dict[int, Trial] = {}

    def whole(nodes: int) -> Trial:
        if nodes not in made:
            trial = Trial(Workplace(_home(packed_photos, tmp_path_factory.mktemp("undisturbed"))), whole)
            said = trial.launch("--wait", nodes=nodes, pace_s=0)
            assert said.status == 0, said.err
            made[nodes] = trial
        return made[nodes]

    return whole


def _home(packed: Path, home: Path) -> Path:
    shutil.copytree(packed, home / "shards" / "deep_fashion")
    return home


@pytest.fixture
def make_trial(
    packed_photos: Path, undisturbed: Callable[[int], Trial], tmp_path: Path
) -> Iterator[Callable[..., Trial]]:
    """Makes trials, each in a home of its own; their jobs are ended with the test."""
    trials: list[Trial] = []

    def make(cluster: str = "local", packed: Path = packed_photos) -> Trial:
        home = _home(packed, tmp_path / f"home{len(trials)}")
        trials.append(Trial(Workplace(home, cluster), undisturbed))
        return trials[-1]

    yield make
    for trial in trials:
        trial.close()


@pytest.fixture
def trial(make_trial: Callable[..., Trial]) -> Trial:
    """A run on this machine."""
    return make_trial()


@pytest.fixture
def slurm_trial(local_cluster: SlurmCluster, make_trial: Callable[..., Trial]) -> Trial:
    """A run on the local Slurm."""
    return make_trial("slurm")


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path, int], Path]]:
    """Mounts a file system of so many KB at a new folder."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    made: list[Path] = []

    def mount(folder: Path, kilobytes: int) -> Path:
        folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k,mode=700", "tmpfs", str(folder)]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        if mounted.returncode != 0:
            pytest.skip(f"mounting is not possible here: {mounted.stderr.strip()}")
        made.append(folder)
        return folder

    yield mount
    for folder in made:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
