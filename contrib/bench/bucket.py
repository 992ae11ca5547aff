"""An S3 server that keeps everything in memory and checks nothing: what is measured is then whoever asks it.

    with Buckets() as buckets:
        ...  # http://127.0.0.1:{buckets.port}, any bucket, any keys

A real server on this machine (Ceph's gateway, in `mixed.py --gateway`) takes as much of the two processors as the
engine does, and one at the end of a long line would not. It serves what a store of small objects asks for: PUT
(with If-None-Match), GET (with Range), HEAD, DELETE, and listings.
"""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
from typing import Self
from urllib.parse import parse_qs, unquote
from xml.sax.saxutils import escape

HOST = "127.0.0.1"


class Buckets:
    """The process that serves; it ends with the one that made it."""

    def __init__(self) -> None:
        command = [sys.executable, "-I", "-S", __file__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout
        self.port = int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# The end that serves.

Headers = dict[bytes, bytes]


class Connection(asyncio.Protocol):
    """One connection; requests on it are answered one after the other."""

    def __init__(self, kept: dict[str, bytes]) -> None:
        self._kept = kept
        self._held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._held += data
        while (end := self._held.find(b"\r\n\r\n")) >= 0:
            first, *lines = self._held[:end].split(b"\r\n")
            pairs = (line.partition(b":") for line in lines)
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            whole = end + 4 + int(headers.get(b"content-length", b"0"))
            if len(self._held) < whole:
                return
            body, self._held = self._held[end + 4 : whole], self._held[whole:]
            method, target, _ = first.decode().split(" ")
            path, _, query = target.partition("?")
            self._transport.write(self._answer(method, unquote(path), query, headers, body))

    def _answer(self, method: str, path: str, query: str, headers: Headers, body: bytes) -> bytes:
        if "list-type=2" in query:
            return reply("200 OK", self._listing(path, parse_qs(query).get("prefix", [""])[0]))
        if method == "PUT":
            if path in self._kept and headers.get(b"if-none-match") == b"*":
                return failure("412 Precondition Failed", "PreconditionFailed")
            self._kept[path] = body
            return reply("200 OK", b"", f'ETag: "{hashlib.md5(body).hexdigest()}"\r\n')
        if method == "DELETE":
            self._kept.pop(path, None)
            return reply("204 No Content")
        found = self._kept.get(path)
        if found is None:
            return reply("404 Not Found") if method == "HEAD" else failure("404 Not Found", "NoSuchKey")
        if method == "HEAD":
            return f"HTTP/1.1 200 OK\r\nContent-Length: {len(found)}\r\n\r\n".encode()
        asked = headers.get(b"range", b"").decode().removeprefix("bytes=")
        if not asked:
            return reply("200 OK", found)
        start, _, last = asked.partition("-")
        begin, end = int(start), min(int(last) + 1 if last else len(found), len(found))
        if begin >= len(found):
            return failure("416 Range Not Satisfiable", "InvalidRange")
        span = f"Content-Range: bytes {begin}-{end - 1}/{len(found)}\r\n"
        return reply("206 Partial Content", found[begin:end], span)

    def _listing(self, bucket: str, prefix: str) -> bytes:
        begin = f"{bucket.rstrip('/')}/"
        entries = "".join(
            f"<Contents><Key>{escape(path.removeprefix(begin))}</Key><Size>{len(data)}</Size></Contents>"
            for path, data in sorted(self._kept.items())
            if path.startswith(begin + prefix)
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode()


def reply(status: str, body: bytes = b"", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


def failure(status: str, code: str) -> bytes:
    return reply(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())


async def serve() -> None:
    loop = asyncio.get_running_loop()
    kept: dict[str, bytes] = {}
    server = await loop.create_server(lambda: Connection(kept), HOST, 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)  # until whoever started this is gone


if __name__ == "__main__":
    asyncio.run(serve())
