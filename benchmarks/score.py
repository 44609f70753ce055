"""How fast answers are scored, against the libraries whose digits must come out, and in how much memory.

    python benchmarks/score.py             # LLaMA-Factory's four scores of 5,000 GSM8K answers: several minutes
    python benchmarks/score.py --million   # every metric of 1,000,000 answers of 600 characters: time and peak memory

The first runs nltk, rouge-chinese and jieba as LLaMA-Factory calls them and unsay's metrics by turns, in one process
and one thread, and fails where a digit differs; ratios are medians over rounds. Dictionaries are loaded beforehand, and
unsay forgets at the start of each round what it has cut before. Answers are those of four released systems in the
folder `acceptance` of `UNSAY_TEST_DATA` (or shared/data beside the project); without them, generated word problems.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import psutil

from unsay.datasets import wordproblems
from unsay.metrics import rouge_lf
from unsay.metrics.bleu4_lf import Bleu4LF
from unsay.metrics.rouge_lf import RougeLF
from unsay.ngrams import Words
from unsay.records import Counts, Sample
from unsay.scoring import score_stream

SYSTEMS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
PAIRS = 5000
BY_TURNS = 250
"""Pairs that one side scores before the other has its turn."""
CHARACTERS = 600
GIB = 1 << 30

Pair = tuple[str, str]
Scores = tuple[float, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--million", action="store_true", help="score 1,000,000 answers and watch the memory")
    parser.add_argument("--answers", type=int, default=1_000_000, help="another number than a million")
    parser.add_argument("--processes", type=int, help="workers of --million; one per core without it")
    options = parser.parse_args()
    found, source = pairs(min(PAIRS, options.answers if options.million else options.pairs))
    if options.million:
        million(found, source, options.answers, options.processes)
    else:
        against_the_libraries(found[: options.pairs], source, options.rounds)


def pairs(count: int) -> tuple[list[Pair], str]:
    """Answers and their references, and what they are; `count` of them where they have to be made up."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("UNSAY_TEST_DATA", beside)) / "acceptance" / "gsm8k-model-solutions"
    if folder.is_dir():
        lines = [json.loads(line) for line in (folder / "example_model_solutions.jsonl").open(encoding="utf-8")]
        real = [(line[system]["solution"], line["ground_truth"]) for system in SYSTEMS for line in lines]
        return real, "answers of four released systems to GSM8K's test questions"
    answers = [str(record["answer"]) for record in wordproblems.generate("train", count)]
    rng = random.Random(0)
    return [(rng.choice(answers), answer) for answer in answers], "generated word problems, another one's answer"


# -- against the libraries --------------------------------------------------------------------------------------------


class Libraries:
    """The four scores as LLaMA-Factory computes them."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import jieba
            from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
            from rouge_chinese import Rouge
        jieba.setLogLevel(60)
        jieba.initialize()
        self.jieba, self.rouge, self.bleu, self.smoothing = jieba, Rouge, sentence_bleu, SmoothingFunction

    def scores(self, pair: Pair) -> Scores:
        predict, label = pair
        hypothesis, reference = list(self.jieba.cut(predict)), list(self.jieba.cut(label))
        if len(" ".join(hypothesis).split()) == 0 or len(" ".join(reference).split()) == 0:
            result: dict[str, Any] = {"rouge-1": {"f": 0.0}, "rouge-2": {"f": 0.0}, "rouge-l": {"f": 0.0}}
        else:
            result = self.rouge().get_scores(" ".join(hypothesis), " ".join(reference))[0]
        bleu = self.bleu([list(label)], list(predict), smoothing_function=self.smoothing().method3)
        rouges = (round(result[name]["f"] * 100, 4) for name in ("rouge-1", "rouge-2", "rouge-l"))
        return (*rouges, round(bleu * 100, 4))

    def joined(self, pair: Pair) -> Pair:
        predict, label = (" ".join(self.jieba.cut(text)) for text in pair)
        return predict, label

    def rouge_l(self, joined: Pair) -> Scores:
        found = self.rouge(metrics=["rouge-l"]).get_scores(*joined)[0]
        return (round(found["rouge-l"]["f"] * 100, 4),)


def ours(part: list[Pair]) -> list[Scores]:
    samples = [Sample("", "", label, predict) for predict, label in part]
    measured = RougeLF().measure(samples) | Bleu4LF().measure(samples)
    return list(zip(*(column.tolist() for column in measured.values()), strict=True))


def our_rouge_l(part: list[tuple[Any, Any]]) -> list[Scores]:
    """ROUGE-L of words, or of numbered words."""
    return [
        (rouge_lf.f_score(len(hypothesis), len(reference), rouge_lf.longest_common(hypothesis, reference)),)
        for hypothesis, reference in part
    ]


def against_the_libraries(found: list[Pair], source: str, rounds: int) -> None:
    libraries = Libraries()
    ours(found[:1])
    length = statistics.mean(len(text) for pair in found for text in pair)
    print(f"{len(found)} pairs, {length:.0f} characters a text: {source}; {rounds} rounds\n")
    words = Words()
    joined = [libraries.joined(pair) for pair in found]
    cut = [tuple(map(rouge_lf.joined_words, pair)) for pair in joined]
    numbered = [tuple("".join([words[word] for word in side]) for side in pair) for pair in cut]
    _report(
        "all four scores",
        [by_turns(lambda part: list(map(libraries.scores, part)), found, [(ours, found)]) for _ in range(rounds)],
        ["unsay"],
    )
    _report(
        "ROUGE-L alone, of text that jieba has cut",
        [
            by_turns(
                lambda part: list(map(libraries.rouge_l, part)),
                joined,
                [
                    (our_rouge_l, numbered),
                    (our_rouge_l, cut),
                    (lambda part: our_rouge_l([tuple(map(rouge_lf.joined_words, pair)) for pair in part]), joined),
                ],
            )
            for _ in range(rounds)
        ],
        [
            "unsay, its words numbered already (as they are for ROUGE-1)",
            "unsay, from lists of words",
            "unsay, from the same space-joined tokens",
        ],
    )


def by_turns(
    theirs: Callable[[list[Any]], list[Scores]],
    given: list[Any],
    sides: list[tuple[Callable[[list[Any]], list[Scores]], list[Any]]],
) -> list[float]:
    """Seconds of the libraries, then of each of our sides; every digit must be equal."""
    rouge_lf.forget()
    seconds = [0.0] * (1 + len(sides))
    for start in range(0, len(given), BY_TURNS):
        part = slice(start, start + BY_TURNS)
        begun = time.perf_counter()
        expected = theirs(given[part])
        seconds[0] += time.perf_counter() - begun
        for at, (side, texts) in enumerate(sides, 1):
            begun = time.perf_counter()
            scores = side(texts[part])
            seconds[at] += time.perf_counter() - begun
            assert scores == expected, next(pair for pair in zip(scores, expected, strict=True) if pair[0] != pair[1])
    return seconds


def _report(title: str, rounds: list[list[float]], names: list[str]) -> None:
    print(f"{title}\n  the libraries: {statistics.median(times[0] for times in rounds):.2f} s")
    for at, name in enumerate(names, 1):
        seconds = statistics.median(times[at] for times in rounds)
        ratios = sorted(times[0] / times[at] for times in rounds)
        print(
            f"  {name}: {seconds:.4f} s, {statistics.median(ratios):.0f} times faster "
            f"({ratios[0]:.0f} to {ratios[-1]:.0f}), every digit equal"
        )
    print(flush=True)


# -- a million answers ------------------------------------------------------------------------------------------------


def million(found: list[Pair], source: str, count: int, processes: int | None) -> None:
    characters = 0

    def counted() -> Iterator[Sample]:
        nonlocal characters
        for sample in islice(answers(found), count):
            characters += len(sample.predict)
            yield sample

    begun = time.monotonic()
    last = 0.0

    def progress(done: int) -> None:
        nonlocal last
        if time.monotonic() - last > 15:
            last = time.monotonic()
            print(f"  {done:,} scored, {last - begun:.0f} s, peak so far {memory.peak() / GIB:.2f} GiB", flush=True)

    with Memory() as memory:
        summary = score_stream(counted(), processes=processes, progress=progress)
        seconds = time.monotonic() - begun
    peaks = ", ".join(f"{peak / GIB:.2f}" for peak in sorted(memory.peaks.values(), reverse=True))
    print(f"{summary.n:,} answers of {characters / summary.n:.0f} characters, lines drawn from {source}")
    print(f"{len(summary.values)} metrics in {seconds:.0f} s, {summary.n / seconds:,.0f} answers a second")
    print(f"peak memory of all processes, summed: {memory.peak() / GIB:.2f} GiB ({peaks})")
    for name, value in summary.values.items():
        print(f"  {name:22} {value.value} ± {value.stderr}  [{value.low}, {value.high}]  n = {value.n}")
    assert memory.peak() < 2 * GIB, "expected less than 2 GiB"


def answers(found: list[Pair]) -> Iterator[Sample]:
    """Answers without end: lines of real ones put together, one line and the accounting of each its own."""
    rng = random.Random(0)
    lines = [line for predict, _ in found for line in predict.split("\n") if line]
    labels = [label for _, label in found]
    number = 0
    while True:
        picked = [f"So {number} + 3 = <<{number}+3={number + 3}>>{number + 3} are left."]
        size = len(picked[0])
        while size < CHARACTERS - 40:
            picked.append(rng.choice(lines))
            size += len(picked[-1]) + 1
        undos = number % 3
        places = (number % 50,) if undos else ()
        counts = Counts(
            200 + 2 * undos,
            200,
            undos,
            undos,
            0,
            len(places),
            (undos,) * len(places),
            places,
            number % 50 if undos else None,
        )
        reason = "eos" if number % 40 else "max_steps"
        yield Sample(str(number), "", rng.choice(labels), "\n".join(picked), reason, counts)
        number += 1


class Memory:
    """Watches this process and those it starts; `peaks`: the most memory each has held."""

    def __init__(self) -> None:
        self.peaks: dict[int, int] = {}
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def peak(self) -> int:
        return sum(self.peaks.values())

    def __enter__(self) -> Memory:
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._look()
        self._stop.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            self._look()

    def _look(self) -> None:
        here = psutil.Process()
        for process in (here, *here.children(recursive=True)):
            try:
                self.peaks[process.pid] = max(self.peaks.get(process.pid, 0), _peak(process))
            except psutil.NoSuchProcess:
                continue


def _peak(process: psutil.Process) -> int:
    """The kernel's own mark of the most memory held, where it keeps one."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return int(process.memory_info().rss)
    marks = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")]
    return marks[0] * 1024 if marks else 0


if __name__ == "__main__":
    main()
