"""What Slurm does to jobs, and what happens to its nodes: on a real Slurm."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster_home import processes_of, read, until
from fault_matrix import Figures
from slurm_cluster import ROOT, UP, SlurmCluster, output, run
from trial import Trial

from fashion_dist.cluster import slurm, submitit_executor
from fashion_dist.cluster.resources import Resources
from fashion_dist.errors import ConfigError

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

PACE_S = 0.5
"""A run of 12 s: long enough for Slurm to act in the middle of it."""
CANARY = "canary-77d1e0"


def job_of(trial: Trial) -> str:
    return str(read(trial.run / "job.json")["job"]["job_id"])


def ended(trial: Trial, figures: Figures, began: float, limit_s: float | None = None) -> None:
    """Wait for the end of a run that goes on by itself, and hold it against the undisturbed one."""

    def over() -> bool:
        # A start that fails of a lost node is followed by another one, so only the queue can say that it was the last.
        state = read(trial.run / "state.json").get("state")
        return state == "done" or (state == "failed" and slurm.queue(job_ids=[job_of(trial)]) == [])

    until(over, "the run is over")
    figures.took(time.monotonic() - began, limit_s)
    trial.ended_well(figures)


def node_processes(name: str) -> list[int]:
    """The processes of one of the local Slurm's nodes: its slurmd, step daemons and their tasks."""
    own = Path(os.environ["SLURM_CONF"])
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            variables = dict(v.partition("=")[::2] for v in (path / "environ").read_text().split("\0"))
            words = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if variables.get("SLURM_CONF") != str(own):
            continue
        step = re.match(r"slurmstepd: ", words) and name_of_step(int(path.name)) == name
        if variables.get("SLURMD_NODENAME") == name or step or re.search(rf"slurmd .*-N {name}\b", words):
            found.append(int(path.name))
    return found


def name_of_step(pid: int) -> str:
    """The node that a step daemon belongs to: its children say so."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            variables = dict(v.partition("=")[::2] for v in (path / "environ").read_text().split("\0"))
        except (OSError, ValueError):
            continue
        if parent == pid and "SLURMD_NODENAME" in variables:
            return variables["SLURMD_NODENAME"]
    return ""


def take_back(job: str, repair: Callable[[], None] = lambda: None) -> None:
    """Wait until Slurm gives n2 up, and let its daemons and the requeued job go on."""
    until(lambda: "down" in output("sinfo", "--noheader", "--nodes=n2", "--format=%T"), "Slurm gives n2 up")
    lost = time.monotonic()
    until(lambda: [entry.status for entry in slurm.queue(job_ids=[job])] == ["queued"], "the job is requeued")
    # A minute later Slurm asks a node that was silent once more to end the job's tasks: those of its new start, if the
    # node is back so soon.
    output("scontrol", "hold", job)
    repair()
    assert run(UP).returncode == 0
    time.sleep(max(0.0, lost + 70 - time.monotonic()))
    output("scontrol", "release", job)


@pytest.mark.fault(4)
def test_a_run_outlives_its_node(slurm_trial: Trial, figures: Figures) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can kill a node's daemons")
    trial = slurm_trial
    launcher = trial.start("--wait", pace_s=PACE_S)
    trial.wait_for_step(9, rank=1)
    job = job_of(trial)
    began = time.monotonic()
    for pid in node_processes("n2"):
        os.kill(pid, signal.SIGKILL)
    try:
        take_back(job)
    finally:
        assert run(UP).returncode == 0
    assert "NODE_FAIL" in output("sacct", "-nXDPo", "state", "-j", job)
    ended(trial, figures, began)
    assert job_of(trial) == job and len(trial.ends()) == 2 and trial.ends()[1] == "done"
    out, err = launcher.communicate()
    assert launcher.returncode == 0 and '"state": "done"' in out, err


@pytest.mark.fault(5)
def test_requeued_three_times(slurm_trial: Trial, figures: Figures) -> None:
    trial = slurm_trial
    trial.launch(pace_s=PACE_S, variables={"SOME_API_KEY": CANARY, "WANDB_API_KEY": CANARY})
    began = time.monotonic()
    job = ""
    for attempt, step in ((1, 3), (2, 8), (3, 13)):
        trial.wait_for_step(step, attempt)
        job = job_of(trial)
        slurm.requeue(job)
        if attempt == 1:  # what a submitit result of an earlier start would look like
            stale = trial.run / "logs" / f"{job}_0_result.pkl"
            until(lambda: len(trial.ends()) == 1 and trial.ends()[0] == "requeued", "the first start has ended")
            stale.write_bytes(b"stale")
    ended(trial, figures, began)
    assert trial.ends() == ["requeued", "requeued", "requeued", "done"]
    assert job_of(trial) == job, "the same job all along"
    assert figures.lost == 0, "a requeued job saves before it ends"
    holding = [path for path in trial.place.home.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    assert holding == [], "a key is written nowhere"


@pytest.mark.fault(6)
def test_pre_empted_it_saves_within_the_grace_and_goes_on(slurm_trial: Trial, figures: Figures) -> None:
    trial = slurm_trial
    trial.launch("--time-limits", "0", pace_s=PACE_S)
    trial.wait_for_step(9)
    began = time.monotonic()
    output("sbatch", "--parsable", "--partition=urgent", "--nodes=2", "--output=/dev/null", "--wrap=sleep 3")
    until(lambda: trial.ends()[0] != "", "the first start has ended")
    grace = int(re.search(r"GraceTime=(\d+)", output("scontrol", "show", "partition", "normal"))[1])  # type: ignore[index]
    figures.took(time.monotonic() - began, limit_s=grace)
    until(lambda: len(trial.ends()) == 2 and trial.ends()[1] != "", "the second start has ended")
    assert trial.ends() == ["pre-empted", "done"], "a pre-emption is no time limit, of which none is allowed"
    trial.ended_well(figures)
    assert figures.lost == 0


@pytest.mark.fault(7)
def test_at_its_time_limit_it_goes_on_by_itself(slurm_trial: Trial, figures: Figures, tmp_path: Path) -> None:
    trial = slurm_trial
    held = tmp_path / "held"
    held.touch()
    trial.launch("--time-min", "60", pace_s=PACE_S, hold={"rank": 0, "at": 9, "while": str(held)})
    trial.wait_for_step(9)
    job = job_of(trial)

    def limit(minutes: int) -> None:
        output("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")

    (entry,) = slurm.queue(job_ids=[job])
    assert entry.left_s is not None
    began = time.monotonic()
    limit((3600 - entry.left_s) // 60 + 2)  # one to two minutes are left, and two before the end it is warned
    log = trial.run / "logs" / f"{job}_0_log.err"
    until(lambda: "SIGUSR2" in log.read_text(), "Slurm warns the job")
    held.unlink()
    until(lambda: trial.ends()[0] != "", "the first start has ended")
    limit(60)
    ended(trial, figures, began)
    assert trial.ends() == ["time limit", "done"]
    assert figures.lost == 0, "a warned run saves before it ends"


@pytest.mark.fault(33)
def test_suspended_for_longer_than_its_ranks_wait_it_goes_on(slurm_trial: Trial, figures: Figures) -> None:
    trial = slurm_trial
    trial.launch("--peer-timeout-s", "15", pace_s=PACE_S)
    trial.wait_for_step(9)
    job = job_of(trial)
    began = time.monotonic()
    output("scontrol", "suspend", job)
    time.sleep(25)
    output("scontrol", "resume", job)
    ended(trial, figures, began)
    # Where both ranks computed when it was suspended, neither waited for the other.
    assert trial.ends() in (["requeued", "done"], ["done"]) and job_of(trial) == job
    assert list((trial.run / "logs").glob("*_requeue")) == []


@pytest.fixture
def networks(local_cluster: SlurmCluster) -> Iterator[Callable[[str], None]]:
    """Sets a node's link `up` or `down`; up again at the end."""
    if os.geteuid() != 0 or run("ip", "link", "show", "fdv2").returncode != 0:
        pytest.skip("the nodes have no networks of their own (NETNS=1 slurm/local/up.sh)")

    def link(state: str) -> None:
        output("ip", "link", "set", "fdv2", state)

    yield link
    link("up")
    assert run(UP).returncode == 0


@pytest.mark.fault(17)
def test_a_network_that_is_gone_for_ten_seconds_costs_ten_seconds(
    slurm_trial: Trial, networks: Callable[[str], None], figures: Figures
) -> None:
    trial = slurm_trial
    trial.launch(pace_s=PACE_S)
    trial.wait_for_step(9)
    began = time.monotonic()
    networks("down")
    time.sleep(10)
    networks("up")
    ended(trial, figures, began)
    assert trial.ends() == ["done"] and figures.lost == 0


@pytest.mark.fault(17)
def test_a_network_that_is_gone_for_good_ends_the_ranks_and_the_run_goes_on_elsewhere(
    slurm_trial: Trial, networks: Callable[[str], None], figures: Figures
) -> None:
    trial = slurm_trial
    trial.launch("--peer-timeout-s", "20", pace_s=PACE_S)
    trial.wait_for_step(9)
    job = job_of(trial)
    began = time.monotonic()
    networks("down")
    until(lambda: not tasks_of(trial), "the ranks on both sides have ended")
    figures.took(time.monotonic() - began, limit_s=20 + 45)
    figures.holds("I5")
    take_back(job, lambda: networks("up"))
    until(lambda: read(trial.run / "state.json").get("state") == "done", "the run is done")
    assert job_of(trial) == job, "Slurm's own requeue"
    trial.ended_well(figures)


def tasks_of(trial: Trial) -> list[int]:
    """The ranks' own processes, without srun and the step daemons."""
    found = []
    for pid in processes_of(trial.run):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"fashion_dist.cluster.pickled_rank" in words and words[0].rpartition(b"/")[2] not in (b"srun", b"bash"):
            found.append(pid)
    return found


@pytest.mark.fault(24)
def test_an_array_larger_than_the_clusters_becomes_several(
    local_cluster: SlurmCluster, tmp_path: Path, figures: Figures
) -> None:
    # Nothing of it may start here: a thousand interpreters are another test.
    blocker = output("sbatch", "--parsable", "--partition=urgent", "--nodes=2", "--exclusive", "--wrap=sleep 600",
                     "--output=/dev/null")  # fmt: skip
    size = slurm.max_array_size()
    began = time.monotonic()
    try:
        jobs = submitit_executor.submit_array(
            abs, range(size + 2), resources=Resources(time_min=5), folder=tmp_path, name="large"
        )
        figures.took(time.monotonic() - began)
        arrays = sorted({job.job_id.partition("_")[0] for job in jobs}, key=int)
        assert len(arrays) == 2 and len(jobs) == len(set(jobs)) == size + 2
        waiting = slurm.queue(job_ids=arrays)
        assert len(waiting) == size + 2
    finally:
        local_cluster.cancel(blocker, *{job.job_id.partition("_")[0] for job in jobs})


@pytest.mark.fault(24)
def test_an_array_of_which_a_part_is_refused_leaves_nothing(
    local_cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = output("which", "sbatch")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text(
        f'#!/bin/sh\n[ -e {tmp_path}/once ] && echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2 && exit 1\n'
        f'touch {tmp_path}/once\nexec {real} --hold "$@"\n'
    )
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    size = slurm.max_array_size()
    with pytest.raises(ConfigError, match="QOSMaxSubmitJobPerUserLimit"):
        submitit_executor.submit_array(
            abs, range(size + 2), resources=Resources(time_min=5), folder=tmp_path / "logs", name="partial"
        )
    assert list((tmp_path / "logs").iterdir()) == []
    until(lambda: slurm.queue(name="partial") == [], "the accepted part has left the queue")


@pytest.mark.fault(27)
def test_launched_from_inside_of_an_allocation_a_job_finds_the_same_environment(
    local_cluster: SlurmCluster, make_trial: Callable[..., Trial], figures: Figures
) -> None:
    seen = []
    for inside in (False, True):
        trial = make_trial("slurm")
        argv = trial.place.launch_argv("--nodes", "2", settings=trial.settings)
        variables = {**os.environ, **trial.environment(pace_s=2)}
        command = ["srun", "--ntasks=1", "--overlap", *argv] if inside else argv
        if inside:
            command = ["salloc", "--quiet", "--nodes=1", "--ntasks=1", *command]
        began = time.monotonic()
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        trial.wait_for_step(1)
        (rank,) = [pid for pid in tasks_of(trial) if environment_of(pid).get("SLURM_PROCID") == "0"]
        seen.append({name: value for name, value in environment_of(rank).items() if not of_this_job(name)})
        ended(trial, figures, began)
    outside, within = seen
    assert outside.keys() == within.keys()
    assert {name for name in outside if outside[name] != within[name]} <= {"FASHION_DIST_FAULT"}


def environment_of(pid: int) -> dict[str, str]:
    text = Path(f"/proc/{pid}/environ").read_text()
    return dict(variable.partition("=")[::2] for variable in text.split("\0") if variable)


def of_this_job(name: str) -> bool:
    """Variables that differ between any two jobs."""
    return bool(_OF_THIS_JOB.fullmatch(name))


_OF_THIS_JOB = re.compile(
    r"SLURM_(JOB_?(ID|NAME|COMMENT|START_TIME|END_TIME)|LAUNCH_NODE_IPADDR|SRUN_COMM_\w+|TASK_PID|STEP\w*PORT\w*|"
    r"TOPOLOGY_ADDR|NODELIST|GTIDS|WORKING_CLUSTER|MPI_TYPE|SUBMIT_\w+|PMI\w*)|SUBMITIT_\w+|PMI\w*|HOSTNAME|PWD|"
    r"OLDPWD|TMPDIR|_"
)
