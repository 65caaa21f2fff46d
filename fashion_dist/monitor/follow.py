"""`--wait`: one line about all ranks of a run until it ends, then its exit status and, if it failed, the cause."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from fashion_dist import cli
from fashion_dist.cluster.queue_view import ASK_S, Scheduler
from fashion_dist.cluster.run_view import RunView, line, read_run_view
from fashion_dist.paths import RunDir

if TYPE_CHECKING:
    from rich.live import Live

WATCH_S = 2.0
"""Seconds between two looks at many runs."""

POLL_S = 1.0
"""Seconds between two looks at the run's own files; Slurm is asked as seldom as `Scheduler.refresh` has it."""

FILES_S = 12.0
"""Longest wait for files of a job that is gone without a word."""

PLAIN_S = 15.0
"""Longest silence without a terminal; a new epoch, phase or state is said at once."""

SETTLE_S = 90.0
"""Longest wait for the ranks of a run that is over to be gone as well."""


def follow(run: RunDir, show: Callable[[RunView], None] | None = None) -> RunView:
    """Return how the run ended; a job that is requeued is waited for.

    `show` is called at every poll; the default writes one line to stderr, which is redrawn on a terminal.
    """
    if show is None:
        with Lines() as lines:
            return follow(run, lines.show)
    scheduler = Scheduler()
    over_since: float | None = None
    while True:
        now = time.monotonic()
        scheduler.refresh()
        view = read_run_view(run, scheduler)
        show(view)
        over_since = None if view.is_active else over_since or now
        if over_since is not None and now - over_since > _patience_s(view):
            return view
        time.sleep(POLL_S)


def _patience_s(view: RunView) -> float:
    """How long to believe that a run which seems over might say more: its ranks end, its files arrive."""
    if view.there == "running" and view.state == "failed" and view.job is not None and view.job.cluster == "slurm":
        return float("inf")  # of a lost node, perhaps: Slurm requeues the job once it has given the node up
    if view.there != "gone":
        return SETTLE_S
    if view.state == "done" or view.job is None or view.job.cluster == "local":
        return 0.0
    # A job that requeues itself is out of the queue for a moment; what ended without a word may have left files that a
    # network filesystem does not show yet.
    return ASK_S if view.cause in ("error", "cancelled") or view.state == "stopped" else FILES_S


class Lines:
    """Shows a followed run on stderr: redrawn in place on a terminal, else a line when there is news."""

    def __init__(self) -> None:
        self._live: Live | None = None
        self._said: tuple[object, ...] = ()
        self._said_at = float("-inf")

    def __enter__(self) -> Lines:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, view: RunView) -> None:
        """The run as it is now."""
        if self._live is not None:
            from rich.text import Text

            shown = cli.visible(line(view, self._live.console.width))
            self._live.update(Text(shown, overflow="ellipsis", no_wrap=True), refresh=True)
            return
        p = view.progress
        news = (view.state, view.detail, view.attempts, p.phase, p.epoch, str(p.best))
        now = time.monotonic()
        if news != self._said or (view.state == "running" and now - self._said_at > PLAIN_S):
            self._said, self._said_at = news, now
            cli.tell(line(view))
