"""Weights & Biases breaks in all its ways; training does not notice."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster_home import until
from fault_matrix import Figures
from trial import EPOCHS, Trial

pytestmark = pytest.mark.fault(18)
CANARY = "canary0123456789abcdef0123456789abcdef0123"


def helpers(home: Path) -> list[int]:
    """W&B's own processes that the ranks of a home have started."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            is_helper = b"wandb-core" in (path / "cmdline").read_bytes()
            if is_helper and str(home).encode() in (path / "environ").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return found


def untouched(trial: Trial, figures: Figures, warnings: int | None = 1) -> None:
    """The run is as one without W&B, told all its metrics to the file, and warned once."""
    trial.ended_well(figures, nodes=1)
    until(lambda: helpers(trial.place.home) == [], "W&B's helper has ended")
    points = [json.loads(line) for line in (trial.run / "metrics.jsonl").read_text().splitlines()]
    assert [point["epoch"] for point in points if point["split"] == "val"] == list(range(1, EPOCHS + 1))
    said = "".join(path.read_text() for path in sorted((trial.run / "logs").glob("*.err")))
    if warnings is not None:
        assert said.count("training goes on") == warnings, said


@pytest.mark.slow
def test_its_helper_is_killed(trial: Trial, figures: Figures) -> None:
    launcher = trial.start("--wait", "--wandb", "offline", nodes=1)
    trial.wait_for_step(3)
    until(lambda: helpers(trial.place.home) != [], "W&B's helper runs")
    began = time.monotonic()
    for pid in helpers(trial.place.home):
        os.kill(pid, signal.SIGKILL)
    launcher.communicate()
    figures.took(time.monotonic() - began)
    assert launcher.returncode == 0
    untouched(trial, figures)


@pytest.mark.slow
def test_its_server_is_unreachable(trial: Trial, figures: Figures) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    variables = {"WANDB_BASE_URL": address, "WANDB_API_KEY": CANARY}
    began = time.monotonic()
    said = trial.launch("--wait", "--wandb", "online", nodes=1, variables=variables)
    figures.took(time.monotonic() - began)
    assert said.status == 0, said.err
    untouched(trial, figures, warnings=None)
    told = "".join(path.read_text() for path in (trial.run / "logs").glob("*.err"))
    assert told.count("cannot be reached from here; this start is offline") == 1, told
    holding = [path for path in trial.place.home.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    assert holding == [], "the key is written nowhere"


@pytest.mark.slow
def test_its_folder_is_full(trial: Trial, small_disk: Callable[[Path, int], Path], figures: Figures) -> None:
    small_disk(trial.dry_run(nodes=1) / "wandb", 16)
    began = time.monotonic()
    said = trial.launch("--wait", "--wandb", "offline", nodes=1)
    figures.took(time.monotonic() - began)
    assert said.status == 0, said.err
    untouched(trial, figures, warnings=None)  # W&B itself says nothing of a full disk
