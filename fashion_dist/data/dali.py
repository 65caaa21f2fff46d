"""The door to NVIDIA DALI: decoding on the CPU, and the whole graph on a GPU.

Both are given the encoded bytes and the plan's numbers through `external_source`; DALI draws nothing itself. A decoding
error ends a DALI pipeline for good: it is built again (4 ms) and the batch's images are tried one by one, which
names the culprits.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from shards.images import open_pillow

if TYPE_CHECKING:
    from fashion_dist.data.augment import AugmentParams
    from shards.images import Decode

Pixels = np.ndarray
"""uint8 [height, width, 3], RGB."""


class Decoder:
    """JPEG, PNG, WebP, BMP or TIFF bytes to RGB pixels on the CPU, one batch at a time, in the background.

    Args:
        max_images: largest batch.
        threads: DALI's worker threads.
        whole: decode all of each image, whatever size that is, and at the priority of this thread.
    """

    def __init__(self, max_images: int, threads: int, whole: bool = False) -> None:
        self._max_images = max_images
        self._threads = threads
        self._whole = whole
        self._pipe: Any = None
        self._batch: tuple[Sequence[np.ndarray], np.ndarray] | None = None

    def start(self, images: Sequence[np.ndarray], boxes: np.ndarray) -> None:
        """Begin to decode a box of each image; of a JPEG, exactly the pixels that decoding all of it would give.

        Args:
            images: uint8 [size] each, the bytes of one file.
            boxes: int32 [n, 4], left, top, width, height in the upright image.
        """
        assert self._batch is None, "the batch before was not taken"
        self._batch = (images, boxes)
        self._run(images, boxes)

    @property
    def busy(self) -> bool:
        """Whether a batch was begun and not taken."""
        return self._batch is not None

    def finish(self) -> tuple[Callable[[int], Pixels], dict[int, str]]:
        """What gives the pixels of an image of the batch begun last, from any thread, and what is wrong with which."""
        assert self._batch is not None, "no batch was begun"
        images, boxes = self._batch
        self._batch = None
        wrong: dict[int, str] = {}
        try:
            outputs = self._outputs()
            pixels: Callable[[int], Pixels] = functools.partial(_array, outputs)
            shapes = outputs.shape()
        except RuntimeError:
            tried = [self._try_one(image, boxes[i : i + 1]) for i, image in enumerate(images)]
            decoded = {i: image for i, image in enumerate(tried) if not isinstance(image, str)}
            wrong = {i: reason for i, reason in enumerate(tried) if isinstance(reason, str)}
            pixels, shapes = decoded.__getitem__, [decoded[i].shape if i in decoded else () for i in range(len(images))]
        for i, (shape, (width, height)) in enumerate(zip(shapes, boxes[:, 2:].tolist(), strict=True)):
            if shape != (height, width, 3) and i not in wrong:
                wrong[i] = f"decodes to {shape[1]}x{shape[0]} pixels, the index says {width}x{height}"
        return pixels, wrong

    def probe(self, image: np.ndarray, box: np.ndarray) -> str | None:
        """What is wrong with one image, or None; only while no batch is under way.

        Args:
            image: uint8 [size].
            box: int32 [4].
        """
        self.start([image], box[None])
        return self.finish()[1].get(0)

    def _try_one(self, image: np.ndarray, box: np.ndarray) -> Pixels | str:
        try:
            self._run([image], box)
            return _array(self._outputs(), 0)
        except RuntimeError as error:
            self._pipe = None
            return f"does not decode: {reason_of(error)}"

    def _run(self, images: Sequence[np.ndarray], boxes: np.ndarray) -> None:
        if self._pipe is None:
            build = functools.partial(_decode_pipeline, self._max_images, self._threads, self._whole)
            self._pipe = build() if self._whole else _built_aside(build)
        self._pipe.feed_input("encoded", list(images))
        if not self._whole:
            self._pipe.feed_input("anchor", np.ascontiguousarray(boxes[:, :2]))
            self._pipe.feed_input("shape", np.ascontiguousarray(boxes[:, 2:]))
        self._pipe.schedule_run()

    def _outputs(self) -> Any:
        try:
            (decoded,) = self._pipe.share_outputs()
            self._pipe.release_outputs()
        except RuntimeError:
            self._pipe = None
            raise
        return decoded


CHECKED_AT_ONCE = 32
"""Files that packing has decoded in one batch."""


def open_check() -> Decode:
    """What packing is handed as its decoder: a thread of DALI, which training uses; Pillow where it is missing."""
    try:
        import_dali()
    except ModuleNotFoundError as error:
        if error.name not in ("nvidia", "nvidia.dali"):
            raise
        return open_pillow()
    decoder = Decoder(CHECKED_AT_ONCE, 1, whole=True)

    def check(files: Sequence[bytes], sizes: Sequence[tuple[int, int]]) -> list[str | None]:
        found: list[str | None] = []
        for first in range(0, len(files), CHECKED_AT_ONCE):
            some = [np.frombuffer(data, np.uint8) for data in files[first : first + CHECKED_AT_ONCE]]
            shown = np.array(sizes[first : first + CHECKED_AT_ONCE], np.int32)
            decoder.start(some, np.column_stack([np.zeros_like(shown), shown]))
            wrong = decoder.finish()[1]
            found += [wrong.get(number) for number in range(len(some))]
        return found

    return check


def _array(outputs: Any, position: int) -> Pixels:
    # A view without a copy: the dynamic executor's outputs belong to whoever refers to them.
    return np.asarray(outputs[position])


class Graph:
    """Everything in one DALI graph: decode or take pixels, crop, resize, flip, rotate, colours, erase.

    Args:
        side: P, of the output.
        max_images: largest batch.
        threads: DALI's worker threads on the CPU.
        device_id: the GPU; None builds the same graph of CPU operators.
        encoded: images come as files, else as RGB pixels of the crop box.
        bicubic: resize so, and not bilinearly.
        decode: how a GPU decodes: one of `DECODES`, or `gpu-hardware`, which is for measuring.
    """

    def __init__(
        self, side: int, max_images: int, threads: int, device_id: int | None, encoded: bool, bicubic: bool = False,
        decode: str = "gpu-whole",
    ) -> None:  # fmt: skip
        self._encoded = encoded
        self._device_id = device_id
        self._build = functools.partial(_graph_pipeline, max_images, threads, device_id, encoded, bicubic, decode)
        self.side = side
        self._pipe: Any = None
        self._kind = (False, False)

    def start(self, images: Sequence[Any], draws: AugmentParams) -> None:
        """Begin to work on uint8 [size] files or uint8 [height, width, 3] pixels (tensors on the GPU) by `draws`."""
        kind = (draws.maps is not None, draws.resized is not None)
        if self._pipe is None or kind != self._kind:
            self._kind, self._pipe = kind, _built_aside(functools.partial(self._build, self.side, *kind))
        feed = self._pipe.feed_input
        if self._encoded or self._device_id is None:
            feed("images", [np.asarray(image) for image in images])  # of a tensor DALI asks for torch's CUDA stream
        else:
            import torch

            feed("images", list(images), cuda_stream=torch.cuda.current_stream(self._device_id))
        if self._encoded:
            feed("anchor", np.ascontiguousarray(draws.boxes[:, :2]))
            feed("shape", np.ascontiguousarray(draws.boxes[:, 2:]))
        feed("flip", draws.flips.astype(np.int32))
        if draws.resized is not None:
            feed("size", np.ascontiguousarray(draws.resized[:, 1::-1], np.float32))
            feed("corner", np.ascontiguousarray(draws.resized[:, 2:]))
        if draws.maps is not None:
            # Around the middle, where DALI counts from the first pixel's corner.
            middle = np.full((2, 1), self.side / 2, np.float32)
            feed("map", np.concatenate([draws.maps, middle - draws.maps @ middle], axis=2))
        feed("matrix", np.ascontiguousarray(draws.colours[:, :, :3]))
        feed("offset", np.ascontiguousarray(draws.colours[:, :, 3]))
        feed("erase_anchor", draws.erased[:, :2].astype(np.float32))
        feed("erase_shape", draws.erased[:, 2:].astype(np.float32))
        self._pipe.schedule_run()

    def finish(self) -> Any:
        """float32 [n, P, P, 3] as a DLPack tensor, in order with torch's current stream; no host synchronisation.

        Raises:
            RuntimeError: an image does not decode; the graph builds itself anew for the next batch.
        """
        import torch

        try:
            if self._device_id is None:
                (images,) = self._pipe.share_outputs()
            else:
                (images,) = self._pipe.share_outputs(cuda_stream=torch.cuda.current_stream(self._device_id))
            self._pipe.release_outputs()
        except RuntimeError:
            self._pipe = None
            raise
        return images.as_tensor()

    def discard(self) -> None:
        """Forget the batch that was begun, if the pipeline was built at all."""
        if self._pipe is not None:
            with contextlib.suppress(RuntimeError):
                self.finish()

    def probe(self, image: np.ndarray, draws: AugmentParams) -> str | None:
        """What is wrong with one image, or None; only while no batch is under way."""
        try:
            self.start([image], draws)
            self.finish()
        except RuntimeError as error:
            self._pipe = None
            return f"does not decode: {reason_of(error)}"
        return None


NICE = 10
"""Of the threads that prepare images: a tenth of the weight of those that train.

A training step on a CPU waits at every layer for the slowest of its threads, so a core that is taken away for a moment
is taken from all of them: at the same priority, images from the cache cost 6 % of the step, and so nothing.
"""


def lower_thread_priority() -> None:
    """Let this thread, and those that it starts, work where training leaves the processor idle.

    A job that was started at a yet lower priority keeps it: only root may ask for more.
    """
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, max(NICE, os.getpriority(os.PRIO_PROCESS, thread)))


def _built_aside(build: Callable[[], Any]) -> Any:
    """A pipeline whose threads have a low priority: DALI's have that of the thread that builds it."""
    with ThreadPoolExecutor(1, initializer=lower_thread_priority) as aside:
        return aside.submit(build).result()


PROBE_JPEG = bytes.fromhex(
    "ffd8ffe000104a46494600010100000100010000ffdb004300100b0c0e0c0a100e0d0e1211101318281a181616183123251d283a333d3c39"
    "33383740485c4e404457453738506d51575f626768673e4d71797064785c656763ffc0000b080008000801011100ffc40014000100000000"
    "000000000000000000000000ffc40014100100000000000000000000000000000000ffda0008010100003f003fffd9"
)
"""A gray JPEG of 8 x 8 pixels, which every decoder decodes."""

_CODES = {3: "a bad code stream", 4: "an unsupported code stream", 7: "made for other GPUs", 8: "an internal error"}
"""Of nvimgcodecStatus_t."""


def reason_of(error: Exception) -> str:
    """What DALI says went wrong: of its message, what stands behind the traceback of the pipeline's definition."""
    text = str(error).partition("encountered:")[2] or str(error)
    told = [line.strip() for line in text.splitlines()]
    told = [line for line in told if line and not line.startswith(("Critical error", "Current pipeline object"))]
    reason = told[0][:200] if told else str(error)[:200]
    if match := re.fullmatch(r"nvImageCodec failure: '#(\d+)'", reason):
        return f"nvImageCodec reports {_CODES.get(int(match[1]), 'an error')} (#{match[1]})"
    return "DALI cannot decode it" if reason.startswith("Failed to decode sample #0") else reason


def import_dali() -> None:
    """Import DALI, which takes half a second, before the first batch needs it."""
    importlib.import_module("nvidia.dali")


def _decode_pipeline(max_images: int, threads: int, whole: bool) -> Any:
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(  # type: ignore[untyped-decorator]
        batch_size=max_images, num_threads=threads, device_id=None, prefetch_queue_depth=1, exec_dynamic=True
    )
    def graph() -> Any:
        encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1, no_copy=True)
        if whole:
            return fn.decoders.image(encoded, device="cpu", output_type=types.RGB)
        anchor = fn.external_source(name="anchor", dtype=types.INT32, ndim=1)
        shape = fn.external_source(name="shape", dtype=types.INT32, ndim=1)
        return _slice(encoded, anchor, shape)

    pipe = graph()
    pipe.build()
    return pipe


_BOX: dict[str, Any] = {"axis_names": "WH", "normalized_anchor": False, "normalized_shape": False}


def _slice(encoded: Any, anchor: Any, shape: Any) -> Any:
    from nvidia.dali import fn, types

    return fn.decoders.image_slice(encoded, anchor, shape, device="cpu", output_type=types.RGB, **_BOX)


def _decode_for_gpu(encoded: Any, anchor: Any, shape: Any, decode: str) -> Any:
    """The box by the CPU (`cpu`) or by CUDA (`gpu`), or the whole image and then the box.

    nvImageCodec 0.9.0 is reported to crash where it decodes regions on H100, B200 and A100 (NVIDIA/nvImageCodec#55).
    The hardware decoder has all (`gpu-hardware`) or no share: with a part, the batch would decide which images it gets,
    whose last bits differ from CUDA's. On H100 it is reported to write without regard to the order of streams
    (torchcodec PR 1634), which no test can exclude, so that nothing is trained with it.
    """
    from nvidia.dali import fn, types

    if decode == "cpu":
        return _slice(encoded, anchor, shape).gpu()
    how = {
        "device": "mixed",
        "output_type": types.RGB,
        "hw_decoder_load": float(decode == "gpu-hardware"),
        "jpeg_fancy_upsampling": True,  # as libjpeg-turbo does on the CPU
    }
    if decode == "gpu":
        return fn.decoders.image_slice(encoded, anchor, shape, **how, **_BOX)
    return fn.slice(fn.decoders.image(encoded, **how), anchor, shape, **_BOX)


def _graph_pipeline(
    max_images: int,
    threads: int,
    device_id: int | None,
    encoded: bool,
    bicubic: bool,
    decode: str,
    side: int,
    turned: bool,
    cut: bool,
) -> Any:
    from nvidia.dali import pipeline_def

    @pipeline_def(  # type: ignore[untyped-decorator]
        batch_size=max_images, num_threads=threads, device_id=device_id, prefetch_queue_depth=1, exec_dynamic=True
    )
    def graph() -> Any:
        return operators("cpu" if device_id is None else "gpu", encoded, bicubic, decode, side, turned, cut)

    pipe = graph()
    pipe.build()
    return pipe


def operators(device: str, encoded: bool, bicubic: bool, decode: str, side: int, turned: bool, cut: bool) -> Any:
    """The operators of `Graph` on `cpu` or `gpu`, in the pipeline that is being defined; gives its output."""
    from nvidia.dali import fn, types

    def numbers(name: str, kind: Any, ndim: int) -> Any:
        return fn.external_source(name=name, dtype=kind, ndim=ndim)

    if encoded:
        files = fn.external_source(name="images", dtype=types.UINT8, ndim=1, no_copy=True)
        anchor, shape = numbers("anchor", types.INT32, 1), numbers("shape", types.INT32, 1)
        images = _decode_for_gpu(files, anchor, shape, decode) if device == "gpu" else _slice(files, anchor, shape)
    else:
        images = fn.external_source(name="images", dtype=types.UINT8, ndim=3, layout="HWC", device=device)
    size = numbers("size", types.FLOAT, 1) if cut else [side, side]
    how = types.INTERP_CUBIC if bicubic else types.INTERP_LINEAR
    images = fn.resize(images, size=size, interp_type=how, antialias=True)
    if cut:
        corner = numbers("corner", types.INT32, 1)
        images = fn.slice(images, start=corner, shape=[side, side], axis_names="WH")
    # One kernel a batch, where `fn.flip` starts one an image.
    mirror = numbers("flip", types.INT32, 0)
    images = fn.crop_mirror_normalize(images, mirror=mirror, dtype=types.UINT8, output_layout="HWC")
    if turned:
        images = fn.warp_affine(images, matrix=numbers("map", types.FLOAT, 2), dtype=types.FLOAT)
    matrix, offset = numbers("matrix", types.FLOAT, 2), numbers("offset", types.FLOAT, 1)
    images = fn.coord_transform(images, M=matrix, T=offset, dtype=types.FLOAT)
    anchor, shape = numbers("erase_anchor", types.FLOAT, 1), numbers("erase_shape", types.FLOAT, 1)
    return fn.erase(images, anchor=anchor, shape=shape, axis_names="WH", fill_value=0.0)
