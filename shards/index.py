"""`index.parquet`, one row a sample in the order of the tars, and the DALI index beside each tar.

Columns: shard (int32, position in the manifest), offset (int64, of the image's first byte), size (int64), crc32
(uint32, of the image), key, split (dictionary), width, height (int32, as shown), and one column per fact. One row group
per shard, so that a split's columns are read without the others'.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shards.errors import InputError
from shards.safe_io import replacing, require_regular
from shards.schema import Schema

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

PLACES = ("offset", "size", "crc32", "key", "width", "height")
"""What a shard's rows hold beside the facts."""
_ROWS_A_BYTE, _MOST_PACKED = 64, 1000
"""No table of rows comes near these, nor to so many unpacked bytes a byte: each row has a key or a path of its own."""


def arrow_schema(schema: Schema) -> pa.Schema:
    """Columns and types of the index."""
    import pyarrow as pa

    kinds: dict[str, Any] = {"int": pa.int64(), "float": pa.float64(), "str": pa.string()}
    places = {
        "shard": pa.int32(), "offset": pa.int64(), "size": pa.int64(), "crc32": pa.uint32(), "key": pa.string(),
        "split": pa.dictionary(pa.int32(), pa.string()), "width": pa.int32(), "height": pa.int32(),
    }  # fmt: skip
    fields = [pa.field(name, kind, nullable=False) for name, kind in places.items()]
    fields += [
        pa.field(name, kinds.get(kind) or pa.list_(pa.int32(), schema.width(name)))
        for name, kind in schema.columns.items()
    ]
    return pa.schema(fields)


def open_table(path: Path) -> pq.ParquetFile:
    """A Parquet file of a set, whose pages are verified as they are read, where they were written with checksums.

    Raises:
        ArrowInvalid: it is none, or says that it has more rows than its bytes can hold.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(require_regular(path), memory_map=True, page_checksum_verification=True)
    rows, size = file.metadata.num_rows, path.stat().st_size
    if rows > size * _ROWS_A_BYTE:
        raise pa.ArrowInvalid(f"{rows} rows in {size} bytes")
    return file


def read_foreign(path: Path, what: str, *needed: str) -> tuple[list[str], dict[str, list[Any]]]:
    """Names of all columns of anybody's Parquet file, read for `what`, and all, or those `needed` where it has them.

    Of a column that Python has no values for, such as dates after the year 9999, each is the column's type.

    Raises:
        InputError: it is none, announces far more than its bytes can hold, or needs more memory than there is.
    """
    import pyarrow as pa

    def values(column: pa.ChunkedArray) -> list[Any]:
        try:
            return list(column.to_pylist())
        except (ValueError, OverflowError):
            return [column.type] * len(column)

    try:
        with open_table(Path(os.path.realpath(path))) as file:
            names, groups = file.schema_arrow.names, map(file.metadata.row_group, range(file.num_row_groups))
            if (announced := sum(group.total_byte_size for group in groups)) > _MOST_PACKED * path.stat().st_size:
                raise pa.ArrowInvalid(f"{announced} bytes, more than {_MOST_PACKED} times as many as it has packed")
            if len({*names}) < len(names):
                raise pa.ArrowInvalid("two columns have one name")
            table = file.read(list(needed) or None) if {*needed} <= {*names} else pa.table({})
            return names, dict(zip(table.column_names, map(values, table.columns), strict=True))
    except (OSError, MemoryError, pa.ArrowException) as error:
        told = "needs more memory than there is" if isinstance(error, MemoryError) else str(error).splitlines()[0]
        raise InputError(f"{path}{what} cannot be read as a table: {told}") from None


def write(path: Path, schema: Schema, shards: Iterable[tuple[str, Mapping[str, Sequence[Any]]]]) -> None:
    """Writes the index, whole or not at all.

    `shards` are (split, columns `PLACES` and facts) of each shard, in order, of which one is held at a time; a column
    is a list or one of Arrow's arrays.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = arrow_schema(schema)
    with (
        replacing(path) as file,
        pq.ParquetWriter(
            file, columns, compression="zstd", use_dictionary=["split"], write_page_checksum=True
        ) as writer,
    ):
        for number, (split, rows) in enumerate(shards):
            count = len(rows["key"])
            values = {**rows, "shard": [number] * count, "split": pa.array([split] * count).dictionary_encode()}
            given = ((values[field.name], field.type) for field in columns)
            arrays = [value if isinstance(value, pa.Array) else pa.array(value, kind) for value, kind in given]
            writer.write_table(pa.Table.from_arrays(arrays, schema=columns), row_group_size=max(1, count))


def table_hash(table: Any) -> str:
    """SHA-256 of a table's rows, the same whatever version of Parquet wrote them."""
    digest = hashlib.sha256(json.dumps(table.column_names).encode())
    for batch in table.combine_chunks().to_batches(max_chunksize=10_000):
        digest.update(json.dumps(batch.to_pylist(), sort_keys=True, default=str).encode())
    return digest.hexdigest()


def read(path: Path, shards: Iterable[int]) -> Iterator[dict[str, pa.Array]]:
    """The columns `PLACES` and facts of some shards of an index, by their numbers, one at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for number in shards:
            group = file.read_row_group(number)
            names = [name for name in group.column_names if name not in ("shard", "split")]
            yield {name: group[name].combine_chunks() for name in names}


def dali_index(samples: Iterable[Sequence[tuple[str, int, int, str]]]) -> bytes:
    """DALI's index `v1.2`: the number of samples, then a line of `extension offset size name` per member of each.

    Names serve its messages only; blanks, which foreign tars may have, would end them.
    """
    lines = []
    for sample in samples:
        members = (f"{ext} {offset} {size} {name.replace(' ', '%20')}" for ext, offset, size, name in sample)
        lines.append(" ".join(members))
    return "\n".join([f"v1.2 {len(lines)}", *lines, ""]).encode("utf-8", "surrogateescape")  # names of any bytes
