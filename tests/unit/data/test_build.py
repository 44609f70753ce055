from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.encodings import ANSWER, BYTES, END, LINE, MERGED, POP, gsm8k
from unsay.augment import Answer, Candidate, Vocabulary
from unsay.data.build import Encoding, Manifest, build, load_manifest, load_rows
from unsay.data.candidates import read_candidates, write_candidates
from unsay.data.leaks import Leaks
from unsay.errors import ConfigError, DataError, StoreError
from unsay.records import Example
from unsay.settings import UndoData
from unsay.store import layout
from unsay.undo import EMPTY, resolve

EXAMPLES = [Example(f"train-{index}", f"How many clips in {index} days?", ANSWER) for index in range(40)]
SLIPS = UndoData(strategy="arithmetic_slip", options={"rate": 0.6})
TOKENS = UndoData()
HEAD = '{"schema": 1, "kind": "candidates", "tokenizer": "tok-1"}'


def prompt(example: Example) -> tuple[int, ...]:
    return (1, *MERGED.encode(example.question), 2)


ENCODING = Encoding(prompt, MERGED.answer, END, MERGED.vocabulary(POP, LINE))
PLAIN = Encoding(prompt, MERGED.answer, END)


def make(folder: Path, examples: Any = EXAMPLES, undo: UndoData | None = TOKENS, **changed: Any) -> Manifest:
    encoding = changed.pop("encoding", ENCODING)
    return build(examples, encoding, undo, folder=folder, **({"cutoff_len": 2048, "seed": 0} | changed))


def refused(folder: Path) -> list[dict[str, Any]]:
    path = layout.data(folder) / layout.REFUSED
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("undo", [TOKENS, SLIPS])
def test_rows_on_disk(tmp_path: Path, undo: UndoData) -> None:
    manifest = make(tmp_path, undo=undo)
    rows = load_rows(tmp_path)
    assert [row.id for row in rows] == [example.id for example in EXAMPLES]
    assert ENCODING.vocabulary is not None
    for row, example in zip(rows, EXAMPLES, strict=True):
        assert row.prompt_ids == prompt(example)
        assert row.ids[-1] == END
        visible = resolve(row.ids, ENCODING.vocabulary.table, {END}).visible_ids
        assert MERGED.decode(visible) == example.answer
    assert manifest == load_manifest(tmp_path)
    assert manifest.rows == 40
    assert manifest.refused == 0
    assert refused(tmp_path) == []
    assert manifest.rows_with_undo == sum("u" in row.provenance for row in rows) > 20


def test_the_manifest_counts_tokens(tmp_path: Path) -> None:
    manifest = make(tmp_path)
    rows = load_rows(tmp_path)
    letters = "".join(row.provenance for row in rows)
    total = len(letters) + sum(len(row.prompt_ids) for row in rows)
    assert manifest.tokens == {
        "prompt": total - len(letters),
        "clean": letters.count("c"),
        "error": letters.count("e"),
        "undo": letters.count("u"),
        "correction": letters.count("k"),
        "supervised": len(letters) - letters.count("e"),
    }
    assert manifest.shares["supervised"] == pytest.approx(manifest.tokens["supervised"] / total, abs=1e-6)
    assert manifest.longest == max(len(row.prompt_ids) + len(row.ids) for row in rows)
    unmasked = make(tmp_path, undo=dataclasses.replace(TOKENS, mask="none"))
    assert unmasked.tokens["supervised"] == len(letters)


def test_the_manifest_says_what_the_rows_were_made_from(tmp_path: Path) -> None:
    manifest = make(tmp_path, undo=SLIPS, seed=5, facts={"tokenizer": "sha256:ab", "prompt": "Q: …"})
    assert manifest.facts == {"tokenizer": "sha256:ab", "prompt": "Q: …"}
    assert manifest.settings["seed"] == 5
    assert manifest.settings["undo"]["options"] == {"rate": 0.6}
    assert manifest.settings["strategy"]["max_errors_per_answer"] == 3, "defaults are written out"
    assert manifest.settings["undo_table"] == MERGED.table(POP, LINE).sha256()
    rows = (layout.data(tmp_path) / layout.ROWS).read_bytes()
    assert manifest.rows_sha256 == hashlib.sha256(rows).hexdigest()
    assert json.loads((layout.data(tmp_path) / layout.MANIFEST).read_text())["schema"] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")
@pytest.mark.parametrize("undo", [TOKENS, SLIPS, UndoData(strategy="reset", options={"rate": 0.5}, clean_share=0.3)])
def test_the_number_of_processes_changes_no_byte(tmp_path: Path, undo: UndoData) -> None:
    encoding = dataclasses.replace(
        ENCODING, vocabulary=MERGED.vocabulary(), pieces=lambda ids: [MERGED.decode([id]) for id in ids]
    )
    examples = [
        Example(f"train-{at}", f"How many in {at} days?", "No steps." if at % 9 == 0 else ANSWER) for at in range(150)
    ]
    done: list[int] = []
    make(tmp_path / "one", examples, undo, encoding=encoding, progress=done.append)
    make(tmp_path / "four", examples, undo, encoding=encoding, processes=4)
    assert done == list(range(1, 151))
    for name in (layout.ROWS, layout.REFUSED, layout.PIECES, layout.MANIFEST):
        assert (layout.data(tmp_path / "one") / name).read_bytes() == (
            layout.data(tmp_path / "four") / name
        ).read_bytes()


def test_a_mistake_in_another_process_is_raised_here(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pops all"):
        make(tmp_path, undo=UndoData(strategy="reset"), processes=4)
    with pytest.raises(DataError, match="'train-1' twice"):
        make(tmp_path, [EXAMPLES[1], EXAMPLES[1]], processes=4)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")
def test_a_process_that_is_killed_ends_the_build(tmp_path: Path) -> None:
    # In a process of its own, so that a build that waits for ever is seen.
    script = """
import os, signal, sys
from pathlib import Path
from tests.unit.data import test_build as own
from unsay.errors import DataError

def prompt(example):
    if example.id == "train-70":
        os.kill(os.getpid(), signal.SIGKILL)
    return (1, 2)

examples = [own.Example(f"train-{at}", "How many?", own.ANSWER) for at in range(400)]
try:
    own.make(Path(sys.argv[1]), examples, None, encoding=own.dataclasses.replace(own.PLAIN, prompt=prompt), processes=2)
except DataError as error:
    print(error)
"""
    found = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=120, check=True
    )
    assert "expected 2 processes to build rows, but one was ended from outside" in found.stdout
    assert not layout.data(tmp_path).exists()


def test_the_text_of_every_id_is_kept_beside_the_rows(tmp_path: Path) -> None:
    make(tmp_path, encoding=dataclasses.replace(ENCODING, pieces=lambda ids: [f"<{id}>" for id in ids], tokenizer="ab"))
    kept = json.loads((layout.data(tmp_path) / layout.PIECES).read_text())
    used = {id for row in load_rows(tmp_path) for ids in (row.prompt_ids, row.ids) for id in ids}
    assert kept["pieces"] == {str(id): f"<{id}>" for id in used}
    assert kept["tokenizer"] == "ab"
    assert ENCODING.vocabulary is not None
    assert kept["undo_table"] == ENCODING.vocabulary.table.to_json()


CANDIDATES = dataclasses.replace(ENCODING, tokenizer="tok-1")


def with_file(path: Path, tokenizer: str = "tok-1") -> UndoData:
    wrong = Candidate(MERGED.encode(ANSWER.replace("72", "73")), correct=False)
    right = Candidate(MERGED.encode(ANSWER), correct=True)
    answers = [("train-0", [wrong, right]), ("train-1", [right]), ("train-2", [])]
    write_candidates(path, answers, tokenizer=tokenizer, facts={"model": "m"})
    return UndoData(strategy="own_samples", options={"candidates": str(path)})


def test_rows_from_candidates(tmp_path: Path) -> None:
    undo = with_file(tmp_path / "own.jsonl")
    manifest = make(tmp_path, EXAMPLES[:4], undo, encoding=CANDIDATES)
    (row,) = load_rows(tmp_path)
    assert row.id == "train-0"
    assert manifest.rows_with_undo == 1
    assert manifest.refusals == {"no_mistake": 3}
    assert [line["reason"].split("got ")[1] for line in refused(tmp_path)] == ["1, all of them correct", "none", "none"]
    facts = manifest.settings["candidates"]
    digest = hashlib.sha256((tmp_path / "own.jsonl").read_bytes()).hexdigest()
    assert facts == {"sha256": digest, "questions": 3, "answers": 3, "wrong": 1}
    keeping = dataclasses.replace(undo, options=undo.options | {"min_errors_per_answer": 0})
    assert make(tmp_path, EXAMPLES[:4], keeping, encoding=CANDIDATES).rows == 4


def test_candidates_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    undo = with_file(tmp_path / "own.jsonl", "tok-2")
    with pytest.raises(DataError, match=r"ids of the tokenizer tok-1…, got tok-2…; .*--sample N"):
        make(tmp_path, undo=undo, encoding=CANDIDATES)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], "empty file"),
        (["{"], "1: expected one JSON object"),
        (['{"id": "a", "answers": []}'], "1: expected a first line with kind 'candidates'"),
        ([HEAD, "[]"], "2: expected .*got no id"),
        ([HEAD, '{"id": "a"}'], "2: expected .*got no list of answers"),
        ([HEAD, '{"id": "a", "answers": [{"ids": [1.5]}]}'], "2: expected .*got an answer without token ids"),
        ([HEAD, '{"id": "a", "answers": [{"ids": [true]}]}'], "2: expected .*got an answer without token ids"),
        ([HEAD, '{"id": "a", "answers": [{"ids": [1], "correct": "no"}]}'], "2: expected .*got 'no' as verdict"),
        ([HEAD, '{"id": "a", "answers": []}', '{"id": "a", "answers": []}'], "3: expected one line per question"),
    ],
)
def test_broken_files_of_candidates(tmp_path: Path, lines: list[str], reason: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=f"own.jsonl:?.*{reason}"):
        read_candidates(path, tokenizer="tok-1")
    with pytest.raises(DataError, match="expected a file of candidates"):
        read_candidates(tmp_path / "none.jsonl", tokenizer="tok-1")


def test_candidates_come_back_as_written(tmp_path: Path) -> None:
    answers = {"a": (Candidate((1, 2), True), Candidate((), False), Candidate((3,))), "b": ()}
    write_candidates(tmp_path / "c", answers.items(), tokenizer="t")
    assert read_candidates(tmp_path / "c", tokenizer="t").answers == answers


def test_same_settings_same_bytes(tmp_path: Path) -> None:
    first, again = make(tmp_path / "a"), make(tmp_path / "b")
    assert first == again
    for name in (layout.ROWS, layout.REFUSED, layout.MANIFEST):
        assert (layout.data(tmp_path / "a") / name).read_bytes() == (layout.data(tmp_path / "b") / name).read_bytes()
    assert make(tmp_path / "c", seed=1).rows_sha256 != first.rows_sha256


def test_a_row_does_not_depend_on_the_others(tmp_path: Path) -> None:
    make(tmp_path / "all")
    make(tmp_path / "some", EXAMPLES[::-3])
    rows = {row.id: row for row in load_rows(tmp_path / "all")}
    for row in load_rows(tmp_path / "some"):
        assert row == rows[row.id]


def test_plain_rows(tmp_path: Path) -> None:
    for undo, encoding in ((None, PLAIN), (None, ENCODING)):
        manifest = make(tmp_path, undo=undo, encoding=encoding)
        assert all(set(row.provenance) == {"c"} for row in load_rows(tmp_path))
        assert manifest.rows_with_undo == manifest.tokens["undo"] == 0
        assert manifest.tokens["supervised"] == manifest.tokens["clean"]


def test_clean_share(tmp_path: Path) -> None:
    always = UndoData(strategy="arithmetic_slip", options={"rate": 1.0})
    mixed = dataclasses.replace(always, clean_share=0.5)
    assert make(tmp_path / "none", undo=always).rows_with_undo == 40
    assert 10 < make(tmp_path / "half", undo=mixed).rows_with_undo < 30
    assert make(tmp_path / "all", undo=dataclasses.replace(always, clean_share=1.0)).rows_with_undo == 0
    # Rows that get mistakes get the same ones whatever the share.
    rows = {row.id: row for row in load_rows(tmp_path / "none")}
    assert all(row == rows[row.id] for row in load_rows(tmp_path / "half") if "u" in row.provenance)


def test_long_rows_are_refused_not_cut(tmp_path: Path) -> None:
    longest = make(tmp_path).longest
    rows = {row.id: row for row in load_rows(tmp_path)}
    manifest = make(tmp_path, cutoff_len=longest - 1)
    assert 0 < manifest.refused < 40
    assert manifest.refusals == {"too_long": manifest.refused}
    assert manifest.longest < longest
    assert all(row == rows[row.id] for row in load_rows(tmp_path))
    for line in refused(tmp_path):
        row = rows[line["id"]]
        assert line["reason"].endswith(f"got {len(row.prompt_ids) + len(row.ids)}")


def test_evaluation_questions_are_refused(tmp_path: Path) -> None:
    evaluation = [
        Example("test-0", "HOW many\n clips  in 3 days? ", "another answer"),
        Example("test-1", "How many clips in 5 days? Natalia", ANSWER.removeprefix("Natalia ")),
        Example("test-2", "something else", "So it is 72.\n#### 72"),
    ]
    manifest = make(tmp_path, leaks=[Leaks(evaluation, in_a_row=False)])
    assert [(line["id"], line["kind"]) for line in refused(tmp_path)] == [("train-3", "leak"), ("train-5", "leak")]
    assert "test-0" in refused(tmp_path)[0]["reason"]
    assert "test-1" in refused(tmp_path)[1]["reason"]
    assert manifest.refusals == {"leak": 2}


def test_thirteen_words_in_a_row_of_an_evaluation_answer_are_refused(tmp_path: Path) -> None:
    manifest = make(
        tmp_path, [*EXAMPLES[:3], Example("train-x", "Why?", "So.")], leaks=[Leaks([Example("t", "", ANSWER)])]
    )
    assert manifest.refusals == {"leak": 3}
    assert "13 words in a row of the answer of item t: 'natalia sold 48 2" in refused(tmp_path)[0]["reason"]


def test_examples_without_a_question_are_told_apart_by_their_answer(tmp_path: Path) -> None:
    examples = [Example("train-0", "", "2+2 = 4"), Example("train-1", "", "2+3 = 5")]
    manifest = make(tmp_path, examples, leaks=[Leaks([Example("test-0", "", "2+3 = 5")])])
    assert (manifest.rows, refused(tmp_path)[0]["id"]) == (1, "train-1")


def test_examples_that_cannot_be_encoded_are_refused(tmp_path: Path) -> None:
    def strict(example: Example) -> tuple[int, ...]:
        if example.id == "train-2":
            raise DataError("the question spells <|BACKTRACK|>")
        return (*prompt(example), POP) if example.id == "train-4" else prompt(example)

    examples = [*EXAMPLES[:6], Example("train-empty", "q", "")]
    make(tmp_path, examples, encoding=dataclasses.replace(ENCODING, prompt=strict))
    assert [(line["id"], line["kind"]) for line in refused(tmp_path)] == [
        ("train-2", "encoding"),
        ("train-4", "undo"),
        ("train-empty", "empty"),
    ]
    assert "<|BACKTRACK|>" in refused(tmp_path)[1]["reason"]


def test_nothing_left(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one training example, got none"):
        make(tmp_path, [])
    with pytest.raises(DataError, match="all 40 were refused; train-0: expected at most 5 tokens"):
        make(tmp_path, cutoff_len=5)
    assert not layout.data(tmp_path).exists()


def test_one_id_for_two_examples(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'train-1' twice"):
        make(tmp_path, [EXAMPLES[1], EXAMPLES[1]])


def test_undo_needs_an_undo_token(tmp_path: Path) -> None:
    for encoding in (PLAIN, dataclasses.replace(ENCODING, vocabulary=Vocabulary(EMPTY, range(256), BYTES.encode))):
        with pytest.raises(ConfigError, match="needs a model with an undo token"):
            make(tmp_path, encoding=encoding)
    only_line = dataclasses.replace(ENCODING, vocabulary=MERGED.vocabulary(LINE))
    with pytest.raises(ConfigError, match="pops one"):
        make(tmp_path, encoding=only_line)


def test_settings_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="clean_share"):
        make(tmp_path, undo=UndoData(clean_share=1.5))
    with pytest.raises(ConfigError, match="random_tokens"):
        make(tmp_path, undo=UndoData(strategy="randomtokens"))
    with pytest.raises(ConfigError, match="max_errors"):
        make(tmp_path, undo=UndoData(options={"max_error": 3}))


def test_only_finished_builds_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="found no"):
        load_rows(tmp_path)
    make(tmp_path)
    manifest = layout.data(tmp_path) / layout.MANIFEST

    # A build that is cut before its manifest leaves the old one, which does not name the new rows.
    def full(path: Path, obj: object) -> None:
        raise StoreError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("unsay.store.write.write_json", full)
        with pytest.raises(StoreError):
            make(tmp_path, seed=1)
    with pytest.raises(DataError, match="build the data again"):
        load_rows(tmp_path)
    make(tmp_path, seed=1)
    assert len(load_rows(tmp_path)) == 40

    for broken in ("{", "[]", "{}"):
        manifest.write_text(broken)
        with pytest.raises(DataError, match="build the data again"):
            load_rows(tmp_path)
    manifest.write_text('{"schema": 99}')
    with pytest.raises(DataError, match="was written by a newer unsay"):
        load_rows(tmp_path)


def test_building_loads_no_heavy_library() -> None:
    code = "import sys, unsay.data.build; print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("undo", [TOKENS, SLIPS, None])
def test_real_examples(tmp_path: Path, undo: UndoData | None) -> None:
    lines = gsm8k("train", limit=200)
    examples = [Example(f"train-{index}", line["question"], line["answer"]) for index, line in enumerate(lines)]
    evaluation = [Example("test", line["question"], line["answer"]) for line in gsm8k("test")]
    manifest = make(tmp_path, examples, undo, leaks=[Leaks(evaluation), Leaks([examples[7]])])
    leaks = [line["id"] for line in refused(tmp_path) if line["kind"] == "leak"]
    assert "train-7" in leaks
    assert all(line["kind"] in ("leak", "no_mistake") for line in refused(tmp_path))
    assert manifest.rows == 200 - len(refused(tmp_path)) > 190
    assert sum(len(row.ids) for row in load_rows(tmp_path)) == sum(manifest.tokens.values()) - (
        manifest.tokens["prompt"] + manifest.tokens["supervised"]
    )


def test_answers_are_encoded_once(tmp_path: Path) -> None:
    calls: list[str] = []

    def answer(text: str) -> Answer:
        calls.append(text)
        return MERGED.answer(text)

    make(tmp_path, EXAMPLES[:3], encoding=dataclasses.replace(ENCODING, answer=answer))
    assert len(calls) == 3
