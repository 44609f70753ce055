"""Generated word problems: the solver agrees, every step is right, and splits share nothing."""

import json
import re
from itertools import islice
from pathlib import Path

import pytest

from unsay.datasets.wordproblems import LARGEST_NUMBER, LARGEST_RESULT, NAMES, SPLITS, generate, solve, write

STEP = re.compile(r"(\d+)([-+*/])(\d+)=<<(\d+)([-+*/])(\d+)=(\d+)>>(\d+)")
PINNED = """\
Omar has 9-6=<<9-6=3>>3 apples.
Leo has 3*2=<<3*2=6>>6 apples.
Lia has 6+28=<<6+28=34>>34 apples.
Ana has 34*3=<<34*3=102>>102 apples.
#### 102"""
OPERATORS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,  # true division: a result that is not whole is then unequal
}


@pytest.fixture(scope="module", params=range(1, 6))
def problems(request):
    """Five hundred problems of each length and split, with their number of steps."""
    steps = (request.param, request.param)
    return request.param, [record for split in SPLITS for record in generate(split, 500, seed=3, steps=steps)]


def test_the_solver_agrees_with_every_answer(problems):
    _, records = problems
    for record in records:
        assert solve(record["question"]) == int(record["answer"].rsplit("#### ", 1)[1]), record


def test_answers_are_in_gsm8k_format_and_every_step_is_right(problems):
    steps, records = problems
    for record in records:
        assert set(record) == {"question", "answer"}
        *lines, last = record["answer"].split("\n")
        assert len(lines) == steps
        for line in lines:
            (found,) = STEP.findall(line)
            a, op, b, *inside, c, shown = found
            assert [a, op, b] == inside
            assert OPERATORS[op](int(a), int(b)) == int(c) == int(shown)
            assert 0 < int(c) <= LARGEST_RESULT
        assert last == f"#### {c}"


def test_an_operand_is_given_or_was_computed_before(problems):
    _, records = problems
    for record in records:
        known = {int(number) for number in re.findall(r"\d+", record["question"])}
        known |= {2} if re.search(r"\b(half|twice)\b", record["question"]) else set()
        for a, _, b, *_, result in STEP.findall(record["answer"]):
            assert {int(a), int(b)} <= known, record
            known.add(int(result))


def test_numbers_and_names_stay_in_bounds(problems):
    _, records = problems
    for record in records:
        words = re.sub(r"pays with \$\d+", "", record["question"])
        assert all(2 <= int(number) <= LARGEST_NUMBER for number in re.findall(r"\d+", words)), record
        capitals = set(re.findall(r"\b[A-Z][a-z]*", record["question"]))
        assert capitals - {"How", "He", "She", "A"} <= set(NAMES)


def test_half_are_chains_a_quarter_stories_a_quarter_shopping():
    questions = [record["question"] for record in generate("pretrain", 4000)]
    shopping = sum("dollars" in question for question in questions)
    stories = sum(question.endswith("now?") for question in questions)
    assert shopping == pytest.approx(1000, abs=120)
    assert stories == pytest.approx(1000, abs=120)


def test_no_problem_is_in_two_splits_or_twice_in_one():
    seen: dict[str, str] = {}
    for split in SPLITS:
        for seed in (0, 1):
            questions = [record["question"] for record in generate(split, 1500, seed=seed, steps=(1, 5))]
            assert len(set(questions)) == 1500
            for question in questions:
                # Sentences in another order are the same problem.
                problem = " ".join(sorted(question.split(". ")))
                assert seen.setdefault(problem, split) == split, question


def test_every_part_of_the_hash_range_belongs_to_one_split():
    assert sorted(bucket for buckets in SPLITS.values() for bucket in buckets) == list(range(100))


def test_the_same_arguments_give_the_same_problems_and_a_smaller_number_the_first_of_them():
    fifty = list(generate("train", 50, seed=7))
    assert list(generate("train", 50, seed=7)) == fifty
    assert list(generate("train", 20, seed=7)) == fifty[:20]
    assert list(islice(generate("train", 10**9, seed=7), 50)) == fifty
    assert list(generate("train", 50, seed=8)) != fifty
    # Pinned: published figures are about these very problems.
    assert fifty[0]["answer"] == PINNED


def test_unknown_splits_and_lengths_are_refused():
    with pytest.raises(ValueError, match="pretrain, train, dev, test"):
        next(generate("validation", 1))
    with pytest.raises(ValueError, match="1 to 5"):
        next(generate("train", 1, steps=(3, 6)))


def test_the_solver_refuses_what_it_does_not_understand():
    with pytest.raises(ValueError, match="not a comparison"):
        solve("Tom has 3 apples. Ben likes Tom. How many apples does Ben have?")
    with pytest.raises(ValueError, match="cannot be worked out"):
        solve("Tom has 3 more apples than Ben. How many apples does Tom have?")
    with pytest.raises(ValueError, match="not an event"):
        solve("Tom has 3 apples. He paints 2 apples. How many apples does Tom have now?")


def test_write_makes_three_files_and_leaves_good_ones_alone(tmp_path: Path):
    folder = tmp_path / "new" / "problems"
    write(folder, train=5, dev=3, test=4)
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == ["dev.jsonl", "test.jsonl", "train.jsonl"]
    records = [json.loads(line) for line in (folder / "dev.jsonl").read_text(encoding="utf-8").splitlines()]
    assert records == list(generate("dev", 3))
    (folder / "test.jsonl").write_text("something else\n", encoding="utf-8")
    before = {file.name: file.stat().st_ino for file in files}
    write(folder, train=5, dev=3, test=4)
    after = {file.name: file.stat().st_ino for file in folder.iterdir()}
    assert [name for name in before if before[name] != after[name]] == ["test.jsonl"]
    assert len((folder / "test.jsonl").read_text(encoding="utf-8").splitlines()) == 4
