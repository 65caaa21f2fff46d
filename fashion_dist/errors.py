"""Every error fashion-dist raises on purpose.

    FashionDistError
    ├── ConfigError (also InputError, ValueError)   a setting that cannot be; exit status 2
    ├── CheckpointError                             no checkpoint that can be loaded, or one of another run
    ├── RunError                                    the work failed; names rank and cause; exit status 1
    └── RunBusyError (also InputError)              another job holds the run folder; exit status 2

From `shards.errors` come `InputError` (the user's mistake, exit status 2) and `DamageError` (stored bytes are not what
was packed, exit status 1). What is not an `InputError` here ends a command with exit status 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from shards.errors import DamageError as DamageError
from shards.errors import InputError as InputError
from shards.errors import ShardsError as ShardsError


class FashionDistError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(FashionDistError, InputError):
    """A setting that cannot be: names the setting, its value and what is allowed."""


class CheckpointError(FashionDistError):
    """No checkpoint that can be loaded, or one that belongs to another run."""


class RunError(FashionDistError):
    """The work failed; the message names the rank and its own cause."""


class RunBusyError(FashionDistError, InputError):
    """Another job holds the run folder; the message names it."""


def unknown(kind: str, name: str, known: Iterable[str], limit: int = 24) -> ConfigError:
    """The one sentence for a name that does not exist: the nearest names when there are many, else all of them."""
    names = sorted(known)
    if len(names) > limit:
        near = _nearest(name, names)
        listed = f"nearest: {', '.join(near)}" if near else f"one of {len(names)}, such as {', '.join(names[:6])}"
    else:
        listed = f"known: {', '.join(names)}"
    return ConfigError(f"unknown {kind} {name!r}; {listed}")


def _nearest(name: str, names: list[str], most: int = 6) -> list[str]:
    """The names that may have been meant, the likeliest first; of a dotted name the last part may stand alone."""
    part = name.rpartition(".")[2]
    ends = {known: known.rpartition(".")[2] for known in names}
    alike = difflib.get_close_matches(part, sorted(set(ends.values())), n=most, cutoff=0.75)
    near = [known for end in alike for known in names if ends[known] == end]
    return list(dict.fromkeys([*near, *difflib.get_close_matches(name, names, n=most, cutoff=0.5)]))[:most]
