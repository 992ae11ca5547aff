"""What `model.Store` promises, tried on every store, wrapper and fake; a new kind is one line in `kinds.py`."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from functools import partial

import pytest

from annex_remote.errors import Cancelled, Damaged, Exists, NotFound, StoreError, SwarmError
from annex_remote.model import OpenAt, ShareName, Store, check_name
from tests.fakes import WAIT, Run, wait_for
from tests.stores.kinds import MARKER, Subject

NAME = "ab/ab" + "2" * 30 + ".0"
OTHER = "ab/ab" + "3" * 30 + ".12"
DATA = os.urandom(300_000)


def giving(data: bytes, piece: int = 65_536) -> OpenAt:
    def open_at(offset: int) -> Iterator[bytes | memoryview]:
        view = memoryview(data)
        for at in range(offset, len(data), piece):
            yield view[at : at + piece]

    return open_at


def keep(store: Store, name: str, data: bytes, *, fresh: bool = False) -> None:
    store.put(name, len(data), giving(data), fresh=fresh)


def read(store: Store, name: str, start: int = 0, length: int | None = None) -> bytes:
    with store.read(name, start, length) as stream:
        return b"".join(stream)


def listed(store: Store, prefix: str = "") -> list[tuple[str, int]]:
    return [item for item in store.list(prefix) if item[0] != MARKER]


def assert_absent(store: Store, name: str) -> None:
    assert store.stat(name) is None
    assert name not in [found for found, _ in store.list()]
    with pytest.raises(NotFound):
        read(store, name)
    with pytest.raises(NotFound):
        store.age(name)


# Putting.


def test_what_is_put_is_there(store: Store) -> None:
    for size in (0, 1, 2, 65_536, 300_000, (1 << 20) + 1, (3 << 20) - 1):
        data = (DATA * 11)[:size]
        keep(store, NAME, data)
        assert store.stat(NAME) == size
        assert listed(store) == [(NAME, size)]
        with store.read(NAME) as stream:
            assert stream.size == size
            assert b"".join(stream) == data


def test_a_source_may_give_empty_pieces_and_views(store: Store) -> None:
    pieces: list[bytes | memoryview] = [b"", b"one", memoryview(b"-two-"), b"", memoryview(b"three"), b""]
    store.put(NAME, 13, lambda offset: [b"one-two-three"[offset:]] if offset else pieces)
    assert read(store, NAME) == b"one-two-three"


def test_a_put_replaces_whatever_was_there(store: Store) -> None:
    for data in (DATA, b"short", b"", DATA[:70_000]):
        keep(store, NAME, data)
        assert read(store, NAME) == data
        assert listed(store) == [(NAME, len(data))]


def test_a_fresh_put_takes_a_name_that_is_free(store: Store) -> None:
    for size in (0, 1, 300_000, (1 << 20) + 1):
        data = (DATA * 11)[:size]
        keep(store, NAME, data, fresh=True)
        assert read(store, NAME) == data
        assert listed(store) == [(NAME, size)]
        store.delete(NAME)


def test_a_fresh_put_leaves_what_is_there(subject: Subject) -> None:
    store = subject.store
    keep(store, NAME, b"what was there")
    for _ in range(3):
        for data in (DATA, b"", b"what was there"):
            with pytest.raises(Exists):
                keep(store, NAME, data, fresh=True)
            assert_unchanged(store, b"what was there")
        keep(store, OTHER, DATA, fresh=True)
        store.delete(OTHER)
    keep(store, NAME, DATA)
    subject.plant(OTHER, b"by somebody else")
    with pytest.raises(Exists):
        keep(store, OTHER, DATA, fresh=True)
    assert read(store, OTHER) == b"by somebody else"
    assert read(store, NAME) == DATA


def test_of_many_fresh_puts_one_wins(subject: Subject) -> None:
    store, threads = subject.store, min(subject.threads, 8)
    keep(store, OTHER, b"", fresh=True)  # so that the folders are there
    for turn in range(4):
        name = str(ShareName("ab" + "4" * 30, turn))
        won = race(store, name, [bytes([which]) * (1000 + which) for which in range(threads)])
        assert len(won) == 1 or (won and subject.looks_first)
        assert read(store, name) in won


def race(store: Store, name: str, versions: list[bytes]) -> list[bytes]:
    """Put all of them at once, and return those that were taken."""
    start = threading.Barrier(len(versions))
    won: list[bytes] = []

    def work(version: bytes) -> None:
        start.wait(WAIT)
        with suppress(Exists):
            keep(store, name, version, fresh=True)
            won.append(version)

    for run in [Run(partial(work, version)) for version in versions]:
        run.join()
    return won


def test_what_comes_while_a_fresh_put_is_on_its_way_stays(subject: Subject) -> None:
    store = subject.store
    keep(store, OTHER, DATA)

    def source(offset: int) -> Iterator[bytes]:
        yield DATA[offset:200_000]
        subject.plant(NAME, b"by somebody else")
        yield DATA[max(offset, 200_000) :]

    with pytest.raises(Exists):
        store.put(NAME, len(DATA), source, fresh=True)
    assert read(store, NAME) == b"by somebody else"
    assert listed(store, "ab/ab2") == [(NAME, len(b"by somebody else"))]


class Broken(Exception):
    """Something that no store knows."""


def breaking(data: bytes, error: BaseException) -> OpenAt:
    def open_at(offset: int) -> Iterator[bytes]:
        yield data[offset:]
        raise error

    return open_at


ERRORS = [
    Broken("a source of its own kind"),
    Cancelled("called off"),
    Damaged("the file changed"),
    OSError(5, "the file that is stored cannot be read"),
    FileNotFoundError(2, "the file that is stored is gone"),
    MemoryError(),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_what_the_source_raises_passes_through_and_nothing_changes(store: Store, error: BaseException) -> None:
    for before in (None, b"what was there"):
        if before is not None:
            keep(store, NAME, before)
        for given in (0, 1, 200_000, 300_000):
            with pytest.raises(type(error)) as raised:
                store.put(NAME, len(DATA), breaking(DATA[:given], error))
            assert raised.value is error
            assert_unchanged(store, before)


def assert_unchanged(store: Store, before: bytes | None) -> None:
    if before is None:
        assert_absent(store, NAME)
        assert listed(store) == []
    else:
        assert read(store, NAME) == before
        assert listed(store) == [(NAME, len(before))]


@pytest.mark.parametrize("before", [None, b"what was there"], ids=["new", "replacing"])
def test_a_source_of_another_size_is_damaged(store: Store, before: bytes | None) -> None:
    if before is not None:
        keep(store, NAME, before)
    for announced in (0, 1, 299_999, 300_001, 1 << 30):
        with pytest.raises(Damaged):
            store.put(NAME, announced, giving(DATA))
        assert_unchanged(store, before)


def test_an_endless_source_is_not_taken_in(store: Store) -> None:
    def endless(_: int) -> Iterator[bytes]:
        for _ in range(1000):
            yield DATA[:1000]
        pytest.fail("far more than was announced was taken")

    with pytest.raises(Damaged):
        store.put(NAME, 10_000, endless)
    assert_absent(store, NAME)


def test_an_empty_source_is_not_something_of_size_one(store: Store) -> None:
    with pytest.raises(Damaged):
        store.put(NAME, 1, giving(b""))
    assert_absent(store, NAME)


class Halfway:
    """A source that stops half-way until it is released."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.reached = threading.Event()
        self.release = threading.Event()

    def __call__(self, offset: int) -> Iterator[bytes]:
        half = len(self._data) // 2
        if offset < half:
            yield self._data[offset:half]
        self.reached.set()
        wait_for(self.release)
        yield self._data[max(offset, half) :]


@pytest.mark.parametrize("before", [None, b"what was there"], ids=["new", "replacing"])
def test_half_a_put_is_not_to_be_seen(store: Store, before: bytes | None) -> None:
    if before is not None:
        keep(store, NAME, before)
    source = Halfway(DATA)
    put = Run(lambda: store.put(NAME, len(DATA), source))
    wait_for(source.reached)
    assert_unchanged(store, before)
    source.release.set()
    put.join()
    assert read(store, NAME) == DATA


def test_a_reader_keeps_what_it_opened(store: Store) -> None:
    keep(store, NAME, DATA)
    with store.read(NAME) as stream:
        keep(store, NAME, b"other")
        store.delete(NAME)
        try:
            got = b"".join(stream)
        except SwarmError:
            return  # a store may notice, but never mixes
        assert got == DATA


# Reading.

RANGES: list[tuple[int, int | None]] = [
    (0, None),
    (0, 0),
    (0, 1),
    (1, None),
    (1, 1),
    (299_999, 1),
    (299_999, 2),
    (299_999, None),
    (300_000, None),
    (300_000, 1),
    (300_001, 5),
    (1 << 40, None),
    (1 << 40, 1 << 40),
    (65_535, 2),
    (100_000, 100_000),
    (250_000, 1 << 30),
    (0, 300_000),
    (0, 300_001),
]


def test_a_range_is_clipped_and_knows_the_whole_size(store: Store) -> None:
    keep(store, NAME, DATA)
    for start, length in RANGES:
        with store.read(NAME, start, length) as stream:
            assert stream.size == len(DATA)
            assert b"".join(stream) == DATA[start:][:length]


def test_a_range_of_nothing_is_nothing(store: Store) -> None:
    keep(store, NAME, b"")
    for start, length in RANGES:
        with store.read(NAME, start, length) as stream:
            assert stream.size == 0
            assert b"".join(stream) == b""


def test_a_stream_may_be_left_early(store: Store) -> None:
    keep(store, NAME, DATA)
    for _ in range(50):
        with store.read(NAME) as stream:
            assert DATA.startswith(next(iter(stream)))
        with store.read(NAME):
            pass
    assert read(store, NAME) == DATA


def test_what_is_not_there_is_not_found(store: Store) -> None:
    assert_absent(store, NAME)
    keep(store, OTHER, DATA)
    assert_absent(store, NAME)


# How old it is.

YOUNG = 60.0
"""Seconds that no test takes from a put to a look."""


def assert_young(store: Store, name: str) -> None:
    age = store.age(name)
    assert age is not None
    assert 0.0 <= age < YOUNG


def test_what_was_put_just_now_is_young(store: Store) -> None:
    for data in (DATA, b"", b"other"):
        keep(store, NAME, data)
        assert_young(store, NAME)
    with pytest.raises(NotFound):
        store.age(OTHER)


def test_what_was_put_long_ago_is_old_until_it_is_put_anew(subject: Subject) -> None:
    if subject.date is None:
        pytest.skip("this server does not let anybody say when something was put")
    for name, ago in ((NAME, 3600), (OTHER, 90 * 86400)):
        subject.plant(name, DATA)
        subject.date(name, time.time() - ago)
        age = subject.store.age(name)
        assert age is not None
        assert ago - 2 <= age < ago + YOUNG
        keep(subject.store, name, DATA)
        assert_young(subject.store, name)


def test_what_will_be_put_one_day_is_not_older_than_new(subject: Subject) -> None:
    if subject.date is None:
        pytest.skip("this server does not let anybody say when something was put")
    subject.plant(NAME, DATA)
    subject.date(NAME, time.time() + 86400)
    assert subject.store.age(NAME) == 0.0


# Deleting.


def test_deleting_twice_is_no_error(store: Store) -> None:
    store.delete(NAME)
    keep(store, NAME, DATA)
    keep(store, OTHER, b"stays")
    store.delete(NAME)
    assert_absent(store, NAME)
    store.delete(NAME)
    assert read(store, OTHER) == b"stays"
    keep(store, NAME, b"again")
    assert read(store, NAME) == b"again"


# Listing.

OWN = {
    "ab/ab" + "2" * 30 + ".0": 1,
    "ab/ab" + "2" * 30 + ".1": 2,
    "ab/ab" + "2" * 30 + ".10": 3,
    "ab/ab" + "2" * 30 + ".r17": 4,
    "ab/abc" + "2" * 29 + ".s0": 5,
    "ac/ac" + "7" * 30 + ".255": 6,
    "22/22" + "z" * 30 + ".0": 0,
}


PREFIXES = ["", "a", "ab", "ab/", "ab/ab", "ab/ab2", "ab/ab" + "2" * 30 + ".", "ab/ab" + "2" * 30 + ".1", "ab/abc"]
PREFIXES += ["ac", "2", "22/22z", "b", "bb", "bb/bb", "ab/ac"]
PREFIXES += ["AB", ".", "..", "../", "/", "//", "a/", "ab/../", "ab//"]


def test_listing_by_prefix(store: Store) -> None:
    assert {prefix: listed(store, prefix) for prefix in PREFIXES} == {prefix: [] for prefix in PREFIXES}
    for name, size in OWN.items():
        keep(store, name, DATA[:size])
    for prefix in PREFIXES:
        found = sorted(item for item in OWN.items() if item[0].startswith(prefix))
        assert sorted(listed(store, prefix)) == found


STRANGERS = [
    "README",
    "lost+found/file",
    "ab/README",
    "ab/ab" + "2" * 30,
    "ab/ab" + "2" * 30 + ".",
    "ab/ab" + "2" * 30 + ".0.part",
    "ab/ab" + "2" * 30 + ".0~",
    "ab/ab" + "2" * 30 + ".a-word",
    "ab/ab" + "2" * 30 + ".thirteenmarks",
    "ab/ab" + "2" * 30 + ".0\n",
    "ab/AB" + "2" * 30 + ".0",
    "AB/AB" + "2" * 30 + ".0",
    "ab/cd" + "2" * 30 + ".0",
    "ab/ab" + "2" * 29 + ".0",
    "ab/ab" + "2" * 31 + ".0",
    "ab/ab" + "1" * 30 + ".0",
    "ab/.ab" + "2" * 29 + ".0",
    "abc/abc" + "2" * 29 + ".0",
    "ab/ab/ab" + "2" * 30 + ".0",
    ".part/ab" + "2" * 30 + ".0.0123456789abcdef",
    ".trash/ab/ab" + "2" * 30 + ".0",
    "äb/äb" + "2" * 30 + ".0",
]


def test_strangers_are_not_in_the_list(subject: Subject) -> None:
    keep(subject.store, NAME, DATA)
    for name in STRANGERS:
        subject.plant(name, b"not of this grid")
    for prefix in ("", "a", "ab", "ab/", "ab/ab"):
        assert listed(subject.store, prefix) == [(NAME, len(DATA))]
    assert listed(subject.store, "AB") == []
    for name, _ in subject.store.list():
        check_name(name)


def test_what_somebody_else_put_there_counts(subject: Subject) -> None:
    subject.plant(NAME, DATA)
    assert listed(subject.store) == [(NAME, len(DATA))]
    assert subject.store.stat(NAME) == len(DATA)
    assert read(subject.store, NAME, 5, 100) == DATA[5:105]
    subject.store.delete(NAME)
    assert_absent(subject.store, NAME)


# Names.

REFUSED = [
    *STRANGERS,
    "",
    ".",
    "..",
    "/",
    "../ab/ab" + "2" * 30 + ".0",
    "ab/../ab/ab" + "2" * 30 + ".0",
    "ab/..",
    "../" + "2" * 32 + ".0",
    "/ab/ab" + "2" * 30 + ".0",
    "./ab/ab" + "2" * 30 + ".0",
    "ab//ab" + "2" * 30 + ".0",
    "ab\\ab" + "2" * 30 + ".0",
    "ab/ab" + "2" * 30 + ".0/",
    "ab/ab" + "2" * 30 + ".0 ",
    " ab/ab" + "2" * 30 + ".0",
    "ab/ab" + "2" * 30 + ".0\0",
    "ab/ab" + "2" * 30 + "..",
    "ab/ab" + "2" * 30 + "..0",
    "ab/ab" + "2" * 30 + ".A",
    "ab/ab" + "2" * 30 + ".²",
    "ab/ab" + "2" * 30 + "0",
    "%61b/ab" + "2" * 30 + ".0",
]

VERBS: dict[str, Callable[[Store, str], object]] = {
    "put": lambda store, name: keep(store, name, DATA),
    "read": lambda store, name: read(store, name),
    "stat": lambda store, name: store.stat(name),
    "age": lambda store, name: store.age(name),
    "delete": lambda store, name: store.delete(name),
}


@pytest.mark.parametrize("verb", VERBS)
def test_odd_names_are_refused_by_every_verb(subject: Subject, verb: str) -> None:
    plantable = [name for name in STRANGERS if "\n" not in name]
    for name in plantable:
        subject.plant(name, b"not of this grid")
    for name in REFUSED:
        with pytest.raises(Damaged):
            VERBS[verb](subject.store, name)
    assert listed(subject.store) == []


def test_every_share_has_a_name_that_stands(store: Store) -> None:
    names = [ShareName("ab" + "2" * 30, number) for number in (0, 9, 10, 99, 255)]
    for name in names:
        keep(store, str(name), b"x")
    assert {ShareName.parse(found) for found, _ in listed(store)} == set(names)


# All at once.


def test_many_threads_at_once(subject: Subject) -> None:
    """Each of the threads has a name of its own, and all fight for one: nobody ever sees half of anything."""
    store, threads = subject.store, subject.threads
    versions = [bytes([which]) * (5_000 + 1_111 * which) for which in range(threads)]
    shared = "ee/ee" + "5" * 30 + ".0"
    keep(store, shared, versions[0])
    start = threading.Barrier(threads)

    def work(which: int) -> None:
        name = str(ShareName("dd" + "4" * 30, which))
        start.wait(WAIT)
        for turn in range(4):
            keep(store, shared, versions[which])
            keep(store, name, versions[which] + bytes([turn]))
            assert read(store, name) == versions[which] + bytes([turn])
            with suppress(StoreError) if subject.replaces_in_steps else nullcontext():
                looks = [
                    read(store, shared) in versions,
                    store.stat(shared) in [len(version) for version in versions],
                    shared in [found for found, _ in store.list("ee")],
                ]
                assert all(looks) or subject.replaces_in_steps
            store.delete(name)
            assert store.stat(name) is None
        keep(store, name, versions[which])

    for run in [Run(partial(work, which)) for which in range(threads)]:
        run.join()
    assert read(store, shared) in versions
    assert listed(store, "dd") == sorted(
        (str(ShareName("dd" + "4" * 30, which)), len(versions[which])) for which in range(threads)
    )


def test_readers_and_deleters_at_once(store: Store) -> None:
    """Whatever the order, a reader gets all of it, or hears that it is not there."""
    start = threading.Barrier(8)

    def work(which: int) -> None:
        start.wait(WAIT)
        for _ in range(12):
            if which % 2:
                keep(store, NAME, DATA)
                store.delete(NAME)
            else:
                with suppress(NotFound):
                    assert read(store, NAME) == DATA
                assert store.stat(NAME) in (None, len(DATA))
                assert listed(store) in ([], [(NAME, len(DATA))])

    for run in [Run(partial(work, which)) for which in range(8)]:
        run.join()


def test_space_is_bytes_or_unknown(store: Store) -> None:
    keep(store, NAME, DATA)
    space = store.space()
    assert space is None or space >= 0


def test_closing_is_the_end(store: Store) -> None:
    keep(store, NAME, DATA)
    store.close()


def test_the_source_is_opened_at_offsets_that_it_can_serve(store: Store) -> None:
    """A store that goes on where it was cut off asks for an offset within what there is."""
    offsets: list[int] = []

    def open_at(offset: int) -> Iterable[bytes | memoryview]:
        offsets.append(offset)
        return giving(DATA)(offset)

    store.put(NAME, len(DATA), open_at)
    assert offsets[0] == 0
    assert all(0 <= offset <= len(DATA) for offset in offsets)
    assert read(store, NAME) == DATA
