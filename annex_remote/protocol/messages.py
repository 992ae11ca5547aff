"""Every message of the protocol, one class each.

A message is a role (who may say it, and when), a shape (what parameters follow) and a word. Comments
and docstrings follow the protocol's section headings; `FROM_ANNEX` and `FROM_REMOTE` find a message by
its word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from annex_remote.protocol.lines import (
    Availability as Availability,
)
from annex_remote.protocol.lines import (
    Direction as Direction,
)
from annex_remote.protocol.lines import (
    Files,
    Key,
    OfKey,
    OfKeyAndText,
    OfKeyAndValue,
    OfName,
    OfNumber,
    OfText,
    OfValue,
    Rest,
    Size,
    Text,
    Word,
    Words,
)
from annex_remote.protocol.lines import (
    LineError as LineError,
)
from annex_remote.protocol.lines import (
    Message as Message,
)
from annex_remote.protocol.lines import (
    UrlFile as UrlFile,
)
from annex_remote.protocol.lines import (
    parse as parse,
)


class Request(Message):
    """Said by git-annex; to be answered with a reply."""


class Answer(Message):
    """Said by git-annex, to a question of ours."""


class Reply(Message):
    """Said by us: all or part of what a request is answered with."""


class Statement(Message):
    """Said by us, at any time while there is a request; git-annex says nothing to it."""


class Question(Message):
    """Said by us while there is a request; git-annex replies with an `Answer`."""


# Said by both sides, or of no section.


@dataclass(frozen=True)
class Extensions(Request, Reply, word="EXTENSIONS"):
    """What git-annex knows; then, of these, what we use."""

    names: Words


class Error(OfText, Request, word="ERROR"):
    """Too messed up to go on. We never send it: with a job number it makes git-annex hang."""


# "git-annex request messages and replies": the requests.


class InitRemote(Request, word="INITREMOTE"):
    """Set up what has to be set up once; may come again, and without PREPARE."""


class Prepare(Request, word="PREPARE"):
    """Get ready for use."""


@dataclass(frozen=True)
class Transfer(Request, word="TRANSFER"):
    """Move the content of a key from or to a file."""

    direction: Direction
    key: Key
    path: Rest


class CheckPresent(OfKey, Request, word="CHECKPRESENT"):
    """Tell whether the content is there."""


class Remove(OfKey, Request, word="REMOVE"):
    """Remove the content; that there is none is no failure."""


class ListConfigs(Request, word="LISTCONFIGS"):
    """List the settings."""


class GetCost(Request, word="GETCOST"):
    """Tell how expensive the use of this remote is."""


class GetOrdered(Request, word="GETORDERED"):
    """Tell whether retrieved files are written from front to back."""


class GetAvailability(Request, word="GETAVAILABILITY"):
    """Tell from where it can be reached."""


class ClaimUrl(OfValue, Request, word="CLAIMURL"):
    """Tell whether this URL is yours."""


class CheckUrl(OfValue, Request, word="CHECKURL"):
    """Tell what is behind this URL."""


class WhereIs(OfKey, Request, word="WHEREIS"):
    """Tell people where the content is."""


class GetInfo(Request, word="GETINFO"):
    """Tell people about the remote."""


class ExportSupported(Request, word="EXPORTSUPPORTED"):
    """Tell whether trees can be exported to it."""


class ImportSupported(Request, word="IMPORTSUPPORTED"):
    """Tell whether trees can be imported from it."""


# What git-annex replies to our questions.


class Value(OfValue, Answer, word="VALUE"):
    """The answer to most questions; GETURLS gets one for each URL, then an empty one."""


@dataclass(frozen=True)
class Creds(Answer, word="CREDS"):
    """The answer to GETCREDS; both are empty when there are none."""

    user: Word
    password: Rest


# "git-annex request messages and replies": the replies.


class InitRemoteSuccess(Reply, word="INITREMOTE-SUCCESS"):
    """It is set up."""


class InitRemoteFailure(OfText, Reply, word="INITREMOTE-FAILURE"):
    """It is not; nothing will be saved."""


class PrepareSuccess(Reply, word="PREPARE-SUCCESS"):
    """Ready."""


class PrepareFailure(OfText, Reply, word="PREPARE-FAILURE"):
    """The remote cannot be used."""


@dataclass(frozen=True)
class TransferSuccess(Reply, word="TRANSFER-SUCCESS"):
    """All of it is there."""

    direction: Direction
    key: Key


@dataclass(frozen=True)
class TransferFailure(Reply, word="TRANSFER-FAILURE"):
    """It is not; people see the text."""

    direction: Direction
    key: Key
    text: Text


class CheckPresentSuccess(OfKey, Reply, word="CHECKPRESENT-SUCCESS"):
    """Verified to be there."""


class CheckPresentFailure(OfKey, Reply, word="CHECKPRESENT-FAILURE"):
    """Verified not to be there."""


class CheckPresentUnknown(OfKeyAndText, Reply, word="CHECKPRESENT-UNKNOWN"):
    """Neither could be verified."""


class RemoveSuccess(OfKey, Reply, word="REMOVE-SUCCESS"):
    """It is gone, or was never there."""


class RemoveFailure(OfKeyAndText, Reply, word="REMOVE-FAILURE"):
    """Some of it may still be there."""


@dataclass(frozen=True)
class Config(Reply, word="CONFIG"):
    """One setting, of the reply to LISTCONFIGS."""

    name: Word
    description: Text


class ConfigEnd(Reply, word="CONFIGEND"):
    """No more settings."""


class Cost(OfNumber, Reply, word="COST"):
    """Higher is more expensive."""


class Ordered(Reply, word="ORDERED"):
    """From front to back."""


class Unordered(Reply, word="UNORDERED"):
    """In any order."""


@dataclass(frozen=True)
class AvailabilityIs(Reply, word="AVAILABILITY"):
    """UNAVAILABLE is an extension."""

    availability: Availability


class ClaimUrlSuccess(Reply, word="CLAIMURL-SUCCESS"):
    """The URL is ours."""


class ClaimUrlFailure(Reply, word="CLAIMURL-FAILURE"):
    """It is not."""


@dataclass(frozen=True)
class CheckUrlContents(Reply, word="CHECKURL-CONTENTS"):
    """One file; an empty name lets git-annex choose."""

    size: Size
    filename: Rest


@dataclass(frozen=True)
class CheckUrlMulti(Reply, word="CHECKURL-MULTI"):
    """Several files, each with a URL of its own."""

    files: Files


class CheckUrlFailure(OfText, Reply, word="CHECKURL-FAILURE"):
    """The URL cannot be used."""


class WhereIsSuccess(OfText, Reply, word="WHEREIS-SUCCESS"):
    """Where the content is, in words for people."""


class WhereIsFailure(Reply, word="WHEREIS-FAILURE"):
    """Nothing to tell."""


class InfoField(OfText, Reply, word="INFOFIELD"):
    """The name of one line of the reply to GETINFO."""


class InfoValue(OfText, Reply, word="INFOVALUE"):
    """Its value; follows at once."""


class InfoEnd(Reply, word="INFOEND"):
    """No more lines."""


class ExportSupportedFailure(Reply, word="EXPORTSUPPORTED-FAILURE"):
    """No exports."""


class ImportSupportedFailure(Reply, word="IMPORTSUPPORTED-FAILURE"):
    """No imports."""


class UnsupportedRequest(Reply, word="UNSUPPORTED-REQUEST"):
    """We do not know how to do this."""


# "special remote messages" that get no reply.


class Version(OfNumber, Statement, word="VERSION"):
    """The first thing that is said at all."""


class Progress(OfNumber, Statement, word="PROGRESS"):
    """Bytes of the file transferred so far."""


@dataclass(frozen=True)
class SetConfig(Statement, word="SETCONFIG"):
    """Kept for good only during INITREMOTE."""

    name: Word
    value: Rest


@dataclass(frozen=True)
class SetCreds(Statement, word="SETCREDS"):
    """Kept where git-annex thinks it safe."""

    name: Word
    user: Word
    password: Rest


class SetWanted(OfValue, Statement, word="SETWANTED"):
    """The preferred content expression; nonsense is ignored."""


class SetState(OfKeyAndValue, Statement, word="SETSTATE"):
    """Kept in the git-annex branch; the last to set it wins."""


class SetUrlPresent(OfKeyAndValue, Statement, word="SETURLPRESENT"):
    """The key can be had from this URL."""


class SetUrlMissing(OfKeyAndValue, Statement, word="SETURLMISSING"):
    """It cannot any more."""


class SetUriPresent(OfKeyAndValue, Statement, word="SETURIPRESENT"):
    """The same for what http cannot fetch."""


class SetUriMissing(OfKeyAndValue, Statement, word="SETURIMISSING"):
    """It cannot any more."""


class Debug(OfText, Statement, word="DEBUG"):
    """Shown with --debug."""


class Info(OfText, Statement, word="INFO"):
    """Shown; an extension."""


# "special remote messages" that ask git-annex something.


class GetConfig(OfName, Question, word="GETCONFIG"):
    """The value of a setting, empty when it is not set."""


class GetCreds(OfName, Question, word="GETCREDS"):
    """User and password, as kept by SETCREDS."""


class GetUuid(Question, word="GETUUID"):
    """The UUID of this remote."""


class GetGitDir(Question, word="GETGITDIR"):
    """The path of the git directory."""


class GetGitRemoteName(Question, word="GETGITREMOTENAME"):
    """The name of the git remote; an extension."""


class GetWanted(Question, word="GETWANTED"):
    """The preferred content expression."""


class GetState(OfKey, Question, word="GETSTATE"):
    """What SETSTATE kept."""


class GetUrls(OfKeyAndValue, Question, word="GETURLS"):
    """The recorded URLs of a key that begin with a prefix, which may be empty."""


class DirHash(OfKey, Question, word="DIRHASH"):
    """The mixed-case folders of a key."""


class DirHashLower(OfKey, Question, word="DIRHASH-LOWER"):
    """The lower-case folders of a key."""


def _table(*roles: type[Message]) -> Mapping[str, type[Message]]:
    return {message.word: message for role in roles for message in role.__subclasses__()}


FROM_ANNEX = _table(Request, Answer)
"""All that git-annex may say, by its word."""
FROM_REMOTE = _table(Reply, Statement, Question)
"""All that we may say, by its word."""
