"""The examples run as they are printed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"


def distance(steps):
    command = [sys.executable, str(EXAMPLES / "two_moons.py"), str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(re.fullmatch(r"median distance .*: ([\d.]+)\n", done.stdout)[1])


@pytest.mark.slow
def test_two_moons_are_learnt():
    assert distance(300) < 0.5 * distance(1)
