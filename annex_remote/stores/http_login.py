"""Logging in over HTTP: Basic (RFC 7617) and Digest (RFC 7616), whichever the server asks for."""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from base64 import b64encode

import requests
from requests.utils import get_netrc_auth

from annex_remote.model import Login
from annex_remote.stores.http import Auth

__all__ = ["LoginAuth", "auth_for"]

_HASHES = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}
_SESSION = "-sess"
_WORD = re.compile(r"""([^\s=,"]+)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+)))?""", re.DOTALL)
"""A scheme, or a name with its value, quoted or not (RFC 9110, 11.2)."""


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
        self._taken = ""
        """The last nonce with which we were let in."""

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

    def answered(self, response: requests.Response) -> None:
        if response.status_code != 401 and self._digest:
            self._taken = _nonce_sent(response) or self._taken

    def challenged(self, response: requests.Response) -> bool:
        offers = _challenges(response.headers.get("WWW-Authenticate", ""))
        for scheme, offer in offers:
            if scheme == "digest" and _can_answer(offer):
                return self._use(offer, _nonce_sent(response))
        if "basic" in dict(offers) and "basic" not in _sent(response):
            with self._lock:
                self._basic, self._digest = True, {}
            return True
        return False

    def _use(self, challenge: dict[str, str], sent: str | None) -> bool:
        """Answer `challenge` from now on; True if what was refused, signed with the nonce `sent`, may succeed."""
        with self._lock:
            if self._digest.get("nonce") != challenge["nonce"]:
                self._uses = 0
            self._digest = challenge
            # A nonce wears out, which not every server says in so many words. If it was fresh, it was the login.
            return sent in (None, self._taken) or challenge.get("stale", "").lower() == "true"

    def _answer(self, challenge: dict[str, str], uses: int, request: requests.PreparedRequest) -> str:
        algorithm = challenge.get("algorithm", "MD5")

        def digest(*words: str) -> str:
            return _HASHES[_hash_name(algorithm)](_as_bytes(":".join(words))).hexdigest()

        realm, nonce = challenge.get("realm", ""), challenge["nonce"]
        uri, count, own = request.path_url, f"{uses:08x}", secrets.token_hex(8)
        who = digest(self._login.user, realm, self._login.password)
        if algorithm.lower().endswith(_SESSION):
            who = digest(who, nonce, own)
        what = digest(request.method or "", uri)
        said = {"username": self._login.user, "realm": realm, "nonce": nonce, "uri": uri}
        ending = f", algorithm={algorithm}" if "algorithm" in challenge else ""
        if "qop" in challenge:
            said["response"] = digest(who, nonce, count, own, "auth", what)
            ending += f', qop=auth, nc={count}, cnonce="{own}"'
        else:
            said["response"] = digest(who, nonce, what)
            ending += f', cnonce="{own}"' if algorithm.lower().endswith(_SESSION) else ""
        if "opaque" in challenge:
            said["opaque"] = challenge["opaque"]
        quoted = ", ".join(f'{name}="{_escaped(value)}"' for name, value in said.items())
        # What stands on the line are the bytes that were hashed: headers are written as Latin-1.
        return _as_bytes(f"Digest {quoted}{ending}").decode("latin-1")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _as_bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _challenges(header: str) -> list[tuple[str, dict[str, str]]]:
    """Read what a server offers, or what we said ourselves: schemes, with what stands after each of them."""
    found: list[tuple[str, dict[str, str]]] = []
    text = header.encode("latin-1", errors="replace").decode(errors="surrogateescape")
    for word, quoted, plain in (match.groups() for match in _WORD.finditer(text)):
        if quoted is None and plain is None:
            found.append((word.lower(), {}))
        elif found:
            found[-1][1].setdefault(word.lower(), plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
    return found


def _sent(response: requests.Response) -> dict[str, dict[str, str]]:
    """Return how the request was signed to which this is the answer."""
    return dict(_challenges(str(response.request.headers.get("Authorization", ""))))


def _nonce_sent(response: requests.Response) -> str | None:
    return _sent(response).get("digest", {}).get("nonce")


def _can_answer(challenge: dict[str, str]) -> bool:
    words = [word.strip().lower() for word in challenge.get("qop", "auth").split(",")]
    return (
        bool(challenge.get("nonce"))
        and _hash_name(challenge.get("algorithm", "MD5")) in _HASHES
        and "auth" in words
    )


def _hash_name(algorithm: str) -> str:
    return algorithm.upper().removesuffix(_SESSION.upper())
