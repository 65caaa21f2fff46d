"""Draws `fashion_dist/data/odd_jpegs.zip`, with which the decoding of GPUs is tested; run by hand.

Sharp edges between saturated colours, where ways of chroma upsampling differ most, over gradients and grain.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

OUT = Path(__file__).parents[3] / "fashion_dist" / "data" / "odd_jpegs.zip"


def drawn(width: int, height: int, seed: int) -> Image.Image:
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    pixels = np.stack([x / width, y / height, (x + y) / (width + height)], axis=2) * 180 + 40
    for _ in range(8):
        left, top = draw.integers(width), draw.integers(height)
        at = (np.hypot(x - left, y - top) < draw.integers(3, 25)) if draw.random() < 0.5 else (
            (abs(x - left) < draw.integers(2, 20)) & (abs(y - top) < draw.integers(2, 20))
        )  # fmt: skip
        pixels[at] = draw.choice([0, 255], 3)
    return Image.fromarray((pixels + draw.normal(0, 3, pixels.shape)).clip(0, 255).astype(np.uint8))


def exif(orientation: int) -> bytes:
    made = Image.Exif()
    made[0x0112] = orientation
    return made.tobytes()


def jpegs() -> Iterator[tuple[str, bytes]]:
    kinds: dict[str, dict[str, Any]] = {
        "420": {"subsampling": 2}, "422": {"subsampling": 1}, "444": {"subsampling": 0},
        "coarse": {"subsampling": 2, "quality": 20}, "finest": {"subsampling": 0, "quality": 100},
        "progressive": {"progressive": True}, "progressive-444": {"progressive": True, "subsampling": 0},
        "restarts": {"restart_marker_rows": 1}, "own-tables": {"optimize": True}, "gray": {}, "cmyk": {},
        "gray-progressive": {"progressive": True}, "exif-3": {"exif": exif(3)}, "exif-6": {"exif": exif(6)},
        "exif-8-progressive": {"exif": exif(8), "progressive": True}, "exif-5-444": {"exif": exif(5), "subsampling": 0},
    }  # fmt: skip
    sizes = [(57, 81), (96, 64)]
    for number, (name, options) in enumerate(kinds.items()):
        for width, height in sizes:
            image = drawn(width, height, 100 * number + width)
            image = image.convert("CMYK" if name == "cmyk" else "L") if name.startswith(("gray", "cmyk")) else image
            yield name, saved(image, **{"quality": 88, **options})
    for width, height in ((1, 1), (1, 64), (64, 1), (7, 9), (220, 48), (301, 199)):
        # Of chroma of one or two columns libjpeg-turbo leaves the fancy upsampling out; CUDA does not.
        yield "size", saved(drawn(width, height, width), quality=88, subsampling=0 if width < 5 else 2)


def saved(image: Image.Image, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", **options)
    return out.getvalue()


def main() -> None:
    with zipfile.ZipFile(OUT, "w") as file:
        for name, data in jpegs():
            width, height = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).size
            file.writestr(zipfile.ZipInfo(f"{name}-{width}x{height}.jpg", (1980, 1, 1, 0, 0, 0)), data)


if __name__ == "__main__":
    main()
