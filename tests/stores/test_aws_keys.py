"""Where keys for S3 are found, and what is said where they are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from annex_remote.errors import Denied
from annex_remote.stores.aws_keys import find_keys

FILES = {
    "credentials": "[default]\naws_access_key_id = AKDEF\naws_secret_access_key = default/secret\n"
    "[work]\naws_access_key_id=AKWORK\naws_secret_access_key=work%secret\naws_session_token=work-token\n"
    "[half]\naws_access_key_id=AKHALF\n",
    "config": "[default]\nregion=eu-west-1\ns3 =\n  addressing_style = path\n"
    "[profile plain]\naws_access_key_id=AKPLAIN\naws_secret_access_key=plain-secret\n"
    "[profile empty]\nregion=x\n"
    "[profile run]\ncredential_process=/bin/true the-secret\n"
    "[profile sso]\nsso_session=corp\n"
    "[profile role]\nrole_arn=arn:aws:iam::1:role/x\nsource_profile=default\n",
}


def with_files(tmp_path: Path, **more: str) -> dict[str, str]:
    """Return an environment that leads to files with keys."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    files = {
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
    }
    return files | more


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, ("AKDEF", "default/secret", "")),
        ({"AWS_PROFILE": "work"}, ("AKWORK", "work%secret", "work-token")),
        ({"AWS_PROFILE": "plain"}, ("AKPLAIN", "plain-secret", "")),
        ({"AWS_PROFILE": "empty"}, None),
        ({"AWS_ACCESS_KEY_ID": "AKENV", "AWS_SECRET_ACCESS_KEY": "s"}, ("AKENV", "s", "")),
        (
            {"AWS_ACCESS_KEY_ID": "AKENV", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t"},
            ("AKENV", "s", "t"),
        ),
        ({"AWS_SHARED_CREDENTIALS_FILE": "/nowhere/at/all"}, None),
        ({"AWS_SHARED_CREDENTIALS_FILE": "/nowhere", "AWS_CONFIG_FILE": "/nowhere"}, None),
    ],
)
def test_keys_are_found(tmp_path: Path, more: dict[str, str], expected: tuple[str, str, str] | None) -> None:
    keys = find_keys(with_files(tmp_path, **more))
    assert (keys and (keys.id, keys.secret, keys.token)) == expected


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"AWS_PROFILE": "half"}, "aws_secret_access_key is missing"),
        ({"AWS_ACCESS_KEY_ID": "AKENV"}, "AWS_SECRET_ACCESS_KEY is missing"),
        ({"AWS_SECRET_ACCESS_KEY": "the-secret"}, "AWS_ACCESS_KEY_ID is missing"),
        ({"AWS_PROFILE": "nobody"}, "AWS_PROFILE=nobody"),
        ({"AWS_PROFILE": "run"}, "credential_process.* --profile run "),
        ({"AWS_PROFILE": "sso"}, "sso_session.*single sign-on"),
        ({"AWS_PROFILE": "role"}, "role_arn"),
    ],
)
def test_what_does_not_lead_to_keys_is_said(tmp_path: Path, more: dict[str, str], words: str) -> None:
    with pytest.raises(Denied, match=words) as raised:
        find_keys(with_files(tmp_path, **more))
    assert raised.value.wants_login
    assert "the-secret" not in str(raised.value)


@pytest.mark.parametrize("content", [b"aws_secret_access_key=the-secret\n", b"[a]\nthe-secret\n", b"\xff\xfe"])
def test_a_file_with_keys_that_cannot_be_read_is_said(tmp_path: Path, content: bytes) -> None:
    environment = with_files(tmp_path)
    (tmp_path / "credentials").write_bytes(content)
    with pytest.raises(Denied, match="credentials may have the keys") as raised:
        find_keys(environment)
    assert "the-secret" not in repr(raised.value)
    assert raised.value.__cause__ is None
