"""A working folder and the commands as a user types them, for tests that launch runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PATIENCE_S = 300.0
SOMEBODY = 65533
"""A user, and a group, that nobody is."""
SETTINGS = ("data.image_px=32", "train.batch_size=32", "train.eval_batch_size=16", "train.epochs=2")


def job(command: str, *arguments: str) -> dict[str, Any]:
    """Run `jobs/<command>.py` with --json; returns what it printed."""
    script = [sys.executable, str(ROOT / "jobs" / f"{command}.py"), *arguments, "--json"]
    done = subprocess.run(script, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return values


def until(holds: Callable[[], bool], what: str, tell: Callable[[], str] = str) -> None:
    """Wait; what `tell` says stands below the words of a wait that was in vain."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:.0f} s in vain until {what}\n{tell()}"
        time.sleep(0.1)


def told(run: Path) -> str:
    """What a run's folder and Slurm say of it, for a test that waited in vain."""
    job = str((read(run / "job.json").get("job") or {}).get("job_id", ""))
    lines = [f"{name}: {(run / name).read_text()}" for name in ("state.json", "attempts.json") if (run / name).exists()]
    lines += [f"{path.name}: {path.read_text()}" for path in sorted((run / "heartbeats").glob("rank_*.json"))]
    for command in (f"scontrol show job {job}", f"sacct -XD -j {job}", "sinfo -N --long", "squeue"):
        with contextlib.suppress(OSError):
            done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
            lines.append(f"$ {command}\n{done.stdout}{done.stderr}")
    for path in sorted((run / "logs").glob("*_log.*")):
        lines.append(f"--- end of {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-25:]))
    return "\n".join([f"uptime {os.getloadavg()}", *lines])


@dataclass(frozen=True)
class Workplace:
    """A home with a shard set in it, and where its runs go."""

    home: Path
    cluster: str = "local"

    def argv(self, command: str, *arguments: str) -> list[str]:
        return [sys.executable, str(ROOT / "jobs" / f"{command}.py"), "--home", str(self.home), *arguments]

    def launch_argv(self, *flags: str, settings: tuple[str, ...] = ()) -> list[str]:
        flags = ("--task", "deepfashion", "--cluster", self.cluster, "--wandb", "off", "--json", *flags)
        return self.argv("launch", *flags, "--set", *SETTINGS, *settings)

    def do(self, argv: list[str], **environment: str) -> Said:
        variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        done = subprocess.run(argv, capture_output=True, text=True, env=variables, cwd=self.home, check=False)
        return Said(done.returncode, done.stdout, done.stderr)

    def launch(self, *flags: str, settings: tuple[str, ...] = (), **environment: str) -> Said:
        return self.do(self.launch_argv(*flags, settings=settings), **environment)

    def start(self, *flags: str, settings: tuple[str, ...] = (), **environment: str) -> subprocess.Popen[str]:
        """A launcher in the background."""
        variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        argv = self.launch_argv(*flags, settings=settings)
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(argv, text=True, env=variables, cwd=self.home, **pipes)

    def status(self, *arguments: str) -> Said:
        return self.do(self.argv("status", *arguments))

    @property
    def runs(self) -> list[Path]:
        folder = self.home / "runs"
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def run(self) -> Path:
        """The only run there is."""
        (run,) = self.runs
        return run

    def wait_for_steps(self, run: Path, attempt: int = 1, steps: int = 1) -> None:
        """Until that start of the run, or one after it, has trained a few steps; at once in vain where the run failed.

        Slurm may put a job back once more than a test asked for, when a node is slow to answer.
        """

        def there() -> bool:
            state = read(run / "state.json")
            beat = read(run / "heartbeats" / "rank_0.json")
            begun = state.get("attempt", 0) >= attempt
            assert not begun or state.get("state") != "failed", told(run)
            return (
                begun
                and state["attempt"] == beat.get("attempt")
                and state.get("phase") != "starting"
                and beat.get("steps", 0) >= steps
            )

        until(there, f"attempt {attempt} of {run.name} trains", lambda: told(run))


def weights_hash(run: Path) -> str:
    """SHA-256 over the tensors of a run's last checkpoint, the average of the weights among them."""
    import torch

    newest = max((run / "checkpoints").glob("step-*"))
    state = torch.load(newest / "state.pt", weights_only=True)
    digest = hashlib.sha256()
    for part in ("model", "ema"):
        for name, value in sorted((state[part] or {}).items()):
            digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def read(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return values


def ranks(run: Path) -> dict[int, int]:
    """The processes of a run on this machine, by rank."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            variables = dict(v.partition(b"=")[::2] for v in (path / "environ").read_bytes().split(b"\0"))
        except OSError:
            continue
        if (
            b"fashion_dist.cluster.pickled_rank" in words
            and str(run / "logs").encode() in words
            and words[0] != b"bash"
        ):
            rank = variables.get(b"SUBMITIT_LOCAL_GLOBALID") or variables.get(b"SLURM_PROCID")
            if rank is not None and words[0].rpartition(b"/")[2] not in (b"srun", b"bash"):
                found[int(rank)] = int(path.name)
    return found


def processes_of(run: Path) -> list[int]:
    """Every process that names the run's folder, or a part of it, on its command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if str(run).encode() in words:
            found.append(int(path.parent.name))
    return found


def kill_all(run: Path) -> None:
    for pid in processes_of(run):
        os.kill(pid, signal.SIGKILL)


def as_somebody(call: Callable[[], str], group: int = SOMEBODY) -> str:
    """What a function returns in a process of another user, which can only signal what is that user's own."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(group)
        os.setuid(SOMEBODY)
        try:
            said = call()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said
