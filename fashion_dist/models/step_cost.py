"""What a network keeps of memory for the backward pass, counted with fake tensors: nothing is computed, on no GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

_IMAGES = 256
"""Of which activations are counted: so many that what does not grow with them, such as cast weights, counts little."""


def step_cost(network: nn.Module, image_px: int) -> dict[str, int]:
    """What a training step of `network` takes on a GPU.

    Returns:
        `parameters` and `buffers`, bytes; `casts`, bytes of the weights in half precision that autocast makes; and for
        each image `activations_fp32` and `activations_half` (bf16 or fp16 autocast), the most bytes that the backward
        pass holds at once. Empty where the network looks at values, of which fake tensors have none.
    """
    parts = [*network.named_parameters(), *network.named_buffers()]
    try:
        with FakeTensorMode(), torch.device("cuda"), torch.random.fork_rng(devices=()), _fused_attention():
            fake = {
                name: torch.empty(part.shape, dtype=part.dtype, requires_grad=part.requires_grad)
                for name, part in parts
            }
            images = torch.empty(_IMAGES, 3, image_px, image_px)
            full, half = (_peak(network, fake, images, dtype) for dtype in (torch.float32, torch.bfloat16))
    except Exception:  # any of them may come of an operator that knows no fake tensors
        return {}
    casts = sum(2 * part.numel() for _, part in network.named_parameters() if part.ndim >= 2)
    return {
        "parameters": sum(part.numel() * part.element_size() for part in network.parameters()),
        "buffers": sum(part.numel() * part.element_size() for part in network.buffers()),
        "casts": casts,
        "activations_fp32": full // _IMAGES,
        "activations_half": max(half - casts, 0) // _IMAGES,
    }


def _peak(network: nn.Module, parts: dict[str, Tensor], images: Tensor, dtype: torch.dtype) -> int:
    """The most bytes that a backward pass holds at once, apart from the `parts`.

    It goes back through what the forward pass kept, each storage once: what was kept first goes last. At each there are
    those before it, and the gradients of what comes out of the operator and of what went in.
    """
    own = {part.untyped_storage()._cdata for part in parts.values()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    was_training = network.training
    # `torch.autocast` turns itself off where there is no GPU.
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_enabled("cuda", dtype != torch.float32)
    try:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            torch.func.functional_call(network.train(), parts, (images,))
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.clear_autocast_cache()
        network.train(was_training)
    sizes = [tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in own]
    return max((before + 2 * size for before, size in zip(accumulate(sizes), sizes, strict=True)), default=0)


@contextlib.contextmanager
def _fused_attention() -> Iterator[None]:
    """Attention keeps what a GPU's kernels keep: queries, keys, values and the result, no matrix of weights."""

    def attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Any:
        dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else query.dtype
        return _Attention.apply(query.to(dtype), key.to(dtype), value.to(dtype))

    own = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        F.scaled_dot_product_attention = own


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        result = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError("nothing is computed")
