"""The screen of a person: tables in narrow terminals, bars and notes, the end of `couplet run`."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from couplet.cli.inspection import print_table

HEADS = ("table", "recipe", "coupling", "steps × batch", "GPU-hours")
ROWS = [
    ("vct", "vct-ecm-imagenet64-deep-b", "variational-with-a-long-name", "400,000 × 1024", "1.23e+03"),
    ("vct", "short", "ot", "2 × 4", "0.1"),
]
PAIRS = [
    ("run", "digits-ict-ve-independent-s0-f0e287c8"),
    ("commit", "d12659fb9ea6337cd6cfb42863515b8f1bd553c6"),
]


@pytest.fixture
def printed(monkeypatch, capsys):
    """What a terminal of some columns shows, line by line."""

    def run(columns, *arguments):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        print_table(*arguments)
        return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()

    return run


@pytest.mark.parametrize("columns", [120, 80, 60, 40])
def test_no_name_and_no_number_is_cut(printed, columns):
    lines = printed(columns, ROWS, HEADS)
    text = " ".join(" ".join(lines).split())
    assert max(map(len, lines)) <= columns
    for cell in (each for row in ROWS for each in row):
        assert cell in text
    assert "…" not in text


@pytest.mark.parametrize("columns", [80, 60, 40, 20])
def test_the_second_of_two_columns_is_folded(printed, columns):
    lines = printed(columns, PAIRS)
    assert max(map(len, lines)) <= columns
    assert "".join(line[6:].strip() for line in lines) == "".join(value for _, value in PAIRS)


def test_a_wide_terminal_has_a_table(printed):
    head, *rows = printed(120, ROWS, HEADS)
    assert head.split()[:2] == ["table", "recipe"]
    assert len(rows) == len(ROWS)


class Terminal:
    """A command in a terminal of 80 columns."""

    def __init__(self, *arguments):
        self.text = ""
        ours, theirs = pty.openpty()
        environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "couplet", *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        self.read = ours

    def until(self, pattern=None):
        """Read up to a text, or to the end; the text without control sequences."""
        end = time.monotonic() + 100
        while pattern is None or not re.search(pattern, self.text):
            assert time.monotonic() < end, self.text[-500:]
            if not select.select([self.read], [], [], 1)[0]:
                continue
            try:
                more = os.read(self.read, 65536)
            except OSError:
                more = b""
            if not more:
                self.process.wait(10)
                break
            self.text += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", more.decode(errors="replace"))
        return self.text


def test_bars_name_their_stage_and_a_note_has_a_line_of_its_own(grid_content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grid_content["recipes"]["ict"]["steps"] = 100_000
    grid_content["train"]["log_every"] = 1000
    Path("params.yaml").write_text(yaml.safe_dump(grid_content))
    command = ("run", "--out", "x", "--device", "cpu")
    first = Terminal(*command)
    first.until(r"train digits-ict-ve-independent-s0\s[\s\S]*\b[1-9]\d*/100000 loss")
    first.process.terminate()
    first.until()
    assert first.process.returncode == os.EX_TEMPFAIL
    for title in ("prepare digits: train", "features: classifier", "reference: classifier"):
        assert re.search(rf"^\s*{title}", first.text, re.MULTILINE), title
    second = Terminal(*command)
    second.until(r"\b[1-9]\d*/100000 loss")
    second.process.terminate()
    second.until()
    assert re.search(r"^digits-ict-ve-independent-s0: resumes after step \d+\r?$", second.text, re.MULTILINE)


def test_show_is_fast_and_needs_no_torch(grid):
    code = "import sys; from couplet import cli\ntry: cli.main()\nfinally: print('torch' in sys.modules)"
    run = grid.train.parent
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, "show", run], capture_output=True, text=True)
    assert time.monotonic() - began < 3  # under a second on a free core
    assert done.stdout.endswith("False\n"), done.stderr
    assert "commit" in done.stdout


@pytest.mark.parametrize("command", [(), ("run",), ("sample",)])
def test_short_option_for_help(couplet, command):
    code, out, _ = couplet(*command, "-h")
    assert (code, "Usage: " in out) == (0, True)
