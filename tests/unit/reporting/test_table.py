"""Rows, their columns by extractor, and the papers' numbers beside them."""

import csv
import io
import re

import pytest

from couplet.config.extractors import ClassifierConfig, DinoV2Config, InceptionConfig
from couplet.config.params import Params
from couplet.reporting.published import reported
from couplet.reporting.table import Result, table

INCEPTION = InceptionConfig()


def rows(results):
    return table(results).rows


@pytest.fixture
def result(params_content):
    """A made-up measurement of a cell of GC's table, or of other settings."""

    def make(
        metrics,
        *,
        seed=0,
        extractor="inception-0",
        features=INCEPTION,
        coupling="generator",
        dataset=None,
        scale="",
        replaced=0,
        missing="",
        dropout=0.0,
        settings=None,
        **recipe,
    ):
        content = dict(params_content)
        content["couplings"] = {
            **content["couplings"],
            coupling: {**content["couplings"][coupling], **(settings or {})},
        }
        content["datasets"] = {"cifar10": dataset or {"kind": "cifar10"}}
        network = {**content["recipes"]["ict"]["network"], "dropout": dropout}
        recipe = {"published_as": "GC iCT", "network": network, **recipe}
        content["recipes"] = {"gc": {**content["recipes"]["ict"], **recipe}}
        names = {"dataset": "cifar10", "recipe": "gc", "kernel": "ve", "coupling": coupling, "seed": seed}
        content |= names
        content["table1"] = {f"{key}s": [value] for key, value in names.items()}
        params = Params.model_validate(content)
        evaluation = {
            "numbers": [
                {"metric": metric, "extractor": extractor, "nfe": nfe, "seed": seed, "value": value}
                for (metric, nfe), value in metrics.items()
            ],
            "extractor": extractor,
            "reference": {"split": "train", "images": 50000},
        }
        record = {"seconds": 10.0 + seed, "images_per_second": 100.0, "replaced_gradients": replaced}
        training = params.training(params.experiment)
        made = Result(training, extractor, features, scale)
        if missing:
            return made._replace(nfe=(1, 2), missing=missing)
        return made._replace(run=f"run-{seed}", record=record, evaluation=evaluation)

    return make


def test_seeds_are_averaged_and_nfe_are_rows(result):
    made = rows(
        [
            result({("fd", 1): 6.0, ("kid", 1): 0.002, ("fd", 2): 5.0, ("kid", 2): 0.001}),
            result({("fd", 1): 6.2, ("kid", 1): 0.004, ("fd", 2): 5.0, ("kid", 2): 0.001}, seed=1),
        ]
    )
    assert [(row["nfe"], row["seeds"], row["fid_mean"], row["fid_std"]) for row in made] == [
        ("1", "2", "6.100", "0.141"),
        ("2", "2", "5.000", "0.000"),
    ]
    assert made[0]["kid_mean"] == "0.00300"
    assert made[0]["train_seconds"] == "10.5"
    assert made[0]["runs"] == "run-0 run-1"


def test_published_number_stands_beside_with_the_difference_in_its_std(result):
    """GC, Table 1: FID 5.95 ± 0.05, KID 0.26 ± 0.02 hundredths, IS 9.10 ± 0.05 at mu = 0.5."""
    (row,) = rows([result({("fd", 1): 6.10, ("kid", 1): 0.0024, ("is", 1): 9.0, ("is_std", 1): 0.1})])
    assert (row["published_fid"], row["published_fid_std"], row["fid_difference"]) == (
        "5.950",
        "0.050",
        "+3.0",
    )
    assert (row["published_kid"], row["kid_difference"]) == ("0.00260", "-1.0")
    assert (row["published_is"], row["is_difference"]) == ("9.100", "-2.0")
    assert "arXiv 2406.09570" in row["published_source"]
    assert not any(name.startswith("is_std_") for name in row)


@pytest.mark.parametrize(
    "settings",
    [
        {"coupling": "vae"},
        {"dataset": {"kind": "images", "path": "cifar10-jpeg", "resolution": 32}},
    ],
    ids=["no paper has this coupling", "a folder of images called cifar10 is not CIFAR-10"],
)
def test_what_no_paper_reports_stays_blank(result, settings):
    (row,) = rows([result({("fd", 1): 6.10}, **settings)])
    assert row["fid_mean"] == "6.100"
    assert row["published_fid"] == row["published_fid_std"] == row["fid_difference"] == ""
    assert row["published_source"] == ""


def test_difference_needs_a_published_std(result):
    made = result({("fd", 1): 3.0}, coupling="independent", published_as="iCT iCT", dropout=0.3)
    (row,) = rows([made])
    assert (row["published_fid"], row["fid_difference"]) == ("2.830", "")


def test_published_number_of_another_nfe_or_metric_is_not_taken(result):
    training = result({}).training
    assert reported(training, 1, "fid").value == 5.95
    assert reported(training, 1, "fid_legacy_tensorflow").value == 5.95
    assert reported(training, 1, "fid_589f637b").value is None
    assert reported(training, 2, "fid").value is None
    assert reported(training, 1, "precision").value is None
    assert reported(training, 1, "fd_classifier").value is None


@pytest.mark.parametrize(
    ("coupling", "change"),
    [
        ("generator", {"settings": {"predictor": "online"}}),
        ("generator", {"settings": {"mu": 0.7}}),
        ("generator", {"settings": {"mu_end": 0.9}}),
        ("generator", {"dropout": 0.3}),
        ("ot", {"settings": {"parts": 2}}),
        ("ot", {"settings": {"recouple_when_sampling": False}}),
        ("vae", {"settings": {"kl_weight": 30.0}}),
        ("vae", {"settings": {"encoder": {"model_channels": 32, "num_blocks": 2}}}),
        ("vae", {"dropout": 0.1}),
    ],
)
def test_published_number_belongs_to_the_settings_that_its_row_names(result, coupling, change):
    vae = {"kl_weight": 10.0, "encoder": {"model_channels": 32, "num_blocks": 1}}
    published = {"published_as": "VCT ECM", "dropout": 0.2, "settings": vae} if coupling == "vae" else {}
    nfe = 2 if coupling == "vae" else 1
    same = result({}, coupling=coupling, **published).training
    other = {**published, **change}
    other["settings"] = {**published.get("settings", {}), **change.get("settings", {})}
    assert reported(same, nfe, "fid").value is not None
    assert reported(result({}, coupling=coupling, **other).training, nfe, "fid").value is None


def test_extractors_share_neither_row_nor_column(result):
    made = rows(
        [
            result({("fd", 1): 6.0}),
            result({("fd", 1): 0.5}, extractor="classifier-0123abcd", features=ClassifierConfig()),
        ]
    )
    assert [row["extractor"] for row in made] == ["inception-0", "classifier-0123abcd"]
    assert [(row["fid_mean"], row["fd_classifier_mean"]) for row in made] == [("6.000", ""), ("", "0.500")]
    assert [row["published_fid"] for row in made] == ["5.950", ""]


def test_other_modes_of_an_extractor_have_columns_of_their_own(result):
    legacy = InceptionConfig(mode="legacy_tensorflow")
    made = table([result({("fd", 1): 6.0, ("kid", 1): 0.002}, features=legacy)])
    (row,) = made.rows
    assert (row["fid_legacy_tensorflow_mean"], row["published_fid_legacy_tensorflow"]) == ("6.000", "5.950")
    assert "| FID ↓ (legacy_tensorflow) | published FID ↓ (legacy_tensorflow) |" in made.markdown()
    assert (
        "Fréchet distance ↓ (classifier)"
        in table([result({("fd", 1): 6.0}, features=ClassifierConfig())]).markdown()
    )


def test_csv_has_the_same_columns_in_every_row(result):
    made = table(
        [
            result({("fd", 1): 6.0}, scale="small"),
            result({("fd", 1): 1.0}, extractor="x-1", features=DinoV2Config()),
        ]
    )
    read = list(csv.DictReader(io.StringIO(made.csv())))
    assert read == made.rows
    assert [row["scale"] for row in read] == ["small", ""]


def test_markdown_joins_mean_and_std_and_drops_empty_columns(result):
    text = table([result({("fd", 1): 6.0}), result({("fd", 1): 6.2}, seed=1)]).markdown()
    head, _, line = text.splitlines()
    assert "6.100 ± 0.141" in line
    assert "5.950 ± 0.050" in line
    assert "| FID ↓ |" in head
    assert "| published FID ↓ |" in head
    for absent in ("scale", "run-0", "_mean", "_std", "KID"):
        assert absent not in text


def test_page_has_the_cells_of_the_markdown_and_refers_to_nothing(result):
    made = table([result({("fd", 1): 6.0}), result({("fd", 1): 6.2}, seed=1)])
    page = made.html("<mine>")
    head, _, line = (text.strip("| ").split(" | ") for text in made.markdown().splitlines())
    assert re.findall("<th>(.*?)</th>", page) == head
    assert re.findall("<td>(.*?)</td>", page) == line
    assert "<h1>&lt;mine&gt;</h1>" in page
    assert not re.search(r"src=|href=|url\(|@import", page)


def test_missing_cells_are_named_and_not_averaged_away(result):
    partial = table(
        [
            result({("fd", 1): 6.0, ("fd", 2): 5.0}),
            result({}, seed=1, missing="not trained"),
            result({}, coupling="vae", missing="no samples", scale="small"),
            result({("fd", 1): 4.0, ("fd", 2): 3.0}, coupling="ot"),
        ]
    )
    made = partial.rows
    shown = [(row["coupling"], row["nfe"], row["seeds"], row["missing"], row["fid_mean"]) for row in made]
    assert shown == [
        ("generator", "1", "1 of 2", "seed 1: not trained", "6.000"),
        ("generator", "2", "1 of 2", "seed 1: not trained", "5.000"),
        ("vae", "1", "0 of 1", "seed 0: no samples", ""),
        ("vae", "2", "0 of 1", "seed 0: no samples", ""),
        ("ot", "1", "1", "", "4.000"),
        ("ot", "2", "1", "", "3.000"),
    ]
    assert made[0]["fid_std"] == ""
    assert (made[2]["published_fid"], made[2]["runs"], made[2]["reference"]) == ("", "", "")
    assert (made[2]["extractor"], made[2]["scale"]) == ("inception-0", "small")
    assert len({tuple(row) for row in made}) == 1
    assert "| 0 of 1 | seed 0: no samples |" in partial.markdown()


def test_steps_with_replaced_gradients_are_shown_where_a_recipe_allows_them(result):
    numbers = {("fd", 1): 6.0}
    stopping = [result(numbers), result(numbers, seed=1)]
    assert "replaced_gradients" not in rows(stopping)[0]
    zeroing = [
        result(numbers, coupling="ot", seed=seed, replaced=3 * seed, nonfinite_gradients="zero")
        for seed in (0, 1)
    ]
    made = table([*stopping, *zeroing])
    assert [row["replaced_gradients"] for row in made.rows] == ["0", "1.5"]
    assert "| steps with replaced gradients |" in made.markdown()
    assert rows([result(numbers, replaced=2)])[0]["replaced_gradients"] == "2"
