"""`pip install .` in a bare environment and an empty folder: the command, its presets, and nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy
import pytest
from garments import draw_garments

import fashion_dist

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PARTS = ("fashion_dist", "shards", "jobs", "slurm", "tests", "pyproject.toml", "README.md", "LICENSE")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")


class Installed:
    """A bare environment with the package in it, and an empty folder to work in; dependencies come from this one."""

    def __init__(self, folder: Path) -> None:
        source, self.work = folder / "source", folder / "empty"
        self.work.mkdir()
        for part in PARTS:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / part, source / part)
        venv.create(folder / "env", with_pip=False)
        self.bin = folder / "env" / "bin"
        (self.site,) = (folder / "env" / "lib").glob("python*/site-packages")
        (self.site / "dependencies.pth").write_text(f"{Path(numpy.__file__).parents[1]}\n")
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("PYTHONPATH", "VIRTUAL_ENV") and not name.startswith("FASHION_DIST_")
        }
        pip = [*PIP, "--python", str(self.bin / "python"), "install", "--no-deps", "--no-build-isolation"]
        done = subprocess.run([*pip, str(source)], capture_output=True, text=True, env=self.environment, check=False)
        assert done.returncode == 0, done.stderr

    def do(self, *words: str) -> str:
        argv = [str(self.bin / "fashion-dist"), *words]
        done = subprocess.run(
            argv, capture_output=True, text=True, cwd=self.work, env=self.environment, check=False
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    made = Installed(tmp_path_factory.mktemp("install"))
    draw_garments(made.work / "raw" / "deep_fashion")
    return made


def test_only_the_two_packages_with_what_they_need(installed: Installed) -> None:
    names = {path.name for path in installed.site.iterdir()}
    version = fashion_dist.__version__
    assert names == {"fashion_dist", "shards", f"fashion_dist-{version}.dist-info", "dependencies.pth"}
    for part in ("fashion_dist", "shards"):
        files = {path.relative_to(ROOT) for path in (ROOT / part).rglob("*") if path.suffix not in (".pyc", "", ".md")}
        here = {path.relative_to(installed.site) for path in (installed.site / part).rglob("*")}
        assert not files - here
    assert installed.do("--version") == f"fashion-dist {version}\n"
    assert "  launch " in installed.do("--help") and "bench" not in installed.do("--help")


def test_packs_and_plans_a_launch_with_a_preset(installed: Installed) -> None:
    packed = installed.do("pack", "--dataset", "deep_fashion", "--source", "raw", "--no-card", "--workers", "1")
    assert "fashion-dist launch --task deepfashion" in packed and "jobs/" not in packed
    planned = installed.do("launch", "--task", "deepfashion", "--cluster", "local", "--debug", "--dry-run")
    assert "nothing was submitted" in planned and str(installed.work / "workspace") in planned
    installed.do("launch", "--task", "deepfashion", "--cluster", "local", "--preset", "local", "--debug", "--dry-run")


@pytest.mark.slow
def test_trains_and_collects(installed: Installed) -> None:
    installed.do("pack", "--dataset", "deep_fashion", "--source", "raw", "--no-card", "--workers", "1")
    launched = installed.do("launch", "--task", "deepfashion", "--cluster", "local", "--debug", "--wait", "--json")
    run = json.loads(launched.splitlines()[-1])["run_id"]
    assert "each exactly once" in installed.do("collect", run)
    command = json.loads((installed.work / "workspace" / "runs" / run / "run.json").read_text())["command"]
    assert command == "fashion-dist launch --task deepfashion --cluster local --debug --wait --json"


@pytest.mark.slow
def test_the_packages_index_has_what_the_extras_and_the_build_ask_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    asked = [*extras["cuda12"], *extras["cuda13"], *project["build-system"]["requires"]]
    assert [words.partition(">")[0] for words in asked[:2]] == ["nvidia-dali-cuda120", "nvidia-dali-cuda130"]
    assert extras["cuda13"][0] in project["project"]["dependencies"]  # a plain install trains
    for words in asked:
        done = subprocess.run(
            [*PIP, "install", "--dry-run", "--no-deps", "--ignore-installed", "--report", "-", words],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (found,) = json.loads(done.stdout)["install"]
        assert found["metadata"]["name"].lower() in words


def test_every_pinned_package_has_hashes_and_so_has_the_build_backend() -> None:
    """`pip --require-hashes` refuses a file with another hash, and any package that has none."""
    pins = (ROOT / "constraints.txt").read_text().replace("\\\n", " ").splitlines()
    pins = [line for line in pins if not line.startswith("#")]
    assert len(pins) > 100
    assert [
        line for line in pins if not re.fullmatch(r"\S+==\S+( ; .*?)?( +--hash=sha256:[0-9a-f]{64})+ *", line)
    ] == []
    backend = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert backend == [line.split()[0] for line in pins if line.startswith("setuptools==")]
    told = (ROOT / "tests" / "install.sh").read_text()
    assert "--require-hashes --requirement constraints.txt" in told and "--no-build-isolation" in told
