"""Predictions of a run that is trained, in this process."""

from __future__ import annotations

from fashion_dist.runs import OpenRun
from fashion_dist.tasks import ExampleSet
from fashion_dist.train.trainer import Trainer


def predict_run(run: OpenRun, split: str) -> None:
    """Predict `split` with the best weights of a run.

    Raises:
        CheckpointError: the run has no best weights yet.
    """
    # The task's examples of `train` are drawn and augmented to learn from; here each image is wanted once.
    images = ExampleSet.of_images(len(run.shard_set.split(split))) if split == "train" else None
    with Trainer.for_inference(run) as trainer, trainer.split_loader(split, images) as loader:
        trainer.predict(loader)
