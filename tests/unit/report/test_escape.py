"""Text of others is shown, never acted on."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from unsay.report import escape


@given(st.text())
def test_nothing_acts_on_a_terminal(text: str) -> None:
    shown = escape.terminal(text)
    acting = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}  # not Cn: what is unassigned today may be a letter tomorrow
    assert all(char in "\n\t\u200c\u200d" or unicodedata.category(char) not in acting for char in shown)


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S"])))
def test_printable_text_is_shown_as_it_is(text: str) -> None:
    assert escape.terminal(text) == text


def test_the_worked_cases() -> None:
    assert escape.terminal("\x1b[31mred") == "␛[31mred"
    assert escape.markdown("a|b <i>") == r"a\|b &lt;i&gt;"
    assert escape.markdown("lora/train_bt") == "lora/train_bt"
    assert escape.line("a\u202eb\r\nc") == "a⟨U+202E⟩b c"


@given(st.text())
def test_markdown_shows_exactly_the_text(text: str) -> None:
    """Rendered inside a table cell, the escaped text is one run of plain text."""
    page = f"| h |\n|---|\n| x{escape.markdown(text)}x |\n"
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(page)
    inline = [token for token in tokens if token.type == "inline"][1]
    assert inline.children is not None
    assert {child.type for child in inline.children} <= {"text", "text_special"}
    assert "".join(child.content for child in inline.children) == f"x{escape.line(text)}x"
