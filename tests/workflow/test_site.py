"""The documentation site: built strictly, every page is linked, and every link leads somewhere."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from clones import REPOSITORY
from couplet.cli.app import app
from couplet.config.couplings import CouplingConfig


class Content(HTMLParser):
    """Names, links and loaded files of a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.names, self.links, self.loaded = set(), [], []
        self.text = page.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.names |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag in ("img", "script") and "src" in found:
            self.loaded.append(found["src"])
        elif tag == "link" and found.get("rel") in ("stylesheet", "icon"):
            self.loaded.append(found["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages of the built site by path."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {page: Content(page) for page in sorted(folder.rglob("*.html"))}


def targets(page, addresses):
    """The files and anchors that the internal ones of the addresses lead to."""
    for address in addresses:
        parts = urlsplit(address)
        if parts.scheme in ("http", "https", "mailto"):
            continue
        path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        yield address, path, unquote(parts.fragment)


def test_links_lead_to_files_and_anchors(site):
    for page, content in site.items():
        if page.name == "404.html":  # its addresses are those of a server
            continue
        for address, path, anchor in targets(page, content.links):
            assert path.exists(), f"{page.name}: {address}"
            assert not anchor or anchor in site[path].names, f"{page.name}: {address}"


def test_every_page_is_linked(site):
    linked = {path for page in site for _, path, _ in targets(page, site[page].links) if path != page}
    assert {page.name for page in site.keys() - linked} == {"404.html"}


def test_pages_load_nothing_from_elsewhere(site):
    for page, content in site.items():
        if page.name != "404.html":
            for address in content.loaded:
                assert not urlsplit(address).netloc, f"{page.name}: {address}"
                assert (page.parent / urlsplit(address).path).exists(), f"{page.name}: {address}"


def test_no_marker_or_link_out_of_the_site_is_left(site):
    for page, content in site.items():
        assert "<!-- site:" not in content.text, page.name
        for file in re.findall(r'href="([^"]*\.(?:md|py|yaml|ipynb))"', content.text):
            assert (page.parent / file).exists(), f"{page.name}: {file}"


def page_named(site, name):
    return next(content for page, content in site.items() if page.name == f"{name}.html")


def test_commands_settings_and_names_are_those_of_the_code(site):
    import couplet

    assert {command.name or command.callback.__name__ for command in app.registered_commands} <= page_named(
        site, "cli"
    ).names
    assert {f"coupling-{kind}" for kind in CouplingConfig.family} <= page_named(site, "settings").names
    assert "<td></td>" not in page_named(site, "settings").text, "a setting without a docstring"
    text = page_named(site, "api").text
    assert all(f".{name}" in text for name in couplet.__all__)


def test_the_notebook_is_a_page_with_its_outputs(site):
    page = page_named(site, "quickstart")
    pictures = [address for address in page.loaded if address.startswith("quickstart-")]
    cells = json.loads((REPOSITORY / "examples/quickstart.ipynb").read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    assert len(pictures) == sum("image/png" in output.get("data", {}) for output in outputs) > 0
    assert "Fréchet distance" in page.text
    assert "quickstart.html" in page_named(site, "library").text


def test_search_works_from_a_file(site):
    """The index is a script, because a page of a file may not fetch one."""
    folder = next(iter(site)).parent
    assert "fine-tune" in (folder / "search/search_index.js").read_text(encoding="utf-8").lower()
