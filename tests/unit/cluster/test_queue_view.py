"""How often Slurm is asked, by which ids, and what other clusters and silence make of the answers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fashion_dist.cluster import queue_view, slurm
from fashion_dist.cluster.queue_view import Scheduler
from fashion_dist.cluster.run_snapshot import RunSnapshot, derive_status
from fashion_dist.cluster.slurm import JobRef
from fashion_dist.errors import RunError
from fashion_dist.paths import RunDir
from fashion_dist.sweep.launcher import of_limit


class Asked:
    """Slurm's commands, as scripts on the PATH that note how they were called."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.notes = folder / "notes"
        for name, answer in (("squeue", "7|RUNNING|None|n1|59:00|a|\n8_1|PENDING|Resources||1:00:00|b|\n"),
                             ("sacct", "9|CANCELLED by 0\n")):  # fmt: skip
            (folder / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {self.notes}\nprintf "{answer}"\n')
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        monkeypatch.setenv("SLURM_CLUSTER_NAME", "here")

    def count(self, name: str) -> int:
        return sum(line.startswith(name) for line in self.notes.read_text().splitlines())


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    (tmp_path / "bin").mkdir()
    return Asked(tmp_path / "bin", monkeypatch)


def test_whoever_looks_again_and_again_asks_seldom(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [JobRef("slurm", job, name="here") for job in ("7", "8_1", "8_2", "9", "10")]
    scheduler = Scheduler()
    clock = [1000.0]
    monkeypatch.setattr(queue_view.time, "monotonic", lambda: clock[0])
    scheduler._since = 1000.0
    for _ in range(120):  # four minutes of a watch
        scheduler.refresh()
        found = scheduler.ask(jobs)
        clock[0] += 2.0
    assert [found.status(job) for job in jobs] == ["running", "queued", "gone", "gone", "gone"]
    assert found.ends == {jobs[3]: "CANCELLED"} and found.reasons == {jobs[1]: "Resources"}
    assert asked.count("squeue") <= 240 / queue_view.ASK_S + 1
    assert asked.count("sacct") <= queue_view.LATE_S / queue_view.ASK_S + 1, "no accounting about what ended long ago"
    text = asked.notes.read_text()
    assert "--me" not in text and "--jobs=10,7,8,9" in text and "--all " in text and "--allusers" in text


def test_a_heterogeneous_job_is_known_by_its_first_part(asked: Asked) -> None:
    (asked.notes.parent / "squeue").write_text(
        '#!/bin/sh\nprintf "7+0|RUNNING|None|n1|1:00|a|\\n7+1|RUNNING|None|n2||a|\\n"\n'
    )
    job = JobRef("slurm", "7", name="here")
    assert Scheduler().ask([job]).status(job) == slurm.job_status(job) == "running"


def test_a_job_of_another_cluster_is_known_there_alone(asked: Asked, tmp_path: Path) -> None:
    job = JobRef("slurm", "7", name="there")
    found = Scheduler().ask([job])
    assert found.status(job) == "unknown" and found.elsewhere == {job} and not asked.notes.exists()
    assert slurm.job_status(job) == "unknown"
    with pytest.raises(RunError, match="is on cluster there and can only be ended from there"):
        slurm.cancel(job)
    run = RunDir(tmp_path / "r")
    status = derive_status(RunSnapshot(run, record=None), found)
    assert status.state == "new"
    assert JobRef("slurm", "7", name="here") != job


def test_the_users_filters_do_not_reach_slurms_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SQUEUE_PARTITION", "SACCT_FORMAT", "SINFO_ALL", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    seen = dict(line.partition("=")[::2] for line in slurm.ask(["env"]).splitlines())
    assert not {name for name in seen if name.startswith(("SQUEUE_", "SACCT_", "SINFO_", "SLURM_CLUSTERS"))}
    assert "SLURM_TIME_FORMAT" not in seen and seen["SLURM_CONF"] == "/etc/slurm.conf"


def test_a_limit_on_jobs_is_named_with_the_way_out() -> None:
    said = of_limit("sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed")
    assert said == "; AssocMaxSubmitJobLimit is a limit on jobs: --max-submit N submits N trials at a time"
    for limit in ("QOSMaxSubmitJobPerUserLimit", "AssocGrpSubmitJobsLimit", "QOSGrpJobsLimit"):
        assert f"; {limit} is a limit on jobs" in of_limit(f"error: {limit}")
    assert of_limit("sbatch: error: invalid partition") == ""


def test_a_group_is_let_pass_or_told_what_is_closed(tmp_path: Path) -> None:
    import grp

    from fashion_dist.cluster import permissions

    mine = grp.getgrgid(os.getgid()).gr_name
    home = tmp_path / "closed" / "home"
    (home / "runs").mkdir(parents=True)
    for folder in (tmp_path / "closed", home, home / "runs"):
        folder.chmod(0o700)
    permissions.make(home / "runs" / "r", mine)
    assert [oct(path.stat().st_mode & 0o7777) for path in (home, home / "runs")] == ["0o750"] * 2
    assert (home / "runs" / "r").stat().st_gid == os.getgid()
    said = permissions.closed_way(home, mine)
    closed = next(path for path in reversed(home.parents) if path.stat().st_mode & 0o011 == 0)
    assert said.startswith(f"group {mine} cannot pass {closed} (mode 700, of ")
