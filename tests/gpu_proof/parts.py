"""The parts of `make gpu-proof`, the most valuable first. Each yields rows as it finds them."""

from __future__ import annotations

import itertools
import multiprocessing
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from fashion_dist.config import DataConfig
from fashion_dist.data import Loader, decode_check
from fashion_dist.data.options import DECODES
from fashion_dist.train.distributed import World, init_process_group
from fashion_dist.train.split_loader import SplitLoader
from fashion_dist.train.trainer import Trainer
from gpu_proof import drawn
from gpu_proof.checks import CHECKS
from gpu_proof.ground import Ground, Row, has, options_of
from gpu_proof.runs import runs
from shards.portable import cpus


def self_test(ground: Ground) -> Iterator[Row]:
    """Every way of decoding beside the CPU's pixels, each in a child process that may crash."""
    passed = []
    for way in DECODES[1:2] if ground.small else ("gpu-hardware", *DECODES[:-1]):
        verdict = decode_check.test(way, str(ground.device))
        passed += [way] if not verdict.fault else []
        yield Row(way, verdict.fault or f"right; mean {verdict.mean:.2f}, at most {verdict.most:.0f} of 255")
    ways = [way for way in DECODES if way in passed] + ["cpu"]
    yield Row("ways", " ".join(ways), fault="" if len(ways) > 1 else "no way of decoding on this GPU is right")


def checks(ground: Ground) -> Iterator[Row]:
    """What has to hold on a GPU, one by one."""
    for name, check in CHECKS.items():
        if not ground.on_gpu and not check.rehearsed:
            continue
        began, fault = time.perf_counter(), ""
        try:
            check.run(ground)
        except Exception as error:  # whatever it is, the next check runs
            fault = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            traceback.print_exc()
        yield Row(name, "holds" if not fault else "FAILS", f"in {time.perf_counter() - began:.1f} s", fault=fault)


def equal_bytes(ground: Ground) -> Iterator[Row]:
    """Every example's pixels in two epochs: twice by one rank, and by two ranks, which share this card over gloo."""
    ways = [*ground.ways, "gpu-hardware"] if ground.on_gpu else ["cpu"]
    alone = {way: [_hashes(ground, way, World(), ground.device) for _ in range(2)] for way in ways}
    spawn = multiprocessing.get_context("spawn")
    ranks = [spawn.Process(target=_hash_rank, args=(ground, ways, rank)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    for way in ways:
        again = int((alone[way][0] != alone[way][1]).sum())
        used = way != "gpu-hardware"
        fault = "pixels are not repeatable" if again and used else ""
        yield Row(f"{way}: examples that differ, again", again, fault=fault)
        path = ground.folder / f"hashes-{way}.npy"
        differ = int((alone[way][0] != np.load(path)).sum()) if path.exists() else -1
        fault = "the two ranks ended without an answer" if differ < 0 else "pixels depend on the number of ranks"
        yield Row(f"{way}: examples that differ, 2 ranks", differ, fault=fault if differ and used else "")


def _hash_rank(ground: Ground, ways: Sequence[str], rank: int) -> None:
    torch.set_num_threads(1)
    with init_process_group(World(rank, 2, rank, 2), ground.folder / "rendezvous" / "attempt-1.json") as dist:
        if ground.on_gpu:
            assert float(dist.all_reduce_sum({"ones": torch.ones(1, device=dist.device)})["ones"]) == 2
        for way in ways:
            mine = _hashes(ground, way, dist.world, dist.device)
            found = [arrays["hashes"] for arrays in dist.gather_arrays({"hashes": mine})]
            if dist.world.is_main:
                np.save(ground.folder / f"hashes-{way}.npy", np.maximum(*found))


def _hashes(ground: Ground, way: str, world: World, device: torch.device) -> np.ndarray:
    """int64 [2 epochs, examples], CRC-32 of the pixels of each example that this rank sees, -1 of others."""
    split = ground.set_of().split("train")
    count = min(len(split), 16 if ground.small else 1024)
    found = np.full((2, count), -1, np.int64)
    with Loader(
        split, np.arange(count)[:, None], DataConfig(image_px=ground.image_px, brightness=0.2, erase=0.2),
        batch_size=ground.batch_size, training=True, rank=world.rank, world_size=world.world_size,
        local_world_size=world.local_world_size, device=device, options=options_of(way),
    ) as loader:  # fmt: skip
        for epoch in range(2):
            for batch in loader.epoch(epoch):
                images = batch.images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
                found[epoch, batch.index.numpy()] = [zlib.crc32(image.tobytes()) for image in images]
    return found


def decoding(ground: Ground) -> Iterator[Row]:
    """Images/s of the loader by way of decoding, crops and all, without a network."""
    split = ground.set_of().split("train")
    examples = np.arange(min(len(split), 8192))[:, None]
    for way in _all_ways(ground):
        with Loader(
            split, examples, DataConfig(image_px=ground.image_px), batch_size=ground.batch_size,
            training=True, device=ground.device, options=options_of(way),
        ) as loader:  # fmt: skip
            rates = [_rate(ground, partial(_count, loader, number)) for number in range(2)]
        yield Row(way, round(rates[1]), "images/s", least=None if way == "gpu-hardware" else 8000)


def _all_ways(ground: Ground) -> list[str]:
    """The safest first: the hardware decoder may crash."""
    return [*reversed(ground.ways), "gpu-hardware"] if ground.on_gpu else ["cpu"]


def _count(loader: Loader, epoch: int) -> int:
    return sum(len(batch.index) for batch in loader.epoch(epoch))


def _rate(ground: Ground, work: Callable[[], int]) -> float:
    began = time.perf_counter()
    images = work()
    ground.wait()
    return images / (time.perf_counter() - began)


def training(ground: Ground) -> Iterator[Row]:
    """ResNet-50 at 224 px: by each way of decoding and cached, beside batches in memory."""
    yield Row("network", f"{ground.network} at {ground.image_px} px, batches of {ground.batch_size}")
    for graph in ((), GRAPH) if ground.on_gpu else ((),):
        settings, told = (*_of_resnet(ground), *graph), ", CUDA graphs" * bool(graph)
        synthetic = _ours(ground, "", settings, "none")
        yield Row(f"ours{told}, synthetic", round(synthetic.rate, 1), "images/s")
        for way in _all_ways(ground) if graph or not ground.on_gpu else ["cpu"]:
            found, wanted = _ours(ground, way, settings, "none"), bool(graph) and way != "gpu-hardware"
            yield Row(f"ours{told}, from JPEG, {way}", round(found.rate, 1), "images/s", 3000 if wanted else None)
            share = round(found.rate / synthetic.rate, 3)
            yield Row(f"    of synthetic, {way}{told}", share, "", 0.95 if wanted else None)
            yield Row(f"    until an epoch's first batch, {way}{told}", round(1000 * found.begin_s), "ms")
        if graph or not ground.on_gpu:
            found = _ours(ground, "cpu", settings, "auto" if ground.on_gpu else "ram")
            yield Row(f"ours{told}, cached", round(found.rate, 1), "images/s")
            yield Row(f"    of synthetic, cached{told}", round(found.rate / synthetic.rate, 3))


GRAPH = ("train.cuda_graph=true",)


def kernels(ground: Ground) -> Iterator[Row]:
    """What trying kernels costs at a start, and gains."""
    few = ("data.image_px=64", "train.batch_size=16", "train.fraction=0.05", "optim.warmup_epochs=0")
    for setting in ("train.cudnn_benchmark=false", "train.cudnn_benchmark=true"):
        found = _ours(ground, "", (*_of_resnet(ground), setting), "none")
        yield from _speed(f"{ground.network}, {setting}", found)
        found = _ours(ground, "cpu", (*few, setting), "none", task="deepfashion")
        yield from _speed(f"fashionnet at 64 px, batches of 16, {setting}", found)


def compiled(ground: Ground) -> Iterator[Row]:
    """With `train.compile`: a network whose steps wait for the host, by mode, and the one of `training`."""
    small = ("model.name=fashionnet", "data.image_px=28", "train.batch_size=512", "model.hue_jitter_prob=0")
    compiled = ("train.compile=true",)
    for modes in ((), GRAPH, compiled, (*compiled, "train.compile_mode=reduce-overhead")):
        yield from _speed(
            f"fashionnet at 28 px, {' '.join(modes) or 'plain'}", _ours(ground, "", (*small, *modes), "none")
        )
    settings = (*_of_resnet(ground), "train.compile=true")
    for way in ("", ground.ways[0]):
        yield from _speed(f"ours, {way or 'synthetic'}, compiled", _ours(ground, way, settings, "none"))


def _speed(name: str, found: Speed) -> Iterator[Row]:
    yield Row(name, round(found.rate, 1), "images/s")
    yield Row(f"    first {WARM_UP} steps, {name}", round(found.first_s, 1), "s")


class Speed(NamedTuple):
    """Seconds of the first steps, images/s of those after them, seconds from an epoch's end to the next one's batch."""

    first_s: float
    rate: float
    begin_s: float


def _ours(ground: Ground, way: str, settings: Sequence[str], cache: str, task: str = "fashion_mnist") -> Speed:
    """By a way of decoding; of batches in memory without one. The timed steps lie within one epoch."""
    from bench import _trainers

    name = f"train-{len(list(ground.folder.glob('runs/*')))}"
    trainer, loader = ground.open(name, settings, cache=cache, decode=way or None, task=task)
    if not way:
        some = _trainers.random_batches(len(loader.examples), trainer.config.data.image_px, trainer, 4)
        steps = loader.loader.steps
        loader.loader.close()
        loader.loader = _trainers.InMemory(some, steps)  # type: ignore[assignment]
    for _ in loader.loader.epoch(0, loader.loader.steps - 1 if cache == "none" else 0, until=2):
        pass
    trainer._begin_epoch(loader)
    ground.wait()
    began = time.perf_counter()
    batches = loader.loader.epoch(1, until=2)
    batch = next(batches)
    begin_s = time.perf_counter() - began
    for _ in range(WARM_UP):
        trainer.train_step(loader, [batch])
        batch = next(batches)
    ground.wait()
    first_s, began, steps = time.perf_counter() - began - begin_s, time.perf_counter(), 0
    for batch in batches:
        trainer.train_step(loader, [batch])
        steps += 1
    ground.wait()
    rate = steps * trainer.config.train.batch_size / (time.perf_counter() - began)
    loader.loader.close()
    trainer.close()
    return Speed(first_s, rate, begin_s)


WARM_UP = 4
"""Steps before the timed ones, which choose kernels and make the optimizer's state."""


def _of_resnet(ground: Ground) -> tuple[str, ...]:
    return (
        f"model.name={ground.network}", f"data.image_px={ground.image_px}", "data.crop_scale=0.25,1", "data.flip=0.5",
        f"train.batch_size={ground.batch_size}", "train.ema=0", "train.epochs=1000000", "train.checkpoint_min=1e9",
    )  # fmt: skip


def _epoch(trainer: Trainer, loader: SplitLoader) -> int:
    trainer.state.step_in_epoch = 0
    trainer.train_epoch(loader)
    trainer.state.epoch += 1
    return loader.loader.steps * trainer.config.train.batch_size


def peers(ground: Ground) -> Iterator[Row]:
    """The training scripts of timm and torchvision, over files of the same images."""
    from bench import _peers, _trainers

    model = ground.network
    if not model.startswith("torchvision/"):
        yield Row("timm, torchvision", "left out: a rehearsal" if ground.small else "left out: no torchvision")
        return
    split, root = ground.set_of().split("train"), ground.folder / "files"
    _peers.write_files(split, min(len(split), 4096), root)
    for name, make in (("timm", _trainers.timm_train), ("torchvision", _trainers.torchvision_reference)):
        if not has(*{name, "PIL"}):
            yield Row(name, "left out: not installed")
            continue
        run = make("resnet50", root, ground.image_px, ground.batch_size, ground.device, len(cpus()), amp=True)
        run()
        yield Row(f"{name}, amp, from files", round(_rate(ground, run), 1), "images/s")


FASHION_MNIST = (
    "model.name=fashionnet", "model.hue_jitter_prob=0", "model.palette=false", "train.epochs=24",
    "train.batch_size=1024", "train.eval_batch_size=2048", "optim.lr=6e-3", "optim.schedule=onecycle",
    "optim.weight_decay=0.05", "train.ema=0.99", "train.patience=0", "train.cudnn_benchmark=false", "data.flip=0.5",
    "data.eval_flip=true", "data.erase=0.3",
)  # fmt: skip


def fashion_mnist(ground: Ground) -> Iterator[Row]:
    """Seconds of training until the end of a run, and its test accuracy."""
    folder = ground.folder / "fashion_mnist"
    if not folder.exists():
        drawn.write_fashion_mnist(folder, Path(ground.fashion_mnist))
    small = ("train.epochs=1", "train.fraction=0.02") if ground.small else GRAPH
    trainer, loader = ground.open(
        "fashion", (*FASHION_MNIST, *small), cache="gpu" if ground.on_gpu else "ram", images="fashion_mnist"
    )
    epochs, seconds = trainer.config.train.epochs, list[float]()
    for _ in range(epochs):
        began = time.perf_counter()
        _epoch(trainer, loader)
        ground.wait()
        seconds.append(time.perf_counter() - began)
    yield Row(f"{epochs} epochs", round(sum(seconds), 2), "s")
    yield Row("    the first, which fills the cache", round(seconds[0], 2), "s")
    yield from _parts_of_a_step(ground, trainer, loader)
    with trainer.split_loader("test") as test:
        yield Row("test accuracy", round(float(trainer.evaluate(test).compute()["accuracy"]), 4), least=0.94)
    loader.loader.close()
    trainer.close()


def _parts_of_a_step(ground: Ground, trainer: Trainer, loader: SplitLoader) -> Iterator[Row]:
    """The loader alone, and the step alone: until the host goes on, and until the GPU is done."""
    began, batches = time.perf_counter(), list(itertools.islice(loader.loader.epoch(99), 50))
    ground.wait()
    yield Row("    the loader alone", round(1000 * (time.perf_counter() - began) / len(batches), 2), "ms a batch")
    began = time.perf_counter()
    for batch in batches:
        trainer.train_step(loader, [batch])
    host = time.perf_counter() - began
    ground.wait()
    whole = time.perf_counter() - began
    yield Row("    the step alone, for the host", round(1000 * host / len(batches), 2), "ms")
    yield Row("    the step alone", round(1000 * whole / len(batches), 2), "ms")


def checkpoint(ground: Ground) -> Iterator[Row]:
    """How long saving holds the loop, and until it is on disk."""
    few = ("train.fraction=0.05",) if ground.on_gpu else ()
    trainer, loader = ground.open("checkpoint", (*_of_resnet(ground), *few))
    _epoch(trainer, loader)
    held, written = [], []
    for _ in range(3):
        ground.wait()
        began = time.perf_counter()
        trainer.save_checkpoint()
        held.append(time.perf_counter() - began)
        trainer.checkpoints.wait()
        written.append(time.perf_counter() - began)
        trainer.state.global_step += 1
    size = sum(path.stat().st_size for path in max(trainer.run.checkpoints.glob("step-*")).iterdir())
    yield Row("size", round(size / 1e6, 1), "MB")
    yield Row("the loop is held", round(1000 * float(np.median(held)), 1), "ms")
    yield Row("written", round(1000 * float(np.median(written)), 1), "ms")
    loader.loader.close()
    trainer.close()


def memory(ground: Ground) -> Iterator[Row]:
    """What a step takes of the card, by batch."""
    for batch in (64, 256):
        settings = [*_of_resnet(ground), f"train.batch_size={batch}"]
        torch.cuda.reset_peak_memory_stats()
        trainer, loader = ground.open(f"memory-{batch}", settings)
        trainer.state.prepare_epoch()
        trainer.train_step(loader, [next(iter(loader.loader.epoch(0)))])
        ground.wait()
        yield Row(f"batch of {batch}, {ground.network}", round(torch.cuda.max_memory_allocated() / 1e9, 2), "GB")
        loader.loader.close()
        trainer.close()
    free, whole = torch.cuda.mem_get_info()
    yield Row("the card", round(whole / 1e9, 1), f"GB, {free / 1e9:.1f} free")


PARTS: dict[str, tuple[Callable[[Ground], Iterator[Row]], float]] = {
    "self_test": (self_test, 60), "checks": (checks, 75), "equal_bytes": (equal_bytes, 60), "decoding": (decoding, 45),
    "training": (training, 110), "runs": (runs, 110), "peers": (peers, 45), "fashion_mnist": (fashion_mnist, 60),
    "checkpoint": (checkpoint, 30), "memory": (memory, 30), "kernels": (kernels, 90),
    "compiled": (compiled, 90),
}  # fmt: skip
"""Name -> what it does, and the seconds after which it is ended."""


def left_out(name: str, device: str, fashion_mnist: str) -> str:
    """Why a part cannot run here; empty where it can."""
    if name in ("memory", "compiled", "kernels") and device == "cpu":
        return "a GPU's is measured"
    if name == "fashion_mnist" and not fashion_mnist:
        return "FASHION_MNIST=DIR names no folder of its four published files"
    return ""


def machine() -> dict[str, Any]:
    """What the figures were found on."""
    on_gpu = torch.cuda.is_available()
    return {
        # Read without opening it: its mode may allow one process, which is a part's.
        "device": (decode_check.identity() or "a GPU") if on_gpu else "no GPU",
        "cores": len(cpus()),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }
