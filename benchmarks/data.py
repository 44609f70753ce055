"""How fast training rows are built, per strategy and phase, in one process: rows per second.

    python benchmarks/data.py                    # GSM8K's training questions, the bundled tokenizer
    python benchmarks/data.py --rows 1000 --model qwen3-0.6b

Questions come from the folder `gsm8k` of `UNSAY_TEST_DATA` (or shared/data beside the project); without it, generated
word problems. `whole` is a build as `unsay data build` does it, files on disk included; `traced` is the strategy with
the check of its trace, and the other columns are parts alone. Times are of the processor, so that other work on the
machine counts little; medians over rounds. `splice` and `own_samples` get the answers of the two rows before as
candidates.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unsay import catalog, definitions
from unsay.augment import Answer, Candidate, NoMistakeError, Source, Vocabulary, apply_strategy, derive_rng, load
from unsay.data.build import Encoding, build
from unsay.data.candidates import read_candidates, write_candidates
from unsay.data.leaks import Leaks
from unsay.datasets import wordproblems
from unsay.evaluate.setup import Opened, open_model
from unsay.records import Example, Row
from unsay.settings import UndoData
from unsay.undo import check_row

Rows = list[Example]
FROM_CANDIDATES = ("own_samples", "splice")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("strategies", nargs="*", metavar="STRATEGY", help="all of them when none is named")
    parser.add_argument("--rows", type=int, default=7473)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="unsay-tiny", help="a built-in name: whose tokenizer and template")
    options = parser.parse_args()
    train, test, source = questions(options.rows)
    print(f"{len(train)} questions of {source}, {len(test)} to leave out; {options.model}; {options.rounds} rounds\n")
    measured = ("whole", "leaks", "prompts", "answers", "strategy", "check", "traced", "built")
    print(f"{'rows per second':16}" + "".join(f"{name:>10}" for name in measured))
    for name in options.strategies or catalog.names("augment"):
        rounds = [one_round(name, options.model, train, test) for _ in range(options.rounds)]
        medians = {key: statistics.median(each[key] for each in rounds) for key in measured}
        print(f"{name:16}" + "".join(f"{medians[key]:10,.0f}" for key in measured), flush=True)


def questions(count: int) -> tuple[Rows, Rows, str]:
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("UNSAY_TEST_DATA", beside)) / "gsm8k"
    found: dict[str, list[dict[str, Any]]]
    if folder.is_dir():
        found = {
            split: [json.loads(line) for line in (folder / f"{split}.jsonl").read_text("utf-8").splitlines()]
            for split in ("train", "test")
        }
        source = "GSM8K"
    else:
        found = {split: list(wordproblems.generate(split, count)) for split in ("train", "test")}
        source = "generated word problems"
    train, test = (
        [Example(f"{split}/{at}", str(line["question"]), str(line["answer"])) for at, line in enumerate(found[split])]
        for split in ("train", "test")
    )
    return train[:count], test, source


def encoding_of(model: str, undo: UndoData) -> Encoding:
    opened: Opened = open_model(definitions.builtin().models[model], device="cpu", undo=undo)
    prompter = opened.prompter

    def prompt(example: Example) -> tuple[int, ...]:
        message = {"role": "user", "content": f"Question: {example.question}\nAnswer:"}
        return prompter.encode_chat([message], enable_thinking=False).ids

    return Encoding(
        prompt=prompt,
        answer=lambda text: Answer(*prompter.encode_answer(text), text),
        end_id=prompter.end_id,
        vocabulary=Vocabulary(opened.table, prompter.ordinary_ids, prompter.encode_text, prompter.lines_apart),
        tokenizer=prompter.fingerprint,
        pieces=prompter.pieces,
    )


def siblings(train: Rows, encoding: Encoding, path: Path) -> None:
    """Write candidates for every row: the answers of the two rows before it."""
    ids = [encoding.answer(example.answer).ids for example in train]
    answers = [
        (example.id, [Candidate(ids[at - back], correct=False) for back in (1, 2)]) for at, example in enumerate(train)
    ]
    write_candidates(path, answers, tokenizer=encoding.tokenizer)


def one_round(name: str, model: str, train: Rows, test: Rows) -> dict[str, float]:
    """Return rows per second of a whole build and of its parts, and how many rows were built."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "candidates.jsonl"
        given = {"candidates": str(file)} if name in FROM_CANDIDATES else {}
        undo = UndoData(strategy=name, options=given)
        encoding = encoding_of(model, undo)
        if given:
            siblings(train, encoding, file)
        begun = time.process_time()
        manifest = build(train, encoding, undo, cutoff_len=2048, seed=0, folder=Path(folder), leaks=[Leaks(test)])
        speed = {"whole": len(train) / (time.process_time() - begun), "built": float(manifest.rows)}
        candidates = read_candidates(file, tokenizer=encoding.tokenizer).answers if given else {}
    leaks = Leaks(test)
    speed["leaks"], _ = timed(leaks.found, train)
    speed["prompts"], prompts = timed(encoding.prompt, train)
    speed["answers"], answers = timed(lambda example: encoding.answer(example.answer), train)
    strategy, vocabulary = load(name, given), encoding.vocabulary
    assert vocabulary is not None
    sources = [
        Source(example.id, prompt, replace(answer, candidates=candidates.get(example.id, ())), encoding.end_id)
        for example, prompt, answer in zip(train, prompts, answers, strict=True)
    ]

    def apply(source: Source) -> None:
        try:
            strategy.apply(source.answer, vocabulary, derive_rng(0, source.id, name))
        except NoMistakeError:
            return

    speed["strategy"], _ = timed(apply, sources)

    def trace(source: Source) -> tuple[Row, tuple[int, ...]] | None:
        try:
            return apply_strategy(name, strategy, source, vocabulary, seed=0), source.answer.ids
        except NoMistakeError:
            return None

    speed["traced"], traced = timed(trace, sources)
    rows = [pair for pair in traced if pair is not None]
    speed["check"], _ = timed(lambda pair: check_row(pair[0], pair[1], vocabulary.table, {encoding.end_id}), rows)
    return speed


def timed(work: Callable[[Any], Any], items: Sequence[Any]) -> tuple[float, list[Any]]:
    begun = time.process_time()
    found = [work(item) for item in items]
    return len(items) / (time.process_time() - begun), found


if __name__ == "__main__":
    main()
