"""Prove that two editions train alike: `make golden BASE=COMMIT [TASK="clipart deepfashion"] [SET="train.seed=1"]`.

BASE and the working tree (or HEAD=COMMIT) are copied to a temporary folder. Each packs the frozen inputs and trains
every task for 12 optimizer steps on 1 and on 2 gloo ranks of this machine; the working tree also with all ranks killed
after step 5 and resumed from step 4. Losses, final weights and predictions have to be the same bits. They differ
between processors, so none of them is committed; what no machine changes is in `expected/` (`test_golden.py`).

Only commands and files are used, and PyTorch's own hooks in the ranks (`inject/sitecustomize.py`), so that modules may
move. A checkpoint of another layout needs a line in `READERS`. Exit status: 0 all the same, 1 something differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]
INPUTS = Path(__file__).parent / "inputs"
INJECT = Path(__file__).parent / "inject"
DATASET_OF = {
    "clipart": "clipart",
    "deepfashion": "deep_fashion",
    "fashion_mnist": "fashion_mnist",
    "fashion_mnist_binary": "fashion_mnist",
    "polyvore_category": "polyvore_outfits",
    "polyvore_outfits": "polyvore_outfits",
    "polyvore_pairs": "polyvore_outfits",
}
STEPS, KILL_AT = 12, 5
SETTINGS = (
    "data.image_px=32", "train.batch_size=8", "train.eval_batch_size=8", "train.epochs=2", "train.checkpoint_steps=2",
    "train.precision=fp32",
)  # fmt: skip
"""48 or 50 examples in batches of 8 for 2 epochs: 12 steps. The checkpoint before step 5 is within an epoch."""
PATIENCE_S = 300.0


class GoldenError(Exception):
    """A comparison could not be made."""


# --- the two editions ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Edition:
    """A copy of the code, with the inputs packed by it.

    Args:
        name: `base` or `head`.
        code: the copy's folder.
        home: holds `shards/` and a home for each run.
    """

    name: str
    code: Path
    home: Path

    def run(self, command: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """`jobs/<command>.py` of this edition."""
        path = os.pathsep.join([str(INJECT), str(self.code)])
        script = [sys.executable, str(self.code / "jobs" / f"{command}.py"), *arguments]
        environment = {**os.environ, "PYTHONPATH": path, **variables}
        return subprocess.run(script, capture_output=True, text=True, check=False, env=environment, cwd=self.home)


def copy_commit(commit: str, folder: Path) -> None:
    folder.mkdir()
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        raise GoldenError(f"{commit}: {archive.stderr.decode().strip()}")
    subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)


def copy_working_tree(folder: Path) -> None:
    """Everything that git tracks or would: a new file need not be added first."""
    folder.mkdir()
    listed = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    there = [name for name in listed.stdout.split(b"\0") if name and (ROOT / os.fsdecode(name)).exists()]
    archive = subprocess.run(
        ["tar", "-c", "--null", "-T", "-"], cwd=ROOT, input=b"\0".join(there), capture_output=True, check=True
    )
    subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)


def unpack_inputs(folder: Path, datasets: Iterable[str]) -> None:
    """The frozen inputs as raw data sets."""
    for name in datasets:
        with zipfile.ZipFile(INPUTS / f"{name}.zip") as archive:
            archive.extractall(folder / name)


def pack_argv(raw: Path, dataset: str, out: Path) -> list[str]:
    """The arguments of jobs/pack.py for a frozen input."""
    flags = ["--workers", "1", "--no-card", "--json"]
    flags += ["--val-fraction", "0.2"] if dataset in ("clipart", "fashion_mnist") else []
    return ["--dataset", dataset, "--source", str(raw / dataset), "--out", str(out), *flags]


# --- runs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What a run came to: losses by rank and step, the last checkpoint's tensors, columns of predictions by split."""

    losses: list[list[float]]
    weights: dict[str, Tensor]
    predictions: dict[str, pa.Array]


def train(edition: Edition, task: str, ranks: int, settings: tuple[str, ...], killed: bool) -> Outcome:
    """Train `task` in a home of its own, from start to end or with a SIGKILL of every rank on the way."""
    home = edition.home / f"{task}-{ranks}{'-killed' if killed else ''}"
    (home / "shards").mkdir(parents=True)
    (home / "shards" / DATASET_OF[task]).symlink_to(edition.home / "shards" / DATASET_OF[task])
    where = ("--home", str(home), "--nodes", str(ranks), "--cluster", "local", "--wandb", "off")
    argv = ("--task", task, *where, "--json", "--set", *SETTINGS, *settings)
    before: list[list[float]] = [[] for _ in range(ranks)]
    if killed:
        _start(edition, home, argv, kill_at=KILL_AT)
        _wait_until_gone(home)
        before = _losses(edition, home, ranks)
        if [len(steps) for steps in before] != [KILL_AT] * ranks:
            raise GoldenError(f"{home}: killed after {[len(steps) for steps in before]} steps of each rank")
    _start(edition, home, (*argv, "--wait"))
    after = _losses(edition, home, ranks)
    resumed_at = STEPS - len(after[0])
    if not 0 <= resumed_at < STEPS or (resumed_at > 0) != killed:
        raise GoldenError(f"{home}: {len(after[0])} optimizer steps where {'fewer than ' * killed}{STEPS} are due")
    losses = [first[:resumed_at] + second for first, second in zip(before, after, strict=True)]
    (run,) = (home / "runs").iterdir()
    return Outcome(losses, read_weights(run), read_predictions(run))


def _start(edition: Edition, home: Path, argv: tuple[str, ...], **watch: int) -> None:
    told = json.dumps({"folder": str(home), **watch})
    done = edition.run("launch", *argv, FASHION_DIST_GOLDEN=told)
    if done.returncode:
        raise GoldenError(
            f"{edition.name}: launch {' '.join(argv)} ended with {done.returncode}\n{done.stderr.strip()}"
        )


def _wait_until_gone(home: Path) -> None:
    """Until no process has the run's folder on its command line."""
    deadline = time.monotonic() + PATIENCE_S
    while any(str(home).encode() in words for words in map(_command_line, Path("/proc").glob("[0-9]*"))):
        if time.monotonic() > deadline:
            raise GoldenError(f"{home}: its processes did not end in {PATIENCE_S:.0f} s")
        time.sleep(0.1)


def _command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def _losses(edition: Edition, home: Path, ranks: int) -> list[list[float]]:
    """The losses of each rank's steps since this was last asked; its code has to be the edition's."""
    found = []
    for rank in range(ranks):
        path = home / f"rank_{rank}.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path.unlink()
        for module, file in lines[0]["code"].items():
            if not Path(file).is_relative_to(edition.code):
                raise GoldenError(f"rank {rank} of {edition.name} ran {module} from {file}, not from {edition.code}")
        found.append([loss for line in lines[1:] for loss in line["losses"]])
    return found


# --- what they left --------------------------------------------------------------------------------------------------


def _weights(average: str) -> Callable[[dict[str, Any]], dict[str, Tensor]]:
    """Reads the model and its weight average, which a layout keeps under the key `average`."""

    def read(state: dict[str, Any]) -> dict[str, Tensor]:
        averaged = {f"average.{name}": value for name, value in (state[average] or {}).items()}
        return {f"model.{name}": value for name, value in state["model"].items()} | averaged

    return read


_STATE = "best ema epoch global_step hard_negatives model optimizer phase_epoch scaler step_in_epoch"
READERS: dict[tuple[str, ...], Callable[[dict[str, Any]], dict[str, Tensor]]] = {
    ("average", "mined", "model", "optimizer", "optimizer_epoch", "position", "scaler"): _weights("average"),
    tuple(_STATE.split()): _weights("ema"),
}
"""The sorted keys of a checkpoint's state.pt, and what makes tensors by name of it: `model.NAME`, `average.NAME`."""


def read_weights(run: Path) -> dict[str, Tensor]:
    """The tensors of a run's last checkpoint by name."""
    newest = max((run / "checkpoints").glob("step-*"))
    state = torch.load(newest / "state.pt", weights_only=True)
    if tuple(sorted(state)) not in READERS:
        raise GoldenError(f"{newest / 'state.pt'} holds {sorted(state)}; add a reader for it to {__file__}, READERS")
    return READERS[tuple(sorted(state))](state)


def read_predictions(run: Path) -> dict[str, pa.Array]:
    """Each column of `predictions/<split>/` as `<split>.<column>`, in the order of the split."""
    found: dict[str, pa.Array] = {}
    for folder in sorted(path for path in (run / "predictions").iterdir() if path.is_dir()):
        table = pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]).sort_by("index")
        found |= {f"{folder.name}.{name}": table[name].combine_chunks() for name in table.column_names}
    if not found:
        raise GoldenError(f"{run} has no predictions")
    return found


def compare_losses(one: Outcome, other: Outcome) -> str:
    """`equal`, or the first step whose loss differs."""
    for step in range(STEPS):
        for rank, (mine, its) in enumerate(zip(one.losses, other.losses, strict=True)):
            if mine[step] != its[step]:
                return f"step {step + 1}, rank {rank}: {mine[step]:.7g} and {its[step]:.7g}"
    return "equal"


def compare_weights(one: Outcome, other: Outcome) -> str:
    """`equal`, or the first tensor that differs, by how much at most, and how many do."""
    if one.weights.keys() != other.weights.keys():
        alone = sorted(one.weights.keys() ^ other.weights.keys())
        return f"{len(alone)} tensors in one alone: {alone[0]}, ..."
    differing = [name for name, value in one.weights.items() if not _same_tensor(value, other.weights[name])]
    if not differing:
        return "equal"
    mine, its = one.weights[differing[0]], other.weights[differing[0]]
    if mine.shape != its.shape or mine.dtype != its.dtype:
        return f"{differing[0]}: {mine.dtype} {tuple(mine.shape)} and {its.dtype} {tuple(its.shape)}"
    by = float((mine.double() - its.double()).abs().max())
    return f"{differing[0]}: by {by:.2g}; {len(differing)} of {len(one.weights)} differ"


def _same_tensor(one: Tensor, other: Tensor) -> bool:
    same_kind = one.shape == other.shape and one.dtype == other.dtype
    return same_kind and one.contiguous().numpy().tobytes() == other.contiguous().numpy().tobytes()


def compare_predictions(one: Outcome, other: Outcome) -> str:
    """`equal`, or the first column that differs and in how many rows."""
    if one.predictions.keys() != other.predictions.keys():
        return f"columns in one alone: {', '.join(sorted(one.predictions.keys() ^ other.predictions.keys()))}"
    for name, mine in one.predictions.items():
        its = other.predictions[name]
        if mine.type != its.type or len(mine) != len(its):
            return f"{name}: {len(mine)} of {mine.type} and {len(its)} of {its.type}"
        if not _same_column(mine, its):
            rows = sum(not _same_column(mine.slice(n, 1), its.slice(n, 1)) for n in range(len(mine)))
            return f"{name}: {rows} of {len(mine)} rows differ"
    return "equal"


def _same_column(one: pa.Array, other: pa.Array) -> bool:
    """Bit by bit: -0.0 is not 0.0, and a NaN is itself."""
    if pa.types.is_fixed_size_list(one.type) or pa.types.is_list(one.type):
        return one.is_null().equals(other.is_null()) and _same_column(one.flatten(), other.flatten())
    if not pa.types.is_floating(one.type) or one.null_count or other.null_count:
        return bool(one.equals(other))
    return bool(np.asarray(one).tobytes() == np.asarray(other).tobytes())


def tar_bytes(folder: Path) -> dict[str, str]:
    """SHA-256 of each tar and idx of a shard set, by name."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".tar", ".idx"))
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


# --- the command -----------------------------------------------------------------------------------------------------


def prepare(name: str, commit: str, folder: Path, raw: Path, tasks: Iterable[str]) -> Edition:
    """Copy the code and pack the inputs with it."""
    edition = Edition(name, folder / name / "code", folder / name / "home")
    (folder / name).mkdir()
    edition.home.mkdir()
    if commit:
        copy_commit(commit, edition.code)
    else:
        copy_working_tree(edition.code)
    for dataset in sorted({DATASET_OF[task] for task in tasks}):
        done = edition.run("pack", *pack_argv(raw, dataset, edition.home / "shards" / dataset))
        if done.returncode:
            raise GoldenError(f"{name}: packing {dataset} ended with {done.returncode}\n{done.stderr.strip()}")
    return edition


def row(task: str, ranks: int, base: Outcome, head: Outcome, resumed: Outcome) -> tuple[str, ...]:
    """A line of the table."""
    pairs = ((base, head), (head, resumed))
    return (
        task,
        str(ranks),
        *(compare(*pair) for pair in pairs for compare in (compare_losses, compare_weights, compare_predictions)),
    )


HEADER = ("task", "ranks", "losses", "weights", "predictions", "resumed: losses", "weights", "predictions")


def table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(line[i]) for line in [HEADER, *rows]) for i in range(len(HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in [HEADER, *rows]]
    return "\n".join(line.rstrip() for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="the commit to compare with")
    parser.add_argument("--head", default="", help="a commit; else the working tree as it is")
    parser.add_argument("--task", nargs="*", default=[], choices=sorted(DATASET_OF), help="else all")
    parser.add_argument("--set", nargs="*", default=[], help="settings of both, such as train.seed=1")
    args = parser.parse_args()
    tasks, settings = args.task or sorted(DATASET_OF), tuple(args.set)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="golden-") as name, ThreadPoolExecutor(2) as pool:
        folder, raw = Path(name).resolve(), Path(name).resolve() / "raw"
        unpack_inputs(raw, {DATASET_OF[task] for task in tasks})
        base = prepare("base", args.base, folder, raw, tasks)
        head = prepare("head", args.head, folder, raw, tasks)
        same_tars = tar_bytes(base.home / "shards") == tar_bytes(head.home / "shards")
        cells = {(task, ranks): [
            pool.submit(train, edition, task, ranks, settings, killed)
            for edition, killed in ((base, False), (head, False), (head, True))
        ] for task in tasks for ranks in (1, 2)}  # fmt: skip
        rows = []
        try:
            for (task, ranks), outcomes in cells.items():
                rows.append(row(task, ranks, *(outcome.result() for outcome in outcomes)))
                print(f"{task} on {ranks}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        finally:
            pool.shutdown(cancel_futures=True)
    print(f"{args.base} and {args.head or 'the working tree'}; torch {torch.__version__}, {os.cpu_count()} CPUs")
    print(f"tars and their indexes: {'equal' if same_tars else 'DIFFERENT'}\n{table(rows)}")
    equal = same_tars and all(cell == "equal" for line in rows for cell in line[2:])
    print("all the same bits" if equal else "NOT the same: the changelog has to say why")
    return 0 if equal else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except GoldenError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
