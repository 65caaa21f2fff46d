"""Faults inside of a rank or a launcher, and a ledger of what each rank was given: for processes that tests start.

Python imports this module at its start when the folder is on PYTHONPATH. `FASHION_DIST_FAULT` says what to do, as JSON:

    ledger      folder; every rank adds a line per training step: attempt, rank, epoch, step, keys
    pace_s      seconds that every training step takes longer, so that a test can meet a short run in the middle
    raise       {"rank", "at"}: an exception in that rank's step (counted over epochs, from 0)
    nan         {"rank", "at"}: not a number in that step's images
    hold        {"rank", "at", "while"}: that rank waits in that step while the file `while` is there
    clock       {"rank", "s"}: that rank's wall clock is wrong by so many seconds
    die         "before submission" or "after submission": the launcher is killed there

Nothing of the product is replaced: its functions run as they are, with these things before them.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import json
import os
import signal
import sys
import time
from pathlib import Path

FAULT = json.loads(os.environ.get("FASHION_DIST_FAULT", "{}"))
RANK = int(os.environ.get("SUBMITIT_LOCAL_GLOBALID", os.environ.get("SLURM_PROCID", "0")))


def loader(module):
    """Act at every training step of this rank."""
    original = module.Loader.epoch

    def epoch(self, epoch, start=0, until=0):
        batches = original(self, epoch, start, until)
        if not self._training:
            return batches
        return steps(self, batches, epoch, start)

    module.Loader.epoch = epoch


def steps(self, batches, epoch, start):
    for step, batch in enumerate(batches, start):
        at = epoch * self.steps + step
        time.sleep(FAULT.get("pace_s", 0))
        if "ledger" in FAULT:
            note(epoch, step, [self._split.keys[int(self._images[i][0])] for i in batch.index])
        if mine("hold", at):
            while Path(FAULT["hold"]["while"]).exists():
                time.sleep(0.05)
        if mine("raise", at):
            raise ValueError(f"injected at step {at}")
        if mine("nan", at):
            batch.images[0] = float("nan")
        yield batch


def mine(name, at):
    return name in FAULT and FAULT[name]["rank"] == RANK and FAULT[name]["at"] == at


def note(epoch, step, keys):
    folder = Path(sys.argv[1])
    run = folder.parent if folder.name == "logs" else folder
    attempt = len(json.loads((run / "attempts.json").read_text())["attempts"])
    line = {"attempt": attempt, "rank": RANK, "epoch": epoch, "step": step, "keys": keys}
    with (Path(FAULT["ledger"]) / f"rank_{RANK}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def submission(module):
    """Kill the launcher around the moment in which the scheduler takes the job."""

    def dying(original):
        @functools.wraps(original)
        def submit(*arguments):
            if FAULT["die"] == "before submission":
                os.kill(os.getpid(), signal.SIGKILL)
            original(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)

        return submit

    module._LocalExecutor._submit_command = dying(module._LocalExecutor._submit_command)
    module._sbatch = dying(module._sbatch)


class Finder(importlib.abc.MetaPathFinder):
    """Finds the modules that are acted upon, and acts once they have run."""

    def __init__(self, actions):
        self.actions = actions

    def find_spec(self, name, path=None, _target=None):
        if name not in self.actions:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            self.actions[name](module)

        spec.loader.exec_module = exec_module
        return spec


if FAULT:
    actions = {"fashion_dist.data.loader": loader}
    if "die" in FAULT:
        actions["fashion_dist.cluster.submitit_executor"] = submission
    sys.meta_path.insert(0, Finder(actions))
    if FAULT.get("clock", {}).get("rank") == RANK:
        right = time.time
        time.time = lambda: right() + FAULT["clock"]["s"]
