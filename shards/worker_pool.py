"""The same function over many things, in worker processes that never outlive their parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from shards.errors import ShardsError

T = TypeVar("T")
R = TypeVar("R")
Count = Callable[[int], None]
_SLOTS = 4096
"""Counters of steps: items that are worked on at the same time have one each."""


class _Worker:
    """What a worker process was started with."""

    done: Any = None


@contextlib.contextmanager
def _main_left_out() -> Iterator[None]:
    """Workers that start meanwhile do not import the program that runs here.

    They need this package's modules alone, and what a command line imports takes longer than that.
    """
    main = sys.modules["__main__"]
    names = ("__file__", "__spec__")
    kept: dict[str, Any] = {name: main.__dict__.pop(name) for name in names if name in main.__dict__}
    main.__spec__ = None
    try:
        yield
    finally:
        main.__dict__.update(kept)


def each(function: Callable[[T, Count], R], items: Sequence[T], workers: int, on_done: Callable[[int], Any]) -> list[R]:
    """`[function(item, count) for item in items]` in up to `workers` processes, or in this one when that is 1.

    Args:
        function: a module's function; calls `count(n)` after each n steps of its work.
        items: picklable; begun in this order.
        workers: processes.
        on_done: called with the steps counted so far, a few times a second.
    """
    workers = min(workers, len(items))
    if workers <= 1:
        return _here(function, items, on_done)
    context = multiprocessing.get_context("spawn")
    # Without locks: a worker that is killed while it holds one would stop all others for good.
    done, stop = context.RawArray("q", _SLOTS), context.RawValue("b", 0)
    with ProcessPoolExecutor(workers, context, _start, (done, stop, os.getpid())) as executor:
        try:
            with _main_left_out():
                futures = [executor.submit(_call, function, item, at % _SLOTS) for at, item in enumerate(items)]
            waiting = set(futures)
            while waiting:
                finished, waiting = wait(waiting, timeout=0.2, return_when=FIRST_EXCEPTION)
                on_done(sum(done))
                for future in finished:
                    future.result()
        except BrokenProcessPool:
            told = "a worker process was killed, perhaps for want of memory; --workers 1 needs least"
            raise ShardsError(told) from None
        except BaseException:
            stop.value = 1
            executor.shutdown(cancel_futures=True)
            raise
        return [future.result() for future in futures]


def _here(function: Callable[[T, Count], R], items: Sequence[T], on_done: Callable[[int], Any]) -> list[R]:
    steps = 0

    def count(more: int) -> None:
        nonlocal steps
        steps += more
        on_done(steps)

    return [function(item, count) for item in items]


def _start(done: Any, stop: Any, parent: int) -> None:
    """Sets up a worker; it ends itself when told to, or when `parent` was killed, be it before this began."""
    _Worker.done = done
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to act on

    def watch() -> None:
        while not stop.value and os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _call(function: Callable[[T, Count], R], item: T, number: int) -> R:
    def count(more: int) -> None:
        _Worker.done[number] += more

    return function(item, count)
