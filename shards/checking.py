"""What each planned picture is stored as: files are read in order, and checked and re-encoded by threads.

A decoder starts in half a second and is used by one thread at a time, so a process keeps those that it has opened.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from shards import images
from shards.errors import InputError
from shards.images import BadImageError, Decode, Image, OpenDecoder
from shards.limits import over
from shards.pack_plan import PackOptions
from shards.portable import READ_FLAGS
from shards.spool import Entry

_AT_ONCE = 32
_PIXELS_AT_ONCE = 1 << 25
"""Images that are decoded together, and about how many pixels they have at most."""
_UNKNOWN_PIXELS = _PIXELS_AT_ONCE // 8
"""What counts for an image that only Pillow can tell the size of."""

Stored = tuple[Entry, Image | BadImageError]

_idle: dict[OpenDecoder, list[Decode]] = {}
"""Decoders of this process that no thread is using."""


@dataclass(slots=True)
class _Picture:
    """A record, the bytes of its file, and its image: None until Pillow has read it, else what is wrong with it."""

    entry: Entry
    data: bytes
    image: Image | BadImageError | None


def checked(
    entries: Iterable[Entry],
    options: PackOptions,
    open_decoder: OpenDecoder,
    threads: ThreadPoolExecutor,
    ahead: int,
) -> Iterator[Stored]:
    """The image that is stored of each record, or what is wrong with it, in order.

    So many batches are read `ahead` by the calling thread, before the first is waited for; `threads` check them.

    Raises:
        InputError: a file that cannot be read, or has changed since the plan was made.
    """
    waiting: deque[Future[list[_Picture]]] = deque()
    for batch in _batches(entries):
        waiting.append(threads.submit(_check, batch, options, open_decoder))
        if len(waiting) > ahead:
            yield from _taken(waiting)
    while waiting:
        yield from _taken(waiting)


def _taken(waiting: deque[Future[list[_Picture]]]) -> Iterator[Stored]:
    for picture in waiting.popleft().result():
        assert picture.image is not None
        yield picture.entry, picture.image


def _batches(entries: Iterable[Entry]) -> Iterator[list[_Picture]]:
    batch: list[_Picture] = []
    pixels = 0
    for entry in entries:
        picture = _Picture(entry, b"", None)
        batch.append(picture)
        try:
            picture.data = entry.inline or _read(entry)
            picture.image = images.inspect(picture.data)
            pixels += picture.image.width * picture.image.height if picture.image is not None else _UNKNOWN_PIXELS
        except BadImageError as error:
            picture.image = error
        if len(batch) == _AT_ONCE or pixels > _PIXELS_AT_ONCE:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch


def _check(batch: list[_Picture], options: PackOptions, open_decoder: OpenDecoder) -> list[_Picture]:
    """Sets each `image`: Pillow re-encodes what is not stored as it is, and the decoder tries the others."""
    kept: list[tuple[_Picture, Image]] = []
    for picture in batch:
        header = picture.image
        if isinstance(header, BadImageError):
            continue
        if header is None or images.is_changed(header, options.resize_px, options.background):
            picture.image = _reread(picture, header, options, options.resize_px)
            if picture.image is not header:
                continue
            header = picture.image
        kept.append((picture, header))
    if options.check == "decode" and kept:
        wrong = _decoded([image for _, image in kept], open_decoder)
        for (picture, image), fault in zip(kept, wrong, strict=True):
            if fault is not None or image.short_palette:
                picture.image = _reread(picture, image, options, 0, images.ONLY_PILLOW if fault else "")
    return batch


def _decoded(kept: list[Image], open_decoder: OpenDecoder) -> list[str | None]:
    idle = _idle.setdefault(open_decoder, [])
    try:
        decode = idle.pop()
    except IndexError:
        decode = open_decoder()
    wrong = decode([image.data for image in kept], [(image.width, image.height) for image in kept])
    idle.append(decode)
    return list(wrong)


def _reread(
    picture: _Picture, header: Image | None, options: PackOptions, resize_px: int, why: str = ""
) -> Image | BadImageError:
    try:
        return images.reread(picture.data, header, resize_px, options.background, why)
    except BadImageError as error:
        return error


def _read(entry: Entry) -> bytes:
    """The whole file, by three system calls: millions of small files are read this way."""
    if (fault := over("PICTURE_BYTES", entry.size, "bytes")) is not None:
        raise BadImageError(fault)
    try:
        descriptor = os.open(entry.path, READ_FLAGS)
        try:
            data = os.read(descriptor, entry.size + 1)
            while 0 < len(data) < entry.size:
                more = os.read(descriptor, entry.size + 1 - len(data))
                if not more:
                    break
                data += more
        finally:
            os.close(descriptor)
    except OSError as error:
        raise InputError(f"{entry.source} cannot be read: {error.strerror}") from None
    if len(data) != entry.size:
        raise InputError(f"{entry.source} had {entry.size} bytes when packing began and has another size now")
    return data
