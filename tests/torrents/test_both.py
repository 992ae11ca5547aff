"""A key from torrents and from shares at the same time: whoever fails or ends first, in whatever order."""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annex_remote.errors import Cancelled, NotEnough
from annex_remote.torrents.both import Either, fetch_from_both, may_be_of
from tests.fakes import Run, in_thread, wait_for
from tests.torrents.documents import BLOCK
from tests.torrents.gatherings import CONTENTS, SIZE, TIMEOUT, Rig, until
from tests.torrents.swarm import FakeSwarm

CONTENT = CONTENTS["b"]


class Shares:
    """Shares that are found when `found` is set, and then are written up to `end`, each step after `may_go`.

    In the end `error` is raised, if there is one. What the torrents have is taken, and what they lack is offered.
    """

    def __init__(
        self, both: Both, *, end: int = SIZE, error: BaseException | None = None, steps: threading.Semaphore | None
    ) -> None:
        self._both = both
        self._end = end
        self._error = error
        self.found = threading.Event()
        self.may_go = steps
        self.has_taken_over = threading.Event()
        self.ended = threading.Event()
        self.raised: BaseException | None = None
        self.lag = 0.0
        """Seconds that it takes to see that it was called off; then one more thing is written."""

    def __call__(self) -> None:
        try:
            self._fetch()
        except BaseException as error:
            self.raised = error
            raise
        finally:
            self.ended.set()

    def _fetch(self) -> None:
        stop = self._both.stop
        while not self.found.wait(0.01):
            if stop.is_set():
                raise Cancelled("the look for shares was called off")
        if self._end >= 0:
            gathering = self._both.rig.gathering
            gathering.take_over()
            self.has_taken_over.set()
            with open(self._both.rig.path, "ab") as file:
                while file.tell() < self._end:
                    self._step(file.fileno())
        if self._error is not None:
            raise self._error

    def _step(self, descriptor: int) -> None:
        if self.may_go is not None:
            while not self.may_go.acquire(timeout=0.01):
                if self._both.stop.is_set():
                    time.sleep(self.lag)
                    os.write(descriptor, b"the last of it")
                    raise Cancelled("the download was called off")
        gathering = self._both.rig.gathering
        at = os.fstat(descriptor).st_size
        end = min(at + BLOCK, SIZE)
        data = gathering.take(at, end) if gathering.has(at, end, 0) else None
        os.write(descriptor, data if data is not None else CONTENT[at:end])
        if data is None:
            gathering.offer(at, CONTENT[at:end])


class Both:
    """A key with shares and one torrent."""

    def __init__(self, folder: Path) -> None:
        self.rig = Rig(folder)
        self.rig.cancelled = self.stop = Either(self.rig.cancelled)  # as in a remote, what ends both ends each
        self.job = self.stop._other
        self.rig.gathering._cancelled = self.stop
        self.results: list[bool] = []

    def shares(
        self, *, end: int = SIZE, error: BaseException | None = None, steps: threading.Semaphore | None = None
    ) -> Shares:
        """Return shares; with `end` below 0 they fail before they write."""
        return Shares(self, end=end, error=error, steps=steps)

    def start(self, shares: Shares) -> Run:
        return Run(lambda: self.results.append(fetch_from_both(self.rig.gathering, shares, self.stop)))

    def out_of_time(self) -> None:
        self.rig.clock.advance(TIMEOUT + 1)

    def until_given_up(self, run: Run) -> None:
        """Let time pass until it is over."""

        def is_over() -> bool:
            self.out_of_time()
            return run.is_over

        until(is_over)

    @property
    def is_right(self) -> bool:
        return self.rig.path.read_bytes() == CONTENT


@pytest.fixture
def both(tmp_path: Path) -> Both:
    return Both(tmp_path)


def wanted(swarm: FakeSwarm) -> Callable[[], object]:
    return lambda: swarm.priorities


# One of them does it.


def test_torrents_alone_are_enough(both: Both) -> None:
    swarm, shares = both.rig.swarm(), both.shares()
    run = both.start(shares)
    swarm.bring(swarm.all)
    run.join()
    assert both.results == [False]
    assert both.rig.whole()
    wait_for(shares.ended)
    assert isinstance(shares.raised, Cancelled)


def test_shares_that_come_too_late_write_nothing(both: Both) -> None:
    swarm, shares = both.rig.swarm(), both.shares()
    swarm.bring(swarm.all)
    both.start(shares).join()
    inode, shares.found = both.rig.path.stat(), threading.Event()
    late = both.shares()
    late.found.set()
    with pytest.raises(Cancelled):
        in_thread(late)
    assert not late.has_taken_over.is_set()
    assert both.rig.path.stat() == inode


def test_shares_alone_are_enough(both: Both) -> None:
    both.rig.gathering.expect(1)
    shares = both.shares()
    shares.found.set()
    both.start(shares).join()
    assert (both.results, both.is_right) == ([True], True)


def test_shares_are_enough_where_torrents_have_failed(both: Both) -> None:
    both.rig.gathering.expect(1)
    both.rig.gathering.cannot("no such torrent")
    shares = both.shares()
    run = both.start(shares)
    assert not run.is_over
    shares.found.set()
    run.join()
    assert (both.results, both.is_right) == ([True], True)


def test_torrents_are_enough_where_no_shares_are(both: Both) -> None:
    swarm, shares = both.rig.swarm(), both.shares(end=-1, error=NotEnough("none are stored"))
    shares.found.set()
    run = both.start(shares)
    wait_for(shares.ended)
    swarm.bring(swarm.all)
    run.join()
    assert (both.results, both.rig.whole()) == ([False], True)


# One goes on where the other has left off.


@pytest.mark.parametrize("begun", [0, 1, 4])
def test_shares_go_on_where_torrents_are(both: Both, begun: int) -> None:
    swarm, shares = both.rig.swarm("v2"), both.shares()
    run = both.start(shares)
    span = both.rig.gathering.parts[0].span
    swarm.bring(span[:begun])
    both.rig.written(begun * BLOCK)
    shares.found.set()
    run.join()
    assert (both.results, both.is_right) == ([True], True)
    assert sorted(swarm.given) == list(span[begun:])


def test_torrents_bring_the_end_meanwhile(both: Both) -> None:
    steps = threading.Semaphore(0)
    swarm, shares = both.rig.swarm("v2"), both.shares(steps=steps)
    span = both.rig.gathering.parts[0].span
    shares.found.set()
    run = both.start(shares)
    wait_for(shares.has_taken_over)
    steps.release(2)
    until(lambda: both.rig.path.exists() and both.rig.path.stat().st_size == 2 * BLOCK)
    swarm.bring(span[3:])
    steps.release(100)
    run.join()
    assert (both.results, both.is_right) == ([True], True)
    assert sorted(swarm.given) == [span[0], span[1], span[2]]


@pytest.mark.parametrize("end", [-1, 0, 2 * BLOCK, SIZE - 1])
def test_torrents_go_on_where_shares_have_failed(both: Both, end: int) -> None:
    swarm = both.rig.swarm("v2")
    span = both.rig.gathering.parts[0].span
    shares = both.shares(end=end, error=NotEnough("two of three stores are away"))
    run = both.start(shares)
    swarm.bring(span[:1])
    both.rig.written(BLOCK)
    shares.found.set()
    wait_for(shares.ended)
    swarm.bring(span)
    run.join()
    assert (both.results, both.is_right) == ([False], True)


# Both fail.


def test_both_errors_are_told_when_torrents_fail_first(both: Both) -> None:
    swarm, shares = both.rig.swarm(), both.shares(end=-1, error=NotEnough("none are stored"))
    run = both.start(shares)
    both.rig.wait_for(wanted(swarm))
    both.out_of_time()
    assert not run.is_over
    shares.found.set()
    with pytest.raises(NotEnough) as told:
        run.join()
    assert str(told.value) == (
        "from torrents: nothing came from peers for 30 seconds; torrent T: no peers were found; from shares: none "
        "are stored"
    )


def test_both_errors_are_told_when_shares_fail_first(both: Both) -> None:
    swarm, shares = both.rig.swarm(), both.shares(end=BLOCK, error=NotEnough("a store went away"))
    run = both.start(shares)
    both.rig.wait_for(wanted(swarm))
    shares.found.set()
    wait_for(shares.ended)
    both.until_given_up(run)
    with pytest.raises(NotEnough, match=r"from torrents: nothing came .*; from shares: a store went away$"):
        run.join()
    left = both.rig.path.read_bytes()
    assert left == CONTENT[: len(left)]


def test_another_error_of_shares_is_not_hidden(both: Both) -> None:
    both.rig.gathering.expect(1)
    shares = both.shares(error=RuntimeError("a mistake"))
    shares.found.set()
    with pytest.raises(RuntimeError, match="a mistake"):
        both.start(shares).join()


def test_another_error_of_torrents_is_not_hidden(both: Both) -> None:
    swarm, shares = both.rig.swarm(), both.shares()
    swarm.bring(swarm.all)

    def fails() -> None:
        shares.found.set()
        until(lambda: both.rig.gathering._stop)  # they want to take over, and wait for us
        raise OSError(28, "No space left on device")

    both.rig.on_progress = fails
    with pytest.raises(OSError, match="No space left"):
        both.start(shares).join()
    wait_for(shares.ended)
    assert not shares.has_taken_over.is_set()  # nobody waits for it any more
    assert both.stop.is_set()


# Called off.


def test_it_is_called_off_while_torrents_write(both: Both) -> None:
    swarm, shares = both.rig.swarm(), both.shares()
    run = both.start(shares)
    both.rig.wait_for(wanted(swarm))
    both.job.set()
    with pytest.raises(Cancelled):
        run.join()
    wait_for(shares.ended)
    assert not shares.has_taken_over.is_set()


def test_it_is_called_off_while_shares_write(both: Both) -> None:
    """When it returns, nothing is written any more."""
    steps = threading.Semaphore(1)
    both.rig.swarm()
    shares = both.shares(steps=steps)
    shares.lag = 0.3
    shares.found.set()
    run = both.start(shares)
    wait_for(shares.has_taken_over)
    both.job.set()
    with pytest.raises(Cancelled):
        run.join()
    assert shares.ended.is_set()


def test_shares_that_hang_do_not_hold_it_up(both: Both) -> None:
    both.rig.swarm()
    release = threading.Event()

    def hang() -> None:
        both.rig.gathering.take_over()
        release.wait(60)

    run = Run(lambda: fetch_from_both(both.rig.gathering, hang, both.stop))
    until(lambda: both.rig.gathering._stop)
    both.job.set()
    with pytest.raises(Cancelled):
        run.join()
    release.set()


# However it goes.


@settings(max_examples=60)
@given(st.integers(), st.sampled_from([-1, 0, BLOCK, 3 * BLOCK + 5, SIZE]), st.booleans())
def test_whatever_happens_when(
    tmp_path_factory: pytest.TempPathFactory, seed: int, end: int, torrents_end: bool
) -> None:
    """The file is the content, or a beginning of it with an error that names both; it only ever grows."""
    both, chance = Both(tmp_path_factory.mktemp("both")), random.Random(seed)
    swarm = both.rig.swarm("v2")
    steps = threading.Semaphore(0)
    fails = end < SIZE
    shares = both.shares(end=end, error=NotEnough("no shares") if fails else None, steps=steps)
    pieces = list(both.rig.gathering.parts[0].span)
    chance.shuffle(pieces)
    if not torrents_end:
        pieces = pieces[: len(pieces) // 2]
    run = both.start(shares)
    moves: list[Callable[[], object]] = [shares.found.set, *[lambda: steps.release()] * 8]
    moves += [lambda piece=piece: swarm.bring([piece]) for piece in pieces]  # type: ignore[misc]
    chance.shuffle(moves)
    for move in moves:
        move()
    steps.release(100)
    if fails and not torrents_end:
        both.until_given_up(run)
    told = ""
    try:
        run.join()
    except NotEnough as error:
        told = str(error)
    if told:
        assert fails
        assert not torrents_end
        assert re.fullmatch("from torrents: .*; from shares: no shares", told)
        left = both.rig.path.read_bytes()
        assert left == CONTENT[: len(left)]
    else:
        assert both.is_right
    size = both.rig.path.stat().st_size
    wait_for(shares.ended)
    assert both.rig.path.stat().st_size == size


@pytest.mark.parametrize(
    ("key", "may_be"),
    [
        ("SHA256-s3--ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", True),
        ("SHA256E-s3--ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad.tar.gz", True),
        ("SHA256E--ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad.txt", True),
        ("SHA256E-s3--0a7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad.txt", False),
        ("SHA1-s3--a9993e364706816aba3e25717850c26c9cd0d89d", True),
        ("SHA1E-s3--09993e364706816aba3e25717850c26c9cd0d89d.txt", False),
        ("MD5-s3--900150983cd24fb0d6963f7d28e17f72", True),
        ("MD5-s3--000150983cd24fb0d6963f7d28e17f72", False),
        ("WORM-s3-m1700000000--0a7816bf8f01", True),
        ("VURL-s3--magnet:?xt=urn:btih:SHA1", True),
        ("BLAKE2B512E-s3--00", False),
        ("SKEIN256E-s3--00", True),
    ],
)
def test_a_key_that_is_a_hash_tells_what_it_is_not(tmp_path: Path, key: str, may_be: bool) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert may_be_of(key, str(tmp_path / "file")) is may_be
