"""A network's forward and backward passes as CUDA graphs, where the host is slower than the GPU.

A small network on small images has hundreds of kernels that take microseconds; to launch them one by one takes the host
longer. A graph is launched as one (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fashion_dist.errors import ConfigError

SETTING = "train.cuda_graph = True"


def record(network: nn.Module, images: Tensor, autocast: torch.autocast) -> None:
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
    before, plain = [buffer.clone() for buffer in network.buffers()], network.forward
    # The forward pass alone, as at every step: a backward pass under autocast rounds what the network keeps in fp32.
    network.forward = autocast(plain)
    try:
        torch.cuda.make_graphed_callables(network, (images,), allow_unused_input=True)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError, AttributeError) as error:  # so are hooks, and outputs that are no tensors
        first = error.__context__ or error  # torch ends the recording after an error, which fails as well
        if isinstance(first, torch.OutOfMemoryError):
            raise first from None
        reason = str(first).splitlines()[0]
        raise ConfigError(f"{SETTING} is not possible with this network, {reason!r}; allowed: false") from error
    graphed = network.forward
    network.forward = lambda batch: (graphed if network.training else plain)(batch)
    if before:
        torch._foreach_copy_(list(network.buffers()), before)
