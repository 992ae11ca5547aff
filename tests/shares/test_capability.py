from __future__ import annotations

import base64

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from annex_remote.capability import Capability
from annex_remote.errors import BadSetting, NoCapability

ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
KINDS = ("full", "read", "verify")
FULL = Capability("full", bytes(range(64)))
FULLS = st.binary(min_size=64, max_size=64).map(lambda secrets: Capability("full", secrets))


def refused(word: str, secret: str) -> None:
    """`word` is refused, and no six characters of `secret` are in what the user is told."""
    with pytest.raises(BadSetting) as caught:
        Capability.parse(word)
    told = f"{caught.value} {caught.value.__cause__} {caught.value.__context__}"
    assert not [at for at in range(len(secret) - 5) if secret[at : at + 6] in told]


@given(FULLS, st.sampled_from(KINDS))
def test_what_is_printed_is_read_back(full: Capability, kind: str) -> None:
    capability = full.attenuate(kind)
    word = capability.format()
    assert word.startswith(f"swarm-{kind}-")
    assert Capability.parse(word) == capability
    assert Capability.parse(f" \t{word.upper()}\n") == capability
    assert capability.verify_key == full.verify_key


@given(FULLS, st.sampled_from(KINDS))
def test_nothing_but_format_shows_the_secret(full: Capability, kind: str) -> None:
    capability = full.attenuate(kind)
    shown = f"{capability!r} {capability!s} {capability} {[capability]} {(capability,)!r}"
    body = capability.format().rpartition("-")[2]
    assert not [at for at in range(len(body) - 5) if body[at : at + 6] in shown.lower()]
    assert capability.secrets.hex() not in shown
    assert repr(capability.secrets) not in shown


def test_verify_key_is_ed25519s() -> None:
    # RFC 8032, section 7.1, test 1.
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    public = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    full = Capability("full", bytes(32) + seed)
    assert full.verify_key == public
    assert full.attenuate("read").secrets == bytes(32) + public
    assert full.attenuate("verify").secrets == public


@pytest.mark.parametrize("kind", KINDS)
def test_every_changed_character_is_refused(kind: str) -> None:
    word = FULL.attenuate(kind).format()
    body = word.rpartition("-")[2]
    for at, right in enumerate(word):
        for wrong in ALPHABET + "-=0189 \u212a\u017f\u0131":
            if wrong != right and not (wrong == "\u212a" and right == "k"):
                refused(word[:at] + wrong + word[at + 1 :], body)


@pytest.mark.parametrize("kind", KINDS)
def test_every_lost_doubled_or_swapped_character_is_refused(kind: str) -> None:
    word = FULL.attenuate(kind).format()
    body = word.rpartition("-")[2]
    for at in range(len(word)):
        wrongs = [word[:at] + word[at + 1 :], word[: at + 1] + word[at:]]
        if at + 1 < len(word):
            wrongs.append(word[:at] + word[at + 1] + word[at] + word[at + 2 :])
        for wrong in wrongs:
            if wrong != word:
                refused(wrong, body)


@pytest.mark.parametrize("kind", KINDS)
def test_unused_bits_of_the_last_character_are_zero(kind: str) -> None:
    word = FULL.attenuate(kind).format()
    data = base64.b32decode(word.rpartition("-")[2].upper() + "=" * (-len(word.rpartition("-")[2]) % 8))
    same = 0
    for last in ALPHABET:
        body = word.rpartition("-")[2][:-1] + last
        if base64.b32decode(body.upper() + "=" * (-len(body) % 8)) == data:
            same += 1
            if last != word[-1]:
                refused(word[:-1] + last, body)
    assert same > 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_the_kind_is_bound_by_the_checksum(kind: str, other: str) -> None:
    word = FULL.attenuate(kind).format()
    if other != kind:
        refused(word.replace(kind, other), word.rpartition("-")[2])


@pytest.mark.parametrize("length", [0, 1, 31, 33, 63, 65, 96])
@pytest.mark.parametrize("kind", KINDS)
def test_other_lengths_are_refused_with_a_right_checksum(kind: str, length: int) -> None:
    secrets = bytes(length)
    checksum = blake3(kind.encode() + secrets, derive_key_context="git-annex-remote-swarm v1 capability").digest(5)
    body = base64.b32encode(secrets + checksum).decode().rstrip("=").lower()
    refused(f"swarm-{kind}-{body}", body)


@given(st.text() | st.text(alphabet=ALPHABET + "-").map(lambda text: f"swarm-full-{text}"))
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(BadSetting):
        Capability.parse(text)


def test_attenuation_only_takes_away() -> None:
    read, verify = FULL.attenuate("read"), FULL.attenuate("verify")
    assert FULL.attenuate("full") is FULL
    assert read.attenuate("verify") == verify == verify.attenuate("verify")
    for weak, strong in [(read, "full"), (verify, "full"), (verify, "read"), (FULL, "other")]:
        with pytest.raises(NoCapability):
            weak.attenuate(strong)
    assert [c.can_read for c in (FULL, read, verify)] == [True, True, False]
    assert [c.can_write for c in (FULL, read, verify)] == [True, False, False]
    assert FULL.read_secret == read.read_secret == bytes(range(32))
    assert FULL.signing_seed == bytes(range(32, 64))
    for weak in (read, verify):
        with pytest.raises(NoCapability):
            _ = weak.signing_seed
    with pytest.raises(NoCapability):
        _ = verify.read_secret


def test_generated_ones_differ() -> None:
    assert Capability.generate() != Capability.generate()
    assert len(Capability.generate().secrets) == 64
