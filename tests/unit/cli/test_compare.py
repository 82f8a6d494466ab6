"""`couplet compare`: runs side by side."""

import re


def test_runs_differ_in_their_settings_and_have_numbers_each(grid, couplet):
    runs = [grid.layout.output("train", cell).parent for cell in grid.cells]
    code, out, err = couplet("compare", *runs)
    assert (code, err) == (0, "")
    rows = (re.split(r"\s{2,}", line.strip()) for line in out.splitlines())
    table = {name: values for name, *values in rows}
    assert table["cell.seed"] == ["0", "1"]
    assert "recipe.steps" not in table
    assert len(table["wall clock (s)"]) == 2
    numbers = table["fd (classifier), NFE 1"]
    assert all(re.fullmatch(r"\d+\.\d{3}", number) for number in numbers)
    code, out, err = couplet("compare", runs[0], runs[0])
    assert "cell" not in out
    assert "fd (classifier), NFE 1" in out


def test_wrong_folders_are_a_line(grid, couplet, tmp_path):
    run = grid.layout.output("train", grid.cells[0]).parent
    assert couplet("compare", run)[::2] == (
        2,
        f"couplet: couplet compare {run}: give the folders of two runs or more\n",
    )
    assert couplet("compare", run, tmp_path)[::2] == (
        2,
        f"couplet: {tmp_path}: no run here, expected train/config.json\n",
    )
