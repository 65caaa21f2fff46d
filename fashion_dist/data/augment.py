"""What happens to each image: crop, flip, rotation, colours, erased rectangle, as numbers. Pure NumPy, no I/O.

All colour changes of one image, and the normalisation, are one affine map of its RGB values (a 3x4 matrix), so that
any number of them costs the same single pass over the pixels. Values are not clamped in between.

Legend: n images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from fashion_dist.config import DataConfig
from fashion_dist.data.preprocessing import geometry
from fashion_dist.data.sampler import mix, uniform

_AREA, _RATIO, _LEFT, _TOP, _FLIP = 16, 32, 48, 49, 50
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE, _GRAY = 51, 52, 53, 54, 55
_ERASE, _ERASE_LEFT, _ERASE_TOP = 56, 59, 60
_ROTATE, _SHEAR_X, _SHEAR_Y = 61, 62, 63
_OPERATION, _SIGN = 64, 80
_ERASE_AREA, _ERASE_RATIO = 96, 112
"""Purposes; areas and ratios take one for each of the `_TRIES`, `_OPERATION` and `_SIGN` one for each operation."""

_TRIES = 10
"""As torchvision's RandomResizedCrop: so often a box is drawn that must fit, then the centre is taken."""
ERASE_AREA: Final = (0.02, 0.33)
ERASE_RATIO: Final = (0.3, 3.3)
"""Of the erased rectangle, as Zhong et al. 2017."""

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of R, G and B in gray (ITU-R BT.601)."""
_YIQ = np.array([LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_RGB = np.linalg.inv(_YIQ)


@dataclass(frozen=True)
class AugmentParams:
    """The treatment of n images.

    Args:
        boxes: int32 [n, 4], left, top, width, height of the crop in pixels of the upright image.
        flips: bool [n], mirrored left to right.
        colours: float32 [n, 3, 4], maps (R, G, B, 1) with 0 <= RGB <= 255 to the normalised RGB.
        erased: int32 [n, 4], left, top, width, height in pixels of the output; width 0 where nothing is erased.
        diagonal: no colour depends on another one.
        maps: float32 [n, 2, 2], from where in the flipped crop, seen from its middle, each place of the output takes
            its colour; None where that is the place itself.
        resized: int32 [n, 4], the crop is resized to this width and height, and the output cut from it at this left and
            top; None where it is resized to the output's size.
    """

    boxes: np.ndarray
    flips: np.ndarray
    colours: np.ndarray
    erased: np.ndarray
    diagonal: bool
    maps: np.ndarray | None = None
    resized: np.ndarray | None = None

    @property
    def plain(self) -> bool:
        """Each value of the output comes from the same colour of one place, if the crop has the output's size."""
        return self.diagonal and self.maps is None and self.resized is None

    def where(self, kept: np.ndarray | slice) -> AugmentParams:
        """Those of the images where `kept` (bool [n], positions or a slice) says so."""
        maps, resized = (None if values is None else values[kept] for values in (self.maps, self.resized))
        return AugmentParams(
            self.boxes[kept], self.flips[kept], self.colours[kept], self.erased[kept], self.diagonal, maps, resized
        )

    def with_rows(self, start: int, others: AugmentParams) -> AugmentParams:
        """The same with `others` in place from `start` on."""

        def merged(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
            return np.concatenate([mine[:start], theirs, mine[start + len(theirs) :]])

        return AugmentParams(
            merged(self.boxes, others.boxes),
            merged(self.flips, others.flips),
            merged(self.colours, others.colours),
            merged(self.erased, others.erased),
            self.diagonal,
            None if self.maps is None or others.maps is None else merged(self.maps, others.maps),
            None if self.resized is None or others.resized is None else merged(self.resized, others.resized),
        )


def image_ids(ids: np.ndarray, occasions: np.ndarray) -> np.ndarray:
    """uint64 [n] identities for drawing: of sample `ids` the first time, others for its further `occasions`."""
    return np.asarray(ids.astype(np.uint64) ^ np.where(occasions == 0, np.uint64(0), mix(occasions.astype(np.uint64))))


def sample_augmentation(data: DataConfig, sizes: np.ndarray, ids: np.ndarray, seed: int, epoch: int) -> AugmentParams:
    """The random treatment in training of images of `sizes` (int32 [n, 2]: width, height) by `ids` of `image_ids`."""

    def random(purpose: int) -> np.ndarray:
        return uniform(seed, epoch, purpose, ids)

    count = len(ids)
    flips = random(_FLIP) < data.flip if data.flip else np.zeros(count, bool)
    erased = np.zeros((count, 4), np.int32)
    if data.erase:
        erased = _erase_boxes(data, seed, epoch, ids)
    boxes, colours = crop_boxes(data, sizes, seed, epoch, ids), _colours(data, seed, epoch, ids)
    return AugmentParams(boxes, flips, colours, erased, _flat(data), _maps(data, seed, epoch, ids))


def center_crop_params(data: DataConfig, sizes: np.ndarray) -> AugmentParams:
    """The treatment in evaluation, which `preprocessing` defines."""
    count = len(sizes)
    boxes, size, corner = geometry(sizes, data.image_px, data.fit, data.eval_resize, data.eval_order)
    return AugmentParams(
        boxes, np.zeros(count, bool), _plain(data, count), np.zeros((count, 4), np.int32), diagonal=True,
        resized=np.column_stack([size, corner]) if (size != data.image_px).any() else None,
    )  # fmt: skip


def crop_boxes(data: DataConfig, sizes: np.ndarray, seed: int, epoch: int, ids: np.ndarray) -> np.ndarray:
    """Random resized crops (Szegedy et al. 2015): int32 [n, 4], left, top, width, height, inside their images."""
    width, height = sizes[:, 0].astype(np.float64), sizes[:, 1].astype(np.float64)
    low, high = data.crop_ratio
    # Squashed, an image is a square: a ratio is one of that square, and so the image's own times as wide.
    wide = width / height if data.fit == "squash" else np.ones_like(width)
    ratio = wide * np.clip(width / height / wide, low, high)
    box_width = np.minimum(width, np.rint(height * ratio))
    box_height = np.minimum(height, np.rint(width / ratio))
    if data.crop_scale[0] < 1:
        smallest, largest = data.crop_scale
        undecided = np.arange(len(ids))
        w, h, squash, which = width, height, wide, ids
        for attempt in range(_TRIES):
            area = w * h * (smallest + (largest - smallest) * uniform(seed, epoch, _AREA + attempt, which))
            ratio = squash * low * (high / low) ** uniform(seed, epoch, _RATIO + attempt, which)
            tried_width, tried_height = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
            fits = (tried_width >= 1) & (tried_width <= w) & (tried_height >= 1) & (tried_height <= h)
            decided = undecided[fits]
            box_width[decided], box_height[decided] = tried_width[fits], tried_height[fits]
            undecided = undecided[~fits]
            if not len(undecided):
                break
            # Most fit at once: the further attempts are made for few.
            w, h, squash, which = width[undecided], height[undecided], wide[undecided], ids[undecided]
        left = np.floor(uniform(seed, epoch, _LEFT, ids) * (width - box_width + 1))
        top = np.floor(uniform(seed, epoch, _TOP, ids) * (height - box_height + 1))
        left[undecided] = ((width - box_width) // 2)[undecided]
        top[undecided] = ((height - box_height) // 2)[undecided]
    else:
        left, top = (width - box_width) // 2, (height - box_height) // 2
    return np.column_stack([left, top, box_width, box_height]).astype(np.int32)


def _maps(data: DataConfig, seed: int, epoch: int, ids: np.ndarray) -> np.ndarray | None:
    if not (data.rotate or data.shear):
        return None

    def angle(purpose: int, largest: float) -> np.ndarray:
        return np.deg2rad((2 * uniform(seed, epoch, purpose, ids) - 1) * largest)

    turned, along, across = angle(_ROTATE, data.rotate), angle(_SHEAR_X, data.shear), angle(_SHEAR_Y, data.shear)
    ones = np.ones(len(ids))
    rotation = np.array([[np.cos(turned), -np.sin(turned)], [np.sin(turned), np.cos(turned)]])
    shear = np.array([[ones, np.tan(along)], [np.tan(across), ones]])
    return np.asarray(np.einsum("ijn,jkn->nik", rotation, shear), np.float32)


def _erase_boxes(data: DataConfig, seed: int, epoch: int, ids: np.ndarray) -> np.ndarray:
    """As torchvision's RandomErasing: one that does not fit is drawn anew, `_TRIES` times; then nothing is erased."""
    side, (low, high) = data.image_px, ERASE_RATIO
    boxes = np.zeros((len(ids), 4), np.int32)
    undecided = np.flatnonzero(uniform(seed, epoch, _ERASE, ids) < data.erase)
    for attempt in range(_TRIES):
        which = ids[undecided]
        share = uniform(seed, epoch, _ERASE_AREA + attempt, which)
        area = side * side * (ERASE_AREA[0] + (ERASE_AREA[1] - ERASE_AREA[0]) * share)
        ratio = low * (high / low) ** uniform(seed, epoch, _ERASE_RATIO + attempt, which)
        height, width = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
        fits = (height < side) & (width < side)
        decided = undecided[fits]
        boxes[decided, 2:] = np.column_stack([width, height])[fits]
        undecided = undecided[~fits]
    boxes[:, 0] = np.floor(uniform(seed, epoch, _ERASE_LEFT, ids) * (side - boxes[:, 2] + 1))
    boxes[:, 1] = np.floor(uniform(seed, epoch, _ERASE_TOP, ids) * (side - boxes[:, 3] + 1))
    boxes[boxes[:, 2] == 0] = 0
    return boxes


Affine = tuple[np.ndarray, np.ndarray]
"""Matrix [n, 3, 3] and offset [n, 3] over RGB in [0, 1]."""


def _flat(data: DataConfig) -> bool:
    return not (data.saturation or data.hue or data.grayscale or data.rand_ops)


def _normalise(data: DataConfig, count: int) -> Affine:
    std = np.asarray(data.std, np.float64)
    matrix = np.broadcast_to(np.diag(1 / std), (count, 3, 3))
    return matrix, np.broadcast_to(-np.asarray(data.mean) / std, (count, 3))


def _after(second: Affine, first: Affine) -> Affine:
    matrix = second[0] @ first[0]
    return matrix, (second[0] @ first[1][..., None])[..., 0] + second[1]


def _affine(matrix: np.ndarray, offset: np.ndarray) -> np.ndarray:
    return np.concatenate([matrix / 255, offset[..., None]], axis=2).astype(np.float32)


def brightness(factor: np.ndarray) -> Affine:
    """All values times `factor` [n]."""
    return factor[:, None, None] * np.eye(3), np.zeros((len(factor), 3))


def contrast(factor: np.ndarray) -> Affine:
    """Distance to middle gray times `factor` [n]; torchvision's is to the mean gray of the image."""
    return factor[:, None, None] * np.eye(3), np.repeat((1 - factor)[:, None] * 0.5, 3, axis=1)


def saturation(factor: np.ndarray) -> Affine:
    """Distance to the pixel's own gray times `factor` [n]; 0 is gray."""
    gray = np.broadcast_to(LUMA, (3, 3))
    return gray + factor[:, None, None] * (np.eye(3) - gray), np.zeros((len(factor), 3))


def hue(degrees: np.ndarray) -> Affine:
    """Colours turned by `degrees` [n] in YIQ's plane of I and Q: luma and gray stay; torchvision shifts HSV's hue."""
    angle = np.deg2rad(degrees)
    turn = np.zeros((len(angle), 3, 3))
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = np.cos(angle)
    turn[:, 1, 2], turn[:, 2, 1] = -np.sin(angle), np.sin(angle)
    return _RGB @ turn @ _YIQ, np.zeros((len(angle), 3))


def warmth(amount: np.ndarray) -> Affine:
    """Red times 1 + `amount` [n], blue times 1 - `amount`: the light's colour."""
    gains = np.stack([1 + amount, np.ones_like(amount), 1 - amount], axis=1)
    return gains[:, :, None] * np.eye(3), np.zeros((len(amount), 3))


def negative(amount: np.ndarray) -> Affine:
    """A mix of the image with its negative, `amount` [n] of the latter in [0, 1]."""
    return (1 - 2 * amount)[:, None, None] * np.eye(3), np.repeat(amount[:, None], 3, axis=1)


def _plain(data: DataConfig, count: int) -> np.ndarray:
    """Normalisation alone."""
    return np.broadcast_to(_affine(*_normalise(data, 1)), (count, 3, 4))


def _colours(data: DataConfig, seed: int, epoch: int, ids: np.ndarray) -> np.ndarray:
    def between(purpose: int, low: float, high: float) -> np.ndarray:
        return low + (high - low) * uniform(seed, epoch, purpose, ids)

    if not any((data.brightness, data.contrast, data.saturation, data.hue, data.rand_ops, data.grayscale)):
        return _plain(data, len(ids))
    made: Affine = (np.broadcast_to(np.eye(3), (len(ids), 3, 3)), np.zeros((len(ids), 3)))
    if data.brightness:
        made = _after(brightness(between(_BRIGHTNESS, 1 - data.brightness, 1 + data.brightness)), made)
    if data.contrast:
        made = _after(contrast(between(_CONTRAST, 1 - data.contrast, 1 + data.contrast)), made)
    if data.saturation:
        made = _after(saturation(between(_SATURATION, 1 - data.saturation, 1 + data.saturation)), made)
    if data.hue:
        made = _after(hue(between(_HUE, -data.hue, data.hue)), made)
    for operation in range(data.rand_ops):
        made = _after(_chosen(data, operation, seed, epoch, ids), made)
    if data.grayscale:
        made = _after(saturation(np.where(between(_GRAY, 0, 1) < data.grayscale, 0.0, 1.0)), made)
    return _affine(*_after(_normalise(data, len(ids)), made))


def _chosen(data: DataConfig, operation: int, seed: int, epoch: int, ids: np.ndarray) -> Affine:
    """One of seven colour operations (or none) per image, at the configured magnitude, in a drawn direction."""
    signs = np.where(uniform(seed, epoch, _SIGN + operation, ids) < 0.5, -1.0, 1.0)
    strength = np.full(len(ids), 0.9 * data.rand_magnitude)
    none = np.zeros(len(ids))
    affines = [
        brightness(none + 1),
        brightness(1 + signs * strength),
        contrast(1 + signs * strength),
        saturation(1 + signs * strength),
        hue(signs * strength * 90),
        warmth(signs * strength * 0.5),
        negative(strength * 0.5),
        saturation(1 - strength),
    ]
    choice = (uniform(seed, epoch, _OPERATION + operation, ids) * len(affines)).astype(np.int64)
    rows = np.arange(len(ids))
    return np.stack([m for m, _ in affines])[choice, rows], np.stack([t for _, t in affines])[choice, rows]
