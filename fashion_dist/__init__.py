"""Train image models on Slurm clusters: shards in, verified predictions out.

The way of the data, and the module that owns each step:

    shard set --data: sampler -> shard_reader -> dali--> Batch
    Batch --tasks: targets / models / tasks: loss--> train.trainer --> tracking, checkpoint
    checkpoint + shard set --results: predict--> predictions --results: collect--> the task's submission files

Importing this package, `config`, `paths`, `errors` or a task imports no torch, so that a command can refuse bad input
at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shards.lazy import imports

if TYPE_CHECKING:
    from fashion_dist.data.shard_loader import ShardLoader
    from fashion_dist.results.loaded_run import load_run

__all__ = ["ShardLoader", "load_run"]
__version__ = "0.2.0.dev0"

# Imported when first asked for, with torch.
_HOMES = {"ShardLoader": "data.shard_loader", "load_run": "results.loaded_run"}
__getattr__ = imports(__name__, _HOMES)
