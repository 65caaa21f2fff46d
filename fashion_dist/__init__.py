"""Train image models on Slurm clusters: shards in, verified predictions out.

The way of the data, and the module that owns each step:

    shard set --data: plan -> fetch -> pipeline--> Batch
    Batch --tasks: targets / models / tasks: loss--> train.train_step --> tracking, checkpoint
    checkpoint + shard set --predict--> predictions --collect--> the task's submission files

Importing this package, `config`, `paths`, `errors` or a task imports no torch, so that a command can refuse bad input
at once.
"""

__version__ = "0.2.0.dev0"
