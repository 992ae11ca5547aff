"""Sealing: key derivation, ciphers, deterministic nonces (docs/format.md, "Keys" and "Sealing").

A nonce is the keyed BLAKE3 hash of what it seals (an SIV construction, as in RFC 5297's idea): the same
content under the same key gives the same bytes on every clone, so interrupted uploads resume and two clones
agree; other content gives another nonce, so no keystream is ever used twice.
"""

from __future__ import annotations

import base64
import struct
from enum import Enum
from functools import lru_cache
from typing import Any

from blake3 import blake3

from annex_remote.errors import BadSetting, Damaged

__all__ = [
    "KEY_NAME_MAX",
    "SEALED_NAME_OVERHEAD",
    "Cipher",
    "ObjectKeys",
    "default_cipher",
    "derive",
    "object_id_bytes",
    "object_id_of",
    "open_key_name",
    "seal_key_name",
]

_CONTEXT = "git-annex-remote-swarm v1 "

KEY_NAME_MAX = 4096
"""Bytes of a sealed key name at most: git-annex's keys are file names, of 255 bytes on most systems."""

SEALED_NAME_OVERHEAD = 40
"""Bytes that sealing adds to a key's name: nonce and tag."""


class Cipher(Enum):
    """The ciphers that a grid can be made with; the value is the number in a share's header."""

    NONE = 0
    AEGIS256 = 1
    XCHACHA20POLY1305 = 2

    @property
    def setting(self) -> str:
        """The name in the settings."""
        return self.name.lower()

    @property
    def nonce_size(self) -> int:
        return _NONCE_SIZES[self.value]

    @property
    def overhead(self) -> int:
        """Bytes that sealing adds to a segment: nonce and tag."""
        return _NONCE_SIZES[self.value] + _TAG_SIZES[self.value]

    @classmethod
    def from_setting(cls, name: str) -> Cipher:
        for cipher in cls:
            if cipher.setting == name:
                return cipher
        known = ", ".join(cipher.setting for cipher in cls)
        raise BadSetting(f"share-cipher={name} is not known; the ciphers are {known}")


_NONCE_SIZES = (32, 32, 24)
_TAG_SIZES = (0, 32, 16)


def default_cipher() -> Cipher:
    """AEGIS-256 where this machine has AES instructions, XChaCha20-Poly1305 elsewhere."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as cpuinfo:
            words = cpuinfo.read().split()
    except OSError:
        # Not Linux: every machine that macOS still runs on has them.
        from sys import platform

        return Cipher.AEGIS256 if platform == "darwin" else Cipher.XCHACHA20POLY1305
    return Cipher.AEGIS256 if "aes" in words else Cipher.XCHACHA20POLY1305


def derive(purpose: str, secret: bytes) -> bytes:
    """Return the 32-byte key for `purpose` (BLAKE3's key derivation mode)."""
    return blake3(secret, derive_key_context=_CONTEXT + purpose).digest()


@lru_cache(maxsize=64)
def _grid_key(purpose: str, read_secret: bytes) -> bytes:
    return derive(purpose, read_secret)


@lru_cache(maxsize=1)
def _bindings() -> Any:
    """PyNaCl's bindings, imported when something is sealed first: they take 10 ms."""
    import nacl.bindings
    from nacl.exceptions import CryptoError

    return nacl.bindings, CryptoError


def _key_bytes(annex_key: str) -> bytes:
    # git-annex's protocol is decoded with surrogateescape, so that any file name survives.
    return annex_key.encode("utf-8", "surrogateescape")


def object_id_bytes(object_id: str) -> bytes:
    """Return the 20 bytes that `object_id` (32 characters of lower-case base32) stands for."""
    return base64.b32decode(object_id.upper())


class ObjectKeys:
    """Everything that is derived for one annex key: its object id and the keys that seal it."""

    def __init__(self, read_secret: bytes, annex_key: str, cipher: Cipher) -> None:
        name = _key_bytes(annex_key)
        self.cipher = cipher
        self.object_id = object_id_of(read_secret, annex_key)
        root = blake3(name, key=_grid_key("object key", read_secret)).digest()
        self._nonce_key = derive("segment nonce", root)
        self._seal_key = derive(f"segment seal {cipher.setting}", root)
        self._content_key = derive("content id", root)

    def nonce(self, index: int, last: bool, plaintext: bytes) -> bytes:
        """Return the nonce of segment `index`; with cipher `none`, the plain hash in its place."""
        if self.cipher is Cipher.NONE:
            return blake3(plaintext).digest()
        hasher = blake3(key=self._nonce_key)
        hasher.update(_associated(index, last))
        hasher.update(plaintext)
        return hasher.digest(self.cipher.nonce_size)

    def seal(self, nonce: bytes, index: int, last: bool, plaintext: bytes) -> bytes:
        """Return ciphertext and tag of a segment; `nonce` is what `nonce` returned for the same arguments."""
        if self.cipher is Cipher.NONE:
            return plaintext
        bindings, _ = _bindings()
        encrypt = (
            bindings.crypto_aead_aegis256_encrypt
            if self.cipher is Cipher.AEGIS256
            else bindings.crypto_aead_xchacha20poly1305_ietf_encrypt
        )
        sealed: bytes = encrypt(plaintext, _associated(index, last), nonce, self._seal_key)
        return sealed

    def open(self, nonce: bytes, index: int, last: bool, sealed: bytes) -> bytes:
        """Return the plaintext of a segment, proved; raises `Damaged`."""
        if self.cipher is Cipher.NONE:
            if blake3(sealed).digest() != nonce:
                raise Damaged(f"segment {index} does not match its hash")
            return sealed
        bindings, crypto_error = _bindings()
        decrypt = (
            bindings.crypto_aead_aegis256_decrypt
            if self.cipher is Cipher.AEGIS256
            else bindings.crypto_aead_xchacha20poly1305_ietf_decrypt
        )
        try:
            plaintext: bytes = decrypt(sealed, _associated(index, last), nonce, self._seal_key)
        except (crypto_error, ValueError) as error:  # ValueError: shorter than a tag
            raise Damaged(f"segment {index} does not open: not sealed for this key and place") from error
        return plaintext

    def content_hasher(self, size: int) -> blake3:
        """Return a hasher that becomes the content id when every nonce, in order, has been fed to it."""
        return blake3(struct.pack(">Q", size), key=self._content_key)


def object_id_of(read_secret: bytes, annex_key: str) -> str:
    """Return the object id: 160 bits of keyed BLAKE3 of the annex key, in lower-case base32."""
    digest = blake3(_key_bytes(annex_key), key=_grid_key("object id", read_secret)).digest(20)
    return base64.b32encode(digest).decode().lower()


def seal_key_name(read_secret: bytes, annex_key: str) -> bytes:
    """Seal the annex key's name for the header: nonce (24), XChaCha20-Poly1305 ciphertext and tag (16).

    Always this cipher, whatever the grid's: the name is small, and a reader of public data needs it too.
    Raises `BadSetting` for a name that no reader would take.
    """
    bindings, _ = _bindings()
    name = _key_bytes(annex_key)
    most = KEY_NAME_MAX - SEALED_NAME_OVERHEAD
    if len(name) > most:
        raise BadSetting(f"a key of {len(name)} bytes is too long to store: {most} at most")
    nonce = blake3(name, key=_grid_key("key name nonce", read_secret)).digest(24)
    object_id = object_id_bytes(object_id_of(read_secret, annex_key))
    seal = bindings.crypto_aead_xchacha20poly1305_ietf_encrypt
    return nonce + bytes(seal(name, object_id, nonce, _grid_key("key name", read_secret)))


def open_key_name(read_secret: bytes, object_id: str, sealed: bytes) -> str:
    """Return the annex key that `seal_key_name` sealed; raises `Damaged`."""
    bindings, crypto_error = _bindings()
    unseal = bindings.crypto_aead_xchacha20poly1305_ietf_decrypt
    try:
        name: bytes = unseal(
            sealed[24:], object_id_bytes(object_id), sealed[:24], _grid_key("key name", read_secret)
        )
    except (crypto_error, ValueError) as error:
        raise Damaged("the key name in a share's header does not open with this grid's read secret") from error
    return name.decode("utf-8", "surrogateescape")


def _associated(index: int, last: bool) -> bytes:
    """Bind a segment to its place, and the end of the object to its last segment."""
    return struct.pack(">QB", index, last)
