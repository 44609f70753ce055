"""GSM8K's training questions through every strategy, with the bundled tokenizer: built, or refused with a reason."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.encodings import gsm8k
from unsay import catalog, definitions
from unsay.augment import Answer, Candidate, Vocabulary
from unsay.data.build import Encoding, Manifest, build, load_rows
from unsay.data.candidates import write_candidates
from unsay.data.leaks import Leaks
from unsay.records import Example
from unsay.settings import UndoData
from unsay.store import layout, rows

CLEAN_SHARE = 0.2
QUICK = 400


@pytest.fixture(scope="module")
def encoding() -> Encoding:
    from unsay.evaluate.setup import open_model

    opened = open_model(definitions.builtin().models["unsay-tiny"], device="cpu", undo=UndoData())
    prompter = opened.prompter
    return Encoding(
        prompt=lambda example: prompter.encode_chat([{"role": "user", "content": example.question}]).ids,
        answer=lambda text: Answer(*prompter.encode_answer(text), text),
        end_id=prompter.end_id,
        vocabulary=Vocabulary(opened.table, prompter.ordinary_ids, prompter.encode_text, prompter.lines_apart),
        tokenizer=prompter.fingerprint,
        pieces=prompter.pieces,
    )


def examples(split: str, limit: int | None = None) -> list[Example]:
    lines = gsm8k(split, limit)
    return [Example(f"gsm8k/{split}/{at}", line["question"], line["answer"]) for at, line in enumerate(lines)]


def built(folder: Path, name: str, encoding: Encoding, limit: int | None, processes: int = 1) -> Manifest:
    """Build the rows; candidates are the answers of the two questions before."""
    train = examples("train", limit)
    options = {}
    if name in ("splice", "own_samples"):
        ids = [encoding.answer(example.answer).ids for example in train]
        answers = [(each.id, [Candidate(ids[at - back], False) for back in (1, 2)]) for at, each in enumerate(train)]
        folder.mkdir(exist_ok=True)
        write_candidates(folder / "others.jsonl", answers, tokenizer=encoding.tokenizer)
        options = {"candidates": str(folder / "others.jsonl")}
    undo = UndoData(strategy=name, options=options, clean_share=CLEAN_SHARE)
    return build(
        train,
        encoding,
        undo,
        cutoff_len=2048,
        seed=0,
        folder=folder,
        leaks=[Leaks(examples("test"))],
        processes=processes,
    )


def check(folder: Path, manifest: Manifest, total: int, name: str) -> None:
    listed = list(rows.refused(folder))
    assert manifest.rows + manifest.refused == total
    assert len({row.id for row in load_rows(folder)} | {line["id"] for line in listed}) == total
    assert manifest.refusals == Counter(line["kind"] for line in listed)
    assert all(line["reason"].startswith(("expected ", f"row {line['id']}: expected ")) for line in listed)
    other = manifest.refused - manifest.refusals.get("leak", 0)
    # Some answers have no calculator step; a clean row needs none.
    assert other <= total * (0.01 if name != "arithmetic_slip" else 0.015 if total > 5000 else 0.03)
    assert manifest.rows_with_undo / manifest.rows == pytest.approx(1 - CLEAN_SHARE, abs=0.02 if total > 5000 else 0.05)


@pytest.mark.parametrize("name", catalog.names("augment"))
def test_the_first_rows(tmp_path: Path, encoding: Encoding, name: str) -> None:
    check(tmp_path, built(tmp_path, name, encoding, QUICK), QUICK, name)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")
@pytest.mark.parametrize("name", catalog.names("augment"))
def test_every_row_is_built_or_refused_whatever_the_number_of_processes(
    tmp_path: Path, encoding: Encoding, name: str
) -> None:
    manifest = built(tmp_path / "one", name, encoding, None)
    check(tmp_path / "one", manifest, 7473, name)
    assert manifest.refusals["leak"] == 10
    built(tmp_path / "four", name, encoding, None, processes=4)
    for file in (layout.ROWS, layout.REFUSED, layout.PIECES):
        digests = {
            hashlib.sha256((layout.data(tmp_path / place) / file).read_bytes()).hexdigest() for place in ("one", "four")
        }
        assert len(digests) == 1, file
