"""A user looks after a grid: check, verify, repair, retire, recode, status; through the real git-annex."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from tests.sessions.session import Output, Repository, Session, broken_shares, flip, sizes_of, wait_for

SWARM = "git-annex-remote-swarm"
MIB = 1 << 20


def stored(laptop: Repository, **sizes: int) -> dict[str, bytes]:
    """Put files into the vault, and nowhere else."""
    contents = laptop.add(**(sizes or {"film": 3 * MIB + 7, "note": 100, "empty": 0}))
    laptop.run("git annex copy --quiet --to vault .")
    laptop.run("git annex drop --quiet .")
    return contents


def summary(said: Output) -> dict[str, object]:
    [line] = [line for line in said.json if line["type"] == "summary"]
    return line


def states(said: Output) -> dict[str, str]:
    return {line["key"]: line["state"] for line in said.json if line["type"] == "object"}


def check(laptop: Repository, options: str = "", status: int = 0) -> Output:
    said = laptop.attempt(f"{SWARM} check vault --json {options}")
    assert said.status == status, str(said)
    assert summary(said)["exit_status"] == status
    return said


def shares_of(session: Session, laptop: Repository, name: str) -> list[Path]:
    """The shares of a file, in the order of their numbers."""
    said = check(laptop, name, status=laptop.attempt(f"{SWARM} check vault {name}").status)
    [line] = [line for line in said.json if line["type"] == "object"]
    found = [path for path in session.shares() if path.name.startswith(str(line["object"]))]
    return sorted(found, key=lambda path: int(path.suffix[1:]))


def test_all_is_well(laptop: Repository) -> None:
    stored(laptop)
    said = laptop.run(f"{SWARM} check vault")
    assert said.out == "3 objects: 3 healthy\n"
    assert laptop.run(f"{SWARM} check vault --quiet").out == ""
    assert summary(check(laptop, "--verify"))["healthy"] == 3
    assert laptop.run(f"{SWARM} repair vault").out == "nothing to do\n3 objects: 3 healthy\n"
    assert laptop.run(f"{SWARM} rebalance vault").out == "nothing to do\n3 objects: 3 healthy\n"


def test_what_is_missing_is_seen_and_made_again(session: Session, laptop: Repository) -> None:
    contents = stored(laptop)
    before = {path: path.read_bytes() for path in session.shares()}
    for path in session.shares("usb", "cloud"):
        path.unlink()
    said = laptop.attempt(f"{SWARM} check vault")
    assert said.status == 1
    assert "critical" in said
    assert "film" in said
    assert "3 to be repaired: git-annex-remote-swarm repair vault" in said
    said = laptop.run(f"{SWARM} repair vault --dry-run", fails=True)
    assert "would be done: 3 objects" in said
    assert session.shares("usb") == []
    said = laptop.run(f"{SWARM} repair vault")
    assert "3 objects repaired" in said
    assert {path: path.read_bytes() for path in session.shares()} == before
    check(laptop, "--verify")
    session.lose("nas", "attic")
    laptop.run("git annex get .")
    assert {name: laptop.read(name) for name in contents} == contents


def test_damage_is_found_by_reading_and_remembered(session: Session, laptop: Repository) -> None:
    stored(laptop)
    victim = shares_of(session, laptop, "film")[1]
    good = victim.read_bytes()
    flip(victim, at=400_000)
    check(laptop)  # what stores say that they have is all there
    said = check(laptop, "--verify", status=1)
    [share] = [line for line in said.json if line["type"] == "share"]
    assert (share["store"], share["bad_segments"], share["damaged"]) == ("nas", [1], True)
    check(laptop, status=1)  # it is known from now on
    assert "nas: 1 of its blocks damaged: segments 1" in laptop.attempt(f"{SWARM} check vault")
    laptop.run(f"{SWARM} repair vault")
    assert victim.read_bytes() == good
    check(laptop, "--verify")
    assert broken_shares(session, laptop.capability()) == []


def test_a_truncated_share_is_seen_without_reading(session: Session, laptop: Repository) -> None:
    stored(laptop)
    victim = shares_of(session, laptop, "film")[4]
    good = victim.read_bytes()
    victim.write_bytes(good[:-100])
    assert "cloud: cannot be a share of it" in laptop.attempt(f"{SWARM} check vault film")
    laptop.run(f"{SWARM} repair vault")
    assert victim.read_bytes() == good


def test_a_get_remembers_what_it_saw(session: Session, laptop: Repository) -> None:
    contents = stored(laptop)
    victim = shares_of(session, laptop, "film")[0]
    flip(victim, at=10)
    assert "a repair of its shares is due" in laptop.run("git annex get film").plain
    assert "usb: 1 of its blocks damaged" in laptop.attempt(f"{SWARM} check vault")
    assert laptop.attempt(f"{SWARM} status vault").status == 1
    laptop.run("git annex enableremote --quiet vault repair-on-read=yes")
    laptop.run("git annex drop --quiet film")
    assert "repaired: share 0 on usb" in laptop.run("git annex get film").plain
    check(laptop, "--verify")
    assert laptop.read("film") == contents["film"]


def test_more_is_gone_than_can_be_borne(session: Session, laptop: Repository) -> None:
    contents = stored(laptop)
    for path in shares_of(session, laptop, "film")[:3]:
        path.unlink()
    said = check(laptop, status=2)
    assert states(said)[laptop.key("film")] == "lost"
    assert states(said)[laptop.key("note")] == "healthy"
    said = laptop.attempt(f"{SWARM} repair vault")
    assert said.status == 2
    assert "1 cannot be rebuilt from what is left" in said
    assert laptop.attempt(f"{SWARM} check vault note empty").status == 0
    laptop.run("git annex get note empty")
    assert laptop.read("note") == contents["note"]


def test_an_unplugged_store_is_doubt_and_nothing_is_made_in_its_place(
    session: Session, laptop: Repository
) -> None:
    stored(laptop)
    session.unplug("usb")
    said = laptop.attempt(f"{SWARM} check vault")
    assert said.status == 3
    assert "usb: could not be asked: " in said
    assert "3 unknown" in said
    before = sorted(session.shares("nas", "attic", "friend", "cloud"))
    assert laptop.attempt(f"{SWARM} repair vault").status == 3
    assert sorted(session.shares("nas", "attic", "friend", "cloud")) == before
    for path in shares_of(session, laptop, "film")[1:3]:
        path.unlink()  # nas and attic
    said = laptop.attempt(f"{SWARM} repair vault")  # by the shares that are seen, it cannot be rebuilt
    assert said.status == 3
    session.plug("usb")
    laptop.run(f"{SWARM} repair vault")
    check(laptop, "--verify")


def test_a_lost_store_is_given_up_and_its_shares_go_to_others(session: Session, laptop: Repository) -> None:
    stored(laptop)
    session.lose("friend")
    laptop.run(f"{SWARM} stores vault remove friend --gone")
    said = laptop.attempt(f"{SWARM} repair vault")
    assert said.status == 1
    assert "5 shares of each object are wanted, and the stores take 4: add one" in said
    laptop.run(f"{SWARM} stores vault add spare=dir:{session.store('spare')}")
    laptop.run(f"{SWARM} repair vault")
    assert len(session.shares("spare")) == 3
    check(laptop, "--verify")
    session.lose("usb", "nas")
    laptop.run("git annex get .")


def test_retiring_a_store(session: Session, laptop: Repository) -> None:
    contents = stored(laptop)
    said = laptop.run(f"{SWARM} stores vault retire nas", fails=True)
    assert "no other store takes 3 of the shares on nas, and nothing was changed: add a store first" in said
    assert laptop.list_stores()["nas"]["state"] == "active"
    said = laptop.attempt(f"{SWARM} stores vault retire nas --force --settle 1")
    assert said.status == 1
    assert "3 shares are still on nas: " in said
    assert "add a store that takes them" in said
    assert len(session.shares("nas")) == 3
    laptop.run(f"{SWARM} stores vault add spare=dir:{session.store('spare')}")
    said = laptop.run(f"{SWARM} stores vault retire nas --settle 0")
    assert "nas is empty, and marked as gone" in said
    assert session.shares("nas") == []
    assert laptop.list_stores()["nas"]["state"] == "gone"
    check(laptop, "--verify")
    session.lose("nas", "usb", "cloud")
    laptop.run("git annex get .")
    assert {name: laptop.read(name) for name in contents} == contents


def test_what_a_removal_left_over_is_not_in_the_way(session: Session, laptop: Repository) -> None:
    stored(laptop)
    laptop.run(f"{SWARM} stores vault add spare=dir:{session.store('spare')}")
    laptop.run("git annex get --quiet note")
    session.unplug("cloud")
    laptop.run("git annex drop --quiet --from vault note")
    session.plug("cloud")
    said = laptop.run(f"{SWARM} stores vault retire cloud --settle 0")
    assert "cloud is empty, but for 1 shares that removals have left over, and marked as gone" in said
    laptop.run(f"{SWARM} stores vault coding --needed 2 --happy 3")
    assert "coded otherwise" not in laptop.run(f"{SWARM} rebalance vault")


def test_a_store_that_cannot_be_asked_is_not_retired_blindly(session: Session, laptop: Repository) -> None:
    stored(laptop)
    laptop.run(f"{SWARM} stores vault add spare=dir:{session.store('spare')}")
    session.unplug("nas")
    said = laptop.run(f"{SWARM} stores vault retire nas", fails=True)
    assert "nas could not be asked what it has" in said
    assert "remove nas --gone" in said


def test_adding_a_store_moves_nothing(session: Session, laptop: Repository) -> None:
    stored(laptop)
    before = session.shares()
    laptop.run(f"{SWARM} stores vault add spare=dir:{session.store('spare')}")
    assert "nothing to do" in laptop.run(f"{SWARM} rebalance vault")
    assert session.shares() == before
    assert session.shares("spare") == []


def test_a_smaller_store_is_relieved(session: Session, laptop: Repository) -> None:
    stored(laptop, **{f"file{index}": 200_000 for index in range(6)})
    laptop.run(f"{SWARM} stores vault add spare=dir:{session.store('spare')}")
    laptop.run(f"{SWARM} stores vault set usb --max-bytes 200KB")
    said = laptop.run(f"{SWARM} rebalance vault --dry-run")
    assert "make on spare, then remove from usb" in said
    laptop.run(f"{SWARM} rebalance vault")
    assert sizes_of(session.shares("usb")) <= 200_000
    check(laptop, "--verify")


def test_another_coding(session: Session, laptop: Repository) -> None:
    contents = stored(laptop)
    laptop.run(f"{SWARM} stores vault coding --needed 2 --happy 3")
    assert "3 coded otherwise than 2-of-5" in laptop.run(f"{SWARM} check vault")
    new = laptop.add(later=50_000)
    laptop.run("git annex copy --quiet --to vault later")
    laptop.run("git annex get --quiet film")  # what is coded as before is read as before
    laptop.run("git annex copy --quiet --to vault film")
    laptop.run("git annex drop --quiet film later")
    assert "3 of 3 coded anew" in laptop.run(f"{SWARM} rebalance vault")
    said = check(laptop, "--verify")
    assert {line["needed"] for line in said.json if line["type"] == "object"} == {2}
    assert not [path for name in ("usb", "nas") for path in session.store(name).glob("??/*.n*")]
    session.lose("usb", "nas", "attic")
    laptop.run("git annex get .")
    assert {name: laptop.read(name) for name in contents | new} == contents | new


def test_coding_anew_that_is_killed_goes_on(session: Session, laptop: Repository) -> None:
    contents = stored(laptop, film=20 * MIB, other=5 * MIB)
    laptop.run(f"{SWARM} stores vault coding --needed 2 --happy 3")
    for _ in range(4):
        process = laptop.start(f"{SWARM} rebalance vault")
        begun = time.monotonic()
        staged = session.store("usb")

        def has_begun(staged: Path = staged, begun: float = begun) -> bool:
            return any(staged.glob("??/*.n*")) or time.monotonic() - begun > 5

        wait_for(has_begun, "something is put beside the old shares")
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        laptop.run("git annex get --quiet .")
        assert {name: laptop.read(name) for name in contents} == contents
        laptop.run("git annex drop --quiet .")
    laptop.run(f"{SWARM} rebalance vault")
    check(laptop, "--verify")


def test_a_repair_that_is_killed_goes_on(session: Session, laptop: Repository) -> None:
    stored(laptop, **{f"file{index}": 4 * MIB for index in range(6)})
    for path in session.shares("usb"):
        path.unlink()
    for _ in range(3):
        process = laptop.start(f"{SWARM} repair vault")
        count = len(session.shares("usb"))

        def is_on(process: object = process, count: int = count) -> bool:
            return len(session.shares("usb")) > count or process.poll() is not None  # type: ignore[attr-defined]

        wait_for(is_on, "a share is made")
        with suppress(ProcessLookupError):  # it was faster
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert broken_shares(session, laptop.capability()) == []
    laptop.attempt(f"{SWARM} repair vault")
    check(laptop, "--verify")


def test_two_repairs_at_once(session: Session, laptop: Repository) -> None:
    stored(laptop, **{f"file{index}": MIB for index in range(6)})
    for path in session.shares("usb", "cloud"):
        path.unlink()
    both = [laptop.start(f"{SWARM} repair vault") for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=session.patience)
        assert process.returncode == 0, out + err
    check(laptop, "--verify")
    assert broken_shares(session, laptop.capability()) == []


def test_a_sample_a_day_and_a_run_that_is_stopped(laptop: Repository) -> None:
    stored(laptop, **{f"file{index}": 50_000 for index in range(10)})
    said = laptop.attempt(f"{SWARM} check vault --verify --max-read 100KB")
    assert "not finished: 97.7KiB were read" in said or "not finished: 100KB were read" in said
    assert "the next run goes on from here" in said
    said = laptop.run(f"{SWARM} check vault --verify")
    assert "not finished" not in said
    line = next(line for line in laptop.run(f"{SWARM} status vault").out.splitlines() if "proved within" in line)
    assert line == "proved within 30 days: 100 % of 50 shares"
    assert laptop.run(f"{SWARM} check vault --verify --sample 1/7").status == 0
    assert "a part is written 1/30" in laptop.run(f"{SWARM} check vault --verify --sample 2/7", fails=True)
    said = laptop.attempt(f"{SWARM} check vault --sample 5%")
    assert said.status == 1  # 2 would say that something is lost
    assert laptop.attempt(f"{SWARM} check vault --no-such-option").status == 1


def test_limits_of_time_and_rate(session: Session, laptop: Repository) -> None:
    stored(laptop, **{f"file{index}": 300_000 for index in range(8)})
    for path in session.shares("usb"):
        path.unlink()
    said = laptop.attempt(f"{SWARM} repair vault --limit-rate 1MB/s --time-limit 0")
    assert said.status == 1
    assert "left as the time is over: the next run goes on" in said
    laptop.run(f"{SWARM} repair vault")
    assert "write seconds, or 15m" in laptop.run(f"{SWARM} repair vault --time-limit soon", fails=True)


def test_status(session: Session, laptop: Repository) -> None:
    stored(laptop)
    said = laptop.run(f"{SWARM} status vault")
    assert "vault: 3-of-5 (happy 4), made to bear the loss of any 2 stores" in said
    assert "the loss of any 2 stores is borne by 100 % (3 of 3)" in said
    assert "proved within 30 days: 0 % of 15 shares" in said
    session.unplug("cloud")
    said = laptop.attempt(f"{SWARM} status vault --json")
    assert said.status == 3
    stores = {line["store"]: line for line in said.json if line["type"] == "store"}
    assert stores["cloud"]["asked"] is False
    assert stores["usb"]["shares"] == 3


def test_a_pushed_repository_is_not_lost_unnoticed(session: Session) -> None:
    laptop = session.repository("laptop")
    laptop.initremote(options="--with-url")
    stored(laptop)
    laptop.run("git push --quiet vault main git-annex")
    assert check(laptop)
    known = {str(line["object"]) for line in check(laptop).json if line["type"] == "object" and line["key"]}
    others = sorted({path.name.partition(".")[0] for path in session.shares()} - known)
    assert others
    for path in session.shares("usb", "nas", "attic"):
        if path.name.startswith(others[0]):
            path.unlink()
    said = laptop.attempt(f"{SWARM} check vault")
    assert said.status == 2
    assert "GIT" in said


def test_whoever_reads_the_output_may_stop(laptop: Repository) -> None:
    stored(laptop, **{f"file{index}": 100 for index in range(50)})
    said = laptop.run(f"sh -c '{SWARM} check vault --json | head -n 1'")
    assert len(said.out.splitlines()) == 1
    assert said.err == ""


def test_keys_files_folders_and_matching_options(laptop: Repository) -> None:
    stored(laptop)
    laptop.write("folder/inner", 20_000)
    laptop.run("git annex add --quiet .")
    laptop.run("git commit --quiet --message more")
    laptop.run("git annex copy --quiet --to vault .")
    for words, count in {
        "film note": 2,
        laptop.key("film"): 1,
        "folder": 1,
        "-- --largerthan=10kb": 2,
        "-- --largerthan=10kb film": 1,
    }.items():
        assert summary(check(laptop, words))["objects"] == count, words
    said = laptop.run(f"{SWARM} check vault nothing", fails=True)
    assert "nothing" in said
    assert "Traceback" not in said


def test_with_less_than_the_full_capability(session: Session, laptop: Repository) -> None:
    stored(laptop)
    read, verify = laptop.capability("--read"), laptop.capability("--verify")
    laptop.run("git config remote.vault.annex-ignore true")
    reader = session.clone(laptop, "reader")
    reader.enableremote({"SWARM_CAPABILITY": read})
    for path in session.shares("usb"):
        path.unlink()
    assert reader.attempt(f"{SWARM} check vault").status == 1
    assert "film" in reader.attempt(f"{SWARM} check vault")
    assert reader.run(f"{SWARM} repair vault")  # what the tables have takes no signing key
    said = reader.attempt(f"{SWARM} stores vault retire usb")
    assert said.status == 1
    assert "capability" in said
    checker = session.clone(laptop, "checker")
    checker.enableremote({"SWARM_CAPABILITY": verify})
    said = checker.run(f"{SWARM} check vault --verify")
    assert "objects have no names" in said
    assert "3 objects: 3 healthy" in said
    assert "this clone cannot read names" in checker.run(f"{SWARM} check vault film", fails=True)


def test_chunked_and_encrypted_objects_are_checked_without_names(session: Session) -> None:
    for name, more in {"chunked": "chunk=100KiB", "shared": "encryption=shared"}.items():
        laptop = session.repository(name)
        parameters = "type=external externaltype=swarm " + (
            more if "encryption" in more else f"encryption=none {more}"
        )
        stores = " ".join(f"{store}=dir:{session.folder}/{name}-{store}" for store in ("a", "b", "c"))
        laptop.run(f"git annex initremote vault {parameters} 'stores={stores}'")
        stored(laptop, film=300_000)
        said = laptop.run(f"{SWARM} check vault --verify")
        assert "healthy" in said
        assert "git-annex encrypts or chunks what it stores there" in said
