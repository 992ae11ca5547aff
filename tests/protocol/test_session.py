from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annex_remote.protocol import messages as m
from annex_remote.protocol.lines import LineError
from annex_remote.protocol.session import (
    Asked,
    Ended,
    Event,
    LocalProtocolError,
    Replied,
    Send,
    Session,
)

ALL = "INFO GETGITREMOTENAME UNAVAILABLERESPONSE TRANSFER-RETRIEVE-URL CHECKPRESENT-URL IMPORTKEY DELEGATE ASYNC"
AGREED = "INFO ASYNC GETGITREMOTENAME UNAVAILABLERESPONSE"

Steps = list[tuple[str | Callable[[Session], bytes], object]]
"""Lines that git-annex says, each with its events; and calls of ours, each with its bytes."""


def asked(job: int, request: m.Request) -> list[Event]:
    return [Asked(job, request)]


def play(session: Session, steps: Steps) -> None:
    for action, expected in steps:
        if isinstance(action, str):
            assert session.receive(action.encode() + b"\n") == expected, action
        else:
            assert action(session) == expected


def started(*extensions: str) -> Session:
    session = Session()
    session.greeting()
    session.receive(f"EXTENSIONS {' '.join(extensions)}\n".encode())
    return session


TRANSCRIPTS: dict[str, Steps] = {
    "the documentation's example": [
        (Session.greeting, b"VERSION 2\n"),
        ("EXTENSIONS INFO GETGITREMOTENAME", [Send(b"EXTENSIONS INFO GETGITREMOTENAME\n")]),
        ("PREPARE", asked(0, m.Prepare())),
        (lambda s: s.ask(0, m.GetConfig("directory")), b"GETCONFIG directory\n"),
        ("VALUE /media/usb drive/repo", [Replied(0, ("/media/usb drive/repo",))]),
        (lambda s: s.ask(0, m.GetConfig("automount")), b"GETCONFIG automount\n"),
        ("VALUE ", [Replied(0, ("",))]),
        (lambda s: s.answer(0, [m.PrepareSuccess()]), b"PREPARE-SUCCESS\n"),
        ("TRANSFER STORE somekey tmp file", asked(0, m.Transfer(m.Direction.STORE, "somekey", "tmp file"))),
        (lambda s: s.tell(0, m.Progress(10240)), b"PROGRESS 10240\n"),
        (
            lambda s: s.answer(0, [m.TransferSuccess(m.Direction.STORE, "somekey")]),
            b"TRANSFER-SUCCESS STORE somekey\n",
        ),
    ],
    "a git-annex that knows no extensions": [
        (Session.greeting, b"VERSION 2\n"),
        ("GETAVAILABILITY", asked(0, m.GetAvailability())),
        (lambda s: s.tell(0, m.Info("hello")), b"DEBUG hello\n"),
        (
            lambda s: s.answer(0, [m.AvailabilityIs(m.Availability.UNAVAILABLE)]),
            b"AVAILABILITY LOCAL\n",
        ),
        ("J 1 PREPARE", [Send(b"UNSUPPORTED-REQUEST\n")]),
    ],
    "requests that nobody needs to be asked about": [
        (f"EXTENSIONS {ALL}", [Send(f"EXTENSIONS {AGREED}\n".encode())]),
        ("J 2 EXPORTSUPPORTED", [Send(b"J 2 EXPORTSUPPORTED-FAILURE\n")]),
        ("J 2 IMPORTSUPPORTED", [Send(b"J 2 IMPORTSUPPORTED-FAILURE\n")]),
        ("J 1 FROBNICATE all", [Send(b"J 1 UNSUPPORTED-REQUEST\n")]),
        ("J 1 TRANSFER STORE", [Send(b"J 1 UNSUPPORTED-REQUEST\n")]),
        ("J 1 ", [Send(b"J 1 UNSUPPORTED-REQUEST\n")]),
        ("J 1 CHECKPRESENT two words", [Send(b"J 1 UNSUPPORTED-REQUEST\n")]),
    ],
    "jobs that interleave, and a number used again": [
        (f"EXTENSIONS {ALL}", [Send(f"EXTENSIONS {AGREED}\n".encode())]),
        ("J 1 PREPARE", asked(1, m.Prepare())),
        (lambda s: s.answer(1, [m.PrepareSuccess()]), b"J 1 PREPARE-SUCCESS\n"),
        ("J 1 CHECKPRESENT a", asked(1, m.CheckPresent("a"))),
        ("J 2 REMOVE b", asked(2, m.Remove("b"))),
        (lambda s: s.ask(1, m.GetState("a")), b"J 1 GETSTATE a\n"),
        (lambda s: s.ask(2, m.GetCreds("s3")), b"J 2 GETCREDS s3\n"),
        ("J 3 GETCOST", asked(3, m.GetCost())),
        ("J 2 CREDS me pass word", [Replied(2, ("me", "pass word"))]),
        (lambda s: s.answer(2, [m.RemoveSuccess("b")]), b"J 2 REMOVE-SUCCESS b\n"),
        ("J 2 CHECKPRESENT c", asked(2, m.CheckPresent("c"))),
        ("J 1 VALUE x", [Replied(1, ("x",))]),
        (lambda s: s.answer(3, [m.UnsupportedRequest()]), b"J 3 UNSUPPORTED-REQUEST\n"),
        (lambda s: s.answer(2, [m.CheckPresentFailure("c")]), b"J 2 CHECKPRESENT-FAILURE c\n"),
        (lambda s: s.answer(1, [m.CheckPresentSuccess("a")]), b"J 1 CHECKPRESENT-SUCCESS a\n"),
    ],
    "lists, both ways": [
        ("LISTCONFIGS", asked(0, m.ListConfigs())),
        (
            lambda s: s.answer(0, [m.Config("a", "first one"), m.ConfigEnd()]),
            b"CONFIG a first one\nCONFIGEND\n",
        ),
        ("TRANSFER RETRIEVE k f", asked(0, m.Transfer(m.Direction.RETRIEVE, "k", "f"))),
        (lambda s: s.ask(0, m.GetUrls("k", "")), b"GETURLS k \n"),
        ("VALUE toy:1", []),
        ("VALUE toy:2", []),
        ("VALUE ", [Replied(0, ("toy:1", "toy:2"))]),
        (lambda s: s.ask(0, m.GetUrls("k", "x")), b"GETURLS k x\n"),
        ("VALUE", [Replied(0, ())]),
    ],
    "git-annex gives up, and nothing after it counts": [
        ("PREPARE", asked(0, m.Prepare())),
        ("ERROR no more", [Ended("git-annex reports an error: no more")]),
        ("CHECKPRESENT a", []),
    ],
    "an answer that comes after its job has answered": [
        ("CHECKPRESENT a", asked(0, m.CheckPresent("a"))),
        (lambda s: s.ask(0, m.GetUrls("a", "")), b"GETURLS a \n"),
        (lambda s: s.answer(0, [m.CheckPresentUnknown("a", "why")]), b"CHECKPRESENT-UNKNOWN a why\n"),
        ("VALUE toy:1", []),
        ("VALUE ", []),
        ("CHECKPRESENT a", asked(0, m.CheckPresent("a"))),
    ],
}


@pytest.mark.parametrize("steps", TRANSCRIPTS.values(), ids=TRANSCRIPTS)
def test_transcript(steps: Steps) -> None:
    play(Session(), steps)


@pytest.mark.parametrize("steps", TRANSCRIPTS.values(), ids=TRANSCRIPTS)
def test_transcript_byte_by_byte(steps: Steps) -> None:
    session = Session()
    for action, expected in steps:
        if isinstance(action, str):
            line = action.encode() + b"\n"
            assert [e for i in range(len(line)) for e in session.receive(line[i : i + 1])] == expected
        else:
            assert action(session) == expected


def test_several_lines_and_a_part_of_one_at_once() -> None:
    session = started("ASYNC")
    assert session.receive(b"J 1 CHECKPRESENT a\nJ 2 CHECKPRESENT b\nJ 3 CHECKPR") == [
        Asked(1, m.CheckPresent("a")),
        Asked(2, m.CheckPresent("b")),
    ]
    assert session.receive(b"ESENT c\n") == asked(3, m.CheckPresent("c"))


@pytest.mark.parametrize(
    ("listed", "used"),
    [
        ("", ""),
        ("INFO", "INFO"),
        ("DELEGATE ASYNC", "ASYNC"),
        (ALL, AGREED),
    ],
)
def test_only_extensions_that_both_know_are_used(listed: str, used: str) -> None:
    session = Session()
    assert session.receive(f"EXTENSIONS {listed}\n".encode()) == [Send(f"EXTENSIONS {used}\n".encode())]
    assert session.extensions == set(used.split())


def test_extensions_that_are_agreed_on_are_spoken() -> None:
    session = started("INFO", "GETGITREMOTENAME", "UNAVAILABLERESPONSE")
    session.receive(b"GETAVAILABILITY\n")
    assert session.tell(0, m.Info("x")) == b"INFO x\n"
    assert session.ask(0, m.GetGitRemoteName()) == b"GETGITREMOTENAME\n"
    session.receive(b"VALUE origin\n")
    unavailable = m.AvailabilityIs(m.Availability.UNAVAILABLE)
    assert session.answer(0, [unavailable]) == b"AVAILABILITY UNAVAILABLE\n"


def test_an_extension_that_is_not_agreed_on_is_never_spoken() -> None:
    session = started("INFO")
    session.receive(b"PREPARE\n")
    with pytest.raises(LocalProtocolError):
        session.ask(0, m.GetGitRemoteName())


@pytest.mark.parametrize(
    "lines",
    [
        [b"CHECKPRESENT a", b"CHECKPRESENT b"],
        [b"CHECKPRESENT a", b"NONSENSE"],
        [b"CHECKPRESENT a", b"VALUE x"],
        [b"EXTENSIONS ASYNC", b"PREPARE"],
        [b"EXTENSIONS ASYNC", b""],
        [b"EXTENSIONS ASYNC", b"J"],
        [b"EXTENSIONS ASYNC", b"J x PREPARE"],
        [b"EXTENSIONS ASYNC", b"J -1 PREPARE"],
        [b"EXTENSIONS ASYNC", "J ² PREPARE".encode()],
        [b"EXTENSIONS ASYNC", b"J " + b"9" * 5000 + b" PREPARE"],
        [b"EXTENSIONS ASYNC", b"J 1 ERROR x"],
        [b"EXTENSIONS ASYNC", b"ERROR x"],
    ],
)
def test_what_cannot_be_answered_ends_it(lines: list[bytes]) -> None:
    session = Session()
    *_, last = session.receive(b"\n".join([*lines, b"CHECKPRESENT later", b""]))
    assert isinstance(last, Ended)


def test_creds_answered_with_a_value_ends_it() -> None:
    session = Session()
    session.receive(b"PREPARE\n")
    session.ask(0, m.GetCreds("x"))
    assert isinstance(session.receive(b"VALUE x\n")[0], Ended)


def test_one_answer_only() -> None:
    session = Session()
    session.receive(b"CHECKPRESENT a\n")
    session.answer(0, [m.CheckPresentSuccess("a")])
    with pytest.raises(LocalProtocolError):
        session.answer(0, [m.CheckPresentFailure("a")])
    with pytest.raises(LocalProtocolError):
        session.tell(0, m.Progress(1))
    with pytest.raises(LocalProtocolError):
        session.ask(0, m.GetUuid())


def test_one_question_at_a_time() -> None:
    session = Session()
    session.receive(b"PREPARE\n")
    session.ask(0, m.GetUuid())
    with pytest.raises(LocalProtocolError):
        session.ask(0, m.GetUuid())


def test_an_answer_of_nothing_is_refused() -> None:
    session = Session()
    session.receive(b"LISTCONFIGS\n")
    with pytest.raises(LocalProtocolError):
        session.answer(0, [])
    assert session.answer(0, [m.ConfigEnd()]) == b"CONFIGEND\n"


def test_what_cannot_be_written_changes_nothing() -> None:
    session = Session()
    session.receive(b"CHECKURL toy:x\n")
    with pytest.raises(LineError):
        session.ask(0, m.GetConfig("a\nb"))
    with pytest.raises(LineError):
        session.answer(0, [m.CheckUrlContents(1, "a\nb")])
    assert session.ask(0, m.GetConfig("a")) == b"GETCONFIG a\n"
    assert session.receive(b"VALUE 1\n") == [Replied(0, ("1",))]
    assert session.answer(0, [m.CheckUrlFailure("a\nb")]) == b"CHECKURL-FAILURE a b\n"


def test_undecodable_bytes_come_back_as_they_were() -> None:
    session = Session()
    (event,) = session.receive(b"CHECKPRESENT k\xff\xc3\n")
    assert isinstance(event, Asked)
    assert isinstance(event.request, m.CheckPresent)
    assert session.answer(0, [m.CheckPresentSuccess(event.request.key)]) == b"CHECKPRESENT-SUCCESS k\xff\xc3\n"


WORDS = [word.encode() for word in (*m.FROM_ANNEX, *m.FROM_REMOTE, "J", "1", "2", "ASYNC", "key", "STORE", "")]
PIECES = st.sampled_from([*WORDS, b"\n", b"\n", b"\r", b"\xff", b"\0"]) | st.binary(max_size=3)
CONVERSATIONS = st.lists(PIECES).map(b" ".join) | st.lists(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(b" ".join)
).map(b"\n".join)


@given(st.booleans(), CONVERSATIONS, st.data())
def test_whatever_comes_every_request_can_be_answered_once(
    concurrent: bool, said: bytes, data: st.DataObject
) -> None:
    session = started("ASYNC" if concurrent else "INFO")
    for line in said.split(b"\n"):
        for event in session.receive(line + b"\n"):
            match event:
                case Asked(job, request):
                    assert isinstance(request, m.Request)
                    if data.draw(st.booleans()):
                        reply = session.answer(job, [m.UnsupportedRequest()])
                        assert reply.endswith(b"UNSUPPORTED-REQUEST\n")
                case Send(line):
                    assert line.count(b"\n") == 1
                    assert line.endswith(b"\n")
                case Ended(reason):
                    assert reason
                    assert session.receive(said) == []
                    return
                case _:
                    pytest.fail(f"nobody asked: {event}")


@given(CONVERSATIONS, st.lists(st.integers(0, 60)))
def test_where_the_bytes_are_cut_makes_no_difference(said: bytes, cuts: list[int]) -> None:
    whole, parts = started("ASYNC"), started("ASYNC")
    edges = sorted({0, len(said), *(min(cut, len(said)) for cut in cuts)})
    events = [event for a, b in pairwise(edges) for event in parts.receive(said[a:b])]
    assert events == whole.receive(said)
