from __future__ import annotations

import base64
import re
import unicodedata
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annex_remote.torrents.urls import (
    MAX_MAGNET,
    MAX_URL,
    TRACKER_SCHEMES,
    WEB_SEED_SCHEMES,
    Magnet,
    clean,
    is_publishable,
    recorded,
    shown,
    torrent_url,
    write_magnet,
)

V1 = bytes(range(20))
V2 = bytes(range(100, 132))
BTIH = f"xt=urn:btih:{V1.hex()}"
BTMH = f"xt=urn:btmh:1220{V2.hex()}"
BASE32 = base64.b32encode(V1).decode()

OURS = [
    # (what is behind `swarm:` or not, what is fetched, which file)
    ("https://h.example/x.torrent", "https://h.example/x.torrent", None),
    ("HTTP://h.example/X.TORRENT", "HTTP://h.example/X.TORRENT", None),
    ("https://u:p@h.example:8443/a/x.torrent?key=1&b=2", "https://u:p@h.example:8443/a/x.torrent?key=1&b=2", None),
    ("https://h.example/x.torrent?key=1#3", "https://h.example/x.torrent?key=1", 3),
    ("https://h.example/x.torrent#", "https://h.example/x.torrent", None),
    ("https://h.example/x.torrent#a/b.iso", "https://h.example/x.torrent", "a/b.iso"),
    ("https://h.example/x.torrent#a%20b/%C3%BC.iso", "https://h.example/x.torrent", "a b/ü.iso"),
    ("https://h.example/x.torrent#/a/#1.iso", "https://h.example/x.torrent", "a/#1.iso"),
    ("https://h.example/my file.torrent", "https://h.example/my file.torrent", None),
    ("https://h.example/.torrent", "https://h.example/.torrent", None),
    ("http://[::1]:8080/x.torrent", "http://[::1]:8080/x.torrent", None),
    ("http://bücher.example/x.torrent", "http://bücher.example/x.torrent", None),
    ("file:///a/x.torrent", "file:///a/x.torrent", None),
    ("file:/a/x.torrent#2", "file:/a/x.torrent", 2),
    ("file://localhost/a/x%20y.torrent?q#b", "file://localhost/a/x%20y.torrent?q", "b"),
    ("file://LOCALHOST/a/x.torrent", "file://LOCALHOST/a/x.torrent", None),
    ("https://h.example/x%2Etorrent", "https://h.example/x.torrent", None),
    (
        "https://h.example/x%2eTorrent?k=x%2Etorrent#a%2Etorrent",
        "https://h.example/x.Torrent?k=x%2Etorrent",
        "a.torrent",
    ),
    ("file:///a/x%2Etorrent#3", "file:///a/x.torrent", 3),
    ("x.torrent", "x.torrent", None),
    ("/a b/ü.Torrent", "/a b/ü.Torrent", None),
    ("../x.torrent#2", "../x.torrent", 2),
    ("x.torrent#dir/a b.iso", "x.torrent", "dir/a b.iso"),
    ("x.torrent#000", "x.torrent", 0),
    ("x.torrent#%33", "x.torrent", "3"),
    ("x.torrent#1234567890", "x.torrent", "1234567890"),
    ("C#.torrent", "C#.torrent", None),
    ("C#.torrent#7", "C#.torrent", 7),
    ("a.torrent#b.torrent", "a.torrent#b.torrent", None),
    ("a.torrent#b.torrent#2", "a.torrent#b.torrent", 2),
    ("a.torrent#b%2Etorrent", "a.torrent", "b.torrent"),
    ("a?b.torrent", "a?b.torrent", None),
    ("./a:b.torrent", "./a:b.torrent", None),
    ("İ.torrent#1", "İ.torrent", 1),
]

NOT_OURS = [
    "",
    "#",
    "#3",
    "torrent",
    "x.torrents",
    "x.iso",
    "x.iso#a.torrent.iso",
    "x.torrent?key=1",
    "x.torrent/",
    " x.torrent",
    "//h.example/x.torrent",
    "https://h.example/x.iso",
    "https://h.example/x.iso?f=x.torrent",
    "https://h.example/x.iso#x.torrent",
    "https://h.example/x.torrent/",
    "https://h.example/x.iso?x%2Etorrent",
    "x%2Etorrent",
    "https://h.example/x.torrent;v=1",
    "https://h.example/x.torrent.iso",
    "https://h.example.torrent",
    "https:///x.torrent",
    "https:x.torrent",
    "https:/x.torrent",
    "https://h.example:99999/x.torrent",
    "https://h.example:port/x.torrent",
    "https://[::1/x.torrent",
    "https://h h/x.torrent",
    "file://h.example/x.torrent",
    "file://u@localhost/x.torrent",
    "file://localhost:80/x.torrent",
    "file:x.torrent",
    "file:///x%00.torrent",
    "ftp://h.example/x.torrent",
    "gopher://h.example/x.torrent",
    "javascript:x.torrent",
    "a:b.torrent",
    "swarm:x.torrent",  # below, all of these come behind `swarm:` once more
    "magnet:",
    "magnet:?",
    "magnet:?dn=x.torrent",
    f"magnet:{BTIH}",
    f"magnet:x?{BTIH}",
    "magnet:?xt=urn:ed2k:354B15E68FB8F36D7CD88FF94116CDC1&xl=10826029&dn=x",
    "magnet:?xt=urn:sha1:YNCKHTQCWBTRNJIV4WNAE52SJUQCZO5C",
    "magnet:?xt=urn:tree:tiger:7N5OAMRNGMSSEUE3ORHOKWN4WWIQ5X4EBOOTLJY",
    "magnet:?xt=urn:btih:",
    f"magnet:?xt=urn:btih:{V1.hex()}0",
    f"magnet:?xt=urn:btih:{V1.hex()[1:]}",
    f"magnet:?xt=urn:btih:{V1.hex()[:-1]}g",
    f"magnet:?xt=urn:btih:{BASE32[:-1]}1",
    f"magnet:?xt=urn:btmh:1220{V2.hex()[2:]}",
    f"magnet:?xt=urn:btmh:1114{V1.hex()}",
    f"magnet:?{BTIH}&xt=urn:btih:{bytes(20).hex()}",
    f"magnet:?{BTMH}&xt=urn:btmh:1220{bytes(32).hex()}",
    f"magnet:?x#{BTIH}",
    "a\nb.torrent",
    "a\0.torrent",
    "https://h.example/a\x7f.torrent",
    "https://h.example/a\x85.torrent",
    "\udcff.torrent",
    f"magnet:?{BTIH}&dn=\udcff",
    "https://h.example/" + "a" * MAX_URL + ".torrent",
]


@pytest.mark.parametrize("scheme", ["", "swarm:", "Swarm:"])
@pytest.mark.parametrize(("url", "place", "choice"), OURS)
def test_ours(scheme: str, url: str, place: str, choice: int | str | None) -> None:
    found = torrent_url(scheme + url)
    assert found is not None
    assert (found.url, found.place, found.magnet, found.choice) == (scheme + url, place, None, choice)


@pytest.mark.parametrize("scheme", ["", "swarm:"])
@pytest.mark.parametrize("url", NOT_OURS)
def test_not_ours(scheme: str, url: str) -> None:
    if (scheme, url) != ("", "swarm:x.torrent"):
        assert torrent_url(scheme + url) is None


MAGNETS = [
    (f"magnet:?{BTIH}", Magnet(V1, None), None),
    (f"magnet:?xt=urn:btih:{BASE32}", Magnet(V1, None), None),
    (f"MAGNET:?XT=URN:BTIH:{BASE32.lower()}", Magnet(V1, None), None),
    (f"magnet:?xt=urn:btih:{V1.hex().upper()}", Magnet(V1, None), None),
    (f"magnet:?{BTMH}", Magnet(None, V2), None),
    (f"magnet:?dn=x&{BTMH}&{BTIH}", Magnet(V1, V2, "x"), None),
    (f"magnet:?xt.1=urn:btih:{V1.hex()}&xt.2=urn:btmh:1220{V2.hex()}", Magnet(V1, V2), None),
    (f"magnet:?xt=urn%3Abtih%3A{V1.hex()}", Magnet(V1, None), None),
    (f"magnet:?xt=urn:ed2k:31D6CFE0D16AE931B73C59D7E0C089C0&{BTIH}&{BTIH}", Magnet(V1, None), None),
    (f"magnet:?{BTIH}&xt=urn:btmh:12", Magnet(V1, None), None),
    (f"magnet:?{BTIH}&dn=A+b%20%C3%BC%ff&dn=other", Magnet(V1, None, "A b ü\ufffd"), None),
    (
        f"magnet:?{BTIH}&xs=https%3A%2F%2Fh.example%2Fx.torrent&xs=urn:sha1:X&xs=ftp://h.example/x.torrent",
        Magnet(V1, None, sources=("https://h.example/x.torrent",)),
        None,
    ),
    (f"magnet:?{BTIH}&xl=123", Magnet(V1, None, exact_size=123), None),
    (f"magnet:?{BTIH}&xl=-1&xl=x&xl={'9' * 19}", Magnet(V1, None), None),
    (
        f"magnet:?{BTIH}&tr=http%3A%2F%2Ft.example%2Fannounce&tr.1=udp://t.example:6969&tr=wss://t.example"
        "&tr=http://t.example/announce&tr=&tr=x",
        Magnet(V1, None, trackers=("http://t.example/announce", "udp://t.example:6969")),
        None,
    ),
    (
        f"magnet:?{BTIH}&ws=https://s.example/a%20b&as=http://s.example/&ws=file:///etc/passwd&ws=ftp://s.example/x",
        Magnet(V1, None, web_seeds=("https://s.example/a%20b", "http://s.example/")),
        None,
    ),
    (
        f"magnet:?{BTIH}&x.pe=192.0.2.1:6881&x.pe=[2001:db8::1]:65535&x.pe=192.0.2.1:6881&x.pe=peer.example:6881"
        "&x.pe=192.0.2.1&x.pe=192.0.2.1:0&x.pe=192.0.2.1:65536&x.pe=192.0.2:1&x.pe=[x]:1&x.pe=2001:db8::1:1",
        Magnet(V1, None, peers=(("192.0.2.1", 6881), ("2001:db8::1", 65535))),
        None,
    ),
    (f"magnet:?{BTIH}#3", Magnet(V1, None), 3),
    (f"magnet:?{BTIH}#", Magnet(V1, None), None),
    (f"magnet:?{BTIH}&dn=Track #1#a%20b/c d.iso", Magnet(V1, None, "Track #1"), "a b/c d.iso"),
    (f"magnet:?{BTIH}&dn=C#&tr=udp://t.example:1", Magnet(V1, None, "C#", ("udp://t.example:1",)), None),
    (f"magnet:?{BTIH}&so=0", Magnet(V1, None), 1),
    (f"magnet:?{BTIH}&so=4#2", Magnet(V1, None), 2),
    (f"magnet:?{BTIH}&so=4#", Magnet(V1, None), 5),
    (f"magnet:?{BTIH}&so=1,2", Magnet(V1, None), None),
    (f"magnet:?{BTIH}&so=1-2", Magnet(V1, None), None),
]


@pytest.mark.parametrize("scheme", ["", "swarm:"])
@pytest.mark.parametrize(("url", "magnet", "choice"), MAGNETS)
def test_magnets(scheme: str, url: str, magnet: Magnet, choice: int | str | None) -> None:
    found = torrent_url(scheme + url)
    assert found is not None
    assert (found.url, found.magnet, found.choice) == (scheme + url, magnet, choice)
    assert found.place in (url, url.rpartition("#")[0])


def test_the_place_of_a_magnet_has_no_fragment() -> None:
    found = torrent_url(f"swarm:magnet:?{BTIH}&dn=a#b#2")
    assert found is not None
    assert found.place == f"magnet:?{BTIH}&dn=a#b"
    found = torrent_url(f"magnet:?{BTIH}&dn=a#&tr=udp://t.example:1")
    assert found is not None
    assert found.place == found.url


def test_what_a_magnet_lists_has_a_bound() -> None:
    many = "".join(f"&tr=udp://t{n}.example:1&ws=http://s{n}.example/&x.pe=192.0.2.1:{n}" for n in range(1, 300))
    found = torrent_url(f"magnet:?{BTIH}{many}")
    assert found is not None
    assert found.magnet is not None
    assert [len(found.magnet.trackers), len(found.magnet.web_seeds), len(found.magnet.peers)] == [100, 100, 100]
    assert found.magnet.trackers[0] == "udp://t1.example:1"


def test_ids() -> None:
    assert Magnet(V1, V2).id == V1.hex()
    assert Magnet(None, V2).id == V2.hex()


CHARACTERS = st.characters() | st.sampled_from(":/?#&=%.@[]-_ \n\ud800ü3")
PARTS = (
    "swarm: magnet:? https:// file: // h.example / .torrent # #3 ? & &tr= &ws= &dn= &x.pe= &so= [ ] :1 % %ff %00 @"
)
PIECES = st.sampled_from([*PARTS.split(), BTIH, BTMH]) | st.text(CHARACTERS, max_size=3)


@given(st.lists(PIECES, max_size=8).map("".join))
def test_any_text_is_taken_or_not(url: str) -> None:
    found = torrent_url(url)
    shown(url).encode()
    clean(url, TRACKER_SCHEMES)
    is_publishable(url)
    if found is None:
        return
    assert found.url == url
    assert url.removeprefix("swarm:").startswith(found.place)
    texts = [found.place, str(found.choice)]
    if found.magnet is not None:
        texts += [found.magnet.name, *found.magnet.trackers, *found.magnet.web_seeds]
    else:
        scheme = re.match(r"([a-z][a-z0-9+.-]*):", found.place, re.IGNORECASE)
        assert scheme is None or scheme[1].lower() in ("http", "https", "file")
        path = found.place.partition("?")[0] if scheme else found.place
        assert path.lower().endswith(".torrent")
    "".join(texts).encode()
    again = torrent_url(found.place)
    assert again is not None
    assert (again.place, again.magnet) == (found.place, found.magnet)


HOSTS = st.sampled_from(["h.example", "192.0.2.7", "[2001:db8::1]", "x-y.example:81"])
SEEDS = st.builds(
    lambda scheme, host, path: clean(f"{scheme}://{host}/{path}", TRACKER_SCHEMES),
    st.sampled_from(["http", "https"]),
    HOSTS,
    st.text(st.characters(exclude_categories=["C"]), max_size=5),
).filter(bool)
WRITTEN = st.builds(
    Magnet,
    st.just(V1),
    st.sampled_from([V2, None]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.lists(SEEDS, max_size=3, unique=True).map(tuple),
    st.lists(SEEDS, max_size=3, unique=True).map(tuple),
    st.just(()),
    st.none() | st.integers(0, 10**18 - 1),
)
CHOICES = (
    st.none()
    | st.integers(0, 999_999_999)
    | st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=9)
)


@given(WRITTEN, CHOICES)
def test_a_magnet_that_is_written_is_read(magnet: Magnet, choice: int | str | None) -> None:
    url = write_magnet(magnet, choice)
    assert url.isascii()
    assert not any(one.isspace() for one in url)
    found = torrent_url(url)
    assert found is not None
    assert found.magnet == magnet
    assert found.choice == (choice.strip("/") or None if isinstance(choice, str) else choice)
    assert write_magnet(found.magnet, found.choice) == write_magnet(magnet, found.choice)


def test_magnets_by_hand() -> None:
    magnet = Magnet(
        V1, V2, "Ünï & b", ("udp://t.example:1",), ("https://s.example/?a=b&c",), (("192.0.2.1", 1),), 5
    )
    text = f"magnet:?{BTIH}&{BTMH}&dn=%C3%9Cn%C3%AF%20%26%20b&xl=5&tr=udp%3A%2F%2Ft.example%3A1"
    text += "&ws=https%3A%2F%2Fs.example%2F%3Fa%3Db%26c"
    assert write_magnet(magnet) == text
    assert write_magnet(magnet, 7) == f"{text}#7"
    assert write_magnet(magnet, "a b/#1&tr=x") == f"{text}#a%20b/%231%26tr%3Dx"
    assert write_magnet(magnet, "77") == f"{text}#%377"
    assert write_magnet(magnet, "\ud800") == f"{text}#%3F"
    assert write_magnet(Magnet(None, V2, "\ud800")) == f"magnet:?{BTMH}&dn=%3F"


def test_what_is_written_does_not_end_as_what_git_annex_itself_takes() -> None:
    for name in ("x.torrent", "x.TORRENT"):
        for magnet in (Magnet(V1, None, name), Magnet(V1, V2, "", (), (f"http://s.example/{name}",))):
            for choice in (None, 3, "a.torrent", "a.torrent/b"):
                url = write_magnet(magnet, choice)
                assert not url.lower().endswith(".torrent")
                assert not url.partition("#")[0].lower().endswith(".torrent")
                found = torrent_url(f"swarm:{url}")
                assert found is not None
                assert (found.magnet, found.choice) == (magnet, choice)


@pytest.mark.parametrize("choice", [None, 3])
@pytest.mark.parametrize(
    ("place", "url"),
    [
        ("https://h.example/x.torrent", "swarm:https://h.example/x%2Etorrent"),
        ("https://h.example/a b/x.Torrent?k=1", "swarm:https://h.example/a%20b/x%2ETorrent?k=1"),
        ("https://h.example/x.torrent?f=y.torrent", "swarm:https://h.example/x%2Etorrent?f=y%2Etorrent"),
        ("http://u:p@[::1]:8/x.torrent?", "swarm:http://u:p@[::1]:8/x%2Etorrent?"),
        ("file:///a%20b/x.torrent", "swarm:file:///a%20b/x%2Etorrent"),
    ],
)
def test_places_are_recorded_so_that_only_we_take_them(place: str, url: str, choice: int | None) -> None:
    url += "" if choice is None else "#3"
    assert recorded(place, choice) == url
    found = torrent_url(url)
    assert found is not None
    assert (found.url, found.choice) == (url, choice)
    again = torrent_url(recorded(found.place, choice))
    assert again == found


def test_a_magnet_that_is_written_has_a_bound() -> None:
    many = tuple(f"http://tracker{number}.example/announce" for number in range(500))
    url = write_magnet(Magnet(V1, V2, "ü" * 5000, many, many))
    assert len(url) <= MAX_MAGNET
    found = torrent_url(url)
    assert found is not None
    assert found.magnet is not None
    assert found.magnet.trackers == many[: len(found.magnet.trackers)]
    assert len(found.magnet.trackers) > 30
    assert found.magnet.name == "ü" * 127


@pytest.mark.parametrize(
    ("url", "cleaned"),
    [
        ("HTTP://H.Example/A", "http://h.example/A"),
        (" http://h.example ", "http://h.example"),
        ("http://h.example:80/a b/ü?x=y z#f", "http://h.example:80/a%20b/%C3%BC?x=y%20z"),
        ("http://h.example/%41%zz%", "http://h.example/%41%25zz%25"),
        ("http://u:p%40@h.example/", "http://u:p%40@h.example/"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("https://[2001:DB8::1]:8/", "https://[2001:db8::1]:8/"),
        ("udp://h.example:6969", "udp://h.example:6969"),
        ("http://h.example/\n", None),
        ("http://h.example/\u202e", None),
        ("http://h.example/\ud800", None),
        ("http://h.example:0/", None),
        ("http://h.example:65536/", None),
        ("http://h.example:x/", None),
        ("http://h ost/", None),
        ("http://h%41.example/", None),
        ("http://[::1", None),
        ("http://", None),
        ("http:h.example", None),
        ("h.example", None),
        ("", None),
        ("wss://h.example/", None),
        ("file:///etc/passwd", None),
        ("http://h.example/" + "a" * 2000, None),
        ("http://" + "a" * 70 + ".ü/", None),
    ],
)
def test_trackers_and_web_seeds(url: str, cleaned: str | None) -> None:
    assert clean(url, TRACKER_SCHEMES) == cleaned
    if cleaned is not None:
        assert clean(cleaned, TRACKER_SCHEMES) == cleaned
        assert (clean(url, WEB_SEED_SCHEMES) is None) == cleaned.startswith("udp:")


KEYS = [
    "0123456789abcdef",
    "D41D8CD98F00B204E9800998ECF8427E",
    "q8x0vbf3k2mzl9w7",
    "Zk3vQ9bTx7LmP2aRwE5c",
    "abcdefghijklmnopqrstuvwxyz234567",
]


@pytest.mark.parametrize("key", KEYS)
def test_what_looks_like_a_passkey(key: str) -> None:
    for url in (
        f"https://t.example/{key}/announce",
        f"https://t.example/a/announce-{key}",
        f"https://{key}.t.example/announce",
        f"https://t.example/announce?passkey={key}",
        f"https://t.example/announce?{key}",
        f"https://{key}@t.example/announce",
        f"https://u:{key}@t.example/announce",
        f"//u:{key}@t.example/announce",
        f"t.example/announce?passkey={key}",
        f"u:{key}@t.example/announce",
        f"u@{key}",
        f"https://t.example/x.torrent#{key}",
        f"https://t.example/x.torrent?k={key}",
        f"swarm:https://u:{key}@t.example/x.torrent?k={key}#1",
        f"https://t.example/%{ord(key[0]):x}{key[1:]}/announce",
        f"https://t.example:bad/{key}",
        f"file://h/{key}",
        f"magnet:?{BTIH}&tr=https%3A%2F%2Ft.example%2F{key}%2Fannounce",
        f"magnet:?xt={key}",
        f"https://t.example/x\n{key}",
    ):
        assert key not in shown(url), url
        assert not is_publishable(url) or url.startswith(("u@", "u:", "t.", "magnet", "https://t.example/x\n")), (
            url
        )


def test_what_is_no_url_is_not_published() -> None:
    assert not is_publishable("http://[::1/announce")


@pytest.mark.parametrize(
    "url",
    [
        "http://tracker.example/announce",
        "http://tracker.example:6969/announce.php",
        "udp://tracker.opentrackr.example:1337/announce",
        "https://torrent.ubuntu.example/announce",
        "https://mirror.example/debian-cd/12.5.0/amd64/iso-cd/debian-12.5.0-amd64-netinst.iso",
        "https://mirror.example/FreeBSD13RELEASEamd64.iso",
        "https://archive.example/download/MyHolidayPicturesFromItaly/Ubuntu2404DesktopAmd64.iso",
        "https://mirror.example/donaudampfschifffahrtsgesellschaft/",
    ],
)
def test_what_may_be_published(url: str) -> None:
    assert is_publishable(url)
    assert "…" not in shown(url).replace("/…/", "/")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://u:p@h.example:81/a/b/my%20file.torrent?k=1#3", "https://h.example:81/…/my file.torrent"),
        ("swarm:http://h.example/x.torrent", "http://h.example/x.torrent"),
        ("http://[::1]:80/", "http://[::1]:80"),
        ("udp://h.example:6969", "udp://h.example:6969"),
        ("gopher://h.example/x", "gopher://h.example/x"),
        ("file:///home/me/x.torrent#1", "file:///home/me/x.torrent"),
        ("swarm:/home/me/x.torrent#1", "/home/me/x.torrent"),
        ("https://h.example/a\u202e\x1b[2J", "https://h.example/a\ufffd\ufffd[2J"),
        (f"magnet:?dn=A+b&{BTIH}&tr=x", f"magnet:?xt=urn:btih:{V1.hex()}&dn=A b"),
        (f"magnet:?{BTMH}#2", f"magnet:?xt=urn:btmh:1220{V2.hex()}"),
        ("magnet:?xt=urn:ed2k:1", "magnet:…"),
        ("a/b/x.iso?k=1", "…/x.iso"),
        ("/a/b c/x.iso", "/a/b c/x.iso"),
        ("/a/b", "/a/b"),
        ("/a/b/q8x0vbf3k2mzl9w7/x?y@z#1", "/a/b/q8x0vbf3k2mzl9w7/x?y@z#1"),
        ("./x.iso#3", "./x.iso#3"),
        ("../b/x.iso", "../b/x.iso"),
        ("~/b/x.iso", "~/b/x.iso"),
        ("a/b/x.iso#3", "a/b/x.iso#3"),
        ("a/b\x1b[2J", "a/b\ufffd[2J"),
        ("/" + "y" * 2500, "/" + "y" * 2500),
        ("/" + "y" * 9999, "/" + "y" * 4095 + "…"),
        ("/" + "y" * 2500 + ".torrent#3", "/" + "y" * 2500 + ".torrent"),
        ("file:///" + "y" * 2500 + ".torrent#3", "file:///" + "y" * 2500 + ".torrent"),
        ("//h.example/x.iso", "…/x.iso"),
        ("x.iso", "x.iso"),
        ("https://h.example/" + "x" * 500, "https://h.example/" + "x" * 182 + "…"),
        ("", ""),
    ],
)
def test_what_is_shown(url: str, text: str) -> None:
    assert shown(url) == text


@given(st.text(CHARACTERS, max_size=30))
def test_what_is_shown_has_no_query_and_stays_on_its_line(text: str) -> None:
    for url in (text, f"https://h.example/{text}", f"magnet:?{BTIH}&dn={quote(text, errors='replace')}"):
        line = shown(url)
        assert not any(unicodedata.category(one) in ("Cc", "Cf", "Cs", "Zl", "Zp") for one in line)
