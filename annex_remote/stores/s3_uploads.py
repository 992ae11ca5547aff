"""Multipart uploads to S3: in parts, so that what is cut off can be gone on with; visible when all are there."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from html import escape

from annex_remote.errors import Busy, Cancelled, Damaged, Denied, StoreError, Unavailable
from annex_remote.model import OpenAt, check_name
from annex_remote.stores.http import Answer
from annex_remote.stores.s3_answers import Entry, NotUnderstood, UploadGone, check_md5, etag_of, read_answer
from annex_remote.stores.s3_client import BucketClient
from annex_remote.stores.times import elapsed

__all__ = ["ABANDONED", "ONLY_NEW", "PART_SIZE", "Hashed", "Part", "Uploads", "plan_parts"]

PART_SIZE = 64 << 20
"""Bytes of a part, at least."""
ABANDONED = 7 * 86400.0
"""Seconds after which an upload that nobody goes on with is given up."""
ONLY_NEW = {"If-None-Match": "*"}
"""The condition that nothing has the name yet; a server that knows it answers 412 where something has."""
_PARTS = 10_000
"""Parts of an upload, at most."""
_MD5 = re.compile(r"[0-9a-f]{32}\Z")


@dataclass(frozen=True, slots=True)
class _Upload:
    name: str
    id: str
    begun: float = 0.0
    """When, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes [start, stop) of an object, and their number: the first part is 1."""

    number: int
    start: int
    stop: int
    is_last: bool

    @property
    def size(self) -> int:
        return self.stop - self.start


def plan_parts(size: int, part_size: int) -> list[Part]:
    """Return the parts of `size` bytes: all of one length but the last, as some servers want it."""
    length = max(part_size, -(-size // _PARTS))
    return [
        Part(number, start, min(start + length, size), start + length >= size)
        for number, start in enumerate(range(0, size, length), 1)
    ]


class Uploads:
    """The uploads to a bucket; thread safe. `part_size` is in bytes: servers refuse parts of less than 5 MiB."""

    def __init__(self, client: BucketClient, part_size: int, clock: Callable[[], float]) -> None:
        self._client = client
        self._part_size = part_size
        self._clock = clock
        self._lock = threading.Lock()
        self._swept = False
        self._active: set[str] = set()
        """Ids of the uploads that are under way here."""

    def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
        """Store an object of at least one byte in parts; see `model.Store.put`.

        With `fresh`, whoever calls this has looked; that it is new is asked for all the same, at the end.
        """
        self._sweep()
        parts = plan_parts(size, self._part_size)
        source = _Source(open_at)
        with self._upload(name, parts) as (upload, there):
            etags = [self._put_part(upload, part, source, there.get(part.number, "")) for part in parts]
            self._complete(upload, etags, size, fresh)

    @contextmanager
    def _upload(self, name: str, parts: list[Part]) -> Iterator[tuple[_Upload, dict[int, str]]]:
        """Go on with an upload that was cut off, or begin one; with it come the ETags of the parts it has.

        If it fails it is given up, unless the next put may go on: the failure passes, or it was called off.
        """
        found = self._unfinished(name, parts) if len(parts) > 1 else None
        upload, there = found or (self._begin(name), {})
        try:
            yield upload, there
        except BaseException as error:
            if not isinstance(error, Busy | Unavailable | Cancelled):
                self._abort(upload)
            raise
        finally:
            with self._lock:
                self._active.discard(upload.id)

    def _begin(self, name: str) -> _Upload:
        doing = f"putting {name}"
        answer = self._client.ask("POST", name, doing, {"uploads": ""}, headers=self._client.bucket.put_headers)
        root = read_answer(answer, "InitiateMultipartUpload", doing)
        upload = _Upload(name, (root.findtext("{*}UploadId") or "").strip())
        if not upload.id:
            raise Unavailable(f"{doing}: {answer.host} does not say which upload it has begun")
        with self._lock:
            self._active.add(upload.id)
        return upload

    def _put_part(self, upload: _Upload, part: Part, source: _Source, there: str) -> str:
        """Send a part, unless it is `there` (its ETag) as it would be sent; return its ETag."""
        content = Hashed(lambda at: source.read(at, None if part.is_last else part.stop))
        if _MD5.match(there):
            for _ in content(part.start):
                pass  # reading is cheaper than sending
            if content.md5.hexdigest() == there:
                return there
        doing = f"putting {upload.name} (part {part.number})"
        query = {"partNumber": str(part.number), "uploadId": upload.id}
        answer = self._client.send(
            upload.name, doing, part.size, content, query, start=part.start, is_part=not part.is_last
        )
        check_md5(answer, content.md5.hexdigest(), doing)
        etag = etag_of(answer)
        if not etag:
            raise Unavailable(f"{doing}: {answer.host} does not say what it has stored")
        return etag

    def _complete(self, upload: _Upload, etags: list[str], size: int, fresh: bool) -> None:
        """Make the object of its parts, and see that it is there."""
        doing = f"putting {upload.name} (all parts together)"
        parts = "".join(
            f'<Part><PartNumber>{number}</PartNumber><ETag>"{escape(etag)}"</ETag></Part>'
            for number, etag in enumerate(etags, 1)
        )
        data = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()

        def ask(headers: Mapping[str, str]) -> Answer:
            return self._client.ask(
                "POST", upload.name, doing, {"uploadId": upload.id}, data=data, headers=headers
            )

        try:
            try:
                answer = ask(ONLY_NEW if fresh else {})
            except NotUnderstood:
                if not fresh:
                    raise
                answer = ask({})  # it was perhaps the condition that it does not understand
            # What fails after a long time of work has the status 200, too.
            read_answer(answer, "CompleteMultipartUpload", doing)
        except Unavailable as error:
            # Another process may have been faster, or the answer alone was lost.
            if not error.passing or not self._is_made_of(upload.name, etags):
                raise
        if self._client.size(upload.name, doing) != size:
            raise Unavailable(f"{doing}: it is there in another size", passing=True)

    def _is_made_of(self, name: str, etags: list[str]) -> bool:
        try:
            digests = b"".join(map(bytes.fromhex, etags))
            found = etag_of(self._client.head(name, f"looking at {name}"))
        except (ValueError, StoreError):
            return False
        return found == f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(etags)}"

    def _unfinished(self, name: str, parts: list[Part]) -> tuple[_Upload, dict[int, str]] | None:
        """Return the newest upload that can be gone on with, and the ETags of the parts that it has.

        None that is older than `ABANDONED`: Amazon dates an object by the beginning of its upload, and what was
        put just now would look old.
        """
        try:
            begun = [upload for upload in self._list(name) if upload.name == name and not self._is_old(upload)]
        except (Denied, Unavailable) as error:
            if isinstance(error, Unavailable) and error.passing:
                raise
            return None  # not all servers list uploads, nor to everybody
        for upload in sorted(begun, key=lambda each: each.begun, reverse=True):
            there = self._etags_of_same(upload, parts)
            with self._lock:
                if there is not None and upload.id not in self._active:
                    self._active.add(upload.id)
                    return upload, there
        return None

    def _etags_of_same(self, upload: _Upload, parts: list[Part]) -> dict[int, str] | None:
        """Return the ETags of the parts that an upload has, None if they are not parts of the same lengths."""
        sizes = {part.number: part.size for part in parts}
        etags = {}
        try:
            for entry in self._list_parts(upload):
                number = entry.number("PartNumber")
                if entry.number("Size") != sizes.get(number):
                    return None
                etags[number] = entry["ETag"].strip('"')
        except (UploadGone, ValueError):
            return None
        return etags

    def _list(self, prefix: str) -> Iterator[_Upload]:
        """Yield the uploads of ours whose names begin with `prefix`."""
        begin = self._client.bucket.prefix
        for entry in self._client.listing(
            "ListMultipartUploads", "looking for uploads", {"prefix": begin + prefix}
        ):
            with suppress(Damaged, ValueError):  # somebody else's
                if entry["Key"].startswith(begin) and entry["UploadId"]:
                    name = check_name(entry["Key"].removeprefix(begin))
                    yield _Upload(name, entry["UploadId"], _seconds(entry["Initiated"]))

    def _list_parts(self, upload: _Upload) -> Iterator[Entry]:
        doing = f"looking for parts of {upload.name}"
        return self._client.listing("ListParts", doing, {"uploadId": upload.id}, upload.name)

    def _abort(self, upload: _Upload) -> None:
        with suppress(StoreError):  # then it is swept later
            self._client.ask(
                "DELETE", upload.name, f"giving up {upload.name}", {"uploadId": upload.id}, ok=(200, 204)
            )

    def _sweep(self) -> None:
        """Once a process, give up the uploads of ours that nobody goes on with: what they have takes up space."""
        with self._lock:
            swept, self._swept = self._swept, True
        if swept:
            return
        with suppress(StoreError):  # housekeeping: nothing that fails here is in the way of a share
            for upload in list(self._list("")):
                if self._is_abandoned(upload):
                    self._abort(upload)

    def _is_old(self, upload: _Upload) -> bool:
        age = elapsed(upload.begun, self._clock())
        return age is not None and age > ABANDONED

    def _is_abandoned(self, upload: _Upload) -> bool:
        before = self._clock() - ABANDONED
        if upload.begun >= before or upload.id in self._active:
            return False
        try:
            return all(_seconds(part["LastModified"]) < before for part in self._list_parts(upload))
        except ValueError:
            return False


class Hashed:
    """A source, and the MD5 of what was read of it last."""

    def __init__(self, open_at: OpenAt) -> None:
        self._open_at = open_at
        self.md5 = hashlib.md5(usedforsecurity=False)

    def __call__(self, start: int) -> Iterator[bytes | memoryview]:
        self.md5 = hashlib.md5(usedforsecurity=False)
        for piece in self._open_at(start):
            self.md5.update(piece)
            yield piece


class _Source:
    """A source that is read in parts: opened once, if they are read in their order."""

    def __init__(self, open_at: OpenAt) -> None:
        self._open_at = open_at
        self._pieces: Iterator[bytes | memoryview] | None = None
        self._rest = memoryview(b"")
        self._at = 0

    def read(self, start: int, stop: int | None) -> Iterator[memoryview]:
        """Yield bytes [start, stop), or all that follow."""
        if self._pieces is None or start != self._at:
            self._pieces, self._rest, self._at = iter(self._open_at(start)), memoryview(b""), start
        while stop is None or self._at < stop:
            if not self._rest:
                piece = next(self._pieces, None)
                if piece is None:
                    return
                self._rest = memoryview(piece)
            given = self._rest if stop is None else self._rest[: stop - self._at]
            self._rest = self._rest[len(given) :]
            self._at += len(given)
            yield given


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
