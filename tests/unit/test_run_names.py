"""Names of runs: one run each, taken wherever a run id is, shown in the table, and never another run's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fashion_dist.cluster.run_view import read_run_views
from fashion_dist.errors import ConfigError
from fashion_dist.monitor import table
from fashion_dist.paths import Home, RunDir


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A working folder with two runs."""
    home = Home(tmp_path)
    for run_id in ("clipart-1111111111", "clipart-2222222222"):
        home.run_dir(run_id).path.mkdir(parents=True)
        home.run_dir(run_id).config.write_text(json.dumps({"task": "clipart"}))
    return home


def test_a_name_is_taken_where_a_run_id_is_and_shown(home: Home) -> None:
    home.names.give("model-a", "clipart-1111111111")
    assert home.find_run("model-a").run_id == "clipart-1111111111"
    assert home.find_sweep("model-a") is None
    with pytest.raises(ConfigError, match=r"unknown run 'model-b'.*model-a"):
        home.find_run("model-b")
    views = read_run_views(home.all_runs())
    assert [view.name for view in views] == ["model-a", ""]
    head, first, second = table.table(views, 80).splitlines()
    assert head.split()[:2] == ["RUN", "NAME"] and first.split()[1] == "model-a" and second.split()[1] == "-"
    assert "NAME" not in table.table(views[1:], 80)
    assert table.columns_named(["name"], views)[0].text(views[0]) == "model-a"


def test_a_run_has_one_name_and_a_name_one_run(home: Home) -> None:
    home.names.give("model-a", "clipart-1111111111")
    with pytest.raises(ConfigError, match="--name model-a is that of run clipart-1111111111"):
        home.names.give("model-a", "clipart-2222222222")
    home.names.give("best", "clipart-1111111111")
    assert home.names.all() == {"clipart-1111111111": "best"}
    home.names.give("model-a", "clipart-2222222222")
    home.names.give("model-a", "clipart-2222222222")
    assert home.names.all() == {"clipart-1111111111": "best", "clipart-2222222222": "model-a"}


def test_the_name_of_a_removed_run_is_free(home: Home) -> None:
    home.names.give("model-a", "clipart-1111111111")
    run = RunDir(home.runs / "clipart-1111111111")
    run.config.unlink()
    run.path.rmdir()
    assert home.names.run_id("model-a") == ""
    home.names.give("model-a", "clipart-2222222222")
    assert home.find_run("model-a").run_id == "clipart-2222222222"


@pytest.mark.parametrize("name", ["", "../x", "a b", "-a", ".a", "x" * 65, "clipart-2222222222"])
def test_what_no_name_can_be(home: Home, name: str) -> None:
    with pytest.raises(ConfigError, match="is not possible"):
        home.names.give(name, "clipart-1111111111")
    assert not (home.path / "names").exists()
