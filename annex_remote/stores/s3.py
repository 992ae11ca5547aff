"""S3, and everything that speaks like it. Address ``s3://endpoint[:port]/bucket[/prefix][?option=value&...]``.

Options: ``region``, ``style`` (path or host: where the bucket's name stands), ``class`` (storage class of what is
put), ``http=yes`` (without encryption), ``ca`` (file with the certificates to trust).

Nothing damaged on its way is to be seen, and what is put is made only once, as it is sent:

- What fits into `SMALL` bytes is sent with its MD5 before it: the server refuses it if that differs.
- More than that over plain HTTP is signed chunk by chunk: likewise.
- Over TLS that is not needed, nor do all servers take it there: a connection that damages anything breaks.
- Whatever the server says it has stored (the ETag, an MD5 as a rule) is compared with what was sent. With parts of
  an upload, that is before anything of it is visible; else it is removed again.
"""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

from annex_remote.errors import Damaged, Exists, NotFound, StoreError, Unavailable
from annex_remote.model import Access, ByteStream, OpenAt, check_name
from annex_remote.stores.http import Answer
from annex_remote.stores.numbers import whole_number
from annex_remote.stores.s3_address import Bucket, read_address
from annex_remote.stores.s3_answers import NotUnderstood, check_md5, is_of_parts
from annex_remote.stores.s3_client import BucketClient
from annex_remote.stores.s3_uploads import ABANDONED, ONLY_NEW, PART_SIZE, Hashed, Uploads
from annex_remote.stores.state import SharedFile, state_path
from annex_remote.stores.times import age_by_headers

__all__ = ["SMALL", "S3Store", "check", "open_store"]

_HEEDS = {"heeds": True, "ignores": False}
HEEDS_AGE = 7 * 86400.0
"""Seconds after which it is seen anew what a server makes of a condition: it may have become another one."""

LONGEST_UPLOAD = 2 * ABANDONED
"""Seconds from the beginning of an upload to its end, at most: one that is older than half of them is not gone on
with, and the other half is far more than an attempt takes."""

SMALL = 1 << 20
"""Bytes that are held in memory to be sent."""


def check(address: str) -> str:
    """Return the address in its one form; raises `BadSetting`."""
    place, _ = read_address(address)
    return str(place)


def open_store(address: str, access: Access) -> S3Store:
    """Open the bucket at `address`; see `annex_remote.stores.open_store`."""
    _, bucket = read_address(address)
    known = f"{bucket.origin}{bucket.path}".replace("/", "_")
    return S3Store(bucket, access, known=lambda: SharedFile(state_path("s3", known)))


class _Heeding:
    """Whether a server heeds `ONLY_NEW`: some refuse it, and others say nothing and replace what is there.

    Once seen it is remembered, for other processes as well if there is a file for that.
    """

    def __init__(self, file: Callable[[], SharedFile] | None, date: Callable[[], float]) -> None:
        self._file = file
        self._date = date
        self._lock = threading.Lock()
        self._looked = False
        self._known: bool | None = None

    @property
    def known(self) -> bool | None:
        """None as long as it was not seen."""
        with self._lock:
            if not self._looked:
                self._looked = True
                self._change(self._read)
            return self._known

    def _read(self, kept: bytes) -> bytes:
        word, _, seen = kept.decode(errors="replace").partition(" ")
        age = self._date() - (whole_number(seen) or 0)
        if word in _HEEDS and 0 <= age < HEEDS_AGE:
            self._known = _HEEDS[word]
        return kept

    def learn(self, heeds: bool) -> None:
        """Take in what was seen."""
        with self._lock:
            is_new, self._known, self._looked = self._known is not heeds, heeds, True
            if is_new:
                word = next(word for word, meaning in _HEEDS.items() if meaning is heeds)
                self._change(lambda _: f"{word} {self._date():.0f}".encode())

    def _change(self, change: Callable[[bytes], bytes]) -> None:
        if self._file is not None:
            with suppress(OSError):  # it is only forgotten
                self._file().change(change)


class S3Store:
    """Keeps each name as an object of a bucket; see `model.Store` for the contract.

    What has `part_size` bytes or more is sent in parts of that size.
    """

    def __init__(
        self,
        bucket: Bucket,
        access: Access,
        *,
        part_size: int = PART_SIZE,
        clock: Callable[[], float] = time.time,
        known: Callable[[], SharedFile] | None = None,
    ) -> None:
        self._client = BucketClient(bucket, access, clock)
        self._uploads = Uploads(self._client, part_size, clock)
        self._part_size = part_size
        self._in_chunks = not bucket.is_encrypted
        self._heeding = _Heeding(known, clock)

    def put(self, name: str, size: int, open_at: OpenAt, *, fresh: bool = False) -> None:
        check_name(name)
        self._client.check_keys(f"putting {name}")
        if not fresh:
            self._put(name, size, open_at, {})
            return
        is_large = size >= self._part_size
        heeds = self._heeding.known
        if (is_large or not heeds) and self.stat(name) is not None:
            raise Exists(f"putting {name}: it is there already")
        if heeds is False:
            self._put(name, size, open_at, {})
            return
        try:
            self._put(name, size, open_at, ONLY_NEW)
        except Exists:
            self._heeding.learn(True)
            raise
        except NotUnderstood:
            if is_large or heeds:
                raise
            self._put(name, size, open_at, {})  # it was perhaps the condition that it does not understand
            self._heeding.learn(False)

    def _put(self, name: str, size: int, open_at: OpenAt, condition: Mapping[str, str]) -> None:
        if size >= self._part_size:
            self._uploads.put(name, size, open_at, fresh=bool(condition))
        elif size <= SMALL:
            self._put_small(name, size, open_at, condition)
        else:
            self._put_whole(name, size, open_at, condition)

    def _put_small(self, name: str, size: int, open_at: OpenAt, condition: Mapping[str, str]) -> None:
        data = bytearray()
        for piece in open_at(0):
            data += piece
            if len(data) > size:
                break
        if len(data) != size:
            few = "more" if len(data) > size else "fewer"
            raise Damaged(f"the source gave {few} bytes than the {size} announced")
        md5 = hashlib.md5(data, usedforsecurity=False)
        headers = self._client.bucket.put_headers | {"Content-MD5": base64.b64encode(md5.digest()).decode()}

        def send() -> Answer:
            given = {**headers, **condition}
            return self._client.ask("PUT", name, f"putting {name}", data=bytes(data), headers=given)

        self._check_stored(name, size, send(), md5.hexdigest())
        if condition and self._heeding.known is None:
            self._try_condition(send)

    def _try_condition(self, send: Callable[[], object]) -> None:
        """Learn whether the server heeds the condition, by sending once more what it has taken just now."""
        try:
            send()
            self._heeding.learn(False)
        except Exists:
            self._heeding.learn(True)
        except StoreError:
            pass  # another put tells

    def _put_whole(self, name: str, size: int, open_at: OpenAt, condition: Mapping[str, str]) -> None:
        content = Hashed(open_at)
        headers = {**self._client.bucket.put_headers, **condition}
        in_chunks = self._in_chunks
        answer = self._client.send(name, f"putting {name}", size, content, headers=headers, in_chunks=in_chunks)
        self._check_stored(name, size, answer, content.md5.hexdigest())

    def _check_stored(self, name: str, size: int, answer: Answer, md5: str) -> None:
        """Raise `Unavailable` if something else was stored than was sent; it is removed then."""
        doing = f"putting {name}"
        try:
            is_proved = check_md5(answer, md5, doing)
        except Unavailable:
            with suppress(StoreError):
                if self._in_chunks and self._client.size(name, doing) > size:
                    # It knows nothing of chunks, and has stored their signatures, too.
                    self._in_chunks = False
                self._client.delete(name, doing)
            raise
        if not is_proved and self._client.size(name, doing) != size:
            raise Unavailable(f"{doing}: it is there in another size", passing=True)

    def read(self, name: str, start: int = 0, length: int | None = None) -> ByteStream:
        return self._client.read(check_name(name), f"reading {name}", start, length)

    def stat(self, name: str) -> int | None:
        try:
            return self._client.size(check_name(name), f"looking at {name}")
        except NotFound:
            return None

    def age(self, name: str) -> float | None:
        answer = self._client.head(check_name(name), f"looking at {name}")
        age = age_by_headers(answer.headers)
        if age is None or not is_of_parts(answer):
            return age
        # Amazon dates it by the beginning of its upload, which may have been cut off and ended only now.
        return max(0.0, age - LONGEST_UPLOAD)

    def delete(self, name: str) -> None:
        doing = f"removing {check_name(name)}"
        self._client.check_keys(doing)
        with suppress(NotFound):
            self._client.delete(name, doing)

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        begin = self._client.bucket.prefix
        for entry in self._client.listing("ListBucket", "listing", {"prefix": begin + prefix}):
            name = entry["Key"].removeprefix(begin)
            with suppress(Damaged, ValueError):  # somebody else's
                if entry["Key"].startswith(begin + prefix) and check_name(name):
                    yield name, entry.number("Size")

    def space(self) -> int | None:
        return None  # there is no way to ask

    def close(self) -> None:
        self._client.close()
