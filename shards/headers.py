"""What the headers of JPEG, PNG and WebP files say, parsed in a few microseconds.

What DALI 2.4 decodes as Pillow does keeps its bytes; for anything that they read differently, or that DALI refuses, the
answer is None: Pillow has to look.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

_ROTATED = frozenset({5, 6, 7, 8})
"""EXIF orientations that swap width and height."""
_KEPT_SOF = frozenset({0xC0, 0xC1, 0xC2})
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PNG = b"\x89PNG\r\n\x1a\n"
_XMP_TURN = re.compile(rb"tiff:Orientation(?:=\"|>)[^1]")
_EXIF_KEYS = (b"exif", b"Raw profile type exif")
"""Of texts in PNG files that Pillow takes for EXIF."""
_ADOBE = 14
"""Bytes of Adobe's segment; shorter ones say nothing to decoders."""
_LEAST_WEBP = 32
"""DALI hands WebP to OpenCV, which refuses shorter files."""


class BadImageError(Exception):
    """Bytes that are no whole image; `str()` says why."""


@dataclass(frozen=True, slots=True)
class Image:
    """An encoded image as it is stored.

    Args:
        data: encoded bytes.
        extension: `jpg`, `png` or `webp`.
        width, height: pixels as shown, EXIF rotation applied.
        converted: what it was before, when it is stored as something else.
        transparent: it may have transparent pixels.
        short_palette: it has fewer colours than its pixels could name.
    """

    data: bytes
    extension: str
    width: int
    height: int
    converted: str = ""
    transparent: bool = False
    short_palette: bool = False


def from_header(data: bytes) -> Image | None:
    """The image when its own header shows a format that is stored as it is; None when Pillow has to look.

    Raises:
        BadImageError: empty, cut or without pixels.
    """
    if not data:
        raise BadImageError("the file is empty")
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg(data)
    if data[:8] == _PNG:
        return _png(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    return None


def _jpeg(data: bytes) -> Image | None:
    """Walks the segments up to the frame header (ITU-T T.81, annex B), then looks for the end of the image."""
    position, end = 2, len(data)
    orientation: int | None = 1
    width = height = exifs = inks = 0
    keep = xmp_turns = adobe = False
    while position + 4 <= end:
        if data[position] != 0xFF or data[position + 1] == 0:
            return None  # junk between segments, which Pillow and browsers jump over, and DALI does not
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            position += 2
            continue
        length = (data[position + 2] << 8) | data[position + 3]
        if length < 2:
            return None
        if marker in _SOF and position + 10 <= end:
            height, width, inks = struct.unpack_from(">HHB", data, position + 5)
            keep = marker in _KEPT_SOF and data[position + 4] == 8
        elif marker == 0xE1:
            content = data[position + 4 : position + 2 + length]
            if content[:6] == b"Exif\0\0":
                orientation, exifs = _orientation(content[6:]), exifs + 1
            xmp_turns = xmp_turns or _XMP_TURN.search(content) is not None
        elif marker == 0xEE:
            adobe = adobe or (data[position + 4 : position + 9] == b"Adobe" and length >= _ADOBE)
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
    keep = keep and (inks < 4 or adobe)  # DALI takes all CMYK for inverted, as Adobe writes it, and Pillow only Adobe's
    if not keep or exifs > 1 or orientation is None or (xmp_turns and orientation == 1):
        return None
    if orientation in _ROTATED:
        width, height = height, width
    return Image(data, "jpg", width, height)


def _orientation(exif: bytes) -> int | None:
    """EXIF tag 0x0112 of the first directory, 1 (upright) when there is none, None where readers may disagree."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return 1 if not exif.strip(b"\0") else None
    (start,) = struct.unpack_from(order + "I", exif, 4)
    if start + 2 > len(exif):
        return None
    (entries,) = struct.unpack_from(order + "H", exif, start)
    for at in range(start + 2, min(start + 2 + 12 * entries, len(exif) - 11), 12):
        tag, kind, count, value = struct.unpack_from(order + "HHIH", exif, at)
        if tag == 0x0112:
            return int(value) if (kind, count) == (3, 1) and 0 <= value <= 8 else None
    return 1


def _png(data: bytes) -> Image | None:
    """Walks the chunks to the last (PNG specification, clause 5)."""
    end = len(data)
    if end < 33:
        raise BadImageError(f"a cut PNG: its {end} bytes end within the header")
    if data[8:16] != b"\0\0\0\rIHDR":
        return None
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    if not width or not height:
        raise BadImageError("a PNG without pixels")
    orientation: int | None = 1
    transparent, odd, colours, exifs = colour in (4, 6), False, 0, 0
    position = 33
    while position + 12 <= end:
        (length,) = struct.unpack_from(">I", data, position)
        kind, stop = data[position + 4 : position + 8], position + 12 + length
        if kind == b"IEND":
            break
        if stop > end:
            raise BadImageError(f"a cut PNG: no end chunk in its {end} bytes")
        if kind == b"eXIf":
            orientation, exifs = _orientation(data[position + 8 : stop - 4]), exifs + 1
        elif kind == b"PLTE":
            colours = length // 3
        elif kind == b"tRNS":
            transparent = True
        elif kind == b"acTL":
            odd = True  # DALI decodes the first frame, Pillow the picture that is there for others
        elif kind in (b"iTXt", b"tEXt", b"zTXt"):
            content = data[position + 8 : stop - 4]
            key, _, text = content.partition(b"\0")
            hidden = key == b"XML:com.adobe.xmp" and (kind == b"zTXt" or text[:1] == b"\1")  # compressed
            odd = odd or hidden or key in _EXIF_KEYS or _XMP_TURN.search(content) is not None
        elif not kind.isalpha():
            odd = True
        position = stop
    else:
        raise BadImageError(f"a cut PNG: no end chunk in its {end} bytes")
    if odd or orientation is None or exifs > 1:
        return None
    if orientation in _ROTATED:
        width, height = height, width
    short = colour == 3 and colours < 1 << depth
    return Image(data, "png", width, height, transparent=transparent, short_palette=short)


def without_side_data(data: bytes) -> bytes:
    """A JPEG or PNG without what Pillow may stumble over and that says nothing about its pixels.

    Of a PNG's chunks that do, those with a wrong checksum go, and transparency of another length than the pixels ask
    for: decoders jump over both, and Pillow does not.
    """
    jpeg = data[:3] == b"\xff\xd8\xff"
    if not jpeg and data[:8] != _PNG:
        return data
    kept, position = [data[: 2 if jpeg else 8]], 2 if jpeg else 8
    while position + 12 <= len(data):
        if jpeg:
            marker, length = struct.unpack_from(">xBH", data, position)
            part = data[position : position + 2 + length]
            if marker == 0xDA or data[position] != 0xFF or marker in (0, 1, 0xFF) or 0xD0 <= marker <= 0xD9:
                break
            told = marker == 0xE1 or (marker == 0xEE and part[4:9] == b"Adobe" and length >= _ADOBE)
            keep = told or not (0xE0 <= marker <= 0xEF or marker == 0xFE)
        else:
            (length,) = struct.unpack_from(">I", data, position)
            part = data[position : position + 12 + length]
            sound = part[-4:] == zlib.crc32(part[4:-4]).to_bytes(4, "big")
            sound = sound and (part[4:8] != b"tRNS" or length == {0: 2, 2: 6}.get(data[25], length))
            keep = not part[4] & 0x20 or (sound and part[4:8] in (b"tRNS", b"eXIf", b"iTXt"))
        position += len(part)
        kept += [part] if keep else []
    return b"".join([*kept, data[position:]] if jpeg else kept)


def _webp(data: bytes) -> Image | None:
    (size,) = struct.unpack_from("<I", data.ljust(8), 4)
    if size + 8 > len(data):
        raise BadImageError(f"a cut WebP: {size + 8} bytes announced, {len(data)} there")
    kind = data[12:16]
    if len(data) < _LEAST_WEBP:
        return None
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return Image(data, "webp", width & 0x3FFF, height & 0x3FFF)
    if kind == b"VP8L" and data[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", data, 21)
        transparent = bool(bits >> 28 & 1)
        return Image(data, "webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, transparent=transparent)
    return None  # extended: animation, Exif
