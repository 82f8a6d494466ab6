"""Every way to a run gives the same settings: resolver, listing, file of one run, `couplet train`, rules."""

import inspect
from pathlib import Path

import pytest

from couplet.cli.everyday import run
from couplet.cli.options import changes_of
from couplet.cli.pipeline import train
from couplet.config.params import Params
from couplet.config.resolve import resolve, scales, settings_with_origins, standalone
from couplet.plan.layout import Layout
from couplet.plan.stages import RUN, STAGES

ROOT = Path(__file__).parents[3]
FILES = [
    ROOT / "params.yaml",
    *sorted((ROOT / "workflow/papers").glob("*.yaml")),
    *sorted((ROOT / "workflow/studies").glob("[!_]*.yaml")),
]


PLACES = [(path, scale) for path in FILES for scale in [None, *sorted(scales(path))]]


def sampled(params, count, start):
    """``count`` cells at most, evenly spaced, each with an extractor."""
    measured = params.measured()
    step = max(1, len(measured) // count)
    return measured[start % step :: step][:count]


def listed(rows):
    """The value of every dotted key."""
    return {key: value for key, value, _ in rows}


def flat(prefix, value):
    """Dotted keys and values of nested mappings; an empty one is a value."""
    if isinstance(value, dict) and value:
        return {
            key: leaf for name, each in value.items() for key, leaf in flat(f"{prefix}.{name}", each).items()
        }
    return {prefix: value}


def plain(params, cell, extractor):
    """Settings of a cell as dotted keys."""
    training, measurement = params.training(cell), params.measurement(cell)
    parts = {key: getattr(training, key) for key in ("dataset", "kernel", "coupling", "recipe", "train")}
    parts |= {key: getattr(measurement, key) for key in ("reference", "select", "sample", "evaluate")}
    parts["features"] = params.extractor_named(extractor)
    settings = {}
    for name, model in parts.items():
        settings |= flat(name, model.model_dump(mode="json"))
    return settings


@pytest.mark.parametrize(
    ("path", "scale"), PLACES, ids=[f"{path.stem}-{scale or 'as written'}" for path, scale in PLACES]
)
def test_every_entry_gives_the_same_settings(path, scale, tmp_path):
    params = resolve(path, scale)
    rules = Layout(params, Path("results"))
    kept = tmp_path / "params.yaml"
    studied = params.study is not None
    for cell, extractor in sampled(params, 1 if studied else 4, PLACES.index((path, scale))):
        names = changes_of(**cell.model_dump(), extractor=extractor)
        wanted = plain(params, cell, extractor)
        # `couplet settings`
        assert listed(settings_with_origins(path, scale, names)) == wanted
        # `couplet train` with the cell's names, and `couplet run`
        alone = resolve(path, scale, names)
        assert alone.experiment == cell
        assert alone.extractor == extractor
        assert plain(alone, alone.experiment, alone.extractor) == wanted
        # the file that `couplet run` keeps
        kept.write_text(standalone(path, scale, names))
        again = resolve(kept)
        assert again.measured() == [(cell, extractor)]
        assert plain(again, cell, extractor) == wanted
        assert again.training(cell) == params.training(cell)
        # the rules
        settings = rules.settings(cell, extractor)
        assert settings.training == params.training(cell)
        assert settings.measurement == params.measurement(cell)
        for each in (alone, again):
            other = Layout(each, Path("results"))
            of_each = {stage: STAGES[stage].settings(other.settings(cell, extractor)) for stage in RUN}
            assert of_each == {stage: STAGES[stage].settings(settings) for stage in RUN}


def test_scales_of_bases_are_walked():
    assert {"paper", "small", "smoke"} <= {*scales(ROOT / "workflow/studies/gc-mu.yaml")}
    assert {path.stem for path, _ in PLACES} >= {"params", "gc", "vct", "ict", "ect", "gc-mu"}


def test_names_of_a_cell_are_options_of_commands_that_train():
    names = set(Params.model_fields) & {"dataset", "recipe", "kernel", "coupling", "seed"}
    for command in (train, run):
        assert names <= set(inspect.signature(command).parameters)


def test_a_study_s_run_may_be_changed(tmp_path):
    """A file with a base, a name of that base and settings of `couplet run` from the command line."""
    path = ROOT / "workflow/studies/gc-mu.yaml"
    changes = ["coupling=generator", "couplings.generator.mu=0.4", "recipes.ict.steps=5"]
    (tmp_path / "params.yaml").write_text(standalone(path, None, changes))
    for params in (resolve(path, None, changes), resolve(tmp_path / "params.yaml")):
        training = params.training(params.experiment)
        assert (training.coupling.mu, training.recipe.steps, training.recipe.network.kind) == (0.4, 5, "mlp")
