"""What a user may set, how a mistake is refused, and when two runs are the same run."""

from __future__ import annotations

import pytest

from fashion_dist.config import Config, ConfigError
from fashion_dist.tasks.deepfashion import RECIPE


def test_override_replaces_values_by_type() -> None:
    config = RECIPE.override(
        ["optim.lr=0.05", "train.epochs=3", "data.crop_scale=0.3, 0.9", "train.compile=yes", "task.threshold=0.5"]
    )
    assert config.optim.lr == 0.05
    assert config.train.epochs == 3
    assert config.data.crop_scale == (0.3, 0.9)
    assert config.train.compile is True
    assert config.options["threshold"] == 0.5
    assert RECIPE.options["threshold"] != 0.5


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("optim.rl=1", ["optim.rl", "optim.lr"]),
        ("task.treshold=1", ["task.threshold"]),
        ("nonsense", ["key=value", "nonsense"]),
        ("train.epochs=many", ["train.epochs", "whole number", "many"]),
        ("train.epochs=0", ["train.epochs", "1 or more"]),
        ("optim.lr=nan", ["optim.lr", "finite"]),
        ("optim.lr=-1", ["optim.lr", "lr > 0"]),
        ("optim.name=lion", ["optim.name", "lion", "sgd, adam, adamw"]),
        ("data.crop_scale=0.5", ["data.crop_scale", "2 comma-separated"]),
        ("data.crop_scale=0.9,0.5", ["data.crop_scale", "low <= high"]),
        ("train.compile=maybe", ["train.compile", "true or false"]),
        ("model.freeze=epochs:0", ["model.freeze", "epochs:N"]),
        ("model.name=a\nb", ["control character"]),
        ("task=other", ["setting", "'task'"]),
    ],
)
def test_a_mistake_is_one_sentence_with_what_is_allowed(setting: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        RECIPE.override([setting])
    message = str(refused.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_mode_of_compiling_is_of_a_run_that_compiles() -> None:
    assert RECIPE.override(["train.compile_mode=reduce-overhead", "train.compile=true"]).check().train.compile
    with pytest.raises(ConfigError, match=r"train.compile_mode = 'reduce-overhead' .* allowed: default without"):
        RECIPE.override(["train.compile_mode=reduce-overhead"]).check()
    with pytest.raises(ConfigError, match=r"train.accumulate = 4 .* allowed: 1 with train.compile_mode=max-autotune"):
        RECIPE.override(["train.compile=true", "train.compile_mode=max-autotune", "train.accumulate=4"]).check()
    graph = "train.cuda_graph=true"
    with pytest.raises(ConfigError, match=r"train.accumulate = 2 .* allowed: 1 with train.cuda_graph=true"):
        RECIPE.override([graph, "train.accumulate=2"]).check()
    with pytest.raises(ConfigError, match=r"train.cuda_graph = True .* false with train.compile, train.sync_batchnorm"):
        RECIPE.override([graph, "train.compile=true", "train.sync_batchnorm=true"]).check()
    with pytest.raises(ConfigError, match=r"train.cuda_graph = True .* false with model.freeze=epochs:N"):
        RECIPE.override([graph, "model.weights=imagenet", "model.freeze=epochs:2"]).check()


def test_a_backbone_that_joins_late_joins() -> None:
    finetuned = ["model.weights=imagenet", "train.epochs=3"]
    assert RECIPE.override([*finetuned, "model.freeze=epochs:2"]).check().model.freeze == "epochs:2"
    with pytest.raises(ConfigError, match=r"model.freeze = 'epochs:3' .* N below train.epochs \(3\), or backbone"):
        RECIPE.override([*finetuned, "model.freeze=epochs:3"]).check()


def test_json_round_trip_keeps_everything() -> None:
    config = RECIPE.override(["data.crop_scale=0.3,0.9", "task.attribute_weight=2.5", "model.name=resnet18"])
    assert Config.read(config.plain())[0] == config


def test_run_id_is_the_configuration_and_the_data() -> None:
    same = Config.read(RECIPE.plain())[0]
    assert same.run_id("data") == RECIPE.run_id("data")
    assert RECIPE.override(["train.seed=1"]).run_id("data") != RECIPE.run_id("data")
    assert RECIPE.run_id("other data") != RECIPE.run_id("data")
    assert RECIPE.run_id("data").startswith("deepfashion-")


@pytest.mark.parametrize(
    ("key", "meant"),
    [("lr", "optim.lr"), ("epochs", "train.epochs"), ("weightdecay", "optim.weight_decay"), ("data.lr", "optim.lr")],
)
def test_a_setting_without_its_section_has_the_right_neighbour(key: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown setting '{key}'; nearest: {meant}"):
        Config("clipart", "clipart").override([f"{key}=1"])
