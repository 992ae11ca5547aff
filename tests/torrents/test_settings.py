"""The settings of the torrent source: text in, values or one clear sentence out."""

from __future__ import annotations

import pytest

from annex_remote.errors import BadSetting
from annex_remote.settings import SETTINGS, TORRENT_SETTINGS
from annex_remote.torrents.settings import ANYWHERE, TorrentSettings, read_torrent_settings


def test_nothing_given_is_the_usual() -> None:
    assert read_torrent_settings({}) == TorrentSettings()
    assert read_torrent_settings(dict.fromkeys(TORRENT_SETTINGS, "")) == TorrentSettings()
    assert TorrentSettings().timeout == 120
    assert not TorrentSettings().trust


def test_everything_given() -> None:
    assert read_torrent_settings(
        {
            "torrents": "no",
            "transport": "background",
            "listen": "127.0.0.1:0  [::1]:6881",
            "dht": "127.0.0.1:7001 router.example:6881",
            "webseeds": "http://mirror.example/iso/ https://other.example/",
            "torrent-timeout": "7.5",
            "torrent-trust": "yes",
            "seed-ratio": "1.5",
            "seed-time": "3600",
        }
    ) == TorrentSettings(
        enabled=False,
        transport="background",
        listen=(("127.0.0.1", 0), ("::1", 6881)),
        dht=True,
        nodes=(("127.0.0.1", 7001), ("router.example", 6881)),
        webseeds=("http://mirror.example/iso/", "https://other.example/"),
        timeout=7.5,
        trust=True,
        seed_ratio=1.5,
        seed_time=3600.0,
    )


def test_listening_nowhere_is_not_the_default() -> None:
    assert read_torrent_settings({"listen": "none"}).listen == ()
    assert read_torrent_settings({}).listen == ANYWHERE


def test_the_dht_can_be_off() -> None:
    assert not read_torrent_settings({"dht": "no"}).dht
    assert read_torrent_settings({"dht": "yes"}).dht
    assert read_torrent_settings({"dht": "yes"}).nodes == ()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("torrents", "maybe"),
        ("transport", "fast"),
        ("listen", "6881"),
        ("listen", "localhost:6881"),
        ("listen", "127.0.0.1:65536"),
        ("listen", "127.0.0.1:0,[::1]:0"),
        ("listen", "::1:6881"),
        ("dht", "maybe"),
        ("dht", "1.2.3.4"),
        ("webseeds", "ftp://mirror.example/"),
        ("webseeds", "file:///etc/"),
        ("webseeds", "mirror.example"),
        ("webseeds", "http:///nobody"),
        ("torrent-timeout", "0"),
        ("torrent-timeout", "nan"),
        ("torrent-timeout", "100000"),
        ("torrent-trust", "1"),
        ("seed-ratio", "-1"),
        ("seed-ratio", "inf"),
        ("seed-time", "1h"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(name: str, text: str) -> None:
    with pytest.raises(BadSetting, match=f"^{name}[:=]"):
        read_torrent_settings({name: text})


def test_no_web_seed_is_repeated_in_an_error() -> None:
    with pytest.raises(BadSetting) as raised:
        read_torrent_settings({"webseeds": "ftp://me:secret@mirror.example/"})
    assert "secret" not in str(raised.value)


def test_each_is_a_setting_of_the_remote_that_can_be_changed() -> None:
    settings = {setting.name: setting for setting in SETTINGS}
    assert all(not settings[name].fixed for name in TORRENT_SETTINGS)
