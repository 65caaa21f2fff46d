"""submitit's start of a rank, from a pickle that nobody but this user can have written.

    python -m fashion_dist.cluster.pickled_rank FOLDER        nobody types it

Who may write to a folder above the run's (a project's, say) can put another one in its place before the job starts.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

from submitit.core import submission, utils

from fashion_dist.io import OTHERS_WRITE, read_own


def load(path: str | Path) -> Any:
    """What a file of this user's own holds; raises RunError where another user may have written it."""
    return pickle.loads(read_own(Path(path)))


if __name__ == "__main__":
    os.umask(os.umask(0o077) | OTHERS_WRITE)  # or the launcher would not believe the result
    utils.pickle_load = load
    submission.submitit_main()
