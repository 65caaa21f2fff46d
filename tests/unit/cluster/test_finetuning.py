"""Beginning with trained weights: what they want, what the recipe is then, and that what the user sets wins."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fashion_dist import tasks
from fashion_dist.cluster import launcher, network_check
from fashion_dist.cluster.dry_run import dry_run
from fashion_dist.cluster.launcher import LaunchRequest, RunSpec
from fashion_dist.cluster.resources import Resources
from fashion_dist.config import Config, ModelConfig
from fashion_dist.errors import ConfigError
from fashion_dist.models import finetune, registry
from fashion_dist.models.backbone import build_backbone
from fashion_dist.models.pretrained import kind, tagged
from fashion_dist.models.probe import probe
from fashion_dist.paths import Home, RunDir
from fashion_dist.settings import require
from fashion_dist.sweep import launcher as sweep_launcher
from fashion_dist.sweep.launcher import SweepRequest
from fashion_dist.sweep.sweep_record import SubmittedArray
from fashion_dist.sweep.trial import plan_of
from shards import Schema, ShardSet

NETWORK = "timm/mobilenetv3_small_050"
CFG = {"input_size": [3, 96, 80], "mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic", "crop_pct": 0.8}


@pytest.fixture
def home(packed_home: Path, tmp_path: Path) -> Path:
    """A working folder of the test's own, on the packed garments."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "shards").symlink_to(packed_home / "shards")
    return tmp_path / "home"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights of `NETWORK`, with nothing beside them."""
    backbone, _ = build_backbone(ModelConfig(name=NETWORK), 96)
    save_file(backbone.state_dict(), tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def request(home: Path, weights: str | Path, *settings: str, model: str = "", debug: bool = False) -> LaunchRequest:
    small = ("train.batch_size=32", *settings)
    return LaunchRequest(
        "deepfashion", model=model, weights=str(weights), settings=small, home=str(home), cluster="local", debug=debug
    )


def planned(home: Path, weights: str | Path, *settings: str, model: str = "", debug: bool = False) -> RunSpec:
    return launcher.resolve(request(home, weights, *settings, model=model, debug=debug))


def refusal(home: Path, weights: str | Path, *settings: str, model: str = "") -> str:
    with pytest.raises(ConfigError) as refused:
        planned(home, weights, *settings, model=model)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_the_file_beside_wins_and_what_is_set_wins_over_all(home: Path, weights: Path) -> None:
    library = planned(home, weights, model=NETWORK)
    assert library.config.data.std == (0.229, 0.224, 0.225) and library.config.data.image_px == 224
    assert library.config_origins["data.std"] == "timm's configuration of mobilenetv3_small_050"
    values = {"architecture": "mobilenetv3_small_050", "pretrained_cfg": CFG}
    weights.with_suffix(".json").write_text(json.dumps(values))
    plan = planned(home, weights, "optim.lr=0.004", "data.mean=0,0,0", "model.freeze=none")
    config, data = plan.config, plan.config.data
    assert config.model.name == "mobilenetv3_small_050", "the file names its network"
    assert (data.image_px, data.std, data.interpolation, data.eval_resize) == (80, (0.25,) * 3, "bicubic", 1.25)
    assert (config.optim.lr, data.mean, config.model.freeze) == (0.004, (0, 0, 0), "none")
    assert (config.train.epochs, config.optim.beta2, config.train.mixup) == (20, 0.999, 0.4)
    assert data.fit == tasks.load("deepfashion").recipe.data.fit, "the task's own"
    shown = dry_run(plan)
    for key, origin in (("data.std = 0.25,0.25,0.25", "w.json"), ("optim.lr = 0.004", "set by you"),
                        ("train.epochs = 20", "finetuning recipe"), ("model.name =", "w.json")):  # fmt: skip
        assert any(line.startswith(key) and line.endswith(f"  {origin}") for line in shown.splitlines()), key
    assert plan.run != library.run
    debug = planned(home, weights, debug=True).config
    assert (debug.train.epochs, debug.train.fraction, debug.optim.lr) == (1, 0.01, 0.001)


def test_from_scratch_nothing_changes(home: Path) -> None:
    plan = planned(home, "")
    assert plan.config == tasks.load("deepfashion").recipe.override(["train.batch_size=32"])
    assert plan.config_origins == {"train.batch_size": "set by you"}
    assert planned(home, "", "optim.name=sgd").config_origins["optim.weight_decay"] == "sgd's own"
    assert planned(home, "", model="timm/resnet18").config.optim.no_decay == "network"
    assert planned(home, "", "optim.no_decay=vectors", model="timm/resnet18").config.optim.no_decay == "vectors"


def test_published_weights_by_their_tag(home: Path) -> None:
    plan = planned(home, "timm/convnext_tiny.fb_in22k")
    assert plan.config.model.name == "timm/convnext_tiny"
    assert plan.config.optim.layer_decay == 0.75 and plan.config.data.eval_resize == pytest.approx(1 / 0.875, abs=1e-4)
    assert plan.config_origins["data.eval_resize"] == "timm's configuration of convnext_tiny.fb_in22k"
    assert planned(home, "convnext_tiny.fb_in22k").run == plan.run
    assert planned(home, "imagenet", model="timm/convnext_tiny").run != plan.run
    old = planned(home, "resnet50.IMAGENET1K_V1").config
    assert (old.model.name, old.model.weights) == ("resnet50", "torchvision/resnet50.IMAGENET1K_V1")
    told = refusal(home, "timm/convnext_tiny.fb_in22k", model="resnet18")
    assert "are of timm/convnext_tiny, not of resnet18; allowed: --model timm/convnext_tiny" in told
    assert "unknown weights of timm's convnext_tiny 'fb_in23k'; known: " in refusal(home, "convnext_tiny.fb_in23k")
    assert "is not a file, nor a run or published weights; allowed: none, imagenet, " in refusal(home, "resnet5.x")
    assert "our own and has no published weights" in refusal(home, "imagenet")


def test_a_run_gives_its_best_backbone(home: Path) -> None:
    first = planned(home, "", "data.image_px=32", model="mlp")
    launcher.make_folder(first.run)
    launcher.write_run(first)
    run: RunDir = first.run
    network = tasks.load("deepfashion").build_model(first.config, _schema(home))
    (run.checkpoints / "best-00000004").mkdir(parents=True)
    torch.save({"model": network.state_dict()}, run.checkpoints / "best-00000004" / "state.pt")
    run.state.write_text('{"state": "running"}')
    assert f"run {run.run_id} is not done" in refusal(home, run.run_id)
    run.state.write_text('{"state": "done"}')
    plan = planned(home, run.run_id[:-2])
    assert (plan.config.model.name, plan.config.data.image_px) == ("mlp", 32)
    assert plan.config.model.args == first.config.model.args
    assert plan.config_origins["data.image_px"] == f"run {run.run_id}" and plan.config.optim.lr == 0.001
    assert plan.config.model.weights == str(run.checkpoints / "best-00000004" / "state.pt")
    assert planned(home, plan.config.model.weights).run == plan.run
    assert "does not fit the model" in refusal(home, run.run_id, "data.image_px=40")


def _schema(home: Path) -> Schema:
    return ShardSet.open(home / "shards" / "deep_fashion").schema


def test_every_trial_of_a_sweep_has_what_its_network_wants(home: Path) -> None:
    asked = SweepRequest(request(home, "imagenet", model="resnet18"), "", ("model.name=resnet18,vit_tiny_patch16_224",))
    draft = sweep_launcher.resolve(asked)
    made = {config.model.name: config for config in draft.configs}
    assert made["resnet18"].data.std == (0.229, 0.224, 0.225) and made["resnet18"].optim.layer_decay == 1
    vit = made["vit_tiny_patch16_224"]
    assert vit.data.std == (0.5, 0.5, 0.5) and vit.optim.layer_decay == 0.75 and vit.train.batch_size == 32


def test_a_trial_goes_on_as_it_began_and_begins_only_as_its_sweep_was_made(home: Path, weights: Path) -> None:
    other = weights.with_name("other.safetensors")
    save_file({name: value + 1 for name, value in load_file(weights).items()}, other)
    asked = SweepRequest(request(home, "", model=NETWORK), "", (f"model.weights={weights},{other}",), "w")
    sweep = sweep_launcher.resolve(asked).sweep
    begun, new = sweep.trials
    assert begun is not None and new is not None
    sweep.folder.path.mkdir(parents=True)
    array = SubmittedArray("local", 0, (0, 1), Resources())
    plan = plan_of(sweep, begun, array)
    assert (plan.run.run_id, plan_of(sweep, new, array).run.run_id) == (begun.run_id, new.run_id)
    launcher.make_folder(plan.run)
    launcher.write_run(plan)
    for path in (weights, other):
        path.with_suffix(".json").write_text(json.dumps({"pretrained_cfg": CFG}))
    assert plan_of(sweep, begun, array) == plan
    launcher.write_run(plan_of(sweep, begun, array))
    with pytest.raises(
        ConfigError, match=r"trial 1 would be another run than when sweep w was made: its task's recipe,"
    ):
        plan_of(sweep, new, array)
    plan.run.config.write_text(plan.config.override(["optim.lr=0.5"]).to_json())
    with pytest.raises(ConfigError, match=r"config\.json has changed; the same sweep under another --name makes new"):
        plan_of(sweep, begun, array)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mean": [0.5, 0.5]}, "mean = [0.5, 0.5] is not possible; allowed: 3 numbers"),
        ({"crop_pct": "most"}, "crop_pct = 'most' is not possible; allowed: 0.25 to 1"),
        ({"input_size": [1, 28, 28]}, "allowed: 3 channels"),
    ],
)
def test_a_file_beside_that_cannot_be_is_named(change: dict[str, object], words: str, tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text(json.dumps({"pretrained_cfg": CFG | change}))
    with pytest.raises(ConfigError) as refused:
        finetune.beside(tmp_path / "w.pt")
    assert str(tmp_path / "w.json") in str(refused.value) and words in str(refused.value)


def test_every_task_has_a_finetuning_recipe_that_can_be() -> None:
    for name in tasks.names():
        task = tasks.load(name)
        made = finetune.settings("timm/vit_tiny_patch16_224", None, folded=True, normalised=True)
        config = task.recipe.override(f"{key}={value}" for key, (value, _) in made.items())
        assert config.train.freeze_bn and config.train.epochs <= 30 and config.optim.layer_decay < 1


def test_a_network_that_nothing_normalises_learns_slower(home: Path) -> None:
    """At the heads' rate it ends with one answer for all images."""
    rates = {name: planned(home, "imagenet", f"model.name={name}") for name in ("torchvision/vgg11", "resnet18")}
    assert {name: plan.config.optim.backbone_lr for name, plan in rates.items()} == {
        "torchvision/vgg11": 0.1, "resnet18": 1.0,
    }  # fmt: skip
    with torch.device("meta"):
        assert not probe(ModelConfig(name="timm/nf_regnet_b0"), 64).normalised
    for norm, rate in (("none", 0.1), ("batch", 1.0)):
        asked = ModelConfig(name="mlp", args={"norm": norm})
        file = home / f"{norm}.safetensors"
        backbone = build_backbone(registry.resolve_model(asked), 32)[0]
        backbone(torch.randn(4, 3, 32, 32))  # statistics of something
        save_file(backbone.state_dict(), file)
        ours = planned(home, file, "data.image_px=32", f"model.norm={norm}", model="mlp")
        assert ours.config.optim.backbone_lr == rate
    why = rates["torchvision/vgg11"].config_origins["optim.backbone_lr"]
    assert why == "finetuning recipe of networks that nothing normalises"
    assert finetune.settings("mobilenet_v2", None, folded=True, normalised=True)["optim.backbone_lr"][0] == "0.1"


@pytest.mark.parametrize(
    ("weights", "what"),
    [
        ("none", "none"), ("imagenet", "imagenet"), ("timm/convnext_tiny.fb_in22k", "tag"), ("resnet18.tv_in1k", "tag"),
        ("resnet18.pth", "file"), ("a/b/resnet18.x", "file"), ("clipart-0123456789", "file"), ("w.safetensors", "file"),
    ],
)  # fmt: skip
def test_what_weights_name(weights: str, what: str) -> None:
    assert kind(weights) == what
    if what == "tag":
        assert tagged(weights)[0].startswith("timm/")


def test_what_was_found_is_kept_and_a_child_finds_the_same(home: Path, weights: Path) -> None:
    model = ModelConfig(name="mobilenetv3_small_050", weights=str(weights))
    child = network_check._asked(model, 96)
    assert child == network_check.look_at(model, 96, Home(home))
    kept = (home / "networks.json").read_text()
    assert child == network_check.look_at(model, 96, Home(home)) and (home / "networks.json").read_text() == kept
    with pytest.raises(ConfigError, match="patches of 16 px would leave a border out"):
        network_check._asked(ModelConfig(name="vit_tiny_patch16_224"), 100)


def test_what_another_edition_refused_is_looked_at_anew(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ModelConfig(name="timm/resnet18")
    with monkeypatch.context() as older:
        older.setattr(network_check, "probe", lambda *_: require(False, "data.image_px", 32, "others"))
        older.setattr(network_check.code_version, "code_hash", lambda: "older")
        for ask in (network_check.look_at, network_check.known):
            with pytest.raises(ConfigError, match="allowed: others"):
                ask(model, 32, Home(home))
    assert network_check.known(model, 32, Home(home)) is None
    assert network_check.look_at(model, 32, Home(home)).image_px == 32


def test_no_answer_is_not_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ModelConfig(name="mobilenetv3_small_050")
    monkeypatch.setattr(network_check, "probe", network_check._asked)
    with monkeypatch.context() as hasty:
        hasty.setattr(network_check, "TIMEOUT_S", 0.01)
        with pytest.raises(ConfigError, match="took longer than 0 s; try again"):
            network_check.look_at(model, 64, Home(home))
    assert network_check.look_at(model, 64, Home(home)).image_px == 64


def test_a_recipes_own_network_is_not_looked_at(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("it costs seconds")

    monkeypatch.setattr(network_check, "look_at", never)
    assert isinstance(planned(home, "", "data.image_px=48").config, Config)


def test_a_step_s_memory_is_told_by_a_dry_run_and_where_a_card_has_less(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ("data.image_px=48", "train.batch_size=64")
    plan = planned(home, "", *small)
    assert "memory" not in " ".join(plan.notes), "nobody looked at the network yet"
    assert "# note: a step takes about " in dry_run(plan)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    (tool := tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 50\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    warned = planned(home, "", *small)
    assert "a GPU has 52 MB: --set train.accumulate=" in warned.notes[-1], "a warning, no refusal"
    assert dry_run(warned).count("a step takes") == 1
