"""The table of kinds: every address scheme has its module, and none is imported before a store is opened."""

from __future__ import annotations

import subprocess
import sys

import pytest

from annex_remote.errors import BadSetting
from annex_remote.model import Access, Login
from annex_remote.stores import check_address, is_far, is_read_only, open_store

ADDRESSES = {
    "dir:/media/usb//annex/": "dir:/media/usb/annex",
    "dav://Example.ORG:80/annex/": "dav://example.org/annex",
    "davs://example.org/remote.php/dav/files/me": "davs://example.org/remote.php/dav/files/me",
    "s3://s3.example.org/bucket/annex": "s3://s3.example.org/bucket/annex",
    "sftp://me@example.org:22/srv/annex": "sftp://me@example.org/srv/annex",
    "rclone:drive:annex/": "rclone:drive:annex",
    "https://example.org:443/annex": "https://example.org/annex",
    "http://example.org/annex": "http://example.org/annex",
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_has_one_form_and_opening_it_asks_nobody(address: str) -> None:
    assert check_address(address) == ADDRESSES[address]
    assert check_address(ADDRESSES[address]) == ADDRESSES[address]
    for marker in (None, "ab/ab" + "2" * 30 + ".s0"):
        open_store(ADDRESSES[address], marker, Access(Login("me", "secret"))).close()


def test_what_is_far_and_what_is_read_only() -> None:
    assert [address for address in ADDRESSES if not is_far(address)] == ["dir:/media/usb//annex/"]
    assert {address[:5] for address in ADDRESSES if is_read_only(address)} == {"http:", "https"}
    assert is_far("unknown:place")


@pytest.mark.parametrize("address", ["", "annex", "/media/usb", "ftp://example.org/annex", "S3://host/bucket"])
def test_what_is_no_address_is_refused_with_what_would_be(address: str) -> None:
    with pytest.raises(BadSetting, match="begins with one of dir:, dav:"):
        check_address(address)


def test_no_kind_is_imported_before_a_store_is_opened() -> None:
    text = (
        "import sys, annex_remote.remote, annex_remote.grid, annex_remote.stores as stores; "
        "kinds = {f'{stores.__name__}.{kind.module}' for kind in stores._KINDS.values()}; "
        "print(kinds & set(sys.modules), 'requests' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert said.stdout == "set() False\n"


@pytest.mark.parametrize("kind", ["full", "read", "verify", "FULL"])
@pytest.mark.parametrize("start", ["", "a=", " "])
def test_a_capability_in_the_place_of_an_address_is_not_repeated(kind: str, start: str) -> None:
    for end in ("", ":def", "@host"):
        with pytest.raises(BadSetting, match="is not the address of a store") as told:
            check_address(f"{start}swarm-{kind}-uxul7xsaktff{end}")
        assert "uxul7xsaktff" not in str(told.value)


def test_a_path_may_be_called_like_one() -> None:
    assert check_address("dir:/mnt/swarm-full-backup") == "dir:/mnt/swarm-full-backup"
