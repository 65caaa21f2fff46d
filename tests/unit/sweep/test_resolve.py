"""What sweep.py refuses before it writes anything, and which runs its trials are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fashion_dist.cluster.launcher import LaunchRequest, resolve
from fashion_dist.errors import ConfigError, InputError
from fashion_dist.paths import Home
from fashion_dist.sweep import launcher
from fashion_dist.sweep.launcher import SweepRequest
from shards import Split

SMALL = ("data.image_px=32", "train.batch_size=32")


def question(home: Path, *settings: str, file: str = "", **more: Any) -> SweepRequest:
    request = LaunchRequest("deepfashion", home=str(home), cluster="local")
    return SweepRequest(request, file, (*SMALL, *settings), **more)


def test_a_trial_is_the_run_that_launch_makes_of_the_same_settings(packed_home: Path) -> None:
    sweep = launcher.resolve(question(packed_home, "optim.lr=0.1,0.2", "model.pool=max")).sweep
    one = LaunchRequest(
        "deepfashion", home=str(packed_home), cluster="local", settings=(*SMALL, "optim.lr=0.2", "model.pool=max")
    )
    assert [trial and trial.run_id for trial in sweep.trials][1] == resolve(one).run.run_id
    assert sweep.varied == ["optim.lr"] and sweep.folder.sweep_id.startswith("deepfashion-sweep-")


def test_repeats_have_seeds_of_their_own_and_doubles_are_left_out(packed_home: Path) -> None:
    draft = launcher.resolve(question(packed_home, "optim.lr=0.1,0.10,0.2", seeds=2))
    assert len(draft.sweep.trials) == 4 and draft.doubled == 2
    assert [trial.settings["train.seed"] for trial in draft.sweep.trials if trial] == [0, 1, 0, 1]


def test_the_set_is_read_once_however_many_trials_are_checked(
    packed_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    read = Split._read
    monkeypatch.setattr(Split, "_read", lambda self, name: asked.append(f"{self.name} {name}") or read(self, name))
    counts = []
    for dropouts in ("0.1,0.2", "0.1,0.2,0.3,0.4,0.5"):
        asked.clear()
        launcher.resolve(question(packed_home, f"model.dropout={dropouts}"))
        counts.append(len(asked))
    assert counts[0] == counts[1] > 0


def test_the_metric_of_the_file_is_the_one_that_best_means(packed_home: Path, tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(
        "method: grid\nmetric: {name: val/loss, goal: minimize}\nparameters: {optim.lr: {values: [0.1, 0.2]}}\n"
    )
    sweep = launcher.resolve(question(packed_home, file=str(file), name="x y")).sweep
    assert (sweep.base.train.monitor, sweep.base.train.mode) == ("loss", "min")
    assert sweep.name == "x y" and sweep.folder.sweep_id.startswith("x-y-")
    given = launcher.resolve(question(packed_home, "train.monitor=loss", "optim.lr=0.1,0.2")).sweep
    assert (given.monitor.metric, given.monitor.mode) == ("loss", "min") and given.varied == ["optim.lr"]
    with pytest.raises(ConfigError, match=r"trials would be best by several metrics, loss, sample_f1; allowed: one"):
        launcher.resolve(question(packed_home, "train.monitor=sample_f1", file=str(file)))


def test_a_sweep_has_not_the_id_of_a_run(packed_home: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").symlink_to(packed_home / "shards")
    config = Home(tmp_path).run_dir("deepfashion-0123456789").config
    config.parent.mkdir(parents=True)
    config.write_text("{}")
    with pytest.raises(ConfigError, match="--name deepfashion-0123456789 is that of run deepfashion-0123456789"):
        launcher.resolve(question(tmp_path, "optim.lr=0.1,0.2", name="deepfashion-0123456789"))


def test_draws_that_are_equal_are_counted_as_left_out(packed_home: Path, tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("method: random\nrun_cap: 20\nparameters: {optim.lr: {values: [0.1, 0.2]}}\n")
    draft = launcher.resolve(question(packed_home, file=str(file), seeds=2))
    assert len(draft.sweep.trials) == 4 and draft.doubled == 36


@pytest.mark.parametrize(
    ("settings", "more", "words"),
    [
        (("optim.lrr=1,2",), {}, "unknown setting 'optim.lrr'; nearest: optim.lr"),
        (("optim.lr=1,fast",), {}, "optim.lr takes a number, not 'fast'"),
        (("optim.lr=0.1,-1",), {}, "optim.lr = -1.0 is not possible"),
        (("optim.lr=0.1,,0.2",), {}, "has an empty value between commas"),
        (("optim.lr=1", "optim.lr=2"), {}, "--set names optim.lr twice"),
        (("model.name=fashionnet,resnet81",), {}, "unknown model 'resnet81'; nearest: "),
        (("optim.lr=1,2", "train.accumulate=64"), {}, "nearest batch sizes: 64"),
        (("train.seed=0,1",), {"seeds": 2}, "both choose train.seed"),
        (("optim.lr=1,2",), {"seeds": 0}, "--seeds 0 is not possible"),
        (("optim.lr=1,2",), {"seed": -1}, "--search-seed -1 is not possible; allowed: 0 to "),
        (("optim.lr=1,2",), {"seed": 10**30}, "0 is not possible; allowed: 0 to 9007199254740991"),
        (("train.monitor=loss,sample_f1",), {}, "--set: trials would be best by several metrics, loss, sample_f1"),
        (("optim.lr=1,2",), {"name": "a\nb"}, "has a control character"),
        (("optim.lr=1,2",), {"hold": True}, "--hold is of Slurm's queue; on this machine --max-parallel bounds"),
        (("optim.lr=1,2",), {"max_submit": 1}, "--max-submit 1 is of Slurm's queue; on this machine --max-parallel"),
        (
            ("optim.lr=" + ",".join(str(n) for n in range(1, 10_002)),),
            {},
            "10,001 trials; allowed without --yes: 10,000",
        ),
    ],
)
def test_a_sweep_that_is_refused(
    packed_home: Path, settings: tuple[str, ...], more: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError) as refused:
        launcher.resolve(question(packed_home, *settings, **more))
    assert words in str(refused.value) and "\n" not in str(refused.value)
    assert not (packed_home / "sweeps").exists()


def test_two_sweeps_of_one_name_with_other_content(packed_home: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").symlink_to(packed_home / "shards")
    sweep = launcher.resolve(question(tmp_path, "optim.lr=0.1,0.2", name="n")).sweep
    sweep.folder.path.mkdir(parents=True)
    sweep.write()
    assert launcher.resolve(question(tmp_path, "optim.lr=0.1,0.2", name="n")).sweep.content == sweep.content
    with pytest.raises(ConfigError, match="a sweep named 'n' with other content"):
        launcher.resolve(question(tmp_path, "optim.lr=0.1,0.3", name="n"))


@pytest.mark.parametrize(
    ("text", "settings", "words"),
    [
        ("method: grid\n", (), "has no parameters, so there is nothing to try"),
        ("method: random\nparameters: {optim.lr: {values: [1, 2]}}\n", (), "has no end without run_cap"),
        ("method: grid\nparameters: {optim.lr: {values: [1]}}\n", ("optim.lr=2",), "optim.lr is given by"),
        (
            "method: grid\nearly_terminate: {type: hyperband, min_iter: 9}\n"
            "parameters: {train.epochs: {values: [8, 9]}}\n",
            (),
            "early_terminate first looks after 9 epochs and a trial has 8; allowed: a first look after 1 to 7",
        ),
        ("method: bayes\nrun_cap: 3\nparameters: {optim.lr: {min: 0.1, max: 1.0}}\n", (), ""),
        ("method: bayes\nrun_cap: 3\nparameters: {optim.lr: {values: [0.1, 0.2]}}\n", (), ""),
        (
            "method: bayes\nrun_cap: 3\nparameters: {optim.lr: {value: 0.1}, optim.momentum: {values: [0.9]}}\n",
            ("train.epochs=2",),
            "every parameter has one value, so all 3 trials of the search would be one run; allowed: a parameter with",
        ),
    ],
)
def test_files_that_are_refused(
    packed_home: Path, tmp_path: Path, text: str, settings: tuple[str, ...], words: str
) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(text)
    request = LaunchRequest("deepfashion", home=str(packed_home), cluster="local")
    asked = SweepRequest(request, str(file), settings)
    if not words:
        assert launcher.resolve(asked).sweep.trials == (None, None, None)
        return
    with pytest.raises(InputError) as refused:
        launcher.resolve(asked)
    assert words in str(refused.value)


def test_nothing_to_try(packed_home: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to try: allowed: --sweep FILE"):
        launcher.resolve(SweepRequest(LaunchRequest("deepfashion", home=str(packed_home), cluster="local")))
