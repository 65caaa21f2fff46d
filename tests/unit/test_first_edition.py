"""A run and a sweep that the first edition left: shown, reported and collected, and refused where they would train.

`tests/first_edition` was made with the code at commit 8fa10ce, on twelve small garments: `launch.py --task deepfashion
--set model.grain=true ...`, without its checkpoints and logs, and the sweep of which that run is the first trial.
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fashion_dist import cli, runs, tasks
from fashion_dist.cluster import worker
from fashion_dist.monitor import overview
from fashion_dist.paths import Home, RunDir
from shards import ShardSet

ROOT = Path(__file__).parents[2]
RUN = "deepfashion-b9caf970cd"
GONE = "model.grain = true"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The working folder that the first edition left."""
    home = tmp_path / "workspace"
    shutil.copytree(ROOT / "tests" / "first_edition", home)
    for path in home.rglob("*.json"):
        path.write_text(path.read_text().replace("/home/user/workspace", str(home)))
    return home


def command(name: str, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit status, JSON and stderr of a command."""
    module = importlib.import_module(f"fashion_dist.commands.{name}")
    with pytest.raises(SystemExit) as stop:
        cli.run(module.Args, module.main, [*arguments, "--json"])
    out, err = capsys.readouterr()
    assert isinstance(stop.value.code, int)
    return stop.value.code, json.loads(out.splitlines()[-1]), err


def content(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_status_shows_run_and_sweep(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, said, _ = command("status", capsys, "--home", str(home))
    (run,), (sweep,) = said["runs"], said["sweeps"]
    assert status == 0 and (run["run_id"], run["state"], run["config"]["model.grain"]) == (RUN, "done", True)
    assert sweep["counts"] == {"done": 1, "new": 1} and sweep["best"]["run"] == RUN
    assert command("status", capsys, RUN, "--home", str(home))[0] == 0


def test_an_unfinished_run_says_why_it_cannot_go_on(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = RunDir(home / "runs" / RUN).state
    state.write_text(state.read_text().replace('"done"', '"stopped"'))
    found, _ = overview.find(Home(home), [RUN])
    text = overview.draw(found, overview.look_at_all(found, []), Home(home), 200)
    (line,) = [line for line in text.splitlines() if line.split()[:2] == ["go", "on"]]
    assert f"no: run {RUN} was made with {GONE}" in line


def test_collect_from_its_predictions(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ((RUN,), ("grain", "--best")):
        status, said, _ = command("collect", capsys, *arguments, "--home", str(home))
        with Path(said["paths"]["category.csv"]).open() as file:
            keys = [row["file_path"] for row in csv.DictReader(file)]
        assert status == 0 and keys == [f"test/{number:04}.jpg" for number in range(7)]


def test_a_split_that_comes_later_leaves_it_as_it_is(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "new").mkdir()
    Image.new("RGB", (20, 20), "red").save(tmp_path / "new" / "a.jpg")
    add = ("--dataset", "deep_fashion", "--add", f"later={tmp_path / 'new'}", "--home", str(home))
    status, said, _ = command("pack", capsys, *add)
    assert status == 0 and said["splits"]["later"] == 1
    noted = json.loads(RunDir(home / "runs" / RUN).run.read_text())["data_hash"]
    manifest = ShardSet.open(home / "shards" / "deep_fashion").manifest
    assert manifest.data_hash != noted and manifest.learned_as(noted)
    assert command("collect", capsys, RUN, "--home", str(home))[0] == 0
    config = tasks.load("deepfashion").recipe
    fresh = runs.run_id(config, Home(home), manifest.training_hash)
    assert runs.id_on(config, Home(home), manifest) == fresh
    old = runs.run_id(config, Home(home), noted)
    Home(home).run_dir(old).path.mkdir()
    assert runs.id_on(config, Home(home), manifest) == old != fresh  # launching it again goes on with it


def test_report_from_its_predictions(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "runs" / RUN / "checkpoints" / "best-00000003").mkdir(parents=True)
    (home / "runs" / RUN / "checkpoints" / "best-00000003" / "state.pt").write_bytes(b"of the first edition")
    status, said, _ = command("report", capsys, RUN, "--home", str(home))
    page = Path(said["paths"]["page"]).read_text()
    assert status == 0 and GONE in page and "could not be predicted" not in page
    assert command("report", capsys, "grain", "--home", str(home))[0] == 0
    status, said, _ = command("report", capsys, RUN, "--archive", "--home", str(home))
    assert status == 2 and GONE in said["error"]


@pytest.mark.parametrize(("name", "arguments"), [("launch", ("--resume",)), ("predict", ())])
def test_what_needs_its_network_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str], name: str, arguments: tuple[str, ...]
) -> None:
    before = content(home)
    status, said, err = command(name, capsys, *arguments, RUN, "--home", str(home))
    assert status == 2 and err == f"error: {said['error']}\n" and err.count("\n") == 1
    assert f"run {RUN} was made with {GONE}" in err and "gone" in err and "report and collect read" in err
    assert content(home) == before


def test_a_rank_started_by_hand_touches_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = content(home)
    assert worker.main([str(home / "runs" / RUN)]) == 2
    assert GONE in capsys.readouterr().err and content(home) == before
