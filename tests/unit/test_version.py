"""One version: of the package, of the citation and at the top of the changelog."""

import re
import tomllib
from pathlib import Path

import yaml

import couplet as library

ROOT = Path(__file__).parents[2]


def test_version_changelog_and_citation_agree():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    heads = re.findall(r"^## (.*)\n+(.*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    if heads[0][0] == "Unreleased":
        assert not heads.pop(0)[1].startswith("#"), "an empty heading"
    assert heads[0][0] == f"{citation['version']} — {citation['date-released']}"
    assert citation["version"] == version
    dates = [re.fullmatch(r"\d+\.\d+\.\d+ — (\d{4}-\d{2}-\d{2})", head)[1] for head, _ in heads]
    assert dates == sorted(dates, reverse=True)


def test_the_package_says_its_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", library.__version__)
