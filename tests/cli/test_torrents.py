"""The commands about torrents, as they are typed, in and out of a repository with git-annex."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from annex_remote.torrents.bencode import encode
from annex_remote.torrents.metainfo import parse
from tests.servers import LibtorrentPeer, nginx_static
from tests.sessions.session import Output, Repository, Session, wait_for

SWARM = "git-annex-remote-swarm torrent"
TRACKER = "http://tracker.example.org/0123456789abcdef0123456789abcdef/announce"
ESCAPES = "evil\x1b]0;title\x07\x1b[31m\u202e.txt"


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    session = Session(tmp_path)
    yield session
    session.close()


@pytest.fixture
def laptop(session: Session) -> Repository:
    """A repository with the remote `vault`, and a folder `film` of annexed files."""
    laptop = session.repository("laptop")
    laptop.initremote("usb", "nas", "attic")
    laptop.add(**{"film/one.bin": 300_001, "film/two.bin": 200_002, "film/small.txt": 100})
    return laptop


def made(repository: Repository, options: str = "", *, what: str = "film", to: str = "../film.torrent") -> Path:
    repository.run(f"{SWARM} create {what} -o {to} --force --piece-length 16KiB {options}")
    return repository.path / to.strip("'")


def hostile(folder: Path) -> Path:
    """Write a torrent whose names and URLs are somebody's who means harm."""
    info = {
        b"files": [
            {b"length": 5, b"path": [ESCAPES.encode()]},
            {b"length": 5, b"path": [b"..", b"..", b"passwd"]},
        ],
        b"name": ESCAPES.encode(),
        b"piece length": 1 << 14,
        b"pieces": bytes(20),
    }
    urls = ["file:///etc/passwd", f"http://h.example/{ESCAPES}", "http://me:pass@s.example/x?key=1"]
    document = {b"info": info, b"url-list": [url.encode() for url in urls], b"announce": TRACKER.encode()}
    path = folder / "hostile.torrent"
    path.write_bytes(encode(document))
    return path


# show


def test_show_works_outside_of_any_repository(session: Session) -> None:
    (session.folder / "film").mkdir()
    (session.folder / "film" / "a b.bin").write_bytes(bytes(100_000))
    (session.folder / "film" / "c").write_bytes(bytes(10))
    session.run(
        f"{SWARM} create film --tracker {TRACKER} --tracker udp://t.example.org:80/announce --web-seed http://w.example.org"
    )
    said = session.run(f"{SWARM} show film.torrent")
    metainfo = parse((session.folder / "film.torrent").read_bytes())
    assert metainfo.v1 is not None
    assert metainfo.v2 is not None
    for row in (
        "name       film\n",
        "kind       hybrid\n",
        f"hash v1    {metainfo.v1.hex()}\n",
        f"hash v2    {metainfo.v2.hex()}\n",
        "size       100.0 kB in 2 files (100,010 bytes)\n",
        "pieces     8 of 16KiB\n",
        "tracker    http://tracker.example.org/…/announce\n",
        "tracker    udp://t.example.org:80/announce\n",
        "web seed   http://w.example.org\n",
        f"magnet     {metainfo.magnet()}\n",
        "\nNUMBER      SIZE  PATH\n#1      100.0 kB  a b.bin\n#3      10 bytes  c\n",
    ):
        assert row in said.out, str(said)
    assert "0123456789abcdef0123456789abcdef" not in said.out
    [about] = session.run(f"{SWARM} show --json file://{session.folder}/film.torrent#3").json
    assert (about["name"], about["kind"], about["private"], about["chosen"]) == ("film", "hybrid", False, 3)
    assert (about["v1"], about["v2"], about["size"]) == (metainfo.v1.hex(), metainfo.v2.hex(), 100_010)
    assert (about["pieces"], about["piece_length"], about["single"]) == (8, 16384, False)
    assert about["trackers"] == [["http://tracker.example.org/…/announce"], ["udp://t.example.org:80/announce"]]
    assert about["magnet"] == metainfo.magnet(3)
    assert about["files"] == [
        {"number": 1, "size": 100_000, "path": ["a b.bin"], "safe_path": ["a b.bin"]},
        {"number": 3, "size": 10, "path": ["c"], "safe_path": ["c"]},
    ]


def test_show_takes_a_torrent_by_any_name(session: Session) -> None:
    (session.folder / "data").write_bytes(bytes(100))
    session.run(f"{SWARM} create data -o 'odd name#1' --private --tracker {TRACKER}")
    said = session.run(f"{SWARM} show 'odd name#1'")
    assert "private    yes" in said.out
    assert "magnet" not in said.out.replace("not by a magnet", "")
    [about] = session.run(f"{SWARM} show --json 'odd name#1'").json
    assert (about["private"], about["magnet"], about["single"]) == (True, None, True)


def test_show_lets_no_name_reach_the_terminal_as_it_is(session: Session) -> None:
    said = session.run(f"{SWARM} show {hostile(session.folder)}")
    shown = said.out + said.err
    assert all(character == "\n" or character.isprintable() for character in shown), ascii(shown)
    assert "#2" in shown
    assert "../../passwd  (made safe: __/__/passwd)" in shown or "../../passwd  (made safe: " in shown
    assert "not taken  file:///etc/passwd" in shown
    assert "me:pass" not in shown
    assert "key=1" not in shown
    [about] = session.run(f"{SWARM} show --json {hostile(session.folder)}").json
    assert about["name"] == ESCAPES
    assert "\x1b" not in session.run(f"{SWARM} show --json {hostile(session.folder)}").out


def test_show_lists_just_the_file_that_is_picked(session: Session) -> None:
    (session.folder / "film").mkdir()
    for name in ("one.bin", "two.bin", "a#3.bin"):
        (session.folder / "film" / name).write_bytes(name.encode())
    session.run(f"{SWARM} create film --v1")
    (session.folder / "film.torrent").rename(session.folder / "by another name")
    (session.folder / "film.torrent").symlink_to("by another name")
    magnet = parse((session.folder / "film.torrent").read_bytes()).magnet()
    for what, number, name in (
        ("film.torrent#3", 3, "two.bin"),
        ("by another name#2", 2, "one.bin"),
        ("by another name#a#3.bin", 1, "a#3.bin"),
        ("film.torrent#a#3.bin", 1, "a#3.bin"),
        (f"file://{session.folder}/film.torrent#two.bin", 3, "two.bin"),
        (f"{magnet}#3", 3, "two.bin"),
    ):
        said = session.run(f"{SWARM} show {shlex.quote(what)}")
        assert "name       film\n" in said.out, str(said)
        assert f"chosen     #{number} of 3 files\n" in said.out, str(said)
        assert said.out.endswith(f"NUMBER     SIZE  PATH\n#{number}      7 bytes  {name}\n"), str(said)
        [about] = session.run(f"{SWARM} show --json {shlex.quote(what)}").json
        assert (about["chosen"], len(about["files"])) == (number, 3)


MISTAKES = {
    "nothing.torrent": "fetching nothing.torrent: there is no such file",
    "nothing.torrent#3": "fetching nothing.torrent: there is no such file",
    "'some/where/film#3'": "some/where/film#3 is not there: give a .torrent file",
    "/no/where/film.iso": "/no/where/film.iso is not there: give a .torrent file",
    "folder": "folder is a folder: give a .torrent file",
    "./folder": "./folder is a folder: give a .torrent file",
    "folder.torrent": "folder.torrent is a folder: give a .torrent file",
    "''": "a file without a name is not there",
    "'magnet:?dn=x#3'": "this magnet has no BitTorrent hash, or several of one kind: give",
    "https://me:pass@h.example/a/film#3": "https://h.example/…/film is no URL whose path ends in .torrent: give",
    "ftp://h.example/x.torrent": "is neither a file nor the URL of a torrent",
    "text.torrent": "text.torrent: not a torrent file that can be used",
    "'good.torrent#9'": "the torrent has no file #9; it has #1 good",
    "--timeout soon good.torrent": "--timeout soon: write seconds",
    "--listen anywhere good.torrent": "listen: anywhere is not HOST:PORT",
}


def test_show_says_what_is_wrong(session: Session) -> None:
    (session.folder / "folder").mkdir()
    (session.folder / "folder.torrent").mkdir()
    (session.folder / "text.torrent").write_text("hello")
    (session.folder / "good").write_bytes(b"x")
    session.run(f"{SWARM} create good")
    for words, sentence in MISTAKES.items():
        check_refused(session.run(f"{SWARM} show {words}", fails=True), sentence)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_show_leaves_nothing_behind_when_it_is_ended(session: Session, how: signal.Signals) -> None:
    folder = session.folder / "tmp"
    folder.mkdir()
    magnet = f"magnet:?xt=urn:btih:{'a' * 40}&dn=lonely"
    command = f"{SWARM} show --listen 127.0.0.1:0 --dht no '{magnet}'"
    showing = session.start(command, env={"TMPDIR": str(folder)})
    wait_for(lambda: os.listdir(folder), "a folder of its own")
    showing.send_signal(how)
    out, err = showing.communicate(timeout=session.patience)
    assert os.listdir(folder) == [], err
    assert (out, showing.returncode) == ("", 130 if how is signal.SIGINT else -how)
    assert "Traceback" not in err


def check_refused(said: Output, sentence: str) -> None:
    """Fail unless a command has failed with one line that has `sentence`."""
    assert (said.status, said.out) == (1, ""), str(said)
    assert sentence in said.err, str(said)
    assert "internal error" not in said.err
    assert said.err.count("\n") == 1, str(said)


def test_show_gives_up_on_a_magnet_that_nobody_has(session: Session) -> None:
    magnet = f"magnet:?xt=urn:btih:{'a' * 40}&dn=lonely"
    said = session.run(f"{SWARM} show --timeout 1 --listen 127.0.0.1:0 --dht no '{magnet}'", fails=True)
    assert said.status == 1
    assert "nobody had the metadata of 'lonely' within 1 seconds" in said.err


def test_show_fetches_the_metadata_of_a_magnet_and_nothing_else(session: Session) -> None:
    (session.home / ".gitconfig").write_text('[annex "security"]\n\tallowed-ip-addresses = 127.0.0.1\n')
    (session.folder / "film").mkdir()
    (session.folder / "film" / "a").write_bytes(bytes(100_000))
    session.run(f"{SWARM} create film")
    with LibtorrentPeer(session.folder / "peer") as peer:
        identity = peer.seed(session.folder / "film.torrent", session.folder)
        magnet = f"{parse((session.folder / 'film.torrent').read_bytes()).magnet()}&x.pe={peer.address}"
        [about] = session.run(f"{SWARM} show --json --listen 127.0.0.1:0 --dht no 'swarm:{magnet}#1'").json
        assert (about["kind"], about["chosen"], about["files"][0]["path"]) == ("hybrid", 1, ["a"])
        assert peer.status(identity)["uploaded"] == 0
    # It is remembered.
    session.run(f"{SWARM} show --timeout 1 --listen none --dht no '{magnet}'")


# create


def test_create_makes_a_file_in_one_step_and_replaces_none(session: Session) -> None:
    folder = session.folder
    (folder / "film").mkdir()
    (folder / "film" / "a").write_bytes(bytes(50_000))
    said = session.run(f"{SWARM} create film")
    path = folder / "film.torrent"
    metainfo = parse(path.read_bytes())
    assert metainfo.v1 is not None
    assert said.out.startswith(f"film.torrent: 1 file, 50.0 kB\nv1 {metainfo.v1.hex()}\nv2 ")
    assert said.out.endswith(f"{metainfo.magnet()}\n")
    assert said.err == ""
    assert path.stat().st_mode & 0o777 == 0o644
    before = path.stat()
    said = session.run(f"{SWARM} create film --v1", fails=True)
    assert said.err == (
        "git-annex-remote-swarm: film.torrent is there already: --force replaces it, -o makes another one\n"
    )
    assert path.stat() == before
    [made] = session.run(f"{SWARM} create film --v1 --force --json").json
    assert (made["file"], made["kind"], made["v2"]) == ("film.torrent", "v1", None)
    assert made["v1"] != metainfo.v1.hex()
    assert sorted(os.listdir(folder)) == ["film", "film.torrent", "home"]


def test_create_takes_the_same_bytes_from_annexed_files_wherever_they_are(laptop: Repository) -> None:
    one = made(laptop).read_bytes()
    laptop.run("git annex unlock --quiet film/two.bin")
    assert made(laptop).read_bytes() == one
    other = laptop.session.folder / "elsewhere" / "film"
    other.mkdir(parents=True)
    for path in (laptop.path / "film").iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    assert made(laptop, what=str(other)).read_bytes() == one
    # The file that is made is not in it, nor is git's folder.
    laptop.run(f"{SWARM} create . -o all.torrent --name all")
    first = (laptop.path / "all.torrent").read_bytes()
    laptop.run(f"{SWARM} create . -o all.torrent --name all --force")
    assert (laptop.path / "all.torrent").read_bytes() == first
    assert {file.path[0] for file in parse(first).files} == {"film"}


def test_create_names_annexed_files_that_are_not_here(laptop: Repository) -> None:
    laptop.run("git annex unlock --quiet film/two.bin")
    laptop.run("git annex drop --quiet --force film/one.bin film/two.bin")
    said = laptop.run(f"{SWARM} create film", fails=True)
    assert said.err == (
        "git-annex-remote-swarm: film/one.bin, film/two.bin: their content is not here; git annex get brings it\n"
    )
    assert not (laptop.path / "film.torrent").exists()


def test_create_says_what_is_wrong(session: Session) -> None:
    (session.folder / "film").mkdir()
    (session.folder / "film" / "one.bin").write_bytes(b"x")
    for words, sentence in (
        ("film -o film", "film is a folder: -o takes the file that is to be made"),
        ("film -o no/where.torrent", "no/where.torrent cannot be written: there is no folder no"),
        ("gone", "gone is not there"),
        ("film/one.bin film/one.bin", "would have the same name in the torrent"),
    ):
        check_refused(session.run(f"{SWARM} create {words}", fails=True), sentence)
    assert sorted(os.listdir(session.folder)) == ["film", "home"]


# register


def register(repository: Repository, words: str, *, fails: bool = False) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the state of each file, and the summary."""
    *files, summary = repository.run(f"{SWARM} register vault {words} --json", fails=fails).json
    assert summary["type"] == "summary"
    return {"/".join(line["path"]): line["state"] for line in files}, summary


def urls_of(repository: Repository, file: str) -> set[str]:
    """Return the URLs of `vault` that git-annex has for a file."""
    [line] = repository.run(f"git annex whereis --json {file}").json
    [urls] = [each["urls"] for each in line["whereis"] if "vault" in each["description"]]
    return {url for url in urls if url.startswith("swarm:")}


@pytest.mark.parametrize("kind", ["v1", "v2", "hybrid"])
def test_register_gives_files_a_source_and_fetches_nothing(laptop: Repository, kind: str) -> None:
    torrent = made(laptop, f"--{kind}")
    metainfo = parse(torrent.read_bytes())
    laptop.run("git mv film/one.bin renamed")
    all_of_them = {"one.bin": "registered", "two.bin": "registered", "small.txt": "registered"}
    states, summary = register(laptop, f"{torrent} --dry-run")
    assert states == dict.fromkeys(all_of_them, "would_register")
    assert "vault" not in laptop.run("git annex whereis renamed").out
    said = laptop.run(f"{SWARM} register vault {torrent}")
    assert "one.bin: registered: renamed\n" in said.out
    assert said.out.endswith("film: 3 of 3 files have it as a source\n")
    assert "A torrent is no copy: drop goes on asking for real ones" in said.err
    numbers = {file.path[0]: file.number for file in metainfo.files}
    assert urls_of(laptop, "renamed") == {f"swarm:{metainfo.magnet(numbers['one.bin'])}"}
    states, summary = register(laptop, str(torrent))
    assert states == dict.fromkeys(all_of_them, "already")
    assert (summary["already"], summary["exit_status"], summary["torrent"]) == (3, 0, metainfo.id)
    # git-annex counts the remote, and does not take it for a copy.
    said = laptop.run("git annex drop film/two.bin", fails=True)
    assert "Could not verify the existence of the 1 necessary copy" in said.plain
    assert laptop.is_present("film/two.bin") is None
    said = laptop.run("git annex copy --to vault film/two.bin", fails=True)
    assert "only a torrent has it, which does not count as a copy" in said.plain
    laptop.run("git -c remote.vault.swarm-torrents=no annex copy --to vault film/two.bin")
    laptop.run("git annex drop film/two.bin")
    laptop.run("git annex get film/two.bin")


def test_register_takes_what_is_proved_and_below_the_folder(laptop: Repository) -> None:
    torrent = made(laptop, "--v1")
    changed = laptop.read("film/one.bin")[:-1] + b"x"
    laptop.run("git rm --quiet film/one.bin")
    (laptop.path / "film" / "one.bin").write_bytes(changed)
    laptop.run("git annex add --quiet film/one.bin")
    said = laptop.run(f"{SWARM} register vault {torrent}", fails=True)
    assert said.status == 1
    assert "one.bin: cannot be proved: the piece that it shares with small.txt does not prove" in said.out
    assert urls_of_none(laptop, "film/one.bin")
    laptop.run("git mv film/two.bin two.bin")
    states, _ = register(laptop, f"{torrent} film", fails=True)
    assert states["two.bin"] == "no_match"
    said = laptop.run(f"{SWARM} register vault {torrent} film", fails=True)
    assert "two.bin: not found: no annexed file that is here below film has its 200,002 bytes\n" in said.out
    said = laptop.run(f"{SWARM} register vault {torrent} film/small.txt", fails=True)
    assert "two.bin: not found: no annexed file called film/small.txt has its 200,002 bytes\n" in said.out
    states, _ = register(laptop, f"{torrent} two.bin", fails=True)
    assert states == {"one.bin": "no_match", "two.bin": "registered", "small.txt": "no_match"}
    [two] = [
        line
        for line in laptop.attempt(f"{SWARM} register vault {torrent} two.bin --json").json
        if line["type"] == "file" and line["keys"]
    ]
    assert two["unproved"] > 0
    laptop.run("git annex drop --quiet --force two.bin")
    states, _ = register(laptop, f"{torrent} two.bin", fails=True)
    assert states["two.bin"] == "no_match"


def test_register_says_of_each_file_why_it_is_not_found(laptop: Repository) -> None:
    torrent = made(laptop, "--v1")
    laptop.run("git rm --quiet -r film")
    laptop.add(**{"other/a.bin": 300_001, "other/b.bin": 300_001, "small": 100})
    words = (
        "2 annexed files have its size (other/a.bin, …), but other content: the hashes differ",
        "small has its size, but all its pieces are shared with neighbours that are not here, or are others: "
        "nothing proves it",
        "no annexed file that is here has its 200,002 bytes",
    )
    for options, recorded in (("", "was recorded"), ("--dry-run", "would be recorded")):
        said = laptop.run(f"{SWARM} register vault {torrent} {options}", fails=True)
        assert said.status == 1
        have = "would have" if options else "have"
        assert said.out.splitlines() == [
            f"#1 one.bin: not found: {words[0]}",
            f"#2 small.txt: cannot be proved: {words[1]}",
            f"#3 two.bin: not found: {words[2]}",
            f"film: 0 of 3 files {have} it as a source",
        ]
        assert f"None of the torrent's files was found, so that nothing {recorded}." in said.err
        assert said.err.count("\n") == 1
    *files, summary = laptop.run(f"{SWARM} register vault {torrent} --json", fails=True).json
    assert tuple(line["error"] for line in files) == words
    assert [line["of_its_size"] for line in files] == [2, 1, 0]
    assert [line["state"] for line in files] == ["no_match", "unproved", "no_match"]
    assert (summary["no_match"], summary["unproved"], summary["exit_status"]) == (2, 1, 1)
    laptop.run("git annex drop --quiet --force small")
    said = laptop.run(f"{SWARM} register vault '{torrent}#2'", fails=True)
    assert said.out == (
        "#2 small.txt: not found: no annexed file that is here has its 100 bytes\n"
        "film: 0 of 1 file has it as a source\n"
    )


def urls_of_none(repository: Repository, file: str) -> bool:
    return "vault" not in repository.run(f"git annex whereis {file}").out


def test_register_records_where_a_torrent_is_on_the_web_and_its_magnet(laptop: Repository) -> None:
    laptop.run("git config --global annex.security.allowed-ip-addresses 127.0.0.1")
    with nginx_static(laptop.session.folder / "web") as web:
        torrent = made(laptop, "--v1", to=str(web.root / "x.torrent"))
        metainfo = parse(torrent.read_bytes())
        url = f"http://{web.host}:{web.port}/x.torrent"
        states, summary = register(laptop, f"'{url}#2'")
        assert (states, summary["files"]) == ({"small.txt": "registered"}, 1)
        states, _ = register(laptop, url)
    assert states == {"one.bin": "registered", "small.txt": "already", "two.bin": "registered"}
    for file in metainfo.files:
        recorded = {
            f"swarm:{url.replace('.torrent', '%2Etorrent')}#{file.number}",
            f"swarm:{metainfo.magnet(file.number)}",
        }
        assert urls_of(laptop, f"film/{file.path[0]}") == recorded
    states, _ = register(laptop, f"'{metainfo.magnet()}'")
    assert set(states.values()) == {"already"}


def test_register_records_a_private_torrent_by_the_path_of_its_file(laptop: Repository) -> None:
    torrent = made(laptop, f"--private --tracker {TRACKER}", to="'../the film.torrent'")
    register(laptop, shlex.quote(str(torrent)))
    assert urls_of(laptop, "film/small.txt") == {f"swarm:file://{laptop.session.folder}/the%20film%2Etorrent#3"}
    torrent.rename(laptop.session.folder / "the film")
    said = laptop.run(f"{SWARM} register vault '../the film'", fails=True)
    check_refused(said, "give it a name that ends in .torrent")
    check_refused(laptop.run(f"{SWARM} register vault '../the film#3'", fails=True), "ends in .torrent")


def test_register_says_what_is_wrong(laptop: Repository) -> None:
    made(laptop)
    for words, sentence in (
        ("vault film/one.bin", "not a torrent file that can be used"),
        ("vault gone.torrent", "gone.torrent"),
        ("vault ../film.torrent nowhere", "nowhere is not there"),
        ("nas ../film.torrent", "this repository has no git-annex remote nas"),
    ):
        check_refused(laptop.run(f"{SWARM} register {words}", fails=True), sentence)


def test_register_is_refused_where_torrents_are_switched_off(laptop: Repository) -> None:
    made(laptop)
    laptop.run("git config remote.vault.swarm-torrents no")
    said: Output = laptop.run(f"{SWARM} register vault ../film.torrent", fails=True)
    assert "torrents are switched off for vault" in said.err
