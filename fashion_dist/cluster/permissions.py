"""Who may look into the folder of a run or a sweep: its owner, and one group where the owner opened it.

A group may read and never write: jobs load pickles that submitit put there. Whether a folder is open is told by its own
mode, so every later start, also one by hand, keeps it so.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
from pathlib import Path

from fashion_dist.errors import ConfigError
from fashion_dist.io import OTHERS_WRITE
from shards.portable import user_id

PRIVATE, OPEN = 0o700, 0o2750
"""Modes of a run's folder; with the set-group-ID bit what is made inside belongs to the same group."""
_GROUP_READS = stat.S_IRGRP | stat.S_IXGRP


def group_id(name: str) -> int:
    """The number of a group to which this user may open a folder; raises ConfigError naming the user's own groups."""
    import grp  # groups are POSIX's

    mine = {os.getegid(), *os.getgroups()}
    try:
        number = grp.getgrnam(name).gr_gid
    except KeyError:
        number = -1
    if number < 0 or (number not in mine and os.geteuid() != 0):
        kind = "is unknown" if number < 0 else "has other members only"
        raise ConfigError(f"group {name!r} {kind}; yours: {', '.join(sorted(_names(mine)))}")
    return number


def _names(numbers: set[int]) -> list[str]:
    import grp

    known = {entry.gr_gid: entry.gr_name for entry in grp.getgrall()}
    return [known.get(number, str(number)) for number in numbers]


def group_of(folder: Path) -> str:
    """The group to which a folder is open; empty where it is closed."""
    facts = folder.stat()
    return _names({facts.st_gid})[0] if facts.st_mode & _GROUP_READS == _GROUP_READS else ""


def make(folder: Path, group: str = "", otherwise: str = "--fresh starts over beside it") -> None:
    """Make a folder where there is none, for its owner alone or opened to a group; then `keep` to it.

    Without a `group` a folder stays as it is, closed at first. `otherwise` is what somebody else can do.

    Raises:
        ConfigError: see `require_own`.
    """
    folder.mkdir(mode=PRIVATE, exist_ok=True)
    require_own(folder, otherwise)
    if group:
        number = group_id(group)
        for parent in (folder.parents[1], folder.parent):  # HOME, and its folder of runs or sweeps
            _let_pass(parent, number)
        os.chown(folder, -1, number)
        folder.chmod(OPEN)
    keep(folder)


def _let_pass(folder: Path, number: int) -> None:
    """Open a folder of this user's that is closed to every group; what is another group's already stays so."""
    facts = folder.stat()
    if facts.st_uid == user_id() and not facts.st_mode & (stat.S_IRWXG | stat.S_IXOTH):
        os.chown(folder, -1, number)
        folder.chmod(stat.S_IMODE(facts.st_mode) | _GROUP_READS)


def closed_way(home: Path, group: str) -> str:
    """The sentence about the first folder on the way to the working folder that a group cannot pass; empty without one.

    Only the owner of such a folder opens it, and what else lies in it is not ours to show.
    """
    number = group_id(group)
    for folder in reversed(home.parents):
        try:
            facts = folder.stat()
        except OSError:
            break
        mine = stat.S_IXGRP if facts.st_gid == number else stat.S_IXOTH
        if not facts.st_mode & mine:
            with contextlib.suppress(KeyError):
                mode = f"{stat.S_IMODE(facts.st_mode):o}, of {folder.owner()}"
                return f"group {group} cannot pass {folder} (mode {mode}), so it sees nothing of the run"
    return ""


def require_own(folder: Path, otherwise: str = "--fresh starts over beside it") -> None:
    """What lies in the folder of a run or a sweep is executed and believed, so it is its owner's alone to write.

    Raises:
        ConfigError: it is a link, somebody else's, or others may write to it.
    """
    facts = folder.lstat()
    if stat.S_ISLNK(facts.st_mode):
        raise ConfigError(f"{folder} is a link, which others could point elsewhere; {otherwise}")
    if facts.st_uid != user_id():
        try:
            name = folder.owner()
        except KeyError:
            name = str(facts.st_uid)
        raise ConfigError(f"{folder} belongs to {name}; only its owner goes on with it, {otherwise}")
    if facts.st_mode & OTHERS_WRITE:
        raise ConfigError(
            f"others may write to {folder} (mode {stat.S_IMODE(facts.st_mode):o}), and what lies in it is executed; "
            f"if you trust what is there: chmod go-w {shlex.quote(str(folder))}; or {otherwise}"
        )


def keep(folder: Path) -> None:
    """Let what this process makes be read by the group, if the folder is open; else the user's umask stands."""
    if folder.stat().st_mode & _GROUP_READS == _GROUP_READS:
        before = os.umask(0o077)
        os.umask(before & ~_GROUP_READS)
