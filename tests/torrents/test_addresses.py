from __future__ import annotations

import ipaddress
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annex_remote.errors import BadSetting
from annex_remote.torrents.addresses import SETTING, Allowed, parse_allowed, read_allowed

OLD_SETTING = "annex.security.allowed-http-addresses"
PORT = 6881

PUBLIC = (
    "1.1.1.1",
    "8.8.8.8",
    "100.63.255.255",
    "100.128.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2606:4700::1111",
    "2a00:1450::1",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2002:808:808::1",
)
NOT_PUBLIC = {
    "this network": ("0.0.0.0", "0.1.2.3"),
    "loopback": ("127.0.0.1", "127.255.255.254", "::1"),
    "private": ("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
    "unique local": ("fc00::1", "fd12:3456::1"),
    "site-local": ("fec0::1",),
    "link-local": ("169.254.169.254", "fe80::1", "fe80::1%eth0"),
    "unspecified": ("0.0.0.0", "::"),
    "multicast": ("224.0.0.1", "239.192.152.143", "ff02::1", "ff0e::1"),
    "reserved": ("240.0.0.1", "255.255.255.255", "192.0.0.8", "4000::1", "100::1"),
    "behind a provider's NAT": ("100.64.0.1", "100.127.255.255"),
    "benchmarks": ("198.18.0.1", "198.19.255.255", "2001:2::1"),
    "documentation": ("192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"),
    "mapped": ("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:a00:1"),
    "compatible": ("::127.0.0.1", "::8.8.8.8"),
    "translated": ("::ffff:0:127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::8.8.8.8"),
    "6to4": ("2002:7f00:1::1", "2002:a00:1::", "2002:c0a8:101:ffff:ffff:ffff:ffff:ffff"),
    "Teredo": ("2001:0:7f00:1::f5ff:fffe", "2001:0:808:808::f5ff:fffe"),
}


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_always_permitted(address: str) -> None:
    assert Allowed().permits(address, PORT)
    assert parse_allowed("10.0.0.1 [127.0.0.1]:80").permits(address, PORT)


@pytest.mark.parametrize("address", [each for kind in NOT_PUBLIC.values() for each in kind])
def test_others_are_not_permitted_unless_they_are_allowed(address: str) -> None:
    assert not Allowed().permits(address, PORT)
    assert parse_allowed(address).permits(address, PORT)
    assert parse_allowed("all").permits(address, PORT)
    assert parse_allowed(f"[{address}]:{PORT}").permits(address, PORT)
    assert not parse_allowed(f"[{address}]:{PORT}").permits(address, PORT + 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        "example.org",
        "127.0.0.1.example.org",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "127.0.0.1:80",
        "[::1]",
        "1.2.3.4/32",
        "::1::",
        "\N{ARABIC-INDIC DIGIT ONE}.1.1.1",
    ],
)
def test_what_is_no_ip_literal_is_never_permitted(text: str) -> None:
    assert not Allowed().permits(text, 80)
    assert not parse_allowed("all").permits(text, 80)


@pytest.mark.parametrize(
    ("text", "permitted", "refused"),
    [
        ("127.0.0.1", ["127.0.0.1", "::ffff:127.0.0.1"], ["127.0.0.2", "::1"]),
        (" 127.0.0.1\t::1\n", ["127.0.0.1", "::1"], ["127.0.0.2"]),
        ("[127.0.0.1] [::1]", ["127.0.0.1", "::1"], ["127.0.0.2", "::2"]),
        ("0:0::0:1", ["::1"], ["127.0.0.1"]),
        ("fe80::1%eth0", ["fe80::1", "fe80::1%eth1"], ["fe80::2"]),
        ("::ffff:127.0.0.1", ["127.0.0.1", "::ffff:127.0.0.1"], ["127.0.0.2", "::1"]),
        # The other side of a translator is another network: an address there has to be named as such.
        ("10.0.0.1", ["10.0.0.1", "::ffff:10.0.0.1"], ["64:ff9b::10.0.0.1", "2002:a00:1::1"]),
        ("64:ff9b::10.0.0.1", ["64:ff9b::10.0.0.1"], ["10.0.0.1"]),
        ("192.168.0.0/16", ["192.168.0.0", "192.168.255.255"], ["192.169.0.0/16", "10.0.0.1"]),
        ("192.168.1.7/24", ["192.168.1.0", "192.168.1.255"], ["192.168.2.0"]),
        ("fe80::1%eth0/64", ["fe80::2%eth1"], ["fe80:0:0:1::1"]),
        ("10.0.0.1%eth0 fe80::1% %", [], ["10.0.0.1", "fe80::1"]),
        ("fd00::/8", ["fd00::", "fdff::1"], ["fc00::1"]),
        ("::ffff:10.0.0.0/104", ["10.255.255.255", "::ffff:10.0.0.0"], ["127.0.0.1"]),
        ("::ffff:0:0/96", ["127.0.0.1"], ["::1"]),
        ("::/0", ["::1", "ff02::1"], ["127.0.0.1", "::ffff:127.0.0.1"]),
        ("[10.0.0.0/8]", ["10.1.1.1"], ["11.0.0.1%"]),
        # Not known to git-annex either; they allow nothing, and what stands beside them is good without them.
        ("all 10.0.0.1", ["10.0.0.1"], ["127.0.0.1"]),
        ("ALL", [], ["127.0.0.1"]),
        ("localhost 10.0.0.1", ["10.0.0.1"], ["127.0.0.1"]),
        ("127.0.0.1:80 127.0.0.1,10.0.0.1", [], ["127.0.0.1", "10.0.0.1"]),
        ("[127.0.0.1 127.0.0.1] [127.0.0.1]880 [127.0.0.1]:", [], ["127.0.0.1"]),
        ("[127.0.0.1]:http [127.0.0.1]:-1 [127.0.0.1]:000080 [127.0.0.1]:80:80", [], ["127.0.0.1"]),
        ("10.0.0.0/33 10.0.0.0/ 10.0.0.0/x /8 [] []:80", [], ["10.0.0.0"]),
        ("", [], ["127.0.0.1"]),
    ],
)
def test_the_words_of_the_setting(text: str, permitted: list[str], refused: list[str]) -> None:
    allowed = parse_allowed(text)
    assert [each for each in permitted if not allowed.permits(each, 80)] == []
    assert [each for each in refused if allowed.permits(each, 80)] == []


def test_a_port_is_allowed_alone() -> None:
    allowed = parse_allowed("[127.0.0.1]:80 [::1]:443 [10.0.0.0/8]:6881")
    assert allowed.permits("127.0.0.1", 80)
    assert allowed.permits("::ffff:127.0.0.1", 80)
    assert allowed.permits("10.9.9.9", 6881)
    assert not allowed.permits("127.0.0.1", 443)
    assert not allowed.permits("::1", 80)
    # libtorrent's filter knows no ports, so the address stays in it.
    assert allowed.refused() == Allowed().refused()


def test_all_refuses_nothing() -> None:
    assert parse_allowed("all").refused() == []


@pytest.mark.parametrize(("first", "last"), [("240.0.0.0", "255.255.255.255"), ("ff00::", "ffff:" * 7 + "ffff")])
def test_of_a_range_only_the_last_address_may_be_left(first: str, last: str) -> None:
    end = ipaddress.ip_address(last)
    allowed = parse_allowed(
        " ".join(map(str, ipaddress.summarize_address_range(ipaddress.ip_address(first), end - 1)))
    )
    assert (last, last) in allowed.refused()
    assert not allowed.permits(last, PORT)
    assert allowed.permits(str(end - 1), PORT)


addresses = st.one_of(
    st.ip_addresses(v=4),
    st.ip_addresses(v=6),
    st.sampled_from([each for kind in NOT_PUBLIC.values() for each in kind if "%" not in each]).map(
        ipaddress.ip_address
    ),
    st.builds(
        lambda prefix, address: ipaddress.IPv6Address(prefix + int(address)),
        st.sampled_from([int(ipaddress.IPv6Address(each)) for each in ("::", "::ffff:0:0", "64:ff9b::")]),
        st.ip_addresses(v=4),
    ),
    st.builds(
        lambda address, rest: ipaddress.IPv6Address((0x2002 << 112) + (int(address) << 80) + rest),
        st.ip_addresses(v=4),
        st.integers(0, (1 << 80) - 1),
    ),
)
networks = st.builds(
    lambda address, bits: (
        ipaddress.ip_network((int(address), min(bits, address.max_prefixlen)), strict=False)
        if address.version == 4
        else ipaddress.IPv6Network((int(address), bits), strict=False)
    ),
    addresses,
    st.integers(0, 128),
)
values = st.one_of(st.just("all"), st.lists(networks.map(str), max_size=5).map(" ".join))


def _around(ranges: list[tuple[str, str]]) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Return the ends of the ranges, and their neighbours."""
    return [
        end + step
        for ends in ranges
        for end in map(ipaddress.ip_address, ends)
        for step in (-1, 0, 1)
        if 0 <= int(end) + step < 1 << end.max_prefixlen
    ]


@given(values, st.lists(addresses))
def test_what_is_refused_is_what_is_not_permitted(value: str, some: list[Any]) -> None:
    allowed = parse_allowed(value)
    ranges = allowed.refused()
    spans = [tuple(map(ipaddress.ip_address, pair)) for pair in ranges]
    known = [(first.version, int(first), int(last)) for first, last in spans]
    for address in [*some, *_around(ranges)]:
        is_refused = any(
            version == address.version and first <= int(address) <= last for version, first, last in known
        )
        assert is_refused is not allowed.permits(str(address), PORT), address


@given(values)
def test_refused_ranges_are_disjoint_and_sorted(value: str) -> None:
    ends = [
        (each.version, int(each))
        for pair in parse_allowed(value).refused()
        for each in map(ipaddress.ip_address, pair)
    ]
    assert ends == sorted(ends)
    starts, lasts = ends[2::2], ends[1:-1:2]
    # Not even next to each other: each range is as long as it can be.
    assert all(
        version != before or number > last + 1
        for (version, number), (before, last) in zip(starts, lasts, strict=True)
    )


@given(values, st.lists(addresses))
def test_the_filter_of_libtorrent_agrees(value: str, some: list[Any]) -> None:
    import libtorrent

    allowed = parse_allowed(value)
    ranges = allowed.refused()
    ip_filter = libtorrent.ip_filter()
    for first, last in ranges:
        ip_filter.add_rule(first, last, 1)
    for address in [*some, *_around(ranges)]:
        assert (ip_filter.access(str(address)) == 0) is allowed.permits(str(address), PORT), address


@given(addresses)
def test_nothing_is_permitted_that_is_not_global_for_python(address: Any) -> None:
    if Allowed().permits(str(address), PORT):
        inner = [address]
        if address.version == 6:
            inner = [address.ipv4_mapped or address.sixtofour or address]
            if address in ipaddress.IPv6Network("64:ff9b::/96"):
                inner = [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)]
        assert all(each.is_global and not each.is_multicast and not each.is_reserved for each in inner)


@given(networks)
def test_what_is_allowed_is_permitted_and_no_more(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> None:
    mapped = network.version == 6 and network.overlaps(ipaddress.IPv6Network("::ffff:0:0/96"))
    allowed = parse_allowed(str(network))
    for address in (network.network_address, network.broadcast_address):
        if not mapped:
            assert allowed.permits(str(address), PORT)
    for number in (int(network.network_address) - 1, int(network.broadcast_address) + 1):
        if 0 <= number < 1 << network.max_prefixlen:
            outside = str(type(network.network_address)(number))
            assert allowed.permits(outside, PORT) is Allowed().permits(outside, PORT)


@given(st.text(max_size=40))
def test_no_value_and_no_address_raises(text: str) -> None:
    parse_allowed(text).permits(text, PORT)
    parse_allowed(text).refused()


# Reading it from git.


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty repository, and nothing of the machine's own configuration."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    for name in ("GIT_DIR", "GIT_CONFIG_PARAMETERS", "GIT_CONFIG_COUNT", "GIT_CONFIG_GLOBAL"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "repository"
    _git("init", "-q", str(folder))
    return folder


def _git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True)


def test_nothing_set_allows_nothing(repository: Path) -> None:
    assert read_allowed(str(repository / ".git")) == Allowed()


def test_the_repository_is_asked(repository: Path) -> None:
    _git("-C", str(repository), "config", SETTING, "127.0.0.1 [::1]:80")
    allowed = read_allowed(str(repository / ".git"))
    assert allowed.permits("127.0.0.1", 1)
    assert allowed.permits("::1", 80)
    assert not allowed.permits("::1", 81)


def test_the_last_of_several_values_counts(repository: Path) -> None:
    _git("config", "--global", SETTING, "10.0.0.1")
    _git("-C", str(repository), "config", "--add", SETTING, "10.0.0.2")
    _git("-C", str(repository), "config", "--add", SETTING, "10.0.0.3")
    assert read_allowed(str(repository / ".git")) == parse_allowed("10.0.0.3")


def test_the_old_name_counts_where_the_new_one_is_not_set(repository: Path) -> None:
    _git("-C", str(repository), "config", OLD_SETTING, "all")
    assert read_allowed(str(repository / ".git")).everything
    _git("config", "--global", SETTING, "")
    assert read_allowed(str(repository / ".git")) == Allowed()


def test_without_a_repository_the_users_own_counts(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _git("config", "--global", SETTING, "10.0.0.1")
    _git("-C", str(repository), "config", SETTING, "10.0.0.2")
    monkeypatch.chdir(tmp_path)
    assert read_allowed(None) == parse_allowed("10.0.0.1")
    monkeypatch.chdir(repository)
    assert read_allowed(None) == parse_allowed("10.0.0.2")


def test_the_command_line_of_git_counts(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _git("-C", str(repository), "config", SETTING, "10.0.0.1")
    monkeypatch.setenv("GIT_CONFIG_PARAMETERS", f"'{SETTING}'='10.0.0.2'")
    assert read_allowed(str(repository / ".git")) == parse_allowed("10.0.0.2")
    assert read_allowed(None) == parse_allowed("10.0.0.2")


def test_other_settings_are_not_taken_for_it(repository: Path) -> None:
    _git("-C", str(repository), "config", "annex.security.allowed-url-schemes", "all")
    _git("-C", str(repository), "config", "annex.securityxallowed-ip-addresses", "all")
    _git("-C", str(repository), "config", f"x.{SETTING}", "all")
    assert read_allowed(str(repository / ".git")) == Allowed()


def test_a_configuration_that_cannot_be_read_is_said(repository: Path) -> None:
    (repository / ".git" / "config").write_text("[annex\n")
    with pytest.raises(BadSetting, match=r"allowed-ip-addresses\): .*config"):
        read_allowed(str(repository / ".git"))


def test_without_git_it_is_said(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadSetting, match="No such file"):
        read_allowed(None)


def test_a_git_that_hangs_is_given_up(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = tmp_path / "bin" / "git"
    git.parent.mkdir()
    git.write_text("#!/bin/sh\nexec sleep 600\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", f"{git.parent}:/usr/bin:/bin")
    monkeypatch.setattr("annex_remote.torrents.addresses.PATIENCE", 0.2)
    with pytest.raises(BadSetting, match=r"no answer in 0\.2 seconds"):
        read_allowed(None)
