"""The door to NVIDIA DALI: decoding on the CPU, and the whole graph on a GPU.

Both are given the encoded bytes and the plan's numbers through `external_source`; DALI draws nothing itself. A decoding
error ends a DALI pipeline for good: it is built again (4 ms) and the batch's images are tried one by one, which
names the culprits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Pixels = np.ndarray
"""uint8 [height, width, 3], RGB."""


class Decoder:
    """JPEG, PNG, WebP, BMP or TIFF bytes to RGB pixels on the CPU, one batch at a time, in the background.

    Args:
        max_images: largest batch.
        threads: DALI's worker threads.
    """

    def __init__(self, max_images: int, threads: int) -> None:
        self._max_images = max_images
        self._threads = threads
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
        if len(images):
            self._run(images, boxes)

    @property
    def busy(self) -> bool:
        """Whether a batch was begun and not taken."""
        return self._batch is not None

    def finish(self) -> list[Pixels | str]:
        """The pixels of the batch begun last, or for an image that does not decode the reason why."""
        assert self._batch is not None, "no batch was begun"
        images, boxes = self._batch
        self._batch = None
        if not len(images):
            return []
        try:
            decoded: list[Pixels | str] = [*self._outputs()]
        except RuntimeError:
            decoded = [self._try_one(image, boxes[i : i + 1]) for i, image in enumerate(images)]
        for i, (pixels, box) in enumerate(zip(decoded, boxes, strict=True)):
            if not isinstance(pixels, str) and pixels.shape != (box[3], box[2], 3):
                height, width, _ = pixels.shape
                decoded[i] = f"decodes to {width}x{height} pixels, the index says {box[2]}x{box[3]}"
        return decoded

    def probe(self, image: np.ndarray, box: np.ndarray) -> str | None:
        """What is wrong with one image, or None; only while no batch is under way.

        Args:
            image: uint8 [size].
            box: int32 [4].
        """
        self.start([image], box[None])
        (decoded,) = self.finish()
        return decoded if isinstance(decoded, str) else None

    def _try_one(self, image: np.ndarray, box: np.ndarray) -> Pixels | str:
        try:
            self._run([image], box)
            return self._outputs()[0]
        except RuntimeError as error:
            self._pipe = None
            return f"does not decode: {reason_of(error)}"

    def _run(self, images: Sequence[np.ndarray], boxes: np.ndarray) -> None:
        if self._pipe is None:
            self._pipe = _decode_pipeline(self._max_images, self._threads)
        self._pipe.feed_input("encoded", list(images))
        self._pipe.feed_input("anchor", np.ascontiguousarray(boxes[:, :2]))
        self._pipe.feed_input("shape", np.ascontiguousarray(boxes[:, 2:]))
        self._pipe.schedule_run()

    def _outputs(self) -> list[Pixels]:
        try:
            (decoded,) = self._pipe.share_outputs()
            self._pipe.release_outputs()
        except RuntimeError:
            self._pipe = None
            raise
        # Views without a copy: the dynamic executor's outputs belong to whoever refers to them.
        return [np.asarray(decoded[i]) for i in range(len(decoded))]


def reason_of(error: Exception) -> str:
    """The one telling line of DALI's message."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [
        line for line in lines if line and not line.startswith(("Critical error", "Error in", "which was", "File "))
    ]
    told = [line for line in told if "encountered" not in line and "C++ context" not in line and "fn." not in line]
    return told[0][:200] if told else lines[0][:200]


def _decode_pipeline(max_images: int, threads: int) -> Any:
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(  # type: ignore[untyped-decorator]
        batch_size=max_images, num_threads=threads, device_id=None, prefetch_queue_depth=1, exec_dynamic=True
    )
    def graph() -> Any:
        encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
        anchor = fn.external_source(name="anchor", dtype=types.INT32, ndim=1)
        shape = fn.external_source(name="shape", dtype=types.INT32, ndim=1)
        return _slice(encoded, anchor, shape, "cpu")

    pipe = graph()
    pipe.build()
    return pipe


def _slice(encoded: Any, anchor: Any, shape: Any, device: str, **arguments: Any) -> Any:
    from nvidia.dali import fn, types

    return fn.decoders.image_slice(
        encoded,
        anchor,
        shape,
        device=device,
        axis_names="WH",
        normalized_anchor=False,
        normalized_shape=False,
        output_type=types.RGB,
        **arguments,
    )
