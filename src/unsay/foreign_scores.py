"""The answers of foreign files, scored: what they are fit for, every metric, and how it agrees with what was published.

Two passes over the answers. The first looks: how many, whether references have a final answer, whether prompts are
sound, whether tokens that take text back are left in. The second scores, on all cores and with bounded memory.

    score(found, Options()).values["exact_match_strict"]
"""

from __future__ import annotations

import math
import re
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from unsay import metrics, prompt_checks, scoring, stats
from unsay.importers import SHORTEST_ROW, UNDO_NAME, ForeignError, Found, Item, Options
from unsay.metrics.exact_match import FLEXIBLE, STRICT
from unsay.prompt_checks import PromptFacts
from unsay.records import ItemScores, MetricValue, Sample, short_hash

TEXTS_PREFIX = ("bleu", "rouge")
MARKED = "#### "
"""Stands before the final answer in GSM8K's references."""
BARE = re.compile(r"\s*-?[$0-9.,]+\s*")
"""A reference that is nothing but a final answer."""
WORDED_SHARE = 0.1
"""Share of references that must be texts for BLEU and ROUGE to say anything."""
GSM8K_TRAINING = 7473
"""Questions in GSM8K's training split."""

Progress = Callable[[str, int, int | None], None]
"""Called with what is being read, how many of its answers were scored, and of how many."""


@dataclass(frozen=True)
class Scored:
    """Every metric of one experiment in a file, and what a reader of the numbers should know."""

    found: Found
    n: int
    values: Mapping[str, MetricValue]
    warnings: tuple[str, ...]
    verified: tuple[str, ...]


def score(
    found: Found,
    options: Options,
    *,
    keep: Callable[[Item, ItemScores], None] = lambda item, scored: None,
    processes: int | None = None,
    progress: Progress | None = None,
) -> Scored:
    """Score the answers of one experiment without a lab; `keep` gets every answer with its scores.

    Raises ForeignError where there are no answers.
    """
    if found.items is None:
        raise ForeignError(
            f"{found.files[0]} holds published values but no answers to score; `unsay import` keeps them"
        )
    look = look_at(found, options)
    warnings = [*found.warnings, *warnings_of(found, look, options)]
    values = score_items(found, look, keep, processes, progress or (lambda name, done, total: None), warnings)
    verified: tuple[str, ...] = ()
    if complete(found, look):
        values, verified = merged(values, found, look, warnings)
    return Scored(found, look.n, values, tuple(dict.fromkeys(warnings)), verified)


def complete(found: Found, look: Look) -> bool:
    """Say whether all answers are there, as far as that is known."""
    return not found.partial and (found.expected is None or look.n == found.expected)


@dataclass
class Look:
    """What a first pass over the answers shows."""

    n: int = 0
    marked: int = 0
    """References with a final answer behind `####`."""
    bare: int = 0
    """References that are nothing but a final answer."""
    trained_on: int = 0
    """Items whose question or reference is in the training rows the user gave."""
    worded: int = 0
    """References of three words or more."""
    labels_with_undo: int = 0
    answers_with_undo: int = 0
    prompt_0: str = ""
    report: prompt_checks.PromptReport | None = None


def look_at(found: Found, options: Options) -> Look:
    """Read all answers once: count, prompts, and whether references and answers can be scored."""
    look = Look()
    assert found.items is not None
    shots = found.settings.get("prompting", {}).get("num_fewshot")
    rendered = not found.settings.get("prompting", {}).get("apply_chat_template")

    def facts() -> Iterator[PromptFacts]:
        assert found.items is not None
        for item in found.items():
            sample = item.sample
            look.n += 1
            look.marked += MARKED in sample.label
            look.bare += BARE.fullmatch(sample.label) is not None
            look.worded += len(sample.label.split(None, 3)) >= 3
            look.trained_on += _is_among(sample, options.trained_on)
            look.labels_with_undo += options.has_undo(sample.label)
            look.answers_with_undo += options.has_undo(sample.predict)
            look.prompt_0 = look.prompt_0 or item.prompt
            yield PromptFacts(
                text=item.prompt or None,
                question=sample.question or None,
                finish_reason=sample.finish_reason,
                rendered=rendered or item.rendered,
                shots=shots if isinstance(shots, int) else None,
            )

    texts = (*prompt_checks.BOS_TEXTS, *([found.bos] if found.bos else []))
    look.report = prompt_checks.check(facts(), bos_texts=texts)
    return look


def warnings_of(found: Found, look: Look, options: Options) -> Iterator[str]:
    """Say what a first look at the answers shows about their worth."""
    if look.report is not None:
        yield from look.report.warnings()
    if look.trained_on:
        yield (
            f"evaluated on its own training rows: question or reference of {look.trained_on} of {look.n} items is in "
            "the training data"
        )
    if look.labels_with_undo:
        yield (
            f"labels that contain undo: {look.labels_with_undo} of {look.n} references have tokens that take text back "
            "in them; scores against them are of no use"
        )
    if look.answers_with_undo:
        yield (
            f"{look.answers_with_undo} of {look.n} answers have tokens that take text back spelled out; without token "
            "ids they cannot be resolved, so what was taken back is scored too"
        )
    names = (found.model, found.config, *found.training)
    if any(map(_takes_back, names)) and not look.answers_with_undo and not any("undo" in w for w in found.warnings):
        yield (
            "undo tokens lost: the names say that the model was trained to take tokens back, but none is left in the "
            "answers; whether and what it took back cannot be told"
        )
    if found.dataset.casefold().startswith("gsm8k") and look.n == GSM8K_TRAINING and not look.trained_on:
        yield f"evaluated on its own training rows, it seems: {look.n:,} answers is the size of GSM8K's training split"


def _is_among(sample: Sample, rows: frozenset[str]) -> bool:
    texts = (sample.question, sample.label) if rows else ()
    return any(len(text) >= SHORTEST_ROW and short_hash(text) in rows for text in texts)


def _takes_back(name: str) -> bool:
    return UNDO_NAME.search(name) is not None


def score_items(
    found: Found,
    look: Look,
    keep: Callable[[Item, ItemScores], None],
    processes: int | None,
    tell: Progress,
    warnings: list[str],
) -> dict[str, MetricValue]:
    """Score every answer, hand each with its scores to `keep`, and sum up; the tool's own judgements come along."""
    assert found.items is not None
    measures = metrics.load_all({"exact_match": dict(found.exact_match or {})})
    skipped = _skipped(found, look)
    waiting: deque[Item] = deque()
    columns: dict[str, array[float]] = {}
    differing = {STRICT: 0, FLEXIBLE: 0}
    done = 0

    def samples() -> Iterator[Sample]:
        assert found.items is not None
        for item in found.items():
            waiting.append(item)
            yield item.sample

    def on_scored(chunk: Sequence[Sample], items: metrics.Items) -> None:
        nonlocal done
        for line in metrics.by_item(chunk, items):
            item = waiting.popleft()
            own = {name: score for name, score in line.scores.items() if name not in skipped}
            for name, score in item.scores.items():
                if name in own and own[name] != score:
                    differing[name] = differing.get(name, 0) + 1
                own[name] = score
            for name in found.item_definitions:
                columns.setdefault(name, array("d")).append(item.scores.get(name, math.nan))
            keep(item, replace(line, scores=own))
        done += len(chunk)
        tell(found.part, done, look.n)

    result = scoring.score_stream(samples(), measures, processes=processes, on_scored=on_scored)
    values = dict(result.values)
    for name, reason in skipped.items():
        if name in values:
            values[name] = metrics.missing(values[name].definition, reason)
    for name, column in columns.items():
        judged = [None if math.isnan(score) else score for score in column]
        if any(score is not None for score in judged):
            definition = found.item_definitions[name] or values[name].definition
            values[name] = _of_tool(judged, definition)
    for name, count in differing.items():
        if count:
            warnings.append(
                f"{name}: {count} of {look.n} answers were judged differently by {found.tool} than by the definition "
                "it names; its own judgements are shown"
            )
    return values


def _skipped(found: Found, look: Look) -> dict[str, str]:
    """Say which metrics would be numbers without a meaning here, and why."""
    reasons: dict[str, str] = {}
    if found.exact_match is None:
        reasons = dict.fromkeys((STRICT, FLEXIBLE), found.exact_match_reason)
    elif not found.exact_match and look.bare == look.n:
        reasons = {STRICT: "the references are final answers alone: no form was asked for that could be kept strictly"}
    elif not found.exact_match and look.marked + look.bare < look.n:
        reason = (
            f"{look.n - look.marked - look.bare} of {look.n} references have no final answer after `####`; if another "
            "marker stands before it, name it with --marker"
        )
        reasons = dict.fromkeys((STRICT, FLEXIBLE), reason)
    text_reason = found.text_reason
    if text_reason is None and not found.texts_as_published and look.worded < WORDED_SHARE * look.n:
        text_reason = "the references are final answers alone, there is no text to compare with"
    if text_reason is not None:
        names = [name for measure in metrics.load_all() for name in measure.names]
        reasons |= {name: text_reason for name in names if name.startswith(TEXTS_PREFIX)}
        if "likelihood" in text_reason:
            reasons |= dict.fromkeys((STRICT, FLEXIBLE), text_reason)
    return reasons


def _of_tool(scores: Sequence[float | None], definition: str) -> MetricValue:
    """Sum up the tool's own judgements of every answer."""
    known = [score for score in scores if score is not None]
    if all(score in (0.0, 100.0) for score in known):
        return metrics.share(known, definition)
    if all(0 <= score <= 100 for score in known):
        return metrics.averaged(known, definition)
    return metrics.from_estimate(stats.mean(known), definition, (-math.inf, None))


def merged(
    computed: Mapping[str, MetricValue], found: Found, look: Look, warnings: list[str]
) -> tuple[dict[str, MetricValue], tuple[str, ...]]:
    """Put computed and published values together: computed ones count, differences are said, the rest is explained."""
    values = dict(computed)
    known = _definitions(found)
    verified = []
    padded = any(text.startswith("padding repeats") for text in warnings)
    for name, stated in found.published.items():
        mine = values.get(name)
        if mine is None or mine.value is None:
            definition = stated.definition or known.get(name, name)
            values[name] = replace(stated, definition=definition)
        elif stated.value is not None and math.isclose(mine.value, stated.value, rel_tol=1e-12, abs_tol=1e-9):
            if not found.circular:
                verified.append(name)
        elif stated.value is not None and not padded:
            warnings.append(f"{name}: published {stated.value:.10g}, recomputed from the answers {mine.value:.10g}")
    if not values:
        return {}, ()
    if found.items is not None and not complete(found, look):
        why = f"{look.n} of {found.expected or 'an unknown number of'} answers are here"
    else:
        why = "the files hold no answers"
    for name, definition in known.items():
        if name not in values:
            reason = found.text_reason if found.text_reason and name.startswith(TEXTS_PREFIX) else why
            if found.exact_match is None and name in (STRICT, FLEXIBLE) and found.tool.startswith("lm-eval"):
                reason = "the task does not define it"
            values[name] = metrics.missing(definition, reason)
    return values, tuple(verified)


def _definitions(found: Found) -> dict[str, str]:
    measures = metrics.load_all({"exact_match": dict(found.exact_match or {})})
    return {name: measure.definition[name] for measure in measures for name in measure.names}
