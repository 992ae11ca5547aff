"""The three capabilities of a grid: full, read, verify.

A grid has a 32-byte read secret and an Ed25519 signing seed. *Full* is both: stores and fetches. *Read* is
the read secret and the verify key: fetches, never forges. *Verify* is the verify key: checks and repairs,
reads nothing. Each is printed as one short word: ``swarm-<kind>-<base32 of the secrets and a checksum>``.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from dataclasses import dataclass, field
from functools import cached_property

from annex_remote.errors import BadSetting, NoCapability

__all__ = ["Capability", "shown_word"]

_CHECKSUM = 5
"""Bytes of checksum: a typing error passes with a probability of 2**-40."""

_LENGTHS = {"full": 64, "read": 64, "verify": 32}
_MARK = "swarm-"
_WORD = re.compile(r"swarm-?(full|read|verify)-", re.IGNORECASE)


@dataclass(frozen=True)
class Capability:
    """What this clone may do with a grid; `parse` and `generate` make one.

    `kind` is "full", "read" or "verify"; `secrets` are its bytes: read secret and signing seed (32 + 32),
    read secret and verify key (32 + 32), or the verify key (32).
    """

    kind: str
    secrets: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> Capability:
        """Make the full capability of a new grid from the system's randomness."""
        return cls("full", os.urandom(64))

    @classmethod
    def parse(cls, text: str) -> Capability:
        """Read a printed capability; raises `BadSetting`, with words that do not repeat the secret."""
        word = text.strip(" \t\r\n")
        word = word.lower() if word.isascii() else ""
        kind, _, body = word.removeprefix(_MARK).partition("-")
        if not word.startswith(_MARK) or kind not in _LENGTHS:
            raise BadSetting("this is not a capability: one begins with swarm-full-, swarm-read- or swarm-verify-")
        try:
            data = base64.b32decode(body.upper() + "=" * (-len(body) % 8))
        except (binascii.Error, ValueError):
            data = b""
        secrets, checksum = data[:-_CHECKSUM], data[-_CHECKSUM:]
        if len(secrets) != _LENGTHS[kind] or checksum != _checksum(kind, secrets):
            raise BadSetting("this capability has a typing error: its checksum does not match")
        capability = cls(kind, secrets)
        if capability.format() != word:
            raise BadSetting("this capability has a typing error: it is not written as it is printed")
        return capability

    def format(self) -> str:
        """Return the printed form, which is a secret."""
        data = self.secrets + _checksum(self.kind, self.secrets)
        return f"{_MARK}{self.kind}-{base64.b32encode(data).decode().rstrip('=').lower()}"

    def __str__(self) -> str:
        """Say what it is without saying it: never the secret."""
        return f"{self.kind} capability"

    @cached_property
    def verify_key(self) -> bytes:
        """The Ed25519 public key (32 bytes) that proves shares and rosters."""
        if self.kind != "full":
            return self.secrets[-32:]
        from nacl.bindings import crypto_sign_seed_keypair

        public, _ = crypto_sign_seed_keypair(self.secrets[32:])
        return public

    @property
    def can_read(self) -> bool:
        return self.kind != "verify"

    @property
    def can_write(self) -> bool:
        return self.kind == "full"

    @property
    def read_secret(self) -> bytes:
        """The 32 bytes that name, seal and open objects; raises `NoCapability` where there are none."""
        if not self.can_read:
            raise NoCapability("this clone has a verify capability, which can check shares but not read them")
        return self.secrets[:32]

    @property
    def signing_seed(self) -> bytes:
        """The Ed25519 seed (32 bytes) that signs shares and rosters; raises `NoCapability`."""
        if not self.can_write:
            raise NoCapability(
                f"this clone has a {self.kind} capability, which cannot store: "
                "it takes the full capability (git-annex-remote-swarm capability REMOTE prints it where it is)"
            )
        return self.secrets[32:]

    def attenuate(self, kind: str) -> Capability:
        """Return the capability `kind`, which may be this one or a weaker one; raises `NoCapability`."""
        if kind == self.kind:
            return self
        if kind == "verify":
            return Capability("verify", self.verify_key)
        if kind == "read" and self.can_read:
            return Capability("read", self.read_secret + self.verify_key)
        raise NoCapability(f"a {kind} capability cannot be made from a {self.kind} capability")


def shown_word(word: str) -> str:
    """Return a word that is refused as it may be shown: one that may be a capability is not repeated."""
    return "what looks like a capability, which is a secret," if _WORD.search(word) else repr(word)


def _checksum(kind: str, secrets: bytes) -> bytes:
    from blake3 import blake3

    return blake3(kind.encode() + secrets, derive_key_context="git-annex-remote-swarm v1 capability").digest(
        _CHECKSUM
    )
