from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode, functional

from fashion_dist.config import DataConfig
from fashion_dist.data.augment import center_crop_params, sample_augmentation
from fashion_dist.data.cpu_transforms import Renderer
from fashion_dist.data.preprocessing import describe, preprocess

SIDE = 32
QUARTER = np.array([[0, -1], [1, 0]], np.float32)
PLAIN = DataConfig(image_px=SIDE, flip=0, crop_scale=(1, 1), mean=(0, 0, 0), std=(1, 1, 1))


def turned(image: np.ndarray, map_: np.ndarray) -> torch.Tensor:
    draws = sample_augmentation(PLAIN, np.full((1, 2), SIDE), np.zeros(1, np.uint64), 0, 0)
    out = torch.empty((1, SIDE, SIDE, 3))
    renderer = Renderer(SIDE, 1)
    renderer.start(lambda _: image, dataclasses.replace(draws, maps=map_[None]), out).wait()
    renderer.close()
    return out[0]


def test_a_quarter_turn_moves_every_pixel_and_changes_none() -> None:
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    for quarters in range(4):
        map_ = np.linalg.matrix_power(QUARTER, quarters)
        expected = torch.from_numpy(np.rot90(image, quarters).copy()) / 255
        torch.testing.assert_close(turned(image, map_), expected, rtol=0, atol=1e-5)


def test_what_comes_in_from_outside_repeats_the_border() -> None:
    image = np.full((SIDE, SIDE, 3), 255, np.uint8)
    image[4:-4, 4:-4] = 0
    angle = np.deg2rad(30)
    map_ = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
    made = turned(image, map_)
    assert (made[0, 0] == 1).all() and (made[0, -1] == 1).all() and (made[SIDE // 2, SIDE // 2] == 0).all()
    assert 0.05 < (made == 1).float().mean() < 0.5


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizing_is_torchvisions(interpolation: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (70, 51, 3), dtype=np.uint8)
    draws = sample_augmentation(PLAIN, np.array([[51, 70]]), np.zeros(1, np.uint64), 0, 0)
    renderer, out = Renderer(SIDE, 1, bicubic=interpolation == "bicubic"), torch.empty((1, SIDE, SIDE, 3))
    renderer.start(lambda _: image, draws, out).wait()
    renderer.close()
    planes = torch.from_numpy(image).permute(2, 0, 1)
    theirs = functional.resize(planes, [SIDE, SIDE], InterpolationMode(interpolation), antialias=True)
    assert torch.equal((out[0] * 255).round().to(torch.uint8), theirs.permute(1, 2, 0))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_evaluation_is_the_preprocessing_that_archives_have(interpolation: Literal["bilinear", "bicubic"]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (160, 200, 3), dtype=np.uint8)
    data = DataConfig(image_px=SIDE, interpolation=interpolation, eval_resize=1.14)
    draws = center_crop_params(data, np.array([[200, 160]]))
    renderer, out = Renderer(SIDE, 1, bicubic=interpolation == "bicubic"), torch.empty((1, SIDE, SIDE, 3))
    renderer.start(lambda _: image, draws, out).wait()
    renderer.close()
    theirs = preprocess(Image.fromarray(image), describe(data))
    assert torch.allclose(out[0].permute(2, 0, 1), theirs, atol=1e-5)
