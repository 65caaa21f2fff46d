"""Hard negatives are chosen by the weights at an epoch's beginning, also by a run that was stopped within it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fashion_dist.paths import RunDir
from fashion_dist.tasks import ExampleSet, load, polyvore_pairs
from fashion_dist.tracking.metrics_log import read_metrics
from fashion_dist.train.checkpoint import Checkpoints
from fashion_dist.train.distributed import ProcessGroup, World
from fashion_dist.train.options import Callbacks, TrainerOptions
from fashion_dist.train.trainer import Trainer
from shards import ShardSet

SETTINGS = (
    "task.negatives=hard", "task.candidates=12", "task.listed=0", "train.epochs=3", "train.batch_size=16",
    "train.eval_batch_size=16", "data.image_px=32", "model.name=mlp", "optim.lr=0.01",
)  # fmt: skip


def test_a_run_stopped_while_it_mines_learns_from_the_same_pairs(
    mini_set: Callable[[str], ShardSet], tmp_path: Path
) -> None:
    config = polyvore_pairs.RECIPE.override(SETTINGS).check()
    shard_set = mini_set("polyvore_outfits")
    link, options = ProcessGroup(World(), torch.device("cpu")), TrainerOptions(wandb="off")
    states = {}
    # 72 pairs make 4 steps an epoch: the second run is stopped twice after the first epoch; the last
    # start finds it done.
    for name, stops in (("whole", ()), ("stopped", (6, 1, 3))):
        run = RunDir(tmp_path / "runs" / name)
        run.path.mkdir(parents=True)
        for after in (*stops, 100):
            asked = iter(range(after))
            callbacks = Callbacks(should_stop=lambda: next(asked, None) is None)  # noqa: B023
            outcome = Trainer(config, load("polyvore_pairs"), shard_set, link, run, options, callbacks).fit()
            if after == stops[:1]:
                assert outcome == "stopped"
        assert outcome == "done"
        found = Checkpoints(run.checkpoints).load("step")
        assert found is not None
        states[name] = found[1]
        mined = [point for point in read_metrics(run.metrics) if "mining_s" in point]
        assert [point["epoch"] for point in mined] == [1, 2]
        (test,) = [point for point in read_metrics(run.metrics) if point["split"] == "test"]
        assert 0 <= test["fill_in_blank"] <= 1
    whole, stopped = states["whole"], states["stopped"]
    assert all(torch.equal(value, stopped["model"][key]) for key, value in whole["model"].items())
    kept, again = (ExampleSet.from_state_dict(state["hard_negatives"]) for state in (whole, stopped))
    assert np.array_equal(kept.images, again.images)
    soft = load("polyvore_pairs").build_examples(
        shard_set.split("train"), config.override(["task.negatives=semantic"]), 2
    )
    assert kept.images.shape == soft.images.shape
    assert not np.array_equal(kept.images, soft.images)


def test_only_training_may_ask_the_weights(mini_set: Callable[[str], ShardSet]) -> None:
    config = polyvore_pairs.RECIPE.override(SETTINGS)
    with pytest.raises(AssertionError, match="only training asks"):
        load("polyvore_pairs").build_examples(mini_set("polyvore_outfits").split("train"), config, 1)
