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

from fashion_dist import cli
from fashion_dist.bench import _trainers
from fashion_dist.bench._peers import write_files
from fashion_dist.bench._ratios import cores, cpu_name, fastest
from fashion_dist.bench._segments import Segments
from fashion_dist.bench._session import close_session, open_session
from fashion_dist.bench._trainers import Trainer, synchronize
from fashion_dist.config import Config
from fashion_dist.data.options import LoaderOptions
from fashion_dist.model_names import own_models
from fashion_dist.paths import Home
from fashion_dist.tasks import load
from fashion_dist.train.session import FitOptions, Session, SplitFeed
from fashion_dist.train.state import compute_dtype
from fashion_dist.train.trainer import train_epoch

if TYPE_CHECKING:
    from fashion_dist.bench.train import Args

BARE, SYNTHETIC, CACHED, JPEG = "bare loop", "ours, synthetic", "ours, cached", "ours, from JPEG"
IN_MEMORY, PLAIN = "bare loop, set in memory", "bare loop, not compiled"
PEERS = "timm", "torchvision"


class Bench:
    """What the contenders share: sessions of one configuration, below `scratch`, closed by `closing`."""

    def __init__(self, args: Args, home: Home, scratch: Path, closing: ExitStack) -> None:
        self._args, self._home, self._scratch, self._closing = args, home, scratch, closing
        torch.set_num_threads(cores())
        self._sessions: dict[str, tuple[Session, SplitFeed]] = {}

    def contenders(self, progress: cli.Progress) -> dict[str, tuple[Trainer, str]]:
        """Name -> (train for one round, how it is set)."""
        steps = self._args.steps
        session, feed = self._open(BARE, "none")
        batches = _trainers.random_batches(len(feed.examples), self._args.image_px, session, 4)
        images, index = batches[0]
        targets = {name: values[index.to(values.device)] for name, values in feed.targets.items()}
        device = session.learner.device
        setting = str(session.learner.dtype)[6:]
        found: dict[str, tuple[Trainer, str]] = {}
        if self._args.compile:
            found[PLAIN] = _trainers.bare_loop(session, images, targets, steps, compiled=False), setting
            began = time.perf_counter()
            _trainers.bare_loop(session, images, targets, 1)()
            setting += f", compiled within {time.perf_counter() - began:.0f} s"
        found |= {
            BARE: (_trainers.bare_loop(session, images, targets, steps), setting),
            SYNTHETIC: (self._ours(SYNTHETIC, "none", batches), "4 batches in memory"),
            CACHED: (self._ours(CACHED, "gpu" if device.type == "cuda" else "ram"), "crops, flips, normalisation"),
            JPEG: (self._ours(JPEG, "none"), "decoding, too"),
        }
        if _trainers.fits_in_memory(feed, self._args.image_px):
            loop = _trainers.in_memory_loop(session, self._whole_set(session), steps)
            found[IN_MEMORY] = loop, "by a random permutation, no flips"
        if not self._args.alone and self._args.model not in own_models():
            found |= self._peers(feed, device, progress)
        return found

    def _config(self) -> Config:
        args, config = self._args, load(self._args.task).recipe
        data = dataclasses.replace(config.data, image_px=args.image_px, start_px=0, cache_px=0)
        train = dataclasses.replace(
            config.train, batch_size=args.batch_size, mixup=0.0, cutmix=0.0, ema=0.0, epochs=1 << 20,
            compile=args.compile, checkpoint_min=1e9,
        )  # fmt: skip
        model = dataclasses.replace(config.model, name=args.model, weights="none")
        dataset = args.dataset or config.dataset
        return dataclasses.replace(config, dataset=dataset, data=data, train=train, model=model)

    def _open(self, name: str, cache: Literal["none", "ram", "gpu"]) -> tuple[Session, SplitFeed]:
        options = FitOptions(loader=LoaderOptions(cache=cache), wandb="off")
        config = self._config()
        session = open_session(config, self._home, self._scratch / name, options)
        self._closing.callback(close_session, session)
        count = session.shard_set.splits["train"]
        fraction = min(1.0, (self._args.steps * config.train.batch_size + 0.5) / count)
        session.config = dataclasses.replace(config, train=dataclasses.replace(config.train, fraction=fraction))
        feed = self._closing.enter_context(SplitFeed(session, "train"))
        self._sessions[name] = session, feed
        return session, feed

    def _whole_set(self, session: Session) -> tuple[Tensor, dict[str, Tensor]]:
        """The epoch's images, normalised, and their targets, on the device."""
        plain = dataclasses.replace(session.config.data, eval_resize=1.0)
        whole = dataclasses.replace(session, config=dataclasses.replace(session.config, data=plain))
        with SplitFeed(whole, "train", alone=True) as feed:
            images = [_trainers.one_channel(batch.images) for batch in feed.loader.epoch(0)]
        examples = self._sessions[BARE][1]
        rows = torch.from_numpy(examples.examples.images[:, 0]).to(images[0].device)
        return torch.cat(images)[rows], examples.targets

    def _ours(self, name: str, cache: Literal["none", "ram", "gpu"], batches: _trainers.Batches = ()) -> Trainer:
        session, feed = self._open(name, cache)
        if batches:
            feed.loader.close()
            feed.loader = _trainers.InMemory(batches, self._args.steps)  # type: ignore[assignment]

        def run() -> int:
            session.position.step = 0
            train_epoch(session, feed)
            session.position.epoch += 1
            synchronize(session.learner.device)
            return feed.loader.steps * session.config.train.batch_size

        return run

    def _peers(self, feed: SplitFeed, device: torch.device, progress: cli.Progress) -> dict[str, tuple[Trainer, str]]:
        """Each peer with its best number of workers; with and without bf16 where the hardware has it."""
        args = self._args
        count = min(len(feed.split), args.steps * args.batch_size)
        root = self._scratch / "files"
        write_files(feed.split, count, root)
        amps = [False, True] if compute_dtype("auto", device) == torch.bfloat16 else [False]
        found = {}
        makers = dict(zip(PEERS, (_trainers.timm_train, _trainers.torchvision_reference), strict=True))
        workers = _trainers.worker_counts(cores())
        tried, total = itertools.count(1), len(makers) * len(amps) * len(workers)
        for name, make in makers.items():
            for amp in amps:
                of_workers = partial(make, args.model, root, args.image_px, args.batch_size, device, amp=amp)
                found[f"{name}{', amp' * amp}"] = fastest(
                    of_workers, workers, lambda: progress("tuning peers", next(tried), total)
                )
        return found

    def segments(self, trace: Path | None = None) -> dict[str, float]:
        """Where the time of a step goes: fractions of an epoch from the cache, measured in a run of its own.

        With `trace`, another epoch goes through torch's profiler, whose trace is written there.
        """
        session, feed = self._sessions[CACHED]
        device = session.learner.device
        clock = Segments(lambda: synchronize(device))
        clock.attach(session, feed)
        session.position.step = 0
        train_epoch(session, feed)
        clock.mark("other")
        clock.detach()
        if trace is not None:
            session.position.step = 0
            kinds = [torch.profiler.ProfilerActivity.CPU]
            kinds += [torch.profiler.ProfilerActivity.CUDA] if device.type == "cuda" else []
            with torch.profiler.profile(activities=kinds) as profiler:
                train_epoch(session, feed)
            profiler.export_chrome_trace(str(trace))
        return dict(clock.shares())

    def machine(self) -> dict[str, Any]:
        """What it was measured on."""
        learner = self._sessions[BARE][0].learner
        on_gpu = learner.device.type == "cuda"
        name = torch.cuda.get_device_name(learner.device) if on_gpu else cpu_name()
        return {"device": name, "cores": cores(), "dtype": str(learner.dtype)[6:]}
