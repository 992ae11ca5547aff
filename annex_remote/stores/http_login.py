"""Logging in over HTTP: Basic (RFC 7617) and Digest (RFC 7616), whichever the server asks for."""

from __future__ import annotations

import hashlib
import secrets
import threading
from base64 import b64encode

import requests
from requests.utils import get_netrc_auth, parse_dict_header

from annex_remote.model import Login
from annex_remote.stores.http import Auth

__all__ = ["LoginAuth", "auth_for"]

_HASHES = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}


def auth_for(origin: str, login: Login | None) -> Auth:
    """Return who we are to the server at `origin`: the login, or what ~/.netrc says, or nobody."""
    if login is None:
        found = get_netrc_auth(origin)
        login = Login(*found) if found and found[0] and found[1] else None
    return Auth() if login is None else LoginAuth(login)


class LoginAuth(Auth):
    """Says nothing before it is asked; from then on signs every request as the server wants it. Thread safe."""

    def __init__(self, login: Login) -> None:
        self._login = login
        self._lock = threading.Lock()
        self._basic = False
        self._digest: dict[str, str] = {}
        """The server's last challenge."""
        self._uses = 0
        """How many requests were signed with its nonce."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        with self._lock:
            self._uses += 1
            challenge, uses, basic = self._digest, self._uses, self._basic
        if challenge:
            request.headers["Authorization"] = self._answer(challenge, uses, request)
        elif basic:
            pair = f"{self._login.user}:{self._login.password}".encode()
            request.headers["Authorization"] = f"Basic {b64encode(pair).decode()}"
        return request

    def challenged(self, response: requests.Response) -> bool:
        sent = str(response.request.headers.get("Authorization", ""))
        offers = response.headers.get("WWW-Authenticate", "")
        digest = _digest_challenge(offers)
        if digest:
            with self._lock:
                known = self._digest.get("nonce", "") if sent.startswith("Digest") else ""
                if known and f'nonce="{known}"' in sent and digest.get("stale", "").lower() != "true":
                    return False  # the nonce was good, so it was the login
                self._digest, self._uses = digest, 0
            return True
        if "basic" in offers.lower() and not sent.startswith("Basic"):
            self._basic = True
            return True
        return False

    def _answer(self, challenge: dict[str, str], uses: int, request: requests.PreparedRequest) -> str:
        algorithm = challenge.get("algorithm", "MD5").upper()

        def digest(*words: str) -> str:
            return _HASHES[algorithm](":".join(words).encode()).hexdigest()

        realm, nonce = challenge.get("realm", ""), challenge["nonce"]
        uri, count, own = request.path_url, f"{uses:08x}", secrets.token_hex(8)
        who = digest(self._login.user, realm, self._login.password)
        what = digest(request.method or "", uri)
        said = {"username": self._login.user, "realm": realm, "nonce": nonce, "uri": uri}
        if "auth" in [word.strip() for word in challenge.get("qop", "").split(",")]:
            said["response"] = digest(who, nonce, count, own, "auth", what)
            ending = f', qop=auth, nc={count}, cnonce="{own}"'
        else:
            said["response"] = digest(who, nonce, what)
            ending = ""
        if "opaque" in challenge:
            said["opaque"] = challenge["opaque"]
        quoted = ", ".join(f'{name}="{_escaped(value)}"' for name, value in said.items())
        return f"Digest {quoted}, algorithm={algorithm}{ending}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _digest_challenge(offers: str) -> dict[str, str]:
    """Return the parts of the Digest challenge that we can answer, nothing if there is none."""
    # Several challenges may stand in one line; each Digest begins with its word, and others before it end there.
    for part in offers.replace("digest ", "Digest ").split("Digest ")[1:]:
        found = parse_dict_header(part)  # type: ignore[no-untyped-call] # types-requests leaves it out
        challenge = {name.lower(): str(value) for name, value in found.items() if value is not None}
        if challenge.get("nonce") and challenge.get("algorithm", "MD5").upper() in _HASHES:
            return challenge
    return {}
