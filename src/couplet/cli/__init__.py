"""The command line: ``couplet --help`` answers at once, because commands import torch when they run."""

from __future__ import annotations

import os


def main() -> None:
    """Run a command; where the environment names a warm process, in a copy of that one."""
    if address := os.environ.get("COUPLET_WARM"):
        from couplet.cli.warm import run_in_copy

        run_in_copy(address)
    from couplet.cli.app import main as run

    run()
