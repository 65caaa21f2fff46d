"""`make growth-ways`: sets of the largest numbers from raw files to the report, by the commands that a user types.

    python tests/growth/ways.py [classes] [predictions] [attributes] [polyvore] [checkpoint] [--share 0.05]

Pictures are tiny and so is the network: what is measured is what grows with numbers, not pixels. Each line tells the
seconds of a command and the most memory that one of its processes had.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

import numpy as np  # noqa: E402

from growth import polyvore, rows  # noqa: E402

Command = tuple[str, list[str]]
PICTURES, IMAGES = 1000, 60_000
TINY = ["--model", "mlp", "--cluster", "local", "--cache", "ram", "--wandb", "off", "--wait"]
SET = ["data.image_px=16", "train.batch_size=256"]


def pictures(folder: Path) -> list[Path]:
    """Files of a picture each, to link to."""
    folder.mkdir()
    found = [folder / f"{number}.jpg" for number in range(PICTURES)]
    for number, path in enumerate(found):
        path.write_bytes(rows.picture(24, "JPEG", number))
    return found


def launched(name: str, task: str, dataset: str, *settings: str) -> Command:
    """A run of that name."""
    return "launch", ["--name", name, "--task", task, "--dataset", dataset, *TINY, "--set", *SET, *settings]


def classes(folder: Path, share: float) -> Iterator[Command]:
    """60,000 pictures of 50,000 classes, of which 2,000 are to be predicted."""
    return classified(folder, int(IMAGES * share), int(50_000 * share), predicted=1 / 30)


def predictions(folder: Path, share: float) -> Iterator[Command]:
    """100,000 pictures of 1,000 classes, of which 90,000 are to be predicted."""
    return classified(folder, int(100_000 * share), 1000, predicted=0.9)


def classified(folder: Path, total: int, count: int, predicted: float) -> Iterator[Command]:
    """`total` pictures of `count` classes; the share `predicted` of them is the split test."""
    files = pictures(folder / "files")
    for number in range(total):
        split = "test" if number >= round(total * (1 - predicted)) else "train"
        path = folder / "raw" / split / f"class {number % count:05d}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(files[number % PICTURES], path)
    yield "pack", ["--dataset", "image_folder", "--source", str(folder / "raw"), "--name", "many"]
    yield launched("wide", "classification", "many", "train.epochs=1", "train.fraction=0.1")
    yield "collect", ["wide"]
    yield "report", ["wide"]


def attributes(folder: Path, share: float) -> Iterator[Command]:
    """60,000 pictures of 1,000 attributes each, of which 2,000 are to be predicted."""
    files, total, rng = pictures(folder / "files"), int(IMAGES * share), np.random.default_rng(0)
    (folder / "raw").mkdir()
    columns = ",".join(f"a{k}" for k in range(1000))
    with (folder / "raw" / "table.csv").open("w") as table:
        table.write(f"path,split,{columns}\n")
        for number in range(total):
            os.link(files[number % PICTURES], folder / "raw" / f"{number}.jpg")
            split = "test" if number >= total * 29 // 30 else "val" if number % 10 == 0 else "train"
            table.write(f"{number}.jpg,{split},{','.join('01'[bit] for bit in (rng.random(1000) < 0.1).astype(int))}\n")
    source = ["--source", str(folder / "raw" / "table.csv"), "--label-columns", columns, "--split-column", "split"]
    yield "pack", ["--dataset", "table", "--name", "many", *source]
    yield launched("wide", "multilabel", "many", "train.epochs=1", "train.fraction=0.1")
    yield "collect", ["wide"]
    yield "report", ["wide"]


def outfits(folder: Path, share: float) -> Iterator[Command]:
    """Polyvore at its published size: 251,008 items in 68,306 outfits of up to 19."""
    source = polyvore.source(folder / "raw", share, pictures(folder / "files"))
    yield "pack", ["--dataset", "polyvore_outfits", "--source", str(source), "--variant", "nondisjoint"]
    for negatives in ("semantic", "hard"):
        yield "plan", [str(folder / "shards" / "polyvore_outfits"), negatives]
    settings = ("train.epochs=2", "task.negatives=hard", "task.examples=2048")
    yield launched("hard", "polyvore_pairs", "polyvore_outfits", *settings)
    yield "collect", ["hard"]
    yield "collect", ["hard", "--task", "polyvore_outfits", "--out", str(folder / "answers")]
    yield "report", ["hard"]


def checkpoint(folder: Path, share: float) -> Iterator[Command]:
    """A network of 200 million parameters and Adam's two moments, saved again and again."""
    yield "save", [str(int(200e6 * share)), str(folder)]


def save(parameters: int, folder: Path) -> None:
    """The second is begun when the first is on disk, the third right behind it."""
    import torch

    from fashion_dist.train.checkpoint import Checkpoints

    layer = parameters // 100
    state = {name: {str(i): torch.zeros(layer) for i in range(100)} for name in ("model", "mean", "square")}
    checkpoints = Checkpoints(folder / "checkpoints")
    for number, when in enumerate(("the first", "another", "right behind it"), start=1):
        began = time.perf_counter()
        checkpoints.save("step", number, state, {})
        print(f"{when} holds the loop {time.perf_counter() - began:.2f} s", flush=True)
        if number == 1:
            checkpoints.wait()
            print(f"    it is written after {time.perf_counter() - began:.2f} s", flush=True)
    checkpoints.close()
    began = time.perf_counter()
    Checkpoints(folder / "checkpoints").load("step")
    print(f"read again in {time.perf_counter() - began:.2f} s; the state has {12 * layer / 1e7:.2f} GB", flush=True)


WAYS = {
    "classes": classes,
    "predictions": predictions,
    "attributes": attributes,
    "polyvore": outfits,
    "checkpoint": checkpoint,
}


def peak_of(home: Path) -> int:
    """Bytes, the most that a living process which is told of `home` has had; a rank is by its variables or words."""
    most, named = 0, str(home).encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if named in (process / "cmdline").read_bytes() or named in (process / "environ").read_bytes():
                lines = (process / "status").read_text().splitlines()
                most = max([most, *(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))])
    return most


def measure(command: Command, home: Path) -> tuple[float, int]:
    """Seconds and bytes of a command and what it starts.

    Raises:
        SystemExit: it failed.
    """
    name, words = command
    log, variables = home / "log", {**os.environ, "GROWTH_WAY": str(home)}
    program = [str(TESTS.parent / "jobs" / f"{name}.py"), *words, "--home", str(home)]
    program = [__file__, f"--{name}", *words] if name in ("plan", "save") else program
    began, most = time.perf_counter(), 0
    with log.open("wb") as file:
        running = subprocess.Popen([sys.executable, *program], env=variables, stdout=file, stderr=file)
        while running.poll() is None:
            most = max(most, peak_of(home))
            time.sleep(0.2)
    if running.returncode:
        raise SystemExit(f"{name} {' '.join(words)[:200]}: {log.read_text()[-2000:]}")
    if name == "save":
        print(log.read_text(), end="")
    return time.perf_counter() - began, most


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="make growth-ways", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(WAYS)}; else all")
    parser.add_argument("--share", type=float, default=1.0, help="of the numbers")
    parser.add_argument("--plan", nargs=2, metavar=("SET", "NEGATIVES"), help=argparse.SUPPRESS)
    parser.add_argument("--save", nargs=2, metavar=("PARAMETERS", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.save:
        save(int(args.save[0]), Path(args.save[1]))
        return 0
    if args.plan:
        polyvore.examples_of(Path(args.plan[0]), args.plan[1])()
        return 0
    if strange := [name for name in args.names if name not in WAYS]:
        parser.error(f"{strange[0]!r} is none of {', '.join(WAYS)}")
    for name in args.names or WAYS:
        with tempfile.TemporaryDirectory(prefix="ways-") as folder:
            home = Path(folder).resolve()
            for command in WAYS[name](home, args.share):
                seconds, most = measure(command, home)
                told = " ".join([command[0], *(word for word in command[1] if len(word) < 40 and "/" not in word)])
                print(f"{name:<12}{seconds:8.1f} s{most / 1e9:8.2f} GB  {told[:60]}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
