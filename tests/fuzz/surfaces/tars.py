"""Somebody's tar, re-indexed: refused, or a set that agrees with itself."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import odd_images
from surface import Surface

from shards import ShardsError
from shards.reindex import ReindexOptions, reindex
from shards.verify import verify


def seeds(folder: Path) -> Sequence[bytes]:
    del folder
    made = []
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        for prefix in ("", "folder/" * 20, "ü"):
            file = io.BytesIO()
            with tarfile.open(fileobj=file, mode="w", format=kind) as tar:
                for number in range(3):
                    facts = json.dumps({"label": number, "text": "é", "score": 0.5, "box": [1, 2]}).encode()
                    picture = odd_images.saved(odd_images.rgb(), "JPEG")
                    for name, data in ((f"{prefix}{number}.jpg", picture), (f"{prefix}{number}.json", facts)):
                        member = tarfile.TarInfo(name)
                        member.size = len(data)
                        tar.addfile(member, io.BytesIO(data))
            content = file.getvalue().rstrip(b"\0")
            made.append(content + bytes(-len(content) % 512 + 1024))
    return made


def check(data: bytes, number: int, folder: Path) -> None:
    (folder / "train.tar").write_bytes(data)
    reindex(folder, options=ReindexOptions(skip_bad=bool(number % 2)))
    faults = verify(folder)
    assert not faults, str(faults[0])


SURFACE = Surface(seeds, check, (ShardsError,))
