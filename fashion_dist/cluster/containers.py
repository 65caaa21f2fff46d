"""How the ranks are started in a container: Apptainer's words before Python's, or pyxis's options of srun."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from fashion_dist.cluster.resources import Resources

_PYXIS = "pyxis:"


def command(resources: Resources, folder: Path, interpreter: Sequence[str]) -> list[str]:
    """The words that start Python in a rank, to which `-m MODULE` is added.

    Without a container the ranks run `interpreter`, Python outside with its flags. `folder` is that of the job's logs,
    in the working folder that the ranks read and write.
    """
    if not resources.container:
        return list(interpreter)
    inside = [resources.container_python, *interpreter[1:]]
    if resources.container.startswith(_PYXIS):
        return inside
    mounts = [word for path in _shared(folder) for word in ("--bind", str(path))]
    driver = ["--nv"] if resources.gpus_if_known != 0 else []
    return ["apptainer", "exec", *driver, *mounts, resources.container, *inside]


def srun_arguments(resources: Resources, folder: Path) -> list[str]:
    """What srun needs for a container of pyxis."""
    if not resources.container.startswith(_PYXIS):
        return []
    mounts = ",".join(f"{path}:{path}" for path in _shared(folder))
    return [f"--container-image={resources.container.removeprefix(_PYXIS)}", f"--container-mounts={mounts}"]


def _shared(folder: Path) -> list[Path]:
    """The working folder (HOME/runs/RUN/logs) and the code, at the same places inside as outside."""
    home, code = folder.absolute().parents[2], Path(__file__).parents[2]
    return [home, *([] if code.is_relative_to(home) else [code])]


def requeue_file(folder: Path, job_id: str) -> Path:
    """Made by a rank that has no scontrol at hand, or whose peers may be lost; looked for by the batch script."""
    return folder / f"{job_id}_requeue"


def after_ranks(folder: Path) -> str:
    """Shell lines after srun: requeue the job where rank 0 asked for it by a file, and keep srun's status."""
    path = str(requeue_file(folder.absolute(), "JOB")).split("JOB")
    wanted = f'{shlex.quote(path[0])}"$SLURM_JOB_ID"{shlex.quote(path[1])}'
    return f'status=$?\nif [ -e {wanted} ]; then rm -f {wanted}; scontrol requeue "$SLURM_JOB_ID"; fi\nexit $status\n'
