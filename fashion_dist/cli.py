"""What every command shares: parsing, one-line errors, exit status, progress and the result.

Exit status: 0 done, 1 the work failed, 2 the user's mistake, 130 Ctrl-C, 143 SIGTERM. A mistake is one line on stderr;
with `--json` stdout gets `{"error": ..., "exit_status": ...}` as well, so that a program never has to read prose.
Imports no torch and, until something is drawn, no rich: `--help` and a refusal have to answer in half a second.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import json
import os
import re
import signal
import sys
import time
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import tyro

from fashion_dist.errors import ConfigError, FashionDistError, InputError, ShardsError, unknown
from shards.safe_io import words_of
from shards.typed_json import is_sound

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

A = TypeVar("A", bound="CommonArgs")

# Flags that may be left out; plain names in the help instead of `{None}|INT`.
MaybeInt = Annotated[int | None, tyro.conf.arg(metavar="INT")]
MaybeFloat = Annotated[float | None, tyro.conf.arg(metavar="FLOAT")]
MaybeStr = Annotated[str | None, tyro.conf.arg(metavar="STR")]

EXIT_DONE, EXIT_FAILED, EXIT_MISTAKE, EXIT_INTERRUPTED, EXIT_TERMINATED = 0, 1, 2, 130, 143


@dataclass(frozen=True, kw_only=True)
class CommonArgs:
    """The flags that every command takes; the docstring under a field is its help."""

    home: str = ""
    """The working folder; else $FASHION_DIST_HOME, else ./workspace."""
    json: bool = False
    """Print the result as one JSON object on stdout."""


@dataclass(frozen=True)
class Result:
    """What a command made, where it lies, and what to type next.

    Args:
        headline: one sentence, for a person.
        paths: what was made, by what to call it.
        next: complete commands that make sense now, with why they do ("follow it": "fashion-dist status RUN --watch").
        data: further values for `--json`; for a person they are in the headline or in `text`.
        text: several lines shown to a person as they are, such as a table.
        exit_status: of the whole command; 1 where the work that was followed failed.
    """

    headline: str
    paths: Mapping[str, Path | str] = field(default_factory=dict)
    next: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    exit_status: int = EXIT_DONE

    def to_text(self) -> str:
        """The lines for a person; labels are aligned."""
        lines = [self.text] if self.text else []
        if self.headline:
            lines.append(self.headline)
        return visible("\n".join([*lines, *labelled([*self.paths.items(), *self.next.items()])]))

    def to_json(self) -> str:
        """One line of JSON; a key of `data` wins over the common ones."""
        common = {"message": self.headline, "paths": self.paths, "next": self.next, "exit_status": self.exit_status}
        return json.dumps({**common, **self.data}, default=str)


def run(
    args_type: type[A], main: Callable[[A], Result], argv: Sequence[str] | None = None, prog: str | None = None
) -> NoReturn:
    """Parses the command line, calls `main`, prints its result and exits with the status this module promises.

    `prog` is what `--help` calls the program, else the script's name. Errors that nobody foresaw keep their traceback
    and end with status 1.
    """
    tokens = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in tokens
    os.environ["PYTHONSAFEPATH"] = "1"  # processes that this one starts take no code from the current folder
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # what the terminal's encoding lacks, as stderr does
    signal.signal(signal.SIGTERM, _terminate)  # so that `finally` runs, and child processes are not left behind
    try:
        result = main(parse(args_type, tokens, prog))
        status = result.exit_status
        print(result.to_json() if as_json else result.to_text(), flush=True)
    except InputError as error:
        status = _complain(words_of(error), EXIT_MISTAKE, as_json)
    except BrokenPipeError:
        status = _seen_enough()
    except (FashionDistError, ShardsError, OSError) as error:
        status = EXIT_FAILED
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:  # a name that somebody gave
            error.strerror = f"{error.strerror}; allowed: names of up to 255 bytes, paths of up to 4,095"
            status = EXIT_MISTAKE
        status = _complain(words_of(error), status, as_json)
    except KeyboardInterrupt:
        print(file=sys.stderr)  # behind the terminal's ^C
        status = _complain("interrupted", EXIT_INTERRUPTED, as_json)
    except SystemExit as stop:
        if stop.code == EXIT_DONE:
            say("", end="")  # help was printed, and is seen now
        if stop.code != EXIT_TERMINATED:
            raise
        status = _complain("terminated", EXIT_TERMINATED, as_json)
    sys.exit(status)


def say(text: str, end: str = "\n") -> NoReturn:
    """Prints what was asked for instead of a command, such as the table of them, and exits."""
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        _seen_enough()
    sys.exit(EXIT_DONE)


def _seen_enough() -> int:
    """For `fashion-dist status | head`: without this, flushing at exit would complain once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_DONE


def refuse(error: InputError, *, as_json: bool = False) -> NoReturn:
    """Says what is wrong with the command line and exits, before there is a command to run."""
    sys.exit(_complain(words_of(error), EXIT_MISTAKE, as_json))


def _terminate(_signal: int, _frame: object) -> NoReturn:
    sys.exit(EXIT_TERMINATED)


_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """`text` with every character that a terminal obeys instead of showing it as an escape such as `\\x1b`.

    Names of files and folders, and what stands in files, may be anybody's.
    """
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def tell(text: str) -> None:
    """A line to a person while the work goes on; to stderr."""
    print(visible(text), file=sys.stderr, flush=True)


def _complain(words: str, status: int, as_json: bool) -> int:
    tell("error: " + re.sub(r"[\n\r](?! )", "\n  ", words))  # a name may hold a line that looks like one of ours
    if as_json:
        try:
            print(json.dumps({"error": words, "exit_status": status}), flush=True)
        except BrokenPipeError:  # Ctrl-C ends a whole pipeline
            _seen_enough()
    return status


def parse(args_type: type[A], argv: Sequence[str], prog: str | None = None) -> A:
    """The arguments as an instance of the dataclass `args_type`.

    Raises:
        ConfigError: an unknown flag (the nearest are named), an empty word, or a value its flag does not take.
        SystemExit: status 0 after `--help`.
    """
    _refuse_unknown_flags(args_type, argv)
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            args = tyro.cli(args_type, prog=prog, args=list(argv), config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as stop:
        if stop.code == EXIT_DONE:
            raise
        raise ConfigError(_one_line(stderr.getvalue())) from None
    for name, value in vars(args).items():
        if isinstance(value, int | float) and not isinstance(value, bool) and not is_sound(value):
            raise ConfigError(f"--{name.replace('_', '-')} takes a finite number of at most 64 bits, not {value}")
    return args


def _refuse_unknown_flags(args_type: type[CommonArgs], argv: Sequence[str]) -> None:
    known = ["--" + name.name.replace("_", "-") for name in dataclasses.fields(args_type)] + ["--help"]
    for hint in typing.get_type_hints(args_type, include_extras=True).values():  # a flag's former names
        known += [alias for note in getattr(hint, "__metadata__", ()) for alias in getattr(note, "aliases", None) or ()]
    for at, token in enumerate(argv):
        flag = token.partition("=")[0].replace("_", "-")
        if token == "--":
            return
        if not token or (flag in known and token.endswith("=")):
            told = token.rstrip("=") or (argv[at - 1] if at and argv[at - 1].startswith("--") else "")
            raise ConfigError(f"{told or 'a word of the command line'} is empty; give a value, or leave it out")
        if flag.startswith("--") and flag not in known:
            value = token.partition("=")[2] or " ".join(argv[at + 1 : at + 2])
            if "--set" in known and (meant := _settings_named(flag[2:], "" if value.startswith("--") else value)):
                raise ConfigError(f"unknown option {flag!r}; it is a setting: {meant}")
            raise unknown("option", flag, known, limit=6)


def _settings_named(name: str, value: str) -> str:
    """How `--epochs 3` is typed: the settings of that name, whole or without their section; else nothing."""
    from fashion_dist.config import Config

    name = name.replace("-", "_")
    known = Config("", "").keys()
    meant = [key for key in known if name in (key, key.partition(".")[2])]
    return " or ".join(f"--set {key}={value or 'VALUE'}" for key in meant)


def _one_line(report: str) -> str:
    """The first paragraph of the box that tyro draws around an error, as one sentence."""
    lines = [line.strip(" │") for line in re.sub(r"\x1b\[[0-9;]*m", "", report).splitlines()]
    is_rule = [not line.strip("─-╭╮╰╯ ") for line in lines]
    # The first line is the title; drawn in ASCII, a rule follows it.
    start = next((i for i in range(1, len(lines)) if not is_rule[i]), len(lines))
    end = next((i for i in range(start, len(lines)) if is_rule[i]), len(lines))
    text = " ".join(lines[start:end])
    if number := re.match(r"Error parsing (\S+): invalid literal for int\(\) with base 10: (.*)", text):
        return f"{number[1]} takes a whole number, not {number[2]}"
    if number := re.match(r"Error parsing (\S+): could not convert string to float: (.*)", text):
        return f"{number[1]} takes a number, not {number[2]}"
    if missing := re.match(r"Missing from .*?: (-\S+)", text):
        return f"{missing[1]} is required; --help shows all options"
    return text or "the command line cannot be read; --help shows all options"


def settings(groups: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The flat list of `--set a=1 b=2 --set c=3`, which is parsed as groups."""
    return tuple(setting for group in groups for setting in group)


class Progress:
    """Bars on a terminal, else a plain line at most every `PLAIN_S` seconds and one at a stage's end; to stderr.

    Called as `progress(stage, done, total)`: a new stage begins a new bar. Cheap enough to call for each item.
    """

    PLAIN_S = 5.0
    DRAW_S = 0.1

    def __init__(self, enabled: bool = True) -> None:
        self._enabled = enabled
        self._bars: RichProgress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}
        self._shown = 0.0

    def __enter__(self) -> Progress:
        if self._enabled and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bars = Progress(*columns, console=Console(stderr=True))
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def tell(self, text: str) -> None:
        """Shows a line of text, above the bars where there are any."""
        if self._bars is not None:
            self._bars.console.print(visible(text), markup=False, highlight=False)
        elif self._enabled:
            tell(text)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Shows that `done` of `total` items of `stage` are finished."""
        if not self._enabled:
            return
        now = time.monotonic()
        first = stage not in self._started
        started = self._started.setdefault(stage, now)
        pause = self.DRAW_S if self._bars is not None else self.PLAIN_S
        if not first and done < total and now - self._shown < pause:
            return
        self._shown = now
        if self._bars is not None:
            if first:
                self._tasks[stage] = self._bars.add_task(stage, total=total)
            self._bars.update(self._tasks[stage], completed=done, total=total)
        elif not first or total > 1:
            rate = done / (now - started) if now > started else 0.0
            pace = "" if not rate else f", {rate:.0f}/s" if rate >= 1 else f", {1 / rate:.0f} s each"
            print(f"{stage}: {done}/{total}{pace}", file=sys.stderr, flush=True)


def labelled(rows: Sequence[tuple[str, object]]) -> list[str]:
    """A line of each label and text; the texts stand below each other."""
    width = max((len(label) for label, _ in rows), default=0)
    return [f"  {label:<{width}}  {text}" for label, text in rows]


def aligned(rows: Sequence[Sequence[str]], right: Collection[int], width: int = 0) -> str:
    """Rows of cells as lines, in columns; those of `right` end together, as numbers do; cut at `width` unless 0."""
    sizes = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = [str.rjust if at in right else str.ljust for at in range(len(sizes))]
    lines = []
    for row in rows:
        line = "  ".join(side(cell, size) for side, cell, size in zip(sides, row, sizes, strict=True)).rstrip()
        lines.append(cut(line, width) if width else line)
    return "\n".join(lines)


def cut(text: str, width: int) -> str:
    """`text` in at most `width` characters."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…" if width > 0 else ""
