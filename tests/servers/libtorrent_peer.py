"""A BitTorrent peer by libtorrent, or some nodes of the DHT, in a process of their own that does what it is told.

    libtorrent_peer.py '{"address": "127.0.0.1:26881", "transport": "tcp"}'
    libtorrent_peer.py '{"nodes": ["127.0.0.1:26881", "127.0.0.2:26881"]}'

What it is told comes on the unix socket `control` of the working directory: a connection brings one line, a JSON
object that has in `what` the name of a method of `Peer` or `Nodes` and else its arguments, and gets one line,
`{"answer": …}` or `{"error": "…"}`. A torrent is called by its info-hash in hex.
"""

from __future__ import annotations

import json
import signal
import socketserver
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libtorrent as lt

CONTROL = "control"
_LOOK_AGAIN = 0.01
_PATIENCE = 30.0
_UTP = 1 << 17
"""What C++ calls peer_info::utp_socket; Python has no name for it."""
# Nothing looks for peers beyond what is told; the DHT takes nodes whose addresses are all of one machine.
_ALONE: dict[str, Any] = {
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "dht_bootstrap_nodes": "",
    "dht_restrict_routing_ips": False,
    "dht_restrict_search_ips": False,
    "dht_block_ratelimit": 10_000,
    "webtorrent_stun_server": "",
    # A tracker on this machine may have what URL it likes, one with a passkey too.
    "ssrf_mitigation": False,
}


class Peer:
    """One that seeds and fetches, and finds others by trackers, and by the DHT unless `dht` is None.

    transport: "tcp", "utp", or "both", which makes libtorrent try μTP first.
    dht: the nodes that the DHT is entered by.
    unchecked: nothing is ever checked; it seeds what is there.
    lsd: it tells its network of torrents, and hears who else has them.
    """

    def __init__(
        self, address: str, *, transport: str, encryption: str, dht: list[str] | None, unchecked: bool, lsd: bool
    ) -> None:
        policy = {"none": lt.enc_policy.disabled, "allowed": lt.enc_policy.enabled, "forced": lt.enc_policy.forced}
        self._session = _session(
            address,
            {
                "enable_lsd": lsd,
                "enable_dht": dht is not None,
                "dht_bootstrap_nodes": ",".join(dht or ()),
                "enable_incoming_tcp": transport != "utp",
                "enable_outgoing_tcp": transport != "utp",
                "enable_incoming_utp": transport != "tcp",
                "enable_outgoing_utp": transport != "tcp",
                "recv_socket_buffer_size": 1 << 20,
                "in_enc_policy": policy[encryption],
                "out_enc_policy": policy[encryption],
                "allow_multiple_connections_per_ip": True,
                "announce_to_all_tiers": True,
                "announce_to_all_trackers": True,
                "min_reconnect_time": 1,
                "stop_tracker_timeout": 1,
                "utp_connect_timeout": 500,
                "disable_hash_checks": unchecked,
                "alert_mask": int(lt.alert_category.error | lt.alert_category.status | lt.alert_category.tracker),
            },
        )

    def seed(self, torrent: str, content: str, upload_limit: int) -> str:
        """Offer it, at so many bytes a second at most (0: no limit); return its info-hash when it is checked."""
        about = lt.load_torrent_buffer(Path(torrent).read_bytes())
        about.flags |= lt.torrent_flags.upload_mode
        handle = self._add(about, content)
        handle.set_upload_limit(upload_limit)
        _wait(lambda: str(handle.status().state) in ("seeding", "downloading"), _PATIENCE, self._told)
        if not handle.status().is_seeding:
            self._session.remove_torrent(handle)
            raise ValueError(f"what is in {content} is not what {torrent} describes")
        return _id(handle)

    def begin(self, source: str, into: str, peers: list[str], download_limit: int) -> str:
        """Begin to fetch a torrent or a magnet, and return its info-hash."""
        is_magnet = source.startswith("magnet:")
        about = lt.parse_magnet_uri(source) if is_magnet else lt.load_torrent_buffer(Path(source).read_bytes())
        handle = self._add(about, into)
        handle.set_download_limit(download_limit)
        for peer in peers:
            handle.connect_peer(_endpoint(peer))
        return _id(handle)

    def wait(self, torrent: str, within: float) -> None:
        """Return when all of it is there; `within` is in seconds."""
        handle = self._handle(torrent)
        _wait(lambda: handle.status().is_seeding, within, lambda: f"{self.status(torrent)}: {self._told()}")

    def connect(self, torrent: str, peer: str) -> None:
        self._handle(torrent).connect_peer(_endpoint(peer))

    def status(self, torrent: str) -> dict[str, Any]:
        """Return how far it is, in bytes, and with whom."""
        handle = self._handle(torrent)
        status = handle.status()
        return {
            "state": str(status.state),
            "done": status.total_wanted_done,
            "uploaded": status.total_payload_upload,
            "downloaded": status.total_payload_download,
            "peers": [_about_peer(peer) for peer in handle.get_peer_info()],
        }

    def forget(self, torrent: str) -> None:
        self._session.remove_torrent(self._handle(torrent))

    def _add(self, about: Any, folder: str) -> Any:
        about.save_path = folder
        about.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
        about.flags |= lt.torrent_flags.disable_pex
        return self._session.add_torrent(about)

    def _handle(self, torrent: str) -> Any:
        for handle in self._session.get_torrents():
            if _id(handle) == torrent:
                return handle
        raise LookupError(f"there is no torrent {torrent}")

    def _told(self) -> str:
        return "; ".join(alert.message() for alert in self._session.pop_alerts())


class Nodes:
    """Nodes of a DHT, which know one another."""

    def __init__(self, nodes: list[str]) -> None:
        kinds = int(lt.alert_category.dht)
        self._sessions = [_session(node, {"enable_dht": True, "alert_mask": kinds}) for node in nodes]
        self._told: dict[str, list[set[str]]] = {}
        # Not by `dht_bootstrap_nodes`: libtorrent keeps what stands there out of its table.
        for node, session in zip(nodes, self._sessions, strict=True):
            for other in nodes:
                if other != node:
                    session.add_dht_node(_endpoint(other))

    def acquainted(self, within: float) -> None:
        """Return when each node knows another."""
        known = [0] * len(self._sessions)

        def all_do() -> bool:
            for number, session in enumerate(self._sessions):
                session.post_dht_stats()
                for alert in session.pop_alerts():
                    if isinstance(alert, lt.dht_stats_alert):
                        known[number] = sum(bucket["num_nodes"] for bucket in alert.routing_table)
            return min(known) > 0

        _wait(all_do, within, lambda: f"each knows {known} others")

    def announced(self, torrent: str, within: float) -> list[str]:
        """Return who told all nodes that it has the torrent (20 bytes of its hash, in hex), once somebody did."""
        told: list[set[str]] = self._told.setdefault(torrent, [set() for _ in self._sessions])

        def somebody() -> bool:
            for number, session in enumerate(self._sessions):
                for alert in session.pop_alerts():
                    if isinstance(alert, lt.dht_announce_alert):
                        heard = self._told.setdefault(str(alert.info_hash), [set() for _ in self._sessions])
                        heard[number].add(f"{alert.ip}:{alert.port}")
            return bool(set.intersection(*told))

        _wait(somebody, within, lambda: f"the nodes heard of {told}")
        return sorted(set.intersection(*told))


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    settings = json.loads(sys.argv[1])
    told = Nodes(**settings) if "nodes" in settings else Peer(**settings)

    class Line(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            line = self.rfile.readline()
            if not line:
                return
            asked = json.loads(line)
            try:
                said = {"answer": getattr(told, asked.pop("what"))(**asked)}
            except Exception as error:  # noqa: BLE001 - whoever asked is to hear of it
                said = {"error": f"{type(error).__name__}: {error}"}
            self.wfile.write(json.dumps(said).encode() + b"\n")

    with _Server(CONTROL, Line) as server:
        server.serve_forever(poll_interval=0.1)


def _session(address: str, settings: dict[str, Any]) -> Any:
    parameters: Any = lt.session_params()
    # The other back ends say that a torrent is finished before its last bytes can be read by others.
    parameters.disk_io_constructor = "posix_disk_io_constructor"
    parameters.settings = _ALONE | {
        "listen_interfaces": address,
        "outgoing_interfaces": address.rpartition(":")[0],
        **settings,
    }
    return lt.session(parameters)


def _wait(done: Callable[[], bool], within: float, why: Callable[[], str]) -> None:
    deadline = time.monotonic() + within
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(why())
        time.sleep(_LOOK_AGAIN)


def _id(handle: Any) -> str:
    return str(handle.info_hashes().get_best())


def _endpoint(peer: str) -> tuple[str, int]:
    host, _, port = peer.rpartition(":")
    return host, int(port)


def _about_peer(peer: Any) -> dict[str, Any]:
    host, port = peer.ip
    return {
        "address": f"{host}:{port}",
        "utp": bool(peer.flags & _UTP),
        "client": bytes(peer.client).decode(errors="replace"),
    }


if __name__ == "__main__":
    main()
