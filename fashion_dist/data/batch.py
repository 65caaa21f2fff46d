"""What the loader yields, and the memory it lies in."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one rank.

    Args:
        images: normalised, channels_last: [n, 3, H, W], or [n, k, 3, H, W] where an example has k > 1 images.
        index: int64 [n] on the CPU, the examples they are, as rows of the task's examples.
    """

    images: Tensor
    index: Tensor


def on_device(values: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on the device, in order with its current stream; the host does not wait for the copy."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)  # from pageable memory every copy would wait


class Buffers:
    """Memory for batches, used again when nothing refers to it any more.

    A batch of 64 x 3 x 224 x 224 floats has 38 MB: taken from the system anew each time, the page faults would cost
    as much as a fifth of decoding.
    """

    def __init__(self) -> None:
        self._arrays: list[np.ndarray] = []
        self._free_count = self._references()

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor with undefined values, contiguous."""
        count = math.prod(shape) * dtype.itemsize
        for position in range(len(self._arrays)):
            array = self._arrays[position]
            if len(array) >= count and sys.getrefcount(array) <= self._free_count:
                return self._tensor(array, count, shape, dtype)
        # Smaller ones that are free will not be asked for again: sizes vary only at the end of an epoch.
        self._arrays = [
            array for array in self._arrays if len(array) >= count or sys.getrefcount(array) > self._free_count
        ]
        array = np.empty(count, np.uint8)
        self._arrays.append(array)
        return self._tensor(array, count, shape, dtype)

    @staticmethod
    def _tensor(array: np.ndarray, count: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        # NumPy's views cost a tenth of torch's; it has no bfloat16, which travels as int16.
        kind = np.float32 if dtype == torch.float32 else np.int16
        tensor = torch.from_numpy(array[:count].view(kind).reshape(shape))
        return tensor if dtype == torch.float32 else tensor.view(dtype)

    @staticmethod
    def _references() -> int:
        held = [np.empty(0)]
        array = held[0]
        return sys.getrefcount(array)
