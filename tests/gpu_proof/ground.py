"""What the parts of the proof share: where they run, and trainers over the drawn set."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from fashion_dist.config import Config
from fashion_dist.data.options import LoaderOptions
from fashion_dist.models import registry
from fashion_dist.paths import RunDir
from fashion_dist.tasks import load
from fashion_dist.train.distributed import ProcessGroup, World
from fashion_dist.train.options import TrainerOptions
from fashion_dist.train.split_loader import SplitLoader
from fashion_dist.train.trainer import Trainer
from gpu_proof.drawn import DrawnSet


class Row(NamedTuple):
    """One line of the table.

    Args:
        name: of the figure.
        value: number or word.
        unit: of it.
        least: what is wanted at least; None where nothing is.
        fault: what is wrong, in a sentence; ends the proof with status 1.
    """

    name: str
    value: float | str
    unit: str = ""
    least: float | None = None
    fault: str = ""


@dataclass(frozen=True)
class Ground:
    """Where a part runs.

    Args:
        device: `cuda:0` or `cpu`.
        small: a rehearsal, whose figures mean nothing.
        folder: scratch space with the set `photos`.
        ways: of decoding that have passed the self-test, the fastest first; the hardware decoder is not among them.
        fashion_mnist: folder of the published files; may be empty.
    """

    device: torch.device
    small: bool
    folder: Path
    ways: Sequence[str]
    fashion_mnist: str = ""

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU."""
        return self.device.type == "cuda"

    @property
    def image_px(self) -> int:
        """Height and width of the crops."""
        return 32 if self.small else 224

    @property
    def batch_size(self) -> int:
        """Images a step."""
        return 8 if self.small else 256

    @property
    def network(self) -> str:
        """What is trained for speed."""
        return "mlp" if self.small else "torchvision/resnet50" if has("torchvision") else "fashionnet"

    def set_of(self, name: str = "photos") -> DrawnSet:
        """A set in the scratch folder."""
        found = DrawnSet.open(self.folder / name)
        assert isinstance(found, DrawnSet)
        return found

    def wait(self) -> None:
        """For the GPU."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def open(
        self, name: str, settings: Sequence[str] = (), *, task: str = "fashion_mnist", cache: str = "none",
        decode: str | None = None, device: torch.device | None = None, images: str = "photos",
    ) -> tuple[Trainer, SplitLoader]:  # fmt: skip
        """A fresh run in the scratch folder, as any run of that task, and the loader of its training split."""
        config: Config = registry.resolve(load(task).recipe.override(settings)).check()
        folder = self.folder / "runs" / name
        folder.mkdir(parents=True, exist_ok=True)
        options = options_of(decode or self.ways[0], cache)
        dist = ProcessGroup(World(), device or self.device)
        trainer = Trainer(
            config, load(task), self.set_of(images), dist, RunDir(folder), TrainerOptions(options, wandb="off")
        )
        trainer.logger.open(config, 0)
        return trainer, trainer.split_loader("train")


def options_of(way: str, cache: str = "none") -> LoaderOptions:
    """A loader's, by a way of decoding; the hardware decoder is measured, and refused in training."""
    options = LoaderOptions(cache=cache)  # type: ignore[arg-type]
    object.__setattr__(options, "decode", way)
    return options


def has(*names: str) -> bool:
    """Whether these packages are installed."""
    try:
        return all(importlib.util.find_spec(name) is not None for name in names)
    except ModuleNotFoundError:  # of a finder that refuses
        return False
