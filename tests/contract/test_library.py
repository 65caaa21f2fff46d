"""What a user writes in Python: docs/loader.md's examples as they stand, a loop killed and resumed, a run loaded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pages import ROOT, blocks
from test_predict import lines, new_pictures, predicted, untrained

import fashion_dist
from fashion_dist import ShardLoader, load_run
from fashion_dist.config import DataConfig
from fashion_dist.data import Loader
from fashion_dist.errors import CheckpointError, ConfigError, InputError
from shards import ShardSet, pack
from shards.manifest import MANIFEST
from shards.readers.synthetic import draw_garment

PAGE = ROOT / "docs" / "loader.md"
PLAIN, KILLED, TIMM, LIGHTNING = blocks(PAGE, "python")
RECORDED = """import os
        images, target, keys = batch
        with open("ledger.txt", "a") as ledger:
            ledger.write("".join(f"{loader.epoch} {key}\\n" for key in keys))
        if not os.path.exists("killed") and (loader.epoch, loader.step) == (1, 2):
            open("killed", "w").close()
            os.kill(os.getpid(), 9)"""
"""What a step of Lightning's does besides: it writes its keys down, and is killed once, before it is learned from."""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `shards/mine`, three classes of 20 pictures."""
    folder = tmp_path_factory.mktemp("library")
    for at, name in enumerate(("coat", "dress", "hat")):
        (folder / "raw" / name).mkdir(parents=True)
        for number in range(20):
            data, _ = draw_garment(np.random.default_rng([at, number]), "dress")
            (folder / "raw" / name / f"{number}.jpg").write_bytes(data)
    pack("image_folder", folder / "raw", folder / "shards" / "mine")
    return folder


def ours(folder: Path, epoch: int, ranks: int = 1) -> list[list[str]]:
    """The keys of each batch that our own loader reads, all ranks of a step together."""
    split = ShardSet.open(folder / "shards" / "mine").split("train")
    images = np.arange(len(split))[:, None]
    of_rank = []
    for rank in range(ranks):
        given = {"batch_size": 16, "training": True, "rank": rank, "world_size": ranks}
        with Loader(split, images, DataConfig(image_px=32), **given) as loader:  # type: ignore[arg-type]
            of_rank.append([split.keys[batch.index.numpy()].tolist() for batch in loader.epoch(epoch)])
    return [[key for part in step for key in part] for step in zip(*of_rank, strict=True)]


@pytest.mark.parametrize("code", [PLAIN, TIMM], ids=["plain", "timm"])
def test_an_example_runs_as_it_stands(code: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert code.count("\n") <= 24
    monkeypatch.chdir(here)
    names: dict[str, object] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    loaders = [value for value in names.values() if isinstance(value, ShardLoader)]
    assert loaders and torch.isfinite(names["loss"])  # type: ignore[arg-type]
    for loader in loaders:
        loader.close()


def test_a_loop_killed_in_the_middle_of_an_epoch_reads_what_ours_reads(here: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").symlink_to(here / "shards")
    slow = KILLED.replace("        with open(", "        import time; time.sleep(0.2)\n        with open(")
    ledger = tmp_path / "ledger.txt"
    process = subprocess.Popen([sys.executable, "-c", slow], cwd=tmp_path, env={**_environment()})
    deadline = time.monotonic() + 120
    while not ledger.exists() or ledger.read_text().count("\n") < 32:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    state = torch.load(tmp_path / "state.pt") if (tmp_path / "state.pt").exists() else {"epoch": 0, "step": 0}
    done = (3 * state["epoch"] + state["step"]) * 16
    kept = ledger.read_text().splitlines(keepends=True)[:done]  # the step that was not saved is done again
    ledger.write_text("".join(kept))
    assert 0 < done < 2 * 48
    subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, env=_environment(), check=True)
    read = [line.split(" ", 1)[1] for line in ledger.read_text().splitlines()]
    wanted = [key for epoch in (0, 1) for step in ours(here, epoch) for key in step]
    assert read == wanted and len(set(read[:48])) == 48
    subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, env=_environment(), check=True)
    assert len(ledger.read_text().splitlines()) == 2 * 48, "a third epoch, by a script that is done"


def test_lightnings_trainer_killed_in_the_middle_of_an_epoch_reads_what_ours_reads(here: Path, tmp_path: Path) -> None:
    pytest.importorskip("pytorch_lightning", reason="it comes with the extra `dev`")
    (tmp_path / "shards").symlink_to(here / "shards")
    code = LIGHTNING.replace("image_px=32)", "image_px=32, keys=True)").replace("images, target = batch", RECORDED)
    ends = [
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=_environment(), check=False).returncode
        for _ in range(2)
    ]
    assert ends == [-signal.SIGKILL, 0]
    read = (tmp_path / "ledger.txt").read_text().splitlines()
    steps = [(epoch, step) for epoch in (0, 1) for step in ours(here, epoch)]
    steps.insert(5, steps[4])  # the step that was killed is done again
    assert read == [f"{epoch} {key}" for epoch, step in steps for key in step]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_two_ranks_divide_each_batch_and_a_state_fits_any_number(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"batch_size": 16, "image_px": 32, "keys": True}
    read = []
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        with ShardLoader(here / "shards" / "mine", **given) as loader:  # type: ignore[arg-type]
            batches = iter(loader)
            read.append(next(batches))
            state = loader.state_dict()
    first, *rest = ours(here, 0)
    assert [key for _, _, keys in read for key in keys] == first and read[0][0].shape == (8, 3, 32, 32)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with ShardLoader(here / "shards" / "mine", **given) as loader:  # type: ignore[arg-type]
        loader.load_state_dict(state)
        assert [keys for _, _, keys in loader] == rest and len(loader) == 3
        assert [keys for _, _, keys in loader] == ours(here, 1)
        with pytest.raises(CheckpointError, match="another batch_size, seed than"):
            loader.load_state_dict({**state, "batch_size": 8, "seed": 1})


def test_a_state_of_an_epochs_last_batch_is_the_next_ones_beginning(here: Path) -> None:
    with ShardLoader(here / "shards" / "mine", batch_size=16, image_px=32, keys=True) as loader:
        last = [loader.state_dict() for _ in loader][-1]
        assert (last["epoch"], last["step"], loader.epoch) == (0, 3, 1)
        loader.load_state_dict(last)
        assert (loader.epoch, loader.step) == (1, 0)
        for epoch in range(loader.epoch, 3):
            loader.set_epoch(epoch)
            assert [keys for _, _, keys in loader] == ours(here, epoch)
        loader.load_state_dict({**last, "step": 1})
        for wrong in ({"step": 4}, {"step": -1}, {"step": 1.0}, {"epoch": -1}, {"epoch": None}):
            with pytest.raises(CheckpointError, match="cannot be at; allowed: steps 0 to 3 of an epoch from 0"):
                loader.load_state_dict({**last, **wrong})
        assert (loader.epoch, loader.step) == (0, 1), "a state that was refused has been taken in part"
    with ShardLoader(here / "shards" / "mine", training=False, batch_size=16, image_px=32) as other:
        with pytest.raises(CheckpointError, match="another training, world_size than"):
            other.load_state_dict(last)
        evaluated = other.state_dict()
    with (
        ShardLoader(here / "shards" / "mine", batch_size=16, image_px=32) as loader,
        pytest.raises(CheckpointError, match="another training than"),
    ):
        loader.load_state_dict(evaluated)


def test_ranks_of_an_evaluation_end_together_and_go_on_from_any_ones_state(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = ShardSet.open(here / "shards" / "mine").split("val").keys[:]
    size = -(-len(wanted) // 3)  # three blocks: two of the first rank, one of the second, none of the last of four
    given = {"batch_size": size, "image_px": 32, "keys": True}
    states: list[dict[str, object]] = []

    def of_rank(rank: int, ranks: int, state: dict[str, object] | None = None) -> list[str]:
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(ranks))
        with ShardLoader(here / "shards" / "mine", "val", **given) as loader:  # type: ignore[arg-type]
            if state is not None:
                loader.load_state_dict(state)
            read = []
            for _, _, keys in loader:
                states.append(loader.state_dict())
                read += keys
            assert (loader.epoch, loader.step) == (1, 0)
            return read

    assert sorted(key for rank in range(4) for key in of_rank(rank, 4)) == sorted(wanted)
    states.clear()
    assert of_rank(0, 2) == wanted[:size] + wanted[2 * size :]
    first, second = states
    assert [of_rank(rank, 2, first) for rank in (0, 1)] == [wanted[2 * size :], []]
    assert [of_rank(rank, 2, second) for rank in (0, 1)] == [[], []]


def test_training_draws_by_the_column_that_is_named(tmp_path: Path) -> None:
    for at, (name, count) in enumerate((("coat", 30), ("hat", 10))):
        (tmp_path / "raw" / name).mkdir(parents=True)
        for number in range(count):
            data, _ = draw_garment(np.random.default_rng([at, number]), "dress")
            (tmp_path / "raw" / name / f"{number}.jpg").write_bytes(data)
    pack("image_folder", tmp_path / "raw", tmp_path / "set")
    states = {}  # of 36 training pictures 9 are hats
    for given, hats in (({}, 9), ({"class_balanced": "label"}, 18), ({"sample_weight": "label"}, 36)):
        with ShardLoader(tmp_path / "set", batch_size=36, image_px=8, **given) as loader:  # type: ignore[arg-type]
            assert [int(target.sum()) for _, target in loader] == [hats]
            states[hats] = loader.state_dict()
    with (
        ShardLoader(tmp_path / "set", batch_size=36, image_px=8) as loader,
        pytest.raises(CheckpointError, match="another class_balanced than"),
    ):
        loader.load_state_dict(states[18])
    for name in ("class_balanced", "sample_weight"):
        for column in ("nothing", "file"):
            with pytest.raises(ConfigError, match=f"data.{name} = '{column}' is not possible; allowed: .*label"):
                ShardLoader(tmp_path / "set", batch_size=36, image_px=8, **{name: column})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("fit", "sqash", "crop, squash"),
        ("interpolation", "bicubik", "bilinear, bicubic"),
        ("eval_order", "crop-resize", "resize_crop, crop_resize"),
        ("mean", (1,), "a list of 3"),
        ("mean", 0.5, "a list"),
        ("eval_resize", "1", "a number"),
        ("image_px", 32.0, "a whole number"),
        ("batch_size", 16.0, "a whole number from 1"),
        ("batch_size", 0, "a whole number from 1"),
        ("seed", 0.5, "a whole number"),
        ("training", "no", "True, False, None"),
        ("device", "meta", "cpu, cuda, cuda:N"),
        ("device", "gpu", "cpu, cuda, cuda:N"),
    ],
)
def test_a_value_that_a_setting_cannot_have_is_refused(name: str, value: object, allowed: str, here: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        ShardLoader(here / "shards" / "mine", **{"batch_size": 16, name: value})  # type: ignore[arg-type]
    assert str(refused.value).endswith(f"{name} = {value!r} is not possible; allowed: {allowed}")


def test_an_iteration_that_another_one_ended_says_so_and_loses_no_batch(here: Path) -> None:
    with ShardLoader(here / "shards" / "mine", batch_size=16, image_px=32, keys=True) as loader:
        expected = [batch[2] for batch in loader]
        for begin in (
            lambda: next(iter(loader)),
            lambda: loader.set_epoch(loader.epoch + 1),
            lambda: loader.load_state_dict({**loader.state_dict(), "epoch": 0, "step": 2}),
        ):
            loader.set_epoch(9)
            loader.set_epoch(0)
            first = iter(loader)
            assert next(first)[2] == expected[0]
            begin()
            stands = loader.epoch, loader.step
            with pytest.raises(InputError, match="cannot go on after another one, load_state_dict or set_epoch"):
                next(first)
            assert (loader.epoch, loader.step) == stands
        assert [batch[2] for batch in loader] == expected[2:]
        with pytest.raises(ConfigError, match="epoch = -1 is not possible"):
            loader.set_epoch(-1)
    with pytest.raises(InputError, match="is closed, and gives no more batches"):
        next(iter(loader))


def test_a_script_beside_the_shards_finds_the_package_of_that_name(here: Path) -> None:
    path = here / "where.py"
    path.write_text("import fashion_dist, shards\nprint(shards.__file__)")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, path.name], cwd=here, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == str(ROOT / "shards" / "__init__.py"), done.stderr


def test_a_script_that_ends_or_forgets_a_loader_gives_all_back_without_a_word(here: Path) -> None:
    code = """
import os
from fashion_dist import ShardLoader

def opened():
    loader = ShardLoader("shards/mine", batch_size=16, image_px=32)
    next(batches := iter(loader))
    return loader, batches, len(os.listdir("/proc/self/fd"))

first, *others = [opened()[2] for _ in range(4)]
assert others == [first] * 3, (first, others)
kept = opened()
print("end")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=here, env=_environment(), check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_anybodys_tars_are_indexed_first(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASHION_DIST_HOME", str(tmp_path / "home"))
    for tar in (here / "shards" / "mine").glob("*.tar"):
        (tmp_path / tar.name).write_bytes(tar.read_bytes())
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="has no index, which one process has to make"):
        ShardLoader(tmp_path, batch_size=16)
    monkeypatch.setenv("WORLD_SIZE", "1")
    for _ in range(2):
        with ShardLoader(tmp_path, "val", batch_size=4, image_px=32, keys=True) as loader:
            keys = [key for _, target, keys in loader for key in keys if len(target)]
            assert sorted(keys) == sorted(ShardSet.open(here / "shards" / "mine").split("val").keys)
            assert loader.class_names["label"] == ("coat", "dress", "hat")
    assert not (tmp_path / MANIFEST).exists() and len(list((tmp_path / "home" / "sources").iterdir())) == 1
    with pytest.raises(ConfigError, match="image_size is no setting of the pictures"):
        ShardLoader(tmp_path, batch_size=4, image_size=32)


def test_a_loaded_run_answers_as_predict_does(
    mini_set: Callable[[str], ShardSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = untrained("clipart", mini_set("clipart"), tmp_path / "home")
    source = new_pictures(folder, tmp_path / "new")
    by_command = {line["file"]: line for line in lines(predicted(folder, source=str(source)).paths["new.csv"])}
    monkeypatch.setenv("FASHION_DIST_HOME", str(tmp_path / "home"))
    run = load_run("clipart-0123")
    with pytest.raises(ConfigError, match="paths = 'new' is not possible; allowed: a list of picture files"):
        run.predict("new")
    with pytest.raises(ConfigError, match="batch_size = 0 is not possible"):
        run.predict(["new/1.jpg"], batch_size=0)
    assert run.class_names == list(mini_set("clipart").schema.names["label"]) and not run.model.training
    assert run.preprocess(source / "2.png").shape == (3, 32, 32)
    found = _rows(run.predict([source / name for name in by_command]))
    for name, row in zip(by_command, found, strict=True):
        wanted = by_command[name]
        assert row["file"] == str(source / name) and row["class"] == wanted["class"]
        for column in ("probability", "probability_2", "probability_5"):
            assert abs(float(row[column]) - float(wanted[column])) < 1e-4
    assert {row["split"] for row in _rows(run.metrics)} == {"train", "val"}
    predicted(folder, split="val")
    assert len(_rows(run.predictions("val"))) == 24
    with pytest.raises(fashion_dist.errors.InputError, match=r"notes\.txt cannot be read as a picture"):
        run.predict([source / "notes.txt"])


def _rows(frame: object) -> list[dict[str, object]]:
    """The rows of a data frame or of a table."""
    told = frame.to_pylist() if hasattr(frame, "to_pylist") else frame.to_dict("records")  # type: ignore[attr-defined]
    return list(told)
