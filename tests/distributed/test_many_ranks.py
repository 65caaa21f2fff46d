"""Real ranks in odd and larger numbers train to one rank's weights, and predict every sample once."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from fashion_dist.paths import RunDir
from fashion_dist.tasks import load
from fashion_dist.tracking.metrics_log import read_metrics
from fashion_dist.train.checkpoint import Checkpoints
from fashion_dist.train.distributed import World, init_process_group
from fashion_dist.train.options import TrainerOptions
from fashion_dist.train.trainer import Trainer, build_model
from shards import ShardSet

SETTINGS = (
    "model.name=mlp", "model.norm=group", "data.image_px=16", "optim.name=sgd", "optim.lr=0.05", "train.epochs=2",
    "optim.warmup_epochs=0", "train.eval_batch_size=7", "train.precision=fp32", "train.mixup=0", "train.cutmix=0",
)  # fmt: skip


def _train(rank: int, ranks: int, batch: int, shard_set: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    task = load("deepfashion")
    config = task.recipe.override([*SETTINGS, f"train.batch_size={batch}"])
    with init_process_group(World(rank, ranks, rank, ranks), folder / "rendezvous") as dist:
        trainer = Trainer(config, task, ShardSet.open(shard_set), dist, RunDir(folder), TrainerOptions(wandb="off"))
        assert trainer.fit() == "done"


def _trained(ranks: int, batch: int, shard_set: Path, folder: Path) -> RunDir:
    folder.mkdir()
    context = multiprocessing.get_context("spawn")  # autograd that has run here bears no fork
    processes = [context.Process(target=_train, args=(rank, ranks, batch, shard_set, folder)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
        assert process.exitcode == 0
    return RunDir(folder)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("ranks", "batch"),
    [(3, 48), pytest.param(5, 45, marks=SLOW), pytest.param(7, 49, marks=SLOW), pytest.param(16, 48, marks=SLOW)],
)
def test_so_many_ranks_train_to_one_rank_s_weights_and_count_everything_once(
    packed_home: Path, tmp_path: Path, ranks: int, batch: int
) -> None:
    shards = packed_home / "shards" / "deep_fashion"
    alone, many = (_trained(n, batch, shards, tmp_path / str(n)) for n in (1, ranks))
    found = []
    for run in (alone, many):
        loaded = Checkpoints(run.checkpoints).load()
        assert loaded is not None
        found.append(loaded[1]["model"])
    config = load("deepfashion").recipe.override(list(SETTINGS))
    begun = build_model(config, ShardSet.open(shards), Path()).state_dict()
    assert max(float((value - begun[name]).abs().max()) for name, value in found[0].items()) > 0.01, "it has learned"
    for name, value in found[0].items():
        torch.testing.assert_close(
            found[1][name], value, rtol=1e-4, atol=1e-5, msg=lambda words, name=name: f"{name}: {words}"
        )
    of_one, of_many = (read_metrics(run.metrics, "val")[-1] for run in (alone, many))
    assert of_many["score"] == pytest.approx(of_one["score"], abs=0.05)
    split = ShardSet.open(shards).split("test")
    parts = [pq.read_table(path)["key"].to_pylist() for path in many.predictions("test").glob("rank_*.parquet")]
    assert sorted(key for part in parts for key in part) == sorted(np.asarray(split.keys).tolist())
