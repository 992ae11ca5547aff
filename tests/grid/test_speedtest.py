"""Measuring a store, that nothing is left behind, and what is made of what was measured."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping

import pytest

from annex_remote.errors import Cancelled, Denied, SwarmError, Unavailable
from annex_remote.limits import NO_LIMIT, Limit, parse_limit
from annex_remote.model import ByteStream, Coding, OpenAt, Store
from annex_remote.speedtest import LOOKS, READERS, Outlook, Speed, SpeedTest, outlook
from annex_remote.transfer.figures import Book, Figures
from annex_remote.transfer.sites import Site
from tests.fakes import Around, Corrupting, Failing, FakeClock, MemoryStore, Pieces, Recording, Run

SIZE = 1 << 20
MARKER = "ab/ab" + "2" * 30 + ".store"


class Paced(Around):
    """Takes `wait` seconds to begin an answer, and then brings and takes `rate` bytes a second."""

    def __init__(self, store: Store, clock: FakeClock, wait: float, rate: float) -> None:
        super().__init__(store)
        self._clock = clock
        self._wait = wait
        self._rate = rate

    def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
        self.store.put(name, size, open_at, fresh=fresh)
        self._clock.advance(size / self._rate)

    def read(self, name: str, start: int = 0, length: int | None = None) -> ByteStream:
        self._clock.advance(self._wait)
        stream = self.store.read(name, start, length)
        return Pieces(stream.size, self._paced(stream))

    def _paced(self, stream: ByteStream) -> Iterator[bytes]:
        for at, piece in enumerate(stream):
            self._clock.advance(len(piece) / self._rate if at else 0.0)
            yield piece


def same(store: Store) -> Store:
    return store


def speed_of(
    wrap: Callable[[Store], Store] = same,
    memory: MemoryStore | None = None,
    *,
    clock: FakeClock | None = None,
    book: Book | None = None,
    connections: int = 1,
    tell: Callable[[str], None] = lambda _: None,
    cancelled: threading.Event | None = None,
) -> Speed:
    memory = MemoryStore() if memory is None else memory
    test = SpeedTest(
        "nas",
        lambda: wrap(memory),
        SIZE,
        book or Book(),
        marker=MARKER,
        connections=connections,
        tell=tell,
        cancelled=cancelled or threading.Event(),
        clock=clock or FakeClock(),
    )
    speed = test.run()
    json.dumps(speed.as_json())
    return speed


def test_the_figures_are_what_the_clock_says() -> None:
    clock, book = FakeClock(), Book()
    speed = speed_of(lambda store: Paced(store, clock, 0.5, 1e6), clock=clock, book=book)
    assert speed.passed
    assert speed.latency == pytest.approx(0.5)
    assert speed.up == pytest.approx(1e6)
    assert speed.down == pytest.approx(1e6, rel=0.15)
    learned = book.of("nas", clock())
    assert learned.settled
    assert learned.first_byte == pytest.approx(0.5, rel=0.3)
    assert learned.up == pytest.approx(1e6)
    assert learned.down == pytest.approx(1e6, rel=0.15)
    assert (learned.owed, learned.resting) == (0, False)


def test_a_fast_store_is_read_several_times() -> None:
    clock = FakeClock()
    recorded = Recording(MemoryStore())
    speed = speed_of(lambda _: Paced(recorded, clock, 0.1, 1e9), clock=clock)
    assert speed.down == pytest.approx(SIZE / 0.05, rel=0.05)
    assert len(recorded.names("read")) == LOOKS + 3


@pytest.mark.parametrize(("connections", "readers"), [(1, 1), (3, 3), (64, READERS)])
def test_reads_in_parallel_keep_to_what_the_store_takes(connections: int, readers: int) -> None:
    clock = FakeClock()
    recorded = Recording(MemoryStore())
    speed = speed_of(lambda _: Paced(recorded, clock, 0.3, 1e9), clock=clock, connections=connections)
    assert speed.passed
    assert len(recorded.names("read")) == LOOKS + readers
    assert recorded.given == SIZE + LOOKS * 4096


def test_nothing_stays_behind() -> None:
    memory = MemoryStore()
    memory.contents[MARKER] = b"a marker"
    steps: list[str] = []
    assert speed_of(memory=memory, tell=steps.append).passed
    assert memory.contents == {MARKER: b"a marker"}
    assert steps == ["write", "latency", "read", "space", "delete"]


@pytest.mark.parametrize(
    ("verb", "failed"),
    [("put", {"write"}), ("read", {"latency", "read"}), ("space", {"space"}), ("delete", {"delete"})],
)
def test_what_fails_is_told_and_the_rest_is_measured(verb: str, failed: set[str]) -> None:
    memory, book = MemoryStore(), Book()
    speed = speed_of(lambda store: Failing(store, lambda: Unavailable("away"), [verb]), memory, book=book)
    assert set(speed.errors) == failed
    assert all("away" in error for error in speed.errors.values())
    assert bool(memory.contents) == (verb == "delete")
    assert book.of("nas", 2000.0).owed == 0


def test_what_may_have_been_written_is_removed_though_writing_failed() -> None:
    class Lost(Around):
        def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
            self.store.put(name, size, open_at, fresh=fresh)
            raise Unavailable("the answer was lost")

    memory = MemoryStore()
    assert speed_of(Lost, memory).errors == {"write": "the answer was lost"}
    assert memory.contents == {}


def test_a_store_that_can_only_be_read_is_measured_by_its_marker() -> None:
    memory, clock = MemoryStore(), FakeClock()
    memory.contents[MARKER] = b"a marker"
    denied = ["put", "delete"]
    speed = speed_of(
        lambda store: Paced(Failing(store, lambda: Denied("read only"), denied), clock, 0.5, 1e6),
        memory,
        clock=clock,
    )
    assert speed.passed
    assert speed.latency == pytest.approx(0.5)
    assert (speed.up, speed.down) == (None, None)
    assert speed.notes == ["it can be read at most: of its rates nothing is known"]


def test_a_store_that_wants_a_login_has_failed() -> None:
    speed = speed_of(lambda store: Failing(store, lambda: Denied("who are you", wants_login=True), ["put"]))
    assert speed.errors == {"write": "who are you"}


def test_damage_is_found() -> None:
    speed = speed_of(lambda store: Corrupting(store, [SIZE // 2]), connections=4)
    assert speed.errors == {"read": "what was written reads back differently"}


def test_a_store_that_cannot_be_opened_has_failed() -> None:
    def unusable(_: Store) -> Store:
        raise Unavailable("no such place")

    assert speed_of(unusable).errors == {"write": "no such place"}


@pytest.mark.parametrize("at", ["write", "latency", "read", "space"])
def test_what_is_called_off_is_tidied_up(at: str) -> None:
    memory, cancelled = MemoryStore(), threading.Event()

    def tell(step: str) -> None:
        if step == at:
            cancelled.set()

    def called_off() -> None:
        with pytest.raises(Cancelled):
            speed_of(memory=memory, tell=tell, cancelled=cancelled)

    Run(called_off).join()
    assert memory.contents == {}


# What is made of it.


def sites_of(*names: str, **fields: object) -> list[Site]:
    return [Site(number, name, MemoryStore(), **fields) for number, name in enumerate(names)]  # type: ignore[arg-type]


def seen(
    sites: list[Site],
    rates: Mapping[str, tuple[float | None, float | None]],
    coding: Coding,
    up: Limit = NO_LIMIT,
    down: Limit = NO_LIMIT,
) -> Outlook:
    known = {name: Figures(first_byte=0.01, down=down, up=up, settled=True) for name, (down, up) in rates.items()}
    will = outlook(sites, known, coding, 1 << 19, up=up, down=down, minute=600)
    json.dumps(will.as_json())
    return will


def test_a_get_takes_what_the_stores_give_together() -> None:
    """Two of three: the fast one can give one block of each segment, the slow ones share the other."""
    rates = {"a": (100.0, 1.0), "b": (20.0, 1.0), "c": (10.0, 1.0)}
    will = seen(sites_of("a", "b", "c"), rates, Coding(2, 2, 3))
    assert will.get == pytest.approx(60.0)
    assert will.carried == {"a": pytest.approx(0.5), "b": pytest.approx(1 / 3), "c": pytest.approx(1 / 6)}
    assert list(will.carried) == ["a", "b", "c"]
    assert will.window is not None


def test_two_shares_of_a_store_share_its_rate() -> None:
    will = seen(sites_of("a", "a", "b"), {"a": (100.0, 100.0), "b": (100.0, 100.0)}, Coding(2, 2, 3))
    assert will.get == pytest.approx(200.0)
    assert will.put == pytest.approx(100.0)


def test_who_costs_money_is_left_out_where_others_suffice() -> None:
    sites = [*sites_of("a", "b"), Site(2, "dear", MemoryStore(), price=0.09)]
    rates = {"a": (10.0, 1.0), "b": (10.0, 1.0), "dear": (100.0, 1.0)}
    assert set(seen(sites, rates, Coding(2, 2, 3)).carried) == {"a", "b"}
    assert set(seen(sites, rates, Coding(3, 3, 3)).carried) == {"a", "b", "dear"}


def test_a_put_waits_for_the_slowest_of_all_and_of_happy() -> None:
    rates = {name: (1.0, up) for name, up in {"a": 50.0, "b": 5.0, "c": 20.0, "d": 10.0}.items()}
    will = seen(sites_of("a", "b", "c", "d"), rates, Coding(2, 3, 4))
    assert (will.put, will.put_happy, will.slowest) == (10.0, 20.0, "b")


def test_with_more_places_than_shares_the_worst_is_said() -> None:
    rates = {name: (1.0, up) for name, up in {"a": 50.0, "b": 5.0, "c": 20.0, "d": 10.0}.items()}
    will = seen(sites_of("a", "b", "c", "d"), rates, Coding(2, 2, 3))
    assert (will.put, will.put_happy, will.slowest) == (10.0, 20.0, "b")


def test_limits_of_all_stores_together_hold() -> None:
    rates = dict.fromkeys(("a", "b", "c", "d"), (1e6, 1e6))
    limits = {"up": parse_limit("upload-limit", "10:00-11:00=100KiB/s"), "down": parse_limit("l", "300KiB/s")}
    will = seen(sites_of("a", "b", "c", "d"), rates, Coding(2, 3, 4), **limits)
    assert will.get == 300 * 1024
    assert will.put == will.put_happy == 50 * 1024


def test_of_what_is_not_known_nothing_is_said() -> None:
    rates = {"a": (1.0, 1.0), "b": (None, 1.0), "c": (None, None)}
    will = seen(sites_of("a", "b", "c"), rates, Coding(2, 2, 3))
    assert (will.get, will.put, will.put_happy) == (None, None, 2.0)
    assert will.unknown == ["b", "c"]
    alone = seen(sites_of("a"), {"a": (1.0, 1.0)}, Coding(2, 2, 3))
    assert (alone.get, alone.put_happy, alone.window) == (None, None, None)


def test_retired_stores_are_read_and_not_written() -> None:
    sites = [*sites_of("a", "b"), Site(2, "old", MemoryStore(), takes_shares=False)]
    rates = {"a": (10.0, 5.0), "b": (10.0, 4.0), "old": (10.0, 1.0)}
    will = seen(sites, rates, Coding(2, 2, 2))
    assert set(will.carried) == {"a", "b", "old"}
    assert (will.put, will.slowest) == (8.0, "b")


def test_a_programming_error_is_not_hidden() -> None:
    def streams() -> Iterator[Exception]:
        yield ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError):
        speed_of(lambda store: Failing(store, lambda: next(streams()), ["space"]))
    assert issubclass(Unavailable, SwarmError)
