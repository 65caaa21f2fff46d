"""The loss and its gradient on ranks x accumulated micro-batches, with labels missing, against a plain PyTorch loop."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fashion_dist.config import Config
from fashion_dist.paths import RunDir
from fashion_dist.tasks import Arrays
from fashion_dist.tasks.common.base import sum_of
from fashion_dist.tasks.deepfashion import DeepFashion
from fashion_dist.train.distributed import ProcessGroup, World, init_process_group
from fashion_dist.train.mixup import mix_batch
from fashion_dist.train.options import TrainerOptions
from fashion_dist.train.trainer import Trainer, build_model
from shards import ShardSet

BATCH = 32
ACCUMULATE = {1: (1, 4, 16), 2: (1, 2, 4)}
"""By number of ranks."""
SETTINGS = (
    "data.image_px=32", f"train.batch_size={BATCH}", "model.norm=group", "model.hue_jitter_prob=0", "train.ema=0",
)  # fmt: skip
KINDS: dict[str, tuple[str, ...]] = {
    "plain": ("train.mixup=0", "train.cutmix=0"),
    "uncertainty": ("train.mixup=0", "train.cutmix=0", "task.weighting=uncertainty"),
    "mixed": ("train.mix_prob=0.9999999", "train.cutmix=0"),
    "batchnorm": ("train.mixup=0", "train.cutmix=0", "model.norm=batch"),
}
CASES = [(kind, "fp32") for kind in KINDS] + [("plain", "bf16"), ("plain", "fp16")]
TOLERANCE = {"fp32": 1e-6, "bf16": 2e-2, "fp16": 3e-3}
"""Of a gradient, relative: sums of products with 24, 8 and 11 bits."""


def counts_of(kind: str, precision: str, ranks: int) -> tuple[int, ...]:
    """How many micro-batches are tried: 1x1, 1x4, 2x1 and 2x2 in half precision."""
    if kind == "batchnorm":
        return (2,) if ranks == 1 else (1,)
    return ACCUMULATE[ranks] if precision == "fp32" else ACCUMULATE[ranks][:2]


def settings_of(kind: str, precision: str) -> list[str]:
    return [*SETTINGS, *KINDS[kind], f"train.precision={precision}"]


class Sparse(DeepFashion):
    """With 74 % of the attributes unknown, in whole images and one by one, and some categories."""

    def targets(self, columns: Arrays, config: Config) -> Arrays:
        found = {name: values.copy() for name, values in super().targets(columns, config).items()}
        draw = np.random.default_rng(5)
        count, width = found["attributes"].shape
        found["attributes"][(draw.random((count, 1)) < 0.6) | (draw.random((count, width)) < 0.35)] = -1
        found["category"][draw.random(count) < 0.2] = -1
        return found


def one_step(dist: ProcessGroup, home: Path, kind: str, precision: str, accumulate: int) -> dict[str, Any]:
    """The gradient, and the logged terms added over the ranks, of the trainer's first step."""
    config = Sparse().recipe.override([*settings_of(kind, precision), f"train.accumulate={accumulate}"])
    run = RunDir(home / f"{kind}-{precision}-{dist.world.world_size}-{accumulate}-{dist.world.rank}")
    run.path.mkdir()
    shard_set = ShardSet.open(home / "set")
    with (
        Trainer(config, Sparse(), shard_set, dist, run, TrainerOptions(wandb="off")) as trainer,
        trainer.split_loader("train") as train,
    ):
        trainer.state.scaler._init_scale = 1024.0  # of 65,536 the first steps of fp16 would overflow
        trainer._begin_epoch(train)
        batches = train.loader.epoch(0)
        micro = [next(batches) for _ in range(accumulate)]
        terms = trainer.train_step(train, micro)
        norm = terms.pop("gradient_norm")
        gradient = torch.cat([p.grad.flatten() for p in trainer.state.model.parameters() if p.grad is not None])
        seen = {"images": micro[0].images.clone(), **train.targets_of(micro[0])} if accumulate == 1 else {}
        made = {"gradient": gradient.clone(), "norm": norm, "seen": seen, "steps": train.steps}
        return {**made, **dist.all_reduce_sum(terms)}


def plain_step(home: Path, kind: str, precision: str, seen: Mapping[str, Tensor]) -> dict[str, Any]:
    """The same of one batch by PyTorch's own means."""
    config = Sparse().recipe.override(settings_of(kind, precision))
    model = build_model(config, ShardSet.open(home / "set"), home).train()
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    mixed = mix_batch(seen["images"], config.train, 0)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    with torch.autocast("cpu", dtype=dtype, enabled=precision != "fp32"):
        outputs = {name: value.float() for name, value in model(mixed.images).items()}

    def category(labels: Tensor) -> Tensor:
        smoothing = config.train.label_smoothing
        return F.cross_entropy(outputs["category"], labels, ignore_index=-1, label_smoothing=smoothing, reduction="sum")

    known = seen["attributes"] >= 0
    terms = {"category_loss": category(seen["category"])}
    if kind == "mixed":
        assert mixed.partner is not None
        other = category(seen["category"][mixed.partner])
        terms["category_loss"] = mixed.share * terms["category_loss"] + (1 - mixed.share) * other
    else:
        terms["attribute_loss"] = F.binary_cross_entropy_with_logits(
            outputs["attributes"][known], seen["attributes"][known].float()
        )
    terms["category_loss"] = terms["category_loss"] / (seen["category"] >= 0).sum()
    scales = {"category_loss": 1.0, "attribute_loss": 15.0 if kind != "uncertainty" else 1.0}
    loss = sum_of({name: scales[name] * value for name, value in terms.items()})
    if kind == "uncertainty":  # exp(-s) loss + s / 2 at s = 0
        variances = dict(model.named_parameters())
        s = {"category_loss": "log_variances.category", "attribute_loss": "log_variances.attributes"}
        loss = sum_of({n: torch.exp(-variances[s[n]][0]) * v + variances[s[n]][0] / 2 for n, v in terms.items()})
    loss.backward()
    gradient = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in model.parameters()])
    return {"gradient": gradient, "loss": loss.detach(), **{name: value.detach() for name, value in terms.items()}}


def measure(dist: ProcessGroup, home: Path) -> None:
    torch.set_num_threads(1)
    for kind, precision in CASES:
        for accumulate in counts_of(kind, precision, dist.world.world_size):
            made = one_step(dist, home, kind, precision, accumulate)
            if dist.world.is_main:
                torch.save(made, home / f"{kind}-{precision}-{dist.world.world_size}x{accumulate}.pt")


def _rank(rank: int, home: Path) -> None:
    with init_process_group(World(rank, 2, rank, 2), home / "rendezvous") as dist:
        measure(dist, home)


@pytest.fixture(scope="module")
def measured(packed_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("losses")
    (home / "set").symlink_to(packed_home / "shards" / "deep_fashion")
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=_rank, args=(rank, home)) for rank in range(2)]
    for process in ranks:
        process.start()
    measure(ProcessGroup(World(), torch.device("cpu")), home)
    for process in ranks:
        process.join(240)
        assert process.exitcode == 0
    return home


@pytest.mark.parametrize(("kind", "precision"), [case for case in CASES if case[0] != "batchnorm"])
def test_ranks_and_accumulation_give_the_plain_loops_loss_and_gradient(
    kind: str, precision: str, measured: Path
) -> None:
    whole = torch.load(measured / f"{kind}-{precision}-1x1.pt")
    torch.set_num_threads(1)
    plain = plain_step(measured, kind, precision, whole["seen"])
    known = float((whole["seen"]["attributes"] >= 0).double().mean())
    assert 0.2 < known < 0.32
    most = TOLERANCE[precision]
    for ranks in ACCUMULATE:
        for accumulate in counts_of(kind, precision, ranks):
            found = torch.load(measured / f"{kind}-{precision}-{ranks}x{accumulate}.pt")
            case = f"{ranks} ranks x {accumulate}"
            away = (found["gradient"] - plain["gradient"]).norm() / plain["gradient"].norm()
            assert float(away) < most, f"{case}: gradient by {float(away):.1e}"
            assert float(found["norm"]) == pytest.approx(float(plain["gradient"].double().norm()), rel=10 * most), case
            for name in plain.keys() - {"gradient"}:
                assert float(found[name]) == pytest.approx(float(plain[name]), rel=most), f"{case}: {name}"
            # What no example of a batch has is logged as absent, not as 0.
            assert (kind == "mixed") == bool(torch.isnan(found["attribute_loss"])), case
            # Steps, by which learning rates go, are the optimizer's.
            assert found["steps"] == whole["steps"], case


def test_normalisation_over_two_micro_batches_is_that_over_two_ranks(measured: Path) -> None:
    alone, ranks = (torch.load(measured / f"batchnorm-fp32-{case}.pt") for case in ("1x2", "2x1"))
    away = (alone["gradient"] - ranks["gradient"]).norm() / ranks["gradient"].norm()
    assert float(away) < 1e-6 and float(alone["loss"]) == pytest.approx(float(ranks["loss"]), rel=1e-6)
