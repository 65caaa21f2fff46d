"""How the loader works, as opposed to what it yields: on one kind of device nothing here changes an order, and only
`decode` the last bits of a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fashion_dist.errors import ConfigError

Decode = Literal["gpu", "gpu-whole", "cpu"]
DECODES: tuple[Decode, ...] = ("gpu", "gpu-whole", "cpu")
"""Ways of decoding for a GPU, each safer than the one before; pixels differ in their last bits from way to way.

`gpu` decodes the crop of each JPEG there, `gpu-whole` whole images, `cpu` crops on the CPU.
"""


@dataclass(frozen=True)
class LoaderOptions:
    """Settings of the loader that are no part of the run id, because results do not depend on them."""

    cache: Literal["none", "ram", "gpu", "auto"] = "none"
    """Keep decoded images: not at all, in memory shared by the ranks of a node, so that none is decoded twice, on the
    GPU, where each rank keeps what it has seen itself, or where they fit. Batches are the same bits with and without;
    but a GPU that caches takes its pixels from the CPU's libjpeg-turbo, whose last bits are not nvJPEG's."""
    decode: Decode = "gpu-whole"
    """How a GPU without a cache gets its images, one of `DECODES`; a rank without a GPU decodes on the CPU."""
    cache_gb: float = 0.0
    """Largest size of the cache on a node, in 10^9 bytes; 0 is half of what is free at the start, on a GPU a quarter.
    What does not fit is decoded every time."""
    stage: str = "off"
    """Copy the shards to a node's own disk first: `off`, `auto` ($SLURM_TMPDIR, else $TMPDIR), or a folder."""
    bad_samples: Literal["fail", "skip"] = "fail"
    """A damaged sample ends the run, or is replaced (in evaluation: left out), counted and listed."""
    threads: int = 0
    """Threads of this rank that decode; 0 is this process's cores divided by the ranks of the node."""
    read_threads: int = 64
    """Most reads under way at once; threads start only when reads are slow."""

    def __post_init__(self) -> None:
        for name in ("threads", "cache_gb"):
            if getattr(self, name) < 0:
                raise ConfigError(f"loader option {name} = {getattr(self, name)} is not possible; allowed: 0 or more")
        if self.read_threads < 1:
            raise ConfigError(f"loader option read_threads = {self.read_threads} is not possible; allowed: 1 or more")
        if self.bad_samples not in ("fail", "skip"):
            raise ConfigError(f"--bad-samples {self.bad_samples!r} is not possible; allowed: fail, skip")
        if self.decode not in DECODES:
            raise ConfigError(f"--decode {self.decode!r} is not possible; allowed: auto, {', '.join(DECODES)}")
        if self.cache not in ("none", "ram", "gpu", "auto"):
            raise ConfigError(f"--cache {self.cache!r} is not possible; allowed: none, ram, gpu, auto")
