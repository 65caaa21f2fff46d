"""What a trainer is told besides what to train."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fashion_dist.data.options import LoaderOptions
from fashion_dist.tracking.wandb_media import Media
from fashion_dist.tracking.wandb_run import WandbMode
from fashion_dist.train.startup_timer import StartupTimer


@dataclass(frozen=True)
class TrainerOptions:
    """What may differ between two starts of the same run without changing its outcome."""

    loader: LoaderOptions = field(default_factory=LoaderOptions)
    wandb: WandbMode = "auto"
    group: str = ""
    """The sweep that the run is a trial of, for W&B."""
    attempt: int = 1
    """Number of this start of the run, from 1."""
    note: str = ""
    """What people should know of this start, for state.json."""
    track: str = "wandb"
    """The trackers that are told, by name, with commas between."""
    predict: tuple[str, ...] = ("test",)
    """Splits to predict with the best weights at the end, where the shard set has them."""


@dataclass(frozen=True)
class Callbacks:
    """What a trainer asks of whoever started it."""

    should_stop: Callable[[], bool] = lambda: False
    """Asked at every step; True on any rank ends the run at a step that all ranks agree on, checkpointed."""
    should_prune: Callable[[int], bool] | None = None
    """Asked on rank 0 before every epoch but the first, with the epochs done; True ends the run here for good."""
    system_metrics: Callable[[], Mapping[str, float]] | None = None
    """Asked on rank 0 beside every training line: what the nodes were doing since it was last asked, if known."""
    media: Callable[[], Media] | None = None
    """Asked at the end of a run for what trackers show beside its curves."""
    startup: StartupTimer | None = None
    """The clock of this start, which is told with its first step."""
