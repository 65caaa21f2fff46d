"""A folder that strangers may have put things into: a small source, a packed set of it and a run."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from pathlib import Path

from minis import DRAW
from report_runs import make_run

from fashion_dist import tasks
from fashion_dist.paths import Home, RunDir
from fashion_dist.train.checkpoint import Checkpoints
from shards import PackOptions, ShardSet, pack

ROOT = Path(__file__).resolve().parents[2]


MINE = b"years of work\n"


SMALL = PackOptions(shard_mb=0.05)


@dataclasses.dataclass
class Bench:
    """A temporary folder with a small source, a packed set of it and a run."""

    folder: Path
    shard_set: ShardSet

    @property
    def source(self) -> Path:
        return self.folder / "raw" / "clipart"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def pack(self, **options: bool) -> None:
        if not self.source.is_dir():
            DRAW["clipart"](self.source)
        pack("clipart", self.source, self.out, SMALL, **options)  # type: ignore[arg-type]

    def tars(self) -> Path:
        """Somebody's tars: those of the set, without anything of ours beside them."""
        folder = self.folder / "theirs"
        if not folder.exists():
            folder.mkdir()
            for path in self.shard_set.path.glob("*.tar"):
                shutil.copy(path, folder)
        return folder

    def run(self) -> RunDir:
        recipe = tasks.load("clipart").recipe
        config = recipe.override(["data.image_px=16", "train.epochs=1", "train.eval_batch_size=16"])
        home = Home(self.folder / "home")
        home.runs.mkdir(parents=True, exist_ok=True)
        run = home.run_dir("clipart-1")
        if not run.path.exists():
            make_run(run.path, dataclasses.replace(config, dataset="clipart"), self.shard_set, {}, scores=(0.5,))
            model = tasks.load("clipart").build_model(config, self.shard_set.schema)
            with contextlib.closing(Checkpoints(run.checkpoints)) as checkpoints:
                checkpoints.save("best", 10, {"model": model.state_dict()}, {"epoch": 1})
        return run


def unlisted(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_symlink():
        path.unlink()


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
