"""What asks for more than is there, or than anybody means, is refused before memory or time is taken."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import resource
import shutil
import struct
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sources import jpeg

from shards import Manifest, PackOptions, ReadOptions, Schema, ShardsError, ShardSet, index, pack
from shards.labels import read_classes
from shards.reindex import ReindexOptions, reindex
from shards.scan import Taking
from shards.tar import END, header
from shards.verify import verify

GIB = 1 << 30


@pytest.fixture(autouse=True)
def frugal() -> Iterator[None]:
    """A case may take half a GiB more than the process has, and two seconds."""
    pa.array([1])
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before, began = resource.getrlimit(resource.RLIMIT_AS), time.monotonic()
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + GIB // 2, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.monotonic() - began < 10


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(ShardsError) as caught:
        act()
    return str(caught.value)


def tar_of(folder: Path, *members: tuple[str, bytes]) -> Path:
    folder.mkdir()
    with tarfile.open(folder / "train.tar", "w", format=tarfile.USTAR_FORMAT) as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return folder


def packed_words(path: Path, count: int, word: str) -> None:
    """A Parquet file of one word again and again."""
    words = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([word])).cast(pa.string())
    with pq.ParquetWriter(path, pa.schema([("key", pa.string()), ("label", pa.string())]), compression="zstd") as file:
        for _ in range(8):
            file.write_table(pa.table([words, words], schema=file.schema), row_group_size=count)


def test_a_parquet_file_that_is_much_larger_than_its_bytes_is_not_read(tmp_path: Path) -> None:
    folder, by_key = tar_of(tmp_path / "tars", ("0.jpg", jpeg(0))), ReadOptions(path_column="key")
    for count, word, told in (
        (200_000, "a", "rows in"),
        (4, "a" * 10_000_000, "more than 1000 times as many as it has packed"),
    ):
        packed_words(folder / "train.parquet", count, word)
        assert told in refused(lambda: reindex(folder, options=ReindexOptions(Taking("label"))))
        assert told in refused(lambda: pack("table", folder / "train.parquet", tmp_path / "out", read_options=by_key))


@pytest.mark.parametrize("name", ["polyvore_item_metadata.json", "disjoint/train.json", "polyvore_outfit_titles.json"])
def test_lists_of_a_raw_data_set_that_end_nowhere_are_not_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "disjoint").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "polyvore_item_metadata.json").write_text("{}")
    path = tmp_path / name
    for make, told in (
        (os.mkfifo, "is a FIFO"),
        (lambda path: path.symlink_to("/dev/zero"), "device|symbolic link to no file"),
        (lambda path: path.symlink_to("nowhere"), "symbolic link to no file|does not exist"),
        (lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 40 * GIB), "it is sparse"),
    ):
        path.unlink(missing_ok=True)
        make(path)
        assert re.search(told, refused(lambda: pack("polyvore_outfits", tmp_path, tmp_path / "out")))


def test_class_names_that_end_nowhere_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.txt")
    for path, told in ((tmp_path / "fifo.txt", "is a FIFO"), (Path("/dev/zero"), "is a device")):
        assert told in refused(lambda path=path: read_classes(path))


def deep(count: int) -> bytes:
    return b'{"a":' + b"[" * count + b"]" * count + b"}"


def facts(count: int, prefix: str = "") -> bytes:
    return json.dumps({f"f{prefix}_{n}": n for n in range(count)}).encode()


MEMBERS: dict[str, tuple[list[tuple[str, bytes]], str]] = {
    "a long list": ([("0.json", b'{"a": [' + b"1," * 10_000_000 + b"1]}")], r"SHARDS_MAX_FACT_BYTES raises"),
    "a long text": ([("0.txt", b"x" * 20_000_000)], r"member '0.txt': 20000000 bytes, more than 4194304"),
    "a vector": ([("0.json", json.dumps({"a": [1] * 70_000}).encode())], r"SHARDS_MAX_VECTOR raises"),
    "many facts": ([("0.json", facts(200_000))], r"200000 facts, more than 4096; SHARDS_MAX_FACTS raises"),
    "facts of many": (
        [m for n in "12345" for m in ((f"{n}.jpg", jpeg(int(n))), (f"{n}.json", facts(1000, n)))],
        r"5000 facts, more than 4096",
    ),
    "depth": ([("0.json", deep(400_000))], r"0\.json' cannot be read"),
    "members": ([(f"0.x{n}", b"") for n in range(3000)], r"1025 members, more than 1024"),
    "a picture": ([], r"member '0.jpg': .* bytes, more than 1000; SHARDS_MAX_PICTURE_BYTES raises"),
}  # fmt: skip


@pytest.mark.parametrize("name", MEMBERS)
def test_members_of_a_tar_have_limits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members, told = MEMBERS[name]
    if name == "a picture":
        monkeypatch.setenv("SHARDS_MAX_PICTURE_BYTES", "1000")
    picture = jpeg(0) + bytes(2000) if name == "a picture" else jpeg(0)
    folder = tar_of(tmp_path / "t", ("0.jpg", picture), *members)
    assert re.search(told, refused(lambda: reindex(folder)))
    assert sorted(path.name for path in folder.iterdir()) == ["train.tar"]


def test_a_limit_is_raised_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tar_of(
        tmp_path / "t", ("0.jpg", jpeg(0)), ("0.json", json.dumps({f"f{n}": n for n in range(5000)}).encode())
    )
    refused(lambda: reindex(folder))
    monkeypatch.setenv("SHARDS_MAX_FACTS", "5000")
    assert len(reindex(folder).schema.columns) == 5000


@pytest.mark.parametrize("member", ["0.jpg", "0.json", "0.npy", "__shards__/schema.json"])
def test_a_tar_of_holes_is_refused_before_it_is_read(member: str, tmp_path: Path) -> None:
    size = 7 * GIB
    folder = tmp_path / "t"
    folder.mkdir()
    with (folder / "train.tar").open("wb") as file:
        file.write(header(b"1.jpg", 4) + bytes(512))
        file.write(header(member.encode(), size))
        file.seek(size, os.SEEK_CUR)
        file.write(END)
    assert (folder / "train.tar").stat().st_blocks * 512 < 1 << 20
    assert "it is sparse: 75" in refused(lambda: reindex(folder))


def test_a_few_holes_are_zeros(tmp_path: Path) -> None:
    """As file systems make them that store no zeros."""
    folder = tar_of(tmp_path / "t", ("0.jpg", jpeg(0)), ("0.npy", bytes(1 << 20)))
    path = folder / "train.tar"
    content = path.read_bytes()
    with path.open("wb") as file:
        for block in (content[at : at + 4096] for at in range(0, len(content), 4096)):
            file.write(block) if any(block) else file.seek(len(block), os.SEEK_CUR)
        file.truncate(len(content))
    assert path.stat().st_blocks * 512 < len(content) / 2
    assert path.read_bytes() == content
    reindex(folder)
    assert verify(folder) == []


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    members = [(f"{n}.{kind}", data) for n in range(3) for kind, data in (("jpg", jpeg(n)), ("json", b'{"v": [1, 2]}'))]
    tars = tar_of(folder / "t", *members)
    reindex(tars)
    return tars


def rewritten(folder: Path, **changes: Any) -> Path:
    """The set with another manifest whose hashes are right, as whoever makes one can have them."""
    manifest = replace(Manifest.load(folder), **changes)
    (folder / "manifest.json").write_bytes(manifest.encoded())
    return folder


@pytest.mark.parametrize("samples", [4, 10**9, 10**15])
def test_samples_that_are_not_there_take_no_memory(samples: int, packed: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(packed, tmp_path / "set")
    (shard,) = Manifest.load(folder).shards
    rewritten(folder, shards=(replace(shard, samples=samples, size=2**60),))
    split = ShardSet.open(folder).split("train")
    for read in (lambda: split.keys, lambda: split.columns("v"), lambda: split.offset):
        assert "3 rows, " in refused(read) and str(samples) in refused(read)
    assert verify(folder)


def test_rows_that_the_bytes_cannot_hold_are_refused(packed: Path, tmp_path: Path) -> None:
    """A column of one value is a few bytes, however many rows it says it has."""
    folder = shutil.copytree(packed, tmp_path / "set")
    rows = 20_000_000
    pq.write_table(pa.table({"size": pa.repeat(pa.scalar(1, pa.int64()), rows)}), folder / "index.parquet")
    (shard,) = Manifest.load(folder).shards
    rewritten(folder, shards=(replace(shard, samples=rows, size=2**60),))
    assert f"{rows} rows in " in refused(lambda: ShardSet.open(folder).split("train").size)
    assert any(f"{rows} rows in " in str(fault) for fault in verify(folder))


def test_an_image_larger_than_its_tar_takes_no_memory(packed: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(packed, tmp_path / "set")
    table = pq.read_table(folder / "index.parquet")
    sizes = pa.array([2**40, *table["size"].to_pylist()[1:]], pa.int64())
    changed = table.set_column(table.column_names.index("size"), table.schema.field("size"), sizes)
    pq.write_table(changed, folder / "index.parquet")
    assert f"{2**40} bytes of an image" in refused(lambda: ShardSet.open(folder).split("train").size)
    assert f"of {2**40} bytes at offset" in str(verify(folder)[0])


@pytest.mark.parametrize(
    ("column", "values", "told"),
    [
        ("shard", pa.scalar(7, pa.int32()), "shard is 7 to 7; allowed: 0 to 0"),
        ("shard", pa.scalar(-1, pa.int32()), "shard is -1 to -1; allowed: 0 to 0"),
        ("width", pa.scalar(0, pa.int32()), "width is 0 to 0; allowed: 1 to 65535"),
        ("height", pa.scalar(2**31 - 1, pa.int32()), "height is 2147483647 to 2147483647; allowed: 1 to 65535"),
        ("offset", pa.scalar(0.5), "it has no column offset: int64 not null"),
        ("crc32", pa.scalar("x"), "it has no column crc32: uint32 not null"),
        ("width", pa.scalar(None, pa.int32()), "it has no column width: int32 not null"),
    ],
)
def test_places_that_no_image_has_are_refused(
    packed: Path, tmp_path: Path, column: str, values: pa.Scalar, told: str
) -> None:
    """A width of an index that was made up ended in decoders as a signal, or as an error of Python's."""
    folder = shutil.copytree(packed, tmp_path / "set")
    table = pq.read_table(folder / "index.parquet")
    field = table.schema.field(column)
    if field.type != values.type or not values.is_valid:
        field = pa.field(column, values.type)
    changed = pa.repeat(values, len(table))
    pq.write_table(table.set_column(table.column_names.index(column), field, changed), folder / "index.parquet")
    assert told in refused(lambda: getattr(ShardSet.open(folder).split("train"), column))


@pytest.mark.parametrize("values", [pa.scalar(0.5), pa.scalar("x"), pa.scalar(True)])
def test_facts_of_another_type_are_not_cast(packed: Path, tmp_path: Path, values: pa.Scalar) -> None:
    folder = shutil.copytree(packed, tmp_path / "set")
    table = pq.read_table(folder / "index.parquet")
    field = index.arrow_schema(Manifest.load(folder).schema).field(-1)
    fact = field.name
    changed = table.set_column(table.column_names.index(fact), fact, pa.repeat(values, len(table)))
    pq.write_table(changed, folder / "index.parquet")
    split = ShardSet.open(folder).split("train")
    for read in (lambda: split.columns(fact), lambda: list(split.iter_columns(fact))):
        assert f"it has no column {fact}: {field.type}" in refused(read)


def test_a_column_of_vectors_has_a_limit(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(packed, tmp_path / "set")
    monkeypatch.setenv("SHARDS_MAX_NUMBERS", "1000")
    rows, schema = 11, Schema({"v": "ints:100"})
    nothing = {"key": [f"k{n}" for n in range(rows)], "v": [None] * rows}
    zeros = {name: [0] * rows for name in ("offset", "size", "crc32", "width", "height")}
    index.write(folder / "index.parquet", schema, [("train", {**zeros, **nothing})])
    (shard,) = Manifest.load(folder).shards
    rewritten(folder, schema=schema, shards=(replace(shard, samples=rows, size=2**60),))
    assert "SHARDS_MAX_NUMBERS raises" in refused(lambda: ShardSet.open(folder).split("train").columns("v"))


def make_without_bytes(path: Path, kind: str) -> None:
    """A pipe, a file that is a hole, or a link to a device."""
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "holes":
        with path.open("wb") as file:
            file.truncate(2 * GIB)
    else:
        path.symlink_to(kind)


@pytest.mark.parametrize("name", ["manifest.json", "index.parquet", "train.tar", "train.idx"])
@pytest.mark.parametrize("kind", ["fifo", "/dev/zero", "holes"])
def test_only_files_with_bytes_are_read(kind: str, name: str, packed: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(packed, tmp_path / "set")
    (folder / name).unlink()
    make_without_bytes(folder / name, kind)
    try:
        assert verify(folder), "nothing wrong was found"
    except ShardsError as error:
        assert name in str(error) or "set" in str(error)


@pytest.mark.parametrize("kind", ["fifo", "/dev/zero", "holes"])
@pytest.mark.parametrize("name", ["train/cat/1.jpg", "labels.csv", "labels.json", "labels.parquet"])
def test_only_files_with_bytes_are_packed(kind: str, name: str, tmp_path: Path) -> None:
    source = tmp_path / "raw"
    for other in ("train/cat/0.jpg", "train/dog/0.jpg"):
        (source / other).parent.mkdir(parents=True, exist_ok=True)
        (source / other).write_bytes(jpeg(len(other)))
    make_without_bytes(source / name, kind)
    dataset = "image_folder" if name.endswith("jpg") else "table"
    told = refused(lambda: pack(dataset, source, tmp_path / "out", PackOptions()))
    assert Path(name).name in told or "holds no table" in told
    assert not list((tmp_path / "out").glob("*.tar"))


def test_a_gzipped_file_unzips_to_what_its_header_announces(tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(1 << 26), 1)
    for stem, shape in {"train-images-idx3-ubyte": (1, 28, 28), "train-labels-idx1-ubyte": (1,)}.items():
        head = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
        (tmp_path / f"{stem}.gz").write_bytes(gzip.compress(head) + bomb * 16)
    assert "has more bytes, its header announces 800" in refused(
        lambda: pack("fashion_mnist", tmp_path, tmp_path / "out", PackOptions())
    )
