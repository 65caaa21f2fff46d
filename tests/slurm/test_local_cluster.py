"""What jobs rely on from the local Slurm: distinct nodes, accounting, requeue, pre-emption, and safe up and down."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_cluster import DOWN, ROOT, UP, SlurmCluster, output, run, until

pytestmark = pytest.mark.slurm

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="up.sh and down.sh act as root only")

# Rank 0 listens, rank 1 connects to rank 0's node by name: what every process group does first.
MEET = """
import os, socket, subprocess, time
first = subprocess.check_output(["scontrol", "show", "hostnames"], text=True).split()[0]
port = 20000 + int(os.environ["SLURM_JOB_ID"]) % 10000
if os.environ["SLURM_PROCID"] == "0":
    with socket.create_server(("", port)) as server:
        peer, _ = server.accept()
        print(os.environ["SLURMD_NODENAME"], "heard", peer.recv(100).decode())
else:
    while True:
        try:
            peer = socket.create_connection((first, port), timeout=5)
            break
        except ConnectionRefusedError:
            time.sleep(0.1)
    peer.sendall(os.environ["SLURMD_NODENAME"].encode())
"""


def state_folder() -> Path:
    return Path(os.environ["SLURM_CONF"]).parent


def test_a_job_runs_on_two_nodes_and_is_accounted_for(slurm_cluster: SlurmCluster) -> None:
    job = slurm_cluster.submit("srun bash -c 'echo node $SLURMD_NODENAME'", "--nodes=2", "--ntasks-per-node=1")
    until(lambda: slurm_cluster.states(job) == ["COMPLETED"], f"job {job} is COMPLETED")
    nodes = {line.split()[1] for line in slurm_cluster.log(job).splitlines() if line.startswith("node ")}
    assert len(nodes) == 2
    steps = output("sacct", "--noheader", "--parsable2", "--format=jobid,state,exitcode", "-j", job).splitlines()
    assert f"{job}.0|COMPLETED|0:0" in steps


def test_the_first_node_is_reached_by_its_name(slurm_cluster: SlurmCluster) -> None:
    script = slurm_cluster.folder / "meet.py"
    script.write_text(MEET)
    job = slurm_cluster.submit(f"srun {sys.executable} {script}", "--nodes=2", "--ntasks-per-node=1")
    until(lambda: slurm_cluster.states(job) == ["COMPLETED"], f"job {job} is COMPLETED: {slurm_cluster.log(job)}")
    listener, word, speaker = slurm_cluster.log(job).split()
    assert word == "heard"
    assert listener != speaker


def test_a_failed_job_is_told_from_a_completed_one(slurm_cluster: SlurmCluster) -> None:
    job = slurm_cluster.submit("exit 3")
    until(lambda: slurm_cluster.states(job) == ["FAILED"], f"job {job} is FAILED")
    assert output("sacct", "--noheader", "-XPo", "exitcode", "-j", job) == "3:0"


def test_a_requeued_job_runs_again_and_writes_below_its_first_attempt(slurm_cluster: SlurmCluster) -> None:
    job = slurm_cluster.submit("echo attempt ${SLURM_RESTART_COUNT:-0}\nsleep 600", "--requeue")
    until(lambda: "attempt 0" in slurm_cluster.log(job), "the first attempt runs")
    output("scontrol", "requeue", job)
    until(lambda: "attempt 1" in slurm_cluster.log(job), "the second attempt runs")
    assert slurm_cluster.log(job).index("attempt 0") < slurm_cluster.log(job).index("attempt 1")
    until(lambda: slurm_cluster.states(job) == ["REQUEUED", "RUNNING"], "the accounting knows both attempts")
    slurm_cluster.cancel(job)


def test_urgent_takes_the_node_of_normal_which_is_warned_and_requeued(local_cluster: SlurmCluster) -> None:
    node = ("--nodelist=n1", "--exclusive")
    stays = 'trap "echo warned" USR2; echo attempt ${SLURM_RESTART_COUNT:-0}; while true; do sleep 1; done'
    low = local_cluster.submit(f"srun bash -c '{stays}'", "--requeue", "--signal=USR2@60", *node)
    until(lambda: "attempt 0" in local_cluster.log(low), "the job in normal runs")
    high = local_cluster.submit("echo urgent", "--partition=urgent", *node)
    until(lambda: local_cluster.states(high) == ["COMPLETED"], "the job in urgent has run")
    assert "warned" in local_cluster.log(low)
    until(lambda: "attempt 1" in local_cluster.log(low), "the job in normal runs again")
    until(lambda: local_cluster.states(low) == ["PREEMPTED", "RUNNING"], "the accounting knows both attempts")
    local_cluster.cancel(low)


@pytest.mark.parametrize("name", ["single-node", "multi-node"])
def test_a_template_refuses_what_is_no_run_folder(name: str, tmp_path: Path) -> None:
    template = ROOT / "fashion_dist" / "cluster" / "templates" / f"{name}.sbatch"
    for arguments in ([], [tmp_path]):
        done = run("bash", template, *arguments)
        assert done.returncode == 2
        assert f"usage: sbatch {name}.sbatch RUN_DIR" in done.stderr


@pytest.mark.parametrize("name", ["single-node", "multi-node"])
def test_a_template_is_accepted_as_it_is(slurm_cluster: SlurmCluster, name: str) -> None:
    template = ROOT / "fashion_dist" / "cluster" / "templates" / f"{name}.sbatch"
    done = run("sbatch", "--test-only", template, slurm_cluster.folder)
    assert done.returncode == 0, done.stderr
    assert "to start at" in done.stderr


def test_up_twice_changes_nothing(local_cluster: SlurmCluster) -> None:
    before = {path.name: path.read_text() for path in (state_folder() / "run").glob("*.pid")}
    done = run(UP)
    assert done.returncode == 0, done.stderr
    assert "already" in done.stdout
    assert f"export SLURM_CONF={os.environ['SLURM_CONF']}; sinfo" in done.stdout
    assert {path.name: path.read_text() for path in (state_folder() / "run").glob("*.pid")} == before


@needs_root
def test_up_refuses_to_change_a_running_cluster(local_cluster: SlurmCluster) -> None:
    done = run(UP, GRACE_S="7")
    assert done.returncode == 2
    assert "GRACE_S=7" in done.stderr
    assert "down.sh first" in done.stderr


def test_the_printed_line_leads_a_bare_shell_to_the_cluster(local_cluster: SlurmCluster) -> None:
    bare = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    line = f'eval "$({UP} --env)" && scontrol ping'
    done = subprocess.run(["bash", "-c", line], env=bare, capture_output=True, text=True, check=True)
    assert "is UP" in done.stdout


@needs_root
def test_up_starts_a_dead_slurmd_again(local_cluster: SlurmCluster) -> None:
    pid_file = state_folder() / "run" / "slurmd.n2.pid"
    old = int(pid_file.read_text())
    os.kill(old, signal.SIGKILL)
    done = run(UP)
    assert done.returncode == 0, done.stderr
    assert "starting slurmd n2" in done.stdout
    assert int(pid_file.read_text()) != old
    job = local_cluster.submit("echo here", "--nodelist=n2")
    until(lambda: local_cluster.states(job) == ["COMPLETED"], f"job {job} is COMPLETED")


@needs_root
def test_up_takes_a_drained_node_back(local_cluster: SlurmCluster) -> None:
    output("scontrol", "update", "NodeName=n2", "State=DRAIN", "Reason=a test")
    done = run(UP)
    assert done.returncode == 0, done.stderr
    assert "resuming n2, drained for: a test" in done.stdout
    assert "drain" not in output("sinfo", "--noheader", "--nodes=n2", "--format=%T")


@needs_root
def test_a_slurm_that_is_not_ours_is_left_alone(local_cluster: SlurmCluster, tmp_path: Path) -> None:
    # To another state folder the running cluster is somebody else's.
    elsewhere = {"FASHION_DIST_SLURM_DIR": str(tmp_path / "elsewhere")}
    done = run(UP, **elsewhere)
    assert done.returncode == 0
    assert "not ours" in done.stdout
    assert not (tmp_path / "elsewhere").exists()
    done = run(DOWN, **elsewhere)
    assert done.returncode == 0
    assert "nothing to stop" in done.stdout
    assert "is UP" in output("scontrol", "ping")


@needs_root
def test_down_ends_no_process_that_a_stale_pid_file_names(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / ".fashion-dist-slurm").touch()
    with subprocess.Popen(["sleep", "600"]) as bystander:
        try:
            (tmp_path / "run" / "slurmctld.pid").write_text(f"{bystander.pid}\n")
            done = run(DOWN, FASHION_DIST_SLURM_DIR=str(tmp_path))
            assert done.returncode == 0, done.stderr
            assert "nothing of ours was running" in done.stdout
            assert bystander.poll() is None
        finally:
            bystander.kill()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("NODES", "9", "choose 1 to 4"),
        ("CPUS_PER_NODE", "0", "whole number"),
        ("NETNS", "yes", "choose 0 or 1"),
        ("FASHION_DIST_SLURM_DIR", "/tmp/a b", "only letters"),
        ("FASHION_DIST_SLURM_DIR", "/tmp/" + "long/" * 20, "longer than 80"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(name: str, value: str, says: str) -> None:
    done = run(UP, **{name: value})
    assert done.returncode == 2
    assert says in done.stderr
