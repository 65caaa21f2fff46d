"""What is stored of a picture: its own bytes where training decodes them as Pillow does, else what Pillow reads.

What training sees is RGB with 8 bits a channel. Every mode follows one rule, whether the bytes are kept, converted or
resized: gray is scaled by its depth; transparent pixels show the colour that is stored beneath them, or `background`;
the first frame; EXIF rotation applied; colour profiles are ignored.
"""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from shards.headers import BadImageError, Image, from_header, without_side_data
from shards.limits import limit, over

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image as PillowImage


__all__ = ["BadImageError", "Decode", "Image", "OpenDecoder", "colour", "inspect", "open_pillow", "prepare", "reread"]

P = ParamSpec("P")
T = TypeVar("T")
FORMATS = (
    "AVIF", "BMP", "CUR", "DDS", "DIB", "GIF", "ICNS", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "PSD",
    "QOI", "SGI", "SUN", "TGA", "TIFF", "WEBP", "XBM", "XPM",
)  # fmt: skip
"""What Pillow may open: none of them starts another program or asks for a library that reads files of its own."""
_STORED_MODES = frozenset({"1", "L", "P", "RGB", "I;16"})
ONLY_PILLOW = "that only Pillow reads"
JPEG_QUALITY = 90
"""Of images re-encoded by `--resize`."""

Decode = Callable[[Sequence[bytes], Sequence[tuple[int, int]]], Sequence[str | None]]
"""(files, their widths and heights as shown) -> what is wrong with each: None where it decodes to that size."""
OpenDecoder = Callable[[], Decode]
"""A module's function, so that worker processes can be told it."""


def _guarded(read: Callable[P, T]) -> Callable[P, T]:
    """`read`, of which whatever an image library raises becomes one sentence."""

    @functools.wraps(read)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # odd metadata is no concern of ours; pixels are
                return read(*args, **kwargs)
        except BadImageError:
            raise
        except Exception as error:  # image libraries raise what they like: a file's fault, never the program's end
            told = " ".join(str(error).split())[:200]
            raise BadImageError(f"does not decode: {told or type(error).__name__}") from None

    return guarded


def inspect(data: bytes) -> Image | None:
    """The image as its header says, when its format is stored as it is; None when Pillow has to look.

    Raises:
        BadImageError: empty, cut, without pixels, or larger than the limits.
    """
    fault = over("PICTURE_BYTES", len(data), "bytes")
    if fault is not None:
        raise BadImageError(fault)
    image = from_header(data)
    if image is not None:
        _check_size(image.width, image.height)
    return image


def prepare(data: bytes) -> Image:
    """The image that goes into a shard where nothing is resized: `data`, of any of the `FORMATS`, whenever that can be.

    Raises:
        BadImageError: empty, no image, cut, or too large.
    """
    return inspect(data) or reread(data, None, 0, "")


def is_changed(image: Image, resize_px: int, background: str) -> bool:
    """Whether an image of a good header has to be re-encoded."""
    smaller = resize_px and min(image.width, image.height) > resize_px
    return bool(smaller) or (image.transparent and bool(background))


@_guarded
def reread(data: bytes, header: Image | None, resize_px: int, background: str, why: str = "") -> Image:
    """The image as Pillow reads it: losslessly as PNG, or, when it is resized, in the format of its `header`.

    `why` says what is odd about a file whose header is not.
    """
    opened = _opened(data)
    told = _told(opened)
    pixels = _upright(opened)
    layered = _laid_over(pixels, background) if background else None
    lacking = _names_missing_colours(pixels)
    if lacking and header is not None:
        why = why or ONLY_PILLOW
    if layered is None and header is not None and not why and not resize_px:
        return header  # nothing is transparent after all
    pixels = _plain(pixels) if layered is None else layered
    if lacking and pixels.mode == "P":  # a PNG of it would have pixels of other colours
        pixels = pixels.convert("RGB")
    shrunk = resize_px and min(pixels.size) > resize_px
    if shrunk:
        pixels = _shrunk(pixels, resize_px)
    extension = header.extension if header is not None and shrunk and layered is None else "png"
    if header is not None:
        told = f"{told} {why or 'with transparency'}" if layered is not None or why else ""
    return Image(_encoded(pixels, extension), extension, *pixels.size, told)


@_guarded
def _decoded(data: bytes) -> PillowImage.Image:
    return _upright(_opened(data))


def open_pillow() -> Decode:
    """Decoding with Pillow, where DALI is not installed."""
    _formats()
    return _pillow_decodes


def _pillow_decodes(files: Sequence[bytes], sizes: Sequence[tuple[int, int]]) -> list[str | None]:
    found: list[str | None] = []
    for data, (width, height) in zip(files, sizes, strict=True):
        try:
            turned = _decoded(data)
            same = turned.size == (width, height)
            found.append(None if same else f"decodes to {turned.width}x{turned.height} pixels, not {width}x{height}")
        except BadImageError as error:
            found.append(str(error))
    return found


def _names_missing_colours(pixels: PillowImage.Image) -> bool:
    """Whether there are pixels of colours that the palette lacks; decoders disagree on these."""
    return pixels.mode == "P" and int(_values(pixels).max()) >= len(pixels.getpalette() or ()) // 3


@_guarded
def shown(data: bytes, draft: int = 0) -> PillowImage.Image:
    """What training sees of a picture that is stored as it is: upright RGB; raises BadImageError.

    `draft` decodes it at a fraction of its size, not below so many pixels a side, where the format can.
    """
    return _eight_bits(_plain(_upright(_opened(data, draft=(draft, draft) if draft else None)))).convert("RGB")


def packed(data: bytes, resize_px: int = 0, background: str = "") -> PillowImage.Image:
    """What training sees of a picture file in a set that was packed with these options; raises BadImageError."""
    image = inspect(data)
    if image is None or is_changed(image, resize_px, background):
        image = reread(data, image, resize_px, background)
    return shown(image.data)


def colour(name: str) -> tuple[int, int, int]:
    """A colour by its CSS name or as #rrggbb; raises ValueError."""
    from PIL import ImageColor

    red, green, blue = ImageColor.getrgb(name)[:3]
    return red, green, blue


def _check_size(width: int, height: int) -> None:
    fault = over("SIDE", max(width, height), "pixels a side") or over("PIXELS", width * height, "pixels")
    if fault is not None:
        raise BadImageError(fault)


@functools.cache
def _formats() -> list[str]:
    """Those of `FORMATS` that this Pillow has."""
    from PIL import Image as Pillow

    Pillow.init()
    return [name for name in FORMATS if name in Pillow.OPEN]


def _opened(data: bytes, draft: tuple[int, int] | None = None) -> PillowImage.Image:
    """The first frame, decoded."""
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    Pillow.MAX_IMAGE_PIXELS = max(Pillow.MAX_IMAGE_PIXELS or 0, limit("PIXELS"))
    formats = _formats()
    try:
        pixels = Pillow.open(io.BytesIO(data), formats=formats)
        _check_size(*pixels.size)
        if draft is not None:
            pixels.draft("RGB", draft)
        pixels.load()
    except BadImageError:
        raise
    except Exception as error:
        sound = without_side_data(data)
        if len(sound) < len(data):
            return _opened(sound, draft)
        if not isinstance(error, UnidentifiedImageError):
            raise
        told = f"not an image: it begins with {data[:12]!r}, as none of {', '.join(formats)} does"
        raise BadImageError(told) from None
    _check_size(*pixels.size)
    return pixels


def _upright(pixels: PillowImage.Image) -> PillowImage.Image:
    """Turned as its EXIF says, and deep gray scaled to 16 bits, which takes what only the opened file knows."""
    from PIL import ImageOps

    if pixels.mode.startswith("I") or pixels.mode == "F":
        info, pixels = pixels.info, _sixteen_bits(pixels)
        pixels.info = info
    try:
        return ImageOps.exif_transpose(pixels)
    except Exception:  # metadata that is no EXIF says nothing about the pixels, which are there
        return pixels


def _told(pixels: PillowImage.Image) -> str:
    animated = "animated " if getattr(pixels, "is_animated", False) and pixels.format != "MPO" else ""
    return animated + (pixels.format or "unknown").lower()


def _laid_over(pixels: PillowImage.Image, background: str) -> PillowImage.Image | None:
    """RGB over `background`; None where every pixel is opaque."""
    from PIL import Image as Pillow

    see_through = pixels.info.get("transparency")
    if isinstance(see_through, bytes) and len(see_through) > 256:  # of more colours than there can be: none is meant
        del pixels.info["transparency"]
        return None
    if pixels.mode == "I;16":
        if not isinstance(see_through, int):
            return None
        alpha = Pillow.fromarray(((_values(pixels) != see_through) * 255).astype("uint8"))
        solid = _eight_bits(pixels).convert("RGB")
    elif see_through is not None or pixels.mode in ("LA", "PA", "RGBA", "La", "RGBa") or _palette_alpha(pixels):
        layered = _straight(pixels).convert("RGBA")
        solid, alpha = layered.convert("RGB"), layered.getchannel("A")
    else:
        return None
    if alpha.getextrema() == (255, 255):
        return None
    ground = Pillow.new("RGB", solid.size, colour(background))
    ground.paste(solid, mask=alpha)
    return ground


def _palette_alpha(pixels: PillowImage.Image) -> bool:
    return pixels.mode == "P" and pixels.palette is not None and "A" in pixels.palette.mode


def _straight(pixels: PillowImage.Image) -> PillowImage.Image:
    """Without the multiplication by alpha that some formats store."""
    return pixels.convert({"La": "LA", "RGBa": "RGBA"}[pixels.mode]) if pixels.mode in ("La", "RGBa") else pixels


def _plain(pixels: PillowImage.Image) -> PillowImage.Image:
    """One of the modes that are stored, without transparency."""
    pixels = _straight(pixels)
    if pixels.mode not in _STORED_MODES or _palette_alpha(pixels):
        pixels = pixels.convert("L" if pixels.mode == "LA" else "RGB")
    return pixels


def _values(pixels: PillowImage.Image) -> np.ndarray:
    import numpy as np

    return np.asarray(pixels).astype(np.uint32)


def _sixteen_bits(pixels: PillowImage.Image) -> PillowImage.Image:
    """Gray of more than 8 bits, scaled by its depth to 16."""
    import numpy as np
    from PIL import Image as Pillow

    tags = getattr(pixels, "tag_v2", {})
    bits = int(tags.get(258, (16,))[0])
    if pixels.mode == "F" or (pixels.mode == "I" and pixels.format != "PPM"):  # Pillow scales a PGM to 16 bits itself
        told = f"pixels of mode {pixels.mode!r} ({bits} bits, floating or signed) have no defined brightness"
        raise BadImageError(f"{told}; convert it to 8 or 16 bits")
    most = (1 << bits) - 1
    values = np.minimum(_values(pixels), most)
    if tags.get(262) == 0:  # white is zero
        values = most - values
    return Pillow.fromarray((values * 65535 // most).astype(np.uint16))


def _eight_bits(pixels: PillowImage.Image) -> PillowImage.Image:
    """L or RGB."""
    from PIL import Image as Pillow

    if pixels.mode == "I;16":
        return Pillow.fromarray(((_values(pixels) * 255 + 32895) >> 16).astype("uint8"))  # as DALI rounds
    return pixels.convert({"1": "L", "P": "RGB"}.get(pixels.mode, pixels.mode))


def _shrunk(pixels: PillowImage.Image, resize_px: int) -> PillowImage.Image:
    from PIL import Image as Pillow

    scale = resize_px / min(pixels.size)
    size = (max(resize_px, round(pixels.width * scale)), max(resize_px, round(pixels.height * scale)))
    return _eight_bits(pixels).resize(size, Pillow.Resampling.BICUBIC, reducing_gap=3.0)


def _encoded(pixels: PillowImage.Image, extension: str) -> bytes:
    file = io.BytesIO()
    pixels.info = {}
    if extension == "png":
        pixels.save(file, "PNG")
    else:
        pixels.save(file, "JPEG" if extension == "jpg" else "WEBP", quality=JPEG_QUALITY)
    return file.getvalue()
