"""Figures as inline SVG, made from numbers here: no script, no style attribute, colours from the page's style sheet.

curve({"training": [(1, 0.9), (2, 0.7)]}, "optimiser step", "loss")
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

from unsay.report.escape import line

Point = tuple[float, float]

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 42
MOST_POINTS = 1500
TICKS = 5
MOST_LINES = 8
KEY_COLUMNS = 3
NAME = 24
"""Characters of a name in a key."""
CORNERS: Mapping[int, Sequence[Point]] = {
    1: ((-3.2, -3.2), (3.2, -3.2), (3.2, 3.2), (-3.2, 3.2)),
    2: ((0.0, -4.6), (4.6, 0.0), (0.0, 4.6), (-4.6, 0.0)),
    3: ((0.0, -4.6), (4.4, 3.4), (-4.4, 3.4)),
}
"""Corners of the points of every second, third and fourth line of four; the first has circles."""
LARGEST = 1e15
"""Numbers beyond it (and those that are none) are left out of figures."""


def curve(curves: Mapping[str, Sequence[Point]], x_label: str, y_label: str) -> Markup:
    """Draw lines over one axis; nothing where there are no points. Of many points every n-th and the last are drawn."""
    drawn = {name: _thinned([point for point in points if _drawable(point)]) for name, points in curves.items()}
    every = [point for points in drawn.values() for point in points]
    if not every:
        return Markup("")
    axes = _Axes([x for x, _ in every], [y for _, y in every])
    parts = [axes.grid(x_label, y_label)]
    for number, (name, points) in enumerate((name, points) for name, points in drawn.items() if points):
        path = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in points)
        parts.append(Markup('<polyline class="series series-{}" points="{}"/>').format(number, path))
        if len(points) < 40:
            parts += [_dot(axes.x(x), axes.y(y), number) for x, y in points]
        at = LEFT + 8 + 150 * number
        parts.append(
            Markup('<line class="series series-{0}" x1="{1}" x2="{2}" y1="8" y2="8"/><text x="{3}" y="12">{4}</text>')
            .format(number, at, at + 22, at + 28, line(name))
        )  # fmt: skip
    last = ", ".join(f"{name} ends at {points[-1][1]:.4g}" for name, points in drawn.items() if points)
    return _figure(f"{y_label} by {x_label}: {last}", parts)


def scatter(points: Sequence[tuple[str, Point, tuple[float, float] | None]], x_label: str, y_label: str) -> Markup:
    """Draw named points with vertical error bars, each with its name beside it; nothing where there are none."""
    points = [each for each in points if _drawable((*each[1], *(each[2] or ())))]
    if not points:
        return Markup("")
    ys = [y for _, (_, y), ends in points for y in (y, *(ends or ()))]
    axes = _Axes([x for _, (x, _), _ in points], ys)
    parts = [axes.grid(x_label, y_label)]
    for number, (name, (x, y), ends) in enumerate(points):
        if ends is not None:
            parts.append(_bar(axes.x(x), axes.x(x), axes.y(ends[0]), axes.y(ends[1])))
        parts.append(_dot(axes.x(x), axes.y(y), number % 2))
        near_end = axes.x(x) > WIDTH - 140
        anchor, away = ("end", -7) if near_end else ("start", 7)
        parts.append(
            Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>')
            .format(axes.x(x) + away, axes.y(y) - 5, anchor, line(name))
        )  # fmt: skip
    said = "; ".join(f"{name}: {y:.4g} at {x:.4g}" for name, (x, y), _ in points)
    return _figure(f"{y_label} by {x_label}. {said}", parts)


def budgets(
    curves: Sequence[tuple[str, Sequence[tuple[float, float, float | None, float | None]]]], x_label: str, y_label: str
) -> Markup:
    """Draw named lines of (budget, value, low, high) with error bars, budgets by their logarithm; nothing without one.

    Lines differ in colour, dash and the shape of their points; a key stands above. The first MOST_LINES are drawn.
    """
    drawn = [
        (name, [point for point in points if point[0] > 0 and _drawable([each for each in point if each is not None])])
        for name, points in curves[:MOST_LINES]
    ]
    drawn = [(name, points) for name, points in drawn if points]
    if not drawn:
        return Markup("")
    every = [point for _, points in drawn for point in points]
    rows = math.ceil(len(drawn) / KEY_COLUMNS)
    axes = _Axes(
        [math.log2(x) for x, *_ in every],
        [y for _, value, low, high in every for y in (value, low, high) if y is not None],
        key=18 * rows,
        margin=0.06,
    )
    ticks = sorted({x for x, *_ in every})
    parts = [axes.grid(x_label, y_label, [(math.log2(x), f"{x:g}") for x in ticks])]
    for number, (name, points) in enumerate(drawn):
        aside = 5 * (number - (len(drawn) - 1) / 2)  # bars at one budget stand beside each other
        places = [(axes.x(math.log2(x)) + aside, axes.y(value)) for x, value, _, _ in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        for (x, _), (_, _, low, high) in zip(places, points, strict=True):
            if low is not None and high is not None:
                parts.append(
                    Markup('<line class="error line-{}" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(
                        number, x, x, axes.y(low), axes.y(high)
                    )
                )
        parts.append(Markup('<polyline class="line line-{}" points="{}"/>').format(number, path))
        parts += [_shape(x, y, number) for x, y in places]
        x, y = LEFT + (WIDTH - LEFT) / KEY_COLUMNS * (number % KEY_COLUMNS), 12 + 18 * (number // KEY_COLUMNS)
        parts.append(
            Markup('<line class="line line-{}" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/>').format(
                number, x, x + 26, y, y
            )
        )
        parts.append(_shape(x + 13, y, number))
        parts.append(Markup('<text x="{:.1f}" y="{}">{}</text>').format(x + 32, y + 4, _short(line(name))))
    said = "; ".join(f"{name}: " + ", ".join(f"{y:.4g} at {x:g}" for x, y, *_ in points) for name, points in drawn)
    return _figure(f"{y_label} by {x_label}. {said}", parts, HEIGHT + 18 * rows)


def whisker(value: float | None, low: float | None, high: float | None, start: float, end: float) -> Markup:
    """Draw one value with its interval on an axis from `start` to `end`, small enough for a cell of a table."""
    if value is None or not end > start:
        return Markup("")

    def at(number: float) -> float:
        return 4 + 112 * min(1.0, max(0.0, (number - start) / (end - start)))

    parts = [Markup('<line class="rail" x1="4" x2="116" y1="8" y2="8"/>')]
    if start < 0 < end:
        parts.append(Markup('<line class="zero" x1="{0:.1f}" x2="{0:.1f}" y1="1" y2="15"/>').format(at(0)))
    if low is not None and high is not None:
        parts.append(_bar(at(low), at(high), 8, 8))
    parts.append(_dot(at(value), 8, 0))
    return Markup(
        '<svg class="whisker" viewBox="0 0 120 16" width="120" height="16" aria-hidden="true">{}</svg>'
    ).format(Markup("").join(parts))


class _Axes:
    """Where a number of the data lies on the drawing."""

    def __init__(
        self, xs: Sequence[float], ys: Sequence[float], *, key: float = 0.0, margin: float | None = None
    ) -> None:
        """`key` is the height kept free above the drawing, `margin` the share of it kept free on the left and right."""
        beside = margin if margin is not None else 0.0 if len(set(xs)) > 2 else 0.08
        self._x = _spread(min(xs), max(xs), beside)
        self._y = _spread(min(ys), max(ys), 0.06)
        self._down = key

    def x(self, value: float) -> float:
        low, high = self._x
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)

    def y(self, value: float) -> float:
        low, high = self._y
        return self._down + HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM - 10) * (value - low) / (high - low)

    def grid(self, x_label: str, y_label: str, x_ticks: Sequence[tuple[float, str]] | None = None) -> Markup:
        parts = []
        for tick in _ticks(*self._y):
            parts.append(
                Markup(
                    '<line class="grid" x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}"/>'
                    '<text x="{3}" y="{4:.1f}" text-anchor="end">{5}</text>'
                ).format(LEFT, WIDTH - RIGHT, self.y(tick), LEFT - 6, self.y(tick) + 4, f"{tick:g}")
            )
        if x_ticks is None:
            x_ticks = [(tick, f"{tick:g}") for tick in _ticks(*self._x)]
        for tick, words in x_ticks:
            parts.append(
                Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
                    self.x(tick), self._down + HEIGHT - BOTTOM + 17, words
                )
            )
        middle = self._down + (TOP + HEIGHT - BOTTOM) / 2
        parts.append(
            Markup(
                '<text x="{}" y="{}" text-anchor="middle">{}</text>'
                '<text x="14" y="{}" text-anchor="middle" transform="rotate(-90 14 {})">{}</text>'
            ).format((LEFT + WIDTH - RIGHT) / 2, self._down + HEIGHT - 6, line(x_label), middle, middle, line(y_label))
        )
        return Markup("").join(parts)


def _figure(said: str, parts: Sequence[Markup], height: float = HEIGHT) -> Markup:
    return Markup('<svg class="figure" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, height, escape(line(said)), Markup("").join(parts)
    )


def _dot(x: float, y: float, number: int) -> Markup:
    return Markup('<circle class="dot dot-{}" cx="{:.1f}" cy="{:.1f}" r="3"/>').format(number, x, y)


def _shape(x: float, y: float, number: int) -> Markup:
    """Draw a point whose shape tells its line from its neighbours: circle, square, diamond, triangle."""
    if number % 4 not in CORNERS:
        return Markup('<circle class="point line-{}" cx="{:.1f}" cy="{:.1f}" r="3.6"/>').format(number, x, y)
    path = " ".join(f"{x + right:.1f},{y + down:.1f}" for right, down in CORNERS[number % 4])
    return Markup('<polygon class="point line-{}" points="{}"/>').format(number, path)


def _short(text: str) -> str:
    return text if len(text) <= NAME else text[: NAME - 1] + "…"


def _bar(x1: float, x2: float, y1: float, y2: float) -> Markup:
    return Markup('<line class="bar" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(x1, x2, y1, y2)


def _drawable(point: Sequence[float]) -> bool:
    return all(abs(number) < LARGEST for number in point)


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    step = math.ceil(len(points) / MOST_POINTS)
    return points if step <= 1 else [*points[:-1:step], points[-1]]


def _spread(low: float, high: float, share: float) -> Point:
    if low == high:
        return low - max(abs(low), 1.0) / 10, high + max(abs(high), 1.0) / 10
    return low - share * (high - low), high + share * (high - low)


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers between two ends, about `TICKS` of them."""
    raw = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(each for each in (1, 2, 5, 10) if raw <= each * power * 1.0000001)
    first = math.ceil(low / step)
    return [round(number * step, 12) for number in range(first, math.floor(high / step) + 1)]
