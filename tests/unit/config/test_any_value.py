"""Any value for any key: accepted, or answered by one line before work; and what is accepted can be built."""

from __future__ import annotations

import json
import math

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from couplet.config.cells import Training
from couplet.config.params import Params
from couplet.config.resolve import resolve, settings_with_origins, standalone
from couplet.config.schema import schema
from couplet.config.variants import build
from couplet.config.yaml12 import load_yaml
from couplet.cost import parameters
from couplet.couplings.base import Setting
from couplet.errors import UserError
from couplet.model import ImageShape
from couplet.training.optim import learning_rate_factor
from couplet.training.step import Objective

FILE = {
    "dataset": "digits",
    "recipe": "mine",
    "coupling": "independent",
    "extractor": "values",
    "table1": {"datasets": ["digits"], "recipes": ["mine"], "couplings": ["independent"], "seeds": [0]},
    "recipes": {"mine": {"steps": 100, "batch": 4, "network": {"kind": "mlp", "model_channels": 8}}},
}
SHAPE = ImageShape(channels=1, resolution=8, num_classes=10)
REQUIRED = {"images": {"path": "pictures", "resolution": 8}, "sweep": {"x": "coupling.mu", "xlabel": "mu"}}
STUDY = {
    "paper": "iCT",
    "result": "1",
    "title": "t",
    "claim": "c",
    "source": "s",
    "order": 1,
    "figure": "dots",
}
"""Keys that a member of a family, or a study, cannot do without."""

SCHEMA = schema()


def keys(node, above=(), around=None, seen=()):
    """Every path of keys that the schema names, with the settings that must stand around its last key."""
    if (named := node.get("$ref")) is not None:
        if named in seen:
            return
        part = SCHEMA
        for key in named.removeprefix("#/").split("/"):
            part = part[key]
        yield from keys(part, above, around, (*seen, named))
    for each in node.get("anyOf", ()):
        yield from keys(each, above, around, seen)
    properties = node.get("properties", {})
    kind = properties.get("kind", {}).get("const")
    around = {**(around or {}), above: {"kind": kind, **REQUIRED.get(kind, {})}} if kind else around or {}
    if above == ("study",):
        around = {above: STUDY}
    for key, inner in properties.items():
        yield (*above, key), around
        yield from keys(inner, (*above, key), around, seen)
    if isinstance(entries := node.get("additionalProperties"), dict):
        yield from keys(entries, (*above, "mine"), around, seen)


KEYS = [
    (path, around)
    for path, around in keys(SCHEMA)
    if path[0] not in ("scales", "base") and "when" not in path
]

NUMBERS = st.sampled_from(
    [0, 1, 2, 3, 7, 16, 100, 1024, 10**5, 10**6, 10**9, 10**18, 2**63, 10**400, 0.0, 0.5, 1.0, 1.5, 30.0]
    + [1e-300, 1e-30, 1e-12, 1e-6, 1e-3, 1e3, 1e6, 1e30, 1e300, math.inf, math.nan, 0.9999999999999999]
)
SCALARS = (
    NUMBERS
    | NUMBERS.map(lambda number: -number)
    | st.sampled_from(
        [None, True, False, "", " ", "x", "a.b", "/", "..", "é", "2024-13-01", "null", "1e-3", "\n"]
    )
    | st.sampled_from(
        ["mine", "vae", "discretised", "continuous", "karras", "x" * 300, "a\0b", "\ud800", "%s{}"]
    )
)
VALUES = SCALARS | st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["kind", "mine", "0", "when", "x"]), inner, max_size=2)
    ),
    max_leaves=6,
)

BOUNDED = settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.function_scoped_fixture,
        HealthCheck.data_too_large,
    ],
)


def text_of(value):
    """A value as a user may write it in YAML; JSON is YAML, apart from these two numbers."""
    return json.dumps(value).replace("Infinity", ".inf").replace("NaN", ".nan")


def put(content, path, value):
    for key in path[:-1]:
        content = content.setdefault(key, {})
        if not isinstance(content, dict):
            return
    if isinstance(value, dict) and isinstance(content.get(path[-1]), dict):
        value = {**content[path[-1]], **value}
    content[path[-1]] = value


def written(path, around, value):
    """The file above with a value at a key, as text."""
    content = json.loads(json.dumps(FILE))
    for above, needed in around.items():
        put(content, above, needed)
    put(content, path, value)
    return text_of(content)


def one_line(error):
    text = str(error)
    assert text.count("\n") == 0 or " ".join(text.split()), text
    assert len(text) < 3000


def accepted(*arguments):
    """The checked parameters, or None where they are answered by one line."""
    try:
        return resolve(*arguments)
    except UserError as error:
        one_line(error)
        return None


def assert_can_be_built(params: Params) -> None:
    """Schedule, kernel, distance, weighting, rate, average, optimiser and network, at their first and last steps."""
    for cell in params.cells()[:2]:
        training = params.training(cell)
        assert_parts_can_be_built(training)
        params.measurement(cell)


def assert_parts_can_be_built(training: Training) -> None:
    recipe = training.recipe
    sizes = {"sigma_min": recipe.sigma_min, "sigma_max": recipe.sigma_max, "sigma_data": recipe.sigma_data}
    kernel = build(training.kernel, **sizes)
    objective = Objective(recipe, kernel, 64)
    generator = torch.Generator().manual_seed(0)
    rate = learning_rate_factor(recipe.learning_rate, recipe.steps)
    decay = build(recipe.ema)
    assert len(training.snapshot_steps) <= recipe.steps
    for step in {0, recipe.steps // 2, recipe.steps - 1}:
        t, r = objective.schedule.draw_pair(step, 64, generator)
        assert (t > r).all() and (r >= 0).all() and t.isfinite().all()
        weight = objective.weighting(t, r)
        assert weight.isfinite().all() and (weight > 0).all()
        assert 0 < objective.weighting.penalty_scale(*objective.schedule.last_pair(step)) < math.inf
        for scaling in kernel.scalings(t, boundary=recipe.boundary.training):
            assert scaling.isfinite().all()
        assert 0 <= rate(step) <= 1
        assert 0 <= decay(step) <= 1
        assert objective.schedule.curriculum(step) >= 0
    same = torch.ones(2, 1, 2, 2, requires_grad=True)
    objective.distance(same, torch.ones(2, 1, 2, 2)).sum().backward()
    assert same.grad is not None and same.grad.isfinite().all()
    weights = nn.Parameter(torch.ones(3))
    if recipe.optimizer.kind != "lion":
        optimizer = build(recipe.optimizer, weights)
        for _ in range(2):
            weights.grad = torch.ones(3)
            optimizer.step()
        assert weights.isfinite().all()
    with torch.device("meta"):
        build(training.coupling, Setting(1, recipe.sigma_data, lambda **sizes: nn.Module()))
    try:
        assert parameters(training, SHAPE) > 0
    except ValueError as error:  # reported as one line where the images are known
        one_line(error)


@BOUNDED
@settings(max_examples=1500)
@given(key=st.sampled_from(KEYS), value=VALUES)
def test_any_value_in_a_file(tmp_path, key, value):
    path = tmp_path / "mine.yaml"
    path.write_text(written(*key, value), encoding="utf-8")
    if (params := accepted(path)) is not None:
        assert_can_be_built(params)


@BOUNDED
@settings(max_examples=600)
@given(key=st.sampled_from(KEYS), value=VALUES)
def test_any_value_from_the_command_line(tmp_path, key, value):
    path, (keys, around) = tmp_path / "mine.yaml", key
    path.write_text(text_of(FILE))
    changes = [f"{'.'.join(above)}={text_of(needed)}" for above, needed in around.items()]
    changes.append(f"{'.'.join(keys)}={text_of(value)}")
    if (params := accepted(path, None, changes)) is not None:
        assert_can_be_built(params)
        settings_with_origins(path, None, changes)
        alone = Params.model_validate(load_yaml(standalone(path, None, changes)))
        assert alone.training(alone.experiment) == params.training(params.experiment)
