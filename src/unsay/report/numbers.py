"""Numbers as people read them: the only place that decides digits, signs and where a standard error stands.

shown(83.5, 2.632)        # '83.50 ± 2.63'
shown(99.9962, 0.0038)    # '99.996 ± 0.004': an error that is not 0 is never printed as 0
"""

from __future__ import annotations

from dataclasses import replace

from unsay.records import MetricValue
from unsay.report.names import is_undo_measure

NOTHING = "-"
ALPHA = 0.05
"""A p-value below it counts as beyond chance."""
MOST_DIGITS = 8


def of(value: MetricValue | None) -> str:
    """Show a metric with its standard error; `-` where it has no value."""
    return NOTHING if value is None else shown(value.value, value.stderr)


def shown(value: float | None, stderr: float | None = None, *, digits: int = 2, signed: bool = False) -> str:
    """Show a value with its standard error, with more digits than asked for where the error would become 0."""
    if value is None:
        return NOTHING
    sign = "+" if signed else ""
    if stderr is None:
        return f"{_plain(value, digits):{sign}.{digits}f}"
    while 0 < stderr < 0.5 * 10.0**-digits and digits < MOST_DIGITS:
        digits += 1
    error = f"{stderr:.{digits}f}"
    if stderr > 0 and float(error) == 0:
        error = f"{stderr:.0e}"
    return f"{_plain(value, digits):{sign}.{digits}f} ± {error}"


def interval(low: float | None, high: float | None, *, digits: int = 2, signed: bool = False) -> str:
    """Show an interval, with more digits where its ends differ and would look the same."""
    if low is None or high is None:
        return NOTHING
    while 0 < high - low < 0.5 * 10.0**-digits and digits < MOST_DIGITS:
        digits += 1
    sign = "+" if signed else ""
    return f"{_plain(low, digits):{sign}.{digits}f} to {_plain(high, digits):{sign}.{digits}f}"


def p_value(p: float | None) -> str:
    """Show a p-value in a table."""
    return NOTHING if p is None else f"{p:.3g}"


def p_words(p: float) -> str:
    """Show a p-value in a sentence."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def is_percentage(definition: str) -> bool:
    """Say whether a metric cannot leave 0 to 100: all but the undo measures that count something."""
    return not is_undo_measure(definition) or "% of" in definition


def believable(value: MetricValue) -> MetricValue:
    """Drop a standard error of exactly 0 strictly between 0 and 100, with its interval, and say why.

    Files of other tools and of earlier versions hold such errors. They say that nothing varies, where nothing was
    measured.
    """
    if value.stderr != 0 or value.value is None or not 0 < value.value < 100 or not is_percentage(value.definition):
        return value
    said = "its standard error of 0 cannot be right at this value and was left out"
    reason = f"{value.reason}; {said}" if value.reason else said
    return replace(value, stderr=None, low=None, high=None, reason=reason)


def _plain(value: float, digits: int) -> float:
    """Round, and turn -0.0 into 0.0."""
    return round(value, digits) + 0.0
