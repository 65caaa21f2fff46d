"""What a failing rank says, and which of several reports is the cause.

When one rank dies, its peers die of it: of "connection closed by peer", seconds later. Their reports are true and
useless, so the cause is looked for among the others first.
"""

from __future__ import annotations

import re
import socket
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fashion_dist.io import read_json, write_json
from fashion_dist.paths import RunDir

_STARTED = time.monotonic()

_OF_A_PEER = re.compile(
    r"connection (closed|reset|refused)|broken pipe|remote process exited|timed out|timeout|socket ?closed|"
    r"NCCL (communicator|error|operation)|gloo|could not join|did not start within|did not take the run's lock|"
    r"rank 0 did not|KeyboardInterrupt|ended by a signal",
    re.IGNORECASE,
)
_PEER_TYPES = {"DistBackendError", "DistNetworkError", "DistStoreError", "KeyboardInterrupt"}


@dataclass(frozen=True)
class Failure:
    """One rank's report.

    Args:
        rank: whose.
        attempt: in which start of the run.
        host: where.
        type: the exception's class.
        message: its words.
        traceback: all of it, for the log.
        elapsed_s: seconds since that rank started, by its own clock.
    """

    rank: int
    attempt: int
    host: str
    type: str
    message: str
    traceback: str = ""
    elapsed_s: float = 0.0

    @property
    def is_of_a_peer(self) -> bool:
        """Whether it only says that another rank went away."""
        return self.type in _PEER_TYPES or (self.type != "Stalled" and bool(_OF_A_PEER.search(self.message)))

    @property
    def sentence(self) -> str:
        """Rank, node and the first line of the words."""
        words = self.message.strip().splitlines()
        return f"rank {self.rank} on {self.host}: {self.type}: {words[0] if words else 'no message'}"


def report(run: RunDir, rank: int, attempt: int, error: BaseException) -> Failure:
    """Write this rank's exception into the run folder; a full disk must not hide it, so it is returned too."""
    failure = Failure(
        rank, attempt, socket.gethostname(), type(error).__name__, str(error),
        "".join(traceback.format_exception(type(error), error, error.__traceback__)), time.monotonic() - _STARTED,
    )  # fmt: skip
    _write(run, failure)
    return failure


def report_stalled(run: RunDir, rank: int, attempt: int, host: str, message: str) -> None:
    """Write on behalf of a rank that cannot, unless it has said something itself."""
    if not any(failure.rank == rank for failure in read(run, attempt)):
        _write(run, Failure(rank, attempt, host, "Stalled", message, "", time.monotonic() - _STARTED))


def _write(run: RunDir, failure: Failure) -> None:
    try:
        run.errors.mkdir(exist_ok=True)
        write_json(run.error(failure.rank), {**failure.__dict__, "time": time.time()})
    except OSError as error:
        print(f"the error report could not be written: {error}", flush=True)


def read(run: RunDir, attempt: int) -> list[Failure]:
    """The reports of one start of the run, in the order of ranks."""
    found = [_from_json(read_json(path)) for path in run.errors.glob("rank_*.json")]
    return sorted((f for f in found if f is not None and f.attempt == attempt), key=lambda f: f.rank)


def _from_json(values: Mapping[str, Any]) -> Failure | None:
    try:
        return Failure(**{name: values[name] for name in Failure.__dataclass_fields__})
    except KeyError:
        return None


@dataclass(frozen=True)
class Cause:
    """Why a start of the run failed: the rank whose log tells more, and the sentence."""

    rank: int
    sentence: str


def cause(failures: Sequence[Failure], killed: Mapping[int, str] | None = None) -> Cause | None:
    """Why a start of the run failed, or None when nothing is known.

    Args:
        failures: the ranks' own reports.
        killed: ranks that ended without a report, such as `{1: "killed by signal 9"}`, first come first.
    """
    in_order = sorted(failures, key=lambda f: (f.elapsed_s, f.rank))
    own = [Cause(f.rank, f.sentence) for f in in_order if not f.is_of_a_peer]
    reported = {f.rank for f in failures}
    silent = [Cause(rank, f"rank {rank} was {words}") for rank, words in (killed or {}).items() if rank not in reported]
    peers = [Cause(f.rank, f.sentence) for f in in_order if f.is_of_a_peer]
    return next(iter([*own, *silent, *peers]), None)


_SRUN = re.compile(r"^\w+: error: (?:\S+: )?tasks? (?P<ranks>[\d,-]+): (?P<words>(?!Exited with).+)$", re.MULTILINE)


def start_mark(attempt: int) -> str:
    """The line that begins a start's part of rank 0's log; a requeued job appends to the log it had."""
    return f"--- attempt {attempt} of this run"


def killed_by_srun(log: Path, attempt: int) -> dict[int, str]:
    """The ranks that srun saw die of a signal in one start of the run, in the order it said so."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 65536))
            text = file.read().decode(errors="replace")
    except OSError:
        return {}
    found: dict[int, str] = {}
    for match in _SRUN.finditer(text.rpartition(start_mark(attempt))[2]):
        for rank in _ranks(match["ranks"]):
            words = match["words"].strip()
            found.setdefault(rank, "killed" if words == "Killed" else f"ended by the system: {words}")
    return found


def _ranks(text: str) -> list[int]:
    ranks: list[int] = []
    for part in text.split(","):
        low, _, high = part.partition("-")
        ranks += range(int(low), int(high or low) + 1)
    return ranks


def killed_by_signal(exit_codes: Sequence[int | None]) -> dict[int, str]:
    """The ranks whose exit codes are a signal's."""
    return {rank: f"killed by signal {-code}" for rank, code in enumerate(exit_codes) if code is not None and code < 0}
