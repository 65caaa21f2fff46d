"""A thread in each rank that notices what the training loop cannot: lost parents, lost locks and stalled peers.

A stopped or unreachable process reports nothing, and its peers only learn after the process group's timeout that
somebody is missing. So each rank writes a sign of life every few seconds, and ranks 0 and 1 look at all of them. Ages
are measured by the watcher's own clock, from one change of the file to the next: clocks of nodes are never compared.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from fashion_dist.cluster import failures
from fashion_dist.cluster.job_record import LockOwner
from fashion_dist.cluster.machine import Beat
from fashion_dist.cluster.rank_env import RankInfo
from fashion_dist.cluster.system_metrics import AllNodes, NodeSampler
from fashion_dist.io import write_json
from fashion_dist.paths import RunDir

EXIT_ORPHANED = 3
EXTENDED_S = 60.0
"""A time limit that has moved by less is the one that was known."""
SAMPLE_BEATS = 3
"""Signs of life from one look at the node's figures to the next."""


class HeartbeatThread(threading.Thread):
    """Started once the attempt is known; a daemon, so it ends with the rank.

    A sign of life comes every `beat_s` seconds; after `stalled_s` without one a rank counts as stalled.
    """

    def __init__(
        self, run: RunDir, rank_info: RankInfo, owner: LockOwner, stalled_s: float = 60.0, beat_s: float = 5.0
    ) -> None:
        super().__init__(name="watch", daemon=True)
        self.steps = 0
        self.signals: list[str] = []
        self._run, self._rank_info, self._owner = run, rank_info, owner
        self._stalled_s, self._beat_s = stalled_s, beat_s
        # Where the controller may have died before this began, its number is known from elsewhere.
        self._parent = int(os.environ.get("SUBMITIT_LOCAL_JOB_ID", os.getppid()))
        self._over = threading.Event()
        self._stop_at = float("inf")
        self._ask_left: Callable[[], float | None] = lambda: 0.0
        self._delay_s = 0.0
        self._beats = 0
        self._seen: dict[int, tuple[int, float]] = {}
        self._named: set[int] = set()
        self._ask_again: Path | None = None
        self._was_suspended: Callable[[], bool] = lambda: True
        self._patience_s = self._excused_until = 0.0
        self._last = time.monotonic()
        self.nodes = AllNodes(run, owner.attempt, rank_info.nodes)
        self._sampler: NodeSampler | None = None

    def run(self) -> None:
        """Beat and look until `stop`."""
        self._run.heartbeats.mkdir(exist_ok=True)
        if self._rank_info.local_rank == 0:
            with contextlib.suppress(OSError):  # a machine that does not tell what it does
                self._sampler = NodeSampler()
        self._last, look_s = time.monotonic(), 0.0
        while not self._over.wait(self._beat_s):
            now = time.monotonic()
            if self.is_excused and now > self._excused_until and now - self._last <= 3 * self._beat_s:
                self.withdraw()
            elif now - self._last > 3 * self._beat_s:
                self._seen.clear()  # the whole job was suspended, and the peers with it
                self._excuse()
            began = self._last = time.monotonic()
            if now > self._stop_at and not self._is_extended():
                self._stop_at = float("inf")
                os.kill(os.getpid(), signal.SIGUSR2)
            self.beat()
            self._require_parent()
            try:
                self._follow_nodes()
                if self._rank_info.is_main:
                    self._require_lock()
                if self._rank_info.rank < 2:
                    self._look_at_peers(now)
            except OSError as error:  # of a moment, or of what the training loop meets as well: the watch goes on
                print(f"this look was in vain: {error}", file=sys.stderr, flush=True)
            self._last = time.monotonic()
            if self._last - began > max(3 * self._beat_s, 4 * look_s):  # suspended in it; slow storage is always slow
                self._seen.clear()
                self._excuse()
            look_s = self._last - began

    def stop(self) -> None:
        """No more signs of life: the rank's work is over."""
        self._over.set()

    def requeue_after_suspension(self, file: Path, seconds: float, was_suspended: Callable[[], bool]) -> None:
        """Make `file`, by which the batch script requeues the job when its ranks end, for a while after a suspension.

        The clock of a collective goes on while Slurm has a job suspended, so that the ranks, or NCCL's watchdog without
        a word of ours, give each other up as soon as they go on. What fails in that while is started again.

        `seconds` is how long ranks wait for each other; `was_suspended` whether Slurm says so too, for a machine may
        stand still by itself.
        """
        self._ask_again, self._was_suspended, self._patience_s = file, was_suspended, seconds

    @property
    def is_excused(self) -> bool:
        """Whether the job was suspended a moment ago, so that peers which gave each other up are no failure."""
        return self._excused_until > 0

    def look_for_suspension(self) -> bool:
        """`is_excused`, when the thread itself may not have looked since the job goes on."""
        if not self.is_excused and time.monotonic() - self._last > 3 * self._beat_s:
            self._excuse()
        return self.is_excused

    def _excuse(self) -> None:
        if self._ask_again is None:
            return
        self._excused_until = time.monotonic() + self._patience_s
        with contextlib.suppress(OSError):
            self._ask_again.touch()  # at once: the ranks may end before Slurm answers
        if not self._was_suspended():
            self.withdraw()

    def withdraw(self) -> None:
        """Let the job end as it ends."""
        if self.is_excused and self._ask_again is not None:
            self._ask_again.unlink(missing_ok=True)
        self._excused_until = 0.0

    def warn_before_limit(self, ask_left: Callable[[], float | None], delay_s: float) -> None:
        """Send this process USR2 `delay_s` before the time limit, for which `ask_left` is asked again then."""
        self._ask_left, self._delay_s = ask_left, delay_s
        left = ask_left()
        self._stop_at = float("inf") if left is None else time.monotonic() + left - min(delay_s, left / 2)

    def _is_extended(self) -> bool:
        left = self._ask_left()
        if left is not None and left - self._delay_s < EXTENDED_S:
            return False
        self._stop_at = float("inf") if left is None else time.monotonic() + left - self._delay_s
        return True

    def beat(self) -> None:
        """Write this rank's sign of life now."""
        self._beats += 1
        values = {
            "attempt": self._owner.attempt, "beat": self._beats, "steps": self.steps, "host": socket.gethostname(),
            "pid": os.getpid(), "where": where(), "signals": self.signals, "cpu_s": time.process_time(),
        }  # fmt: skip
        self._write(self._run.heartbeat(self._rank_info.rank), values)

    def _write(self, path: Path, values: Mapping[str, Any]) -> None:
        try:
            write_json(path, values)
        except OSError as error:  # a full disk is the checkpoint's to report
            print(f"no sign of life could be written: {error}", file=sys.stderr, flush=True)

    def _follow_nodes(self) -> None:
        """A node's first rank writes its figures down; rank 0 looks at those of all nodes a beat later."""
        if self._sampler is not None and self._beats % SAMPLE_BEATS == 1:
            with contextlib.suppress(OSError):
                values = {"attempt": self._owner.attempt, "sample": self._beats, "figures": self._sampler.sample()}
                self._write(self._run.node_figures(self._rank_info.node), values)
        if self._rank_info.is_main and self._beats % SAMPLE_BEATS == 2:
            self.nodes.look()

    def _require_parent(self) -> None:
        if os.getppid() != self._parent:
            print("the process that started this rank is gone; ending", file=sys.stderr, flush=True)
            os._exit(EXIT_ORPHANED)

    def _require_lock(self) -> None:
        now = LockOwner.peek(self._run)
        if now is not None and now != self._owner:
            # This node was taken for dead and the run goes on elsewhere; two writers would spoil it.
            print(f"the run is now held by {now.job}; ending", file=sys.stderr, flush=True)
            os._exit(EXIT_ORPHANED)

    def _look_at_peers(self, now: float) -> None:
        for rank, beat in sorted(Beat.read_all(self._run, self._owner.attempt).items()):
            if rank in self._named:
                continue
            seen, since = self._seen.get(rank, (-1, now))
            if beat.beat != seen:
                self._seen[rank] = (beat.beat, now)
            elif now - since > self._stalled_s:
                self._named.add(rank)
                self._name_stalled(rank, beat.host, beat.steps, beat.where)

    def _name_stalled(self, rank: int, host: str, steps: int, location: str) -> None:
        message = (
            f"no sign of life for {self._stalled_s:.0f} s: the process is stopped or its node is gone; "
            f"last seen in {location} after {steps} steps of this start"
        )
        print(f"rank {rank} on {host}: {message}; this rank waits here:", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(file=sys.stderr)
        failures.report_stalled(self._run, rank, self._owner.attempt, host, message)


def end_within(seconds: float, status: int) -> None:
    """End this process with `status` after that long, if it has not ended by itself: a thread may hang at exit."""

    def end() -> None:
        time.sleep(seconds)
        print(f"this rank did not end by itself within {seconds:.0f} s; ending it", file=sys.stderr, flush=True)
        os._exit(status)

    threading.Thread(target=end, name="end", daemon=True).start()


def where() -> str:
    """The innermost of our functions that the main thread is in, such as `train.train_step:170`."""
    frame: FrameType | None = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        named = not frame.f_code.co_name.startswith("<")  # a comprehension is a function to Python only
        if named and {"fashion_dist", "shards"} & set(path.parts):
            return f"{path.stem}.{frame.f_code.co_name}:{frame.f_lineno}"
        frame = frame.f_back
    return "the libraries"
