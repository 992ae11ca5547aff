"""The command line: arguments and output only."""

from __future__ import annotations

import logging
import sys

import click

from annex_remote.cli.check import check, status
from annex_remote.cli.gc import gc
from annex_remote.cli.repair import coding, rebalance, repair, retire
from annex_remote.cli.rescue import health, recover
from annex_remote.cli.stores import stores
from annex_remote.cli.terminal import err, held, opened, out, plainly
from annex_remote.cli.torrents import torrent
from annex_remote.cli.transfers import speedtest, trace
from annex_remote.consult import consult
from annex_remote.errors import BadSetting
from annex_remote.login import log_in, login_words
from annex_remote.model import Login

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="git-annex-remote-swarm")
@click.option("--debug", is_flag=True, help="Show on stderr what is done, and the causes of failures.")
def main(debug: bool) -> None:
    """Keep git-annex objects as encrypted, erasure-coded shares on several stores.

    Without arguments this is the special remote that git-annex starts (externaltype=swarm).
    """
    if debug:
        logging.basicConfig(level=logging.DEBUG, format="%(levelname)s %(name)s: %(message)s")


@main.command()
@click.argument("remote")
@click.option("--read", "kind", flag_value="read", help="Print the read capability: it fetches, and cannot store.")
@click.option(
    "--verify", "kind", flag_value="verify", help="Print the verify capability: it checks, reads nothing."
)
@plainly
def capability(remote: str, kind: str | None) -> None:
    """Print the capability of REMOTE: what it takes to use its stores without this repository.

    The full capability is printed unless another one is asked for. It goes to standard output alone.
    """
    kept = held(consult(remote).capability, remote)
    chosen = kept.attenuate(kind or kept.kind)
    err.print(_WARNINGS[chosen.kind])
    click.echo(chosen.format())


_WARNINGS = {
    "full": "Who has this full capability can read, change and replace everything in the grid. Keep it secret, "
    "and keep a copy where the loss of this machine does not reach it.",
    "read": "Who has this read capability can read everything in the grid, and store nothing. Keep it secret.",
    "verify": "Who has this verify capability can check and rebuild shares, and read no content; it also tells "
    "where the stores are.",
}


@main.command()
@click.argument("remote")
@click.argument("store")
@click.option("--user", help="Instead of being asked for it.")
@click.option("--no-check", is_flag=True, help="Keep it, though the store cannot be asked now.")
@plainly
def login(remote: str, store: str, user: str | None, no_check: bool) -> None:
    """Log in to STORE of REMOTE: try user and password there, and have git-annex keep them.

    They are asked for; where nobody can be asked, the password (and, without --user, the user on a line before it)
    is read from standard input. If the store has waited for this, it is made, and takes part from now on.
    """
    told = consult(remote)
    grid = opened(told)
    entry = grid.roster.entry(store)
    names = login_words(grid.address(entry))
    given = _asked_login(f"{store} ({grid.address(entry)})", names, user)
    out.print(log_in(grid, entry, given, remote, check=not no_check), markup=False)


def _asked_login(place: str, names: tuple[str, str], user: str | None) -> Login:
    if sys.stdin.isatty():
        err.print(f"Login for {place}", markup=False)
        user = user or click.prompt(names[0], err=True)
        password = click.prompt(names[1], hide_input=True, err=True)
    else:
        user = user or sys.stdin.readline().rstrip("\r\n")
        password = sys.stdin.readline().rstrip("\r\n")
    if not user or not password:
        raise BadSetting(f"no login was given: it takes {names[0]} and {names[1]}, each on a line of its own")
    return Login(str(user), str(password))


@main.command()
@click.option("--keep", is_flag=True, help="Leave the repository and the stores, and say where they are.")
@click.option("--size", type=click.IntRange(1, 4096), default=64, help="MiB of the largest file.")
@plainly
def demo(keep: bool, size: int) -> None:
    """Show the main job in a throw-away repository with six directory stores."""
    from annex_remote.demo import run_demo

    sys.exit(run_demo(out, keep=keep, largest=size << 20))


main.add_command(check)
main.add_command(gc)
main.add_command(health)
main.add_command(rebalance)
main.add_command(recover)
main.add_command(repair)
main.add_command(status)
stores.add_command(coding)
stores.add_command(retire)
main.add_command(stores)
main.add_command(speedtest)
main.add_command(torrent)
main.add_command(trace)
