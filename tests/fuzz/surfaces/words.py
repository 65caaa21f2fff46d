"""What people write and download: settings, flags, presets, sweeps, raw data sets; and what a rank hears of the store.

What is made of them has the types that it says, is finite, and is as much as was counted before.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import layouts
import torch.distributed as dist  # noqa: TID251 - the store that a rank hears
from in_place import Row, surface
from sound import require_sound

from fashion_dist import cli, tasks
from fashion_dist.cluster import resources, submitit_executor
from fashion_dist.cluster.job_record import RuntimeOptions
from fashion_dist.cluster.resources import Preset, Resources
from fashion_dist.commands.launch import Args
from fashion_dist.config import Config
from fashion_dist.errors import ConfigError
from fashion_dist.models import finetune
from fashion_dist.sweep import expand, spec
from fashion_dist.train.sealed_store import SealedStore
from shards import PackOptions, ReadOptions, Record, ShardSet, pack, readers
from shards.labels import read_classes

PRESET = b"""partition = "gpu"
nodes = 2
gpus_per_node = "a100:4"
mem_gb = 64.5
time = "1-00:00:00"
setup = ["module load cuda"]
export = ["HF_HOME"]
[environment]
NCCL_DEBUG = "WARN"
[sbatch]
nice = 10
"""
SWEEPS = (
    b"""method: bayes
run_cap: 20
metric: {name: loss, goal: minimize}
parameters:
  optim.lr: {min: 0.001, max: 0.1, distribution: log_uniform_values}
  train.seed: {min: 0, max: 10}
  model.dropout: {values: [0.0, 0.5], probabilities: [0.2, 0.8]}
early_terminate: {type: hyperband, max_iter: 27, s: 2, eta: 3}
""",
    b"""method: grid
parameters:
  optim.lr: {values: [0.1, 0.01]}
  optim: {parameters: {weight_decay: {value: 0.1}}}
  train.epochs: {distribution: int_uniform, min: 1, max: 4}
""",
)
SETTINGS = (
    b"optim.lr=0.1\ntrain.epochs=3\ndata.mean=0.5,0.5,0.5\nmodel.name=resnet18\ntrain.seed=7\ntrain.monitor=loss\n"
)
FLAGS = (
    b"--task\nclipart\n--nodes\n2\n--mem-gb\n10.5\n--time-min\n60\n--cpus-per-task\n4\n--peer-timeout-s\n30",
    b"--task\nclipart\n--time\n1-00:00:00\n--mem\n4G\n--gpus-per-node\na100:4\n--sbatch\nnice=10\n--time-limits\n3",
)
SECRET = b"s" * 32


def word_rows(folder: Path) -> list[Row]:
    """Settings, flags, presets, sweeps and class names."""
    recipe = tasks.load("clipart").recipe

    def lines(path: Path) -> list[str]:
        try:
            return path.read_bytes().decode().splitlines()
        except UnicodeDecodeError as error:
            raise ConfigError(str(error)) from None  # no shell hands these on as text

    def settings(path: Path) -> object:
        config = recipe.override(lines(path))
        assert Config.read(config.plain())[0] == config
        return config

    def as_script(values: Resources) -> Resources:
        script = submitit_executor.script(values, folder / "logs", "name", "comment")
        assert "\0" not in script and "nan" not in script.lower().replace("nansi", "") and "=inf" not in script
        return values

    def flags(path: Path) -> object:
        try:
            args = cli.parse(Args, lines(path), "launch")
        except SystemExit as ended:  # --help
            assert ended.code == 0
            return None
        values, _ = resources.given(Preset(), args.resources(), {})
        return [as_script(Resources(**values)), RuntimeOptions(**args.options())]

    def preset(path: Path) -> object:
        return as_script(Resources(**Preset.read(str(path)).values))

    def sweep(path: Path) -> object:
        made = spec.parse(spec.read_yaml(path), str(path), recipe.keys())
        expand.require_few(made, 1, yes=False)
        if made.method == "bayes":
            return made.halving
        points = expand.expand(made, 0)
        assert len(points) <= expand.count(made, 1)
        for point in points[:20]:
            require_sound(recipe.override(expand.texts(point)))
        return [made.halving, points]

    return [
        *written(folder / "settings", [SETTINGS], settings), *written(folder / "flags", FLAGS, flags),
        *written(folder / "preset.toml", [PRESET], preset), *written(folder / "sweep.yaml", SWEEPS, sweep),
        *written(folder / "classes", [b"coat\nhat\nshoe\n", b'{"0": ["n", "coat"], "1": ["m", "hat"]}'], read_classes),
    ]  # fmt: skip


def written(path: Path, contents: Sequence[bytes], read: Callable[[Path], object]) -> list[Row]:
    """A row for each content, in a file of its own."""
    made = []
    for number, content in enumerate(contents):
        one = path.with_stem(f"{path.stem}{number}")
        one.write_bytes(content)
        made.append(Row(one, lambda one=one: read(one)))  # type: ignore[misc]
    return made


def source_rows(folder: Path) -> list[Row]:
    """The lists and tables of raw data sets."""

    def of(layout: layouts.Layout, *names: str) -> list[Row]:
        def read() -> object:
            source = readers.load(layout.dataset).read(layout.source, layout.options)
            records = list(source.records())
            for record in records:
                require_record(record, source)
            if not source.problems:
                source.tables()
            return [record.columns for record in records]

        paths = [path for name in names for path in sorted(layout.source.glob(name))]
        assert paths, names
        return [Row(path, read) for path in paths]

    def require_record(record: Record, source: readers.Source) -> None:
        if not source.problems:
            assert source.schema.fault(record.columns) is None, record

    clipart = layouts.clipart(folder / "clipart")
    layouts.put(clipart.source / "classes.csv", b"label,name\n0,boot\n2,hat\n10,coat\n")
    told = [{"path": f"{number}.jpg", "label": "cat" if number % 2 else "dog", "score": 0.5} for number in range(4)]
    tables = {
        "csv": b"path,label,score\n0.jpg,cat,0.5\n1.jpg,dog,1\n2.jpg,cat,\n3.jpg,dog,2e3\n",
        "json": json.dumps(told).encode(), "jsonl": b"\n".join(json.dumps(one).encode() for one in told),
    }  # fmt: skip
    tabled = []
    for ending, content in tables.items():
        place = folder / f"table_{ending}"
        for number in range(4):
            layouts.put(place / f"{number}.jpg", layouts.image(number))
        layouts.put(place / f"t.{ending}", content)
        tabled += of(layouts.Layout("table", place, {}, ReadOptions(val_fraction=0.0)), f"t.{ending}")
    return [
        *of(layouts.assignment(folder / "deep_fashion"), "*.csv", "*.txt"),
        *of(layouts.benchmark(folder / "benchmark"), "Anno_coarse/*.txt", "Eval/*.txt"),
        *of(layouts.polyvore(folder / "polyvore"), "*.json", "*.csv", "disjoint/*"),
        *of(layouts.fashion_mnist(folder / "mnist"), "*"), *of(clipart, "classes.csv"), *tabled,
    ]  # fmt: skip


def packed_table_rows(folder: Path) -> list[Row]:
    """A table beside the shards, whose hash the manifest has."""
    layout = layouts.polyvore(folder / "tabled")
    pack("polyvore_outfits", layout.source, folder / "set", PackOptions(), layout.options)
    name = next(iter(ShardSet.open(folder / "set").manifest.tables))
    return [
        Row(
            folder / "set" / f"{name}.parquet",
            lambda: ShardSet.open(folder / "set").table(name).to_pylist(),
            exact=True,
        )
    ] * 3


def store_rows(folder: Path) -> list[Row]:
    """A value of the rendezvous store, which anybody may set."""
    open_store = dist.HashStore()
    sealed = SealedStore(open_store, SECRET)
    path = folder / "value"
    sealed.set("key", b"a value of the job's own")
    path.write_bytes(open_store.get("key"))

    def hear() -> object:
        open_store.set("key", path.read_bytes())
        return base64.b64encode(sealed.get("key"))

    return [Row(path, hear, exact=True)] * 2


def cfg_rows(folder: Path) -> list[Row]:
    """What stands beside a file of weights."""
    sizes = {"input_size": [3, 48, 48], "mean": [0.5, 0.5, 0.5], "std": [1, 1, 1], "crop_pct": 0.9}
    content = {"architecture": "resnet18", "pretrained_cfg": {**sizes, "interpolation": "bicubic"}}
    return written(folder / "w.json", [json.dumps(content).encode()], finetune.beside)


def make(folder: Path) -> Sequence[Row]:
    """All of them."""
    return [
        *word_rows(folder) * 2,
        *source_rows(folder),
        *packed_table_rows(folder),
        *store_rows(folder),
        *cfg_rows(folder),
    ]


SURFACE = surface(make)
