from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fashion_dist.data.sampler import (
    BatchPartition,
    balanced_weights,
    epoch_order,
    eval_blocks,
    hashes,
    occurrences,
    uniform,
    weighted_order,
)
from fashion_dist.errors import ConfigError

sizes = st.integers(1, 400)
seeds = st.integers(0, 2**63)


@given(sizes, st.integers(1, 12), seeds, st.integers(0, 5), st.integers(1, 100))
def test_an_epoch_reads_every_example_once(count: int, shards: int, seed: int, epoch: int, window: int) -> None:
    order = epoch_order(np.arange(count) * shards // count, seed, epoch, window)
    assert np.array_equal(np.sort(order), np.arange(count))


@given(st.integers(20, 400), st.integers(2, 12), seeds)
def test_a_window_reads_whole_shards(count: int, shards: int, seed: int) -> None:
    of = np.arange(count) * shards // count
    order = epoch_order(of, seed, 0, window=1)  # a shard fills a window of its own
    assert len(np.flatnonzero(np.diff(of[order]))) == shards - 1


def test_epochs_and_seeds_differ_and_repeat() -> None:
    of = np.zeros(1000, np.int32)
    assert np.array_equal(epoch_order(of, 1, 2), epoch_order(of, 1, 2))
    first = epoch_order(of, 1, 2)
    for other in (epoch_order(of, 1, 3), epoch_order(of, 2, 2)):
        assert np.mean(first == other) < 0.02


@given(
    st.integers(1, 9),
    st.sampled_from([1, 2, 3, 4, 8]),
    st.sampled_from([1, 2, 3]),
    st.integers(0, 500),
    st.integers(0, 3),
    seeds,
)
def test_ranks_share_the_same_global_batches(
    per_micro: int, world_size: int, accumulate: int, more: int, epoch: int, seed: int
) -> None:
    batch_size = per_micro * world_size * accumulate
    count = batch_size + more
    order = epoch_order(np.arange(count) // 50, seed, epoch)
    whole = BatchPartition(count, batch_size)
    divided = BatchPartition(count, batch_size, world_size, accumulate)
    assert divided.steps == whole.steps == count // batch_size
    for step in range(divided.steps):
        parts = [order[divided.positions(r, step, m)] for r in range(world_size) for m in range(accumulate)]
        assert {len(part) for part in parts} == {per_micro}
        assert np.array_equal(np.concatenate(parts), order[whole.positions(0, step, 0)])


@pytest.mark.parametrize(
    ("batch", "ranks", "accumulate", "told"),
    [(64, 3, 1, "63 or 66"), (50, 4, 2, "48 or 56"), (3, 4, 1, "nearest that is: 4"), (0, 2, 1, "nearest that is: 2")],
)
def test_a_batch_that_does_not_divide_names_the_nearest(batch: int, ranks: int, accumulate: int, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        BatchPartition(1000, batch, ranks, accumulate)


def test_more_ranks_than_examples_is_refused() -> None:
    with pytest.raises(ConfigError, match="5 examples are fewer than 8 ranks"):
        BatchPartition(5, 8, 8)
    with pytest.raises(ConfigError, match="more than the 5 examples there are; allowed: up to 4"):
        BatchPartition(5, 6, 2)


@given(st.integers(0, 300), st.integers(1, 40), st.integers(1, 9))
def test_evaluation_deals_every_block_to_one_rank(count: int, block: int, world_size: int) -> None:
    dealt = [s for rank in range(world_size) for s in eval_blocks(count, block, rank, world_size)]
    seen = np.concatenate([np.arange(s.start, s.stop) for s in dealt] or [np.zeros(0)])
    assert np.array_equal(np.sort(seen), np.arange(count))
    assert sorted(dealt, key=lambda s: s.start) == list(eval_blocks(count, block, 0, 1))


@given(st.lists(st.floats(0, 10), min_size=1, max_size=60).filter(any), seeds, st.integers(0, 3))
def test_weighted_draws_keep_to_the_weights(weights: list[float], seed: int, epoch: int) -> None:
    array = np.array(weights)
    order = weighted_order(array, np.zeros(len(array), np.int64), seed, epoch)
    assert len(order) == len(array)
    drawn = np.bincount(order, minlength=len(array))
    expected = array / array.sum() * len(array)
    assert (np.abs(drawn - expected) < 1 + 1e-6).all()
    assert drawn[array == 0].sum() == 0


@given(st.lists(st.integers(-1, 5), min_size=6, max_size=200).filter(lambda c: max(c) >= 0), seeds)
def test_balanced_classes_get_the_same_share(classes: list[int], seed: int) -> None:
    array = np.array(classes)
    order = weighted_order(balanced_weights(array), array, seed, 0)
    assert (array[order] >= 0).all()
    present = np.unique(array[array >= 0])
    counts = np.array([np.sum(array[order] == name) for name in present])
    assert (np.abs(counts - len(array) / len(present)) < 1 + 1e-6).all()


@given(st.lists(st.integers(0, 9), min_size=1, max_size=80))
def test_occurrences_count_what_came_before(order: list[int]) -> None:
    assert occurrences(np.array(order)).tolist() == [order[:i].count(value) for i, value in enumerate(order)]


@settings(max_examples=30)
@given(seeds, st.integers(0, 100), st.integers(0, 100))
def test_numbers_are_uniform_and_do_not_repeat(seed: int, epoch: int, purpose: int) -> None:
    ids = np.arange(20000)
    numbers = uniform(seed, epoch, purpose, ids)
    assert numbers.min() >= 0 and numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.015
    assert np.bincount((numbers * 10).astype(int), minlength=10).min() > 1700
    assert len(np.unique(hashes(seed, epoch, purpose, ids))) == len(ids)
    assert abs(np.corrcoef(numbers, uniform(seed, epoch, purpose + 1, ids))[0, 1]) < 0.04
    assert abs(np.corrcoef(numbers, uniform(seed, epoch + 1, purpose, ids))[0, 1]) < 0.04
