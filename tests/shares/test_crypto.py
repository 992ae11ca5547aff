from __future__ import annotations

import base64
import builtins
import io
import struct
from collections.abc import Callable
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from annex_remote.errors import BadSetting, Damaged
from annex_remote.shares.crypto import (
    KEY_NAME_MAX,
    Cipher,
    ObjectKeys,
    default_cipher,
    derive,
    object_id_bytes,
    object_id_of,
    open_key_name,
    seal_key_name,
)

SECRET = bytes(range(32))
CIPHERS = st.sampled_from(Cipher)
SEALING = (Cipher.AEGIS256, Cipher.XCHACHA20POLY1305)
INDICES = st.integers(0, 2**43)
KEYS = st.binary(max_size=300).map(lambda name: name.decode("utf-8", "surrogateescape"))


@given(CIPHERS, KEYS, INDICES, st.booleans(), st.binary(max_size=200))
def test_what_is_sealed_opens_and_is_the_same_each_time(
    cipher: Cipher, key: str, index: int, last: bool, plaintext: bytes
) -> None:
    keys, again = ObjectKeys(SECRET, key, cipher), ObjectKeys(SECRET, key, cipher)
    nonce = keys.nonce(index, last, plaintext)
    sealed = keys.seal(nonce, index, last, plaintext)
    assert len(nonce) == cipher.nonce_size
    assert len(nonce) + len(sealed) == len(plaintext) + cipher.overhead
    assert again.nonce(index, last, plaintext) == nonce
    assert again.seal(nonce, index, last, plaintext) == sealed
    assert keys.open(nonce, index, last, sealed) == plaintext


@given(CIPHERS, KEYS, KEYS, INDICES, INDICES, st.binary(max_size=64), st.binary(max_size=64))
def test_other_content_place_or_key_gives_another_nonce(
    cipher: Cipher, key: str, other_key: str, index: int, other_index: int, plaintext: bytes, other: bytes
) -> None:
    keys = ObjectKeys(SECRET, key, cipher)
    nonce = keys.nonce(index, False, plaintext)
    assert (keys.nonce(index, False, other) == nonce) == (other == plaintext)
    if cipher is not Cipher.NONE:
        assert (keys.nonce(other_index, False, plaintext) == nonce) == (other_index == index)
        assert keys.nonce(index, True, plaintext) != nonce
        other_keys = ObjectKeys(SECRET, other_key, cipher)
        assert (other_keys.nonce(index, False, plaintext) == nonce) == (other_key == key)
        assert ObjectKeys(bytes(32), key, cipher).nonce(index, False, plaintext) != nonce


@pytest.mark.parametrize("cipher", SEALING)
def test_a_wrong_place_key_or_cipher_does_not_open(cipher: Cipher) -> None:
    keys = ObjectKeys(SECRET, "key", cipher)
    nonce = keys.nonce(3, False, b"plaintext")
    sealed = keys.seal(nonce, 3, False, b"plaintext")
    wrong: list[Callable[[], bytes]] = [
        lambda: keys.open(nonce, 2, False, sealed),
        lambda: keys.open(nonce, 3 + 2**32, False, sealed),
        lambda: keys.open(nonce, 3, True, sealed),
        lambda: ObjectKeys(SECRET, "other", cipher).open(nonce, 3, False, sealed),
        lambda: ObjectKeys(bytes(32), "key", cipher).open(nonce, 3, False, sealed),
        lambda: ObjectKeys(SECRET, "key", Cipher.NONE).open(nonce, 3, False, sealed),
    ]
    for attempt in wrong:
        with pytest.raises(Damaged):
            attempt()


@pytest.mark.parametrize("cipher", Cipher)
def test_every_changed_bit_is_felt(cipher: Cipher) -> None:
    keys = ObjectKeys(SECRET, "key", cipher)
    nonce = keys.nonce(0, True, b"plaintext")
    whole = nonce + keys.seal(nonce, 0, True, b"plaintext")
    for bit in range(len(whole) * 8):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Damaged):
            keys.open(bytes(damaged[: len(nonce)]), 0, True, bytes(damaged[len(nonce) :]))


@pytest.mark.parametrize("cipher", Cipher)
@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 31, 32, 33, 41])
def test_what_is_cut_short_is_damaged(cipher: Cipher, length: int) -> None:
    keys = ObjectKeys(SECRET, "key", cipher)
    plaintext = bytes(range(42)) if cipher is Cipher.NONE else b"plain text"
    nonce = keys.nonce(0, True, plaintext)
    sealed = keys.seal(nonce, 0, True, plaintext)
    with pytest.raises(Damaged):
        keys.open(nonce, 0, True, sealed[: min(length, len(sealed) - 1)])


def test_keys_are_derived_as_the_format_says() -> None:
    context = "git-annex-remote-swarm v1 "

    def derived(purpose: str, secret: bytes) -> bytes:
        return blake3(secret, derive_key_context=context + purpose).digest()

    name = b"KEY-\xff\xfe"
    key = name.decode("utf-8", "surrogateescape")
    assert derive("anything", SECRET) == derived("anything", SECRET)
    identity = blake3(name, key=derived("object id", SECRET)).digest(20)
    assert object_id_of(SECRET, key) == base64.b32encode(identity).decode().lower()
    assert object_id_bytes(object_id_of(SECRET, key)) == identity
    root = blake3(name, key=derived("object key", SECRET)).digest()
    keys = ObjectKeys(SECRET, key, Cipher.XCHACHA20POLY1305)
    place = struct.pack(">QB", 5, 1)
    nonce = blake3(place + b"plaintext", key=derived("segment nonce", root)).digest(24)
    assert keys.nonce(5, True, b"plaintext") == nonce
    from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt as encrypt

    seal_key = derived("segment seal xchacha20poly1305", root)
    assert keys.seal(nonce, 5, True, b"plaintext") == encrypt(b"plaintext", place, nonce, seal_key)
    content = blake3(struct.pack(">Q", 9) + nonce, key=derived("content id", root)).digest()
    hasher = keys.content_hasher(9)
    hasher.update(nonce)
    assert hasher.digest() == content
    name_nonce = blake3(name, key=derived("key name nonce", SECRET)).digest(24)
    sealed = encrypt(name, identity, name_nonce, derived("key name", SECRET))
    assert seal_key_name(SECRET, key) == name_nonce + sealed


def test_no_two_derived_keys_are_the_same() -> None:
    keys = [ObjectKeys(SECRET, name, cipher) for name in ("a", "b") for cipher in Cipher]
    seals = {value._seal_key for value in keys}
    others = {value for one in keys for value in (one._nonce_key, one._content_key)}
    grid = {derive(purpose, SECRET) for purpose in ("object id", "object key", "key name", "key name nonce")}
    assert len(seals | others | grid) == 6 + 4 + 4


@given(KEYS, st.binary(min_size=32, max_size=32))
def test_a_key_name_opens_with_its_secret_only(key: str, other: bytes) -> None:
    sealed = seal_key_name(SECRET, key)
    object_id = object_id_of(SECRET, key)
    assert seal_key_name(SECRET, key) == sealed
    assert len(sealed) == len(key.encode("utf-8", "surrogateescape")) + 40
    assert open_key_name(SECRET, object_id, sealed) == key
    for wrong_secret, wrong_id in [(other, object_id), (SECRET, object_id_of(SECRET, key + "x"))]:
        with pytest.raises(Damaged):
            open_key_name(wrong_secret, wrong_id, sealed)


def test_a_damaged_key_name_does_not_open() -> None:
    object_id = object_id_of(SECRET, "key")
    sealed = seal_key_name(SECRET, "key")
    for at in range(len(sealed)):
        damaged = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        for wrong in (damaged, sealed[:at]):
            with pytest.raises(Damaged):
                open_key_name(SECRET, object_id, wrong)


def test_a_key_name_that_no_reader_would_take_is_not_sealed() -> None:
    assert len(seal_key_name(SECRET, "k" * (KEY_NAME_MAX - 40))) == KEY_NAME_MAX
    with pytest.raises(BadSetting):
        seal_key_name(SECRET, "k" * (KEY_NAME_MAX - 39))


def test_ciphers_have_their_settings() -> None:
    assert [(cipher.value, cipher.setting) for cipher in Cipher] == [
        (0, "none"),
        (1, "aegis256"),
        (2, "xchacha20poly1305"),
    ]
    assert [(cipher.nonce_size, cipher.overhead) for cipher in Cipher] == [(32, 32), (32, 64), (24, 40)]
    assert [Cipher.from_setting(cipher.setting) for cipher in Cipher] == list(Cipher)
    for wrong in ("", "AEGIS256", "aes", "0"):
        with pytest.raises(BadSetting):
            Cipher.from_setting(wrong)


@pytest.mark.parametrize(
    ("cpuinfo", "platform", "expected"),
    [
        ("flags : fpu aes avx", "linux", Cipher.AEGIS256),
        ("Features : fp asimd", "linux", Cipher.XCHACHA20POLY1305),
        ("flags : vaes-not aesx", "linux", Cipher.XCHACHA20POLY1305),
        (None, "darwin", Cipher.AEGIS256),
        (None, "freebsd14", Cipher.XCHACHA20POLY1305),
    ],
)
def test_the_default_cipher_is_the_machines(
    monkeypatch: pytest.MonkeyPatch, cpuinfo: str | None, platform: str, expected: Cipher
) -> None:
    def fake_open(*_: Any, **__: Any) -> io.StringIO:
        if cpuinfo is None:
            raise FileNotFoundError
        return io.StringIO(cpuinfo)

    monkeypatch.setattr("sys.platform", platform)
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", fake_open)
        found = default_cipher()
    assert found is expected
