"""From a command line to the ranks of a job, and back to what is known of it.

launcher           checks everything before it submits one run
resources          what a cluster's jobs look like (partition, GPUs, CPUs, time): the presets
submitit_executor  the only importer of submitit: jobs, arrays, processes of this machine
slurm, queue_view  questions to Slurm and to this machine's processes, and their answers at one moment
worker             what runs in each rank: lock, signals, heartbeats, errors, and training between them
code_version       which code was launched; a copy of it for ranks that start later
run_snapshot       what a run folder says, read once, and how the run is by that and by the answers
"""
