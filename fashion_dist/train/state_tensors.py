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


def copy_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state as it is now, in memory of its own on the CPU; tensors that are one stay one."""
    copies: dict[tuple[Any, ...], Tensor] = {}

    def copied(tensor: Tensor) -> Tensor:
        key = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if key not in copies:
            copies[key] = tensor.detach().to("cpu", copy=True)
        return copies[key]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on busy cores several wait for each other longer than one needs
    try:
        found: dict[str, Any] = map_tensors(dict(state), copied)
    finally:
        torch.set_num_threads(threads)
    return found
