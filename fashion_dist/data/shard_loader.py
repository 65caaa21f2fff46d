"""The loader for any training loop: an iterable over one split of a shard set, exact in mid-epoch on any ranks.

    loader = ShardLoader("workspace/shards/cats", batch_size=64, image_px=96)
    for images, target in loader:                 # one epoch; the next `for` is the next epoch
        ...
    state = loader.state_dict()                   # at any batch; `load_state_dict` goes on with the very next sample

Which sample is read when, and how it is augmented, is a function of (seed, epoch, sample), as in our own training.
"""

from __future__ import annotations

import atexit
import dataclasses
import hashlib
import os
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fashion_dist.config import DataConfig
from fashion_dist.data.batch import Batch, on_device
from fashion_dist.data.dali import import_dali
from fashion_dist.data.loader import Loader
from fashion_dist.data.options import LoaderOptions
from fashion_dist.errors import CheckpointError, ConfigError, InputError
from fashion_dist.paths import Home
from fashion_dist.settings import hints_of, require
from shards import ShardSet, program, typed_json
from shards.manifest import MANIFEST
from shards.safe_io import expanded

Target = Tensor | list[str] | dict[str, Any] | None


class ShardLoader:
    """Batches (images, target) of one split; iterating it is one epoch, and goes on where a state left it.

    Ranks and their number are those of the environment (RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, as torchrun and Slurm's
    launchers set them). In training the global batch is divided among them, a remainder is left out, another one each
    epoch; else each sample is read once by one of them.

    Args:
        source: a shard set's folder, or one of anybody's WebDataset tars: these are indexed first, in HOME/sources.
        split: of the set.
        batch_size: of all ranks together in training; else of one rank.
        column: what is the target; else the only column with class names. Several, joined by commas, give a dict.
        training: shuffled and augmented, or in order and as evaluation sees it; else as the split's name says.
        seed: of the order and the augmentation.
        keys: batches are (images, target, list of keys).
        device: where batches are wanted; else the rank's GPU, or the CPU.
        options: how to work, without changing what.
        data: fields of `DataConfig`, such as `image_px`, `mean`, `std`, `crop_scale`, `flip`, `fit`.

    Raises:
        InputError: no such set or split, or tars that several ranks would have to index at once; in an iteration, that
            another one or another place was begun meanwhile.
        ConfigError: a field or a value that is none, a batch that cannot be divided, or no column that is the target.
    """

    def __init__(
        self,
        source: str | Path,
        split: str = "train",
        *,
        batch_size: int,
        column: str = "",
        training: bool | None = None,
        seed: int = 0,
        keys: bool = False,
        device: torch.device | str | None = None,
        options: LoaderOptions | None = None,
        **data: Any,
    ) -> None:
        self.rank, self.world_size = (int(os.environ.get(name, default)) for name, default in _RANKS)
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        require(type(batch_size) is int and batch_size > 0, "batch_size", batch_size, "a whole number from 1")
        require(type(seed) is int, "seed", seed, "a whole number")
        require(training in (None, True, False), "training", training, "True, False, None")
        self.shard_set = open_set(source, self.world_size)
        self.split, self.keys, self.seed, self.batch_size = self.shard_set.split(split), keys, seed, batch_size
        self.training = split == "train" if training is None else training
        self.epoch = self.step = 0
        """The epoch that is read next or now, and how many of its batches this rank has been given."""
        self._resumed = False
        self._batches: Iterator[Batch] | None = None
        names = column.split(",") if column else _target_columns(self.shard_set)
        self._columns = self.split.columns(*names)
        self._device = _device_of(device) if device is not None else _own_device(local)
        known = {field.name for field in dataclasses.fields(DataConfig)}
        if unknown := sorted(data.keys() - known):
            raise ConfigError(f"{', '.join(unknown)} is no setting of the pictures; known: {', '.join(sorted(known))}")
        self.data = DataConfig(**{name: _checked(name, value) for name, value in data.items()})
        self._loader = Loader(
            self.split,
            np.arange(len(self.split), dtype=np.int64)[:, None],
            self.data,
            batch_size=batch_size,
            training=self.training,
            rank=self.rank,
            world_size=self.world_size,
            local_world_size=local,
            seed=seed,
            device=self._device,
            options=options,
            classes=self._drawn_by("class_balanced", "int"),
            weights=self._drawn_by("sample_weight", "float", "int"),
        )
        # Where nobody closes it, it is closed when it is forgotten or, before what DALI does then, when Python ends.
        import_dali()
        self._close = weakref.finalize(self, _close_in, os.getpid(), self._loader)
        self._close.atexit = False
        atexit.register(self._close)

    def _drawn_by(self, setting: str, *kinds: str) -> np.ndarray | None:
        """The column by which training samples are drawn, if the setting names one."""
        if not (name := getattr(self.data, setting)) or not self.training:
            return None
        fit = [column for column, kind in self.split.schema.columns.items() if kind in kinds]
        require(
            name in fit, f"data.{setting}", name, f"a column of {' or '.join(kinds)}, here {', '.join(fit) or 'none'}"
        )
        return self.split.columns(name)[name]

    @property
    def class_names(self) -> dict[str, tuple[str, ...]]:
        """The names behind the numbers of each column that has some."""
        return dict(self.shard_set.schema.names)

    def __len__(self) -> int:
        """Batches of this rank in a whole epoch."""
        return self._loader.steps

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """The batches of the current epoch that are left; after the last one the next epoch is the current one."""
        if not self._close.alive:
            raise InputError(f"the loader of {self.split.path} is closed, and gives no more batches")
        resumed, self._resumed = self._resumed, False
        if 0 < len(self) <= self.step and not resumed:  # its last batch was taken, and no more asked for
            self.epoch, self.step = self.epoch + 1, 0
        self._batches = batches = self._loader.epoch(self.epoch if self.training else 0, self.step)
        while (given := self._next(batches)) is not None:
            self.step += 1  # before the caller has it, so that a state taken while it is worked on is behind it
            yield given
            if self._batches is not batches:
                raise InputError(
                    f"an iteration of {self.split.path} cannot go on after another one, load_state_dict or set_epoch "
                    f"began elsewhere; allowed: one at a time of each loader"
                )
        self.epoch, self.step = self.epoch + 1, 0

    @torch.inference_mode(False)  # the caller's mode is no business of the threads that render the next batches
    def _next(self, batches: Iterator[Batch]) -> tuple[Any, ...] | None:
        if (batch := next(batches, None)) is None:
            return None
        rows = batch.index.numpy()
        taken = {name: self._target(values[rows]) for name, values in self._columns.items()}
        target: Target = next(iter(taken.values())) if len(taken) == 1 else taken or None
        return (
            (batch.images, target, [str(key) for key in self.split.keys[rows]]) if self.keys else (batch.images, target)
        )

    def _target(self, values: np.ndarray) -> Tensor | list[str]:
        if values.dtype == object:
            return [str(value) for value in values]
        return on_device(torch.from_numpy(np.ascontiguousarray(values)), self._device)

    def set_epoch(self, epoch: int) -> None:
        """Begin at the beginning of an epoch, unless it is `self.epoch`, which a state may have left in the middle."""
        require(type(epoch) is int and epoch >= 0, "epoch", epoch, "a whole number from 0")
        if epoch != self.epoch:
            self.epoch, self.step, self._batches = epoch, 0, None

    def state_dict(self) -> dict[str, Any]:
        """Where the loader is: (epoch, step), and what it must be a loader of for that to mean the same."""
        return {"epoch": self.epoch, "step": self.step, **self._bound()}

    def _bound(self) -> dict[str, Any]:
        return {
            "split": self.split.name,
            "content": self.shard_set.manifest.hash_of(self.split.name),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "training": self.training,
            "class_balanced": self.data.class_balanced,
            "sample_weight": self.data.sample_weight,
            **({} if self.training else {"world_size": self.world_size}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, on any number of ranks that the batch can be divided among.

        In training the state of an epoch's last batch begins the next epoch; in evaluation nothing is left then.

        Raises:
            CheckpointError: it is of other data, another batch size, seed or way of drawing, or of no step here.
        """
        mine = self._bound()
        if other := [name for name, value in mine.items() if state.get(name) != value]:
            raise CheckpointError(f"the loader's state is of another {', '.join(other)} than {self.split.path}'s here")
        # In evaluation the state may be of another rank, which has a batch more.
        steps = len(self) if self.training else -(-len(self.split) // (self.batch_size * self.world_size))
        epoch, step = state.get("epoch"), state.get("step")
        if not (type(epoch) is int and epoch >= 0 and type(step) is int and 0 <= step <= steps):
            raise CheckpointError(
                f"the loader's state says step {step!r} of epoch {epoch!r}, which {self.split.path} cannot be at; "
                f"allowed: steps 0 to {steps} of an epoch from 0"
            )
        self.epoch, self.step = (epoch + 1, 0) if self.training and step == steps else (epoch, step)
        self._resumed, self._batches = True, None

    def close(self) -> None:
        """Stop all threads and give memory and files back."""
        self._close()

    def __enter__(self) -> ShardLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_RANKS = (("RANK", "0"), ("WORLD_SIZE", "1"))


def _close_in(process: int, loader: Loader) -> None:
    if os.getpid() == process:  # threads do not come along to a fork
        loader.close()


def _checked(name: str, value: object) -> Any:
    """A field of `DataConfig`, by its type."""
    try:
        return typed_json.parse_value(hints_of(DataConfig)[name], value, f"data.{name}", "ShardLoader")
    except InputError as error:
        raise ConfigError(str(error)) from None


def open_set(source: str | Path, world_size: int = 1) -> ShardSet:
    """A shard set, or the index of anybody's tars, made in HOME/sources where it is not there or the tars changed.

    Raises:
        InputError: there is no set; or there are tars without an index, and several ranks.
    """
    folder = expanded(source).absolute()
    tars = {path.name: path.stat().st_size for path in folder.glob("*.tar")} if folder.is_dir() else {}
    if (folder / MANIFEST).is_file() or not tars:
        return ShardSet.open(folder)
    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:10]
    out = Home.find().sources / f"{folder.name[:40]}-{digest}"
    if (out / MANIFEST).is_file():
        there = ShardSet.open(out)
        if {shard.name: shard.size for shard in there.manifest.shards} == tars:
            return there
    if world_size > 1:
        make = program.command("pack", "--reindex", folder)
        raise ConfigError(f"{folder} has no index, which one process has to make before the ranks start: {make}")
    from shards.reindex import reindex

    reindex(folder, out)
    return ShardSet.open(out)


def _target_columns(shard_set: ShardSet) -> list[str]:
    named = list(shard_set.schema.names)
    if len(named) > 1:
        raise ConfigError(f"{shard_set.path}: {' and '.join(named)} could be the target; column= names one or several")
    return named


def _device_of(name: torch.device | str) -> torch.device:
    kind, _, index = str(name).partition(":")
    require(kind in ("cpu", "cuda") and (not index or index.isdecimal()), "device", str(name), "cpu, cuda, cuda:N")
    return torch.device(name)


def _own_device(local_world_size: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    index = int(os.environ.get("LOCAL_RANK", "0")) if local_world_size > 1 else 0
    return torch.device("cuda", index % torch.cuda.device_count())
