"""`bench.py gpu` (`make bench-gpu`): loader, training and time to an accuracy on one GPU, in one table and one JSON.

    loader           images/s of ImageFolder + DataLoader, and of ours decoding on the CPU, on the GPU, and cached there
    ResNet-50        224 px, bf16: `bench.py train`'s contenders, on the same card in the same run
    Fashion-MNIST    a run of launch.py, from typing it to the test accuracy

Unattended, and over within ten minutes: a part that would begin after `--minutes` is left out, and the table says so.
The JSON is written after each part. Images come from the shard set `deep_fashion` in HOME/shards, or another one that
is named; without any, garments are drawn and packed first, which are small: name photos to measure decoding by.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import train
from bench._ratios import Measured, cores, measure, ratio
from bench.scale import LAUNCH
from fashion_dist import cli
from fashion_dist.cluster.placement import local_gpus
from fashion_dist.errors import ConfigError, RunError
from fashion_dist.io import read_json, read_lines, write_json
from fashion_dist.paths import Home

PEER, ON_CPU, ON_GPU, CACHED = (
    "ImageFolder + DataLoader",
    "ours, decoded on the CPU",
    "ours, on the GPU",
    "ours, cached",
)
WANTED_ACCURACY = 0.94
FASHION_MNIST = (
    "model.hue_jitter_prob=0", "train.epochs=24", "train.batch_size=512", "train.eval_batch_size=2048", "optim.lr=4e-3",
    "optim.schedule=onecycle", "optim.weight_decay=0.05", "train.ema=0.99", "train.patience=0", "data.flip=0.5",
    "data.erase=0.3",
)  # fmt: skip
"""Settings of the convolutional network that is to reach the accuracy."""


@dataclass(frozen=True, kw_only=True)
class Args(cli.CommonArgs):
    """Measure one CUDA GPU, unattended, within ten minutes."""

    dataset: str = ""
    """Photos with categories, a folder of HOME/shards; else deep_fashion, else drawn garments."""
    model: str = "resnet50"
    """A network that torchvision and timm both have."""
    image_px: int = 224
    """Height and width of the training crops."""
    batch_size: int = 256
    """Images a step."""
    steps: int = 10
    """Steps of each contender in a round."""
    rounds: int = 5
    """Times that each contender runs; the table shows medians."""
    images: int = 4096
    """Images that an epoch of the loaders reads."""
    minutes: float = 8.0
    """No part begins later than this."""
    out: str = ""
    """Where the JSON goes; else HOME/bench/gpu.json."""


def main(args: Args) -> cli.Result:
    """Refuses a machine without a GPU; measures, prints the table, writes the JSON."""
    if min(args.rounds, args.batch_size, args.steps, args.images) < 1:
        raise ConfigError("--rounds, --steps, --batch-size and --images must be 1 or more")
    if not local_gpus():
        raise ConfigError("bench.py gpu needs a CUDA GPU, and there is none here; bench.py loader and train need none")
    home = Home.find(args.home)
    out = Path(args.out).expanduser().absolute() if args.out else home.path / "bench" / "gpu.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    with cli.Progress() as progress:
        values = measured(args, home, out, progress)
    headline = f"{values['machine']['device']}, {values['machine']['cores']} cores, {values['minutes']:.1f} minutes"
    return cli.Result(headline, paths={"figures": out}, data=values, text=table(values))


def measured(args: Args, home: Home, out: Path, progress: cli.Progress) -> dict[str, Any]:
    """Every part in turn, each written to `out` when it is done; runs on a CPU as well, to be tried there."""
    began = time.monotonic()
    dataset = args.dataset or _photos(home)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "loader": lambda: _loaders(args, home, dataset, progress),
        "training": lambda: train.measured(_training(args, dataset), home, out.parent, progress),
        "fashion_mnist": lambda: fashion_mnist(home, out.parent),
    }
    values: dict[str, Any] = {"machine": _machine(), "dataset": dataset, "model": args.model, "left_out": {}}
    for name, part in parts.items():
        if (time.monotonic() - began) / 60 > args.minutes:
            values["left_out"][name] = f"more than {args.minutes:g} minutes had passed"
        elif name == "fashion_mnist" and not (home.shard_set("fashion_mnist") / "manifest.json").is_file():
            values["left_out"][name] = f"no shard set {home.shard_set('fashion_mnist')}; jobs/pack.py makes it"
        else:
            try:
                values[name] = part()
            except (RunError, RuntimeError) as error:  # such as too little memory on the card: the other parts go on
                values["left_out"][name] = " ".join(str(error).split())[:300]
        values["minutes"] = round((time.monotonic() - began) / 60, 2)
        write_json(out, values)
    return values


def _photos(home: Home) -> str:
    if (home.shard_set("deep_fashion") / "manifest.json").is_file():
        return "deep_fashion"
    if not (home.shard_set("synthetic") / "manifest.json").is_file():
        pack = [sys.executable, str(LAUNCH.with_name("pack.py")), "--dataset", "synthetic", "--home", str(home.path)]
        done = subprocess.run(pack, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RunError(f"packing drawn garments ended with status {done.returncode}: {done.stderr.strip()[-500:]}")
    return "synthetic"


def _machine() -> dict[str, Any]:
    import torch

    from bench._ratios import cpu_name

    on_gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_gpu else "no GPU"
    return {
        "device": device,
        "cpu": cpu_name(),
        "cores": cores(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }


def _training(args: Args, dataset: str) -> train.Args:
    return train.Args(
        dataset=dataset, model=args.model, image_px=args.image_px, batch_size=args.batch_size, steps=args.steps,
        rounds=args.rounds,
    )  # fmt: skip


def _loaders(args: Args, home: Home, dataset: str, progress: cli.Progress) -> dict[str, Any]:
    import torch

    from bench import _peers
    from bench.loader import Args as LoaderArgs
    from bench.loader import ours, tune, work_of
    from fashion_dist.train.distributed import World

    device, cpu = World().device(), torch.device("cpu")
    wanted = LoaderArgs(image_px=args.image_px, batch_size=args.batch_size, images=args.images)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as closing:
        work = work_of(wanted, home.shard_set(dataset), Path(scratch))
        contenders = {
            PEER: tune(_peers.image_folder, work, progress, 0, 1),
            ON_CPU: (ours(work, closing, "none", cpu), f"{work.cores} threads, on the CPU"),
        }
        if device.type == "cuda":
            contenders[ON_GPU] = ours(work, closing, "none", device), "nvJPEG and the hardware decoder"
        cache = "gpu" if device.type == "cuda" else "ram"
        contenders[CACHED] = ours(work, closing, cache, device), f"cache: {cache}, later epochs"
        results = measure(contenders, args.rounds, progress)
    ratios = {f"{name} / {PEER}": round(ratio(results, name, [PEER]) or 0.0, 3) for name in results if name != PEER}
    return {"images": work.images, "contenders": _plain(results), "ratios": ratios}


def _plain(results: Mapping[str, Measured]) -> dict[str, Any]:
    return {name: result.to_json() for name, result in results.items()}


def fashion_mnist(home: Home, folder: Path, settings: tuple[str, ...] = FASHION_MNIST) -> dict[str, Any]:
    """A run of the convolutional network from typing the command: seconds to its test accuracy, and the accuracy.

    Raises:
        RunError: the run did not get to its end.
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        (Path(scratch) / "shards").symlink_to(home.shards)
        command = [
            sys.executable, str(LAUNCH), "--task", "fashion_mnist", "--model", "fashionnet", "--cluster", "local",
            "--cache", "auto", "--wandb", "off", "--wait", "--json", "--home", scratch, "--set", *settings,
        ]  # fmt: skip
        began = time.time()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RunError(f"the run ended with status {done.returncode}: {done.stderr.strip()[-500:]}")
        run = Path(scratch) / "runs" / json.loads(done.stdout.splitlines()[-1])["run_id"]
        lines, startup = read_lines(run / "metrics.jsonl"), read_json(run / "state.json")["startup"]
    test = next(line for line in lines if line["split"] == "test")
    return {
        "settings": list(settings),
        "seconds": round(test["time"] - began, 2),
        "first_step_s": round(sum(startup.values()), 2),
        "test_accuracy": test["accuracy"],
        "val_accuracy": [line["accuracy"] for line in lines if line["split"] == "val"],
    }


def table(values: Mapping[str, Any]) -> str:
    """What was measured, as lines for a person; what was left out is named with the reason."""
    lines: list[str] = []
    if "loader" in values:
        lines += [f"loader, {values['loader']['images']} images", f"{'':28}{'images/s':>10}{'ratio':>8}   setting"]
        for name, result in values["loader"]["contenders"].items():
            faster = values["loader"]["ratios"].get(f"{name} / {PEER}")
            shown = "" if faster is None else f"{faster:.2f}"
            lines.append(f"{name:28}{result['images_per_s']:>10,.0f}{shown:>8}   {result['setting']}")
    if "training" in values:
        lines += ["", f"{values['model']}, {values['training']['dtype']}", train.table(values["training"])]
    if "fashion_mnist" in values:
        found = values["fashion_mnist"]
        reached = "reached" if found["test_accuracy"] >= WANTED_ACCURACY else "NOT reached"
        lines += [
            "",
            f"Fashion-MNIST: test accuracy {found['test_accuracy']:.4f} ({WANTED_ACCURACY:.0%} {reached}) "
            f"{found['seconds']:.1f} s after launch.py was typed, the first step {found['first_step_s']:.1f} s "
            "after the process began",
        ]
    lines += [f"{name}: left out: {reason}" for name, reason in values["left_out"].items()]
    return "\n".join(lines)
