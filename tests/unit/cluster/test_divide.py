from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fashion_dist.cluster.requirements import left_out, require_divisible
from fashion_dist.cluster.resources import Resources
from fashion_dist.config import Config
from fashion_dist.errors import ConfigError


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 4), st.integers(1, 6), st.integers(1, 8))
def test_what_is_advised_would_be_taken(batch: int, accumulate: int, nodes: int, per_node: int) -> None:
    config = Config(task="t", dataset="d").override([f"train.batch_size={batch}", f"train.accumulate={accumulate}"])
    resources = Resources(nodes=nodes, tasks_per_node=per_node)
    if batch % (nodes * per_node * accumulate) == 0:
        require_divisible(config, resources)
        return
    with pytest.raises(
        ConfigError, match=f"train.batch_size = {batch} does not divide over {nodes * per_node} ranks"
    ) as no:
        require_divisible(config, resources)
    sizes, _, counts = str(no.value).partition("nearest numbers of ranks:")
    for size in re.findall(r"\d+", sizes.partition("nearest batch sizes:")[2]):
        better = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=int(size)))
        require_divisible(better, resources)
    for count in re.findall(r"\d+", counts):
        require_divisible(config, Resources(nodes=int(count)))


def test_a_last_batch_that_is_much_of_a_small_set_is_told_with_a_better_one() -> None:
    told = left_out(246, 64, 2)
    assert "54 of the 246 training examples (22%)" in told
    size, rest = map(int, re.findall(r"train.batch_size=(\d+) it would be (\d+)", told)[0])
    assert (246 % size, size % 2) == (rest, 0) and rest < 54 and 32 < size <= 64
    assert left_out(1000, 64, 2) == ""
