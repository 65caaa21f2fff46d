"""A short run on photos that a test disturbs, and what an undisturbed one came to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster_home import ROOT, Said, Workplace, kill_all, processes_of, ranks, read, until, weights_hash
from fault_matrix import Figures

INJECT = Path(__file__).parent / "inject"
SAMPLES, EPOCHS, STEPS = 96, 4, 6
"""Training samples, epochs, and steps of an epoch: 24 steps in all."""
SHORT = (
    "model.name=mlp", "data.image_px=16", "optim.name=sgd", "train.batch_size=16", "train.eval_batch_size=16",
    f"train.epochs={EPOCHS}", "train.checkpoint_steps=2", "train.precision=fp32",
)  # fmt: skip
PACE_S = 0.1


@dataclass
class Trial:
    """One run of `SHORT` in a home of its own.

    Args:
        place: where.
        undisturbed: gives a finished trial on so many ranks that nothing was done to.
    """

    place: Workplace
    undisturbed: Callable[[int], Trial]
    settings: tuple[str, ...] = SHORT
    launchers: list[subprocess.Popen[str]] = field(default_factory=list)

    def environment(self, **fault: Any) -> dict[str, str]:
        """What makes a process do `fault`, and its ranks write the ledger."""
        self.ledger_folder.mkdir(exist_ok=True)
        told = {"ledger": str(self.ledger_folder), "pace_s": PACE_S, **fault}
        return {"PYTHONPATH": os.pathsep.join([str(ROOT), str(INJECT)]), "FASHION_DIST_FAULT": json.dumps(told)}

    def launch(self, *flags: str, nodes: int = 2, variables: dict[str, str] | None = None, **fault: Any) -> Said:
        """Type the launch command; `fault` is done to its processes (see inject/sitecustomize.py)."""
        told = {**self.environment(**fault), **(variables or {})}
        return self.place.launch(*self._where(nodes), *flags, settings=self.settings, **told)

    def start(self, *flags: str, nodes: int = 2, **fault: Any) -> subprocess.Popen[str]:
        """The same in the background."""
        told = self.environment(**fault)
        launcher = self.place.start(*self._where(nodes), *flags, settings=self.settings, **told)
        self.launchers.append(launcher)
        return launcher

    def close(self) -> None:
        """End what a failed test has left: launchers, and the run's processes."""
        for launcher in self.launchers:
            launcher.kill()
            launcher.wait()
            for pipe in (launcher.stdout, launcher.stderr):
                if pipe is not None:
                    pipe.close()
        for run in self.place.runs:
            job = read(run / "job.json").get("job")
            if self.place.cluster == "slurm" and job:
                subprocess.run(["scancel", job["job_id"]], check=False)
            kill_all(run)

    def _where(self, nodes: int) -> list[str]:
        """As many threads a rank on Slurm as on this machine, where the undisturbed run was."""
        share = max(1, len(os.sched_getaffinity(0)) // nodes)
        threads = ["--cpus-per-task", str(share)] if self.place.cluster == "slurm" else []
        return ["--nodes", str(nodes), *threads]

    @property
    def ledger_folder(self) -> Path:
        return self.place.home / "ledger"

    @property
    def run(self) -> Path:
        return self.place.run()

    def ledger(self) -> list[dict[str, Any]]:
        """What every rank was given, in every start."""
        lines = []
        for path in sorted(self.ledger_folder.glob("rank_*.jsonl")):
            lines += [json.loads(line) for line in path.read_text().split("\n")[:-1]]
        return lines

    def wait_for_step(self, at: int, attempt: int = 1, rank: int = 0) -> None:
        """Until a rank of that start has begun step `at`, counted over epochs from 0."""

        def begun() -> bool:
            mine = (line for line in self.ledger() if (line["rank"], line["attempt"]) == (rank, attempt))
            return any(line["epoch"] * STEPS + line["step"] >= at for line in mine)

        until(begun, f"rank {rank} begins step {at} in attempt {attempt}")

    def kill(self, rank: int, number: int = signal.SIGKILL) -> None:
        os.kill(ranks(self.run)[rank], number)

    def gone(self) -> float:
        """Wait until no process of the run is left (I5); returns the seconds it took."""
        began = time.monotonic()
        until(lambda: processes_of(self.run) == [], f"the processes of {self.run.name} have ended")
        return time.monotonic() - began

    def ends(self) -> list[str]:
        return [attempt["end"] for attempt in read(self.run / "attempts.json")["attempts"]]

    def ended_well(self, figures: Figures, nodes: int = 2) -> None:
        """The run is done, with the weights of an undisturbed one (I1), each sample once an epoch (I2)."""
        assert read(self.run / "state.json")["state"] == "done"
        self.covered(figures)
        digest = weights_hash(self.run)
        assert digest == weights_hash(self.undisturbed(nodes).run)
        figures.same_weights(digest)
        self.gone()
        figures.holds("I5")

    def dry_run(self, nodes: int = 2) -> Path:
        """The run's folder before there is one."""
        said = self.launch("--dry-run", nodes=nodes)
        assert said.status == 0, said.err
        return self.place.home / "runs" / str(said.json["run_id"])

    def batches(self) -> dict[tuple[int, int], list[str]]:
        """The keys of each (epoch, step), sorted, by its last start; ranks together."""
        found: dict[tuple[int, int], dict[int, list[str]]] = {}
        for line in self.ledger():
            found.setdefault((line["epoch"], line["step"]), {}).setdefault(line["attempt"], []).extend(line["keys"])
        return {at: sorted(by_attempt[max(by_attempt)]) for at, by_attempt in found.items()}

    def covered(self, figures: Figures) -> None:
        """Each sample once an epoch: of steps that were done again the last time counts, and it saw the same (I2)."""
        lines = self.ledger()
        again = 0
        for epoch in range(EPOCHS):
            keys: list[str] = []
            for step in range(STEPS):
                by_attempt: dict[int, list[str]] = {}
                for line in lines:
                    if (line["epoch"], line["step"]) == (epoch, step):
                        by_attempt.setdefault(line["attempt"], []).extend(line["keys"])
                *lost, last = (sorted(by_attempt[attempt]) for attempt in sorted(by_attempt))
                assert all(set(seen) <= set(last) for seen in lost), f"step {step} of epoch {epoch} saw other samples"
                again += len(lost)
                keys += last
            assert len(keys) == len(set(keys)) == SAMPLES, f"epoch {epoch}"
        figures.steps_lost(again)
