"""Published models, from a file to a row of results/published.csv: tiny checkpoints of the authors' codes."""

import csv
import hashlib
import json
import lzma
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

TABLE = "results/published.csv"
GOLDEN = Path(__file__).parents[1] / "golden/published"
CLASSES, EACH = 5, 6


def model(file, **more):
    return {
        "method": "a test",
        "file": file,
        "table": "table1",
        "dataset": "mine",
        "extractor": "values",
        "samples": 40,
        "reported": [{"nfe": 1, "value": 3.0}],
        "protocol": "ours",
        "source": "nobody",
        "note": "made by a test",
    } | more


@pytest.fixture(scope="module")
def place(clone):
    """The clone, whose grid is a data set of colour images in five classes, and two checkpoints."""
    for i in range(CLASSES * EACH):
        path = clone.root / f"pictures/{'abcde'[i % CLASSES]}/{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    for name in ("ect_imgnet.pkl", "vct_ict_vae_ve.ckpt"):
        (clone.root / name).write_bytes(lzma.decompress((GOLDEN / f"{name}.xz").read_bytes()))

    def change(params):
        params["datasets"]["mine"] = {"kind": "images", "path": "pictures", "resolution": 8}
        params["table1"] |= {"datasets": ["mine"], "couplings": ["independent"], "extractors": ["values"]}
        params["select"]["split"] = "train"

    clone.edit(change)
    return clone


def listed(place, **models):
    """Writes a list of these models and gives the arguments that name it."""
    (place.root / "list.yaml").write_text(yaml.safe_dump({"models": models}, sort_keys=False))
    return [TABLE, "--config", "published=list.yaml"]


def test_from_files_to_the_table(place):
    digest = hashlib.sha256((place.root / "ect_imgnet.pkl").read_bytes()).hexdigest()
    two = [{"nfe": 1, "value": 3.0}, {"nfe": 2, "mid_sigmas": [0.7]}]
    address = (place.root / "ect_imgnet.pkl").as_uri()
    arguments = listed(
        place,
        downloaded=model(address, sha256=digest, labels="data", reported=two),
        own=model("vct_ict_vae_ve.ckpt", differs="by a test"),
        nowhere=model(None),
        unmeasurable=model("vct_ict_vae_ve.ckpt", dataset=None),
    )
    counts = {"prepare": 1, "features": 1, "reference": 1, "published": 1, "published_download": 1}
    counts |= {"published_import": 2, "published_sample": 3, "published_score": 3}
    assert Counter(place.rules(*arguments)) == counts
    place.run("snakemake", "--cores", "1", *arguments)
    with (place.root / TABLE).open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["nfe"]) for row in rows] == [
        ("downloaded", "1"),
        ("downloaded", "2"),
        ("own", "1"),
        ("nowhere", "1"),
        ("unmeasurable", "1"),
    ]
    first, second, own, nowhere, unmeasurable = rows
    score = json.loads((place.root / "results" / first["score"]).read_text())
    value = next(number for number in score["numbers"] if number["metric"] == "fd")
    assert float(first["measured"]) == pytest.approx(value["value"], abs=5e-4)
    assert float(first["difference"]) == pytest.approx(value["value"] - 3.0, abs=5e-4)
    assert "extractor values-" in first["protocol"]
    assert "reference images 30, resize none, samples 40" in first["protocol"]
    assert (second["published"], second["difference"]) == ("", "")
    assert second["measured"] != first["measured"]
    assert (own["published"], own["difference"]) == ("3", "")
    assert "they differ: by a test" in own["protocol"]
    assert own["measured"]
    assert nowhere["measured"] == unmeasurable["measured"] == ""
    assert "no address" in nowhere["note"]
    assert "no such data set" in unmeasurable["note"]
    samples = np.load(place.root / "results" / Path(first["score"]).with_name("samples.npz"))
    assert samples["arr_0"].shape == (40, 8, 8, 3)
    assert samples["arr_1"].max() < CLASSES
    # The table is current; its numbers lead back to the checkpoint.
    assert "Nothing to be done" in place.run("snakemake", "--dry-run", *arguments).stdout
    why = place.run("couplet", "why", TABLE, "--row", "1").stdout
    assert digest in why
    assert all(word in why for word in ("score", "generate", "reference", "prepare"))
    assert place.run("couplet", "verify", "results").returncode == 0


def test_changed_setting_measures_that_model_again(place):
    before = listed(place, one=model("ect_imgnet.pkl"), two=model("vct_ict_vae_ve.ckpt"))
    place.run("snakemake", "--cores", "1", *before)
    after = listed(place, one=model("ect_imgnet.pkl", samples=41), two=model("vct_ict_vae_ve.ckpt"))
    assert place.rules(*after) == ["published", "published_sample", "published_score"]
    place.run("snakemake", "--cores", "1", *after)
    assert place.rules(*listed(place, two=model("vct_ict_vae_ve.ckpt"))) == ["published"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"table": "nix"}, "list.yaml: table = nix: allowed: "),
        ({"dataset": "digits"}, "list.yaml: table = table1: has no cell of data set digits"),
        ({"extractor": "nix"}, 'extractor = "nix": allowed: '),
        ({"file": "nix.pkl"}, "list.yaml: models.one.file = nix.pkl: no such file"),
        ({"sha256": "0"}, 'list.yaml: models.one.sha256 = "0": '),
        ({"note": "", "file": None}, 'list.yaml: models.one.note = "": must say why file has null'),
    ],
)
def test_wrong_list_is_refused_in_a_line(place, change, line):
    arguments = listed(
        place, one=model("vct_ict_vae_ve.ckpt", **change) if "file" not in change else model(**change)
    )
    done = place.run("snakemake", "--dry-run", *arguments, ok=False)
    assert done.returncode == 2
    assert line in done.stderr.strip().splitlines()[-1]


def test_download_of_another_file_is_refused(place):
    arguments = listed(place, other=model((place.root / "ect_imgnet.pkl").as_uri(), sha256="0" * 64))
    done = place.run("snakemake", "--cores", "1", *arguments, ok=False)
    assert done.returncode
    assert "the list says 000000" in done.stdout + done.stderr
    assert not (place.root / "raw/published/other").exists()


def test_repository_list_plans_without_network(clone):
    with clone.edited("params.yaml"):
        rules = Counter(clone.rules(TABLE))
    assert rules["published_download"] == rules["published_import"] == 7
    assert rules["published_sample"] == rules["published_score"] == 14


def test_page_in_place_of_a_file_is_refused(clone, tmp_path):
    (tmp_path / "page").write_text("\n<!DOCTYPE html><html>scan warning</html>")
    address = (tmp_path / "page").as_uri()
    done = clone.run("python", "workflow/scripts/download.py", address, tmp_path / "out", ok=False)
    assert done.returncode == 2
    assert done.stderr.strip() == (
        f"couplet: {address}: answers with a page; download the file and give its path as `file`"
    )
    assert not (tmp_path / "out").exists()
