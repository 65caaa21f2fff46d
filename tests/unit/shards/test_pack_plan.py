from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards import InputError, PackOptions
from shards.pack_plan import MB, arrange, shard_count

SPLITS = ["test", "train", "val"]


RECORDS = st.tuples(st.integers(0, 2), st.integers(0, 2**64 - 1), st.integers(1024, 3 * MB))


@given(st.lists(RECORDS, min_size=1, max_size=200), st.sampled_from([0.0, 0.5, 1.0, 64.0]))
def test_every_record_is_in_one_shard_of_its_split(records: list[tuple[int, int, int]], shard_mb: float) -> None:
    splits = np.array([record[0] for record in records])
    hashes = np.array([record[1] for record in records], np.uint64)
    sizes = np.array([record[2] for record in records], np.int64)
    present = sorted(set(splits.tolist()))
    names = [SPLITS[number] for number in present]
    numbers = np.searchsorted(present, splits).astype(np.uint8)
    order, shards = arrange(numbers, hashes, sizes, names, shard_mb)

    assert sorted(order.tolist()) == list(range(len(records)))
    assert [shard.first for shard in shards] == [0, *(shard.last for shard in shards[:-1])]
    assert shards[-1].last == len(records)
    assert len({shard.name for shard in shards}) == len(shards)
    seen = [shard.split for shard in shards]
    assert seen == sorted(seen, key=["train", "val", "test"].index)
    for shard in shards:
        rows = order[shard.first : shard.last]
        assert {names[number] for number in numbers[rows]} == {shard.split}
        assert shard.size == sizes[rows].sum()
        if shard_mb:
            assert shard.size <= shard_mb * MB + sizes.max()


@given(st.permutations(range(50)), st.integers(0, 9))
def test_the_order_does_not_depend_on_the_order_of_reading(shuffled: list[int], offset: int) -> None:
    hashes = np.arange(50, dtype=np.uint64) * 7919 % 997 + offset
    sizes = np.full(50, 1024, np.int64)
    splits = np.zeros(50, np.uint8)
    straight, _ = arrange(splits, hashes, sizes, ["train"], 0)
    mixed, _ = arrange(splits, hashes[shuffled], sizes, ["train"], 0)
    assert [shuffled[row] for row in mixed] == straight.tolist()


@pytest.mark.parametrize(
    ("total_mb", "shard_mb", "wanted"),
    [(1, 0, 1), (9, 0, 3), (32, 0, 8), (400, 0, 8), (640, 0, 10), (100, 10, 10), (101, 10, 11), (5, 100, 1)],
)
def test_the_number_of_shards_follows_the_size(total_mb: int, shard_mb: float, wanted: int) -> None:
    assert shard_count(total_mb * MB, shard_mb) == wanted


@pytest.mark.parametrize(
    ("options", "told"),
    [({"check": "none"}, "decode, header"), ({"shard_mb": -1}, "0 .chosen"), ({"resize_px": -3}, "resize -3")],
)
def test_impossible_options_are_refused(options: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        PackOptions(**options)  # type: ignore[arg-type]
