"""Packing, collecting and reporting where there is no fcntl, no DALI, no affinity and no pread: macOS and Windows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

from fashion_dist.commands import COMMANDS
from shards import ShardSet

ROOT = Path(__file__).parents[2]
HIDDEN = os.pathsep.join([str(ROOT / "tests" / "off_linux"), str(ROOT)])


def python(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": HIDDEN}
    return subprocess.run([sys.executable, *words], env=env, cwd=cwd, capture_output=True, text=True, check=False)


def photos(folder: Path) -> Path:
    for number in range(24):
        place = folder / ("train", "val", "test")[number % 3] / ("red", "blue")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 24), (number * 9, 30, 200)).save(place / f"{number}.png")
    return folder


def test_every_command_and_what_it_works_with_is_imported(tmp_path: Path) -> None:
    code = (
        "import importlib, os, pkgutil, sys\n"
        "try:\n    import fcntl\nexcept ImportError:\n    pass\nelse:\n    sys.exit('fcntl is not hidden')\n"
        "assert not hasattr(os, 'sched_getaffinity')\n"
        "import fashion_dist, shards\n"
        f"names = ['fashion_dist.commands.' + name for name in {list(COMMANDS)}]\n"
        "for package in (fashion_dist, shards):\n"
        "    names += [m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + '.')]\n"
        "for name in names:\n"
        "    if not name.endswith(('__main__', '.submitit_executor', '.pickled_rank')):\n"
        "        importlib.import_module(name)\n"
        "print(len(names))\n"
    )
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


def test_packs_in_spawned_processes_and_its_set_is_read(tmp_path: Path) -> None:
    words = ("-m", "fashion_dist", "pack", "--dataset", "image_folder", "--source", str(photos(tmp_path / "photos")))
    done = python(*words, "--workers", "2", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    made = Path(told["paths"]["shard set"])
    assert told["splits"] == {"train": 8, "val": 8, "test": 8}
    assert (made / "card.html").is_file()
    assert ShardSet.open(made).data_hash == told["data_hash"]
    verified = python("-m", "fashion_dist", "pack", "--verify", str(made), cwd=tmp_path)
    assert verified.returncode == 0, verified.stderr


def test_collect_answers_help(tmp_path: Path) -> None:
    done = python("-m", "fashion_dist", "collect", "--help", cwd=tmp_path)
    assert done.returncode == 0 and "RUN|SWEEP" in done.stdout, done.stderr


def test_a_run_is_shown_collected_and_reported(tmp_path: Path) -> None:
    home = tmp_path / "workspace"
    shutil.copytree(ROOT / "tests" / "first_edition", home)
    for path in home.rglob("*.json"):
        path.write_text(path.read_text().replace("/home/user/workspace", str(home)))
    (run,) = (home / "runs").iterdir()
    for words in (("status",), ("collect", run.name), ("report", run.name, "--quick")):
        done = python("-m", "fashion_dist", *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert (run / "submission" / "category.csv").is_file() and (run / "report" / "index.html").is_file()
