"""Sites with other rules, each a local Slurm of its own: GPUs that are counted, a plugin that chooses, two clusters."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_home import Workplace, ranks, told, until
from slurm_calls import squared
from slurm_cluster import ROOT, UP, SlurmCluster, output, run, started, unavailable

from fashion_dist.cluster import slurm, submitit_executor
from fashion_dist.cluster.resources import Resources

pytestmark = [
    pytest.mark.slurm, pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a Slurm"),
]  # fmt: skip

LONG = ("train.epochs=1000",)


def _site(name: str) -> Iterator[Path]:
    try:
        with started(name) as conf:
            yield conf
    except RuntimeError as error:
        unavailable(str(error))


@pytest.fixture(scope="module")
def gpus() -> Iterator[Path]:
    """Nodes with four a100 each, and limits of accounts."""
    yield from _site("gpus")


@pytest.fixture(scope="module")
def plugin() -> Iterator[Path]:
    """No accounting, no default partition: job_submit.lua chooses one."""
    yield from _site("plugin")


@pytest.fixture
def on(make_home: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Workplace]:
    """Makes a working folder on the cluster of that slurm.conf, which every command of the test then finds."""

    def at(conf: Path) -> Workplace:
        monkeypatch.setenv("SLURM_CONF", str(conf))
        slurm.configuration.cache_clear()
        return Workplace(make_home(), cluster="slurm")

    return at


def dry_run(place: Workplace, *flags: str) -> str:
    return place.do([word for word in place.launch_argv("--dry-run", *flags) if word != "--json"]).out


def test_gpus_of_a_cluster_are_named_asked_for_and_missed(gpus: Path, on: Callable[[Path], Workplace]) -> None:
    place = on(gpus)
    # The README's own command trains on CPUs, and says which flag would not.
    assert "nodes of partition 'normal' have gpu:a100:4: --gpus-per-node 4 trains on their GPUs" in dry_run(place)
    argv = place.argv("sweep", "--task", "deepfashion", "--cluster", "slurm", "--dry-run", "--set", "optim.lr=0.1,0.2")
    assert "note: this run trains on CPUs, while nodes of partition 'normal' have gpu:a100:4" in place.do(argv).out
    # The default time limit is bounded by the partition's, and one that was asked for is told.
    output("scontrol", "update", "PartitionName=normal", "MaxTime=30")
    bounded = dry_run(place)
    assert "the time limit is the 30 min of the default partition" in bounded and "#SBATCH --time=30\n" in bounded
    assert "the time limit of 90 min is above the 30 of the default partition" in dry_run(place, "--time-min", "90")
    output("scontrol", "update", "PartitionName=normal", "MaxTime=INFINITE")
    # Each recipe for such nodes asks for one rank a GPU, that of the docs too.
    preset = place.home / "booster.toml"
    recipes = (ROOT / "docs" / "clusters.md").read_text().partition("## Recipes")[2]
    recipe = recipes.partition("```toml\n")[2].partition("```")[0].replace('"booster"', '"normal"')
    for text, asked in (
        (recipe.replace('account = "my-project"\n', ""), "gpus-per-node=a100:4"),
        ('gres = "gpu:a100:2"\n', "gres=gpu:a100:2"),
    ):
        preset.write_text(text)
        script = dry_run(place, "--preset", str(preset)).partition("# sbatch script\n")[2]
        assert f"#SBATCH --{asked}\n" in script and f"#SBATCH --ntasks-per-node={asked[-1]}\n" in script
        tested = script.partition("\nnothing was submitted")[0]
        path = place.home / "script.sh"
        path.write_text(tested)
        done = run("sbatch", "--test-only", path)
        assert done.returncode == 0, done.stderr
    # What the cluster has not got is sbatch's to say, with the whole of what was asked for.
    said = place.launch("--gpus-per-node", "h100:2")
    assert said.status == 2 and "asked for: gpus_per_node = h100:2 (--gpus-per-node)" in said.err, said.err
    # A driver is missing here, as a module or a container's flag would be: the run ends, and says so.
    said = place.launch("--gpus-per-node", "a100:2", "--wait")
    assert said.status == 1 and "2 GPUs a node were asked for, and this rank" in said.out, said.out
    assert "no NVIDIA driver" in said.out


@pytest.mark.slow
@pytest.mark.fault(30)
def test_a_limit_of_jobs_takes_a_part_of_a_sweep(gpus: Path, on: Callable[[Path], Workplace]) -> None:
    place = on(gpus)
    output("sacctmgr", "-i", "add", "account", "lab")
    output("sacctmgr", "-i", "add", "user", "root", "account=lab", "MaxSubmitJobs=2")
    argv = place.argv("sweep", "--task", "deepfashion", "--cluster", "slurm", "--wandb", "off", "--json", "--account",
                      "lab", "--hold", "--set", "train.batch_size=32", "optim.lr=0.1,0.2,0.3")  # fmt: skip
    said = place.do(argv)
    assert said.status == 2 and "AssocMaxSubmitJobLimit" in said.err and "--max-submit" in said.err, said.err
    assert output("squeue", "--noheader") == ""
    said = place.do([*argv, "--max-submit", "2"])
    assert said.status == 0 and (said.json["submitted"], said.json["left"]) == (2, 1), said.err
    output("scancel", "--user", "root")


def test_a_plugin_chooses_the_partition_and_refuses_in_its_own_words(
    plugin: Path, on: Callable[[Path], Workplace], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = on(plugin)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    assert "# note: the cluster has no default partition and none was given: sbatch decides" in dry_run(place)
    said = place.launch("--account", "closed")
    assert said.status == 2 and "the project closed has ended" in said.err, said.err
    assert "asked for: account = closed (--account)" in said.err
    said = place.do(place.argv("sweep", "--task", "deepfashion", "--cluster", "slurm", "--set", "train.batch_size=32",
                               "optim.lr=0.1,0.2"))  # fmt: skip
    assert said.status == 2 and "this cluster allows no job arrays (MaxArraySize = 0)" in said.err, said.err
    assert submitit_executor.run_array(
        squared, [2, 3], resources=Resources(time_min=5), folder=place.home / "squares", name="squares"
    ) == [4, 9]  # fmt: skip
    # A list of partitions, one of them hidden, is sbatch's too; what is unknown in it is not.
    said = place.launch("--partition", "normal,none")
    assert said.status == 2 and "invalid partition specified: none" in said.err, said.err
    said = place.launch("--partition", "normal,urgent", "--sbatch", "begin=now+1hour")
    assert said.status == 0, said.err
    # Cancelled before it began, where no accounting remembers it.
    run_id = place.run().name
    assert place.status(run_id, "--cancel").status == 0
    (view,) = place.status(run_id, "--json").json["runs"]
    assert (view["state"], view["detail"]) == ("cancelled", "the job was cancelled before it started")


@pytest.mark.slow
@pytest.mark.fault(31)
def test_without_accounting_and_for_a_while_without_a_controller_each_end_is_told(
    plugin: Path, on: Callable[[Path], Workplace]
) -> None:
    place = on(plugin)
    place.launch("--nodes", "2", settings=LONG)
    run_folder = place.run()

    def view() -> dict[str, Any]:
        found: dict[str, Any] = place.status(run_folder.name, "--json").json["runs"][0]
        return found

    place.wait_for_steps(run_folder)
    os.kill(ranks(run_folder)[1], signal.SIGKILL)
    until(lambda: view()["state"] == "failed", "the run has failed", lambda: told(run_folder))
    assert "rank 1 was killed" in view()["detail"]
    # The run knows that it failed before Slurm has ended the job, beside which nothing is submitted.
    until(
        lambda: place.launch("--nodes", "2", settings=LONG).json["outcome"] == "submitted", "it is launched again",
        lambda: told(run_folder),
    )  # fmt: skip
    place.wait_for_steps(run_folder, attempt=2)
    os.kill(int((plugin.parent / "run" / "slurmctld.pid").read_text()), signal.SIGKILL)
    try:
        assert view()["state"] == "running" and view()["detail"].startswith("Slurm does not answer")
        said = place.do([word if word != "slurm" else "auto" for word in place.launch_argv(settings=LONG)])
        assert said.status == 1 and "Slurm does not answer" in said.err and "nothing was submitted" in said.err
    finally:
        done = run(UP, FASHION_DIST_SLURM_DIR=str(plugin.parent), NODES="", CPUS_PER_NODE="", NETNS="")
        assert done.returncode == 0, done.stderr
    assert (view()["state"], view()["attempts"]) == ("running", 2)
    assert place.status(run_folder.name, "--cancel").status == 0
    # `stopped` where a step took less than Slurm's patience, so that it saved; else Slurm's words in the log say it.
    until(lambda: view()["state"] in ("stopped", "cancelled"), "the run is stopped", lambda: told(run_folder))
    assert "cancelled" in view()["detail"]


@pytest.mark.fault(28)
def test_a_run_of_another_cluster_is_known_there_alone(
    local_cluster: SlurmCluster, plugin: Path, on: Callable[[Path], Workplace]
) -> None:
    here = Path(os.environ["SLURM_CONF"])
    place = on(here)
    asked = ("--sbatch", "begin=now+1hour")
    job = place.launch(*asked).json["job"]
    run_id = place.run().name
    elsewhere = {"SLURM_CONF": str(plugin)}
    try:
        said = place.do(place.argv("status", run_id, "--json"), **elsewhere)
        (view,) = said.json["runs"]
        assert view["state"] == "queued" and view["detail"].startswith(f"on cluster {job['name']}, which alone knows")
        assert place.launch(*asked, **elsewhere).json["outcome"] == "active"
        said = place.do(place.argv("status", run_id, "--cancel"), **elsewhere)
        assert said.status == 1 and f"can only be ended from there: scancel {job['job_id']}" in said.err, said
        assert run("squeue", "--noheader", **elsewhere).stdout == ""
        assert place.status(run_id, "--json").json["runs"][0]["state"] == "queued"
    finally:
        output("scancel", job["job_id"])
