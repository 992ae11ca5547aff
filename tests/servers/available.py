"""What servers this machine can run, and what is to be done where it cannot."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
INSTALLER = "contrib/servers/install"
_NODE_MODULES = CHECKOUT / ".servers" / "node_modules"
S3RVER = _NODE_MODULES / "s3rver"
WEBTORRENT = _NODE_MODULES / "webtorrent"
BITTORRENT_TRACKER = _NODE_MODULES / "bittorrent-tracker"
# Debian keeps daemons where an ordinary user's PATH does not look.
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])

_Check = Callable[[], str | None]


def found(program: str) -> str:
    """Return the absolute path of `program`, which is known to be there."""
    path = shutil.which(program, path=_PATH)
    assert path is not None, f"{program} is not on this machine"
    return path


def _program(name: str) -> _Check:
    return lambda: None if shutil.which(name, path=_PATH) else f"there is no program {name}"


def _file(path: Path) -> _Check:
    return lambda: None if path.exists() else f"there is no {path}"


def _package(name: str, distribution: str | None = None) -> _Check:
    return lambda: None if importlib.util.find_spec(name) else f"there is no Python package {distribution or name}"


NGINX_DAV_EXT = Path("/usr/lib/nginx/modules/ngx_http_dav_ext_module.so")
APACHE_MODULES = Path("/usr/lib/apache2/modules")
SFTP_SERVER = Path("/usr/lib/openssh/sftp-server")

_CEPH = ("radosgw", "radosgw-admin", "ceph", "ceph-mon", "ceph-osd", "ceph-authtool", "monmaptool")
_NEEDED: dict[str, list[_Check]] = {
    "nginx": [_program("nginx"), _file(NGINX_DAV_EXT)],
    "apache": [_program("apache2"), _file(APACHE_MODULES / "mod_dav_fs.so"), _program("setpriv")],
    "wsgidav": [_package("wsgidav"), _package("cheroot")],
    "rclone": [_program("rclone")],
    "sshd": [_program("sshd"), _program("ssh-keygen"), _program("ssh"), _file(SFTP_SERVER)],
    "moto": [_package("moto"), _package("flask"), _package("flask_cors", "flask-cors")],
    "s3rver": [_program("node"), _file(S3RVER)],
    "rgw": [_program(name) for name in _CEPH],
    "certificates": [_package("trustme")],
    "libtorrent": [_package("libtorrent")],
    "aria2": [_program("aria2c")],
    "transmission": [_program("transmission-daemon")],
    "webtorrent": [_program("node"), _file(WEBTORRENT)],
    "bittorrent-tracker": [_program("node"), _file(BITTORRENT_TRACKER)],
    "opentracker": [_program("opentracker")],
}


@cache
def missing() -> dict[str, str]:
    """Return for each kind of server that cannot be run here what it lacks."""
    lacks = {name: "; ".join(why for check in checks if (why := check())) for name, checks in _NEEDED.items()}
    return {name: why for name, why in lacks.items() if why}


def require(name: str) -> None:
    """Return if the server can be run here; else fail the test that asks in CI, and skip it elsewhere."""
    assert name in _NEEDED, f"no server is called {name}"
    why = missing().get(name)
    if why is None:
        return
    text = f"NOT TESTED: {name} cannot be run on this machine: {why}. Run {INSTALLER}, and pip install '.[test]'"
    if os.environ.get("CI"):
        pytest.fail(text, pytrace=False)
    pytest.skip(text)
