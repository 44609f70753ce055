r"""Whether what is taken back was wrong: the steps of an answer that can be worked out, retracted or not.

A step is GSM8K's `<<a*b=c>>`; it is wrong where the arithmetic is. Steps are looked for in whatever was on the stack of
survivors (`Sample.written`, by the pieces of text): one that was complete when an undo took any part of it back is
retracted, one in the final answer is kept. With W wrong and R right steps, each retracted (r) or kept (k):

    step_precision   = W_r / (W_r + R_r)     of what was taken back, how much was wrong
    step_recall      = W_r / (W_r + W_k)     of what was wrong, how much was taken back
    step_false_undo  = R_r / (R_r + R_k)     of what was right, how much was taken back
    step_errors      = (W_r + W_k) / all     how much was wrong at all

A step that is right but does not belong there counts as right: arithmetic is all that is known. What the answer was
made to begin with (a planted mistake) counts like the rest. Precision and recall of retraction: Yang and Jia 2025
(arXiv 2505.16170); executable steps as labels: the calculator annotations of Cobbe et al. 2021.

    >>> from unsay.records import Sample, Written
    >>> pieces = ("<<2+2=5>>", "<", "<<2+2=4>>")
    >>> written = Written(pieces, (1, 9, 2), (None, 1, None))
    >>> values = Steps().summarise(Steps().measure([Sample("0", "", "", "<<2+2=4>>", "eos", None, written)]))
    >>> [values[name].value for name in Steps.names]
    [100.0, 100.0, 0.0, 50.0]
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np

from unsay import stats
from unsay.metrics import NO_SAMPLES, PERCENT, Measured, Metric, Parts, Range, from_estimate, missing
from unsay.records import MetricValue, Sample, Written

PRECISION, RECALL, FALSE_UNDO, ERRORS = "step_precision", "step_recall", "step_false_undo", "step_errors"
NO_TRACE = "no traces"
NOTHING: Mapping[str, str] = {
    PRECISION: "no step was taken back",
    RECALL: "no step was wrong",
    FALSE_UNDO: "no step was right",
    ERRORS: "no step that can be worked out",
}
_STEP = re.compile(r"<<([^<>=]+)=([^<>=]+)>>")
_NUMBER = r"-?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)"
_EXPRESSION = re.compile(rf"\s*{_NUMBER}(?:\s*[-+*/]\s*{_NUMBER})*\s*")
_TOLERANCE = Fraction(1, 100)
"""Results that do not come out even are written rounded."""


@dataclass(frozen=True)
class Steps(Metric):
    """Precision and recall of taking wrong steps back, by working them out."""

    names: ClassVar[tuple[str, ...]] = (PRECISION, RECALL, FALSE_UNDO, ERRORS)
    higher_is_better: ClassVar[Mapping[str, bool | None]] = {
        PRECISION: True,
        RECALL: True,
        FALSE_UNDO: False,
        ERRORS: False,
    }
    range: ClassVar[Mapping[str, Range]] = dict.fromkeys(names, PERCENT)
    definition: ClassVar[Mapping[str, str]] = {
        PRECISION: "unsay undo v1: % of steps taken back that were wrong, by their arithmetic",
        RECALL: "unsay undo v1: % of wrong steps that were taken back, by their arithmetic",
        FALSE_UNDO: "unsay undo v1: % of right steps that were taken back, by their arithmetic",
        ERRORS: "unsay undo v1: % of steps written, taken back or not, that were wrong, by their arithmetic",
    }

    def measure(self, samples: Sequence[Sample]) -> Measured:
        counts = np.full((len(samples), 4), np.nan)  # wrong and right retracted, wrong and right kept
        for at, sample in enumerate(samples):
            if sample.written is not None:
                counts[at] = count(sample.written)
        wrong_r, right_r, wrong_k, right_k = counts.T
        parts = {
            PRECISION: (wrong_r, wrong_r + right_r),
            RECALL: (wrong_r, wrong_r + wrong_k),
            FALSE_UNDO: (right_r, right_r + right_k),
            ERRORS: (wrong_r + wrong_k, counts.sum(axis=1)),
        }
        return {name: np.stack([100.0 * above, below], axis=1) for name, (above, below) in parts.items()}

    def explain(self, sample: Sample) -> dict[str, Parts]:
        if sample.written is None:
            return {}
        wrong_r, right_r, wrong_k, right_k = count(sample.written)
        taken, kept = "wrong, taken back", "wrong, kept"
        right_taken, right_kept = "right, taken back", "right, kept"
        return {
            PRECISION: {taken: wrong_r, right_taken: right_r},
            RECALL: {taken: wrong_r, kept: wrong_k},
            FALSE_UNDO: {right_taken: right_r, right_kept: right_k},
            ERRORS: {taken: wrong_r, kept: wrong_k, right_taken: right_r, right_kept: right_k},
        }

    def summarise(self, measured: Measured) -> dict[str, MetricValue]:
        return {name: _value(measured[name], name, self.definition[name]) for name in self.names}


def _value(parts: np.ndarray, name: str, definition: str) -> MetricValue:
    known = parts[~np.isnan(parts[:, 1])]
    if len(known) == 0:
        return missing(definition, NO_TRACE if len(parts) else NO_SAMPLES)
    above, below = known[known[:, 1] > 0].T
    if len(below) == 0:
        return missing(definition, NOTHING[name])
    return from_estimate(stats.ratio(above.tolist(), below.tolist(), bounds=PERCENT), definition, PERCENT)


def count(written: Written) -> tuple[int, int, int, int]:
    """Count steps: wrong and taken back, right and taken back, wrong and kept, right and kept."""
    pieces: list[str] = []
    wrong = right = 0
    for piece, takes in zip(written.pieces, written.takes, strict=True):
        if takes is None:
            pieces.append(piece)
        elif takes:
            for is_right in _lost(pieces, takes):
                right, wrong = right + is_right, wrong + (not is_right)
            del pieces[-takes:]
    kept = [verdict for _, verdict in found("".join(pieces))]
    return wrong, right, kept.count(False), kept.count(True)


def _lost(pieces: Sequence[str], takes: int) -> list[bool]:
    """Return which of the steps that end in the last `takes` pieces, complete so far, were right."""
    begins = [0]
    for piece in pieces:
        begins.append(begins[-1] + len(piece))
    floor = len(pieces) - takes
    return [verdict for end, verdict in found("".join(pieces)) if bisect_right(begins, end - 1) - 1 >= floor]


def found(text: str) -> list[tuple[int, bool]]:
    """Return where each step that can be worked out ends in a text, and whether it is right."""
    steps = []
    for match in _STEP.finditer(text):
        verdict = is_right(match[1], match[2])
        if verdict is not None:
            steps.append((match.end(), verdict))
    return steps


def is_right(expression: str, result: str) -> bool | None:
    """Say whether an expression of numbers and + - * / has this result, to the cent; None where it is no such."""
    plain = result.strip()
    if not _EXPRESSION.fullmatch(expression) or not re.fullmatch(_NUMBER, plain):
        return None
    value = _work_out(expression)
    return None if value is None else abs(value - _number(plain)) < _TOLERANCE


def _work_out(expression: str) -> Fraction | None:
    numbers = re.split(r"(?<=[\d.])\s*([-+*/])\s*", expression.strip())
    terms = [_number(numbers[0])]
    for sign, number in zip(numbers[1::2], numbers[2::2], strict=True):
        value = _number(number)
        if sign == "*":
            terms[-1] *= value
        elif sign == "/":
            if not value:
                return None
            terms[-1] /= value
        else:
            terms.append(value if sign == "+" else -value)
    return sum(terms, Fraction(0))


def _number(text: str) -> Fraction:
    return Fraction(text.strip().replace(",", ""))
