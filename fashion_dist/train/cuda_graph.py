"""A network's forward and backward passes as CUDA graphs, where the host is slower than the GPU.

A small network on small images has hundreds of kernels that take microseconds; to launch them one by one takes the host
longer. A graph is launched as one (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from fashion_dist.errors import ConfigError

SETTING = "train.cuda_graph = True"


def record(network: nn.Module, images: Tensor, autocast: AbstractContextManager[Any]) -> None:
    """Let `network` replay in training what it does with `images`: the same kernels for any values of that shape.

    Before DistributedDataParallel wraps it; evaluation goes on without. Statistics of normalisation stay as they were.

    Args:
        network: in training mode; whether it trains is all that may change what it does.
        images: of the shape, type and layout of every batch.
        autocast: for the forward pass, without a cache of what it cast.

    Raises:
        ConfigError: on a CPU, or the network does what a graph cannot hold.
    """
    if images.device.type != "cuda":
        raise ConfigError(f"{SETTING} needs a GPU, and this rank is on a CPU; allowed: false")
    # Gradients are handed from the stream of the recording to that of training, by an event, which torch warns of.
    torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
    before = [buffer.clone() for buffer in network.buffers()]
    try:
        with autocast:
            torch.cuda.make_graphed_callables(network, (images,), allow_unused_input=True)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{SETTING} is not possible with this network, {reason!r}; allowed: false") from error
    with torch.no_grad():
        torch._foreach_copy_(list(network.buffers()), before)
