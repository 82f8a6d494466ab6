"""The command line. torch is imported inside commands, so that ``couplet --help`` answers at once."""

from couplet.cli.app import main as main
