"""The contenders of `bench.py train`: our training loop three ways, its ceilings, and what people use."""

from __future__ import annotations

import dataclasses
import itertools
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from bench import _trainers
from bench._open import open_trainer
from bench._peers import write_files
from bench._ratios import cores, cpu_name, fastest
from bench._segments import Segments
from bench._trainers import Contender, synchronize
from fashion_dist import cli
from fashion_dist.config import Config
from fashion_dist.data.options import LoaderOptions
from fashion_dist.models import registry
from fashion_dist.paths import Home
from fashion_dist.tasks import ExampleSet, load
from fashion_dist.train.options import TrainerOptions
from fashion_dist.train.split_loader import SplitLoader
from fashion_dist.train.state import compute_dtype
from fashion_dist.train.trainer import Trainer

if TYPE_CHECKING:
    from bench.train import Args

BARE, SYNTHETIC, CACHED, JPEG = "bare loop", "ours, synthetic", "ours, cached", "ours, from JPEG"
IN_MEMORY, PLAIN = "bare loop, set in memory", "bare loop, not compiled"
PEERS = "timm", "torchvision"


class Bench:
    """What the contenders share: trainers of one configuration, below `scratch`, closed by `closing`."""

    def __init__(self, args: Args, home: Home, scratch: Path, closing: ExitStack) -> None:
        self._args, self._home, self._scratch, self._closing = args, home, scratch, closing
        torch.set_num_threads(cores())
        self._trainers_of: dict[str, tuple[Trainer, SplitLoader]] = {}

    def contenders(self, progress: cli.Progress) -> dict[str, tuple[Contender, str]]:
        """Name -> (train for one round, how it is set)."""
        steps = self._args.steps
        trainer, loader = self._open(BARE, "none")
        batches = _trainers.random_batches(len(loader.examples), self._args.image_px, trainer, 4)
        images, index = batches[0]
        targets = {name: values[index.to(values.device)] for name, values in loader.targets.items()}
        device = trainer.device
        setting = str(trainer.dtype)[6:]
        found: dict[str, tuple[Contender, str]] = {}
        if self._args.compile:
            found[PLAIN] = _trainers.bare_loop(trainer, images, targets, steps, compiled=False), setting
            began = time.perf_counter()
            _trainers.bare_loop(trainer, images, targets, 1)()
            setting += f", compiled within {time.perf_counter() - began:.0f} s"
        found |= {
            BARE: (_trainers.bare_loop(trainer, images, targets, steps), setting),
            SYNTHETIC: (self._ours(SYNTHETIC, "none", batches), "4 batches in memory"),
            CACHED: (self._ours(CACHED, "gpu" if device.type == "cuda" else "ram"), "crops, flips, normalisation"),
            JPEG: (self._ours(JPEG, "none"), "decoding, too"),
        }
        if _trainers.fits_in_memory(loader, self._args.image_px):
            loop = _trainers.in_memory_loop(trainer, self._whole_set(trainer), steps)
            found[IN_MEMORY] = loop, "by a random permutation, no flips"
        if not self._args.alone and registry.locate(self._args.model)[0] != "ours":
            found |= self._peers(loader, device, progress)
        return found

    def _config(self) -> Config:
        args, config = self._args, load(self._args.task).recipe
        data = dataclasses.replace(config.data, image_px=args.image_px, cache_px=0)
        train = dataclasses.replace(
            config.train, batch_size=args.batch_size, mixup=0.0, cutmix=0.0, ema=0.0, epochs=1 << 20,
            compile=args.compile, checkpoint_min=1e9,
        )  # fmt: skip
        dataset = args.dataset or config.dataset
        config = dataclasses.replace(config, dataset=dataset, data=data, train=train)
        return registry.resolve(config.override([f"model.name={args.model}", "model.weights=none"]))

    def _open(self, name: str, cache: Literal["none", "ram", "gpu"]) -> tuple[Trainer, SplitLoader]:
        options = TrainerOptions(loader=LoaderOptions(cache=cache), wandb="off")
        config = self._config()
        trainer = open_trainer(config, self._home, self._scratch / name, options)
        self._closing.enter_context(trainer)
        count = trainer.shard_set.splits["train"]
        fraction = min(1.0, (self._args.steps * config.train.batch_size + 0.5) / count)
        trainer.config = dataclasses.replace(config, train=dataclasses.replace(config.train, fraction=fraction))
        loader = self._closing.enter_context(trainer.split_loader("train"))
        self._trainers_of[name] = trainer, loader
        return trainer, loader

    def _whole_set(self, trainer: Trainer) -> tuple[Tensor, dict[str, Tensor]]:
        """The epoch's images, normalised, and their targets, on the device."""
        plain = dataclasses.replace(trainer.config.data, eval_resize=1.0)
        config, split = dataclasses.replace(trainer.config, data=plain), trainer.shard_set.split("train")
        images_of = ExampleSet.of_images(len(split))
        with SplitLoader(split, images_of, config, trainer.dist, training=False, dtype=trainer.dtype) as loader:
            images = [_trainers.one_channel(batch.images) for batch in loader.loader.epoch(0)]
        examples = self._trainers_of[BARE][1]
        rows = torch.from_numpy(examples.examples.images[:, 0]).to(images[0].device)
        return torch.cat(images)[rows], examples.targets

    def _ours(self, name: str, cache: Literal["none", "ram", "gpu"], batches: _trainers.Batches = ()) -> Contender:
        trainer, loader = self._open(name, cache)
        if batches:
            loader.loader.close()
            loader.loader = _trainers.InMemory(batches, self._args.steps)  # type: ignore[assignment]

        def run() -> int:
            trainer.state.step_in_epoch = 0
            trainer.train_epoch(loader)
            trainer.state.epoch += 1
            synchronize(trainer.device)
            return loader.loader.steps * trainer.config.train.batch_size

        return run

    def _peers(
        self, loader: SplitLoader, device: torch.device, progress: cli.Progress
    ) -> dict[str, tuple[Contender, str]]:
        """Each peer with its best number of workers; with and without bf16 where the hardware has it."""
        args, (_, network) = self._args, registry.locate(self._args.model)
        count = min(len(loader.split), args.steps * args.batch_size)
        root = self._scratch / "files"
        write_files(loader.split, count, root)
        amps = [False, True] if compute_dtype("auto", device) == torch.bfloat16 else [False]
        found = {}
        makers = dict(zip(PEERS, (_trainers.timm_train, _trainers.torchvision_reference), strict=True))
        workers = _trainers.worker_counts(cores())
        tried, total = itertools.count(1), len(makers) * len(amps) * len(workers)
        for name, make in makers.items():
            for amp in amps:
                of_workers = partial(make, network, root, args.image_px, args.batch_size, device, amp=amp)
                found[f"{name}{', amp' * amp}"] = fastest(
                    of_workers, workers, lambda: progress("tuning peers", next(tried), total)
                )
        return found

    def segments(self, trace: Path | None = None) -> dict[str, float]:
        """Where the time of a step goes: fractions of an epoch from the cache, measured in a run of its own.

        With `trace`, another epoch goes through torch's profiler, whose trace is written there.
        """
        trainer, loader = self._trainers_of[CACHED]
        device = trainer.device
        clock = Segments(lambda: synchronize(device))
        clock.attach(trainer, loader)
        trainer.state.step_in_epoch = 0
        trainer.train_epoch(loader)
        clock.mark("other")
        clock.detach()
        if trace is not None:
            trainer.state.step_in_epoch = 0
            kinds = [torch.profiler.ProfilerActivity.CPU]
            kinds += [torch.profiler.ProfilerActivity.CUDA] if device.type == "cuda" else []
            with torch.profiler.profile(activities=kinds) as profiler:
                trainer.train_epoch(loader)
            profiler.export_chrome_trace(str(trace))
        return dict(clock.shares())

    def machine(self) -> dict[str, Any]:
        """What it was measured on."""
        trainer = self._trainers_of[BARE][0]
        on_gpu = trainer.device.type == "cuda"
        name = torch.cuda.get_device_name(trainer.device) if on_gpu else cpu_name()
        return {"device": name, "cores": cores(), "dtype": str(trainer.dtype)[6:]}
