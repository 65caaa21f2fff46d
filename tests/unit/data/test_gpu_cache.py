"""What a GPU's cache gives at once, computed on the CPU: the same as the CPU's renderer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fashion_dist.config import DataConfig
from fashion_dist.data.augment import sample_augmentation
from fashion_dist.data.backends import CachedBackend
from fashion_dist.data.batch_plan import Work
from fashion_dist.data.cache import GpuCache, areas
from fashion_dist.data.cpu_transforms import Renderer
from fashion_dist.data.dali import Graph
from fashion_dist.data.decode import CachedDecoder

CPU, COUNT, SIDE = torch.device("cpu"), 40, 28
SIZES = np.full((COUNT, 2), SIDE, np.int32)


def filled(sizes: np.ndarray) -> GpuCache:
    cache = GpuCache(sizes, int(areas(sizes).sum()), CPU)
    for row, (width, height) in enumerate(sizes.tolist()):
        pixels = np.random.default_rng(row).integers(0, 256, (height, width, 3), dtype=np.uint8)
        cache.put(row, torch.from_numpy(pixels))
    return cache


def work_of(data: DataConfig, rows: np.ndarray) -> Work:
    return Work(rows, rows, sample_augmentation(data, SIZES[rows], rows.astype(np.uint64), seed=3, epoch=1))


@pytest.mark.parametrize(
    "data",
    [
        DataConfig(image_px=SIDE, crop_scale=(1.0, 1.0)),
        DataConfig(image_px=SIDE, crop_scale=(1.0, 1.0), brightness=0.3, contrast=0.2, erase=0.6),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_block_is_rendered_like_on_the_cpu(data: DataConfig, dtype: torch.dtype) -> None:
    cache = filled(SIZES)
    work = work_of(data, np.random.default_rng(0).permutation(COUNT)[:32])
    assert work.draws.flips.any() and not work.draws.flips.all()
    assert bool(data.erase) == bool(work.draws.erased[:, 2].any())
    engine = CachedBackend(CachedDecoder(32, 1, SIZES, 0, cache), Graph(SIDE, 32, 1, None, encoded=False), dtype, CPU)
    assert not engine.missing(work.rows).any()
    engine.begin(work, [None] * 32)
    rendered = engine.finish(work)
    assert not isinstance(rendered, dict)
    block = cache.block(SIDE)
    assert block is not None
    renderer, expected = Renderer(SIDE, 1), torch.empty((32, SIDE, SIDE, 3), dtype=dtype)
    renderer.start_block(block.numpy(), work.rows, work.draws, expected).wait()
    renderer.close()
    torch.testing.assert_close(rendered.wait(), expected, rtol=1e-5, atol=1e-5)
    assert rendered.wait().dtype == dtype
    engine.close()


def test_only_squares_of_the_right_side_are_a_block() -> None:
    assert filled(SIZES).block(SIDE - 1) is None
    mixed = SIZES.copy()
    mixed[7] = (SIDE, SIDE + 1)
    assert filled(mixed).block(SIDE) is None
    block = filled(SIZES).block(SIDE)
    assert block is not None and block.shape == (COUNT, SIDE, SIDE, 3)
    assert torch.equal(block[5], filled(SIZES).get(5))


def test_images_are_kept_at_once_where_they_have_a_place() -> None:
    sizes = np.array([[4, 3], [2, 5], [6, 6]], np.int32)
    cache = GpuCache(sizes, int(areas(sizes)[:2].sum()), CPU)
    images = [
        torch.full((int(height), int(width), 3), row, dtype=torch.uint8) for row, (width, height) in enumerate(sizes)
    ]
    cache.put_all([1, 2], images[1:])
    assert cache.missing(np.arange(3)).tolist() == [True, False, True] and torch.equal(cache.get(1), images[1])
    cache.put_all([0, 1], [images[0], images[1] + 9])
    assert torch.equal(cache.get(0), images[0]) and torch.equal(cache.get(1), images[1]), "kept once"
    cache.put_all([2], images[2:])
    assert cache.missing(np.arange(3)).tolist() == [False, False, True]
