"""From a command line to the ranks of a job, and back to what the user sees of it.

presets      what a cluster's jobs look like (partition, GPUs, CPUs, time)      resources, pure
scheduler    questions to Slurm and to this machine's processes                 squeue, sacct, pids
submit       the only importer of submitit                                      jobs, arrays
launch       checks everything before it submits one run
job          what runs in each rank: world, lock, signals, errors, then train.fit
code_version which code was launched; a copy of it for ranks that start later
follow       what `--wait` and `status` show
"""
