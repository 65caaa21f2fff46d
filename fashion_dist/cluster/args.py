"""The flags of every command that launches runs: the task, where, and with which resources."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fashion_dist import cli
from fashion_dist.cluster import sbatch_options
from fashion_dist.cluster.job_record import RuntimeOptions
from fashion_dist.errors import ConfigError
from shards.safe_io import expanded

if TYPE_CHECKING:
    from fashion_dist.cluster.launcher import LaunchRequest

_RESOURCES = (
    "nodes", "partition", "account", "qos", "constraint", "gpus_per_node", "tasks_per_node", "cpus_per_task",
    "mem_gb", "time_min", "container", "export",
)  # fmt: skip
_OPTIONS = (*(name.replace("-", "_") for name in sbatch_options.NAMED), "time")


@dataclass(frozen=True, kw_only=True)
class RunArgs(cli.CommonArgs):
    """What the commands launch and sweep have in common."""

    task: str
    """What to learn: a file of fashion_dist/tasks."""
    dataset: str = ""
    """The shard set, a folder under HOME/shards; else the task's own."""
    shards: str = ""
    """Folder of shard sets, or of one; else $FASHION_DIST_SHARDS, else HOME/shards. Only read, so anyone's will do."""
    model: str = ""
    """A network of ours, torchvision's or timm's (torchvision/NAME, timm/NAME choose); else the recipe's."""
    weights: str = ""
    """none, imagenet, NETWORK.TAG, a file of tensors, or a run; brings the recipe for finetuning."""
    nodes: cli.MaybeInt = None
    """Nodes of a run, else one; with --cluster local, tasks on this machine stand for them."""
    cluster: Literal["auto", "slurm", "local"] = "auto"
    """Where; auto is Slurm where it answers."""
    preset: str = ""
    """A cluster's description, one of fashion_dist/cluster/presets or a file; flags replace parts of it."""
    partition: cli.MaybeStr = None
    """Slurm partition."""
    account: cli.MaybeStr = None
    """Slurm account."""
    qos: cli.MaybeStr = None
    """Slurm quality of service."""
    constraint: cli.MaybeStr = None
    """Features that the nodes must have."""
    gpus_per_node: cli.MaybeStr = None
    """GPUs of a node, such as 4 or a100:4; locally all there are, and for a trial of a sweep its share of them."""
    tasks_per_node: cli.MaybeInt = None
    """Ranks of a node; else one per GPU, or one."""
    cpus_per_task: cli.MaybeInt = None
    """CPUs of a rank; else its share of a node, at most 16."""
    mem_gb: cli.MaybeFloat = None
    """Memory of a node; else the partition's default."""
    time_min: cli.MaybeInt = None
    """Time limit of a job; a run that reaches it saves, is requeued and goes on. Else 60, locally none."""
    time: cli.MaybeStr = None
    """Time limit in Slurm's form, such as 1-00:00:00."""
    mem: cli.MaybeStr = None
    """Memory of a node as sbatch takes it; 0 is all of it."""
    mem_per_cpu: cli.MaybeStr = None
    """Memory per CPU, as sbatch takes it."""
    mem_per_gpu: cli.MaybeStr = None
    """Memory per GPU, as sbatch takes it."""
    gres: cli.MaybeStr = None
    """Generic resources of a node, such as gpu:a100:4."""
    exclusive: bool = False
    """Whole nodes."""
    reservation: cli.MaybeStr = None
    """Slurm reservation."""
    exclude: cli.MaybeStr = None
    """Nodes to leave out."""
    nodelist: cli.MaybeStr = None
    """Nodes to take."""
    dependency: cli.MaybeStr = None
    """Jobs to wait for, as sbatch takes them."""
    licenses: cli.MaybeStr = None
    """Licenses of the job."""
    hint: cli.MaybeStr = None
    """How to bind, as sbatch takes it, such as nomultithread."""
    mail_type: cli.MaybeStr = None
    """When Slurm writes mail, such as END,FAIL."""
    mail_user: cli.MaybeStr = None
    """To whom."""
    sbatch: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    """Any other option of sbatch as key=value, such as nice=10."""
    export: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    """Variables of this shell that the job gets as well."""
    container: cli.MaybeStr = None
    """Run the ranks in this image: Apptainer's file or URI, or pyxis:IMAGE."""
    time_limits: cli.MaybeInt = None
    """How many time limits a run goes on after by itself; else 20."""
    stage: cli.MaybeStr = None
    """Copy shards to node-local disk first: off, auto, or a folder; else off."""
    cache: Annotated[Literal["none", "ram", "gpu", "auto"] | None, tyro.conf.arg(metavar="{none,ram,gpu,auto}")] = None
    """Keep decoded images; else none."""
    decode: Annotated[
        Literal["auto", "gpu", "gpu-whole", "cpu"] | None, tyro.conf.arg(metavar="{auto,gpu,gpu-whole,cpu}")
    ] = None
    """Decode for GPUs there (crops, or whole images) or on the CPU; else the fastest that its self-test finds right."""
    bad_samples: Annotated[Literal["fail", "skip"] | None, tyro.conf.arg(metavar="{fail,skip}")] = None
    """What to do with a sample that does not decode; else fail."""
    wandb: Annotated[
        Literal["auto", "online", "offline", "off"] | None, tyro.conf.arg(metavar="{auto,online,offline,off}")
    ] = None
    """Weights & Biases; else auto, which is online with WANDB_API_KEY and offline without."""
    track: cli.MaybeStr = None
    """Who is told the curves beside metrics.jsonl: wandb, tensorboard, both with a comma, or none; else wandb."""
    peer_timeout_s: cli.MaybeFloat = None
    """How long a rank waits for a silent peer before the job fails; else 120."""
    group: str = ""
    """Open what is written to this group, for reading; else it is yours alone."""
    snapshot: bool = False
    """Run from a copy of the code as it is now, whatever becomes of it while the job waits."""
    debug: bool = False
    """Try every step in a minute: a hundredth of the data, one epoch, no W&B."""

    def request(self, settings: tuple[str, ...] = (), fresh: bool = False) -> LaunchRequest:
        """What these flags ask for, with `key=value` settings that are the same for all runs."""
        from fashion_dist.cluster.launcher import LaunchRequest  # numpy and more, which --help need not wait for

        return LaunchRequest(
            task=self.task, dataset=self.dataset, model=self.model, weights=self.weights, settings=settings,
            home=self.home, cluster=self.cluster, preset=self.preset,
            resources=self.resources(),
            options=RuntimeOptions(**self.options()), fresh=fresh, group=self.group, debug=self.debug,
            shards=self.shards, snapshot=self.snapshot,
        )  # fmt: skip

    def resources(self) -> dict[str, Any]:
        """What is asked of the cluster: fields of `Resources` that are given, sbatch's options under `sbatch`."""
        given = {name: getattr(self, name) for name in _RESOURCES if getattr(self, name) not in (None, ())}
        if "export" in given:
            given["export"] = cli.settings(self.export)
        options: dict[str, Any] = sbatch_options.pairs(cli.settings(self.sbatch))
        for name in _OPTIONS:
            if (value := getattr(self, name)) not in (None, False):
                if name.replace("_", "-") in options:
                    raise ConfigError(f"--{name.replace('_', '-')} and --sbatch {name}= say the same; allowed: one")
                options[name.replace("_", "-")] = value
        if self.time is not None and self.time_min is not None:
            raise ConfigError("--time and --time-min say the same; allowed: one of them")
        return {**given, **({"sbatch": options} if options else {})}

    def options(self) -> dict[str, Any]:
        """The fields of `RuntimeOptions` that are given."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(RuntimeOptions)}
        if self.debug:
            given["wandb"] = "off"
        if self.stage not in (None, "off", "auto"):
            given["stage"] = str(expanded(self.stage).absolute())  # as this shell means it
        if self.track is not None:
            from fashion_dist.tracking import trackers  # numpy and more, which --help need not wait for

            given["track"] = ",".join(trackers.parse(self.track)) or "none"
        return {name: value for name, value in given.items() if value is not None}
