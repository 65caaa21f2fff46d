"""`bench.py checkpoint`: what saving every 50 steps costs, in the training loop itself.

Blocks of 50 steps of the deepfashion recipe run in turns: one with a checkpoint at its beginning, written while the
steps go on and waited for at its end, one without. On a busy machine the difference drowns in noise, so each pair is
followed by a checkpoint with no steps beside it: its processor time, of the writing thread too, is what one costs.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench._ratios import figures_file
from fashion_dist import cli
from fashion_dist.errors import ConfigError
from fashion_dist.paths import Home

if TYPE_CHECKING:
    from fashion_dist.train.split_loader import SplitLoader
from fashion_dist.train.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Args(cli.CommonArgs):
    """Measure the cost of checkpoints; writes below HOME, so that is the disk measured."""

    task: str = "deepfashion"
    """What is trained; its shard set stands in HOME/shards."""
    image_px: int = 0
    """Height and width of the images; 0 is the recipe's."""
    batch_size: int = 0
    """Images a step; 0 is the recipe's."""
    steps: int = 50
    """Steps from one checkpoint to the next."""
    rounds: int = 5
    """Pairs of blocks, with and without; the table shows medians."""
    out: str = ""
    """Where the JSON goes; else HOME/bench/checkpoint.json."""


def main(args: Args) -> cli.Result:
    """Measures, prints the table, writes the JSON."""
    if args.rounds < 1 or args.steps < 1:
        raise ConfigError("--rounds and --steps must be 1 or more")
    home = Home.find(args.home)
    out = figures_file(args.out, home, "checkpoint")
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch, cli.Progress() as progress:
        trainer, train = _open(args, home, Path(scratch) / "runs" / "bench")
        with train:
            blocks = _measure(trainer, train, args, progress)
        trainer.close()
        newest = max(trainer.run.checkpoints.glob("step-*"))
        size = json.loads((newest / "manifest.json").read_text())["bytes"]
    cost = {kind: _cost(blocks.of(kind)) for kind in ("wall", "cpu")}
    alone_s = statistics.median(blocks.alone_s)
    share = alone_s / statistics.median(blocks.of("cpu")[1])
    held_s = statistics.median(blocks.held_s)
    values: dict[str, Any] = {
        "task": args.task,
        "image_px": trainer.config.data.image_px,
        "batch_size": trainer.config.train.batch_size,
        "steps": args.steps,
        "checkpoint_bytes": size,
        "cost": round(share, 5),
        "held_s": round(held_s, 4),
        "alone_cpu_s": round(alone_s, 4),
    }
    for kind, value in cost.items():
        saving, plain = blocks.of(kind)
        values[kind] = {"cost": round(value, 5), "with_s": saving, "without_s": plain}
    out.write_text(json.dumps(values, indent=1) + "\n")
    lines = [f"{args.steps} steps, median    with      without        cost"]
    for kind, words in (("wall", "wall time, s"), ("cpu", "processor time, s")):
        with_it, without = (statistics.median(found) for found in blocks.of(kind))
        lines.append(f"{words:<18} {with_it:8.2f}     {without:8.2f}    {cost[kind]:8.2%}")
    return cli.Result(
        f"a checkpoint of {size / 1e6:.1f} MB every {args.steps} steps costs {share:.2%} of the run: {alone_s:.2f} s "
        f"of processor time; it holds the loop for {held_s * 1000:.0f} ms",
        paths={"figures": out},
        data=values,
        text="\n".join(lines),
    )


@dataclass
class Blocks:
    """Seconds of each block, in pairs, as (wall, processor); and of saving."""

    saving: list[tuple[float, float]] = field(default_factory=list)
    plain: list[tuple[float, float]] = field(default_factory=list)
    held_s: list[float] = field(default_factory=list)
    """Wall time for which saving held the loop."""
    alone_s: list[float] = field(default_factory=list)
    """Processor time of a checkpoint with no steps beside it."""

    def of(self, kind: str) -> tuple[list[float], list[float]]:
        """The `wall` or `cpu` seconds of the blocks with a checkpoint, and of those without."""
        index = ("wall", "cpu").index(kind)
        return [block[index] for block in self.saving], [block[index] for block in self.plain]


def _cost(blocks: tuple[list[float], list[float]]) -> float:
    """The median difference of the pairs, as a fraction of a block without a checkpoint."""
    saving, plain = blocks
    return statistics.median(a - b for a, b in zip(saving, plain, strict=True)) / statistics.median(plain)


def _open(args: Args, home: Home, folder: Path) -> tuple[Trainer, SplitLoader]:
    """A fresh run in this process alone, and its training split."""
    from bench._open import open_trainer
    from fashion_dist.tasks import load

    config = load(args.task).recipe
    data = dataclasses.replace(config.data, image_px=args.image_px or config.data.image_px)
    train = dataclasses.replace(config.train, batch_size=args.batch_size or config.train.batch_size)
    config = dataclasses.replace(config, data=data, train=train)
    trainer = open_trainer(config, home, folder)
    return trainer, trainer.split_loader("train")


def _measure(trainer: Trainer, train: SplitLoader, args: Args, progress: cli.Progress) -> Blocks:
    batches = (batch for epoch in range(1 << 30) for batch in train.loader.epoch(epoch))
    blocks = Blocks()

    def step() -> None:
        float(trainer.train_step(train, [next(batches)])["gradient_norm"])
        trainer.state.global_step += 1

    def block(save: bool) -> tuple[float, float]:
        began, used = time.perf_counter(), time.process_time()
        if save:
            trainer.save_checkpoint()
            blocks.held_s.append(time.perf_counter() - began)
        for _ in range(args.steps):
            step()
        trainer.checkpoints.wait()
        return time.perf_counter() - began, time.process_time() - used

    step()  # pools and page cache
    for turn in range(2 * args.rounds):
        # Every other pair in the opposite order, so that neither always follows the other.
        save = (turn % 2 == 0) == (turn // 2 % 2 == 0)
        (blocks.saving if save else blocks.plain).append(block(save))
        if turn % 2:
            used = time.process_time()
            trainer.save_checkpoint()
            trainer.checkpoints.wait()
            blocks.alone_s.append(time.process_time() - used)
        progress("blocks", turn + 1, 2 * args.rounds)
    return blocks
