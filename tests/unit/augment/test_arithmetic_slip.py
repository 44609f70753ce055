from __future__ import annotations

import random
import re
from decimal import Decimal
from fractions import Fraction

import pytest

from tests.encodings import ANSWER, BYTES, CROSSING, END, LINE, MERGED, POP, RESET, Encoding, gsm8k
from unsay.augment import Answer, Augmented, Source, Vocabulary, apply_strategy
from unsay.augment.arithmetic_slip import ArithmeticSlip, _perturb, _render, _steps, _work_out
from unsay.errors import ConfigError, UndoError
from unsay.records import Row
from unsay.undo import resolve


def slip(strategy: ArithmeticSlip, text: str, seed: int = 0, encoding: Encoding = MERGED) -> Row:
    source = Source("train-1", (), encoding.answer(text), END)
    return apply_strategy("arithmetic_slip", strategy, source, encoding.vocabulary(POP, LINE, RESET), seed=seed)


def shown(row: Row, encoding: Encoding = MERGED) -> str:
    """Return the trace as text: [taken back], ~ per token undo, ^ per line undo, {correction}."""
    marks = {"e": ("[", "]"), "k": ("{", "}"), "u": ("", ""), "c": ("", "")}
    out = ""
    for match in re.finditer(r"(.)\1*", row.provenance):
        ids = row.ids[match.start() : match.end()]
        left, right = marks[match[1]]
        text = "".join({POP: "~", LINE: "^"}[id] for id in ids) if match[1] == "u" else encoding.decode(ids)
        out += left + text + right if text else ""
    return out


def test_a_wrong_line_is_written_without_its_line_break_and_taken_back_whole() -> None:
    row = slip(ArithmeticSlip(rate=1, undo="line", max_errors_per_answer=1), ANSWER)
    wrong = re.match(r"\[Natalia sold 48/2 = <<48/2=(\d+)>>(\d+) clips in May\.\]\^\{(.*\n)\}", shown(row))
    assert wrong
    assert wrong[1] == wrong[2] != "24"
    assert wrong[3] == "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n"
    assert shown(row).endswith("}" + ANSWER.split("\n", 1)[1])


def test_a_line_break_of_its_own_is_not_part_of_the_correction() -> None:
    row = slip(ArithmeticSlip(rate=1, undo="line", max_errors_per_answer=1), ANSWER, encoding=BYTES)
    assert "clips in May.}\nNatalia" in shown(row, BYTES)


def test_every_step_slips() -> None:
    row = slip(ArithmeticSlip(rate=1, undo="line"), ANSWER)
    assert re.fullmatch(r"\[[^]]*\]\^\{[^}]*\n\}\[[^]]*\]\^\{[^}]*\n\}#### 72", shown(row))
    assert row.provenance.count("u") == 2


def test_token_by_token() -> None:
    row = slip(ArithmeticSlip(rate=1, undo="token", max_errors_per_answer=1), ANSWER, seed=3)
    found = re.match(r"Natalia sold 48/2 = <<48/2=(2?)\[(\d*)>>(\d+)\](~+)\{(\d*>>24)\} clips in May", shown(row))
    assert found, shown(row)
    common, wrong, written, undos, right = found.groups()
    assert common + wrong == written != "24"
    assert common + right == "24>>24"
    assert len(undos) == row.provenance.count("e")


def test_a_mistake_carried_on_into_the_next_line() -> None:
    text = "He has 2*3=<<2*3=6>>6 apples.\nWith 6 apples he makes 6+1=<<6+1=7>>7 pies\n#### 7"
    row = slip(ArithmeticSlip(rate=1, carry=1, undo="line", max_errors_per_answer=1), text, seed=1)
    found = re.match(
        r"\[He has 2\*3=<<2\*3=(\d+)>>(\d+) apples\.\n"
        r"With (\d+) apples he makes (\d+)\+1=<<(\d+)\+1=(\d+)>>(\d+) pies\]"
        r"\^\^\{He has .* pies\n?\}",
        shown(row),
        re.S,
    )
    assert found, shown(row)
    wrong = {int(found[group]) for group in (1, 2, 3, 4, 5)}
    assert len(wrong) == 1
    assert int(found[6]) == int(found[7]) == wrong.pop() + 1


def test_a_mistake_carried_on_token_by_token() -> None:
    text = "2*3=<<2*3=6>>6\n6+1=<<6+1=7>>7 pies"
    row = slip(ArithmeticSlip(rate=1, carry=1, undo="token", max_errors_per_answer=1), text, encoding=BYTES)
    found = re.fullmatch(r"2\*3=<<2\*3=\[(\d+)>>.*\](~+)\{6>>6\n6\+1=<<6\+1=7>>7\} pies", shown(row, BYTES), re.S)
    assert found, shown(row, BYTES)
    assert len(found[2]) == row.provenance.count("e")


@pytest.mark.parametrize(
    "text",
    [
        "2*3=<<2*3=6>>6\nNow 5+1=<<5+1=6>>6",  # the next line does not use it
        "2*3=<<2*3=6>>6\n\n6+1=<<6+1=7>>7",  # an empty line between
        "2*3=<<2*3=6>>6\n6*0=<<6*0=0>>0",  # the outcome would be the same
        "2*3=<<2*3=6>>6",
    ],
)
def test_nothing_to_carry_on(text: str) -> None:
    for seed in range(10):
        row = slip(ArithmeticSlip(rate=1, carry=1, undo="line", max_errors_per_answer=1), text, seed, BYTES)
        assert row.provenance.count("u") == 1


def test_steps_are_left_alone_when_malformed() -> None:
    for text in (
        "<<5*3>>15",
        "<<=5>>5",
        "<<5*3=>>15",
        "<<5*3=abc>>15",
        "<<a*b=15>>15",
        "<<1=2=3>>3",
        "<<5/0=5>>5",
        "<<5/(3-3)=5>>5",
        "<<5*3=15",
        "5*3=15>>",
        "<<5*\n3=15>>15",
        "<<2**9=512>>512",
        "<<20%*5=1>>1",
        "<<5*3=1,5>>15",
        "<<" + "(" * 150 + "1" + ")" * 150 + "=1>>1",
    ):
        assert _steps(text) == [], text
        assert "u" not in slip(ArithmeticSlip(rate=1, min_errors_per_answer=0), text).provenance
        with pytest.raises(UndoError, match="train-1: expected at least 1 place for a mistake, got an answer without"):
            slip(ArithmeticSlip(rate=1), text)


@pytest.mark.parametrize(
    ("text", "expression", "result", "written"),
    [
        ("Weng earns 12/60 = $<<12/60=0.2>>0.2 per minute.", "12/60", "0.2", "0.2"),
        ("4500*5=$<<4500*5=22500>>22,500\n", "4500*5", "22500", "22,500"),
        ("<<98*3400=333200.00>>333,200.00", "98*3400", "333200.00", "333,200.00"),
        ("<<1,000*2=2,000>>2,000.", "1,000*2", "2,000", "2,000"),
        ("<<8-3*-1=11>> $11, so", "8-3*-1", "11", "11"),
        ("<<5*.01=.05>>.05", "5*.01", ".05", ".05"),
        ("<<(1+2)/4=0.75>>75%", "(1+2)/4", "0.75", None),
        ("<<2*3=6>>", "2*3", "6", None),
        ("<<2-5=-3>>-3", "2-5", "-3", "-3"),
    ],
)
def test_steps_as_gsm8k_writes_them(text: str, expression: str, result: str, written: str | None) -> None:
    (step,) = _steps(text)
    assert (step.expression, step.result, step.written) == (expression, result, written)
    for seed in range(40):
        row = slip(ArithmeticSlip(rate=1, undo="line"), text, seed, BYTES)
        wrong = BYTES.decode(id for id, letter in zip(row.ids, row.provenance, strict=True) if letter == "e")
        (other,) = _steps(wrong)
        assert other.expression == expression
        assert number(other.result) != number(result)
        assert (other.written is None) == (written is None)
        if written is not None and other.written is not None:
            assert number(other.written) == number(other.result)
            if "," in written:
                decimals = len(written.partition(".")[2])
                assert other.written == f"{Decimal(other.written.replace(',', '')):,.{decimals}f}"


def number(text: str) -> Fraction:
    return Fraction(text.replace(",", ""))


@pytest.mark.parametrize(
    ("value", "like", "text"),
    [
        ("24", "7", "24"),
        ("1234.5", "7", "1234.5"),
        ("1234.5", "9,999.00", "1,234.50"),
        ("0.21", ".5", ".21"),
        ("1.2", ".5", "1.2"),
        ("-0.05", "0.5", "-0.05"),
        ("0", "0.2", "0.0"),
    ],
)
def test_numbers_keep_their_manner(value: str, like: str, text: str) -> None:
    assert _render(Fraction(value), like) == text


@pytest.mark.parametrize("result", ["0", "1", "24", "0.2", "333200.00", ".05", "-3", "22,500", "999999999999999999"])
def test_a_wrong_result_is_wrong(result: str) -> None:
    for seed in range(200):
        truth = number(result) + 1
        wrong = _perturb(result, truth, random.Random(seed))
        assert wrong not in (number(result), truth)
        assert (wrong < 0) <= result.startswith("-")


def test_a_rounded_result_does_not_slip_to_the_true_value() -> None:
    wrong = {_perturb("3", Fraction("3.5"), random.Random(seed)) for seed in range(200)}
    assert 4 not in wrong  # 3.5 rounds to 4


@pytest.mark.parametrize(
    ("expression", "value"),
    [("1+2*3", 7), ("(1+2)*3", 9), ("-2+5", 3), ("1/4", Fraction(1, 4)), ("80000*140*.01", 112000), ("1,000+1", 1001)],
)
def test_working_out(expression: str, value: Fraction) -> None:
    assert _work_out(expression) == value


@pytest.mark.parametrize(
    "expression", ["1/0", "", "x", "2**99999999", "1//2", "5(3)", "1_0", "__import__", "1,2", "..."]
)
def test_not_worked_out(expression: str) -> None:
    assert _work_out(expression) is None


def test_lines_that_cannot_be_split_off_are_skipped() -> None:
    text = "Now 2+2=<<2+2=4>>4\nNow 4+4=<<4+4=8>>8\n#### 8"
    rows = [slip(ArithmeticSlip(rate=1, undo="line"), text, seed, CROSSING) for seed in range(20)]
    # The first line begins the answer; the second begins inside the piece "\nN".
    assert all(row.provenance.count("u") == 1 for row in rows)
    assert all(shown(row, CROSSING).startswith("[Now 2+2") for row in rows)


def test_ids_of_another_encoding_are_left_alone() -> None:
    """When text encodes to other ids than the answer has, only what begins the answer can be replaced."""
    answer = BYTES.answer(ANSWER)
    vocabulary = Vocabulary(BYTES.table(), range(256), lambda text: (77, *BYTES.encode(text)))
    assert ArithmeticSlip(1, undo="token", min_errors_per_answer=0).apply(answer, vocabulary, random.Random(0)) is None
    with pytest.raises(UndoError, match="split off"):
        ArithmeticSlip(rate=1, undo="token").apply(answer, vocabulary, random.Random(0))
    trace = ArithmeticSlip(rate=1, undo="line").apply(answer, vocabulary, random.Random(0))
    assert trace is not None
    assert trace.provenance.startswith("e")
    assert trace.provenance.count("u") == 1


def test_newlines_the_table_does_not_know_are_left_alone() -> None:
    vocabulary = BYTES.vocabulary()
    table = type(vocabulary.table)(vocabulary.table.actions, vocabulary.table.names, frozenset())
    found = ArithmeticSlip(rate=1, undo="line").apply(
        BYTES.answer(ANSWER), Vocabulary(table, range(256), BYTES.encode), random.Random(0)
    )
    assert found is not None
    assert found.provenance.count("u") == 1  # only the first line: below the second there is no line break to stop at


@pytest.mark.parametrize(
    ("undo", "controls", "used"),
    [
        ("auto", (POP, LINE), LINE),
        ("auto", (POP,), POP),
        ("auto", (LINE,), LINE),
        ("token", (POP, LINE), POP),
        ("line", (POP, LINE), LINE),
        ("line", (POP,), None),
        ("token", (LINE,), None),
        ("auto", (RESET,), None),
    ],
)
def test_which_control_token_takes_it_back(undo: str, controls: tuple[int, ...], used: int | None) -> None:
    strategy = ArithmeticSlip(rate=1, undo=undo)  # type: ignore[arg-type]
    answer, vocabulary = BYTES.answer(ANSWER), BYTES.vocabulary(*controls)
    if used is None:
        with pytest.raises(ConfigError, match="needs a control token"):
            strategy.apply(answer, vocabulary, random.Random(0))
        return
    trace = strategy.apply(answer, vocabulary, random.Random(0))
    assert trace is not None
    assert {id for id, letter in zip(trace.ids, trace.provenance, strict=True) if letter == "u"} == {used}


def test_rate() -> None:
    text = "2*3=<<2*3=6>>6\n" * 50
    strategy = ArithmeticSlip(rate=0.3, max_errors_per_answer=50)
    slips = [slip(strategy, text, seed, BYTES).provenance.count("u") for seed in range(40)]
    assert abs(sum(slips) / 2000 - 0.3) < 0.04
    assert "u" not in slip(ArithmeticSlip(rate=0, min_errors_per_answer=0), text).provenance
    assert slip(ArithmeticSlip(rate=0), text).provenance.count("u") == 1
    assert slip(ArithmeticSlip(rate=0, min_errors_per_answer=3), text).provenance.count("u") == 3
    assert slip(ArithmeticSlip(rate=1, max_errors_per_answer=2), text, encoding=BYTES).provenance.count("u") == 2


def test_options_must_make_sense() -> None:
    with pytest.raises(ConfigError) as caught:
        ArithmeticSlip(rate=2, carry=-1, undo="word", max_errors_per_answer=0)  # type: ignore[arg-type]
    assert len(caught.value.mistakes) == 4
    with pytest.raises(ConfigError, match=r"min_errors_per_answer of at most max_errors_per_answer \(2\), got 3"):
        ArithmeticSlip(min_errors_per_answer=3, max_errors_per_answer=2)


def steps_of(answer: Answer, encoding: Encoding, undo: str, carry: float) -> Augmented | None:
    strategy = ArithmeticSlip(rate=1, carry=carry, undo=undo, max_errors_per_answer=99, min_errors_per_answer=0)  # type: ignore[arg-type]
    return strategy.apply(answer, encoding.vocabulary(POP, LINE), random.Random(7))


@pytest.mark.parametrize("undo", ["line", "token"])
@pytest.mark.parametrize("carry", [0.0, 1.0])
def test_real_answers_slip_nearly_everywhere(undo: str, carry: float) -> None:
    slips = steps = 0
    for line in gsm8k("train", limit=150):
        answer = MERGED.answer(line["answer"])
        steps += line["answer"].count("<<")
        trace = steps_of(answer, MERGED, undo, carry)
        if trace is not None:
            slips += len(re.findall(r"e+", trace.provenance))
            assert resolve(trace.ids, MERGED.table(POP, LINE)).visible_ids == answer.ids
    # Several steps in one line, and lines carried into, share one mistake.
    assert slips > steps * (0.8 if carry == 0 else 0.4)
