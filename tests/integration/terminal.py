"""A terminal of a given size with a command in it, and what stands on its screen."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path

_TOKEN = re.compile(r"\x1b\[(?P<args>[?0-9;]*)(?P<end>[A-Za-z])|(?P<text>[^\x1b]+)|\x1b.", re.DOTALL)


class Screen:
    """The lines that a program wrote, with the movements that programs redraw by."""

    def __init__(self) -> None:
        self.lines = [""]
        self.row, self.column = 0, 0

    def feed(self, data: str) -> None:
        for token in _TOKEN.finditer(data):
            if token["text"] is not None:
                self._write(token["text"])
            elif token["end"] == "A":
                self.row = max(0, self.row - int(token["args"] or 1))
            elif token["end"] == "K":
                self.lines[self.row] = "" if token["args"] == "2" else self.lines[self.row][: self.column]
            else:
                assert token["end"] in (None, "m", "h", "l"), f"an escape this screen does not know: {token[0]!r}"

    def _write(self, text: str) -> None:
        for character in text:
            if character == "\r":
                self.column = 0
            elif character == "\n":
                self.row += 1
                self.lines += [""] * (self.row + 1 - len(self.lines))
            else:
                line = self.lines[self.row].ljust(self.column)
                self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
                self.column += 1

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines).strip("\n")


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # which a shell that started the tests in the background has ignored


class Terminal:
    """A command that believes to be on a terminal."""

    def __init__(self, argv: list[str], columns: int, lines: int, cwd: Path) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        variables = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            argv, stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, env={**variables, "TERM": "xterm-256color"},
            start_new_session=True, preexec_fn=_take_terminal,
        )  # fmt: skip
        os.close(theirs)
        self.screen = Screen()
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # what is read may end within a character

    def until(self, words: str, patience_s: float = 120.0, *, still: bool = True) -> str:
        """The screen once these words stand on it and, where `still`, it is drawn to its end: frames are a second
        apart.
        """
        deadline = time.monotonic() + patience_s
        while words not in self.screen.text:
            assert time.monotonic() < deadline, f"no {words!r} on the screen:\n{self.screen.text}"
            self._read(0.2)
        while still and self._read(0.3):
            assert time.monotonic() < deadline, "the screen is never still"
        return self.screen.text

    def press(self, keys: str) -> None:
        """Type something; `\\x03` is Ctrl-C."""
        os.write(self._ours, keys.encode())

    def end(self, patience_s: float = 120.0) -> int:
        """The exit status, with all that was written on the screen."""
        deadline = time.monotonic() + patience_s
        while self.process.poll() is None:
            self._read(0.2)
            if time.monotonic() > deadline:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"it has not ended:\n{self.screen.text}")
        self._read(0.2)
        os.close(self._ours)
        return self.process.returncode

    def _read(self, wait_s: float) -> bool:
        """Whether something was written within that time."""
        if not select.select([self._ours], [], [], wait_s)[0]:
            return False
        try:
            self.screen.feed(self._decoder.decode(os.read(self._ours, 65536)))
        except OSError:  # the other end is closed
            time.sleep(wait_s)
            return False
        return True
