"""Logins of stores: the environment, git-annex's credentials, and that no password shows."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annex_remote.credentials import (
    creds_login,
    environment_login,
    keep_login,
    login_variables,
    store_logins,
)
from annex_remote.errors import BadSetting
from annex_remote.login import login_words
from annex_remote.model import Access, Login
from annex_remote.protocol.jobs import Job

ADDRESS = "davs://box.example.org/annex"


class Annex:
    """git-annex's side of GETCREDS and SETCREDS; a user with a blank in it would be cut."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[str, str]] = {}
        self.asked: list[str] = []

    def get_creds(self, setting: str) -> tuple[str, str]:
        self.asked.append(setting)
        return self.kept.get(setting, ("", ""))

    def set_creds(self, setting: str, user: str, password: str) -> None:
        assert " " not in user
        self.kept[setting] = user, password

    @property
    def job(self) -> Job:
        return cast("Job", self)


def test_no_password_is_ever_shown() -> None:
    login = Login("me", "very secret")
    assert "secret" not in f"{login} {login!r} {Access(login)} {Access(login)!r}"


def test_the_environment_names_a_store_by_its_capitals(monkeypatch: pytest.MonkeyPatch) -> None:
    assert login_variables("my-box2") == ("SWARM_STORE_MY_BOX2_USER", "SWARM_STORE_MY_BOX2_PASSWORD")
    assert environment_login("my-box2") is None
    monkeypatch.setenv("SWARM_STORE_MY_BOX2_USER", "me")
    with pytest.raises(BadSetting, match="SWARM_STORE_MY_BOX2_PASSWORD is missing"):
        environment_login("my-box2")
    monkeypatch.setenv("SWARM_STORE_MY_BOX2_PASSWORD", "pass word")
    assert environment_login("my-box2") == Login("me", "pass word")
    monkeypatch.delenv("SWARM_STORE_MY_BOX2_USER")
    with pytest.raises(BadSetting, match="_USER is missing") as raised:
        environment_login("my-box2")
    assert "pass word" not in str(raised.value)


def test_the_environment_comes_before_what_git_annex_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    annex = Annex()
    keep_login(annex.job, "box", ADDRESS, Login("kept", "1"))
    keep_login(annex.job, "cloud", ADDRESS, Login("kept", "2"))
    monkeypatch.setenv("SWARM_STORE_BOX_USER", "given")
    monkeypatch.setenv("SWARM_STORE_BOX_PASSWORD", "3")
    found = store_logins(annex.job, dict.fromkeys(["box", "cloud", "other"], ADDRESS))
    assert found == {"box": Login("given", "3"), "cloud": Login("kept", "2")}
    assert annex.asked == ["login-cloud", "login-other"]


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1),
)
def test_git_annex_gives_back_what_it_was_given(user: str, password: str) -> None:
    annex = Annex()
    keep_login(annex.job, "box", ADDRESS, Login(user, password))
    assert creds_login(annex.job, "box", ADDRESS) == Login(user, password)


def test_a_login_is_not_given_to_another_host_than_it_was_kept_for() -> None:
    annex = Annex()
    keep_login(annex.job, "box", ADDRESS, Login("me", "secret"))
    for same in (ADDRESS, "davs://box.example.org/elsewhere", "dav://box.example.org/annex"):
        assert creds_login(annex.job, "box", same) == Login("me", "secret")
    for other in (
        "davs://example.org/annex",
        "davs://box.example.org:8443/annex",
        "dir:/annex",
        "rclone:box:annex",
    ):
        assert creds_login(annex.job, "box", other) is None
    keep_login(annex.job, "box", "sftp://me@[::1]:2222/annex", Login("me", "secret"))
    assert creds_login(annex.job, "box", "sftp://you@[::1]:2222/") == Login("me", "secret")


def test_what_a_login_is_called_depends_on_the_kind_of_store() -> None:
    assert login_words("s3://host/bucket") == ("Access key id", "Secret access key")
    assert login_words("davs://host/path")[0] == "User"
    with pytest.raises(BadSetting, match="rclone config"):
        login_words("rclone:remote:path")
    with pytest.raises(BadSetting, match="not needed"):
        login_words("dir:/media/usb")
