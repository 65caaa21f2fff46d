"""What evaluation sees, against torchvision v2's transforms and Pillow, through the CPU renderer and DALI's graph."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from fashion_dist.config import DataConfig
from fashion_dist.data import preprocessing
from fashion_dist.data.augment import center_crop_params
from fashion_dist.data.cpu_transforms import Renderer
from fashion_dist.data.dali import Graph

SIZES = ((47, 91), (200, 120), (64, 64), (33, 300), (129, 128))
CONFIGS = [
    DataConfig(image_px=32, eval_resize=256 / 224, fit=fit, eval_order=order)  # type: ignore[arg-type]
    for fit in ("crop", "squash")
    for order in ("resize_crop", "crop_resize")
] + [DataConfig(image_px=32, eval_resize=1.0), DataConfig(image_px=32, eval_resize=1.0, fit="squash")]


def photo(size: tuple[int, int]) -> np.ndarray:
    """uint8 [height, width, 3], smooth with edges and noise."""
    width, height = size
    random = np.random.default_rng(size)
    y, x = np.mgrid[:height, :width]
    waves = [128 + 90 * np.sin(x / (3 + c) + y / 7) * (1 if c else np.sign(np.sin(y / 5))) for c in range(3)]
    return np.clip(np.stack(waves, axis=2) + random.normal(0, 12, (height, width, 3)), 0, 255).astype(np.uint8)


def expected(data: DataConfig, pixels: np.ndarray) -> torch.Tensor:
    """By torchvision: float32 [3, P, P]."""
    side = round(data.image_px * data.eval_resize)
    steps: list[v2.Transform] = [v2.ToImage()]
    if data.eval_order == "resize_crop":
        steps += [v2.Resize([side, side] if data.fit == "squash" else side), v2.CenterCrop(data.image_px)]
    else:
        height, width = pixels.shape[:2]
        tall, wide = (height, width) if data.fit == "squash" else (min(height, width),) * 2
        tall, wide = round(tall / data.eval_resize), round(wide / data.eval_resize)
        top, left = (height - tall) // 2, (width - wide) // 2
        steps += [v2.Lambda(lambda x: v2.functional.resized_crop(x, top, left, tall, wide, [data.image_px] * 2))]
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(data.mean, data.std)]
    return v2.Compose(steps)(pixels)


def rendered(data: DataConfig, pictures: list[np.ndarray], flips: np.ndarray) -> torch.Tensor:
    """By the loader's renderer: float32 [n, P, P, 3]."""
    draws = center_crop_params(data, np.array([p.shape[1::-1] for p in pictures]))
    boxes = draws.boxes.tolist()
    crops = [p[y : y + h, x : x + w] for p, (x, y, w, h) in zip(pictures, boxes, strict=True)]
    out = torch.empty((len(pictures), data.image_px, data.image_px, 3))
    renderer = Renderer(data.image_px, 2)
    renderer.start(crops.__getitem__, dataclasses.replace(draws, flips=flips), out).wait()
    renderer.close()
    return out


@pytest.mark.parametrize("data", CONFIGS, ids=lambda d: f"{d.fit} {d.eval_order} {d.eval_resize:.2f}")
def test_evaluation_is_torchvisions_to_the_last_bits(data: DataConfig) -> None:
    pictures = [photo(size) for size in SIZES]
    made = rendered(data, pictures, np.zeros(len(pictures), bool))
    mirrored = rendered(data, pictures, np.ones(len(pictures), bool))
    settings = preprocessing.describe(data)
    for image, other, pixels in zip(made, mirrored, pictures, strict=True):
        torch.testing.assert_close(image.permute(2, 0, 1), expected(data, pixels), rtol=0, atol=2e-6)
        torch.testing.assert_close(other.flip(1).permute(2, 0, 1), expected(data, pixels), rtol=0, atol=0.02)
        # The archive's and the loader's are the same bits.
        assert torch.equal(preprocessing.preprocess(Image.fromarray(pixels), settings), image.permute(2, 0, 1))


@pytest.mark.parametrize("data", [CONFIGS[0], CONFIGS[2]], ids=lambda d: d.fit)
def test_the_graph_for_gpus_cuts_the_same_place(data: DataConfig) -> None:
    """Its CPU operators; DALI's filter differs from torch's by a few of 255."""
    pictures = [photo(size) for size in SIZES]
    draws = center_crop_params(data, np.array([p.shape[1::-1] for p in pictures]))
    crops = [p[y : y + h, x : x + w].copy() for p, (x, y, w, h) in zip(pictures, draws.boxes.tolist(), strict=True)]
    graph = Graph(data.image_px, len(pictures), 1, None, encoded=False)
    graph.start(crops, draws)
    images = np.asarray(graph.finish())
    for image, pixels in zip(images, pictures, strict=True):
        away = np.abs(image.transpose(2, 0, 1) - expected(data, pixels).numpy()) * np.array(data.std)[:, None, None]
        assert away.max() * 255 < 8 and away.mean() * 255 < 1


def test_resizing_is_pillows_but_for_rounding() -> None:
    pixels = photo((300, 200))
    by_pillow = Image.fromarray(pixels).resize((60, 40), Image.Resampling.BILINEAR)
    by_torch = v2.functional.resize(torch.from_numpy(pixels).permute(2, 0, 1), [40, 60])
    assert np.abs(np.asarray(by_pillow, int) - by_torch.permute(1, 2, 0).numpy()).max() <= 1
