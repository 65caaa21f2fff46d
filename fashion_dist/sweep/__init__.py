"""Sweeps: many runs of one task as a job array or a local queue, with nothing running beside the jobs.

spec          W&B's YAML, or `--set a=1,2`, to a checked Spec                      pure
expand        a Spec to the settings of every trial, always the same               pure
sweep_record  what is written down about a sweep: sweep.json, arrays.json          files
launcher      refuses, writes the folder, submits arrays or starts the queue       what `fashion-dist sweep` calls
trial         an array task: which trial it is, then that trial's run              what a job runs
local_queue   the same on this machine, a few trials at a time
study         Optuna's journal: parameters on demand, successive halving           with `journal` all of optuna
decisions     why each trial began, goes on or was given up                        files
view          where every trial stands, the best one
gather        tables of all trials, the best submission, the ensemble's

A trial is a run like any other: its id is made of its configuration, so `launch.py` with the same settings finds it,
and a sweep finds what was done before it.
"""
