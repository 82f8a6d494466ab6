"""Scalars as YAML 1.2 reads them, and text that comes back as it was written."""

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from couplet.config.couplings import VariationalConfig
from couplet.config.yaml12 import dump_yaml, load_yaml, read_yaml
from couplet.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-3", 3e-3),
        ("1e-05", 1e-5),
        ("1E5", 1e5),
        ("3.0e-3", 3e-3),
        (".5", 0.5),
        ("1.", 1.0),
        ("-0.25", -0.25),
        ("+7", 7),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("-12", -12),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("2026-01-01", "2026-01-01"),
        ("2001-12-14t21:59:43.10-05:00", "2001-12-14t21:59:43.10-05:00"),
        ("12:30:45", "12:30:45"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("0o8", "0o8"),
        ("=", "="),
        ('"3"', "3"),
        ("'null'", "null"),
        ("[1, 2e1, a]", [1, 20.0, "a"]),
        (".inf", math.inf),
        ("-.INF", -math.inf),
    ],
)
def test_scalar(text, value):
    (read,) = load_yaml(f"[{text}]") if text else (load_yaml(text),)
    assert read == value
    assert type(read) is type(value)


def test_not_a_number():
    assert math.isnan(load_yaml(".nan"))


@pytest.mark.parametrize("text", [".inf", "-.inf", ".nan", "1e400"])
def test_models_refuse_what_is_not_finite(text):
    with pytest.raises(ValueError, match=r"kl_weight\n.*finite number"):
        VariationalConfig.parse({"kl_weight": load_yaml(text)})


def test_anchors_and_merge_keys():
    text = "a: &a {x: 1, y: {z: 2}}\nb: *a\nc: {<<: *a, x: 3}\nd: {<<: [*a, {w: 5}], v: 4}"
    assert load_yaml(text) == {
        "a": {"x": 1, "y": {"z": 2}},
        "b": {"x": 1, "y": {"z": 2}},
        "c": {"x": 3, "y": {"z": 2}},
        "d": {"x": 1, "y": {"z": 2}, "w": 5, "v": 4},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "key 'a' occurs twice"),
        ("x: {a: 1, 'a': 2}", "key 'a' occurs twice"),
        ("x: {? [1] : 2}", "a key must be a plain name"),
        ("a: [1, 2", "expected"),
        ("a: *b", "undefined alias"),
        ("a: !!python/object:os.system {}", "could not determine a constructor"),
        ("a: !mine 3", "could not determine a constructor"),
        ("a: {<<: 3}", "expected a mapping"),
        ("a: 1\n---\nb: 2", "single document"),
        ("a: \x00", "special characters"),
        ("a: !!int x", "cannot be read"),
        ("a: !!float x", "cannot be read"),
    ],
)
def test_what_is_no_parameter_file_is_one_line(tmp_path, text, message):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: not YAML: ")


LIKE_NUMBERS = [
    "3e3",
    "010",
    "null",
    "~",
    "true",
    "1e-05",
    "0x1F",
    "0o10",
    ".inf",
    ".nan",
    "",
    "yes",
    "<<",
    "-",
]


@pytest.mark.parametrize("text", [*LIKE_NUMBERS, "2026-01-01", "a: b", "# a", "*a", "&a", "a\nb", "ä", " a "])
def test_text_comes_back_as_it_was(text):
    content = {"a": text, "b": [text], "c": {"d": text}}
    assert load_yaml(dump_yaml(content)) == content


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.sampled_from(LIKE_NUMBERS)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=10,
)


@given(PLAIN)
def test_content_comes_back_as_it_was(content):
    again = load_yaml(dump_yaml(content))
    assert again == content
    assert repr(again) == repr(content)


def test_keys_stay_in_their_order():
    assert list(load_yaml(dump_yaml({"b": 1, "a": 2, "c": 3}))) == ["b", "a", "c"]


def test_loading_leaves_other_readers_of_yaml_alone():
    assert yaml.safe_load("[010, yes]") == [8, True]
