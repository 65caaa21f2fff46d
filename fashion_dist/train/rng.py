"""Random numbers of training: any 64-bit seed, and a stream of its own for every step and rank.

Torch's CPU generator (mt19937) takes the low 32 bits of a seed, so that streams would repeat after some ten thousand
steps. Here its whole state comes from a counter-based generator (Philox, Salmon et al. 2011), which is keyed by the
seed and the purpose and counts steps and ranks.
"""

from __future__ import annotations

import numpy as np
import torch

_WEIGHTS, _STEP = 1, 2
"""Purposes."""
_WORDS = slice(24, 24 + 8 * 624)
"""Where torch's CPU generator keeps the 624 words of its state, each in 8 bytes (ATen/CPUGeneratorImpl.cpp)."""


def seed_weights(seed: int) -> None:
    """Seed torch for the weights that a run begins with; below 2**32 as `torch.manual_seed` does."""
    if seed < 1 << 32:
        torch.manual_seed(seed)
    else:
        _seed(seed, _WEIGHTS, 0, 0)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch on all devices for what a rank draws in a step, such as dropout: a resumed run draws the same."""
    _seed(seed, _STEP, step, rank)


def _seed(seed: int, purpose: int, step: int, rank: int) -> None:
    key, counter = np.array([seed, purpose], np.uint64), np.array([0, 0, step, rank], np.uint64)
    generator = np.random.Philox(key=key, counter=counter)
    words = generator.random_raw(312).view(np.uint32)
    # Not torch.manual_seed, which looks for devices of every kind: 0.3 ms, and 1.1 ms on a machine with a GPU, whose
    # generator takes all 64 bits. There are none of GPUs before CUDA begins.
    for each in (torch.default_generator, *torch.cuda.default_generators):
        each.manual_seed(int(words[:2].view(np.uint64)[0]))
    state = torch.get_rng_state()
    state.numpy()[_WORDS].view(np.uint64)[:] = words
    torch.set_rng_state(state)
