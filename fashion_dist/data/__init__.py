"""From shards to batches. Start with `loader.Loader`; `sampler` says who reads what, `augment` what happens to it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fashion_dist.data.batch import Batch
    from fashion_dist.data.loader import Loader
    from fashion_dist.data.options import LoaderOptions

__all__ = ["Batch", "Loader", "LoaderOptions"]

# Imported when first asked for: `shard_reader` and `options` are of use to commands that must not wait for torch.
_HOMES = {"Batch": "batch", "Loader": "loader", "LoaderOptions": "options"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
