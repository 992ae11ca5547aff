"""The commands about torrents as sources of what is annexed: `torrent register` and `torrent seed`."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING
from urllib.parse import quote

import click
from rich.filesize import decimal

from annex_remote.cli.keeping import counting, json_option
from annex_remote.cli.terminal import EXIT_TROUBLE, dry_run_option, err, out, plainly
from annex_remote.consult import Consulted, consult
from annex_remote.errors import BadSetting, SwarmError, Unavailable
from annex_remote.limits import Limit, parse_limit
from annex_remote.workers import workers

if TYPE_CHECKING:
    from annex_remote.registering import Outcome, Registration
    from annex_remote.seeding import News, Seeding
    from annex_remote.torrents.seed import Figures, Offer
    from annex_remote.torrents.source import TorrentSource
    from annex_remote.torrents.urls import TorrentUrl

__all__ = ["register", "seed", "url_given"]

STATUS_EVERY = 30.0
"""Seconds between two lines of figures."""
SHORT = 8
"""Digits of an info-hash that tell torrents of one name apart."""
END = 2.0
"""Seconds that what is being done may take to its end."""
PULSE = 2.0
"""Seconds between two looks at how all stands."""


def url_given(what: str) -> TorrentUrl:
    """Return the torrent that a person has named: a file, whatever it is called, or a URL; raises `BadSetting`.

    Behind either, ``#`` picks a file of the torrent, unless there is a file of that whole name.
    """
    from annex_remote.torrents.urls import TorrentUrl, read_choice, torrent_url

    if os.path.isfile(what):
        return TorrentUrl(what, os.path.abspath(what), None, None)
    head, mark, fragment = what.rpartition("#")
    while mark:
        if os.path.isfile(head):
            return TorrentUrl(what, os.path.abspath(head), None, read_choice(fragment))
        head, mark, more = head.rpartition("#")
        fragment = f"{more}#{fragment}"
    url = None if os.path.isdir(what) else torrent_url(what)
    if url is None:
        raise BadSetting(
            f"{_no_torrent(what)}: give a .torrent file, an http, https or file URL of one, or a magnet link "
            "with a BitTorrent hash (xt=urn:btih:… or urn:btmh:…)"
        )
    return url


def _no_torrent(what: str) -> str:
    """Return in words why what a person has named is no torrent."""
    from annex_remote.torrents.urls import shown

    rest = what.removeprefix("swarm:")
    scheme = rest.partition(":")[0].lower() if ":" in rest else ""
    if os.path.isdir(what):
        return f"{shown(what)} is a folder"
    if scheme == "magnet":
        return "this magnet has no BitTorrent hash, or several of one kind"
    if scheme in ("http", "https", "file"):
        return f"{shown(what)} is no URL whose path ends in .torrent"
    if scheme or os.path.lexists(what):
        return f"{shown(what)} is neither a file nor the URL of a torrent"
    return f"{shown(what) or 'a file without a name'} is not there"


def enabled_source(
    told: Consulted, remote: str, *, upload_limit: Limit | None = None, **changes: object
) -> TorrentSource:
    """Return the torrents of a remote; raises `BadSetting` if they are switched off."""
    from annex_remote.torrenting import open_source

    source = open_source(told.config, told.git_dir, told.name, upload_limit=upload_limit, **changes)
    if not source.settings.enabled:
        raise BadSetting(f"torrents are switched off for {remote}: torrents=no, or remote.{remote}.swarm-torrents")
    return source


# register


@click.command()
@click.argument("remote")
@click.argument("what", metavar="URL-OR-FILE")
@click.argument("folder", metavar="[DIR]", required=False)
@dry_run_option
@json_option
@plainly
def register(remote: str, what: str, folder: str | None, dry_run: bool, as_json: bool) -> None:
    """Give annexed files that are here a torrent as a source in REMOTE; nothing of it is fetched.

    Which of the files below DIR (or all) are in the torrent is proved by its hashes; names do not matter. The
    torrent is a .torrent file, its URL, or a magnet; with #N behind it, only that file of it is meant.

    Exit status: 0 if each of the torrent's files is here and has it as a source now, 1 if not.
    """
    from annex_remote.registering import Registration

    told = consult(remote)
    url = url_given(what)
    source = enabled_source(told, remote)
    try:
        metainfo = source.metainfo(url, threading.Event(), fresh=True)
    finally:
        source.close()
    registration = Registration(remote, metainfo, _address(url))
    meant = metainfo.files if url.choice is None else (metainfo.pick(url.choice),)
    registration.urls_of(meant[0])  # before anything is read: what cannot be recorded is not
    registration.look(folder)
    with counting("proving", registration.bytes_to_read, as_json) as registration.heard:
        outcomes = [each for each in registration.prove() if len(meant) > 1 or each.match.file == meant[0]]
    if not dry_run:
        _remember(registration, url)
        registration.record(outcomes)
    for outcome in outcomes:
        _tell(outcome, dry_run, as_json)
    _sum_up(registration, outcomes, dry_run, as_json)
    sys.exit(0 if all(outcome.is_well for outcome in outcomes) else EXIT_TROUBLE)


def _address(url: TorrentUrl) -> str | None:
    """Return the URL of a .torrent that a person has named, None of a magnet."""
    if url.magnet is not None:
        return None
    if url.place.lower().startswith(("http:", "https:", "file:")):
        return url.place
    return f"file://{quote(os.fsencode(os.path.abspath(url.place)))}"


def _remember(registration: Registration, url: TorrentUrl) -> None:
    """Keep the metainfo, so that it need not be asked for here."""
    from annex_remote.torrents.cache import Cache

    Cache().keep(registration.metainfo, url.place if url.magnet is None else None)


_WORDS = {
    "registered": "registered",
    "already": "has it as a source already",
    "failed": "could not be registered",
    "empty": "empty, and needs no source",
    "no_match": "not found",
    "unproved": "cannot be proved",
}


def _tell(outcome: Outcome, dry_run: bool, as_json: bool) -> None:
    from annex_remote.torrents.names import printable

    match = outcome.match
    name = "/".join(match.file.path)
    files = [file for one in match.candidates for file in one.files]
    state = "would_register" if dry_run and outcome.state == "registered" else outcome.state
    if as_json:
        said = {
            "type": "file",
            "number": match.file.number,
            "path": list(match.file.path),
            "size": match.file.size,
            "state": state,
            "keys": [one.key for one in match.candidates],
            "files": files,
            "unproved": match.unproved,
            "of_its_size": sum(len(one.files) for one in match.of_its_size),
            "error": "; ".join(outcome.errors) or match.why or None,
        }
        click.echo(json.dumps(said))
        return
    words = "would be registered" if state == "would_register" else _WORDS[state]
    if match.unproved:
        words += f", but for {match.unproved:,} bytes at its edges, which cannot be proved without its neighbours"
    if outcome.errors or match.why:
        words += f": {printable('; '.join(outcome.errors) or match.why)}"
    elif files:
        words += f": {printable(files[0])}" + (f" and {len(files) - 1:,} more" if len(files) > 1 else "")
    out.print(f"#{match.file.number} {printable(name)}: {words}", markup=False)


def _sum_up(registration: Registration, outcomes: list[Outcome], dry_run: bool, as_json: bool) -> None:
    from annex_remote.torrents.names import printable

    counts = Counter(outcome.state for outcome in outcomes)
    metainfo = registration.metainfo
    if as_json:
        said: dict[str, object] = {"type": "summary", "name": metainfo.name, "torrent": metainfo.id}
        said |= {"files": len(outcomes), "dry_run": dry_run}
        said |= {state: counts[state] for state in _WORDS}
        said["exit_status"] = 0 if all(outcome.is_well for outcome in outcomes) else EXIT_TROUBLE
        click.echo(json.dumps(said))
        return
    here = counts["registered"] + counts["already"]
    whole = len(outcomes) - counts["empty"]
    done = "would have" if dry_run else "has" if whole == 1 else "have"
    out.print(
        f"{printable(metainfo.name)}: {here:,} of {_many(whole, 'file')} {done} it as a source", markup=False
    )
    if not here and whole:
        err.print(
            f"None of the torrent's files was found, so that nothing {'would be' if dry_run else 'was'} recorded. "
            "Only annexed files whose content is here are looked at: git annex get brings it, and git annex add "
            "takes in what is not annexed yet.",
            markup=False,
        )
    if counts["registered"] and not dry_run:
        remote = registration.remote
        err.print(
            f"git-annex counts {remote} among the places of these files now. A torrent is no copy: drop goes on "
            "asking for real ones. But where there are no shares yet, sync and copy store none; what does is: "
            f"git -c remote.{remote}.swarm-torrents=no annex copy --to {remote}",
            markup=False,
        )


# seed


@click.command()
@click.argument("remote")
@click.option(
    "--upload-limit", metavar="RATE", help="Bytes a second to all peers: 500KiB/s, 22:00-06:00=none,1MiB/s."
)
@click.option("--listen", metavar="ADDRESS:PORT", help="Where peers may connect to, instead of as it is set.")
@dry_run_option
@json_option
@plainly
def seed(remote: str, upload_limit: str | None, listen: str | None, dry_run: bool, as_json: bool) -> None:
    """Serve annexed content to peers where it lies, until this is ended (Ctrl-C, SIGTERM).

    That is all content here that has a torrent as a source. Nothing is written, and nothing fetched but what is in
    a torrent, where that is not known. What comes here or goes meanwhile is seen within ten minutes. The settings
    of REMOTE hold.
    """
    from annex_remote.torrenting import torrent_settings
    from annex_remote.torrents.settings import read_torrent_settings

    limit = parse_limit("--upload-limit", upload_limit) if upload_limit is not None else None
    told = consult(remote)
    changes: dict[str, object] = {}
    if listen is not None:
        changes["listen"] = read_torrent_settings({"listen": listen}).listen
    if torrent_settings(told.config, told.git_dir, told.name).transport == "auto":
        changes["transport"] = "foreground"  # whoever starts a server means it, terminal or not
    source = enabled_source(told, remote, upload_limit=limit, **changes)
    if dry_run:
        _print_planned(source, remote, as_json)
        return
    from annex_remote.seeding import Seeding, require_ports

    if source.settings.transport == "background":
        err.print("only peers that know µTP are served, as transport=background says")
    require_ports(source.settings.listen)
    seeding = Seeding(source)
    try:
        _until_a_signal(lambda ended: _serve(seeding, source, remote, as_json, ended), seeding.stirred)
    finally:
        seeding.close()
        source.close()
    figures = seeding.figures()
    if as_json:
        click.echo(json.dumps({"type": "stopped", "given": figures.given}))
    else:
        out.print(f"ended: {decimal(figures.given)} given", markup=False)


def _until_a_signal(work: Callable[[threading.Event], None], stirred: threading.Event) -> None:
    """Have something done until SIGINT, SIGTERM or SIGHUP comes: then an event says so, and `stirred` is set.

    It is done on another thread, and what it raises is raised here. So no signal breaks into it: an exception out
    of nowhere, while a lock is being taken, would leave that locked for ever.
    """
    heard = [signal.SIGINT, signal.SIGTERM]
    heard += [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else []  # nohup
    wake, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    errors: list[BaseException] = []
    ended, over = threading.Event(), threading.Event()

    def run() -> None:
        try:
            work(ended)
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            errors.append(error)
        finally:
            over.set()
            os.write(wakeup, b"\0")

    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    for each in heard:
        signal.signal(each, lambda *_: None)  # only so that its number is written
    workers.start(run)
    while os.read(wake, 1)[0] not in (0, *heard):
        pass  # a signal that somebody else handles
    ended.set()
    stirred.set()
    over.wait(END)
    if errors:
        raise errors[0]


def _serve(seeding: Seeding, source: TorrentSource, remote: str, as_json: bool, ended: threading.Event) -> None:
    from annex_remote.seeding import News

    began = False
    due = time.monotonic() + STATUS_EVERY
    before: Figures | None = None
    while not ended.is_set():
        try:
            news = seeding.step()
        except SwarmError as error:
            if ended.is_set():
                return  # git-annex had the signal too
            if not began:
                raise
            err.print(f"what is here could not be looked at, and will be in a while: {error}", markup=False)
            news = News()
        _tell_news(news, as_json)
        figures = seeding.figures()
        if not began:
            _require_something(figures, seeding, news, remote)
            _tell_start(figures, seeding, source, as_json)
            began = True
        if time.monotonic() >= due:
            due += STATUS_EVERY
            if as_json or (out.is_terminal and figures != before):
                _tell_figures(figures, as_json)
            before = figures
        seeding.stirred.wait(PULSE)


def _nothing(remote: str) -> BadSetting:
    return BadSetting(
        "nothing that is here has a torrent as a source: git-annex-remote-swarm torrent register "
        f"{remote} x.torrent gives files one"
    )


def _require_something(figures: Figures, seeding: Seeding, news: News, remote: str) -> None:
    """Raise `SwarmError` if there is nothing to do."""
    if figures.torrents or seeding.looked_for or seeding.stirred.is_set():
        return
    if news.changes or news.unknown or news.wrong:
        raise Unavailable("nothing of what has a torrent as a source can be served")
    raise _nothing(remote)


def _tell_start(figures: Figures, seeding: Seeding, source: TorrentSource, as_json: bool) -> None:
    port = source.session.port()
    listens = bool(source.settings.listen)
    wanted = {each for _, each in source.settings.listen}
    if listens and figures.torrents and (not port or not wanted & {0, port}):
        raise Unavailable("no port could be listened at, as it is set: somebody has taken it just now")
    if as_json:
        said = {"type": "started", "port": port or None, "torrents": figures.torrents, "files": figures.files}
        click.echo(json.dumps(said | {"looked_for": seeding.looked_for}))
        return
    where = f"at port {port}" if port else "at no port: nobody can connect, but peers are connected to"
    what = f"{_many(figures.torrents, 'torrent')}, {_many(figures.files, 'file')}, {where}"
    out.print(f"{what if figures.torrents else 'nothing yet'}; Ctrl-C ends it", markup=False)
    if seeding.looked_for:
        out.print(f"looking for what is in {_many(seeding.looked_for, 'torrent')}", markup=False)


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


_CHANGES = {
    "offered": "is served",
    "withdrawn": "is served no more: none of its files is here, or none has it as a source",
    "failed": "cannot be served",
    "damaged": "is not served whole",
}


def _tell_news(news: News, as_json: bool) -> None:
    from annex_remote.torrents.urls import shown

    for change in news.changes:
        _tell_offer(change.offer, change.what, change.why, news.alike, as_json)
    for place, why in news.unknown.items():
        if as_json:
            click.echo(json.dumps({"type": "unknown", "url": shown(place), "error": why}))
        else:
            err.print(f"{shown(place)} is not served, as it is not known what is in it: {why}", markup=False)
    for (key, url), why in news.wrong.items():
        if as_json:
            click.echo(json.dumps({"type": "wrong", "key": key, "url": shown(url), "error": why}))
        else:
            err.print(f"{key} is not served as {shown(url)}: {why}", markup=False)


def _tell_offer(offer: Offer, what: str, why: str, alike: Collection[str], as_json: bool) -> None:
    """Say what becomes of a torrent; behind a name that is in `alike` stands which one of these is meant."""
    from annex_remote.torrents.names import printable

    metainfo = offer.metainfo
    if as_json:
        said = {"type": what, "torrent": metainfo.id, "name": metainfo.name, "files": offer.here}
        click.echo(json.dumps(said | {"of": offer.of, "error": why or None}))
        return
    words = _CHANGES.get(what, what) + (f": {printable(why)}" if why else "")
    if not why and what != "withdrawn" and offer.here < offer.of:
        words += f", {offer.here:,} of its {offer.of:,} files"
    name = printable(metainfo.name)
    name += f" ({metainfo.id[:SHORT]})" if name in alike else ""
    (err if why else out).print(f"{name} {words}", markup=False)


def _tell_figures(figures: Figures, as_json: bool) -> None:
    if as_json:
        said = {"type": "status", "torrents": figures.torrents, "files": figures.files, "peers": figures.peers}
        click.echo(json.dumps(said | {"given": figures.given, "checking": figures.checking}))
        return
    what = f"{_many(figures.torrents, 'torrent')}, {_many(figures.files, 'file')}"
    what += f", {figures.checking:,} being hashed" if figures.checking else ""
    out.print(f"{what}: {_many(figures.peers, 'peer')}, {decimal(figures.given)} given", markup=False)


def _print_planned(source: TorrentSource, remote: str, as_json: bool) -> None:
    """Say what would be served, by what is known here."""
    from annex_remote.seeding import News, alike, what_is_annexed
    from annex_remote.torrents.seed import plan

    annexed = what_is_annexed()
    made = plan(annexed.held, annexed.urls, source.known)
    if not (made.offers or made.unknown or made.wrong):
        raise _nothing(remote)
    for offer in made.offers.values():
        _tell_offer(offer, "would_serve" if as_json else "would be served", "", alike(made), as_json)
    unknown = dict.fromkeys(made.unknown, "it would be looked for")
    _tell_news(News(unknown=unknown, wrong=made.wrong), as_json)
