"""On PYTHONPATH this hides what only Linux has, in a process and in those that it starts."""

import os
import sys

_HIDDEN = ("fcntl", "nvidia.dali")


class _Hider:
    @staticmethod
    def find_spec(name, *_):  # type: ignore[no-untyped-def]
        if name in _HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, _Hider)
for _name in (
    "sched_getaffinity",
    "sched_setaffinity",
    "pread",
    "O_NOFOLLOW",
    "O_NONBLOCK",
    "O_CLOEXEC",
    "O_DIRECTORY",
):
    delattr(os, _name)
