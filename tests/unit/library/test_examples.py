"""The examples run as they are printed."""

import re
import subprocess
import sys
from pathlib import Path

import jupytext
import nbclient
import pytest

from couplet import editing

EXAMPLES = Path(__file__).parents[3] / "examples"


def distance(steps):
    command = [sys.executable, str(EXAMPLES / "two_moons.py"), str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(re.fullmatch(r"median distance .*: ([\d.]+)\n", done.stdout)[1])


@pytest.mark.slow
def test_two_moons_are_learnt():
    assert distance(300) < 0.5 * distance(1)


@pytest.mark.slow
def test_every_edit_has_a_picture_in_the_documents(tmp_path):
    """The example draws those that library.md shows; a short training is enough for that."""
    done = subprocess.run([sys.executable, str(EXAMPLES / "editing.py"), "figures", "2"], cwd=tmp_path)
    assert done.returncode == 0
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["figures"]
    shown = (EXAMPLES.parent / "docs/library.md").read_text()
    defined = (
        name for name, each in vars(editing).items() if getattr(each, "__module__", "") == editing.__name__
    )
    assert drawn == {f"editing-{name}.png" for name in defined if name[0] != "_"}
    assert drawn == {*re.findall(r"figures/(editing-\w+\.png)", shown)}


@pytest.mark.slow
def test_the_notebook_is_the_script_and_runs_from_top_to_bottom(tmp_path, monkeypatch):
    script, notebook = (jupytext.read(EXAMPLES / name) for name in ("quickstart.py", "quickstart.ipynb"))
    assert [cell.source for cell in notebook.cells] == [cell.source for cell in script.cells]
    monkeypatch.chdir(tmp_path)
    nbclient.NotebookClient(script, timeout=900, kernel_name="python3").execute()
    pictures = [
        output
        for cell in script.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 11
    assert (tmp_path / "digits-ot.safetensors").exists()
