"""Any value for any key: accepted, or answered by one line before work; and what is accepted can be built."""

from __future__ import annotations

import json
import math
import os
import re
from copy import deepcopy
from functools import partial

import pytest
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
from couplet.process import start
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

CHOSEN = {"datasets": "dataset", "kernels": "kernel", "couplings": "coupling", "features": "extractor"}

SCHEMA = schema()


def keys(node, above=(), around=None, seen=()):
    """Paths of keys that the schema names, with the settings that must stand around each, and its names."""
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
        yield (*above, key), around, tuple(inner.get("enum", ()))
        yield from keys(inner, (*above, key), around, seen)
    if isinstance(entries := node.get("additionalProperties"), dict):
        yield from keys(entries, (*above, "mine"), around, seen)


KEYS = [
    (path, around, allowed)
    for path, around, allowed in keys(SCHEMA)
    if path[0] not in ("scales", "base") and "when" not in path
]

WHOLE = [0, 1, 2, 3, 7, 16, 100, 1024, 10**5, 10**6, 10**9, 10**18, 2**63, 10**400]
REAL = [
    0.0,
    1e-300,
    1e-30,
    1e-12,
    1e-6,
    1e-3,
    0.5,
    1 - 2**-53,
    1.0,
    1.5,
    30.0,
    1e3,
    1e6,
    1e30,
    1e300,
    math.inf,
]
TEXTS = ["", " ", "x", "a.b", "/", "..", "é", "2024-13-01", "null", "1e-3", "\n", "x" * 300, "a\0b", "\ud800"]
NAMES = ["mine", "vae", "discretised", "continuous", "denoising", "karras", "edm2", "ot", "lognormal", "%s{}"]
SCALARS = st.sampled_from(
    [*WHOLE, *REAL, *(-number for number in (*WHOLE, *REAL)), math.nan, None, True, False, *TEXTS, *NAMES]
)
VALUES = SCALARS | st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["kind", "mine", "0", "when", "x"]), inner, max_size=2)
    ),
    max_leaves=6,
)

bounded = partial(
    settings,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
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
    content = deepcopy(FILE)
    for above, needed in around.items():
        put(content, above, deepcopy(needed))
    put(content, path, value)
    for section, key in CHOSEN.items():
        if section in content:  # the experiment uses what stands there
            content[key] = "mine"
    return text_of(content)


def one_line(error, begin=""):
    assert str(error).startswith(begin)
    assert 0 < len(" ".join(str(error).split())) < 3000


def accepted(*arguments):
    """The checked parameters, or None where they are answered by one line."""
    try:
        return resolve(*arguments)
    except UserError as error:
        one_line(error)
        return None


def assert_can_be_built(params: Params) -> None:
    """Schedule, kernel, distance, weighting, rate, average, optimiser and network, at several steps."""
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


@st.composite
def typed(draw):
    """A key with its surroundings, and a value."""
    path, around, allowed = draw(st.sampled_from(KEYS))
    return path, around, draw(VALUES | st.sampled_from(allowed) if allowed else VALUES)


@bounded(max_examples=3000)
@given(typed())
def test_any_value_in_a_file(tmp_path, typed):
    path = tmp_path / "mine.yaml"
    path.write_text(written(*typed), encoding="utf-8")
    if (params := accepted(path)) is not None:
        assert_can_be_built(params)


@bounded(max_examples=1500)
@given(typed())
def test_any_value_from_the_command_line(tmp_path, typed):
    keys, around, value = typed
    path = tmp_path / "mine.yaml"
    path.write_text(text_of(FILE))
    changes = [f"{'.'.join(above)}={text_of(needed)}" for above, needed in around.items()]
    changes += [f"{key}=mine" for section, key in CHOSEN.items() if section == keys[0]]
    changes.append(f"{'.'.join(keys)}={text_of(value)}")
    if (params := accepted(path, None, changes)) is not None:
        assert_can_be_built(params)
        settings_with_origins(path, None, changes)
        alone = Params.model_validate(load_yaml(standalone(path, None, changes)))
        assert alone.training(alone.experiment) == params.training(params.experiment)


@bounded(max_examples=300)
@given(st.sampled_from(["scale", "scales", "base", "mine"]), VALUES, st.booleans())
def test_any_scale_and_base(tmp_path, key, value, inside):
    path = tmp_path / "mine.yaml"
    content = {**FILE, "scale": "mine", "scales": {"mine": {key: value}}} if inside else {**FILE, key: value}
    path.write_text(text_of(content))
    accepted(path)
    accepted(path, str(value))


@bounded(max_examples=300)
@given(st.text() | VALUES.map(str), st.booleans())
def test_any_text_is_a_change_or_one_line(tmp_path, text, with_key):
    path = tmp_path / "mine.yaml"
    path.write_text(text_of(FILE))
    accepted(path, None, [f"recipes.mine.steps={text}" if with_key else text])


@bounded(max_examples=200)
@given(st.text() | st.binary(), st.booleans())
def test_any_bytes_are_a_file_or_one_line(tmp_path, content, after):
    path = tmp_path / "mine.yaml"
    raw = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    path.write_bytes(text_of(FILE).encode() + b"\n" + raw if after else raw)
    accepted(path)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]",
        "recipes: &a {mine: *a}",
        "raw: &a [*a]",
        "recipes: {mine: {network: {kind: &a [*a]}}}",
        "a: &a {<<: *a}",
        "a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n"
        "d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]",
        "a: " + "[" * 3000,
        "seed: " + "1" * 5000,
        "seed: 9223372036854775808",
        "a: !!bool maybe",
        "a: !!timestamp 2024-13-01",
        "a: !!timestamp x",
        "a: !!float ''",
        "a: !!int [1]",
        "a: !!set {b, c}",
        "a: !!python/name:os.system ''",
        "a: !mine 3",
        'raw: "a\\0b"',
        'raw: "\\ud800"',
    ],
)
def test_no_yaml_ends_in_a_traceback(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"^[^\n]*mine.yaml: [^\n]*$") as refused:
        resolve(path)
    assert len(str(refused.value)) < 6000


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "---\n", "null", "~"])
def test_an_empty_file_is_called_empty(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"mine.yaml: the file is empty; must be a mapping with the keys"):
        resolve(path)


@bounded(max_examples=100)
@given(
    name=st.sampled_from(["OMP_NUM_THREADS", "LOCAL_WORLD_SIZE"]),
    value=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9)
    | st.integers(-(10**9), 10**20).map(str)
    | st.sampled_from(["", "4", "4,2", " 3 ", "1e3", "0", "²", "٣", "nan"]),
)
def test_any_environment(name, value):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(torch, "set_num_threads", lambda count: None)
        patch.setenv(name, value)
        try:
            start(4)
            start(None)
        except UserError as error:
            one_line(error, begin=f"{name} = ")
        assert 1 <= int(os.environ["OMP_NUM_THREADS"].split(",")[0]) <= 1024 or name == "OMP_NUM_THREADS"


EXTREME = {
    "schedule.p_mean=10; schedule.p_std=0.1": "p_mean = 10.0: exp(p_mean) must lie in or near [0.002, 80]",
    "schedule.p_mean=30.0": "p_mean = 30.0: value should be less than or equal to 10",
    "schedule.s1=100000000": "s1 = 100000000: value should be less than or equal to 1000000",
    "schedule.s1=900000; schedule.rho=0.1": "s1 = 900000: must be smaller: the last two levels",
    "schedule={kind: continuous, stages: 30}": "stages = 30: with q = 2, q^stages must be at most",
    "optimizer.betas=[0.9, 1.0]": "betas.1 = 1.0: value should be less than 1",
    "distance.c=1e-200": "c = 1e-200: must be 0, or at least 1e-12 to have a square in float32",
    "ema={kind: power, std: 1e-200}": "std = 1e-200: value should be greater than or equal to 0.0001",
}


@pytest.mark.parametrize("typed", EXTREME)
def test_extreme_settings_name_their_key(tmp_path, typed):
    path = tmp_path / "mine.yaml"
    path.write_text(text_of(FILE))
    kinds = ["schedule.kind=discretised", "optimizer.kind=adam", "distance.kind=pseudo_huber"]
    part = re.split("[.=]", typed)[0]
    with pytest.raises(UserError) as refused:
        resolve(path, None, [f"recipes.mine.{change}" for change in (*kinds, *typed.split("; "))])
    assert f"recipes.mine.{part}.{EXTREME[typed]}" in str(refused.value)


DOTTED = {
    "couplings.v.1.kind=swaps": 'a name with a dot stands in quotes: couplings."v.1"',
    "couplings.v.x.kind=swaps": 'a name with a dot stands in quotes: couplings."v.x"',
    "recipes.a.b.steps=3": 'a name with a dot stands in quotes: recipes."a.b"',
    'couplings."v.1.kind=swaps': "must be KEY=VALUE with a key of the parameter file",
    'couplings."v.1"x.kind=swaps': "must be KEY=VALUE with a key of the parameter file",
}


@pytest.mark.parametrize("change", DOTTED)
def test_a_dot_in_a_name_is_explained(tmp_path, change):
    path = tmp_path / "mine.yaml"
    path.write_text(text_of(FILE))
    with pytest.raises(UserError) as refused:
        resolve(path, None, [change])
    assert str(refused.value).startswith(f"--set {change}: ")
    assert str(refused.value).endswith(DOTTED[change])


def test_a_name_in_quotes_may_have_dots(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text_of(FILE))
    changes = ["coupling=v.1", 'couplings."v.1".kind=swaps', "couplings.v.1.rounds=3"]
    params = resolve(path, None, changes)
    coupling = params.training(params.experiment).coupling
    assert (coupling.kind, coupling.rounds) == ("swaps", 3)
