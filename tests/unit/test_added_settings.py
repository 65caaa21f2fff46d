"""Settings come and go without orphaning runs: ids, stored configurations, and the list of this edition's settings."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch

from fashion_dist import io, runs, settings, tasks
from fashion_dist.cluster import launcher
from fashion_dist.cluster.launcher import LaunchRequest
from fashion_dist.config import Config, ConfigError, ModelConfig, OptimConfig
from fashion_dist.models import registry
from fashion_dist.models.backbone import build_backbone
from fashion_dist.paths import Home, RunDir
from fashion_dist.settings import added
from fashion_dist.tasks.deepfashion import RECIPE

EDITION = Path(__file__).with_name("settings_of_this_edition.txt")


@dataclass(frozen=True)
class LaterOptim(OptimConfig):
    """The optimiser's settings of a later edition."""

    lookahead: int = added(3, as_before=0)


def later(config: Config, **values: Any) -> Config:
    """The configuration in an edition that has `optim.lookahead`."""
    return dataclasses.replace(config, optim=LaterOptim(**dataclasses.asdict(config.optim), **values))


@pytest.fixture
def later_edition(monkeypatch: pytest.MonkeyPatch) -> None:
    hints = settings.hints_of
    later = {Config: {**hints(Config), "optim": LaterOptim}}
    monkeypatch.setattr(settings, "hints_of", lambda kind: later.get(kind) or hints(kind))


def test_every_setting_is_of_this_edition_or_says_what_means_as_before() -> None:
    """Whoever adds one uses `added`, or `Task.added` for a task's own; the list is of what every run was made with."""
    sections = {f.name: getattr(Config("t", "d"), f.name) for f in dataclasses.fields(Config)}
    found = ["task", "dataset"]
    for name, section in sections.items():
        if dataclasses.is_dataclass(section):
            found += [f"{name}.{f.name}" for f in dataclasses.fields(section) if "as_before" not in f.metadata]
    for name in tasks.names():
        task = tasks.load(name)
        assert task.added.keys() <= task.recipe.options.keys()
        found += [f"{name} task.{option}" for option in task.recipe.options if option not in task.added]
    for name in registry.own_models():
        args = registry.resolve_model(ModelConfig(name=name)).args
        found += [f"{name} model.{arg}" for arg in args]
    assert sorted(found) == sorted(EDITION.read_text().split("\n")[:-1])


def test_a_setting_that_is_as_before_leaves_the_id(later_edition: None) -> None:
    assert later(RECIPE, lookahead=0).run_id("data") == RECIPE.run_id("data")
    assert later(RECIPE).run_id("data") != RECIPE.run_id("data")
    assert later(RECIPE, lookahead=5).run_id("data") != later(RECIPE).run_id("data")


def test_a_stored_configuration_is_read_as_before_not_with_the_new_default(later_edition: None) -> None:
    assert Config.read(RECIPE.plain())[0] == later(RECIPE, lookahead=0)
    assert Config.read(later(RECIPE).plain())[0] == later(RECIPE)


@pytest.mark.parametrize(
    ("was", "name", "value"),
    [
        ("train.mix", "mix_prob", 0.25),
        ("data.balance", "class_balanced", "label"),
        ("data.weigh", "sample_weight", "w"),
    ],
)
def test_a_setting_of_another_name_keeps_ids_and_runs(was: str, name: str, value: Any) -> None:
    section, _, old = was.partition(".")
    config = RECIPE.override([f"{section}.{name}={value}"])
    stored = config.plain()
    stored[section][old] = stored[section].pop(name)
    assert Config.read(stored) == (config, {}), "a run is read by the name that it was stored with"
    assert settings.asked_fields(config)[section][old] == value, "its id is that of the stored name"
    with pytest.raises(ConfigError, match=f"{was} is now called {section}.{name}"):
        RECIPE.override([f"{was}={value}"])


def test_a_new_section_that_is_as_before_leaves_the_id() -> None:
    as_before = LaterOptim(lookahead=0)

    @dataclass(frozen=True)
    class Later(Config):
        extra: LaterOptim = added(as_before, as_before=as_before)

    plain = {f.name: getattr(RECIPE, f.name) for f in dataclasses.fields(RECIPE)}
    assert Later(**plain).run_id("data") == RECIPE.run_id("data")
    assert Later(**plain, extra=LaterOptim()).run_id("data") != RECIPE.run_id("data")


def test_an_option_added_to_a_task_leaves_ids_and_stored_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, run = Home(tmp_path), RunDir(tmp_path / "runs" / "r")
    run.path.mkdir(parents=True)
    run.config.write_text(RECIPE.to_json())
    before = runs.run_id(RECIPE, home, "data")
    task = tasks.load("deepfashion")
    recipe = dataclasses.replace(RECIPE, options={**RECIPE.options, "pooling": 7})
    monkeypatch.setattr(task, "recipe", registry.resolve(recipe))
    monkeypatch.setattr(task, "added", {"pooling": 1})
    assert runs.run_id(recipe, home, "data") != before
    assert runs.run_id(recipe.override(["task.pooling=1"]), home, "data") == before
    assert runs.own_config(run).options["pooling"] == 1


def test_whole_numbers_are_the_same_however_they_are_written() -> None:
    assert RECIPE.override(["optim.lr=1"]).run_id("d") == RECIPE.override(["optim.lr=1.0"]).run_id("d")
    recipe = dataclasses.replace(RECIPE, optim=dataclasses.replace(RECIPE.optim, warmup_epochs=3))
    assert recipe.run_id("d") == RECIPE.override(["optim.warmup_epochs=3"]).run_id("d")


def test_gone_settings_are_named_and_the_rest_is_read() -> None:
    stored = json.loads(RECIPE.override(["train.epochs=7"]).to_json())
    stored["optim"] |= {"lookahead": 3, "name": "lion", "momentum": -1.0}
    config, gone = Config.read(stored)
    assert gone == {"optim.lookahead": 3, "optim.name": "lion", "optim.momentum": -1.0}
    assert config.train.epochs == 7 and config.optim.lr == RECIPE.optim.lr
    told = settings.gone_settings(gone)
    assert told == 'optim.name = "lion", optim.lookahead = 3, optim.momentum = -1.0, which are gone'


@pytest.mark.parametrize("text", ["", "[]", '{"task": "deepfashion"}', '{"task": "x", "dataset": "d", "optim": 3}'])
def test_a_configuration_that_cannot_be_read_is_one_sentence(text: str, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "r")
    run.path.mkdir()
    run.config.write_text(text)
    with pytest.raises(ConfigError) as refused:
        runs.own_config(run)
    assert str(run.config) in str(refused.value) and "\n" not in str(refused.value)


def weights_at(path: Path, content: bytes) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return f"model.weights={path}"


def test_the_id_is_of_the_weights_content_not_of_their_place(tmp_path: Path) -> None:
    home = Home(tmp_path)
    ids = [
        runs.run_id(RECIPE.override([weights_at(tmp_path / folder / "w.pt", content)]), home, "data")
        for folder, content in (("a", b"1"), ("b", b"1"), ("c", b"2"))
    ]
    assert ids[0] == ids[1] != ids[2] and runs.run_id(RECIPE, home, "data") not in ids
    published = [RECIPE.override(["model.weights=imagenet", f"model.name={name}"]) for name in ("resnet18", "resnet50")]
    assert len({runs.run_id(config, home, "data") for config in published}) == 2
    with pytest.raises(ConfigError, match="is not a file"):
        runs.run_id(RECIPE.override([f"model.weights={tmp_path / 'none'}"]), home, "data")


def test_hashes_of_large_files_are_kept_by_path_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io, "_LARGE", 4)
    file, known = tmp_path / "w.pt", tmp_path / "hashes.json"
    file.write_bytes(b"12345")
    recent = io.sha256_of(file, known)
    assert not known.exists()  # it might be written again without a new time
    os.utime(file, (1, 1))
    assert io.sha256_of(file, known) == recent
    assert list(json.loads(known.read_text())) == [f"{file} 5 1000000000"]
    known.write_text(json.dumps({f"{file} 5 2000000000": "kept"}))
    os.utime(file, (2, 2))
    assert io.sha256_of(file, known) == "kept"
    file.write_bytes(b"54321")
    assert io.sha256_of(file, known) not in ("kept", recent)


def request(home: Path, *settings: str) -> LaunchRequest:
    return LaunchRequest("deepfashion", home=str(home), cluster="local", settings=("data.image_px=32", *settings))


def test_weights_that_moved_are_the_same_run_and_changed_ones_are_refused(packed_home: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").symlink_to(packed_home / "shards")
    backbone, _ = build_backbone(RECIPE.model, 32)
    content = BytesIO()
    torch.save(backbone.state_dict(), content)
    trained = content.getvalue()
    first = launcher.resolve(request(tmp_path, weights_at(tmp_path / "a" / "w.pt", trained)))
    launcher.make_folder(first.run)
    launcher.write_run(first)
    moved = launcher.resolve(request(tmp_path, weights_at(tmp_path / "b" / "w.pt", trained)))
    assert moved.run == first.run and moved.differs == {}
    launcher.write_run(moved)
    assert runs.own_config(moved.run).model.weights == str(tmp_path / "b" / "w.pt")
    weights_at(tmp_path / "b" / "w.pt", b"22")
    with pytest.raises(ConfigError, match="have changed since run deepfashion-"):
        launcher.resume(request(tmp_path), first.run.run_id, {})


def test_a_run_keeps_what_it_began_with(
    packed_home: Path, tmp_path: Path, later_edition: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Launching again writes nothing new into config.json, and --resume is not led by today's recipe."""
    (tmp_path / "shards").symlink_to(packed_home / "shards")
    first = launcher.resolve(request(tmp_path))
    launcher.make_folder(first.run)
    launcher.write_run(first)
    stored = first.run.config.read_text()
    assert "lookahead" not in stored

    task = tasks.load("deepfashion")
    monkeypatch.setattr(task, "recipe", registry.resolve(later(RECIPE, lookahead=0)))
    again = launcher.resolve(request(tmp_path))
    assert again.run == first.run and again.differs == {}
    launcher.write_run(again)
    assert runs.own_config(first.run) == again.config == later(first.config, lookahead=0)
    assert first.run.config.read_text() == stored
    first.run.config.write_text(stored.replace('"epochs": 75', '"epochs": 5'))
    with pytest.raises(ConfigError, match=r"was changed by somebody \(train.epochs\)"):
        launcher.resolve(request(tmp_path))
    first.run.config.write_text(stored)

    changed = later(RECIPE).override(["optim.lr=0.5"])
    monkeypatch.setattr(task, "recipe", registry.resolve(changed))
    assert launcher.resolve(request(tmp_path)).run != first.run
    resumed = launcher.resume(LaunchRequest(""), str(first.run.path), {"cache": "ram"})
    assert resumed.run == first.run and resumed.config == again.config and resumed.options.cache == "ram"
    assert resumed.differs["optim.lr"] == (RECIPE.optim.lr, 0.5)
    assert resumed.differs["optim.lookahead"] == (0, 3)


def test_what_a_run_had_last_is_what_it_goes_on_with(packed_home: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").symlink_to(packed_home / "shards")
    first = launcher.resolve(dataclasses.replace(request(tmp_path), resources={"nodes": 2, "time_min": 7}))
    launcher.make_folder(first.run)
    launcher.write_run(first)
    options = dataclasses.replace(first.options, cache="ram", wandb="off")
    launcher.JobRecord("local", first.resources, options).write(first.run)
    where = LaunchRequest("", home=str(tmp_path))
    plan = launcher.resume(where, first.run.run_id, {"cache": "none"})
    assert (plan.cluster, plan.resources.nodes, plan.resources.time_min) == ("local", 2, 7)
    assert (plan.options.cache, plan.options.wandb) == ("none", "off")
    assert (
        launcher.resume(dataclasses.replace(where, resources={"nodes": 1}), first.run.run_id, {}).resources.nodes == 1
    )
