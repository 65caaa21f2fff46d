from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from calls import AgainTwice, FirstKillsItself, NoteEnvironment, UntilWarned

from fashion_dist.cluster import slurm, submitit_executor
from fashion_dist.cluster.failures import exits_file
from fashion_dist.cluster.resources import Resources
from fashion_dist.cluster.slurm import JobRef
from fashion_dist.errors import ConfigError
from fashion_dist.io import read_json

PATIENCE_S = 120.0


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def wait(job: JobRef) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while slurm.job_status(job) != "gone":
        assert time.monotonic() < deadline, f"{job} did not end within {PATIENCE_S:.0f} s"
        time.sleep(0.05)


def start(call: object, folder: Path, resources: Resources) -> JobRef:
    return submitit_executor.submit(call, "local", resources, folder, "a name; touch pwned", "a comment")  # type: ignore[arg-type]


def test_a_job_gets_what_it_needs_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SOME_API_KEY", "SLURM_JOB_ID", "SBATCH_PARTITION", "RANK", "MASTER_PORT", "SUBMITIT_FOLDER"):
        monkeypatch.setenv(name, "leaked")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    before = dict(os.environ)
    wait(start(NoteEnvironment(str(tmp_path)), tmp_path / "logs", Resources(nodes=2)))
    assert dict(os.environ) == before
    for rank in range(2):
        seen = json.loads((tmp_path / f"env-{rank}.json").read_text())
        assert "leaked" not in {value for name, value in seen.items() if name != "SUBMITIT_FOLDER"}
        assert (seen["SLURM_CONF"], seen["NCCL_DEBUG"]) == ("/etc/slurm.conf", "INFO")
        assert seen["PATH"] == before["PATH"] and seen["CUDA_VISIBLE_DEVICES"] == ""


def test_a_dead_rank_ends_its_peers_and_is_written_down(tmp_path: Path) -> None:
    job = start(FirstKillsItself(), tmp_path, Resources(nodes=3))
    wait(job)
    assert read_json(exits_file(tmp_path, job.job_id))["exit_codes"] == [None, -9, None]
    assert slurm.find_process("fashion_dist.cluster.pickled_rank", str(tmp_path)) is None


def test_rank_0_may_ask_to_be_started_again(tmp_path: Path) -> None:
    job = start(AgainTwice(str(tmp_path)), tmp_path / "logs", Resources(nodes=2))
    wait(job)
    assert (tmp_path / "starts-0").read_text() == (tmp_path / "starts-1").read_text() == "xxx"
    assert read_json(exits_file(tmp_path / "logs", job.job_id))["exit_codes"] == [0, 0]


def test_the_warning_comes_before_the_time_limit(tmp_path: Path) -> None:
    wait(start(UntilWarned(str(tmp_path)), tmp_path / "logs", Resources(time_min=1, signal_delay_s=50)))
    assert (tmp_path / "warned").exists()


def test_a_job_is_found_again_by_its_folder(tmp_path: Path) -> None:
    job = start(UntilWarned(str(tmp_path)), tmp_path / "logs", Resources())
    deadline = time.monotonic() + 10  # the process may not have its own command line yet
    while submitit_executor.queued_before(tmp_path / "logs", "local", "", "") != job:
        assert time.monotonic() < deadline
    assert submitit_executor.queued_before(tmp_path / "log", "local", "", "") is None
    slurm.cancel(job)
    wait(job)
    assert submitit_executor.queued_before(tmp_path / "logs", "local", "", "") is None


def test_the_pickle_a_killed_launcher_owes_is_written(tmp_path: Path) -> None:
    job = start(NoteEnvironment(str(tmp_path)), tmp_path / "logs", Resources())
    wait(job)
    pickle = tmp_path / "logs" / f"{job.job_id}_submitted.pkl"
    pickle.unlink()
    submitit_executor.complete(job, NoteEnvironment(str(tmp_path)), Resources(), tmp_path / "logs")
    assert pickle.stat().st_size > 0


def test_a_script_holds_names_as_data(tmp_path: Path) -> None:
    resources = Resources(nodes=2, gpus_per_node=4, mem_gb=1.5, cpus_per_task=8, setup=("module load x",), qos="a b")
    text = submitit_executor.script(resources, tmp_path / "logs", "run; touch pwned $(id)", "it's a comment")
    assert "#SBATCH --job-name='run; touch pwned $(id)'\n" in text
    assert "#SBATCH --qos='a b'\n" in text and "#SBATCH --mem=1536M\n" in text
    assert "#SBATCH --ntasks-per-node=4\n" in text and "#SBATCH --gpus-per-node=4\n" in text
    assert "#SBATCH --requeue\n" in text and "--kill-on-bad-exit=1" in text and "--cpus-per-task=8" in text
    assert "\neval 'module load x' || _setup_failed $? 'module load x'\n" in text
    assert not (tmp_path / "logs").exists()
    with pytest.raises(ConfigError, match="control characters"):
        submitit_executor.script(resources, tmp_path, "name\nsrun rm -rf /", "")
