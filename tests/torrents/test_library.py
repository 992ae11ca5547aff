"""libtorrent is imported in one place; what its sessions are set to, and how its threads run."""

from __future__ import annotations

import ast
import ctypes
import os
import platform
import threading
from pathlib import Path

import pytest

import annex_remote
from annex_remote.torrents.addresses import parse_allowed
from annex_remote.torrents.library import settings_pack, start_session
from annex_remote.torrents.settings import TorrentSettings
from tests.sessions.session import wait_for

PACKAGE = Path(annex_remote.__file__).parent
HERE = "127.0.0.1"
ALONE = TorrentSettings(listen=((HERE, 0),), dht=False)


def importers(name: str) -> set[str]:
    """Return the modules of the package that import `name` anywhere in them."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            if any(each.partition(".")[0] == name for each in names):
                found.add(str(path.relative_to(PACKAGE)))
    return found


def test_only_one_module_imports_libtorrent() -> None:
    assert importers("libtorrent") == {"torrents/library.py"}


@pytest.mark.parametrize("background", [False, True])
def test_what_a_session_is_set_to(background: bool) -> None:
    """What libtorrent says it does, with settings that it knows: others it would leave out."""
    import libtorrent as lt

    given = settings_pack(ALONE, background=background)
    taken = start_session(ALONE, parse_allowed(HERE), background=background).get_settings()
    assert {name: taken.get(name) for name in given} == given
    # By itself Linux has a window that is too small for a peer far away.
    assert taken["recv_socket_buffer_size"] == taken["send_socket_buffer_size"] == 1 << 20
    assert not any(taken[f"enable_{name}"] for name in ("dht", "upnp", "natpmp"))
    assert taken["listen_interfaces"] == f"{HERE}:0"
    assert taken["outgoing_interfaces"] == HERE
    tcp = [taken[f"enable_{way}_tcp"] for way in ("outgoing", "incoming")]
    if background:
        assert tcp == [False, False]
        assert [taken[f"enable_{way}_utp"] for way in ("outgoing", "incoming")] == [True, True]
        assert taken["connections_limit"] == 20
        assert taken["aio_threads"] == taken["hashing_threads"] == 1
    else:
        assert tcp == [True, True]
        assert not taken["enable_outgoing_utp"]
        assert taken["enable_incoming_utp"]
        assert taken["mixed_mode_algorithm"] == int(lt.bandwidth_mixed_algo_t.prefer_tcp)
        assert taken["connections_limit"] == 200


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("nodes", [(), ((HERE, 9),)], ids=["libtorrent's nodes", "own nodes"])
def test_what_is_named_is_believed(nodes: tuple[tuple[str, int], ...], background: bool) -> None:
    pack = settings_pack(TorrentSettings(nodes=nodes), background=background)
    assert pack["enable_dht"]
    assert pack.get("dht_bootstrap_nodes") == (f"{HERE}:9" if nodes else None)
    assert pack["dht_restrict_routing_ips"] == pack["dht_restrict_search_ips"] == (not nodes)
    assert pack["enable_lsd"]
    assert not settings_pack(TorrentSettings(listen=()), background=background)["enable_lsd"]


NICE = 18
"""Where in /proc/…/stat it stands, behind the name and counted from the state (3); see proc(5)."""
IDLE = 3
"""The class of those that get the disk when nobody else wants it; see ioprio_set(2)."""


def way_of(thread: int) -> tuple[int, int]:
    """Return how nice a thread is, and the class of what it asks of a disk."""
    stat = Path(f"/proc/self/task/{thread}/stat").read_text().rpartition(")")[2].split()
    call = {"x86_64": 252, "aarch64": 31}[platform.machine()]
    return int(stat[NICE - 2]), ctypes.CDLL(None).syscall(call, 1, thread) >> 13


def threads() -> set[int]:
    return set(map(int, os.listdir("/proc/self/task")))


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="the number of ioprio_get is not known"
)
@pytest.mark.parametrize("background", [False, True])
def test_threads_give_way_in_the_background(background: bool, tmp_path: Path) -> None:
    """libtorrent's alone, those too that it starts when there is something to write."""
    import libtorrent as lt

    (tmp_path / "a").write_bytes(bytes(1 << 20))
    torrent = lt.create_torrent(lt.list_files(str(tmp_path / "a")), 1 << 16, lt.create_torrent.v1_only)
    lt.set_piece_hashes(torrent, str(tmp_path))
    params = lt.load_torrent_buffer(lt.bencode(torrent.generate()))
    params.save_path = str(tmp_path)
    stop = threading.Event()
    own = threading.Thread(target=stop.wait, daemon=True)
    own.start()
    ours = [threading.get_native_id(), own.native_id or 0]
    before, usual = threads(), way_of(ours[0])
    session = start_session(ALONE, parse_allowed(HERE), background=background)
    handle = session.add_torrent(params)
    wait_for(lambda: handle.status().is_seeding, "all is checked", 60)
    started = {thread: way_of(thread) for thread in threads() - before}
    assert [way_of(thread) for thread in ours] == [usual, usual]
    stop.set()
    own.join()
    assert usual[0] == 0
    assert usual[1] != IDLE
    assert len(started) >= 3  # one for the network, some for the disk, some that hash
    assert set(started.values()) == {(19, IDLE) if background else usual}
