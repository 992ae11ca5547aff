"""What all commands share: where they print, and how failures are shown."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import click
from rich.console import Console

from annex_remote.capability import Capability
from annex_remote.consult import Consulted, open_grid
from annex_remote.errors import NoCapability, SwarmError
from annex_remote.grid import Grid
from annex_remote.transfer.sites import Notes

__all__ = ["EXIT_TROUBLE", "dry_run_option", "err", "force_option", "held", "opened", "out", "plainly"]

EXIT_TROUBLE = 1
"""Something is not as it should be: the command failed, or a store that was asked about is not there."""

EXIT_STOPPED = 130
"""Ctrl-C, as shells have it."""

F = TypeVar("F", bound=Callable[..., Any])

# Into a pipe or a file every row is one line, however long.
out = Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 4096)
err = Console(stderr=True, soft_wrap=True, highlight=False)


def plainly(command: F) -> F:
    """Show a failure as one sentence; a traceback only with --debug."""

    @wraps(command)
    def run(*args: object, **kwargs: object) -> object:
        _take_any_name()
        try:
            return command(*args, **kwargs)
        except SwarmError as error:
            logging.getLogger(__name__).debug("%s", error, exc_info=True)
            err.print(f"git-annex-remote-swarm: {error}", markup=False)
            sys.exit(EXIT_TROUBLE)
        except KeyboardInterrupt:
            err.print("\nstopped: what was done stays done, and the same command goes on with the rest")
            sys.exit(EXIT_STOPPED)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:  # whoever read the output has enough of it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(EXIT_TROUBLE)
        except Exception as error:
            logging.getLogger(__name__).debug("%s", error, exc_info=True)
            words = f"internal error: {type(error).__name__}: {error} (--debug shows where)"
            err.print(f"git-annex-remote-swarm: {words}", markup=False)
            sys.exit(EXIT_TROUBLE)

    return run  # type: ignore[return-value] # the same signature


def _take_any_name() -> None:
    """Have what is not text in a name shown as "?": names of files and keys are bytes, and need not be UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
force_option = click.option(
    "--force", is_flag=True, help="Also if most stores cannot be reached, or objects may be lost."
)


def held(capability: Capability | None, remote: str) -> Capability:
    """Return the capability of a remote; raises `NoCapability` if this clone has none."""
    if capability is None:
        raise NoCapability(
            f"this clone does not have the capability of {remote}: set SWARM_CAPABILITY and run "
            f"git annex enableremote {remote}"
        )
    return capability


def opened(told: Consulted) -> Grid:
    """Return the grid of a remote, with the newest roster that its stores have."""
    notes = Notes()
    grid = open_grid(told)
    grid.look_for_roster(notes)
    for line in notes.lines:
        err.print(line, markup=False)
    grid.require_known()
    return grid
