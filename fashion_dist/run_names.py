"""Names that people give to runs: HOME/names/<name> holds the id of the run that it means."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from fashion_dist.errors import ConfigError, InputError
from shards import program
from shards.safe_io import SHARED_FOLDER, create, name_fault, read_regular

LONGEST = 64


@dataclass(frozen=True)
class RunNames:
    """The names of the runs in the folder `runs`, a file each in `folder`."""

    folder: Path
    runs: Path

    def run_id(self, name: str) -> str:
        """The run that `name` means; empty where it is no name, or its run is gone."""
        if name_fault(name):
            return ""
        with contextlib.suppress(OSError, InputError):
            found = read_regular(self.folder / name).decode("ascii", "replace").strip()
            if not name_fault(found) and (self.runs / found).is_dir():
                return found
        return ""

    def all(self) -> dict[str, str]:
        """Run id -> its name."""
        return {run_id: name for name in self._listed() if (run_id := self.run_id(name))}

    def require_free(self, name: str, run_id: str) -> str:
        """`name`, when run `run_id` can have it.

        Raises:
            ConfigError: it cannot be a name, or is the name or the id of another run.
        """
        if name_fault(name) or name[0] in "-." or len(name) > LONGEST:
            raise ConfigError(
                f"--name {name!r} is not possible; allowed: at most {LONGEST} letters, digits and ._-, "
                f"not beginning with - or ."
            )
        if (other := self.run_id(name)) and other != run_id:
            how = f"{program.command('status')} {other} --name NAME"
            raise ConfigError(
                f"--name {name} is that of run {other}; allowed: another, or give that run another: {how}"
            )
        if name != run_id and ((self.runs / name).exists() or (self.runs.parent / "sweeps" / name).exists()):
            raise ConfigError(f"--name {name} is not possible: it is the id of a run or a sweep")
        return name

    def give(self, name: str, run_id: str) -> None:
        """Let `name` mean the run from now on, in place of the name that it has; raises as `require_free` does."""
        self.require_free(name, run_id)
        if self.run_id(name) != run_id:
            self.folder.mkdir(mode=SHARED_FOLDER, parents=True, exist_ok=True)
            if os.path.lexists(self.folder / name):
                if name_fault(read_regular(self.folder / name).decode("ascii", "replace").strip()):
                    raise ConfigError(f"{self.folder / name} holds no run's id; move it away, or give another name")
                (self.folder / name).unlink()  # of a run that is gone
            try:
                with os.fdopen(create(self.folder / name), "w") as file:
                    file.write(f"{run_id}\n")
            except FileExistsError:
                raise ConfigError(f"--name {name} was given to another run a moment ago; give another") from None
        for former in self._listed():
            if former != name and self.run_id(former) == run_id:
                (self.folder / former).unlink(missing_ok=True)

    def _listed(self) -> list[str]:
        try:
            return sorted(os.listdir(self.folder))  # noqa: PTH208 - names are all that is wanted
        except OSError:
            return []
