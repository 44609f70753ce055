"""Prompts with something wrong in them, made on purpose, are counted; prompts that only look like it are not."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsay.prompt_checks import Count, PromptFacts, PromptReport, begins_twice, check, logged_text, stands_twice

LONG = "A baker sells twelve loaves in the morning and nine in the afternoon. How many does she sell?"
OTHER = "A train travels for two hours at ninety miles per hour. How far does it go?"


def shots(*questions: str, last: str) -> str:
    return "\n\n".join([*(f"Question: {q}\nAnswer: 7" for q in questions), f"Question: {last}\nAnswer:"])


def test_each_count_finds_its_own_cases_and_no_other() -> None:
    items = [
        PromptFacts(shots(OTHER, last=LONG), LONG, (1, 5, 6), 1, "eos", 0),
        PromptFacts(shots(LONG, OTHER, last=LONG), LONG, (1, 1, 6), 1, "max_steps", 3),  # asked before, too
        PromptFacts(shots(LONG, last=OTHER), OTHER, (1, 6), 1, "stop", 0),
        PromptFacts(shots(last="Why?"), "Why?", (6, 1, 1), 1, "length", 0),
    ]
    report = check(iter(items))
    assert {name: (count.count, count.of, count.reason) for name, count in report.counts().items()} == {
        "answers_cut": (2, 4, None),
        "prompts_cut": (1, 4, None),
        "doubled_bos": (1, 4, None),
        "own_shots": (1, 4, None),
        "duplicated": (1, 4, None),
    }
    assert report.n == 4
    assert report.described()[:2] == ["2 of 4 answers cut", "1 of 4 prompts cut"]


def test_what_is_not_known_has_a_reason_and_no_number() -> None:
    report = check([PromptFacts()] * 3)
    assert report.n == 3
    for name, count in report.counts().items():
        assert (count.count, count.of) == (None, 0), name
        assert count.reason, name
    assert report.warnings() == ()
    assert all("unknown" in text for text in report.described())
    assert {count.reason for count in check([]).counts().values()} == {"no items"}


def test_counts_say_of_how_many_items_they_know() -> None:
    facts = [PromptFacts(finish_reason="eos"), PromptFacts(finish_reason="length"), PromptFacts()]
    assert check(facts).answers_cut == Count(1, 2)
    assert check(facts).described()[0] == "1 of 2 answers cut (unknown for 1)"


@pytest.mark.parametrize(("twice", "warned"), [(1, False), (2, True)])
def test_a_warning_needs_more_than_one_in_a_hundred(twice: int, warned: bool) -> None:
    facts = [PromptFacts(finish_reason="length" if at < twice else "eos") for at in range(100)]
    expected = (f"{twice} of 100 answers were cut by a limit before the model ended them",) if warned else ()
    assert check(facts).warnings() == expected


# -- the beginning token ----------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "twice"),
    [
        ("<s><s>[INST] Hi", True),
        ("<|begin_of_text|><|begin_of_text|><|start_header_id|>", True),
        ("\n<bos> <bos>Hi", True),
        ("<s>[INST] <s> Hi", False),
        ("<bos><s>", False),
        ("Hi <s><s>", False),
        ("", False),
    ],
)
def test_a_doubled_beginning_in_a_text(text: str, twice: bool) -> None:
    assert begins_twice(PromptFacts(text)) is twice


def test_ids_are_believed_before_texts() -> None:
    assert begins_twice(PromptFacts("<s>Hi", ids=(1, 1, 9), bos_id=1)) is True
    assert begins_twice(PromptFacts("<s><s>Hi", ids=(1, 9), bos_id=1)) is False
    assert begins_twice(PromptFacts("<s><s>Hi", ids=(1, 9))) is True  # which id begins a text is not known
    assert begins_twice(PromptFacts(ids=(1,), bos_id=1)) is False
    assert begins_twice(PromptFacts("<s><s>Hi", rendered=False)) is None
    assert begins_twice(PromptFacts("[B][B]Hi"), ["[B]"]) is True
    assert begins_twice(PromptFacts("<s><s>Hi"), []) is False  # a model without such a token


def test_a_count_from_texts_says_so() -> None:
    assert check([PromptFacts("<s>Hi")]).doubled_bos == Count(
        0, 1, "seen in texts only; a token that the tokenizer added does not show"
    )
    assert check([PromptFacts("<s>Hi", ids=(1, 2), bos_id=1)]).doubled_bos.reason is None


# -- questions among their own worked examples -------------------------------------


@pytest.mark.parametrize(
    ("question", "prompt", "twice"),
    [
        (LONG, shots(LONG, last=LONG), True),
        (LONG, shots(OTHER, last=LONG), False),
        (LONG, shots(LONG.replace(" ", "\n"), last=LONG), True),  # other white space
        (LONG, shots(LONG.replace("twelve", "ten"), last=LONG), False),
        (LONG, "Nothing of the kind", None),
        (" \n", "anything", None),
        # few words: inside another question by chance
        ("2 + 2?", shots("12 + 2?", last="2 + 2?"), False),
        ("2 + 2?", shots("1 + 2 + 2?", last="2 + 2?"), False),
        ("2 + 2?", shots("1.2 + 2?", last="2 + 2?"), False),
        ("2 + 2", shots("2 + 2.5", last="2 + 2"), False),
        ("2 + 2", shots("2 + 2 + 1", last="2 + 2"), False),
        ("Compute $x$.", shots("First Compute $x$.", last="Compute $x$."), False),
        ("2 + 2?", shots("2 + 2?", last="2 + 2?"), True),
        ("2 + 2?", shots("12 + 2?", "2  +  2?", last="2 + 2?"), True),
        # few words, and nothing but the questions in the prompt
        ("2 + 2?", "2 + 2?\n4\n\n2 + 2?\n", True),
        ("2 + 2?", "1 + 2 + 2?\n5\n\n2 + 2?\n", False),
        ("2 + 2?", "1 + 2 + 2?\n5\n\n2 + 2?\n<|im_end|>\n<|im_start|>assistant\n", False),
        ("2 + 2?", "<|im_start|>user\n2 + 2?\n4\n\n2 + 2?<|im_end|>\n<|im_start|>assistant\n", True),
        ("Why?", "Say why?\n\nQ: Why?\nA:", False),
    ],
)
def test_a_question_among_its_own_shots(question: str, prompt: str, twice: bool | None) -> None:
    assert stands_twice(question, prompt) is twice


def test_without_shots_a_question_that_is_repeated_gives_nothing_away() -> None:
    again = f"{LONG}\nRead the question again: {LONG}"
    assert check([PromptFacts(again, LONG)]).own_shots == Count(1, 1)
    assert check([PromptFacts(again, LONG, shots=0)]).own_shots == Count(0, 1)


words = st.sampled_from(["apples", "pears", "seven", "2", "+", "buys", "How", "many?", "12", "x", "the", "3.5"])
questions = st.lists(words, min_size=1, max_size=12).map(" ".join)
spaces = st.sampled_from([" ", "  ", "\n", "\t", " \n "])


@given(questions, st.lists(questions, max_size=4), st.data())
def test_a_shot_is_found_wherever_it_stands_and_however_it_is_spaced(
    question: str, others: list[str], data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(others)))
    spaced = data.draw(spaces).join(question.split())
    assert stands_twice(question, shots(*others[:place], spaced, *others[place:], last=question)) is True


@given(questions, st.lists(questions, max_size=4))
def test_other_questions_in_the_shots_are_not_the_question(question: str, others: list[str]) -> None:
    """Of few words: long ones that another question begins or ends with are the same question to a reader."""
    short = " ".join(question.split()[:4])
    different = [other for other in others if other != short]
    assert stands_twice(short, shots(*different, last=short)) is False


# -- the same question again --------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 9), spaces), max_size=40), st.randoms())
def test_the_extra_ones_are_counted_in_any_order(asked: list[tuple[int, str]], rng: random.Random) -> None:
    facts = [PromptFacts(question=f"How{space}many are {number}?") for number, space in asked]
    expected = len(asked) - len({number for number, _ in asked})
    rng.shuffle(facts)
    assert check(facts).duplicated.count == (expected if asked else None)


def test_a_long_evaluation_needs_little_memory() -> None:
    """A million items: eight bytes each, here scaled down."""
    n = 50_000

    def items() -> Iterator[PromptFacts]:
        for at in range(n):
            question = f"Question number {at % (n - 7)} of a long evaluation " + "x" * 200
            yield PromptFacts(question, question, finish_reason="eos", cut=0, shots=0)

    tracemalloc.start()
    report = check(items())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report.duplicated == Count(7, n)
    assert peak < 60 * n  # the questions alone are over 200 bytes each


# -- on disk, and lm-eval's logs ------------------------------------------------------


def test_a_report_is_written_and_read_again() -> None:
    report = check([PromptFacts(shots(LONG, last=LONG), LONG, finish_reason="eos")])
    text = json.dumps(report.to_json())
    assert PromptReport.from_json(json.loads(text)) == report
    assert json.loads(text)["own_shots"] == {"count": 1, "of": 1}
    assert PromptReport.from_json({"0": 1}) is None
    assert PromptReport.from_json([]) is None


@pytest.mark.parametrize("broken", ["7", None, {"count": "<b>", "of": 3}, {"count": True, "of": 1}, []])
def test_a_damaged_count_is_not_known(broken: object) -> None:
    found = PromptReport.from_json({"n": 5, "answers_cut": broken})
    assert found is not None
    assert (found.answers_cut.count, found.answers_cut.reason) == (None, "not recorded")


@pytest.mark.parametrize(
    ("logged", "text", "rendered"),
    [
        ("Question: 2?\nAnswer:", "Question: 2?\nAnswer:", True),
        ({"gen_args_0": {"arg_0": "Q", "arg_1": {"until": []}}}, "Q", True),
        ([["Q", {"until": []}]], "Q", True),
        (['[{"role": "user", "content": "A \\"b\\"\\nc", "type": "text"}]'], 'A "b"\nc', False),
        ('[{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]', "S\nU", False),
        ([{"role": "user", "content": [{"type": "text", "text": "U"}]}], "U", False),
        ('[{"a": 1}] is JSON?', '[{"a": 1}] is JSON?', True),
        ({}, None, False),
        (None, None, False),
    ],
)
def test_prompts_as_lm_eval_logs_them(logged: object, text: str | None, rendered: bool) -> None:
    assert logged_text(logged) == (text, rendered)


def test_real_prompts_of_lm_eval(data_folder: Path) -> None:
    """MATH-500 with fixed worked examples: none of its questions is among them, and none is asked twice."""
    folder = data_folder / "acceptance" / "lm_eval" / "math500-nt512"
    with next(folder.glob("samples_*.jsonl")).open(encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    report = check(PromptFacts(logged_text(line["arguments"])[0], line["doc"]["problem"]) for line in lines)
    assert (report.own_shots, report.duplicated) == (Count(0, 500), Count(0, 500))

    chat = next((folder.parent / "truncated-gsm8k-chat").glob("samples_*.jsonl"))
    line = json.loads(chat.read_text(encoding="utf-8").splitlines()[0])
    text, rendered = logged_text(line["arguments"])
    assert not rendered
    assert text is not None
    assert stands_twice(line["doc"]["question"], text) is False
