"""The file of a benchmark: its numbers, and the command, machine and commit that they came from."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from couplet.files import write_json
from couplet.provenance.record import environment


def write(path: Path, device: torch.device = torch.device("cpu"), **numbers: Any) -> None:  # noqa: B008
    """Writes ``numbers``, measured on ``device``, as JSON.

    Raises:
        UserError: the file cannot be written.
    """
    write_json(
        path, {"command": shlex.join(["python", *sys.argv]), "environment": environment(device), **numbers}
    )
