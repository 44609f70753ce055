"""What `splice` and `own_samples` share: another answer is drawn and laid over the right one, and where it departs from
that (longest common subsequence) is written and taken back.

departures(answer.ids, candidate.ids)     # [Departure(place=3, end=4, errors=(17, 20)), …]
first_edits(answer, drawn(answer, others, self, rng, wanted="…", useless="…"), ("token", pop), context, self)
"""

from __future__ import annotations

import random
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rapidfuzz.distance import LCSseq

from unsay.augment import Answer, NoMistakeError, Vocabulary
from unsay.augment._writing import Edit, Unit, wrong_line, wrong_tokens
from unsay.undo import places


@dataclass(frozen=True)
class Departure:
    """The other answer has `errors` where the right one has its ids `place` to `end`."""

    place: int
    end: int
    errors: tuple[int, ...]


class Options(Protocol):
    """The options that both have."""

    @property
    def max_span(self) -> int: ...

    @property
    def min_errors_per_answer(self) -> int: ...


Ids = tuple[int, ...]


def drawn(answer: Answer, others: Sequence[Ids], options: Options, rng: random.Random, *, wanted: str,
          useless: str) -> list[Ids]:  # fmt: skip
    """Return the candidates that may be used, `others`, in the order in which they are tried.

    Raise NoMistakeError, saying what was `wanted` and why all candidates are `useless`, where one is needed.
    """
    if not others and options.min_errors_per_answer:
        got = f"{len(answer.candidates)}, all {useless}" if answer.candidates else "none"
        raise NoMistakeError(f"expected {wanted}, got {got}")
    tried = list(others)
    rng.shuffle(tried)
    return tried


def first_edits(answer: Answer, others: Sequence[Ids], undo: tuple[Unit, int], context: Vocabulary,
                options: Options) -> list[Edit]:  # fmt: skip
    """Return where the first candidate that can be used departs from the right answer; `undo` is what takes it back.

    A candidate may differ only where nothing can be taken back, or in fewer places than are needed.
    """
    for other in others:
        edits = edits_of(answer, other, *undo, context, options.max_span)
        if edits and len(edits) >= options.min_errors_per_answer:
            return edits
    return []


def departures(ids: Sequence[int], other: Sequence[int]) -> list[Departure]:
    """Return what the other answer inserts between the ids that both have, first to last."""
    return [
        Departure(place, end, tuple(other[begin:stop]))
        for place, end, begin, stop in _gaps(list(ids), list(other))
        if begin < stop
    ]


def line_departures(ids: Sequence[int], other: Sequence[int], newline_ids: Collection[int]) -> list[Departure]:
    """Return the same for whole lines: those of the other answer between the lines that both have."""
    right, wrong = _lines(ids, newline_ids), _lines(other, newline_ids)
    begins = [begin for begin, _ in right] + [len(ids)]
    found = []
    for first, last, begin, stop in _gaps(
        [tuple(ids[begin:end]) for begin, end in right], [tuple(other[begin:end]) for begin, end in wrong]
    ):
        if begin < stop:
            found.append(Departure(begins[first], begins[last], tuple(other[wrong[begin][0] : wrong[stop - 1][1]])))
    return found


def edits_of(answer: Answer, other: Sequence[int], unit: Unit, control: int, context: Vocabulary,
             longest: int) -> list[Edit]:  # fmt: skip
    """Return what would be written and taken back where the other answer departs; at most `longest` ids each.

    A longer departure is cut, as by a model that notices; by lines only after a whole line.
    """
    table = context.table
    if unit == "token":
        made = (
            wrong_tokens(answer.ids, each.place, each.errors[:longest], each.end, control, table)
            for each in departures(answer.ids, other)
        )
        return [edit for edit in made if edit is not None]
    alone = context.line_break
    found = []
    for each in line_departures(answer.ids, other, table.newline_ids):
        errors = _whole_lines(each.errors, longest, table.newline_ids)
        # A line break that is an id of its own is not written: the line is taken back at its end.
        if len(alone) == 1 and errors[-1:] == alone:
            errors = errors[:-1]
        num_lines = 1 + sum(id in table.newline_ids for id in errors[:-1])
        end = each.end if each.end > each.place else _line_end(answer.ids, each.place, table.newline_ids)
        found.append(wrong_line(answer.ids, each.place, errors, end, (control,) * num_lines, table))
    return [edit for edit in found if edit is not None]


def _gaps(left: Sequence[Hashable], right: Sequence[Hashable]) -> list[tuple[int, int, int, int]]:
    gaps = []
    at_left = at_right = 0
    # The last block is empty and stands at both ends.
    for block in LCSseq.editops(left, right).as_matching_blocks():
        if block.a > at_left or block.b > at_right:
            gaps.append((at_left, block.a, at_right, block.b))
        at_left, at_right = block.a + block.size, block.b + block.size
    return gaps


def _lines(ids: Sequence[int], newline_ids: Collection[int]) -> list[tuple[int, int]]:
    # Few of a vocabulary's line breaks are in an answer.
    ends = [at + 1 for at in places(ids, set(ids).intersection(newline_ids))]
    if not ends or ends[-1] < len(ids):
        ends.append(len(ids))
    return [(begin, end) for begin, end in zip([0, *ends], ends, strict=False) if begin < end]


def _whole_lines(ids: tuple[int, ...], longest: int, newline_ids: Collection[int]) -> tuple[int, ...]:
    """Return as many of the first lines as fit; nothing when the first does not."""
    if len(ids) <= longest:
        return ids
    return ids[: max((end for _, end in _lines(ids, newline_ids) if end <= longest), default=0)]


def _line_end(ids: Sequence[int], place: int, newline_ids: Collection[int]) -> int:
    return next((at + 1 for at in range(place, len(ids)) if ids[at] in newline_ids), len(ids))
