"""How the commands are typed here, so that a hint can be pasted."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
_MAIN = CHECKOUT / "fashion_dist" / "__main__.py"


def command(name: str, *words: object) -> str:
    """A command to be pasted: as this process was started, else as a checkout or an installation starts it.

    `words` follow its name, quoted: names of folders may be anybody's.
    """
    script = Path(sys.argv[0])
    start = f"fashion-dist {name}"
    if script == _MAIN:
        start = f"python -m fashion_dist {name}"
    elif script.stem != "fashion-dist" and (CHECKOUT / "jobs" / f"{name}.py").is_file():
        start = f"python jobs/{name}.py"
    return " ".join([start, *(shlex.quote(str(word)) for word in words)])


def typed() -> str:
    """The command line of this process, for the record; it works when pasted in the same folder."""
    script = Path(sys.argv[0])
    if script.stem == "fashion-dist":
        return shlex.join(["fashion-dist", *sys.argv[1:]])
    if script == _MAIN:
        return shlex.join(["python", "-m", "fashion_dist", *sys.argv[1:]])
    return shlex.join([Path(sys.executable).name, *sys.argv])
