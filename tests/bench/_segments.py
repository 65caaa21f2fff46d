"""Where the time of a training step goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fashion_dist.data import Batch
    from fashion_dist.train.split_loader import SplitLoader
from fashion_dist.train.trainer import Trainer

OTHER = "other"


class Segments:
    """Splits wall time by what the training loop does: `mark` ends a segment and begins the next.

    Args:
        synchronize: waits for the device, so that a segment's work is done when it ends.
    """

    def __init__(self, synchronize: Callable[[], None]) -> None:
        self._synchronize = synchronize
        self._at = time.perf_counter()
        self._undo: list[Callable[[], object]] = []
        self.seconds: dict[str, float] = {}

    def mark(self, name: str) -> None:
        """What ran since the last mark was `name`."""
        self._synchronize()
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._at
        self._at = now

    def attach(self, trainer: Trainer, loader: SplitLoader) -> None:
        """Mark what `train_epoch` does with the trainer and the loader, until `detach`."""
        self._undo = [
            trainer.state.model.register_forward_pre_hook(lambda *_: self.mark(OTHER)).remove,
            trainer.state.model.register_forward_hook(lambda *_: self.mark("forward")).remove,
            trainer.state.optimizer.register_step_pre_hook(lambda *_: self.mark(OTHER)).remove,
            trainer.state.optimizer.register_step_post_hook(lambda *_: self.mark("optimizer")).remove,
        ]
        # After the loss nothing stands between the backward pass and the gradient's norm.
        self._replace(trainer.task, "loss", self.timed(trainer.task.loss, "loss"))
        self._replace(
            trainer.state, "clip_gradients", self.timed(trainer.state.clip_gradients, "gradient norm", "backward")
        )
        self._replace(loader, "targets_of", self.timed(loader.targets_of, "targets to the device"))
        self._replace(loader.loader, "epoch", self.waiting(loader.loader.epoch))
        logger, dist = trainer.logger, trainer.dist
        for owner, name in ((logger, "log"), (logger, "update_status"), (dist, "all_reduce_sum")):
            self._replace(owner, name, self.timed(getattr(owner, name), "logging"))

    def detach(self) -> None:
        """Leave everything as it was before `attach`."""
        while self._undo:
            self._undo.pop()()

    def timed(self, function: Callable[..., Any], name: str, before: str = OTHER) -> Callable[..., Any]:
        """The same function, with its time marked as `name` and what ran before it as `before`."""

        def marked(*args: Any, **kwargs: Any) -> Any:
            self.mark(before)
            value = function(*args, **kwargs)
            self.mark(name)
            return value

        return marked

    def waiting(self, epoch: Callable[..., Iterator[Batch]]) -> Callable[..., Iterator[Batch]]:
        """The same epochs, with the time until each batch marked as waiting for data."""

        def marked(*args: int) -> Iterator[Batch]:
            batches = epoch(*args)
            self.mark(OTHER)
            for batch in batches:
                self.mark("waiting for data")
                yield batch
                self.mark(OTHER)

        return marked

    def shares(self) -> Mapping[str, float]:
        """Fractions of the whole, the longest first."""
        total = sum(self.seconds.values())
        return {name: value / total for name, value in sorted(self.seconds.items(), key=lambda item: -item[1])}

    def _replace(self, owner: Any, name: str, function: Callable[..., Any]) -> None:
        """Let `owner.name` be `function`, which hides the method of its class."""
        setattr(owner, name, function)
        self._undo.append(lambda: delattr(owner, name))
