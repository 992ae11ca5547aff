"""nginx: a WebDAV server, and a plain web server that only lets read."""

from __future__ import annotations

import os
from pathlib import Path

from tests.servers.available import NGINX_DAV_EXT, found
from tests.servers.certificates import Certificate
from tests.servers.web import Account, WebServer, password_file

_CONFIGURATION = """\
{user}
load_module {dav_ext};
daemon off;
pid nginx.pid;
error_log stderr warn;
worker_processes 1;
events {{ worker_connections 512; }}
http {{
    access_log access.log;
    types {{ }}
    default_type application/octet-stream;
    client_body_temp_path temporary/body;
    proxy_temp_path temporary/proxy;
    fastcgi_temp_path temporary/fastcgi;
    uwsgi_temp_path temporary/uwsgi;
    scgi_temp_path temporary/scgi;
    client_max_body_size {max_body};
    server {{
        listen {host}:{port}{tls};
        root "{root}";
        location / {{
{location}
        }}
    }}
}}
"""
_DAV = """\
dav_methods PUT DELETE MKCOL COPY MOVE;
dav_ext_methods PROPFIND OPTIONS;
dav_access user:rw;
create_full_put_path {makes_parents};"""
_STATIC = """\
autoindex on;
limit_except GET { deny all; }"""
_BASIC = """\
auth_basic "swarm";
auth_basic_user_file "{passwords}";"""


class Nginx(WebServer):
    """nginx over the files below `root`; see `nginx_dav` and `nginx_static`."""

    program = "nginx"

    def __init__(
        self,
        folder: Path,
        *,
        account: Account | None = None,
        certificate: Certificate | None = None,
        location: str,
        max_body: int = 0,
    ) -> None:
        super().__init__(folder, account=account, certificate=certificate)
        self._location = location
        self._max_body = max_body

    def prepare(self) -> list[str]:
        (self.folder / "temporary").mkdir(exist_ok=True)
        location, tls = self._location, ""
        if self.account:
            passwords = password_file(self.folder / "passwords", self.account)
            location += "\n" + _BASIC.format(passwords=passwords)
        if self.certificate:
            chain, key = self.certificate.chain, self.certificate.key
            tls = f' ssl; ssl_certificate "{chain}"; ssl_certificate_key "{key}"'
        text = _CONFIGURATION.format(
            # As root its workers would else be another user, who cannot look into the folders of the tests.
            user="user root root;" if os.getuid() == 0 else "",
            dav_ext=NGINX_DAV_EXT,
            max_body=self._max_body,
            host=self.host,
            port=self.port,
            tls=tls,
            root=self.root,
            location=location,
        )
        (self.folder / "nginx.conf").write_text(text, encoding="utf-8")
        return [found("nginx"), "-e", "stderr", "-p", str(self.folder), "-c", "nginx.conf"]


def nginx_dav(
    folder: Path,
    *,
    account: Account | None = None,
    certificate: Certificate | None = None,
    max_body: int = 0,
    makes_parents: bool = False,
) -> Nginx:
    """WebDAV with PROPFIND; 413 for a body of more than `max_body` bytes (0: no bound)."""
    location = _DAV.format(makes_parents="on" if makes_parents else "off")
    return Nginx(folder, account=account, certificate=certificate, location=location, max_body=max_body)


def nginx_static(folder: Path, *, account: Account | None = None, certificate: Certificate | None = None) -> Nginx:
    """Files to read, and pages that list the directories."""
    return Nginx(folder, account=account, certificate=certificate, location=_STATIC)
