from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annex_remote.errors import BadSetting
from annex_remote.model import Coding
from annex_remote.settings import (
    SETTINGS,
    TORRENT_SETTINGS,
    FirstStore,
    default_coding,
    parse_stores,
    read_settings,
)
from annex_remote.shares.crypto import Cipher, default_cipher

STORES = "a=dir:/a b=dir:/b c=dir:/c d=dir:/d e=dir:/e f=dir:/f"
KEY = "ab" * 32

DEFAULTS = {
    # total: (needed, happy)
    1: (1, 1),
    2: (1, 2),
    3: (2, 3),
    4: (2, 3),
    5: (3, 4),
    6: (4, 5),
    7: (4, 6),
    8: (5, 7),
    9: (5, 7),
    10: (6, 8),
    11: (7, 9),
    12: (7, 10),
    13: (8, 11),
    14: (8, 11),
    15: (9, 12),
    16: (10, 13),
    17: (10, 14),
    18: (11, 15),
    19: (11, 15),
    20: (12, 16),
}


@pytest.mark.parametrize("total", DEFAULTS)
def test_defaults(total: int) -> None:
    needed, happy = DEFAULTS[total]
    assert default_coding(total) == Coding(needed, happy, total)
    stores = " ".join(f"s{number}=dir:/{number}" for number in range(total))
    assert read_settings({"stores": stores}).coding == Coding(needed, happy, total)


def test_defaults_bear_losses_up_to_the_largest_grid() -> None:
    assert all(default_coding(total).needed < total for total in range(2, 257))


def test_nothing_but_stores_need_be_given() -> None:
    settings = read_settings({"stores": "usb=dir:/media/usb nas*2=dir:/mnt/nas"})
    assert settings.stores == (FirstStore("usb", "dir:/media/usb", 1), FirstStore("nas", "dir:/mnt/nas", 2))
    assert settings.coding == Coding(2, 3, 3)
    assert settings.cipher is default_cipher()
    assert settings.stall == 30.0
    assert settings.verify_key is None


def test_everything_may_be_given() -> None:
    given_all = {"stores": STORES, "needed": "2", "happy": "3", "total": "5", "share-cipher": "none"}
    settings = read_settings({**given_all, "stall": "1.5", "verify-key": KEY})
    assert settings.coding == Coding(2, 3, 5)
    assert settings.cipher is Cipher.NONE
    assert settings.stall == 1.5
    assert settings.verify_key == bytes.fromhex(KEY)
    assert read_settings(lambda name: {**given_all, "verify-key": KEY}.get(name, "")).coding == Coding(2, 3, 5)


@pytest.mark.parametrize(
    ("given_some", "coding"),
    [
        ({"needed": "5"}, Coding(5, 6, 6)),
        ({"needed": "1"}, Coding(1, 4, 6)),
        ({"needed": "6"}, Coding(6, 6, 6)),
        ({"happy": "4"}, Coding(4, 4, 6)),
        ({"total": "3"}, Coding(2, 3, 3)),
        ({"total": "4", "needed": "4"}, Coding(4, 4, 4)),
        ({"needed": "2", "happy": "2"}, Coding(2, 2, 6)),
    ],
)
def test_what_is_not_given_follows_from_what_is(given_some: dict[str, str], coding: Coding) -> None:
    assert read_settings({"stores": STORES, **given_some}).coding == coding


def test_an_address_may_have_an_equals_sign_and_a_star() -> None:
    assert parse_stores("a=dir:/x=y*2") == (FirstStore("a", "dir:/x=y*2", 1),)


def test_the_table_lists_what_is_read() -> None:
    """One table serves LISTCONFIGS and the checks: a setting that is read and not listed would be refused."""
    asked: list[str] = []

    def get(name: str) -> str:
        asked.append(name)
        return STORES if name == "stores" else ""

    read_settings(get)
    names = [setting.name for setting in SETTINGS]
    assert sorted(set(asked)) == sorted(set(names) - set(TORRENT_SETTINGS))  # these are read by torrents.settings
    assert len(set(names)) == len(names)
    for setting in SETTINGS:
        assert setting.name.islower()
        assert setting.name not in ("cipher", "encryption", "type", "name", "exporttree", "chunk", "autoenable")
        assert setting.description
        assert setting.default
        assert "\n" not in setting.description + setting.default


MISTAKES: list[tuple[dict[str, str], str]] = [
    ({"stores": ""}, "stores"),
    ({"stores": "  "}, "stores"),
    ({"stores": "dir:/a"}, "dir:/a"),
    ({"stores": "a="}, "a="),
    ({"stores": "=dir:/a"}, "stores"),
    ({"stores": "a=dir:/a a=dir:/b"}, "a is given twice"),
    ({"stores": "a=dir:/a b=dir:/a"}, "a and b are the same place"),
    ({"stores": "A=dir:/a"}, "'A'"),
    ({"stores": "a_b=dir:/a"}, "'a_b'"),
    ({"stores": "-a=dir:/a"}, "'-a'"),
    ({"stores": "ä=dir:/a"}, "'ä'"),
    ({"stores": "a" * 33 + "=dir:/a"}, "a" * 33),
    ({"stores": "a*=dir:/a"}, "'a*'"),
    ({"stores": "a*0=dir:/a"}, "'a*0'"),
    ({"stores": "a*257=dir:/a"}, "'a*257'"),
    ({"stores": "a*-1=dir:/a"}, "'a*-1'"),
    ({"stores": "a*2*3=dir:/a"}, "'a*2*3'"),
    ({"stores": "a*x=dir:/a"}, "'a*x'"),
    ({"stores": "a*²=dir:/a"}, "'a*²'"),
    ({"stores": "a*" + "9" * 5000 + "=dir:/a"}, "how many shares"),
    ({"stores": "*2=dir:/a"}, "''"),
    ({"stores": "a*200=dir:/a b*57=dir:/b"}, "257"),
    ({"needed": "0"}, "needed=0"),
    ({"needed": "7"}, "needed=7"),
    ({"needed": "-1"}, "needed=-1"),
    ({"needed": "two"}, "needed=two"),
    ({"needed": "1.5"}, "needed=1.5"),
    ({"needed": "²"}, "needed=²"),
    ({"needed": "1" * 5000}, "needed="),
    ({"happy": "0"}, "happy=0"),
    ({"happy": "7"}, "happy=7"),
    ({"needed": "3", "happy": "2"}, "happy=2"),
    ({"total": "0"}, "total=0"),
    ({"total": "7"}, "total=7"),
    ({"total": "300"}, "total=300"),
    ({"total": "many"}, "total=many"),
    ({"needed": "4", "total": "3"}, "needed=4"),
    ({"share-cipher": "rot13"}, "share-cipher=rot13"),
    ({"share-cipher": "AEGIS256"}, "share-cipher=AEGIS256"),
    ({"stall": "soon"}, "stall=soon"),
    ({"stall": "0"}, "stall=0"),
    ({"stall": "-5"}, "stall=-5"),
    ({"stall": "nan"}, "stall=nan"),
    ({"stall": "inf"}, "stall=inf"),
    ({"stall": "1e9"}, "stall=1e9"),
    ({"verify-key": "ab"}, "verify-key"),
    ({"verify-key": KEY + "ab"}, "verify-key"),
    ({"verify-key": "xy" * 32}, "verify-key"),
    ({"verify-key": "ä" * 64}, "verify-key"),
    ({"grid": "nonsense"}, "grid"),
    ({"grid": "1/2"}, "grid"),
    ({"grid": "/////////"}, "grid"),
]


@pytest.mark.parametrize(("wrong", "words"), MISTAKES, ids=[str(wrong)[:60] for wrong, _ in MISTAKES])
def test_a_mistake_is_said_in_one_sentence(wrong: dict[str, str], words: str) -> None:
    with pytest.raises(BadSetting) as refused:
        read_settings({"stores": STORES, **wrong})
    sentence = str(refused.value)
    assert words in sentence
    assert "\n" not in sentence
    assert len(sentence) < 200 + len(str(wrong)) * 2


@given(st.dictionaries(st.sampled_from([setting.name for setting in SETTINGS]), st.text(max_size=40)))
def test_whatever_is_written_there(given_any: dict[str, str]) -> None:
    with suppress(BadSetting):
        assert read_settings(given_any).stores


WORDS = st.sampled_from(["a", "b", "*", "=", " ", "2", "0", "dir:/a", "dir:/b", "/", "-", "\0", "\n", "é"])


@given(st.lists(WORDS, max_size=12).map("".join))
def test_stores_are_read_or_refused(text: str) -> None:
    try:
        stores = parse_stores(text)
    except BadSetting:
        return
    again = " ".join(f"{store.name}*{store.shares}={store.address}" for store in stores)
    assert parse_stores(again) == stores


# What a grid was made with.

MADE = {"stores": STORES, "needed": "3", "happy": "4", "total": "6", "share-cipher": "aegis256", "verify-key": KEY}


def test_what_a_grid_was_made_with_stays() -> None:
    made = read_settings(MADE).made_with()
    assert read_settings({**MADE, "grid": made}).made_with() == made
    for change in (
        {"needed": "2"},
        {"happy": "5"},
        {"total": "5"},
        {"share-cipher": "none"},
        {"needed": ""},
        {"total": "5", "happy": "5"},
    ):
        with pytest.raises(BadSetting, match="needed=3 happy=4 total=6 share-cipher=aegis256") as refused:
            read_settings({**MADE, "grid": made, **change})
        assert "cannot be changed" in str(refused.value)


def test_what_may_change_may_change() -> None:
    made = read_settings(MADE).made_with()
    assert read_settings({**MADE, "grid": made, "stall": "5"}).stall == 5.0
    fewer = read_settings({**MADE, "grid": made, "stores": "a=dir:/a b=dir:/elsewhere"})
    assert fewer.coding == Coding(3, 4, 6)
    assert [store.name for store in fewer.stores] == ["a", "b"]


@pytest.mark.parametrize("text", ["swarm-full-{}", "a=dir:/a swarm-read-{}", "swarm-full-{}=dir:/a"])
def test_a_capability_among_the_stores_is_not_repeated(text: str) -> None:
    secret = "uxul7xsaktffrbrhzxdswfmll7n" * 3
    with pytest.raises(BadSetting, match="looks like a capability") as told:
        parse_stores(text.format(secret))
    assert secret not in str(told.value)
