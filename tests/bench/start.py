"""`bench.py start`: from `launch.py` to the job's id, and from the job's start to its first step, part by part.

Real runs, launched one after the other and waited for; medians. The parts are what the job itself writes into
state.json: rank 0's process, the run folder's lock, imports, the model, the ranks' meeting, resuming, the data's
index and threads, and the first step. One more run is counted: the calls by which a rank reads its environment from
where it lies, and the working folder; of a shared filesystem they are asked of one server by all ranks at once.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import storage

from bench._ratios import figures_file
from bench.scale import LAUNCH
from fashion_dist import cli
from fashion_dist.errors import ConfigError, RunError
from fashion_dist.io import read_json
from fashion_dist.paths import Home


@dataclass(frozen=True, kw_only=True)
class Args(cli.CommonArgs):
    """Measure how long it takes from the command to the first step."""

    task: str = "deepfashion"
    """What is trained; its shard set stands in HOME/shards."""
    model: str = ""
    """A network; else the recipe's."""
    nodes: int = 2
    """Nodes of each run."""
    rounds: int = 3
    """Runs; the table shows medians."""
    cluster: Literal["auto", "slurm", "local"] = "auto"
    """Where."""
    out: str = ""
    """Where the JSON goes; else HOME/bench/start.json."""


@dataclass
class Measured:
    """What the runs took."""

    launch_s: list[float] = field(default_factory=list)
    """From typing `launch.py` to the job's id."""
    parts: list[dict[str, float]] = field(default_factory=list)
    """Seconds of each part of the start, in each run."""


def main(args: Args) -> cli.Result:
    """Measures, prints the table, writes the JSON."""
    if min(args.rounds, args.nodes) < 1:
        raise ConfigError("--rounds and --nodes must be 1 or more")
    home = Home.find(args.home)
    out = figures_file(args.out, home, "start")
    measured = Measured()
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch, cli.Progress() as progress:
        (Path(scratch) / "shards").symlink_to(home.shards)
        for number in range(args.rounds):
            launch_s, parts = _one_run(args, Path(scratch), number)
            measured.launch_s.append(launch_s)
            measured.parts.append(parts)
            progress("runs", number + 1, args.rounds)
        calls = _counted(args, Path(scratch)) if storage.compiler() else {}
    values = {**summary(measured), "calls_of_a_rank": calls}
    out.write_text(json.dumps(values, indent=1) + "\n")
    headline = f"{args.task} on {args.nodes} nodes: first step {values['first_step_s']:.1f} s after the job's start"
    return cli.Result(headline, paths={"figures": out}, data=values, text=_table(values))


def summary(measured: Measured) -> dict[str, Any]:
    """Medians over the runs; `first_step_s` is that of the sums, so the parts' medians need not add up to it."""
    names = list(dict.fromkeys(name for parts in measured.parts for name in parts))
    return {
        "launch_s": round(statistics.median(measured.launch_s), 3),
        "first_step_s": round(statistics.median(sum(parts.values()) for parts in measured.parts), 3),
        "parts_s": {
            name: round(statistics.median(parts.get(name, 0.0) for parts in measured.parts), 3) for name in names
        },
        "runs": [
            {"launch_s": round(launch_s, 3), "parts_s": parts}
            for launch_s, parts in zip(measured.launch_s, measured.parts, strict=True)
        ],
    }


def _table(values: dict[str, Any]) -> str:
    rows = [("launch.py, to the job's id", values["launch_s"]), *values["parts_s"].items()]
    rows.append(("job's start to first step", values["first_step_s"]))
    lines = [f"{'':28}{'seconds':>8}", *(f"{name:28}{seconds:>8.2f}" for name, seconds in rows)]
    if values["calls_of_a_rank"]:
        lines += ["", f"{'calls of a rank, start to end':32}{'names':>8}{'reads':>8}"]
        lines += [f"{where:32}{n['names']:>8,}{n['reads']:>8,}" for where, n in values["calls_of_a_rank"].items()]
    return "\n".join(lines)


def environment_roots() -> list[Path]:
    """The folders that this Python, its packages and this code are read from."""
    import torch

    found = {
        Path(name).resolve() for name in (sys.prefix, sys.base_prefix, torch.__path__[0] + "/..", LAUNCH.parents[1])
    }
    return sorted(path for path in found if not any(other in path.parents for other in found))


def _counted(args: Args, home: Path) -> dict[str, dict[str, int]]:
    """Of the busiest process of one run, a rank: the calls that name a file, and those that read one."""
    roots = environment_roots()
    counted = storage.Storage(storage.build(home), [*roots, home], counts=home / "counts", loader=True)
    preset = home / "counted.toml"
    told = "\n".join(f"{name} = {json.dumps(value)}" for name, value in counted.environment().items())
    preset.write_text(f"[environment]\n{told}\n")
    _one_run(args, home, args.rounds, "--preset", str(preset))
    of_env = [counted.calls(number) for number in range(len(roots))]
    names = {pid: sum(storage.metadata(calls.get(pid, Counter())) for calls in of_env) for pid in set().union(*of_env)}
    rank = max(names, key=lambda pid: names[pid])
    mine = counted.calls(len(roots)).get(rank, Counter())
    reads = sum(calls.get(rank, Counter())["read"] for calls in of_env)
    return {"environment": {"names": names[rank], "reads": reads},
            "working folder": {"names": storage.metadata(mine), "reads": mine["read"]}}  # fmt: skip


def _one_run(args: Args, home: Path, seed: int, *flags: str) -> tuple[float, dict[str, float]]:
    """How long `launch.py` took, and the parts of the start of one run of one epoch of a few steps."""
    settings = {"train.epochs": 1, "train.fraction": 0.001, "train.seed": seed}
    command = [
        sys.executable, str(LAUNCH), "--task", args.task, "--nodes", str(args.nodes), "--cluster", args.cluster,
        "--wandb", "off", "--home", str(home), "--json", *flags, *(["--model", args.model] if args.model else []),
        "--set", *(f"{name}={value}" for name, value in settings.items()),
    ]  # fmt: skip
    began = time.perf_counter()
    run = home / "runs" / _launch(command)["run_id"]
    launch_s = time.perf_counter() - began
    _launch([*command, "--wait"])  # the same run again: follows it to its end
    return launch_s, {name: float(seconds) for name, seconds in read_json(run / "state.json")["startup"].items()}


def _launch(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"launching ended with status {done.returncode}: {done.stderr.strip()[-500:]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told
