"""A run of W&B that was written offline, read by W&B's own reader."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def read_offline(folder: Path) -> list[dict[str, Any]]:
    """The records of the only offline run in a folder, by W&B's own reader."""
    (file,) = folder.rglob("*.wandb")
    wandb = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(file)]
    done = subprocess.run(wandb, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]
