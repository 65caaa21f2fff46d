"""Real ranks: metrics and tables are those of one rank, also where a rank sees no batch; all take up rank 0's state."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fashion_dist.tasks import load
from fashion_dist.tasks.common.evaluators import GatheredEvaluator
from fashion_dist.train.distributed import ProcessGroup, World, init_process_group
from shards import Schema, Split

CLASSES, COUNT, RANKS = 10, 21, 3
SCHEMA = Schema(columns={"label": "int"}, names={"label": tuple("abcdefghij")})
SPLIT = Split("val", SCHEMA, Path(), Path(), (), 0, COUNT)
SHARES = ([0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20], [1, 3, 5, 7, 9, 11, 13, 15, 17, 19], [])
"""The samples of each rank; the last has none."""


class SplitPredictions(GatheredEvaluator):
    """The share of right answers, of the predictions in the order of the split."""

    def compute(self) -> dict[str, float]:
        return {"right": float((self.predictions["label"] == answers_and_truth()[1]["label"].numpy()).mean())}


def answers_and_truth() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(-1, CLASSES, (COUNT,), generator=generator)
    return {"label": torch.randn(COUNT, CLASSES, generator=generator)}, {"label": label}


def measure(dist: ProcessGroup, share: list[int]) -> tuple[dict[str, float], dict[str, str]]:
    task = load("fashion_mnist")
    counted, gathered = task.evaluator(SPLIT, task.recipe), SplitPredictions(task, SPLIT, task.recipe)
    outputs, targets = answers_and_truth()
    for rows in (share[:4], share[4:]):
        if rows:
            batch = ({"label": outputs["label"][rows]}, {"label": targets["label"][rows]}, torch.tensor(rows))
            counted.update(*batch)
            gathered.update(*batch)
    counted.reduce(dist)
    gathered.reduce(dist)
    return {**counted.compute(), **gathered.compute()}, counted.tables()


def odd_state() -> dict[str, Any]:
    """A state with all that a trainer's may have."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for number, tensor in enumerate(model.state_dict().values()):
        tensor.copy_(torch.arange(tensor.numel()).reshape(tensor.shape) + number)
    state = {0: {"step": torch.tensor(3.0), "half": torch.full((2, 5), 0.5, dtype=torch.bfloat16)}}
    groups = [{"betas": (0.9, 0.99), "params": [0]}]
    return {"model": model.state_dict(), "ema": None, "optimizer": {"state": state, "param_groups": groups}, "epoch": 3}


def require_odd_state(found: dict[str, Any]) -> None:
    wanted = odd_state()
    assert found["model"].keys() == wanted["model"].keys() and found["model"]._metadata == wanted["model"]._metadata
    pairs = [(found["model"][name], tensor) for name, tensor in wanted["model"].items()]
    pairs += [(found["optimizer"]["state"][0][name], each) for name, each in wanted["optimizer"]["state"][0].items()]
    assert all(torch.equal(a, b) and a.dtype == b.dtype and a.stride() == b.stride() for a, b in pairs)
    assert found["optimizer"]["param_groups"] == wanted["optimizer"]["param_groups"]
    assert (found["ema"], found["epoch"]) == (None, 3)


def _rank(rank: int, folder: str) -> None:
    world = World(rank, RANKS, rank, RANKS)
    with init_process_group(world, Path(folder) / "rendezvous") as dist:
        require_odd_state(dist.broadcast_state(odd_state() if rank == 0 else None))
        (Path(folder) / f"{rank}.json").write_text(json.dumps(measure(dist, SHARES[rank])))


def test_metrics_and_tables_are_those_of_one_rank(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=_rank, args=(rank, str(tmp_path))) for rank in range(RANKS)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        assert process.exitcode == 0
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(RANKS)]
    metrics, tables = measure(ProcessGroup(World(), torch.device("cpu")), list(range(COUNT)))
    assert found[0] == found[1] == found[2]
    assert found[0][1] == tables
    exact = metrics.keys() - {"loss", "plain_loss"}
    assert {name: found[0][0][name] for name in exact} == {name: metrics[name] for name in exact}
    outputs, targets = answers_and_truth()
    task = load("fashion_mnist")
    assert np.isclose(found[0][0]["loss"], float(task.loss(outputs, targets, task.recipe)["loss"]), rtol=1e-6)
