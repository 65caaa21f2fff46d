"""How other Pythons are started: the folder that somebody stands in is never a place for code.

`python -m` and `-c` put the current folder first on `sys.path`, so that a `numpy.py` in a downloaded folder is run by
whoever launches from there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# For Python 3.10, which has no -P: what `-c` put first goes before anything but sys is imported.
_WITHOUT_P = (
    "import sys; del sys.path[0]; import runpy; sys.argv = sys.argv[sys.argv.index('-m') + 1:]; "
    "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)


def interpreter() -> list[str]:
    """The words to which `-m MODULE ARGUMENTS` is added."""
    return [sys.executable, "-u", *(["-P"] if hasattr(sys.flags, "safe_path") else ["-c", _WITHOUT_P])]


def start_detached(*words: str, env: Mapping[str, str], output: Any = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """`python -m WORDS` in a session of its own, which outlives this process."""
    how: dict[str, Any] = {"start_new_session": True, "stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
    process = subprocess.Popen([*interpreter(), "-m", *words], env=dict(env), **how)
    process.returncode = 0  # it is not ours to wait for; Popen would warn about that
    return process


def search_path(environment: Mapping[str, str], code: Path | None = None) -> dict[str, str]:
    """PYTHONPATH and PYTHONSAFEPATH for a child: `code`, else this checkout first.

    No entry is empty, which would mean the current folder. Relative entries become what they mean now.
    PYTHONSAFEPATH also reaches what the child starts, from Python 3.11 on.
    """
    root = Path(__file__).parents[2]
    if code is None and (root / "pyproject.toml").is_file():
        code = root  # a checkout that need not be installed
    own = [str(code)] if code is not None else []
    kept = [os.path.abspath(entry) for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]  # noqa: PTH100
    path = os.pathsep.join([*own, *(entry for entry in kept if entry not in own)])
    return {"PYTHONSAFEPATH": "1", **({"PYTHONPATH": path} if path else {})}
