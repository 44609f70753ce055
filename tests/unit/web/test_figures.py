"""Figures as SVG: where numbers end up on the drawing, and that no number breaks one."""

from __future__ import annotations

import math
import re

import pytest

from tests.unit.web.site import Page
from unsay.web import figures


def points(svg: str) -> list[list[tuple[float, float]]]:
    drawn = [found["points"] or "" for found in Page(svg).all("polyline")]
    return [[(float(x), float(y)) for x, y in re.findall(r"([\d.-]+),([\d.-]+)", each)] for each in drawn]


def test_a_curve_keeps_order_and_proportion() -> None:
    (line,) = points(figures.curve({"training": [(0, 1.0), (5, 0.5), (10, 0.0)]}, "step", "loss"))
    (x0, y0), (x1, y1), (x2, y2) = line
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y1 - y0 == pytest.approx(y2 - y1, abs=0.2)
    assert y0 < y2  # the axis of a drawing points down
    assert all(0 <= x <= figures.WIDTH and 0 <= y <= figures.HEIGHT for x, y in line)


@pytest.mark.parametrize(
    "curve",
    [
        [(1, 2.0)],
        [(1, 2.0), (2, 2.0)],
        [(1, math.nan), (2, math.inf), (3, 1.0)],
        [(1, 1e-300), (2, 2e-300)],
        [(1, -1e14), (2, 1e14)],
        [(1, 1e308), (2, -1e308), (3, 0.0)],
    ],
)
def test_no_number_breaks_a_curve(curve: list[tuple[float, float]]) -> None:
    svg = figures.curve({"training": curve}, "step", "loss")
    (line,) = points(svg)
    assert line
    assert all(0 <= x <= figures.WIDTH and 0 <= y <= figures.HEIGHT for x, y in line)
    assert "nan" not in svg
    assert "inf" not in svg


def test_nothing_is_drawn_of_nothing() -> None:
    assert figures.curve({"training": []}, "step", "loss") == ""
    assert figures.curve({"training": [(1, math.nan)]}, "step", "loss") == ""
    assert figures.scatter([], "tokens", "EM") == ""
    assert figures.whisker(None, 1.0, 2.0, 0, 100) == ""


def test_a_long_curve_is_thinned_and_keeps_its_end() -> None:
    many = [(float(step), 1 / (step + 1)) for step in range(100_000)]
    (line,) = points(figures.curve({"training": many}, "step", "loss"))
    assert len(line) <= figures.MOST_POINTS + 1
    assert line[-1][0] == pytest.approx(figures.WIDTH - figures.RIGHT, abs=0.1)


def test_a_whisker_stays_within_its_cell() -> None:
    (bar,) = Page(figures.whisker(99.0, 90.0, 130.0, 0, 100)).all("line", class_="bar")
    assert (bar["x1"], bar["x2"]) == ("104.8", "116.0")
    (zero,) = Page(figures.whisker(1.0, -1.0, 3.0, -4, 4)).all("line", class_="zero")
    assert zero["x1"] == "60.0"


def test_names_in_figures_are_text() -> None:
    svg = figures.scatter([("<script>\u202e", (120.0, 50.0), (40.0, 60.0))], "<b>", "EM")
    assert not Page(svg).all("script")
    assert not Page(svg).all("b")
    assert "\u202e" not in svg
    assert "⟨U+202E⟩" in svg


def test_budgets_stand_at_equal_steps_with_a_shape_of_their_own_for_every_line() -> None:
    budgets = (64, 128, 256, 512, 1024)
    curves = [(f"line {n}", [(b, 10.0 * n + b / 64, 10.0 * n, 10.0 * n + 20) for b in budgets]) for n in range(10)]
    svg = figures.budgets(curves, "tokens", "EM")
    lines = points(svg)
    assert len(lines) == figures.MOST_LINES
    steps = [b[0] - a[0] for a, b in zip(lines[0], lines[0][1:], strict=False)]
    assert steps == pytest.approx([steps[0]] * 4, abs=0.2)
    assert steps[0] > 0
    assert all(a[1] > b[1] for a, b in zip(lines[0], lines[0][1:], strict=False))
    shapes = {(found["class"], tag) for tag in ("circle", "polygon") for found in Page(svg).all(tag)}
    assert len({name for name, _ in shapes}) == figures.MOST_LINES
    assert "line 7" in svg
    assert "line 8" not in svg
    assert figures.budgets([], "tokens", "EM") == ""
    assert "nan" not in figures.budgets([("a", [(64, math.nan, None, None), (128, 1.0, None, None)])], "tokens", "EM")
