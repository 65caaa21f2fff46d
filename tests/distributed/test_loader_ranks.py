"""Real processes: killed in the middle of an epoch and resumed by another number of ranks, with a shared cache."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fashion_dist.config import DataConfig
from fashion_dist.data import Loader, LoaderOptions
from shards import ShardSet

DATA = DataConfig(image_px=32, rotate=20, brightness=0.2, saturation=0.2, erase=0.2)
EPOCHS = 3


def _read(rank: int, ranks: int, path: str, out: str, start: tuple[int, int], pause_s: float) -> None:
    split = ShardSet.open(path).split("train")
    options = LoaderOptions(cache="ram", threads=1)
    with (
        Path(out).open("a") as ledger,
        Loader(
            split,
            np.arange(len(split))[:, None],
            DATA,
            batch_size=16,
            training=True,
            rank=rank,
            world_size=ranks,
            local_world_size=ranks,
            options=options,
            seed=5,
        ) as loader,
    ):
        for epoch in range(start[0], EPOCHS):
            first = start[1] if epoch == start[0] else 0
            for step, batch in enumerate(loader.epoch(epoch, first), first):
                for example, image in zip(batch.index.tolist(), batch.images, strict=True):
                    pixels = zlib.crc32(image.contiguous().numpy().tobytes())
                    ledger.write(f"{epoch} {step} {split.keys[example]} {pixels}\n")
                ledger.flush()
                time.sleep(pause_s)


def _start(
    ranks: int, shard_set: Path, folder: Path, start: tuple[int, int] = (0, 0), pause_s: float = 0.0
) -> Sequence[multiprocessing.process.BaseProcess]:
    folder.mkdir()
    context = multiprocessing.get_context("spawn")
    made = [
        context.Process(
            target=_read, args=(rank, ranks, str(shard_set), str(folder / f"{rank}.txt"), start, pause_s), daemon=True
        )
        for rank in range(ranks)
    ]
    for process in made:
        process.start()
    return made


def _lines(folder: Path) -> list[str]:
    return sorted(line for path in folder.glob("*.txt") for line in path.read_text().splitlines())


def _step(line: str) -> tuple[int, int]:
    epoch, step = line.split()[:2]
    return int(epoch), int(step)


def _last_step(ledger: Path) -> tuple[int, int]:
    return max(map(_step, ledger.read_text().splitlines()))


def _mine_in_shared_memory() -> list[str]:
    return [path.name for path in Path("/dev/shm").glob(f"fashion-dist-{os.getuid()}-{os.getpid()}-*")]


@pytest.fixture(scope="module")
def shard_set(packed_home: Path) -> Path:
    return packed_home / "shards" / "deep_fashion"


def test_killed_ranks_are_resumed_by_another_number_of_ranks(shard_set: Path, tmp_path: Path) -> None:
    for process in (whole := _start(1, shard_set, tmp_path / "whole")):
        process.join()
        assert process.exitcode == 0
    del whole
    expected = _lines(tmp_path / "whole")
    assert len(expected) == EPOCHS * 96 and len({line.rsplit(" ", 1)[1] for line in expected}) == EPOCHS * 96

    killed = _start(2, shard_set, tmp_path / "killed", pause_s=0.1)
    while (
        not all((tmp_path / "killed" / f"{rank}.txt").exists() for rank in range(2))
        or len(_lines(tmp_path / "killed")) < 8 * 16
    ):
        assert all(process.exitcode is None for process in killed)
        time.sleep(0.02)
    for process in killed:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert _mine_in_shared_memory() == [], "the cache goes with its ranks"

    # What a checkpoint would hold: the last step that every rank finished.
    done = min(_last_step(tmp_path / "killed" / f"{rank}.txt") for rank in range(2))
    before = [line for line in _lines(tmp_path / "killed") if _step(line) <= done]
    steps = 96 // 16
    total = done[0] * steps + done[1] + 1
    for process in (resumed := _start(4, shard_set, tmp_path / "resumed", start=divmod(total, steps))):
        process.join()
        assert process.exitcode == 0
    del resumed
    assert sorted(before + _lines(tmp_path / "resumed")) == expected
    assert _mine_in_shared_memory() == []
