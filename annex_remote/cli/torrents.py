"""The commands about torrents: looking into one, making one, registering one, and serving what is here."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import click
from rich.filesize import decimal
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from annex_remote.cli.keeping import counting, json_option, seconds
from annex_remote.cli.sources import register, seed, url_given
from annex_remote.cli.terminal import err, out, plainly
from annex_remote.errors import BadSetting, Cancelled, SwarmError
from annex_remote.limits import format_size, parse_size

if TYPE_CHECKING:
    from annex_remote.torrents.metainfo import Metainfo, TorrentFile

__all__ = ["torrent"]


@click.group()
def torrent() -> None:
    """Look into torrents, make them, register them as sources of annexed files, and serve those to peers."""


# show


@torrent.command()
@click.argument("what", metavar="URL-OR-FILE")
@click.option("--timeout", metavar="TIME", default="120", help="How long peers are asked for what a magnet names.")
@click.option("--listen", metavar="ADDRESS:PORT", default="", help="Where peers may connect to, or none.")
@click.option("--dht", metavar="NODES|no", default="", help="Nodes at which the DHT begins, HOST:PORT, or no.")
@json_option
@plainly
def show(what: str, timeout: str, listen: str, dht: str, as_json: bool) -> None:
    """Show what is in a torrent: a .torrent file, its URL, or a magnet, also with swarm: in front.

    With #N behind it, only that file of it is listed. It takes no repository. Of a magnet, the metadata is fetched
    from peers, and nothing else is.
    """
    metainfo, choice = _looked_at(what, seconds("--timeout", timeout), listen, dht)
    chosen = None if choice is None else metainfo.pick(choice)
    if as_json:
        click.echo(json.dumps(_about(metainfo, chosen)))
    else:
        _print_about(metainfo, chosen)


def _looked_at(what: str, timeout: float, listen: str, dht: str) -> tuple[Metainfo, int | str | None]:
    from annex_remote.torrents.addresses import read_allowed
    from annex_remote.torrents.names import printable
    from annex_remote.torrents.settings import read_torrent_settings
    from annex_remote.torrents.source import TorrentSource
    from annex_remote.torrents.urls import shown

    url = url_given(what)
    name = shown(url.place) if url.magnet is None else printable(url.magnet.name or url.magnet.id)
    settings = read_torrent_settings({"listen": listen, "dht": dht, "transport": "foreground"})
    with _called_off() as cancelled, tempfile.TemporaryDirectory(prefix="swarm-") as folder, _waiting(name):
        source = TorrentSource(replace(settings, timeout=max(1.0, timeout)), read_allowed(None), folder)
        try:
            return source.metainfo(url, cancelled, fresh=True), url.choice
        finally:
            source.close()


@contextmanager
def _called_off() -> Iterator[threading.Event]:
    """Have SIGINT, SIGTERM and SIGHUP call off what is done in here, and then, all cleaned up, end this.

    They raise nothing where they come: a folder that has just been made would be left behind.
    """
    cancelled = threading.Event()
    heard: list[int] = []

    def hear(number: int, _: object) -> None:
        heard.append(number)
        cancelled.set()

    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for each, was in before.items():
        if was is not signal.SIG_IGN:  # nohup
            signal.signal(each, hear)
    try:
        with suppress(Cancelled):
            yield cancelled
    finally:
        for each, was in before.items():
            signal.signal(each, was)
    if heard:
        os.kill(os.getpid(), heard[0])


@contextmanager
def _waiting(what: str) -> Iterator[None]:
    """Show that something is waited for, and for how long already."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    ) as progress:
        progress.add_task(f"fetching what is in {what}", total=None)
        yield


def _kind(metainfo: Metainfo) -> str:
    return "hybrid" if metainfo.v1 and metainfo.v2 else "v1" if metainfo.v1 else "v2"


def _count(metainfo: Metainfo) -> str:
    return "1 file" if len(metainfo.files) == 1 else f"{len(metainfo.files):,} files"


def _magnet(metainfo: Metainfo, chosen: TorrentFile | None) -> str | None:
    """Return the magnet; None for a private torrent, whose metadata nobody gives."""
    return None if metainfo.private else metainfo.magnet(chosen.number if chosen else None)


def _about(metainfo: Metainfo, chosen: TorrentFile | None) -> dict[str, object]:
    from annex_remote.torrents.names import safe_name, safe_paths
    from annex_remote.torrents.urls import shown

    paths = safe_paths(metainfo.files, blanks=True)
    return {
        "type": "torrent",
        "name": metainfo.name,
        "safe_name": safe_name(metainfo.name),
        "kind": _kind(metainfo),
        "v1": metainfo.v1.hex() if metainfo.v1 else None,
        "v2": metainfo.v2.hex() if metainfo.v2 else None,
        "size": sum(file.size for file in metainfo.files),
        "piece_length": metainfo.piece_length,
        "pieces": metainfo.pieces,
        "private": metainfo.private,
        "single": metainfo.is_single,
        "trackers": [[shown(url) for url in tier] for tier in metainfo.trackers],
        "web_seeds": [shown(url) for url in metainfo.web_seeds],
        "not_taken": list(metainfo.dropped),
        "magnet": _magnet(metainfo, chosen),
        "chosen": chosen.number if chosen else None,
        "files": [
            {"number": file.number, "size": file.size, "path": list(file.path), "safe_path": list(path)}
            for file, path in zip(metainfo.files, paths, strict=True)
        ],
    }


def _print_about(metainfo: Metainfo, chosen: TorrentFile | None) -> None:
    from annex_remote.torrents.names import printable, safe_name, safe_paths
    from annex_remote.torrents.urls import shown

    size = sum(file.size for file in metainfo.files)
    rows = [("name", _both(printable(metainfo.name), safe_name(metainfo.name))), ("kind", _kind(metainfo))]
    rows += [(f"hash {kind}", each.hex()) for kind, each in (("v1", metainfo.v1), ("v2", metainfo.v2)) if each]
    rows += [
        ("size", f"{decimal(size)} in {_count(metainfo)} ({size:,} bytes)"),
        ("pieces", f"{metainfo.pieces:,} of {format_size(metainfo.piece_length)}"),
    ]
    if metainfo.private:
        rows.append(("private", "yes: peers are found by its trackers alone, and not by a magnet"))
    rows += [("tracker", " ".join(shown(url) for url in tier)) for tier in metainfo.trackers]
    rows += [("web seed", shown(url)) for url in metainfo.web_seeds]
    rows += [("not taken", printable(text)) for text in metainfo.dropped]
    magnet = _magnet(metainfo, chosen)
    if magnet is not None:
        rows.append(("magnet", magnet))
    if chosen is not None:
        rows.append(("chosen", f"#{chosen.number} of {_count(metainfo)}"))
    for name, text in rows:
        click.echo(f"{name:<10} {text}")
    click.echo("")
    lines = [("NUMBER", "SIZE", "PATH")]
    for file, path in zip(metainfo.files, safe_paths(metainfo.files, blanks=True), strict=True):
        if chosen in (None, file):
            lines.append(
                (f"#{file.number}", decimal(file.size), _both(printable("/".join(file.path)), "/".join(path)))
            )
    widths = [max(len(line[column]) for line in lines) for column in (0, 1)]
    for number, bytes_, path_ in lines:
        click.echo(f"{number:<{widths[0]}}  {bytes_:>{widths[1]}}  {path_}")


def _both(name: str, safe: str) -> str:
    return name if name == safe else f"{name}  (made safe: {safe})"


# create


STANDARD_OUTPUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
"""What ``-o`` takes for it: a device is not to be replaced by a file."""


@torrent.command()
@click.argument("what", metavar="FILES...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    metavar="OUT.torrent",
    help="Where it goes, instead of NAME.torrent here; - is standard output.",
)
@click.option("--web-seed", "web_seeds", metavar="URL", multiple=True, help="A web server that has the files.")
@click.option("--tracker", "trackers", metavar="URL", multiple=True, help="A tracker; each is a tier of its own.")
@click.option("--hybrid", is_flag=True, help="For programs of both kinds (usual).")
@click.option("--v1", is_flag=True, help="For older programs alone.")
@click.option("--v2", is_flag=True, help="For newer programs alone.")
@click.option("--piece-length", metavar="SIZE", help="16KiB to 128MiB, a power of two.")
@click.option("--private", is_flag=True, help="Peers are to be found by the trackers alone.")
@click.option("--name", help="What the torrent is called, instead of as the file or folder is.")
@click.option("--force", is_flag=True, help="Replace OUT.torrent if there is one.")
@json_option
@plainly
def create(
    what: tuple[str, ...],
    output: str | None,
    web_seeds: tuple[str, ...],
    trackers: tuple[str, ...],
    hybrid: bool,
    v1: bool,
    v2: bool,
    piece_length: str | None,
    private: bool,
    name: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Make a .torrent of a file, a folder, or several of them; annexed files are followed to their content.

    The same input makes the same bytes, anywhere and at any time. It takes no repository.
    """
    from annex_remote.torrents.contents import check_name, contents_of
    from annex_remote.torrents.create import Recipe, checked_piece_length, checked_urls, web_seed_notes
    from annex_remote.torrents.create import create as hash_all

    kinds = [kind for kind, wanted in (("hybrid", hybrid), ("v1", v1), ("v2", v2)) if wanted]
    if len(kinds) > 1:
        raise click.UsageError(f"{' and '.join(f'--{kind}' for kind in kinds)}: a torrent is of one kind")
    if private and not trackers:
        raise click.UsageError("--private without --tracker: nobody could find a peer")
    if output == "":
        raise click.UsageError("-o is empty: it takes the file that is to be made, or -")
    is_piped = output in STANDARD_OUTPUT
    if is_piped and as_json:
        raise click.UsageError("-o - and --json: only one of them can have standard output")
    if is_piped and sys.stdout.isatty():
        raise click.UsageError("-o - writes no torrent to a terminal: redirect standard output")
    try:
        length = None
        if piece_length is not None:
            length = checked_piece_length(parse_size("--piece-length", piece_length))
        if name is not None:
            check_name(name, "--name")
        recipe = Recipe(
            kinds[0] if kinds else "hybrid",
            length,
            private,
            checked_urls("--tracker", trackers),
            checked_urls("--web-seed", web_seeds),
        )
    except BadSetting as error:
        raise click.UsageError(str(error)) from error
    contents = contents_of(what, name, leave_out=sys.stdout.fileno() if is_piped else output)
    path = output or f"{contents.name}.torrent"
    if output is None:
        contents = contents_of(what, name, leave_out=path)
    if not is_piped:
        _check_output(path, force)
    with _called_off() as cancelled, counting("hashing", contents.size, as_json) as moved:

        def hashed(size: int) -> None:
            moved(size)
            if cancelled.is_set():
                raise Cancelled

        metainfo = hash_all(contents, recipe, hashed)
    if is_piped:
        _pipe(metainfo.document)
    else:
        _write(path, metainfo.document, force)
    for note in web_seed_notes(metainfo):
        err.print(f"note: {note}", markup=False)
    if as_json:
        click.echo(json.dumps({"file": path, **_about(metainfo, None)}))
        return
    lines = [f"{metainfo.title if is_piped else path}: {_count(metainfo)}, {decimal(contents.size)}"]
    lines += [f"{kind} {each.hex()}" for kind, each in (("v1", metainfo.v1), ("v2", metainfo.v2)) if each]
    if (magnet := _magnet(metainfo, None)) is not None:
        lines.append(magnet)
    for line in lines:
        (err if is_piped else out).print(line, markup=False)


def _check_output(path: str, force: bool) -> None:
    """Raise `BadSetting`, best before all is hashed, if the file cannot be made there."""
    folder = os.path.dirname(path) or "."
    try:
        os.stat(folder)
        there = os.lstat(path)
    except FileNotFoundError as error:
        if not os.path.isdir(folder):
            raise BadSetting(f"{path} cannot be written: there is no folder {folder}") from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise BadSetting(f"{path} cannot be written: {os.strerror(errno.EACCES)}") from error
        return
    except OSError as error:  # a name that is too long, say
        raise BadSetting(f"{path} cannot be written: {error.strerror}") from error
    if os.path.isdir(path):
        raise BadSetting(f"{path} is a folder: -o takes the file that is to be made")
    if not (stat.S_ISREG(there.st_mode) or stat.S_ISLNK(there.st_mode)):
        raise BadSetting(f"{path} is no file that could be replaced: -o - writes to standard output")
    if not force:
        raise BadSetting(f"{path} is there already: --force replaces it, -o makes another one")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BadSetting(f"{path} cannot be written: {os.strerror(errno.EACCES)}")


def _pipe(document: bytes) -> None:
    """Write to standard output; not by its buffer, which would be tried once more at the end if it is full."""
    rest = memoryview(document)
    try:
        while rest:
            rest = rest[os.write(sys.stdout.fileno(), rest) :]
    except BrokenPipeError:  # whoever read it has enough of it
        raise
    except OSError as error:
        raise SwarmError(f"standard output cannot be written: {error.strerror}") from error


def _write(path: str, document: bytes, force: bool) -> None:
    """Put the file there whole or not at all."""
    folder = os.path.dirname(path) or "."
    part = ""
    try:
        descriptor, part = tempfile.mkstemp(prefix=".swarm-", suffix=".torrent", dir=folder)
        with open(descriptor, "wb") as file:
            file.write(document)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(part, 0o666 & ~mask)
        _check_output(path, force)
        os.replace(part, path)
    except OSError as error:
        raise SwarmError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        with suppress(OSError):
            if part:
                os.unlink(part)


torrent.add_command(register)
torrent.add_command(seed)
