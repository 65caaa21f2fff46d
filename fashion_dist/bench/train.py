"""`bench.py train`: our trainer beside its own ceilings, timm's training and torchvision's reference.

One network, one set of images, one batch size, in one process and alternating runs; the table shows medians, and ratios
are taken within a round. Ours runs the very functions of a run: `train_epoch` with loader, schedule, logs and state.

    bare loop             forward, loss, backward, optimizer, on a batch in memory
    ours, synthetic       our loop on batches in memory
    ours, cached          our loop on decoded images in RAM (or on the GPU), crops and all
    ours, from JPEG       our loop on encoded images
    timm, torchvision     theirs, on the same images as files
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fashion_dist import cli
from fashion_dist.errors import ConfigError
from fashion_dist.paths import Home

if TYPE_CHECKING:
    import torch

    from fashion_dist.bench._trainers import Trainer
    from fashion_dist.data import Batch
    from fashion_dist.session import Session, SplitFeed

BARE, SYNTHETIC, CACHED, JPEG = "bare loop", "ours, synthetic", "ours, cached", "ours, from JPEG"


@dataclass(frozen=True, kw_only=True)
class Args(cli.CommonArgs):
    """Measure training against its ceilings and against what people use."""

    task: str = "deepfashion"
    """Whose images and loss; its shard set stands in HOME/shards."""
    model: str = "resnet18"
    """A network that torchvision and timm both have, or one of ours (then without peers)."""
    image_px: int = 112
    """Height and width of the training crops."""
    batch_size: int = 64
    """Images a step."""
    steps: int = 6
    """Steps of each contender in a round."""
    rounds: int = 5
    """Times that each contender runs; the table shows medians."""
    alone: bool = False
    """Measure ours and its ceilings only."""
    compile: bool = False
    """Compile the model (ours and the bare loop)."""
    out: str = ""
    """Where the JSON goes; else HOME/bench/train.json."""


@dataclass
class Measured:
    """The rounds of one contender."""

    rates: list[float] = field(default_factory=list)
    """Images/s of each round."""
    cpu_ms: list[float] = field(default_factory=list)
    """Processor time per image, over all threads and processes."""
    setting: str = ""


def main(args: Args) -> cli.Result:
    """Measures, prints the table, writes the JSON."""
    if min(args.rounds, args.batch_size, args.steps) < 1:
        raise ConfigError("--rounds, --steps and --batch-size must be 1 or more")
    home = Home.find(args.home)
    out = Path(args.out).expanduser().absolute() if args.out else home.path / "bench" / "train.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch, ExitStack() as closing, cli.Progress() as progress:
        bench = _Bench(args, home, Path(scratch), closing)
        contenders = bench.contenders(progress)
        results = _measure(contenders, args.rounds, progress)
        segments = bench.segments()
    values = _values(args, results, segments, bench.machine())
    out.write_text(json.dumps(values, indent=1) + "\n")
    headline = f"{args.model} at {args.image_px} px, batches of {args.batch_size}, {bench.machine()['told']}"
    return cli.Result(headline, paths={"figures": out}, data=values, text=_table(results, values))


class _Bench:
    """What the contenders share."""

    def __init__(self, args: Args, home: Home, scratch: Path, closing: ExitStack) -> None:
        import torch

        from fashion_dist.bench._trainers import cores

        self._args, self._home, self._scratch, self._closing = args, home, scratch, closing
        torch.set_num_threads(cores())
        self._sessions: dict[str, tuple[Session, SplitFeed]] = {}

    def contenders(self, progress: cli.Progress) -> dict[str, tuple[Trainer, str]]:
        """Name -> (train for one round, how it is set)."""
        from fashion_dist.bench import _trainers
        from fashion_dist.model_names import own_models

        session, feed = self._open(BARE, "none")
        batches = _trainers.random_batches(len(feed.examples), self._args.image_px, session, 4)
        images, index = batches[0]
        targets = {name: values[index.to(values.device)] for name, values in feed.targets.items()}
        device = session.learner.device
        found: dict[str, tuple[Trainer, str]] = {
            BARE: (_trainers.bare_loop(session, images, targets, self._args.steps), str(session.learner.dtype)[6:]),
            SYNTHETIC: (self._ours(SYNTHETIC, "none", batches), "4 batches in memory"),
            CACHED: (self._ours(CACHED, "gpu" if device.type == "cuda" else "ram"), "crops, flips, normalisation"),
            JPEG: (self._ours(JPEG, "none"), "decoding, too"),
        }
        if not self._args.alone and self._args.model not in own_models():
            found |= self._peers(feed, device, progress)
        return found

    def _config(self) -> Any:
        from fashion_dist.tasks import load

        args, config = self._args, load(self._args.task).recipe
        data = dataclasses.replace(config.data, image_px=args.image_px, start_px=0, cache_px=0)
        train = dataclasses.replace(
            config.train, batch_size=args.batch_size, mixup=0.0, cutmix=0.0, ema=0.0, epochs=1 << 20,
            compile=args.compile, checkpoint_min=1e9,
        )  # fmt: skip
        model = dataclasses.replace(config.model, name=args.model, weights="none")
        return dataclasses.replace(config, data=data, train=train, model=model)

    def _open(self, name: str, cache: str) -> tuple[Session, SplitFeed]:
        from fashion_dist.bench._session import close_session, open_session
        from fashion_dist.data.options import LoaderOptions
        from fashion_dist.session import FitOptions, SplitFeed

        options = FitOptions(loader=LoaderOptions(cache=cache), wandb="off")  # type: ignore[arg-type]
        config = self._config()
        session = open_session(config, self._home, self._scratch / name, options)
        self._closing.callback(close_session, session)
        count = session.shard_set.splits["train"]
        fraction = min(1.0, (self._args.steps * config.train.batch_size + 0.5) / count)
        session.config = dataclasses.replace(config, train=dataclasses.replace(config.train, fraction=fraction))
        feed = self._closing.enter_context(SplitFeed(session, "train"))
        self._sessions[name] = session, feed
        return session, feed

    def _ours(self, name: str, cache: str, batches: list[tuple[torch.Tensor, torch.Tensor]] | None = None) -> Trainer:
        from fashion_dist.bench._trainers import synchronize
        from fashion_dist.train import train_epoch

        session, feed = self._open(name, cache)
        if batches is not None:
            feed.loader.close()
            feed.loader = InMemory(batches, self._args.steps)  # type: ignore[assignment]

        def run() -> int:
            session.position.step = 0
            train_epoch(session, feed)
            session.position.epoch += 1
            synchronize(session.learner.device)
            return feed.loader.steps * session.config.train.batch_size

        return run

    def _peers(self, feed: SplitFeed, device: torch.device, progress: cli.Progress) -> dict[str, tuple[Trainer, str]]:
        """Each peer with its best number of workers; with and without bf16 where the hardware has it."""
        from fashion_dist.bench import _trainers
        from fashion_dist.bench._peers import write_files
        from fashion_dist.learner import compute_dtype

        args = self._args
        count = min(len(feed.split), args.steps * args.batch_size)
        root = self._scratch / "files"
        write_files(feed.split, count, root)
        amps = [False, True] if str(compute_dtype("auto", device)) == "torch.bfloat16" else [False]
        found = {}
        makers = {"timm": _trainers.timm_train, "torchvision": _trainers.torchvision_reference}
        workers = _trainers.worker_counts(_trainers.cores())
        tried, total = 0, len(makers) * len(amps) * len(workers)
        for name, make in makers.items():
            for amp in amps:
                best: tuple[float, Trainer, int] | None = None
                for number in workers:
                    trainer = make(args.model, root, args.image_px, args.batch_size, device, number, amp)
                    trainer()
                    began = time.perf_counter()
                    rate = trainer() / (time.perf_counter() - began)
                    if best is None or rate > best[0]:
                        best = rate, trainer, number
                    tried += 1
                    progress("tuning peers", tried, total)
                assert best is not None, "there is always a number to try"
                found[f"{name}{', amp' * amp}"] = best[1], f"{best[2]} workers"
        return found

    def segments(self) -> dict[str, float]:
        """Where the time of a step goes: fractions of an epoch from the cache, measured in a run of its own."""
        from fashion_dist.bench._trainers import synchronize
        from fashion_dist.train import train_epoch

        session, feed = self._sessions[CACHED]
        device = session.learner.device
        clock = Segments(lambda: synchronize(device))
        handles = clock.attach(session)
        feed.loader.epoch = clock.waiting(feed.loader.epoch)  # type: ignore[method-assign]
        session.position.step = 0
        train_epoch(session, feed)
        clock.mark("other")
        for handle in handles:
            handle.remove()
        return clock.shares()

    def machine(self) -> dict[str, Any]:
        """What it was measured on."""
        import torch

        from fashion_dist.bench._trainers import cores
        from fashion_dist.bench.loader import cpu_name

        device = self._sessions[BARE][0].learner.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
        dtype = str(self._sessions[BARE][0].learner.dtype)[6:]
        return {"device": name, "cores": cores(), "dtype": dtype, "told": f"{dtype}, {cores()} cores, {name}"}


class InMemory:
    """Takes the place of a loader: the same few batches, over and over."""

    def __init__(self, batches: list[tuple[torch.Tensor, torch.Tensor]], steps: int) -> None:
        self._batches = batches
        self.steps = steps

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches from step `start` on."""
        from fashion_dist.data import Batch

        del epoch
        for step in range(start, self.steps):
            yield Batch(*self._batches[step % len(self._batches)])

    def close(self) -> None:
        """Nothing to give back."""


class Segments:
    """Splits wall time by what the training loop does: `mark` ends a segment and begins the next.

    Args:
        synchronize: waits for the device, so that a segment's work is done when it ends.
    """

    def __init__(self, synchronize: Callable[[], None]) -> None:
        self._synchronize = synchronize
        self._at = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def mark(self, name: str) -> None:
        """What ran since the last mark was `name`."""
        self._synchronize()
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._at
        self._at = now

    def attach(self, session: Session) -> list[Any]:
        """Mark forward, loss and backward, and optimizer steps of a session's model; returns handles to remove."""
        learner = session.learner
        return [
            learner.model.register_forward_pre_hook(lambda *_: self.mark("other")),
            learner.model.register_forward_hook(lambda *_: self.mark("forward")),
            learner.optimizer.register_step_pre_hook(lambda *_: self.mark("loss and backward")),
            learner.optimizer.register_step_post_hook(lambda *_: self.mark("optimizer")),
        ]

    def waiting(self, epoch: Callable[..., Iterator[Batch]]) -> Callable[..., Iterator[Batch]]:
        """The same epochs, with the time until each batch marked as waiting for data."""

        def marked(*args: int) -> Iterator[Batch]:
            batches = epoch(*args)
            self.mark("other")
            for batch in batches:
                self.mark("waiting for data")
                yield batch
                self.mark("other")

        return marked

    def shares(self) -> dict[str, float]:
        """Fractions of the whole, the longest first."""
        total = sum(self.seconds.values())
        return {name: value / total for name, value in sorted(self.seconds.items(), key=lambda item: -item[1])}


def _measure(contenders: dict[str, tuple[Trainer, str]], rounds: int, progress: cli.Progress) -> dict[str, Measured]:
    from fashion_dist.bench._peers import cpu_seconds

    results = {name: Measured(setting=setting) for name, (_, setting) in contenders.items()}
    for trainer, _ in contenders.values():
        trainer()  # compilation, pools, page cache, and our own cache
    cpu = cpu_seconds()
    names = list(contenders)
    for turn in range(rounds * len(names)):
        # Every other round in the opposite order, so that nobody always follows the same neighbour.
        order = names if turn // len(names) % 2 == 0 else names[::-1]
        name = order[turn % len(names)]
        next(cpu)
        began = time.perf_counter()
        images = contenders[name][0]()
        results[name].rates.append(images / (time.perf_counter() - began))
        results[name].cpu_ms.append(next(cpu) * 1000 / images)
        progress("rounds", turn + 1, rounds * len(names))
    return results


def _ratio(results: dict[str, Measured], mine: str, other: str) -> float:
    """Median over the rounds of one rate over the other."""
    return statistics.median(a / b for a, b in zip(results[mine].rates, results[other].rates, strict=True))


def _cpu_ratio(results: dict[str, Measured], mine: str, other: str) -> float:
    """The same of images per second of processor time, which other users of the machine disturb less."""
    return statistics.median(results[other].cpu_ms) / statistics.median(results[mine].cpu_ms)


def _values(
    args: Args, results: dict[str, Measured], segments: dict[str, float], machine: dict[str, Any]
) -> dict[str, Any]:
    pairs = [(SYNTHETIC, BARE), (CACHED, SYNTHETIC), (JPEG, SYNTHETIC)]
    pairs += [(CACHED, name) for name in results if name.startswith(("timm", "torchvision"))]
    return {
        "task": args.task, "model": args.model, "image_px": args.image_px, "batch_size": args.batch_size,
        "steps": args.steps, **machine,
        "contenders": {
            name: {
                "images_per_s": round(statistics.median(result.rates), 1),
                "rounds": [round(rate, 1) for rate in result.rates],
                "cpu_ms_per_image": round(statistics.median(result.cpu_ms), 3),
                "setting": result.setting,
            }
            for name, result in results.items()
        },
        "ratios": {f"{mine} / {other}": round(_ratio(results, mine, other), 3) for mine, other in pairs},
        "cpu_ratios": {f"{mine} / {other}": round(_cpu_ratio(results, mine, other), 3) for mine, other in pairs},
        "segments": {name: round(share, 4) for name, share in segments.items()},
    }  # fmt: skip


def _table(results: dict[str, Measured], values: dict[str, Any]) -> str:
    lines = [f"{'':22}{'images/s':>10}{'CPU ms/image':>14}   setting"]
    for name, result in results.items():
        cpu_ms = statistics.median(result.cpu_ms)
        lines.append(f"{name:22}{statistics.median(result.rates):>10,.1f}{cpu_ms:>14.2f}   {result.setting}")
    lines += ["", f"{'':34}{'wall':>7}{'CPU':>7}"]
    for name, ratio in values["ratios"].items():
        lines.append(f"{name:34}{ratio:>7.3f}{values['cpu_ratios'][name]:>7.3f}")
    shares = ", ".join(f"{name} {share:.1%}" for name, share in values["segments"].items())
    lines += ["", f"a step from the cache: {shares}"]
    return "\n".join(lines)
