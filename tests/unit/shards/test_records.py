from __future__ import annotations

import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards import InputError, Schema, decode_key, encode_key, tar
from shards.schema import folded, key_fault, split_order, stored_key_fault


@pytest.mark.fault(15)
@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_a_stored_key_is_printable_without_dots_and_blanks_and_decodes_to_the_key(name: bytes) -> None:
    key = name.decode("utf-8", "surrogateescape")
    stored = encode_key(key)
    assert not {".", " "} & set(stored)
    assert stored.isprintable()
    assert decode_key(stored) == key
    if key_fault(key) is None:
        assert stored_key_fault(stored) is None
        header = tarfile.TarInfo.frombuf(tar.header(f"{stored}.json".encode(), 7), "utf-8", "surrogateescape")
        assert (header.name, header.size) == (f"{stored}.json", 7)


@pytest.mark.parametrize(
    ("key", "stored"),
    [
        ("Bildschirmfoto\u202f12", "Bildschirmfoto%E2%80%AF12"),
        ("a\u00a0b", "a%C2%A0b"),
        ("caf\udce9", "caf%E9"),
        ("a\nb", "a%0Ab"),
        ("__init__/a", "%5F_init__/a"),
        ("b" * 96, "b%/" + "b" * 95),
        ("a" * 50 + "/" + "b" * 90, "a" * 50 + "/" + "b" * 90),
        ("ä" * 124, "ä" * 77 + "%/" + "ä" * 47),
    ],
)
def test_odd_names_are_kept(key: str, stored: str) -> None:
    assert encode_key(key) == stored
    assert decode_key(stored) == key
    assert key_fault(key) is None


def test_the_rule_for_dots_is_the_documented_one() -> None:
    assert encode_key("img/v1.0/a%b c") == "img/v1%2E0/a%25b%20c"


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("", "empty key"),
        ("../etc/passwd", ".. part"),
        ("a/../b", ".. part"),
        ("/etc/passwd", "starts with /"),
        ("a//b", "empty, . or .. part"),
        ("a/./b", "empty, . or .. part"),
        ("a\ud83d", "half of a character"),
        ("k" * 250, "takes 252 bytes in the tar; at most 249 fit"),
        ("." * 90, "takes 272 bytes"),
    ],
)
def test_keys_that_no_tar_can_hold_are_refused(key: str, told: str) -> None:
    assert told in (key_fault(key) or "")


@pytest.mark.fault(15)
def test_a_key_of_95_bytes_fits_and_a_foreign_one_may_be_longer() -> None:
    assert key_fault("k" * 95) is None
    assert stored_key_fault("a\nb") is not None
    assert stored_key_fault("__meta__/a") is not None
    assert stored_key_fault("k" * 200) is None


def test_keys_that_differ_in_case_or_composition_fold_together() -> None:
    assert folded("Straße/A") == folded("STRASSE/a")
    assert folded("caf\u00e9") == folded("cafe\u0301")


def test_splits_sort_in_the_order_people_expect() -> None:
    assert sorted(["test", "extra", "val", "train"], key=split_order) == ["train", "val", "test", "extra"]


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"a": 1, "b": [1, 2]}, None),
        ({"a": None, "b": None}, None),
        ({"a": 1}, "lack ['b']"),
        ({"a": 1, "b": [1, 2], "c": 3}, "unknown ['c']"),
        ({"a": True, "b": [1, 2]}, "fact a"),
        ({"a": 2**63, "b": [1, 2]}, "fact a"),
        ({"a": 1, "b": [1]}, "fact b"),
        ({"a": 1, "b": [1, 2.0]}, "fact b"),
    ],
)
def test_facts_are_checked_against_the_schema(facts: dict[str, object], told: str | None) -> None:
    fault = Schema({"a": "int", "b": "ints:2"}).fault(facts)
    assert fault is None if told is None else told in (fault or "")


@pytest.mark.parametrize(
    "facts", [{"offset": "int"}, {"a b": "int"}, {"a": "integer"}, {"a": "ints:0"}], ids=lambda facts: str(facts)
)
def test_impossible_schemas_are_refused(facts: dict[str, str]) -> None:
    with pytest.raises(InputError):
        Schema(facts)
