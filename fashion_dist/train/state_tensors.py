"""The tensors in a state dict, wherever they are in it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_Kind = tuple[bool, torch.dtype, torch.Size, tuple[int, ...]]
"""Whether a tensor is on a GPU, and its layout: a copy's memory holds those of one kind."""


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


@dataclass(frozen=True)
class StateCopy:
    """A state as it was, in memory of its own on the CPU.

    Args:
        state: with the copies in the tensors' places; tensors that are one stay one.
        wait: returns when the copy is whole: from a GPU it comes behind the step.
        buffers: the copies, and what each can hold.
    """

    state: dict[str, Any]
    wait: Callable[[], None]
    buffers: list[tuple[_Kind, Tensor]]


class CopyBuffers:
    """Makes copies of states in memory that is used again: pages that are new cost four times as much as the copy.

    From a GPU a state is copied into pinned memory.
    """

    def __init__(self) -> None:
        self._free: dict[_Kind, list[Tensor]] = {}

    def copy(self, state: Mapping[str, Any]) -> StateCopy:
        """The state as it is now."""
        copies: dict[tuple[Any, ...], Tensor] = {}
        buffers: list[tuple[_Kind, Tensor]] = []

        def copied(tensor: Tensor) -> Tensor:
            kind = (tensor.is_cuda, tensor.dtype, tensor.shape, tensor.stride())
            key = (tensor.device, tensor.data_ptr(), *kind)
            if key not in copies:
                free = self._free.get(kind)
                empty = free.pop() if free else _empty(tensor)
                copies[key] = empty.copy_(tensor.detach(), non_blocking=tensor.is_cuda)
                buffers.append((kind, empty))
            return copies[key]

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # on busy cores several wait for each other longer than one needs
        try:
            found: dict[str, Any] = map_tensors(dict(state), copied)
        finally:
            torch.set_num_threads(threads)
        left = sum(tensor.nbytes for some in self._free.values() for tensor in some)
        if left <= sum(tensor.nbytes for _, tensor in buffers):  # more than a state, or of an optimizer that is gone
            self._free.clear()
        if not any(kind[0] for kind, _ in buffers):
            return StateCopy(found, lambda: None, buffers)
        # The stream that the next step changes the state on: it does so after the copy, and no host waits for either.
        return StateCopy(found, torch.cuda.current_stream().record_event().synchronize, buffers)

    def give_back(self, copy: StateCopy) -> None:
        """Let the next copy be made in this one's memory; any thread may call this, once nothing reads the copy."""
        for kind, tensor in copy.buffers:
            self._free.setdefault(kind, []).append(tensor)


def _empty(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor.detach(), device="cpu", pin_memory=tensor.is_cuda)
