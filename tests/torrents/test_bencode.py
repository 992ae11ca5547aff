from __future__ import annotations

import contextlib
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annex_remote.errors import Damaged
from annex_remote.torrents import bencode
from annex_remote.torrents.bencode import MAX_DEPTH, MAX_ITEMS, Raw, Value, decode, decode_with_spans, encode

GOOD: list[tuple[bytes, Value]] = [
    (b"i0e", 0),
    (b"i-1e", -1),
    (b"i99999999999999999999e", 10**20 - 1),
    (b"0:", b""),
    (b"3:i1e", b"i1e"),
    (b"le", []),
    (b"de", {}),
    (b"lli1eed1:a0:ee", [[1], {b"a": b""}]),
    (b"d0:de1:ale2:aai7ee", {b"": {}, b"a": [], b"aa": 7}),
]

BAD = {
    "nothing": b"",
    "leading zero": b"i01e",
    "minus zero": b"i-0e",
    "plus": b"i+1e",
    "no digits": b"ie",
    "minus alone": b"i-e",
    "blank": b"i 1e",
    "underscore": b"i1_0e",
    "21 digits": b"i999999999999999999999e",
    "integer cut": b"i12",
    "length with leading zero": b"01:a",
    "negative length": b"-1:a",
    "length without colon": b"3",
    "string cut": b"3:ab",
    "length of 11 digits": b"10000000000:a",
    "list cut": b"li1e",
    "dictionary cut": b"d1:ai1e",
    "value missing": b"d1:ae",
    "value missing at the end": b"d1:a",
    "key that is an integer": b"di1ei1ee",
    "key that is a list": b"dlei1ee",
    "key cut": b"d5:ab",
    "key twice": b"d1:ai1e1:ai1ee",
    "key twice, not in a row": b"d1:ai1e1:bi1e1:ai1ee",
    "key twice within": b"d4:infod1:ai1e1:ai2eee",
    "end alone": b"e",
    "two values": b"i1ei2e",
    "something behind": b"de0",
    "two line feeds behind": b"de\n\n",
    "blank behind": b"de ",
    "blank before": b" de",
    "other type": b"x",
    "other digits": "i\u0661e".encode(),
}


@pytest.mark.parametrize(("data", "value"), GOOD)
def test_good(data: bytes, value: Value) -> None:
    assert decode(data) == value
    assert encode(value) == data


@pytest.mark.parametrize("name", BAD)
def test_refused(name: str) -> None:
    with pytest.raises(Damaged):
        decode(BAD[name])


def test_what_real_torrents_do_is_taken() -> None:
    assert decode(b"de\n") == {}
    assert decode(b"de\r\n") == {}
    assert decode(b"d1:bi1e1:ai2ee") == {b"b": 1, b"a": 2}


def test_where_values_stand() -> None:
    data = b"d1:zd4:infoi1ee4:infod1:bi1e1:ali2eee1:a0:e\n"
    value, spans = decode_with_spans(data)
    assert value == {b"z": {b"info": 1}, b"info": {b"b": 1, b"a": [2]}, b"a": b""}
    assert {key: data[span] for key, span in spans.items()} == {
        b"z": b"d4:infoi1ee",
        b"info": b"d1:bi1e1:ali2eee",
        b"a": b"0:",
    }


@pytest.mark.parametrize("data", [b"le", b"i1e", b"4:info"])
def test_only_a_dictionary_has_spans(data: bytes) -> None:
    with pytest.raises(Damaged, match="dictionary"):
        decode_with_spans(data)


def test_depth_has_a_bound() -> None:
    deepest = b"l" * MAX_DEPTH + b"e" * MAX_DEPTH
    value = decode(deepest)
    assert encode(value) == deepest
    assert decode(b"d1:a" * (MAX_DEPTH - 1) + b"de" + b"e" * (MAX_DEPTH - 1))
    for data in (b"l" + deepest + b"e", b"d1:a" * MAX_DEPTH + b"de" + b"e" * MAX_DEPTH):
        with pytest.raises(Damaged, match="in one another"):
            decode(data)
    for deeper in ([value], {"a": value}):
        with pytest.raises(ValueError, match="deeper"):
            encode(deeper)
    assert encode({"a": decode(deepest[1:-1])})


def test_items_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bencode, "MAX_ITEMS", 10)
    assert decode(b"l" + b"0:" * 8 + b"e") == [b""] * 8
    for data in (b"l" + b"0:" * 9 + b"e", b"d1:a0:1:b0:1:c0:1:d0:1:e0:e", b"l" + b"le" * 5 + b"e"):
        with pytest.raises(Damaged, match="more than 10 values"):
            decode(data)


BOMBS = {
    "lists": b"l" + b"le" * 1_000_000,
    "dictionaries": b"l" + b"de" * 1_000_000,
    "empty strings": b"l" + b"0:" * 1_000_000,
    "integers": b"l" + b"i-99999999999999999999e" * 1_000_000,
    "keys": b"d" + b"".join(b"7:%07d0:" % number for number in range(200_000)),
    "nested lists": b"l" * 10_000_000,
    "nested dictionaries": b"d1:a" * 5_000_000,
    "digits": b"i" + b"1" * 10_000_000 + b"e",
    "digits of a length": b"1" * 10_000_000 + b":",
    "length": b"9999999999:",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_in_little_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bencode, "MAX_ITEMS", MAX_ITEMS // 100)
    tracemalloc.start()
    try:
        with pytest.raises(Damaged):
            decode(BOMBS[name])
        assert tracemalloc.get_traced_memory()[1] < (250 << 20) // 100
    finally:
        tracemalloc.stop()


def test_bytes_that_are_bencoded_already() -> None:
    assert encode({"info": Raw(b"d1:bi1e1:ai1ee"), "a": 1}) == b"d1:ai1e4:infod1:bi1e1:ai1eee"


def test_encoding_is_canonical() -> None:
    assert encode({"b": ("ü", -3), b"a": {"z": [], "\xff": {}}}) == b"d1:ad1:zle2:\xc3\xbfdee1:bl2:\xc3\xbci-3eee"


@pytest.mark.parametrize("value", [None, True, 1.5, {1: b""}, [None], {"a": {2}}])
def test_what_has_no_bencoding(value: object) -> None:
    with pytest.raises(TypeError):
        encode(value)


def values() -> st.SearchStrategy[Value]:
    atoms: st.SearchStrategy[Value] = st.integers(-(10**20) + 1, 10**20 - 1) | st.binary(max_size=12)
    return st.recursive(
        atoms,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.binary(max_size=3), inner, max_size=4),
    )


@given(values())
def test_there_and_back(value: Value) -> None:
    data = encode(value)
    assert decode(data) == value
    for cut in {0, 1, len(data) // 2, len(data) - 1} - {len(data)}:
        with pytest.raises(Damaged):
            decode(data[:cut])


@given(st.lists(st.sampled_from([b"d", b"l", b"e", b"i1e", b"0:", b"1:a", b"1:b", b"i", b"1", b":", b"\n"])))
def test_what_is_taken_is_the_only_writing_of_it(parts: list[bytes]) -> None:
    data = b"".join(parts)
    try:
        value = decode(data)
    except Damaged:
        return
    # Only the order of keys and a line feed at the end may differ.
    assert sorted(encode(value)) == sorted(data.removesuffix(b"\n"))


@given(st.binary(max_size=40))
def test_bytes_of_any_kind_are_refused_at_most(data: bytes) -> None:
    with contextlib.suppress(Damaged):
        decode(data)
