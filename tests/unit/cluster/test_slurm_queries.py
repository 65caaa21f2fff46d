from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fashion_dist.cluster import slurm
from fashion_dist.cluster.slurm import JobRef
from fashion_dist.errors import RunError


@settings(deadline=None)
@given(st.integers(0, 30), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_slurms_times_are_read(days: int, hours: int, minutes: int, seconds: int) -> None:
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    shown = f"{days}-{hours:02}:{minutes:02}:{seconds:02}" if days else f"{hours}:{minutes:02}:{seconds:02}"
    assert slurm.seconds(shown) == total


@pytest.mark.parametrize(("text", "seconds"), [("5:07", 307), ("42", 42), ("UNLIMITED", None), ("INVALID", None)])
def test_slurms_odd_times(text: str, seconds: int | None) -> None:
    assert slurm.seconds(text) == seconds


def test_a_queue_is_read_whatever_the_comment_holds() -> None:
    text = (
        "12|RUNNING|None|n[1-2]|59:01|deepfashion-1|a|b|c\n"
        "13_4|PENDING|Resources||1:00:00|x y|\n"
        "14|COMPLETING|None|n1|0:00|z|\n"
        "15|RUNNING|None|n1|INVALID|late|\n"
        "half a line\n"
    )
    running, waiting, ending, late = slurm.parse_queue(text)
    assert (running.job_id, running.nodes, running.left_s, running.comment) == ("12", "n[1-2]", 3541, "a|b|c")
    assert (running.status, waiting.status, ending.status) == ("running", "queued", "running")
    assert late.left_s == 0, "its time limit has passed"
    assert (waiting.job_id, waiting.reason, waiting.name) == ("13_4", "Resources", "x y")


def test_tasks_that_never_started_stand_together_in_the_accounting() -> None:
    text = "7|COMPLETED\n12_[0-2,5%2]|CANCELLED by 1000\n12_3|TIMEOUT\n13_[4]|PENDING\n14_1|\n"
    assert slurm.parse_accounting(text) == {
        "7": "COMPLETED",
        **dict.fromkeys(("12_0", "12_1", "12_2", "12_5"), "CANCELLED"),
        "12_3": "TIMEOUT",
        "13_4": "PENDING",
    }


def test_accounting_is_asked_in_pieces_that_a_command_line_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sacct = tmp_path / "sacct"
    sacct.write_text(
        f"#!/bin/sh\necho x >> {tmp_path}/asked\n"
        'for w; do case $w in --jobs=*) echo "${w#--jobs=}" | tr , "\\n" | sed "s/$/|COMPLETED/";; esac; done\n'
    )
    sacct.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    ids = [str(12_000_000 + n) for n in range(15_000)]
    assert slurm.accounting(ids) == dict.fromkeys(ids, "COMPLETED")
    assert len((tmp_path / "asked").read_text().split()) == 8


def test_a_local_job_is_its_process_and_not_its_number() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        job = JobRef.of_process(process.pid)
        assert slurm.job_status(job) == "running"
        recycled = JobRef("local", job.job_id, job.host, job.started - 1)
        assert slurm.job_status(recycled) == "gone"
        elsewhere = JobRef("local", job.job_id, "another-host", job.started)
        assert slurm.job_status(elsewhere) == "unknown"
        assert JobRef.from_json(job.to_json(), Path("job.json")) == job
    finally:
        process.kill()
        zombie = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert zombie is not None
    assert slurm.job_status(job) == "gone"  # not reaped yet
    process.communicate()
    assert slurm.job_status(job) == "gone"


def test_cancel_ends_only_the_process_that_is_meant() -> None:
    ours = [sys.executable, "-c", "input()", "fashion_dist.cluster.worker"]
    process = subprocess.Popen(ours, stdin=subprocess.PIPE)
    job = JobRef.of_process(process.pid)
    slurm.cancel(JobRef("local", job.job_id, socket.gethostname(), job.started - 1))
    assert process.poll() is None
    slurm.cancel(job)
    assert process.wait() == -15
    process.communicate()


def test_a_command_that_is_missing_or_fails_says_so() -> None:
    with pytest.raises(RunError, match="no-such-command is not on the PATH"):
        slurm.ask(["no-such-command"])
    with pytest.raises(RunError, match=r"sh: words of its own"):
        slurm.ask(["sh", "-c", "echo words of its own >&2; exit 3"])
    with pytest.raises(RunError, match="did not answer within 0 s"):
        slurm.ask(["sleep", "5"], timeout_s=0.05)
