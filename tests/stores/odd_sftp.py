"""OpenSSH's sftp-server with one oddity, to be run in the place of ssh.

    odd_sftp.py ODDITY NUMBER SERVER [ARGUMENT...]

full N      its disk takes N bytes more; says so as OpenSSH's does, by "Failure", and shows how much is free
quota N     an account takes N bytes more; says so with the code of a later version
short N     gives N bytes at most when more are asked for
hold N      neither gives nor takes data before it was asked to N times
trickle N   gives N bytes a second of what it is asked for
unsure N    cannot force to the disk what is longer than N bytes
babble N    answers a question for data by N bytes that are no packet
stubborn N  refuses the first of N attempts to rename, and of the next N
replacing N replaces what has a name that something is renamed to
lose N      takes N writes, then writes nothing and says that all is well
timeless N  does not tell when anything was written
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import IO

_READ, _WRITE, _RENAME, _STATUS, _ATTRS, _EXTENDED, _EXTENDED_REPLY = 5, 6, 18, 101, 105, 200, 201
_TIMES = 8
"""The flag of attributes that have times, and how many bytes these take, at the end."""
_FAILURE, _QUOTA = 4, 15


def main() -> None:
    oddity, number, *command = sys.argv[1:]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        between = Between(oddity, int(number), server.stdin)
        answers = threading.Thread(target=between.pass_back, args=(server.stdout,))
        answers.start()
        for packet in packets(sys.stdin.buffer):
            between.take(packet)
        server.stdin.close()
        answers.join()


def packets(stream: IO[bytes]) -> Iterator[bytearray]:
    while head := stream.read(4):
        yield bytearray(stream.read(struct.unpack(">I", head)[0]))


class Between:
    def __init__(self, oddity: str, number: int, server: IO[bytes]) -> None:
        self._oddity = oddity
        self._left = number
        self._number = number
        self._server = server
        self._held: list[bytearray] = []
        self._lock = threading.Lock()

    def take(self, packet: bytearray) -> None:
        """Do with a request what is to be done."""
        kind = packet[0]
        if kind == _READ and self._oddity == "short":
            length = min(struct.unpack(">I", packet[-4:])[0], self._number)
            packet[-4:] = struct.pack(">I", length)
        if kind == _READ and self._oddity == "babble":
            with self._lock:
                sys.stdout.buffer.write(b"x" * self._number)
                sys.stdout.buffer.flush()
            return
        if kind in (_READ, _WRITE) and self._oddity == "hold":
            self._held.append(packet)
            if len(self._held) < self._number:
                return
            for each in self._held:
                send(self._server, each)
            self._held = []
            return
        if kind == _WRITE and self._oddity in ("full", "quota"):
            handle = struct.unpack_from(">I", packet, 5)[0]
            self._left -= len(packet) - 21 - handle
            if self._left < 0:
                self._refuse(packet, _FAILURE if self._oddity == "full" else _QUOTA)
                return
        if kind == _RENAME and self._oddity == "stubborn":
            self._left += 1
            if self._left % self._number == 1:
                self._refuse(packet, _FAILURE)
                return
        if kind == _RENAME and self._oddity == "replacing":
            extension = b"posix-rename@openssh.com"
            packet[0] = _EXTENDED
            packet[5:5] = struct.pack(">I", len(extension)) + extension
        if kind == _WRITE and self._oddity == "lose":
            self._left -= 1
            if self._left < 0:
                self._refuse(packet, 0)
                return
        if kind == _WRITE and self._oddity == "unsure":
            self._left -= len(packet)
        if kind == _EXTENDED and self._oddity == "unsure" and b"fsync@" in packet and self._left < 0:
            self._refuse(packet, _FAILURE)
            return
        if kind == _EXTENDED and self._oddity == "full" and b"statvfs@" in packet:
            figures = (4096, 1, 1 << 30, self._number, self._number, *[0] * 6)
            self._answer(bytearray([_EXTENDED_REPLY]) + packet[1:5] + struct.pack(">11Q", *figures))
            return
        send(self._server, packet)

    def pass_back(self, answers: IO[bytes]) -> None:
        for packet in packets(answers):
            self._answer(packet)
        os.close(1)

    def _refuse(self, packet: bytearray, code: int) -> None:
        words = b"Failure"
        tail = struct.pack(">II", code, len(words)) + words + bytes(4)
        self._answer(bytearray([_STATUS]) + packet[1:5] + tail)

    def _answer(self, packet: bytearray) -> None:
        if packet[0] == _ATTRS and self._oddity == "timeless" and packet[8] & _TIMES:
            packet[8] ^= _TIMES
            del packet[-_TIMES:]
        with self._lock:
            if self._oddity != "trickle":
                send(sys.stdout.buffer, packet)
                return
            rest = memoryview(struct.pack(">I", len(packet)) + packet)
            while rest:
                sys.stdout.buffer.write(rest[: self._number // 20])
                sys.stdout.buffer.flush()
                rest = rest[self._number // 20 :]
                time.sleep(0.05)


def send(stream: IO[bytes], packet: bytearray) -> None:
    stream.write(struct.pack(">I", len(packet)) + packet)
    stream.flush()


if __name__ == "__main__":
    main()
