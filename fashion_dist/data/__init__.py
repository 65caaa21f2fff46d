"""From shards to batches. Start with `loader.Loader`; `plan` says who reads what, `draws` what happens to it."""

from fashion_dist.data.batch import Batch
from fashion_dist.data.loader import Loader
from fashion_dist.data.options import LoaderOptions

__all__ = ["Batch", "Loader", "LoaderOptions"]
