"""What no machine changes, as files: `make golden-renew` writes `expected/`, `test_golden.py` compares with it.

    python tests/golden/golden_files.py FOLDER

makes them all, in one process: the frozen inputs are packed, commands are called by their argument lists, one run is
launched, every task is trained for 12 steps.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import runpy
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import adapters
import numpy as np
import pyarrow.parquet as pq
import torch
from compare import DATASET_OF, ROOT, SETTINGS, STEPS, pack_argv, tar_bytes, unpack_inputs

HERE = Path(__file__).parent
TASKS = sorted(DATASET_OF)
DATASETS = sorted(set(DATASET_OF.values()))
OWN_PNG = "fashion_mnist"
"""Its PNGs are deflated when it is packed, to other bytes by another zlib."""


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str


def command(name: str, *arguments: str) -> Said:
    """`python jobs/<name>.py ARGUMENTS` in this process."""
    out, err = io.StringIO(), io.StringIO()
    argv, terminate = sys.argv, signal.getsignal(signal.SIGTERM)
    sys.argv = [f"jobs/{name}.py", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(str(ROOT / "jobs" / f"{name}.py"), run_name="__main__")
    except SystemExit as end:
        return Said(int(end.code or 0), out.getvalue(), err.getvalue())
    finally:
        sys.argv = argv
        signal.signal(signal.SIGTERM, terminate)
    raise AssertionError(f"jobs/{name}.py ended without an exit status")


# --- arithmetic ------------------------------------------------------------------------------------------------------


def sampler() -> dict[str, Any]:
    """Orders of 60 examples in 5 shards, and which positions of an order each rank reads."""
    shards, weights, groups = np.arange(60) // 13, 1.0 + np.arange(60) % 4, np.arange(60) % 3
    at = [(seed, epoch) for seed in (0, 7) for epoch in (0, 1, 12)]
    divisions = [(1, 1), (2, 1), (4, 1), (3, 2)]
    return {
        "order": {f"seed {s}, epoch {e}": adapters.order(shards, s, e, 20).tolist() for s, e in at},
        "order, one window": {f"seed {s}, epoch {e}": adapters.order(shards, s, e, 16384).tolist() for s, e in at},
        "weighted": {f"seed {s}, epoch {e}": adapters.weighted(weights, groups, s, e).tolist() for s, e in at},
        "positions": {f"{r} ranks, {a} micro-batches": adapters.positions(60, 12, r, a) for r, a in divisions},
    }


def augmentation() -> dict[str, Any]:
    """Float32 values as they are: JSON keeps a double's every bit."""
    sizes = np.array([[40 + 7 * n % 31, 90 - 11 * n % 53] for n in range(12)], np.int32)
    kinds: dict[str, dict[str, Any]] = {
        "plain": {"image_px": 32},
        "all": {
            "image_px": 32, "rotate": 12.0, "shear": 5.0, "brightness": 0.3, "contrast": 0.3, "saturation": 0.4,
            "hue": 20.0, "grayscale": 0.3, "erase": 0.5, "rand_ops": 2,
        },
        "squash": {"image_px": 48, "fit": "squash", "crop_scale": (0.7, 1.0), "brightness": 0.2, "eval_resize": 1.2},
    }  # fmt: skip
    return {
        f"{name}, seed {seed}, epoch {epoch}": {
            key: [_flat(row) for row in value] if value.dtype != bool else value.tolist()
            for key, value in adapters.augmentation(settings, sizes, seed, epoch).items()
        }
        for name, settings in kinds.items()
        for seed, epoch in ((0, 0), (3, 5))
    }


def _flat(row: np.ndarray) -> list[float]:
    assert row.dtype in (np.float32, np.int32)
    values: list[float] = row.reshape(-1).tolist()
    return values


# --- files -----------------------------------------------------------------------------------------------------------


def shard_set(folder: Path) -> dict[str, Any]:
    """Hashes of tars and indexes, and index.parquet: columns and a row an image."""
    table = pq.read_table(folder / "index.parquet")
    columns = {field.name: str(field.type) for field in table.schema}
    hashes = tar_bytes(folder)
    if folder.name == OWN_PNG:
        table = table.drop_columns([name for name in table.column_names if name in DEPENDS_ON_ZLIB])
        hashes = dict.fromkeys(hashes, "depends on zlib")
    rows = [list(row.values()) for row in table.to_pylist()]
    return {"files": hashes, "columns": columns, "rows": [_plain(row) for row in rows]}


DEPENDS_ON_ZLIB = ("offset", "size", "crc32")


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return [_plain(each) for each in value] if isinstance(value, list) else value


def losses(home: Path) -> dict[str, list[float]]:
    """Of each task the losses of 12 steps, in one thread and fp32.

    With a small learning rate: Adam's first steps have the size of the rate whatever the gradient's, so that rounding
    errors of another processor become other losses (5 % with the recipes' rates, kernels of SSE against AVX).
    """
    found, settings = {}, (*SETTINGS, "optim.lr=1e-5")
    for task in TASKS:
        with contextlib.redirect_stdout(sys.stderr):
            steps = adapters.train_losses(task, settings, home / "shards" / DATASET_OF[task], home / "alone" / task)
        assert len(steps) == STEPS, f"{task}: {len(steps)} steps"
        found[task] = [float(f"{value:.6g}") for value in steps]
    return found


# --- commands --------------------------------------------------------------------------------------------------------

SMALL = (
    "train.batch_size=8",
    "train.eval_batch_size=8",
    "train.epochs=1",
    "train.fraction=0.2",
    "train.precision=fp32",
)


def json_keys(home: Path) -> dict[str, list[str]]:
    """The keys of each command's JSON, with the kinds of their values."""
    at = ("--home", str(home), "--json")
    where = ("--cluster", "local", "--wandb", "off")
    tried = ("--task", "fashion_mnist", *where, *at, "--set", *SMALL)
    launch = (*tried, "optim.warmup_epochs=0")
    dataset = home / "shards" / "clipart"
    said = {"launch --wait": command("launch", *launch, "--wait")}
    run = str(json.loads(said["launch --wait"].out.splitlines()[-1])["run_id"])
    twin = shutil.copytree(home / "runs" / run, home / "twin" / "runs" / run)
    said |= {
        "launch, done": command("launch", *launch),
        "launch --dry-run": command("launch", *launch, "--dry-run"),
        "launch, refused": command("launch", *launch, "optim.lrr=1"),
        "status": command("status", *at),
        "status RUN": command("status", run, *at),
        "predict": command("predict", run, "--split", "val", *at),
        "collect": command("collect", run, *at),
        "compare": command("compare", run, str(twin), *at),
        "report --quick": command("report", run, "--quick", "--wandb", "off", *at),
        "report --table": command("report", run, "--table", *at),
        "sync --to-folder": command("sync", run, "--to-folder", str(home / "offline"), *at),
        "sweep --dry-run": command("sweep", *tried, "optim.lr=1,2", "--dry-run"),
        "pack": command("pack", *pack_argv(home / "raw", "clipart", home / "again")),
        "pack --verify": command("pack", "--verify", str(dataset), *at),
        "pack --reindex": command("pack", "--reindex", str(dataset), "--out", str(home / "reindexed"), *at),
    }
    made = {}
    for name, each in said.items():
        assert each.status == (2 if "refused" in name else 0), f"{name}: {each}"
        made[name] = sorted(set(_keys(json.loads(each.out.splitlines()[-1]), "")))
    return made


def _keys(value: Any, path: str) -> Iterable[str]:
    if isinstance(value, Mapping) and value:
        for key, each in value.items():
            # The settings of a run are in the dry run.
            yield from _keys({} if key == "config" else each, f"{path}.{key}".removeprefix("."))
    elif isinstance(value, list) and value:
        for each in value:
            yield from _keys(each, f"{path}[]")
    else:
        kind = "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
        yield f"{path}: {kind}"


def dry_runs(home: Path) -> dict[str, str]:
    """What each preset would submit for two nodes (`none`: without one); and on this machine, with the settings."""
    found = {}
    for preset in ("", *adapters.preset_names()):
        where = ("--cluster", "slurm", "--nodes", "2", *(("--preset", preset) if preset else ()))
        settings = ("--set", "train.batch_size=48")
        said = command("launch", "--task", "deepfashion", "--home", str(home), *where, "--dry-run", *settings)
        assert said.status == 0, f"--preset {preset}: {said}"
        found[preset or "none"] = "#!" + normalised(said.out, home).partition("#!")[2]
    local = ("--cluster", "local", "--nodes", "2", "--cpus-per-task", "1", "--dry-run", "--set", "train.batch_size=48")
    said = command("launch", "--task", "deepfashion", "--home", str(home), *local)
    assert said.status == 0, said
    return found | {"on this machine": normalised(said.out, home)}


def normalised(text: str, home: Path) -> str:
    """Without what differs between machines: folders and the interpreter."""
    for folder, word in ((str(home), "HOME"), (sys.executable, "PYTHON"), (str(ROOT), "CHECKOUT")):
        text = text.replace(folder, word)
    text = re.sub(r"(--comment=fashion-dist-)[0-9a-f]{16}", r"\1HOME'S HASH", text)
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)


COMMANDS = (
    "launch --help",
    "launch --task clipart --dry-run --set train.batch_size=8",
    "launch --task clipart --dry-run --set train.batch_size=8 --set optim.lr=0.1 data.flip=0",
    "launch --task clipart --model resnet18 --dry-run --set train.batch_size=8",
    "launch --task deepfashion --debug --dry-run --json --set train.batch_size=8",
    "launch",
    "launch --task clipartt --dry-run",
    "launch --task clipart --model resnet81 --dry-run --set train.batch_size=8",
    "launch --task clipart --dataset nothing_here --dry-run",
    "launch --task clipart --dry-run --set train.batch_size=8 optim.lrr=1",
    "launch --task clipart --dry-run --set train.batch_size=8 optim.lr=fast",
    "launch --task clipart --dry-run --set train.batch_size=8 train.epochs=0",
    "launch --task clipart --dry-run --set train.batch_size=8 train.epochs",
    "launch --task clipart --dry-run --set train.batch_size=4096",
    "launch --task clipart --dry-run --nodes 0 --set train.batch_size=8",
    "launch --task clipart --dry-run --nodes 3 --set train.batch_size=8",
    "launch --task clipart --dry-run --preset nothing_here --set train.batch_size=8",
    "launch --task clipart --dry-run --weights missing.pt --set train.batch_size=8",
    "launch --task clipart --dry-run --nods 2 --set train.batch_size=8",
    "launch --task clipart --cluster cloud",
    "status",
    "status nothing-here",
    "status --cancel",
    "status --state rnning",
    "sweep --task clipart --dry-run --set train.batch_size=8 optim.lr=0.1,0.2",
    "sweep --task clipart --dry-run --set train.batch_size=8 optim.lr=0.1,fast",
    "sweep --task clipart --dry-run --sweep missing.yaml",
    "pack",
    "pack --dataset nothing_here",
    "pack --dataset clipart",
    "pack --dataset clipart --source HOME/nothing_here --out HOME/never",
    "pack --verify HOME/nothing_here",
    "pack --verify HOME/shards/clipart",
    "pack --verify HOME/damaged",
    "predict",
    "predict nothing-here",
    "collect nothing-here",
    "collect nothing-here --ensemble 2",
    "compare nothing-here nor-this",
    "report",
    "report nothing-here",
    "sync",
    "sync nothing-here --to-folder HOME/never",
)
"""Good and bad ones. Statuses: 0 done, 1 the work failed, 2 the user's mistake."""


def exit_codes(home: Path) -> dict[str, int]:
    """The status that each of `COMMANDS` ends with, in a home with shard sets and no run."""
    empty = home / "empty"
    empty.mkdir()
    (empty / "shards").symlink_to(home / "shards")
    damaged = empty / "damaged"
    damaged.mkdir()
    for path in (home / "shards" / "clipart").iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    tar = next(damaged.glob("*.tar"))
    content = bytearray(tar.read_bytes())
    content[700] ^= 0xFF
    tar.write_bytes(content)
    found = {}
    for line in COMMANDS:
        name, *words = line.split()
        arguments = [word.replace("HOME", str(empty)) for word in words]
        found[line] = command(name, *arguments, "--home", str(empty)).status
    return found


# --- all of them -----------------------------------------------------------------------------------------------------


def make(folder: Path) -> None:
    """Write every golden file into `folder`."""
    torch.set_num_threads(1)
    os.environ["PATH"] = os.pathsep.join([str(HERE / "frozen_slurm"), os.environ["PATH"]])
    for name in [name for name in os.environ if name.startswith(("FASHION_DIST_", "WANDB_"))]:
        del os.environ[name]
    with tempfile.TemporaryDirectory(prefix="golden-") as temporary:
        home = Path(temporary).resolve() / "home"
        unpack_inputs(home / "raw", DATASETS)
        os.chdir(home)
        for dataset in DATASETS:
            said = command("pack", *pack_argv(home / "raw", dataset, home / "shards" / dataset))
            assert said.status == 0, f"packing {dataset}: {said}"
            _write(folder / f"shards-{dataset}.json", shard_set(home / "shards" / dataset))
        _write(folder / "sampler.json", sampler())
        _write(folder / "augmentation.json", augmentation())
        _write(folder / "exit_codes.json", exit_codes(home))
        for preset, text in dry_runs(home).items():
            (folder / f"dry_run-{preset.replace(' ', '_')}.txt").write_text(text)
        _write(folder / "json_keys.json", json_keys(home))
        _write(folder / "losses.json", losses(home))


def _write(path: Path, value: Any) -> None:
    """JSON with a line for each innermost list or value, so that a difference can be read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_lines(value, 0) + "\n")


def _lines(value: Any, depth: int) -> str:
    pad = "\n" + " " * depth
    if isinstance(value, dict):
        parts = [f"{json.dumps(key)}: {_lines(each, depth + 1)}" for key, each in value.items()]
        return "{" + ",".join(f"{pad} {part}" for part in parts) + pad + "}"
    if isinstance(value, list) and value and isinstance(value[0], list | str):
        return "[" + ",".join(f"{pad} {json.dumps(each)}" for each in value) + pad + "]"
    return json.dumps(value)


if __name__ == "__main__":
    make(Path(sys.argv[1]).absolute())
