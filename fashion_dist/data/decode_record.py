"""By which way a run decodes for GPUs, as its folder says, and which `--decode` and `--cache` go with that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fashion_dist.data.options import DECODES, Decode
from fashion_dist.errors import ConfigError
from fashion_dist.io import is_listed, parse_dataclass, read_object
from fashion_dist.paths import RunDir

Asked = Literal["auto", "gpu", "gpu-whole", "cpu"]


@dataclass(frozen=True)
class DecodeRecord:
    """The content of `decode.json`.

    Args:
        way: of `DECODES`.
        why: what was wrong with a faster one, in a sentence; empty where nothing was.
        gpu: GPU, driver and DALI that the run began on, if known.
    """

    way: Decode
    why: str = ""
    gpu: str = ""

    @classmethod
    def read(cls, run: RunDir) -> DecodeRecord | None:
        """A run's; None where it has not decoded for a GPU yet.

        Raises:
            InputError: it cannot be read: `FILE: why`.
        """
        if not is_listed(run.decode):
            return None
        values = read_object(run.decode)
        return parse_dataclass(cls, values, run.decode) if values else None


def require_possible(asked: Asked, cache: str, kept: DecodeRecord | None, gpus: int | None) -> None:
    """Refuse what cannot be, or would give a run that has begun other pixels.

    Args:
        asked: `--decode`.
        cache: `--cache`.
        kept: what the run has decoded by until now.
        gpus: of a node; None where only the scheduler knows.

    Raises:
        ConfigError: it cannot be as asked.
    """
    on_gpu = asked in DECODES[:-1]
    if on_gpu and gpus == 0:
        raise ConfigError(f"--decode {asked} needs a CUDA GPU, and the run is to have none; allowed: auto, cpu")
    if on_gpu and cache != "none":
        raise ConfigError(
            f"--decode {asked} cannot be with --cache {cache}, which keeps the CPU's pixels; allowed: cpu"
        )
    if kept is None:
        return
    began = f"the run has decoded by {kept.way} from its beginning, and other pixels would be another run"
    if asked not in ("auto", kept.way):
        raise ConfigError(f"--decode {asked} is not possible: {began}; allowed: auto, {kept.way}, or --fresh")
    if kept.way != "cpu" and cache != "none":
        raise ConfigError(f"--cache {cache} keeps the CPU's pixels, and {began}; allowed: --cache none, or --fresh")
