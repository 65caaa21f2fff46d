"""From encoded bytes to a normalised batch, on the CPU or on a GPU.

    CpuBackend     DALI decodes on the CPU, torch renders                         a rank without a GPU
    GpuBackend     DALI decodes, there or on the CPU, and renders on the GPU   a rank with a GPU
    CachedBackend  DALI decodes on the CPU, a cache may keep, the GPU renders  ... and --cache or cache_px

One batch at a time is between `begin` and `finish`; `finish` may be followed by `begin` of the next one at once, so
that decoding goes on while the batch before is rendered.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from fashion_dist.config import DataConfig
from fashion_dist.data.batch import Buffers
from fashion_dist.data.batch_plan import BatchPlanner, Work
from fashion_dist.data.cache import Cache, GpuCache, PixelCache, choose
from fashion_dist.data.cpu_transforms import Rendered, Renderer, render_block
from fashion_dist.data.dali import PROBE_JPEG, Graph, reason_of
from fashion_dist.data.decode import CachedDecoder
from fashion_dist.data.options import LoaderOptions
from fashion_dist.data.shard_reader import Encoded
from fashion_dist.errors import ConfigError, RunError
from shards.portable import cpus


class DecodeBackend(Protocol):
    """What the loader needs of an engine."""

    def missing(self, rows: np.ndarray) -> np.ndarray:
        """Bool [n], which of the images (rows of the split) must be fetched."""

    def begin(self, work: Work, encoded: Sequence[Encoded | None]) -> None:
        """Begin with the batch; `encoded` is None where an image is not missing."""

    def finish(self, work: Work) -> Rendered | dict[int, str]:
        """Wait for the decoder: the batch being rendered, or what is wrong with the images at these positions."""

    def probe(self, image: Encoded, row: int) -> str | None:
        """What is wrong with one image, or None; only between batches."""

    def drop(self) -> None:
        """Forget a batch that was begun and not finished."""

    def close(self) -> None:
        """Stop the threads and give the memory back."""


class CpuBackend:
    """Decodes and renders on the CPU.

    Args:
        decoder: gives the pixels of crops.
        side: P, of the output.
        threads: of the renderer; they and DALI's take turns on the same cores.
        dtype: of the batch.
        bicubic: resize so, and not bilinearly.
    """

    def __init__(
        self, decoder: CachedDecoder, side: int, threads: int, dtype: torch.dtype, bicubic: bool = False
    ) -> None:
        self._decoder = decoder
        self._side = side
        self._dtype = dtype
        self._renderer = Renderer(side, threads, bicubic)
        self._buffers = Buffers()
        self.missing, self.begin, self.drop, self.probe = decoder.missing, decoder.begin, decoder.drop, decoder.probe

    def finish(self, work: Work) -> Rendered | dict[int, str]:
        """Wait for the decoder, begin to render."""
        decoded = self._decoder.finish(work)
        if decoded.wrong:
            return decoded.wrong
        out = self._buffers.take((len(work.rows), self._side, self._side, 3), self._dtype)
        block = self._decoder.block(work, decoded, self._side) if work.draws.plain else None
        if isinstance(block, np.ndarray):
            return self._renderer.start_block(block, work.rows, work.draws, out)
        return self._renderer.start(decoded.pixels, work.draws, out)

    def close(self) -> None:
        """Stop the threads and drop the cache."""
        self._renderer.close()
        self._decoder.close()


class GpuBackend:
    """One graph decodes, on the GPU or for it, and renders there; nothing is kept.

    Args:
        graph: of encoded images.
        dtype: of the batch.
    """

    def __init__(self, graph: Graph, dtype: torch.dtype) -> None:
        self._graph = graph
        self._dtype = dtype
        self._begun: list[Encoded] = []

    def missing(self, rows: np.ndarray) -> np.ndarray:
        """Bool [n], all of them."""
        return np.ones(len(rows), bool)

    def begin(self, work: Work, encoded: Sequence[Encoded | None]) -> None:
        """Begin to decode and render."""
        begun = [image for image in encoded if image is not None]
        assert len(begun) == len(work.rows), "without a cache every image is fetched"
        if begun:
            self._graph.start(begun, work.draws)
        self._begun = begun

    def finish(self, work: Work) -> Rendered | dict[int, str]:
        """Take the batch, or try its images one by one."""
        begun, self._begun = self._begun, []
        if not begun:
            return Rendered(torch.empty(0), [])
        try:
            return Rendered(_tensor(self._graph.finish(), self._dtype), [])
        except RuntimeError as error:
            tried = {i: self._graph.probe(image, work.draws.where(np.array([i]))) for i, image in enumerate(begun)}
            wrong = {i: reason for i, reason in tried.items() if reason is not None}
            if not wrong or self._graph_fails(work):
                raise RunError(f"DALI does not work on this GPU: {reason_of(error)}") from error
            return wrong

    def _graph_fails(self, work: Work) -> bool:
        """Whether an image that is good for certain is refused as well."""
        square = np.array([[0, 0, 8, 8]], np.int32)
        draws = dataclasses.replace(work.draws.where(np.array([0])), boxes=square)
        return self._graph.probe(np.frombuffer(PROBE_JPEG, np.uint8), draws) is not None

    def probe(self, image: Encoded, row: int) -> str | None:
        """Left to the batch: it is tried with the crop that it will have."""
        del image, row
        return None

    def drop(self) -> None:
        """Forget a batch that was begun and not finished."""
        if self._begun:
            self._graph.discard()
            self._begun = []  # DALI reads the files where they lie

    def close(self) -> None:
        """Forget a batch that was begun."""
        self.drop()


class CachedBackend:
    """Decodes on the CPU, keeps in memory or on the GPU, and renders on the GPU.

    Args:
        decoder: gives the pixels of crops.
        graph: of pixels.
        dtype: of the batch.
        device: the GPU, or the CPU for the same graph of CPU operators.
    """

    def __init__(self, decoder: CachedDecoder, graph: Graph, dtype: torch.dtype, device: torch.device) -> None:
        self._decoder = decoder
        self._graph = graph
        self._dtype = dtype
        self._upload = Upload(device)
        self.missing, self.begin, self.drop, self.probe = decoder.missing, decoder.begin, decoder.drop, decoder.probe
        self.close = decoder.close

    def finish(self, work: Work) -> Rendered | dict[int, str]:
        """Wait for the decoder and render."""
        decoded = self._decoder.finish(work)
        if decoded.wrong:
            return decoded.wrong
        if not len(work.rows):
            return Rendered(torch.empty(0), [])
        decoded.fill(self._upload)
        block = self._decoder.block(work, decoded, self._graph.side) if work.draws.plain else None
        if isinstance(block, Tensor):
            return Rendered(render_block(block, work.rows, work.draws, self._dtype), [])
        images: list[np.ndarray | Tensor] = [decoded.pixels(i) for i in range(len(work.rows))]
        self._graph.start(self._upload(images), work.draws)
        return Rendered(_tensor(self._graph.finish(), self._dtype), [])


class Upload:
    """Brings images to a device, those from the CPU by one asynchronous copy from pinned memory.

    Image by image from pageable memory, each would wait for the step that the GPU has queued. So would new pinned
    memory: what was the most so far is asked for each time, and torch has it at hand.

    Args:
        device: to which.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._most = 0

    def __call__(self, images: Sequence[np.ndarray | Tensor]) -> list[Tensor]:
        """Images uint8 [height, width, 3], contiguous and on the device."""
        here = {i: image for i, image in enumerate(images) if isinstance(image, np.ndarray)}
        sizes = [image.size for image in here.values()]
        self._most = max(self._most, count := sum(sizes))
        packed = torch.empty(self._most, dtype=torch.uint8, pin_memory=self._device.type == "cuda")[:count]
        if here:
            np.concatenate([image.reshape(-1) for image in here.values()], out=packed.numpy())
        there = dict(zip(here, torch.split(packed.to(self._device, non_blocking=True), sizes), strict=True))
        return [
            there[i].view(image.shape) if isinstance(image, np.ndarray) else image.contiguous()
            for i, image in enumerate(images)
        ]


def _tensor(dlpack: Any, dtype: torch.dtype) -> Tensor:
    images: Tensor = from_dlpack(dlpack)
    return images.to(dtype)


def make_backend(
    data: DataConfig,
    options: LoaderOptions,
    planner: BatchPlanner,
    *,
    max_images: int,
    device: torch.device,
    dtype: torch.dtype,
    local_world_size: int,
    name: str,
) -> tuple[DecodeBackend, str]:
    """The engine for `device`, and a sentence about its cache, which ranks of a node share by its `name`.

    Raises:
        ConfigError: a cache that cannot be.
    """
    threads = options.threads or max(1, len(cpus()) // local_world_size)
    on_gpu, bicubic = device.type == "cuda", data.interpolation == "bicubic"
    if on_gpu and not torch.cuda.is_available():
        raise ConfigError(f"decoding on {device} needs a CUDA GPU, and this rank has none; allowed: cpu")
    device = torch.empty(0, device=device).device  # with its index
    choice = choose(options, planner.sizes, torch.cuda.mem_get_info(device)[0] if on_gpu else None)
    cache: PixelCache | None = None
    if choice.place == "ram":
        cache = Cache(planner.sizes, choice.capacity, local_world_size, name)
    elif choice.place == "gpu":
        cache = GpuCache(planner.sizes, choice.capacity, device)
    reduced = planner.sizes is not planner.stored_sizes
    if on_gpu and cache is None and not reduced:
        graph = Graph(data.image_px, max_images, threads, device.index, True, bicubic, options.decode)
        return GpuBackend(graph, dtype), choice.told
    decoder = CachedDecoder(max_images, threads, planner.stored_sizes, data.cache_px, cache)
    if on_gpu:
        graph = Graph(data.image_px, max_images, threads, device.index, False, bicubic=bicubic)
        return CachedBackend(decoder, graph, dtype, device), choice.told
    return CpuBackend(decoder, data.image_px, threads, dtype, bicubic), choice.told
