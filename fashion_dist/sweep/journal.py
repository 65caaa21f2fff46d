"""The file of Optuna's journal, read so that a line which is torn, or of something else, ends no trial."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._storage import JournalStorageReplayResult

from shards.safe_io import open_regular


class Journal(JournalFileBackend):  # type: ignore[misc]
    """Optuna's file of operations without the lines that cannot be one; the caller holds a lock."""

    def __init__(self, path: Path) -> None:
        os.close(open_regular(path, os.O_RDWR | os.O_CREAT))
        super().__init__(str(path))
        self._path = path
        self._position = 0
        self._logs: list[dict[str, Any]] = []
        self._tried = JournalStorageReplayResult("")  # what raises here would end every trial's start

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The operations from that number on; a last line that is not ended is left for later."""
        with os.fdopen(open_regular(self._path), "rb") as file:
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._position += len(line)
                try:
                    log = json.loads(line)
                    self._tried.apply_logs([log])
                except Exception:  # Optuna raises whatever a wrong type or a missing key leads to
                    continue
                self._logs.append(log)
        yield from self._logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add operations, behind the end of a line that a killed writer left."""
        with os.fdopen(open_regular(self._path, os.O_RDWR | os.O_APPEND), "ab+") as file:
            if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                file.write(b"\n")
        super().append_logs(logs)
