"""A site's rules on a real Slurm: sbatch's options, variables of the user's shell, who asks, who is silent."""

from __future__ import annotations

import grp
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from cluster_home import Workplace, as_somebody, read, until
from slurm_cluster import SlurmCluster, output

from fashion_dist.cluster import slurm
from fashion_dist.commands import status
from fashion_dist.errors import ConfigError

pytestmark = pytest.mark.slurm

LONG = ("train.epochs=1000",)
GROUP = "nogroup" if os.geteuid() == 0 else grp.getgrgid(os.getgid()).gr_name
FILTERS = {
    "SQUEUE_PARTITION": "urgent", "SQUEUE_STATES": "PD", "SQUEUE_USERS": "nobody", "SQUEUE_FORMAT": "%i",
    "SACCT_FORMAT": "jobid", "SINFO_FORMAT": "%P", "SINFO_PARTITION": "urgent", "SLURM_CLUSTERS": "elsewhere",
}  # fmt: skip


def state(place: Workplace, **environment: str) -> tuple[str, str]:
    said = place.do(place.argv("status", place.run().name, "--json"), **environment)
    (view,) = json.loads(said.out)["runs"]
    return view["state"], view["detail"]


def a_colleague_sees_it_once_the_way_is_open(place: Workplace) -> None:
    """What the owner sees, and who is not of the group nothing."""

    def look() -> str:
        return str(status.main(status.Args(home=str(place.home), runs=(place.run().name,))).data["runs"][0]["state"])

    closed = [path for path in place.home.parents if path.stat().st_mode & 0o011 == 0]
    for path in closed:
        path.chmod(0o711)
    try:
        assert (look(), as_somebody(look, grp.getgrnam(GROUP).gr_gid)) == ("running", "running")
        assert "PermissionError" in as_somebody(look)
    finally:
        for path in closed:
            path.chmod(0o700)


def test_a_run_is_asked_for_as_sbatch_takes_it_and_seen_whatever_the_shell_filters(
    place: Workplace, local_cluster: SlurmCluster
) -> None:
    preset = place.home / "site.toml"
    preset.write_text(
        'partition = "urgent"\ntime = "0-02:00:00"\nsetup = ["module load CUDA"]\n\n[sbatch]\nnice = 7\n\n'
        '[environment]\nSITE = "x"\n'
    )
    shell = {
        "SBATCH_PARTITION": "normal", "SBATCH_JOB_NAME": "other", "BASH_FUNC_module%%": '() { echo "module $2"\n}',
    }  # fmt: skip
    flags = ("--preset", str(preset), "--exclude", "n2", "--sbatch", "mail-type=END", "--mem", "0", "--group", GROUP)
    dry = place.do([w for w in place.launch_argv(*flags, "--dry-run", settings=LONG) if w != "--json"], **shell).out
    assert "partition = normal, from SBATCH_PARTITION of this shell" in dry
    said = place.launch(*flags, settings=LONG, **shell, **FILTERS)
    assert said.status == 0, said.err
    job = said.json["job"]["job_id"]
    assert said.json["job"]["name"] == "fashiondist"
    facts = output("scontrol", "show", "job", job)
    for words in ("Partition=normal", "TimeLimit=02:00:00", "ExcNodeList=n2", "Nice=7", "MailType=END"):
        assert words in facts, facts
    place.wait_for_steps(place.run(), steps=2)
    assert "module CUDA" in (place.run() / "logs" / f"{job}_0_log.out").read_text()
    # What a user's shell filters, or which cluster it prefers, changes nothing that we believe.
    assert state(place, **FILTERS)[0] == "running"
    assert place.launch(*flags, settings=LONG, **shell, **FILTERS).json["outcome"] == "active"
    if os.geteuid() == 0:
        assert "# note: group nogroup cannot pass /" in dry
        a_colleague_sees_it_once_the_way_is_open(place)
    # Suspended is neither running nor failed; a job of another cluster is known there alone.
    output("scontrol", "suspend", job)
    until(lambda: state(place) == ("suspended", "suspended by Slurm; it goes on when Slurm lets it"), "it is suspended")
    output("scontrol", "resume", job)
    until(lambda: state(place)[0] == "running", "it goes on")
    elsewhere = {"SLURM_CLUSTER_NAME": "another"}
    found, words = state(place, **elsewhere)
    assert found == "running" and words.startswith("on cluster fashiondist, which alone knows")
    said = place.launch(*flags, settings=LONG, **shell, **elsewhere)
    assert said.json["outcome"] == "active" and slurm.queue(name=place.run().name)[0].job_id == job


def test_what_sbatch_refuses_is_told_with_its_line_and_leaves_nothing(
    place: Workplace, local_cluster: SlurmCluster
) -> None:
    preset = place.home / "site.toml"
    for text, words, line in (
        ('[sbatch]\nno-such-option = "1"\n', "unrecognized option", "no-such-option = 1 ({}, line 2)"),
        ('\ngres = "gpu:a100:4"\n', "(gres)", "gres = gpu:a100:4 ({}, line 2)"),
    ):
        preset.write_text(text)
        said = place.launch("--preset", str(preset), settings=("train.batch_size=64",))
        assert said.status == 2 and words in said.err and line.format(preset) in said.err, said.err
        assert said.err.count("\n") == 1
    said = place.launch("--gpus-per-node", "1", "--gres", "gpu:1")
    assert said.status == 2 and "gpus_per_node and gres say the same in two ways" in said.err
    preset.write_text('setup = ["true", "no-such-command --x"]\n')
    said = place.launch("--preset", str(preset), "--wait")
    assert said.status == 1 and "a setup line failed with status 127: no-such-command --x" in said.out, said.out


def test_a_silent_controller_is_told_and_nothing_is_trained_or_submitted(
    place: Workplace, local_cluster: SlurmCluster
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can stop the controller")
    place.launch(settings=LONG)
    run = place.run()
    place.wait_for_steps(run)
    pid = int((Path(os.environ["SLURM_CONF"]).parent / "run" / "slurmctld.pid").read_text())
    os.kill(pid, signal.SIGSTOP)
    try:
        found, words = state(place)
        assert found == "running" and re.match(r"Slurm does not answer \(.*\); this is what its files say", words)
        argv = [word if word != "slurm" else "auto" for word in place.launch_argv("--nodes", "2", settings=LONG)]
        said = place.do(argv)
        assert said.status == 1 and "Slurm does not answer" in said.err and "nothing was submitted" in said.err
    finally:
        os.kill(pid, signal.SIGCONT)
    assert place.runs == [run] and len(read(run / "attempts.json")["attempts"]) == 1
    until(lambda: state(place)[0] == "running", "Slurm answers again")


def test_a_sweep_is_submitted_in_parts_held_and_released(place: Workplace) -> None:
    argv = place.argv("sweep", "--task", "deepfashion", "--cluster", "slurm", "--wandb", "off", "--json")
    argv += [
        "--name",
        "parts",
        "--max-submit",
        "2",
        "--hold",
        "--sbatch",
        "begin=now+1hour",
        "--set",
        "train.batch_size=32",
        "optim.lr=0.1,0.2,0.3",
    ]

    def look(name: str, **flags: bool) -> Any:
        return status.main(status.Args(home=str(place.home), runs=(name,), **flags)).data

    def reasons() -> set[str]:
        return {trial["detail"] for trial in look("parts")["sweeps"][0]["trials"]}

    assert [(said["submitted"], said["left"]) for said in (place.do(argv).json for _ in range(3))] == [
        (2, 1), (1, 0), (0, 0)
    ]  # fmt: skip
    assert reasons() == {"JobHeldUser"}
    assert place.status("parts", "--release").status == 0
    until(lambda: reasons() == {"BeginTime"}, "all are released")
    look("parts", hold=True)
    until(lambda: reasons() == {"JobHeldUser"}, "all are held")

    def trial() -> tuple[str, str]:
        (view,) = look(run_id)["runs"]
        return view["state"], view["detail"]

    # One that waits is shown, held, released and cancelled by its own id.
    run_id = look("parts")["sweeps"][0]["trials"][1]["run"]
    assert place.runs == [] and trial() == ("queued", "JobHeldUser") and run_id in place.status(run_id).out
    look(run_id, release=True)
    until(lambda: trial() == ("queued", "BeginTime"), "it alone is released")
    assert reasons() == {"JobHeldUser", "BeginTime"}
    look(run_id, hold=True)
    until(lambda: reasons() == {"JobHeldUser"}, "it is held again")
    look(run_id, cancel=True)
    until(lambda: reasons() == {"JobHeldUser", "the job was cancelled before it started"}, "it alone is cancelled")
    with pytest.raises(ConfigError, match="only what waits in Slurm's queue is held and released"):
        look(run_id, hold=True)
    assert place.status("parts", "--cancel").status == 0
    said = place.status("parts", "--hold", "--release")
    assert said.status == 2 and "opposites" in said.err
