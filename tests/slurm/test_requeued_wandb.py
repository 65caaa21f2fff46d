"""W&B beside runs on a real Slurm: one run whatever the number of requeues, with the figures of every node."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster_home import ROOT, Workplace, read, until
from offline_run import read_offline
from slurm_cluster import SlurmCluster

from fashion_dist.cluster import slurm

pytestmark = pytest.mark.slurm

EPOCHS, PACE_S = 32, 0.4
"""Of 3 steps: long enough to be met in the middle three times, and to look at the nodes several times."""
SMALL = ("model.name=mlp", "data.image_px=16", f"train.epochs={EPOCHS}")


@pytest.fixture
def place(slurm_cluster: SlurmCluster, make_home: Callable[[], Path]) -> Iterator[Workplace]:
    place = Workplace(make_home(), cluster="slurm")
    yield place
    for run in place.runs:
        if job := read(run / "job.json").get("job"):
            subprocess.run(["scancel", job["job_id"]], check=False)


def test_requeued_three_times_offline_it_is_one_run_with_every_step_once(place: Workplace) -> None:
    slowly = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "faults" / "inject")]),
        "FASHION_DIST_FAULT": json.dumps({"pace_s": PACE_S}),
    }
    said = place.launch("--nodes", "2", "--wandb", "offline", settings=SMALL, **slowly)
    assert said.status == 0, said.err
    run = place.run()
    job = str(read(run / "job.json")["job"]["job_id"])
    for attempt, step in ((1, 5), (2, 15), (3, 25)):

        def there(attempt: int = attempt, step: int = step) -> bool:
            state = read(run / "state.json")
            return state.get("attempt") == attempt and state.get("step", 0) >= step

        until(there, f"start {attempt} reaches step {step}")
        slurm.requeue(job)

    def ends() -> list[str]:
        return [attempt["end"] for attempt in read(run / "attempts.json")["attempts"]]

    until(lambda: len(ends()) == 4 and ends()[3] != "", "the fourth start has ended")  # a moment after the run is done
    assert ends() == ["requeued", "requeued", "requeued", "done"]
    assert read(run / "state.json")["state"] == "done"
    assert len(list((run / "wandb").glob("offline-run-*"))) == 4

    synced = place.do(place.argv("sync", run.name, "--to-folder", str(place.home / "offline"), "--json"))
    assert synced.status == 0, synced.err
    records = read_offline(place.home / "offline")
    assert [record["run"]["run_id"] for record in records if record["type"] == "run"] == [run.name]
    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = {
        split: [row["step"] for row in rows if any(name.startswith(f"{split}/") for name in row) and "step" in row]
        for split in ("train", "val", "system")
    }
    assert steps == {split: [line["step"] for line in lines if line["split"] == split] for split in steps}
    total = read(run / "state.json")["step"]
    each = total // EPOCHS
    assert steps["val"] == list(range(each, total + 1, each)) == [step for step in steps["train"] if step % each == 0]
    assert all(len(found) == len(set(found)) for found in steps.values())
    told = {name.split("/")[1] for row in rows for name in row if name.startswith("system/")}
    assert told == {"node0", "node1"}
