"""The program: a special remote when it is called without arguments, a command line with arguments."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the program and exit with its status."""
    if len(sys.argv) > 1:
        from annex_remote.cli import main as command_line

        command_line()
        return
    from annex_remote.protocol.loop import serve
    from annex_remote.remote import SwarmRemote

    sys.exit(serve(SwarmRemote()))


if __name__ == "__main__":
    main()
