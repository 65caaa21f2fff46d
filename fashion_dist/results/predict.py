"""Predictions of a run that is trained, in this process."""

from __future__ import annotations

from fashion_dist.runs import OpenRun
from fashion_dist.train.trainer import Trainer


def predict_run(run: OpenRun, split: str) -> None:
    """Predict `split` with the best weights of a run.

    Raises:
        CheckpointError: the run has no best weights yet.
    """
    with Trainer.for_inference(run) as trainer, trainer.split_loader(split) as loader:
        trainer.predict(loader)
