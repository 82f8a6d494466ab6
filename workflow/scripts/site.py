"""Hooks of MkDocs: text generated from the code, and links to files that are no pages."""

from __future__ import annotations

import json
import os
import re
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python
from typer.main import get_command

from couplet.cli.app import app
from couplet.config.base import Closed, Variant
from couplet.config.params import Params
from couplet.config.recipes import Recipe
from couplet.reporting.markdown import table as markdown_table

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
NOTEBOOK = ROOT / "examples/quickstart.ipynb"
PAGES = {ROOT / "CONTRIBUTING.md": "contributing.md", NOTEBOOK: "tutorials/quickstart.md"}
"""Pages that lie outside docs/."""
BOUNDS = {
    Ge: ("ge", "≥"),
    Gt: ("gt", ">"),
    Le: ("le", "≤"),
    Lt: ("lt", "<"),
    MinLen: ("min_length", "length ≥"),
}
"""Attribute and sign of each constraint."""
WORDS = {NoneType: "null", str: "text", bool: "true, false", int: "integer", float: "number", Any: "any"}
"""Types of settings."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/, and the notebook's pictures."""
    text, pictures = notebook(NOTEBOOK)
    for path, name in PAGES.items():
        content = text if path == NOTEBOOK else path.read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=content))
    for name, picture in pictures.items():
        files.append(File.generated(config, f"tutorials/{name}", content=picture))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put generated text between its markers, and follow links out of docs/."""
    markdown = re.sub(
        r"<!-- site: (\w+) -->.*<!-- /site -->",
        lambda found: GENERATED[found[1]](),
        markdown,
        flags=re.DOTALL,
    )
    markdown = re.sub(r"```mermaid\nflowchart LR\n(.*?)```", arrows, markdown, flags=re.DOTALL)
    name = page.file.src_uri
    source = next((path for path, page_name in PAGES.items() if page_name == name), DOCS / name)
    return re.sub(
        r"(?<!!)\[([^\]]+)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]+)?\)",
        lambda link: linked(*link.groups(""), source=source, page=DOCS / name, address=config.repo_url),
        markdown,
    )


def notebook(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook with its outputs as Markdown, and the pictures in it by name."""
    text, pictures = [], dict[str, bytes]()
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        text.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            if picture := output.get("data", {}).get("image/png"):
                name = f"{path.stem}-{len(pictures) + 1}.png"
                pictures[name] = b64decode(picture)
                text.append(f"![{name}]({name})")
            else:
                text.append(f"```text\n{''.join(output['text'])}```")
    return "\n\n".join(text), pictures


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Take the roles of reStructuredText from docstrings: ``:meth:`sample```."""
    return re.sub(r":(?:attr|class|func|meth|mod):(?=<code>)", "", html)


def linked(text: str, target: str, anchor: str, *, source: Path, page: Path, address: str | None) -> str:
    """A link of the file ``source``, for ``page``: to another page, to the repository, or the path alone."""
    path = (source.parent / target).resolve()
    path = DOCS / PAGES[path] if path in PAGES else path
    if path.is_relative_to(DOCS):
        return f"[{text}]({Path(os.path.relpath(path, page.parent)).as_posix()}{anchor})"
    if not path.exists():
        raise FileNotFoundError(f"{source}: {target}")
    place = path.relative_to(ROOT).as_posix()
    return f"[{text}]({address.rstrip('/')}/blob/main/{place}{anchor})" if address else f"`{place}`"


def arrows(chart: re.Match[str]) -> str:
    """A chart of arrows as a table: the program that draws it would be loaded from elsewhere."""
    ends: dict[str, list[str]] = {}
    for start, end in re.findall(r"(\w+) --> (\w+)", chart[1]):
        ends.setdefault(start, []).append(end)
    rows = ((start, "→", ", ".join(names)) for start, names in ends.items())
    return markdown_table(("output of", "", "is read by"), rows)


def commands() -> str:
    """Every command with its options, from the application."""
    group: Any = get_command(app)
    panels: dict[str, list[str]] = {}
    for name, command in group.commands.items():
        context = command.make_context(name, [], resilient_parsing=True)
        usage = command.get_usage(context).removeprefix("Usage: ").replace(name, f"couplet {name}", 1)
        rows = [parameter.get_help_record(context) for parameter in command.get_params(context)]
        shown = ((f"`{row[0]}`", plain(row[1])) for row in rows if row and row[0] != "--help")
        lines = [
            f"### {name}",
            paragraphs(command.help),
            f"    {usage}",
            *([f"    {command.epilog.removeprefix('Example: ')}"] if command.epilog else []),
            markdown_table(("option", "meaning"), shown),
        ]
        panels.setdefault(command.rich_help_panel, []).extend(lines)
    order = ("Everyday", "Inspection", "Pipeline")
    assert set(panels) == set(order)
    return "\n\n".join(text for panel in order for text in (f"## {panel}", *panels[panel]))


def settings() -> str:
    """Every setting of a parameter file, from the classes that check it."""
    sections = {model: title(model) for model in reached((Params, Recipe))}
    text = []
    for model in (each for each in sections if not issubclass(each, Variant)):
        text += [f"## {sections[model]}", described(model), table(model, sections)]
    for family in (each for each in sections if issubclass(each, Variant)):
        text += [f"## {sections[family]}", described(family)]
        for kind, member in sorted(family.family.items()):
            text += [f"### {family.noun}: {kind}", described(member), table(member, sections)]
    return "\n\n".join(text)


GENERATED = {"commands": commands, "settings": settings}


def reached(models: tuple[type[Closed], ...]) -> list[type[Closed]]:
    """The models, those of their settings, and so on; of a family its base class."""
    found: dict[type[Closed], None] = {}
    waiting = [*models]
    while waiting:
        model = waiting.pop(0)
        if model in found:
            continue
        found[model] = None
        for member in model.family.values() if issubclass(model, Variant) else (model,):
            for field in member.model_fields.values():
                waiting += models_in(field.annotation)
    return list(found)


def models_in(annotation: Any) -> Iterator[type[Closed]]:
    """The models that an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, Closed):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def title(model: type[Closed]) -> str:
    """The heading of a model: ``learning rate``, ``parameter file``."""
    if model is Params:
        return "Parameter file"
    if issubclass(model, Variant):
        return model.noun.capitalize()
    words = re.sub("(?<=[a-z])(?=[A-Z])", " ", model.__name__.removesuffix("Config"))
    return words.capitalize()


def table(model: type[Closed], sections: dict[type[Closed], str]) -> str:
    """The settings of a model: key, values, default and meaning."""
    fields = {name: field for name, field in model.model_fields.items() if name != "kind"}
    if not fields:
        return "No settings."
    rows = (
        (
            f"`{name}`",
            values(field.annotation, [*field.metadata], sections),
            default(field),
            plain(field.description or ""),
        )
        for name, field in fields.items()
    )
    return markdown_table(("key", "values", "default", "meaning"), rows)


def values(annotation: Any, metadata: list[Any], sections: dict[type[Closed], str]) -> str:
    """What a setting may be, in words, with links to sections."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return values(parts[0], [*parts[1:], *metadata], sections)
    if origin is Literal:
        text = ", ".join(f"`{part}`" for part in parts)
    elif origin in (Union, UnionType):
        text = " or ".join(values(part, [], sections) for part in parts)
    elif origin in (tuple, list):
        text = f"list of {values(parts[0], [], sections)}"
    elif origin is dict:
        text = f"mapping to {values(parts[1], [], sections)}"
    elif annotation in sections:
        anchor = sections[annotation].lower().replace(" ", "-")
        text = f"[{sections[annotation].lower()}](#{anchor})"
    else:
        text = WORDS[annotation]
    bounds = [
        f"{sign} {getattr(each, attribute):g}"
        for each in flat(metadata)
        for kind, (attribute, sign) in BOUNDS.items()
        if isinstance(each, kind)
    ]
    return " ".join([text, ", ".join(bounds)]).strip()


def flat(metadata: list[Any]) -> Iterator[Any]:
    """Constraints, also those inside a nested Field."""
    for each in metadata:
        yield from each.metadata if isinstance(each, FieldInfo) else (each,)


def default(field: FieldInfo) -> str:
    """The default of a setting as YAML writes it."""
    if field.is_required():
        return "required"
    if field.default_factory_takes_validated_data:
        return "follows from others"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Variant):
        return f"`{value.kind}`"
    if isinstance(value, Closed):
        return "its defaults"
    return f"`{json.dumps(to_jsonable_python(value), ensure_ascii=False)}`"


def described(model: type[Closed]) -> str:
    """The docstring of a class."""
    return paragraphs(model.__doc__ or "")


def paragraphs(text: str) -> str:
    """A docstring as Markdown: its paragraphs, one line each."""
    return "\n\n".join(plain(part) for part in re.split(r"\n\s*\n", text.strip()))


def plain(text: str) -> str:
    """Text on one line, with code in single backticks."""
    text = re.sub(r":\w+:(?=`)", "", text.replace("``", "`").replace("\b", ""))
    return " ".join(text.split()).replace("<", "&lt;")
