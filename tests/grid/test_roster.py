from __future__ import annotations

import hashlib
import itertools
import json
import random
from dataclasses import asdict, replace
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt, crypto_sign, crypto_sign_seed_keypair

from annex_remote.capability import Capability
from annex_remote.errors import BadSetting, Damaged, NoCapability, SwarmError
from annex_remote.model import Coding, check_name
from annex_remote.roster import (
    ACTIVE,
    GONE,
    MAX_SIZE,
    RETIRED,
    Roster,
    StoreEntry,
    first_roster,
    grid_id,
    marker_name,
    open_roster,
    roster_name,
    roster_serial,
    seal_roster,
)
from annex_remote.settings import FirstStore
from annex_remote.shares.crypto import Cipher, derive

FULL = Capability("full", bytes(range(64)))
OTHER = Capability("full", bytes(range(1, 65)))
FIRST = [FirstStore("usb", "dir:/media/usb/annex", 1), FirstStore("nas", "dir:/mnt/nas/annex", 2)]


def roster(*stores: FirstStore, coding: Coding | None = None) -> Roster:
    return first_roster(FULL.verify_key, coding or Coding(2, 3, 3), Cipher.AEGIS256, stores or FIRST)


# Numbers.


def test_the_first_roster_gives_numbers_in_order() -> None:
    first = roster()
    assert first.serial == 1
    assert first.grid == grid_id(FULL.verify_key)
    assert [(store.name, store.numbers) for store in first.stores] == [("usb", (0,)), ("nas", (1, 2))]
    assert {store.state for store in first.stores} == {ACTIVE}


STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "remove", "gone", "change"]), st.integers(0, 9), st.integers(1, 3)),
    max_size=25,
)


@given(STEPS)
def test_a_number_is_never_given_out_twice(steps: list[tuple[str, int, int]]) -> None:
    now = roster(coding=Coding(1, 1, 3))
    given_out = {number: store.name for store in now.stores for number in store.numbers}
    for step, which, shares in steps:
        before = now
        name = f"store{which}"
        try:
            if step == "add":
                now = now.with_added(FirstStore(name, f"dir:/{name}", shares))
            elif step == "change":
                now = now.with_changed(name, cost=which)
            else:
                now = now.with_removed(name, gone=step == "gone", force=True)
        except BadSetting:
            assert now == before
            continue
        assert now.serial == before.serial + 1
        for store in now.stores:
            for number in store.numbers:
                assert given_out.setdefault(number, store.name) == store.name
        assert [store.name for store in now.stores][: len(before.stores)] == [
            store.name for store in before.stores
        ]
        assert sum(len(store.numbers) for store in now.active) >= now.coding.happy
        assert open_roster(seal_roster(now, FULL), FULL.verify_key) == now
    assert sorted(given_out) == list(range(len(given_out)))


def test_the_numbers_of_a_life_are_256() -> None:
    full = roster(FirstStore("a", "dir:/a", 255))
    last = full.with_added(FirstStore("b", "dir:/b", 1))
    assert last.entry("b").numbers == (255,)
    for one in (full, last):
        with pytest.raises(BadSetting, match="256"):
            one.with_added(FirstStore("c", "dir:/c", 2))
    with pytest.raises(BadSetting, match="none left"):
        last.with_removed("b").with_added(FirstStore("c", "dir:/c", 1))


def test_what_cannot_be_added() -> None:
    now = roster(coding=Coding(1, 1, 3))
    with pytest.raises(BadSetting, match="already the store usb"):
        now.with_added(FirstStore("disk", "dir:/media/usb/annex", 1))
    with pytest.raises(BadSetting, match="usb is taken"):
        now.with_added(FirstStore("usb", "dir:/elsewhere", 1))
    with pytest.raises(BadSetting, match="usb is taken"):
        now.with_removed("usb").with_added(FirstStore("usb", "dir:/elsewhere", 1))
    with pytest.raises(BadSetting, match="'Usb'"):
        now.with_added(FirstStore("Usb", "dir:/elsewhere", 1))


def test_what_cannot_be_removed() -> None:
    now = roster(coding=Coding(1, 2, 3))
    with pytest.raises(BadSetting, match="there is no store disk in this grid; its stores are usb, nas"):
        now.with_removed("disk")
    with pytest.raises(BadSetting, match="add another store first"):
        now.with_removed("nas")
    left = now.with_removed("usb")
    assert [store.name for store in left.active] == ["nas"]
    assert left.entry("usb").numbers == (0,)
    with pytest.raises(BadSetting, match="usb"):
        left.with_removed("usb")


@pytest.mark.parametrize(
    "stores",
    [
        [StoreEntry("a", "dir:/a", (0,)), StoreEntry("b", "dir:/b", (0,))],
        [StoreEntry("a", "dir:/a", (0, 0))],
        [StoreEntry("a", "dir:/a", (256,))],
        [StoreEntry("a", "dir:/a", (-1,))],
        [StoreEntry("a", "dir:/a", ())],
        [StoreEntry("a", "dir:/a", (0,)), StoreEntry("a", "dir:/b", (1,))],
        [StoreEntry("a", "dir:/a", (0,), state="asleep")],
        [StoreEntry("a", "dir:/a", (0,)), StoreEntry("b", "dir:/a", (1,))],
    ],
)
def test_a_roster_that_cannot_be(stores: list[StoreEntry]) -> None:
    with pytest.raises(Damaged):
        Roster("x", 1, Coding(1, 1, 1), Cipher.NONE, tuple(stores))


# How much may be lost.


def bears(counts: list[int], coding: Coding, lost: int) -> bool:
    """True if every full upload survives the loss of any `lost` stores, found by trying everything."""
    owner = [store for store, count in enumerate(counts) for _ in range(count)]
    placed = min(coding.total, len(owner))
    for gone in itertools.combinations(range(len(counts)), lost):
        for chosen in itertools.combinations(owner, placed):
            if sum(store not in gone for store in chosen) < coding.needed:
                return False
    return True


@settings(max_examples=150)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=5), st.integers(1, 9), st.integers(1, 9))
def test_survivable_is_what_trying_everything_finds(counts: list[int], needed: int, total: int) -> None:
    total = min(total, sum(counts))
    needed = min(needed, total)
    stores = [FirstStore(f"s{index}", f"dir:/{index}", count) for index, count in enumerate(counts)]
    coding = Coding(needed, needed, total)
    survivable = roster(*stores, coding=coding).survivable()
    assert bears(counts, coding, survivable)
    assert survivable == len(counts) or not bears(counts, coding, survivable + 1)


@pytest.mark.parametrize(
    ("counts", "coding", "words"),
    [
        ([1, 1, 1], Coding(3, 3, 3), "no store"),
        ([1, 1, 1], Coding(2, 3, 3), "any one store"),
        ([1] * 6, Coding(4, 5, 6), "any 2 stores"),
        ([2, 1, 1, 1], Coding(3, 4, 5), "any one store"),
        ([3, 1, 1], Coding(3, 4, 5), "no store"),
    ],
)
def test_survival_in_words(counts: list[int], coding: Coding, words: str) -> None:
    stores = [FirstStore(f"s{index}", f"dir:/{index}", count) for index, count in enumerate(counts)]
    assert roster(*stores, coding=coding).survives_in_words() == words


def test_a_store_that_was_removed_cannot_be_lost() -> None:
    now = roster(*[FirstStore(f"s{index}", f"dir:/{index}", 1) for index in range(4)], coding=Coding(2, 2, 3))
    assert now.survivable() == 1
    assert now.with_removed("s0").survivable() == 1
    assert now.with_removed("s0").with_removed("s1").survivable() == 0


# Signed and sealed.

WORDS = st.text(st.characters(codec="utf-8"), max_size=12).filter(str.isprintable)
NAMES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,31}", fullmatch=True)


@st.composite
def rosters(draw: st.DrawFn) -> Roster:
    names = draw(st.lists(NAMES, min_size=1, max_size=6, unique=True))
    addresses = draw(st.lists(WORDS, min_size=len(names), max_size=len(names), unique=True))
    numbers = iter(random.Random(draw(st.integers(0, 99))).sample(range(256), 18))
    stores = tuple(
        StoreEntry(
            name,
            address,
            tuple(next(numbers) for _ in range(draw(st.integers(1, 3)))),
            draw(st.integers(0, 10**6)),
            draw(WORDS),
            draw(st.sampled_from([ACTIVE, RETIRED, GONE])),
        )
        for name, address in zip(names, addresses, strict=True)
    )
    needed, more, most = (draw(st.integers(0, 80)) for _ in range(3))
    coding = Coding(1 + needed, 1 + needed + more, 1 + needed + more + most)
    cipher = draw(st.sampled_from(Cipher))
    return Roster(grid_id(FULL.verify_key), draw(st.integers(1, 10**9)), coding, cipher, stores)


@given(rosters())
def test_what_is_sealed_opens(one: Roster) -> None:
    sealed = seal_roster(one, FULL)
    assert open_roster(sealed, FULL.verify_key) == one
    assert seal_roster(one, FULL) == sealed  # two clones that make the same change agree
    with pytest.raises(Damaged):
        open_roster(sealed, OTHER.verify_key)


@pytest.mark.parametrize("changes", [{"zone": "two\nlines"}, {"address": "dir:/\x1b[31m"}, {"zone": "\ud800"}])
def test_nothing_is_signed_that_could_not_be_opened(changes: dict[str, str]) -> None:
    """Such a roster would be the newest one everywhere, and refused by everybody."""
    try:
        sealed = seal_roster(roster().with_changed("usb", **changes), FULL)
    except SwarmError:
        return
    assert open_roster(sealed, FULL.verify_key).serial == 2


def test_every_capability_opens_it_and_only_the_full_one_makes_it() -> None:
    sealed = seal_roster(roster(), FULL)
    for kind in ("full", "read", "verify"):
        assert open_roster(sealed, FULL.attenuate(kind).verify_key) == roster()
    for kind in ("read", "verify"):
        with pytest.raises(NoCapability):
            seal_roster(roster(), FULL.attenuate(kind))


def test_a_store_does_not_learn_about_the_others() -> None:
    sealed = seal_roster(roster(), FULL)
    for word in (b"usb", b"nas", b"dir:", b"active", grid_id(FULL.verify_key).encode()):
        assert word not in sealed


def test_every_changed_byte_is_refused() -> None:
    sealed = seal_roster(roster(), FULL)
    for position in range(len(sealed)):
        for mask in (1, 0x80, 0xFF):
            changed = bytearray(sealed)
            changed[position] ^= mask
            with pytest.raises(Damaged):
                open_roster(bytes(changed), FULL.verify_key)


def test_every_other_length_is_refused() -> None:
    sealed = seal_roster(roster(), FULL)
    for length in range(len(sealed)):
        with pytest.raises(Damaged):
            open_roster(sealed[:length], FULL.verify_key)
    for more in (b"\0", b"\n", sealed, bytes(MAX_SIZE)):
        with pytest.raises(Damaged):
            open_roster(sealed + more, FULL.verify_key)


@given(st.binary(max_size=300))
def test_garbage_is_refused(data: bytes) -> None:
    for start in (b"", b"swarmroster1\n"):
        with pytest.raises(Damaged):
            open_roster(start + data, FULL.verify_key)


def sealed_text(text: bytes, signer: Capability = FULL, reader: Capability = FULL) -> bytes:
    """Seal any text as docs/format.md says a roster is sealed."""
    _, secret = crypto_sign_seed_keypair(signer.signing_seed)
    signature = crypto_sign(b"git-annex-remote-swarm v1 roster\n" + text, secret)[:64]
    key = derive("roster seal", reader.verify_key)
    nonce = blake3(signature, key=key).digest(24)
    magic = b"swarmroster1\n"
    return magic + signature + nonce + crypto_aead_xchacha20poly1305_ietf_encrypt(text, magic, nonce, key)


LATER = ("limit", "connections", "max_bytes", "price")
"""Fields that stand in a roster only where they say something."""


def written(entry: StoreEntry) -> dict[str, Any]:
    return {name: value for name, value in asdict(entry).items() if name not in LATER}


def document(**changes: Any) -> dict[str, Any]:
    one = roster()
    return {
        "grid": one.grid,
        "serial": 1,
        "coding": asdict(one.coding),
        "cipher": "aegis256",
        "stores": [written(store) for store in one.stores],
        **changes,
    }


def packed(words: Any) -> bytes:
    return json.dumps(words, sort_keys=True, separators=(",", ":")).encode()


def test_the_form_is_the_documented_one() -> None:
    assert sealed_text(packed(document())) == seal_roster(roster(), FULL)


def test_what_was_sealed_before_there_were_limits_is_sealed_so_today() -> None:
    digest = "4b382dfe430bb72f20ff1a0378d910597849fd8d7fd88b78080333c8f96595d5"
    assert hashlib.sha256(seal_roster(roster(), FULL)).hexdigest() == digest


def test_limits_are_written_where_there_are_any() -> None:
    limits = {"limit": "08:00-18:00=1MiB/s,5MiB/s", "connections": 4, "max_bytes": 200 << 30, "price": 90_000}
    for names in ([name] for name in LATER):
        some = {name: limits[name] for name in names}
        now = roster().with_changed("usb", **some)
        sealed = seal_roster(now, FULL)
        assert open_roster(sealed, FULL.verify_key) == now
        stores = [store(**some), written(roster().stores[1])]
        assert sealed == sealed_text(packed(document(serial=2, stores=stores)))
        usual = dict.fromkeys(some, 0) if "limit" not in some else {"limit": ""}
        assert seal_roster(replace(now.with_changed("usb", **usual), serial=1), FULL) == seal_roster(
            roster(), FULL
        )


def test_who_can_read_cannot_sign() -> None:
    """The seal's key is known to every reader; the signature is what proves."""
    with pytest.raises(Damaged, match="not signed by this grid"):
        open_roster(sealed_text(packed(document()), signer=OTHER), FULL.verify_key)


def store(**changes: Any) -> dict[str, Any]:
    return {**written(roster().stores[0]), **changes}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"1",
        b"not json",
        b"\xff\xfe",
        json.dumps(document(), sort_keys=True).encode(),
        json.dumps(document(), separators=(",", ":")).encode(),
        packed(document()) + b"\n",
        packed(document()).replace(b'"serial":1', b'"serial":1,"serial":1'),
        packed(document(extra=1)),
        packed({name: value for name, value in document().items() if name != "coding"}),
        packed(document(grid=grid_id(OTHER.verify_key))),
        packed(document(cipher="rot13")),
        packed(document(cipher=None)),
        packed(document(coding={"needed": 3, "happy": 2, "total": 1})),
        packed(document(coding={"needed": 1, "happy": 2})),
        packed(document(coding=[1, 2, 3])),
        packed(document(coding={"needed": "1", "happy": "2", "total": "3"})),
        packed(document(coding={"needed": 1.0, "happy": 2.0, "total": 3.0})),
        packed(document(coding={"needed": True, "happy": True, "total": True})),
        packed(document(serial=0)),
        packed(document(serial=1.0)),
        packed(document(serial=True)),
        packed(document(serial="1")),
        packed(document(stores=None)),
        packed(document(stores={})),
        packed(document(stores=["usb"])),
        packed(document(stores=[store(numbers=[])])),
        packed(document(stores=[store(numbers=None)])),
        packed(document(stores=[store(numbers=[0, 0])])),
        packed(document(stores=[store(numbers=[256])])),
        packed(document(stores=[store(numbers=["0"])])),
        packed(document(stores=[store(numbers="0")])),
        packed(document(stores=[store(), store()])),
        packed(document(stores=[store(state="asleep")])),
        packed(document(stores=[store(colour="blue")])),
        packed(document(stores=[store(name="Usb")])),
        packed(document(stores=[store(name=1)])),
        packed(document(stores=[store(cost="1")])),
        packed(document(stores=[store(cost=1.5)])),
        packed(document(stores=[store(zone="two\nlines")])),
        packed(document(stores=[store(address=None)])),
        packed(document(stores=[store(), store(name="disk", numbers=[1])])),
        packed(document(stores=[{"name": "usb"}])),
        packed(document(stores=[store(limit="")])),
        packed(document(stores=[store(limit="fast")])),
        packed(document(stores=[store(limit="1M")])),
        packed(document(stores=[store(limit=1048576)])),
        packed(document(stores=[store(connections=0)])),
        packed(document(stores=[store(connections=65)])),
        packed(document(stores=[store(connections=True)])),
        packed(document(stores=[store(max_bytes=-1)])),
        packed(document(stores=[store(max_bytes=1.0)])),
        packed(document(stores=[store(price="0.09")])),
        packed(document(stores=[store(price=0.09)])),
    ],
)
def test_signed_words_that_are_no_roster_are_refused(text: bytes) -> None:
    """Not even the grid's own signature makes a program take what it cannot write back as it was."""
    with pytest.raises(Damaged):
        open_roster(sealed_text(text), FULL.verify_key)


def test_a_roster_of_another_grid_is_refused_even_if_it_is_signed() -> None:
    with pytest.raises(Damaged):
        open_roster(seal_roster(replace(roster(), grid=grid_id(OTHER.verify_key)), FULL), FULL.verify_key)


# Names on a store.


def test_names_on_a_store() -> None:
    grid = grid_id(FULL.verify_key)
    assert len({grid, grid_id(OTHER.verify_key)}) == 2
    for serial in (1, 9, 10, 10**9):
        name = check_name(roster_name(grid, serial))
        assert roster_serial(grid, name) == serial
        assert roster_serial(grid_id(OTHER.verify_key), name) is None
    markers = {check_name(marker_name(grid, entry)) for entry in roster().stores}
    assert len(markers) == 2
    assert not any(roster_serial(grid, name) for name in markers)


@pytest.mark.parametrize(
    "suffix", ["r", "r-1", "r1x", "rx", "s1", "1", "r1.2", "r²", "r 1", "r007", "r+7", "r1_0"]
)
def test_what_is_no_rosters_name(suffix: str) -> None:
    grid = grid_id(FULL.verify_key)
    assert roster_serial(grid, f"{grid[:2]}/{grid}.{suffix}") is None
