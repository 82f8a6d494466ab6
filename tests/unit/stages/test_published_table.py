"""The list of published models, and the table that is made of it and of scores."""

import csv
import json

import pytest
import yaml

from couplet.config.published import published_list
from couplet.errors import UserError
from couplet.plan.published import import_key, measured_key, measured_name, named

MODEL = {
    "method": "m",
    "file": "https://example.org/x.pkl",
    "table": "ect",
    "dataset": "cifar10",
    "extractor": "inception-legacy",
    "reported": [{"nfe": 1, "value": 3.0}, {"nfe": 2, "value": 2.5}],
    "protocol": "theirs",
    "source": "somewhere",
    "note": "no digest is stated",
}


def listed(folder, **change):
    path = folder / "list.yaml"
    path.write_text(yaml.safe_dump({"models": {"one-two": {**MODEL, **change}}}))
    return path


def scored(folder, model, nfe, value):
    """A file of `couplet score` in its folder."""
    path = folder / measured_name(model, nfe, "0123abcd") / "score.json"
    path.parent.mkdir()
    number = {"metric": "fd", "value": value, "protocol": {"samples": 7, "reference_images": None}}
    path.write_text(json.dumps({"numbers": [number]}))
    return path


def table(couplet, models, *scores):
    given = [word for score in scores for word in ("--score", score)]
    code, _, err = couplet("published", models, *given, "--out", models.parent / "t.csv")
    if code:
        return code, err
    with (models.parent / "t.csv").open() as file:
        return list(csv.DictReader(file))


def test_difference_stands_where_both_are_measured_alike(couplet, tmp_path):
    score = scored(tmp_path, "one-two", 2, 2.75)
    first, second = table(couplet, listed(tmp_path), score)
    assert (first["measured"], first["difference"]) == ("", "")
    assert first["note"].startswith("not measured")
    assert (second["published"], second["measured"], second["difference"]) == ("2.5", "2.750", "+0.250")
    assert second["protocol"] == "published: theirs; measured: samples 7, reference images not stated"
    assert second["score"] == "one-two-nfe2-0123abcd/score.json"
    (_, other) = table(couplet, listed(tmp_path, differs="in size"), score)
    assert other["difference"] == ""
    assert other["protocol"].endswith("they differ: in size")


def test_scores_that_do_not_fit_the_list_are_a_line(couplet, tmp_path):
    code, err = table(couplet, listed(tmp_path), scored(tmp_path, "other", 1, 1.0))
    assert (code, err) == (2, "couplet: other: a score of no listed model; give the scores of one list\n")
    score = scored(tmp_path, "one-two", 1, 1.0)
    score.write_text('{"numbers": []}')
    code, err = table(couplet, listed(tmp_path), score)
    assert (code, err) == (2, f"couplet: {score}: has no fd; run `couplet score` again\n")
    assert not (tmp_path / "t.csv").exists()


def test_a_row_that_is_not_measured_has_no_origin(couplet, tmp_path):
    table(couplet, listed(tmp_path))
    for row, line in (("1", "one-two with NFE 1 is not measured"), ("3", "has rows 1 to 2")):
        code, _, err = couplet("why", tmp_path / "t.csv", "--row", row)
        assert code == 2
        assert line in err


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"sha256": "ab"}, "models.one-two.sha256"),
        ({"file": None, "note": ""}, 'models.one-two.note = "": must say why file has null'),
        ({"sha256": None, "note": ""}, "must say why sha256 has null"),
        ({"sha256": "0" * 64, "note": "", "reported": [{"nfe": 1}]}, "must say why reported has null"),
        ({"reported": []}, "models.one-two.reported"),
        ({"reported": [{"nfe": 1, "value": 1.0}] * 2}, "must not repeat an nfe"),
        ({"nfe": 1}, "models.one-two.nfe = 1: unknown key"),
        ({"labels": "all"}, "models.one-two.labels"),
    ],
)
def test_wrong_lists_are_refused(tmp_path, change, line):
    with pytest.raises(UserError) as refused:
        published_list(listed(tmp_path, **change))
    assert line in str(refused.value)


def test_keys_follow_what_decides(tmp_path):
    def keys(real=("data",), **change):
        model = published_list(listed(tmp_path, **change)).models["one-two"]
        return import_key(model), measured_key(model, model.reported[0], 0, real)

    before = keys()
    assert keys(method="other", note="other", protocol="other") == before
    assert keys(resolution=64)[0] != before[0]
    for change in ({"samples": 9}, {"labels": "uniform"}, {"real": ("other",)}):
        imported, measured = keys(**change)
        assert (imported == before[0], measured == before[1]) == (True, False)
    (tmp_path / "x.pkl").write_text("a")
    own = keys(file=str(tmp_path / "x.pkl"))
    (tmp_path / "x.pkl").write_text("ab")
    assert keys(file=str(tmp_path / "x.pkl"))[0] != own[0]
    assert named(measured_name("a-nfe2-b", 3, "00")) == ("a-nfe2-b", 3)
