"""The documents name functions, tests, vectors and settings that exist."""

import importlib
import json
import re
from pathlib import Path

import pytest
import yaml

from couplet.config.params import Params

ROOT = Path(__file__).parents[2]
EQUATIONS, DISCREPANCIES = (ROOT / "docs" / name for name in ("equations.md", "discrepancies.md"))
DOCUMENTS = (EQUATIONS, DISCREPANCIES)
TEST_FILES = {path.name: path for path in (ROOT / "tests").rglob("test_*.py")}


def found(pattern: str, *documents: Path) -> list[str]:
    """What the documents' text holds of a pattern, each once, in order."""
    text = "\n".join(document.read_text(encoding="utf-8") for document in documents)
    return list(dict.fromkeys(re.findall(pattern, text)))


def resolve(name: str) -> object:
    """The module, class, function or method that a dotted name means."""
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


@pytest.mark.parametrize("name", found(r"`(couplet(?:\.\w+)+)`", *DOCUMENTS))
def test_named_function_exists(name: str) -> None:
    assert resolve(name) is not None


@pytest.mark.parametrize("name", found(r"`(test_\w+\.py::test_\w+)`", *DOCUMENTS))
def test_named_test_exists(name: str) -> None:
    file, function = name.split("::")
    assert re.search(rf"^def {function}\(", TEST_FILES[file].read_text(encoding="utf-8"), re.MULTILINE)


def test_test_files_have_names_of_their_own() -> None:
    assert len(TEST_FILES) == len(list((ROOT / "tests").rglob("test_*.py")))


def test_named_groups_of_vectors_exist() -> None:
    index = json.loads((ROOT / "tests/golden/data/index.json").read_text(encoding="utf-8"))
    groups = {group["name"] for group in index["groups"]}
    last_column = found(r"\| ([^|\n]+) \|\n", EQUATIONS)
    named = {name for cell in last_column for name in re.findall(r"`(\w+)`", cell)}
    assert named
    assert named <= groups
    assert groups - named == set(), "a group that no row of the document leads to"
    vectors = found(r"\*\*Vectors\*\* ([^.]+)\.", DISCREPANCIES)
    assert set(re.findall(r"`(\w+)`", " ".join(vectors))) <= groups


@pytest.mark.parametrize("setting", found(r"`(\w+: \{[^`]*\}|\w+: [^`{}]+)`", DISCREPANCIES))
def test_named_setting_is_one(setting: str, params_content: dict) -> None:
    """What is quoted as `key: value` is accepted by a recipe, coupling, extractor, stage or part of it."""
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
    """Rows of tables are exempt: Markdown cannot break them."""
    lines = document.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []
