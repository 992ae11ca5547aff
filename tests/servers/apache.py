"""Apache 2.4 with mod_dav, apart from any site that this machine serves."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from requests.auth import AuthBase, HTTPDigestAuth

from tests.servers.available import APACHE_MODULES, found
from tests.servers.certificates import Certificate
from tests.servers.web import Account, WebServer, password_file

_REALM = "swarm"
_NOBODY = "65534"
_MODULES = (
    *("authn_core", "authn_file", "authz_core", "authz_user", "auth_basic", "auth_digest"),
    *("mpm_event", "mime", "dir", "autoindex", "dav", "dav_fs"),
)
_CONFIGURATION = """\
ServerRoot "{folder}"
ServerName {host}
Listen {host}:{port}
PidFile apache.pid
DefaultRuntimeDir "{folder}"
Mutex file:{folder} default
ErrorLog server.log
LogFormat "%h %u \\"%r\\" %>s %b" common
CustomLog access.log common
{modules}
TypesConfig /dev/null
StartServers 1
ServerLimit 1
ThreadsPerChild 64
MaxRequestWorkers 64
MinSpareThreads 1
MaxSpareThreads 64
DavLockDB "{folder}/locks"
DocumentRoot "{root}"
{tls}
<Directory "{root}">
    Dav On
    Options Indexes
    AllowOverride None
    LimitRequestBody {max_body}
    {access}
</Directory>
"""
_ACCOUNT = """\
AuthType {scheme}
    AuthName {realm}
    AuthUserFile "{passwords}"
    Require valid-user"""
_TLS = """\
LoadModule ssl_module {modules}/mod_ssl.so
LoadModule socache_shmcb_module {modules}/mod_socache_shmcb.so
SSLEngine on
SSLCertificateFile "{chain}"
SSLCertificateKeyFile "{key}"
"""


class Apache(WebServer):
    """Apache's WebDAV over the files below `root`; `digest` instead of Basic authentication for its account."""

    program = "apache"

    def __init__(
        self,
        folder: Path,
        *,
        account: Account | None = None,
        certificate: Certificate | None = None,
        digest: bool = False,
        max_body: int = 0,
    ) -> None:
        super().__init__(folder, account=account, certificate=certificate)
        self._digest = digest
        self._max_body = max_body

    @property
    def auth(self) -> AuthBase | None:
        if self.account and self._digest:
            return HTTPDigestAuth(self.account.user, self.account.password)
        return super().auth

    def prepare(self) -> list[str]:
        lines = [f"LoadModule {name}_module {APACHE_MODULES}/mod_{name}.so" for name in _MODULES]
        tls = ""
        if self.certificate:
            chain, key = self.certificate.chain, self.certificate.key
            tls = _TLS.format(modules=APACHE_MODULES, chain=chain, key=key)
        text = _CONFIGURATION.format(
            folder=self.folder,
            root=self.root,
            host=self.host,
            port=self.port,
            modules="\n".join(lines),
            tls=tls,
            max_body=self._max_body,
            access=self._access(),
        )
        (self.folder / "apache.conf").write_text(text, encoding="utf-8")
        return self._command()

    def _command(self) -> list[str]:
        apache = [found("apache2"), "-f", str(self.folder / "apache.conf"), "-D", "FOREGROUND"]
        if os.getuid() != 0:
            return apache
        # It refuses to serve as root, and another user cannot look into the folders of the tests: so it is
        # another user to whom no permissions apply.
        capabilities = "+dac_override,+fowner"
        return [
            found("setpriv"),
            *("--reuid", _NOBODY, "--regid", _NOBODY, "--clear-groups"),
            *("--pdeathsig", "TERM"),  # which a change of user takes away
            *("--inh-caps", capabilities, "--ambient-caps", capabilities),
            *apache,
        ]

    def _access(self) -> str:
        if self.account is None:
            return "Require all granted"
        passwords = self.folder / "passwords"
        if self._digest:
            secret = f"{self.account.user}:{_REALM}:{self.account.password}"
            hashed = hashlib.md5(secret.encode(), usedforsecurity=False).hexdigest()
            passwords.write_text(f"{self.account.user}:{_REALM}:{hashed}\n", encoding="utf-8")
        else:
            password_file(passwords, self.account)
        return _ACCOUNT.format(scheme="Digest" if self._digest else "Basic", realm=_REALM, passwords=passwords)


apache_dav = Apache
