"""What is handed to sbatch, and what becomes of its answers: a cluster of scripts on the PATH."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_sweep import make_sweep

from fashion_dist.cluster import pickled_rank, queue_view, slurm, submitit_executor
from fashion_dist.cluster.launcher import LaunchRequest
from fashion_dist.cluster.resources import Resources
from fashion_dist.cluster.slurm import JobRef
from fashion_dist.errors import ConfigError, RunError
from fashion_dist.monitor import chain, overview
from fashion_dist.sweep import launcher
from fashion_dist.sweep.launcher import SweepRequest
from fashion_dist.sweep.sweep_record import SubmittedArray, read_arrays, write_arrays


class Sbatch:
    """A cluster of one user: sbatch, squeue and scontrol as scripts on the PATH, and what they were asked."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        self.answers("scontrol", "echo 'ClusterName = here'; echo 'MaxArraySize = 11'")
        self.answers("squeue", f"cat {folder}/queue")
        self.answers("sinfo", "echo 'all*|4|8|1-00:00:00|(null)'")
        self.queue()
        monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
        monkeypatch.delenv("SLURM_CLUSTER_NAME", raising=False)
        slurm.configuration.cache_clear()

    def answers(self, command: str, script: str) -> None:
        (self.folder / command).write_text(f"#!/bin/sh\necho {command} >> {self.folder}/notes\n{script}\n")
        (self.folder / command).chmod(0o755)

    def queue(self, *ids: str, name: str = "a", comment: str = "") -> None:
        (self.folder / "queue").write_text("".join(f"{i}|PENDING|Priority||1:00:00|{name}|{comment}\n" for i in ids))


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sbatch]:
    yield Sbatch(tmp_path / "bin", monkeypatch)
    slurm.configuration.cache_clear()


def submit_one(folder: Path) -> JobRef:
    return submitit_executor.submit(len, "slurm", Resources(), folder, "a")  # type: ignore[arg-type]


def submit_array(folder: Path) -> JobRef:
    return submitit_executor.submit_module(("m",), "0-2", resources=Resources(), folder=folder, name="a")


def submit_calls(folder: Path) -> JobRef:
    first, second = submitit_executor.submit_array(abs, [-1, -2], resources=Resources(), folder=folder, name="a")
    array = dataclasses.replace(first, job_id=first.job_id.partition("_")[0])
    assert second == dataclasses.replace(array, job_id=f"{array.job_id}_1")
    return array


SUBMITS = pytest.mark.parametrize("submit", [submit_one, submit_array, submit_calls])


@SUBMITS
def test_a_submission_in_a_sites_own_encoding(submit: Any, sbatch: Sbatch, tmp_path: Path) -> None:
    sbatch.answers("sbatch", r"printf 'Gro\337rechner\nYour job 99 is over\n12;here\n'")
    job = submit(tmp_path / "logs")
    assert job == JobRef("slurm", "12", name="here") and (tmp_path / "logs" / "12_submission.sh").is_file()
    sbatch.answers("sbatch", r"printf 'sbatch: error: Konto w\344hlen\n' >&2; exit 1")
    before = sorted((tmp_path / "logs").iterdir())
    with pytest.raises(ConfigError, match=r"was refused, nothing was submitted: sbatch: error: Konto w\uFFFDhlen"):
        submit(tmp_path / "logs")
    assert sorted((tmp_path / "logs").iterdir()) == before


@SUBMITS
@pytest.mark.parametrize(
    "words",
    [
        "Socket timed out on send/recv operation",
        "Zero Bytes were transmitted or received",
        "Unable to contact slurm controller (receive failure)",
        "Unexpected message received",
    ],
)
def test_a_submission_of_which_nobody_knows_is_not_called_refused(
    words: str, submit: Any, sbatch: Sbatch, tmp_path: Path
) -> None:
    sbatch.answers("sbatch", f"echo 'sbatch: error: Batch job submission failed: {words}' >&2; exit 1")
    found = f"Slurm did not say whether it took the job.*{re.escape(words)}.*squeue -n a tells, and scancel ends it"
    with pytest.raises(RunError, match=found):
        submit(tmp_path / "logs")
    assert list((tmp_path / "logs").iterdir()) == []


@SUBMITS
def test_a_submission_without_an_id_leaves_nothing_and_is_not_called_refused(
    submit: Any, sbatch: Sbatch, tmp_path: Path
) -> None:
    sbatch.answers("sbatch", "echo Welcome")
    with pytest.raises(RunError, match=r"did not say whether it took the job.*no job id.*: Welcome"):
        submit(tmp_path / "logs")
    assert list((tmp_path / "logs").iterdir()) == []


def test_each_task_of_an_array_finds_its_own_call(sbatch: Sbatch, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    sbatch.answers("sbatch", "echo $((12 + $(ls %s | grep -c _submission.sh)))" % folder)  # noqa: UP031
    jobs = submitit_executor.submit_array(
        abs, range(-12, 0), resources=Resources(setup=("true",)), folder=folder, name="a"
    )
    assert [job.job_id for job in jobs] == [*(f"12_{task}" for task in range(10)), "13_0", "13_1"]
    calls = [pickled_rank.load(submitit_executor.JobPaths(folder, job.job_id).submitted_pickle) for job in jobs]
    assert [call.result() for call in calls] == list(range(12, 0, -1))
    text = (folder / "13_submission.sh").read_text()
    assert "#SBATCH --array=0-1\n" in text and f"#SBATCH --error={folder}/%A_%a_0_log.err\n" in text
    assert f"-m fashion_dist.cluster.pickled_rank {folder}\n" in text and "eval true" in text
    (one,) = submitit_executor.submit_array(abs, [-5], resources=Resources(), folder=folder, name="a")
    assert one.job_id == "14" and "--array" not in (folder / "14_submission.sh").read_text()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run with its logs."""
    folder = tmp_path / "runs" / "r"
    (folder / "logs").mkdir(parents=True)
    return folder


def follow(run: Path, *names: str) -> None:
    chain.submit(run, names, "slurm", Resources(), [JobRef("slurm", "5", name="here")])


def links(run: Path) -> dict[str, str]:
    """The jobs of what follows, and what each waits for."""
    found = {}
    for link in chain.read(run):
        assert link.job is not None
        text = (run / "logs" / f"{link.job.job_id}_submission.sh").read_text()
        found[link.name] = f"{link.job.job_id} {re.findall('--dependency=(.*)', text)[0]}"
    return found


def test_a_link_of_which_nobody_knew_is_taken_up_and_not_doubled(sbatch: Sbatch, run: Path) -> None:
    sbatch.answers("sbatch", f"cp $2 {run}/logs/6_submission.sh; echo 'Socket timed out' >&2; exit 1")
    with pytest.raises(
        RunError, match=r"r itself is submitted .* collect, .* may not be: .*same command again takes it"
    ):
        follow(run, "collect", "report")
    (comment,) = re.findall("--comment=(.*)", (run / "logs" / "6_submission.sh").read_text())
    sbatch.queue("6", name="r-collect", comment=comment)
    sbatch.answers("sbatch", "echo 7")
    follow(run, "collect", "report")
    assert links(run) == {"collect": "6 afterok:5", "report": "7 afterok:6"}
    assert (sbatch.folder / "notes").read_text().split().count("sbatch") == 2


def test_a_link_that_was_refused_still_follows_the_one_before(sbatch: Sbatch, run: Path) -> None:
    sbatch.answers("sbatch", f"[ -e {run}/logs/6_submission.sh ] && {{ echo Limit >&2; exit 1; }}; echo 6")
    with pytest.raises(
        ConfigError, match=r"report, which is to follow it, is not: .*Limit; the same command again adds"
    ):
        follow(run, "collect", "report")
    sbatch.queue("6", name="r-collect")
    sbatch.answers("sbatch", "echo 7")
    follow(run, "collect", "report")
    assert links(run) == {"collect": "6 afterok:5", "report": "7 afterok:6"}


def test_nothing_follows_a_job_of_another_cluster_by_its_number(sbatch: Sbatch, run: Path) -> None:
    sbatch.answers("sbatch", "echo 7")
    there = [JobRef("slurm", "5", name="there")]
    with pytest.raises(ConfigError, match="Slurm job 5 is on cluster there: what follows r is asked for there"):
        chain.submit(run, ("collect",), "slurm", Resources(), there)
    (run / "then.json").write_text("{}")
    chain.submit(run, (), "slurm", Resources(), there)
    assert "sbatch" not in (sbatch.folder / "notes").read_text()


@SUBMITS
def test_nothing_is_submitted_to_a_cluster_that_does_not_say_its_name(
    submit: Any, sbatch: Sbatch, tmp_path: Path
) -> None:
    sbatch.answers("scontrol", "echo 'Unable to contact slurm controller' >&2; exit 1")
    sbatch.answers("sbatch", "echo 12")
    with pytest.raises(RunError, match="Unable to contact"):
        submit(tmp_path / "logs")
    assert "sbatch" not in (sbatch.folder / "notes").read_text() and list((tmp_path / "logs").iterdir()) == []


def test_an_array_of_which_nobody_knew_is_taken_up_and_not_doubled(
    sbatch: Sbatch, make_home: Callable[[], Path]
) -> None:
    asked = LaunchRequest("deepfashion", home=str(make_home()), cluster="slurm")
    draft = launcher.resolve(
        SweepRequest(asked, settings=("optim.lr=0.1,0.2", "data.image_px=32", "train.batch_size=32"), name="a")
    )
    sbatch.answers("sbatch", "echo 'sbatch: error: Socket timed out on send/recv operation' >&2; exit 1")
    with pytest.raises(RunError, match="did not say whether it took the job array"):
        launcher.submit(draft)
    (noted,) = read_arrays(draft.sweep.folder)
    sbatch.queue("7_0", "7_1", comment=noted.comment)
    sbatch.answers("sbatch", "echo 8")
    again = launcher.submit(draft)
    assert again.arrays == [] and again.view.counts == {"queued": 2}
    assert [array.job for array in read_arrays(draft.sweep.folder)] == [JobRef("slurm", "7", name="here")]
    assert (sbatch.folder / "notes").read_text().split().count("sbatch") == 1


def test_what_waits_is_not_held_while_slurm_does_not_say_what_that_is(sbatch: Sbatch, tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path)
    array = SubmittedArray("slurm", 0, (0, 1, 2), Resources(), job=JobRef("slurm", "7", name="here"))
    write_arrays(sweep.folder, [array])
    sbatch.queue("7_0", "7_1", "7_2")
    assert list(overview.hold([], [sweep.folder], release=False).data["hold"]) == [t.run_id for t in sweep.trials if t]
    sbatch.answers("squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(RunError, match=r"Slurm does not answer .*Unable to contact"):
        overview.hold([], [sweep.folder], release=True)


def test_a_slurm_that_is_silent_for_a_while_ends_no_task(
    sbatch: Sbatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_view, "ASK_S", 0.0)
    monkeypatch.setattr(submitit_executor, "result", lambda _folder, job_id: job_id)
    monkeypatch.setattr(submitit_executor.time, "sleep", lambda _seconds: None)
    sbatch.answers("sbatch", "echo Submitted batch job 7")
    sbatch.answers("scancel", "")
    once = sbatch.folder / "once"
    sbatch.answers("squeue", f"[ -e {once} ] || {{ touch {once}; echo Unable to contact >&2; exit 1; }}")
    folder = tmp_path / "logs"
    said: list[int] = []
    found = submitit_executor.run_array(
        abs, [1, 2], resources=Resources(), folder=folder, name="a", on_progress=lambda done, _all: said.append(done)
    )
    assert found == ["7_0", "7_1"] and said == [0, 0, 2]
    assert "scancel" not in (sbatch.folder / "notes").read_text()


def test_tasks_are_looked_for_in_their_folder_and_seldom_in_the_queue(
    sbatch: Sbatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitit_executor, "result", lambda _folder, job_id: job_id)
    sbatch.answers("sbatch", f"echo Submitted batch job 7; touch {tmp_path}/logs/7_0_0_result.pkl")
    sbatch.queue("7_0", "7_1")
    looks: list[int] = []

    def sleep(seconds: float) -> None:
        looks.extend([1] * (seconds == 1))  # submitit waits as well
        if len(looks) == 5:
            (tmp_path / "logs" / "7_1_0_result.pkl").touch()

    monkeypatch.setattr(submitit_executor.time, "sleep", sleep)
    submitit_executor.run_array(abs, [1, 2], resources=Resources(), folder=tmp_path / "logs", name="a")
    assert len(looks) == 5 and (sbatch.folder / "notes").read_text().split().count("squeue") == 1
