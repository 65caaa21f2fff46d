"""The loader's GPU engines beside its CPU engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fashion_dist.config import DataConfig
from fashion_dist.data import Loader, LoaderOptions
from shards import ShardSet

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
DATA = DataConfig(image_px=64, rotate=20, shear=5, brightness=0.2, saturation=0.2, hue=10, erase=0.2)
WHOLE = DataConfig(image_px=128, crop_scale=(1.0, 1.0), brightness=0.2, erase=0.2)


def epochs(
    packed_home: Path, device: str, cache: str = "none", dtype: torch.dtype = torch.float32, data: DataConfig = DATA
) -> list[torch.Tensor]:
    split = ShardSet.open(packed_home / "shards" / "deep_fashion").split("train")
    with Loader(
        split,
        np.arange(len(split))[:, None],
        data,
        batch_size=32,
        training=True,
        device=torch.device(device),
        dtype=dtype,
        options=LoaderOptions(cache=cache),  # type: ignore[arg-type]
    ) as loader:
        batches = [batch for epoch in range(2) for batch in loader.epoch(epoch)]
    assert all(batch.images.device.type == torch.device(device).type for batch in batches)
    assert all(batch.images.is_contiguous(memory_format=torch.channels_last) for batch in batches)
    return [batch.images.float().cpu() for batch in batches]


@pytest.mark.parametrize("cache", ["none", "ram", "gpu", "auto"])
def test_the_gpu_shows_the_model_what_the_cpu_shows(packed_home: Path, cache: str) -> None:
    expected = epochs(packed_home, "cpu")
    found = epochs(packed_home, "cuda:0", cache)
    assert len(found) == len(expected) == 6
    for mine, reference in zip(found, expected, strict=True):
        assert (mine - reference).abs().mean() < 0.05


def test_half_precision_is_the_same_rounded(packed_home: Path) -> None:
    for half, full in zip(
        epochs(packed_home, "cuda:0", dtype=torch.bfloat16), epochs(packed_home, "cuda:0"), strict=True
    ):
        assert torch.equal(half, full.bfloat16().float())


def test_whole_batches_out_of_the_cache_are_the_cpu_s(packed_home: Path) -> None:
    expected = epochs(packed_home, "cpu", data=WHOLE)
    found = epochs(packed_home, "cuda:0", "gpu", data=WHOLE)
    for mine, reference in zip(found[3:], expected[3:], strict=True):  # of the second epoch
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-4)
