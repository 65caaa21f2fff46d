"""The main job on two nodes, from drawing the pictures to verified submission files: `make demo`.

Runs the same commands that a user types, each shown before it runs.
"""

from __future__ import annotations

import csv
import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fashion_dist import cli
from fashion_dist.cluster import safe_python
from fashion_dist.errors import ConfigError, RunError
from fashion_dist.paths import Home
from shards import program
from shards.readers.synthetic import ATTRIBUTES, TRAITS

# Chosen for six minutes of two cores without bf16; the real recipe is the task's own.
SHORT = ("data.image_px=64", "optim.warmup_epochs=0.5", "train.mixup=0", "train.cutmix=0", "train.ema=0.97")
SYNTHETIC = ("train.epochs=20", "data.crop_scale=0.8,1.0", "data.eval_resize=1.0", *SHORT)
PHOTOS = ("train.epochs=10", *SHORT)


@dataclass(frozen=True, kw_only=True)
class Args(cli.CommonArgs):
    """Pack, launch on 2 nodes, collect and report."""

    data: str = ""
    """A folder with deep_fashion/ in it; else garments are drawn."""


def main(args: Args) -> cli.Result:
    """Run the main job."""
    started = time.monotonic()
    home = Home.find(args.home)
    dataset = "deep_fashion" if args.data else "synthetic"
    source = ("--source", args.data) if args.data else ()
    settings = PHOTOS if args.data else SYNTHETIC
    at = ("--home", str(home.path))
    step("pack", "--dataset", dataset, *source, *at)
    launch = ("launch", "--task", "deepfashion", "--dataset", dataset, "--nodes", "2", "--cluster", "local", "--wait")
    run_id = step(*launch, "--set", *settings, *at)["run_id"]
    collected = step("collect", run_id, *at)
    drawn = step("report", run_id, *at)
    best = drawn["metrics"]
    lines = [f"validation: category accuracy {best['accuracy']:.3f}, attribute F1 {best['attribute_f1']:.3f}"]
    labels = home.path / "raw" / "synthetic" / "test_labels.csv"
    if not args.data and labels.is_file():
        accuracy, f1 = _grade({name: Path(path) for name, path in collected["paths"].items()}, labels)
        lines.append(f"test:       category accuracy {accuracy:.3f}, mean F1 of the attributes of shape {f1:.3f}")
    minutes = (time.monotonic() - started) / 60
    return cli.Result(
        f"from pictures to predictions in {minutes:.1f} minutes",
        text="\n".join(lines),
        paths={**collected["paths"], "report": drawn["paths"]["page"]},
        next={"train for real": f"{program.command('launch')} --task deepfashion --nodes 2 --wait"},
        data={"run": run_id, "minutes": minutes},
    )


def step(command: str, *arguments: str) -> dict[str, Any]:
    """Run a command, its progress on this terminal; returns what it printed with --json."""
    print(f"\n$ {program.command(command)} {shlex.join(arguments)}", file=sys.stderr, flush=True)
    words = [*safe_python.interpreter(), "-m", "fashion_dist", command, *arguments, "--json"]
    env = {**os.environ, **safe_python.search_path(os.environ)}
    done = subprocess.run(words, env=env, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        kind = ConfigError if done.returncode == cli.EXIT_MISTAKE else RunError
        raise kind(f"{command} ended with status {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    cli.tell(result["message"])
    return result


def _grade(answers: dict[str, Path], labels: Path) -> tuple[float, float]:
    """Accuracy of `category.csv`, and the mean F1 of the attributes of shape in `attribute.csv`."""
    true, categories, attributes = _rows(labels), _rows(answers["category.csv"]), _rows(answers["attribute.csv"])
    hits = sum(categories[path]["category_label"] == row["category_label"] for path, row in true.items())
    f1 = []
    for name in TRAITS:
        label = str(ATTRIBUTES.index(name))
        named = {path for path in true if label in attributes[path]["attribute_label"].split()}
        having = {path for path, row in true.items() if row[name] == "1"}
        f1.append(2 * len(named & having) / max(1, len(named) + len(having)))
    return hits / len(true), sum(f1) / len(f1)


def _rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row["file_path"]: row for row in csv.DictReader(file, skipinitialspace=True)}
