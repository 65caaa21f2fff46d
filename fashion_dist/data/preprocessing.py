"""From a picture file to what a network is asked in evaluation: the one definition, for training's evaluation,
predictions, archives and whoever opens a run.

    settings = describe(config.data, learned_packing(run))         # all that matters, as JSON holds it
    image = preprocess(open_picture(path, settings), settings)     # float32 [3, P, P]

Needs torch, NumPy and Pillow alone: every archive holds this file and the modules of `shards` that it names. The loader
computes the same for whole batches.

Legend: n pictures, P the side of what the network sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from shards import images

if TYPE_CHECKING:
    from PIL import Image

    from fashion_dist.config import DataConfig

STEPS = (
    "decode, turn upright as EXIF says, RGB of 8 bits; transparent pixels show their own colour, or packed.background",
    "where packed.resize_px is not 0 and the shorter side is larger: resize to that as packing does, with its JPEG",
    "where cache_px is not 0 and the shorter side is larger: resize to that shorter side, both sides rounded",
    "eval_order resize_crop (torchvision): with S = round(image_px * eval_resize), resize the shorter side to S, the "
    "longer one to int(S * longer / shorter) (fit crop), or both sides to S (fit squash); then cut image_px x image_px "
    "at round((side - image_px) / 2)",
    "eval_order crop_resize: cut the centre, round(1 / eval_resize of the shorter side) (fit crop) or of both (fit "
    "squash), at (side - cut) // 2; then resize to image_px x image_px",
    "times 1 / (255 std), minus mean / std, in float32; channels first",
    "where eval_flip: average the outputs of the image and of its mirror image, before the activation",
)
"""What `preprocess` does, and what is done with the network's outputs; round is to the nearest, halves to even."""


def describe(data: DataConfig, packed: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Everything that `open_picture`, `preprocess` and averaging over mirror images depend on, as JSON holds it.

    Args:
        data: the run's settings.
        packed: how the pictures were changed that it learned from (`Manifest.reshaped`).
    """
    return {
        "steps": list(STEPS), "packed": dict(packed or {}),
        "interpolation": f"{data.interpolation} with antialiasing on uint8: torch's interpolate, as torchvision v2's",
        "image_px": data.image_px, "cache_px": data.cache_px, "fit": data.fit, "eval_resize": data.eval_resize,
        "eval_order": data.eval_order, "mean": list(data.mean), "std": list(data.std), "eval_flip": data.eval_flip,
    }  # fmt: skip


def open_picture(path: str | Path, settings: Mapping[str, Any] | None = None) -> Image.Image:
    """A picture file as training saw its like: RGB pixels, changed as `packed` of the settings says.

    Raises:
        OSError: it cannot be read as a picture.
    """
    try:
        return images.packed(Path(path).read_bytes(), **(settings or {}).get("packed", {}))
    except images.BadImageError as error:
        raise OSError(str(error)) from None


def geometry(
    sizes: np.ndarray, image_px: int, fit: str, eval_resize: float, eval_order: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is cut out of pictures of `sizes` (int [n, 2], width and height), to what size, and where P x P of it lie.

    Returns:
        boxes int32 [n, 4], left, top, width, height in the picture; the size int32 [n, 2], width and height, that they
        are resized to; and int32 [n, 2], left and top of the P x P that are kept of that.
    """
    sizes = np.asarray(sizes, np.int64)
    shorter = sizes.min(axis=1, keepdims=True)
    if eval_order == "crop_resize":
        sides = np.rint((sizes if fit == "squash" else np.repeat(shorter, 2, axis=1)) / eval_resize)
        sides = np.maximum(sides, 1).astype(np.int64)
        boxes, resized = np.column_stack([(sizes - sides) // 2, sides]), np.full_like(sizes, image_px)
    else:
        side = round(image_px * eval_resize)
        boxes = np.column_stack([np.zeros_like(sizes), sizes])
        resized = np.full_like(sizes, side) if fit == "squash" else side * sizes // shorter
    corners = np.rint((resized - image_px) / 2)
    return boxes.astype(np.int32), resized.astype(np.int32), corners.astype(np.int32)


def preprocess(picture: Image.Image, settings: dict[str, Any]) -> torch.Tensor:
    """RGB pixels of any size as the network gets them, float32 [3, P, P].

    Args:
        picture: such as `open_picture` gives.
        settings: what `describe` gave.
    """
    pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None]  # in memory channels come last
    shorter, most = min(picture.size), settings["cache_px"]
    if 0 < most < shorter:
        pixels = _resized(pixels, *(max(round(side * (most / shorter)), 1) for side in picture.size))
    names = ("image_px", "fit", "eval_resize", "eval_order")
    found = geometry(np.array([[pixels.shape[3], pixels.shape[2]]]), *(settings[name] for name in names))
    (left, top, width, height), size, (x, y) = (values[0].tolist() for values in found)
    cut = pixels[:, :, top : top + height, left : left + width].contiguous(memory_format=torch.channels_last)
    side = settings["image_px"]
    mode = str(settings["interpolation"]).partition(" ")[0]
    image = _resized(cut, size[0], size[1], mode)[0, :, y : y + side, x : x + side].permute(1, 2, 0).float()
    mean, std = np.asarray(settings["mean"], np.float64), np.asarray(settings["std"], np.float64)
    factor, summand = (torch.from_numpy(values.astype(np.float32)) for values in (1 / std / 255, -mean / std))
    return torch.addcmul(summand, image, factor).permute(2, 0, 1).contiguous()


def _resized(pixels: torch.Tensor, width: int, height: int, mode: str = "bilinear") -> torch.Tensor:
    """uint8 [1, 3, h, w] -> [1, 3, height, width]."""
    if pixels.shape[2:] == (height, width):
        return pixels
    return torch.nn.functional.interpolate(pixels, (height, width), mode=mode, antialias=True)
