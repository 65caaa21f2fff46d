"""What a preset, the user's SBATCH_* variables and flags ask of sbatch, and where each of it was given."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fashion_dist.cluster import containers, sbatch_options, submitit_executor
from fashion_dist.cluster.job_environment import job_environment, kept
from fashion_dist.cluster.launcher import LaunchRequest, blamed
from fashion_dist.cluster.placement import fill, resolve, told
from fashion_dist.cluster.resources import Preset, Resources, given
from fashion_dist.cluster.slurm import parse_partitions
from fashion_dist.errors import ConfigError, RunError

PRESET = """partition = "gpu"
gres = "gpu:a100:4"
mem = "64G"
exclusive = true
time = "1-00:00:00"
export = ["MY_LICENSE"]

[sbatch]
nice = 10
account = "lab"

[environment]
SITE = "x"
"""


def preset(tmp_path: Path, text: str) -> Preset:
    (tmp_path / "p.toml").write_text(text)
    return Preset.read(str(tmp_path / "p.toml"))


def test_a_preset_gives_whatever_sbatch_takes(tmp_path: Path) -> None:
    found = Resources(**preset(tmp_path, PRESET).values)
    assert found.sbatch == {"gres": "gpu:a100:4", "mem": "64G", "exclusive": "", "nice": "10"}
    assert (found.partition, found.account, found.time_min, found.ranks_per_node) == ("gpu", "lab", 1440, 4)
    text = submitit_executor.script(found, tmp_path / "logs", "x", "")
    for line in ("--gres=gpu:a100:4", "--mem=64G", "--exclusive", "--nice=10", "--time=1440", "--account=lab"):
        assert f"#SBATCH {line}\n" in text
    assert "MY_LICENSE" not in text and "gpus-per-node" not in text and "--ntasks-per-node=4\n" in text


def test_flags_come_before_variables_and_these_before_the_preset_as_in_sbatch(tmp_path: Path) -> None:
    shell = {"SBATCH_ACCOUNT": "mine", "SBATCH_QOS": "long", "SBATCH_PARTITION": "dev", "SBATCH_JOB_NAME": "x"}
    flags = {"partition": "fat", "gpus_per_node": "h100:2", "sbatch": {"nice": "3", "mem-per-cpu": "2G"}}
    values, origins = given(preset(tmp_path, PRESET), flags, shell)
    found = Resources(**values)
    assert (found.partition, found.account, found.qos, found.gpu_type, found.gpus) == ("fat", "mine", "long", "h100", 2)
    assert found.sbatch == {"exclusive": "", "nice": "3", "mem-per-cpu": "2G"}, "a flag is the whole of its group"
    where = str(tmp_path / "p.toml")
    assert origins == {
        "account": "SBATCH_ACCOUNT", "qos": "SBATCH_QOS", "partition": "--partition", "exclusive": f"{where}, line 4",
        "time_min": f"{where}, line 5", "export": f"{where}, line 6", "nice": "--nice", "mem-per-cpu": "--mem-per-cpu",
        "gpus_per_node": "--gpus-per-node",
    }  # fmt: skip
    assert "--gpus-per-node=h100:2" in submitit_executor.script(found, tmp_path, "x", "")


def test_an_empty_variable_asks_for_nothing_and_gpus_of_the_shell_count(tmp_path: Path) -> None:
    names = ("ACCOUNT", "GRES", "RESERVATION", "QOS", "WCKEY", "GPUS", "GPUS_PER_NODE", "MEM_PER_NODE")
    for name in names:
        values, _ = given(preset(tmp_path, PRESET), {}, {f"SBATCH_{name}": ""})
        lines = submitit_executor.script(Resources(**values), tmp_path / "logs", "x", "").splitlines()
        bare = [line for line in lines if re.fullmatch(r"#SBATCH --[\w-]+(=(''|None|False)?)?", line)]
        assert bare == ["#SBATCH --exclusive", "#SBATCH --requeue"]
    values, origins = given(Preset(), {}, {"SBATCH_GPUS_PER_NODE": "a100:4", "SBATCH_WCKEY": "w"})
    assert Resources(**values).gpus_asked == "a100:4" and origins["gpus_per_node"] == "SBATCH_GPUS_PER_NODE"
    values, origins = given(Preset(), {}, {"SBATCH_GPUS": "8"})
    assert Resources(**values).gpus_if_known is None and origins == {"gpus": "SBATCH_GPUS"}


def test_what_sbatch_refuses_is_shown_with_the_line_it_came_from(tmp_path: Path) -> None:
    values, origins = given(preset(tmp_path, PRESET), {}, {})
    words = "sbatch: error: Invalid generic resource (gres) specification"
    assert blamed(words, Resources(**values), origins) == (
        f"; asked for: gres = gpu:a100:4 ({tmp_path / 'p.toml'}, line 2)"
    )
    assert "nice = 10" in blamed("words", Resources(**values), origins)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('gres = "gpu:2"\ngpus_per_node = 2', "gpus_per_node and gres say the same in two ways"),
        ('mem = "2G"\nmem_gb = 2', "mem and mem_gb say the same in two ways"),
        ("time = 30\ntime_min = 20", "time and time_min say the same"),
        ('time = "soon"', "time takes sbatch's form"),
        ("gpus_per_node = true", "takes a number or TYPE:NUMBER"),
        ('gpus_per_node = "a100"', "takes a number or TYPE:NUMBER"),
        ('[sbatch]\n"n" = 1', "unknown sbatch option 'n'"),
        ('[sbatch]\noutput = "x"', "output is given by fashion-dist itself"),
        ('[sbatch]\nclusters = "b"', "another cluster's jobs cannot be followed from here"),
        ("[sbatch]\nnice = [1]", "nice takes text, a whole number, true or false"),
        ('[sbatch]\nbegin = "now\\nsrun rm"', "begin has a control character"),
        ('gres = "a\\u001b"', "gres has a control character"),
        ('partition = "a"\n[sbatch]\npartition = "b"', "partition stands twice"),
        ('mem = "1G"\n[sbatch]\nmem = "2G"', "mem stands twice; allowed: once"),
        ('[sbatch]\nmem_per_cpu = "1G"\nmem-per-cpu = "2G"', "mem-per-cpu stands twice"),
        ('setup = ["#SBATCH --nice"]', r"options of sbatch go into \[sbatch\]"),
        ('[environment]\nMY_API_KEY = "x"', "sounds like a secret; --export MY_API_KEY"),
        ('export = ["A=B"]', "a variable is not called 'A=B'"),
        ('[environment]\nA = "x\\ny"', "environment has a control character"),
    ],
)
def test_a_preset_that_cannot_be_is_one_sentence(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        preset(tmp_path, text)
    assert str(refused.value).startswith(str(tmp_path / "p.toml")) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"sbatch": {"gres": "gpu:1"}, "gpus_per_node": "1"}, "gpus_per_node and gres"),
        ({"sbatch": {"begin": "a\nb"}}, "control character"),
        ({"sbatch": {"nodes": "2"}, "nodes": 3}, "nodes is given twice"),
        ({"sbatch": {"nodes": "two"}}, "nodes takes a whole number"),
        ({"gpus_per_node": "a100:x"}, "TYPE:NUMBER"),
    ],
)
def test_flags_that_cannot_be(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        given(Preset(), flags, {})


def test_a_gres_without_gpus_goes_with_gpus(tmp_path: Path) -> None:
    found = Resources(**preset(tmp_path, 'gres = "nvme:1"\ngpus_per_node = 4').values)
    assert (found.gpus, found.sbatch["gres"]) == (4, "nvme:1")
    values, _ = given(Preset(), {"sbatch": {"exclusive": False}}, {"SBATCH_EXCLUSIVE": ""})
    assert values["sbatch"] == {}, "false takes a bare flag away"


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("0:30", 1), ("1:30", 2), ("1:30:00", 90), ("1-0", 1440), ("1-00:00:00", 1440), ("2-3:10", 3070),
     ("1-12", 2160), ("90:00", 90), *((text, 525_600) for text in ("UNLIMITED", "infinite", "-1", "0", "0:00"))],
)  # fmt: skip
def test_time_in_slurms_form(text: str, minutes: int) -> None:
    assert sbatch_options.minutes(text) == minutes


def test_cpus_are_counted_in_one_way(tmp_path: Path) -> None:
    def script(*options: str, **asked: Any) -> str:
        values, _ = given(Preset(values={"cpus_per_task": 4}), {**asked, "sbatch": sbatch_options.pairs(options)}, {})
        return submitit_executor.script(placed(**values).resources, tmp_path, "a", "")

    assert script().count("--cpus-per-task=4") == 2  # sbatch's and srun's
    text = script("cpus-per-gpu=8", gpus_per_node="2")
    assert "#SBATCH --cpus-per-gpu=8\n" in text and "cpus-per-task" not in text
    assert "cpus-per-task" not in script("tres-per-task=cpu:3", cpus_per_task=0)
    with pytest.raises(ConfigError, match="cpus-per-gpu and cpus_per_task say the same in two ways"):
        script("cpus-per-gpu=8", cpus_per_task=2)
    values, origins = given(Preset(values={"sbatch": {"cpus-per-gpu": "8"}}), {"cpus_per_task": 2}, {})
    assert values["sbatch"] == {} and origins["cpus_per_task"] == "--cpus-per-task"
    _, origins = given(Preset(), {}, {"SBATCH_CPUS_PER_GPU": "8"})
    assert origins == {"cpus-per-gpu": "SBATCH_CPUS_PER_GPU"}


SINFO = "gpu*|4|48+|1-00:00:00|gpu:a100:4(S:0-1),nvme:1\nlong|2|8|infinite|(null)\nlong|1|4|infinite|(null)\n"


def test_partitions_are_read_over_their_kinds_of_nodes() -> None:
    gpu, long = parse_partitions(SINFO)
    assert (gpu.is_default, gpu.nodes, gpu.cpus, gpu.limit_min, gpu.gpus) == (True, 4, 48, 1440, 4)
    assert gpu.gres == "gpu:a100:4"
    assert (long.nodes, long.cpus, long.limit_min, long.gpus) == (3, 4, None, 0)


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu:a100:4(S:1,3,5,7)", 4), ("gpu:4(S:0,2),nvme:1", 4), ("gpu:3090:4", 4), ("gpu:2080:8(S:0-1)", 8),
        ("gpu", 1), ("gpu:tesla", 1), ("gpu:7", 7), ("gpu:a100_1g.5gb:7,gpu:a100:1", 8), ("gpu:a100:no_consume:4", 4),
        ("gres/gpu:a100:2", 2), ("nvme:1,gpu_mem:80", 0), ("(null)", 0), ("", 0),
    ],
)  # fmt: skip
def test_gpus_are_counted_whatever_their_type_and_sockets_are_called(gres: str, gpus: int) -> None:
    assert sbatch_options.gpu_count(gres) == Resources(sbatch={"gres": gres}).gpus == gpus
    (part,) = parse_partitions(f"p*|1|1K|infinite|{gres}\n")
    assert (part.gpus, part.cpus) == (gpus, 1024) and ("(S:" not in part.gres)


@pytest.mark.parametrize(
    "sinfo", ["all*|9|8|1:00|(null)\nall*|2|8|1:00|gpu:4\nall*|2|8|1:00|gpu:2\n", "a|1|8|1:00|gpu:2\n"]
)
def test_gpus_of_some_nodes_or_of_partitions_that_a_plugin_chooses_are_told_too(sinfo: str) -> None:
    assert any("trains on CPUs" in note and "--gpus-per-node 2" in note for note in placed(sinfo).notes)


@pytest.mark.parametrize("option", ["gpus=8", "gpus-per-task=1", "tres-per-task=gres/gpu:1", "gres=shard:2"])
def test_gpus_whose_number_only_slurm_knows_are_gpus(option: str, tmp_path: Path) -> None:
    asked = Resources(sbatch=sbatch_options.pairs([option]), container="/torch.sif", nodes=2)
    assert asked.gpus_if_known is None and told(asked, "slurm").endswith("GPUs as sbatch gives them")
    assert "--nv" in containers.command(asked, tmp_path / "runs" / "r" / "logs", ["python"])
    (note,) = placed(sbatch=dict(asked.sbatch)).notes
    assert "--tasks-per-node N" in note and placed(sbatch=dict(asked.sbatch), tasks_per_node=4).notes == ()
    one = asked.of_one_rank
    assert (one.nodes, one.ranks, one.gpus_asked, one.sbatch) == (1, 1, "1", {})


@pytest.mark.parametrize(
    ("resources", "gpus"),
    [(Resources(sbatch={"gres": "gpu:a100:4", "nice": "1"}), "1"), (Resources(gpus_per_node=4, gpu_type="x"), "x:1"),
     (Resources(sbatch={"gres": "nvme:1", "gpu-bind": "closest"}), "")],
)  # fmt: skip
def test_one_rank_takes_one_gpu_at_most(resources: Resources, gpus: str) -> None:
    one = resources.replace(nodes=3, tasks_per_node=4).of_one_rank
    assert (one.ranks, one.gpus_asked) == (1, gpus)
    assert one.sbatch == {name: text for name, text in resources.sbatch.items() if "gpu:" not in text}


def placed(sinfo: str = SINFO, *, is_limit_asked: bool = False, **asked: Any) -> Any:
    return fill(Resources(**asked), {}, parse_partitions(sinfo), is_limit_asked=is_limit_asked)


def test_what_is_left_open_is_filled_from_the_partition_and_gpus_are_named() -> None:
    found = placed()
    assert found.resources.cpus_per_task == 16
    (note,) = found.notes
    assert note.startswith("this run trains on CPUs, while nodes of partition 'gpu' have gpu:a100:4")
    assert "--gpus-per-node 4" in note
    assert placed(gpus_per_node=4).notes == () == placed(sbatch={"gres": "gpu:1"}).notes
    assert placed(partition="long").notes == ()
    assert told(placed(gpus_per_node=4, gpu_type="a100", nodes=2).resources, "slurm") == (
        "8 ranks on 2 nodes, on 4 a100 GPUs each"
    )
    assert told(Resources(), "local") == "1 rank on this machine, on CPUs"


def test_what_only_slurm_knows_is_told_on_this_machine_and_time_holds_by_either_name() -> None:
    def here(**flags: Any) -> Any:
        return resolve(LaunchRequest("clipart", resources=flags), "local")

    assert here(nodes=2, sbatch={"time": "1:30:00"}).resources.time_min == here(time_min=90).resources.time_min == 90
    assert here(nodes=2).notes == here(sbatch={"time": "90", "exclusive": False}).notes == ()
    assert here(partition="gpu", mem_gb=4.0, sbatch={"dependency": "afterok:1"}).notes == (
        "--partition, --mem-gb, --dependency: for Slurm's queue, and nothing on this machine",
    )
    with pytest.raises(ConfigError, match="--gpus-per-node a100:999: this machine has"):
        here(sbatch={"gpus-per-node": "a100:999"})


def test_a_time_limit_above_the_partitions_is_bounded_or_told() -> None:
    short = "gpu*|4|8|30:00|(null)\n"
    found = placed(short)
    assert found.resources.time_min == 30 and "the time limit is the 30 min" in found.notes[0]
    found = placed(short, is_limit_asked=True, time_min=90)
    assert found.resources.time_min == 90 and "unless a QOS lifts that" in found.notes[0]


def test_only_what_is_known_to_be_wrong_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert placed(partition="gpu,long", nodes=4).resources.partition == "gpu,long"
    with pytest.raises(ConfigError, match="--nodes 5 is more than the 4 of partition 'gpu,long'"):
        placed(partition="gpu,long", nodes=5)
    nobody = placed("a|2|8|infinite|(null)\n", nodes=9)
    assert "no default partition" in nobody.notes[0] and nobody.resources.cpus_per_task == 8
    plugin = {"JobSubmitPlugins": "(null)"}
    monkeypatch.setattr("fashion_dist.cluster.slurm.configuration", lambda: plugin)
    with pytest.raises(ConfigError, match="unknown partition 'x'; known: gpu, long"):
        placed(partition="gpu,x")
    plugin["JobSubmitPlugins"] = "lua"
    assert "the cluster's lua plugin may" in placed(partition="x", nodes=99).notes[0]


def test_a_job_gets_what_training_needs_and_what_is_added() -> None:
    shell = {
        "PATH": "p", "BASH_FUNC_module%%": "() {  x; }", "LMOD_CMD": "l", "MODULEPATH": "m", "UCX_TLS": "rc",
        "FI_PROVIDER": "efa", "PYTORCH_CUDA_ALLOC_CONF": "e", "KRB5CCNAME": "k", "APPTAINER_BIND": "/a",
        "REQUESTS_CA_BUNDLE": "c", "OMP_PROC_BIND": "true", "CUDA_LAUNCH_BLOCKING": "1",
    }  # fmt: skip
    other = {"AWS_SECRET": "s", "SLURM_JOB_ID": "1", "RANK": "0", "CUDA_VISIBLE_DEVICES": "0", "OMP_NUM_THREADS": "9"}
    assert kept({**shell, **other}, "slurm") == shell
    added = Resources(export=("RANK", "OMP_NUM_THREADS"), environment={"SITE": "x"})
    assert kept({**shell, **other}, "slurm", added) == {**shell, "RANK": "0", "OMP_NUM_THREADS": "9", "SITE": "x"}
    assert kept(other, "local") == {"CUDA_VISIBLE_DEVICES": "0"}


def test_module_works_in_setup_and_a_line_that_fails_ends_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASH_FUNC_module%%", '() {  if [ "$2" = CUDA ]; then export CUDA_AT=here; else return 3; fi\n}')

    def run(*setup: str) -> subprocess.CompletedProcess[str]:
        with job_environment("slurm"):
            script = "\n".join([*submitit_executor.setup_lines(setup), 'echo "trains with $CUDA_AT"'])
            return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)

    assert run("module load CUDA", "true").stdout == "trains with here\n"
    done = run("module load CUDA", "module load not-there", "true")
    assert done.returncode == 3 and done.stdout == ""
    assert done.stderr == "error: a setup line failed with status 3: module load not-there\n"


def test_ranks_run_in_a_container(tmp_path: Path) -> None:
    logs = tmp_path / "runs" / "r" / "logs"
    image = Resources(container="/images/torch.sif", gpus_per_node=2)
    words = containers.command(image, logs, ["/usr/bin/python3", "-u", "-P"])
    assert words[:5] == ["apptainer", "exec", "--nv", "--bind", str(tmp_path)]
    assert words[-4:] == ["/images/torch.sif", "python3", "-u", "-P"] and containers.srun_arguments(image, logs) == []
    assert "--nv" not in containers.command(dataclasses.replace(image, gpus_per_node=0), logs, ["python"])
    text = submitit_executor.script(image, logs, "x", "").partition("# command\n")[2]
    logs.mkdir(parents=True)
    (logs / "7_requeue").touch()  # as a rank does that has no scontrol
    done = subprocess.run(
        ["bash", "-c", f"srun() {{ return 4; }}; scontrol() {{ echo scontrol $*; }}\n{text}"], check=False,
        env={"SLURM_JOB_ID": "7", "PATH": "/usr/bin:/bin"}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (4, "scontrol requeue 7\n") and not (logs / "7_requeue").exists()
    pyxis = Resources(container="pyxis:nvcr.io#nvidia/pytorch:25.01-py3", container_python="python")
    text = submitit_executor.script(pyxis, logs, "x", "")
    assert "--container-image=nvcr.io#nvidia/pytorch:25.01-py3" in text
    assert f"--container-mounts={tmp_path}:{tmp_path}," in text and '"$@"\' python -u' in text


def test_a_job_id_is_found_below_a_sites_banner() -> None:
    banner = "-----\n  Welcome to the 12 nodes\n--> Verifying valid submit host (login1)...OK\n"
    assert submitit_executor.submitted_id(f"{banner}4711\n") == "4711"
    assert submitit_executor.submitted_id(f"{banner}4711;cluster-2\n") == "4711"
    said = f"{banner}Your job 99 is over\nSubmitted batch job 4712 on cluster b\n"
    assert submitit_executor.submitted_id(said) == "4712"
    with pytest.raises(RunError, match="printed no job id"):
        submitit_executor.submitted_id("-----\nWelcome\n")
