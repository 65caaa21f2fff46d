"""What happens to samples that cannot be read or decoded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np

from fashion_dist.errors import DamageError
from fashion_dist.io import append


class BadSamples:
    """The damaged images that this rank met.

    Args:
        policy: `fail` ends the run with the first one; `skip` counts and lists them.
        log: file that gets one JSON object a line for each, or None.
    """

    def __init__(self, policy: Literal["fail", "skip"], log: Path | None) -> None:
        self._policy = policy
        self._log = log
        self.found: dict[int, DamageError] = {}
        """By row of the split."""

    def add(self, row: int, error: DamageError) -> None:
        """Note that the image in `row` is damaged; raises `error` where the policy is to fail."""
        if self._policy == "fail":
            raise error
        if row in self.found:
            return
        self.found[row] = error
        if self._log is not None:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            told = {"key": error.key, "shard": error.shard, "offset": error.offset, "reason": error.reason}
            with append(self._log) as file:
                file.write(json.dumps(told) + "\n")

    def first_of(self, rows: np.ndarray) -> DamageError | None:
        """The error of the first image in `rows` that is known to be damaged."""
        if not self.found:
            return None
        return next((self.found[int(row)] for row in rows if int(row) in self.found), None)
