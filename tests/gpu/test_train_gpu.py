"""The training step on a CUDA device: its types, its loss beside the CPU's, and a host that waits for nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from bench._open import open_trainer

from fashion_dist.config import Config
from fashion_dist.data.options import LoaderOptions
from fashion_dist.paths import Home, RunDir
from fashion_dist.tasks import deepfashion, load
from fashion_dist.train.distributed import ProcessGroup, World
from fashion_dist.train.options import TrainerOptions
from fashion_dist.train.split_loader import SplitLoader
from fashion_dist.train.trainer import Trainer
from shards import ShardSet

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
SETTINGS = (
    "data.image_px=64", "train.batch_size=16", "train.eval_batch_size=16", "train.epochs=2",
    "optim.warmup_epochs=0",
)  # fmt: skip
PLAIN = ("train.mixup=0", "train.cutmix=0", "model.hue_jitter_prob=0", "train.ema=0")
BUSY_CYCLES = 8_000_000_000
"""Some seconds of any GPU."""

Open = Callable[..., tuple[Trainer, SplitLoader]]


def config_of(*settings: str) -> Config:
    return deepfashion.RECIPE.override([*SETTINGS, *settings]).check()


@pytest.fixture
def opened(packed_home: Path, tmp_path: Path) -> Iterator[Open]:
    """Opens trainers with the loader of their training split."""
    made: list[tuple[Trainer, SplitLoader]] = []

    def make(device: torch.device, *settings: str, cache: str = "gpu") -> tuple[Trainer, SplitLoader]:
        options = TrainerOptions(LoaderOptions(cache=cache), wandb="off")  # type: ignore[arg-type]
        folder = tmp_path / "runs" / str(len(made))
        trainer = open_trainer(config_of(*settings), Home.find(str(packed_home)), folder, options, device)
        made.append((trainer, trainer.split_loader("train")))
        return made[-1]

    yield make
    for trainer, loader in made:
        loader.loader.close()
        trainer.close()


def test_a_gpu_computes_in_bf16_with_fused_kernels(opened: Open) -> None:
    trainer, loader = opened(CUDA)
    assert trainer.dtype == torch.bfloat16
    assert trainer.state.optimizer.defaults["fused"] is True
    batch = next(iter(loader.loader.epoch(0)))
    assert batch.images.dtype == torch.bfloat16 and batch.images.is_cuda
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    seen: list[torch.dtype] = []
    trainer.state.model.register_forward_hook(lambda _module, _given, out: seen.append(out["category"].dtype))
    terms = trainer.train_step(loader, [batch])
    assert seen == [torch.bfloat16]
    assert all(value.is_cuda and bool(value.isfinite()) for value in terms.values())
    assert all(p.dtype == torch.float32 for p in trainer.state.model.parameters())


@pytest.mark.parametrize("settings", [(), ("train.ema=0",), ("train.accumulate=2",), ("optim.clip_norm=1",)])
@pytest.mark.parametrize("cache", ["none", "gpu"])
def test_a_step_never_waits_for_the_gpu(opened: Open, settings: tuple[str, ...], cache: str) -> None:
    trainer, loader = opened(CUDA, *settings, cache=cache)
    micro = trainer.config.train.accumulate

    def steps(epoch: int) -> None:
        batches = loader.loader.epoch(epoch)
        for _ in range(loader.loader.steps):
            trainer.train_step(loader, [next(batches) for _ in range(micro)])
            trainer.state.global_step += 1

    steps(0)  # fills the cache, chooses kernels, makes the optimiser's state
    torch.cuda.set_sync_debug_mode("error")
    try:
        steps(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.state.global_step == 2 * loader.loader.steps > 0


@pytest.mark.parametrize("cache", ["none", "gpu"])
def test_the_next_batch_comes_while_the_gpu_is_busy(opened: Open, cache: str) -> None:
    # A small network: the driver holds a thousand kernels, and who adds one more waits.
    trainer, loader = opened(CUDA, "model.name=mlp", cache=cache)
    for _ in loader.loader.epoch(0):
        pass
    batches = loader.loader.epoch(1)
    trainer.train_step(loader, [next(batches)])
    torch.cuda.synchronize()
    torch.cuda._sleep(BUSY_CYCLES)
    done = torch.cuda.Event()
    done.record()
    trainer.train_step(loader, [next(batches)])
    assert not done.query(), "the host waited for the GPU"
    torch.cuda.synchronize()
    assert done.query()


@pytest.mark.parametrize(("precision", "near"), [("fp32", 2e-3), ("bf16", 5e-2)])
def test_the_loss_is_the_cpu_s(opened: Open, precision: str, near: float) -> None:
    settings = (*PLAIN, f"train.precision={precision}")
    trainer, loader = opened(CPU, *settings, cache="ram")
    seen = next(iter(loader.loader.epoch(0)))
    found = [trainer.train_step(loader, [seen])]
    trainer, loader = opened(CUDA, *settings)
    # The CPU's own pixels: those of another decoder and another resizer differ.
    images = seen.images.to(CUDA).contiguous(memory_format=torch.channels_last)
    found.append(trainer.train_step(loader, [dataclasses.replace(seen, images=images)]))
    (cpu_loss, cpu_norm), (loss, norm) = ([float(terms[name]) for name in ("loss", "gradient_norm")] for terms in found)
    assert loss == pytest.approx(cpu_loss, rel=near)
    assert norm == pytest.approx(cpu_norm, rel=20 * near)


@pytest.mark.parametrize("settings", [(), ("train.precision=fp16",), ("model.name=mlp", "train.ema=0.9")])
def test_a_run_goes_to_its_end(packed_home: Path, tmp_path: Path, settings: tuple[str, ...]) -> None:
    folder = RunDir(tmp_path / "runs" / "whole")
    folder.path.mkdir(parents=True)
    shard_set = ShardSet.open(packed_home / "shards" / "deep_fashion")
    options = TrainerOptions(LoaderOptions(cache="auto"), wandb="off")
    outcome = Trainer(
        config_of(*settings), load("deepfashion"), shard_set, ProcessGroup(World(), CUDA), folder, options
    ).fit()
    assert outcome == "done"
    assert [path.name for path in folder.predictions("test").iterdir()] == ["rank_0.parquet"]
