"""What an encoded image is: its format, its size as it is shown, whether it is whole, and whether DALI can decode it.

JPEG and PNG headers are parsed here, in a few microseconds; every other format goes through Pillow. DALI 2.4 decodes
JPEG (Huffman, 8 bit), PNG and WebP without Exif right, EXIF rotation and CMYK included; GIF, AVIF, ICO, WebP with Exif
and others end its pipeline for good, so they are stored as PNG instead, pixel by pixel the same.
"""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image as PillowImage

_ROTATED = frozenset({5, 6, 7, 8})
"""EXIF orientations that swap width and height."""
_KEPT_SOF = frozenset({0xC0, 0xC1, 0xC2})
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
JPEG_QUALITY = 90
"""Of images re-encoded by `--resize`."""


class BadImageError(Exception):
    """Bytes that are no whole image; `str()` says why."""


@dataclass(frozen=True, slots=True)
class Image:
    """An encoded image as it is stored.

    Args:
        data: encoded bytes.
        extension: `jpg`, `png` or `webp`.
        width, height: pixels as shown, EXIF rotation applied.
        converted: the format it had before, when it is stored as another.
    """

    data: bytes
    extension: str
    width: int
    height: int
    converted: str = ""


def prepare(data: bytes, *, decode: bool = False, resize_px: int = 0) -> Image:
    """The image that goes into a shard: `data` as it is whenever DALI can decode it and no resize is asked for.

    Args:
        data: an encoded image of any format Pillow reads.
        decode: decode it once, so that damage behind the header is found as well.
        resize_px: re-encode with the shorter side at most this long; 0 keeps the bytes.

    Raises:
        BadImageError: empty, no image, or cut.
    """
    image = _from_header(data)
    if image is None:
        return _through_pillow(data, resize_px)
    if resize_px and min(image.width, image.height) > resize_px:
        return _resized(_decoded(data), image.extension, resize_px)
    if decode:
        check_decodes(data)
    return image


def _from_header(data: bytes) -> Image | None:
    """The image when its own header shows a format that is stored as it is; None when Pillow has to look."""
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg(data)
    if data[:8] == _PNG:
        return _png(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    if not data:
        raise BadImageError("the file is empty")
    return None


def _jpeg(data: bytes) -> Image | None:
    """Walks the segments up to the frame header (ITU-T T.81, annex B), then looks for the end of the image."""
    position, orientation, end = 2, 1, len(data)
    width = height = 0
    keep = False
    while position + 4 <= end:
        if data[position] != 0xFF:
            raise BadImageError(f"a damaged JPEG: no marker at byte {position}")
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            position += 2
            continue
        length = (data[position + 2] << 8) | data[position + 3]
        if marker in _SOF and position + 9 <= end:
            height, width = struct.unpack_from(">HH", data, position + 5)
            keep = marker in _KEPT_SOF and data[position + 4] == 8
        elif marker == 0xE1 and data[position + 4 : position + 10] == b"Exif\0\0":
            orientation = _orientation(data[position + 10 : position + 2 + length])
        elif marker == 0xDA:
            break
        elif marker == 0xD9:
            raise BadImageError("a JPEG without pixels")
        position += 2 + length
    else:
        raise BadImageError(f"a cut JPEG: its {end} bytes end within the header")
    # A thumbnail has an end marker of its own, so only one behind the start of the scan counts.
    if data[-2:] != b"\xff\xd9" and data.find(b"\xff\xd9", position) < 0:
        raise BadImageError(f"a cut JPEG: no end marker in its {end} bytes")
    if not width or not height:
        raise BadImageError("a JPEG of unknown size")
    if orientation in _ROTATED:
        width, height = height, width
    return Image(data, "jpg", width, height) if keep else None


def _orientation(exif: bytes) -> int:
    """EXIF tag 0x0112 of the first directory, 1 (upright) when there is none."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return 1
    (start,) = struct.unpack_from(order + "I", exif, 4)
    if start + 2 > len(exif):
        return 1
    (entries,) = struct.unpack_from(order + "H", exif, start)
    for at in range(start + 2, min(start + 2 + 12 * entries, len(exif) - 11), 12):
        tag, _, _, value = struct.unpack_from(order + "HHIH", exif, at)
        if tag == 0x0112:
            return int(value)
    return 1


def _png(data: bytes) -> Image:
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise BadImageError(f"a cut PNG: its {len(data)} bytes end within the header")
    if data.find(b"IEND", 33) < 0:
        raise BadImageError(f"a cut PNG: no end chunk in its {len(data)} bytes")
    width, height = struct.unpack_from(">II", data, 16)
    if not width or not height:
        raise BadImageError("a PNG without pixels")
    pixels = data.find(b"IDAT", 33)
    exif = data.find(b"eXIf", 33, pixels if pixels > 0 else None)
    if exif > 0:
        (length,) = struct.unpack_from(">I", data, exif - 4)
        if _orientation(data[exif + 4 : exif + 4 + length]) in _ROTATED:
            width, height = height, width
    return Image(data, "png", width, height)


def _webp(data: bytes) -> Image | None:
    (size,) = struct.unpack_from("<I", data, 4)
    if size + 8 > len(data):
        raise BadImageError(f"a cut WebP: {size + 8} bytes announced, {len(data)} there")
    kind = data[12:16]
    if kind == b"VP8 " and len(data) >= 30 and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return Image(data, "webp", width & 0x3FFF, height & 0x3FFF)
    if kind == b"VP8L" and len(data) >= 25 and data[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", data, 21)
        return Image(data, "webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    return None  # extended: animation, Exif


def _through_pillow(data: bytes, resize_px: int) -> Image:
    """An image of any other format as PNG: the first frame, upright."""
    pixels = _decoded(data)
    told = (pixels.format or "unknown").lower()
    if resize_px and min(pixels.size) > resize_px:
        image = _resized(pixels, "png", resize_px)
        return Image(image.data, image.extension, image.width, image.height, told)
    image = _encoded(_upright(pixels), "png")
    return Image(image.data, image.extension, image.width, image.height, told)


def _decoded(data: bytes) -> PillowImage.Image:
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata is no concern of ours; pixels are
            pixels = Pillow.open(io.BytesIO(data))
            pixels.load()
    except UnidentifiedImageError:
        raise BadImageError(f"not an image: it begins with {data[:8]!r}") from None
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        IndexError,
        struct.error,
        Pillow.DecompressionBombError,
    ) as error:
        raise BadImageError(f"does not decode: {error}") from None
    return pixels


def check_decodes(data: bytes) -> None:
    """Decodes the pixels and throws them away; raises `BadImageError`."""
    _decoded(data)


def _upright(pixels: PillowImage.Image) -> PillowImage.Image:
    from PIL import ImageOps

    return ImageOps.exif_transpose(pixels)


def _resized(pixels: PillowImage.Image, extension: str, resize_px: int) -> Image:
    from PIL import Image as Pillow

    pixels = _upright(pixels)
    if pixels.mode not in ("L", "RGB", "RGBA"):
        pixels = pixels.convert("RGBA" if "transparency" in pixels.info or pixels.mode == "LA" else "RGB")
    scale = resize_px / min(pixels.size)
    width, height = (max(resize_px, round(side * scale)) for side in pixels.size)
    return _encoded(pixels.resize((width, height), Pillow.Resampling.BICUBIC, reducing_gap=3.0), extension)


def _encoded(pixels: PillowImage.Image, extension: str) -> Image:
    if pixels.mode not in _PNG_MODES:
        if pixels.mode in ("F", "I"):
            raise BadImageError(
                f"pixels of mode {pixels.mode!r} have no defined brightness; convert it to 8 or 16 bits"
            )
        pixels = pixels.convert("RGB")
    file = io.BytesIO()
    if extension == "jpg":
        pixels.convert("RGB" if pixels.mode != "L" else "L").save(file, "JPEG", quality=JPEG_QUALITY)
    elif extension == "webp":
        pixels.save(file, "WEBP", quality=JPEG_QUALITY)
    else:
        transparency = pixels.info.get("transparency")
        kept = {"transparency": transparency} if transparency is not None and pixels.mode == "P" else {}
        pixels.info = {}
        pixels.save(file, "PNG", **kept)
    return Image(file.getvalue(), extension, *pixels.size)
