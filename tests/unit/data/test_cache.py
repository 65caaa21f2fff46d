"""Memory shared by the ranks of a node: real processes, /dev/shm, and deaths."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection

import numpy as np
import pytest

from fashion_dist.data import memory
from fashion_dist.data.cache import Cache, areas, bounded_sizes
from fashion_dist.errors import ConfigError

SIZES = np.array([[4, 3], [5, 5], [2, 7]], np.int32)
CAPACITY = int(areas(SIZES).sum())
ROWS = np.arange(3)


def image(row: int) -> np.ndarray:
    width, height = SIZES[row].tolist()
    return np.random.default_rng(row).integers(0, 256, (height, width, 3), dtype=np.uint8)


def left_behind() -> list[str]:
    return [path.name for path in memory.SHARED.glob(f"fashion-dist-{os.getuid()}-{os.getpid()}-*")]


def test_what_was_put_is_there() -> None:
    cache = Cache(SIZES, CAPACITY)
    assert cache.missing(ROWS).tolist() == [True] * 3
    for row in (1, 2):
        cache.put(row, image(row))
    assert cache.missing(ROWS).tolist() == [True, False, False]
    assert all(np.array_equal(cache.get(row), image(row)) for row in (1, 2))
    cache.close()


def test_what_does_not_fit_has_no_place() -> None:
    cache = Cache(SIZES, CAPACITY - 1)
    cache.put(2, image(2))
    assert cache.keeps(ROWS).tolist() == [True, True, False] and cache.missing(ROWS)[2]
    cache.close()


def test_bounded_sizes_reduce_the_shorter_side() -> None:
    sizes = np.array([[100, 50], [40, 400], [30, 20]], np.int32)
    assert bounded_sizes(sizes, 0) is sizes
    assert bounded_sizes(sizes, 40).tolist() == [[80, 40], [40, 400], [30, 20]]
    assert bounded_sizes(sizes, 25).tolist() == [[50, 25], [25, 250], [30, 20]]


def _rank(row: int, pipe: Connection) -> None:
    cache = Cache(SIZES, CAPACITY, ranks=2, name="shared")
    pipe.send("open")
    while (asked := pipe.recv()) != "end":
        if asked == "put":
            cache.put(row, image(row))
            pipe.send("done")
        else:
            pipe.send(
                [
                    bool(m) or not np.array_equal(cache.get(r), image(r))
                    for r, m in zip(ROWS, cache.missing(ROWS), strict=True)
                ]
            )
    cache.close()


def _start() -> tuple[list[multiprocessing.process.BaseProcess], list[Connection]]:
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(2)]
    ranks = [context.Process(target=_rank, args=(row, pipe[1]), daemon=True) for row, pipe in enumerate(pipes)]
    for rank, (_, theirs) in zip(ranks, pipes, strict=True):
        rank.start()
        theirs.close()
    return list(ranks), [pipe[0] for pipe in pipes]


def test_ranks_see_each_other_s_images_and_a_killed_one_leaves_nothing() -> None:
    ranks, pipes = _start()
    assert [pipe.recv() for pipe in pipes] == ["open", "open"]
    assert left_behind() == [], "the name goes when all have opened it"
    for pipe in pipes:
        pipe.send("put")
        assert pipe.recv() == "done"
    for pipe in pipes:
        pipe.send("look")
        assert pipe.recv() == [False, False, True]
    for rank in ranks:
        assert rank.pid is not None
        os.kill(rank.pid, signal.SIGKILL)
        rank.join()
    assert left_behind() == []


def test_what_a_death_at_the_start_leaves_is_removed_at_the_next() -> None:
    dead = os.fork()
    if dead == 0:
        os._exit(0)
    os.waitpid(dead, 0)
    stale = memory.SHARED / f"fashion-dist-{os.getuid()}-{dead}-0123456789abcdef"
    alive = memory.SHARED / f"fashion-dist-{os.getuid()}-{os.getpid()}-0123456789abcdef"
    try:
        for path in (stale, alive):
            path.write_bytes(b"x" * 100)
        memory.remove_stale()
        assert not stale.exists() and alive.exists()
    finally:
        alive.unlink()


def test_no_room_is_refused_and_leaves_nothing() -> None:
    with pytest.raises(ConfigError, match=r"--cache ram needs .* GB of /dev/shm"):
        memory.Block(1 << 50, ranks=2, name="too much")
    assert not [
        p
        for p in memory.SHARED.glob(f"fashion-dist-{os.getuid()}-{os.getppid()}-*")
        if p.stat().st_mtime > time.time() - 5
    ]


def test_promised_memory_is_not_promised_again() -> None:
    before = memory.free_bytes()
    block = memory.Block(1 << 30)
    assert memory.free_bytes() < before - (1 << 29)
    block.close()
    assert memory.free_bytes() > before - (1 << 29)
