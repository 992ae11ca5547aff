"""WebDAV as smaller servers speak it: wsgidav, and `rclone serve webdav`."""

from __future__ import annotations

import json
import os
import sys

from tests.servers.available import found
from tests.servers.web import WebServer


class WsgiDav(WebServer):
    """wsgidav on cheroot, over the files below `root`; its account is asked for by Basic authentication."""

    program = "wsgidav"

    def prepare(self) -> list[str]:
        users = {self.account.user: {"password": self.account.password}} if self.account else True
        settings = {
            "host": self.host,
            "port": self.port,
            "provider_mapping": {"/": str(self.root)},
            "simple_dc": {"user_mapping": {"*": users}},
            "http_authenticator": {"accept_basic": True, "accept_digest": False, "default_to_digest": False},
            "server_args": {"numthreads": 32},
            "verbose": 2,
        }
        if self.certificate:
            settings |= {
                "ssl_certificate": str(self.certificate.chain),
                "ssl_private_key": str(self.certificate.key),
            }
        file = self.folder / "wsgidav.json"
        file.write_text(json.dumps(settings), encoding="utf-8")
        return [sys.executable, "-m", "wsgidav.server.server_cli", "--server=cheroot", f"--config={file}"]


class RcloneDav(WebServer):
    """`rclone serve webdav` over the files below `root`."""

    program = "rclone"

    def prepare(self) -> list[str]:
        certificate = self.certificate
        tls = ["--cert", str(certificate.chain), "--key", str(certificate.key)] if certificate else []
        # No cache of directories: what a test puts below `root` is to be seen at once.
        return [
            *(found("rclone"), "serve", "webdav", str(self.root), "--addr", f"{self.host}:{self.port}"),
            *("--config", os.devnull, "--cache-dir", str(self.folder / "cache"), "--dir-cache-time", "0s"),
            *tls,
        ]

    def environment(self) -> dict[str, str]:
        if self.account is None:
            return {}
        return {"RCLONE_USER": self.account.user, "RCLONE_PASS": self.account.password}


wsgidav = WsgiDav
rclone_dav = RcloneDav
