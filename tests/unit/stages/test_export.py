"""`couplet export`: a folder for the Hugging Face Hub that loads to the same pixels, with card and record."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image

import couplet as library
from couplet import model
from couplet.config.cells import Training
from couplet.config.resolve import resolve
from couplet.errors import UserError
from couplet.files import sha256
from couplet.stages import export
from couplet.tensors import CPU

FILES = {"README.md", "config.json", "model.safetensors", "params.yaml", "record.json", "samples.png"}


@pytest.fixture
def run(grid):
    """The folder of a finished run in a copy of the grid."""
    return grid.train.parent


@pytest.fixture
def exported(run, couplet):
    """That run, exported."""
    code, out, error = couplet("export", run, "--to", "shared", "--name", "jane/digits", "--device", "cpu")
    assert code == 0, error
    return Path("shared"), out


def front(folder):
    """The front matter of a card and the text after it."""
    _, matter, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(matter), text


def names(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_folder_loads_to_the_same_pixels_also_in_another_process(exported, run):
    folder, _ = exported
    assert names(folder) == FILES
    wanted = library.load(run, device="cpu").sample(5, nfe=2, seed=3)
    assert np.array_equal(library.load(folder, device="cpu").sample(5, nfe=2, seed=3), wanted)
    load = f"couplet.load({str(folder)!r}, 'cpu').sample(5, nfe=2, seed=3)"
    code = f"import couplet; print({load}.tobytes().hex())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert bytes.fromhex(done.stdout) == wanted.tobytes()


def test_the_weights_are_those_of_the_selected_snapshot(exported, grid):
    folder, _ = exported
    chosen = json.loads(grid.selection.read_text())["selected"]["checkpoint"]
    assert (folder / "model.safetensors").read_bytes() == (grid.train / "checkpoints" / chosen).read_bytes()
    config = json.loads((folder / "config.json").read_text())
    assert (config["library_name"], config["format"]) == ("couplet", 1)
    assert config["weights"]["sha256"] == sha256(folder / "model.safetensors")
    _, saved = model.load(folder / "model.safetensors", CPU)
    assert config["design"] == saved.of.design.model_dump(mode="json")
    assert config["sampler"] == saved.sampler.model_dump(mode="json")
    assert config["shape"] == saved.shape._asdict()


def test_the_card_has_data_numbers_protocol_and_commands(exported, grid, run):
    folder, out = exported
    matter, text = front(folder)
    assert (matter["library_name"], matter["license"], matter["datasets"]) == (
        "couplet",
        "unknown",
        ["digits"],
    )
    card = json.loads((grid.data / "card.json").read_text())
    [entry] = matter["model-index"]
    [result] = entry["results"]
    assert result["dataset"]["args"] == {"images": card["counts"], "digest": card["digest"]}
    evaluation = json.loads(grid.outputs["evaluate"].read_text())
    for row in evaluation["numbers"]:
        [found] = [
            each
            for each in result["metrics"]
            if each["type"] == f"{row['metric']}_classifier" and each["args"]["nfe"] == row["nfe"]
        ]
        assert found["value"] == row["value"]
        assert found["args"]["samples"] == evaluation["samples"]["count"]
        assert found["args"]["extractor"] == evaluation["extractor"]
        assert found["args"]["reference_images"] == 1497
        assert f"| {row['nfe']} | {row['value']:.{3 if row['metric'] == 'fd' else 5}f} |" in text
    assert matter["metrics"] == ["fd_classifier", "kid_classifier"]
    assert 'couplet.load("jane/digits")' in text
    record = json.loads((grid.train / "record.json").read_text())
    for fact in (record["key"], record["packages"]["torch"], card["digest"], "1497 train"):
        assert fact in text
    assert "note: no licence chosen" in out
    assert "hf upload jane/digits shared" in out


def test_the_hub_reads_the_card(exported):
    """With the hub's own parser: one result for each number."""
    card = ModelCard.load(exported[0] / "README.md", ignore_metadata_errors=False)
    assert card.data.library_name == "couplet"
    assert card.data.pipeline_tag == "unconditional-image-generation"
    found = {(each.metric_type, each.metric_args["nfe"]) for each in card.data.eval_results}
    assert found == {(name, nfe) for name in ("fd_classifier", "kid_classifier") for nfe in (1, 2)}


def test_the_picture_has_the_samples_that_the_card_names(exported, couplet):
    folder, _ = exported
    [command] = [
        part for part in (folder / "README.md").read_text().split("`") if part.startswith("couplet gen")
    ]
    arguments = command.replace(" . ", f" {folder} ").split()[1:]
    assert couplet(*arguments, "--device", "cpu")[0] == 0
    grid, shown = (np.asarray(Image.open(path)) for path in ("grid.png", folder / "samples.png"))
    assert np.array_equal(shown, grid)


def test_the_commands_of_the_card_make_the_same_file(exported, couplet, monkeypatch):
    folder, _ = exported
    block = (folder / "README.md").read_text().split("```sh\n")[1].split("```")[0]
    settings = Path("again")
    settings.mkdir()
    shutil.copy(folder / "params.yaml", settings)
    monkeypatch.chdir(settings)
    for line in block.splitlines():
        first, *arguments = line.split()
        if first == "cp":
            shutil.copy(*arguments)
        else:
            assert couplet(*arguments)[0] == 0, line
    assert Path("model.safetensors").read_bytes() == (Path("..") / folder / "model.safetensors").read_bytes()


def test_verify_and_why_know_the_folder(exported, couplet, grid):
    folder, _ = exported
    code, out, _ = couplet("verify", folder)
    assert code == 0
    assert out.splitlines()[0] == f"note: {folder / 'README.md'}: in no record"
    for asked in (folder, folder / "model.safetensors"):
        code, out, error = couplet("why", asked)
        assert code == 0, error
        stages = [line.split()[0] for line in out.splitlines() if line.strip() and line[0] != " "]
        assert stages[:3] == ["run", "export", "evaluate"]
        assert {"train", "prepare"} <= {*stages}
    shutil.copytree(folder, "elsewhere/far/away")
    assert couplet("verify", "elsewhere/far/away")[0] == 0
    (folder / "params.yaml").write_text("seed: 1")
    code, out, _ = couplet("verify", folder)
    assert code == 1
    assert "params.yaml: SHA-256 recorded by export" in out


@pytest.mark.parametrize(
    ("folder", "stage"), [("samples", "sample"), ("train", "train"), ("data", "prepare")]
)
def test_why_knows_whole_folders_of_stages(folder, stage, grid, couplet):
    """A folder is asked for as its files are, whether its record lies beside it or inside."""
    code, out, error = couplet("why", getattr(grid, folder))
    assert code == 0, error
    assert out.split()[:2] == ["run", stage]
    code, _, error = couplet("why", grid.root / "runs")
    assert (code, "no record beside it names it" in error) == (2, True)


def test_one_snapshot_has_no_numbers_of_another(grid, couplet):
    chosen = json.loads(grid.selection.read_text())["selected"]["checkpoint"]
    [other] = [path for path in (grid.train / "checkpoints").iterdir() if path.name != chosen]
    assert couplet("export", other, "--to", "other", "--license", "mit")[0] == 0
    matter, text = front(Path("other"))
    assert "model-index" not in matter
    assert (matter["license"], matter["datasets"]) == ("mit", ["digits"])
    assert "## Metrics" not in text
    assert "No licence" not in text


def test_scores_of_the_model_enter_the_card_and_others_do_not(grid, couplet, exported):
    def scored(source, name):
        arguments = ("--reference", grid.data, "--extractor", grid.features, "--count", 16, "--out", name)
        code, _, error = couplet("score", source, *arguments, "--params", "fd.yaml")
        assert code == 0, error

    content = yaml.safe_load((exported[0] / "params.yaml").read_text())
    Path("fd.yaml").write_text(yaml.safe_dump(content))
    shutil.copy(exported[0] / "model.safetensors", "alone.safetensors")
    scored("alone.safetensors", "alone.json")
    assert couplet("export", "alone.safetensors", "--to", "alone", "--score", "alone.json")[0] == 0
    numbers = json.loads(Path("alone.json").read_text())["numbers"]
    text = front(Path("alone"))[1]
    assert f"| 1 | {numbers[0]['value']:.3f} |" in text
    other = sorted((grid.root / "runs").glob("*-s1-*/train/checkpoints/*"))[-1]
    scored(other, "other.json")
    expected = "couplet: --score other.json: is not of this model; give a file of `couplet score` on it\n"
    assert couplet("export", "alone.safetensors", "--to", "x", "--score", "other.json") == (2, "", expected)
    Path("alone.json").write_text(Path("alone.json").read_text().replace("0", "1"))
    code, _, error = couplet("export", "alone.safetensors", "--to", "x", "--score", "alone.json")
    assert (code, "edited or damaged" in error) == (2, True)
    assert not Path("x").exists()


def test_what_has_no_record_says_so(grid, couplet):
    """A checkpoint that was moved keeps its settings; its data set is known by name alone."""
    [*_, last] = sorted((grid.train / "checkpoints").iterdir())
    shutil.copy(last, "moved.safetensors")
    assert couplet("export", "moved.safetensors", "--to", "moved")[0] == 0
    matter, text = front(Path("moved"))
    assert matter["datasets"] == ["digits"]
    assert "none beside the checkpoint" in text
    assert "digits; its card was not at hand" in text
    assert names(Path("moved")) == FILES


def test_bad_input_is_one_line_and_nothing_is_written(grid, run, couplet, exported):
    folder, _ = exported
    Path("taken").mkdir()
    Path("taken/notes.txt").write_text("mine")
    Path("file").write_text("x")
    cases = {
        ("--to", "taken"): "taken: is not empty; choose another folder",
        ("--to", "file"): "--to file: is a file; give another folder",
        (
            "--to",
            "x",
            "--name",
            "jane",
        ): "--name jane: must be OWNER/NAME of letters, digits, '-', '_' and '.'",
        ("--to", "x", "--license", "MIT License"): "--license MIT License: must be an identifier of the hub, "
        "such as apache-2.0",
        ("--to", "x", "--score", "none.json"): "none.json: cannot be read (No such file or directory)",
    }
    for arguments, message in cases.items():
        assert couplet("export", run, *arguments) == (2, "", f"couplet: {message}\n")
    expected = f"couplet: {folder}: is exported already; copy the folder\n"
    assert couplet("export", folder, "--to", "x") == (2, "", expected)
    code, _, error = couplet("export", "nothing", "--to", "x")
    assert (code, error.count("\n")) == (2, 1)
    assert not Path("x").exists()
    assert names(Path("taken")) == {"notes.txt"}


def test_an_edited_checkpoint_is_refused(grid, run, couplet):
    chosen = json.loads(grid.selection.read_text())["selected"]["checkpoint"]
    path = grid.train / "checkpoints" / chosen
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    code, _, error = couplet("export", run, "--to", "x")
    assert code == 2
    assert "edited or damaged" in error
    assert not Path("x").exists()


def test_a_full_disk_leaves_nothing(run, couplet, full_disk):
    with full_disk():
        code, _, error = couplet("export", run, "--to", "x", "--device", "cpu")
    assert code == 2, error
    assert not Path("x").exists()
    assert not [*Path().glob(".x*")]


def test_an_empty_folder_is_filled(run, couplet):
    Path("x").mkdir()
    assert couplet("export", run, "--to", "x")[0] == 0
    assert names(Path("x")) == FILES


def test_a_later_layout_is_refused(exported, couplet):
    folder, _ = exported
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"format": 2}))
    with pytest.raises(UserError, match=r"format = 2, .* reads 1; update it"):
        library.load(folder)
    code, _, error = couplet("generate", folder, "--out", "x.png")
    assert (code, error.count("\n")) == (2, 1)


def test_an_imported_model_names_where_it_is_from(couplet, tmp_path, monkeypatch, make_training):
    from couplet.config.designs import Imported
    from couplet.model import ImageShape, Saved, build

    monkeypatch.chdir(tmp_path)
    training = make_training()
    source = {"file": "gc.pt", "family": "GC", "weights": "ema", "sha256": "0" * 64}
    imported = Imported(design=training.design, sampler=training.sampler, source=source)
    shape = ImageShape(3, 8, 0)
    model.save(tmp_path / "own.safetensors", build(training.design, shape), Saved(imported, shape))
    assert couplet("export", "own.safetensors", "--to", "x")[0] == 0
    assert names(Path("x")) == FILES - {"params.yaml"}
    text = front(Path("x"))[1]
    assert "couplet import gc.pt --weights ema --out model.safetensors" in text
    assert "| imported family | GC |" in text
    assert json.loads(Path("x/config.json").read_text())["source"] == source
    assert couplet("import", "x", "--out", "y")[2].count("needs no import") == 1


@pytest.mark.parametrize("coupling", ["independent", "vae", {"kind": "ot", "parts": 2}, "generator"])
def test_params_repeat_any_training(coupling, make_training, tmp_path):
    training = make_training(coupling, seed=3, kernel="li", mid_sigmas=[20.0, 5.0], train={"snapshots": 1})
    path = tmp_path / "params.yaml"
    path.write_text(export.dump_yaml(export.repeated(training)))
    checked = resolve(path)
    assert checked.training(checked.experiment) == training


def test_params_repeat_the_run_of_a_frozen_predictor(params_content, tmp_path):
    params_content["couplings"]["pre"] = {
        "kind": "generator",
        "predictor": "frozen",
        "pretrained": {"coupling": "independent"},
    }
    params_content["coupling"] = "pre"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params_content))
    checked = resolve(tmp_path / "params.yaml")
    training = checked.training(checked.experiment)
    assert training.frozen_run is not None
    (tmp_path / "again.yaml").write_text(export.dump_yaml(export.repeated(training)))
    again = resolve(tmp_path / "again.yaml")
    assert again.training(again.experiment) == training


def test_paths_of_this_machine_are_named(make_training):
    training = make_training()
    content = training.model_dump(mode="json")
    content["recipe"]["init_from"] = "/home/jane/weights.safetensors"
    saved = model.Saved(Training.model_validate(content), model.ImageShape(1, 8, 0))
    assert list(export._places(saved)) == ["/home/jane/weights.safetensors"]
