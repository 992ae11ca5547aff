"""Fetching an object from shares that are good, damaged, missing, late, or of something else."""

from __future__ import annotations

import os
import random
import re
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annex_remote.capability import Capability
from annex_remote.errors import Busy, Cancelled, Damaged, Denied, Full, NotEnough, NotFound, Unavailable
from annex_remote.model import ByteStream, staged_name
from annex_remote.shares.crypto import Cipher
from annex_remote.shares.format import Tail, block_hash, sign
from annex_remote.shares.layout import HASH_SIZE, SEGMENT_SIZE
from annex_remote.transfer.gate import Gate
from annex_remote.transfer.schedule import AHEAD, MAX_WINDOW, MIN_WINDOW
from annex_remote.transfer.sites import Site
from tests.fakes import (
    WAIT,
    Around,
    Corrupting,
    Failing,
    Flaky,
    Hanging,
    Lying,
    MemoryStore,
    Recording,
    Run,
    Slow,
    in_thread,
    wait_for,
)
from tests.shares.builder import FULL, Upload, content, upload
from tests.transfer.rig import STALL, WORM, Rig

SEGMENT = SEGMENT_SIZE
SIZES = [0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT, 5 * SEGMENT // 2]
BIG = content(7 * SEGMENT // 2)
BLOCK = (SEGMENT + 64) // 2
OTHER_GRID = Capability("full", FULL.read_secret + bytes(32))


def made(rig: Rig, data: bytes, needed: int = 2, total: int = 4) -> Upload:
    return upload(data, needed, range(total), rig.cipher, annex_key=rig.key)


# All is well.


@pytest.mark.parametrize("cipher", Cipher)
@pytest.mark.parametrize("size", SIZES)
def test_an_object_comes_back(rig: Rig, size: int, cipher: Cipher) -> None:
    rig.cipher = cipher
    rig.plant(made(rig, content(size)))
    assert rig.fetch() == content(size)
    assert rig.notes.lines == []


@settings(max_examples=60)
@given(st.integers(1, 8), st.integers(0, 6), st.integers(0, 4000), st.randoms(use_true_random=False))
def test_any_needed_shares_will_do(
    tmp_path_factory: pytest.TempPathFactory, needed: int, more: int, size: int, chance: random.Random
) -> None:
    rig = Rig.of(tmp_path_factory.mktemp("rig"), needed, needed, needed + more)
    rig.plant(made(rig, content(size), needed, needed + more), chance.sample(range(needed + more), needed))
    assert rig.present()
    assert rig.fetch() == content(size)
    rig.forget(chance.choice(list(rig.held)))
    with pytest.raises(NotEnough):
        rig.fetch("other")
    assert rig.present() is False


@settings(max_examples=12)
@given(st.integers(0, 5 * SEGMENT), st.sampled_from([(1, 2), (2, 3), (3, 7), (5, 6)]), st.integers(1, 3 * SEGMENT))
def test_large_objects_in_odd_pieces(
    tmp_path_factory: pytest.TempPathFactory, size: int, coding: tuple[int, int], piece: int
) -> None:
    needed, total = coding
    rig = Rig.of(tmp_path_factory.mktemp("rig"), needed, needed, total)
    rig.memory = [MemoryStore(max(1000, piece)) for _ in range(total)]
    rig.mend()
    rig.plant(made(rig, content(size), needed, total), range(total - needed, total))
    assert rig.fetch() == content(size)


def test_what_is_stored_is_fetched(tmp_path: Path) -> None:
    rig = Rig.of(tmp_path, 3, 5, 7)
    data = content(30 * SEGMENT + 17)
    rig.store(data)
    rig.forget(0, 2, 3, 5)
    rig.progress.clear()
    assert rig.fetch() == data
    assert rig.notes.lines == [f"store{number}: share {number} is missing" for number in (0, 2, 3, 5)]
    assert rig.progress == [*range(SEGMENT, 31 * SEGMENT, SEGMENT), len(data)]


def test_the_cheapest_stores_are_read(rig: Rig) -> None:
    rig.plant(made(rig, BIG))
    rig.costs = {1: 50, 3: 10}
    recordings = [Recording(store) for store in rig.stores]
    rig.stores = list(recordings)
    assert rig.fetch() == BIG
    data = rig.data_length(len(BIG))
    assert [store.given > data for store in recordings] == [False, True, False, True]
    assert recordings[0].given < 100_000


def test_shares_with_tables_of_two_lengths_belong_together(rig: Rig) -> None:
    """A share that was made later carries a longer table under the same header."""
    rig.plant(upload(BIG, 2, [0, 1], annex_key=rig.key), [0])
    rig.plant(upload(BIG, 2, [0, 1, 3], annex_key=rig.key), [3])
    assert rig.fetch() == BIG


def test_an_object_of_another_coding_than_the_grids_comes_back(rig: Rig) -> None:
    for needed in (1, 3, 4):
        rig.plant(made(rig, BIG, needed))
        assert rig.fetch(f"of {needed}") == BIG


# Damage.


def test_every_single_damaged_byte_of_a_share_is_noticed_and_made_good(tmp_path: Path) -> None:
    rig = Rig.of(tmp_path, 2, 2, 3)
    built = made(rig, content(40), 2, 3)
    share = built.shares[0]
    for position in range(len(share)):
        rig.plant(built)
        damaged = bytearray(share)
        damaged[position] ^= 1 << (position % 8)
        rig.memory[0].contents[rig.name(0)] = bytes(damaged)
        rig.mend()
        assert rig.fetch(f"fetched{position % 2}") == content(40), position
        (tmp_path / f"fetched{position % 2}").unlink()
        assert [note.startswith("store0: share 0") for note in rig.notes.lines] == [True], position


def test_every_single_damaged_byte_of_a_share_that_is_needed_is_refused(tmp_path: Path) -> None:
    rig = Rig.of(tmp_path, 2, 2, 2)
    built = made(rig, content(40), 2, 2)
    for position in range(len(built.shares[1])):
        rig.plant(built)
        damaged = bytearray(built.shares[1])
        damaged[position] ^= 1 << (position % 8)
        rig.memory[1].contents[rig.name(1)] = bytes(damaged)
        rig.mend()
        with pytest.raises(NotEnough, match="store1: "):
            rig.fetch()
        path = tmp_path / "fetched"
        assert not path.exists() or path.read_bytes() == b"", position


@settings(max_examples=60)
@given(st.randoms(use_true_random=False), st.integers(0, 2000))
def test_random_damage_never_gives_wrong_content(
    tmp_path_factory: pytest.TempPathFactory, chance: random.Random, size: int
) -> None:
    rig = Rig.of(tmp_path_factory.mktemp("rig"), 2, 2, 4)
    built = made(rig, content(size))
    for number, share in built.shares.items():
        damaged = bytearray(share)
        for _ in range(chance.choice([0, 0, 1, 3])):
            what = chance.randrange(4)
            if what == 0 and damaged:
                damaged[chance.randrange(len(damaged))] ^= chance.randrange(256)
            elif what == 1:
                del damaged[chance.randrange(len(damaged) + 1) :]
            elif what == 2:
                damaged += chance.randbytes(chance.randrange(1, 50))
            else:
                at = chance.randrange(len(damaged) + 1)
                damaged[at : at + 30] = chance.randbytes(30)
        rig.memory[number].contents[rig.name(number)] = bytes(damaged)
    try:
        assert rig.fetch() == content(size)
    except NotEnough:
        path = rig.folder / "fetched"
        assert not path.exists() or content(size).startswith(path.read_bytes())


def corrupt_blocks(rig: Rig, number: int, *segments: int) -> None:
    rig.break_store(number, lambda store: Corrupting(store, [segment * BLOCK + 7 for segment in segments]))


def test_good_blocks_of_damaged_shares_are_enough(rig: Rig) -> None:
    """Every share has a damaged block, and every segment has two good ones."""
    rig.plant(made(rig, BIG))
    for number, segments in enumerate([(0, 1), (1, 2), (2, 3), (3, 0)]):
        corrupt_blocks(rig, number, *segments)
    assert rig.fetch() == BIG
    assert len(rig.notes.lines) >= 2
    for note in rig.notes.lines:
        assert re.match(r"store(\d): share \1: [12] of its blocks .*damaged", note)


def test_one_segment_that_cannot_be_had_ends_the_download_there(rig: Rig) -> None:
    rig.plant(made(rig, BIG))
    for number in (0, 1, 3):
        corrupt_blocks(rig, number, 2)
    with pytest.raises(NotEnough, match=r"segment 2 .*store0: .*blocks .*damaged"):
        rig.fetch()
    got = (rig.folder / "fetched").read_bytes()
    assert BIG.startswith(got)
    assert len(got) <= 2 * SEGMENT
    rig.mend()
    assert rig.fetch() == BIG


@pytest.mark.parametrize("cipher", Cipher)
def test_a_block_that_was_changed_together_with_its_hash_is_refused(rig: Rig, cipher: Cipher) -> None:
    """What a hostile store can do without the signing key: the root over the hashes is signed."""
    rig.cipher = cipher
    built = made(rig, BIG)
    rig.plant(built)
    layout = built.header.layout
    share = bytearray(built.shares[0])
    share[:64] = bytes(64)
    share[layout.data_length : layout.data_length + HASH_SIZE] = block_hash(bytes(share[: layout.block_length(0)]))
    rig.memory[0].contents[rig.name(0)] = bytes(share)
    assert rig.fetch() == BIG
    [note] = rig.notes.lines
    assert note.startswith("store0: share 0 is damaged: ")


# Missing, and more.


def test_nothing_is_there(rig: Rig) -> None:
    with pytest.raises(NotEnough) as raised:
        rig.fetch()
    for number in range(4):
        assert f"store{number}: share {number} is missing" in str(raised.value)
    assert not (rig.folder / "fetched").exists()


@pytest.mark.parametrize("size", [100, 3 * SEGMENT_SIZE])
def test_shares_beside_their_places_are_read_when_the_others_are_too_few(tmp_path: Path, size: int) -> None:
    """As a program that was killed leaves them."""
    rig = Rig.of(tmp_path, 3, 3, 5)
    data = content(size)
    built = upload(data, 3, range(5))
    rig.plant(built)
    recordings = [Recording(store) for store in rig.memory]
    rig.stores = list(recordings)
    rig.forget(0, 1)
    assert rig.fetch() == data
    assert not any(".n" in name for each in recordings for _, name in each.calls)
    spoilt = bytearray(built.shares[2])
    spoilt[0] ^= 1
    rig.memory[2].contents[rig.name(2)] = bytes(spoilt)
    rig.memory[2].contents[staged_name(rig.object_id, 2)] = built.shares[2]
    rig.memory[1].contents[staged_name(rig.object_id, 1)] = built.shares[1]
    assert rig.fetch("again") == data
    assert any("share 2: 1 of its blocks damaged" in line for line in rig.notes.lines)


def test_a_damaged_share_beside_its_place_does_not_stand_for_the_other(tmp_path: Path) -> None:
    rig = Rig.of(tmp_path, 3, 3, 5)
    built = upload(content(100), 3, range(5))
    rig.plant(built, [0, 1])
    rig.memory[1].contents[staged_name(rig.object_id, 1)] = built.shares[1][:-1]
    download = rig.download(tmp_path / "file")
    with pytest.raises(NotEnough):
        in_thread(download.run)
    assert download.damaged == {}


def test_too_little_is_there(rig: Rig) -> None:
    rig.plant(made(rig, BIG), [3])
    rig.break_store(0, lambda store: Failing(store, lambda: Denied("not allowed")))
    with pytest.raises(NotEnough, match=r"\b1 .*\b2 .*; store0: not allowed; store1: share 1 is"):
        rig.fetch()
    assert not (rig.folder / "fetched").exists()


def other_object(rig: Rig) -> bytes:
    return upload(BIG, 2, range(4), annex_key="SHA256E-s5--another").shares[1]


def other_grid(rig: Rig) -> bytes:
    return upload(BIG, 2, range(4), annex_key=rig.key, capability=OTHER_GRID).shares[1]


STRANGERS: dict[str, Callable[[Rig], bytes]] = {
    "of another object": other_object,
    "of another grid": other_grid,
    "another number": lambda rig: made(rig, BIG).shares[2],
    "empty": lambda rig: b"",
    "one byte": lambda rig: b"s",
    "garbage": lambda rig: content(200_000),
    "without its last byte": lambda rig: made(rig, BIG).shares[1][:-1],
    "with one byte more": lambda rig: made(rig, BIG).shares[1] + b"\0",
    "without its first byte": lambda rig: made(rig, BIG).shares[1][1:],
    "half of it": lambda rig: made(rig, BIG).shares[1][: len(made(rig, BIG).shares[1]) // 2],
    "its end alone": lambda rig: made(rig, BIG).shares[1][-500:],
    "its end twice": lambda rig: made(rig, BIG).shares[1] + made(rig, BIG).shares[1][-500:],
    "zeros": lambda rig: bytes(len(made(rig, BIG).shares[1])),
}


@pytest.mark.parametrize("stranger", STRANGERS.values(), ids=STRANGERS)
def test_what_is_not_the_share_is_refused_and_named(rig: Rig, stranger: Callable[[Rig], bytes]) -> None:
    rig.plant(made(rig, BIG))
    rig.memory[1].contents[rig.name(1)] = stranger(rig)
    assert rig.fetch() == BIG
    [note] = rig.notes.lines
    assert note.startswith("store1: share 1 is damaged: ")
    rig.forget(0, 2)
    with pytest.raises(NotEnough, match="store1: share 1 is damaged: "):
        rig.fetch("other")
    assert not (rig.folder / "other").exists()


@pytest.mark.parametrize(
    ("more", "missing"),
    [(0, 1), (0, 100), (0, 60_000), (1, 0), (-1, 0), (1 << 20, 0), (1 << 50, 0), (-(1 << 19), 0), (-(1 << 30), 0)],
)
def test_a_store_that_lies_about_sizes_is_no_help_and_no_harm(rig: Rig, more: int, missing: int) -> None:
    rig.plant(made(rig, BIG))
    rig.break_store(0, lambda store: Lying(store, more=more, missing=missing))
    assert rig.fetch() == BIG
    [note] = rig.notes.lines
    assert note.startswith("store0: share 0")


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_largest_upload_wins(rig: Rig, order: tuple[int, int]) -> None:
    contents = [content(2 * SEGMENT), content(2 * SEGMENT + 1)]
    few, many = (contents[index] for index in order)
    rig = Rig.of(rig.folder, 2, 3, 5)
    rig.key = WORM
    rig.plant(made(rig, few, total=5), [0, 1])
    rig.plant(made(rig, many, total=5), [2, 3, 4])
    assert rig.fetch() == many


def test_an_upload_that_can_be_read_wins_over_a_larger_one_that_cannot(tmp_path: Path) -> None:
    rig = Rig.of(tmp_path, 2, 3, 6)
    rig.plant(made(rig, content(100), needed=5, total=6), [0, 1, 2, 3])
    rig.plant(made(rig, content(200), needed=2, total=6), [4, 5])
    assert rig.fetch() == content(200)


def test_two_uploads_of_one_size_are_told_apart_alike_everywhere(rig: Rig) -> None:
    contents = [content(300), content(301)]
    rig.key = WORM
    got = []
    for one, other in ((0, 1), (1, 0)):
        rig.plant(made(rig, contents[one]), [0, 2])
        rig.plant(made(rig, contents[other]), [1, 3])
        got.append(rig.fetch(f"fetched{one}"))
    assert got[0] == got[1]
    assert got[0] in contents


def test_a_mix_of_two_uploads_is_no_object(rig: Rig) -> None:
    rig.plant(made(rig, content(300)), [0])
    rig.plant(made(rig, content(301)), [3])
    with pytest.raises(NotEnough, match=r"\b2 .*\b2 "):
        rig.fetch()


def resigned(rig: Rig, built: Upload, **changes: object) -> Upload:
    """Sign other words over the shares of an upload, as only a faulty or hostile writer would."""
    header = replace(built.header, **changes)  # type: ignore[arg-type]
    signature = sign(header, built.roots, FULL.signing_seed)
    body = built.header.layout.data_length + built.header.layout.hashes_length
    shares = {
        number: share[:body] + Tail(header, built.roots, signature, number).pack()
        for number, share in built.shares.items()
    }
    return Upload(header, built.roots, signature, shares)


def test_signed_shares_of_other_content_than_they_say_are_refused(rig: Rig) -> None:
    rig.plant(resigned(rig, made(rig, BIG), content_id=bytes(32)))
    with pytest.raises(Damaged, match="other content than their signed header says"):
        rig.fetch()


def test_signed_shares_that_were_sealed_for_another_key_are_refused(rig: Rig) -> None:
    other = upload(BIG, 2, range(4), annex_key="SHA256E-s5--another")
    mine = made(rig, BIG)
    rig.plant(resigned(rig, other, object_id=mine.header.object_id, sealed_name=mine.header.sealed_name))
    with pytest.raises(Damaged, match="does not open"):
        rig.fetch()


# Stores that fail or hang.

ERRORS: list[Callable[[], Exception]] = [
    lambda: Unavailable("the disk is gone"),
    lambda: Denied("not allowed"),
    lambda: Busy("later", 5.0),
    lambda: NotFound("gone"),
    lambda: Full("of nonsense"),
    lambda: OSError(5, "not translated"),
    lambda: ValueError("a mistake in the store"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error()).__name__)
def test_a_store_that_fails_anywhere_is_replaced(rig: Rig, error: Callable[[], Exception]) -> None:
    rig.plant(made(rig, BIG))
    for after in (0, 1, 5000, 70_000, 300_000, BLOCK, BLOCK + 1):
        rig.mend()
        rig.break_store(0, lambda store, after=after: Failing(store, error, ["read"], after=after))  # type: ignore[misc]
        assert rig.fetch(f"after{after}") == BIG
        [note] = rig.notes.lines
        assert note.startswith("store0: ")
        assert isinstance(error(), Busy | NotFound) or error().args[-1] in note


def test_a_store_that_fails_once_is_asked_again_where_it_is_needed(tmp_path: Path) -> None:
    rig = Rig.of(tmp_path, 2, 2, 2)
    rig.plant(made(rig, BIG, total=2))
    rig.break_store(0, lambda store: Flaky(store, ERRORS[0], 2, ["read"], after=100_000))
    assert rig.fetch() == BIG
    assert rig.notes.lines == []


def test_a_store_that_fails_again_and_again_is_given_up(tmp_path: Path) -> None:
    rig = Rig.of(tmp_path, 2, 2, 2)
    rig.plant(made(rig, BIG, total=2))
    rig.break_store(0, lambda store: Failing(store, ERRORS[0], ["read"], after=100_000))
    with pytest.raises(NotEnough, match="store0: share 0: the disk is gone"):
        rig.fetch()


@pytest.mark.parametrize("after", [1, 70_000, 300_000, BLOCK, BLOCK + 1])
def test_a_store_that_stops_in_the_middle_is_replaced(rig: Rig, end: threading.Event, after: int) -> None:
    rig.stall = STALL
    rig.plant(made(rig, BIG))
    for number in (0, 2):
        rig.break_store(number, lambda store: Hanging(store, end, ["read"], after=after))
    assert rig.fetch() == BIG


def test_a_store_that_never_answers_is_not_waited_for(rig: Rig, end: threading.Event) -> None:
    rig.stall = 4 * WAIT
    rig.plant(made(rig, BIG))
    for number in (0, 2):
        rig.break_store(number, lambda store: Hanging(store, end))
    assert rig.fetch() == BIG


def test_too_many_stores_hang(rig: Rig, end: threading.Event) -> None:
    rig.stall = STALL
    rig.plant(made(rig, BIG))
    for number in (0, 2, 3):
        rig.break_store(number, lambda store: Hanging(store, end))
    with pytest.raises(NotEnough, match=r"\b1 .*\b2 .*; store0: no answer in .*; store2: no answer"):
        rig.fetch()


def test_too_many_stores_stop_in_the_middle(rig: Rig, end: threading.Event) -> None:
    """Large enough that the blocks are read one request after the other."""
    rig.stall = STALL
    data = content(20 * SEGMENT)
    rig.plant(made(rig, data))
    for number in (0, 2, 3):
        rig.break_store(number, lambda store: Hanging(store, end, ["read"], after=3 * BLOCK // 2))
    with pytest.raises(NotEnough, match=r"store0: share 0: no progress for 0.3 seconds"):
        rig.fetch()
    got = (rig.folder / "fetched").read_bytes()
    assert data.startswith(got)
    rig.mend()
    assert rig.fetch() == data


def test_a_share_that_answers_late_is_a_spare(rig: Rig) -> None:
    """Two of three answer, one of them fails: the third, which answers only then, is what saves the download."""
    rig.plant(made(rig, BIG), [0, 1, 2])
    late = threading.Event()

    def fails() -> Exception:
        late.set()
        return Unavailable("gone")

    rig.break_store(1, lambda store: Failing(store, fails, ["read"], after=100_000))
    rig.break_store(2, lambda store: Slow(store, late, ["read"]))
    assert rig.fetch() == BIG
    assert rig.notes.lines == ["store1: share 1: gone", "store3: share 3 is missing"]


def test_a_late_share_helps_where_others_had_help_already(rig: Rig) -> None:
    """Segment 0 lacks one block and has a spare for it; segment 1 lacks two and has to wait for the late share."""
    rig.plant(made(rig, BIG))
    late, asked = threading.Event(), threading.Event()
    corrupt_blocks(rig, 0, 0, 1)
    corrupt_blocks(rig, 1, 1)

    class Told(Around):
        def read(self, name: str, start: int = 0, length: int | None = None) -> ByteStream:
            if length is not None and length > 100_000:
                asked.set()
            return super().read(name, start, length)

    rig.break_store(1, Told)
    rig.break_store(3, lambda store: Slow(store, late, ["read"]))
    run = Run(rig.download(rig.folder / "fetched").run)
    wait_for(asked)
    late.set()
    run.join()
    assert (rig.folder / "fetched").read_bytes() == BIG


def test_a_late_share_of_another_upload_is_no_spare(rig: Rig) -> None:
    rig.plant(made(rig, BIG), [0, 1])
    rig.plant(made(rig, BIG[1:]), [2])
    late = threading.Event()

    def fails() -> Exception:
        late.set()
        return Unavailable("gone")

    rig.break_store(1, lambda store: Failing(store, fails, ["read"], after=100_000))
    rig.break_store(2, lambda store: Slow(store, late, ["read"]))
    with pytest.raises(NotEnough):
        rig.fetch()
    got = (rig.folder / "fetched").read_bytes()
    assert BIG.startswith(got)


# What is in the file already.

PREFIXES = [
    0,
    1,
    SEGMENT - 1,
    SEGMENT,
    SEGMENT + 1,
    2 * SEGMENT,
    3 * SEGMENT,
    3 * SEGMENT + 1,
    len(BIG) - 1,
    len(BIG),
]


@pytest.mark.parametrize("have", PREFIXES)
def test_a_download_goes_on_from_what_is_there(rig: Rig, have: int) -> None:
    rig.plant(made(rig, BIG))
    recordings = [Recording(store) for store in rig.stores]
    rig.stores = list(recordings)
    (rig.folder / "fetched").write_bytes(BIG[:have])
    assert rig.fetch() == BIG
    whole = 4 if have == len(BIG) else have // SEGMENT
    compared = 0 < whole < 4
    missing = rig.data_length(len(BIG)) - min((whole - compared) * BLOCK, rig.data_length(len(BIG)))
    read = sum(store.given for store in recordings)
    overhead = sum(len(store.calls) for store in recordings) * 70_000
    assert 2 * missing <= read <= 2 * missing + overhead
    assert rig.progress == [min(done, len(BIG)) for done in range((whole + 1) * SEGMENT, 5 * SEGMENT, SEGMENT)]


def broken(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("at", [0, SEGMENT - 1, SEGMENT, 2 * SEGMENT + 5, 3 * SEGMENT, len(BIG) - 1])
@pytest.mark.parametrize("have", [SEGMENT + 5, 3 * SEGMENT, len(BIG)])
def test_a_wrong_part_is_noticed_and_replaced(rig: Rig, have: int, at: int) -> None:
    rig.plant(made(rig, BIG))
    (rig.folder / "fetched").write_bytes(broken(BIG, at)[:have])
    assert rig.fetch() == BIG


@pytest.mark.parametrize("size", [0, 1, SEGMENT, SEGMENT + 1])
@pytest.mark.parametrize("more", [1, SEGMENT, 5 * SEGMENT])
def test_a_file_that_is_larger_than_the_object_is_replaced(rig: Rig, size: int, more: int) -> None:
    rig.plant(made(rig, content(size)))
    for start in (content(size), bytes(size)):
        (rig.folder / "fetched").write_bytes(start + bytes(more))
        assert rig.fetch() == content(size)


@settings(max_examples=40)
@given(st.integers(0, 3000), st.binary(max_size=4000), st.booleans())
def test_whatever_was_in_the_file(
    tmp_path_factory: pytest.TempPathFactory, size: int, before: bytes, right: bool
) -> None:
    rig = Rig.of(tmp_path_factory.mktemp("rig"), 1, 1, 1)
    rig.plant(made(rig, content(size), 1, 1))
    (rig.folder / "fetched").write_bytes(content(size)[: len(before)] if right else before)
    assert rig.fetch() == content(size)


def test_a_wrong_part_and_failing_stores(rig: Rig) -> None:
    """The part turns out to be wrong after the rest was fetched; then a store fails in the second round."""
    rig.plant(made(rig, BIG))
    (rig.folder / "fetched").write_bytes(bytes(2 * SEGMENT))
    rig.break_store(0, lambda store: Failing(store, lambda: Unavailable("gone"), ["read"], after=BLOCK + 100_000))
    assert rig.fetch() == BIG
    assert rig.notes.lines == ["store0: share 0: gone"]


def test_a_download_that_failed_half_way_goes_on(tmp_path: Path) -> None:
    rig = Rig.of(tmp_path, 2, 2, 2)
    data = content(30 * SEGMENT)
    rig.plant(made(rig, data, total=2))
    rig.break_store(
        1, lambda store: Failing(store, lambda: Denied("not any more"), ["read"], after=MIN_WINDOW * BLOCK - 1000)
    )
    with pytest.raises(NotEnough):
        rig.fetch()
    got = (tmp_path / "fetched").read_bytes()
    assert data.startswith(got)
    assert len(got) % SEGMENT == 0
    rig.mend()
    assert rig.fetch() == data
    assert rig.progress[:1] == [len(got) + SEGMENT]


# How it is written.


@pytest.mark.parametrize("have", [0, 3 * SEGMENT])
def test_a_file_only_grows_and_is_right_at_every_moment(rig: Rig, have: int) -> None:
    """git-annex hashes it while it grows."""
    data = content(12 * SEGMENT + 9)
    rig.plant(made(rig, data))
    path = rig.folder / "fetched"
    if have:
        path.write_bytes(data[:have])
    sizes: list[int] = []
    watching, over = threading.Event(), threading.Event()

    def watch() -> None:
        while not over.is_set():
            if path.exists():
                seen = path.read_bytes()
                assert data.startswith(seen)
                sizes.append(len(seen))
            watching.set()

    download = rig.download(path)

    def progress(done: int) -> None:
        assert os.stat(path).st_size == done
        assert path.read_bytes() == data[:done]
        rig.progress.append(done)

    download.progress = progress
    watcher = Run(watch)
    wait_for(watching)
    try:
        Run(download.run).join()
    finally:
        over.set()
        watcher.join()
    assert sizes == sorted(sizes)
    assert rig.progress == [min(done, len(data)) for done in range(have + SEGMENT, 14 * SEGMENT, SEGMENT)]


def test_the_file_is_written_where_it_is(rig: Rig) -> None:
    """Another name of the same file shows the same content: it is not replaced."""
    rig.plant(made(rig, BIG))
    (rig.folder / "fetched").write_bytes(BIG[:SEGMENT])
    os.link(rig.folder / "fetched", rig.folder / "other name")
    rig.fetch()
    assert (rig.folder / "other name").read_bytes() == BIG


def test_a_file_that_cannot_be_written_is_no_fault_of_the_stores(rig: Rig) -> None:
    rig.plant(made(rig, BIG))
    with pytest.raises(FileNotFoundError):
        Run(rig.download(rig.folder / "no folder" / "fetched").run).join()
    assert rig.notes.lines == []


# Called off.


@pytest.mark.parametrize("after", [0, 300_000])
def test_a_download_that_is_called_off_stops(rig: Rig, end: threading.Event, after: int) -> None:
    rig.stall = 4 * WAIT
    rig.plant(made(rig, BIG))
    hanging = [Hanging(store, end, ["read"], after=after) for store in rig.stores]
    rig.stores = list(hanging)
    run = Run(rig.download(rig.folder / "fetched").run)
    for store in hanging[:2]:
        wait_for(store.reached)
    rig.cancelled.set()
    with pytest.raises(Cancelled):
        run.join()


def test_a_store_that_hangs_is_left_to_others(rig: Rig, end: threading.Event) -> None:
    """Nobody waits behind it for a connection, and a small object does not wait for it either."""
    rig.stall = 4 * WAIT
    for size in (8 * SEGMENT, SEGMENT - 1):
        rig.plant(made(rig, content(size)))
        rig.mend()
        rig.break_store(1, lambda store: Hanging(store, end, ["read"], after=70_000))
        sites = rig.sites
        download = rig.download(rig.folder / f"of {size}")
        download.sites = sites
        for site in sites:
            for _ in range(5):  # all are known to answer quickly, so that no more are asked than it takes
                download.book.asked("before", site.name, 100, 0.0)
                download.book.came("before", 100, 0.001)
                download.book.over("before", 0.001)
        Run(download.run).join()
        assert (rig.folder / f"of {size}").read_bytes() == content(size)
        for site in sites:
            for _ in range(site.gate.limit):
                Run(site.gate.enter).join()


def test_what_is_there_is_not_waited_for(rig: Rig) -> None:
    """All of a small object comes with the opening: no further turn is taken at the gates."""
    rig.plant(made(rig, content(100)))
    sites = [replace(site, gate=Gate(1)) for site in rig.sites]
    entered = Counter[int]()
    for site in sites:
        enter = site.gate.enter

        def counted(cancelled: threading.Event | None = None, site: Site = site, enter: Any = enter) -> None:
            entered[site.number] += 1
            enter(cancelled)

        site.gate.enter = counted  # type: ignore[method-assign]
    download = rig.download(rig.folder / "fetched")
    download.sites = sites
    Run(download.run).join()
    assert (rig.folder / "fetched").read_bytes() == content(100)
    assert set(entered.values()) == {1}


def test_nothing_is_asked_of_too_many_segments_at_once(tmp_path: Path) -> None:
    """The store that is slow at the first segment bounds how far the others read ahead."""
    rig = Rig.of(tmp_path, 2, 2, 2)
    data = content(60 * SEGMENT)
    rig.plant(made(rig, data, total=2))
    release, beyond = threading.Event(), threading.Event()

    class Metered(Around):
        given = 0

        def read(self, name: str, start: int = 0, length: int | None = None) -> ByteStream:
            self.given += length or 0
            if self.given > (AHEAD + MAX_WINDOW) * BLOCK + 200_000:
                beyond.set()
            return super().read(name, start, length)

    slow = Slow(rig.stores[0], release, ["read"], after=70_000)
    rig.stores = [slow, Metered(rig.stores[1])]
    run = Run(rig.download(tmp_path / "fetched").run)
    wait_for(slow.reached)
    assert not beyond.wait(0.3)
    release.set()
    run.join()
    assert (tmp_path / "fetched").read_bytes() == data
    assert rig.notes.lines == []


@pytest.mark.parametrize("size", [100, 3 * SEGMENT])
def test_a_share_is_missed_only_where_it_is_to_be(tmp_path: Path, size: int) -> None:
    """With more places than shares, that one of them has none is as it should be."""
    rig = Rig.of(tmp_path, 2, 3, 4, sites=6)
    rig.key = WORM  # so that all are asked
    data = content(size)
    rig.plant(made(rig, data), [0, 1, 2, 3])
    assert rig.fetch("whole") == data
    assert rig.notes.lines == []
    rig.forget(1)
    assert rig.fetch("one lost") == data
    assert rig.notes.lines == ["store1: share 1 is missing"]


def test_the_content_of_a_worm_key_comes_back(rig: Rig) -> None:
    rig.key = WORM
    rig.store(BIG)
    assert rig.fetch() == BIG
