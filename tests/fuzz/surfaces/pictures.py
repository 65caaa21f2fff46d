"""A picture on its way into a shard, and into training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import odd_images
from surface import Surface

from fashion_dist.data.dali import open_check
from shards import images


def seeds(folder: Path) -> Sequence[bytes]:
    del folder
    decode.extend([open_check()])
    kinds = odd_images.kinds().values()
    return [kind.data for kind in kinds if len(kind.data) < 20_000]


decode: list[images.Decode] = []


def check(data: bytes, number: int, folder: Path) -> None:
    """What packing takes, training decodes; what it takes when it resizes, too."""
    del folder
    for resize_px in (0, 8):
        header, background = images.inspect(data), "white" if number % 2 else ""
        is_kept = header is not None and not images.is_changed(header, resize_px, background)
        image = header if header and is_kept else images.reread(data, header, resize_px, background)
        wrong = decode[0]([image.data], [(image.width, image.height)])[0]
        if wrong is not None:
            assert image.data is data, f"stored by us and refused: {wrong}"
            image = images.reread(data, image, 0, "", "odd")
            assert decode[0]([image.data], [(image.width, image.height)])[0] is None


SURFACE = Surface(seeds, check, (images.BadImageError,))
