"""Lines to real servers with a set rate and latency, and lines that hang: a forwarder on 127.0.0.1 for each store.

    with Shaped() as shaped:
        line = shaped.line(server.port, port)
        line.shape(down=20e6, up=20e6, round_trip=0.1)
        ...                                             # what is asked at `port`
        print(line.counts().down)

It forwards in a process of its own, so that the one that measures loses no time to it; commands go there over a
pipe. It knows no protocol: what is behind it may speak what it likes.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

HOST = "127.0.0.1"
PIECE = 16 << 10
"""Bytes that go through at once, at most."""
BURST = 0.02
"""Seconds that an idle line saves up: what it may send at once when it is used again."""
TICK = 0.003
"""Seconds between two looks at what may go through, at least: fewer looks take less of the processor."""
TURNS = 32
"""Pieces after which others have their turn, where nothing bounds the rate."""
BUFFER = 256 << 10
"""Bytes that the system keeps for each end of a connection, and a line without latency itself: what waits for its
turn waits at the sender, as before a real line."""
UNDER_WAY = 8 << 20
"""Bytes of one connection that a line with latency can have under way."""


@dataclass(frozen=True)
class Counts:
    """What has come out of a line: bytes, connections, and when the last byte came (as `time.monotonic`, or 0)."""

    down: int
    up: int
    connections: int
    last_down: float
    last_up: float


# The end of the measurement.


class Shaped:
    """The process that forwards; it ends with the one that made it."""

    def __init__(self) -> None:
        command = [sys.executable, "-I", "-S", __file__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def line(self, server: int, port: int = 0) -> Line:
        """A line to the port `server`, at `port` or wherever there is a free one; without bounds so far."""
        made = self.ask(do="open", server=server, port=port)
        return Line(self, made["line"], made["port"])

    def ask(self, **command: object) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline()
        if not said:
            raise RuntimeError(f"the forwarder ended upon {command}")
        return json.loads(said)

    def close(self) -> None:
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Line:
    """One store's line, at `port`."""

    def __init__(self, shaped: Shaped, number: int, port: int) -> None:
        self._shaped = shaped
        self._number = number
        self.port = port

    def shape(self, down: float = 0, up: float = 0, round_trip: float = 0) -> None:
        """Set all bounds: bytes a second over all connections (0: none), and seconds there and back again."""
        self._do("shape", down=down, up=up, delay=round_trip / 2)

    def hang(self) -> None:
        """Take connections, and let nothing through any more, neither way; what is under way arrives."""
        self._do("hang")

    def hang_after(self, count: int) -> None:
        """Hang when `count` more bytes have gone down."""
        self._do("hang_after", count=count)

    def release(self) -> None:
        """Go on after a hang; a hang that has not begun will not come."""
        self._do("release")

    def refuse(self) -> None:
        """Cut all connections, and take no new ones: the server is not there."""
        self._do("refuse")

    def accept(self) -> None:
        """Take connections again, at the same port."""
        self._do("accept")

    def counts(self) -> Counts:
        """What went through since `reset`."""
        return Counts(**self._do("counts"))

    def reset(self) -> None:
        self._do("reset")

    def _do(self, what: str, **options: object) -> Any:
        return self._shaped.ask(do=what, line=self._number, **options)


# The end that forwards.


class _Way:
    """One direction of a line, over all its connections: the tokens that they share, a delay, a count."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.rate = 0.0
        self.delay = 0.0
        self.hung = False
        self.left: int | None = None
        """Bytes until this line hangs."""
        self.count = 0
        self.last = 0.0
        self._paid = 0.0
        """The time at which what has gone through would be through, at this rate."""
        self._ready: deque[_Half] = deque()
        self._timer: asyncio.Handle | None = None
        self._pumping = False

    def ready(self, half: _Half) -> None:
        """Take in a connection that may have something to forward."""
        self._ready.append(half)
        if self._timer is None and not self._pumping:
            self.pump()

    def pump(self) -> None:
        """Let through what may go now, of each connection in turn; go on later with the rest."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pumping = True
        for _ in range(TURNS):
            if not self._ready or self.hung:
                break
            now = time.monotonic()
            if self.rate and self._paid > now:
                self._timer = self.loop.call_later(max(self._paid - now, TICK), self.pump)
                break
            count = self._ready.popleft().move(PIECE if self.left is None else min(PIECE, self.left), now)
            if self.rate:
                self._paid = max(self._paid, now - BURST) + count / self.rate
            if self.left is not None:
                self.left -= count
                self.hung = self.left <= 0
        else:
            self._timer = self.loop.call_soon(self.pump)
        self._pumping = False

    def passed(self, count: int, now: float) -> None:
        self.count += count
        self.last = now


class _Half:
    """One direction of one connection: what is read from `source` goes to `target`, later and in order."""

    def __init__(self, way: _Way, source: socket.socket, target: socket.socket, pair: _Pair, first: float) -> None:
        self._way = way
        self._source = source
        self._target = target
        self._pair = pair
        self._first = first
        """When the first byte can be there at the earliest."""
        self._queue: deque[tuple[float, memoryview]] = deque()
        self._held = 0
        self._paused = False
        self.ended = False
        self._timer: asyncio.Handle | None = None

    def arm(self) -> None:
        """Wait for something to read."""
        self._way.loop.add_reader(self._source, self._readable)

    def _readable(self) -> None:
        self._way.loop.remove_reader(self._source)
        self._way.ready(self)

    def move(self, most: int, now: float) -> int:
        """Take in `most` bytes at most, and return how many; while there may be more, it is `ready` again."""
        if self._pair.closed:
            return 0
        try:
            data = self._source.recv(most)
        except BlockingIOError:
            self.arm()
            return 0
        except OSError:
            self._pair.close()
            return 0
        self._queue.append((max(now + self._way.delay, self._first), memoryview(data)))
        self._held += len(data)
        self._flush()
        if data and not self._pair.closed:
            self._paused = self._held >= (UNDER_WAY if self._way.delay else BUFFER)
            if not self._paused:
                self._way.ready(self)
        return len(data)

    def _flush(self) -> None:
        """Hand on what is due."""
        now = time.monotonic()
        while self._queue and not self._pair.closed:
            due, data = self._queue[0]
            if due > now + 0.0005:
                if self._timer is None:
                    self._timer = self._way.loop.call_at(due, self._due)
                break
            try:
                if data:
                    sent = self._target.send(data)
                else:
                    self._target.shutdown(socket.SHUT_WR)
                    self._queue.popleft()
                    self.ended = True
                    self._pair.half_ended()
                    return
            except BlockingIOError:
                self._way.loop.add_writer(self._target, self._writable)
                break
            except OSError:
                self._pair.close()
                return
            self._way.passed(sent, now)
            self._held -= sent
            if sent == len(data):
                self._queue.popleft()
            else:
                self._queue[0] = (due, data[sent:])
        if self._paused and self._held < BUFFER:
            self._paused = False
            self._way.ready(self)

    def _due(self) -> None:
        self._timer = None
        self._flush()

    def _writable(self) -> None:
        self._way.loop.remove_writer(self._target)
        self._flush()

    def cancel(self) -> None:
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()


class _Pair:
    """One connection of a client, and the one to the server that was made for it."""

    def __init__(self, line: _Forwarder, client: socket.socket, server: socket.socket) -> None:
        self._line = line
        self._sockets = (client, server)
        self.closed = False
        for end in self._sockets:
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The system has taken this connection at once; over a real line that, too, is a round trip.
        first = time.monotonic() + 3 * line.up.delay
        self._halves = (_Half(line.up, client, server, self, first), _Half(line.down, server, client, self, 0.0))
        for half in self._halves:
            half.arm()

    def half_ended(self) -> None:
        if all(half.ended for half in self._halves):
            self.close()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        for half in self._halves:
            half.cancel()
        for end in self._sockets:
            self._line.loop.remove_reader(end)
            self._line.loop.remove_writer(end)
            end.close()
        self._line.pairs.discard(self)


class _Forwarder:
    """A line, in the process that forwards."""

    def __init__(self, loop: asyncio.AbstractEventLoop, server: int, port: int) -> None:
        self.loop = loop
        self.up = _Way(loop)
        self.down = _Way(loop)
        self.pairs: set[_Pair] = set()
        self._server = server
        self._connections = 0
        self._listening: socket.socket | None = None
        self.port = port
        self.accept()

    def accept(self) -> None:
        if self._listening is not None:
            return
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _small_buffers(listening)  # those that it takes inherit them
        listening.bind((HOST, self.port))
        listening.listen(128)
        listening.setblocking(False)
        self.port = listening.getsockname()[1]
        self._listening = listening
        self.loop.add_reader(listening, self._take)

    def _take(self) -> None:
        assert self._listening is not None
        try:
            client, _ = self._listening.accept()
        except OSError:
            return
        self._connections += 1
        server = socket.socket()
        _small_buffers(server)
        try:
            server.connect((HOST, self._server))
        except OSError:
            server.close()
            client.close()
            return
        self.pairs.add(_Pair(self, client, server))

    def refuse(self) -> None:
        if self._listening is not None:
            self.loop.remove_reader(self._listening)
            self._listening.close()
            self._listening = None
        for pair in list(self.pairs):
            pair.close()

    def shape(self, down: float, up: float, delay: float) -> None:
        self.down.rate, self.up.rate = down, up
        self.down.delay = self.up.delay = delay
        for way in (self.down, self.up):
            way.pump()

    def hang(self) -> None:
        self.down.hung = self.up.hung = True

    def hang_after(self, count: int) -> None:
        self.down.left = count
        self.down.hung = count <= 0

    def release(self) -> None:
        for way in (self.down, self.up):
            way.hung, way.left = False, None
            way.pump()

    def counts(self) -> dict[str, float]:
        ways = {"down": self.down.count, "up": self.up.count, "connections": self._connections}
        return ways | {"last_down": self.down.last, "last_up": self.up.last}

    def reset(self) -> None:
        self._connections = 0
        for way in (self.down, self.up):
            way.count, way.last = 0, 0.0


def _small_buffers(end: socket.socket) -> None:
    for which in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        end.setsockopt(socket.SOL_SOCKET, which, BUFFER)


class _Commands:
    """What is read from the pipe, done, and answered."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lines: list[_Forwarder] = []
        self._read = b""
        loop.add_reader(0, self._readable)

    def _readable(self) -> None:
        data = os.read(0, 1 << 16)
        if not data:
            self._loop.stop()
        *whole, self._read = (self._read + data).split(b"\n")
        for line in whole:
            try:
                answer = self._do(json.loads(line))
            except Exception:
                self._loop.stop()  # whoever waits for the answer learns that there is none
                raise
            os.write(1, json.dumps(answer).encode() + b"\n")

    def _do(self, command: Mapping[str, Any]) -> object:
        options = dict(command)
        what = options.pop("do")
        if what == "open":
            self._lines.append(_Forwarder(self._loop, **options))
            return {"line": len(self._lines) - 1, "port": self._lines[-1].port}
        return getattr(self._lines[options.pop("line")], what)(**options)


def main() -> None:
    loop = asyncio.new_event_loop()
    _Commands(loop)
    with suppress(KeyboardInterrupt):  # whoever started this closes the pipe
        loop.run_forever()


if __name__ == "__main__":
    main()
