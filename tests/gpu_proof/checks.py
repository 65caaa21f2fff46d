"""What has to hold on a GPU, each as a function that raises: run by `make gpu-proof` and by pytest (tests/gpu)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from fashion_dist.config import DataConfig
from fashion_dist.data import Loader, LoaderOptions
from fashion_dist.train.split_loader import SplitLoader
from fashion_dist.train.trainer import Trainer, choose_kernels
from gpu_proof.ground import Ground

DATA = DataConfig(image_px=64, rotate=20, shear=5, brightness=0.2, saturation=0.2, hue=10, erase=0.2)
SMALL = (
    "data.image_px=64", "train.batch_size=16", "train.eval_batch_size=16", "train.epochs=2",
    "optim.warmup_epochs=0", "train.fraction=0.01",
)  # fmt: skip
PLAIN = ("train.mixup=0", "train.cutmix=0", "model.hue_jitter_prob=0", "train.ema=0")
BUSY_CYCLES = 4_000_000_000
"""Some seconds of any GPU."""


class Check(NamedTuple):
    """One of `CHECKS`; `rehearsed` ones mean something on a CPU, too."""

    run: Callable[[Ground], None]
    rehearsed: bool


@contextmanager
def opened(ground: Ground, *settings: str, cache: str = "none", on: str = "") -> Iterator[tuple[Trainer, SplitLoader]]:
    """A trainer of the task with most parts, and its loader; `on` another device than the ground's."""
    small = ("data.image_px=32", "train.epochs=1", "train.batch_size=8", "train.fraction=1") if ground.small else ()
    name = f"check-{len(list(ground.folder.glob('runs/check-*')))}"
    device = torch.device(on) if on else None
    trainer, loader = ground.open(name, (*SMALL, *small, *settings), task="deepfashion", cache=cache, device=device)
    try:
        yield trainer, loader
    finally:
        loader.loader.close()
        trainer.close()


def epochs(
    ground: Ground, device: torch.device, cache: str = "none", dtype: torch.dtype = torch.float32,
    data: DataConfig = DATA, decode: str = "gpu-whole",
) -> list[torch.Tensor]:  # fmt: skip
    """The batches of two epochs, on the CPU as float32."""
    split = ground.set_of().split("val")
    options = LoaderOptions(cache=cache, decode=decode)  # type: ignore[arg-type]
    with Loader(
        split, np.arange(len(split))[:, None], data, batch_size=len(split) // 2, training=True, device=device,
        dtype=dtype, options=options,
    ) as loader:  # fmt: skip
        batches = [batch for epoch in range(2) for batch in loader.epoch(epoch)]
    assert all(batch.images.device.type == device.type for batch in batches), "a batch is on another device"
    assert all(batch.images.is_contiguous(memory_format=torch.channels_last) for batch in batches), "not channels_last"
    return [batch.images.float().cpu() for batch in batches]


def shows_what_the_cpu_shows(ground: Ground, cache: str) -> None:
    """By any cache; what a cache keeps are the CPU's pixels."""
    expected = epochs(ground, torch.device("cpu"))
    found = epochs(ground, ground.device, cache, decode=ground.ways[0])
    for mine, reference in zip(found, expected, strict=True):
        mean = float((mine - reference).abs().mean())
        assert mean < 0.05, f"mean difference {mean:.3f} of normalised values"


def rounds_half_precision(ground: Ground) -> None:
    """Batches in bf16 are those in float32, rounded."""
    halves, wholes = (epochs(ground, ground.device, dtype=dtype) for dtype in (torch.bfloat16, torch.float32))
    for half, whole in zip(halves, wholes, strict=True):
        assert torch.equal(half, whole.bfloat16().float()), "not the same pixels"


def computes_in_bf16(ground: Ground) -> None:
    """In autocast, with fused optimizer kernels, in channels_last, with float32 parameters."""
    with opened(ground) as (trainer, loader):
        if torch.cuda.get_device_capability(ground.device) >= (8, 0):
            assert trainer.dtype == torch.bfloat16, trainer.dtype
        assert trainer.state.optimizer.defaults["fused"] is True, "the optimizer is not fused"
        batch = next(iter(loader.loader.epoch(0)))
        seen: list[torch.dtype] = []
        trainer.state.model.register_forward_hook(lambda _module, _given, out: seen.append(out["category"].dtype))
        terms = trainer.train_step(loader, [batch])
        assert seen == [trainer.dtype], seen
        assert all(value.device.type == "cuda" and bool(value.isfinite().all()) for value in terms.values()), terms
        assert all(p.dtype == torch.float32 for p in trainer.state.model.parameters()), "parameters are not float32"


def never_waits_in_a_step(ground: Ground, settings: tuple[str, ...], cache: str) -> None:
    """Torch's own debug mode refuses every wait of the host in an epoch of steps."""
    with opened(ground, *settings, cache=cache) as (trainer, loader):
        micro = trainer.config.train.accumulate

        def steps(epoch: int) -> None:
            batches = loader.loader.epoch(epoch)
            for _ in range(loader.loader.steps):
                trainer.train_step(loader, [next(batches) for _ in range(micro)])
                trainer.state.global_step += 1

        trainer._begin_epoch(loader)
        steps(0)  # fills the cache, chooses kernels, makes the optimizer's state
        torch.cuda.set_sync_debug_mode("error")
        try:
            steps(1)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def loads_while_the_gpu_is_busy(ground: Ground, cache: str) -> None:
    """The next batch and its step are queued behind seconds of work."""
    # A small network: the driver holds a thousand kernels, and who adds one more waits.
    with opened(ground, "model.name=mlp", cache=cache) as (trainer, loader):
        for _ in loader.loader.epoch(0):
            pass
        batches = loader.loader.epoch(1)
        trainer.train_step(loader, [next(batches)])
        torch.cuda.synchronize()
        torch.cuda._sleep(BUSY_CYCLES)  # type: ignore[no-untyped-call]
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()
        trainer.train_step(loader, [next(batches)])
        assert not done.query(), "the host waited for the GPU"  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()


def saves_behind_the_step(ground: Ground) -> None:
    """A checkpoint is saved without a wait of the host, while the GPU is busy, and is that of its step."""
    with opened(ground) as (trainer, loader):
        batches = loader.loader.epoch(0)
        trainer.train_step(loader, [next(batches)])
        trainer.state.global_step += 1
        trainer.save_checkpoint()  # the memory that the next one takes again
        trainer.checkpoints.wait()
        trainer.train_step(loader, [next(batches)])
        trainer.state.global_step += 1
        before = [parameter.detach().clone() for parameter in trainer.state.model.parameters()]
        if ground.on_gpu:
            torch.cuda.synchronize()
            torch.cuda._sleep(BUSY_CYCLES)  # type: ignore[no-untyped-call]
            torch.cuda.set_sync_debug_mode("error")
        try:
            trainer.save_checkpoint()
            trainer.train_step(loader, [next(batches)])
        finally:
            if ground.on_gpu:
                torch.cuda.set_sync_debug_mode("default")
        trainer.checkpoints.wait()
        assert not all(map(torch.equal, before, trainer.state.model.parameters())), "a step changes nothing"
        trainer.restore_checkpoint()
        assert all(map(torch.equal, before, trainer.state.model.parameters())), "not the weights that were saved"


def has_the_cpus_loss(ground: Ground, precision: str, near: float) -> None:
    """Of the same pixels and weights: loss and gradient's norm."""
    found = []
    settings = (*PLAIN, f"train.precision={precision}")
    with opened(ground, *settings, on="cpu") as (trainer, loader):
        seen = next(iter(loader.loader.epoch(0)))
        found.append(trainer.train_step(loader, [seen]))
    with opened(ground, *settings) as (trainer, loader):
        images = seen.images.to(ground.device).contiguous(memory_format=torch.channels_last)
        found.append(trainer.train_step(loader, [dataclasses.replace(seen, images=images)]))
    for name, allowed in (("loss", near), ("gradient_norm", 20 * near)):
        expected, mine = (float(terms[name]) for terms in found)
        assert abs(mine - expected) <= allowed * abs(expected), f"{name} {mine} beside the CPU's {expected}"


def repeats_bit_by_bit(ground: Ground) -> None:
    """Two runs with `train.deterministic` have the same weights after an epoch."""
    found = []
    for _ in range(2):
        with opened(ground, "train.deterministic=true") as (trainer, loader):
            trainer.train_epoch(loader)
            found.append([parameter.detach().cpu() for parameter in trainer.state.model.parameters()])
    choose_kernels(False)
    assert all(map(torch.equal, *found)), "the weights differ"


def replays_the_same_steps(ground: Ground) -> None:
    """As CUDA graphs, steps have the losses that they have without, and the same bits each time."""
    losses, weights = [], []
    for graph in ("false", "true", "true"):
        settings = ("train.precision=fp32", "train.deterministic=true", f"train.cuda_graph={graph}")
        with opened(ground, *settings) as (trainer, loader):
            trainer._begin_epoch(loader)
            batches, terms = loader.loader.epoch(0), []
            for _ in range(4):
                terms.append(trainer.train_step(loader, [next(batches)])["loss"])
                trainer.state.global_step += 1
            losses.append(torch.stack(terms).cpu())
            weights.append([value.detach().cpu() for value in trainer.state.model.state_dict().values()])
    choose_kernels(False)
    assert all(map(torch.equal, *weights[1:])), "two runs have other bits"
    apart = ((losses[0] - losses[1]) / losses[0]).abs().tolist()
    assert apart[0] < 1e-3 and max(apart) < 2e-2, f"losses {losses[1].tolist()} beside {losses[0].tolist()} without"


def trains_to_its_end(ground: Ground, settings: tuple[str, ...]) -> None:
    """Epochs with evaluation and checkpoints, whose last one is taken up again."""
    with opened(ground, "train.ema=0.9", *settings, cache="auto") as (trainer, loader):
        with trainer.split_loader("val") as val:
            assert trainer._fit_epochs(loader, val) == "done"
        trainer.checkpoints.wait()
        before = trainer.state.state_dict()
        trainer.restore_checkpoint()
        assert trainer.state.global_step == before["global_step"] > 0, "another step than it was saved at"


def predicts(ground: Ground) -> None:
    """Every example of a split has finite predictions."""
    with opened(ground) as (trainer, _), trainer.split_loader("test") as test:
        rows = list(trainer.iter_predictions(test))
        assert sum(len(row["index"]) for row in rows) == len(test.examples), "an example is missing or repeated"
        floats = [value for row in rows for value in row.values() if value.dtype.kind == "f"]
        assert floats and all(np.isfinite(value).all() for value in floats), "predictions are no numbers"


CHECKS: dict[str, Check] = {
    **{f"pixels, cache {cache}": Check(partial(shows_what_the_cpu_shows, cache=cache), cache != "gpu")
       for cache in ("none", "ram", "gpu", "auto")},
    "pixels in half precision": Check(rounds_half_precision, True),
    "a step in bf16": Check(computes_in_bf16, False),
    **{f"no wait in a step, cache {cache}, {' '.join(settings) or 'recipe'}":
       Check(partial(never_waits_in_a_step, settings=settings, cache=cache), False)
       for cache in ("none", "gpu")
       for settings in ((), ("train.accumulate=2", "optim.clip_norm=1"), ("train.cuda_graph=true",))},
    **{f"loading while busy, cache {cache}": Check(partial(loads_while_the_gpu_is_busy, cache=cache), False)
       for cache in ("none", "gpu")},
    "saving behind the step": Check(saves_behind_the_step, True),
    "loss in fp32": Check(partial(has_the_cpus_loss, precision="fp32", near=2e-3), True),
    "loss in bf16": Check(partial(has_the_cpus_loss, precision="bf16", near=5e-2), False),
    "a run": Check(partial(trains_to_its_end, settings=()), True),
    "a run, twice, deterministic": Check(repeats_bit_by_bit, True),
    "steps as CUDA graphs": Check(replays_the_same_steps, False),
    "a run by CUDA graphs": Check(partial(trains_to_its_end, settings=("train.cuda_graph=true",)), False),
    **{f"a run in fp16{', by CUDA graphs' if graph else ''}":
       Check(partial(trains_to_its_end, settings=("train.precision=fp16", *graph)), False)
       for graph in ((), ("train.cuda_graph=true",))},
    "predictions": Check(predicts, True),
}  # fmt: skip
