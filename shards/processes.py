"""The same function over many things, in worker processes that never outlive their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from multiprocessing.synchronize import Event
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")
Count = Callable[[int], None]


class _Worker:
    """What a worker process was started with."""

    counter: Any = None


def each(function: Callable[[T, Count], R], items: Sequence[T], workers: int, on_done: Callable[[int], Any]) -> list[R]:
    """`[function(item, count) for item in items]`, in up to `workers` processes, or in this one when that is 1.

    Args:
        function: a module's function; calls `count(n)` after each n steps of its work.
        items: picklable; begun in this order.
        workers: processes.
        on_done: called with the steps counted so far, a few times a second.
    """
    if min(workers, len(items)) <= 1:
        return _here(function, items, on_done)
    context = multiprocessing.get_context("spawn")
    counter, stop = context.Value("q", 0), context.Event()
    with ProcessPoolExecutor(min(workers, len(items)), context, _start, (counter, stop)) as pool:
        try:
            futures: list[Future[R]] = [pool.submit(_call, function, item) for item in items]
            waiting = set(futures)
            while waiting:
                done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_EXCEPTION)
                on_done(counter.value)
                for future in done:
                    future.result()
        except BaseException:
            stop.set()
            raise
    return [future.result() for future in futures]


def _here(function: Callable[[T, Count], R], items: Sequence[T], on_done: Callable[[int], Any]) -> list[R]:
    steps = 0

    def count(more: int) -> None:
        nonlocal steps
        steps += more
        on_done(steps)

    return [function(item, count) for item in items]


def _start(counter: object, stop: Event) -> None:
    """Sets up a worker; it ends itself when told to, or when its parent was killed."""
    _Worker.counter = counter
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to act on
    parent = os.getppid()

    def watch() -> None:
        while not stop.wait(0.2) and os.getppid() == parent:
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _call(function: Callable[[T, Count], R], item: T) -> R:
    def count(more: int) -> None:
        with _Worker.counter.get_lock():
            _Worker.counter.value += more

    return function(item, count)
