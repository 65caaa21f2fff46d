"""A small file of every kind of picture: format, mode, depth, orientation, transparency, animation and damage.

Each kind says what packing does with it: `kept` (its own bytes), `png` (stored losslessly as Pillow reads it) or
`refused`. The table of docs/shard-format.md is made of these; tests hold both together and to what really happens.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, features

WIDTH, HEIGHT = 28, 20


@dataclass(frozen=True)
class Kind:
    """One kind of picture.

    Args:
        group: its row in the table of the docs.
        data: the file.
        packed: `kept`, `png` or `refused`.
        pixels: uint8 [height, width, 3], what is to be seen; None where Pillow's own RGB says it.
        unseen: only decoding shows what is odd: re-indexing and `--check header` take it as it is.
    """

    group: str
    data: bytes
    packed: str = "kept"
    pixels: np.ndarray | None = None
    unseen: bool = False


def rgb() -> Image.Image:
    """A smooth picture with edges, no two sides alike."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    channels = [x * 255 // WIDTH, y * 255 // HEIGHT, np.where((x > 6) & (y < 9), 200, 40)]
    return Image.fromarray(np.stack(channels, axis=2).astype(np.uint8))


def rgba() -> Image.Image:
    """The same with holes, beneath which its colours go on."""
    image = rgb()
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[:6], alpha[6:9] = 0, 128
    image.putalpha(Image.fromarray(alpha))
    return image


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int) -> bytes:
    made = Image.Exif()
    made[0x0112] = orientation
    return made.tobytes()


def ramp(bits: int) -> np.ndarray:
    """uint16 [height, width], all of the range of `bits`."""
    numbers = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    return (numbers * ((1 << bits) - 1) // (HEIGHT * WIDTH - 1)).astype(np.uint16)


def gray(values: np.ndarray, bits: int) -> np.ndarray:
    """What gray of so many bits looks like."""
    return np.repeat((values.astype(np.int64) * 255 // ((1 << bits) - 1)).astype(np.uint8)[:, :, None], 3, axis=2)


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def before(data: bytes, kind: bytes, more: bytes) -> bytes:
    """A PNG with `more` before its first chunk `kind`."""
    at = data.index(kind) - 4
    return data[:at] + more + data[at:]


def spoilt(data: bytes, at: int, count: int = 4) -> bytes:
    changed = bytearray(data)
    for position in range(at, min(at + count, len(data))):
        changed[position] ^= 0x55
    return bytes(changed)


def png(depth: int, colour: int, rows: bytes, *more: bytes, interlace: int = 0) -> bytes:
    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour, 0, 0, interlace)
    body = chunk(b"IHDR", head) + b"".join(more) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def rows_of(values: np.ndarray) -> bytes:
    """Rows of a PNG, without a filter."""
    return b"".join(b"\0" + row.tobytes() for row in values)


def tiff(values: np.ndarray, bits: int, order: str = "<", photometric: int = 1, sample_format: int = 1) -> bytes:
    """An uncompressed gray TIFF of one strip, by hand."""
    if bits == 12:
        pairs = values.reshape(-1, 2).astype(np.uint32)
        strip = b"".join(int(a << 12 | b).to_bytes(3, "big") for a, b in pairs.tolist())
    else:
        strip = values.astype(values.dtype.newbyteorder(order)).tobytes()
    height, width = values.shape
    tags = [(256, 3, width), (257, 3, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8),
            (277, 3, 1), (278, 3, height), (279, 4, len(strip)), (339, 3, sample_format)]  # fmt: skip
    folder = struct.pack(order + "H", len(tags))
    for tag, kind, value in tags:
        folder += struct.pack(order + "HHI", tag, kind, 1)
        folder += struct.pack(order + ("HH" if kind == 3 else "I"), *([value, 0] if kind == 3 else [value]))
    start = 8 + len(strip)
    return (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, start) + strip + folder + bytes(4)


def xmp(orientation: int) -> bytes:
    return b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>' % orientation


def jpegs() -> dict[str, Kind]:
    plain = saved(rgb(), "JPEG", quality=92)
    start = plain[:2]

    def with_segment(marker: int, content: bytes) -> bytes:
        return start + segment(marker, content) + plain[2:]

    colours = np.asarray(Image.open(io.BytesIO(plain)))
    inks = _without_adobe(saved(rgb().convert("CMYK"), "JPEG"))
    kinds = {
        "jpeg": Kind("JPEG", plain),
        "jpeg, progressive": Kind("JPEG", saved(rgb(), "JPEG", progressive=True)),
        "jpeg, 4:4:4": Kind("JPEG", saved(rgb(), "JPEG", subsampling=0)),
        "jpeg, 4:2:0, odd sides": Kind("JPEG", saved(rgb().crop((0, 0, 27, 19)), "JPEG", subsampling=2)),
        "jpeg, one pixel": Kind("JPEG", saved(rgb().crop((0, 0, 1, 1)), "JPEG")),
        "jpeg, gray": Kind("JPEG", saved(rgb().convert("L"), "JPEG")),
        "jpeg, CMYK": Kind("JPEG", saved(rgb().convert("CMYK"), "JPEG")),
        "jpeg, restart markers": Kind("JPEG", saved(rgb(), "JPEG", restart_marker_rows=1)),
        "jpeg, a profile": Kind("JPEG", saved(rgb(), "JPEG", icc_profile=bytes(400))),
        "jpeg, bytes after its end": Kind("JPEG", plain + b"maker's notes"),
        "jpeg, fill bytes": Kind("JPEG", start + b"\xff\xff\xff" + plain[2:]),
        "jpeg, a comment like an end": Kind("JPEG", with_segment(0xFE, b"\xff\xd9")),
        "jpeg, EXIF orientation 0": Kind("JPEG", saved(rgb(), "JPEG", exif=exif(0))),
        "jpeg, JFIF cut short": Kind("JPEG, damaged", with_segment(0xE0, b"JFIF\0\1"), pixels=colours),
        "jpeg, Adobe cut short": Kind("JPEG, damaged", with_segment(0xEE, b"Adobe\0d"), pixels=colours),
        "jpeg, a profile cut short": Kind("JPEG, damaged", with_segment(0xE2, b"ICC_PROFILE\0\1"), pixels=colours),
        "jpeg, EXIF that is none": Kind("JPEG, odd", with_segment(0xE1, b"Exif\0\0garbage of a camera"), "png"),
        "jpeg, EXIF twice": Kind(
            "JPEG, odd", start + segment(0xE1, exif(6)) + with_segment(0xE1, exif(3))[2:], "png"
        ),
        "jpeg, orientation of XMP alone": Kind(
            "JPEG, odd", with_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(6)), "png"
        ),
        "jpeg, junk between segments": Kind("JPEG, odd", plain[:20] + b"\0\0" + plain[20:], "png"),
        "jpeg, frame of ff00": Kind("JPEG, odd", start + b"\xff\x00" + plain[2:], "png"),
        "jpeg, CMYK not by Adobe": Kind("JPEG, odd", inks, "png"),
        "jpeg, CMYK of an Adobe cut short": Kind(
            "JPEG, damaged",
            start + segment(0xEE, b"Adobe") + inks[2:],
            "png",
            pixels=np.asarray(Image.open(io.BytesIO(inks)).convert("RGB")),
        ),
        "jpeg, arithmetic": Kind("JPEG, odd", _arithmetic(), "refused"),
        "jpeg, cut in its header": Kind("JPEG, damaged", plain[:60], "refused"),
        "jpeg, cut in its pixels": Kind("JPEG, damaged", plain[:-40], "refused"),
        "jpeg, no pixels": Kind("JPEG, damaged", start + b"\xff\xd9\xff\xd9", "refused"),
        "jpeg, no width": Kind("JPEG, damaged", _sized(plain, 0, HEIGHT), "refused"),
        "jpeg, 65000 x 65000 announced": Kind("JPEG, damaged", _sized(plain, 65000, 65000), "refused"),
    }  # fmt: skip
    kinds |= {f"jpeg, EXIF orientation {n}": Kind("JPEG", saved(rgb(), "JPEG", exif=exif(n))) for n in range(1, 9)}
    mpo = io.BytesIO()
    rgb().save(mpo, "MPO", save_all=True, append_images=[rgb().rotate(180)])
    return kinds | {"mpo, two pictures": Kind("JPEG", mpo.getvalue())}


def _without_adobe(jpeg: bytes) -> bytes:
    """Without the segment that says that the inks are inverted."""
    at = jpeg.index(b"Adobe") - 4
    return jpeg[:at] + jpeg[at + 2 + struct.unpack_from(">H", jpeg, at + 2)[0] :]


def _arithmetic() -> bytes:
    """A frame of arithmetic coding around pixels that are not so coded."""
    plain = saved(rgb(), "JPEG")
    at = plain.index(b"\xff\xc0")
    return plain[: at + 1] + b"\xca" + plain[at + 2 :]


def _sized(jpeg: bytes, width: int, height: int) -> bytes:
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


def pngs() -> dict[str, Kind]:
    plain, deep = saved(rgb(), "PNG"), ramp(16)
    colours = np.asarray(rgb())
    deep_rgb = (colours.astype(np.uint16) * 257).astype(">u2")
    deep_rgba = np.concatenate([deep_rgb, np.full((HEIGHT, WIDTH, 1), 30000, ">u2")], axis=2)
    palette = rgb().quantize(8)
    indices = np.asarray(palette)
    flat = rgb().convert("L")
    value = int(np.asarray(flat)[0, 0])
    few = bytes(palette.getpalette() or b"")[:24]
    orientation_late = before(plain, b"IEND", chunk(b"eXIf", exif(6)[6:]))
    raw = b"\nexif\n      %d\n" % len(exif(6)) + exif(6).hex().encode() + b"\n"
    animated = io.BytesIO()
    rgb().save(animated, "PNG", save_all=True, append_images=[rgb().rotate(180)], default_image=True)
    looped = io.BytesIO()
    rgb().save(looped, "PNG", save_all=True, append_images=[rgb().rotate(180)])
    head, body = plain[:33], plain[33:]
    kinds = {
        "png": Kind("PNG", plain),
        "png, gray": Kind("PNG", saved(rgb().convert("L"), "PNG")),
        "png, one bit": Kind("PNG", saved(rgb().convert("1"), "PNG")),
        "png, palette": Kind("PNG", saved(rgb().quantize(16), "PNG", bits=4)),
        "png, palette of 256": Kind("PNG", saved(rgb().quantize(256), "PNG")),
        "png, gray of 2 bits": Kind("PNG", png(2, 0, rows_of((ramp(8)[:, : WIDTH // 4]).astype(np.uint8)))),
        "png, interlaced": Kind("PNG", _interlaced()),
        "png, a profile": Kind("PNG", saved(rgb(), "PNG", icc_profile=bytes(200))),
        "png, gamma": Kind("PNG", head + chunk(b"gAMA", struct.pack(">I", 20000)) + body),
        "png, text": Kind("PNG", head + chunk(b"tEXt", b"Comment\0hello") + body),
        "png, bytes after its end": Kind("PNG", plain + b"more"),
        "png, 16 bits gray": Kind("PNG, 16 bits", saved(Image.fromarray(deep), "PNG"), pixels=gray(deep, 16)),
        "png, 16 bits RGB": Kind("PNG, 16 bits", png(16, 2, rows_of(deep_rgb)), pixels=colours),
        "png, 16 bits RGBA": Kind("PNG, 16 bits", png(16, 6, rows_of(deep_rgba)), pixels=colours),
        "png, RGBA": Kind("PNG, transparent", saved(rgba(), "PNG"), pixels=colours),
        "png, LA": Kind("PNG, transparent", saved(rgba().convert("LA"), "PNG")),
        "png, palette with a transparent colour": Kind("PNG, transparent", saved(palette, "PNG", transparency=3)),
        "png, palette with alpha": Kind(
            "PNG, transparent", saved(palette, "PNG", transparency=bytes(range(0, 240, 30)))
        ),
        "png, gray with a transparent value": Kind("PNG, transparent", saved(flat, "PNG", transparency=value)),
        "png, RGB with a transparent colour": Kind("PNG, transparent", saved(rgb(), "PNG", transparency=(0, 0, 40))),
        "png, opaque alpha": Kind("PNG, transparent", saved(rgb().convert("RGBA"), "PNG")),
        "png, orientation after its pixels": Kind("PNG", orientation_late),
        "png, orientation of XMP alone": Kind(
            "PNG, odd", before(plain, b"IDAT", chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(6))), "png"
        ),
        "png, orientation of compressed XMP": Kind(
            "PNG, odd",
            before(plain, b"IDAT", chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp(6)))),
            "png",
        ),
        "png, EXIF twice": Kind(
            "PNG, odd",
            before(before(plain, b"IDAT", chunk(b"eXIf", exif(6)[6:])), b"IEND", chunk(b"eXIf", exif(3)[6:])),
            "png",
        ),
        "png, EXIF in a text": Kind("PNG, odd", before(plain, b"IDAT", chunk(b"tEXt", b"exif\0" + exif(6))), "png"),
        "png, orientation as ImageMagick writes it": Kind(
            "PNG, odd",
            before(plain, b"IDAT", chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw))),
            "png",
        ),
        "png, animated": Kind("PNG, animated", looped.getvalue(), "png"),
        "png, animated, another first picture": Kind(
            "PNG, animated", animated.getvalue(), "png", pixels=colours
        ),
        "png, animation without frames": Kind("PNG, animated", head + chunk(b"acTL", bytes(8)) + body, "png"),
        "png, colours that the palette lacks": Kind(
            "PNG, odd", png(8, 3, rows_of(indices), chunk(b"PLTE", few[:9])), "png", unseen=True
        ),
        "png, a short palette": Kind("PNG", png(8, 3, rows_of(indices), chunk(b"PLTE", few))),
        "png, wrong checksum of a text": Kind(
            "PNG, damaged", head + spoilt(chunk(b"tEXt", b"Comment\0hello"), 21) + body, pixels=colours
        ),
        "png, transparency cut short": Kind("PNG, damaged", head + chunk(b"tRNS", bytes(5)) + body, pixels=colours),
        "png, transparency of a palette too long": Kind(
            "PNG, damaged", before(saved(rgb().quantize(16), "PNG"), b"IDAT", chunk(b"tRNS", bytes(300)))
        ),
        "png, gamma cut short": Kind("PNG, damaged", head + chunk(b"gAMA", b"\0") + body, pixels=colours),
        "png, wrong checksum of its pixels": Kind(
            "PNG, damaged", spoilt(plain, plain.index(b"IEND") - 8), "png", unseen=True
        ),
        "png, wrong checksum of its head": Kind("PNG, damaged", spoilt(plain, 29), "refused", unseen=True),
        "png, pixels spoilt": Kind(
            "PNG, damaged", spoilt(plain, plain.index(b"IDAT") + 30, 20), "refused", unseen=True
        ),
        "png, cut in its header": Kind("PNG, damaged", plain[:30], "refused"),
        "png, cut in its pixels": Kind("PNG, damaged", plain[:-30], "refused"),
        "png, without its end": Kind("PNG, damaged", plain[:-12], "refused"),
        "png, without pixels": Kind("PNG, damaged", head + chunk(b"IEND", b""), "refused", unseen=True),
        "png, 40000 x 40000 announced": Kind("PNG, damaged", _huge(), "refused"),
        "png, no width": Kind("PNG, damaged", plain[:16] + bytes(4) + plain[20:], "refused"),
    }  # fmt: skip
    return kinds | {
        f"png, EXIF orientation {n}": Kind("PNG", saved(rgb(), "PNG", exif=exif(n))) for n in (1, 3, 5, 6, 8)
    }


def _interlaced() -> bytes:
    """Adam7, by hand: Pillow writes none."""
    colours = np.asarray(rgb())
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = b"".join(rows_of(colours[y::down, x::right]) for y, x, down, right in passes)
    return png(8, 2, rows, interlace=1)


def _huge() -> bytes:
    head = struct.pack(">IIBBBBB", 40000, 40000, 1, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(5001 * 40))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def webps() -> dict[str, Kind]:
    lossless = saved(rgb(), "WEBP", lossless=True)
    animated = io.BytesIO()
    rgb().save(animated, "WEBP", save_all=True, append_images=[rgb().rotate(180)], lossless=True)
    return {
        "webp": Kind("WebP", saved(rgb(), "WEBP", quality=90)),
        "webp, lossless": Kind("WebP", lossless),
        "webp, lossless and transparent": Kind("WebP", saved(rgba(), "WEBP", lossless=True, exact=True)),
        "webp, lossy and transparent": Kind("WebP, extended", saved(rgba(), "WEBP", exact=True), "png"),
        "webp, EXIF orientation 6": Kind("WebP, extended", saved(rgb(), "WEBP", lossless=True, exif=exif(6)), "png"),
        "webp, EXIF that is none": Kind("WebP, extended", saved(rgb(), "WEBP", lossless=True, exif=b"garbage"), "png"),
        "webp, a profile": Kind("WebP, extended", saved(rgb(), "WEBP", lossless=True, icc_profile=bytes(200)), "png"),
        "webp, animated": Kind("WebP, extended", animated.getvalue(), "png"),
        "webp, tiny": Kind("WebP", saved(Image.new("RGB", (1, 1), "red"), "WEBP", lossless=True)),
        "webp, cut": Kind("WebP, damaged", lossless[:-20], "refused"),
        "webp, spoilt": Kind("WebP, damaged", spoilt(lossless, 40, 60), "refused", unseen=True),
        "webp, header alone": Kind("WebP, damaged", b"RIFF\x04\0\0\0WEBP", "refused"),
    }


def others() -> dict[str, Kind]:
    deep, deep12 = ramp(16), ramp(12)
    palette = rgb().quantize(8)
    gif = io.BytesIO()
    rgb().quantize(16).save(gif, "GIF", save_all=True, append_images=[rgb().rotate(180).quantize(16)])
    pgm = b"P5\n%d %d\n65535\n" % (WIDTH, HEIGHT) + deep.astype(">u2").tobytes()
    floats = (deep / 65535).astype(np.float32)
    kinds = {
        "gif": Kind("GIF", saved(palette, "GIF"), "png"),
        "gif, transparent": Kind("GIF", saved(palette, "GIF", transparency=3), "png"),
        "gif, animated": Kind("GIF", gif.getvalue(), "png"),
        "gif, gray": Kind("GIF", saved(rgb().convert("L"), "GIF"), "png"),
        "gif, colours that the palette lacks": Kind("GIF", _short_gif(), "png"),
        "gif, cut": Kind("GIF", saved(palette, "GIF")[:40], "refused"),
        "bmp": Kind("BMP", saved(rgb(), "BMP"), "png"),
        "bmp, palette": Kind("BMP", saved(palette, "BMP"), "png"),
        "bmp, one bit": Kind("BMP", saved(rgb().convert("1"), "BMP"), "png"),
        "bmp, colours that the palette lacks": Kind("BMP", _short_bmp(), "png"),
        "bmp, cut": Kind("BMP", saved(rgb(), "BMP")[:200], "refused"),
        "tiff": Kind("TIFF", saved(rgb(), "TIFF"), "png"),
        "tiff, deflate": Kind("TIFF", saved(rgb(), "TIFF", compression="tiff_adobe_deflate"), "png"),
        "tiff, CMYK": Kind("TIFF", saved(rgb().convert("CMYK"), "TIFF"), "png"),
        "tiff, LAB": Kind("TIFF", saved(_lab(), "TIFF"), "png"),
        "tiff, RGBA": Kind("TIFF", saved(rgba(), "TIFF"), "png", pixels=np.asarray(rgb())),
        "tiff, alpha multiplied in": Kind("TIFF", _premultiplied(), "png"),
        "tiff, orientation 6": Kind("TIFF", saved(rgb(), "TIFF", tiffinfo={274: 6}), "png"),
        "tiff, one bit": Kind("TIFF", saved(rgb().convert("1"), "TIFF"), "png"),
        "tiff, 16 bits, little-endian": Kind("TIFF, deep", tiff(deep, 16), "png", gray(deep, 16)),
        "tiff, 16 bits, big-endian": Kind("TIFF, deep", tiff(deep, 16, ">"), "png", gray(deep, 16)),
        "tiff, 16 bits, white is zero": Kind("TIFF, deep", tiff(deep, 16, photometric=0), "png", 255 - gray(deep, 16)),
        "tiff, 12 bits": Kind("TIFF, deep", tiff(deep12, 12), "png", gray(deep12, 12)),
        "tiff, 16 bits, signed": Kind("TIFF, deep", tiff(deep.astype(np.int16), 16, sample_format=2), "refused"),
        "tiff, 32 bits": Kind("TIFF, deep", tiff(deep.astype(np.uint32), 32), "refused"),
        "tiff, floating point": Kind("TIFF, deep", tiff(floats, 32, sample_format=3), "refused"),
        "tiff, cut": Kind("TIFF", saved(rgb(), "TIFF")[:60], "refused"),
        "pgm, 16 bits": Kind("PNM", pgm, "png", gray(deep, 16)),
        "ppm": Kind("PNM", saved(rgb(), "PPM"), "png"),
        "pfm": Kind("PNM", b"Pf\n%d %d\n-1.0\n" % (WIDTH, HEIGHT) + floats.tobytes(), "refused"),
        "tga": Kind("others", saved(rgb(), "TGA"), "png"),
        "tga, RGBA": Kind("others", saved(rgba(), "TGA"), "png", pixels=np.asarray(rgb())),
        "ico": Kind("others", saved(rgb().resize((16, 16)), "ICO", sizes=[(16, 16)]), "png"),
        "pcx": Kind("others", saved(rgb(), "PCX"), "png"),
        "sgi": Kind("others", saved(rgb(), "SGI"), "png"),
        "dds": Kind("others", saved(rgba(), "DDS"), "png", pixels=np.asarray(rgb())),
        "xbm": Kind("others", saved(rgb().convert("1"), "XBM"), "png"),
        "dds of an unknown layout": Kind("others", saved(rgb(), "DDS")[:84] + b"XXXX" + bytes(60), "refused"),
        "PostScript": Kind("no picture", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n", "refused"),
        "Windows metafile": Kind("no picture", b"\xd7\xcd\xc6\x9a\x00\x00" + bytes(60), "refused"),
        "HEIC": Kind("no picture", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), "refused"),
        "SVG": Kind("no picture", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "refused"),
        "a page": Kind("no picture", b"<html>not found</html>", "refused"),
        "zeros": Kind("no picture", bytes(600), "refused"),
        "empty": Kind("no picture", b"", "refused"),
        "a pointer of Git LFS": Kind("no picture", b"version https://git-lfs.github.com/spec/v1\n", "refused"),
    }  # fmt: skip
    if features.check("jpg_2000"):
        sixteen = Image.fromarray(deep)
        kinds["jpeg 2000"] = Kind("JPEG 2000", saved(rgb(), "JPEG2000"), "png")
        kinds["jpeg 2000, RGBA"] = Kind("JPEG 2000", saved(rgba(), "JPEG2000"), "png", pixels=np.asarray(rgb()))
        kinds["jpeg 2000, 16 bits"] = Kind("JPEG 2000", saved(sixteen, "JPEG2000"), "png", gray(deep, 16))
    if features.check("avif"):
        kinds["avif"] = Kind("AVIF", saved(rgb(), "AVIF", quality=90), "png")
        kinds["avif, transparent"] = Kind("AVIF", saved(rgba(), "AVIF", quality=90), "png")
        kinds["avif, cut"] = Kind("AVIF", saved(rgb(), "AVIF")[:150], "refused")
        kinds["avif, spoilt"] = Kind("AVIF", spoilt(saved(rgb(), "AVIF"), 60, 40), "refused")
    return kinds


def _short_gif() -> bytes:
    """A GIF of eight colours, of which its palette has the first four."""
    data = saved(rgb().quantize(8), "GIF")
    assert data[10] & 7 == 2
    return data[:10] + bytes([data[10] - 1]) + data[11:25] + data[37:]


def _short_bmp() -> bytes:
    """A BMP of eight colours, of which its palette has the first three."""
    data = saved(rgb().quantize(8), "BMP")
    return data[:46] + struct.pack("<I", 3) + data[50:]


def _lab() -> Image.Image:
    return Image.frombytes("LAB", (WIDTH, HEIGHT), np.asarray(rgb()).tobytes())


def _premultiplied() -> bytes:
    """A TIFF of mode La: gray already multiplied by alpha."""
    data = bytearray(saved(rgba().convert("LA"), "TIFF"))
    for at in range(len(data) - 12):
        if struct.unpack_from("<HHI", data, at) == (338, 3, 1):
            data[at + 8] = 1  # ExtraSamples: associated alpha
    return bytes(data)


def kinds() -> dict[str, Kind]:
    """All kinds, by name."""
    return jpegs() | pngs() | webps() | others()


def table() -> str:
    """The kinds as a table of Markdown."""
    words = {"kept": "its own bytes", "png": "PNG, as Pillow reads it", "refused": "refused, or listed by `--skip-bad`"}
    rows: dict[tuple[str, str, str], list[str]] = {}
    for name, kind in kinds().items():
        taken = kind.unseen or kind.packed == "kept"
        key = (kind.group, words[kind.packed], "taken" if taken else "refused, or listed")
        own, _, rest = name.partition(", ")
        rows.setdefault(key, []).append(rest if rest and kind.group.lower().startswith(own) else name)
    lines = ["| format | kinds | packed with `--check decode` | re-indexed |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {group} | {'; '.join(names)} | {packed} | {taken} |" for (group, packed, taken), names in rows.items()
    ]
    return "\n".join(lines) + "\n"
