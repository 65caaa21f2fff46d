"""What a task of one's own gives for its losses: one sentence where the trainer cannot add it up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fashion_dist.config import Config
from fashion_dist.errors import ConfigError
from fashion_dist.tasks.common.base import over
from fashion_dist.train.trainer import Trainer


def test_a_term_that_is_not_counted_is_named() -> None:
    with pytest.raises(ConfigError, match=r"losses\(\) has the term 'bce', which counts\(\) has not: loss"):
        over({"bce": torch.ones(())}, {"loss": torch.ones(())})


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.5, "float"), (torch.ones(4), r"torch.float32 \[4\]"), (torch.ones(1), r"torch.float32 \[1\]")],
)
def test_a_term_that_is_no_sum_is_named(value: object, shown: str) -> None:
    def trainer(loss: object) -> Any:
        task = SimpleNamespace(losses=lambda *_: {"loss": loss})
        return SimpleNamespace(task=task, config=Config("piles", ""))

    assert Trainer._losses(trainer(torch.ones(())), {}, {}) == {"loss": torch.ones(())}
    with pytest.raises(
        ConfigError, match=rf"losses\(\) of task 'piles' gives {shown} for 'loss'; allowed: a tensor without"
    ):
        Trainer._losses(trainer(value), {}, {})
