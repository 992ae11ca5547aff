"""Descriptors, threads and signals: what runs a session between git-annex and a handler.

One thread reads, requests run on a few others, and the main thread only waits for the end, in a read of
a pipe. Whatever ends the program writes a byte there: the reader at the end of stdin, a writer that finds
nobody listening, and the interpreter itself when a signal comes (`signal.set_wakeup_fd`), so that no
Python code has to run inside a signal handler and no lock that the main thread holds can be in its way.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from contextlib import suppress

from annex_remote.errors import Cancelled
from annex_remote.protocol import messages as m
from annex_remote.protocol.handler import Handler, UrlContents, UrlFile, perform, refuse
from annex_remote.protocol.jobs import Channel, Job
from annex_remote.protocol.session import Asked, Ended, Send
from annex_remote.workers import workers

__all__ = ["Handler", "Job", "Loop", "UrlContents", "UrlFile", "serve"]

_CLEAN_UP = 0.5
"""Seconds that jobs have to clean up once they are called off."""
_EXIT = 0.4
"""Seconds that the rest of the program then has."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STOP = 0  # no signal has this number


class Loop:
    """Answers the requests that are read from one descriptor on another, through a handler.

    The descriptors are the caller's, and stay open: `requests` until its other end is closed, since a
    thread may still be reading it after `run` has returned.
    """

    def __init__(self, handler: Handler, requests: int, replies: int) -> None:
        self._handler = handler
        self._requests = requests
        self._wake, self.wakeup = os.pipe()
        """`wakeup` takes the number of a signal, as a byte; see `signal.set_wakeup_fd`."""
        os.set_blocking(self.wakeup, False)
        self._status = 0
        self._channel = Channel(replies, broken=lambda: self.stop(1))

    def run(self) -> int:
        """Serve until stdin ends, git-annex reports an error or is gone, or `stop` or a signal comes.

        Returns the exit status, at most half a second after that, whether or not the jobs have ended.
        """
        log = _DebugLog(self._channel)
        logger = logging.getLogger("annex_remote")
        logger.addHandler(log)
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        try:
            while (number := os.read(self._wake, 1)[0]) != _STOP and number not in _SIGNALS:
                pass  # a signal that somebody else handles
            if number in _SIGNALS:
                self._status = 128 + number
            self._channel.cancel()
            self._channel.wait_answered(_CLEAN_UP)
        finally:
            logger.removeHandler(log)
        return self._status

    def stop(self, status: int = 0) -> None:
        """End `run`, from any thread; the first status that is not 0 counts."""
        self._status = self._status or status
        with suppress(BlockingIOError):  # full of reasons to end
            os.write(self.wakeup, bytes([_STOP]))

    def _read(self) -> None:
        status = 1
        try:
            self._channel.greet()
            while data := os.read(self._requests, 65536):
                for event in self._channel.receive(data):
                    match event:
                        case Asked(number, request):
                            self._start(self._channel.job(number), request)
                        case Send(line):
                            self._channel.write(line)
                        case Ended(reason):
                            sys.stderr.write(f"{reason}\n")
                            return
                        case _:
                            pass  # answers have been handed on already
            status = 0
        except (Cancelled, OSError):
            pass  # nobody is left to be told: git-annex is gone
        finally:
            self.stop(status)

    def _start(self, job: Job, request: m.Request) -> None:
        def work() -> None:
            try:
                perform(self._handler, self._channel, job, request)
            except BaseException:
                # It was not answered, and git-annex would wait for ever.
                self.stop(1)
                raise

        try:
            workers.start(work)
        except RuntimeError as error:  # "can't start new thread"
            refuse(self._channel, job, request, f"cannot work on this: {error}")


class _DebugLog(logging.Handler):
    """Sends records to git-annex, which shows them under --debug; tracebacks line by line."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def handle(self, record: logging.LogRecord) -> bool:
        # In place of `emit`, around which a handler holds its lock. The channel has locks of its own, and
        # a thread that holds one of those may come here while another thread does so the other way round.
        try:
            lines = self.format(record).splitlines()
        except Exception as error:  # noqa: BLE001 - a log call must not fail the work that it tells about
            lines = [f"{record.levelname} {record.name}: unreadable record: {type(error).__name__}"]
        self._channel.log(lines)
        return True


def serve(handler: Handler) -> int:
    """Be a special remote on stdin and stdout until the end; return the exit status.

    To be called once, from the main thread, as the last thing a program does: from here on descriptor 1
    is stderr and descriptor 0 is empty, for this process and its children, so that nothing but the
    protocol gets to git-annex and nobody else takes a request from it. Signals end it (protocol,
    "signals"). When this returns the process has `_EXIT` seconds: then an alarm ends it, even if a
    thread hangs in a library's clean-up.
    """
    requests, replies = _take_over()
    loop = Loop(handler, requests, replies)
    logging.getLogger("annex_remote").setLevel(logging.DEBUG)
    signal.set_wakeup_fd(loop.wakeup, warn_on_full_buffer=False)
    for number in _SIGNALS:
        signal.signal(number, lambda *_: None)  # only so that the wake-up byte is written
    status = loop.run()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, _EXIT)
    return status


def _take_over() -> tuple[int, int]:
    """Move stdin and stdout to private descriptors, which children do not inherit."""
    requests, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.stdout.flush()
    os.dup2(2, 1)
    for descriptor in (requests, replies):
        os.set_blocking(descriptor, True)
    return requests, replies
