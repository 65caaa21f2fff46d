"""What cannot be done as asked: one line that says so, exit status 2, and nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster_home import Workplace


@pytest.fixture
def place(packed_home: Path) -> Workplace:
    return Workplace(packed_home)


@pytest.mark.parametrize(
    ("flags", "settings", "words"),
    [
        (("--task", "deepfashon"), (), "unknown task 'deepfashon'; known: "),
        (("--model", "resnet81"), (), "unknown model 'resnet81'; nearest: "),
        (("--model", "resnet18"), ("model.pool=max",), "'resnet18' of torchvision does not take model.pool; it takes "),
        (("--dataset", "deep_fashio"), (), "deep_fashio; packed in"),
        (("--dataset", "../x"), (), "dataset '../x' is not the plain name of a folder"),
        (("--preset", "nope"), (), "unknown preset 'nope'; known: "),
        (("--cluster", "cloud"), (), "Expected one of ('auto', 'slurm', 'local')"),
        (("--weights", "missing.pt"), (), "model.weights = 'missing.pt' is not a file"),
        (("--nodes", "0"), (), "nodes = 0 is not possible"),
        (("--gpus-per-node", "99"), (), "--gpus-per-node 99: this machine has "),
        (("--partition", "a\nb"), (), "partition has a control character"),
        (("--nodes", "3"), (), "nearest batch sizes: 30, 33; nearest numbers of ranks: 2, 4"),
        ((), ("optim.lrr=1",), "unknown setting 'optim.lrr'; nearest: "),
        ((), ("optim.lr=fast",), "optim.lr takes a number, not 'fast'"),
        ((), ("train.epochs=0",), "train.epochs = 0 is not possible"),
        ((), ("train.epochs",), "--set takes key=value, not 'train.epochs'"),
        ((), ("train.batch_size=4096",), "train.batch_size = 4096 is more than the 96 samples of 'train'"),
        (("--nods", "2"), (), "unknown option '--nods'; nearest: --nodes"),
    ],
)  # fmt: skip
def test_a_refused_launch(place: Workplace, flags: tuple[str, ...], settings: tuple[str, ...], words: str) -> None:
    said = place.launch(*flags, settings=settings)
    assert said.status == 2
    assert said.err.startswith("error: ") and said.err.count("\n") == 1 and words in said.err
    assert said.json["exit_status"] == 2 and words in said.json["error"]
    assert place.runs == []


def test_a_half_packed_set_names_the_command(place: Workplace, tmp_path: Path) -> None:
    (tmp_path / "shards" / "deep_fashion").mkdir(parents=True)
    (tmp_path / "shards" / "deep_fashion" / "train-00000.tar").write_bytes(b"")
    said = Workplace(tmp_path).launch()
    assert said.status == 2 and "python jobs/pack.py" in said.err
    assert Workplace(tmp_path).runs == []


def test_a_home_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for home, words in ((tmp_path / "file" / "home", "is not a folder"), (tmp_path / "50%", "may not have a %")):
        said = Workplace(tmp_path).do([*Workplace(home).argv("launch"), "--task", "deepfashion"])
        assert said.status == 2 and words in said.err


def test_a_dry_run_shows_all_and_keeps_what_it_found_of_the_network_alone(place: Workplace) -> None:
    before = sorted(place.home.rglob("*"))
    said = place.do([*place.argv("launch"), "--task", "deepfashion", "--cluster", "local", "--nodes", "2", "--dry-run"])
    assert said.status == 0
    assert '"batch_size"' in said.out and "on this machine, 2 times" in said.out
    assert sorted(place.home.rglob("*")) == sorted({*before, place.home / "networks.json"})


def test_a_refused_launch_loads_no_torch(place: Workplace) -> None:
    argv = place.launch_argv("--model", "resnet81")
    said = place.do([argv[0], "-X", "importtime", *argv[1:]])
    assert said.status == 2 and "unknown model" in said.err
    loaded = {line.rpartition("|")[2].strip() for line in said.err.splitlines()}
    assert "tyro" in loaded and not loaded & {"torch", "submitit", "pyarrow", "wandb", "nvidia.dali", "rich"}


def test_status_of_runs_that_are_not_there(place: Workplace) -> None:
    assert "no runs yet" in place.status("nope").err
    assert place.status("nope").status == 2
    assert place.status("--cancel").status == 2
    assert place.status("--state", "rnning").status == 2
    said = place.status()
    assert said.status == 0 and "no runs in" in said.out
