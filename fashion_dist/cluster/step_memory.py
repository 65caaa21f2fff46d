"""What a training step takes of a card's memory, and the setting that fits, before anything is submitted."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from fashion_dist import tasks
from fashion_dist.cluster import network_check
from fashion_dist.cluster.resources import Resources
from fashion_dist.cluster.slurm import Cluster
from fashion_dist.config import Config, OptimConfig, Stage
from fashion_dist.errors import ConfigError
from fashion_dist.paths import Home


@dataclass(frozen=True)
class StepMemory:
    """An estimate, without the heads, cuDNN's workspaces, the loader's batches and what CUDA itself takes.

    Args:
        fixed: bytes of weights, gradients, optimizer and average.
        per_image: bytes of activations.
        images: of a rank's micro-batch.
    """

    fixed: int
    per_image: int
    images: int

    @classmethod
    def of(cls, config: Config, cost: Mapping[str, int], resources: Resources, per_example: int) -> StepMemory | None:
        """The estimate for `config` by a network's `step_cost`; None where that is empty or the backbone is frozen.

        `per_example` is how many images an example has.
        """
        if not cost or config.model.freeze == "backbone":
            return None
        train, weights = config.train, cost["parameters"]
        half = train.precision in ("bf16", "fp16") or (train.precision == "auto" and resources.gpus > 0)
        fixed = (2 + _states(config.optim)) * weights + cost["buffers"] + (cost["casts"] if half else 0)
        fixed += weights + cost["buffers"] if train.ema else 0
        images = train.batch_size // (resources.ranks * train.accumulate) * per_example
        return cls(fixed, cost["activations_half" if half else "activations_fp32"], images)

    @property
    def bytes(self) -> int:
        """All of it."""
        return self.fixed + self.per_image * self.images

    def told(self) -> str:
        """For a person."""
        activations = self.per_image * self.images
        return (
            f"a step takes about {_size(self.bytes)} of a rank's memory: {_size(self.fixed)} for weights, gradients "
            f"and optimizer, {_size(activations)} for activations of {self.images} images"
        )

    def too_much(self, card: int, config: Config, ranks: int) -> str:
        """That it is more than the `card` bytes of a GPU, with what fits; empty where it is not."""
        if self.bytes <= card:
            return ""
        train = config.train
        whole, share = self.per_image * self.images * train.accumulate, train.batch_size // ranks
        more = range(train.accumulate + 1, share + 1)
        fitting = next((n for n in more if share % n == 0 and self.fixed + whole // n <= card), 0)
        advice = train.advise(fitting) if fitting else "only a smaller network or data.image_px"
        return f"{self.told()}; a GPU has {_size(card)}: {advice} fits"


def estimate(config: Config, resources: Resources, home: Home, *, ask: bool) -> StepMemory | None:
    """The estimate for a run, or None where nothing is known of its network.

    Args:
        config: of the run.
        resources: of its job.
        home: keeps what is known of networks.
        ask: look at a network that was not looked at yet, which takes seconds.

    Raises:
        ConfigError: the network that was to be looked at cannot be built.
    """
    look = network_check.look_at if ask else network_check.known
    found = look(config.model, config.data.image_px, home)
    if found is None or not found.step:
        return None
    return StepMemory.of(config, found.step, resources, tasks.load(config.task).images_per_example)


def note(config: Config, resources: Resources, cluster: Cluster, home: Home, *, ask: bool) -> str:
    """What a step takes where that is more than a GPU has, with what fits; else empty, but where it was to `ask`."""
    if not (card := card_bytes(resources, cluster)) and not ask:
        return ""
    try:
        step = estimate(config, resources, home, ask=ask)
    except ConfigError as error:
        return str(error)
    if step is None:
        return "what a step takes of memory is not known for this network" if ask else ""
    return (card and step.too_much(card, config, resources.ranks)) or (step.told() if ask else "")


def _states(optim: OptimConfig) -> int:
    """Numbers that an optimizer keeps for each weight; of stages, the one that keeps most."""
    names = [Stage.parse(text).name for text in optim.stages] or [optim.name]
    return max(2 if name != "sgd" else int(optim.momentum > 0) for name in names)


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


_SIZE = re.compile(r"(\d+)gb?(?![a-z\d])", re.IGNORECASE)


def card_bytes(resources: Resources, cluster: Cluster) -> int:
    """Memory of a GPU that the run gets; 0 where nobody says: here `nvidia-smi`, elsewhere the name of the GPU's type
    (`a100-80g`, `3g.20gb`) or the preset.
    """
    if not resources.gpus:
        return 0
    if cluster == "slurm":
        named = _SIZE.findall(" ".join((resources.constraint, resources.sbatch.get("gres", ""), resources.gpu_type)))
        return int(float(named[-1] if named else resources.gpu_mem_gb) * 1e9)
    if (tool := shutil.which("nvidia-smi")) is None:
        return 0
    asked = [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=5, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return min((int(line) << 20 for line in told.split() if line.isdigit()), default=0)
