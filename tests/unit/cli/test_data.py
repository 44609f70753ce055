"""`unsay data`: rows without training, what is in them, and the same rows for other trainers."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.encodings import ANSWER
from unsay import cli
from unsay.config import load
from unsay.data.build import load_rows
from unsay.data.source import Source
from unsay.definitions import Dataset
from unsay.engine import Engine
from unsay.errors import DataError
from unsay.job import Job
from unsay.records import Row
from unsay.store import layout, read, rows, write

FILE = """
datasets: {mine: {path: ./mine}}
configs:
  lora/own: {base: lora/train_bt, undo: {strategy: own_samples, candidates: own.jsonl}}
  lora/reset: {base: lora/train_bt, undo: {strategy: reset, rate: 0.5, clean_share: 0.25}}
experiments:
  - {id: VAN, model: unsay-tiny, dataset: mine, method: vanilla, config: fewshot_0}
  - {id: PLAIN, model: unsay-tiny, dataset: mine, method: sft, config: lora/train}
  - {id: RAND, model: unsay-tiny, dataset: mine, method: sft, config: lora/train_bt}
  - {id: RESET, model: unsay-tiny, dataset: mine, method: sft, config: lora/reset}
  - {id: RESET-BAN, model: unsay-tiny, dataset: mine, method: sft, config: lora/reset, decode: {undo: ban}}
  - {id: OWN, model: unsay-tiny, dataset: mine, method: sft, config: lora/own, decode: {max_new_tokens: 24}}
"""
LEAK = 7
"""Number of a training question that is evaluated on."""


def write_lines(path: Path, lines: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an experiment file and the rows of three of its experiments."""
    folder = tmp_path_factory.mktemp("data")
    train = [{"question": f"How many clips in {at} days?", "answer": f"It is {at}.\n{ANSWER}"} for at in range(24)]
    write_lines(folder / "mine" / "train.jsonl", train)
    write_lines(folder / "mine" / "test.jsonl", [{"question": train[LEAK]["question"], "answer": "#### 1"}])
    (folder / "lab.yaml").write_text(FILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main(["data", "build", "lab.yaml", "PLAIN", "RAND", "RESET"]) == 0
    return folder


@pytest.fixture
def lab(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of that folder to work in."""
    shutil.copytree(built, tmp_path / "lab")
    monkeypatch.chdir(tmp_path / "lab")
    return tmp_path / "lab"


def folder_of(lab: Path, config: str) -> Path:
    return lab / "outputs" / "unsay-tiny" / "mine" / "sft" / "lora" / config


def told(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert cli.main(["data", *arguments]) == code
    out, err = capsys.readouterr()
    return err if code else out


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    return dict(json.loads(told(capsys, *arguments, "--json")))


# -- build ------------------------------------------------------------------------


def test_rows_are_built_without_training(lab: Path) -> None:
    for config, with_undo in (("train", 0), ("train_bt", 23)):
        folder = folder_of(lab, config)
        found = load_rows(folder)
        assert [row.id for row in found] == [f"mine/train/{at}" for at in range(24) if at != LEAK]
        assert sum("u" in row.provenance for row in found) == with_undo
        assert not layout.train(folder).exists()
        record = read.record(folder)
        assert record is not None
        assert record.status == "pending"
    assert 10 < sum("u" in row.provenance for row in load_rows(folder_of(lab, "reset"))) < 23


def test_what_is_there_is_kept_unless_forced(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = layout.data(folder_of(lab, "train_bt"))
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in path.iterdir()}
    assert told(capsys, "build", "lab.yaml", "RAND").rstrip().endswith("(there already)")
    assert {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in path.iterdir()} == before
    out = told(capsys, "build", "lab.yaml", "RAND", "--force", "--processes", "3")
    assert "RAND 23 rows, 23 with undo, 1 refused (1 leak)" in out
    assert "there already" not in out
    assert {file.name: file.read_bytes() for file in path.iterdir()} == {name: kept[0] for name, kept in before.items()}
    assert len(list((folder_of(lab, "train_bt") / layout.SUPERSEDED).rglob(layout.ROWS))) == 1


def test_rows_that_were_trained_on_are_not_replaced(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(lab, "train_bt")
    write.write_json(layout.train(folder) / layout.TRAINED, {"schema": 1, "train_hash": "x", "completed": True})
    before = (layout.data(folder) / layout.ROWS).read_bytes()
    assert "got a training beside them; `unsay run`" in told(capsys, "build", "lab.yaml", "RAND", "--force", code=1)
    assert (layout.data(folder) / layout.ROWS).read_bytes() == before


def test_one_build_for_a_training_that_two_share(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "build", "lab.yaml", "RESET", "RESET-BAN")["built"]
    assert [(each["id"], each["built"], each["rows"]) for each in found] == [("RESET", False, 23)]


def test_nothing_to_build(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "VAN: method vanilla trains on nothing" in told(capsys, "build", "lab.yaml", "VAN", code=1)
    assert "there is no file" in told(capsys, "build", "lab.yaml", "OWN", code=1)
    assert "'NONE'" in told(capsys, "build", "lab.yaml", "NONE", code=1)


def test_answers_of_the_model_are_asked_for_first(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = document(capsys, "build", "lab.yaml", "OWN", "--sample", "2")["built"]
    assert found["sampled"] == str(lab / "own.jsonl")
    head, *lines = [json.loads(line) for line in (lab / "own.jsonl").read_text().splitlines()]
    manifest = rows.manifest(folder_of(lab, "own"))
    assert head["tokenizer"] == manifest["facts"]["tokenizer"]
    assert (head["decode"]["undo"], head["decode"]["do_sample"]) == ("ban", True)
    assert [line["id"] for line in lines] == [f"mine/train/{at}" for at in range(24)]
    answers = [answer for line in lines for answer in line["answers"]]
    assert len(answers) == 48
    assert all(0 < len(answer["ids"]) <= 24 and answer["correct"] is False for answer in answers)
    assert len({tuple(answer["ids"]) for answer in answers}) > 24
    assert manifest["settings"]["candidates"]["answers"] == 48
    assert manifest["rows_with_undo"] == 23
    # The same seed draws the same answers; a file that is there is not drawn over.
    assert "is there already" in told(capsys, "build", "lab.yaml", "OWN", "--sample", "2", code=1)
    first = (lab / "own.jsonl").read_bytes()
    (lab / "own.jsonl").unlink()
    told(capsys, "build", "lab.yaml", "OWN", "--sample", "2", "--batch-size", "5")
    assert (lab / "own.jsonl").read_bytes() == first


def test_asking_goes_on_where_it_was_stopped(
    lab: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told(capsys, "build", "lab.yaml", "OWN", "--sample", "1", "--batch-size", "5")
    whole = (lab / "own.jsonl").read_bytes()
    (lab / "own.jsonl").unlink()
    generate, asked = Engine.generate, []

    def killed(engine: Engine, requests: list[Any]) -> Any:
        asked.append(len(requests))
        for done, finished in enumerate(generate(engine, requests)):
            if done == 10:
                raise KeyboardInterrupt
            yield finished

    monkeypatch.setattr(Engine, "generate", killed)
    assert cli.main(["data", "build", "lab.yaml", "OWN", "--sample", "1"]) == 130
    journal = folder_of(lab, "own") / layout.SAMPLED
    assert len(journal.read_text().splitlines()) == 10
    assert not (lab / "own.jsonl").exists(), "a part of the answers is never the file"
    with journal.open("ab") as file:
        file.write(b'{"schema":1,"id":"mine/train/')  # torn by a crash
    assert cli.main(["data", "build", "lab.yaml", "OWN", "--sample", "1"]) == 130
    assert len(journal.read_text().splitlines()) == 20
    monkeypatch.setattr(Engine, "generate", generate)
    told(capsys, "build", "lab.yaml", "OWN", "--sample", "1")
    assert (lab / "own.jsonl").read_bytes() == whole
    assert asked == [24, 14], "answers that are there are not drawn again"
    assert not journal.exists()


def test_answers_of_another_seed_are_not_taken_over(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = folder_of(lab, "own") / layout.SAMPLED
    line = {"schema": 1, "id": "mine/train/0", "repeat": 0, "drawn_with": "x" * 64, "asked": "y", "ids": [1]}
    with write.Journal(journal) as file:
        file.append(line)
    told(capsys, "build", "lab.yaml", "OWN", "--sample", "1")
    first = json.loads((lab / "own.jsonl").read_text().splitlines()[1])
    assert first["answers"][0]["ids"] != [1]
    assert len(list((folder_of(lab, "own") / layout.SUPERSEDED).rglob(layout.SAMPLED))) == 1


def test_whom_to_ask_must_be_there(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "build", "lab.yaml", "OWN", "--sample-from", "PLAIN"]) == 2
    assert "--sample N" in capsys.readouterr().err
    ask = ("build", "lab.yaml", "OWN", "--sample", "1", "--sample-from")
    assert "unknown model 'NOBODY'" in told(capsys, *ask, "NOBODY", code=1)
    assert "VAN trains nothing" in told(capsys, *ask, "VAN", code=1)
    assert "expected a finished training in" in told(capsys, *ask, "PLAIN", code=1)
    assert not (lab / "own.jsonl").exists()


def test_only_what_reads_candidates_can_be_sampled_for(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = told(capsys, "build", "lab.yaml", "RAND", "--sample", "1", code=1)
    assert "expected an undo strategy with `candidates:`" in message
    assert "got random_tokens" in message


def test_gsm_symbolic_is_never_trained_on(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = lab / "mine" / "train.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    write_lines(path, [*lines, lines[0] | {"original_answer": "#### 3"}])
    message = told(capsys, "build", "lab.yaml", "RAND", code=1)
    assert "mine, line 25: expected questions to train on, got the column 'original_answer' of GSM-Symbolic" in message
    text = FILE.replace("datasets: {mine", "datasets: {gsm_symbolic").replace("dataset: mine", "dataset: gsm_symbolic")
    (lab / "symbolic.yaml").write_text(text)
    message = told(capsys, "build", "symbolic.yaml", "RAND", code=1)
    assert "dataset 'gsm_symbolic' is GSM-Symbolic" in message


# -- what else is evaluated on ----------------------------------------------------


def evaluated_on(lab: Path, dataset: str) -> None:
    """Let the file evaluate on one dataset more."""
    text = FILE.replace("{path: ./mine}}", f"{{path: ./mine}}, more: {dataset}}}")
    line = "  - {id: MORE, model: unsay-tiny, dataset: more, method: vanilla, config: fewshot_0}"
    (lab / "lab.yaml").write_text(text.rstrip() + f"\n{line}\n")


def test_what_another_experiment_is_evaluated_on_is_left_out(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(lab, "train_bt")
    before = rows.manifest(folder)
    assert before["facts"]["compared_with"] == {"mine": 1}
    # Another dataset that shares no question changes nothing.
    write_lines(lab / "other" / "train.jsonl", [{"question": "How many clips in 2 days?", "answer": "#### 1"}])
    write_lines(lab / "other" / "test.jsonl", [{"question": "Something else?", "answer": "#### 1"}])
    evaluated_on(lab, "{path: ./other}")
    assert told(capsys, "build", "lab.yaml", "RAND").rstrip().endswith("(there already)")
    assert rows.manifest(folder) == before
    # One that shares a question takes the row out.
    write_lines(lab / "other" / "test.jsonl", [{"question": "How many  CLIPS in 9 days?", "answer": "#### 1"}])
    assert "RAND 22 rows, 22 with undo, 2 refused (2 leak)" in told(capsys, "build", "lab.yaml", "RAND")
    after = rows.manifest(folder)
    assert after["facts"]["compared_with"] == {"mine": 1, "more": 1}
    assert after["facts"]["data_hash"] != before["facts"]["data_hash"]
    out = told(capsys, "inspect", "RAND", "--refused")
    assert "mine/train/9 leak expected a row that is not evaluated on, got the question of item more/test/0" in out
    assert "compared    1 evaluation items of mine, 1 evaluation items of more" in told(capsys, "inspect", "RAND")
    assert len(list((folder / layout.SUPERSEDED).rglob(layout.ROWS))) == 1


def test_the_lines_of_a_task_count_whatever_their_columns(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    solution = ANSWER.replace("\n", " ")
    write_lines(
        lab / "task.jsonl",
        [
            {"problem": "How many clips in 11 days?", "solution": "$\\boxed{2}$", "answer": "2"},
            {"problem": "Another?", "solution": solution, "answer": "72"},
        ],
    )
    evaluated_on(lab, "{task: minerva_math500, path: ./task.jsonl}")
    message = told(capsys, "build", "lab.yaml", "RAND", code=1)
    assert "all 24 were refused" in message, "every answer holds 13 words of the second solution"
    write_lines(lab / "task.jsonl", [{"problem": "How many clips in 11 days?", "solution": "$1$", "answer": "2"}])
    assert "22 rows" in told(capsys, "build", "lab.yaml", "RAND")
    refused = told(capsys, "inspect", "RAND", "--refused")
    assert "mine/train/11 leak expected a row that is not evaluated on, got the question of item more/test/0" in refused


def test_a_split_that_was_never_read_is_refused(
    lab: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from unsay.methods import _guard

    def unreachable(*_: object) -> Any:
        raise OSError("no network")

    monkeypatch.setattr(_guard, "hub_lines", unreachable)
    evaluated_on(lab, "{task: gsm8k}")
    before = rows.manifest(folder_of(lab, "train_bt"))
    message = told(capsys, "build", "lab.yaml", "RAND", "--force", code=1)
    assert "got no evaluation items of more: OSError: no network. Make them readable, or move" in message
    assert rows.manifest(folder_of(lab, "train_bt")) == before
    monkeypatch.setattr(_guard, "hub_lines", lambda *_: iter(()))
    assert "expected evaluation items in split test, got none" in told(
        capsys, "build", "lab.yaml", "RAND", "--force", code=1
    )
    monkeypatch.setattr(
        _guard, "hub_lines", lambda *where: enumerate([{"question": "How many clips in 5 days?", "answer": str(where)}])
    )
    assert "22 rows" in told(capsys, "build", "lab.yaml", "RAND")


def test_a_split_that_became_unreadable_takes_out_the_same_rows(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(lab, "train_bt")
    evaluated_on(lab, "{path: ./other}")
    write_lines(lab / "other" / "train.jsonl", [{"question": "Anything?", "answer": "#### 1"}])
    write_lines(lab / "other" / "test.jsonl", [{"question": "How many clips in 9 days?", "answer": "#### 1"}])
    assert "22 rows" in told(capsys, "build", "lab.yaml", "RAND")
    names = (layout.ROWS, layout.REFUSED, layout.PIECES)
    before = [(layout.data(folder) / name).read_bytes() for name in names]
    hashed = rows.manifest(folder)["facts"]["data_hash"]
    (lab / "other" / "test.jsonl").write_text("{broken")
    assert told(capsys, "build", "lab.yaml", "RAND").rstrip().endswith("(there already)")
    # Built again they are the same, and the memory is handed on.
    for _ in range(2):
        told(capsys, "build", "lab.yaml", "RAND", "--force")
        assert [(layout.data(folder) / name).read_bytes() for name in names] == before
        facts = rows.manifest(folder)["facts"]
        assert (facts["data_hash"], facts["compared_with"]) == (hashed, {"mine": 1, "more": 1})
    out = told(capsys, "inspect", "RAND")
    assert "unread      the evaluation items of more: DataError: " in out
    assert "(compared earlier)" in out
    # Of other training questions that memory says nothing.
    path = lab / "mine" / "train.jsonl"
    path.write_text(path.read_text() + json.dumps({"question": "One more?", "answer": ANSWER}) + "\n")
    assert "got no evaluation items of more" in told(capsys, "build", "lab.yaml", "RAND", code=1)
    assert rows.manifest(folder)["facts"]["data_hash"] == hashed


def test_the_scored_split_of_a_task_counts_whatever_it_is_called(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unsay.data import source as sources
    from unsay.methods import _guard

    line = {"question": "secret one two", "answer": "7"}
    lines = {"train": [line], "validation": [line]}
    asked: list[tuple[Any, ...]] = []

    def hub(*where: Any) -> Any:
        asked.append(where)
        return enumerate(lines.get(where[1], []))

    monkeypatch.setattr(sources, "hub_lines", hub)
    monkeypatch.setattr(_guard, "hub_lines", hub)
    (tmp_path / "own.yaml").write_text(
        "task: own\ndataset_path: org/own\ndataset_name: plain\nvalidation_split: validation\n"
        'doc_to_text: "Q: {{question}}"\ndoc_to_target: answer\n'
    )
    dataset = Dataset("own", path="org/own", format="gsm8k", task=str(tmp_path / "own.yaml"))
    job = Job(dataclasses.replace(load(lab / "lab.yaml").experiments[1], dataset=dataset), tmp_path)
    source = sources.open_source(dataset, tmp_path)
    examples = list(source.examples("train"))
    found = _guard.guard_of(job, source, examples)
    assert found.compared == {"own": 1}
    assert found.leaks[0].found(examples[0]) == "the question of item own/validation/0"
    assert asked[-1] == ("org/own", "validation", "plain")
    lines["validation"] = []
    with pytest.raises(DataError, match="expected evaluation items in split validation, got none"):
        _guard.guard_of(job, source, examples)


@pytest.mark.parametrize(
    ("answer", "gold", "correct"),
    [
        ("#### 18", "So\n#### 18", True),
        ("#### 18.0", "#### 18", True),
        ("####18", "#### 18", True),
        ("#### $1,800.", "#### 1800", True),
        ("#### 18.01", "#### 18", False),
        ("#### .", "#### 0", False),
        ("#### ", "#### 0", False),
        ("18", "#### 18", False),
    ],
)
def test_final_answers_are_compared_as_numbers(answer: str, gold: str, correct: bool) -> None:
    from unsay.methods._sampling import is_correct

    assert is_correct(Source("a", None, "gsm8k", {}, None), answer, gold) is correct


# -- inspect ----------------------------------------------------------------------


def test_the_manifest(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = told(capsys, "inspect", "RESET")
    found = rows.manifest(folder_of(lab, "reset"))
    assert "rows        23, " in out
    assert "refused     1: 1 leak; --refused lists them" in out
    assert "reset (start=auto, max_lines=3, max_right=32, max_errors=9, rate=0.5, max_resets=3)" in out
    for value in (found["facts"]["tokenizer"], found["facts"]["data_hash"], found["rows_sha256"]):
        assert value in out
    for name, share in found["shares"].items():
        assert f"{name:<11} {found['tokens'][name]:>10} {100 * share:>6.2f} %" in out
    folder = folder_of(lab, "reset")
    assert document(capsys, "inspect", "RESET") == found | {"folder": str(folder)}
    assert document(capsys, "inspect", str(folder)) == document(capsys, "inspect", str(layout.data(folder)))


def test_one_row(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = next(row for row in load_rows(folder_of(lab, "train_bt")) if "eeu" in row.provenance)
    out = told(capsys, "inspect", "RAND", row.id)
    pieces = rows.pieces(folder_of(lab, "train_bt"))
    errors = [id for id, letter in zip(row.ids, row.provenance, strict=True) if letter == "e"]
    assert len(errors) == row.provenance.count("u") == out.count("<|BACKTRACK|>")
    assert " ".join(f"{id}{letter}" for id, letter in zip(row.ids, row.provenance, strict=True)) in out
    assert f"{len(errors)} error (e)" in out
    found = document(capsys, "inspect", "RAND", row.id)
    assert Row.from_json(found) == row
    assert [token["piece"] for token in found["tokens"]] == [pieces.of(id) for id in row.ids]
    kinds = [token["kind"] for token in found["tokens"]]
    assert kinds.count("taken back") == kinds.count("undo") == len(errors)
    assert kinds[-1] == "end"
    number = [each.id for each in load_rows(folder_of(lab, "train_bt"))].index(row.id)
    assert told(capsys, "inspect", "RAND", str(number)) == out


def test_hostile_text_is_spelled_out(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = layout.data(folder_of(lab, "train_bt")) / layout.PIECES
    value = json.loads(path.read_text())
    hostile = dict.fromkeys(value["pieces"], "\x1b[2J\u202e")
    path.write_text(json.dumps(value | {"pieces": hostile}))
    out = told(capsys, "inspect", "RAND", "0")
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "␛[2J⟨U+202E⟩" in out


def test_rows_of_an_earlier_release_show_their_ids(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (layout.data(folder_of(lab, "train")) / layout.PIECES).unlink()
    row = load_rows(folder_of(lab, "train"))[0]
    assert f"<|id {row.ids[0]}|>" in told(capsys, "inspect", "PLAIN", "0")


def test_refused_rows_have_their_reason(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = told(capsys, "inspect", "RAND", "--refused")
    assert (
        f"mine/train/{LEAK} leak expected a row that is not evaluated on, got the question of item mine/test/0" in out
    )
    assert "was refused: expected a row that is not" in told(capsys, "inspect", "RAND", f"mine/train/{LEAK}", code=1)
    assert "rows are 0 to 22" in told(capsys, "inspect", "RAND", "23", code=1)
    assert "`unsay data build FILE ID`" in told(capsys, "inspect", "VAN", code=1)


def test_torn_rows_are_no_traceback(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = layout.data(folder_of(lab, "train_bt")) / layout.ROWS
    whole = path.read_bytes()
    for content in (b"{", b"[]\n", b'{"id": 3}\n', b"\xff\n", whole.replace(b"c", b"cc", 1)):
        path.write_bytes(content)
        told(capsys, "inspect", "RAND", "9999", code=1)
    (layout.data(folder_of(lab, "train_bt")) / layout.MANIFEST).write_text("{")
    assert "build the data again" in told(capsys, "inspect", "RAND", code=1)


def test_rows_of_a_training_that_others_share(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`train_as`, or only another `decode`: the rows lie in a folder that belongs to none of these by itself."""
    again = "  again: {train_as: lora/train_bt, decode: {undo_context: rewind}}\nexperiments:"
    trained = "model: unsay-tiny, dataset: mine, method: sft, config"
    more = f"""
  - {{id: AGAIN, {trained}: again}}
  - {{id: SHORT, {trained}: lora/train_bt, decode: {{max_new_tokens: 9}}}}
  - {{id: LONE, {trained}: lora/train_bt, seed: 5, decode: {{max_new_tokens: 9}}}}
"""
    (lab / "lab.yaml").write_text(FILE.replace("experiments:", again).rstrip() + more)
    told(capsys, "build", "lab.yaml", "LONE", "--processes", "2")
    for id in ("AGAIN", "SHORT", "RESET-BAN"):
        own = document(capsys, "inspect", "RESET" if id == "RESET-BAN" else "RAND")
        assert document(capsys, "inspect", id) == own
        assert told(capsys, "inspect", id, "0")
    assert document(capsys, "inspect", "LONE")["settings"]["seed"] == 5
    assert "`unsay data build FILE ID`" in told(capsys, "inspect", "OWN", code=1)


def test_looking_needs_no_heavy_library(lab: Path) -> None:
    code = (
        "import sys; from unsay import cli; code = cli.main(['data', 'inspect', 'RAND', '0']); "
        "print(code, [m for m in ('torch', 'transformers', 'lm_eval') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=lab, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


# -- export -----------------------------------------------------------------------


def exported(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_trl_gets_the_very_ids(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "export", "RAND", "out.jsonl", "--to", "trl") == "23 rows in out.jsonl\n"
    for line, row in zip(exported(lab / "out.jsonl"), load_rows(folder_of(lab, "train_bt")), strict=True):
        assert line["input_ids"] == [*row.prompt_ids, *row.ids]
        learnt = [False] * len(row.prompt_ids) + [letter != "e" for letter in row.provenance]
        assert line["labels"] == [id if on else -100 for id, on in zip(line["input_ids"], learnt, strict=True)]
        assert line["completion_mask"] == [int(on) for on in learnt]


@pytest.mark.parametrize("style", ["alpaca", "sharegpt"])
def test_text_only_where_it_is_the_same_ids_again(lab: Path, capsys: pytest.CaptureFixture[str], style: str) -> None:
    from transformers import AutoTokenizer

    from unsay.definitions import builtin

    tokenizer = AutoTokenizer.from_pretrained(builtin().models["unsay-tiny"].path)
    found = document(capsys, "export", "RAND", "out.jsonl", "--to", "llamafactory", "--style", style)
    whole = {row.id: row for row in load_rows(folder_of(lab, "train_bt"))}
    refused = exported(lab / "out.refused.jsonl")
    assert (found["rows"] + found["refused"], found["refused"]) == (23, len(refused))
    assert 0 < len(refused) < 23
    assert all("encoded to the same ids again" in line["reason"] for line in refused)
    kept = [row for id, row in whole.items() if id not in {line["id"] for line in refused}]
    for line, row in zip(exported(lab / "out.jsonl"), kept, strict=True):
        if style == "alpaca":
            turn, answer = line["instruction"] + line["input"], line["output"]
        else:
            turn, answer = (part["value"] for part in line["conversations"])
            assert [part["from"] for part in line["conversations"]] == ["human", "gpt"]
        chat = [{"role": "user", "content": turn}]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False, enable_thinking=False)
        assert tuple(tokenizer.encode(prompt, add_special_tokens=False)) == row.prompt_ids
        assert tuple(tokenizer.encode(answer, add_special_tokens=False)) == row.ids[:-1]
    for line in refused:
        answer = tokenizer.decode(whole[line["id"]].ids[:-1], clean_up_tokenization_spaces=False)
        assert tuple(tokenizer.encode(answer, add_special_tokens=False)) != whole[line["id"]].ids[:-1]


def test_rows_without_their_tokenizer_are_not_exported_as_text(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = layout.data(folder_of(lab, "train")) / layout.MANIFEST
    manifest = json.loads(path.read_text())
    manifest["facts"]["tokenizer"] = "another"
    path.write_text(json.dumps(manifest))
    message = told(capsys, "export", "PLAIN", "out.jsonl", "--to", "llamafactory", code=1)
    assert "expected the tokenizer that the rows were made with" in message
    assert not (lab / "out.jsonl").exists()
