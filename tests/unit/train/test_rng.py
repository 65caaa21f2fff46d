"""Seeds: any of 64 bits, and a stream of its own for every step and rank."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fashion_dist.config import TrainConfig
from fashion_dist.errors import ConfigError
from fashion_dist.train import rng


def drawn(seed: int, step: int = 0, rank: int = 0) -> Tensor:
    rng.seed_step(seed, step, rank)
    return torch.rand(8)


def test_every_seed_step_and_rank_has_its_own_stream() -> None:
    cases = [
        (seed, step, rank)
        for seed in (0, 1, 65536, 1700000000, 2**32, 2**63 - 1, 2**64 - 1)
        for step in (0, 1, 16963, 65536, 2**32)
        for rank in (0, 1, 65535)
    ]
    streams = torch.stack([drawn(*case) for case in cases])
    assert len(streams.unique(dim=0)) == len(cases)
    assert torch.equal(drawn(*cases[40]), streams[40])
    assert 0.4 < float(streams.mean()) < 0.6 and abs(float(torch.corrcoef(streams.T)[0, 1])) < 0.4


def test_the_state_is_where_torch_keeps_it() -> None:
    """The words that were set are those of NumPy's Mersenne twister with the same key."""
    rng.seed_step(7, 3, 1)
    words = np.random.Philox(key=[7, 2], counter=[0, 0, 3, 1]).random_raw(312).view(np.uint32)
    twister = np.random.MT19937()
    twister.state = {"bit_generator": "MT19937", "state": {"key": words, "pos": 624}}
    expected = (twister.random_raw(8).astype(np.uint64) & np.uint64(2**24 - 1)) / 2.0**24
    assert torch.rand(8).tolist() == pytest.approx(expected.tolist())


def test_weights_begin_as_before_for_small_seeds_and_differ_in_all_bits_of_large_ones() -> None:
    torch.manual_seed(5)
    before = torch.rand(4)
    rng.seed_weights(5)
    assert torch.equal(torch.rand(4), before)
    rng.seed_weights(2**32 + 5)
    assert not torch.equal(torch.rand(4), before)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_outside_64_bits_is_refused(seed: int) -> None:
    with pytest.raises(ConfigError, match=rf"train.seed = {seed} is not possible; allowed: 0 to 2\*\*64 - 1"):
        TrainConfig(seed=seed)
