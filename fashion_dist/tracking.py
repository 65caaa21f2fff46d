"""metrics.jsonl always, Weights & Biases beside it: the only importer of wandb.

The file is the truth. W&B is told the same lines; when it fails, one warning is logged and training goes on. Offline
(the default without a key), `jobs/sync.py` replays the file into one W&B run later.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fashion_dist.config import Config
from fashion_dist.files import write_text
from fashion_dist.paths import RunDir

if TYPE_CHECKING:
    import wandb

logger = logging.getLogger(__name__)

WandbMode = Literal["auto", "online", "offline", "off"]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, oldest first; a torn or damaged line is passed over."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    points: list[dict[str, Any]] = []
    for line in lines:
        try:
            point = json.loads(line)
        except ValueError:
            continue
        if isinstance(point, dict) and isinstance(point.get("step"), int) and isinstance(point.get("split"), str):
            points.append(point)
    return points


class Tracker:
    """Rank 0's record of the run.

    Args:
        run: the run's folder.
        config: what W&B shows as the run's configuration.
        resumed_step: optimiser steps already done; lines beyond it came from a lost attempt, whose steps are about to
            be done again with the same outcome, and are dropped; so are those of the predictions at the end.
        attempt: number of this attempt, from 1; stands in every line.
        mode: what to do with W&B; `auto` is online with a key in the environment, else offline.
    """

    def __init__(self, run: RunDir, config: Config, resumed_step: int, attempt: int, mode: WandbMode = "auto") -> None:
        self.attempt = attempt
        self._keep_until(run.metrics, resumed_step)
        self._file = run.metrics.open("a")
        self._wandb = _start_wandb(run, config, mode)

    @staticmethod
    def _keep_until(path: Path, step: int) -> None:
        points = read_metrics(path)
        kept = [point for point in points if point["step"] <= step and point["split"] in ("train", "val")]
        if path.exists() and (len(kept) < len(points) or not path.read_bytes().endswith(b"\n")):
            write_text(path, "".join(json.dumps(point) + "\n" for point in kept))

    def log(self, split: str, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Add one line and flush it.

        Args:
            split: `train`, `val` or `test`.
            step: optimiser steps done.
            epoch: passes done, a fraction within one.
            values: named numbers; those not finite are written as null.
        """
        shown = {name: value if math.isfinite(value) else None for name, value in values.items()}
        head = {"split": split, "step": step, "epoch": round(epoch, 6), "attempt": self.attempt, "time": time.time()}
        self._file.write(json.dumps({**head, **shown}) + "\n")
        self._file.flush()
        self._tell({"step": step, "epoch": epoch} | {f"{split}/{name}": value for name, value in values.items()})

    def _tell(self, values: Mapping[str, float]) -> None:
        if self._wandb is not None:
            try:
                self._wandb.log(dict(values))
            except Exception as error:  # its helper process may be gone in many ways; none may end the training
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        logger.warning("W&B failed (%s); training goes on, jobs/sync.py can replay metrics.jsonl later", error)
        self._wandb = None

    def close(self) -> None:
        """End the record; W&B gets its last words."""
        self._file.close()
        if self._wandb is not None:
            try:
                self._wandb.finish()
            except Exception as error:  # as in _tell
                self._give_up(error)
            self._wandb = None


def _start_wandb(run: RunDir, config: Config, mode: WandbMode) -> wandb.Run | None:
    if mode == "auto":
        mode = "online" if os.environ.get("WANDB_API_KEY") else "offline"
    if mode == "off" or os.environ.get("WANDB_MODE") == "disabled":
        return None
    try:
        import wandb

        started = wandb.init(
            id=run.run_id, name=run.run_id, project=os.environ.get("WANDB_PROJECT", "fashion-dist"), dir=run.path,
            mode=mode, resume="allow", config=config.flat(), tags=[config.task, config.model.name],
            settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
        )  # fmt: skip
        for axis in ("train/*", "val/*", "test/*"):
            started.define_metric(axis, step_metric="step")
        return started
    except Exception as error:  # a full disk, a missing server, a broken install: none may end the training
        logger.warning("W&B did not start (%s); training goes on with metrics.jsonl alone", error)
        return None
