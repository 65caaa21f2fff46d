"""Decoded pixels to normalised images on the CPU: resize, flip, rotation, colours, erasing.

Torch resizes uint8 pixels several times faster than DALI's CPU operator (0.1 against 0.7 ms for a 224 px crop of a
300 px photo on one AVX2 core), so on a CPU DALI decodes and this does the rest, in threads of its own. On a GPU the
same numbers go through DALI's graph instead.

Each image is worked on by itself, so its result does not depend on its batch, its neighbours or the number of threads.

Legend: n images, P the output's side.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fashion_dist.data.augment import AugmentParams
from fashion_dist.data.batch import on_device
from fashion_dist.data.dali import lower_thread_priority

_GROUP = 4
"""Pixels whose colours one row of the colour matrix product mixes: a 12x12 product is 4 times faster than 3x3 ones."""


@dataclass
class Rendered:
    """A batch that is being worked on: `wait` gives the images."""

    images: Tensor
    parts: list[Future[None]]

    def wait(self) -> Tensor:
        """Float [n, P, P, 3]; raises what a part raised."""
        for part in self.parts:
            part.result()
        return self.images


class Renderer:
    """A pool of threads that turn pixels to normalised images.

    Args:
        image_px: P.
        threads: number of threads; each works on single images.
        bicubic: resize so, and not bilinearly.
    """

    def __init__(self, image_px: int, threads: int, bicubic: bool = False) -> None:
        self.side = image_px
        self._bicubic = bicubic
        self._threads = threads
        self._local = threading.local()
        self._known: tuple[tuple[int, int, int], bytes] | None = None
        self._last: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))
        # Threads of the pool run torch operations on one core each. Torch keeps that number per thread, but also
        # hands the last one set to threads that have not asked for theirs; so each asks before it sets its own, and
        # this thread's own is set again afterwards.
        mine = torch.get_num_threads()
        ready = threading.Barrier(threads + 1)

        def begin() -> None:
            torch.get_num_threads()
            torch.set_num_threads(1)
            lower_thread_priority()
            ready.wait()

        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="render")
        started = [self._pool.submit(begin) for _ in range(threads)]
        ready.wait()
        for part in started:
            part.result()
        torch.set_num_threads(mine)

    def start(self, pixels_of: Callable[[int], np.ndarray], draws: AugmentParams, out: Tensor) -> Rendered:
        """Begin to render into `out` (float [n, P, P, 3]) the pixels of the crop boxes.

        `pixels_of` gives the uint8 [height, width, 3] of a position and is called in the pool; the boxes in `draws` are
        not looked at.
        """
        rows = self._rows(draws) if draws.diagonal else None
        waiting = iter(range(len(out)))  # each thread takes the next one, so that all end together

        def render() -> None:
            local = self._scratch()
            for position in waiting:
                target = out[position]
                resized = None if draws.resized is None else draws.resized[position].tolist()
                image = self._fitted(pixels_of(position), draws.flips[position], local.resized, resized)
                if draws.maps is not None:
                    image = _turned(image, draws.maps[position])
                floats = target if target.dtype == torch.float32 else local.floats
                if rows is not None:
                    _scale(image, rows[0][position], rows[1][position], floats)
                else:
                    _mix_colours(image, draws.colours[position, :, :3], draws.colours[position, :, 3], floats)
                if floats is not target:
                    target.copy_(floats)
                if draws.erased[position, 2]:
                    _erase(target, draws.erased[position])

        return Rendered(out, [self._pool.submit(render) for _ in range(min(self._threads, len(out)))])

    def start_block(self, block: np.ndarray, rows: np.ndarray, draws: AugmentParams, out: Tensor) -> Rendered:
        """Begin to render the `rows` (int64 [n]) of `block` (uint8 [N, P, P, 3]) as they are, without crop or resizing.

        Many at once: images of 28 px would take longer to name one by one than to render. `draws` are plain.
        """
        side = self.side
        scale, offset = self._rows(draws)
        flat = block.reshape(len(block), -1)

        def render(here: slice) -> None:
            # Gathered and scattered as rows of bytes, which is ten times as fast as by four dimensions.
            taken = flat[rows[here]]
            flipped = np.flatnonzero(draws.flips[here])
            if len(flipped):
                mirrored = torch.from_numpy(taken[flipped]).view(-1, side, side, 3).flip(2)
                taken[flipped] = mirrored.reshape(len(flipped), -1).numpy()
            images = torch.from_numpy(taken).view(-1, side, side, 3)
            target = out[here]
            floats = target if target.dtype == torch.float32 else torch.empty(target.shape)
            _scale(images, scale[here], offset[here], floats)
            if floats is not target:
                target.copy_(floats)
            for position in np.flatnonzero(draws.erased[here, 2]).tolist():
                _erase(target[position], draws.erased[here][position])

        assert block.shape[1:3] == (side, side)
        size = max(-(-len(out) // self._threads), 1)
        return Rendered(out, [self._pool.submit(render, slice(at, at + size)) for at in range(0, len(out), size)])

    def close(self) -> None:
        """Drop what has not begun and wait for what has."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _rows(self, draws: AugmentParams) -> tuple[Tensor, Tensor]:
        """Diagonal colours as factors and summands of a whole row of pixels, float32 [n, 1, 3 * P] each.

        Over an innermost dimension of 3, the same arithmetic takes ten times as long.
        """
        shape = len(draws.colours), 1, 3 * self.side
        same = draws.colours.strides[0] == 0
        colours = draws.colours[:1] if same else draws.colours
        known = (shape, colours.tobytes()) if same else None
        if known is None or known != self._known:
            factors = torch.from_numpy(np.tile(colours[:, None, [0, 1, 2], [0, 1, 2]], self.side))
            summands = torch.from_numpy(np.tile(colours[:, None, :, 3], self.side))
            self._known, self._last = known, (factors.expand(shape), summands.expand(shape))
        return self._last

    def _fitted(self, pixels: np.ndarray, flipped: bool, resized: Tensor, size: Sequence[int] | None) -> Tensor:
        """uint8 [h, w, 3] as uint8 [P, P, 3], in `resized` where it had another size; `size` is of `draws.resized`.

        In as few operations as possible: at each one the threads of the pool hand Python's lock to each other.
        """
        image = torch.from_numpy(pixels[None].transpose(0, 3, 1, 2))
        # Out of the middle of a larger image, resizing would read pixel by pixel.
        image = image.flip(3) if flipped else image.contiguous(memory_format=torch.channels_last)
        if size is not None:
            width, height, left, top = size
            if image.shape[2:] != (height, width):
                larger = torch.empty((1, height, width, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
                _resize(image, larger, self._bicubic)
                image = larger
            left = width - self.side - left if flipped else left
            image = image[:, :, top : top + self.side, left : left + self.side]
            return image[0].permute(1, 2, 0).contiguous()
        if image.shape[2:] == (self.side, self.side):
            return image[0].permute(1, 2, 0)
        _resize(image, resized[None].permute(0, 3, 1, 2), self._bicubic)
        return resized

    def _scratch(self) -> _Scratch:
        if getattr(self._local, "scratch", None) is None or len(self._local.scratch.resized) != self.side:
            self._local.scratch = _Scratch(self.side)
        scratch: _Scratch = self._local.scratch
        return scratch


class _Scratch:
    """A thread's memory for one image."""

    def __init__(self, side: int) -> None:
        self.resized = torch.empty((side, side, 3), dtype=torch.uint8)
        self.floats = torch.empty((side, side, 3))


def render_block(block: Tensor, rows: np.ndarray, draws: AugmentParams, dtype: torch.dtype) -> Tensor:
    """What `Renderer.start_block` renders of a block on a GPU, there: [n, P, P, 3] without waiting for anything.

    A whole batch takes a dozen kernels; image by image, pictures of 28 px would be bound by the host.
    """
    device, side = block.device, block.shape[1]

    def sent(values: np.ndarray) -> Tensor:
        return on_device(torch.from_numpy(np.ascontiguousarray(values)), device)

    taken = block[sent(rows)]
    taken = torch.where(sent(draws.flips)[:, None, None, None], taken.flip(2), taken)
    colours = draws.colours if draws.colours.strides[0] else draws.colours[:1]  # all the same
    factors, summands = sent(colours[:, [0, 1, 2], [0, 1, 2]]), sent(colours[:, :, 3].copy())
    images = torch.addcmul(summands[:, None, None], taken.float(), factors[:, None, None])
    if draws.erased[:, 2].any():
        left, top, width, height = sent(draws.erased)[:, :, None].unbind(1)
        at = torch.arange(side, device=device)
        rows_of, columns_of = (at >= top) & (at < top + height), (at >= left) & (at < left + width)
        images.masked_fill_((rows_of[:, :, None] & columns_of[:, None])[..., None], 0)
    return images.to(dtype)


def reduce(pixels: np.ndarray, size: np.ndarray) -> np.ndarray:
    """The image (uint8 [height, width, 3]) at `size` (width, height); itself where it has that size."""
    width, height = size.tolist()
    if pixels.shape[:2] == (height, width):
        return pixels
    reduced = np.empty((height, width, 3), np.uint8)
    images = torch.from_numpy(pixels)[None], torch.from_numpy(reduced)[None]
    _resize(images[0].permute(0, 3, 1, 2), images[1].permute(0, 3, 1, 2))
    return reduced


def _resize(image: Tensor, out: Tensor, bicubic: bool = False) -> None:
    """With antialiasing, uint8 [1, 3, h, w] into [1, 3, H, W]: what Pillow and torchvision v2 compute."""
    resize = torch.ops.aten._upsample_bicubic2d_aa if bicubic else torch.ops.aten._upsample_bilinear2d_aa
    resize.out(image, out.shape[2:], False, None, None, out=out)


def _turned(image: Tensor, map_: np.ndarray) -> Tensor:
    """uint8 [P, P, 3] to float32 [P, P, 3], each place bilinearly from where `map_` (float32 [2, 2]) sends it."""
    values = image.permute(2, 0, 1)[None].float()
    maps = torch.from_numpy(np.pad(map_, ((0, 0), (0, 1))))[None]
    places = functional.affine_grid(maps, list(values.shape), align_corners=False)
    turned = functional.grid_sample(values, places, padding_mode="border", align_corners=False)
    return turned[0].permute(1, 2, 0).contiguous()


def _scale(images: Tensor, factors: Tensor, summands: Tensor, out: Tensor) -> None:
    """uint8 or float32 [..., P, P, 3] to float32, times and plus the rows of `Renderer._rows` ([..., 1, 3 * P])."""
    floats = out.flatten(-2)
    floats.copy_(images.flatten(-2))
    torch.addcmul(summands, floats, factors, out=floats)


def _erase(image: Tensor, box: np.ndarray) -> None:
    left, top, width, height = box.tolist()
    image[top : top + height, left : left + width] = 0


def _mix_colours(image: Tensor, matrix: np.ndarray, offset: np.ndarray, out: Tensor) -> None:
    group = _GROUP if image.shape[0] * image.shape[1] % _GROUP == 0 else 1
    blocks = torch.from_numpy(np.kron(np.eye(group, dtype=np.float32), matrix.T))
    values = image.reshape(-1, 3 * group).float()
    torch.addmm(torch.from_numpy(np.tile(offset, group)), values, blocks, out=out.view(-1, 3 * group))
