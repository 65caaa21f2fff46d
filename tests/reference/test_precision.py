"""fp32, bf16, fp16: what an overflow does to weights, statistics, averages, schedule and run; clipping and EMA."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fashion_dist.errors import RunError
from fashion_dist.paths import RunDir
from fashion_dist.tasks import load
from fashion_dist.tasks.deepfashion import RECIPE
from fashion_dist.tracking.metrics_log import read_metrics
from fashion_dist.train.distributed import ProcessGroup, World
from fashion_dist.train.options import TrainerOptions
from fashion_dist.train.split_loader import SplitLoader
from fashion_dist.train.state import compute_dtype
from fashion_dist.train.trainer import Trainer
from shards import ShardSet

SMALL = (
    "data.image_px=32",
    "train.batch_size=16",
    "train.epochs=2",
    "train.mixup=0",
    "train.cutmix=0",
    "train.ema=0.9",
)
PRECISIONS = ("fp32", "bf16", "fp16")


@contextmanager
def training(packed_home: Path, folder: Path, *settings: str) -> Iterator[tuple[Trainer, SplitLoader]]:
    """A trainer and the loader of its training split, ready for the first step."""
    config = RECIPE.override([*SMALL, *settings])
    dist, shard_set = ProcessGroup(World(), torch.device("cpu")), ShardSet.open(packed_home / "shards" / "deep_fashion")
    folder.mkdir(exist_ok=True)
    options = TrainerOptions(wandb="off", predict=())
    with (
        Trainer(config, load("deepfashion"), shard_set, dist, RunDir(folder), options) as trainer,
        trainer.split_loader("train") as train,
    ):
        trainer._begin_epoch(train)
        yield trainer, train


def state_of(module: nn.Module) -> list[Tensor]:
    return [value.clone() for value in module.state_dict().values()]


def step(trainer: Trainer, train: SplitLoader, spoil: Callable[[Tensor], Tensor] = lambda x: x) -> dict[str, Tensor]:
    batch = next(trainer_batches(trainer, train))
    terms = trainer.train_step(train, [dataclasses.replace(batch, images=spoil(batch.images))])
    trainer.state.global_step += 1
    trainer.state.step_in_epoch += 1
    return terms


def trainer_batches(trainer: Trainer, train: SplitLoader) -> Iterator:  # type: ignore[type-arg]
    return train.loader.epoch(trainer.state.epoch, trainer.state.step_in_epoch)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_loss_that_is_not_finite_ends_the_run_in_every_precision(
    precision: str, packed_home: Path, tmp_path: Path
) -> None:
    with training(packed_home, tmp_path / "r", f"train.precision={precision}") as (trainer, train):
        trainer.state.scaler._init_scale = 1024.0
        step(trainer, train)
        with pytest.raises(RunError, match="the gradient is not finite at epoch 0, step 1"):
            step(trainer, train, lambda images: images * torch.inf)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_skipped_step_leaves_no_trace(precision: str, packed_home: Path, tmp_path: Path) -> None:
    """Weights, BatchNorm's statistics, the average of both, the learning rate and the optimizer's count."""
    settings = (f"train.precision={precision}", "train.on_nonfinite=skip", "optim.warmup_epochs=1")
    with training(packed_home, tmp_path / "r", *settings) as (trainer, train):
        state = trainer.state
        assert state.ema is not None
        state.scaler._init_scale = 1024.0
        step(trainer, train)
        before = [*state_of(state.model), *state_of(state.ema)]
        assert trainer.state.learning_rate(train.steps) == pytest.approx(RECIPE.optim.lr * 2 / train.steps)
        terms = step(trainer, train, lambda images: images * torch.inf)
        assert not terms["loss"].isfinite()
        after = [*state_of(state.model), *state_of(state.ema)]
        assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(before, after, strict=True))
        assert trainer.state.learning_rate(train.steps) == pytest.approx(RECIPE.optim.lr * 2 / train.steps)
        assert {int(each["step"]) for each in state.optimizer.state.values()} == {1}
        assert state.skipped == {"run": 1, "phase": 1, "epoch": 1} and int(state.ema.n_averaged) == 1
        step(trainer, train)
        assert not all(torch.equal(a, b) for a, b in zip(before, state_of(state.model), strict=False))
        assert state.state_dict()["skipped"]["run"] == 1


def test_a_gradient_that_fp16_scaled_too_high_is_no_failure(packed_home: Path, tmp_path: Path) -> None:
    with training(packed_home, tmp_path / "r", "train.precision=fp16") as (trainer, train):
        trainer.state.scaler._init_scale = 2.0**24
        terms = step(trainer, train)
        assert terms["loss"].isfinite() and not terms["gradient_norm"].isfinite()
        assert trainer.state.skipped["run"] == 1 and trainer.state.scaler.get_scale() == 2.0**23


def test_a_run_whose_steps_were_all_skipped_has_failed(packed_home: Path, tmp_path: Path) -> None:
    with training(packed_home, tmp_path / "r", "train.precision=fp16", "train.on_nonfinite=skip") as (trainer, train):
        for parameter in trainer.state.model.parameters():
            torch.nn.init.constant_(parameter, 1e30)
        with pytest.raises(RunError, match=f"all {train.steps} steps of epoch 1 were skipped"):
            trainer.train_epoch(train)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_clipping_and_the_average_are_pytorchs(precision: str, packed_home: Path, tmp_path: Path) -> None:
    """The norm after unscaling; the average by hand, min(decay, (1 + n) / (10 + n)), the first copies."""
    settings = (f"train.precision={precision}", "optim.clip_norm=0.5")
    with training(packed_home, tmp_path / "r", *settings) as (trainer, train):
        state = trainer.state
        state.scaler._init_scale = 1024.0
        expected: list[Tensor] = []
        for n in range(3):
            norm = step(trainer, train)["gradient_norm"]
            gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
            clipped = float(torch.nn.utils.get_total_norm(gradients))
            assert float(norm) > 0.5 and clipped == pytest.approx(0.5, rel=1e-4)
            values = [value.clone() for value in state.model.parameters()]
            share = 1.0 if n == 0 else 1 - min(0.9, (1 + n) / (10 + n))
            expected = [old + share * (new - old) for old, new in zip(expected or values, values, strict=True)]
        for average, value in zip(state.evaluated_model().parameters(), expected, strict=True):
            torch.testing.assert_close(average, value, rtol=1e-5, atol=1e-7)


def test_what_is_logged_is_the_mean_of_the_steps_that_have_it(packed_home: Path, tmp_path: Path) -> None:
    """Mixed images have no loss of attributes, which is no loss of 0."""
    settings = ("train.precision=fp32", "train.mixup=0.4", "train.mix_prob=0.5")
    with training(packed_home, tmp_path / "r", *settings) as (trainer, train):
        trainer.logger.open(trainer.config, 0)
        window = [step(trainer, train) for _ in range(train.steps)]
        trainer.logger.log_window(window, trainer.state, 1.0, 0.0)
        (line,) = [point for point in read_metrics(RunDir(tmp_path / "r").metrics) if point["split"] == "train"]
    for name in ("attribute_loss", "category_loss", "gradient_norm"):
        values = torch.stack([terms[name].double() for terms in window])
        assert line[name] == pytest.approx(float(values.nanmean()), rel=1e-5), name
    missing = sum(bool(terms["attribute_loss"].isnan()) for terms in window)
    assert 0 < missing < len(window)


def test_a_batch_of_which_nothing_is_known_has_no_loss(packed_home: Path, tmp_path: Path) -> None:
    with training(packed_home, tmp_path / "r", "train.precision=fp32") as (trainer, train):
        trainer.logger.open(trainer.config, 0)
        window = [step(trainer, train)]
        train.targets = {name: torch.full_like(values, -1) for name, values in train.targets.items()}
        window.append(step(trainer, train))
        trainer.logger.log_window(window, trainer.state, 1.0, 0.0)
        (line,) = [point for point in read_metrics(RunDir(tmp_path / "r").metrics) if point["split"] == "train"]
        window[1]["gradient_norm"] = torch.tensor(1.0)
        with pytest.raises(RunError, match="the gradient is not finite"):
            trainer.logger.log_window(window, trainer.state, 1.0, 0.0)
    assert line["loss"] == pytest.approx(float(window[0]["loss"])) and bool(window[1]["loss"].isnan())


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_card_that_only_emulates_bf16_computes_in_fp16(
    native: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's answer on Turing and Volta, by default and without emulation."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert compute_dtype("auto", torch.device("cuda")) == dtype


@pytest.mark.parametrize("seed", [0, 1700000000, 2**63 - 1])
def test_any_seed_trains(seed: int, packed_home: Path, tmp_path: Path) -> None:
    settings = (f"train.seed={seed}", "train.mixup=0.4", "train.fraction=0.5")
    with training(packed_home, tmp_path / "r", *settings) as (trainer, train):
        assert step(trainer, train)["loss"].isfinite() and trainer.state.skipped["run"] == 0
