from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fashion_dist.config import DataConfig
from fashion_dist.data import augment
from fashion_dist.data.augment import center_crop_params, crop_boxes, image_ids, sample_augmentation

PLAIN = DataConfig(image_px=32, mean=(0, 0, 0), std=(1, 1, 1))
FULL = DataConfig(
    image_px=32, rotate=30, shear=10, brightness=0.3, contrast=0.3, saturation=0.3, hue=30, grayscale=0.3, erase=0.5,
    rand_ops=2,
)  # fmt: skip
IDS = np.arange(500, dtype=np.uint64)
SIZES = np.random.default_rng(0).integers(20, 500, (500, 2)).astype(np.int32)


def apply(colours: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """float [n, 3] for RGB in 0..1."""
    return np.einsum("nij,j->ni", colours[:, :, :3] * 255, rgb) + colours[:, :, 3]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), min_size=1, max_size=40),
    st.floats(0.01, 1),
    st.integers(0, 9),
)
def test_crops_lie_inside_their_images(sizes: list[tuple[int, int]], smallest: float, epoch: int) -> None:
    data = dataclasses.replace(PLAIN, crop_scale=(smallest, 1.0))
    boxes = crop_boxes(data, np.array(sizes, np.int32), 3, epoch, np.arange(len(sizes), dtype=np.uint64))
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] >= 1).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= sizes).all()


def test_crops_have_the_configured_area_and_shape() -> None:
    sizes = np.full((5000, 2), 400, np.int32)
    data = dataclasses.replace(PLAIN, crop_scale=(0.2, 0.6), crop_ratio=(0.5, 2.0))
    boxes = crop_boxes(data, sizes, 3, 0, np.arange(5000, dtype=np.uint64))
    area, ratio = boxes[:, 2] * boxes[:, 3] / 160000, boxes[:, 2] / boxes[:, 3]
    assert 0.195 < area.min() < 0.21 and 0.59 < area.max() < 0.605
    assert abs(area.mean() - 0.4) < 0.01
    assert 0.49 < ratio.min() < 0.52 and 1.92 < ratio.max() < 2.05
    assert abs(np.median(np.log(ratio))) < 0.05
    centres = boxes[:, :2] + boxes[:, 2:] / 2
    assert np.abs(centres.mean(axis=0) - 200).max() < 4


def test_whole_images_are_kept_when_nothing_is_cropped() -> None:
    data = dataclasses.replace(PLAIN, crop_scale=(1, 1))
    square = np.full((3, 2), 28, np.int32)
    assert crop_boxes(data, square, 0, 0, IDS[:3]).tolist() == [[0, 0, 28, 28]] * 3
    wide = crop_boxes(data, np.array([[400, 100]], np.int32), 0, 0, IDS[:1])
    assert wide.tolist() == [[133, 0, 133, 100]]  # as much as has the widest ratio allowed


def test_a_sample_is_treated_the_same_in_any_company() -> None:
    together = sample_augmentation(FULL, SIZES, IDS, seed=5, epoch=2)
    for at in (np.array([7]), np.array([400, 3, 77])):
        alone = sample_augmentation(FULL, SIZES[at], IDS[at], seed=5, epoch=2)
        for field in ("boxes", "flips", "maps", "colours", "erased"):
            assert np.array_equal(getattr(alone, field), getattr(together, field)[at]), field


@pytest.mark.parametrize("change", [{"seed": 6, "epoch": 2}, {"seed": 5, "epoch": 3}])
def test_another_epoch_treats_it_otherwise(change: dict[str, int]) -> None:
    sizes = np.full((500, 2), 300, np.int32)
    one, other = sample_augmentation(FULL, sizes, IDS, seed=5, epoch=2), sample_augmentation(FULL, sizes, IDS, **change)
    assert np.mean((one.boxes == other.boxes).all(axis=1)) < 0.02
    assert 0.4 < np.mean(one.flips == other.flips) < 0.6


def test_a_repeat_is_treated_otherwise_and_a_first_time_is_its_id() -> None:
    ids = np.arange(4)
    assert image_ids(ids, np.zeros(4, np.int64)).tolist() == [0, 1, 2, 3]
    assert len(np.unique([image_ids(ids, np.full(4, n)) for n in range(5)])) == 20


def test_probabilities_are_kept() -> None:
    made = sample_augmentation(
        dataclasses.replace(FULL, flip=0.2, grayscale=0.1, erase=0.3, rand_ops=0), SIZES, IDS, 1, 1
    )
    assert 0.14 < made.flips.mean() < 0.26
    assert 0.24 < (made.erased[:, 2] > 0).mean() < 0.36
    gray = np.ptp(apply(made.colours, np.array([0.9, 0.2, 0.4])) * FULL.std + FULL.mean, axis=1) < 1e-5
    assert 0.06 < gray.mean() < 0.15
    inside = made.erased[:, :2] + made.erased[:, 2:]
    assert (inside <= 32).all() and (made.erased >= 0).all()


def test_colours_stay_in_their_ranges() -> None:
    rgb = np.array([0.8, 0.4, 0.1])
    bright = (
        apply(sample_augmentation(dataclasses.replace(PLAIN, brightness=0.25), SIZES, IDS, 1, 1).colours, rgb) / rgb
    )
    assert 0.75 <= bright.min() < 0.76 and 1.24 < bright.max() <= 1.25 + 1e-6
    contrast = apply(sample_augmentation(dataclasses.replace(PLAIN, contrast=0.5), SIZES, IDS, 1, 1).colours, rgb)
    factors = (contrast - 0.5) / (rgb - 0.5)
    assert np.allclose(factors, factors[:, :1], atol=1e-4) and 0.5 <= factors.min() < 0.52
    hue = apply(
        sample_augmentation(dataclasses.replace(PLAIN, hue=60), SIZES, IDS, 1, 1).colours, np.array([0.3, 0.3, 0.3])
    )
    assert np.allclose(hue, 0.3, atol=2e-3)  # gray has no hue to turn
    luma = (
        apply(sample_augmentation(dataclasses.replace(PLAIN, saturation=0.9), SIZES, IDS, 1, 1).colours, rgb)
        @ augment.LUMA
    )
    assert np.allclose(luma, rgb @ augment.LUMA, atol=1e-5)


def test_normalisation_is_the_last_step() -> None:
    data = DataConfig(image_px=32, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.2))
    assert np.allclose(
        apply(center_crop_params(data, SIZES).colours, np.array([0.6, 0.2, 0.5])), [[1, 0, 1]] * 500, atol=1e-6
    )


def test_evaluation_takes_the_centre() -> None:
    data = dataclasses.replace(PLAIN, eval_resize=1.25, eval_order="crop_resize")
    assert center_crop_params(data, np.array([[300, 200], [100, 301]], np.int32)).boxes.tolist() == [
        [70, 20, 160, 160],
        [10, 110, 80, 80],
    ]


def test_images_turn_and_shear_in_their_ranges() -> None:
    turned = sample_augmentation(dataclasses.replace(PLAIN, rotate=40), SIZES, IDS, 1, 1).maps
    assert turned is not None
    angles = np.rad2deg(np.arctan2(turned[:, 1, 0], turned[:, 0, 0]))
    assert -40 <= angles.min() < -38 and 38 < angles.max() <= 40 and abs(angles.mean()) < 4
    assert np.allclose(turned @ turned.transpose(0, 2, 1), np.eye(2), atol=1e-6)  # nothing grows
    sheared = sample_augmentation(dataclasses.replace(PLAIN, shear=20), SIZES, IDS, 1, 1).maps
    assert sheared is not None
    assert np.allclose(sheared[:, [0, 1], [0, 1]], 1)
    for row, column in ((0, 1), (1, 0)):
        degrees = np.rad2deg(np.arctan(sheared[:, row, column]))
        assert -20 <= degrees.min() < -19 and 19 < degrees.max() <= 20
    assert sample_augmentation(PLAIN, SIZES, IDS, 1, 1).maps is None and center_crop_params(FULL, SIZES).maps is None


def test_random_operations_change_with_magnitude() -> None:
    rgb = np.array([0.8, 0.4, 0.1])

    def spread(magnitude: float) -> float:
        made = sample_augmentation(dataclasses.replace(PLAIN, rand_ops=2, rand_magnitude=magnitude), SIZES, IDS, 1, 1)
        return float(np.abs(apply(made.colours, rgb) - rgb).mean())

    assert spread(0.0) < 1e-5 < spread(0.2) < spread(0.8)
