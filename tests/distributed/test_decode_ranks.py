"""Real ranks agree on the safest way of decoding that any of their nodes needs, and keep it."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
from pathlib import Path

import pytest
import torch

from fashion_dist.data.decode_record import Asked, DecodeRecord
from fashion_dist.errors import ConfigError, RunError
from fashion_dist.paths import RunDir
from fashion_dist.train import decode_choice
from fashion_dist.train.distributed import ProcessGroup, World, init_process_group

CUDA = torch.device("cuda", 0)
NODES = ({"gpu": "", "gpu-whole": ""}, {"gpu": "its pixels differ (n2)", "gpu-whole": ""})
"""What each rank's node found: the second one's GPU is not right with crops."""


def alone(run: RunDir, asked: Asked, tested: dict[str, str], cache: str = "none") -> DecodeRecord | None:
    return decode_choice.settle(run, asked, cache, ProcessGroup(World(), CUDA), tested)


def exchanged(dist: ProcessGroup, rank: int) -> None:
    """Gradients that travel in bf16 are the ranks' mean, rounded."""
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 2, bias=False)
    parallel = dist.wrap_ddp(network, "bf16")
    parallel(torch.full((1, 3), 1.001 + rank)).sum().backward()
    assert network.weight.grad is not None
    mean = torch.full((2, 3), 1.501)
    torch.testing.assert_close(network.weight.grad, mean, rtol=2**-7, atol=0)
    assert torch.equal(network.weight.grad, network.weight.grad.bfloat16().float()), "it did not travel in bf16"


def _rank(rank: int, folder: str) -> None:
    run = RunDir(Path(folder))
    with init_process_group(World(rank, 2, rank, 2), run.path / "rendezvous") as dist:
        assert decode_choice.settle(run, "auto", "none", dist, NODES[rank]) is None, "nothing is decided on CPUs"
        on_gpu = dataclasses.replace(dist, device=CUDA)
        found = [decode_choice.settle(run, "auto", "none", on_gpu, NODES[rank]) for _ in range(2)]
        exchanged(dist, rank)
        (run.path / f"{rank}.json").write_text(json.dumps([vars(record) for record in found if record]))


def test_all_ranks_take_the_safest_way_for_the_run_s_life(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=_rank, args=(rank, str(tmp_path))) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert told[0] == told[1] and told[0][0]["way"] == "gpu-whole" and "(n2)" in told[0][0]["why"]
    run = RunDir(tmp_path)
    again = alone(run, "auto", {"gpu": ""})  # on a node where crops are right
    assert again is not None and again.way == "gpu-whole"
    with pytest.raises(RunError, match="decoded by gpu-whole from its beginning, and here it hangs"):
        alone(run, "auto", {"gpu-whole": "it hangs"})
    with pytest.raises(ConfigError, match="--decode cpu is not possible"):
        alone(run, "cpu", {})


def test_a_way_that_was_asked_for_and_is_wrong_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--decode gpu is not possible: its pixels differ"):
        alone(RunDir(tmp_path), "gpu", NODES[1])
    assert DecodeRecord.read(RunDir(tmp_path)) is None, "nothing was decided"
    cached = alone(RunDir(tmp_path), "auto", {}, cache="ram")
    assert cached is not None and cached.way == "cpu", "a cache keeps the CPU's pixels"
