"""Addresses that look like URLs: one form for each place, and never a password in what is said about them."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from annex_remote.errors import BadSetting
from annex_remote.stores.address import Place, parse_place

OPTIONS = ("ca", "region")

HOSTS = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,20}[a-z0-9])?", fullmatch=True) | st.sampled_from(
    ["[::1]", "[fe80::1]", "127.0.0.1", "[::ffff:1.2.3.4]", "localhost"]
)
PIECES = st.text(alphabet=st.characters(exclude_categories=["C", "Z"], exclude_characters="/"), min_size=1).filter(
    lambda piece: piece not in (".", "..")
)
USERS = st.from_regex(r"([A-Za-z0-9._-][A-Za-z0-9._@+-]{0,20})?", fullmatch=True)
VALUES = st.text(min_size=1).filter(lambda text: text.isprintable())
PLACES = st.builds(
    Place,
    st.sampled_from(["http", "davs", "s3"]),
    HOSTS,
    st.none() | st.integers(1, 65535),
    st.lists(PIECES, max_size=4).map(lambda pieces: "".join(f"/{piece}" for piece in pieces)),
    USERS,
    st.fixed_dictionaries({}, optional={"ca": VALUES.map("/".__add__), "region": VALUES}),
)


def parse(address: str) -> Place:
    return parse_place(address, options=OPTIONS, user=True)


@given(PLACES)
def test_what_was_printed_is_read_as_it_was(place: Place) -> None:
    assert parse(str(place)) == place
    assert str(parse(str(place))) == str(place)
    assert str(place).isascii()


@given(st.text() | st.text().map("dav://".__add__) | st.from_regex(r"[a-z]{1,3}://[^ ]*"))
@example("dav://h/?")
@example("dav://h:/")
@example("dav://h//a///b/")
@example("dav://h/%41%2f%2F%ff")
@example("dav://h/\n")
@example("dav://h\n/")
@example(" dav://h/")
@example("dav://h/?region=a+b&region=")
@example("dav://h/?region=%ff")
@example("dav://[/")
@example("dav://\uff20/")
@example("dav://h:99999/")
def test_whatever_is_read_has_one_form(address: str) -> None:
    """Anything is refused in words, or has a form that stays what it is."""
    try:
        place = parse(address)
    except BadSetting:
        return
    assert parse(str(place)) == place
    assert place.path == "" or (place.path.startswith("/") and not place.path.endswith("/"))
    assert str(place).isprintable()


FORMS = {
    "dav://Cloud.Example.ORG/": "dav://cloud.example.org",
    "dav://h:80/a": "dav://h/a",
    "dav://h:81/a": "dav://h:81/a",
    "dav://h//a//b/": "dav://h/a/b",
    "dav://h/a%20b/%61": "dav://h/a%20b/a",
    "dav://h/a b": "dav://h/a%20b",
    "dav://h/ä": "dav://h/%C3%A4",
    "dav://h/100%25": "dav://h/100%25",
    "dav://h/a%3Fb%23c": "dav://h/a%3Fb%23c",
    "dav://me@h/a": "dav://me@h/a",
    "dav://me%40work@h": "dav://me%40work@h",
    "dav://[::1]:80/a": "dav://[::1]/a",
    "dav://h/a?region=x&ca=/etc/my%20ca.pem": "dav://h/a?ca=/etc/my+ca.pem&region=x",
}


@pytest.mark.parametrize("address", FORMS)
def test_the_one_form(address: str) -> None:
    place = parse_place(address, options=OPTIONS, user=True, default_port=80)
    assert str(place) == FORMS[address]


REFUSED = {
    "": "not an address",
    "dav": "not an address",
    "dav:/h": "not an address",
    "dav://": "not an address",
    "DAV://h": "not an address",
    "://h": "not an address",
    " dav://h": "not an address",
    "dav://h/a\nb": "do not print",
    "dav://h\t/a": "do not print",
    "dav:///a": "does not name a host",
    "dav://h h/": "does not name a host",
    "dav://ä/": "does not name a host",
    "dav://h:port/": "cannot be",
    "dav://h:/a": "does not name a host",
    "dav://h:99999/": "cannot be",
    "dav://[::1/": "cannot be",
    "dav://h/../a": r"'\.'",
    "dav://h/%2e%2e/a": r"'\.'",
    "dav://h/./a": r"'\.'",
    "dav://h/%00": "do not print",
    "dav://h/%ff": "do not print",
    "dav://h/a#b": "%23",
    "dav://h/a#": "%23",
    "dav://h/?other=1": "'other'",
    "dav://h/?ca": "'ca'",
    "dav://h/?ca=": "'ca'",
    "dav://h/?ca=%0a": "'ca'",
    "dav://h/?ca=/1&ca=/2": "twice",
    "dav://h/?ca=my.pem": "absolute path",
    "dav://:pw@h/": "password",
    "dav://me:@h/": "password",
    "dav://m e@h/": "user",
    "dav://@h/": "user",
    "dav://m%3Ae@h/": "user",
}


@pytest.mark.parametrize("address", REFUSED)
def test_what_is_refused(address: str) -> None:
    with pytest.raises(BadSetting, match=REFUSED[address]):
        parse(address)


def test_a_user_where_none_belongs() -> None:
    for address in ("http://me@h/a", "http://@h/a"):
        with pytest.raises(BadSetting, match="_USER"):
            parse_place(address)


def said(address: str, *, user: bool) -> str:
    """Return all that is said when an address is refused, down to its last cause."""
    with pytest.raises(BadSetting) as raised:
        parse_place(address, options=OPTIONS, user=user)
    texts = []
    error: BaseException | None = raised.value
    while error is not None:
        texts.append(f"{error} {error!r}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(texts)


SECRET = "hunter2"
PASSWORDS = st.lists(st.sampled_from([SECRET, *":/?#[]@&=+%; \t\n\\\"'ä"]), max_size=8).map(
    lambda parts: "".join(parts) + SECRET
)


@given(st.sampled_from(["dav", "s3", "http", "x"]), st.sampled_from(["me", "", "m e"]), PASSWORDS, st.booleans())
@example("dav", "me", f"1?{SECRET}", True)
@example("dav", "me", f"1?{SECRET}=", True)
@example("dav", "me", f"1?{SECRET}={SECRET}", True)
@example("dav", "me", f"1?ca=\t{SECRET}", True)
@example("dav", "me", f"1#{SECRET}", True)
@example("dav", "me", f"1?a@b&{SECRET}", True)
@example("dav", "me", f"[{SECRET}", True)
@example("dav", "me", f"{SECRET}/{SECRET}", True)
@example("dav", "me", f"{SECRET}\u2100{SECRET}", True)
@example("dav", "me", SECRET, False)
def test_no_error_says_a_password(scheme: str, user: str, password: str, takes_user: bool) -> None:
    for end in ("@h/a", "@h:port/a", "@/", "@h/?other=1", "@h/../a", "@h/#", "@[::1/", "@h/%00"):
        assert SECRET not in said(f"{scheme}://{user}:{password}{end}", user=takes_user)


def test_what_was_meant_as_a_password_is_told_where_it_belongs() -> None:
    with pytest.raises(BadSetting, match=r"SWARM_STORE_NAME_PASSWORD.*git-annex-remote-swarm login"):
        parse(f"dav://me:{SECRET}@h/a")


def test_netloc_and_quoted_path_are_what_a_url_has() -> None:
    place = parse("dav://[::1]:8080/a b/c")
    assert (place.netloc, place.quoted_path) == ("[::1]:8080", "/a%20b/c")
    assert parse("dav://h").netloc == "h"
