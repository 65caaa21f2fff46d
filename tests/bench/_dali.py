"""DALI's own reader, and the processor time inside of its functions: what the loader is compared with."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fashion_dist.config import DataConfig


def reader_pipeline(
    tars: Sequence[str], indexes: Sequence[str], data: DataConfig, batch_size: int, threads: int
) -> Any:
    """DALI by itself, for comparison: its WebDataset reader, its random numbers, its graph, float NHWC batches."""
    from nvidia.dali import fn, pipeline_def

    @pipeline_def(batch_size=batch_size, num_threads=threads, device_id=None)  # type: ignore[untyped-decorator]
    def graph() -> Any:
        encoded = fn.readers.webdataset(
            paths=list(tars), index_paths=list(indexes), ext=["jpg;png;jpeg;webp"], random_shuffle=True
        )
        if data.crop_scale[0] < 1:
            images = fn.decoders.image_random_crop(
                encoded, random_area=list(data.crop_scale), random_aspect_ratio=list(data.crop_ratio)
            )
            images = fn.resize(images, resize_x=data.image_px, resize_y=data.image_px)
        else:
            images = fn.decoders.image(encoded)
        return fn.crop_mirror_normalize(
            images,
            mirror=fn.random.coin_flip(probability=data.flip),
            mean=[255 * value for value in data.mean],
            std=[255 * value for value in data.std],
            output_layout="HWC",
        )

    pipe = graph()
    pipe.build()
    return pipe


@contextlib.contextmanager
def thread_clock() -> Iterator[Callable[[], float]]:
    """While it is open, gives the processor seconds that this thread has spent inside of pipelines' functions,
    which are exchanged for ones that look at the clock.
    """
    from nvidia.dali import Pipeline

    spent = threading.local()
    names = ("feed_input", "schedule_run", "share_outputs", "release_outputs", "run")
    originals = {name: getattr(Pipeline, name) for name in names}

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if getattr(spent, "inside", False):
                return function(*args, **kwargs)
            began, spent.inside = time.thread_time(), True
            try:
                return function(*args, **kwargs)
            finally:
                spent.inside = False
                spent.seconds = getattr(spent, "seconds", 0.0) + time.thread_time() - began

        return call

    try:
        for name, function in originals.items():
            setattr(Pipeline, name, timed(function))
        yield lambda: getattr(spent, "seconds", 0.0)
    finally:
        for name, function in originals.items():
            setattr(Pipeline, name, function)
