"""Editors know every key of the repository's files, and what a layer may leave out."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from couplet.config.schema import schema
from couplet.config.yaml12 import load_yaml, read_yaml

ROOT = Path(__file__).parents[3]
FILES = [
    ROOT / "params.yaml",
    *(
        path
        for folder in ("papers", "studies")
        for path in sorted((ROOT / "workflow" / folder).glob("*.yaml"))
    ),
]
VALIDATOR = Draft202012Validator(schema())


def test_written_schema_is_the_present_one():
    written = json.loads((ROOT / "workflow/schemas/params.schema.json").read_text())
    assert written == schema(), "run `make generate`"


def test_schema_is_one():
    Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_schema_accepts_every_file_of_the_repository(path):
    assert list(VALIDATOR.iter_errors(read_yaml(path))) == []


@pytest.mark.parametrize(
    "text",
    [
        "base: a.yaml",
        "base: a.yaml\nscales: {large: {base: b.yaml, every_recipe: {steps: 3}}, same: null}",
        "base: a.yaml\nrecipes: {mine: {base: ict, weighting: karras}}",
        "base: a.yaml\nrecipes: {mine: {overrides: [{when: {kernel: [ve, li]}, steps: 3}]}}",
        "base: a.yaml\nrecipes: {mine: [{steps: 3}, {network: {model_channels: 8}}]}",
        "base: a.yaml\nprobes: {few: {kind: gradient, batches: 3}, plane: null}\nkernels: {straight: li}",
        "base: a.yaml\nevaluate: {metrics: {fd: null, few: {kind: kid, subsets: 3}}}",
        "base: a.yaml\nset: {recipes: {ict: {steps: 3}}}",
        "base: a.yaml\ntable1: [{datasets: [digits]}]",
    ],
)
def test_schema_accepts(text):
    assert list(VALIDATOR.iter_errors(load_yaml(text))) == []


@pytest.mark.parametrize(
    "text",
    [
        "seed: 3",
        "base: a.yaml\ncuplings: {}",
        "base: a.yaml\nprobe: {}",
        "base: a.yaml\nscales: {large: {scale: small}}",
        "base: a.yaml\nscales: {large: {recipe: {steps: 3}}}",
        "base: a.yaml\nrecipes: {mine: {like: ict}}",
        "base: a.yaml\nrecipes: {mine: {steps: many}}",
        "base: a.yaml\nrecipes: {mine: {weighting: carras}}",
        "base: a.yaml\nrecipes: {mine: {overrides: [{steps: 3}]}}",
        "base: a.yaml\nrecipes: {mine: {overrides: [{when: {scale: small}, steps: 3}]}}",
        "base: a.yaml\nrecipes: {mine: {overrides: [{when: {kernel: ve}, stepz: 3}]}}",
        "base: a.yaml\nkernels: {straight: {kind: vp}}",
        "base: a.yaml\nevaluate: {metrics: {few: {kind: kit}}}",
    ],
)
def test_schema_refuses(text):
    assert list(VALIDATOR.iter_errors(load_yaml(text)))
