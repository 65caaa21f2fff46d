"""`bench.py ddp`: what options of DistributedDataParallel gain, on ranks of this machine.

One network and one batch in memory; forward, backward and optimizer, in alternating rounds. Ranks exchange gradients
over gloo, or over NCCL where each has a GPU of its own.

    as training has it   gradients are views of the buckets that are exchanged
    copied               gradients are copied into the buckets and back, DistributedDataParallel's default
    bf16                 `train.gradients=bf16`
    static_graph         DistributedDataParallel is promised that every step has the same graph
    without exchange     each rank for itself
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench._ratios import Contenders, cores, cpu_ratio, figures_file, measure, ratio
from fashion_dist import cli
from fashion_dist.errors import ConfigError, RunError
from fashion_dist.paths import Home

if TYPE_CHECKING:
    from fashion_dist.train.distributed import ProcessGroup

OURS = "as training has it"


@dataclass(frozen=True, kw_only=True)
class Args(cli.CommonArgs):
    """Measure the options by which ranks exchange gradients."""

    model: str = "resnet18"
    """A network."""
    image_px: int = 64
    """Height and width of the images."""
    batch_size: int = 8
    """Images of a rank in a step."""
    ranks: int = 2
    """Processes."""
    steps: int = 4
    """Steps of each contender in a round."""
    rounds: int = 5
    """Times that each contender runs; the table shows medians."""
    out: str = ""
    """Where the JSON goes; else HOME/bench/ddp.json."""


def main(args: Args) -> cli.Result:
    """Measures, prints the table, writes the JSON."""
    if min(args.rounds, args.steps) < 1 or args.batch_size < 2 or args.ranks < 2:
        raise ConfigError("--rounds and --steps must be 1 or more, --ranks and --batch-size 2 or more")
    home = Home.find(args.home)
    out = figures_file(args.out, home, "ddp")
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        context = multiprocessing.get_context("spawn")
        ranks = [context.Process(target=_rank, args=(rank, asdict(args), scratch)) for rank in range(args.ranks)]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()
        if any(rank.exitcode for rank in ranks):
            raise RunError("a rank ended early; what it said stands above")
        values = json.loads((Path(scratch) / "found.json").read_text())
    out.write_text(json.dumps(values, indent=1) + "\n")
    lines = [f"{'':26}{'images/s':>10}{'of ours':>9}{'CPU':>7}"]
    for name, found in values["contenders"].items():
        share = "".join(f"{value:{width}.3f}" for value, width in zip(values["ratios"][name], (9, 7), strict=True))
        lines.append(f"{name:26}{found['images_per_s']:>10,.1f}{share}")
    headline = f"{args.model} at {args.image_px} px, {args.ranks} ranks of {args.batch_size} images, {values['device']}"
    return cli.Result(headline, paths={"figures": out}, data=values, text="\n".join(lines))


def _rank(rank: int, values: dict[str, Any], folder: str) -> None:
    from fashion_dist.train.distributed import World, init_process_group

    args = Args(**values)
    with init_process_group(World(rank, args.ranks, rank, args.ranks), Path(folder) / "rendezvous") as dist:
        found = measure(_contenders(args, dist), args.rounds, cli.Progress(rank == 0))
        if rank:
            return
        ratios = {name: (ratio(found, name, [OURS]), cpu_ratio(found, name, [OURS])) for name in found}
        told = {"contenders": {name: each.to_json() for name, each in found.items()}, "ratios": ratios,
                "device": str(dist.device), "cores": cores(), **values}  # fmt: skip
        (Path(folder) / "found.json").write_text(json.dumps(told))


def _contenders(args: Args, dist: ProcessGroup) -> Contenders:
    import torch
    from torch.nn.parallel import DistributedDataParallel

    from bench._trainers import synchronize
    from fashion_dist.config import ModelConfig
    from fashion_dist.models.backbone import build_backbone

    torch.set_num_threads(max(cores() // args.ranks, 1))
    images = torch.randn(args.batch_size, 3, args.image_px, args.image_px, device=dist.device)
    images = images.contiguous(memory_format=torch.channels_last)
    ids = [dist.device.index] if dist.device.type == "cuda" else None

    def work(wrap: Callable[[torch.nn.Module], torch.nn.Module]) -> Callable[[], int]:
        torch.manual_seed(0)
        network, _ = build_backbone(ModelConfig(name=args.model), args.image_px)
        network = wrap(network.to(dist.device, memory_format=torch.channels_last))  # type: ignore[call-overload]
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9, fused=True)

        def run() -> int:
            for _ in range(args.steps):
                optimizer.zero_grad(set_to_none=True)
                network(images).square().mean().backward()
                optimizer.step()
            synchronize(dist.device)
            dist.barrier()  # or the next contender would wait for the slowest rank of this one
            return args.steps * args.batch_size

        return run

    def wrapped(**options: bool) -> Callable[[torch.nn.Module], torch.nn.Module]:
        return lambda network: DistributedDataParallel(network, device_ids=ids, **options)  # type: ignore[arg-type]

    return {
        OURS: (work(dist.wrap_ddp), ""),
        "copied": (work(wrapped()), ""),
        "bf16": (work(lambda network: dist.wrap_ddp(network, "bf16")), ""),
        "static_graph": (work(wrapped(gradient_as_bucket_view=True, static_graph=True)), ""),
        "without exchange": (work(lambda network: network), ""),
    }
