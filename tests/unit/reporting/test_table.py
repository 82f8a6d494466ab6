"""Rows, their columns by extractor, and the papers' numbers beside them."""

import csv
import io
import re
from pathlib import Path

import pytest

from couplet.config.extractors import ClassifierConfig, DinoV2Config, InceptionConfig
from couplet.config.resolve import resolve
from couplet.figures.marks import number
from couplet.reporting.statements import spread
from couplet.reporting.table import Result, table
from couplet.reporting.times import StepTime
from couplet.stages.score import Score, lines

FID = "fid_legacy_tensorflow"
PAPERS = Path(__file__).parents[3] / "workflow/papers"
LEGACY = InceptionConfig(mode="legacy_tensorflow")


def rows(results):
    return table(results).rows


@pytest.fixture
def result():
    """A made-up measurement of a row of GC's table on CIFAR-10, or of other settings."""

    def make(
        metrics,
        *,
        seed=0,
        extractor="inception-0",
        features=LEGACY,
        coupling="generator",
        file="gc",
        changes=(),
        images=50_000,
        scale="",
        replaced=0,
        missing="",
        spreads=(),
        time=None,
    ):
        names = [f"coupling={coupling}", f"seed={seed}"]
        params = resolve(PAPERS / f"{file}.yaml", "paper", [*names, *changes])
        evaluation = {
            "numbers": [
                {"metric": metric, "extractor": extractor, "nfe": nfe, "seed": seed, "value": value}
                for (metric, nfe), value in metrics.items()
            ],
            "extractor": extractor,
            "reference": {"split": "train", "images": images},
        }
        for row, std in zip(evaluation["numbers"], spreads, strict=False):
            row["resampling_std"] = std
        record = {"replaced_gradients": replaced}
        training, measurement = params.training(params.experiment), params.measurement(params.experiment)
        made = Result(training, measurement, extractor, features, scale, time=time)
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
    assert [(row["nfe"], row["seeds"], row[f"{FID}_mean"], row[f"{FID}_std"]) for row in made] == [
        ("1", "2", "6.100", "0.141"),
        ("2", "2", "5.000", "0.000"),
    ]
    assert made[0]["kid_legacy_tensorflow_mean"] == "0.00300"
    assert made[0]["runs"] == "run-0 run-1"


def test_what_rounds_to_zero_has_no_minus_sign(result):
    """In tables, differences, lists of scores, statements and labels of axes; other negative numbers do."""
    published = rows([result({("fd", 1): 6.0}), result({("fd", 1): 6.2}, seed=1)])[0][f"published_{FID}"]
    near = float(published) - 2e-4
    made = rows([result({("fd", 1): near}), result({("fd", 1): near + 1e-5}, seed=1)])[0]
    assert made[f"{FID}_difference"] == "+0.000"
    tiny, small = (rows([result({("fd", 1): value, ("kid", 1): value})])[0] for value in (-2e-14, -0.0123))
    assert (tiny[f"{FID}_mean"], tiny["kid_legacy_tensorflow_mean"]) == ("0.000", "0.00000")
    assert (small[f"{FID}_mean"], small["kid_legacy_tensorflow_mean"]) == ("-0.012", "-0.01230")
    score = Score("fd", LEGACY, -2e-14, {})
    assert [line[1] for line in lines([score])] == ["0.000"]
    assert spread([-0.0, -0.0]).startswith("0 ± 0")
    assert number(-0.0) == "0"


def test_columns_of_time_follow_from_the_measured_time_of_a_step(result):
    """GC trains 100,000 steps of 512 images; nothing comes from the wall clock of the runs."""
    time = StepTime.of([200.0, 250.0, 260.0, 240.0, 400.0], how="time between events on the GPU, A100")
    made = table([result({("fd", 1): 6.1}, time=time), result({("fd", 1): 6.2}, seed=1, time=time)])
    (row,) = made.rows
    names = ("step_ms", "step_ms_spread", "train_seconds", "images_per_second", "timed_by")
    assert [row[name] for name in names] == ["250", "10", "25000.0", "2048", time.how]
    headings, (text,) = made.reading()
    assert dict(zip(headings, text, strict=True))["step (ms)"] == "250 ± 10"
    untimed = table([result({("fd", 1): 6.1})])
    assert [untimed.rows[0][name] for name in names] == [""] * 5
    assert not {"step (ms)", "training (s)", "images/s"} & {*untimed.reading()[0]}


def test_a_published_number_stands_beside_one_of_the_same_protocol(result):
    """GC, Table 1: FID 5.95 ± 0.05, KID 0.26 ± 0.02 hundredths, IS 9.10 ± 0.05 at mu = 0.5."""
    numbers = {("fd", 1): 6.10, ("kid", 1): 0.0024, ("is", 1): 9.0, ("is_std", 1): 0.1}
    (row,) = rows([result(numbers)])
    legacy = {name.replace("_legacy_tensorflow", ""): value for name, value in row.items()}
    assert (legacy["published_fid"], legacy["published_fid_spread"], legacy["fid_difference"]) == (
        "5.950",
        "0.050",
        "+0.150",
    )
    assert (legacy["published_kid"], legacy["kid_difference"]) == ("0.00260", "-0.00020")
    assert (legacy["published_is"], legacy["is_difference"]) == ("9.100", "-0.100")
    assert row["published_spread_of"] == "5 resamplings of one model"
    assert "arXiv 2406.09570" in row["published_source"]
    assert not any(name.startswith("is_std_") for name in row)
    assert "published_otherwise" not in row


def test_the_difference_is_in_fid_and_in_our_std_over_seeds_never_in_the_paper_s(result):
    one = rows([result({("fd", 1): 6.10})])[0]
    assert one["fid_legacy_tensorflow_difference"] == "+0.150"
    assert one["fid_legacy_tensorflow_difference_in_std"] == ""
    (two,) = rows([result({("fd", 1): 6.0}), result({("fd", 1): 6.4}, seed=1)])
    assert two["fid_legacy_tensorflow_difference"] == "+0.250"
    assert two["fid_legacy_tensorflow_difference_in_std"] == "+0.9"  # 0.25 of 0.283
    (same,) = rows([result({("fd", 1): 6.0}), result({("fd", 1): 6.0}, seed=1)])
    assert same["fid_legacy_tensorflow_difference_in_std"] == ""


@pytest.mark.parametrize(
    ("settings", "theirs", "ours"),
    [
        ({"features": InceptionConfig()}, "inception_legacy_tensorflow", "inception"),
        ({"features": InceptionConfig(mode="legacy_pytorch")}, *2 * ["inception_legacy_"]),
        ({"features": ClassifierConfig()}, "inception_legacy_tensorflow", "classifier"),
        ({"images": 1_281_167}, "50,000 reference images", "1,281,167 reference images"),
        ({"changes": ["sample.samples=5000"]}, "50,000 samples", "5,000 samples"),
        ({"changes": ["sample.quantise=round"]}, "sample.quantise truncate", "sample.quantise round"),
        ({"changes": ["select.samples=500"]}, "select.samples 50000", "select.samples 500"),
        ({"changes": ["train.snapshots=7"]}, "train.snapshots 20", "train.snapshots 7"),
        ({"changes": ["train.precision=bf16"]}, "train.precision float32 or tf32", "train.precision bf16"),
    ],
)
def test_of_another_protocol_one_cell_says_how_and_nothing_is_subtracted(result, settings, theirs, ours):
    made = table([result({("fd", 1): 6.10}, **settings), result({("fd", 1): 6.20}, seed=1, **settings)])
    (row,) = made.rows
    assert re.fullmatch(rf"published FID 5\.95: {theirs}.*, here: {ours}.*", row["published_otherwise"])
    assert [
        name for name in row if re.search("_difference|published_fid|published_source", name) and row[name]
    ] == []
    assert row["published_otherwise"] in made.markdown()


def test_numbers_whose_protocols_differ_alike_share_a_clause(result):
    changes = ["evaluate.metrics.kid.subset_size=500", "sample.samples=5000"]
    (row,) = rows([result({("fd", 1): 6.1, ("kid", 1): 0.0024, ("is", 1): 9.0}, changes=changes)])
    assert row["published_otherwise"] == (
        "published FID 5.95, IS 9.10: 50,000 samples, here: 5,000 samples; "
        "published KIDx100 0.26: subset size 1000, 50,000 samples, here: subset size 500, 5,000 samples"
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"coupling": "vae"},
        {"changes": ["datasets.cifar10={kind: images, path: cifar10-jpeg, resolution: 32}"]},
    ],
    ids=["no paper has this coupling", "a folder of images called cifar10 is not CIFAR-10"],
)
def test_what_no_paper_reports_stays_blank(result, settings):
    (row,) = rows([result({("fd", 1): 6.10}, **settings)])
    assert row[f"{FID}_mean"] == "6.100"
    assert not any(value for name, value in row.items() if "published" in name or "difference" in name)


def test_extractors_share_neither_row_nor_column(result):
    made = rows(
        [
            result({("fd", 1): 6.0}),
            result({("fd", 1): 0.5}, extractor="classifier-0123abcd", features=ClassifierConfig()),
        ]
    )
    assert [row["extractor"] for row in made] == ["inception-0", "classifier-0123abcd"]
    assert [(row[f"{FID}_mean"], row["fd_classifier_mean"]) for row in made] == [
        ("6.000", ""),
        ("", "0.500"),
    ]
    assert [row[f"published_{FID}"] for row in made] == ["5.950", ""]


def test_other_modes_of_an_extractor_have_columns_of_their_own(result):
    clean, legacy = (table([result({("fd", 1): 6.0}, features=each)]) for each in (InceptionConfig(), LEGACY))
    assert (clean.rows[0]["fid_mean"], legacy.rows[0][f"{FID}_mean"]) == ("6.000", "6.000")
    assert "| FID ↓ |" in clean.markdown()
    assert "| FID ↓ (legacy_tensorflow) | published FID ↓ (legacy_tensorflow) |" in legacy.markdown()
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
    assert "| FID ↓ (legacy_tensorflow) |" in head
    assert "| published FID ↓ (legacy_tensorflow) |" in head
    for absent in ("scale", "run-0", "_mean", "_std |", "KID"):
        assert absent not in text


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
    shown = [(row["coupling"], row["nfe"], row["seeds"], row["missing"], row[f"{FID}_mean"]) for row in made]
    assert shown == [
        ("generator", "1", "1 of 2", "seed 1: not trained", "6.000"),
        ("generator", "2", "1 of 2", "seed 1: not trained", "5.000"),
        ("vae", "1", "0 of 1", "seed 0: no samples", ""),
        ("vae", "2", "0 of 1", "seed 0: no samples", ""),
        ("ot", "1", "1", "", "4.000"),
        ("ot", "2", "1", "", "3.000"),
    ]
    assert made[0][f"{FID}_std"] == ""
    assert (made[2][f"published_{FID}"], made[2]["runs"], made[2]["reference"]) == ("", "", "")
    assert (made[2]["extractor"], made[2]["scale"]) == ("inception-0", "small")
    assert len({tuple(row) for row in made}) == 1
    assert "| 0 of 1 | seed 0: no samples |" in partial.markdown()


def test_steps_with_replaced_gradients_are_shown_where_a_recipe_allows_them(result):
    numbers = {("fd", 1): 6.0}
    stopping = [result(numbers), result(numbers, seed=1)]
    assert "replaced_gradients" not in rows(stopping)[0]
    allowing = ["recipes.gc-ict.nonfinite_gradients=zero"]
    zeroing = [
        result(numbers, coupling="ot", seed=seed, replaced=3 * seed, changes=allowing) for seed in (0, 1)
    ]
    made = table([*stopping, *zeroing])
    assert [row["replaced_gradients"] for row in made.rows] == ["0", "1.5"]
    assert "| steps with replaced gradients |" in made.markdown()
    assert rows([result(numbers, replaced=2)])[0]["replaced_gradients"] == "2"


def test_a_spread_over_samples_of_one_model_has_a_column_of_its_own(result):
    numbers = {("fd", 1): 6.0, ("kid", 1): 0.002}
    made = table([result(numbers, spreads=(0.04, 1e-5)), result(numbers, seed=1, spreads=(0.06, 3e-5))])
    (row,) = made.rows
    assert (row[f"{FID}_std"], row[f"{FID}_resampling_std"]) == ("0.000", "0.050")
    assert row["kid_legacy_tensorflow_resampling_std"] == "0.00002"
    assert "| FID ↓ (legacy_tensorflow), std over samples of one model |" in made.markdown()
    assert "6.000 ± 0.000" in made.markdown()
    assert f"{FID}_resampling_std" not in rows([result(numbers)])[0]


def test_precision_and_recall_say_in_what_and_of_how_many(result):
    changes = ["evaluate.metrics.precision_recall={k: 5, images: 20000}", "sample.samples=15000"]
    made = table([result({("precision", 1): 0.7, ("recall", 1): 0.6}, changes=changes)])
    stated = "inception_legacy_tensorflow, k 5, 15,000 samples, 20,000 reference images"
    assert made.rows[0]["precision_recall_protocol"] == stated
    assert "| precision and recall of |" in made.markdown()
    assert stated in made.markdown()
    assert "precision_recall_protocol" not in rows([result({("fd", 1): 6.0})])[0]
    changes = ["evaluate.metrics={wide: {kind: precision_recall, k: 7}}"]
    (row,) = rows([result({("wide_precision", 1): 0.7, ("wide_recall", 1): 0.6}, changes=changes)])
    assert row["wide_protocol"] == (
        "inception_legacy_tensorflow, k 7, 10,000 samples, 10,000 reference images"
    )


def test_a_metric_under_a_name_of_its_own_has_no_published_number(result):
    changes = ["evaluate.metrics={other: {kind: fd}}"]
    (row,) = rows([result({("other_fd", 1): 6.0}, changes=changes)])
    assert not any(value for name, value in row.items() if "published" in name or "difference" in name)


def test_difference_from_independent_is_within_seeds(result):
    def cells(coupling, values, seeds=(0, 1, 2)):
        return [
            result({("fd", 1): value, ("fd", 2): 5.0, ("kid", 1): 0.002}, coupling=coupling, seed=seed)
            for seed, value in zip(seeds, values, strict=True)
        ]

    made = table(
        [
            *cells("generator", (5.0, 8.1, 6.9)),
            *cells("independent", (6.0, 9.0, 8.0)),
            *cells("ot", (6.5, 1.0), seeds=(0, 7)),
        ]
    )
    generator, generator_2, independent, _, ot, ot_2 = made.rows
    versus = [f"{FID}_minus_independent{part}" for part in ("", "_low", "_high", "_pairs")]
    # Differences -1, -0.9, -1.1: standard error 0.1/sqrt(3), t = 4.303.
    assert [generator[name] for name in versus] == ["-1.000", "-1.248", "-0.752", "3"]
    assert [generator_2[name] for name in versus] == ["+0.000", "+0.000", "+0.000", "3"]
    assert [independent[name] for name in versus] == [""] * 4
    assert [ot[name] for name in versus] == ["+0.500", "", "", "1"]
    assert [ot_2[name] for name in versus] == ["+0.000", "", "", "1"]
    assert not any(name.startswith("kid") and "independent" in name for name in generator)
    text = made.markdown()
    assert "| FID ↓ (legacy_tensorflow) | FID ↓ (legacy_tensorflow) minus independent |" in text
    assert "| −1.000 [−1.248, −0.752], 3 pairs |" in text
    assert "| +0.500, 1 pair |" in text


def test_rows_are_compared_with_the_independent_coupling_of_their_own_context(result):
    """A table without one has no such column, nor a row whose extractor has not measured it."""
    numbers = {("fd", 1): 6.0}
    classifier = {"extractor": "classifier-0", "features": ClassifierConfig()}
    alone = [result(numbers), result(numbers, coupling="ot", **classifier)]
    assert not any("minus" in name for name in rows(alone)[0])
    made = rows([*alone, result({("fd", 1): 1.0}, coupling="independent", **classifier)])
    assert [row["fd_classifier_minus_independent"] for row in made] == ["", "+5.000", ""]
    assert f"{FID}_minus_independent" not in made[0]
    missing = [result({}, coupling="independent", missing="not trained"), result(numbers)]
    assert not any("minus" in name for name in rows(missing)[0])
