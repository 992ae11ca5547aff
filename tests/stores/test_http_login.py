"""Logging in over HTTP, at servers that ask for it in every way that there is."""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path

import pytest

from annex_remote.errors import Denied
from annex_remote.model import Login
from annex_remote.stores.http import Auth, Client
from annex_remote.stores.http_login import LoginAuth, auth_for
from tests.fakes import Run
from tests.proxy import Request, Scripted
from tests.servers import Account, apache_dav
from tests.stores.test_http import MakeClient, answer, client, texts

__all__ = ["client"]

LOGIN = Login("ute", "hidden:horse")
HASHES = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}


class Gate(Scripted):
    """Lets in who has the login, by Digest as RFC 7616 has it; its nonces and words are what a test says."""

    def __init__(
        self,
        login: Login = LOGIN,
        *,
        algorithm: str = "",
        qop: str = "",
        realm: str = "here",
        opaque: str = "",
        says_stale: bool = True,
        more: str = "{}",
    ) -> None:
        self.login = login
        self.algorithm = algorithm
        self.qop = qop
        self.realm = realm
        self.opaque = opaque
        self.says_stale = says_stale
        self.more = more
        self.nonce = "n1"
        self.counts: list[int] = []
        """The counts of those that were let in."""
        self.refused = 0
        super().__init__(self._judge, keeps=True)

    def _judge(self, request: Request, _: bytes) -> bytes:
        said = request.headers.get("Authorization", "")
        found = re.findall(r'(\w+)=(?:"((?:[^"\\]|\\.)*)"|([^,]+))', said)
        words = {name: re.sub(r"\\(.)", r"\1", quoted) or plain for name, quoted, plain in found}
        if said.startswith("Digest ") and words["nonce"] == self.nonce and self._proves(request, words):
            return answer(200, b"in")
        with self._lock:
            self.refused += 1
        stale = said and self.says_stale and words.get("nonce") != self.nonce
        realm = re.sub(r'(["\\])', r"\\\1", self.realm)
        offer = f'Digest realm="{realm}", nonce="{self.nonce}"'
        offer += f", algorithm={self.algorithm}" if self.algorithm else ""
        offer += f', qop="{self.qop}"' if self.qop else ""
        offer += f', opaque="{self.opaque}"' if self.opaque else ""
        offer += ", stale=TRUE" if stale else ""
        return answer(401, b"who?", WWW_Authenticate=self.more.format(offer))

    def _proves(self, request: Request, words: dict[str, str]) -> bool:
        name, _, session = (self.algorithm or "MD5").upper().partition("-SESS")
        is_session = name + session != (self.algorithm or "MD5").upper()

        def digest(*parts: str) -> str:
            return HASHES[name](":".join(parts).encode("latin-1")).hexdigest()

        # What came over the line, byte by byte.
        user, password = (part.encode().decode("latin-1") for part in (self.login.user, self.login.password))
        who = digest(user, self.realm, password)
        if is_session:
            who = digest(who, self.nonce, words["cnonce"])
        what = digest(request.method, request.target)
        middle = [self.nonce]
        if self.qop:
            middle += [words["nc"], words["cnonce"], words["qop"]]
            with self._lock:
                self.counts.append(int(words["nc"], 16))
        wanted = digest(who, *middle, what)
        return (
            words["response"] == wanted
            and words["username"] == user
            and words["realm"] == self.realm
            and words["uri"] == request.target
            and words.get("opaque", "") == self.opaque
            and words.get("algorithm", "") == self.algorithm
        )


def get(asked: Client, path: str = "/x") -> bytes:
    return asked.ask("GET", path, "asking").body


@pytest.mark.parametrize("algorithm", ["", "MD5", "SHA-256", "MD5-sess", "SHA-256-sess"])
@pytest.mark.parametrize("qop", ["", "auth", "auth-int, auth", "auth,auth-int"])
def test_digest(client: MakeClient, algorithm: str, qop: str) -> None:
    with Gate(algorithm=algorithm, qop=qop, opaque="o p") as gate:
        asked = client(gate.url, LoginAuth(LOGIN))
        for path in ("/x", "/x", "/a%20b/%C3%BC", "/x?y=1"):
            assert get(asked, path) == b"in"
        assert gate.refused == 1
        assert gate.counts == ([1, 2, 3, 4] if qop else [])


@pytest.mark.parametrize(
    "login",
    [
        Login('me \\ "myself"', "x"),
        Login("Ütë", "pässwörd"),
        Login("Łukasz", "żółw"),
        Login("ute", "€"),
        Login("ute", "back\\slash"),
    ],
    ids=lambda login: str(login.user),
)
def test_a_login_that_is_not_ascii(client: MakeClient, login: Login) -> None:
    with Gate(login, qop="auth", realm='Über\\ "us"'.encode().decode("latin-1")) as gate:
        assert get(client(gate.url, LoginAuth(login))) == b"in"
    with Scripted(ask_basic(login), keeps=True) as server:
        assert get(client(server.url, LoginAuth(login))) == b"in"


def ask_basic(login: Login, offer: str = 'Basic realm="x", charset="UTF-8"') -> Callable[[Request, bytes], bytes]:
    def judge(request: Request, _: bytes) -> bytes:
        scheme, pair = (request.headers.get("Authorization") or " ").split(" ")
        if scheme == "Basic" and b64decode(pair) == f"{login.user}:{login.password}".encode():
            return answer(200, b"in")
        return answer(401, b"who?", WWW_Authenticate=offer)

    return judge


def test_basic_is_said_when_asked_and_not_before(client: MakeClient) -> None:
    with Scripted(ask_basic(LOGIN), keeps=True) as server:
        asked = client(server.url, LoginAuth(LOGIN))
        for _ in range(3):
            assert get(asked) == b"in"
        said = [bool(request.headers["Authorization"]) for request in server.requests]
        assert said == [False, True, True, True]


@pytest.mark.parametrize("says_stale", [True, False])
def test_a_nonce_wears_out(client: MakeClient, *, says_stale: bool) -> None:
    """Also where the server does not say that this is what it was."""
    with Gate(qop="auth", says_stale=says_stale) as gate:
        asked = client(gate.url, LoginAuth(LOGIN))
        assert get(asked) == b"in"
        for turn in range(3):
            gate.nonce = f"new{turn}"
            assert get(asked) == b"in"
            assert get(asked) == b"in"
        assert gate.refused == 4
        assert gate.counts == [1, 1, 2, 1, 2, 1, 2]


def test_a_nonce_that_is_given_again_is_counted_on(client: MakeClient) -> None:
    with Gate(qop="auth") as gate:
        asked = client(gate.url, LoginAuth(LOGIN))
        assert get(asked) == b"in"
        auth = LoginAuth(LOGIN)
        both = [client(gate.url, auth), client(gate.url, auth)]
        gate.counts.clear()
        assert get(both[0]) == b"in"
        assert get(both[1]) == b"in"
        assert gate.counts == [1, 2]


def test_a_wrong_login_is_not_said_again_and_again(client: MakeClient) -> None:
    for more in ("{}", '{}, Basic realm="x"', 'Basic realm="x", {}'):
        with Gate(qop="auth", more=more) as gate:
            asked = client(gate.url, LoginAuth(Login("ute", "hidden, but wrong")))
            for turn in range(4):
                gate.nonce = f"of {turn}"
                with pytest.raises(Denied, match="wants user and password") as raised:
                    get(asked)
                assert raised.value.wants_login
                assert "hidden" not in texts(raised.value)
            assert len(gate.requests) <= 8
    with Scripted(ask_basic(LOGIN), keeps=True) as server:
        asked = client(server.url, LoginAuth(Login("ute", "hidden, but wrong")))
        for _ in range(3):
            with pytest.raises(Denied):
                get(asked)
        assert len(server.requests) == 4


def test_a_fresh_nonce_of_a_refused_login_is_not_tried_twice(client: MakeClient) -> None:
    with Gate(qop="auth") as gate:
        asked = client(gate.url, LoginAuth(Login("ute", "wrong")))
        for _ in range(3):
            with pytest.raises(Denied):
                get(asked)
        assert len(gate.requests) == 4


def test_a_password_that_is_put_right_on_the_server(client: MakeClient) -> None:
    with Gate(Login("ute", "another"), qop="auth", says_stale=False) as gate:
        asked = client(gate.url, LoginAuth(LOGIN))
        with pytest.raises(Denied):
            get(asked)
        gate.login, gate.nonce = LOGIN, "n2"
        with pytest.raises(Denied):  # for all that is known it is still wrong, but there is a new nonce
            get(asked)
        assert get(asked) == b"in"


OFFERS = [
    '{}, Basic realm="x"',
    'Basic realm="x", {}',
    'Negotiate, {}, Bearer realm="x, y", error="Digest nonce=\\"n\\""',
    "Negotiate oYG3MIG0oAMKAQA=, {}",
    'Digest realm="x", nonce="y", algorithm=SHA-512-256, qop="auth", {}',
    'Digest realm="x", nonce="y", qop="auth-int", {}',
    'Basic realm="Digest of \\"basic\\", really", {}',
    '  {}  ,,  Basic  realm = "x"',
]


@pytest.mark.parametrize("more", OFFERS)
def test_digest_among_others(client: MakeClient, more: str) -> None:
    with Gate(qop="auth", more=more) as gate:
        assert get(client(gate.url, LoginAuth(LOGIN))) == b"in"
        assert not [each for each in gate.requests if (each.headers["Authorization"] or "").startswith("Basic")]


def test_challenges_in_headers_of_their_own(client: MakeClient) -> None:
    for first, second in (("Basic", "Digest"), ("Digest", "Basic")):
        offers = {"Basic": 'Basic realm="x"', "Digest": 'Digest realm="x", nonce="n", qop="auth"'}
        lines = "\r\n".join(f"WWW-Authenticate: {offers[scheme]}" for scheme in (first, second))
        said = f"HTTP/1.1 401 Who\r\n{lines}\r\nContent-Length: 0\r\n\r\n".encode()
        with Scripted(lambda _request, _body, said=said: said, keeps=True) as server:  # type: ignore[misc]
            with pytest.raises(Denied):
                get(client(server.url, LoginAuth(LOGIN)))
            assert [(each.headers["Authorization"] or "").partition(" ")[0] for each in server.requests] == [
                "",
                "Digest",
            ]


@pytest.mark.parametrize(
    "offer",
    [
        "",
        "Negotiate",
        'Bearer realm="basic"',
        'Digest realm="Basic"',
        'Digest realm="x", nonce="y", algorithm=SHA-512-256',
        'Digest realm="x", nonce="y", qop="auth-int"',
        'Newauth title="Login to \\"apps\\", Basic realm=\\"simple\\""',
        '=, =,,"\\',
        'Digest "',
        "\xff\xfe",
    ],
)
def test_nothing_is_said_to_who_asks_for_what_we_cannot(client: MakeClient, offer: str) -> None:
    with Scripted(lambda _request, _body: answer(401, b"", WWW_Authenticate=offer), keeps=True) as server:
        with pytest.raises(Denied):
            get(client(server.url, LoginAuth(LOGIN)))
        assert [each.headers["Authorization"] for each in server.requests] == [None]


def test_nobody_else_learns_who_we_are(client: MakeClient) -> None:
    """Neither asked for it after a redirect, nor as it was said before."""
    with Gate(qop="auth") as gate, Scripted(ask_basic(LOGIN), keeps=True) as basic:
        for server in (gate, basic):
            with Scripted(
                lambda _request, _body: answer(401, b"", WWW_Authenticate='Basic realm="x", Digest nonce="n"')
            ) as other:
                asked = client(server.url, LoginAuth(LOGIN))
                assert get(asked) == b"in"
                judge = server._answer
                server._answer = lambda _request, _body, to=other.url: answer(302, b"", Location=f"{to}/x")  # type: ignore[misc]
                with pytest.raises(Denied) as raised:
                    get(asked)
                server._answer = judge
                assert "hidden" not in texts(raised.value)
                assert [each.headers["Authorization"] for each in other.requests] == [None]


def test_threads_share_a_login(client: MakeClient) -> None:
    with Gate(qop="auth") as gate:
        asked = client(gate.url, LoginAuth(LOGIN), patience=30.0)
        for turn in range(3):
            gate.nonce = f"of {turn}"
            gate.counts.clear()
            for run in [Run(lambda: get(asked)) for _ in range(16)]:
                run.join()
            # Each use has a number of its own, and nobody was refused for good.
            assert len(set(gate.counts)) == len(gate.counts) == 16


# Where the login comes from.


@pytest.fixture
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "netrc"
    path.write_text("machine 127.0.0.1 login ute password hidden:horse\n")
    path.chmod(0o600)
    monkeypatch.setenv("NETRC", str(path))
    return path


def test_a_netrc_is_read_where_no_login_is_given(client: MakeClient, netrc: Path) -> None:
    with Scripted(ask_basic(LOGIN), keeps=True) as server:
        assert get(client(server.url, auth_for(server.url, None))) == b"in"
        with pytest.raises(Denied):
            get(client(server.url, auth_for(server.url, Login("other", "pair"))))
        netrc.write_text("machine elsewhere.example login ute password hidden:horse\n")
        assert type(auth_for(server.url, None)) is Auth
        netrc.write_text("machine 127.0.0.1 login ute password\n")
        assert type(auth_for(server.url, None)) is Auth
        netrc.unlink()
        assert type(auth_for(server.url, None)) is Auth


def test_a_login_is_not_to_be_seen() -> None:
    auth = LoginAuth(LOGIN)
    assert "hidden" not in f"{auth} {auth!r} {LOGIN!r}"


def test_digest_at_apache(client: MakeClient, tmp_path: Path) -> None:
    with apache_dav(tmp_path / "dav", account=Account("ute", "a b:c"), digest=True) as server:
        (server.root / "x").write_bytes(b"in")
        asked = client(server.url, LoginAuth(Login("ute", "a b:c")))
        assert [get(asked), get(asked)] == [b"in", b"in"]
        with pytest.raises(Denied) as raised:
            get(client(server.url, LoginAuth(Login("ute", "hidden"))))
        assert raised.value.wants_login
