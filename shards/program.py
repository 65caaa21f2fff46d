"""How the commands are typed here, so that a hint can be pasted."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
_MAIN = CHECKOUT / "fashion_dist" / "__main__.py"


def command(name: str) -> str:
    """The words that start a command: as this process was started, else as a checkout or an installation starts it."""
    script = Path(sys.argv[0])
    if script.stem == "fashion-dist":
        return f"fashion-dist {name}"
    if script == _MAIN:
        return f"python -m fashion_dist {name}"
    return f"python jobs/{name}.py" if (CHECKOUT / "jobs" / f"{name}.py").is_file() else f"fashion-dist {name}"


def typed() -> str:
    """The command line of this process, for the record; it works when pasted in the same folder."""
    script = Path(sys.argv[0])
    if script.stem == "fashion-dist":
        return shlex.join(["fashion-dist", *sys.argv[1:]])
    if script == _MAIN:
        return shlex.join(["python", "-m", "fashion_dist", *sys.argv[1:]])
    return shlex.join([Path(sys.executable).name, *sys.argv])
