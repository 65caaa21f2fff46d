"""What a job gets of the launching shell: names that training needs, those that a site or a user adds, and no others.

Other keys, an enclosing job's SLURM_* and a wandering RANK stay out, so that a job behaves the same wherever it was
launched from. No value is written to a file: sbatch hands the environment to Slurm.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from fashion_dist.cluster import safe_python
from fashion_dist.cluster.resources import Resources
from fashion_dist.cluster.slurm import Cluster
from fashion_dist.io import OTHERS_WRITE

NAMES = {
    *("PATH", "LD_LIBRARY_PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR"),
    *("PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX", "XDG_CACHE_HOME", "SLURM_CONF", "NETRC", "KRB5CCNAME"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    # What `module` needs in setup: the function itself is exported as BASH_FUNC_module%%.
    *("MODULEPATH", "MODULESHOME", "LOADEDMODULES", "_LMFILES_", "BASH_ENV", "ENV"),
}
BEGINNINGS = (
    "LC_", "NCCL_", "GLOO_", "TORCH_", "TORCHINDUCTOR_", "TRITON_", "PYTORCH_", "CUDA_", "UCX_", "FI_", "OMP_",
    "WANDB_", "HF_", "FASHION_DIST_", "APPTAINER_", "APPTAINERENV_", "SINGULARITY_", "SINGULARITYENV_", "LMOD_",
    "__LMOD_", "MODULES_", "BASH_FUNC_",
)  # fmt: skip
_CHOSEN = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
"""Slurm gives each job its own devices, and each rank sets its own threads."""


def kept(environment: Mapping[str, str], cluster: Cluster, resources: Resources | None = None) -> dict[str, str]:
    """The part of the launching shell's environment that a job inherits, with what the user adds in `resources`."""
    added = set(resources.export) if resources is not None else set()
    left_out = set(_CHOSEN) - ({"CUDA_VISIBLE_DEVICES"} if cluster == "local" else set()) - added
    names = NAMES | added
    found = {k: v for k, v in environment.items() if (k in names or k.startswith(BEGINNINGS)) and k not in left_out}
    return {**found, **(resources.environment if resources is not None else {})}


@contextlib.contextmanager
def job_environment(
    cluster: Cluster, code: Path | None = None, resources: Resources | None = None
) -> Iterator[None]:  # fmt: skip
    """Within, `os.environ` is what a job shall inherit (see `kept`), and others may not write what is made.

    `code` is a folder with the packages that the job shall run, if not these.
    """
    before = dict(os.environ)
    inherited = kept(before, cluster, resources)
    path = {**before, "PYTHONPATH": inherited.pop("PYTHONPATH", "")}
    umask = os.umask(0o077)
    os.umask(umask | OTHERS_WRITE)
    os.environ.clear()
    os.environ.update(inherited | safe_python.search_path(path, code))
    try:
        yield
    finally:
        os.umask(umask)
        os.environ.clear()
        os.environ.update(before)
