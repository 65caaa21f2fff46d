"""metrics.jsonl: the truth about a run's curves. Trackers are told the same lines."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fashion_dist.errors import InputError
from fashion_dist.io import append, parse_dataclass, read_lines, write_text
from fashion_dist.paths import RunDir
from fashion_dist.tracking.wandb_media import Media
from shards.safe_io import naming, open_regular
from shards.typed_json import is_sound

logger = logging.getLogger(__name__)

PLAIN = frozenset({"split", "step", "epoch", "attempt", "time"})
"""The fields of a line of metrics.jsonl that are no metric."""
SPLITS = ("train", "val", "test", "system")
"""Of the lines that we write; a run may have lines of splits of its own names beside them."""


def iter_metrics(path: Path, *splits: str) -> Iterator[dict[str, Any]]:
    """The lines of a metrics.jsonl, oldest first; a torn line, or one of other things than numbers, is passed over.

    With `splits` these alone, such as `val`; those of the other `SPLITS` are not even parsed.
    """
    others = tuple(f'{{"split": "{name}"'.encode() for name in SPLITS if splits and name not in splits)
    for line in read_lines(path, but=others):
        with contextlib.suppress(InputError):
            head = vars(parse_dataclass(_Head, line, path))
            if splits and head["split"] not in splits:
                continue
            if all(value is None or is_sound(value) for name, value in line.items() if name not in head):
                yield {**head, **line}


def read_metrics(path: Path, *splits: str) -> list[dict[str, Any]]:
    """`iter_metrics` as a list."""
    return list(iter_metrics(path, *splits))


@dataclass(frozen=True)
class _Head:
    """What every line has beside its metrics."""

    split: str
    step: int
    epoch: float
    attempt: int = 1
    time: float = 0.0


def _ends_a_line(path: Path) -> bool:
    with os.fdopen(open_regular(path), "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read() == b"\n"


class Tracker(Protocol):
    """Whoever shows a run's lines, on a thread of its own; one that raises is told nothing more, training goes on."""

    def log(self, line: Mapping[str, Any]) -> object:
        """Take a line of metrics.jsonl."""

    def show(self, media: Media) -> None:
        """Take what there is to see of a run that is done."""

    def finish(self) -> None:
        """The run ends here."""


REPLAY_SHARE = 0.25
"""Of a thread's time, what telling the lines of earlier starts may take: it holds the interpreter, as training does."""
CLOSE_S, DONE_S = 10.0, 300.0
"""How long a run waits for its trackers when it is stopped, for Slurm kills 30 s after its signal, and when it is done,
for W&B's client tries for hours to reach a server that has gone.
"""


class _TrackerThread(threading.Thread):
    """A tracker, told the lines so far and then what comes, in order, from this thread alone, beside the training."""

    def __init__(self, name: str, tracker: Tracker, history: Iterable[Mapping[str, Any]]) -> None:
        super().__init__(name=name, daemon=True)
        self._tracker, self._history = tracker, history
        self._actions: queue.SimpleQueue[Callable[[Tracker], object] | None] = queue.SimpleQueue()
        self._hurry, self._abandoned = threading.Event(), False
        self.start()

    def tell(self, action: Callable[[Tracker], object]) -> None:
        """Have this done when all before it is; nothing where the tracker has failed."""
        if self.is_alive():
            self._actions.put(action)

    def run(self) -> None:
        """See the class."""
        try:
            self._replay()
            while (action := self._actions.get()) is not None and not self._abandoned:
                action(self._tracker)
            self._tracker.finish()
        except Exception as error:  # its helper process may be gone in many ways; none may end the training
            logger.warning("%s failed (%s); training goes on, %s", self.name, error, self._later("its lines end here"))

    def _later(self, words: str) -> str:
        return "the command sync can replay metrics.jsonl later" if self.name == "wandb" else words

    def _replay(self) -> None:
        for line in self._history:
            began = time.monotonic()
            self._tracker.log(line)
            self._hurry.wait((time.monotonic() - began) * (1 / REPLAY_SHARE - 1))
            if self._abandoned:
                return

    def close(self, timeout_s: float) -> None:
        """Return when the tracker has been told all and has finished, or after a time limit with what it has."""
        self._actions.put(None)
        self._hurry.set()
        self.join(timeout_s)
        if self.is_alive():
            self._abandoned = True
            later = self._later("the next start tells it all")
            logger.warning("%s was not told all lines when the run stopped; %s", self.name, later)
            self.join(CLOSE_S)


class MetricsLogger:
    """Rank 0's record of the run.

    Args:
        run: the run's folder.
        resumed_step: optimizer steps already done; lines beyond it came from a lost attempt, whose steps are about to
            be done again with the same outcome, and are dropped; so are those of the predictions at the end.
        attempt: number of this attempt, from 1; stands in every line.
    """

    def __init__(self, run: RunDir, resumed_step: int, attempt: int) -> None:
        self.attempt = attempt
        self._path, self._lines = run.metrics, self._keep_until(run.metrics, resumed_step)
        self._file = append(run.metrics)
        self._trackers: list[_TrackerThread] = []
        self._shown = False

    @staticmethod
    def _keep_until(path: Path, step: int) -> int:
        """Returns how many lines there are."""

        def is_kept(point: Mapping[str, Any]) -> bool:
            return point["step"] <= step and point["split"] in ("train", "val", "system")

        kept = [is_kept(point) for point in iter_metrics(path)]
        if path.exists() and (not _ends_a_line(path) or not all(kept)):
            write_text(path, "".join(json.dumps(point) + "\n" for point in iter_metrics(path) if is_kept(point)))
        return sum(kept)

    def add(self, trackers: Mapping[str, Tracker]) -> None:
        """Tell trackers, by name, every line there is and will be, beside the training."""
        for name, tracker in trackers.items():
            lines = itertools.islice(iter_metrics(self._path), self._lines)
            self._trackers.append(_TrackerThread(name, tracker, lines))

    def log(self, split: str, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Add one line and flush it: of `train`, `val` or `test`, or of `system`, what the nodes were doing.

        `step` and `epoch` are optimizer steps and passes done, the latter with a fraction; what is not finite is null.
        """
        shown = {name: value if math.isfinite(value) else None for name, value in values.items()}
        head = {"split": split, "step": step, "epoch": round(epoch, 6), "attempt": self.attempt, "time": time.time()}
        with naming(self._path):
            self._file.write(json.dumps({**head, **shown}) + "\n")
            self._file.flush()
        self._lines += 1
        self._tell(lambda tracker: tracker.log({**head, **values}))

    def show(self, make: Callable[[], Media]) -> None:
        """Show what there is to see of a run that is done."""
        self._shown = True
        self._tell(lambda tracker: tracker.show(make()))

    def _tell(self, action: Callable[[Tracker], object]) -> None:
        for thread in self._trackers:
            thread.tell(action)

    def close(self) -> None:
        """End the record; a run that is done gives its trackers `DONE_S` to know all, one that is stopped `CLOSE_S`."""
        self._file.close()
        for thread in self._trackers:
            thread.close(DONE_S if self._shown else CLOSE_S)
        self._trackers = []
