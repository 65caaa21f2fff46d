"""The tensors in a state dict, wherever they are in it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def map_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """A state of dicts, lists, tuples, tensors and plain values with `change` of each tensor in its place."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        changed = copy.copy(value)  # a module's state dict has `_metadata` beside its items
        changed.update({key: map_tensors(each, change) for key, each in value.items()})
        return changed
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(each, change) for each in value)
    return value


def state_bytes(state: Mapping[str, Any]) -> int:
    """Bytes of a state's tensors."""
    sizes: list[int] = []
    map_tensors(dict(state), lambda tensor: sizes.append(tensor.nbytes))
    return sum(sizes)


def copy_of(state: Mapping[str, Any]) -> tuple[dict[str, Any], Callable[[], None]]:
    """The state as it is now, in memory of its own on the CPU; tensors that are one stay one.

    Returns:
        the copy, and what waits until it is whole: from a GPU it comes behind the step, in pinned memory.
    """
    copies: dict[tuple[Any, ...], Tensor] = {}

    def copied(tensor: Tensor) -> Tensor:
        key = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if key not in copies:
            empty = torch.empty_like(tensor.detach(), device="cpu", pin_memory=tensor.is_cuda)
            copies[key] = empty.copy_(tensor.detach(), non_blocking=tensor.is_cuda)
        return copies[key]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on busy cores several wait for each other longer than one needs
    try:
        found: dict[str, Any] = map_tensors(dict(state), copied)
    finally:
        torch.set_num_threads(threads)
    if not any(key[0].type == "cuda" for key in copies):
        return found, lambda: None
    # The stream that the next step changes the state on: it does so after the copy, and no host waits for either.
    return found, torch.cuda.current_stream().record_event().synchronize
