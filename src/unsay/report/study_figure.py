"""Accuracy over sampled tokens as one SVG file that needs no style sheet and no script, to stand beside a page.

    write_text(place, svg(study.budgets))

Lines differ in colour (Okabe and Ito's palette, which colour-blind readers can tell apart) and in dashes; bars are the
95 % intervals. Knows nothing about files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from unsay.report.escape import line, shortened
from unsay.report.study_budgets import Budget

WIDTH, HEIGHT = 860, 400
LEFT, RIGHT, TOP, BOTTOM = 56, 300, 30, 46
COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5B5B5B")
MARKER = "<!-- unsay:study-figure -->"
DASHES = ("", "8 4", "2 3", "10 3 2 3")


def svg(budgets: Sequence[Budget]) -> str:
    """Draw the curves that have points; "" where none has."""
    drawn = [each for each in budgets if each.points]
    if not drawn:
        return ""
    first = [point.budget for point in drawn[0].points]
    ends = [end for each in drawn for point in each.points for end in (point.value, point.high or 0.0)]
    top = min(100.0, 10.0 * math.ceil(max(ends) / 10.0)) or 10.0

    def x(budget: int, shift: float = 0.0) -> float:
        share = (math.log2(budget) - math.log2(first[0])) / (math.log2(first[-1]) - math.log2(first[0]) or 1.0)
        return LEFT + 14 + share * (WIDTH - LEFT - RIGHT - 28) + shift

    def y(value: float) -> float:
        return TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM)

    parts = ['<rect width="100%" height="100%" fill="#FFFFFF"/>']
    for number in range(6):
        value = top * number / 5
        parts.append(_line(LEFT, y(value), WIDTH - RIGHT, y(value), "#DDDDDD"))
        parts.append(_text(LEFT - 8, y(value) + 4, f"{value:g}", "end"))
    for budget in first:
        parts.append(_text(x(budget), HEIGHT - BOTTOM + 18, str(budget), "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "sampled tokens per question, at most", "middle"))
    parts.append(_text(LEFT - 44, 14, "% right", "start"))
    for number, each in enumerate(drawn):
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
        shift = 4.0 * (number - (len(drawn) - 1) / 2) / max(1.0, len(drawn) / 6)
        path = " ".join(f"{x(point.budget, shift):.1f},{y(point.value):.1f}" for point in each.points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{_dashed(dash)}/>')
        for point in each.points:
            at = x(point.budget, shift)
            if point.low is not None and point.high is not None:
                parts.append(_line(at, y(point.low), at, y(point.high), colour))
            parts.append(f'<circle cx="{at:.1f}" cy="{y(point.value):.1f}" r="3" fill="{colour}"/>')
        place = TOP + 10 + 18 * number
        parts.append(_line(WIDTH - RIGHT + 16, place, WIDTH - RIGHT + 44, place, colour, dash, 2))
        parts.append(_text(WIDTH - RIGHT + 52, place + 4, shortened(each.name, 38), "start"))
    height = max(HEIGHT, TOP + 18 * len(drawn) + 20)
    said = "; ".join(f"{each.name}: {each.points[-1].value:.1f} %" for each in drawn)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="12" role="img">{MARKER}'
        f"<title>{_plain(f'Accuracy by sampled tokens. {said}')}</title>{''.join(parts)}</svg>\n"
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, dash: str = "", width: float = 1) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width:g}"{_dashed(dash)}/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#222222">{_plain(text)}</text>'


def _dashed(dash: str) -> str:
    return f' stroke-dasharray="{dash}"' if dash else ""


def _plain(text: str) -> str:
    return escape(line(text))
