"""A task of a sweep's array that looks its trial up on a recorded surface: everything of a search but the training.

python -m surface_trial SWEEP_FOLDER FIRST SLOW        trials in SLOW wait to be killed at their first start
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from recorded_sweep import surface

from fashion_dist.paths import SweepDir
from fashion_dist.sweep.study import Study
from fashion_dist.sweep.sweep_record import Sweep


def main(folder: str, first: str, slow: str) -> None:
    sweep = Sweep.read(SweepDir(Path(folder)))
    number = int(first) + int(os.environ["SLURM_ARRAY_TASK_ID"])
    trial = Study(sweep).begin(number)
    run = sweep.run_of(trial)
    run.path.mkdir(parents=True, exist_ok=True)
    mark = run.path / "started"
    if str(number) in slow.split(",") and not mark.exists():
        mark.touch()
        time.sleep(600)
    run.config.write_text(sweep.config_of(trial.settings).to_json())
    best = {"metric": "accuracy", "value": surface(trial.settings), "epoch": 1}
    run.state.write_text(json.dumps({"state": "done", "best": best, "attempt": 1}))


if __name__ == "__main__":
    main(*sys.argv[1:])
