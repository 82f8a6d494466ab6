"""Wrong parameter files: one line with file, key, value and what is allowed."""

import copy
import math

import pytest

from couplet.config.params import Params
from couplet.config.recipes import Recipe
from couplet.config.resolve import resolve, settings_with_origins
from couplet.config.yaml12 import dump_yaml
from couplet.errors import UserError

REMOVED = object()


def put(content, dotted, value):
    """Sets or removes one dotted key."""
    *parents, last = dotted.split(".")
    place = content
    for parent in parents:
        place = place.setdefault(parent, {})
    if value is REMOVED:
        del place[last]
    else:
        place[last] = value


@pytest.fixture
def refused(tmp_path):
    """The message with which a file of the given content, text or tree, is refused."""

    def check(content):
        path = tmp_path / "params.yaml"
        path.write_text(content if isinstance(content, str) else dump_yaml(content))
        with pytest.raises(UserError) as caught:
            resolve(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: ")
        assert "\n" not in message
        return message.removeprefix(f"{path}: ")

    return check


# Changed key; its value; where the message says it is; what else it says.
WRONG = {
    "unknown key": ("recipes.ict.stepz", 3, "recipes.ict.stepz = 3", ["'steps'", "allowed"]),
    "unknown top key": ("cuplings", {}, "cuplings = {}", ["'couplings'", "allowed"]),
    "unknown coupling": ("coupling", "vea", 'coupling = "vea"', ["'vae'", "independent", "ot"]),
    "unknown dataset": ("dataset", "cifar", 'dataset = "cifar"', ["digits"]),
    "unknown recipe": ("recipe", "itc", 'recipe = "itc"', ["'ict'"]),
    "unknown kernel": ("kernel", "vp", 'kernel = "vp"', ["ve", "li"]),
    "in the grid": ("table1.couplings", ["ot", "vea"], 'table1.couplings.1 = "vea"', ["'vae'"]),
    "kernel in the grid": ("table1.kernels", ["vp"], 'table1.kernels.0 = "vp"', ["ve", "li"]),
    "no seeds": ("table1.seeds", [], "table1.seeds = []", ["at least 1"]),
    "negative seed": ("seed", -1, "seed = -1", ["0"]),
    "negative seed in grid": ("table1.seeds", [0, -1], "-1", ["0"]),
    "text for a count": ("recipes.ict.steps", "1500", 'recipes.ict.steps = "1500"', ["integer"]),
    "truth for a count": ("recipes.ict.batch", True, "recipes.ict.batch = true", ["integer"]),
    "fraction for a count": ("recipes.ict.steps", 1.5, "recipes.ict.steps = 1.5", ["integer"]),
    "text for truth": ("recipes.ict.flip", "yes", 'recipes.ict.flip = "yes"', ["boolean"]),
    "text for a number": ("recipes.ict.sigma_max", "80", 'sigma_max = "80"', ["number"]),
    "text in a list": ("recipes.ict.mid_sigmas", ["0.8"], 'mid_sigmas.0 = "0.8"', ["number"]),
    "number for a list": ("recipes.ict.mid_sigmas", 0.8, "mid_sigmas = 0.8", ["tuple"]),
    "negative steps": ("recipes.ict.steps", -5, "recipes.ict.steps = -5", ["1"]),
    "batch of one": ("recipes.ict.batch", 1, "recipes.ict.batch = 1", ["2"]),
    "nan": ("recipes.ict.sigma_data", math.nan, "recipes.ict.sigma_data = NaN", ["finite"]),
    "infinity": ("recipes.ict.sigma_max", math.inf, "sigma_max = Infinity", ["finite"]),
    "mu above one": ("couplings.generator.mu", 1.5, "couplings.generator.mu = 1.5", ["1"]),
    "mu below zero": ("couplings.generator.mu_end", -0.1, "generator.mu_end = -0.1", ["0"]),
    "no entropy": ("couplings.sinkhorn.epsilon", 0.0, "couplings.sinkhorn.epsilon = 0.0", ["0.000001"]),
    "no direction": ("couplings.projected.directions", 0, "couplings.projected.directions = 0", ["1"]),
    "no round": ("couplings.swaps.rounds", 0, "couplings.swaps.rounds = 0", ["1"]),
    "negative weight": ("couplings.vae.kl_weight", -1, "couplings.vae.kl_weight = -1", ["0"]),
    "encoder": ("couplings.vae.encoder.chanels", 8, "couplings.vae.encoder.chanels", ["allowed"]),
    "network kind": ("recipes.ict.network.kind", "ddpm", 'network.kind = "ddpm"', ["'ddpmpp'"]),
    "schedule kind": ("recipes.ict.schedule.kind", "cosine", "schedule.kind", ["discretised"]),
    "distance kind": ("recipes.ict.distance.kind", "lpips", "distance.kind", ["pseudo_huber"]),
    "no kind": ("recipes.ict.network.kind", REMOVED, "recipes.ict.network.kind", ["ddpmpp"]),
    "key of another kind": ("recipes.ict.distance", {"kind": "squared_l2", "c": 1}, "distance.c", []),
    "no mapping": (
        "recipes.ict.optimizer",
        3,
        "recipes.ict.optimizer = 3",
        ["mapping of optimizer"],
    ),
    "bare kind": ("recipes.ict.optimizer", "adamw", 'optimizer.kind = "adamw"', ["'adam'", "radam"]),
    "bare kind of a weighting": ("recipes.ict.weighting", "uniforn", "weighting.kind", ["'uniform'"]),
    "sigma_min": ("recipes.ict.sigma_min", 90.0, "recipes.ict", ["90.0", "sigma_max = 80.0"]),
    "teacher": ("recipes.ecm.teacher", "target", "recipes.ecm.teacher", ["N(k)", "continuous", "online"]),
    "mu0": ("recipes.ict.teacher_mu0", 1.0, "recipes.ict.teacher_mu0", ["1.0", "less than 1"]),
    "mid_sigma": ("recipes.ict.mid_sigmas", [99.0], "recipes.ict", ["99.0", "sigma_max = 80.0"]),
    "s1 below s0": ("recipes.ict.schedule.s1", 5, "recipes.ict.schedule", ["5", "s0 = 10"]),
    "no test split": ("datasets.digits", {"kind": "ffhq64"}, "select.split", ["digits.test_images", "train"]),
    "scale": ("scale", "small", 'scale = "small"', ["no scales"]),
    "key of a scale": ("scales", {"s": {"recipee": {}}}, "scales.s.recipee", ["'recipe'"]),
    "nfe": ("sample.nfe", [1, 3], "sample.nfe", ["3", "between 1 and 2"]),
    "nfe of selection": ("select.nfe", 4, "select.nfe = 4", ["between 1 and 2"]),
    "nfe of nothing": ("sample.nfe", [], "sample.nfe = []", ["at least 1"]),
    "missing name": ("coupling", REMOVED, "coupling", ["required"]),
    "missing network": ("recipes.ict.network", REMOVED, "recipes.ict.network", ["required"]),
    "unknown extractor": ("extractor", "clasifier", "extractor", ["'classifier'", "allowed"]),
    "base of a recipe": ("recipes.ict.base", "itc", 'recipes.ict.base = "itc"', ["allowed: ecm"]),
    "key of the old days": ("recipes.ict.like", "ecm", "recipes.ict.like", ["unknown key"]),
    "every recipe": ("every_recipe", {"stepz": 3}, "stepz = 3", ["'steps'"]),
    "every recipe is none": ("every_recipe", 3, "3", ["mapping"]),
    "metric": ("evaluate.metrics.kit", None, "evaluate.metrics.kit.kind", ["kid", "allowed"]),
    "kernel's kind": ("kernels.mine", {"kind": "vp"}, "kernels.mine.kind", ["ve", "li"]),
    "probe": ("probes.mine", None, "probes.mine.kind", ["gradient", "allowed"]),
    "null section": ("couplings", None, "couplings = null", ["mapping"]),
    "width of the average": ("recipes.ict.ema", {"kind": "power", "std": 0.5}, "ema.std = 0.5", ["0.28"]),
    "unknown coupling kind": ("couplings.new", {"kind": "vea"}, "couplings.new.kind", ["'vae'"]),
    "name that is no kind": ("couplings.new", {}, "couplings.new.kind", ["independent"]),
    "size of the test split": ("datasets.digits.test_images", 5, "test_images = 5", ["10"]),
    "levels that fall": ("probes.transport.levels", [1.0, 0.5], "transport.levels.1 = 0.5", ["above 1"]),
    "level of no noise": ("probes.transport.levels", [0, 0.5], "transport.levels.0 = 0.0", ["positive"]),
    "variance of one": ("probes.gradient.batches", 1, "probes.gradient.batches = 1", ["2"]),
    "threads": ("threads", 0, "threads = 0", ["1"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_value(case, params_content, refused):
    dotted, value, place, rest = WRONG[case]
    put(params_content, dotted, value)
    message = refused(params_content)
    for part in (place, *rest):
        assert part in message


@pytest.mark.parametrize(
    ("overrides", "place"),
    [
        ([{"when": {"colour": "red"}, "steps": 3}], "overrides.0.when"),
        ([{"when": {}, "steps": 3}], "overrides.0.when"),
        ([{"steps": 3}], "overrides.0.when"),
        ([{"when": {"kernel": "ve"}}, "li"], "overrides.1.when"),
        ({"when": {"kernel": "ve"}}, "overrides"),
        (3, "overrides"),
        ([{"when": {"kernel": "ve"}, "coupling": "vae"}], "coupling"),
        ([{"when": {"kernel": "ve"}, "coupling": None}], "coupling"),
        ([{"when": {"coupling": "vea"}, "steps": 3}], "vea"),
        ([{"when": {"coupling": ["vae", "vea"]}, "steps": 3}], "vea"),
        ([{"when": {"scale": "small"}, "steps": 3}], "small"),
        (
            [{"when": {"coupling_kind": "vea"}, "steps": 3}],
            "when.coupling_kind = \"vea\": did you mean 'vae'",
        ),
        ([{"when": {"coupling_kind": ["vae", "ICT"]}, "steps": 3}], "ICT"),
        ([{"when": {"coupling_kind": {"vae": 1}}, "steps": 3}], "coupling_kind"),
        ([{"when": {"coupling_kind": None}, "steps": 3}], "coupling_kind"),
        ([{"when": {"coupling": "vae"}, "stepz": 3}], "stepz"),
        ([{"when": {"coupling": "vae"}, "coupling": {"kl_wait": 3}}], "coupling.kl_wait"),
        ([{"when": {"coupling": "vae"}, "coupling": {"kl_weight": -3}}], "coupling.kl_weight = -3"),
        ([{"when": {"coupling": "ot"}, "sigma_min": 99.0}], "99.0"),
    ],
)
def test_wrong_override(overrides, place, params_content, refused):
    params_content["recipes"]["ict"]["overrides"] = overrides
    message = refused(params_content)
    assert message.startswith("recipes.ict")
    assert place in message


def test_unused_recipe_is_checked_too(params_content, refused):
    params_content["recipes"]["other"] = {"network": {"kind": "ddpmpp"}, "steps": 0}
    assert "recipes.other.steps = 0" in refused(params_content)


@pytest.mark.parametrize("coupling", ["generator", "vae_generator"])
def test_frozen_predictor_needs_a_frozen_model(params_content, refused, coupling):
    params_content["couplings"][coupling]["predictor"] = "frozen"
    params_content["table1"]["couplings"] = [coupling]
    assert "frozen_from" in refused(params_content)


@pytest.mark.parametrize("text", ["a: [1, 2", "a: b: c", "\tseed: 1", "a: {1"])
def test_what_is_not_yaml(text, refused):
    assert "not YAML" in refused(text)


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "just text"])
def test_what_is_not_a_mapping(text, refused):
    assert "mapping" in refused(text)


@pytest.mark.parametrize("name", ["absent.yaml", "."])
def test_file_that_cannot_be_read(tmp_path, name):
    with pytest.raises(UserError, match="cannot be read") as caught:
        resolve(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_file_that_is_not_text(tmp_path):
    (tmp_path / "params.yaml").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(UserError, match=r"params\.yaml: "):
        resolve(tmp_path / "params.yaml")


def test_key_that_occurs_twice(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("seed: 0\ncoupling: vae\nseed: 1\n")
    with pytest.raises(UserError, match=r"params\.yaml: not YAML: key 'seed' occurs twice at line 3"):
        resolve(path)


def test_name_that_cannot_be_part_of_a_path(params_content, refused):
    params_content["couplings"]["my set"] = {"kind": "vae"}
    assert "couplings.my set" in refused(params_content)


@pytest.mark.parametrize("key", ["seeds", "couplings"])
def test_entry_that_occurs_twice_in_the_grid(key, params_content, refused):
    params_content["table1"][key] *= 2
    message = refused(params_content)
    assert f"table1.{key}" in message
    assert "must not repeat" in message


ODD = [None, 3, -1.5, True, "text", "", [], [3], [None], [[]], {}, {"a": 1}, {"kind": []}, [{"a": 1}]]
"""A value of every type that YAML has."""

SMALL = {
    "dataset": "digits",
    "recipe": "ict",
    "coupling": "independent",
    "extractor": "classifier",
    "table1": {"datasets": ["digits"], "recipes": ["ict"], "couplings": ["independent"], "seeds": [0]},
    "datasets": {"digits": {"test_images": 300}},
    "recipes": {"ict": {"network": {"kind": "mlp"}}},
}

SCALE = (
    "recipes",
    "recipes.ict",
    "every_recipe",
    "table1",
    "base",
    "scale",
    "couplings",
    "couplings.ot",
    "seed",
)
PLACES = [
    *(*Params.model_fields, "scales", "scales.s", "base", "nonsense"),
    *(f"recipes.ict.{key}" for key in (*Recipe.model_fields, "base", "overrides", "nonsense")),
    *(f"scales.s.{key}" for key in SCALE),
    *("recipes.ict", "recipes.ict.network.kind", "set.recipes", "set.recipes.ict", "evaluate.metrics"),
    *("couplings.independent", "datasets.digits", "table1.seeds"),
]


def message(entry, path):
    """The message with which a file is refused; empty if it is not."""
    try:
        entry(path)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("place", PLACES)
def test_value_of_any_type_is_accepted_or_one_line(place, tmp_path):
    """In a file and in one over it, at a scale: settings or a UserError of one line, never a traceback."""
    base, over, path = tmp_path / "base.yaml", tmp_path / "over.yaml", tmp_path / "params.yaml"
    base.write_text(dump_yaml(SMALL))
    scale = {"scale": "s"} if place.startswith("scales.") else {}
    for value in ODD:
        below, above = copy.deepcopy(SMALL) | scale, {"base": "base.yaml"} | scale
        put(below, place, value)
        put(above, place, value)
        path.write_text(dump_yaml(below))
        over.write_text(dump_yaml(above))
        for entry, file in ((resolve, path), (settings_with_origins, over)):
            assert "\n" not in message(entry, file)
