"""From shards to batches. Start with `loader.Loader`; `sampler` says who reads what, `augment` what happens to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shards.lazy import imports

if TYPE_CHECKING:
    from fashion_dist.data.batch import Batch
    from fashion_dist.data.loader import Loader
    from fashion_dist.data.options import LoaderOptions

__all__ = ["Batch", "Loader", "LoaderOptions"]

# Imported when first asked for: `shard_reader` and `options` are of use to commands that must not wait for torch.
_HOMES = {"Batch": "batch", "Loader": "loader", "LoaderOptions": "options"}
__getattr__ = imports(__name__, _HOMES)
