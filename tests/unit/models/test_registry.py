"""Which networks there are, what each takes, and when two settings mean one network."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fashion_dist.cluster.launcher import LaunchRequest, resolve
from fashion_dist.config import Config, ModelConfig
from fashion_dist.errors import ConfigError
from fashion_dist.models import registry
from fashion_dist.models.backbone import build_backbone, require_built
from fashion_dist.models.registry import known_models, locate, own_models, resolve_model
from fashion_dist.settings import RETIRED
from fashion_dist.sweep import launcher as sweep_launcher
from fashion_dist.sweep.launcher import SweepRequest
from fashion_dist.tasks import load

RECIPE = load("deepfashion").recipe


def resolved(*settings: str, recipe: Config = RECIPE) -> Config:
    return registry.resolve(recipe.override(settings))


def refusal(*settings: str, recipe: Config = RECIPE) -> str:
    with pytest.raises(ConfigError) as refused:
        resolved(*settings, recipe=recipe)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_ours_are_the_files_with_a_build() -> None:
    assert own_models() == ["fashionnet", "mlp"]
    assert {"fashionnet", "mlp", "resnet18", "vit_tiny_patch16_224", "xception"} <= set(known_models())
    with pytest.raises(ConfigError, match=r"siamese\.py is not a network: it has no function build"):
        locate("siamese")


def test_a_library_s_networks_are_found_by_name_and_by_prefix() -> None:
    assert locate("resnet18") == locate("torchvision/resnet18") == ("torchvision", "resnet18")
    assert locate("timm/resnet18") == ("timm", "resnet18")
    assert locate("xception") == ("timm", "legacy_xception")
    for name, words in (
        ("keras/resnet18", "allowed before a slash: torchvision, timm"),
        ("torchvision/vit_tiny_patch16_224", "unknown model of torchvision 'vit_tiny_patch16_224'"),
        ("resnet81", "unknown model 'resnet81'; nearest: "),
        ("dense", "the network dense is now called mlp"),
    ):
        with pytest.raises(ConfigError, match=words):
            locate(name)


def test_the_two_resnets_are_the_libraries_own() -> None:
    made = {name: build_backbone(ModelConfig(name=name), 64)[0] for name in ("torchvision/resnet18", "timm/resnet18")}
    assert [type(model).__module__.partition(".")[0] for model in made.values()] == ["torchvision", "timm"]


ALL = "it takes model.weights, model.dropout, model.freeze"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            "model.name=resnet18 model.pool=max",
            f"'resnet18' of torchvision does not take model.pool; {ALL}, or as timm/",
        ),
        (
            "model.name=mlp model.pool=max",
            f"'mlp' does not take model.pool; {ALL}, model.norm, model.init, model.edges",
        ),
        ("model.edges=true", f"'fashionnet' does not take model.edges; {ALL}, model.pool, "),
        ("model.weigths=none", f"does not take model.weigths; {ALL}"),
        ("model.pool=median", "model.pool = 'median' is not possible; allowed: avg, max"),
        ("model.palette=perhaps", "model.palette takes true or false"),
        ("model.hue_jitter_prob=1.5", "model.hue_jitter_prob = 1.5 is not possible; allowed: 0 to 1"),
        ("model.name=timm/resnet18 model.num_classes=3", "does not take model.num_classes"),
        ("model.name=timm/resnet18 model.act_layer=", "model.act_layer = '' is not possible"),
    ],
)
def test_a_network_refuses_what_it_does_not_take(settings: str, words: str) -> None:
    assert words in refusal(*settings.split())


@pytest.mark.parametrize("key", RETIRED)
def test_a_retired_setting_says_what_became_of_it(key: str) -> None:
    assert refusal(key if "=" in key else f"{key}=1") == RETIRED[key]
    replacement = RETIRED[key].partition(" is now called ")[2]
    assert replacement or " is gone: " in RETIRED[key]
    if replacement.startswith("model."):
        resolved(f"{replacement}=0.5")


def test_timm_takes_the_keyword_arguments_of_its_networks_and_refuses_others() -> None:
    model = resolved("model.name=vit_tiny_patch16_224", "model.img_size=64", "model.drop_path_rate=0.1").model
    assert model.args == {"img_size": 64, "drop_path_rate": 0.1}
    require_built(model, 64)
    assert build_backbone(model, 64)[0].patch_embed.img_size == (64, 64)  # type: ignore[union-attr]
    for setting, words in (
        ("model.pool=max", "unexpected keyword argument 'pool'"),
        ("model.img_size=many", "cannot be built with model.img_size = 'many'"),
    ):
        with pytest.raises(ConfigError) as refused:
            require_built(resolved("model.name=vit_tiny_patch16_224", setting).model, 64)
        assert words in str(refused.value) and "model.drop_path_rate" in str(refused.value)
    assert resolved("model.name=timm/resnet18", "model.zero_init_last=False").model.args == {"zero_init_last": False}


def test_equal_networks_have_equal_configurations_and_one_id() -> None:
    for one, other in (
        ((), ("model.pool=avg", "model.hue_jitter_prob=0.80")),
        (("model.name=resnet18",), ("model.name=torchvision/resnet18",)),
        (("model.name=vit_tiny_patch16_224",), ("model.name=timm/vit_tiny_patch16_224",)),
        (("model.name=xception",), ("model.name=timm/legacy_xception",)),
        (("model.name=mlp", "model.edges=true"), ("model.edges=yes", "model.name=mlp")),
        (("model.name=timm/resnet18", "model.drop_rate=0.1"), ("model.drop_rate=.1", "model.name=timm/resnet18")),
    ):
        first, second = resolved(*one), resolved(*other)
        assert first == second and first.to_json() == second.to_json() and first.run_id("d") == second.run_id("d")
        assert registry.resolve(Config.read(first.plain())[0]) == first
    different = ((), ("model.pool=max",), ("model.name=resnet18",), ("model.name=timm/resnet18",))
    ids = [resolved(*settings).run_id("d") for settings in different]
    assert len(set(ids)) == 4


def test_a_configuration_says_every_setting_of_its_network_and_no_other() -> None:
    model = resolved().model
    assert model.args == {
        "pool": "avg", "norm": "batch", "init": "kaiming", "hue_jitter_prob": 0.8, "palette": True, "sketch": False,
    }  # fmt: skip
    assert resolved().flat()["model.pool"] == "avg" and "model.pool" not in resolved("model.name=resnet18").flat()
    assert resolved() == RECIPE, "a task's recipe is complete"


def test_a_recipe_s_settings_stay_with_its_network_and_leave_with_it() -> None:
    recipe = load("clipart").recipe
    assert resolved("model.name=fashionnet", recipe=recipe).model.args["sketch"] is True
    assert resolved("model.name=mlp", recipe=recipe) == resolved("model.name=mlp", "model.norm=batch", recipe=recipe)
    assert resolved("model.name=resnet18", recipe=recipe).model.args == {}


def test_a_sweep_over_a_setting_of_another_network_is_refused(packed_home: Path) -> None:
    def asked(*settings: str) -> None:
        request = LaunchRequest("deepfashion", home=str(packed_home), cluster="local")
        sweep_launcher.resolve(SweepRequest(request, "", settings))

    asked("model.pool=avg,max", "train.batch_size=32")
    for settings in (("model.pool=avg,max", "model.name=resnet50"), ("model.name=fashionnet,mlp", "model.pool=max")):
        with pytest.raises(ConfigError, match=r"does not take model\.pool; it takes "):
            asked(*settings)
    with pytest.raises(ConfigError, match=r"model\.grain is gone"):
        asked("model.grain=true,false")


def test_a_run_s_own_network_is_checked_at_launch(packed_home: Path) -> None:
    def asked(model: str, *settings: str) -> Config:
        small = ("train.batch_size=32", *settings)
        return resolve(
            LaunchRequest("deepfashion", model=model, home=str(packed_home), cluster="local", settings=small)
        ).config

    assert asked("timm/resnet18", "model.drop_path_rate=0.1").model.args == {"drop_path_rate": 0.1}
    with pytest.raises(ConfigError, match="unexpected keyword argument 'pool'"):
        asked("timm/resnet18", "model.pool=max")


def test_a_configuration_of_the_first_edition_is_read_and_says_what_is_gone() -> None:
    values = json.loads(RECIPE.to_json())
    model = {"pool": "max", "norm": "batch", "init": "kaiming", "recolour": 0.8, "palette": True, "frame": False,
             "grain": False, "sketch": False, "edges": False}  # fmt: skip
    values["model"] = {k: v for k, v in values["model"].items() if k != "args"} | model
    values["data"] |= {"start_px": 0, "grow_until": 0.75}
    config, gone = Config.read(values)
    assert gone == {"model.recolour": 0.8} and config.flat()["model.pool"] == "max"
    assert config.data == RECIPE.data
    values["model"]["grain"] = values["data"]["start_px"] = 64
    _, gone = Config.read(values)
    assert gone == {"model.recolour": 0.8, "model.grain": 64, "data.start_px": 64, "data.grow_until": 0.75}


@pytest.fixture
def drop_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes a file `toy.py` where networks are looked for."""
    path = tmp_path / "toy.py"
    real = registry._path
    monkeypatch.setattr(registry, "_path", lambda name: path if name == "toy" else real(name))

    def write(source: str) -> Path:
        path.write_text(source, errors="surrogateescape")
        return path

    return write


HEAD = """
import math
import torch_that_is_not_there
from dataclasses import dataclass, field
from typing import Literal
"""
BUILD = "\ndef build(config, image_px):\n    return None, 0\n"


def test_a_file_s_settings_are_read_without_running_the_rest_of_it(drop_in: Callable[[str], Path]) -> None:
    declared = """
@dataclass(frozen=True)
class Args:
    depth: int = 2
    slope: float = math.pi
    kind: Literal["a", "b"] = "a"
    size: Literal[3, 5] = 3
    later: bool = field(default=False, metadata={"added": True})

    def __post_init__(self):
        if self.depth < 1:
            raise ValueError(f"model.depth = {self.depth} is not possible; allowed: 1 or more")
"""
    drop_in(HEAD + declared + BUILD)
    made = resolve_model(ModelConfig(name="toy", args={"depth": "3"}))
    assert made.args == {"depth": 3, "slope": pytest.approx(3.14159, rel=1e-5), "kind": "a", "size": 3}
    assert resolve_model(ModelConfig(name="toy", args={"later": True})).args["later"] is True
    assert resolve_model(ModelConfig(name="toy", args={"size": "5"})).args["size"] == 5
    for args, words in (
        ({"depth": 0}, "model.depth = 0 is not possible; allowed: 1 or more"),
        ({"depth": "two"}, "model.depth takes a whole number"),
        ({"size": 4}, "model.size = '4' is not possible; allowed: 3, 5"),
        ({"width": 1}, "the network 'toy' does not take model.width; it takes model.weights, "),
    ):
        with pytest.raises(ConfigError, match=words):
            resolve_model(ModelConfig(name="toy", args=args))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def built(config): ...", "is not a network: it has no function build"),
        ("def build(:", "toy.py, line 1, is not Python"),
        ("class Args:\n    width: int = 2\n" + BUILD, "is not a dataclass"),
        (HEAD + "WIDTH = 3\n@dataclass\nclass Args:\n    width: int = WIDTH\n" + BUILD, "name 'WIDTH' is not defined"),
        ("CUP = 'caf\udce9'\n" + BUILD, "is not Python"),
        (
            HEAD + "@dataclass\nclass Args:\n    width: int = 1\n    dropout: float = 0.1\n" + BUILD,
            "has dropout, of which",
        ),
        (HEAD + "@dataclass\nclass Args:\n    width: int\n" + BUILD, "each with a default"),
        (
            HEAD
            + "@dataclass\nclass Args:\n    width: int = 2\n    def __post_init__(self): assert self.width > 1\n"
            + BUILD,
            "AssertionError",
        ),
        (HEAD + "@dataclass\nclass Args:\n    width: object = 1\n" + BUILD, "of bool, int, float, str and Literal"),
    ],
)
def test_a_file_that_is_no_network_is_one_sentence(source: str, words: str, drop_in: Callable[[str], Path]) -> None:
    drop_in(source)
    with pytest.raises(ConfigError) as refused:
        resolve_model(ModelConfig(name="toy", args={"width": 1}))
    assert words in str(refused.value) and "toy.py" in str(refused.value) and "\n" not in str(refused.value)


def test_a_network_s_settings_are_read_without_torch() -> None:
    code = (
        "import sys; from fashion_dist.tasks import load; from fashion_dist.models import pretrained, registry; "
        "registry.resolve(load('clipart').recipe.override(['model.pool=max'])); "
        "registry.resolve(load('clipart').recipe.override(['model.name=resnet18'])); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'torchvision', 'timm')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
