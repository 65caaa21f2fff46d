"""The matrix of faults: which tests hold which row, with their figures, printed at the end of `make faults`.

A test belongs to a row by its mark, `@pytest.mark.fault(7)`, and tells what it saw through the fixture `figures`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

ROWS = {
    1: "SIGKILL of a rank in mid-step",
    2: "an exception on one rank",
    3: "SIGSTOP of a rank",
    4: "a node dies (slurmd and its step daemons killed)",
    5: "requeued three times",
    6: "pre-empted by a higher partition",
    7: "time limits, one after the other",
    8: "a signal while a rank is inside a collective",
    9: "SIGKILL during a checkpoint, 50 random moments",
    10: "disk full during a checkpoint",
    11: "killed, or disk full, while packing",
    12: "cut tar, empty shard, bad index, index past the end",
    13: "shard replaced, and cut, in mid-run",
    14: "cut, garbage, empty and bit-flipped images",
    15: "missing label; doubled, dotted, long, upper-case keys",
    16: "samples not divisible by ranks; more ranks than samples",
    17: "network between two nodes cut, for 10 s and for good",
    18: "W&B: helper killed, server unreachable, folder full",
    19: "clock one hour off on one process",
    20: "two jobs on one run folder",
    21: "resumed on 1, 2 and 4 ranks; other batch or data refused",
    22: "two jobs, same port",
    23: "launcher killed around the submission",
    24: "an array larger than MaxArraySize",
    25: "result files visible late",
    26: "loss not finite",
    27: "launched from inside an allocation",
    28: "two clusters on one filesystem",
    29: "a filesystem that remembers missing files for 30 s",
    30: "an account's limit of jobs",
    31: "no accounting, and for a while no controller",
    32: "slow storage, short reads, interrupted calls, stale handles, a quota, reads that fail",
    33: "suspended for longer than ranks wait for each other",
}


@dataclass
class Figures:
    """What one test saw of its fault; every method may be called again."""

    seconds: float = 0.0
    limit_s: float | None = None
    lost: int | None = None
    hashes: set[str] = field(default_factory=set)
    invariants: set[str] = field(default_factory=set)

    def took(self, seconds: float, limit_s: float | None = None) -> None:
        """From the fault to the end of what it ends; beyond the limit the row is late, not wrong."""
        if limit_s is not None or self.limit_s is None:
            self.seconds, self.limit_s = max(seconds, self.seconds), limit_s

    def holds(self, *invariants: str) -> None:
        """Invariants (I1 to I5) that the test has just asserted."""
        self.invariants |= set(invariants)

    def same_weights(self, digest: str) -> None:
        """I1: the SHA-256 that this run's final weights share with the undisturbed run's."""
        self.hashes.add(digest[:8])
        self.invariants.add("I1")

    def steps_lost(self, steps: int) -> None:
        """Steps that were computed again."""
        self.lost = max(steps, self.lost or 0)
        self.invariants.add("I2")


@dataclass
class Row:
    """The outcomes of a row's tests."""

    figures: list[Figures] = field(default_factory=list)
    outcomes: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def verdict(self) -> str:
        if not self.outcomes:
            return "NO TEST"
        if "failed" in self.outcomes:
            return "NOT HELD"
        if "skipped" in self.outcomes:
            return "skipped" if len(set(self.outcomes)) == 1 else "in part"
        return "late" if any(f.limit_s and f.seconds > f.limit_s for f in self.figures) else "held"

    def cells(self) -> tuple[str, ...]:
        seen = self.figures
        timed = [f for f in seen if f.limit_s is not None] or seen
        slowest = max(timed, key=lambda f: f.seconds, default=Figures())
        seconds = f"{slowest.seconds:.1f}" if slowest.seconds else ""
        limit = f"of {slowest.limit_s:g}" if slowest.limit_s is not None else ""
        lost = [f.lost for f in seen if f.lost is not None]
        return (
            " ".join(sorted(set().union(*(f.invariants for f in seen)))),
            str(len(self.outcomes)), seconds, limit, str(max(lost)) if lost else "",
            " ".join(sorted(set().union(*(f.hashes for f in seen)))), self.verdict(),
        )  # fmt: skip


_LEGEND = (
    "I1 weights of an undisturbed run, I2 each sample once, I3 a checkpoint loads, I4 rank and cause named, "
    "I5 no process left; lost: steps computed again; weights: SHA-256 of the final ones"
)
_FIGURES: pytest.StashKey[Figures] = pytest.StashKey()
_MATRIX: dict[int, Row] = {number: Row() for number in ROWS}


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Takes what a test saw of its fault to the matrix."""
    return request.node.stash.setdefault(_FIGURES, Figures())


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(row): breaks something on purpose; a row of the matrix (make faults)")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    mark = item.get_closest_marker("fault")
    if mark is not None and (report.when == "call" or report.outcome != "passed"):
        row = _MATRIX[mark.args[0]]
        row.outcomes.append(report.outcome)
        row.figures.append(item.stash.get(_FIGURES, Figures(report.duration)))
        if report.outcome != "passed":
            row.reasons.append(f"{item.name}: {_reason(report)}")
    return report


def _reason(report: pytest.TestReport) -> str:
    """The first line of why a test was skipped or failed."""
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2]
    crash = getattr(report.longrepr, "reprcrash", None)
    return (crash.message if crash else str(report.longrepr)).split("\n")[0]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.option.markexpr != "fault":
        return
    head = ("row", "what", "invariants", "tests", "s to end", "limit", "lost", "weights", "")
    lines = [head, *((str(n), ROWS[n], *_MATRIX[n].cells()) for n in ROWS)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    terminalreporter.section("faults")
    write = terminalreporter.write_line
    for line in lines:
        write("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    held = sum(row.verdict() == "held" for row in _MATRIX.values())
    write(f"{held} of {len(ROWS)} rows held. {_LEGEND}")
    for number, row in _MATRIX.items():
        for reason in row.reasons:
            write(f"row {number}: {reason}")
