"""Pictures of studies: what is drawn where, and which rows are refused."""

import xml.etree.ElementTree as ET
from itertools import product
from typing import Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from couplet.config.study import (
    DotsConfig,
    EvaluationsConfig,
    FigureConfig,
    PlaneConfig,
    ProbeFigureConfig,
    StepsConfig,
    SweepConfig,
    TrajectoriesFigureConfig,
)
from couplet.config.variants import build
from couplet.figures.marks import number
from couplet.reporting.pictures import STYLE

YLABEL = "Fréchet distance"
VALUES = {0: 4.0, 1: 6.0}
"""By seed: mean 5, sample standard deviation √2."""


def made(**columns):
    """Rows of all combinations; ``value`` is VALUES[seed], twice that in row b."""
    columns = {"row": ["a", "b"], **columns, "seed": [0, 1]}
    rows = [dict(zip(columns, values, strict=True)) for values in product(*columns.values())]
    return [row | {"value": VALUES[row["seed"]] * (2 if row["row"] == "b" else 1)} for row in rows]


PLANE = [
    {"row": row, "seed": 0, "part": part, "component": k, "x0": 0.1 * k, "y0": 0.5 - k, "x1": 1.5, "y1": 0.7}
    for row, part, k in product(("independent", "vae"), ("sample", "pair", "posterior"), (0, 1))
]
TRAJECTORIES = [
    {"row": row, "seed": seed, "path": path, "component": path % 2, "x": x, "value": 1.0}
    | {"x1": 0.1 * path, "x2": x * (seed + 1), "ode_x1": 0.2, "ode_x2": x}
    for row, seed, path, x in product(("independent", "generator"), (0, 1), range(20), (2.0, 0.5, 1.0))
]
FIGURES = {
    "dots": (DotsConfig(), made(nfe=[1, 2])),
    "sweep": (SweepConfig(x="coupling.mu", xlabel="share µ"), made(nfe=[1, 2], x=[0.0, 0.5, 1.0])),
    "steps": (
        StepsConfig(against=("steps", "seconds", "evaluations")),
        made(nfe=[1], against=["steps", "seconds", "evaluations"], x=[1000, 2000, 4000]),
    ),
    "evaluations": (EvaluationsConfig(), made(nfe=[1, 2, 4, 8])),
    "probe": (ProbeFigureConfig(probe="transport"), made(x=[0.01, 1.0, 80.0])),
    "plane": (PlaneConfig(), PLANE),
    "trajectories": (TrajectoriesFigureConfig(), TRAJECTORIES),
}


@pytest.fixture
def style():
    with mpl.rc_context(fname=STYLE):
        yield


def render(figure, rows, ylabel):
    return build(figure).picture(pd.DataFrame(rows), ylabel)


def draw(figure, rows, out, *, ylabel):
    build(figure).draw(pd.DataFrame(rows), out, ylabel)


def curves(axes):
    """The labelled lines of a panel."""
    return [line for line in axes.lines if not line.get_label().startswith("_")]


def bars(axes):
    """{label: (x, y, low, high)} of a panel's lines with bars, vertical or horizontal."""
    ends_by_label = {}
    for line, container in zip(curves(axes), axes.containers, strict=True):
        (sticks,) = container.lines[2]
        ends = np.array(sticks.get_segments())
        spread = ends[:, :, 1] if container.has_yerr else ends[:, :, 0]
        ends_by_label[line.get_label()] = (*line.get_data(), *spread.T)
    return ends_by_label


def legend(picture):
    return [text.get_text() for of in picture.legends for text in of.get_texts()]


def test_every_kind_of_figure_is_drawn():
    assert set(FIGURES) == set(FigureConfig.family)


@pytest.mark.parametrize("kind", FIGURES)
def test_drawn_twice_gives_the_same_files(tmp_path, kind):
    figure, rows = FIGURES[kind]
    for folder in ("once", "again"):
        draw(figure, rows, tmp_path / folder / "gc-0.5.png", ylabel=YLABEL)
    assert {path.name for path in (tmp_path / "once").iterdir()} == {"gc-0.5.png", "gc-0.5.svg"}
    for name in ("gc-0.5.png", "gc-0.5.svg"):
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    root = ET.parse(tmp_path / "once/gc-0.5.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "<text" not in ET.tostring(root, encoding="unicode")  # outlines, the same on every machine
    with Image.open(tmp_path / "once/gc-0.5.png") as image:
        assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)
        assert np.asarray(image.convert("L")).min() < 100


@pytest.mark.usefixtures("style")
def test_dots_stand_from_top_to_bottom_with_spread_and_single_seeds():
    picture = render(*FIGURES["dots"], YLABEL)
    (axes,) = picture.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    bottom, top = axes.get_ylim()
    assert bottom > top
    assert axes.get_xlabel() == YLABEL
    assert legend(picture) == ["NFE 1", "NFE 2"]
    mean, y, low, high = bars(axes)["NFE 1"]
    assert mean == pytest.approx([5, 10])
    assert np.round(y) == pytest.approx([0, 1])
    assert low == pytest.approx([5 - 2**0.5, 10 - 8**0.5])
    assert high == pytest.approx([5 + 2**0.5, 10 + 8**0.5])
    singles = [line.get_xdata() for line in axes.lines if line.get_alpha()]
    assert [sorted(values) for values in singles] == [[4, 6, 8, 12]] * 2


@pytest.mark.usefixtures("style")
def test_height_grows_with_rows():
    few, many = (
        render(
            DotsConfig(), [{"row": f"{i}", "nfe": 1, "seed": 0, "value": 1.0} for i in range(count)], YLABEL
        )
        for count in (2, 20)
    )
    assert many.get_figheight() > few.get_figheight() + 3


@pytest.mark.usefixtures("style")
@pytest.mark.parametrize(("values", "scale"), [((1, 9), "linear"), ((1, 11), "log"), ((0, 11), "linear")])
def test_more_than_a_decade_is_logarithmic(values, scale):
    rows = [{"row": f"{value}", "nfe": 1, "seed": 0, "value": float(value)} for value in values]
    assert render(DotsConfig(), rows, YLABEL).axes[0].get_xscale() == scale


@pytest.mark.usefixtures("style")
def test_single_seed_has_no_bar():
    rows = [row for row in FIGURES["sweep"][1] if row["seed"] == 0]
    (axes,) = render(FIGURES["sweep"][0], rows, YLABEL).axes
    assert [len(line.get_xdata()) for line in curves(axes)] == [3] * 4
    sticks = [stick for container in axes.containers for stick in container.lines[2][0].get_segments()]
    assert not any(len(stick) for stick in sticks)


@pytest.mark.usefixtures("style")
@pytest.mark.parametrize(
    ("rows", "names"),
    [
        (made(row=["a"], nfe=[1, 2], x=[0.0, 1.0]), ["NFE 1", "NFE 2"]),
        (made(nfe=[1], x=[0.0, 1.0]), ["a", "b"]),
        (made(nfe=[1, 2], x=[0.0, 1.0]), ["a, NFE 1", "a, NFE 2", "b, NFE 1", "b, NFE 2"]),
    ],
)
def test_legend_names_what_varies(rows, names):
    picture = render(FIGURES["sweep"][0], rows, YLABEL)
    assert legend(picture) == names
    drawn = curves(picture.axes[0])
    looks = {(line.get_color(), line.get_linestyle(), line.get_markerfacecolor()) for line in drawn}
    assert len(looks) == len(names)


@pytest.mark.usefixtures("style")
def test_ticks_of_close_values_are_whole_numbers_to_read():
    """And not differences from +1.516e2 in a corner."""
    close = [row | {"value": 151.6 + 0.001 * row["seed"]} for row in made(nfe=[1], x=[0.0, 1.0])]
    picture = render(FIGURES["sweep"][0], close, YLABEL)
    picture.canvas.draw()
    (axes,) = picture.axes
    assert axes.yaxis.get_offset_text().get_text() == ""
    assert all(label.get_text().startswith("151.") for label in axes.get_yticklabels())


@pytest.mark.usefixtures("style")
def test_sweep_on_a_logarithmic_axis_has_a_place_for_zero():
    figure = SweepConfig(x="coupling.beta", xlabel="weight β", log=True)
    (axes,) = render(figure, made(nfe=[1], x=[0.0, 0.01, 0.1, 1.0]), YLABEL).axes
    x, *_ = bars(axes)["a"]
    place = axes.transData.transform([(value, 1.0) for value in x])[:, 0]
    assert (np.diff(place) > 20).all()
    assert axes.get_xlim()[0] < 0
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.01", "0.1", "1"]
    assert axes.get_xlabel() == "weight β"


@pytest.mark.usefixtures("style")
def test_steps_are_averaged_snapshot_by_snapshot():
    rows = made(row=["a"], nfe=[1], against=["steps", "seconds"], x=[1, 2, 3])
    for row in rows:
        if row["against"] == "seconds":
            row["x"] *= 7200
    figure = StepsConfig(against=("seconds", "steps"))
    seconds, steps = render(figure, rows, YLABEL).axes
    assert seconds.get_xlabel() == "training hours"
    assert seconds.lines[0].get_xdata() == pytest.approx([2, 4, 6])
    assert steps.get_xlabel() == "training steps"
    assert steps.lines[0].get_xdata() == pytest.approx([1, 2, 3])
    assert steps.lines[0].get_ydata() == pytest.approx([5, 5, 5])
    band = steps.collections[0].get_paths()[0].vertices[:, 1]
    # Student's 95 % interval of a mean of two: 12.706 standard errors, down to half of the smallest value.
    assert (band.min(), band.max()) == pytest.approx((2, 5 + 12.7062 * 1), rel=1e-4)
    assert (seconds.get_yscale(), seconds.get_ylim()) == ("log", steps.get_ylim())


@pytest.mark.usefixtures("style")
@pytest.mark.parametrize(
    ("last", "label", "shown"),
    [(900, "training steps", 900), (40_000, "training steps (×10³)", 40), (4e6, "training steps (×10⁶)", 4)],
)
def test_large_numbers_of_steps_have_a_unit(last, label, shown):
    (axes,) = render(StepsConfig(), made(nfe=[1], against=["steps"], x=[last / 2, last]), YLABEL).axes
    assert axes.get_xlabel() == label
    assert axes.lines[0].get_xdata()[-1] == pytest.approx(shown)


@pytest.mark.usefixtures("style")
def test_bar_on_a_logarithmic_axis_stays_positive():
    rows = [
        {"row": "a", "x": 1.0, "seed": seed, "value": value} for seed, value in enumerate((1.0, 1.0, 90.0))
    ]
    (axes,) = render(ProbeFigureConfig(probe="transport"), rows, YLABEL).axes
    _, _, (low,), _ = bars(axes)["a"]
    assert low == pytest.approx(0.5)
    assert axes.get_ylim()[0] > 0.1


@pytest.mark.usefixtures("style")
@pytest.mark.parametrize(
    ("probe", "label", "scale"),
    [
        ("gradient", "training steps", "linear"),
        ("transport", "noise level t", "log"),
        ("regulariser", "noise level t", "log"),
    ],
)
def test_probe_over_levels_or_steps(probe: Literal["gradient", "transport", "regulariser"], label, scale):
    (axes,) = render(ProbeFigureConfig(probe=probe), FIGURES["probe"][1], YLABEL).axes
    assert (axes.get_xlabel(), axes.get_xscale(), axes.get_yscale()) == (label, scale, "log")


@pytest.mark.usefixtures("style")
def test_plane_has_a_column_for_each_row_and_the_same_limits():
    picture = render(PlaneConfig(), PLANE, "")
    axes = np.array(picture.axes).reshape(2, 2)
    assert [axis.get_title() for axis in axes[0]] == ["independent", "vae"]
    assert len({(*axis.get_xlim(), *axis.get_ylim()) for axis in axes.flat}) == 1
    assert {axis.get_aspect() for axis in axes.flat} == {1.0}
    # The prior at one and two standard deviations, then two posteriors with mean and std of their rows.
    sizes = [(patch.center, patch.width, patch.height) for patch in axes[0, 1].patches]
    assert sizes[:2] == [((0, 0), 2, 2), ((0, 0), 4, 4)]
    assert sizes[2:4] == [((0.0, 0.5), 3.0, 1.4), ((0.0, 0.5), 6.0, 2.8)]
    assert len({patch.get_linestyle() for patch in axes[0, 1].patches}) == 3
    assert "mode 2: posterior, 1 and 2 std" in legend(picture)
    ends = [line.get_data() for line in axes[1, 0].lines if len(line.get_xdata()) == 2]
    assert ((0.0, 1.5), (0.5, 0.7)) in [tuple(map(tuple, end)) for end in ends]


@pytest.mark.usefixtures("style")
def test_trajectories_are_those_of_one_seed_from_the_largest_level():
    picture = render(TrajectoriesFigureConfig(), TRAJECTORIES, "")
    assert [axes.get_title() for axes in picture.axes] == ["independent", "generator"]
    curves = [line for line in picture.axes[0].lines if len(line.get_xdata()) > 1]
    assert len(curves) == 2 * 16
    ode, pair = curves[:2]
    assert [*pair.get_ydata()] == [*ode.get_ydata()] == [2.0, 1.0, 0.5]
    assert (pair.get_xdata()[0], ode.get_xdata()[0]) == (0.0, 0.2)
    assert legend(picture)[-1] == "probability-flow ODE"


@pytest.mark.usefixtures("style")
def test_plane_draws_at_most_150_links():
    rows = [{**PLANE[0], "x0": x} for x in np.linspace(-2, 2, 400)]
    links = [line for line in render(PlaneConfig(), rows, "").axes[0].lines if len(line.get_xdata()) == 2]
    assert len(links) == 150


@pytest.mark.parametrize("kind", FIGURES)
def test_wrong_rows_are_refused_and_leave_no_file(tmp_path, kind):
    figure, rows = FIGURES[kind]
    numeric = "x1" if kind == "plane" else "value"
    wrong = [([], "no row"), ([*rows[:-1], {**rows[-1], numeric: float("nan")}], f"not finite.*{numeric}")]
    if kind != "plane":
        wrong.append(([*rows, rows[0]], "a seed is there twice"))
    for bad, message in wrong:
        with pytest.raises(ValueError, match=message):
            draw(figure, bad, tmp_path / "figure.svg", ylabel=YLABEL)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("style")
@pytest.mark.parametrize(
    ("figure", "rows", "message"),
    [
        (
            StepsConfig(against=("seconds",)),
            made(nfe=[1], against=["steps"], x=[1, 2]),
            "no row has 'seconds'",
        ),
        (StepsConfig(), made(nfe=[1], against=["steps"], x=[1, 2])[:-1], "different numbers of snapshots"),
        (SweepConfig(x="a", xlabel="a", log=True), made(nfe=[1], x=[-1.0, 1.0]), "no place"),
    ],
)
def test_rows_that_do_not_fit_the_figure_are_refused(figure, rows, message):
    with pytest.raises(ValueError, match=message):
        render(figure, rows, YLABEL)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.05, "0.05"), (200.0, "200"), (0.0, "0"), (1e-5, "$10^{-5}$"), (3e-6, r"$3\times10^{-6}$")],
)
def test_tick_labels_are_short(value, text):
    assert number(value) == text


def test_curves_differ_in_grey():
    """The first four and all neighbours by a tenth in lightness; all by line or marker besides."""
    with mpl.rc_context(fname=STYLE):
        cycle = list(mpl.rcParams["axes.prop_cycle"])
    grey = [float(np.dot(mpl.colors.to_rgb(style["color"]), (0.299, 0.587, 0.114))) for style in cycle]
    assert (np.abs(np.diff(grey)) > 0.1).all()
    assert (np.diff(sorted(grey[:4])) > 0.1).all()
    assert len({(style["linestyle"], style["marker"]) for style in cycle}) == len(cycle)
