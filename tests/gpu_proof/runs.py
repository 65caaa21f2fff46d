"""Whole runs on the card by the command line, as a user types them; needs what `make install` installs."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gpu_proof import jpeg
from gpu_proof.ground import Ground, Row, has

JOBS = Path(__file__).resolve().parents[2] / "jobs"
NEEDED = ("submitit", "tyro", "pyarrow", "PIL", "rich", "psutil")
LONGEST_S = 100.0


class Run(NamedTuple):
    """One command line.

    Args:
        flags: of launch.
        settings: of `--set`.
        told: what its output has to say.
        code: the exit status that is right.
        killed: the rank is killed after its first checkpoint, and the same command taken up again.
        rehearsed: it means something on a CPU, too.
    """

    flags: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    told: str = " is done"
    code: int = 0
    killed: bool = False
    rehearsed: bool = False


WORDS = ("--task", "classification", "--dataset", "image_folder", "--cluster", "local", "--wandb", "off")
SMALL = ("train.epochs=2", "data.image_px=64", "train.batch_size=16")
_SAME_BITS = ("train.deterministic=true", "train.checkpoint_steps=3")
RUNS = {
    "bf16": Run(settings=("train.seed=1",)),
    "fp16": Run(settings=("train.precision=fp16",)),
    "deterministic": Run(settings=_SAME_BITS, rehearsed=True),
    # A setting that changes no weight makes it another run.
    "deterministic, killed": Run(settings=(*_SAME_BITS, "train.keep=3"), killed=True, rehearsed=True),
    "2 ranks share the card": Run(("--nodes", "2"), ("train.seed=2",)),
    "--decode gpu": Run(("--decode", "gpu"), ("train.seed=3",)),
    "--cache gpu": Run(("--cache", "gpu"), ("train.seed=4",)),
    "more than the card holds": Run(
        ("--model", "resnet50", "--decode", "cpu"),
        ("data.image_px=1024", "train.batch_size=256"),
        told="out of memory on cuda:0", code=1,
    ),
}  # fmt: skip


def runs(ground: Ground) -> Iterator[Row]:
    """Each as a process of the launcher and its ranks, four at a time; the first, which makes the self-test's verdict,
    and the last, which fills the card, alone.
    """
    if absent := [name for name in NEEDED if not has(name)]:
        yield Row("commands", f"left out: {', '.join(absent)} not installed")
        return
    home = ground.folder / "home"
    _draw(ground.folder / "pictures", 96 if ground.small else 512)
    packed = _command("pack", home, "--dataset", "image_folder", "--source", str(ground.folder / "pictures"))
    assert packed.returncode == 0, packed.stderr
    folders, names = dict[str, Path](), [name for name, run in RUNS.items() if ground.on_gpu or run.rehearsed]
    with ThreadPoolExecutor(4 if ground.on_gpu else 1) as pool:
        outcome = partial(_outcome, ground, home)
        outcomes = itertools.chain([outcome(names[0])], pool.map(outcome, names[1:-1]), map(outcome, names[-1:]))
        for name, (fault, seconds, folders[name]) in zip(names, outcomes, strict=True):
            yield Row(name, "holds" if not fault else "FAILS", f"in {seconds:.1f} s", fault=fault)
    weights = [_best(folders[name]) for name in ("deterministic", "deterministic, killed")]
    same = all(map(torch.equal, *weights)) if all(weights) else False
    yield Row("killed and taken up", "the same bits" if same else "other bits", fault="" if same else "weights differ")


def _draw(folder: Path, count: int) -> None:
    """Photographs of two classes, to train on and to predict."""
    for number in range(count):
        split = "test" if number % 8 == 7 else "train"
        path = folder / split / f"garment {number % 3 % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg.encode(jpeg.drawn(120 + number % 90, 160, number)))


def _outcome(ground: Ground, home: Path, name: str) -> tuple[str, float, Path]:
    """What is wrong, seconds, and the run's folder where nothing is."""
    run, began, label = RUNS[name], time.monotonic(), f"run-{list(RUNS).index(name)}"
    words = ["--name", label, *WORDS]
    words += ["--gpus-per-node", "1"] * ground.on_gpu + ["--nodes", "1"] * ("--nodes" not in run.flags)
    words += [*run.flags, "--set", *SMALL, *run.settings]
    if run.killed:
        launched = _command("launch", home, *words)
        _kill_rank(_folder(home, label), launched.stdout)
    done = _command("launch", home, *words, "--wait")
    told = f"{done.stdout}\n{done.stderr}"
    fault = "" if done.returncode == run.code and run.told in told else f"status {done.returncode}: {told[-600:]}"
    if fault:
        return fault, time.monotonic() - began, home
    folder = _folder(home, label)
    if run.killed and len(json.loads((folder / "attempts.json").read_text())["attempts"]) < 2:
        fault = "it was not taken up"
    if ground.on_gpu and not json.loads((folder / "state.json").read_text())["decode"]:
        fault = "it ran on the CPU"
    return fault, time.monotonic() - began, folder


def _command(name: str, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(JOBS / f"{name}.py"), "--home", str(home), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONGEST_S)


def _folder(home: Path, label: str) -> Path:
    for path in home.glob("runs/*/run.json"):
        if f"--name {label} " in json.loads(path.read_text())["command"]:
            return path.parent
    raise AssertionError(f"no run called {label} in {home}")


def _kill_rank(folder: Path, launched: str) -> None:
    """After its first checkpoint."""
    until = time.monotonic() + LONGEST_S
    while not list(folder.glob("checkpoints/step-*")):
        assert time.monotonic() < until, f"no checkpoint in {folder}: {launched[-300:]}"
        time.sleep(0.05)
    words = f"pickled_rank\0{folder}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if words in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:  # it ended by itself
            continue


def _best(folder: Path) -> list[torch.Tensor]:
    """The best weights of a run, none of one that failed."""
    found = sorted(folder.glob("checkpoints/best-*/state.pt"))
    state: dict[str, Any] = torch.load(found[-1], weights_only=True)["model"] if found else {}
    return list(state.values())
