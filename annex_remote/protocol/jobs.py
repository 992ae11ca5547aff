"""The thread-safe face of a session: many jobs, one pair of descriptors.

A `Job` is what a request's handler speaks through; a `Channel` makes the jobs take turns. Two locks:
`_writing` is held while lines are made and written, so that they come out whole and in the order in
which the session made them; `_state`, inside it, guards the session and is never held while blocking,
so that reading goes on while git-annex is slow to take what we write.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from annex_remote.errors import Cancelled
from annex_remote.protocol import messages as m
from annex_remote.protocol.session import Asked, Event, LocalProtocolError, Replied, Session

__all__ = ["Channel", "Job"]


class _Waiting:
    """A question under way: `values` stays None when there will be no answer."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.values: tuple[str, ...] | None = None


class Job:
    """A request of git-annex's, seen by its handler: what can be asked and told meanwhile.

    All methods may be called from any thread. They raise `Cancelled` when the program is ending or
    git-annex is gone, and `LineError` for values that cannot be sent, such as a name with a line break.
    Once the request is answered, questions and settings raise `LocalProtocolError`; `progress`, `info`
    and `debug` do nothing, since a straggler may well call them.
    """

    def __init__(self, number: int, channel: Channel) -> None:
        self.number = number
        self.cancelled = channel.cancelled
        """Set when the program is ending: stop, clean up, within half a second."""
        self._channel = channel
        self._asking = threading.Lock()  # git-annex takes one question at a time from a job
        self._progressing = threading.Lock()
        self._progress = -1
        self._waiting: _Waiting | None = None  # guarded by the channel's `_state`

    def get_config(self, name: str) -> str:
        """Return a setting, empty when it is not set (GETCONFIG)."""
        return self._ask(m.GetConfig(name))[0]

    def set_config(self, name: str, value: str) -> None:
        """Set a setting: for good during INITREMOTE, else for this process (SETCONFIG)."""
        self._tell(m.SetConfig(name, value))

    def get_creds(self, setting: str) -> tuple[str, str]:
        """Return user and password, both empty when there are none (GETCREDS)."""
        user, password = self._ask(m.GetCreds(setting))
        return user, password

    def set_creds(self, setting: str, user: str, password: str) -> None:
        """Let git-annex keep user (no spaces) and password (SETCREDS)."""
        self._tell(m.SetCreds(setting, user, password))

    def get_uuid(self) -> str:
        """Return the UUID of this remote (GETUUID)."""
        return self._ask(m.GetUuid())[0]

    def get_git_dir(self) -> str:
        """Return the path of the git directory, possibly relative (GETGITDIR)."""
        return self._ask(m.GetGitDir())[0]

    def get_git_remote_name(self) -> str | None:
        """Return the name of the git remote, None where git-annex cannot tell (GETGITREMOTENAME).

        Not for INITREMOTE: there may be no name yet, and old versions of git-annex then end it all.
        """
        if not self._channel.agreed(m.GetGitRemoteName.word):
            return None
        return self._ask(m.GetGitRemoteName())[0]

    def get_wanted(self) -> str:
        """Return the preferred content expression (GETWANTED)."""
        return self._ask(m.GetWanted())[0]

    def set_wanted(self, expression: str) -> None:
        """Set the preferred content expression (SETWANTED)."""
        self._tell(m.SetWanted(expression))

    def get_state(self, key: str) -> str:
        """Return what `set_state` kept for a key, empty when nothing (GETSTATE)."""
        return self._ask(m.GetState(key))[0]

    def set_state(self, key: str, value: str) -> None:
        """Keep something for a key, in the git-annex branch (SETSTATE)."""
        self._tell(m.SetState(key, value))

    def set_url_present(self, key: str, url: str) -> None:
        """Record that a key can be had from a URL (SETURLPRESENT)."""
        self._tell(m.SetUrlPresent(key, url))

    def set_url_missing(self, key: str, url: str) -> None:
        """Record that it cannot any more (SETURLMISSING)."""
        self._tell(m.SetUrlMissing(key, url))

    def set_uri_present(self, key: str, uri: str) -> None:
        """Record that a key can be had from a URI that http cannot fetch (SETURIPRESENT)."""
        self._tell(m.SetUriPresent(key, uri))

    def set_uri_missing(self, key: str, uri: str) -> None:
        """Record that it cannot any more (SETURIMISSING)."""
        self._tell(m.SetUriMissing(key, uri))

    def get_urls(self, key: str, prefix: str = "") -> list[str]:
        """Return the recorded URLs of a key that begin with `prefix` (GETURLS)."""
        return list(self._ask(m.GetUrls(key, prefix)))

    def dirhash(self, key: str) -> str:
        """Return the mixed-case folders of a key (DIRHASH)."""
        return self._ask(m.DirHash(key))[0]

    def dirhash_lower(self, key: str) -> str:
        """Return the lower-case folders of a key (DIRHASH-LOWER)."""
        return self._ask(m.DirHashLower(key))[0]

    def progress(self, done: int) -> None:
        """Tell that `done` bytes are transferred; not sent unless it is more than ever before (PROGRESS)."""
        with self._progressing:
            if done > self._progress:
                self._progress = done
                self._mention(m.Progress(done))

    def info(self, text: str) -> None:
        """Show a line to the user (INFO; DEBUG where git-annex does not know it)."""
        self._mention(m.Info(text))

    def debug(self, text: str) -> None:
        """Show a line under --debug (DEBUG)."""
        self._mention(m.Debug(text))

    def _ask(self, question: m.Question) -> tuple[str, ...]:
        with self._asking:
            return self._channel.ask(self, question)

    def _tell(self, statement: m.Statement) -> None:
        self._channel.tell(self, statement)

    def _mention(self, statement: m.Statement) -> None:
        with suppress(LocalProtocolError):
            self._channel.tell(self, statement)


class _Thread(threading.local):
    """What a channel knows of the running thread."""

    job: Job | None = None
    sections = 0


class _Section:
    """A lock, and a note that this thread is in it.

    Whatever allocates may start the garbage collector, and that may run code which logs. A log line that
    wanted a lock now would wait for its own thread; the note lets `Channel.log` give way.
    """

    def __init__(self, lock: threading.Lock | threading.Condition, thread: _Thread) -> None:
        self._lock = lock
        self._thread = thread

    def __enter__(self) -> None:
        self._thread.sections += 1
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        self._thread.sections -= 1


class Channel:
    """A session that many threads use, and the descriptor that its lines are written to.

    `broken` is called, perhaps more than once and from any thread, when nothing can be written any more.
    """

    def __init__(self, replies: int, broken: Callable[[], None]) -> None:
        self.cancelled = threading.Event()
        self._replies = replies
        self._broken = broken
        self._session = Session()
        self._jobs: dict[int, Job] = {}
        self._unanswered = 0  # requests whose answer is not yet written: not fewer than there are jobs
        self._thread = _Thread()
        self._changed = threading.Condition()
        self._state = _Section(self._changed, self._thread)
        self._writing = _Section(threading.Lock(), self._thread)

    def agreed(self, extension: str) -> bool:
        """True if both sides use the extension."""
        return extension in self._session.extensions

    def greet(self) -> None:
        """Say the first line."""
        self.write(self._session.greeting())

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes from git-annex; answers are handed to the jobs that wait for them."""
        with self._state:
            events = self._session.receive(data)
            for event in events:
                match event:
                    case Asked(number):
                        self._jobs[number] = Job(number, self)
                        self._unanswered += 1
                    case Replied(number, values):
                        self._release(self._jobs[number], values)
                    case _:
                        pass
            return events

    def job(self, number: int) -> Job:
        """Return the open job with this number."""
        with self._state:
            return self._jobs[number]

    def tell(self, job: Job, statement: m.Statement) -> None:
        """Say something that gets no reply."""
        with self._writing:
            with self._state:
                self._check_open(job)
                data = self._session.tell(job.number, statement)
            self._write(data)

    def ask(self, job: Job, question: m.Question) -> tuple[str, ...]:
        """Ask something and wait for the answer, without limit: git-annex answers or ends."""
        waiting = _Waiting()
        with self._writing:
            with self._state:
                self._check_open(job)
                # `cancel` sets the event first and releases later, under this lock: one of us sees it.
                if self.cancelled.is_set():
                    raise Cancelled("the program is ending")
                data = self._session.ask(job.number, question)
                job._waiting = waiting
            self._write(data)
        waiting.done.wait()
        if waiting.values is None:
            raise Cancelled(f"git-annex did not answer {question.word}: this is over")
        return waiting.values

    def answer(self, job: Job, replies: Sequence[m.Reply]) -> None:
        """Answer the request of `job`, which is then closed.

        Raises `LineError`, and leaves it open, when the replies cannot be written; `LocalProtocolError`
        when it has been answered before. That git-annex is gone is no error here.
        """
        with self._writing:
            with self._state:
                self._check_open(job)
                data = self._session.answer(job.number, replies)
                del self._jobs[job.number]
                self._release(job, None)
            with suppress(Cancelled):
                self._write(data)
            with self._state:
                self._unanswered -= 1
                self._changed.notify_all()

    def log(self, lines: Sequence[str]) -> None:
        """Send DEBUG lines for this thread's job, or for any: git-annex takes none without a job.

        Where there is no job they are dropped. Never raises. They are dropped, too, when garbage
        collection calls this from within one of our own sections.
        """
        if self._thread.sections:
            return
        own = self._thread.job
        with self._state:
            job = own if own and self._jobs.get(own.number) is own else next(iter(self._jobs.values()), None)
        with suppress(Exception):
            for line in lines:
                if job:
                    job.debug(line)

    def attend(self, job: Job | None) -> None:
        """Let this thread's log lines go by `job`."""
        self._thread.job = job

    def write(self, data: bytes) -> None:
        """Write whole lines; raises `Cancelled` when git-annex is gone."""
        with self._writing:
            self._write(data)

    def cancel(self) -> None:
        """Call off all that is under way: sets `cancelled` and lets no question wait any longer."""
        self.cancelled.set()
        with self._state:
            for job in self._jobs.values():
                self._release(job, None)

    def wait_answered(self, timeout: float) -> bool:
        """Wait until all answers are written; False if some are not in time."""
        with self._state:
            return self._changed.wait_for(lambda: not self._unanswered, timeout)

    def _check_open(self, job: Job) -> None:
        # Not by number: the number of an answered request is used again for the next.
        if self._jobs.get(job.number) is not job:
            raise LocalProtocolError(f"job {job.number} has answered its request")

    def _release(self, job: Job, values: tuple[str, ...] | None) -> None:
        if job._waiting:
            job._waiting.values = values
            job._waiting.done.set()
            job._waiting = None

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._replies, data) :]
        except OSError as error:
            self._broken()
            raise Cancelled("git-annex does not listen any more") from error
