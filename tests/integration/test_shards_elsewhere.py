"""A shard set that lies in somebody else's folder: --shards, or $FASHION_DIST_SHARDS."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster_home import SETTINGS, Workplace
from garments import draw_garments

from fashion_dist.cluster import launcher
from fashion_dist.cluster.launcher import LaunchRequest
from fashion_dist.errors import ConfigError
from fashion_dist.paths import Home
from fashion_dist.sweep import launcher as sweeps
from fashion_dist.sweep import trial
from fashion_dist.sweep.sweep_record import SubmittedArray, Sweep
from shards import InputError


@pytest.fixture
def elsewhere(make_home: Callable[[], Path], tmp_path: Path) -> Path:
    """A folder of shard sets that this user does not write to."""
    (make_home() / "shards").rename(tmp_path / "theirs")
    for path in [*(tmp_path / "theirs").rglob("*"), tmp_path / "theirs"]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    return tmp_path / "theirs"


def request(home: Path, **values: str) -> LaunchRequest:
    return LaunchRequest("deepfashion", home=str(home), cluster="local", settings=SETTINGS, **values)  # type: ignore[arg-type]


def test_a_folder_of_sets_or_one_set_gives_the_same_run(
    elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "mine"
    plans = [launcher.resolve(request(home, shards=str(path))) for path in (elsewhere, elsewhere / "deep_fashion")]
    monkeypatch.setenv("FASHION_DIST_SHARDS", str(elsewhere))
    plans.append(launcher.resolve(request(home)))
    shutil.copytree(elsewhere, tmp_path / "copy")
    plans.append(launcher.resolve(request(home, shards=str(tmp_path / "copy"))))  # the flag before the variable
    assert len({plan.run for plan in plans}) == 1
    assert [plan.shard_set.parent for plan in plans] == [elsewhere] * 3 + [tmp_path / "copy"]


def test_what_is_not_there_is_refused_by_name(tmp_path: Path, elsewhere: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere is no folder of shard sets \(--shards, \$FASHION_DIST_SHARDS\)"):
        launcher.resolve(request(tmp_path / "mine", shards=str(tmp_path / "nowhere")))
    with pytest.raises(InputError, match=r"theirs/other is no shard set"):
        launcher.resolve(request(tmp_path / "mine", shards=str(elsewhere), dataset="other"))


def test_trials_find_it_without_the_variable(elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASHION_DIST_SHARDS", str(elsewhere))
    asked = dataclasses.replace(request(tmp_path / "mine"), settings=())
    question = sweeps.SweepRequest(asked, settings=("optim.lr=0.1,0.2",))
    draft = sweeps.resolve(question)
    draft.sweep.folder.path.mkdir(parents=True)
    draft.sweep.write()
    monkeypatch.delenv("FASHION_DIST_SHARDS")
    sweep = Sweep.read(draft.sweep.folder)
    first = sweep.trial(0)
    assert first is not None
    array = SubmittedArray("local", 0, (0, 1), draft.context.resources, code="0123456789ab")
    plan = trial.plan_of(sweep, first, array)
    assert (plan.shard_set, plan.code) == (elsewhere / "deep_fashion", "0123456789ab")


def test_trained_and_predicted_without_writing_there_and_after_a_move(elsewhere: Path, tmp_path: Path) -> None:
    place = Workplace(tmp_path / "mine")
    place.home.mkdir()
    before = sorted((str(path), path.stat().st_mtime_ns) for path in elsewhere.rglob("*"))
    said = place.launch("--debug", "--wait", "--shards", str(elsewhere), settings=("train.epochs=1",))
    assert said.status == 0, said.err
    run = place.run().name
    assert sorted((str(path), path.stat().st_mtime_ns) for path in elsewhere.rglob("*")) == before
    assert not (place.home / "shards").exists()

    elsewhere.rename(tmp_path / "moved")
    lost = place.do(place.argv("predict", run, "--split", "val"))
    assert lost.status == 2 and "theirs" in lost.err
    found = place.do(place.argv("predict", run, "--split", "val", "--shards", str(tmp_path / "moved")))
    assert found.status == 0, found.err
    assert list((place.run() / "predictions" / "val").glob("*.parquet"))


def test_packing_goes_to_the_home_and_says_how_to_train_on_it(
    tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Workplace(tmp_path / "mine")
    place.home.mkdir()
    source = draw_garments(tmp_path / "raw" / "deep_fashion")
    words = place.argv("pack", "--dataset", "deep_fashion", "--source", str(source), "--no-card", "--workers", "1")
    said = place.do([*words, "--json"], FASHION_DIST_SHARDS=str(elsewhere))
    assert said.status == 0, said.err
    assert Path(said.json["paths"]["shard set"]) == place.home / "shards" / "deep_fashion"
    assert said.json["next"]["train on it"].endswith(f"--home {place.home} --shards {place.home / 'shards'}")
    assert Home.find(str(place.home)).shard_set("deep_fashion") == place.home / "shards" / "deep_fashion"
