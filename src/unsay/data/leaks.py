"""What must not be trained on because it is evaluated on: exact matches, and 13 words in a row.

Words are runs of letters, digits and underscores, in lower case; questions and answers are compared each with their
own kind. A gold answer of fewer than 13 words is compared only together with its question: many questions share the
answer "yes" or "#### 18", and none of them gives another one away. Knows nothing about where the examples come from.

    Leaks(evaluation).found(example)     # None, or what was found and in which evaluation item
    leaks.learn(others)                  # more that is evaluated on, of another dataset
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from unsay.records import Example

WORDS_IN_A_ROW = 13

_WORD = re.compile(r"\w+")
# Of any 7 places in a row one is divisible by 7, so each 13 words in a row hold 7 that begin at such a place.
_PROBE = (WORDS_IN_A_ROW + 1) // 2


class Leaks:
    """The evaluation examples a training row must not be. `in_a_row=False` compares whole texts only."""

    def __init__(self, evaluation: Iterable[Example] = (), *, in_a_row: bool = True) -> None:
        self._known: dict[str, str] = {}
        self._questions: dict[str, str] = {}
        self._exchanges: dict[str, str] = {}
        self._rows: dict[str, dict[tuple[str, ...], str]] = {"question": {}, "answer": {}}
        self._probes: dict[str, set[tuple[str, ...]]] = {"question": set(), "answer": set()}
        self.learn(evaluation, in_a_row=in_a_row)

    def learn(self, evaluation: Iterable[Example], *, in_a_row: bool = True) -> int:
        """Add what else is evaluated on; return how many items that are, by their ids."""
        items = set()
        for example in evaluation:
            items.add(example.id)
            self._questions.setdefault(_normalised(example.question), example.id)
            self._exchanges.setdefault(_normalised(f"{example.question} {example.answer}"), example.id)
            if in_a_row:
                for part, text in (("question", example.question), ("answer", example.answer)):
                    self._learn(part, text, example.id)
        self._questions.pop("", None)
        self._exchanges.pop("", None)
        return len(items)

    def remember(self, found: Mapping[str, str]) -> None:
        """Add what was found earlier, by the ids of the training examples."""
        self._known.update(found)

    def found(self, example: Example) -> str | None:
        """Say what of an example is evaluated on, and in which item; None when nothing is."""
        if (known := self._known.get(example.id)) is not None:
            return known
        if (item := self._questions.get(_normalised(example.question))) is not None:
            return f"the question of item {item}"
        if (item := self._exchanges.get(_normalised(f"{example.question} {example.answer}"))) is not None:
            return f"the question and answer of item {item}"
        for part, text in (("question", example.question), ("answer", example.answer)):
            hit = self._in_a_row(part, text)
            if hit is not None:
                words, item = hit
                return f"{WORDS_IN_A_ROW} words in a row of the {part} of item {item}: {' '.join(words)!r}"
        return None

    def _learn(self, part: str, text: str, item: str) -> None:
        words = _words(text)
        for run in _runs(words, WORDS_IN_A_ROW):
            self._rows[part].setdefault(run, item)
        if len(words) >= WORDS_IN_A_ROW:
            self._probes[part].update(_runs(words, _PROBE))

    def _in_a_row(self, part: str, text: str) -> tuple[tuple[str, ...], str] | None:
        probes, rows = self._probes[part], self._rows[part]
        if not probes:
            return None
        words = _words(text)
        for place in range(0, len(words) - _PROBE + 1, _PROBE):
            if tuple(words[place : place + _PROBE]) in probes:
                around = words[max(place - _PROBE + 1, 0) : place + WORDS_IN_A_ROW]
                for run in _runs(around, WORDS_IN_A_ROW):
                    if run in rows:
                        return run, rows[run]
        return None


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _runs(words: list[str], length: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[at : at + length]) for at in range(len(words) - length + 1))


def _normalised(text: str) -> str:
    return " ".join(text.casefold().split())
