"""What a run held when memory ran out, and which settings fit."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fashion_dist.config import TrainConfig
from fashion_dist.train.state import TrainState

_DOING = {"train_step": "training", "record": "training", "predict": "predicting"}
_DOING |= dict.fromkeys(("evaluate", "embed_split"), "evaluating")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that a GPU or the node has no memory left."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def doing(error: BaseException) -> str:
    """What the trainer was at: `training`, `evaluating`, `predicting`, else `starting`."""
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    return next((_DOING[name] for name in names if name in _DOING), "starting")


def held_by(state: TrainState) -> dict[str, int]:
    """Bytes of the parts of a run that stay, by name."""
    optimizer = [value for values in state.optimizer.state.values() for value in values.values()]
    gradients = [parameter.grad for parameter in state.model.parameters()]
    return {
        "model": _bytes([*state.model.parameters(), *state.model.buffers()]),
        "gradients": _bytes(gradients),
        "optimizer": _bytes(optimizer),
        "average of the weights": _bytes(state.ema.parameters()) if state.ema is not None else 0,
    }


def _bytes(values: Iterable[object]) -> int:
    return sum(value.numel() * value.element_size() for value in values if isinstance(value, Tensor))


def out_of_memory(
    where: str, while_doing: str, epoch: int, held: dict[str, int], peak: int | None, train: TrainConfig, ranks: int,
    caches: Sequence[str],
) -> str:  # fmt: skip
    """The sentence for a person.

    Args:
        where: whose memory, such as `cuda:0 (79.1 GB)`; `this node` is the host's.
        while_doing: see `doing`.
        epoch: from 1.
        held: see `held_by`.
        peak: most bytes that were in use on a GPU; None on the host.
        train: the run's settings.
        ranks: of the job.
        caches: the loaders' words about what they keep.
    """
    parts = [f"{name} {size / 1e9:.2f} GB" for name, size in held.items() if size]
    training = while_doing == "training"
    batch = train.batch_size // (ranks * train.accumulate) if training else train.eval_batch_size
    if peak is not None:
        rest = max(peak - sum(held.values()), 0) / 1e9
        parts.append(f"activations of {batch} images, cache and the rest up to {rest:.2f} GB")
    keeps = [told for told in caches if not told.startswith("cache: none")]
    fitting = ", or ".join(_fitting(where, training, train, ranks, bool(keeps)))
    return (
        f"out of memory on {where}, {while_doing} at epoch {epoch}: {'; '.join([', '.join(parts), *keeps])}. "
        f"What fits: {fitting}"
    )


def _fitting(where: str, training: bool, train: TrainConfig, ranks: int, cached: bool) -> list[str]:
    share = train.batch_size // ranks
    more = next((n for n in range(train.accumulate + 1, share + 1) if share % n == 0 and n >= 2 * train.accumulate), 0)
    found = ["--cache none"] if cached else []
    if training and more:
        found.append(train.advise(more))
    elif not training and train.eval_batch_size > 1:
        found.append(f"--set train.eval_batch_size={train.eval_batch_size // 2}")
    if where == "this node":
        found.append("more memory of the node with --mem")
    return found or ["a smaller network or data.image_px"]
