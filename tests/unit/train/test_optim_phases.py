"""Optimisers that follow each other, frozen backbones, and runs on a part of the data."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fashion_dist.config import OptimConfig, Stage, TrainConfig
from fashion_dist.errors import ConfigError
from fashion_dist.models.backbone import build_network
from fashion_dist.models.heads import Head
from fashion_dist.paths import RunDir
from fashion_dist.tasks import ExampleSet, Monitor, deepfashion, load
from fashion_dist.train.checkpoint import Checkpoints
from fashion_dist.train.distributed import ProcessGroup, World
from fashion_dist.train.optim import optim_phase_at, plateau_scale
from fashion_dist.train.options import Callbacks, TrainerOptions
from fashion_dist.train.state import TrainState
from fashion_dist.train.trainer import Trainer
from shards import ShardSet

TWO = OptimConfig(stages=("sgd:0.005:10", "adam:0.001:12"), warmup_epochs=2)


def test_stages_begin_where_the_one_before_ends() -> None:
    phases = [optim_phase_at(TWO, 22, epoch) for epoch in range(22)]
    assert [phase.config.name for phase in phases] == ["sgd"] * 10 + ["adam"] * 12
    assert {(phase.first, phase.epochs, phase.config.lr) for phase in phases} == {(0, 10, 0.005), (10, 12, 0.001)}
    assert [phases[0].config.warmup_epochs, phases[-1].config.warmup_epochs] == [2, 0]
    whole = optim_phase_at(OptimConfig(name="adamw", lr=0.1), 22, 7)
    assert (whole.first, whole.epochs, whole.config.name) == (0, 22, "adamw")


@pytest.mark.parametrize("text", ["sgd:0.1", "sgd:0.1:0", "sgd:-1:3", "rprop:0.1:3", "sgd:nan:3", "sgd:0.1:x", ""])
def test_a_stage_that_cannot_be_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match=r"optim\.stages has .*allowed: NAME:LR:EPOCHS"):
        OptimConfig(stages=(text,))


def test_sections_that_do_not_fit_are_refused() -> None:
    base = deepfashion.RECIPE
    longer = base.override(["optim.stages=sgd:0.005:10,adam:0.001:12", "train.epochs=20"])
    with pytest.raises(ConfigError, match=r"stages of 20 epochs together, as train\.epochs says, not of 22"):
        longer.check()
    stages = longer.override(["train.epochs=22"]).check().optim.stages
    assert [(s.name, s.lr, s.epochs, s.weight_decay) for s in map(Stage.parse, stages)] == [
        ("sgd", 0.005, 10, 0.0005), ("adam", 0.001, 12, 0.0005),
    ]  # fmt: skip
    assert longer.override(["optim.stages="]).check().optim.stages == ()
    with pytest.raises(ConfigError, match="a frozen backbone would keep its random weights"):
        base.override(["model.freeze=backbone"]).check()
    base.override(["model.freeze=epochs:2", "model.weights=imagenet"]).check()


def test_debug_tries_every_stage_on_a_hundredth() -> None:
    config = dataclasses.replace(deepfashion.RECIPE, optim=TWO, train=TrainConfig(epochs=22)).debug().check()
    assert config.optim.stages == ("sgd:0.005:1", "adam:0.001:1")
    assert (config.train.epochs, config.train.fraction) == (2, 0.01)
    assert deepfashion.RECIPE.debug().check().train.epochs == 1


@settings(deadline=None)
@given(count=st.integers(1, 500), fraction=st.floats(0.001, 1), least=st.integers(1, 600), seed=st.integers(0, 3))
def test_a_sample_is_a_seeded_part_in_order(count: int, fraction: float, least: int, seed: int) -> None:
    examples = ExampleSet(np.arange(count)[:, None] * 2, {"label": np.arange(count) * 3})
    part = examples.sample(fraction, least, seed)
    rows = part.images[:, 0] // 2
    assert len(part) == min(count, max(least, round(fraction * count), 1))
    assert (np.diff(rows) > 0).all()
    assert np.array_equal(part.targets["label"], rows * 3)
    assert np.array_equal(part.images, examples.sample(fraction, least, seed).images)


def made_state(**model: str) -> TrainState:
    config = dataclasses.replace(deepfashion.RECIPE, optim=TWO, train=TrainConfig(epochs=22))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, name="mlp", args={}, **model))
    torch.manual_seed(0)
    network = build_network(config.model, {"category": Head(3)}, 8)
    return TrainState.create(network, config, torch.device("cpu"), torch.float32)


def step(made: TrainState) -> None:
    made.optimizer.zero_grad(set_to_none=True)
    made.model(torch.ones(8, 3, 8, 8).mul(torch.arange(8)[:, None, None, None]))["category"].square().mean().backward()
    made.optimizer.step()


def test_a_frozen_backbone_stands_still_until_it_joins() -> None:
    made = made_state(freeze="epochs:3")
    backbone = {k: v.clone() for k, v in made.model.state_dict().items() if k.startswith("backbone.")}
    head = made.model.state_dict()["heads.category.weight"].clone()
    for epoch in range(4):
        made.epoch = epoch
        made.prepare_epoch()
        step(made)
        same = {key: torch.equal(made.model.state_dict()[key], value) for key, value in backbone.items()}
        assert all(same.values()) == (epoch < 3)
    assert not torch.equal(made.model.state_dict()["heads.category.weight"], head)


def test_a_restored_state_has_the_stage_s_own_optimiser() -> None:
    made = made_state()
    for epoch in (0, 10):
        made.epoch = epoch
        made.prepare_epoch()
        step(made)
    assert isinstance(made.optimizer, torch.optim.Adam)
    again = made_state()
    again.load_state_dict(copy.deepcopy(made.state_dict()))
    assert isinstance(again.optimizer, torch.optim.Adam)
    for each in (made, again):
        each.epoch = 11
        each.prepare_epoch()
        step(each)
    theirs = again.model.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in made.model.state_dict().items())


def test_a_run_stopped_in_its_second_stage_ends_with_the_same_weights(packed_home: Path, tmp_path: Path) -> None:
    settings = [
        "optim.stages=sgd:0.02:1,adamw:0.002:2", "train.epochs=3", "train.batch_size=16", "train.eval_batch_size=16",
        "train.fraction=0.5", "data.image_px=32", "model.name=mlp",
    ]  # fmt: skip
    config = deepfashion.RECIPE.override(settings).check()
    shard_set = ShardSet.open(packed_home / "shards" / "deep_fashion")
    link, options = ProcessGroup(World(), torch.device("cpu")), TrainerOptions(wandb="off", predict=())

    def weights(name: str) -> dict[str, torch.Tensor]:
        found = Checkpoints(tmp_path / "runs" / name / "checkpoints").load("step")
        assert found is not None
        state: dict[str, torch.Tensor] = found[1]["model"]
        return state

    for name, stops in (("whole", ()), ("stopped", (5, 2))):
        run = RunDir(tmp_path / "runs" / name)
        run.path.mkdir(parents=True)
        for after in (*stops, 100):
            asked = iter(range(after))
            callbacks = Callbacks(should_stop=lambda: next(asked, None) is None)  # noqa: B023
            outcome = Trainer(config, load("deepfashion"), shard_set, link, run, options, callbacks).fit()
        assert outcome == "done"
    whole, stopped = weights("whole"), weights("stopped")
    assert all(torch.equal(value, stopped[key]) for key, value in whole.items())


@pytest.mark.parametrize(
    ("mode", "values", "best"), [("max", [1, 2, 2], [True, True, False]), ("min", [2, 1, 3], [True, True, False])]
)
def test_any_number_is_better_than_none(mode: Literal["max", "min"], values: list[float], best: list[bool]) -> None:
    made, monitor = made_state(), Monitor("x", mode)
    assert made.update_best({"x": math.nan}, monitor)  # there are weights to go on with
    assert not made.update_best({"x": math.nan}, monitor)
    assert [made.update_best({"x": value}, monitor) for value in values] == best
    assert not made.update_best({"x": math.nan}, monitor)


def test_frozen_statistics_stay_while_scale_and_shift_learn() -> None:
    made = made_state()
    made.config = made.config.override(["train.freeze_bn=true"])
    norm = torch.nn.BatchNorm1d(3)
    made.model.add_module("norm", norm)
    made.prepare_epoch()
    assert made.model.training and not norm.training
    assert all(parameter.requires_grad for parameter in norm.parameters())


def trained(home: Path, folder: Path, *settings: str) -> tuple[Trainer, list[dict[str, Any]]]:
    """A perceptron trained for three short epochs, and the lines of its metrics.jsonl."""
    small = ["train.batch_size=16", "train.eval_batch_size=16", "train.fraction=0.5", "data.image_px=32"]
    config = deepfashion.RECIPE.override([*small, "model.name=mlp", "train.epochs=3", *settings]).check()
    run = RunDir(folder / "runs" / "r")
    run.path.mkdir(parents=True)
    shard_set, link = ShardSet.open(home / "shards" / "deep_fashion"), ProcessGroup(World(), torch.device("cpu"))
    trainer = Trainer(config, load("deepfashion"), shard_set, link, run, TrainerOptions(wandb="off", predict=()))
    assert trainer.fit() == "done"
    return trainer, [json.loads(line) for line in run.metrics.read_text().splitlines()]


def test_a_time_limit_ends_a_run_with_an_evaluation(packed_home: Path, tmp_path: Path) -> None:
    trainer, lines = trained(packed_home, tmp_path, "train.max_time_min=1e-5")
    assert [line["split"] for line in lines if line["split"] != "system"] == ["train", "val"]
    assert trainer.state.global_step == 1 and trainer.state.best["epoch"] == 1
    found = Checkpoints(trainer.run.checkpoints).load("step")
    assert found is not None and found[1]["trained_s"] > 0


def test_a_plateau_lowers_the_rate_and_the_last_weights_are_kept(packed_home: Path, tmp_path: Path) -> None:
    trainer, lines = trained(
        packed_home, tmp_path, "optim.schedule=plateau", "optim.plateau_patience=0", "optim.plateau_factor=0.5",
        "train.monitor=accuracy", "optim.lr=1e-9", "optim.warmup_epochs=0", "train.predict_with=last",
    )  # fmt: skip
    measured = [line["accuracy"] for line in lines if line["split"] == "val"]
    assert trainer.state.goodness == pytest.approx(measured)
    rates = {int(line["epoch"] - 1e-6): line["lr"] for line in lines if line["split"] == "train"}
    assert rates == {epoch: 1e-9 * plateau_scale(measured[:epoch], 0, 0.5) for epoch in range(3)}
    assert rates[2] == 0.5e-9, "nothing was learned"
    saved, best = Checkpoints(trainer.run.checkpoints), trainer.state.best
    found, last = saved.load("best"), saved.load("step")
    assert found is not None and last is not None and best["epoch"] == found[0].facts["epoch"] == 3
    average = {key.removeprefix("module."): value for key, value in last[1]["ema"].items() if key != "n_averaged"}
    assert all(torch.equal(value, average[key]) for key, value in found[1]["model"].items())
