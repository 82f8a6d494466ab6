"""The page of studies: complete, escaped and without a network."""

import base64
import re
from collections import Counter
from html.parser import HTMLParser

import pytest
from jinja2 import UndefinedError

from couplet.reporting.page import page

SVG = '<svg xmlns="http://www.w3.org/2000/svg"/>'


def entry(name="gc-mu", paper="GC", verdicts=("shown",), **changed):
    made = {
        "name": name,
        "paper": paper,
        "result": "Figure 5",
        "title": f"Title of {name}",
        "claim": f"Claim of {name}",
        "source": "Section 4",
        "note": f"Note of {name}",
        "statements": [{"text": f"{name} {i}", "verdict": verdict} for i, verdict in enumerate(verdicts)],
        "measured": "Inception, 3 seeds",
        "budget": "20,000 steps",
        "order": 1,
        "samples": "",
        "svg": SVG,
        "links": {kind: f"{name}.{kind}" for kind in ("csv", "svg", "png")},
        "table": {"columns": ["coupling", "NFE 1"], "rows": [["independent", f"9.1 ± 0.1 {name}"]]},
        "target": f"snakemake --cores all results/paper/{name}.png",
    }
    return made | changed


class Parsed(HTMLParser):
    """Elements with their attributes, text, and a check that what opens is closed."""

    VOID = {"meta", "img", "br"}

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.open = [], "", []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def values(self, tag, attribute):
        return [attrs[attribute] for name, attrs in self.elements if name == tag and attribute in attrs]


def test_page_contains_every_part_of_every_entry():
    made = [entry("gc-mu"), entry("ict-dropout", "iCT"), entry("extra", "couplet")]
    parsed = Parsed(page(made, "Papers"))
    for each in made:
        texts = [each[key] for key in ("title", "claim", "note", "measured", "budget", "target")]
        assert all(text in parsed.text for text in [*texts, *each["table"]["rows"][0]])
        assert set(each["links"].values()) <= set(parsed.values("a", "href"))
    for svg in parsed.values("img", "src"):
        assert base64.b64decode(svg.removeprefix("data:image/svg+xml;base64,")).decode() == SVG
    assert parsed.values("img", "alt") == [
        "iCT, Figure 5: Title of ict-dropout",
        "GC, Figure 5: Title of gc-mu",
        "couplet, Figure 5: Title of extra",
    ]


def test_papers_stand_in_order_and_contents_lead_to_their_entries():
    first = entry("first", "couplet", order=0, samples="UE5H")
    made = [entry("extra", "couplet"), entry("b"), entry("a"), entry("ict", "iCT"), first]
    parsed = Parsed(page(made, "Papers"))
    order = ["first", "ict", "b", "a", "extra"]
    assert parsed.values("img", "src")[0] == "data:image/png;base64,UE5H"
    assert parsed.values("section", "id") == order
    inside = [href for href in parsed.values("a", "href") if href.startswith("#")]
    assert inside == [f"#{name}" for name in order]
    starts = [attrs.get("id", "") for tag, attrs in parsed.elements if tag in ("section", "h2")]
    assert starts.index("first") < starts.index("contents") < starts.index("ict")
    assert "Beyond the papers" in parsed.text
    assert (parsed.text.count("The paper\n"), parsed.text.count("Expected\n")) == (3, 2)
    assert "variational noise coupling" not in parsed.text  # no entry, no heading


def test_verdicts_are_counted():
    made = [
        entry("a", verdicts=("shown", "shown", "opposite")),
        entry("b", "iCT", ("not shown", "no claim", "shown")),
    ]
    text = page(made, "Papers")
    rows = re.findall(r"<tr>.*?</tr>", text, re.DOTALL)
    counts = [re.findall(r'class="count">([^<]*)<', row) for row in rows if "count" in row]
    assert counts == [
        ["shown", "not shown", "opposite", "no claim"],
        ["1", "1", "·", "1"],
        ["2", "·", "1", "·"],
        ["3", "1", "1", "1"],
    ]
    badges = Counter(value for value in Parsed(text).values("span", "class") if value.startswith("badge"))
    assert badges == {"badge shown": 3, "badge not-shown": 1, "badge opposite": 1, "badge no-claim": 1}


def test_text_is_escaped():
    bad = '<script>alert("x")</script>'
    keys = ("result", "title", "claim", "source", "note", "measured", "budget", "target")
    made = entry(
        **dict.fromkeys(keys, bad),
        statements=[{"text": bad, "verdict": "shown"}],
        table={"columns": [bad], "rows": [[bad]]},
        links=dict.fromkeys(("csv", "svg", "png"), '"><script>'),
    )
    parsed = Parsed(page([made], bad))
    assert "script" not in {tag for tag, _ in parsed.elements}
    assert parsed.text.count(bad) >= len(keys) + 4


def test_page_needs_nothing_from_elsewhere():
    made = entry(source="https://arxiv.org/abs/2406.09570")
    text = page([made], "Papers")
    parsed = Parsed(text)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in parsed.elements}
    loaded = [*parsed.values("img", "src"), *parsed.values("a", "href")]
    assert not [address for address in loaded if "//" in address and not address.startswith("data:")]
    assert text.count("http") == parsed.text.count("http") == 1
    assert not re.search(r"url\(|@import", text)


def test_entry_without_statements_and_note_says_so():
    text = page([entry(verdicts=(), note="")], "Papers")
    assert "no statement is tested on the seeds" in text
    assert "<dt>Note</dt>" not in text


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [
        ([entry(verdicts=("perhaps",))], ValueError, "gc-mu: verdict = 'perhaps'"),
        ([entry(paper="EDM")], ValueError, "gc-mu: paper = 'EDM'"),
        ([entry(), entry()], ValueError, "gc-mu: is there twice"),
        ([entry(links={})], UndefinedError, "csv"),
    ],
)
def test_wrong_entries_are_refused(made, error, message):
    with pytest.raises(error, match=message):
        page(made, "Papers")
