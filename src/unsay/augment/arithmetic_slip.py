"""A wrong result in a `<<48/2=24>>24` step, taken back right after the step.

Where the result is written again behind the annotation, it is wrong in the same way. With `undo: line` the whole line
is written with the wrong result, without its line break, then one pop line, then the right line. With `undo: token` the
mistake goes from the first token that departs from the right answer to the end of the step, and is taken back token by
token. `auto` is `line` where the undo table has pop line. With `carry` the next line's step is worked out with the
wrong result before both are taken back. Everything that is written again is marked as correction: the right line, or
the tokens from the departure to the end of the step.

Wrong text is encoded together with the answer before it, so its ids are those the tokenizer would have given in that
place. A step is left alone when its annotation is malformed or cannot be worked out (a division by zero), when the ids
do not split where the mistake begins, or when the undos would not take back exactly what was written. Where chance
leaves an answer without a slip, one of its steps slips all the same; with `min_errors_per_answer: 0` it stays as it is.
With `depth` above 1 the wrong result may, with chance one half per level, be preceded by yet another one, which is
taken back token by token: in a wrong line where the result first stands, else where it is written again.
"""

from __future__ import annotations

import ast
import operator
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from unsay.augment import Answer, Augmented, Vocabulary
from unsay.augment._writing import (
    Edit,
    Unit,
    actions_of,
    assemble,
    check_options,
    choose,
    control_of,
    holds_control,
    inner_pop,
    mistake,
    nest,
    num_common,
    wrong_line,
)
from unsay.records import ERROR
from unsay.undo import ActionKind

_UNSIGNED = r"(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)(?!\d)"
_NUMBER = re.compile(rf"-?{_UNSIGNED}")
_OPERAND = re.compile(rf"(?<![\d.,]){_UNSIGNED}")
_STEP = re.compile(rf"<<(?P<expression>[^<>=\n]+)=(?P<result>[^<>=\n]+)>>(?: ?\$?(?P<written>-?{_UNSIGNED}))?")
_SHORT = r"(?:(?:0|[1-9]\d{0,8})(?:\.\d{1,6})?|\.\d{1,6})"
_CHAIN = re.compile(rf"{_SHORT}(?: *[-+*/] *{_SHORT})*")
_PARTS = re.compile(rf"{_SHORT}|[-+*/]")
_ARITHMETIC = re.compile(r"[\d.+\-*/() ]{1,200}")
_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@dataclass(frozen=True)
class ArithmeticSlip:
    """Options of the strategy. `rate` is the chance of a slip per step, `carry` that it goes on into the next line."""

    rate: float = 0.3
    carry: float = 0.0
    undo: Unit = "auto"
    min_errors_per_answer: int = 1
    max_errors_per_answer: int = 3
    depth: int = 1

    def __post_init__(self) -> None:
        check_options(self, shares=("rate", "carry"), at_least={"depth": 1})

    @property
    def actions(self) -> tuple[ActionKind, ...]:
        return actions_of(self.undo, self.depth)

    def apply(self, answer: Answer, context: Vocabulary, rng: random.Random) -> Augmented | None:
        unit, control = control_of("arithmetic_slip", self.undo, context.table)
        splice = _splice_line if unit == "line" else _splice_tokens
        pop = inner_pop("arithmetic_slip", self.depth, context.table)
        steps = _steps(answer.text)

        def slip_at(index: int) -> Edit | None:
            step = steps[index]
            value = _perturb(step.result, step.truth, rng)
            slip = _slip(answer.text, step, value)
            if rng.random() < self.carry:
                slip = _carry(answer.text, step, slip, value, steps[index + 1 :]) or slip
            edit = splice(answer, slip, control, context)
            if edit is None or pop is None:
                return edit

            def another_result(errors: Sequence[int]) -> tuple[int, Sequence[int]] | None:
                other = _render(_perturb(step.result, step.truth, rng), like=step.result)
                if len(errors) != edit.letters.count(ERROR):  # deeper than the wrong line or step itself
                    return rng.randrange(1, len(errors)), context.encode(other)
                return _before_the_result(answer, slip, other, edit.place, errors, context)

            return nest(edit, answer.ids, another_result, self.depth, pop, rng)

        edits = choose(
            len(steps),
            slip_at,
            rate=self.rate,
            least=self.min_errors_per_answer,
            most=self.max_errors_per_answer,
            rng=rng,
            missing="an answer without a <<a*b=c>> step that can be worked out and split off"
            if steps
            else "an answer without a <<a*b=c>> step that can be worked out",
        )
        return assemble(answer.ids, edits)


# -- steps and wrong results, on text -------------------------------------------------


@dataclass(frozen=True)
class _Step:
    """One annotation: where it begins, its parts, and where the step ends (behind the number written after it)."""

    begin: int
    end: int
    expression: str
    result: str
    written: str | None
    """The number behind the annotation, when it is the result again."""
    truth: Fraction
    line: tuple[int, int]
    """Start and end of the step's line, without its line break."""

    def rewritten(self, text: str, expression: str, result: str, value: Fraction) -> str:
        """Return the step's text with another expression and result."""
        tail = text[self.begin + len(f"<<{self.expression}={self.result}>>") : self.end]
        if self.written is not None:
            tail = tail.removesuffix(self.written) + _render(value, like=self.written)
        return f"<<{expression}={result}>>{tail}"


@dataclass(frozen=True)
class _Slip:
    """Wrong text for one stretch of whole lines. Places are characters of the right text unless said otherwise."""

    begin: int
    end: int
    departure: int
    """The right text's first wrong number: nothing before it differs."""
    step_end: int
    wrong: str
    wrong_step_end: int
    """Characters of `wrong` up to the end of the last wrong step."""
    num_lines: int
    numbers: tuple[int, ...]
    """Where in `wrong` the first step's wrong result stands: in the annotation and, if there, behind it."""


def _steps(text: str) -> list[_Step]:
    """Find the well-formed steps of an answer, first to last."""
    found = []
    for match in _STEP.finditer(text):
        expression, result, written = match.group("expression", "result", "written")
        truth = _work_out(expression)
        if truth is None or not _NUMBER.fullmatch(result):
            continue
        end = match.end()
        if written is not None and written != result and _value(written) != _value(result):
            written, end = None, text.index(">>", match.start()) + 2
        begin_line = text.rfind("\n", 0, match.start()) + 1
        end_line = text.find("\n", match.start())
        end_line = len(text) if end_line < 0 else end_line
        if text[begin_line:end_line].endswith("\r"):
            end_line -= 1
        found.append(_Step(match.start(), end, expression, result, written, truth, (begin_line, end_line)))
    return found


def _slip(text: str, step: _Step, value: Fraction) -> _Slip:
    result = _render(value, like=step.result)
    begin, end = step.line
    head = text[begin : step.begin] + step.rewritten(text, step.expression, result, value)
    departure = step.begin + len(f"<<{step.expression}=")
    return _Slip(
        begin=begin,
        end=end,
        departure=departure,
        step_end=step.end,
        wrong=head + text[step.end : end],
        wrong_step_end=len(head),
        num_lines=1,
        numbers=_numbers(step, departure - begin, len(head), value),
    )


def _numbers(step: _Step, first: int, end: int, value: Fraction) -> tuple[int, ...]:
    """Return where the wrong result begins, `first` and again where it is written behind the annotation, to `end`."""
    return (first,) if step.written is None else (first, end - len(_render(value, like=step.written)))


def _carry(text: str, step: _Step, slip: _Slip, value: Fraction, later: Sequence[_Step]) -> _Slip | None:
    """Work out the next line's step with the wrong result; None when that line does not use it."""
    break_end = text.find("\n", slip.end) + 1
    following = next((other for other in later if other.begin >= slip.end), None)
    if following is None or break_end == 0 or following.line[0] != break_end:
        return None
    right = _value(step.result)

    def replaced(part: str) -> str:
        return _OPERAND.sub(lambda number: _render(value, number[0]) if _value(number[0]) == right else number[0], part)

    expression = replaced(following.expression)
    outcome = _work_out(expression)
    if expression == following.expression or outcome is None or outcome < 0:
        return None
    outcome = round(outcome, 2)
    if outcome in (_value(following.result), following.truth, round(following.truth, 2)):
        return None
    lines = slip.wrong + text[slip.end : break_end] + replaced(text[break_end : following.begin])
    lines += following.rewritten(text, expression, _render(outcome, like="0"), outcome)
    end = following.line[1]
    return _Slip(
        begin=slip.begin,
        end=end,
        departure=slip.departure,
        step_end=following.end,
        wrong=lines + text[following.end : end],
        wrong_step_end=len(lines),
        num_lines=2,
        numbers=slip.numbers,
    )


def _perturb(result: str, truth: Fraction, rng: random.Random) -> Fraction:
    """Return a number near the result, or one with a digit changed; never the result or the true value."""
    decimals = _decimals(result)
    # Whole numbers of the last decimal, without the result's sign.
    scale: int = 10**decimals
    value, sign = _value(result), -1 if result.startswith("-") else 1
    right = sign * value.numerator * scale // value.denominator
    digits = str(right)
    near = [right + change for change in (-10, -2, -1, 1, 2, 10)]
    changed = [
        int(digits[:place] + digit + digits[place + 1 :]) for place in range(len(digits)) for digit in "0123456789"
    ]
    # What the true value rounds to is the true value itself, where it has no more decimals.
    forbidden = {right, sign * round(truth * scale if truth.denominator != 1 else truth.numerator * scale)}
    number = rng.choice([number for number in rng.choice((near, changed)) if number >= 0 and number not in forbidden])
    return Fraction(sign * number, scale)


def _work_out(expression: str) -> Fraction | None:
    """Return the value of + - * / and parentheses over numbers; None for anything else and for a division by zero."""
    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", expression).strip() if "," in expression else expression.strip()
    if _CHAIN.fullmatch(plain):  # most steps, at a fraction of the time
        return _work_out_chain(_PARTS.findall(plain))
    if not _ARITHMETIC.fullmatch(plain):
        return None
    try:
        return _value_of(ast.parse(plain, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _work_out_chain(parts: Sequence[str]) -> Fraction | None:
    """Return the value of numbers with a sign between each two of them; None for a division by zero."""
    terms = [_value(parts[0])]
    for sign, number in zip(parts[1::2], parts[2::2], strict=True):
        value = _value(number)
        if sign == "*":
            terms[-1] *= value
        elif sign == "/" and not value:
            return None
        elif sign == "/":
            terms[-1] /= value
        else:
            terms.append(value if sign == "+" else -value)
    return terms[0] if len(terms) == 1 else sum(terms, Fraction(0))


def _value_of(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number):
            return Fraction(str(number))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value_of(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value_of(left), _value_of(right))
    raise ValueError(f"not arithmetic: {ast.dump(node)}")


@lru_cache(maxsize=4096)
def _value(number: str) -> Fraction:
    return Fraction(number.replace(",", ""))


def _decimals(number: str) -> int:
    return len(number.partition(".")[2])


def _render(value: Fraction, like: str) -> str:
    """Write a number in the manner of another: thousands, decimals (more where needed), a bare leading point."""
    decimals = _decimals(like)
    while 10**decimals % value.denominator:
        decimals += 1
    digits = str(abs(value.numerator) * 10**decimals // value.denominator).rjust(decimals + 1, "0")
    whole, part = (digits[:-decimals], digits[-decimals:]) if decimals else (digits, "")
    if "," in like:
        whole = f"{int(whole):,}"
    if whole == "0" and like.lstrip("-").startswith("."):
        whole = ""
    return ("-" if value < 0 else "") + whole + ("." + part if part else "")


# -- the same on ids ----------------------------------------------------------------


def _written(answer: Answer, begin: int, text: str, context: Vocabulary) -> tuple[int, ...]:
    """Return the ids of the answer up to the line that begins at `begin`, and of `text` after that."""
    place = answer.boundary(begin)
    if context.lines_apart and place is not None and text[:1].strip():
        return answer.ids[:place] + context.encode(text)
    return context.encode(answer.text[:begin] + text)


def _splice_line(answer: Answer, slip: _Slip, control: int, context: Vocabulary) -> Edit | None:
    place = answer.boundary(slip.begin)
    if place is None:
        return None
    written = _written(answer, slip.begin, slip.wrong, context)
    if written[:place] != answer.ids[:place]:
        return None
    undos = (control,) * slip.num_lines
    return wrong_line(answer.ids, place, written[place:], answer.reach(slip.end), undos, context.table)


def _splice_tokens(answer: Answer, slip: _Slip, control: int, context: Vocabulary) -> Edit | None:
    written = _written(answer, slip.begin, slip.wrong[: slip.wrong_step_end], context)
    place = num_common(written, answer.ids)
    # An id that departs before the wrong number means the tokenizer split the right text differently.
    if place == len(answer.ids) or answer.offsets[place][1] <= slip.departure:
        return None
    errors = written[place:]
    if not errors or holds_control(errors, context.table):
        return None
    return mistake(place, errors, (control,) * len(errors), answer.reach(slip.step_end))


def _before_the_result(answer: Answer, slip: _Slip, other: str, place: int, errors: Sequence[int],
                       context: Vocabulary) -> tuple[int, Sequence[int]] | None:  # fmt: skip
    """Return before which id of a mistake that begins at `place` another result would be written, and its ids.

    The result has two places; the first of them may be where the mistake itself begins, and is then passed over.
    """
    for number in slip.numbers:
        ids = _written(answer, slip.begin, slip.wrong[:number] + other, context)
        common = num_common(ids[place:], errors)
        if common and ids[:place] == answer.ids[:place] and common < len(ids) - place:
            return common, ids[place + common :]
    return None
