"""What S3 servers answer: their XML, read strictly, and what the codes of their errors mean."""

from __future__ import annotations

import re
import time
from typing import NamedTuple
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from annex_remote.errors import Busy, Denied, Exists, Full, NotFound, StoreError, Unavailable
from annex_remote.stores.http import Answer, failure, retry_after
from annex_remote.stores.numbers import whole_number
from annex_remote.stores.times import read_date

__all__ = [
    "LISTINGS",
    "BadSignature",
    "Entry",
    "NotUnderstood",
    "UploadGone",
    "WrongRegion",
    "check_md5",
    "etag_of",
    "is_of_parts",
    "meaning",
    "read_answer",
    "read_page",
]

_CODE = re.compile(r"[A-Za-z0-9.]{1,64}\Z")
_REGION = re.compile(r"[a-z0-9-]{1,64}\Z")
_MD5 = re.compile(r"[0-9a-f]{32}\Z")
_HOST = re.compile(r"[a-z0-9.-]{1,253}\Z")

_KEYS_WORDS = "does not accept the keys for S3"


class WrongRegion(Unavailable):
    """The server says that the bucket is in `region`: ask again, signed for that."""

    def __init__(self, message: str, region: str) -> None:
        super().__init__(message)
        self.region = region


class BadSignature(Denied):
    """The server made another signature: of another secret key, or of something else than was sent."""


class UploadGone(Unavailable):
    """The server does not know the upload: it was completed or given up, perhaps by another process."""


class NotUnderstood(Unavailable):
    """The server cannot do what was asked, or not as it was asked: perhaps it does not know a header."""


_MEANINGS: dict[str, tuple[type[StoreError], str]] = {
    "AccessDenied": (Denied, "forbids it"),
    "AllAccessDisabled": (Denied, "has shut the bucket"),
    "AccountProblem": (Denied, "has shut the account"),
    "ExpiredToken": (Denied, "says that the keys for S3 have expired: get new ones"),
    "TokenRefreshRequired": (Denied, "says that the keys for S3 have expired: get new ones"),
    "InvalidAccessKeyId": (Denied, f"{_KEYS_WORDS}: it does not know this access key id"),
    "InvalidToken": (Denied, f"{_KEYS_WORDS}: their session token is not valid"),
    "SignatureDoesNotMatch": (
        BadSignature,
        f"{_KEYS_WORDS}: the secret key does not belong to this access key id",
    ),
    "UnauthorizedAccess": (Denied, _KEYS_WORDS),
    "Unauthorized": (Denied, _KEYS_WORDS),
    "PreconditionFailed": (Exists, "has it already"),
    "NoSuchKey": (NotFound, "does not have it"),
    "NoSuchBucket": (Unavailable, "does not have this bucket: make it first, or mend the address"),
    "NoSuchUpload": (UploadGone, "does not have the upload that this belonged to"),
    "InvalidPart": (Unavailable, "does not have all parts as they were sent"),
    "BadDigest": (Unavailable, "got something else than was sent"),
    "XAmzContentSHA256Mismatch": (Unavailable, "got something else than was sent"),
    "IncompleteBody": (Unavailable, "got less than was sent"),
    "RequestTimeout": (Unavailable, "waited too long for what was sent"),
    "InternalError": (Unavailable, "failed"),
    "OperationAborted": (Unavailable, "was doing something else with it"),
    "ConditionalRequestConflict": (Unavailable, "was doing something else with it"),
    "InvalidObjectState": (
        Unavailable,
        "has it in an archive (a storage class like GLACIER): it has to be restored there before it can be read",
    ),
    "NotImplemented": (NotUnderstood, "cannot do this"),
    "InvalidStorageClass": (Unavailable, "does not know this storage class: mend class= in the address"),
    "AuthorizationHeaderMalformed": (Unavailable, "is of another region: say region=... in the address"),
    "SlowDown": (Busy, "asks us to slow down"),
    "SlowDownRead": (Busy, "asks us to slow down"),
    "SlowDownWrite": (Busy, "asks us to slow down"),
    "TooManyRequests": (Busy, "asks us to slow down"),
    "RequestLimitExceeded": (Busy, "asks us to slow down"),
    "Throttling": (Busy, "asks us to slow down"),
    "ThrottlingException": (Busy, "asks us to slow down"),
    "BandwidthLimitExceeded": (Busy, "asks us to slow down"),
    "ServiceUnavailable": (Busy, "is overloaded or being serviced"),
    "QuotaExceeded": (Full, "has no quota left"),
    "ServiceQuotaExceeded": (Full, "has no quota left"),
    "StorageCapExceeded": (Full, "has no quota left"),
    "XMinioAdminBucketQuotaExceeded": (Full, "has no quota left"),
    "StorageFull": (Full, "has no space left"),
    "XMinioStorageFull": (Full, "has no space left"),
    "InsufficientStorage": (Full, "has no space left"),
    "EntityTooLarge": (Full, "takes nothing of this size"),
}
"""What a code says, where the status does not say it as well."""

_LOGIN_CODES = {
    *("InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch", "ExpiredToken", "TokenRefreshRequired"),
    *("UnauthorizedAccess", "Unauthorized"),
}
_REGION_CODES = {"AuthorizationHeaderMalformed", "PermanentRedirect"}
_PASSING_CODES = {
    *("NoSuchUpload", "InvalidPart", "BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody"),
    *("RequestTimeout", "InternalError", "OperationAborted", "ConditionalRequestConflict"),
}


def meaning(answer: Answer, doing: str, now: float | None = None) -> StoreError:
    """Return the error that an answer stands for, whatever its status: some fail with 200. `now` is by our clock.

    What the server says in its own words is left out: it may have the signature in it. A 404 that no S3 server
    would give is no `NotFound`; to HEAD, which has no answer but the status, it is.
    """
    fields = _error_fields(answer.body)
    code = fields.get("Code", "")
    text = f"{doing}: {answer.host}"
    region = fields.get("Region") or answer.headers.get("x-amz-bucket-region", "")
    if (answer.status == 301 or code in _REGION_CODES) and _REGION.match(region):
        there = fields.get("Endpoint", "")
        hint = f" (its endpoint is {there})" if _HOST.match(there) else ""
        return WrongRegion(f"{text} says that the bucket is in {region}{hint}: change the address", region)
    if code == "RequestTimeTooSkewed":
        return Denied(f"{text} takes nothing from a clock that differs from its own{_skew(answer, now)}")
    if code in _MEANINGS:
        kind, words = _MEANINGS[code]
        text = f"{text} {words} ({code})"
        if kind is Busy:
            return Busy(text, retry_after(answer.headers))
        if issubclass(kind, Denied):
            return kind(text, wants_login=code in _LOGIN_CODES)
        if issubclass(kind, Unavailable):
            return kind(text, passing=code in _PASSING_CODES)
        return kind(text)
    if answer.status == 404 and answer.method != "HEAD":
        return Unavailable(f"{text} does not answer as an S3 server does (404 to {answer.method})")
    if code and answer.status < 300:
        return Unavailable(f"{text} failed ({code})", passing=True)
    if answer.status == 412:
        return Exists(f"{text} has it already")
    error = failure(answer, f"{doing} ({code})" if code else doing)
    return NotUnderstood(str(error)) if answer.status in (400, 501) else error


def _skew(answer: Answer, now: float | None) -> str:
    there = read_date(answer.headers.get("Date", ""))
    if there is None:
        return ": set the clock here"
    ahead = (time.time() if now is None else now) - there
    return f": ours is {_span(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} it, set the clock here"


def _span(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"


class _Strict(ElementTree.TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError(f"a DOCTYPE {name} is not in answers of S3")


def _parse(body: bytes) -> ElementTree.Element:
    """Return the root of an answer; raises `ValueError` or `ElementTree.ParseError`."""
    parser = ElementTree.XMLParser(target=_Strict())  # noqa: S314 # what could harm, a DOCTYPE, is refused
    # Some send blanks while they are at work, before everything else.
    parser.feed(body.lstrip())
    root: ElementTree.Element = parser.close()
    return root


def _error_fields(body: bytes) -> dict[str, str]:
    """Return what is in an answer that is an error, nothing if it is none."""
    try:
        root = _parse(body)
    except (ValueError, ElementTree.ParseError):
        return {}
    if _local(root) != "Error":
        return {}
    fields = {_local(each): (each.text or "").strip() for each in root}
    if not _CODE.match(fields.get("Code", "")):
        return {}
    return fields


def _local(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def read_answer(answer: Answer, kind: str, doing: str) -> ElementTree.Element:
    """Return the XML of an answer of a `kind`; raises what it means if it is something else."""
    try:
        root = _parse(answer.body)
    except (ValueError, ElementTree.ParseError) as error:
        raise Unavailable(f"{doing}: {answer.host} does not answer as an S3 server does") from error
    if _local(root) == "Error":
        raise meaning(answer, doing)
    if _local(root) not in (f"{kind}Result", f"{kind}Response"):  # the latter by moto, for parts
        raise Unavailable(f"{doing}: {answer.host} does not answer as an S3 server does")
    return root


class Listing(NamedTuple):
    """How a kind of listing is asked for, and read."""

    query: dict[str, str]
    entry: str
    """What its entries are called."""
    markers: dict[str, str]
    """The parameters that ask for the next page, to the fields in which a page says them."""


LISTINGS = {
    "ListBucket": Listing(
        {"list-type": "2", "encoding-type": "url"}, "Contents", {"continuation-token": "NextContinuationToken"}
    ),
    "ListMultipartUploads": Listing(
        {"uploads": ""}, "Upload", {"key-marker": "NextKeyMarker", "upload-id-marker": "NextUploadIdMarker"}
    ),
    "ListParts": Listing({}, "Part", {"part-number-marker": "NextPartNumberMarker"}),
}
"""The kinds of listings, by what the root of their answer is called, without 'Result'."""


class Entry(dict[str, str]):
    """An entry of a listing: the texts of its fields, empty where there is none."""

    def __missing__(self, name: str) -> str:
        return ""

    def number(self, name: str) -> int:
        """Return a field that is a whole number; raises `ValueError`."""
        number = whole_number(self[name])
        if number is None:
            raise ValueError(f"{name} is not a number: {self[name]!r}")
        return number


def read_page(answer: Answer, kind: str, doing: str) -> tuple[list[Entry], dict[str, str] | None]:
    """Return the entries of a page of a listing of `kind`, and what asks for the next: None after the last."""
    root = read_answer(answer, kind, doing)
    own = {_local(each): (each.text or "").strip() for each in root if not len(each)}
    entries = [
        Entry({_local(field): field.text or "" for field in each})
        for each in root
        if _local(each) == LISTINGS[kind].entry
    ]
    if own.get("EncodingType") == "url":
        for entry in entries:
            entry["Key"] = unquote_plus(entry["Key"])
    if own.get("IsTruncated") != "true":
        return entries, None
    further = {parameter: own.get(field, "") for parameter, field in LISTINGS[kind].markers.items()}
    if not any(further.values()):
        raise Unavailable(f"{doing}: {answer.host} does not say how its list goes on")
    return entries, further


def etag_of(answer: Answer) -> str:
    """Return the ETag of what an answer is about, without its quotes; empty if there is none."""
    return answer.headers.get("ETag", "").strip().strip('"')


def is_of_parts(answer: Answer) -> bool:
    """True unless an answer shows that its object was sent in one request: its ETag then looks like an MD5."""
    return not _MD5.match(etag_of(answer))


def check_md5(answer: Answer, md5: str, doing: str) -> bool:
    """Return True if an answer proves that what was stored has this MD5, False if it tells nothing.

    Raises `Unavailable` if it has another. The ETag is the MD5, as a rule; not where the server encrypts by a
    customer's keys, and some servers make it of something else, in another form.
    """
    headers = answer.headers
    by_keys = "kms" in headers.get("x-amz-server-side-encryption", "").lower()
    if by_keys or "x-amz-server-side-encryption-customer-algorithm" in headers or not _MD5.match(etag_of(answer)):
        return False
    if etag_of(answer) != md5:
        raise Unavailable(f"{doing}: {answer.host} has got something else than was sent", passing=True)
    return True
