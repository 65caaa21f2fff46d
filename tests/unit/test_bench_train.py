"""The parts of `bench.py train` that measure: what takes a loader's place, and where a step's time goes."""

from __future__ import annotations

import time

import pytest
import torch
from bench._segments import Segments
from bench._trainers import InMemory


def test_batches_in_memory_take_a_loader_s_place() -> None:
    made = [(torch.full((2, 3, 4, 4), float(number)), torch.tensor([number, number])) for number in range(3)]
    loader = InMemory(made, steps=5)
    assert [int(batch.index[0]) for batch in loader.epoch(7)] == [0, 1, 2, 0, 1]
    assert [int(batch.index[0]) for batch in loader.epoch(7, 3)] == [0, 1]


def test_segments_add_up_to_the_whole() -> None:
    waited: list[int] = []
    clock = Segments(lambda: waited.append(1))

    def epoch(number: int) -> object:
        del number
        for step in range(2):
            time.sleep(0.02)
            yield step

    for _ in clock.waiting(epoch)(0):  # type: ignore[arg-type]
        clock.mark("forward")
    shares = clock.shares()
    assert set(shares) == {"waiting for data", "forward", "other"}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert next(iter(shares)) == "waiting for data"
    assert clock.seconds["waiting for data"] >= 0.04
    assert len(waited) == 1 + 2 + 2 + 2  # the device is waited for at every mark
