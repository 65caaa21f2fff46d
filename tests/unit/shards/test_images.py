from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageOps
from sources import encoded, jpeg, picture

from shards.checking import checked
from shards.images import BadImageError, Image, open_pillow, prepare
from shards.pack_plan import PackOptions
from shards.spool import Entry


def stored(data: bytes, **options: Any) -> Image:
    """What packing with these options stores of a picture."""
    entry = Entry("key", "train", len(data), "{}", "", "", data)
    with ThreadPoolExecutor(1) as threads:
        ((_, image),) = checked([entry], PackOptions(**options), open_pillow, threads, 1)
    if isinstance(image, BadImageError):
        raise image
    return image


def exif(orientation: int) -> Pillow.Exif:
    made = Pillow.Exif()
    made[0x0112] = orientation
    return made


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Pillow.open(io.BytesIO(data))).convert("RGB"))


KEPT = {
    "jpeg": jpeg(1),
    "progressive": encoded(picture(1), "JPEG", progressive=True),
    "cmyk": encoded(picture(1).convert("CMYK"), "JPEG"),
    "gray": encoded(picture(1).convert("L"), "JPEG"),
    "rotated": encoded(picture(1), "JPEG", exif=exif(6)),
    "with a thumbnail's end marker": encoded(picture(1), "JPEG", comment=b"\xff\xd9"),
    "trailing bytes": jpeg(1) + b"camera maker's notes",
    "png": encoded(picture(1), "PNG"),
    "palette": encoded(picture(1).quantize(8), "PNG", bits=4),
    "rgba": encoded(picture(1).convert("RGBA"), "PNG"),
    "rotated png": encoded(picture(1), "PNG", exif=exif(8)),
    "16 bits": encoded(Pillow.fromarray(np.arange(432, dtype=np.uint16).reshape(18, 24) * 150), "PNG"),
    "webp": encoded(picture(1), "WEBP", lossless=True),
    "lossy webp": encoded(picture(1), "WEBP"),
}
CONVERTED = {
    "gif": encoded(picture(1), "GIF"),
    "bmp": encoded(picture(1), "BMP"),
    "tiff": encoded(picture(1), "TIFF"),
    "ico": encoded(picture(1, 16, 16), "ICO"),
    "tga": encoded(picture(1), "TGA"),
    "ppm": encoded(picture(1), "PPM"),
    "webp with exif": encoded(picture(1), "WEBP", lossless=True, exif=exif(6)),
    "gif with transparency": encoded(picture(1).quantize(8), "GIF", transparency=3),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_dali_decodes_keeps_its_bytes(name: str) -> None:
    image = stored(KEPT[name])
    assert image.data == KEPT[name]
    assert not image.converted
    assert (image.height, image.width) == pixels(KEPT[name]).shape[:2]


@pytest.mark.parametrize("name", CONVERTED)
def test_what_dali_cannot_decode_becomes_png_pixel_by_pixel(name: str) -> None:
    image = prepare(CONVERTED[name])
    assert image.extension == "png"
    assert image.converted
    assert (pixels(image.data) == pixels(CONVERTED[name])).all()
    assert (image.height, image.width) == pixels(image.data).shape[:2]
    assert prepare(image.data).data == image.data


@pytest.mark.parametrize("name", ["jpeg", "progressive", "rotated", "png", "palette", "webp"])
@pytest.mark.parametrize("check", ["header", "decode"])
def test_a_cut_anywhere_is_found(name: str, check: str) -> None:
    data = KEPT[name]
    for end in sorted({3, 11, 20, 40, len(data) // 2, len(data) - 20}):
        with pytest.raises(BadImageError):
            stored(data[:end], check=check)


@pytest.mark.parametrize(
    ("data", "told"),
    [(b"", "empty"), (b"<html>not found</html>", "not an image"), (b"\0" * 500, "not an image")],
)
def test_what_is_no_image_is_told(data: bytes, told: str) -> None:
    with pytest.raises(BadImageError, match=told):
        prepare(data)


def test_damage_behind_the_header_needs_decoding() -> None:
    data = bytearray(encoded(picture(1, 64, 64), "PNG"))
    data[100:140] = bytes(40)
    assert prepare(bytes(data)).width == 64
    with pytest.raises(BadImageError, match="does not decode"):
        stored(bytes(data))


@pytest.mark.parametrize(("width", "height", "wanted"), [(80, 40, (40, 20)), (40, 80, (20, 40)), (15, 90, (15, 90))])
def test_resize_makes_the_shorter_side_at_most_so_long(width: int, height: int, wanted: tuple[int, int]) -> None:
    image = stored(jpeg(3, width, height), resize_px=20)
    assert (image.width, image.height) == wanted
    assert (image.data == jpeg(3, width, height)) == (min(width, height) <= 20)


def test_resize_turns_a_rotated_photo_upright() -> None:
    image = stored(encoded(picture(2, 80, 40), "JPEG", exif=exif(6)), resize_px=20)
    assert (image.width, image.height) == (20, 40)
    assert Pillow.open(io.BytesIO(image.data)).size == (20, 40)
