"""Numbers of systems that couplet does not train."""

import csv
import re
from importlib.resources import files

import pytest

from couplet.config.datasets import DatasetConfig

with files("couplet.reporting").joinpath("field.csv").open(encoding="utf-8") as file:
    LINES = list(csv.DictReader(file))


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line['system']} {line['dataset']} {line['nfe']}")
def test_every_number_has_a_source(line):
    assert re.search(r"arXiv \d{4}\.\d{5}|OpenReview \w+|README \([0-9a-f]{7}\)", line["source"])
    assert float(line["fid"]) > 0
    assert int(line["nfe"]) >= 1
    assert line["protocol"]
    assert line["dataset"] in {*DatasetConfig.family, "imagenet256"}
    # A number that we have not read where it was published says so.
    assert line["doubt"] or re.search(r"[Tt]able|abstract|README", line["source"])


def test_a_number_is_listed_once():
    names = [tuple(line[key] for key in ("system", "dataset", "nfe", "training")) for line in LINES]
    assert len(set(names)) == len(names)
