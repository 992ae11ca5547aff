"""A grid over servers: what a user of five kinds of stores types, and what happens when some of them go away."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.servers import nginx_static
from tests.sessions.network import ACCOUNT, Network
from tests.sessions.session import PARAMETERS, Repository, Session

SIZES = {"small": 1_000, "medium": 300_000, "large": 9_000_000, "empty": 0}


@pytest.fixture
def network(session: Session) -> Iterator[Network]:
    with ExitStack() as stack:
        yield Network(session, stack)


@pytest.fixture
def laptop(session: Session, network: Network) -> Repository:
    """A repository with the remote `vault` over five kinds of stores, three of which rebuild."""
    laptop = session.repository("laptop")
    network.initremote(laptop)
    return laptop


def tried(repository: Repository, *, fails: bool = False) -> dict[str, dict[str, object]]:
    """Return what `stores vault test --json` says, by store."""
    said = repository.run("git-annex-remote-swarm stores vault test --json", fails=fails)
    return {line["store"]: line for line in said.json}


def files_with(folder: Path, secret: str) -> list[str]:
    """Return the files below `folder` that have `secret` in them."""
    found = subprocess.run(
        ["grep", "-rlF", "--", secret, str(folder)], capture_output=True, text=True, check=False
    )
    return sorted(str(Path(line).relative_to(folder)) for line in found.stdout.splitlines())


def test_two_servers_die_and_come_back(laptop: Repository, network: Network) -> None:
    contents = laptop.add(**SIZES)
    laptop.run("git annex copy --to vault .")
    assert set(tried(laptop)) == set(network.addresses)
    laptop.run("git annex drop .")
    network.stop("cloud", "nas")
    laptop.run("git annex get .")
    assert {name: laptop.read(name) for name in contents} == contents
    listed = laptop.list_stores(fails=True)
    assert {name for name, line in listed.items() if not line["reachable"]} == {"cloud", "nas"}
    assert all("Traceback" not in str(line) for line in listed.values())
    results = tried(laptop, fails=True)
    assert {name for name, line in results.items() if line["ok"]} == {"usb", "bucket", "drive"}
    network.start("cloud", "nas")
    assert all(line["reachable"] for line in laptop.list_stores().values())
    assert all(line["ok"] for line in tried(laptop).values())
    said = laptop.run("git annex fsck --from vault .")
    assert "vault: " not in said.err
    laptop.run("git annex drop --from vault .")


def test_git_annex_tests_the_remote(laptop: Repository, session: Session) -> None:
    session.patience = 570
    said = laptop.run("git annex testremote vault --fast --size=3MiB")
    assert "tests passed" in said
    assert session.parts() == []


def test_many_files_with_many_jobs(laptop: Repository) -> None:
    contents = laptop.add(**{f"file{number:03}": 10_000 + number for number in range(60)})
    laptop.run("git annex copy --quiet --to vault -J8 .")
    laptop.run("git annex drop --quiet -J4 .")
    laptop.run("git annex get --quiet -J8 .")
    assert {name: laptop.read(name) for name in contents} == contents


def test_a_store_waits_for_its_login_and_then_takes_part(session: Session, network: Network) -> None:
    laptop = session.repository("laptop")
    said = laptop.run(f"git annex initremote vault {PARAMETERS} happy=3 {network.stores()}")
    for name in ("cloud", "bucket"):
        assert f"git-annex-remote-swarm login REMOTE {name}" in said.plain
    assert "waits for git-annex-remote-swarm login" in laptop.run("git annex info vault").plain
    laptop.add(one=400_000)
    laptop.run("git annex copy --to vault one")
    # A wrong one first: nothing is kept.
    login = "git-annex-remote-swarm login vault"
    wrong = laptop.attempt(f"{login} cloud", typed=f"{ACCOUNT.user}\nnot this one\n")
    assert wrong.status == 1
    assert "user and password" in wrong.err
    assert laptop.list_stores()["cloud"]["state"] == "waiting"
    right = laptop.attempt(f"{login} cloud", typed=f"{ACCOUNT.user}\n{ACCOUNT.password}\n")
    assert right.status == 0, str(right)
    user, password = network.logins["SWARM_STORE_BUCKET_USER"], network.logins["SWARM_STORE_BUCKET_PASSWORD"]
    right = laptop.attempt(f"{login} --user {user} bucket", typed=f"{password}\n")
    assert right.status == 0, str(right)
    assert {line["state"] for line in laptop.list_stores().values()} == {"active"}
    contents = laptop.add(two=500_000)
    laptop.run("git annex copy --to vault two")
    network.stop("nas")
    session.unplug("usb")
    laptop.run("git annex drop two")
    laptop.run("git annex get two")
    assert laptop.read("two") == contents["two"]


def test_a_second_clone_logs_in_for_itself(laptop: Repository, session: Session, network: Network) -> None:
    contents = laptop.add(**SIZES)
    laptop.run("git annex copy --quiet --to vault .")
    laptop.run("git annex sync --quiet --no-content")
    capability = laptop.capability()
    desktop = session.clone(laptop, "desktop")
    desktop.enableremote(env={"SWARM_CAPABILITY": capability})
    reach = desktop.list_stores(fails=True)
    assert {name for name, line in reach.items() if not line["reachable"]} == {"cloud", "bucket"}
    typed = f"{ACCOUNT.user}\n{ACCOUNT.password}\n"
    done = desktop.attempt("git-annex-remote-swarm login vault cloud", typed=typed)
    assert done.status == 0, str(done)
    assert desktop.list_stores(fails=True)["cloud"]["reachable"]
    session.unplug("usb")
    desktop.run("git annex get --from vault .")
    assert {name: desktop.read(name) for name in contents} == contents


def test_embedded_logins_come_with_the_repository(session: Session, network: Network) -> None:
    laptop = session.repository("laptop")
    network.initremote(laptop, parameters=f"{PARAMETERS} embedcreds=yes")
    laptop.add(one=100_000)
    laptop.run("git annex copy --quiet --to vault one")
    laptop.run("git annex sync --quiet --no-content")
    desktop = session.clone(laptop, "desktop")
    desktop.enableremote()
    assert all(line["ok"] for line in tried(desktop).values())


def test_logins_are_embedded_when_that_is_asked_for_later(laptop: Repository, session: Session) -> None:
    laptop.run("git annex enableremote vault embedcreds=yes")
    laptop.run("git annex sync --quiet --no-content")
    desktop = session.clone(laptop, "desktop")
    desktop.enableremote()
    assert all(line["ok"] for line in tried(desktop).values())


def test_too_few_stores_without_their_logins_are_told_so(session: Session, network: Network) -> None:
    laptop = session.repository("laptop")
    said = laptop.run(f"git annex initremote vault {PARAMETERS} {network.stores()}")
    assert "nothing can be stored before that: 3 shares could be, and 4 (happy) are needed" in said.plain
    laptop.add(one=1000)
    said = laptop.run("git annex copy --to vault one", fails=True)
    assert "cloud waits for: git-annex-remote-swarm login vault cloud" in said.plain
    laptop.run("git-annex-remote-swarm stores vault remove bucket")
    assert "bucket" not in laptop.list_stores()


def test_a_password_in_an_address_is_refused_before_anything_is_saved(session: Session, network: Network) -> None:
    laptop = session.repository("laptop")
    for address in (
        "davs://me:hunter2@cloud.example.org/dav",
        "s3://AKID:hunter2@s3.example.org/bucket",
        "sftp://me:hunter2@nas/srv",
        "https://me:hunter2@example.org/",
        "rclone:drive,pass=hunter2:annex",
        "ftp://me:hunter2@example.org/",
        "me:hunter2@example.org",
    ):
        said = laptop.run(
            f"git annex initremote vault {PARAMETERS} 'stores=usb={network.addresses['usb']} x={address}'",
            fails=True,
        )
        told = said.plain.replace(f"x={address}", "")
        assert "hunter2" not in told, told
        assert "Traceback" not in told
        assert files_with(laptop.path, "hunter2") == []
    assert not session.store("usb").exists()


def test_a_login_that_is_not_taken_ends_initremote(session: Session, network: Network) -> None:
    laptop = session.repository("laptop")
    said = laptop.attempt(
        f"git annex initremote vault {PARAMETERS} {network.stores()}",
        env={**network.logins, "SWARM_STORE_CLOUD_PASSWORD": "not this one"},
    )
    assert said.status != 0
    assert "cloud=dav://" in said.plain
    assert "not this one" not in said.plain
    assert not list(session.store("usb").rglob("*.s0"))


def test_secrets_are_where_git_annex_keeps_them_and_nowhere_else(
    laptop: Repository, session: Session, network: Network
) -> None:
    laptop.add(**SIZES)
    said = [
        # Not with git-annex's own --debug: that shows the whole protocol, credentials and all.
        laptop.run("git annex copy --to vault ."),
        laptop.run("git annex info vault"),
        laptop.run("git-annex-remote-swarm --debug stores vault test"),
        laptop.run("git-annex-remote-swarm --debug stores vault"),
        laptop.run("git annex whereis ."),
    ]
    network.stop("cloud", "bucket")
    said.append(laptop.attempt("git-annex-remote-swarm --debug stores vault test"))
    for secret in network.secrets:
        for each in said:
            # git-annex's own --debug shows the protocol, and hides credentials in it.
            assert secret not in each, each.command
        assert {os.path.dirname(name) for name in files_with(laptop.path, secret)} == {".git/annex/creds"}
        assert files_with(session.store("usb"), secret) == []
    creds = laptop.path / ".git/annex/creds"
    assert {oct(path.stat().st_mode & 0o777) for path in creds.iterdir()} == {"0o600"}


def test_a_published_copy_is_read_by_whoever_has_a_read_capability(session: Session) -> None:
    laptop = session.repository("laptop")
    laptop.initremote()
    contents = laptop.add(**SIZES)
    laptop.run("git annex copy --quiet --to vault .")
    laptop.run("git annex sync --quiet --no-content")
    read = laptop.capability("--read")
    reader = session.clone(laptop, "reader")
    with ExitStack() as stack:
        for name in ("usb", "nas", "attic", "friend", "cloud"):
            folder = session.folder / "web" / name
            folder.mkdir(parents=True)
            server = stack.enter_context(nginx_static(folder))
            session.store(name).rename(server.root / "annex")
            reader.run(f"git config remote.vault.swarm-store-{name} {server.url}/annex")
        # git-annex makes the section of the remote when it is enabled: what was there before stays.
        reader.enableremote(env={"SWARM_CAPABILITY": read})
        reader.run("git annex get --from vault .")
        assert {name: reader.read(name) for name in contents} == contents
        reader.write("more", 1000)
        reader.run("git annex add --quiet more")
        assert "read" in reader.run("git annex copy --to vault more", fails=True)


def test_what_a_trial_says_to_a_person(laptop: Repository, network: Network) -> None:
    said = laptop.run("git-annex-remote-swarm stores vault test")
    for name in network.addresses:
        assert name in said.out
    assert "FAILED" not in said
    network.stop("bucket")
    said = laptop.run("git-annex-remote-swarm stores vault test bucket usb", fails=True)
    assert "FAILED" in said.out
    assert "bucket: write:" in said.err
    assert "refused" in said.err
    document = json.loads(laptop.run("git-annex-remote-swarm stores vault test usb --json").out)
    assert document["ok"] is True
    assert document["steps"]["tail"] == "ok"
    assert document["free"] > 0
