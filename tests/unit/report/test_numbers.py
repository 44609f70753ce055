"""Numbers on the page: no error that is not 0 looks like 0, and none that cannot be is shown."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from unsay.records import MetricValue
from unsay.report import numbers


@pytest.mark.parametrize(
    ("value", "stderr", "expected"),
    [
        (83.5, 2.632, "83.50 ± 2.63"),
        (83.5, None, "83.50"),
        (None, None, "-"),
        (99.9962, 0.0038, "99.996 ± 0.004"),
        (100.0, 0.0, "100.00 ± 0.00"),
        (50.0, 0.005, "50.00 ± 0.01"),
        (0.0, 3e-12, "0.00000000 ± 3e-12"),
        (-0.001, 0.5, "0.00 ± 0.50"),
    ],
)
def test_a_value_with_its_error(value: float | None, stderr: float | None, expected: str) -> None:
    assert numbers.shown(value, stderr) == expected


def test_a_difference_has_its_sign() -> None:
    assert numbers.shown(4.321, 1.436, signed=True) == "+4.32 ± 1.44"
    assert numbers.shown(-0.0001, 1.0, signed=True) == "+0.00 ± 1.00"
    assert numbers.interval(-1.234, 2.0, signed=True) == "-1.23 to +2.00"
    assert numbers.interval(1.0, None) == "-"
    assert numbers.interval(4.0001, 4.0002) == "4.0001 to 4.0002"


@given(st.floats(-100, 100), st.floats(0, 50), st.integers(1, 4))
@example(1.0, 5e-324, 1)
@example(1.0, 0.05, 1)
def test_only_an_error_of_zero_reads_as_zero(value: float, stderr: float, digits: int) -> None:
    text = numbers.shown(value, stderr, digits=digits)
    error = float(text.split(" ± ")[1])
    assert (error == 0) == (stderr == 0)
    assert error == pytest.approx(stderr, abs=0.5 * 10.0**-digits, rel=0.5)
    assert not text.startswith("-0.0") or re.search("[1-9]", text.split(" ± ")[0])


def test_an_error_of_zero_is_believed_where_everything_is_right_or_counted() -> None:
    def value(value: float, definition: str = "lm-eval gsm8k v3") -> MetricValue:
        return numbers.believable(MetricValue(value, 0.0, value, value, 50, definition))

    assert value(100.0).stderr == value(0.0).stderr == 0.0
    assert value(3.0, "unsay undo v1: undos per run").stderr == 0.0
    assert (value(40.0).stderr, value(40.0).low) == (None, None)
    assert value(40.0, "unsay undo v1: % of sampled tokens that are an undo").stderr is None
    assert "cannot be right" in (value(40.0).reason or "")
