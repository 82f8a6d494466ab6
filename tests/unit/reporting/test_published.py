"""The papers' numbers: each stands beside its own row in its own protocol, and nowhere else."""

import csv
import json
from functools import cache
from importlib.resources import files
from pathlib import Path

import pytest

from couplet.config.resolve import resolve, scales
from couplet.reporting.published import METRICS, reported, resolved
from couplet.reporting.table import Result, table

ROOT = Path(__file__).parents[3]
WORKFLOW = ROOT / "workflow"
FILES = [
    ROOT / "params.yaml",
    *sorted(WORKFLOW.glob("papers/*.yaml")),
    *sorted(WORKFLOW.glob("studies/[!_]*.yaml")),
]
IMAGES = {
    "celeba64": 162_770,
    "church64": 126_227,
    "cifar10": 50_000,
    "digits": 1497,
    "fashion_mnist": 60_000,
    "ffhq64": 70_000,
    "imagenet32": 1_281_167,
    "imagenet64": 1_281_167,
    "mixture": 5000,
    "mnist": 60_000,
}
"""Training images of every data set."""
KEYS = ("file", "dataset", "recipe", "kernel", "coupling")

with files("couplet.reporting").joinpath("published.csv").open() as _file:
    LINES = list(csv.DictReader(_file))
PLACED = [line for line in LINES if line["file"]]


@cache
def params(path, scale):
    return resolve(path, scale)


def settings(training):
    """A training without its seed, its names, and what computes it."""
    recipe = training.recipe.model_copy(update={"sources": {}})
    return training.dataset, training.kernel, training.coupling, recipe


def rows(checked, cell, extractor):
    """The table's rows of a cell, measured as its settings say."""
    measurement, features = checked.measurement(cell), checked.extractor_named(extractor)
    numbers = [
        {"metric": number, "nfe": nfe, "value": 1.0}
        for metric in measurement.evaluate.metrics.values()
        for number in metric.numbers
        for nfe in measurement.sample.nfe
        if number not in ("fid", "is_std")
    ]
    evaluation = {
        "numbers": numbers,
        "extractor": features.label,
        "reference": {"split": "train", "images": images_of(checked, cell)},
    }
    record = {"replaced_gradients": 0}
    result = Result(checked.training(cell), measurement, extractor, features)
    return table([result._replace(record=record, evaluation=evaluation)]).rows


def images_of(checked, cell):
    """The number of real images that samples of a cell are compared with."""
    return checked.reference.images or IMAGES[checked.training(cell).dataset.kind]


def name_of(line):
    return " ".join(line[key] for key in (*KEYS, "nfe", "metric"))


def test_the_rows_are_those_of_the_parameter_files():
    stored = json.loads(files("couplet.reporting").joinpath("published.json").read_text())
    assert stored == resolved(WORKFLOW), "run `make generate`"


@pytest.mark.parametrize("line", LINES, ids=name_of)
def test_a_line_says_what_and_how(line):
    assert float(line["value"]) > 0
    assert line["source"]
    assert bool(line["spread"]) == bool(line["spread_of"])
    assert line["metric"] in METRICS
    assert int(line["samples"]) >= 10_000
    assert int(line["reference_images"]) >= 10_000
    assert all(line[key] for key in KEYS) or not any(line[key] for key in KEYS)


def test_no_number_is_listed_twice():
    keys = [tuple(line[key] for key in (*KEYS, "nfe", "metric", "extractor")) for line in LINES]
    assert len(set(keys)) == len(keys)
    rows = json.loads(files("couplet.reporting").joinpath("published.json").read_text())["rows"]
    assert len(set(rows.values())) == len(rows), "two rows of the papers have the same settings"


@pytest.mark.parametrize("line", PLACED, ids=name_of)
def test_a_row_of_a_paper_has_its_number_at_scale_paper(line):
    checked = params(WORKFLOW / f"{line['file']}.yaml", "paper")
    names = {key: line[key] for key in KEYS[1:]}
    cell, extractor = next(
        (cell, extractor)
        for cell, extractor in checked.measured()
        if {**names, **dict(cell)} == {**dict(cell), **names}
        and checked.extractor_named(extractor).label == line["extractor"]
    )
    assert checked.selector(cell, extractor) == extractor
    (found,) = (each for each in rows(checked, cell, extractor) if each["nfe"] == line["nfe"])
    number, unit = METRICS[line["metric"]]
    column = checked.extractor_named(extractor).metric(number)
    assert float(found[f"published_{column}"]) == pytest.approx(unit * float(line["value"]))
    assert found[f"{column}_difference"]
    assert line["source"] in found["published_source"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_number_stands_in_a_row_of_other_settings_or_of_another_protocol(path):
    """Over all files and scales, judged by the settings themselves and not by their digest."""
    for scale in [None, *scales(path)]:
        checked = params(path, scale)
        for cell, extractor in {
            f"{cell.name} {name}": (cell, name) for cell, name in checked.measured()
        }.values():
            features, training = checked.extractor_named(extractor), checked.training(cell)
            for made in rows(checked, cell, extractor):
                shown = {name for name, text in made.items() if name.startswith("published_") and text}
                if not shown:
                    continue
                own = [
                    line
                    for line in PLACED
                    if settings(trained(*(line[key] for key in KEYS))) == settings(training)
                    and line["nfe"] == made["nfe"]
                ]
                assert own, f"{path} at {scale}: {cell} has {shown}"
                for line in own:
                    column = features.metric(METRICS[line["metric"]][0])
                    if f"published_{column}" in shown:
                        assert line["extractor"] == features.label
                        assert int(line["samples"]) == checked.sample.samples
                        assert int(line["reference_images"]) == images_of(checked, cell)
                    else:
                        assert line["metric"] in made["published_otherwise"]


@cache
def trained(file, dataset, recipe, kernel, coupling):
    checked = params(WORKFLOW / f"{file}.yaml", "paper")
    names = {"dataset": dataset, "recipe": recipe, "kernel": kernel, "coupling": coupling}
    return checked.training(checked.experiment.model_copy(update=names))


@pytest.mark.parametrize(
    ("paper", "names", "nfe", "changes"),
    [
        ("gc", "coupling=generator", 1, ["couplings.generator.predictor=online"]),
        ("gc", "coupling=generator", 1, ["couplings.generator.mu=0.7"]),
        ("gc", "coupling=generator", 1, ["couplings.generator.mu_end=0.9"]),
        ("gc", "coupling=generator", 1, ["recipes.gc-ict.network.dropout=0.3"]),
        ("gc", "coupling=generator", 1, ["recipes.gc-ict.steps=99999"]),
        ("gc", "coupling=generator", 1, ["recipes.gc-ict.ema.every=1"]),
        ("gc", "coupling=generator", 1, ["recipes.gc-ict.optimizer.lr=3.0e-5"]),
        ("gc", "coupling=generator", 1, ["recipes.gc-ict.init_from=weights/mine.safetensors"]),
        ("gc", "coupling=generator", 1, ["kernel=li"]),
        ("gc", "coupling=ot", 1, ["couplings.ot.parts=2"]),
        ("gc", "coupling=ot", 1, ["couplings.ot.recouple_when_sampling=false"]),
        ("vct", "coupling=vae", 2, ["couplings.vae.kl_weight=30"]),
        ("vct", "coupling=vae", 2, ["couplings.vae.encoder.num_blocks=2"]),
        ("vct", "coupling=vae", 2, ["recipes.vct-ecm.clip_norm=null"]),
        ("vct", "coupling=vae", 2, ["recipes.vct-ecm.mid_sigmas=[1.0]"]),
        ("ict", "dataset=imagenet64", 1, ["datasets.imagenet64.crop=center-crop"]),
    ],
)
def test_a_number_belongs_to_every_setting_of_its_row(paper, names, nfe, changes):
    def numbers(*changes):
        checked = resolve(WORKFLOW / f"papers/{paper}.yaml", "paper", [names, *changes])
        return reported(checked.training(checked.experiment), nfe, "fd")

    assert len(numbers()) == 1
    assert numbers(*changes) == []


@pytest.mark.parametrize(
    "change",
    [
        "seed=7",
        "train.log_every=7",
        "train.save_every=7",
        "train.microbatch=32",
        "train.precision=tf32",
        "sample.repeats=1",
        "recipes.gc-ict.sources={steps: elsewhere}",
        "sample.batch=7",
    ],
)
def test_what_decides_nothing_takes_no_number_away(change):
    checked = resolve(WORKFLOW / "papers/gc.yaml", "paper", [change])
    (made,) = rows(checked, checked.experiment, "inception-legacy")
    assert made["fid_legacy_tensorflow_difference"] == "-4.950"


def test_a_row_s_name_means_nothing(tmp_path):
    text = (WORKFLOW / "papers/gc.yaml").read_text()
    copy = tmp_path / "mine.yaml"
    copy.write_text(text.replace("gc-ict", "mine"))
    checked = resolve(copy, "paper")
    assert [each.name for each in reported(checked.training(checked.experiment), 1, "fd")] == ["FID 5.95"]
