"""The same mistakes taken back in words: what undo tokens are compared with at equal data.

Every run of undo tokens of a row becomes a sentence, and the row goes on as before: the same question, the same
mistake, the same correction. Lines are taken back by a line of its own, tokens within the line:

    Tom has 5+3=9 apples.                              The total is 5+3=9 Wait, that is wrong: 8 dollars.
    Wait, that is wrong.
    Tom has 5+3=8 apples.

Nothing is removed when such an answer is read: the mistake stays visible, as in a chat. The sentence's tokens keep the
provenance letter `u`, so that masks treat them as they treat undo tokens.

    row = in_words(apply_strategy(…), vocabulary)
"""

from __future__ import annotations

import re

from unsay.augment import Vocabulary
from unsay.records import UNDO, Row

LINE = "Wait, that is wrong."
TOKENS = " Wait, that is wrong: "


def in_words(row: Row, vocabulary: Vocabulary) -> Row:
    """Return a row with a sentence in the place of every run of undo tokens; one without undo as it is."""
    ids: list[int] = []
    letters: list[str] = []
    done = 0
    for run in re.finditer(f"{UNDO}+", row.provenance):
        said = _sentence(row, run.start(), run.end(), vocabulary)
        ids += (*row.ids[done : run.start()], *said)
        letters += (row.provenance[done : run.start()], UNDO * len(said))
        done = run.end()
    ids += row.ids[done:]
    return Row(row.id, row.prompt_ids, tuple(ids), "".join(letters) + row.provenance[done:])


def _sentence(row: Row, start: int, end: int, vocabulary: Vocabulary) -> tuple[int, ...]:
    table = vocabulary.table
    if all(table.actions[id].kind == "pop" for id in row.ids[start:end]):
        return vocabulary.encode(TOKENS)
    # A mistake that ends with its line break has begun the next line already; a correction that begins with one ends
    # the sentence itself.
    before = () if start and row.ids[start - 1] in table.newline_ids else vocabulary.line_break
    after = () if end < len(row.ids) and row.ids[end] in table.newline_ids else vocabulary.line_break
    return (*before, *vocabulary.encode(LINE), *after)
