"""Real servers that nobody here wrote, each started on loopback for a test, with all its files in one folder.

    with nginx_dav(tmp_path / "nginx", account=Account()) as server:
        requests.get(server.url, auth=server.auth, timeout=10)

Every server has `host`, `port`, `pid`, `folder` and `log`; most have `root`, the directory where their files are,
so that a test can put and damage files behind their back. `stop()`, `kill()` and `start()` keep the port.
A server that cannot be had skips the test, or fails it in CI: see `available`.

BitTorrent peers (`Peer`) and trackers (`Tracker`) are told what to do, and say when it is done:

    with BitTorrentTracker(tmp_path / "tracker") as tracker, Aria2(tmp_path / "peer") as peer:
        torrent = make_torrent(tmp_path / "content" / "file", trackers=[tracker.announce])
        tracker.wait_for(peer.seed(torrent, tmp_path / "content"), seeds=1)

What no good server does is done by small ones of ours: `LyingSeed`, `DyingSeed`, `ToldTracker`, and by
`LibtorrentPeer` when it is told to lie.
"""

from tests.servers.apache import apache_dav
from tests.servers.aria2 import Aria2
from tests.servers.available import missing, require
from tests.servers.certificates import Certificate, Certificates, make_certificates
from tests.servers.nginx import nginx_dav, nginx_static
from tests.servers.other_dav import rclone_dav, wsgidav
from tests.servers.peers import DhtNodes, LibtorrentPeer
from tests.servers.process import Server, ServerError
from tests.servers.rgw import rgw
from tests.servers.s3 import Keys, S3Server, moto, s3rver
from tests.servers.ssh import SshClient, Sshd, sshd
from tests.servers.torrents import Peer, magnet_of, make_torrent
from tests.servers.trackers import BitTorrentTracker, OpenTracker, ToldTracker, Tracker
from tests.servers.transmission import Transmission
from tests.servers.web import Account, WebServer
from tests.servers.webseeds import DyingSeed, LyingSeed, nginx_without_ranges
from tests.servers.webtorrent import WebTorrent

__all__ = [
    "Account",
    "Aria2",
    "BitTorrentTracker",
    "Certificate",
    "Certificates",
    "DhtNodes",
    "DyingSeed",
    "Keys",
    "LibtorrentPeer",
    "LyingSeed",
    "OpenTracker",
    "Peer",
    "S3Server",
    "Server",
    "ServerError",
    "SshClient",
    "Sshd",
    "ToldTracker",
    "Tracker",
    "Transmission",
    "WebServer",
    "WebTorrent",
    "apache_dav",
    "magnet_of",
    "make_certificates",
    "make_torrent",
    "missing",
    "moto",
    "nginx_dav",
    "nginx_static",
    "nginx_without_ranges",
    "rclone_dav",
    "require",
    "rgw",
    "s3rver",
    "sshd",
    "wsgidav",
]
