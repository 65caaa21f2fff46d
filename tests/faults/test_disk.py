"""Checkpoints that are killed while they are written, or that find no room."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster_home import read
from fault_matrix import Figures
from trial import Trial

from fashion_dist.train.checkpoint import Checkpoints

# One process that has torch and a real run's state; its children save until they are killed.
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from fashion_dist.train.checkpoint import Checkpoints

folder, source = Path(sys.argv[1]), Path(sys.argv[2])
state = torch.load(source / "state.pt", weights_only=True)
began = time.monotonic()
checkpoints = Checkpoints(folder, keep=1)
checkpoints.save("step", 1, state, {})
checkpoints.close()
usual_s = time.monotonic() - began
randomly, last, midway = random.Random(9), 1, 0
for kill in range(50):
    child = os.fork()
    if child == 0:
        checkpoints = Checkpoints(folder, keep=1)
        for step in range(last + 1, last + 1000):
            checkpoints.save("step", step, state, {})
        os._exit(1)
    while not (folder / f"step-{last + 1:08d}").exists():
        time.sleep(0.001)
    time.sleep(randomly.uniform(0, 2) * usual_s)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    midway += bool(list(folder.glob(".step-*")))
    checkpoints = Checkpoints(folder, keep=1)
    found = checkpoints.load()
    assert found is not None, "a committed checkpoint is gone"
    assert found[0].step > last, (found[0].step, last)
    last = found[0].step
    for part in ("model", "ema"):
        for name, value in state[part].items():
            assert torch.equal(found[1][part][name], value), name
    checkpoints.clean()
    assert not list(folder.glob(".*"))
    checkpoints.close()
print(last, midway)
"""


@pytest.mark.fault(9)
def test_killed_at_any_moment_the_last_committed_checkpoint_loads(
    undisturbed: Callable[[int], Trial], tmp_path: Path, figures: Figures
) -> None:
    newest = max((undisturbed(2).run / "checkpoints").glob("step-*"))
    (tmp_path / "checkpoints").mkdir()
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path / "checkpoints"), str(newest)],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures.took(time.monotonic() - began)
    last, midway = map(int, done.stdout.split())
    assert last > 50, "checkpoints were committed before each kill"
    assert midway > 5, "kills came while one was written"
    figures.holds("I3")


@pytest.mark.fault(10)
def test_a_disk_that_is_full_leaves_the_checkpoint_before(
    trial: Trial, undisturbed: Callable[[int], Trial], small_disk: Callable[[Path, int], Path], figures: Figures
) -> None:
    size = read(max((undisturbed(2).run / "checkpoints").glob("step-*")) / "manifest.json")["bytes"]
    folder = small_disk(trial.dry_run() / "checkpoints", int(2.5 * size / 1024))
    launcher = trial.start("--wait")
    trial.wait_for_step(5)  # two checkpoints are there, the third one does not fit
    began = time.monotonic()
    out, err = launcher.communicate()
    figures.took(time.monotonic() - began, limit_s=30)
    assert launcher.returncode == 1
    assert f"CheckpointError: no space for checkpoint {folder / 'step-00000006'}: " in out, err
    assert " bytes needed; the one before is intact" in out
    assert list(folder.glob(".*")) == [], "nothing half-written takes the room"
    checkpoints = Checkpoints(folder)
    found = checkpoints.load()
    checkpoints.close()
    assert found is not None and found[0].step == 4
    trial.gone()
    figures.holds("I3", "I4", "I5")

    subprocess.run(["mount", "-o", f"remount,size={size * 10 // 1024}k", str(folder)], check=True)
    assert trial.launch("--wait").status == 0
    trial.ended_well(figures)
