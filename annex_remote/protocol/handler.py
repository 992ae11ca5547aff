"""What a special remote implements, and how what it returns or raises becomes a reply."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from annex_remote.errors import Cancelled, SwarmError
from annex_remote.protocol import messages as m
from annex_remote.protocol.jobs import Channel, Job
from annex_remote.protocol.lines import UrlFile
from annex_remote.protocol.messages import Availability, Direction

__all__ = ["Handler", "UrlContents", "UrlFile", "perform", "refuse"]

UrlContents = m.CheckUrlContents
"""``UrlContents(size, filename)``: what is behind a URL; size None: unknown, name empty: of no matter."""


class Handler(Protocol):
    """A special remote. Methods run on threads of their own, many at once; each may raise.

    A `SwarmError` is shown to the user as it is, any other exception as an internal error. For requests
    whose reply has no place for a reason, the reason goes to the debug log and the reply is the one that
    promises least.
    """

    def list_configs(self) -> Sequence[tuple[str, str]]:
        """Return names and descriptions of all settings; may come before INITREMOTE."""

    def initremote(self, job: Job) -> None:
        """Set the remote up; must bear repetition. Its text is shown when it fails."""

    def prepare(self, job: Job) -> None:
        """Get ready; comes once and before the requests below."""

    def store(self, job: Job, key: str, path: str) -> None:
        """Store the file as the content of `key`; not present until all of it is stored."""

    def retrieve(self, job: Job, key: str, path: str) -> None:
        """Write the content of `key` to the file, which may hold the beginning of it."""

    def check_present(self, job: Job, key: str) -> bool:
        """Return what is proved; raise when nothing is (the reply is then CHECKPRESENT-UNKNOWN)."""

    def remove(self, job: Job, key: str) -> None:
        """Remove the content of `key`, if there is any."""

    def cost(self, job: Job) -> int | None:
        """Return the cost of use, None to leave it to git-annex."""

    def ordered(self, job: Job) -> bool:
        """True if `retrieve` writes from front to back."""

    def availability(self, job: Job) -> Availability:
        """Return from where the remote can be reached."""

    def claim_url(self, job: Job, url: str) -> bool:
        """True if `retrieve` can get the content of this URL."""

    def check_url(self, job: Job, url: str) -> UrlContents | Sequence[UrlFile]:
        """Return what is behind a URL: one file, or several with URLs of their own."""

    def whereis(self, job: Job, key: str) -> str | None:
        """Return where the content is, for people; None for nothing to tell. Must be fast."""

    def get_info(self, job: Job) -> Sequence[tuple[str, str]]:
        """Return names and values that `git annex info` shows."""


def perform(handler: Handler, channel: Channel, job: Job, request: m.Request) -> None:
    """Have `handler` do what was requested, and answer it, whatever happens."""
    channel.attend(job)
    run, failed = _RULES[type(request)]
    try:
        channel.answer(job, run(handler, job, request))
    except BaseException as error:  # noqa: BLE001 - even SystemExit must not leave git-annex waiting
        text = _text(error)
        if not isinstance(error, Cancelled):
            channel.log([f"{request.word}: {text}", *_trace(error)])
        channel.answer(job, [failed(request, text)])
    finally:
        channel.attend(None)


def refuse(channel: Channel, job: Job, request: m.Request, text: str) -> None:
    """Answer a request that was not even begun."""
    channel.answer(job, [_RULES[type(request)][1](request, text)])


def _text(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - an exception whose text raises must still be told
        text = "(its text cannot be shown)"
    if isinstance(error, SwarmError) and text:
        return text
    return f"internal error: {type(error).__name__}: {text}"


def _trace(error: BaseException) -> list[str]:
    return [line for part in traceback.format_exception(error) for line in part.splitlines()]


Replies = Sequence[m.Reply]


def _list_configs(handler: Handler, _job: Job, _request: m.ListConfigs) -> Replies:
    return [*(m.Config(name, about) for name, about in handler.list_configs()), m.ConfigEnd()]


def _init_remote(handler: Handler, job: Job, _request: m.InitRemote) -> Replies:
    handler.initremote(job)
    return [m.InitRemoteSuccess()]


def _prepare(handler: Handler, job: Job, _request: m.Prepare) -> Replies:
    handler.prepare(job)
    return [m.PrepareSuccess()]


def _transfer(handler: Handler, job: Job, request: m.Transfer) -> Replies:
    move = {Direction.STORE: handler.store, Direction.RETRIEVE: handler.retrieve}[request.direction]
    move(job, request.key, request.path)
    return [m.TransferSuccess(request.direction, request.key)]


def _check_present(handler: Handler, job: Job, request: m.CheckPresent) -> Replies:
    # A lookup, not a test of truth: a method that forgets to return anything proves nothing.
    replies: Mapping[bool, m.Reply] = {
        True: m.CheckPresentSuccess(request.key),
        False: m.CheckPresentFailure(request.key),
    }
    return [replies[handler.check_present(job, request.key)]]


def _remove(handler: Handler, job: Job, request: m.Remove) -> Replies:
    handler.remove(job, request.key)
    return [m.RemoveSuccess(request.key)]


def _get_cost(handler: Handler, job: Job, _request: m.GetCost) -> Replies:
    cost = handler.cost(job)
    return [m.UnsupportedRequest() if cost is None else m.Cost(cost)]


def _get_ordered(handler: Handler, job: Job, _request: m.GetOrdered) -> Replies:
    return [m.Ordered() if handler.ordered(job) else m.Unordered()]


def _get_availability(handler: Handler, job: Job, _request: m.GetAvailability) -> Replies:
    return [m.AvailabilityIs(handler.availability(job))]


def _claim_url(handler: Handler, job: Job, request: m.ClaimUrl) -> Replies:
    return [m.ClaimUrlSuccess() if handler.claim_url(job, request.value) else m.ClaimUrlFailure()]


def _check_url(handler: Handler, job: Job, request: m.CheckUrl) -> Replies:
    found = handler.check_url(job, request.value)
    return [found if isinstance(found, UrlContents) else m.CheckUrlMulti(tuple(found))]


def _where_is(handler: Handler, job: Job, request: m.WhereIs) -> Replies:
    where = handler.whereis(job, request.key)
    return [m.WhereIsSuccess(where) if where else m.WhereIsFailure()]


def _get_info(handler: Handler, job: Job, _request: m.GetInfo) -> Replies:
    pairs = [(m.InfoField(name), m.InfoValue(value)) for name, value in handler.get_info(job)]
    return [*(reply for pair in pairs for reply in pair), m.InfoEnd()]


def _unsupported(_request: m.Request, _text: str) -> m.Reply:
    return m.UnsupportedRequest()


_RULES: Mapping[
    type[m.Request],
    tuple[Callable[[Handler, Job, Any], Replies], Callable[[Any, str], m.Reply]],
] = {
    m.ListConfigs: (_list_configs, _unsupported),
    m.InitRemote: (_init_remote, lambda _, text: m.InitRemoteFailure(text)),
    m.Prepare: (_prepare, lambda _, text: m.PrepareFailure(text)),
    m.Transfer: (_transfer, lambda r, text: m.TransferFailure(r.direction, r.key, text)),
    m.CheckPresent: (_check_present, lambda r, text: m.CheckPresentUnknown(r.key, text)),
    m.Remove: (_remove, lambda r, text: m.RemoveFailure(r.key, text)),
    m.GetCost: (_get_cost, _unsupported),
    m.GetOrdered: (_get_ordered, _unsupported),
    m.GetAvailability: (_get_availability, _unsupported),
    m.ClaimUrl: (_claim_url, lambda *_: m.ClaimUrlFailure()),
    m.CheckUrl: (_check_url, lambda _, text: m.CheckUrlFailure(text)),
    m.WhereIs: (_where_is, lambda *_: m.WhereIsFailure()),
    m.GetInfo: (_get_info, _unsupported),
}
"""For each request that a session lets through: how it is done, and the reply when that raises."""
