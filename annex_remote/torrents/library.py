"""What is known of libtorrent that takes no session: its settings, and its view of a torrent.

This is the only module that imports it. What its documentation does not tell was found by running 2.1.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from annex_remote.errors import BadSetting, Damaged
from annex_remote.torrents.addresses import Allowed
from annex_remote.torrents.metainfo import MAX_PIECES, Metainfo, parse
from annex_remote.torrents.settings import Endpoint, TorrentSettings
from annex_remote.torrents.urls import Magnet

__all__ = [
    "Plain",
    "address_filter",
    "all_that_is_there",
    "dress",
    "is_checking",
    "libtorrent",
    "magnet_params",
    "pieces_there",
    "resume_data_of",
    "round_trips",
    "settings_pack",
    "start_session",
    "take_in",
    "torrent_params",
    "with_layers",
]

_PAD, _EXECUTABLE, _LINK = 1, 4, 8
"""Flags of files."""

_WANTED = 4
"""The priority that libtorrent gives what nothing is said of."""

MOST_PROVED = 1 << 30
"""Bytes that are looked at before a torrent is gone on with, at most."""

_FOREGROUND = {
    "enable_outgoing_utp": False,
    "mixed_mode_algorithm": 0,  # prefer TCP
    "connections_limit": 200,
    "max_out_request_queue": 2000,
}
_BACKGROUND = {
    "enable_outgoing_tcp": False,
    "enable_incoming_tcp": False,
    "connections_limit": 20,
    "utp_target_delay": 15,  # milliseconds in the queue, of what is given; for what comes see `yielding`
    "unchoke_slots_limit": 4,
    "aio_threads": 1,
    "hashing_threads": 1,
}


def libtorrent() -> Any:
    """Return the library, imported when it is first needed; raises `BadSetting` where there is none."""
    try:
        import libtorrent as library
    except ImportError as error:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise BadSetting(
            f"torrents take the Python package libtorrent, which cannot be used here ({error}): install it; there "
            f"is none for every Python and system, and this is Python {version}"
        ) from error
    return library


def settings_pack(settings: TorrentSettings, *, background: bool) -> dict[str, Any]:
    """Return libtorrent's settings for a session."""
    category = libtorrent().alert_category
    mask = category.error | category.status | category.storage | category.piece_progress | category.tracker
    hosts = sorted({host for host, _ in settings.listen} - {"0.0.0.0", "::"})  # noqa: S104 - nothing is bound
    nodes = ",".join(map(_endpoint, settings.nodes))
    return {
        "user_agent": "git-annex-remote-swarm",
        "alert_mask": int(mask),
        "alert_queue_size": 2 * MAX_PIECES,
        "tick_interval": 100,
        "initial_picker_threshold": 0,  # the first pieces are those that are wanted first, not any
        "listen_interfaces": ",".join(map(_endpoint, settings.listen)),
        "outgoing_interfaces": ",".join(hosts),  # listening on one address alone keeps nothing on it
        "enable_upnp": False,
        "enable_natpmp": False,
        "webtorrent_stun_server": "",
        "enable_lsd": bool(settings.listen),
        "enable_dht": settings.dht,
        **({"dht_bootstrap_nodes": nodes} if nodes or not settings.dht else {}),
        # Nodes that were named are believed to be who they are, even if all have one address.
        "dht_restrict_routing_ips": not settings.nodes,
        "dht_restrict_search_ips": not settings.nodes,
        "announce_to_all_tiers": True,
        "announce_to_all_trackers": True,
        "stop_tracker_timeout": 1,
        "tracker_completion_timeout": 15,
        "tracker_receive_timeout": 10,
        "allow_multiple_connections_per_ip": True,
        "close_redundant_connections": False,  # soon more is wanted of the same peers
        "min_reconnect_time": 1,  # there is little time, and a connection for the metadata was closed just now
        "urlseed_wait_retry": 10,
        "max_metadata_size": 32 << 20,
        "recv_socket_buffer_size": 1 << 20,
        "send_socket_buffer_size": 1 << 20,
        "send_buffer_watermark": 8 << 20,
        "send_buffer_low_watermark": 1 << 20,
        "send_buffer_watermark_factor": 200,
        "ignore_limits_on_local_network": False,
        **(_BACKGROUND if background else _FOREGROUND),
    }


def start_session(settings: TorrentSettings, allowed: Allowed, *, background: bool) -> Any:
    """Start a session; its threads give way to everything else if it is for the background."""
    lt = libtorrent()
    params = lt.session_params()
    params.settings = settings_pack(settings, background=background)
    started: list[Any] = []

    def start() -> None:
        if background:
            _give_way()
        started.append(lt.session(params))  # its threads inherit from the one that starts them

    thread = threading.Thread(target=start, name="swarm-torrents")
    thread.start()
    thread.join()
    session = started.pop()  # the thread keeps what it was started with for a while
    session.set_ip_filter(address_filter(allowed))
    return session


def _give_way() -> None:
    """Let this thread, and those it starts, have processor and disk when nobody else wants them (Linux)."""
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
    with suppress(OSError, AttributeError):
        import ctypes
        import platform

        call = {"x86_64": 251, "aarch64": 30}.get(platform.machine())
        if sys.platform == "linux" and call is not None:
            # ioprio_set(IOPRIO_WHO_PROCESS, this thread, IOPRIO_CLASS_IDLE), see ioprio_set(2)
            ctypes.CDLL(None).syscall(call, 1, 0, 3 << 13)


def address_filter(allowed: Allowed) -> Any:
    """Return the filter that refuses peers, web seeds and trackers at addresses that are not allowed."""
    addresses = libtorrent().ip_filter()
    for first, last in allowed.refused():
        addresses.add_rule(first, last, 1)
    return addresses


def round_trips(handle: Any) -> tuple[float, dict[object, float]]:
    """Return the bytes a second that come, and the round trips, in seconds, to the peers that they come from."""
    sending = [peer for peer in handle.get_peer_info() if peer.payload_down_speed > 0]
    trips = {peer.ip: peer.rtt / 1000 for peer in sending if peer.rtt > 0}
    return float(sum(peer.payload_down_speed for peer in sending)), trips


def magnet_params(magnet: Magnet) -> Any:
    """Return what adds a magnet to a session: its metadata is fetched, and nothing else."""
    lt = libtorrent()
    topics = [f"urn:btih:{magnet.v1.hex()}"] if magnet.v1 else []
    topics += [f"urn:btmh:1220{magnet.v2.hex()}"] if magnet.v2 else []
    params = lt.parse_magnet_uri("magnet:?" + "&".join(f"xt={topic}" for topic in topics))
    params.save_path = os.devnull  # nothing is written
    params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    params.flags |= lt.torrent_flags.default_dont_download
    return params


def torrent_params(metainfo: Metainfo, kept: bytes | None = None) -> Any:
    """Return what adds a torrent to a session; `kept` is what `resume_data_of` returned before.

    Raises `Damaged` if libtorrent has another view of the torrent, or none.
    """
    lt = libtorrent()
    params = _resumed(metainfo, kept) or _loaded(metainfo)
    params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    return params


def dress(params: Any, metainfo: Metainfo, folder: str | None, in_place: Sequence[str | None] = ()) -> None:
    """Say where the files of a torrent are: in `folder`, called by their numbers, or `in_place`, never written.

    Neither empty files nor links nor padding are ever made; for executable ones, see `Plain`.
    """
    layout = params.ti.layout()
    indices = _paired(layout, metainfo)
    wanted = [0] * layout.num_files()
    if folder is None:
        params.flags |= libtorrent().torrent_flags.upload_mode
        # A folder that is there, or libtorrent (2.1) may take it that nothing is, and look no further.
        params.save_path = os.path.dirname(os.devnull)
        params.renamed_files = {index: path or os.devnull for index, path in zip(indices, in_place, strict=True)}
        if all(path or not file.size for path, file in zip(in_place, metainfo.files, strict=True)):
            # All of it is believed to be there until somebody wants a piece: that is hashed before it goes out,
            # and one that does not prove has everything hashed. With priorities nothing is believed.
            params.flags |= libtorrent().torrent_flags.seed_mode
            return
        for index, path in zip(indices, in_place, strict=True):
            wanted[index] = _WANTED if path else 0
    else:
        params.save_path = folder
        params.renamed_files = {index: _file_name(index) for index in range(layout.num_files())}
        for index, file in zip(indices, metainfo.files, strict=True):
            wanted[index] = _WANTED if file.size else 0
    params.file_priorities = wanted


def is_checking(status: Any) -> bool:
    """True if it is not known yet what of a torrent is here."""
    states = libtorrent().torrent_status.states
    return status.state in (states.checking_files, states.checking_resume_data)


class Plain:
    """Makes those files in `folder` that a torrent calls executable, as libtorrent would make them so.

    That is done when they are wanted: there may be very many.
    """

    def __init__(self, params: Any, folder: str) -> None:
        self._info = params.ti
        self._folder = folder
        layout = self._info.layout()
        files = range(layout.num_files())
        self._left = {
            index for index in files if layout.file_flags(index) & _EXECUTABLE and layout.file_size(index)
        }

    def make(self, pieces: Iterable[int]) -> None:
        """Make the files that hold bytes of `pieces`, unless they are there."""
        if not self._left:
            return
        layout = self._info.layout()
        for piece in pieces:
            for index in range(layout.file_index_at_piece(piece), layout.last_file_index_at_piece(piece) + 1):
                if index in self._left:
                    self._left.remove(index)
                    path = os.path.join(self._folder, _file_name(index))
                    with suppress(OSError):  # libtorrent will fail at it, and say so
                        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))


def _file_name(index: int) -> str:
    return f"f{index}"


def all_that_is_there() -> Any:
    """Return how to ask for what is to be kept of how far a torrent is.

    Pieces that are not on the disk yet do not count. The flag to write them first does not wait for that.
    """
    return libtorrent().save_resume_flags_t.save_info_dict


def resume_data_of(params: Any) -> bytes:
    """Return what a save_resume_data_alert brought, to be kept."""
    return bytes(libtorrent().write_resume_data_buf(params))


def with_layers(params: Any, metainfo: Metainfo) -> Metainfo | None:
    """Return `metainfo` with the v2 piece layers that came from peers, as far as they are known; None if none is.

    `params` are what a save_resume_data_alert brought, or what was kept of it.
    """
    lt = libtorrent()
    try:
        entry = lt.write_torrent_file(params, lt.write_flags.allow_missing_piece_layer)
        known = {root: layer for root, layer in entry.get(b"piece layers", {}).items() if layer}
        found = parse(lt.bencode(lt.bdecode(metainfo.document) | {b"piece layers": known})) if known else None
    except (RuntimeError, Damaged):
        return None
    return found if found is not None and found.id == metainfo.id else None


def pieces_there(handle: Any) -> Sequence[bool]:
    """Return for each piece whether libtorrent has it; fewer if it does not tell."""
    pieces: Sequence[bool] = handle.status(libtorrent().status_flags_t.query_pieces).pieces
    return pieces


def take_in(params: Any, metainfo: Metainfo, folder: str) -> None:
    """Add to what is there the pieces that are in the files in `folder`, and prove, though nobody noted them.

    They are what came last to a process that was killed. What has no hash here is left out.
    """
    there = list(params.have_pieces)
    if not there:
        return
    there += [False] * (metainfo.pieces - len(there))
    unfinished = dict(params.unfinished_pieces)
    left = MOST_PROVED
    seen: set[int] = set()
    for piece in _written(params.ti, metainfo.piece_length, folder):
        if there[piece] or piece in seen or not metainfo.can_prove(piece):
            continue
        seen.add(piece)
        left -= metainfo.piece_length
        if left < 0:
            break
        if metainfo.proves(piece, _in_files(params.ti, folder, piece, metainfo.piece_size(piece))):
            there[piece] = True
            unfinished.pop(piece, None)
    params.have_pieces, params.unfinished_pieces = there, unfinished


def _written(info: Any, piece_length: int, folder: str) -> Iterator[int]:
    """Yield the pieces of which anything was ever written to the files in `folder`; some more than once."""
    layout = info.layout()
    for index in range(layout.num_files()):
        with suppress(OSError), open(os.path.join(folder, _file_name(index)), "rb", buffering=0) as file:
            begin, size = layout.file_offset(index), layout.file_size(index)
            data = 0
            while data < size:
                data = os.lseek(file.fileno(), data, os.SEEK_DATA)  # fails behind the last
                hole = min(os.lseek(file.fileno(), data, os.SEEK_HOLE), size)
                yield from range((begin + data) // piece_length, -(-(begin + hole) // piece_length))
                data = hole


def _in_files(info: Any, folder: str, piece: int, size: int) -> bytes:
    """Return the bytes of a piece as far as they are in the files in `folder`."""
    layout = info.layout()
    parts = []
    for part in info.map_block(piece, 0, size):
        if layout.file_flags(part.file_index) & _PAD:
            parts.append(bytes(part.size))
            continue
        try:
            with open(os.path.join(folder, _file_name(part.file_index)), "rb") as file:
                file.seek(part.offset)
                parts.append(file.read(part.size))
        except OSError:
            break
    return b"".join(parts)


def _resumed(metainfo: Metainfo, kept: bytes | None) -> Any:
    """Return what was kept of how far a torrent is, None if that is of no use."""
    if kept is None:
        return None
    with suppress(RuntimeError, ValueError):
        params = libtorrent().read_resume_data(kept)
        if params.ti is not None and _is_of(params.ti, metainfo):
            return params
    return None


def _is_of(info: Any, metainfo: Metainfo) -> bool:
    hashes = info.info_hashes()
    v1 = hashes.v1.to_bytes() if hashes.has_v1() else None
    v2 = hashes.v2.to_bytes() if hashes.has_v2() else None
    return (v1, v2) == (metainfo.v1, metainfo.v2)


def _loaded(metainfo: Metainfo) -> Any:
    lt = libtorrent()
    try:
        if metainfo.has_layers:
            return lt.load_torrent_buffer(metainfo.document)
        # What peers have of a v2 torrent is without piece layers, and the library takes that as a note of its own
        # only.
        document = {
            b"file-format": b"libtorrent resume file",
            b"file-version": 1,
            b"info": lt.bdecode(metainfo.document)[b"info"],
        }
        if metainfo.v1:
            document[b"info-hash"] = metainfo.v1
        if metainfo.v2:
            document[b"info-hash2"] = metainfo.v2
        return lt.read_resume_data(lt.bencode(document))
    except RuntimeError as error:
        raise Damaged(f"the torrent {metainfo.title} is refused by libtorrent: {error}") from error


def _paired(layout: Any, metainfo: Metainfo) -> list[int]:
    """Return libtorrent's number of each file of `metainfo`; raises `Damaged` if it sees others."""
    indices = [index for index in range(layout.num_files()) if not layout.file_flags(index) & (_PAD | _LINK)]
    seen = [(layout.file_size(index), layout.file_offset(index)) for index in indices]
    meant = [(file.size, file.offset) for file in metainfo.files]
    # Where an empty one stands says nothing.
    if len(seen) != len(meant) or [each for each in seen if each[0]] != [each for each in meant if each[0]]:
        raise Damaged(f"the torrent {metainfo.title} can be read in two ways")
    return indices


def _endpoint(endpoint: Endpoint) -> str:
    host, port = endpoint
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
