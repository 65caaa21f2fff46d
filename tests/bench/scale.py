"""`bench.py scale`: what a second rank brings, measured; and what 512 would, forecast from it.

Weak scaling: every rank has the same batch, so N ranks do N times the work of a step. Runs of the real job through
`launch.py`, each node one core of the local Slurm (or one task with `--cluster local`), in turns; medians.
`--plan NODESxGPUS` forecasts with a stated model (`bench._forecast`), whose assumptions are printed.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from bench._forecast import Forecast, Machine, forecast
from bench._ratios import figures_file
from bench._set_plan import lines, set_plan
from fashion_dist import cli
from fashion_dist.errors import ConfigError, RunError
from fashion_dist.paths import Home
from shards import ShardSet
from shards.portable import cpus, set_cpus

LAUNCH = Path(__file__).parents[2] / "jobs" / "launch.py"


@dataclass(frozen=True, kw_only=True)
class Args(cli.CommonArgs):
    """Measure how training scales over ranks, and forecast how it goes on."""

    task: str = "deepfashion"
    """What is trained; its shard set stands in HOME/shards."""
    model: str = ""
    """A network; else the recipe's."""
    image_px: int = 96
    """Height and width of the images."""
    batch_size: int = 32
    """Images of one rank's step."""
    steps: int = 40
    """Steps of a run; the first 20 do not count."""
    nodes: tuple[int, ...] = (1, 2)
    """Numbers of nodes to measure."""
    rounds: int = 3
    """Runs of each."""
    cluster: str = "auto"
    """slurm, local, or auto."""
    plan: str = ""
    """NODESxGPUS, such as 64x8: forecast up to that size."""
    network_gbytes: float = 25.0
    """For the forecast: GB/s of a node's network."""
    node_gbytes: float = 200.0
    """For the forecast: GB/s between the GPUs of a node."""
    latency_us: float = 10.0
    """For the forecast: of a message between nodes."""
    filesystem_gbytes: float = 10.0
    """For the forecast: GB/s of the shared filesystem, all nodes together."""
    loads_per_s: float = 0.0
    """For the forecast: images a second that one rank's loader prepares (`bench.py loader`); 0 is never too few."""
    step_ms: float = 0.0
    """For the forecast: one rank's step alone; 0 is what was measured. With it nothing is measured."""
    images: float = 0.0
    """For the forecast: images of a set that is not here, such as 14.2e6; with --set-gbytes."""
    set_gbytes: float = 0.0
    """For the forecast: GB of these images."""
    parameters: float = 0.0
    """For the forecast: the network's parameters, such as 25.6e6; 0 is the task's own network."""
    pack_cores: int = 64
    """For the forecast: cores of the node that packs."""
    calls_per_s: float = 20_000.0
    """For the forecast: calls a second that the filesystem's server of metadata answers."""
    out: str = ""
    """Where the JSON goes; else HOME/bench/scale.json."""


def main(args: Args) -> cli.Result:
    """Measures, forecasts, prints the table, writes the JSON."""
    sizes = _sizes(args.plan) if args.plan else []
    if min(args.rounds, args.batch_size, *args.nodes) < 1 or args.steps <= 20:
        raise ConfigError("--rounds, --batch-size and --nodes must be 1 or more, --steps more than 20")
    if args.step_ms and not sizes:
        raise ConfigError("--step-ms is for a forecast: add --plan NODESxGPUS, such as --plan 64x8")
    if bool(args.images) != bool(args.set_gbytes) or (args.images and not (args.step_ms and args.parameters)):
        raise ConfigError("--images, --set-gbytes, --parameters and --step-ms describe a set that is not here together")
    home = Home.find(args.home)
    out = figures_file(args.out, home, "scale")
    rates = {} if args.step_ms else _measured(args, home, out.parent)
    step_s = args.step_ms / 1000 or args.batch_size / statistics.median(rates[min(rates)])
    machine = _machine(args, home, step_s)
    points = [forecast(machine, nodes, per_node) for nodes, per_node in sizes]
    ranks, size = (points[-1].ranks if points else 1), machine.samples * machine.sample_bytes
    costs = set_plan(machine.samples, size, ranks, args.pack_cores, args.filesystem_gbytes, args.calls_per_s)
    checked = {nodes: forecast(_loopback(machine, nodes), nodes, 1) for nodes in rates}
    values = {
        "images_per_s": {str(nodes): [round(rate, 2) for rate in found] for nodes, found in rates.items()},
        "efficiency": {str(nodes): round(_efficiency(rates, nodes), 4) for nodes in rates},
        "forecast_of_measured": {str(nodes): round(point.efficiency, 4) for nodes, point in checked.items()},
        "assumptions": asdict(machine),
        "forecast": [asdict(point) for point in points],
        "set": asdict(costs),
    }
    out.write_text(json.dumps(values, indent=1) + "\n")
    planned = lines(costs, machine.samples, size, ranks) if points else []
    text = "\n".join([*_measured_lines(rates, checked), *_forecast_lines(machine, points), *planned])
    what = "a set that is not here" if args.images else f"{args.task} at {args.image_px} px"
    return cli.Result(what, paths={"figures": out}, data=values, text=text)


def _sizes(plan: str) -> list[tuple[int, int]]:
    """1 GPU, one node, and doublings of nodes up to `plan`."""
    nodes, _, gpus = plan.partition("x")
    if not (nodes.isdigit() and gpus.isdigit() and 1 <= int(nodes) * int(gpus) <= 512):
        raise ConfigError(f"--plan {plan!r} is not possible; allowed: NODESxGPUS such as 64x8, 512 GPUs at most")
    last, per_node = int(nodes), int(gpus)
    counts = [count for count in (2**power for power in range(10)) if count < last]
    return list(dict.fromkeys([(1, 1), *((count, per_node) for count in [*counts, last])]))


def _measured(args: Args, home: Home, folder: Path) -> dict[int, list[float]]:
    """Images/s of each run, by the number of nodes."""
    rates: dict[int, list[float]] = {nodes: [] for nodes in sorted(args.nodes)}
    with tempfile.TemporaryDirectory(dir=folder) as scratch, cli.Progress() as progress:
        (Path(scratch) / "shards").symlink_to(home.shards)
        total = args.rounds * len(rates)
        for turn in range(total):
            order = list(rates) if turn // len(rates) % 2 == 0 else list(rates)[::-1]
            nodes = order[turn % len(rates)]
            rates[nodes].append(_one_run(args, Path(scratch), nodes, turn))
            progress("runs", turn + 1, total)
    return rates


def _one_run(args: Args, home: Path, nodes: int, seed: int) -> float:
    """Images/s of one run on so many nodes: the median of its windows after the first 20 steps."""
    batch = args.batch_size * nodes
    samples = ShardSet.open(home / "shards" / _dataset(args.task)).splits["train"]
    fraction = min(1.0, (batch * args.steps + 0.5) / samples)
    epochs = max(1, round(args.steps * batch / (samples * fraction)))
    settings = {
        "data.image_px": args.image_px, "train.batch_size": batch, "train.epochs": epochs,
        "train.fraction": fraction, "train.seed": seed, "optim.warmup_epochs": 0,
    }  # fmt: skip
    command = [
        sys.executable, str(LAUNCH), "--task", args.task, "--nodes", str(nodes), "--cluster", args.cluster,
        "--cpus-per-task", "1", "--cache", "ram", "--wandb", "off", "--home", str(home), "--wait", "--json", "--fresh",
        *(["--model", args.model] if args.model else []),
        "--set", *(f"{name}={value}" for name, value in settings.items()),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"a run on {nodes} nodes ended with status {done.returncode}: {done.stderr.strip()[-500:]}")
    run = home / "runs" / json.loads(done.stdout.splitlines()[-1])["run_id"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [line["samples_per_s"] for line in lines if line["split"] == "train" and line["step"] > 20]
    return float(statistics.median(found))


def _dataset(task: str) -> str:
    from fashion_dist.tasks import load, names

    if not (found := load(task).recipe.dataset):
        having = ", ".join(name for name in names() if load(name).recipe.dataset)
        raise ConfigError(f"--task {task} has no data set of its own; allowed: {having}")
    return found


def _machine(args: Args, home: Home, step_s: float) -> Machine:
    from fashion_dist.tasks import load

    if args.images:
        parameters, samples, each = args.parameters, int(args.images), args.set_gbytes * 1e9 / args.images
    else:
        task = load(args.task)
        shard_set = ShardSet.open(home.shard_set(_dataset(args.task)))
        config = task.recipe.override([f"model.name={args.model or task.recipe.model.name}"])
        parameters = float(sum(p.numel() for p in task.build_model(config, shard_set.schema).parameters()))
        each = sum(shard.size for shard in shard_set.manifest.shards) / sum(shard_set.splits.values())
        samples = shard_set.splits["train"]
    return Machine(
        compute_s=step_s,
        batch=args.batch_size,
        gradient_bytes=4.0 * parameters,
        node_gbytes=args.node_gbytes,
        network_gbytes=args.network_gbytes,
        latency_us=args.latency_us,
        loads_per_s=args.loads_per_s or float("inf"),
        sample_bytes=each,
        filesystem_gbytes=args.filesystem_gbytes,
        samples=samples,
    )


def _loopback(machine: Machine, nodes: int) -> Machine:
    """The same on one machine, a core a node: gloo's exchange as it is measured here, which no computation hides."""
    if nodes == 1:
        return machine
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("spawn")
        told = context.SimpleQueue()
        given = [(rank, nodes, int(machine.gradient_bytes), folder, told) for rank in range(nodes)]
        ranks = [context.Process(target=_exchange, args=arguments) for arguments in given]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()
        if any(rank.exitcode for rank in ranks):
            raise RunError(f"an exchange of {machine.gradient_bytes / 1e6:.0f} MB between {nodes} processes failed")
    moved = 2 * (nodes - 1) / nodes * machine.gradient_bytes
    return dataclasses.replace(machine, network_gbytes=moved / told.get() / 1e9, latency_us=0.0, overlap=0.0)


def _exchange(rank: int, ranks: int, size: int, folder: str, told: multiprocessing.SimpleQueue[float]) -> None:
    """One rank, which exchanges gradients of `size` bytes as in training; rank 0 tells the seconds that this takes."""
    cores = cpus()
    set_cpus([cores[rank % len(cores)]])
    import torch

    from fashion_dist.train.distributed import World, init_process_group

    torch.set_num_threads(1)
    # Each layer adds up its inputs: as cheap as gradients of that size can be had.
    layers = torch.nn.ModuleList(torch.nn.Linear(250_000, 1, bias=False) for _ in range(max(1, round(size / 1e6))))
    model = torch.nn.Module()
    model.layers = layers
    model.forward = lambda x: sum(layer(x).sum() for layer in layers)
    with init_process_group(World(rank, ranks, rank, ranks), Path(folder) / "rendezvous") as dist:
        parallel = dist.wrap_ddp(model)
        more = []
        for _ in range(9):  # a backward pass with the exchange and one without, in turns
            taken = {}
            for exchange in (True, False):
                with dist.gradients(parallel, exchange):
                    total = parallel(torch.ones(1, 250_000))
                    began = time.perf_counter()
                    total.backward()
                    taken[exchange] = time.perf_counter() - began
            more.append(taken[True] - taken[False])
    if rank == 0:
        told.put(max(1e-6, statistics.median(more)))


def _efficiency(rates: dict[int, list[float]], nodes: int) -> float:
    """Median over the rounds of the rate per node against the smallest number of nodes'."""
    least = min(rates)
    pairs = zip(rates[nodes], rates[least], strict=True)
    return statistics.median((mine / nodes) / (base / least) for mine, base in pairs)


def _measured_lines(rates: dict[int, list[float]], checked: dict[int, Forecast]) -> list[str]:
    if not rates:
        return []
    lines = [f"{'nodes':>6}{'images/s':>10}{'efficiency':>12}{'forecast':>10}"]
    for nodes, found in rates.items():
        efficiency = _efficiency(rates, nodes)
        lines.append(
            f"{nodes:>6}{statistics.median(found):>10,.1f}{efficiency:>12.3f}{checked[nodes].efficiency:>10.3f}"
        )
    return lines


def _forecast_lines(machine: Machine, points: list[Forecast]) -> list[str]:
    if not points:
        return []
    loads = "as fast as needed" if machine.loads_per_s == float("inf") else f"{machine.loads_per_s:,.0f} images/s"
    lines = [
        "",
        f"assumed: a step of {machine.compute_s * 1000:.1f} ms for {machine.batch} images, "
        f"{machine.gradient_bytes / 1e6:.1f} MB of gradients, {machine.node_gbytes:g} GB/s in a node,",
        f"{machine.network_gbytes:g} GB/s and {machine.latency_us:g} us between nodes, loaders {loads}, "
        f"{machine.sample_bytes / 1e3:.1f} kB an image, filesystem {machine.filesystem_gbytes:g} GB/s",
        f"{'nodes':>6}{'GPUs':>6}{'images/s':>14}{'efficiency':>12}{'epoch s':>10}{'reads GB/s':>12}  first limit",
    ]
    return lines + [
        f"{point.nodes:>6}{point.ranks:>6}{point.samples_per_s:>14,.0f}{point.efficiency:>12.3f}"
        f"{point.epoch_s:>10.2f}{point.filesystem_gbytes:>12.3f}  {point.bottleneck}"
        for point in points
    ]
