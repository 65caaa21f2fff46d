from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

import fashion_dist
import shards
from fashion_dist.cluster import code_version
from fashion_dist.cluster.safe_python import search_path

ROOT = Path(fashion_dist.__file__).parents[1]


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of both packages, which is what is hashed."""
    for package in (fashion_dist, shards):
        shutil.copytree(ROOT / package.__name__, tmp_path / "code" / package.__name__)
        monkeypatch.setattr(package, "__path__", [str(tmp_path / "code" / package.__name__)])
    return tmp_path / "code"


def test_any_change_of_any_source_is_another_hash_and_nothing_else_is(copy: Path) -> None:
    seen = [code_version.code_hash()]
    (copy / "shards" / "__pycache__").mkdir(exist_ok=True)
    (copy / "shards" / "__pycache__" / "x.cpython-311.pyc").write_bytes(b"compiled")
    (copy / "shards" / "notes.txt").write_text("no code")
    assert code_version.code_hash() == seen[0]
    (copy / "fashion_dist" / "tasks" / "mine.py").write_text("A = 1\n")
    seen.append(code_version.code_hash())
    (copy / "fashion_dist" / "tasks" / "mine.py").write_text("A = 2\n")
    seen.append(code_version.code_hash())
    (copy / "fashion_dist" / "tasks" / "mine.py").rename(copy / "fashion_dist" / "models" / "mine.py")
    seen.append(code_version.code_hash())
    (copy / "shards" / "tar.py").write_text((copy / "shards" / "tar.py").read_text() + "\n")
    seen.append(code_version.code_hash())
    assert len(set(seen)) == 5


def test_a_hash_takes_no_time_that_a_start_would_notice() -> None:
    code_version.code_hash()
    times = []
    for _ in range(5):
        started = time.process_time()
        code_version.code_hash()
        times.append(time.process_time() - started)
    assert min(times) < 0.05


@pytest.mark.parametrize(
    ("launched", "running", "told"),
    [
        ("aa", ["aa", "aa"], ""),
        ("", ["bb"], ""),
        ("aa", ["bb", "bb"], "this attempt ran other code than was launched: aa -> bb"),
        ("aa", ["aa", "bb"], "this attempt ran other code than was launched on 1 of 2 ranks: aa -> bb"),
        ("aa", ["cc", "bb"], "this attempt ran other code than was launched on 2 of 2 ranks: aa -> bb, cc"),
    ],
)
def test_what_is_said_of_a_difference(launched: str, running: list[str], told: str) -> None:
    assert code_version.difference(launched, running) == told


def test_a_snapshot_is_the_code_with_its_data_and_is_made_once(copy: Path, tmp_path: Path) -> None:
    made = code_version.snapshot(tmp_path / "snapshots")
    assert made.name == code_version.code_hash()
    for name in ("cluster/presets/local.toml", "cluster/templates/multi-node.sbatch", "report/page.html", "py.typed"):
        assert (made / "fashion_dist" / name).read_bytes() == (ROOT / "fashion_dist" / name).read_bytes()
    assert not list(made.rglob("__pycache__"))
    (made / "mark").touch()
    assert code_version.snapshot(tmp_path / "snapshots") == made and (made / "mark").exists()
    (copy / "shards" / "tar.py").write_text("other = True\n")
    assert code_version.snapshot(tmp_path / "snapshots") != made and (made / "mark").exists()
    assert {path.name for path in (tmp_path / "snapshots").iterdir()} == {made.name, code_version.code_hash()}


def test_a_snapshot_comes_before_everything_else_on_the_path(tmp_path: Path) -> None:
    assert search_path({"PYTHONPATH": "/elsewhere"}, tmp_path)["PYTHONPATH"].split(":") == [str(tmp_path), "/elsewhere"]
