from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards import DamageError, tar

NAMES = st.text(st.characters(codec="ascii", exclude_characters="/\0", exclude_categories=["Cc"]), min_size=1).filter(
    lambda name: len(name) <= 100
)


@given(NAMES, st.integers(0, 8**11 - 1))
def test_headers_are_those_of_pythons_tarfile(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    assert tar.header(name.encode(), size) == info.tobuf(tarfile.USTAR_FORMAT)


def archive(path: Path, form: int, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w", format=form) as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mtime = 1.5  # makes a PAX header in PAX archives
            file.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_foreign_archives_are_walked_whatever_their_dialect(tmp_path: Path, form: int) -> None:
    long = "folder/" * 14 + "a-name-that-is-longer-than-one-hundred-bytes.jpg"
    members = [("a.jpg", b"12345"), (long, b"x" * 1000), ("b.json", b"{}")]
    walk = tar.Walk(archive(tmp_path / "a.tar", form, members))
    assert [(member.name, content) for member, content in walk] == members
    data = (tmp_path / "a.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as file:
        assert [member.offset_data for member in file] == [member.offset for member, _ in tar.Walk(tmp_path / "a.tar")]
    assert walk.size == len(data)


def test_cuts_and_flips_are_errors_that_name_the_place(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", tarfile.USTAR_FORMAT, [("a.jpg", b"x" * 3000), ("b.jpg", b"y" * 10)])
    whole = path.read_bytes()
    for cut in (100, 512, 2000, 4096, 4096 + 300):
        path.write_bytes(whole[:cut])
        with pytest.raises(DamageError, match=r"a\.tar.*cut"):
            list(tar.Walk(path))
    path.write_bytes(whole[:5] + b"Z" + whole[6:])
    with pytest.raises(DamageError, match=r"offset 0.*checksum"):
        list(tar.Walk(path))


def test_a_pax_size_is_refused_rather_than_believed(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.jpg")
    info.pax_headers = {"size": "99"}
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as file:
        file.addfile(info)
    with pytest.raises(DamageError, match="overrides a size"):
        list(tar.Walk(tmp_path / "a.tar"))
