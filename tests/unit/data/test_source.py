"""A dataset's splits: which files count, how they become question/answer lines, what is kept out of training.

The last part evaluates own data for real, on a tiny model, where lm-eval's exact match and ours must agree.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from unsay import config
from unsay.config import Dataset
from unsay.data.source import Source, open_source, read_jsonl
from unsay.datasets.gsm8k import Gsm8k
from unsay.datasets.wordproblems import generate
from unsay.errors import DataError
from unsay.job import Job
from unsay.records import Example
from unsay.store import read
from unsay.worker import carry_out

ROWS = [{"question": f"What is {n} + {n}?", "answer": f"{n} + {n} = {2 * n}\n#### {2 * n}"} for n in range(200)]


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]], *, head: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head + "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def own(path: Path, **options: Any) -> Dataset:
    return Dataset("own", str(path), **{"format": "gsm8k", **options})


def questions(source: Source, split: str) -> list[str]:
    return [example.question for example in source.examples(split)]


# -- files ------------------------------------------------------------------------


def test_a_folder_in_gsm8k_format_is_used_as_it_stands(tmp_path: Path) -> None:
    for split, rows in {"train": ROWS[:5], "test": ROWS[5:8]}.items():
        write_lines(tmp_path / "data" / f"{split}.jsonl", rows)
    source = open_source(own(tmp_path / "data"), tmp_path / "outputs")
    assert source.files == {split: tmp_path / "data" / f"{split}.jsonl" for split in ("train", "test")}
    assert source.task == "gsm8k"
    assert next(source.examples("test")) == Example("own/test/0", ROWS[5]["question"], ROWS[5]["answer"])
    assert not (tmp_path / "outputs").exists()


def test_an_answer_pattern_replaces_the_extraction_of_gsm8k(tmp_path: Path) -> None:
    rows = [{"question": f"{n}?", "answer": f"The answer is {n}."} for n in range(4)]
    write_lines(tmp_path / "data" / "test.jsonl", rows)
    source = open_source(own(tmp_path / "data", answer=r"The answer is (\d+)\."), tmp_path / "outputs")
    assert source.task is None
    assert [line["final"] for _, line in read_jsonl(source.files["test"])] == ["0", "1", "2", "3"]


def test_answers_without_a_final_line_are_no_gsm8k_answers(tmp_path: Path) -> None:
    write_lines(tmp_path / "data" / "test.jsonl", [{"question": "a?", "answer": "yes"}])
    assert open_source(own(tmp_path / "data"), tmp_path / "outputs").task is None
    write_lines(tmp_path / "data" / "train.jsonl", [{"question": "b?", "answer": "No.\n#### 0"}])
    with pytest.raises(DataError, match="own/test/0: expected a gold answer that ends in '#### N'"):
        open_source(own(tmp_path / "data"), tmp_path / "outputs")


@pytest.mark.parametrize("task", [None, "gsm8k"])
def test_a_hub_dataset_in_gsm8k_format_is_not_mistaken_for_gsm8k(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str | None
) -> None:
    rows = {"train": ROWS[:5], "test": ROWS[5:8]}
    monkeypatch.setattr("unsay.data.source.hub_lines", lambda hub, split: enumerate(rows.get(split, [])))
    other = open_source(Dataset("own", "someone/problems", task, "gsm8k"), tmp_path / "outputs")
    assert (other.hub, other.task) == (None, "gsm8k")
    assert questions(other, "test") == [row["question"] for row in rows["test"]]
    real = open_source(Dataset("gsm8k", "openai/gsm8k", "gsm8k", "gsm8k"), tmp_path / "outputs")
    assert (real.hub, real.files, real.task) == ("openai/gsm8k", {}, "gsm8k")


def test_a_hub_dataset_may_lack_splits(tmp_path: Path) -> None:
    """`datasets` takes a folder for a repository, which is as near to the hub as a test gets."""
    for split, rows in {"train": ROWS[:5], "test": ROWS[5:8]}.items():
        write_lines(tmp_path / "hub" / f"{split}.jsonl", rows)
    source = Source("own", Gsm8k(), "gsm8k", {}, str(tmp_path / "hub"))
    assert questions(source, "test") == [row["question"] for row in ROWS[5:8]]
    assert questions(source, "dev") == []


def test_other_formats_become_question_and_answer_lines(tmp_path: Path) -> None:
    for split, rows in {"train": ROWS[:5], "dev": ROWS[5:7], "test": ROWS[7:9]}.items():
        lines = [{"instruction": row["question"], "output": row["answer"]} for row in rows]
        write_lines(tmp_path / "data" / f"{split}.jsonl", lines)
    source = open_source(own(tmp_path / "data", format="alpaca", answer="#### (.+)"), tmp_path / "outputs")
    assert source.task is None
    assert set(source.files) == {"train", "dev", "test"}
    for path in source.files.values():
        assert path.is_relative_to(tmp_path / "outputs" / ".datasets")
    assert questions(source, "test") == [row["question"] for row in ROWS[7:9]]
    written = [dict(line) for _, line in read_jsonl(source.files["test"])]
    assert written == [row | {"final": row["answer"].rpartition("#### ")[2]} for row in ROWS[7:9]]


def test_lines_are_written_once_and_other_lines_elsewhere(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "own.jsonl", ROWS)
    first = open_source(own(file, dev_share=0.2), tmp_path / "outputs")
    stamps = {path: path.stat().st_mtime_ns for path in first.files.values()}
    assert open_source(own(file, dev_share=0.2), tmp_path / "outputs") == first
    assert {path: path.stat().st_mtime_ns for path in first.files.values()} == stamps
    write_lines(file, ROWS[:-1])
    assert open_source(own(file, dev_share=0.2), tmp_path / "outputs").files != first.files
    assert all(path.is_file() for path in first.files.values())


def test_one_file_is_what_is_evaluated(tmp_path: Path) -> None:
    source = open_source(own(write_lines(tmp_path / "own.jsonl", ROWS[:4])), tmp_path / "outputs")
    assert set(source.files) == {"test"}
    assert list(source.examples("train")) == []
    assert len(questions(source, "test")) == 4


def test_a_dev_file_is_evaluated_where_there_is_no_test_file(tmp_path: Path) -> None:
    write_lines(tmp_path / "data" / "train.jsonl", ROWS[:4])
    write_lines(tmp_path / "data" / "dev.jsonl", ROWS[4:6])
    source = open_source(own(tmp_path / "data"), tmp_path / "outputs")
    assert questions(source, "test") == [row["question"] for row in ROWS[4:6]]
    assert len(questions(source, "train")) == 4


def test_a_byte_order_mark_blank_lines_and_windows_line_ends(tmp_path: Path) -> None:
    text = "\ufeff" + "\r\n".join(json.dumps(row) for row in ROWS[:3]) + "\r\n\r\n"
    (tmp_path / "own.jsonl").write_bytes(text.encode())
    source = open_source(own(tmp_path / "own.jsonl"), tmp_path / "outputs")
    assert questions(source, "test") == [row["question"] for row in ROWS[:3]]


def test_a_json_list(tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text("\ufeff" + json.dumps(ROWS[:3], indent=1), encoding="utf-8")
    source = open_source(own(tmp_path / "own.json"), tmp_path / "outputs")
    assert [example.id for example in source.examples("test")] == [f"own/test/{n}" for n in range(3)]


def test_a_folder_may_mix_json_and_json_lines(tmp_path: Path) -> None:
    write_lines(tmp_path / "data" / "train.jsonl", ROWS[:3])
    (tmp_path / "data" / "test.json").write_text(json.dumps(ROWS[3:5]))
    source = open_source(own(tmp_path / "data"), tmp_path / "outputs")
    assert (len(questions(source, "train")), len(questions(source, "test"))) == (3, 2)


def test_line_separators_inside_a_text_are_kept(tmp_path: Path) -> None:
    question = "one\u2028two\x85three\x0bfour\rfive"
    file = write_lines(tmp_path / "own.jsonl", [{"question": question, "answer": "1\u2029 2"}])
    source = open_source(own(file), tmp_path / "outputs")
    assert next(source.examples("test")) == Example("own/test/0", question, "1\u2029 2")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("own.jsonl", b'{"question": "a", "answer": "b"}\nnot json\n', r"own\.jsonl:2: expected one JSON object"),
        ("own.jsonl", b'{"question": "a", "answer": "b"}\n[1]\n', r"own\.jsonl:2: expected a JSON object, got list"),
        ("own.jsonl", b'\n{"question": "a"}\n', r"own/train/1: expected text in column 'answer'"),
        ("own.jsonl", b"\xff\xfe{}\n", r"own\.jsonl: expected text in UTF-8"),
        ("own.json", b'{"question": "a"}', r"own\.json: expected a JSON list of objects, got dict"),
        ("own.json", b'[{"question": "a", "answer": "b"}, 5]', r"own\.json:2: expected a JSON object, got int"),
        ("own.json", b"[{", r"own\.json: expected JSON, got"),
        ("own.json", b"\xff[]", r"own\.json: expected text in UTF-8"),
        ("own.jsonl", b"", r"split 'test' is empty"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named_with_its_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_source(own(tmp_path / name), tmp_path / "outputs")
    assert not (tmp_path / "outputs").exists()


def test_a_folder_without_splits(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected train\.jsonl and test\.jsonl in this folder"):
        open_source(own(tmp_path), tmp_path / "outputs")


def test_wrong_columns_name_the_right_ones(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "own.jsonl", ROWS)
    with pytest.raises(DataError, match="has the columns question, answer; got qestion"):
        open_source(own(file, columns={"qestion": "q"}), tmp_path / "outputs")


def test_an_lm_eval_task_has_no_lines_to_train_on(tmp_path: Path) -> None:
    source = open_source(Dataset("math", task="minerva_math500"), tmp_path)
    assert (source.files, source.hub, source.task) == ({}, None, "minerva_math500")
    with pytest.raises(DataError, match="for evaluation only"):
        next(source.examples("train"))


@pytest.mark.parametrize(
    ("names", "scored"),
    [(["test.jsonl", "train.jsonl"], "test"), (["dev.jsonl", "train.jsonl"], "dev"), (["train.json"], "train")],
)
def test_lines_of_a_task_are_left_as_they_are(tmp_path: Path, names: list[str], scored: str) -> None:
    for name in names:
        write_lines(tmp_path / "data" / name, [{"problem": name}])
    source = open_source(Dataset("math", str(tmp_path / "data"), "minerva_math500"), tmp_path / "outputs")
    assert source.files["test"].stem == scored
    assert set(source.files) == {"test", "train"} - ({"train"} if scored == "train" else set())
    assert not (tmp_path / "outputs").exists()
    with pytest.raises(DataError, match=r"for evaluation only.*`format:`"):
        next(source.examples("test"))


def test_a_single_file_of_a_task_is_what_is_scored(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "math500.jsonl", [{"problem": "2?"}])
    dataset = Dataset("math", str(file), "minerva_math500")
    assert open_source(dataset, tmp_path).files == {"test": file}
    file.unlink()
    with pytest.raises(DataError, match=r"expected a file or a folder with test\.jsonl at .*math500\.jsonl"):
        open_source(dataset, tmp_path)


def test_generated_data(tmp_path: Path) -> None:
    source = open_source(Dataset("wordproblems", format="wordproblems"), tmp_path)
    assert source.task == "gsm8k"
    first = next(iter(generate("test", 1)))
    assert next(source.examples("test")) == Example("wordproblems/test/0", first["question"], first["answer"])
    splits = {split: set(questions(source, split)) for split in ("train", "dev", "test")}
    assert all(splits.values())
    assert not splits["train"] & (splits["dev"] | splits["test"])


# -- keeping a part out of training -----------------------------------------------


def split_of(tmp_path: Path, rows: list[dict[str, str]], share: float) -> tuple[set[str], set[str]]:
    source = open_source(own(write_lines(tmp_path / "own.jsonl", rows), dev_share=share), tmp_path / "outputs")
    return set(questions(source, "train")), set(questions(source, "test"))


def test_dev_share_splits_without_overlap_and_leaves_nothing_out(tmp_path: Path) -> None:
    doubled = ROWS + ROWS[:50]  # a question that stands there twice must not be on both sides
    train, test = split_of(tmp_path, doubled, 0.2)
    assert not train & test
    assert train | test == {row["question"] for row in ROWS}
    assert 20 <= len(test) <= 60


def test_the_split_of_a_question_depends_on_that_question_alone(tmp_path: Path) -> None:
    train, test = split_of(tmp_path, ROWS, 0.2)
    fewer_train, fewer_test = split_of(tmp_path, ROWS[::-3], 0.2)
    assert fewer_train < train
    assert fewer_test < test
    larger_train, larger_test = split_of(tmp_path, ROWS, 0.4)
    assert test < larger_test
    assert larger_train < train


def test_a_share_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"split 'test' is empty.*dev_share"):
        split_of(tmp_path, ROWS[:1], 1e-9)


def test_a_folder_without_training_questions_cannot_be_split(tmp_path: Path) -> None:
    write_lines(tmp_path / "data" / "dev.jsonl", ROWS[:4])
    with pytest.raises(DataError, match="split 'train' is empty"):
        open_source(own(tmp_path / "data", dev_share=0.5), tmp_path / "outputs")


# -- the final answer -------------------------------------------------------------


def test_the_answer_pattern_must_be_in_every_gold_answer(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "own.jsonl", [*ROWS[:3], {"question": "5?", "answer": "five"}])
    with pytest.raises(DataError, match=r"own/train/3: expected the answer pattern '#### \(\.\+\)' in the gold answer"):
        open_source(own(file, answer="#### (.+)"), tmp_path / "outputs")


def test_a_pattern_whose_group_took_no_part_is_refused(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "own.jsonl", [{"question": "5?", "answer": "none"}])
    with pytest.raises(DataError, match="own/train/0: expected the answer pattern"):
        open_source(own(file, answer="#### (.+)|none"), tmp_path / "outputs")


def test_final_answers_that_are_all_dates_are_refused(tmp_path: Path) -> None:
    """The library that reads JSON for lm-eval makes points in time of such a column."""
    rows = [{"question": f"When was {n}?", "answer": f"2024-01-0{n}"} for n in (5, 6)]
    with pytest.raises(DataError, match="nothing but dates such as '2024-01-05' in split 'test'"):
        open_source(own(write_lines(tmp_path / "own.jsonl", rows)), tmp_path / "outputs")
    word = {"question": "When was it?", "answer": "never"}
    assert open_source(own(write_lines(tmp_path / "own.jsonl", [*rows, word])), tmp_path / "outputs")


Evaluate = Callable[..., tuple[dict[tuple[int, str], dict[str, Any]], Path]]


@pytest.fixture
def evaluate(tmp_path: Path) -> Evaluate:
    """Return a function that evaluates rows for real and gives lm-eval's sample lines and the result folder."""

    def run(
        rows: list[dict[str, str]], *, shots: int = 0, limit: int | None = None, **dataset: Any
    ) -> tuple[dict[tuple[int, str], dict[str, Any]], Path]:
        count = len(list(tmp_path.glob("*.yaml")))
        write_lines(tmp_path / f"own{count}.jsonl", rows)
        file = tmp_path / f"{count}.yaml"
        described = {"path": f"own{count}.jsonl", "format": "prompt_completion", **dataset}
        columns = {"prompt": "question", "completion": "answer"}
        experiment = {
            "model": "unsay-tiny", "dataset": "own", "method": "vanilla", "config": f"fewshot_{shots}",
            "decode": {"max_new_tokens": 8},
        }  # fmt: skip
        document = {
            "datasets": {"own": described | {"columns": columns}},
            "experiments": [experiment],
        }
        file.write_text(json.dumps(document))  # JSON is YAML
        plan = config.load(file, output_dir=tmp_path / f"outputs{count}", check=True)
        job = Job(plan.experiments[0], plan.output_dir, limit=limit, device="cpu")
        outcome = carry_out(job, lambda event: None)
        assert outcome.status == "completed", outcome.error
        return {(line["doc_id"], line["filter"]): line for line in read.samples(job.folder)}, job.result_folder

    return run


def with_answers(answers: list[str]) -> list[dict[str, str]]:
    return numbered(dict(enumerate(answers)))


def said(evaluate: Evaluate) -> dict[int, str]:
    """Return what the model says to six questions, by their number: answers with letters at their beginning."""
    lines, _ = evaluate(with_answers(["?"] * 12))
    texts = {item: lines[item, "strict-match"]["resps"][0][0] for item in range(12)}
    found = {item: text for item, text in texts.items() if text[:2].isalpha() and text[:2].isascii()}
    assert len(found) >= 6, texts
    return dict(list(found.items())[:6])


def numbered(answers: dict[int, str]) -> list[dict[str, str]]:
    asked = [row["question"] for row in generate("test", 12)]
    return [{"question": asked[n], "answer": answer} for n, answer in answers.items()]


def strict(lines: dict[tuple[int, str], dict[str, Any]]) -> list[float]:
    return [line["exact_match"] for (_, name), line in sorted(lines.items()) if name == "strict-match"]


def test_own_data_is_scored_on_the_whole_answer(evaluate: Evaluate) -> None:
    """The gold answers are made of what the model says, so that some of them are right."""
    answers = said(evaluate)
    right = list(answers.values())
    gold = [right[0], f"\n {right[1]} \n", right[2].upper(), right[3] + "!", "[1, 2]", "2024-01-05"]
    lines, folder = evaluate(numbered(dict(zip(answers, gold, strict=True))))
    assert strict(lines) == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    assert lines[4, "strict-match"]["target"] == "[1, 2]"
    values = read.metrics(folder)
    assert values["exact_match_strict"].value == pytest.approx(50.0)
    assert values["exact_match_flexible"].value is None
    assert values["exact_match_flexible"].reason
    predictions = [json.loads(line) for line in (folder / "generated_predictions.jsonl").read_text().splitlines()]
    assert [line["label"] for line in predictions] == gold


def test_own_data_is_scored_on_the_final_answer(evaluate: Evaluate) -> None:
    answers = said(evaluate)
    finals = [text[:2] for text in answers.values()]
    gold = [
        f"The answer:{finals[0]}",
        f"Thinking.\nThe answer: {finals[1]} \r\nMore.",
        "The answer:[3]",
        "The answer:2024-01-05",
        f"The answer:{finals[4].upper()}",
        "The answer:none",
    ]
    # The model never writes the words before its answer, so they are optional in the pattern.
    pattern = r"(?s)\A(?:.*The answer:)?( ?\[?\w\w ?|\[3\])"
    lines, folder = evaluate(numbered(dict(zip(answers, gold, strict=True))), answer=pattern)
    assert strict(lines) == [1.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    assert [line["target"] for (_, name), line in sorted(lines.items()) if name == "strict-match"][1:3] == [
        finals[1],
        "[3]",
    ]
    values = read.metrics(folder)
    assert values["exact_match_strict"].value == pytest.approx(100 * sum(strict(lines)) / 6)
    assert values["exact_match_flexible"].value is not None


def test_shots_of_one_file_are_other_items_with_their_whole_answers(evaluate: Evaluate) -> None:
    rows = with_answers([f"Because of {n}.\n#### {n}" for n in range(6)])
    _, folder = evaluate(rows, shots=2, answer="#### (.+)")
    for prompt in read.prompts(folder):
        asked = [row for row in rows if row["question"] in prompt.text]
        assert len(asked) == 3
        shown = [row for row in rows if row["answer"] in prompt.text]
        assert len(shown) == 2
        assert rows[prompt.key.doc_id] not in shown
