from __future__ import annotations

from pathlib import Path

import pytest

from fashion_dist.cluster import placement, resources
from fashion_dist.cluster.launcher import LaunchRequest
from fashion_dist.cluster.resources import Preset, Resources
from fashion_dist.errors import ConfigError


def load_preset(name: str) -> Resources:
    return Resources(**Preset.read(name).values)


def test_every_shipped_preset_loads_and_says_what_it_is() -> None:
    assert "local" in resources.preset_names()
    for name in resources.preset_names():
        assert load_preset(name).description


def test_flags_replace_and_none_replaces_nothing() -> None:
    preset = Resources(partition="gpu", gpus_per_node=4)
    assert preset.replace(partition=None, gpus_per_node=2) == Resources(partition="gpu", gpus_per_node=2)


@pytest.mark.parametrize(
    ("resources", "ranks"),
    [
        (Resources(), 1),
        (Resources(nodes=3), 3),
        (Resources(nodes=2, gpus_per_node=4), 8),
        (Resources(nodes=2, gpus_per_node=4, tasks_per_node=1), 2),
    ],
)
def test_one_rank_per_gpu_unless_told(resources: Resources, ranks: int) -> None:
    assert resources.ranks == ranks


def test_a_short_job_is_told_half_way() -> None:
    assert Resources(time_min=1, signal_delay_s=120).signal_delay_s == 30
    assert Resources(time_min=60, signal_delay_s=120).signal_delay_s == 120


def test_a_variable_that_the_shell_lacks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THERE", "1")
    preset = tmp_path / "p.toml"
    preset.write_text('export = ["THERE", "LACKING"]\n')
    request = LaunchRequest("clipart", preset=str(preset))
    assert placement.resolve(request, "local").notes == (
        "export: the job does not get LACKING, which this shell does not export",
    )
    assert not placement.resolve(LaunchRequest("clipart", resources={"export": ("THERE",)}), "local").notes
    with pytest.raises(ConfigError, match="--export ABSENT: this shell exports no such variable; allowed: one that"):
        placement.resolve(LaunchRequest("clipart", resources={"export": ("THERE", "ABSENT")}), "local")


def test_a_preset_of_the_user_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "local.toml").write_text('partition = "mine"\nsetup = ["module load x"]\nmem_gb = 8\n')
    monkeypatch.setenv("FASHION_DIST_CLUSTERS", str(tmp_path))
    assert load_preset("local") == Resources(partition="mine", setup=("module load x",), mem_gb=8)
    assert load_preset(str(tmp_path / "local.toml")).partition == "mine"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("parition = 'x'", "unknown key 'parition'"),
        ("nodes = 'two'", "nodes takes a whole number, not 'two'"),
        ("nodes = true", "nodes takes a whole number, not True"),
        ("partition = 3", "partition takes text, not 3"),
        ("setup = 'module load x'", "setup takes a list of text"),
        ("setup = ['a', 3]", "setup takes a list of text"),
        ("mem_gb = inf", "mem_gb = inf is not possible; allowed: 0 to 10,000,000"),
        ("mem_gb = nan", "mem_gb = nan is not possible"),
        ("nodes = 1000000", "nodes = 1000000 is not possible; allowed: 1 to 100,000"),
        ("nodes = 0", "nodes = 0 is not possible; allowed: 1 or more"),
        ('partition = "a\\nsrun rm"', "partition has a control character"),
        ('setup = ["a\\u001b[31m"]', "setup has a control character"),
        ("nodes =", "is not TOML"),
        ("nodes = " + "[" * 100_000, "is not TOML"),
    ],
)
def test_a_bad_preset_is_named_with_its_file(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_preset(str(path))
    assert str(path) in str(refused.value) and words in str(refused.value)


@pytest.mark.parametrize("name", ["nope", "../local", "/etc/passwd", "missing.toml"])
def test_an_unknown_preset_names_the_known(name: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown preset .*known: .*local"):
        load_preset(name)
