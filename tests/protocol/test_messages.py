from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annex_remote.protocol import lines
from annex_remote.protocol import messages as m
from annex_remote.protocol.lines import LineError, Message, UrlFile, parse

# A line, and what it says. Both directions: lines are read and written.
FROM_ANNEX: list[tuple[str, Message]] = [
    ("EXTENSIONS INFO ASYNC", m.Extensions(("INFO", "ASYNC"))),
    ("EXTENSIONS ", m.Extensions(())),
    ("INITREMOTE", m.InitRemote()),
    ("PREPARE", m.Prepare()),
    ("TRANSFER STORE key file", m.Transfer(m.Direction.STORE, "key", "file")),
    ("TRANSFER RETRIEVE key a  file ", m.Transfer(m.Direction.RETRIEVE, "key", "a  file ")),
    ("CHECKPRESENT key", m.CheckPresent("key")),
    ("REMOVE SHA256E-s1--x/y:z,252?", m.Remove("SHA256E-s1--x/y:z,252?")),
    ("LISTCONFIGS", m.ListConfigs()),
    ("GETCOST", m.GetCost()),
    ("GETORDERED", m.GetOrdered()),
    ("GETAVAILABILITY", m.GetAvailability()),
    ("CLAIMURL magnet:?xt=urn:x", m.ClaimUrl("magnet:?xt=urn:x")),
    ("CHECKURL http://a/b c", m.CheckUrl("http://a/b c")),
    ("WHEREIS key", m.WhereIs("key")),
    ("GETINFO", m.GetInfo()),
    ("EXPORTSUPPORTED", m.ExportSupported()),
    ("IMPORTSUPPORTED", m.ImportSupported()),
    ("ERROR too bad", m.Error("too bad")),
    ("VALUE a = b", m.Value("a = b")),
    ("VALUE ", m.Value("")),
    ("CREDS me pass word", m.Creds("me", "pass word")),
    ("CREDS  ", m.Creds("", "")),
]
FROM_REMOTE: list[tuple[str, Message]] = [
    ("EXTENSIONS ASYNC", m.Extensions(("ASYNC",))),
    ("INITREMOTE-SUCCESS", m.InitRemoteSuccess()),
    ("INITREMOTE-FAILURE no such folder", m.InitRemoteFailure("no such folder")),
    ("PREPARE-SUCCESS", m.PrepareSuccess()),
    ("PREPARE-FAILURE why", m.PrepareFailure("why")),
    ("TRANSFER-SUCCESS STORE key", m.TransferSuccess(m.Direction.STORE, "key")),
    ("TRANSFER-FAILURE RETRIEVE key why so", m.TransferFailure(m.Direction.RETRIEVE, "key", "why so")),
    ("CHECKPRESENT-SUCCESS key", m.CheckPresentSuccess("key")),
    ("CHECKPRESENT-FAILURE key", m.CheckPresentFailure("key")),
    ("CHECKPRESENT-UNKNOWN key a b", m.CheckPresentUnknown("key", "a b")),
    ("REMOVE-SUCCESS key", m.RemoveSuccess("key")),
    ("REMOVE-FAILURE key a b", m.RemoveFailure("key", "a b")),
    ("CONFIG needed how many", m.Config("needed", "how many")),
    ("CONFIGEND", m.ConfigEnd()),
    ("COST 200", m.Cost(200)),
    ("ORDERED", m.Ordered()),
    ("UNORDERED", m.Unordered()),
    ("AVAILABILITY LOCAL", m.AvailabilityIs(m.Availability.LOCAL)),
    ("AVAILABILITY GLOBAL", m.AvailabilityIs(m.Availability.GLOBAL)),
    ("AVAILABILITY UNAVAILABLE", m.AvailabilityIs(m.Availability.UNAVAILABLE)),
    ("CLAIMURL-SUCCESS", m.ClaimUrlSuccess()),
    ("CLAIMURL-FAILURE", m.ClaimUrlFailure()),
    ("CHECKURL-CONTENTS 5 a file", m.CheckUrlContents(5, "a file")),
    ("CHECKURL-CONTENTS UNKNOWN ", m.CheckUrlContents(None, "")),
    (
        "CHECKURL-MULTI toy:1 5 a toy:2 UNKNOWN b/c",
        m.CheckUrlMulti((UrlFile("toy:1", 5, "a"), UrlFile("toy:2", None, "b/c"))),
    ),
    ("CHECKURL-FAILURE why", m.CheckUrlFailure("why")),
    ("WHEREIS-SUCCESS on the moon", m.WhereIsSuccess("on the moon")),
    ("WHEREIS-FAILURE", m.WhereIsFailure()),
    ("INFOFIELD a b", m.InfoField("a b")),
    ("INFOVALUE c d", m.InfoValue("c d")),
    ("INFOEND", m.InfoEnd()),
    ("EXPORTSUPPORTED-FAILURE", m.ExportSupportedFailure()),
    ("IMPORTSUPPORTED-FAILURE", m.ImportSupportedFailure()),
    ("UNSUPPORTED-REQUEST", m.UnsupportedRequest()),
    ("VERSION 2", m.Version(2)),
    ("PROGRESS 10240", m.Progress(10240)),
    ("SETCONFIG name a value", m.SetConfig("name", "a value")),
    ("SETCREDS s3 me pass word", m.SetCreds("s3", "me", "pass word")),
    ("SETWANTED include=*.mp3 or in=x", m.SetWanted("include=*.mp3 or in=x")),
    ("SETSTATE key any thing", m.SetState("key", "any thing")),
    ("SETURLPRESENT key http://x", m.SetUrlPresent("key", "http://x")),
    ("SETURLMISSING key http://x", m.SetUrlMissing("key", "http://x")),
    ("SETURIPRESENT key toy:x", m.SetUriPresent("key", "toy:x")),
    ("SETURIMISSING key toy:x", m.SetUriMissing("key", "toy:x")),
    ("DEBUG a b", m.Debug("a b")),
    ("INFO a b", m.Info("a b")),
    ("GETCONFIG name", m.GetConfig("name")),
    ("GETCREDS s3", m.GetCreds("s3")),
    ("GETUUID", m.GetUuid()),
    ("GETGITDIR", m.GetGitDir()),
    ("GETGITREMOTENAME", m.GetGitRemoteName()),
    ("GETWANTED", m.GetWanted()),
    ("GETSTATE key", m.GetState("key")),
    ("GETURLS key toy:", m.GetUrls("key", "toy:")),
    ("GETURLS key ", m.GetUrls("key", "")),
    ("DIRHASH key", m.DirHash("key")),
    ("DIRHASH-LOWER key", m.DirHashLower("key")),
]
DIRECTIONS = [(m.FROM_ANNEX, FROM_ANNEX), (m.FROM_REMOTE, FROM_REMOTE)]
CASES = [(table, *case) for table, cases in DIRECTIONS for case in cases]


@pytest.mark.parametrize(("table", "line", "message"), CASES, ids=lambda value: str(value)[:40])
def test_round_trip(table: Mapping[str, type[Message]], line: str, message: Message) -> None:
    assert message.format() == line
    assert parse(line, table) == message


@pytest.mark.parametrize(("table", "cases"), DIRECTIONS, ids=["from annex", "from remote"])
def test_every_message_is_tried(table: Mapping[str, type[Message]], cases: list[tuple[str, Message]]) -> None:
    assert {type(message) for _, message in cases} == set(table.values())


def test_messages_are_frozen_slotted_and_differ() -> None:
    for _, _, message in CASES:
        assert not hasattr(message, "__dict__")
        with pytest.raises((dataclasses.FrozenInstanceError, AttributeError)):
            message.key = "other"  # type: ignore[attr-defined]
    messages: list[Message] = [m.Prepare(), m.InitRemote(), m.CheckPresent("k"), m.Remove("k")]
    assert m.Prepare() == messages[0]
    assert len(set(messages)) == len(messages)
    assert repr(m.Prepare()) == "Prepare()"


@pytest.mark.parametrize(
    "line",
    [
        "",
        " ",
        "NONSENSE",
        "prepare",
        "PREPARE ",
        "PREPARE now",
        "CHECKPRESENT",
        "CHECKPRESENT ",
        "CHECKPRESENT a b",
        "CHECKPRESENT a\r",
        "TRANSFER",
        "TRANSFER STORE",
        "TRANSFER STORE  file",
        "TRANSFER SEND key file",
        "CREDS",
        "PROGRESS 1",  # ours, not git-annex's
    ],
)
def test_what_git_annex_does_not_say(line: str) -> None:
    with pytest.raises(LineError):
        parse(line, m.FROM_ANNEX)


@pytest.mark.parametrize("number", ["", "-1", "1.5", "1 ", "²", "٣", "9" * 5000, "0x1", "1_0"])
def test_what_is_no_number(number: str) -> None:
    with pytest.raises(LineError):
        parse(f"PROGRESS {number}", m.FROM_REMOTE)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("EXTENSIONS", m.Extensions(())),
        ("VALUE", m.Value("")),
        ("CREDS me", m.Creds("me", "")),
    ],
)
def test_the_space_before_an_empty_last_parameter_may_be_missing(line: str, message: Message) -> None:
    assert parse(line, m.FROM_ANNEX) == message


@pytest.mark.parametrize(
    "message",
    [
        m.SetConfig("name", "a\nb"),
        m.SetConfig("na me", "b"),
        m.SetConfig("name", "a\rb"),
        m.SetState("key", "\ud800"),
        m.GetConfig("a\nPREPARE-SUCCESS"),
        m.SetCreds("s", "two words", "p"),
        m.GetState(""),
        m.GetState("a key"),
        m.Progress(-1),
        m.CheckUrlContents(5, "a\nb"),
        m.CheckUrlContents(-5, "a"),
        m.CheckUrlMulti(()),
        m.CheckUrlMulti((UrlFile("toy:1", 5, ""),)),
        m.CheckUrlMulti((UrlFile("toy:1", 5, "a b"),)),
        m.CheckUrlMulti((UrlFile("toy:1", 5, "a\u00a0b"),)),
        m.CheckUrlMulti((UrlFile("", 5, "a"),)),
        m.Config("two words", "text"),
    ],
    ids=repr,
)
def test_structured_values_that_cannot_be_sent(message: Message) -> None:
    with pytest.raises(LineError):
        message.format()


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("one\ntwo", "one two"),
        ("one\r\ntwo\n", "one  two "),
        ("J 1 PREPARE-SUCCESS", "J 1 PREPARE-SUCCESS"),
        ("\udcff kept", "\udcff kept"),
        ("\ud800 shown", "\\ud800 shown"),
        ("Zürich \u2028", "Zürich \u2028"),
    ],
)
def test_free_texts_are_always_sent_on_one_line(text: str, sent: str) -> None:
    assert m.Info(text).format() == f"INFO {sent}"
    assert m.RemoveFailure("key", text).format() == f"REMOVE-FAILURE key {sent}"


VALUES: dict[str, st.SearchStrategy[object]] = {
    "Key": st.text(st.characters(exclude_characters=" \n\r", exclude_categories=["Cs"]), min_size=1),
    "Word": st.text(st.characters(exclude_characters=" \n\r", exclude_categories=["Cs"])),
    "Rest": st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"])),
    "Text": st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"])),
    "Number": st.integers(0, 10**18 - 1),
    "Size": st.none() | st.integers(0, 10**18 - 1),
    "Words": st.lists(st.sampled_from(["INFO", "ASYNC", "X-Y"])).map(tuple),
    "Files": st.lists(
        st.builds(UrlFile, st.just("toy:x"), st.none() | st.integers(0, 99), st.text("ab/.", min_size=1)),
        min_size=1,
    ).map(tuple),
    "Direction": st.sampled_from(lines.Direction),
    "Availability": st.sampled_from(lines.Availability),
}


@st.composite
def messages(draw: st.DrawFn, table: Mapping[str, type[Message]]) -> Message:
    kind = draw(st.sampled_from(list(table.values())))
    return kind(*(draw(VALUES[str(field.type)]) for field in dataclasses.fields(kind)))


@given(messages({**m.FROM_ANNEX, **m.FROM_REMOTE}))
def test_every_message_survives(message: Message) -> None:
    assert type(message).parse(message.format()) == message


@given(st.text() | st.from_regex(r"(J 1 )?[A-Z-]{4,12}( [a-z]*){0,4}"))
def test_any_text_is_a_message_or_a_line_error(line: str) -> None:
    for table in (m.FROM_ANNEX, m.FROM_REMOTE):
        try:
            message = parse(line, table)
        except LineError:
            continue
        assert isinstance(message, Message)


@given(st.binary(max_size=40))
def test_bytes_of_file_names_survive(name: bytes) -> None:
    name = name.replace(b"\n", b"").replace(b"\r", b"")
    line = b"TRANSFER STORE key " + name
    message = parse(line.decode("utf-8", "surrogateescape"), m.FROM_ANNEX)
    assert message.format().encode("utf-8", "surrogateescape") == line
