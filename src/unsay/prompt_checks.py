"""What can be wrong with the prompts of an evaluation, counted: cut, begun twice, given away, asked twice.

Looks at prompts one at a time and keeps eight bytes of each, so that a million need no memory to speak of. What the
files do not say is None with a reason, never 0. Knows nothing about tokenizers, tasks or files.

    report = check(PromptFacts(text=prompt, question=question) for prompt, question in asked)
    report.own_shots      # Count(count=2, of=1319)
    report.warnings()     # what a reader of the scores should know
"""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from unsay.records import BUDGET_REASONS

BOS_TEXTS = ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "<BOS_TOKEN>", "<｜begin▁of▁sentence｜>")
"""How common tokenizers spell the token that begins a text. One that also ends texts (`<|endoftext|>`) is not here."""
CUT_REASONS = frozenset({*BUDGET_REASONS, "length"})
"""Finish reasons that mean a limit ended the answer; `length` is what inference servers say."""
QUESTION_COLUMNS = ("question", "problem", "query", "input", "prompt")
WARN_ABOVE = 0.01
"""Share of the items above which a count becomes a warning."""

FEW_WORDS = 5
"""A question with fewer words than this can stand inside another one by chance."""
_WORD = re.compile(r"[^\W\d_]{2,}")


@dataclass(frozen=True)
class PromptFacts:
    """What is known about one item's prompt and answer; None: not known."""

    text: str | None = None
    """The prompt as the model's tokenizer got it; the contents of a chat where `rendered` is False."""
    question: str | None = None
    """The question alone, as the dataset has it."""
    ids: Sequence[int] | None = None
    bos_id: int | None = None
    """The id that begins a text. Without it the ids say nothing about it."""
    finish_reason: str | None = None
    """`eos` and `stop`: the model ended its answer; one of `CUT_REASONS`: a limit did."""
    cut: int | None = None
    """Tokens dropped from the prompt's beginning because it was too long."""
    rendered: bool = True
    """False for a chat before its template, in which no beginning token can be seen."""
    shots: int | None = None
    """Worked examples in the prompt. With none of them a question that stands there twice is no answer given away."""
    asked: str | None = None
    """What is asked as a whole, a passage that belongs to the question included; `question` where None."""


@dataclass(frozen=True)
class Count:
    """How many of the `of` items for which it can be told; `count` is None with a `reason` where there are none."""

    count: int | None
    of: int
    reason: str | None = None
    """Why there is no count, or what it leaves out."""

    def to_json(self) -> dict[str, Any]:
        line = {"count": self.count, "of": self.of}
        return line if self.reason is None else line | {"reason": self.reason}

    @classmethod
    def from_json(cls, value: Any) -> Count:
        """Read what `to_json` wrote. Anything else becomes a count that is not known."""
        inner = value if isinstance(value, dict) else {}
        count, of, reason = (inner.get(key) for key in ("count", "of", "reason"))
        known = isinstance(count, int) and isinstance(of, int) and not isinstance(count, bool)
        if not known and reason is None:
            reason = "not recorded"
        return cls(count if known else None, of if isinstance(of, int) else 0, None if reason is None else str(reason))


_NOT_SAID = "the files do not say"


@dataclass(frozen=True)
class PromptReport:
    """The counts over n items. A field's metadata holds its label, what a warning says and why it can be unknown."""

    n: int
    answers_cut: Count = field(
        metadata={
            "label": "answers cut",
            "warning": "answers were cut by a limit before the model ended them",
            "unknown": f"{_NOT_SAID} how the answers ended",
        }
    )
    prompts_cut: Count = field(
        metadata={
            "label": "prompts cut",
            "warning": "prompts were longer than the model's context and lost their beginning",
            "unknown": f"{_NOT_SAID} whether prompts were shortened",
        }
    )
    doubled_bos: Count = field(
        metadata={
            "label": "begun twice",
            "warning": "prompts begin with the beginning token twice",
            "unknown": "neither ids nor rendered texts of the prompts are known",
        }
    )
    own_shots: Count = field(
        metadata={
            "label": "among own shots",
            "warning": "questions stand, answered, among the worked examples of their own prompt",
            "unknown": "the questions are not known, or do not stand in the prompts as the dataset has them",
        }
    )
    duplicated: Count = field(
        metadata={
            "label": "asked before",
            "warning": "questions had been asked before: an item that is there twice counts twice",
            "unknown": "the questions are not known",
        }
    )

    def counts(self) -> dict[str, Count]:
        """Return every count by its name."""
        return {each.name: getattr(self, each.name) for each in _COUNTS}

    def warnings(self, above: float = WARN_ABOVE) -> tuple[str, ...]:
        """Say what a reader of the scores should know: every count above a share of the items it could be told for."""
        found = ((self.counts()[each.name], each.metadata["warning"]) for each in _COUNTS)
        return tuple(
            f"{count.count} of {count.of} {warning}"
            for count, warning in found
            if count.count is not None and count.count > above * count.of
        )

    def described(self) -> list[str]:
        """Return each count in a few words: `2 of 1319 among own shots`."""
        return [_described(each.metadata["label"], self.counts()[each.name], self.n) for each in _COUNTS]

    def to_json(self) -> dict[str, Any]:
        return {"n": self.n} | {name: count.to_json() for name, count in self.counts().items()}

    @classmethod
    def from_json(cls, value: Any) -> PromptReport | None:
        """Read what `to_json` wrote; None where it is nothing of the kind."""
        if not isinstance(value, dict) or not isinstance(value.get("n"), int):
            return None
        return cls(value["n"], **{each.name: Count.from_json(value.get(each.name)) for each in _COUNTS})


_COUNTS = fields(PromptReport)[1:]


def check(items: Iterable[PromptFacts], *, bos_texts: Collection[str] = BOS_TEXTS) -> PromptReport:
    """Count what is wrong with the prompts, reading `items` once; one for each item, in any order.

    `bos_texts` are the spellings of the beginning token to look for where ids are not known; none at all says that the
    model has no such token.
    """
    found: dict[str, list[int]] = {each.name: [0, 0] for each in _COUNTS}

    def tell(name: str, answer: bool | None) -> None:
        if answer is not None:
            found[name][0] += answer
            found[name][1] += 1

    n, by_text, questions = 0, 0, array("Q")
    for item in items:
        n += 1
        tell("answers_cut", None if item.finish_reason is None else item.finish_reason in CUT_REASONS)
        tell("prompts_cut", None if item.cut is None else item.cut > 0)
        tell("doubled_bos", begins_twice(item, bos_texts))
        by_text += not _has_ids(item) and item.text is not None and item.rendered and bool(bos_texts)
        tell("own_shots", _among_own_shots(item))
        if question := _normalised(item.asked or item.question or ""):
            questions.append(_eight_bytes(question))
    found["duplicated"] = [len(questions) - _different(questions), len(questions)]
    reasons = {"doubled_bos": "seen in texts only; a token that the tokenizer added does not show"} if by_text else {}

    def count(name: str, unknown: str) -> Count:
        number, of = found[name]
        return Count(number, of, reasons.get(name)) if of else Count(None, 0, unknown if n else "no items")

    return PromptReport(n, **{each.name: count(each.name, each.metadata["unknown"]) for each in _COUNTS})


def begins_twice(item: PromptFacts, bos_texts: Collection[str] = BOS_TEXTS) -> bool | None:
    """Say whether a prompt begins with its beginning token twice; None where that cannot be seen."""
    if item.ids is not None and item.bos_id is not None:
        return list(item.ids[:2]) == [item.bos_id, item.bos_id]
    if not bos_texts:
        return False
    if item.text is None or not item.rendered:
        return None
    start = item.text.lstrip()
    return any(start.startswith(bos) and start[len(bos) :].lstrip().startswith(bos) for bos in bos_texts if bos)


def stands_twice(question: str, prompt: str) -> bool | None:
    """Say whether an item's question stands in its prompt before it is asked, white space aside.

    None where it does not stand there at all: then the prompt has it in other words. A question of few words counts
    only where the words around it are those around the last one, or where it has a line of its own: "2 + 2?" does not
    stand in "1 + 2 + 2?".
    """
    wanted, text = _normalised(question), _normalised(prompt)
    if not wanted:
        return None
    places = list(_whole(wanted, text))
    if not places:
        return None
    earlier, last = places[:-1], places[-1]
    if not earlier or len(_WORD.findall(wanted)) >= FEW_WORDS:
        return bool(earlier)
    around = _neighbours(text, *last)
    if any(_neighbours(text, *place) == around for place in earlier):
        return True
    lines = [_normalised(line) for line in prompt.splitlines()]
    asked = max((at for at, line in enumerate(lines) if wanted in line), default=0)
    return wanted in lines[:asked]


def logged_text(value: Any) -> tuple[str | None, bool]:
    """Return the prompt that lm-eval logged as text, and whether a chat template was applied to it.

    `value` is `arguments` of a line of a samples file, or its first argument: a text, or a chat as JSON in a list,
    whose contents then come one after the other.
    """
    while isinstance(value, dict) and "role" not in value and value:
        value = next(iter(value.values()))
    while isinstance(value, list) and value and isinstance(value[0], list):
        value = value[0]
    if isinstance(value, list) and value and isinstance(value[0], str):
        value = value[0]
    if isinstance(value, str):
        messages = _messages(value)
        return (value, True) if messages is None else (messages, False)
    if isinstance(value, list) and (contents := _contents(value)) is not None:
        return contents, False
    return None, False


def question_of(doc: Mapping[str, Any]) -> str | None:
    """Return the question of a dataset's line, from the columns that usually hold one; None where none does."""
    found = (doc.get(column) for column in QUESTION_COLUMNS)
    return next((text for text in found if isinstance(text, str) and text.strip()), None)


# -- pieces -----------------------------------------------------------------------


def _described(label: str, count: Count, n: int) -> str:
    if count.count is None:
        return f"{label} unknown ({count.reason})"
    remark = [f"unknown for {n - count.of}"] if count.of < n else []
    remark += [count.reason] if count.reason else []
    return f"{count.count} of {count.of} {label}" + (f" ({'; '.join(remark)})" if remark else "")


def _among_own_shots(item: PromptFacts) -> bool | None:
    if item.shots == 0:
        return False
    return None if item.question is None or item.text is None else stands_twice(item.question, item.text)


def _has_ids(item: PromptFacts) -> bool:
    return item.ids is not None and item.bos_id is not None


def _normalised(text: str) -> str:
    return " ".join(text.split())


def _eight_bytes(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _different(hashes: array[int]) -> int:
    return len(np.unique(np.frombuffer(hashes, dtype=np.uint64))) if hashes else 0


def _whole(wanted: str, text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of every place where the words stand as words: not "2 + 2?" in "12 + 2?" or "1.2 + 2?"."""
    start = text.find(wanted)
    while start >= 0:
        end = start + len(wanted)
        before, after = text[max(0, start - 2) : start], text[end : end + 2][::-1]
        if not _joined(before, wanted[0]) and not _joined(after, wanted[-1]):
            yield start, end
            start = text.find(wanted, end)
        else:
            start = text.find(wanted, start + 1)


def _joined(beside: str, edge: str) -> bool:
    """Say whether a word or number goes on over the edge; `beside` is up to two characters, the next one last."""
    if not edge.isalnum() or not beside:
        return False
    return beside[-1].isalnum() or (edge.isdigit() and len(beside) == 2 and beside[1] in ".," and beside[0].isdigit())


def _neighbours(text: str, start: int, end: int) -> tuple[str, str]:
    before, after = text[max(0, start - 80) : start].split(), text[end : end + 80].split()
    return (before[-1] if before else "", after[0] if after else "")


def _messages(text: str) -> str | None:
    """Return the contents of a chat written as JSON; None for other text."""
    if not text.lstrip().startswith("[{"):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return _contents(value) if isinstance(value, list) else None


def _contents(messages: list[Any]) -> str | None:
    if not messages or not all(isinstance(message, dict) and "role" in message for message in messages):
        return None
    parts: list[str] = []
    for message in messages:
        content = message.get("content")
        inner = content if isinstance(content, list) else [content]
        parts += [str(part.get("text", "")) if isinstance(part, dict) else str(part or "") for part in inner]
    return "\n".join(parts)
