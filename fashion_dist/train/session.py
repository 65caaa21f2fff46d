"""A run in the hands of one rank: its parts, its position, and one split's way to the model."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fashion_dist.config import Config, DataConfig
from fashion_dist.data import Batch, Loader, LoaderOptions
from fashion_dist.data.batch import on_device
from fashion_dist.errors import CheckpointError, unknown
from fashion_dist.io import write_text
from fashion_dist.paths import RunDir
from fashion_dist.run_status import StateFile
from fashion_dist.tasks import Columns, Examples, Task
from fashion_dist.tracking.metrics_log import Tracker, WandbMode
from fashion_dist.train.checkpoint import Checkpoints
from fashion_dist.train.distributed import Link
from fashion_dist.train.inference import ask_model
from fashion_dist.train.startup_timer import Startup, told
from fashion_dist.train.state import Learner
from shards import ShardSet


@dataclass(frozen=True)
class FitOptions:
    """What may differ between two starts of the same run without changing its outcome."""

    loader: LoaderOptions = field(default_factory=LoaderOptions)
    wandb: WandbMode = "auto"
    group: str = ""
    """The sweep that the run is a trial of, for W&B."""
    attempt: int = 1
    """Number of this start of the run, from 1."""
    predict: tuple[str, ...] = ("test",)
    """Splits to predict with the best weights at the end, where the shard set has them."""
    prune: Callable[[int], bool] | None = None
    """Asked on rank 0 before every epoch but the first, with the epochs done; True ends the run here for good."""
    figures: Callable[[], Mapping[str, float]] | None = None
    """Asked on rank 0 beside every training line: what the nodes were doing since it was last asked, if known."""
    startup: Startup | None = None
    """The clock of this start, to be told with its first step."""


@dataclass
class Position:
    """Where a run is. This, the weights and the optimiser are its whole state."""

    epoch: int = 0
    step: int = 0
    """Optimiser steps done within `epoch`."""
    total: int = 0
    """Optimiser steps done in all."""
    best: dict[str, Any] = field(default_factory=dict)
    """`metric`, `value` and `epoch` of the best evaluation so far."""


@dataclass
class Session:
    """One run in the hands of this rank; only rank 0's writes anything."""

    folder: RunDir
    config: Config
    task: Task
    shard_set: ShardSet
    link: Link
    learner: Learner
    checkpoints: Checkpoints
    options: FitOptions
    stop: Callable[[], bool]
    position: Position = field(default_factory=Position)
    state_file: StateFile | None = None
    tracker: Tracker | None = None
    saved_at: float = field(default_factory=time.monotonic)
    mined: Examples | None = None
    """The current epoch's examples, where the weights chose them; kept in checkpoints."""
    _stepped: bool = False

    def tell(self, **values: Any) -> None:
        """Update state.json."""
        if self.state_file is not None:
            self.state_file.update(**values)

    def log(self, split: str, epoch: float, values: Mapping[str, float]) -> None:
        """Add a line to metrics.jsonl."""
        if self.tracker is not None:
            self.tracker.log(split, self.position.total, epoch, values)

    def log_nodes(self, epoch: float) -> None:
        """Add a line of what the nodes are doing, when there is news of them."""
        if self.tracker is not None and self.options.figures is not None and (found := self.options.figures()):
            self.log("system", epoch, found)

    def mark(self, part: str) -> None:
        """A part of the start is over."""
        if self.options.startup is not None:
            self.options.startup.mark(part)

    def first_step_done(self) -> None:
        """Say once, after this start's first step, how long it took to get there."""
        startup = self.options.startup
        if startup is None or self._stepped:
            return
        self._stepped = True
        if self.link.device.type == "cuda":
            torch.cuda.synchronize(self.link.device)  # once a start
        startup.mark("first step and compilation" if self.config.train.compile else "first step")
        if self.link.world.is_main:
            print(told(startup.parts), flush=True)
            self.tell(startup=startup.parts)

    def write_measures(self, split: str, tables: Mapping[str, str]) -> None:
        """Keep what was measured on a split as files."""
        if self.link.world.is_main and tables:
            folder = self.folder.measures(split)
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in tables.items():
                write_text(folder / name, text)

    def save(self) -> None:
        """Commit a checkpoint of this moment."""
        if self.link.world.is_main:
            facts = {
                "config": plain(self.config),
                "data_hash": self.shard_set.data_hash,
                "torch": torch.__version__,
                "precision": str(self.learner.dtype),
                "world_size": self.link.world.world_size,
            }
            mined = None if self.mined is None else self.mined.state()
            state = self.learner.state() | {"position": dataclasses.asdict(self.position), "mined": mined}
            self.checkpoints.save("step", self.position.total, state, facts)
        self.saved_at = time.monotonic()

    def is_pruned(self) -> bool:
        """Whether the run is to end before its next epoch: the same answer on every rank."""
        prune, at = self.options.prune, self.position
        if prune is None or at.step or not at.epoch:
            return False
        return any(self.link.gather(self.link.world.is_main and prune(at.epoch)))

    def save_best(self, metrics: Mapping[str, float]) -> None:
        """Commit the evaluated weights as the best so far."""
        if self.link.world.is_main:
            state = {"model": self.learner.evaluated_model().state_dict()}
            facts = {"metrics": dict(metrics), **self.position.best}
            self.checkpoints.save("best", self.position.total, state, facts)

    def resume(self) -> None:
        """Take up the last whole checkpoint, if there is one.

        Raises:
            CheckpointError: it is of another shard set or recipe, or the ranks do not see the same one.
        """
        if self.link.world.is_main:
            self.checkpoints.clean()
        self.link.barrier()
        found = self.checkpoints.load("step", self.learner.device)
        if not self.link.all_agree(str(found and found[0].path.name)):
            raise CheckpointError(f"{self.checkpoints.folder}: the ranks do not see the same last checkpoint")
        if found is None:
            return
        saved, state = found
        for name, mine in (("data_hash", self.shard_set.data_hash), ("config", plain(self.config))):
            if saved.facts[name] != mine:
                what = "shard set" if name == "data_hash" else "recipe"
                raise CheckpointError(f"checkpoint {saved.path} is of another {what}; --fresh starts over beside it")
        self.learner.restore(state)
        self.position = Position(**state["position"])
        self.mined = None if state["mined"] is None else Examples.from_state(state["mined"])

    def load_best(self) -> None:
        """Give the evaluated model the best weights so far.

        Raises:
            CheckpointError: there are none yet.
        """
        found = self.checkpoints.load("best", self.learner.device)
        if found is None:
            raise CheckpointError(f"run {self.folder.run_id} has no best weights yet in {self.checkpoints.folder}")
        self.learner.evaluated_model().load_state_dict(found[1]["model"])


class SplitFeed:
    """One split on its way to the model: its examples, their targets on the device, and the loader.

    Args:
        session: whose configuration, ranks and device.
        name: `train` is shuffled and augmented; every other split is read in order, whole.
        alone: read the split in order, image by image, whatever its name and the task's examples.
    """

    def __init__(self, session: Session, name: str, alone: bool = False) -> None:
        self.split = session.shard_set.split(name)
        self.training = name == "train" and not alone
        self._session = session
        self._alone = alone
        self._epoch = session.position.epoch if self.training else 0
        self._px = session.config.data.image_px
        self._take(self._make(self._epoch))
        self.loader = self._load(session.config.data)

    @property
    def labelled(self) -> bool:
        """Whether there is anything to measure answers by."""
        return self._session.task.judge is not None or self.examples.labelled

    def begin(self, epoch: int, px: int) -> None:
        """Be ready for `epoch`: its own examples, if the task's change, in images of `px` pixels."""
        if px != self._px:
            self._px = px
            self.loader.resize(px)
        if self.training and epoch != self._epoch and self._session.task.examples is not None:
            self._epoch = epoch
            self._take(self._make(epoch))
            self.loader.show(self.examples.images)

    def _make(self, epoch: int) -> Examples:
        session, config = self._session, self._session.config
        if self._alone:
            return Examples(np.arange(len(self.split), dtype=np.int64)[:, None], {})
        if self.training and session.mined is not None and session.position.step:
            return session.mined  # what the weights at the epoch's beginning chose; today's are others
        session.mined = None if self.training else session.mined
        asked: list[float] = []

        def ask() -> Columns:
            started = time.monotonic()
            columns = ask_model(session, self.split.name, self._px)
            asked.append(time.monotonic() - started)
            return columns

        examples = session.task.make_examples(self.split, config, epoch, ask)
        if config.train.fraction < 1 and (self.training or (self.split.name == "val" and session.task.judge is None)):
            least = config.train.batch_size if self.training else 1
            examples = examples.sample(config.train.fraction, least, config.train.seed)
        if asked:
            session.mined = examples
            session.log("train", epoch, {"mining_s": sum(asked)})
        return examples

    def _take(self, examples: Examples) -> None:
        self.examples = examples
        self.targets = {
            key: torch.from_numpy(np.ascontiguousarray(values)).to(self._session.link.device)
            for key, values in examples.targets.items()
        }

    def _load(self, data: DataConfig) -> Loader:
        session, config, world = self._session, self._session.config, self._session.link.world
        balance, weigh = self._drawn_by(config.data.balance), self._drawn_by(config.data.weigh)
        return Loader(
            self.split,
            self.examples.images,
            data,
            classes=balance,
            weights=weigh,
            batch_size=config.train.batch_size if self.training else config.train.eval_batch_size,
            accumulate=config.train.accumulate if self.training else 1,
            training=self.training,
            rank=world.rank,
            world_size=world.world_size,
            local_world_size=world.local_world_size,
            seed=config.train.seed,
            device=session.link.device,
            dtype=torch.bfloat16 if session.learner.dtype == torch.bfloat16 else torch.float32,
            options=session.options.loader,
            bad_log=session.folder.bad_samples(world.rank),
        )

    def _drawn_by(self, name: str) -> np.ndarray | None:
        """The target by which training examples are drawn, if one is named."""
        if not name or not self.training:
            return None
        if name not in self.examples.targets:
            raise unknown("target (data.balance, data.weigh)", name, self.examples.targets)
        return self.examples.targets[name]

    def targets_of(self, batch: Batch) -> dict[str, Tensor]:
        """The targets of a batch, by name."""
        index = on_device(batch.index, self._session.link.device)
        return {key: values[index] for key, values in self.targets.items()}

    def key(self, index: int) -> str:
        """The key of example `index`: its images' keys, joined by blanks where there are several."""
        return " ".join(self.split.keys[int(row)] for row in self.examples.images[index])

    def __enter__(self) -> SplitFeed:
        return self

    def __exit__(self, *_: object) -> None:
        self.loader.close()


def plain(config: Config) -> dict[str, Any]:
    """The configuration as JSON reads it back, which is how a checkpoint keeps it."""
    values: dict[str, Any] = json.loads(config.to_json())
    return values
