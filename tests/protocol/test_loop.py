from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import annex_remote.errors
from annex_remote.errors import Cancelled, NotFound, Unavailable
from annex_remote.protocol.jobs import Channel
from annex_remote.protocol.lines import UrlFile
from annex_remote.protocol.loop import Handler, Job, Loop, UrlContents
from annex_remote.protocol.messages import Availability, CheckPresentSuccess
from annex_remote.protocol.session import LocalProtocolError

END = 2.0
"""The end takes a second at most; twice that on a machine that is busy with other tests."""
WAIT = 10.0
"""Longer than anything takes; a wait that runs out is a failure."""


class Annex:
    """git-annex's side: says lines, and hears them one by one."""

    def __init__(self, say: int, hear: int) -> None:
        self._say = say
        self._hear = os.fdopen(hear, "rb")

    def say(self, *lines: str) -> None:
        os.write(self._say, "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))

    def hear(self) -> str:
        return self._hear.readline().decode("utf-8", "surrogateescape").removesuffix("\n")

    def expect(self, *lines: str) -> None:
        assert [self.hear() for _ in lines] == list(lines)

    def hear_reply(self) -> str:
        while (line := self.hear()).removeprefix("J 1 ").startswith("DEBUG"):
            pass
        return line

    def begin(self, extensions: str = "INFO ASYNC GETGITREMOTENAME UNAVAILABLERESPONSE") -> None:
        self.expect("VERSION 2")
        self.say(f"EXTENSIONS {extensions}")
        assert set(self.hear().split()) == {"EXTENSIONS", *extensions.split()}

    def hang_up(self) -> None:
        if self._say >= 0:
            os.close(self._say)
            self._say = -1

    def stop_listening(self) -> None:
        self._hear.close()


class Serving(Annex):
    """A loop on a thread, over real pipes."""

    def __init__(self, handler: Handler) -> None:
        requests, say = os.pipe()
        hear, replies = os.pipe()
        super().__init__(say, hear)
        self._descriptors = (requests, replies)
        self.loop = Loop(handler, requests, replies)
        self.status: int | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.status = self.loop.run()

    def end(self) -> int:
        """Hang up; return the status once the loop has ended."""
        self.hang_up()
        return self.join()

    def join(self) -> int:
        self._thread.join(WAIT)
        assert self.status is not None, "the loop has not ended"
        return self.status

    def close(self) -> None:
        self.hang_up()
        self._thread.join(WAIT)
        self.stop_listening()
        for descriptor in self._descriptors:
            os.close(descriptor)


class Scripted:
    """A handler whose methods are what a test assigns; the rest says that all is well."""

    def __init__(self, **methods: Callable[..., Any]) -> None:
        self._methods = methods

    def _call(self, name: str, default: Any, *args: Any) -> Any:
        return self._methods[name](*args) if name in self._methods else default

    def list_configs(self) -> list[tuple[str, str]]:
        return self._call("list_configs", [("a", "first"), ("b", "second one")])  # type: ignore[no-any-return]

    def initremote(self, job: Job) -> None:
        self._call("initremote", None, job)

    def prepare(self, job: Job) -> None:
        self._call("prepare", None, job)

    def store(self, job: Job, key: str, path: str) -> None:
        self._call("store", None, job, key, path)

    def retrieve(self, job: Job, key: str, path: str) -> None:
        self._call("retrieve", None, job, key, path)

    def check_present(self, job: Job, key: str) -> bool:
        return self._call("check_present", True, job, key)  # type: ignore[no-any-return]

    def remove(self, job: Job, key: str) -> None:
        self._call("remove", None, job, key)

    def cost(self, job: Job) -> int | None:
        return self._call("cost", 100, job)  # type: ignore[no-any-return]

    def ordered(self, job: Job) -> bool:
        return self._call("ordered", True, job)  # type: ignore[no-any-return]

    def availability(self, job: Job) -> Availability:
        return self._call("availability", Availability.UNAVAILABLE, job)  # type: ignore[no-any-return]

    def claim_url(self, job: Job, url: str) -> bool:
        return self._call("claim_url", True, job, url)  # type: ignore[no-any-return]

    def check_url(self, job: Job, url: str) -> UrlContents | list[UrlFile]:
        return self._call("check_url", UrlContents(5, "a file"), job, url)  # type: ignore[no-any-return]

    def whereis(self, job: Job, key: str) -> str | None:
        return self._call("whereis", "here and there", job, key)  # type: ignore[no-any-return]

    def get_info(self, job: Job) -> list[tuple[str, str]]:
        return self._call("get_info", [("name", "value")], job)  # type: ignore[no-any-return]


Serve = Callable[..., Serving]


@pytest.fixture
def serving() -> Iterator[Serve]:
    """Start a loop whose handler has the given methods."""
    started: list[Serving] = []

    def start(**methods: Callable[..., Any]) -> Serving:
        started.append(Serving(Scripted(**methods)))
        return started[-1]

    yield start
    for one in started:
        one.close()


def failing(error: BaseException) -> Callable[..., Any]:
    def fail(*_args: object) -> None:
        raise error

    return fail


def returning(value: object) -> Callable[..., Any]:
    return lambda *_: value


def nothing_left(annex: Serving) -> None:
    """Every request so far has had its replies and no more: the next one's are the next lines."""
    annex.say("J 1 GETORDERED")
    assert annex.hear_reply() == "J 1 ORDERED"


# Every request, when all is well.


@pytest.mark.parametrize(
    ("request_", "replies"),
    [
        ("LISTCONFIGS", ["CONFIG a first", "CONFIG b second one", "CONFIGEND"]),
        ("INITREMOTE", ["INITREMOTE-SUCCESS"]),
        ("PREPARE", ["PREPARE-SUCCESS"]),
        ("TRANSFER STORE k a file", ["TRANSFER-SUCCESS STORE k"]),
        ("TRANSFER RETRIEVE k f\udcff", ["TRANSFER-SUCCESS RETRIEVE k"]),
        ("CHECKPRESENT k", ["CHECKPRESENT-SUCCESS k"]),
        ("REMOVE k", ["REMOVE-SUCCESS k"]),
        ("GETCOST", ["COST 100"]),
        ("GETORDERED", ["ORDERED"]),
        ("GETAVAILABILITY", ["AVAILABILITY UNAVAILABLE"]),
        ("CLAIMURL toy:x", ["CLAIMURL-SUCCESS"]),
        ("CHECKURL toy:x", ["CHECKURL-CONTENTS 5 a file"]),
        ("WHEREIS k", ["WHEREIS-SUCCESS here and there"]),
        ("GETINFO", ["INFOFIELD name", "INFOVALUE value", "INFOEND"]),
        ("EXPORTSUPPORTED", ["EXPORTSUPPORTED-FAILURE"]),
        ("IMPORTSUPPORTED", ["IMPORTSUPPORTED-FAILURE"]),
        ("SOMETHINGNEW x", ["UNSUPPORTED-REQUEST"]),
    ],
)
@pytest.mark.parametrize("concurrent", [True, False])
def test_success(serving: Serve, request_: str, replies: list[str], concurrent: bool) -> None:
    annex = serving()
    annex.begin("ASYNC UNAVAILABLERESPONSE" if concurrent else "UNAVAILABLERESPONSE")
    prefix = "J 7 " if concurrent else ""
    annex.say(prefix + request_)
    annex.expect(*(prefix + reply for reply in replies))
    assert annex.end() == 0


@pytest.mark.parametrize(
    ("method", "value", "request_", "reply"),
    [
        ("check_present", False, "CHECKPRESENT k", "CHECKPRESENT-FAILURE k"),
        ("cost", None, "GETCOST", "UNSUPPORTED-REQUEST"),
        ("ordered", False, "GETORDERED", "UNORDERED"),
        ("availability", Availability.GLOBAL, "GETAVAILABILITY", "AVAILABILITY GLOBAL"),
        ("claim_url", False, "CLAIMURL x", "CLAIMURL-FAILURE"),
        ("check_url", [UrlFile("toy:1", None, "a")], "CHECKURL x", "CHECKURL-MULTI toy:1 UNKNOWN a"),
        ("whereis", None, "WHEREIS k", "WHEREIS-FAILURE"),
        ("whereis", "", "WHEREIS k", "WHEREIS-FAILURE"),
        ("get_info", [], "GETINFO", "INFOEND"),
        ("list_configs", [], "LISTCONFIGS", "CONFIGEND"),
        # Values that a handler must not return: answered all the same, and nothing is claimed.
        ("check_present", None, "CHECKPRESENT k", "CHECKPRESENT-UNKNOWN k internal error: KeyError: None"),
        ("list_configs", [("two words", "x")], "LISTCONFIGS", "UNSUPPORTED-REQUEST"),
        ("cost", -1, "GETCOST", "UNSUPPORTED-REQUEST"),
    ],
)
def test_other_results(serving: Serve, method: str, value: object, request_: str, reply: str) -> None:
    annex = serving(**{method: returning(value)})
    annex.begin()
    annex.say(f"J 1 {request_}")
    assert annex.hear_reply() == f"J 1 {reply}"


MAY_FAIL = [
    ("initremote", "INITREMOTE", "INITREMOTE-FAILURE {}"),
    ("prepare", "PREPARE", "PREPARE-FAILURE {}"),
    ("store", "TRANSFER STORE k f", "TRANSFER-FAILURE STORE k {}"),
    ("retrieve", "TRANSFER RETRIEVE k f", "TRANSFER-FAILURE RETRIEVE k {}"),
    ("check_present", "CHECKPRESENT k", "CHECKPRESENT-UNKNOWN k {}"),
    ("remove", "REMOVE k", "REMOVE-FAILURE k {}"),
    ("list_configs", "LISTCONFIGS", "UNSUPPORTED-REQUEST"),
    ("cost", "GETCOST", "UNSUPPORTED-REQUEST"),
    ("availability", "GETAVAILABILITY", "UNSUPPORTED-REQUEST"),
    ("claim_url", "CLAIMURL x", "CLAIMURL-FAILURE"),
    ("check_url", "CHECKURL x", "CHECKURL-FAILURE {}"),
    ("whereis", "WHEREIS k", "WHEREIS-FAILURE"),
    ("get_info", "GETINFO", "UNSUPPORTED-REQUEST"),
]


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(("method", "request_", "reply"), MAY_FAIL)
@pytest.mark.parametrize(
    ("error", "text"),
    [
        (NotFound("k is not here"), "k is not here"),
        (Unavailable("two\nlines"), "two lines"),
        (Unavailable("x\nJ 2 PREPARE-SUCCESS\r"), "x J 2 PREPARE-SUCCESS "),
        (Unavailable(), "internal error: Unavailable: "),
        (ZeroDivisionError("by zero"), "internal error: ZeroDivisionError: by zero"),
        (SystemExit(3), "internal error: SystemExit: 3"),
        (Unprintable(), "internal error: Unprintable: (its text cannot be shown)"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_failure(serving: Serve, method: str, request_: str, reply: str, error: BaseException, text: str) -> None:
    annex = serving(**{method: failing(error)})
    annex.begin()
    annex.say(f"J 1 {request_}")
    assert annex.hear_reply() == f"J 1 {reply.format(text)}"
    nothing_left(annex)
    assert annex.end() == 0


def test_traceback_goes_to_debug_lines(serving: Serve) -> None:
    annex = serving(remove=failing(ValueError("a\nb")))
    annex.begin()
    annex.say("J 4 REMOVE k")
    heard = [annex.hear()]
    while heard[-1].startswith("J 4 DEBUG"):
        heard.append(annex.hear())
    assert heard[0] == "J 4 DEBUG REMOVE: internal error: ValueError: a b"
    assert "J 4 DEBUG Traceback (most recent call last):" in heard
    assert heard[-3:-1] == ["J 4 DEBUG ValueError: a", "J 4 DEBUG b"]
    assert heard[-1] == "J 4 REMOVE-FAILURE k internal error: ValueError: a b"


# Questions, statements.


def test_questions(serving: Serve) -> None:
    results: list[object] = []

    def ask(job: Job) -> None:
        results.extend(
            [
                job.get_config("x"),
                job.get_creds("s"),
                job.get_uuid(),
                job.get_git_dir(),
                job.get_git_remote_name(),
                job.get_wanted(),
                job.get_state("k"),
                job.get_urls("k", "toy:"),
                job.dirhash("k"),
                job.dirhash_lower("k"),
            ]
        )

    annex = serving(prepare=ask)
    annex.begin()
    annex.say("J 1 PREPARE")
    for question, *answers in [
        ("GETCONFIG x", "VALUE a b"),
        ("GETCREDS s", "CREDS me pass word"),
        ("GETUUID", "VALUE uuid"),
        ("GETGITDIR", "VALUE .git"),
        ("GETGITREMOTENAME", "VALUE origin"),
        ("GETWANTED", "VALUE standard"),
        ("GETSTATE k", "VALUE "),
        ("GETURLS k toy:", "VALUE toy:1", "VALUE toy:2", "VALUE "),
        ("DIRHASH k", "VALUE aB/Cd/"),
        ("DIRHASH-LOWER k", "VALUE abc/def/"),
    ]:
        annex.expect(f"J 1 {question}")
        annex.say(*(f"J 1 {answer}" for answer in answers))
    annex.expect("J 1 PREPARE-SUCCESS")
    assert results == [
        "a b",
        ("me", "pass word"),
        "uuid",
        ".git",
        "origin",
        "standard",
        "",
        ["toy:1", "toy:2"],
        "aB/Cd/",
        "abc/def/",
    ]


def test_statements(serving: Serve) -> None:
    def tell(job: Job) -> None:
        job.set_config("x", "a b")
        job.set_creds("s", "me", "pass word")
        job.set_wanted("standard")
        job.set_state("k", "v w")
        job.set_url_present("k", "http://x")
        job.set_url_missing("k", "http://x")
        job.set_uri_present("k", "toy:x")
        job.set_uri_missing("k", "toy:x")
        job.info("two\nlines")
        job.debug("a\rb")

    annex = serving(prepare=tell)
    annex.begin()
    annex.say("J 1 PREPARE")
    annex.expect(
        "J 1 SETCONFIG x a b",
        "J 1 SETCREDS s me pass word",
        "J 1 SETWANTED standard",
        "J 1 SETSTATE k v w",
        "J 1 SETURLPRESENT k http://x",
        "J 1 SETURLMISSING k http://x",
        "J 1 SETURIPRESENT k toy:x",
        "J 1 SETURIMISSING k toy:x",
        "J 1 INFO two lines",
        "J 1 DEBUG a b",
        "J 1 PREPARE-SUCCESS",
    )


def test_without_extensions(serving: Serve) -> None:
    names: list[str | None] = []

    def prepare(job: Job) -> None:
        names.append(job.get_git_remote_name())
        job.info("hello")

    annex = serving(prepare=prepare)
    annex.expect("VERSION 2")
    annex.say("PREPARE")
    annex.expect("DEBUG hello", "PREPARE-SUCCESS")
    annex.say("GETAVAILABILITY")
    annex.expect("AVAILABILITY LOCAL")
    assert names == [None]


def test_progress_never_goes_back(serving: Serve) -> None:
    def store(job: Job, _key: str, _path: str) -> None:
        for done in (0, 5, 5, 3, 9):
            job.progress(done)

    annex = serving(store=store)
    annex.begin()
    for job in (1, 1):
        annex.say(f"J {job} TRANSFER STORE k f")
        annex.expect("J 1 PROGRESS 0", "J 1 PROGRESS 5", "J 1 PROGRESS 9", "J 1 TRANSFER-SUCCESS STORE k")


def test_a_line_break_in_a_setting_fails_the_request_and_sends_nothing_of_it(serving: Serve) -> None:
    annex = serving(prepare=lambda job: job.set_config("x", "1\nPREPARE-SUCCESS"))
    annex.begin()
    annex.say("J 1 PREPARE")
    assert annex.hear_reply().startswith("J 1 PREPARE-FAILURE internal error: LineError: a line break")


# Many at once.


def test_eight_jobs_run_at_once(serving: Serve) -> None:
    together = {n: threading.Barrier(n, timeout=WAIT) for n in (4, 8)}

    def check_present(_job: Job, key: str) -> bool:
        together[int(key)].wait()
        return True

    annex = serving(check_present=check_present)
    annex.begin()
    for many in together:  # the second time some threads are there already, but not enough
        annex.say(*(f"J {n} CHECKPRESENT {many}" for n in range(many)))
        heard = {annex.hear() for _ in range(many)}
        assert heard == {f"J {n} CHECKPRESENT-SUCCESS {many}" for n in range(many)}


def test_threads_are_used_again(serving: Serve) -> None:
    seen: set[int] = set()

    def check_present(_job: Job, _key: str) -> bool:
        seen.add(threading.get_ident())
        return True

    annex = serving(check_present=check_present)
    annex.begin()
    for _ in range(300):
        annex.say("J 1 CHECKPRESENT k")
        annex.expect("J 1 CHECKPRESENT-SUCCESS k")
    # A request may come before the thread of the last one is idle again, but not often.
    assert len(seen) < 30


def test_one_job_fails_alone(serving: Serve) -> None:
    failed = threading.Event()

    def check_present(_job: Job, key: str) -> bool:
        if key == "bad":
            raise ZeroDivisionError("oops")
        assert failed.wait(WAIT)
        return True

    annex = serving(check_present=check_present)
    annex.begin()
    annex.say("J 2 CHECKPRESENT good", "J 1 CHECKPRESENT bad")
    assert annex.hear_reply() == "J 1 CHECKPRESENT-UNKNOWN bad internal error: ZeroDivisionError: oops"
    failed.set()
    annex.expect("J 2 CHECKPRESENT-SUCCESS good")


def test_answers_reach_the_jobs_that_asked(serving: Serve) -> None:
    def check_present(job: Job, key: str) -> bool:
        return job.get_state(key) == f"state of {key}"

    annex = serving(check_present=check_present)
    annex.begin()
    annex.say(*(f"J {n} CHECKPRESENT key{n}" for n in range(1, 6)))
    assert {annex.hear() for _ in range(5)} == {f"J {n} GETSTATE key{n}" for n in range(1, 6)}
    for n in (4, 2, 5, 1, 3):
        annex.say(f"J {n} VALUE state of key{n}")
        annex.expect(f"J {n} CHECKPRESENT-SUCCESS key{n}")


def test_threads_of_one_job_ask_in_turn(serving: Serve) -> None:
    def check_present(job: Job, _key: str) -> bool:
        found: list[str] = []
        threads = [threading.Thread(target=lambda n=n: found.append(job.get_state(f"k{n}"))) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
        return sorted(found) == ["k0", "k1", "k2", "k3"]

    annex = serving(check_present=check_present)
    annex.begin()
    annex.say("J 1 CHECKPRESENT k")
    for _ in range(4):
        question = annex.hear()
        assert question.startswith("J 1 GETSTATE k")
        annex.say(f"J 1 VALUE {question.split()[-1]}")
    annex.expect("J 1 CHECKPRESENT-SUCCESS k")


def test_a_straggler_cannot_speak_for_the_next_request(serving: Serve) -> None:
    jobs: list[Job] = []
    release = threading.Event()

    def check_present(job: Job, key: str) -> bool:
        jobs.append(job)
        return key == "first" or release.wait(WAIT)

    annex = serving(check_present=check_present)
    annex.begin()
    annex.say("J 1 CHECKPRESENT first")
    annex.expect("J 1 CHECKPRESENT-SUCCESS first")
    annex.say("J 1 CHECKPRESENT second", "J 2 GETORDERED")
    annex.expect("J 2 ORDERED")  # so the second has been taken in
    stale = jobs[0]
    stale.progress(10)
    stale.info("late")
    stale.debug("late")
    for late in (stale.get_uuid, lambda: stale.set_state("k", "v")):
        with pytest.raises(LocalProtocolError):
            late()
    release.set()
    annex.expect("J 1 CHECKPRESENT-SUCCESS second")


def test_a_question_that_outlives_its_request(serving: Serve) -> None:
    outcome: list[type[BaseException]] = []
    threads: list[threading.Thread] = []
    asking = threading.Event()

    def check_present(job: Job, _key: str) -> bool:
        def ask() -> None:
            try:
                job.get_state("k")
            except Cancelled as error:
                outcome.append(type(error))

        threads.append(threading.Thread(target=ask))
        threads[0].start()
        assert asking.wait(WAIT)
        raise NotFound("no patience")

    annex = serving(check_present=check_present)
    annex.begin()
    annex.say("J 1 CHECKPRESENT k")
    annex.expect("J 1 GETSTATE k")
    asking.set()
    assert annex.hear_reply() == "J 1 CHECKPRESENT-UNKNOWN k no patience"
    threads[0].join(WAIT)
    annex.say("J 1 VALUE late")
    nothing_left(annex)
    assert outcome == [Cancelled]


# The end.


def ended_within_a_second(annex: Serving, since: float) -> int:
    status = annex.join()
    assert time.monotonic() - since < END
    return status


def test_end_of_input_ends_it_though_a_job_hangs(serving: Serve) -> None:
    hanging = threading.Event()
    release = threading.Event()

    def check_present(_job: Job, _key: str) -> bool:
        hanging.set()
        return release.wait(WAIT)

    annex = serving(check_present=check_present)
    annex.begin()
    annex.say("J 1 CHECKPRESENT k")
    assert hanging.wait(WAIT)
    since = time.monotonic()
    annex.hang_up()
    assert ended_within_a_second(annex, since) == 0
    release.set()
    annex.expect("J 1 CHECKPRESENT-SUCCESS k")  # also so that it does not write into the next test's pipe


def test_jobs_learn_of_the_end_and_are_waited_for(serving: Serve) -> None:
    tidied: list[str] = []

    def check_present(job: Job, _key: str) -> bool:
        if not job.cancelled.wait(WAIT):
            return False
        with pytest.raises(Cancelled):
            job.get_uuid()
        tidied.append("tidied")
        raise Cancelled("called off")

    def remove(job: Job, _key: str) -> None:
        try:
            job.get_uuid()
        finally:
            tidied.append("asked")

    annex = serving(check_present=check_present, remove=remove)
    annex.begin()
    annex.say("J 1 CHECKPRESENT k", "J 2 REMOVE k")
    annex.expect("J 2 GETUUID")
    assert annex.end() == 0
    assert sorted(tidied) == ["asked", "tidied"]
    # Exactly one reply each, also now; the rest of the pipe is empty.
    assert {annex.hear(), annex.hear()} == {
        "J 1 CHECKPRESENT-UNKNOWN k called off",
        "J 2 REMOVE-FAILURE k git-annex did not answer GETUUID: this is over",
    }


def test_what_is_answered_is_not_waited_for() -> None:
    read, write = os.pipe()
    channel = Channel(write, broken=lambda: None)
    channel.receive(b"CHECKPRESENT k\n")
    assert not channel.wait_answered(0)
    channel.answer(channel.job(0), [CheckPresentSuccess("k")])
    assert channel.wait_answered(0)
    assert os.read(read, 100) == b"CHECKPRESENT-SUCCESS k\n"
    os.close(read)
    os.close(write)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("ERROR no more", "git-annex reports an error: no more"),
        ("J 1 ERROR no more", "git-annex reports an error: no more"),
        ("PREPARE", "git-annex sent a line without a job number: 'PREPARE'"),
    ],
)
def test_an_error_ends_it(serving: Serve, line: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    annex = serving()
    annex.begin()
    annex.say(line)
    assert annex.join() == 1
    assert capsys.readouterr().err == f"{reason}\n"


def test_nobody_listens(serving: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    raised: list[BaseException] = []

    def check_present(job: Job, _key: str) -> bool:
        try:
            job.progress(1)
        except BaseException as error:
            raised.append(error)
            raise
        return True

    annex = serving(check_present=check_present)
    annex.begin()
    annex.stop_listening()
    annex.say("J 1 CHECKPRESENT k")
    assert annex.join() == 1
    assert [type(error) for error in raised] == [Cancelled]
    assert capsys.readouterr().err == ""


# Logging.


def test_log_records_become_debug_lines(serving: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("annex_remote.test")
    logger.setLevel(logging.DEBUG)
    # pytest's own handler, at the root, raises for the unreadable record.
    monkeypatch.setattr(logging.getLogger("annex_remote"), "propagate", False)

    def check_present(_job: Job, _key: str) -> bool:
        logger.info("one\ntwo %d", 3)
        logger.warning("not %d a number", "x")
        try:
            raise ValueError("inner")
        except ValueError:
            logger.exception("it failed")
        from_elsewhere = threading.Thread(target=logger.debug, args=("of no job",))
        from_elsewhere.start()
        from_elsewhere.join(WAIT)
        return True

    annex = serving(check_present=check_present)
    annex.begin()
    annex.say("J 5 CHECKPRESENT k")
    annex.expect(
        "J 5 DEBUG INFO annex_remote.test: one",
        "J 5 DEBUG two 3",
        "J 5 DEBUG WARNING annex_remote.test: unreadable record: TypeError",
        "J 5 DEBUG ERROR annex_remote.test: it failed",
        "J 5 DEBUG Traceback (most recent call last):",
    )
    heard = [annex.hear() for _ in range(4)]
    assert heard[2:] == ["J 5 DEBUG ValueError: inner", "J 5 DEBUG DEBUG annex_remote.test: of no job"]
    annex.expect("J 5 CHECKPRESENT-SUCCESS k")
    logger.warning("between requests there is nowhere to send it")
    annex.say("J 5 GETORDERED")
    annex.expect("J 5 ORDERED")
    assert annex.end() == 0
    assert logging.getLogger("annex_remote").handlers == []


def test_a_log_record_of_two_jobs_goes_by_the_right_one(serving: Serve) -> None:
    logger = logging.getLogger("annex_remote.test")
    logger.setLevel(logging.DEBUG)
    barrier = threading.Barrier(2, timeout=WAIT)

    def check_present(_job: Job, key: str) -> bool:
        barrier.wait()
        logger.info("about %s", key)
        barrier.wait()
        return True

    annex = serving(check_present=check_present)
    annex.begin()
    annex.say("J 1 CHECKPRESENT k1", "J 2 CHECKPRESENT k2")
    assert {annex.hear(), annex.hear()} == {f"J {n} DEBUG INFO annex_remote.test: about k{n}" for n in (1, 2)}


class LogsWhenWritten(str):
    """Text that logs while a message with it is made, as garbage collection might."""

    __slots__ = ()

    def translate(self, table: Any, /) -> str:
        logging.getLogger("annex_remote.test").warning("from within")
        return super().translate(table)


def test_a_log_record_from_within_a_message_is_dropped(serving: Serve) -> None:
    annex = serving(check_present=lambda job, _: job.debug(LogsWhenWritten("text")) is None)
    annex.begin()
    annex.say("J 1 CHECKPRESENT k")
    annex.expect("J 1 DEBUG text", "J 1 CHECKPRESENT-SUCCESS k")


# As a program.


class Program(Annex):
    """The awkward toy as a process."""

    def __init__(self) -> None:
        package = Path(annex_remote.errors.__file__).parent.parent
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("toy.py")), "awkward"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": str(package)},
        )
        assert self.process.stdin
        assert self.process.stdout
        super().__init__(os.dup(self.process.stdin.fileno()), os.dup(self.process.stdout.fileno()))
        self.process.stdin.close()
        self.process.stdout.close()

    def finish(self) -> tuple[int, str]:
        """Return status and stderr; the process must end by itself, within a second."""
        since = time.monotonic()
        assert self.process.stderr
        status = self.process.wait(WAIT)
        assert time.monotonic() - since < END
        return status, self.process.stderr.read().decode()


@pytest.fixture
def program() -> Iterator[Program]:
    program = Program()
    program.begin()
    yield program
    program.hang_up()
    program.stop_listening()
    program.process.kill()
    program.process.wait(WAIT)
    assert program.process.stderr
    program.process.stderr.close()


@pytest.mark.parametrize("key", ["hang", "tidy", None])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals(program: Program, key: str | None, number: signal.Signals, status: int) -> None:
    if key:
        program.say(f"J 1 CHECKPRESENT {key}")
        assert program.hear().startswith("J 1 INFO")
    program.process.send_signal(number)
    assert program.finish() == (status, "tidied up\n" if key == "tidy" else "")


@pytest.mark.parametrize("key", ["hang", "tidy", None])
def test_end_of_input(program: Program, key: str | None) -> None:
    if key:
        program.say(f"J 1 CHECKPRESENT {key}")
        assert program.hear().startswith("J 1 INFO")
    program.hang_up()
    assert program.finish() == (0, "tidied up\n" if key == "tidy" else "")


@pytest.mark.parametrize("request_", ["CHECKPRESENT k", "EXPORTSUPPORTED"])
def test_broken_stdout(program: Program, request_: str) -> None:
    program.say("J 1 CHECKPRESENT hang")
    program.expect("J 1 INFO hanging")
    program.stop_listening()
    program.say(f"J 2 {request_}")
    assert program.finish() == (1, "")


def test_only_the_protocol_is_on_stdout(program: Program) -> None:
    program.say("J 1 CHECKPRESENT stray", "J 2 CHECKPRESENT k")
    assert {program.hear(), program.hear()} == {
        "J 1 CHECKPRESENT-SUCCESS stray",
        "J 2 CHECKPRESENT-SUCCESS k",
    }
    program.hang_up()
    assert program.hear() == ""
    status, stderr = program.finish()
    assert status == 0
    assert stderr.splitlines() == ["a stray print", "a stray write", "a stray child"]
