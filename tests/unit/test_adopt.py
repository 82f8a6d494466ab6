"""`couplet adopt`: runs of other code become runs of today's code, on evidence alone."""

import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from couplet.adopt import TOLERANCE, adopt
from couplet.errors import Stopped, UserError
from couplet.files import read_json, write_json
from couplet.plan.stages import Settings, key_of
from couplet.process import Context
from couplet.provenance import verify as verifying
from couplet.stages import prepare, table, train
from couplet.training.state import read_state, write_state

PACKAGE = Path(train.__file__).parents[1]


def edited(path, **changes):
    write_json(path, read_json(path) | changes)


def content_of(folder):
    """The bytes of a run's files, except records, which hold times."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith("record.json")
    }


def by_other_code(train, key="0ld0ld00"):
    """Edit the record of a finished run as if other code had trained it."""
    code = read_json(train / "record.json")["code"]
    edited(train / "record.json", key=key, code={**code, "couplet.training.loop:run": "0" * 16})


@pytest.fixture
def old(grid):
    """The grid's first run, as if other code had trained it, in the folder of its old key."""
    run = grid.root / "runs" / f"{grid.cells[0]}-0ld0ld00"
    shutil.move(grid.train.parent, run)
    by_other_code(run / "train")
    return run / "train"


def test_run_of_a_grid_gets_a_folder_under_its_new_key(grid, old):
    before = content_of(old)
    message = adopt(Context(), old, data=grid.data)
    assert message == (
        f"{grid.train}: taken over with key {key_of('train', grid.settings)}; 2 steps replayed, "
        "largest relative difference 0.0e+00"
    )
    assert content_of(grid.train) == before == content_of(old)
    record = read_json(grid.train / "record.json")
    assert record["code"]["couplet.training.loop:run"] != "0" * 16
    [proof] = record["adopted"]
    assert (proof["key"], proof["steps"], proof["compared"]) == ("0ld0ld00", 2, [1, 2])
    assert (proof["allowed_difference"], proof["largest_difference"]) == (0.0, 0.0)
    assert read_json(old / "record.json")["key"] == "0ld0ld00"
    assert not list(grid.train.parent.glob(".*"))
    assert verifying.verify(grid.train.parent).problems == []


def test_adopted_run_is_measured_and_stands_in_the_table(grid, old):
    adopt(Context(), old, data=grid.data)
    for stage in ("select", "sample", "evaluate"):
        grid.run_stage(stage, grid.settings, grid.outputs)
    before = (grid.root / "table1.csv").read_text()
    table.run(grid.params, grid.root, grid.root / "again.csv")
    assert (grid.root / "again.csv").read_text() == before


def test_files_are_shared_by_hard_links_except_the_record(grid, old):
    adopt(Context(), old, data=grid.data)
    for path in old.rglob("*.*"):
        assert path.samefile(grid.train / path.relative_to(old)) == (path.name != "record.json"), path


def test_copies_serve_where_there_are_no_hard_links(grid, old, monkeypatch):
    def denied(source, target):
        raise OSError("no hard links here")

    monkeypatch.setattr(os, "link", denied)
    adopt(Context(), old, data=grid.data)
    assert content_of(grid.train) == content_of(old)


def test_ad_hoc_run_is_adopted_in_place(grid, tmp_path):
    run = tmp_path / "mine/train"
    shutil.copytree(grid.train, run)
    by_other_code(run)
    before = content_of(run)
    assert adopt(Context(), run, data=grid.data).startswith(f"{run}: taken over with key ")
    assert content_of(run) == before
    assert read_json(run / "record.json")["key"] == key_of("train", grid.settings)
    assert verifying.verify(run).problems == []
    assert adopt(Context(), run, data=grid.data) == (
        f"{run}: is a run of today's code already, key {key_of('train', grid.settings)}"
    )


def test_proofs_of_several_adoptions_are_kept(grid, tmp_path):
    run = tmp_path / "mine/train"
    shutil.copytree(grid.train, run)
    for key in ("0ld00001", "0ld00002"):
        by_other_code(run, key)
        adopt(Context(), run, data=grid.data)
    assert [proof["key"] for proof in read_json(run / "record.json")["adopted"]] == ["0ld00001", "0ld00002"]


def stop_after(settings, archive, out, step):
    """Train until a signal after ``step`` stops the run."""
    came = []
    context = Context(signals=lambda: nullcontext(lambda: came[0] if came else None))

    def observe(progress, rate):
        if progress.step == step:
            came.append("SIGTERM")

    with pytest.raises(Stopped):
        train.run(context, settings, data=archive, out=out, observe=observe)


@pytest.mark.parametrize("grid_folder", [True, False])
def test_unfinished_run_resumes_to_the_bytes_of_an_uninterrupted_one(
    tmp_path, make_training, noise_archive, grid_folder
):
    training = make_training("vae", steps=6, train={"snapshots": 2, "save_every": 2})
    settings = Settings.of(training)
    archive = noise_archive(tmp_path / "data", training.dataset)
    train.run(Context(), settings, data=archive, out=tmp_path / "uninterrupted")
    root = tmp_path / f"runs/{training.cell}-0ld0ld00" if grid_folder else tmp_path / "mine"
    stop_after(settings, archive, root / "train", 5)
    partial = root / "train.partial"
    states = sorted(partial.glob("state-*"))
    assert len(states) == 2
    for path in states:
        header, tensors = read_state(path)
        write_state(path, {**header, "key": "0ld0ld00"}, tensors)
    before = content_of(partial)
    with pytest.raises(UserError, match="run `couplet adopt"):
        train.run(Context(), settings, data=archive, out=root / "train")

    adopt(Context(), partial, data=archive)
    place = root.with_name(f"{training.cell}-{key_of('train', settings)}") if grid_folder else root
    if grid_folder:
        assert content_of(partial) == before
    lines = []
    train.run(Context(say=lines.append), settings, data=archive, out=place / "train")
    assert lines == [f"{training.cell}: resumes after step 5"]
    assert content_of(place / "train") == content_of(tmp_path / "uninterrupted")
    [proof] = read_json(place / "train/record.json")["adopted"]
    assert (proof["key"], proof["steps"], proof["allowed_difference"]) == ("0ld0ld00", 5, TOLERANCE)
    assert not (place / "train.partial").exists()
    if grid_folder:
        assert content_of(partial) == before


def test_other_machine_may_differ_by_rounding(grid, old):
    curve = old / "curve.csv"
    head, first, *rest = curve.read_text().splitlines()

    def with_loss(factor):
        step, loss, *others = first.split(",")
        curve.write_text(
            "\n".join([head, ",".join([step, repr(float(loss) * factor), *others]), *rest]) + "\n"
        )

    with_loss(1 + 1e-5)
    with pytest.raises(UserError, match=r"step 1: loss .* allowed is a relative difference of 0: this code"):
        adopt(Context(), old, data=grid.data)
    edited(old / "record.json", cpu="another processor")
    adopt(Context(), old, data=grid.data, out=grid.root / "elsewhere/train")
    [proof] = read_json(grid.root / "elsewhere/train/record.json")["adopted"]
    assert proof["allowed_difference"] == TOLERANCE
    assert proof["largest_difference"] == pytest.approx(1e-5, rel=1e-3)
    with_loss(1 + 1e-3)
    with pytest.raises(UserError, match=r"step 1: loss .* allowed is a relative difference of 0\.0001"):
        adopt(Context(), old, data=grid.data)
    assert not grid.train.exists()


def test_record_of_a_run_adopted_elsewhere_leads_to_its_data(grid, old):
    out = grid.root / "deep/er/train"
    adopt(Context(), old, data=grid.data, out=out)
    findings = verifying.verify(out)
    assert (findings.problems, findings.notes) == ([], [])


def test_wrong_input_is_one_line_and_writes_nothing(grid, old, tmp_path):
    def refused(folder=old, **more):
        files = sorted(tmp_path.rglob("*"))
        with pytest.raises(UserError) as caught:
            adopt(Context(), folder, **{"data": grid.data, **more})
        assert sorted(tmp_path.rglob("*")) == files
        return str(caught.value)

    assert refused(grid.data) == f"{grid.data}: holds neither a finished run nor a saved state"
    assert refused(out=grid.root) == f"--out = {grid.root}: exists already; choose another folder"
    other = Settings(grid.params.datasets["digits"].model_copy(update={"test_images": 200}))
    prepare.run(Context(), other, name="digits", out=tmp_path / "other")
    assert refused(data=tmp_path / "other") == (
        f"{tmp_path / 'other'}: not the data set that {old} was trained on; give the folder that was"
    )
    (old / "curve.csv").unlink()
    assert refused() == f"{old / 'curve.csv'}: has no line of the first 50 steps; nothing to compare"


@pytest.fixture
def with_code(tmp_path):
    """Runs the command line of a copy of the package in which a line of a module is another."""

    def run(module, line, other, *arguments):
        shutil.copytree(PACKAGE, tmp_path / "src/couplet", ignore=shutil.ignore_patterns("__pycache__"))
        path = tmp_path / "src/couplet" / module
        text = path.read_text()
        assert text.count(line) == 1
        path.write_text(text.replace(line, other))
        return subprocess.run(
            [sys.executable, "-m", "couplet", *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(tmp_path / "src"), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


WEIGHT = "def __call__(self, t: Tensor, r: Tensor) -> Tensor:\n        return 1 / (t - r)\n"
CHANGED = ("losses.py", WEIGHT, WEIGHT.replace("1 /", "1.001 /"))
REFACTORED = (
    "losses.py",
    WEIGHT,
    WEIGHT.replace("return 1 / (t - r)", "gap = t - r\n        return 1 / gap"),
)


def test_code_that_gives_other_numbers_is_refused(grid, with_code):
    done = with_code(*CHANGED, "adopt", grid.train, "--data", grid.data, "--device", "cpu")
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"couplet: {grid.train}: step 1: loss ")
    assert last.endswith("allowed is a relative difference of 0: this code trains something else")
    assert len(list((grid.root / "runs").iterdir())) == 2


def test_refactored_code_adopts(grid, with_code):
    done = with_code(*REFACTORED, "adopt", grid.train, "--data", grid.data, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    (new,) = set((grid.root / "runs").iterdir()) - {grid.layout.run(cell) for cell in grid.cells}
    record = read_json(new / "train/record.json")
    assert new.name == f"{grid.cells[0]}-{record['key']}"
    assert record["adopted"][0]["key"] == read_json(grid.records["train"])["key"]


def test_run_at_work_is_left_alone(grid, old, hold, couplet):
    with hold(old.with_name("train.lock")) as holder:
        code, out, err = couplet("adopt", old, "--data", grid.data, "--device", "cpu")
    assert (code, out) == (2, "")
    assert f"train.lock: process {holder.pid} on " in err
    assert not grid.train.exists()
