"""The commands about torrents as sources of what is annexed: `torrent register` and `torrent seed`."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections import Counter
from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from annex_remote.cli.keeping import counting, json_option
from annex_remote.cli.terminal import EXIT_TROUBLE, dry_run_option, err, out, plainly
from annex_remote.consult import Consulted, consult
from annex_remote.errors import BadSetting

if TYPE_CHECKING:
    from annex_remote.registering import Outcome, Registration
    from annex_remote.torrents.source import TorrentSource
    from annex_remote.torrents.urls import TorrentUrl

__all__ = ["register", "url_given"]


def url_given(what: str) -> TorrentUrl:
    """Return the torrent that a person has named: a file, whatever it is called, or a URL; raises `BadSetting`."""
    from annex_remote.torrents.urls import TorrentUrl, shown, torrent_url

    if os.path.isfile(what):
        return TorrentUrl(what, os.path.abspath(what), None, None)
    url = torrent_url(what)
    if url is None:
        raise BadSetting(
            f"{shown(what)} is neither a file nor the URL of a torrent: give a .torrent file, an http, https or "
            "file URL of one, or a magnet link with a BitTorrent hash (xt=urn:btih:… or urn:btmh:…)"
        )
    return url


def enabled_source(told: Consulted, remote: str, **changes: object) -> TorrentSource:
    """Return the torrents of a remote; raises `BadSetting` if they are switched off."""
    from annex_remote.torrenting import open_source

    source = open_source(told.config, told.git_dir, told.name, **changes)
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
    torrent is a .torrent file, its URL, or a magnet.

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
    registration.urls_of(metainfo.files[0])  # before anything is read: what cannot be recorded is not
    registration.look(folder)
    with counting("proving", registration.bytes_to_read, as_json) as registration.heard:
        outcomes = registration.prove()
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
    "no_match": "no match",
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
            "error": "; ".join(outcome.errors) or match.why or None,
        }
        click.echo(json.dumps(said))
        return
    words = "would be registered" if state == "would_register" else _WORDS[state]
    if match.unproved:
        words += f", but for {match.unproved:,} bytes at its edges, which cannot be proved without its neighbours"
    if outcome.errors or match.why:
        words += f": {'; '.join(outcome.errors) or match.why}"
    elif files:
        words += f": {files[0]}" + (f" and {len(files) - 1:,} more" if len(files) > 1 else "")
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
    done = "would have" if dry_run else "have"
    out.print(f"{printable(metainfo.name)}: {here:,} of {whole:,} files {done} it as a source", markup=False)
    if counts["registered"] and not dry_run:
        remote = registration.remote
        err.print(
            f"git-annex counts {remote} among the places of these files now. A torrent is no copy: drop goes on "
            "asking for real ones. But where there are no shares yet, sync and copy store none; what does is: "
            f"git -c remote.{remote}.swarm-torrents=no annex copy --to {remote}",
            markup=False,
        )
