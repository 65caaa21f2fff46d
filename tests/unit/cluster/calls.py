"""What test jobs call in their ranks; a module of its own, because submitit pickles functions by name."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path


def rank() -> int:
    return int(os.environ["SUBMITIT_LOCAL_GLOBALID"])


@dataclass(frozen=True)
class NoteEnvironment:
    folder: str

    def __call__(self) -> None:
        (Path(self.folder) / f"env-{rank()}.json").write_text(json.dumps(dict(os.environ)))


@dataclass(frozen=True)
class FirstKillsItself:
    """Rank 1 dies at once; the others would wait for an hour."""

    def __call__(self) -> None:
        if rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(3600)


@dataclass(frozen=True)
class AgainTwice:
    """Rank 0 asks for two more starts; all ranks count them."""

    folder: str

    def __call__(self) -> None:
        with (Path(self.folder) / f"starts-{rank()}").open("a") as file:
            file.write("x")
        if rank() == 0 and (Path(self.folder) / "starts-0").read_text() != "xxx":
            sys.exit(144)


@dataclass(frozen=True)
class UntilWarned:
    """Waits for USR2, which comes before the time limit."""

    folder: str

    def __call__(self) -> None:
        heard: list[int] = []
        signal.signal(signal.SIGUSR2, lambda number, _: heard.append(number))
        (Path(self.folder) / "listening").touch()
        while not heard:
            time.sleep(0.01)
        (Path(self.folder) / "warned").touch()


def square(number: int) -> int:
    return number * number


def refuse_three(number: int) -> int:
    if number == 3:
        raise ValueError("three is refused")
    return number
