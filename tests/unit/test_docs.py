"""The documents name functions, tests, settings and files that exist, and their examples are true."""

import importlib
import json
import re
import runpy
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from couplet.cli.app import app
from couplet.config.params import Params
from couplet.plan.stages import STAGES

ROOT = Path(__file__).parents[2]
EQUATIONS, DISCREPANCIES, PARAMETERS, PIPELINE, RESULTS = (
    ROOT / f"docs/{name}.md" for name in ("equations", "discrepancies", "parameters", "pipeline", "results")
)
DOCUMENTS = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
TEST_FILES = {path.name: path for path in (ROOT / "tests").rglob("test_*.py")}


def matches(pattern: str, *documents: Path) -> list[str]:
    """The matches of a pattern in the documents, each once, in order."""
    text = "\n".join(document.read_text(encoding="utf-8") for document in documents)
    return list(dict.fromkeys(re.findall(pattern, text)))


def resolve(name: str) -> object:
    """The module, class, function or method with a dotted name."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            thing: object = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            thing = getattr(thing, part)
        return thing
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("name", matches(r"`(couplet(?!\.(?:plugins|sif|def)`)(?:\.\w+)+)`", *DOCUMENTS))
def test_named_function_exists(name: str) -> None:
    assert resolve(name) is not None


@pytest.mark.parametrize("name", matches(r"`(test_\w+\.py::test_\w+)`", *DOCUMENTS))
def test_named_test_exists(name: str) -> None:
    file, function = name.split("::")
    assert re.search(rf"^def {function}\(", TEST_FILES[file].read_text(encoding="utf-8"), re.MULTILINE)


def test_test_files_have_names_of_their_own() -> None:
    assert len(TEST_FILES) == len(list((ROOT / "tests").rglob("test_*.py")))


def test_named_groups_of_vectors_exist() -> None:
    index = json.loads((ROOT / "tests/golden/data/index.json").read_text(encoding="utf-8"))
    groups = {group["name"] for group in index["groups"]}
    last_column = matches(r"\| ([^|\n]+) \|\n", EQUATIONS)
    named = {name for cell in last_column for name in re.findall(r"`(\w+)`", cell)}
    assert named
    assert named <= groups
    assert groups - named == set(), "a group that no row of the document leads to"
    vectors = matches(r"\*\*Vectors\*\* ([^.]+)\.", DISCREPANCIES)
    assert set(re.findall(r"`(\w+)`", " ".join(vectors))) <= groups


@pytest.mark.parametrize("setting", matches(r"`(\w+: \{[^`]*\}|\w+: [^`{}]+)`", DISCREPANCIES))
def test_named_setting_is_one(setting: str, params_content: dict) -> None:
    """A quoted `key: value` is accepted by a recipe, coupling, extractor, stage or part of it."""
    ((key, value),) = yaml.safe_load(setting).items()
    recipe = params_content["recipes"]["ict"]
    places = [
        recipe,
        recipe["network"],
        recipe["schedule"],
        *params_content["couplings"].values(),
        params_content["sample"],
        *(params_content.setdefault(section, {}) for section in ("select", "evaluate")),
        params_content["features"].setdefault("inception", {}),
    ]

    def accepted(place: dict) -> bool:
        before = dict(place)
        place[key] = value
        try:
            Params.model_validate(params_content)
        except ValueError:
            return False
        finally:
            place.clear()
            place.update(before)
        return True

    assert any(accepted(place) for place in places)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_lines_are_short(document: Path) -> None:
    """Rows of tables are exempt, because Markdown cannot break them, and so are commands with a comment."""
    lines = document.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith(("|", "    "))] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_and_headings(document: Path) -> None:
    for target in matches(r"\]\(([^)\s]+)\)", document):
        path, _, anchor = target.partition("#")
        file = document.parent / path if path else document
        assert target.startswith("http") or file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]
            assert anchor in slugs, target


def test_parameters_names_every_section() -> None:
    rows = "".join(matches(r"(?m)^\| (`.*?) \|", PARAMETERS))
    assert {*Params.model_fields, "base", "scales"} - {"set"} <= {*re.findall(r"`(\w+)`", rows)}


def test_example_of_precedence_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PARAMETERS.read_text(encoding="utf-8")
    for name, content in re.findall(r"`(\w+\.yaml)`:\n\n```yaml\n(.*?)```", text, re.DOTALL):
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```text\n\$ couplet (.*?)\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 4
    for command, expected in examples:
        result = CliRunner().invoke(app, shlex.split(command))
        printed = [re.split(r"\s{2,}", line.strip()) for line in result.output.splitlines()]
        for line in expected.splitlines():
            assert re.split(r"\s{2,}", line) in printed, result.output


def test_picture_of_the_pipeline_has_the_stages() -> None:
    arrows = {tuple(arrow.split(" --> ")) for arrow in matches(r"\w+ --> \w+", PIPELINE)}
    assert {arrow for arrow in arrows if arrow[1] in STAGES} == {
        (read, name) for name, stage in STAGES.items() for read in stage.reads
    }


INDEX = runpy.run_path(str(ROOT / "workflow/scripts/list_studies.py"))


def test_generated_tables_are_current() -> None:
    for page, text in INDEX["pages"](ROOT):
        assert page.read_text(encoding="utf-8") == text, "python workflow/scripts/list_studies.py"


def test_index_names_every_study_and_the_tables_of_the_three_papers() -> None:
    lines = [line for _, line in INDEX["items"]()]
    studies = {path.stem for path in (ROOT / "workflow/studies").glob("[!_]*.yaml")}
    assert {line["study"] for line in lines if "study" in line} == studies
    assert {line["table"] for line in lines if "table" in line} == {"ict", "vct", "gc"}


def test_every_target_of_the_index_is_one_of_the_workflow() -> None:
    """And every item has a target, or a reason for none."""
    text = RESULTS.read_text(encoding="utf-8").partition("| runs on |")[2].partition("<!--")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line]
    found = [row for row in rows if set(row[0]) != {"-"}]
    assert len(found) == len(list(INDEX["items"]()))
    for _, item, content, target, place in found:
        assert item
        assert content
        if target == "–":
            assert re.fullmatch(r"could not be sourced: .{20,}", place)
            continue
        folder, name = re.fullmatch(r"`results/(paper/)?([\w-]+)\.csv`", target).groups()  # type: ignore[union-attr]
        assert (ROOT / f"workflow/{'studies' if folder else 'papers'}/{name}.yaml").exists()
        assert place.startswith("CPU: ") if folder else place == "needs a GPU"


@pytest.mark.parametrize(
    "line",
    [
        "{item: a, content: b}",
        "{item: a, content: b, study: gc-mu, table: gc}",
        "{item: a, content: b, missing: ''}",
        "{content: b, table: gc}",
        "{item: a, content: b, table: gc, colour: red}",
    ],
)
def test_item_without_exactly_one_answer_is_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "list_studies.py").write_bytes((ROOT / "workflow/scripts/list_studies.py").read_bytes())
    (tmp_path / "results.yaml").write_text(f"GC:\n  - {line}\n")
    with pytest.raises(ValueError, match="one of"):
        list(runpy.run_path(str(tmp_path / "list_studies.py"))["items"]())


def test_readme_leaves_columns_out_and_the_rest_as_it_is() -> None:
    narrowed = runpy.run_path(str(ROOT / "workflow/scripts/update_readme.py"))["narrowed"]
    table = "| kernel | coupling | NFE |\n| --- | --- | --- |\n| ve | a \\| b | 1 |\n| ve |  | 2 |\n"
    kept = "| coupling | NFE |\n| --- | --- |\n| a \\| b | 1 |\n|  | 2 |"
    assert narrowed(table, {"kernel", "none"}) == kept


TUTORIALS = sorted((ROOT / "docs/tutorials").glob("*.md"))


@pytest.mark.parametrize("line", matches(r"(?m)^    couplet (\w[^#\n\\…]*?) *(?:#.*)?$", *DOCUMENTS))
def test_commands_have_the_options_that_are_typed(line: str) -> None:
    name, *arguments = shlex.split(line)
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    context = command.context_class(command, info_name=name)
    command.make_parser(context).parse_args(arguments)


@pytest.mark.parametrize("content", matches(r"(?s)```yaml\n(base: .*?)```", *TUTORIALS))
def test_parameter_files_of_tutorials_are_complete(content: str, tmp_path: Path) -> None:
    for name in ("params.yaml", "workflow"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "mine.yaml").write_text(content)
    result = CliRunner().invoke(app, ["check", "--params", str(tmp_path / "mine.yaml")])
    assert result.exit_code == 0, result.exception


def test_coupling_of_the_tutorial_is_a_coupling(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two blocks, run as they stand, pair bright images with bright noise."""
    text = (ROOT / "docs/tutorials/coupling.md").read_text(encoding="utf-8")
    settings, code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    family = importlib.import_module("couplet.config.couplings")
    monkeypatch.setattr(family.CouplingConfig, "family", dict(family.CouplingConfig.family))
    names = {**vars(family)}
    exec(settings, names)
    exec(code, names)
    images, noise = torch.rand(8, 1, 2, 2), torch.randn(8, 1, 2, 2)
    chosen = names["Brightness"].assign(None, images, noise)
    assert sorted(chosen.tolist()) == list(range(8))
    order = images.flatten(1).mean(1).argsort()
    assert noise[chosen][order].flatten(1).mean(1).diff().min() >= 0
    assert names["BrightnessConfig"]().implementation == "couplet.couplings.brightness:Brightness"
