"""`bench.py train`: our trainer beside its own ceilings, timm's training and torchvision's reference.

One network, one set of images, one batch size, in one process and alternating runs; the table shows medians, and ratios
are taken within a round. Ours runs the very functions of a run: `train_epoch` with loader, schedule, logs and state.

    bare loop                  forward, loss, backward, optimizer, on a batch in memory
    ours, synthetic            our loop on batches in memory
    ours, cached               our loop on decoded images in RAM (or on the GPU), crops and all
    ours, from JPEG            our loop on encoded images
    bare loop, set in memory   the bare loop on a tensor of all images, in a random order; where they have one size
    timm, torchvision          theirs, on the same images as files

Fashion-MNIST in whole epochs: `--task fashion_mnist --model mlp --image-px 28 --batch-size 256 --steps 210`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench._ratios import Measured, cpu_ratio, figures_file, measure, ratio
from fashion_dist import cli
from fashion_dist.errors import ConfigError
from fashion_dist.paths import Home


@dataclass(frozen=True, kw_only=True)
class Args(cli.CommonArgs):
    """Measure training against its ceilings and against what people use."""

    task: str = "deepfashion"
    """Whose images and loss; its shard set stands in HOME/shards."""
    dataset: str = ""
    """The shard set; else the task's own."""
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
    """Compile the model (ours and the bare loop), and show what that gains."""
    trace: str = ""
    """Write a trace of torch's profiler of an epoch from the cache there, for chrome://tracing."""
    out: str = ""
    """Where the JSON goes; else HOME/bench/train.json."""


def main(args: Args) -> cli.Result:
    """Measures, prints the table, writes the JSON."""
    if min(args.rounds, args.batch_size, args.steps) < 1:
        raise ConfigError("--rounds, --steps and --batch-size must be 1 or more")
    home = Home.find(args.home)
    out = figures_file(args.out, home, "train")
    with cli.Progress() as progress:
        values = measured(args, home, out.parent, progress)
    out.write_text(json.dumps(values, indent=1) + "\n")
    told = f"{values['dtype']}, {values['cores']} cores, {values['device']}"
    headline = f"{args.model} at {args.image_px} px, batches of {args.batch_size}, {told}"
    paths = {"figures": out, **({"trace": Path(args.trace).expanduser().absolute()} if args.trace else {})}
    return cli.Result(headline, paths=paths, data=values, text=table(values))


def measured(args: Args, home: Home, folder: Path, progress: cli.Progress) -> dict[str, Any]:
    """All contenders measured; `folder` is for scratch files.

    Raises:
        ConfigError: the shard set has fewer training images than a batch.
        InputError: there is no such shard set in HOME/shards.
    """
    from bench._contenders import Bench

    trace = Path(args.trace).expanduser().absolute() if args.trace else None
    with tempfile.TemporaryDirectory(dir=folder) as scratch, ExitStack() as closing:
        bench = Bench(args, home, Path(scratch), closing)
        results = measure(bench.contenders(progress), args.rounds, progress)
        return _values(args, results, bench.segments(trace), bench.machine())


def _values(
    args: Args, results: Mapping[str, Measured], segments: Mapping[str, float], machine: Mapping[str, Any]
) -> dict[str, Any]:
    from bench._contenders import BARE, CACHED, IN_MEMORY, JPEG, PEERS, PLAIN, SYNTHETIC

    pairs = [(SYNTHETIC, BARE), (CACHED, SYNTHETIC), (JPEG, SYNTHETIC)]
    pairs += [(BARE, PLAIN)] if PLAIN in results else []
    pairs += [(CACHED, name) for name in results if name == IN_MEMORY or name.startswith(PEERS)]
    return {
        "task": args.task, "model": args.model, "image_px": args.image_px, "batch_size": args.batch_size,
        "steps": args.steps, **machine,
        "contenders": {name: result.to_json() for name, result in results.items()},
        "ratios": {f"{mine} / {other}": _rounded(ratio(results, mine, [other])) for mine, other in pairs},
        "cpu_ratios": {f"{mine} / {other}": _rounded(cpu_ratio(results, mine, [other])) for mine, other in pairs},
        "segments": {name: round(share, 4) for name, share in segments.items()},
    }  # fmt: skip


def _rounded(value: float | None) -> float:
    assert value is not None, "both were measured"
    return round(value, 3)


def table(values: Mapping[str, Any]) -> str:
    """What was measured, as lines for a person."""
    lines = [f"{'':26}{'images/s':>10}{'CPU ms/image':>14}   setting"]
    for name, result in values["contenders"].items():
        rate, cpu_ms = result["images_per_s"], result["cpu_ms_per_image"]
        lines.append(f"{name:26}{rate:>10,.1f}{cpu_ms:>14.2f}   {result['setting']}")
    lines += ["", f"{'':41}{'wall':>7}{'CPU':>7}"]
    for name, wall in values["ratios"].items():
        lines.append(f"{name:41}{wall:>7.3f}{values['cpu_ratios'][name]:>7.3f}")
    shares = ", ".join(f"{name} {share:.1%}" for name, share in values["segments"].items())
    lines += ["", f"a step from the cache: {shares}"]
    return "\n".join(lines)
