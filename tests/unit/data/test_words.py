"""Mistakes taken back in words: the same rows, the same mistakes, no undo token."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from unsay.augment import Vocabulary
from unsay.data.words import LINE, TOKENS, in_words
from unsay.records import Row
from unsay.undo import Action, UndoTable

POP, POP_LINE, END, BREAK = 1000, 1001, 1002, ord("\n")
TABLE = UndoTable(
    {POP: Action("pop"), POP_LINE: Action("pop_line")}, {POP: "<u>", POP_LINE: "<line>"}, frozenset({BREAK})
)
VOCABULARY = Vocabulary(TABLE, range(128), lambda text: tuple(map(ord, text)))


def row(text: str, letters: str) -> Row:
    ids = {"<": POP, "^": POP_LINE, "$": END}
    return Row("r", (7,), tuple(ids.get(char, ord(char)) for char in text), letters)


def text(ids: Iterable[int]) -> str:
    return "".join("$" if id == END else chr(id) for id in ids)


def test_a_line_is_taken_back_by_a_line() -> None:
    said = in_words(row("2+2=5^2+2=4\n#4$", "eeeeeukkkkkcccc"), VOCABULARY)
    assert text(said.ids) == f"2+2=5\n{LINE}\n2+2=4\n#4$"
    assert said.provenance == "e" * 5 + "u" * (len(LINE) + 2) + "kkkkkcccc"
    assert said.prompt_ids == (7,)


def test_a_line_that_has_its_line_break_gets_no_second_one() -> None:
    assert text(in_words(row("ab\n^cd$", "eeeukkc"), VOCABULARY).ids) == f"ab\n{LINE}\ncd$"
    assert text(in_words(row("ab^\ncd$", "eeukkkc"), VOCABULARY).ids) == f"ab\n{LINE}\ncd$"


def test_tokens_are_taken_back_within_the_line_and_a_run_by_one_sentence() -> None:
    assert text(in_words(row("=56<<4$", "ceeuukc"), VOCABULARY).ids) == f"=56{TOKENS}4$"
    assert text(in_words(row("ab\ncd^^ef$", "eeeeeuukkc"), VOCABULARY).ids) == f"ab\ncd\n{LINE}\nef$"


@given(st.lists(st.tuples(st.text("ab", min_size=1, max_size=3), st.text("cd", min_size=1, max_size=3)), max_size=5))
def test_only_undo_tokens_go(edits: list[tuple[str, str]]) -> None:
    written = "".join(f"{wrong}{'<' * len(wrong)}{right}" for wrong, right in edits) + "$"
    letters = "".join("e" * len(wrong) + "u" * len(wrong) + "k" * len(right) for wrong, right in edits) + "c"
    before, after = row(written, letters), in_words(row(written, letters), VOCABULARY)
    assert not TABLE.actions.keys() & set(after.ids)
    assert len(after.ids) == len(after.provenance)

    def kept(one: Row) -> list[tuple[int, str]]:
        return [pair for pair in zip(one.ids, one.provenance, strict=True) if pair[1] != "u"]

    assert kept(before) == kept(after)
    if not edits:
        assert before == after
