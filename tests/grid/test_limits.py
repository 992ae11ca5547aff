"""Amounts as people write them."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annex_remote.errors import BadSetting
from annex_remote.limits import (
    DAY,
    MIN_RATE,
    MOST,
    Limit,
    format_price,
    format_size,
    parse_connections,
    parse_limit,
    parse_price,
    parse_size,
)

KIB, MIB = 1 << 10, 1 << 20


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("500KiB/s", 500 * KIB),
        ("1MiB", MIB),
        ("2M", 2 * MIB),
        ("2m/s", 2 * MIB),
        ("10MB/s", 10_000_000),
        ("10 kB/s", 10_000),
        ("1.5MiB", 1536 * KIB),
        ("4096", 4096),
        ("4096B", 4096),
        (" 1G ", 1 << 30),
        ("1TB", 10**12),
        ("1KiB/s", 1024),
    ],
)
def test_a_rate(text: str, rate: int) -> None:
    assert parse_limit("x", text) == Limit(rest=rate)


@pytest.mark.parametrize("text", ["", " ", "none", "off", "OFF", "08:00-18:00=none", "none,8:00-9:00=off"])
def test_no_limit(text: str) -> None:
    limit = parse_limit("x", text)
    assert limit.is_none
    assert str(limit) == ""
    assert {limit.rate_at(minute) for minute in range(DAY)} == {None}


def rates(text: str) -> dict[str, int | None]:
    """Return the rate at each minute where it changes, by the time of day."""
    limit = parse_limit("x", text)
    by_minute = [limit.rate_at(minute) for minute in range(DAY)]
    return {
        f"{minute // 60}:{minute % 60:02}": rate
        for minute, rate in enumerate(by_minute)
        if minute == 0 or by_minute[minute - 1] != rate
    }


def test_hours() -> None:
    everything = rates("08:00-18:00=1MiB/s,18:00-23:00=5MiB/s,20MiB/s")
    assert everything == {"0:00": 20 * MIB, "8:00": MIB, "18:00": 5 * MIB, "23:00": 20 * MIB}
    assert rates("2M, 9:30 - 10:00 = off") == {"0:00": 2 * MIB, "9:30": None, "10:00": 2 * MIB}
    assert rates("22:00-06:30=1M") == {"0:00": MIB, "6:30": None, "22:00": MIB}
    assert rates("22:00-24:00=1M") == rates("22:00-00:00=1M") == {"0:00": None, "22:00": MIB}


@pytest.mark.parametrize(
    "text",
    [
        "fast",
        "0",
        "1023",
        "1000",
        "-5M",
        "1e6",
        "nan",
        "1,5M",
        "1M,2M",
        "10Mb",
        "10Mbit/s",
        "10MiB/h",
        "1Ki",
        "1.2345678M",
        "9" * 400,
        "9999999T",
        "٣M",
        "08:00-18:00",
        "08:00-18:00=",
        "08:00=1M",
        "8-18=1M",
        "08:00-18:60=1M",
        "24:00-25:00=1M",
        "08:00-24:01=1M",
        "08:00-08:00=1M",
        "08:00-18:00=1M,17:59-19:00=2M",
        "22:00-06:00=1M,05:00-07:00=2M",
        "08:00-18:00=1M,",
    ],
)
def test_what_is_no_limit_is_said_in_one_sentence(text: str) -> None:
    with pytest.raises(BadSetting) as refused:
        parse_limit("upload-limit", text)
    assert str(refused.value).startswith("upload-limit")
    assert len(str(refused.value)) < 200 + 2 * len(text)


WORDS = st.sampled_from(
    [*"0123456789", "k", "MiB", "B", "/s", ":", "-", "=", ",", "08:00-", "18:00=", "none", " "]
)


@given(st.lists(WORDS, max_size=14).map("".join))
def test_a_limit_has_one_text(text: str) -> None:
    with suppress(BadSetting):
        limit = parse_limit("x", text)
        again = parse_limit("x", str(limit))
        assert str(again) == str(limit)
        assert all(again.rate_at(minute) == limit.rate_at(minute) for minute in range(0, DAY, 7))


@given(st.integers(MIN_RATE, MOST))
def test_every_rate_can_be_written(rate: int) -> None:
    assert parse_limit("x", str(Limit(rest=rate))).rest == rate


@given(st.integers(1, MOST))
def test_every_size_can_be_written(size: int) -> None:
    assert parse_size("x", format_size(size)) == size


def test_sizes() -> None:
    assert parse_size("x", "200GiB") == 200 << 30
    assert parse_size("x", "1.5TB") == 1_500_000_000_000
    assert [parse_size("x", text) for text in ("", "none", "0", "off")] == [0] * 4
    assert [format_size(size) for size in (200 << 30, 1_500_000_000_000, 1025, 1000)] == [
        "200GiB",
        "1500GB",
        "1025B",
        "1KB",
    ]
    for text in ("much", "-1", "1GiB/s", "9" * 20):
        with pytest.raises(BadSetting, match="max-bytes="):
            parse_size("max-bytes", text)


def test_connections() -> None:
    assert [parse_connections("x", text) for text in ("", "none", "OFF", "1", "64")] == [0, 0, 0, 1, 64]
    for text in ("65", "0", "00", "-1", "1.5", "²", "many", "9" * 5000):
        with pytest.raises(BadSetting, match="connections="):
            parse_connections("connections", text)


@given(st.integers(0, 10**15 - 1))
def test_every_price_can_be_written(price: int) -> None:
    assert parse_price("x", format_price(price)) == price


def test_prices() -> None:
    assert [parse_price("x", text) for text in ("", "none", "0", "0.09", "12", "0.000001")] == [
        0,
        0,
        0,
        90_000,
        12_000_000,
        1,
    ]
    for text in ("9 cents", "-1", "0.0000001", ".5", "1e3", "nan", "€1"):
        with pytest.raises(BadSetting, match="price="):
            parse_price("price", text)
