"""Slow disks, long runs, large indexes, and what is refused."""

from __future__ import annotations

import dataclasses
import gc
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from fashion_dist.config import DataConfig
from fashion_dist.data import Loader, LoaderOptions
from fashion_dist.data import shard_reader as fetching
from fashion_dist.data.cpu_transforms import Renderer
from fashion_dist.data.dali import NICE, lower_thread_priority
from fashion_dist.data.shard_reader import Fetcher, ShardFiles
from fashion_dist.errors import ConfigError, InputError
from shards import ShardSet

DATA = DataConfig(image_px=32)


def make(shard_set: ShardSet, **settings: object) -> Loader:
    split = shard_set.split("train")
    chosen = {"batch_size": 16, "training": True} | settings
    return Loader(split, np.arange(len(split))[:, None], DATA, **chosen)  # type: ignore[arg-type]


def test_reads_overlap_on_a_slow_disk(photos_set: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every read takes 20 ms: one after the other, four epochs would take 6.4 s."""
    under_way, most = [0], [0]
    pread = os.pread

    def slow(descriptor: int, size: int, offset: int) -> bytes:
        under_way[0] += 1
        most[0] = max(most[0], under_way[0])
        time.sleep(0.02)
        under_way[0] -= 1
        return pread(descriptor, size, offset)

    with make(photos_set) as loader:
        monkeypatch.setattr(fetching, "pread", slow)
        for epoch in range(4):
            assert sum(len(batch.index) for batch in loader.epoch(epoch)) == 80
    assert most[0] >= 16


def test_open_files_are_bounded(photos_set: ShardSet) -> None:
    split = photos_set.split("train")
    files = ShardFiles(split, open_files=2)
    process = psutil.Process()
    before = process.num_fds()
    rows = np.random.default_rng(0).permutation(len(split))
    fetcher = Fetcher(files, split, threads=4)
    for start in range(0, len(rows), 20):
        part = rows[start : start + 20]
        read = fetcher.start(part, np.ones(len(part), bool)).wait()
        assert [len(image) for image in read] == split.size[part].tolist()  # type: ignore[arg-type]
        assert process.num_fds() <= before + 2
    fetcher.close()
    files.close()
    assert process.num_fds() == before


def test_memory_stays_flat_over_epochs(photos_set: ShardSet) -> None:
    process = psutil.Process()
    used: list[int] = []
    with make(photos_set) as loader:
        for epoch in range(25):
            for batch in loader.epoch(epoch):
                assert len(batch.index) == 16
            gc.collect()
            used.append(process.memory_info().rss)
    # The first epochs grow: DALI's and torch's pools, and Python's own.
    assert max(used[15:]) - used[5] < 8e6, [round(u / 1e6) for u in used]


def test_close_stops_every_thread_and_file(photos_set: ShardSet) -> None:
    with make(photos_set, options=LoaderOptions(cache="ram")) as loader:
        next(loader.epoch(0))  # one batch: others are under way
    process = psutil.Process()
    before = process.num_fds()
    for _ in range(3):
        with make(photos_set, options=LoaderOptions(cache="ram")) as loader:
            next(loader.epoch(0))
    gc.collect()
    assert process.num_fds() <= before
    assert torch.get_num_threads() >= 1


def test_torch_keeps_its_own_number_of_threads(photos_set: ShardSet) -> None:
    mine = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with make(photos_set, options=LoaderOptions(threads=3)) as loader:
            next(loader.epoch(0))
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(mine)


def test_threads_that_render_compute_on_one_core_each() -> None:
    mine = torch.get_num_threads()
    renderer = None
    try:
        torch.set_num_threads(4)
        renderer = Renderer(32, 3)
        together = threading.Barrier(3)

        def ask() -> int:
            together.wait(10)  # so that each thread is asked once
            return torch.get_num_threads()

        assert [asked.result() for asked in [renderer._pool.submit(ask) for _ in range(3)]] == [1, 1, 1]
    finally:
        torch.set_num_threads(mine)
        if renderer is not None:
            renderer.close()


BIG_INDEX = """
import sys, time, resource
from pathlib import Path
import numpy as np
from fashion_dist.config import DataConfig
from fashion_dist.data import Loader
from fashion_dist.data.sampler import epoch_order
from shards import ShardSet
import torch, pyarrow.parquet, psutil

process = psutil.Process()
before = process.memory_full_info().uss
began = time.perf_counter()
split = ShardSet.open(Path(sys.argv[1])).split("train")
columns = [split.shard, split.offset, split.size, split.crc32, split.width, split.height]
opened = time.perf_counter() - began
loader = Loader(split, np.arange(len(split))[:, None], DataConfig(image_px=32), batch_size=64, training=True)
works = loader._works(0, 1000)
assert len(next(works).index) == 64
print(len(split), opened, (process.memory_full_info().uss - before) / 1e6)
"""


def test_a_million_rows_open_quickly_in_little_memory(big_set: Path) -> None:
    done = subprocess.run([sys.executable, "-c", BIG_INDEX, str(big_set)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows, seconds, megabytes = map(float, done.stdout.split())
    assert rows == 1_000_000 and megabytes < 200, (seconds, megabytes)


SHARED_INDEX = """
import sys
import threading
from pathlib import Path
import numpy as np
from fashion_dist.config import DataConfig
from fashion_dist.data import Loader
from fashion_dist.data.columns import COLUMNS
from shards import ShardSet

split = ShardSet.open(Path(sys.argv[1])).split("train")
images = np.arange(len(split))[:, None]
loader = Loader(split, images, DataConfig(image_px=32), batch_size=64, training=True,
                rank=int(sys.argv[2]), world_size=2, local_world_size=2)
print("open", flush=True)
sys.stdin.readline()
maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
for name in COLUMNS:
    column = getattr(loader._split, name)
    assert np.array_equal(column, getattr(ShardSet.open(Path(sys.argv[1])).split("train"), name)), name
    at = column.ctypes.data
    inode = [line[4] for line in maps if int(line[0].split("-")[0], 16) <= at < int(line[0].split("-")[1], 16)]
    print(name, *inode, flush=True)
"""


def test_ranks_of_a_node_have_the_index_in_the_same_memory(big_set: Path) -> None:
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", SHARED_INDEX, str(big_set), str(rank)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    for rank in ranks:
        assert rank.stdout is not None and rank.stdout.readline() == "open\n"
    first, second = (rank.communicate("\n")[0] for rank in ranks)
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert first == second
    assert len({line.split()[1] for line in first.splitlines()}) == 1
    assert first.split()[1] != "0"


@pytest.fixture(scope="session")
def big_set(photos_set: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A million rows that name one sample's bytes over and over."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("big")
    split = photos_set.split("train")
    count, shards = 1_000_000, 20
    first = int(np.flatnonzero(split.shard == split.shard.min())[0])
    name = split.shard_names[split.shard[first]]
    entry = next(shard for shard in photos_set.manifest.shards if shard.name == name)
    size = max(entry.size, count // shards)  # no set has more samples than bytes
    made = [
        dataclasses.replace(entry, samples=count // shards, size=size, name=f"train-{i:05d}.tar") for i in range(shards)
    ]
    for shard in made:
        (folder / shard.name).write_bytes((photos_set.path / name).read_bytes().ljust(size, b"\0"))
    table = pq.read_table(photos_set.path / "index.parquet").slice(split.row0 + first, 1)
    same = np.zeros(count // shards, np.int64)
    arrays = [table[field.name].combine_chunks().take(same) for field in table.schema]
    with pq.ParquetWriter(folder / "index.parquet", table.schema, compression="zstd") as writer:
        for number in range(shards):
            arrays[table.schema.get_field_index("shard")] = pa.array(np.full(count // shards, number, np.int32))
            writer.write_table(pa.Table.from_arrays(arrays, schema=table.schema))
    (folder / "manifest.json").write_bytes(dataclasses.replace(photos_set.manifest, shards=tuple(made)).encoded())
    return folder


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda path: path.unlink(), "no such shard, but the index names it"),
        (lambda path: os.truncate(path, path.stat().st_size // 3), "does not match the manifest"),
        (lambda path: path.write_bytes(path.read_bytes()[512:] + bytes(512)), "no image of"),
        (lambda path: path.write_bytes(path.read_bytes() + bytes(512)), "does not match the manifest"),
    ],
    ids=["missing", "cut", "shifted", "grown"],
)
def test_shards_that_are_not_those_of_the_index_are_refused(own_set: ShardSet, spoil: object, told: str) -> None:
    path = own_set.path / own_set.split("train").shard_names[1]
    assert callable(spoil)
    name = own_set.split("train").shard_names[int(own_set.split("train").shard.max())]
    path = own_set.path / name
    spoil(path)
    with pytest.raises(InputError, match=told) as caught:
        make(own_set)
    assert name in str(caught.value) and "--reindex" in str(caught.value)


@pytest.mark.fault(16)
def test_what_cannot_be_is_refused(photos_set: ShardSet) -> None:
    for settings, told in (
        ({"batch_size": 15, "world_size": 2}, "nearest that is: 14 or 16"),
        ({"batch_size": 90, "world_size": 90}, "fewer than 90 ranks"),
        ({"options": LoaderOptions(cache="ram", cache_gb=1e6)}, "is more than the"),
        ({"weights": np.array([0.0] * 83)}, "weighted order"),
        ({"classes": np.full(83, -1)}, "balanced order"),
    ):
        with pytest.raises(ConfigError, match=told):
            make(photos_set, **settings)
    for wrong in ({"cache": "disk"}, {"bad_samples": "ignore"}, {"threads": -1}):
        with pytest.raises(ConfigError):
            LoaderOptions(**wrong)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_memory_of_a_missing_gpu_is_refused(photos_set: ShardSet) -> None:
    with pytest.raises(ConfigError, match="--cache gpu needs a CUDA GPU"):
        make(photos_set, options=LoaderOptions(cache="gpu"))
    with pytest.raises(ConfigError, match="needs a CUDA GPU"):
        make(photos_set, device=torch.device("cuda", 0))


def test_auto_keeps_nothing_where_little_fits(photos_set: ShardSet) -> None:
    with make(photos_set, options=LoaderOptions(cache="auto", cache_gb=0.0001)) as loader:
        assert "none; only" in loader.cache_note
    assert dataclasses.asdict(LoaderOptions())["cache"] == "none"


@pytest.mark.parametrize("start", [0, NICE + 5])
def test_preparing_images_steps_back_and_never_forward(start: int) -> None:
    def niceness() -> tuple[int, int]:
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(start, os.getpriority(os.PRIO_PROCESS, thread)))
        before = os.getpriority(os.PRIO_PROCESS, thread)
        lower_thread_priority()
        return before, os.getpriority(os.PRIO_PROCESS, thread)

    with ThreadPoolExecutor(1) as pool:
        before, after = pool.submit(niceness).result()
    assert before >= start
    assert after == max(NICE, before)
