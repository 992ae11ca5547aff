"""The state of a conversation with git-annex: bytes in, events out; no I/O, no threads.

What is decided here: which extensions are used, how lines carry job numbers, which requests are open,
what each waits for, and that every request is answered exactly once. A caller with threads serialises
its calls (`jobs.Channel` does).

Under ASYNC a job number belongs to one request until that is answered, and is then used again.
Without ASYNC all is job 0. (Protocol, "async appendix".)
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from annex_remote.protocol import messages as m
from annex_remote.protocol.lines import LineError, Message, parse

__all__ = ["OFFERED", "Asked", "Ended", "Event", "LocalProtocolError", "Replied", "Send", "Session"]

OFFERED = ("INFO", "ASYNC", "GETGITREMOTENAME", "UNAVAILABLERESPONSE")
"""The extensions that we know how to use. Asking for one that git-annex did not list is fatal."""

_FIXED: dict[type[Message], m.Reply] = {
    m.ExportSupported: m.ExportSupportedFailure(),
    m.ImportSupported: m.ImportSupportedFailure(),
}
"""Requests whose answer is known before anyone is asked."""


class LocalProtocolError(RuntimeError):
    """Our side wants to say what it may not say now: a mistake in this program."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request has come in; `job` is open until it is answered."""

    job: int
    request: m.Request


@dataclass(frozen=True, slots=True)
class Replied:
    """The question of `job` has its answer: one value; user and password; or the list of GETURLS."""

    job: int
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Send:
    """Bytes to be written at once."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """No more can be said: git-annex sent ERROR, or what cannot be understood without guessing."""

    reason: str


Event = Asked | Replied | Send | Ended


@dataclass(slots=True)
class _Open:
    """A request that is not yet answered, and the question that it waits for."""

    question: m.Question | None = None
    urls: list[str] = field(default_factory=list)


class Session:
    """One conversation, from the remote's side."""

    def __init__(self, offered: Collection[str] = OFFERED) -> None:
        self.extensions: frozenset[str] = frozenset()
        """The extensions in use: listed by git-annex and offered by us. Empty until EXTENSIONS."""
        self._offered = offered
        self._open: dict[int, _Open] = {}
        self._partial = b""
        self._ended = False

    def greeting(self) -> bytes:
        """Return what has to be written before anything else ("special remote messages", VERSION)."""
        return self._encode(0, m.Version(2))

    # What git-annex says.

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes as they come, return the events of the lines they complete.

        Only a newline ends a line. After `Ended` there are no more events.
        """
        *lines, self._partial = (self._partial + data).split(b"\n")
        events: list[Event] = []
        for line in lines:
            event = None if self._ended else self._receive_line(line.decode("utf-8", "surrogateescape"))
            if event:
                events.append(event)
        return events

    def _receive_line(self, line: str) -> Event | None:
        job = 0
        if "ASYNC" in self.extensions:
            mark, _, rest = line.partition(" ")
            number, _, rest = rest.partition(" ")
            if mark == "J" and number.isascii() and number.isdigit() and len(number) < 10:
                job, line = int(number), rest
            elif mark != m.Error.word:
                return self._end(f"git-annex sent a line without a job number: {line[:80]!r}")
        message: Message | None
        try:
            message = parse(line, m.FROM_ANNEX)
        except LineError:
            message = None
        match message:
            case m.Error(text):
                return self._end(f"git-annex reports an error: {text}")
            case m.Answer():
                return self._receive_answer(job, message)
            case _ if job in self._open:
                return self._end(f"git-annex sent a request before the last was answered: {line[:80]!r}")
            case m.Extensions(listed):
                reply = m.Extensions(tuple(name for name in self._offered if name in listed))
                data = self._encode(job, reply)  # this one line still goes by the old rules
                self.extensions = frozenset(reply.names)
                return Send(data)
            case m.Request():
                if fixed := _FIXED.get(type(message)):
                    return Send(self._encode(job, fixed))
                self._open[job] = _Open()
                return Asked(job, message)
            case _:
                # "More optional requests may be added ... reply with UNSUPPORTED-REQUEST"
                return Send(self._encode(job, m.UnsupportedRequest()))

    def _receive_answer(self, job: int, answer: m.Answer) -> Event | None:
        if job not in self._open:
            # The request was answered while a question of it was under way. git-annex takes the messages
            # of a job in order, so this comes before the next request with that number.
            return None
        state = self._open[job]
        match state.question, answer:
            case m.GetCreds(), m.Creds(user, password):
                values: tuple[str, ...] = (user, password)
            case m.GetUrls(), m.Value(url) if url:
                state.urls.append(url)
                return None
            case m.GetUrls(), m.Value():
                values = tuple(state.urls)
            case m.GetCreds(), _:
                return self._end(f"git-annex answered {m.GetCreds.word} with {answer.word}")
            case m.Question(), m.Value(value):
                values = (value,)
            case _:
                return self._end(f"git-annex sent an answer that nobody waits for: {answer.word}")
        self._open[job] = _Open()
        return Replied(job, values)

    def _end(self, reason: str) -> Ended:
        self._ended = True
        return Ended(reason)

    # What we say. Each raises `LineError` and changes nothing when a value cannot be written.

    def tell(self, job: int, statement: m.Statement) -> bytes:
        """Return the bytes of a message that gets no reply; INFO becomes DEBUG where it is unknown."""
        self._state(job)
        if isinstance(statement, m.Info) and "INFO" not in self.extensions:
            statement = m.Debug(statement.text)
        return self._encode(job, statement)

    def ask(self, job: int, question: m.Question) -> bytes:
        """Return the bytes of a question; its answer comes as `Replied`."""
        state = self._state(job)
        if state.question:
            raise LocalProtocolError(f"job {job} already waits for {state.question.word}")
        if isinstance(question, m.GetGitRemoteName) and "GETGITREMOTENAME" not in self.extensions:
            raise LocalProtocolError("GETGITREMOTENAME has not been agreed on")
        data = self._encode(job, question)
        state.question = question
        return data

    def answer(self, job: int, replies: Collection[m.Reply]) -> bytes:
        """Return the bytes that answer the request of `job`, which is then closed.

        This is the one place that holds "exactly one answer": a second raises `LocalProtocolError`.
        UNAVAILABLE becomes LOCAL where it is not understood.
        """
        self._state(job)
        data = b"".join(self._encode(job, self._understood(reply)) for reply in replies)
        if not data:
            raise LocalProtocolError(f"job {job} was to be answered with nothing")
        del self._open[job]
        return data

    def _state(self, job: int) -> _Open:
        if job not in self._open:
            raise LocalProtocolError(f"job {job} has no open request")
        return self._open[job]

    def _understood(self, reply: m.Reply) -> m.Reply:
        if reply == m.AvailabilityIs(m.Availability.UNAVAILABLE) and (
            "UNAVAILABLERESPONSE" not in self.extensions
        ):
            return m.AvailabilityIs(m.Availability.LOCAL)
        return reply

    def _encode(self, job: int, message: Message) -> bytes:
        prefix = f"J {job} " if "ASYNC" in self.extensions else ""
        return f"{prefix}{message.format()}\n".encode("utf-8", "surrogateescape")
