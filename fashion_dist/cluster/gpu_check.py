"""GPUs that were asked for and cannot be used end a rank with the cause: torch would train on CPUs in silence."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Mapping
from pathlib import Path

from fashion_dist.errors import RunError

_DRIVER = Path("/proc/driver/nvidia/version")


def require_gpu(asked: int | None) -> None:
    """Raise RunError, with the cause, where so many GPUs of a node were asked for and this rank can use none.

    None is a number that only the scheduler knows.
    """
    if asked == 0:
        return
    import torch

    with warnings.catch_warnings(record=True) as told:  # of an old driver torch warns, and says that there is no GPU
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    if usable:
        return
    said = next((str(warning.message) for warning in told if "driver" in str(warning.message)), "")
    cause = why_unusable(torch.__version__, torch.version.cuda, os.environ, said, has_driver=_DRIVER.exists())
    words = "1 GPU a node was" if asked == 1 else f"{asked} GPUs a node were" if asked else "GPUs were"
    raise RunError(f"{words} asked for, and this rank on {socket.gethostname()} can use none: {cause}")


def why_unusable(
    version: str, cuda: str | None, environment: Mapping[str, str], said: str = "", *, has_driver: bool
) -> str:
    """Why torch sees no GPU.

    A build for CPUs has no `cuda`. `said` is torch's own warning about the driver, if any; `has_driver` whether the
    kernel has NVIDIA's.
    """
    if cuda is None:
        return f"torch {version} is a build for CPUs; install the one for CUDA"
    if not has_driver:
        inside = any(name in environment for name in ("APPTAINER_NAME", "SINGULARITY_NAME", "ENROOT_ROOTFS"))
        if inside:
            return "the container does not see the node's driver (Apptainer's --nv, or pyxis's NVIDIA hook)"
        return "the node has no NVIDIA driver (no /proc/driver/nvidia)"
    devices = environment.get("CUDA_VISIBLE_DEVICES")
    if devices is not None and not devices.strip():
        return "CUDA_VISIBLE_DEVICES is empty: the scheduler gave this rank no device"
    if said:
        return " ".join(said.split()).partition(" Please ")[0]
    return f"torch {version} for CUDA {cuda} finds none; an older driver than that CUDA needs, or a device in use"
