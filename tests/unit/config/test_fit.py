"""Data set, recipe, measurement and extractor that do not fit together are refused when they are resolved."""

import pytest
from pydantic import ValidationError

from couplet.config.base import Invalid, validated
from couplet.config.extractors import ExtractorConfig
from couplet.config.fit import Facts, check_fit
from couplet.config.params import Params
from couplet.errors import UserError

FLAT = {"kind": "images", "path": "pictures", "resolution": 8, "test_images": 4}


@pytest.fixture
def refused(grid_content):
    """The message for changed parameters, as a user sees it after the file's name."""

    def check(changes):
        for key, value in changes.items():
            section, *rest = grid_content, *key.split(".")
            for part in rest[:-1]:
                section = section.setdefault(part, {})
            section[rest[-1]] = value
        with pytest.raises(UserError) as caught:
            validated(Params, grid_content, "file")
        return str(caught.value).removeprefix("file: ")

    return check


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"dataset": "celeba64", "recipes.ict.conditional": True, "extractor": "inception"},
            "recipes.ict.conditional = true: must be false: data set celeba64 has no labels",
        ),
        (
            {"dataset": "celeba64"},
            'extractor = "classifier": data set celeba64 has no classes that a classifier could learn; '
            "choose another extractor: dinov2, inception, values",
        ),
        (
            {"dataset": "mixture", "recipes.ict.network.channel_mult": [1], "extractor": "inception"},
            'extractor = "inception": data set mixture has images of 2 channels, published extractors take 1 '
            "or 3; choose another extractor: classifier, dinov2, values",
        ),
        (
            {"dataset": "mixture", "extractor": "values"},
            'recipes.ict.network.kind = "ddpmpp": data set mixture: resolution 1 is not a multiple of 2, '
            "which 2 levels (channel_mult [1, 2]) need",
        ),
        (
            {"datasets.flat": {**FLAT, "resolution": 9}, "dataset": "flat"},
            'recipes.ict.network.kind = "ddpmpp": data set flat: resolution 9 is not a multiple of 2, which',
        ),
        (
            {"datasets.flat": {**FLAT, "resolution": 66}, "dataset": "flat", "extractor": "values"},
            'extractor = "values": data set flat has images of 4356 values or more, values as features',
        ),
        (
            {"datasets.digits.test_images": 1000, "evaluate.metrics": {"precision_recall": {"k": 797}}},
            'evaluate.metrics.precision_recall = "precision_recall": needs 798 images or more with its '
            "settings; sample.samples is 16",
        ),
        (
            {
                "datasets.digits.test_images": 1000,
                "sample.samples": 900,
                "evaluate.metrics": {"pr": {"kind": "precision_recall", "k": 797}},
            },
            'evaluate.metrics.pr = "precision_recall": needs 798 images or more with its settings; number of '
            "training images of data set digits is 797",
        ),
        (
            {"extractor": "inception", "evaluate.metrics": {"is": {"splits": 17}}},
            'evaluate.metrics.is = "is": needs 17 images or more with its settings; sample.samples is 16',
        ),
        (
            {"evaluate.metrics": {"precision_recall": {"k": 5, "images": 5}}},
            "evaluate.metrics.precision_recall.images = 5: must be above k = 5",
        ),
        (
            {"dataset": "church64", "extractor": "inception"},
            'select.split = "test": data set church64 has no test split; set train, as the papers do, or '
            "datasets.church64.test_images",
        ),
        ({"table1.datasets": ["ffhq64"], "select.split": "train"}, "data set ffhq64 has no classes"),
        ({"select.nfe": 3}, "select.nfe = 3: must lie between 1 and 2"),
    ],
)
def test_what_settings_tell_is_refused_when_they_are_resolved(refused, changes, message):
    assert refused(changes).startswith(message) or message in refused(changes)


def test_scores_of_classes_count_only_with_an_extractor_that_classifies(grid_content):
    grid_content["evaluate"] = {"metrics": {"is": {"splits": 17}}}
    Params.model_validate(grid_content)


def test_table_is_checked_with_its_own_extractors(grid_content):
    grid_content["table1"] |= {"datasets": ["celeba64"], "extractors": ["inception"]}
    Params.model_validate(grid_content)
    grid_content["table1"]["extractors"] = ["inception", "classifier"]
    with pytest.raises(ValidationError, match="data set celeba64 has no classes"):
        Params.model_validate(grid_content)


def facts(**changes):
    known = {"resolution": 8, "channels": 3, "classes": 2, "splits": {"train": 20, "test": 4}}
    return Facts(name="mine", **{**known, **changes})


@pytest.mark.parametrize(
    ("changes", "extractor", "message"),
    [
        ({"classes": 0}, "classifier", "data set mine has no classes"),
        ({"classes": 1}, "classifier", "data set mine has images of 1 class, a classifier needs 2"),
        (
            {"classes": 3, "empty_classes": ("0", "1")},
            "classifier",
            "has images of 1 class, a classifier needs",
        ),
        ({"splits": {"train": 2}}, "classifier", "has 2 training images, a classifier needs 3 or more"),
        (
            {"splits": {"train": 1, "test": 4}},
            "classifier",
            "has 1 training images, a classifier needs 2 or more",
        ),
        (
            {"splits": {"train": 20, "test": 1}},
            "values",
            'datasets.mine = "test": has 1 image, statistics need 2',
        ),
        (
            {"splits": {"train": 1}},
            "values",
            'datasets.mine = "train": has 1 image, statistics need 2 or more',
        ),
        ({"channels": 2}, "dinov2", "data set mine has images of 2 channels"),
        ({"resolution": 64}, "values", "data set mine has images of 12288 values"),
    ],
)
def test_what_a_card_tells_of_an_extractor(changes, extractor, message):
    config = ExtractorConfig.parse(extractor)
    check_fit(facts(), extractor=config)
    with pytest.raises(Invalid) as caught:
        check_fit(facts(**changes), extractor=config)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 0}, "recipes.tiny.conditional = true: must be false: data set mine has no labels"),
        (
            {"empty_classes": ("0",)},
            "recipes.tiny.conditional = true: class 0 of data set mine has no training image, but samples",
        ),
        ({"resolution": 7}, None),  # one level
    ],
)
def test_what_a_card_tells_of_a_recipe(make_training, changes, message):
    training = make_training(conditional=True)
    check_fit(facts(), training)
    check_fit(facts(**changes), make_training())
    if message is None:
        check_fit(facts(**changes), training)
        return
    with pytest.raises(Invalid) as caught:
        check_fit(facts(**changes), training)
    assert str(caught.value).startswith(message)


def test_what_is_not_known_yet_is_not_refused(make_training):
    nothing = Facts(name="mine", resolution=None, channels=None, classes=None, splits=None)
    for extractor in ExtractorConfig.family:
        check_fit(nothing, make_training(conditional=True), extractor=ExtractorConfig.parse(extractor))
