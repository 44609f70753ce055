"""Tables for other programs hold the text of others as text."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from unsay.report import escape, export
from unsay.report.sheets import Sheet

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
FORMULAS = "=+-@＝＋－＠"


@given(st.lists(TEXTS, min_size=3, max_size=3))
def test_csv_reads_back_as_one_record_without_formulas(texts: list[str]) -> None:
    rows = list(csv.reader(io.StringIO(export.csv([dict(zip("abc", texts, strict=True))]))))
    assert len(rows) == 2
    for text, cell in zip(texts, rows[1], strict=True):
        plain = escape.line(text)
        assert cell in (plain, f"'{plain}")
        assert cell[:1] not in FORMULAS or not cell


def test_csv_leaves_numbers_as_numbers() -> None:
    text = export.csv([{"a": -1.5, "b": None, "c": "-1.5", "d": 3, "e": 1e-17}])
    assert text == "a,b,c,d,e\n-1.5,,'-1.5,3,1e-17\n"
    assert export.csv([], header=("id",)) == "id\n"


@given(TEXTS)
def test_markdown_keeps_a_cell_a_cell(text: str) -> None:
    rendered = (
        MarkdownIt("commonmark").enable("table").render(export.markdown(Sheet(("name", "value"), ((text, "1"),), 1)))
    )
    assert rendered.count("<td") == 2
    assert rendered.count("<tr>") == 2


@given(TEXTS)
def test_latex_leaves_no_sign_that_acts(text: str) -> None:
    made = export.tex(text)
    for known in (
        r"\textbackslash{}", r"\textasciicircum{}", r"\textasciitilde{}", r"\textless{}", r"\textgreater{}",
        r"\textbar{}", r"\ldots{}", r"$\pm$", r"\`{}", r"\_", r"\&", r"\%", r"\$", r"\#", r"\{", r"\}", "{[}", "{]}",
        "{*}", "-{}", "'{}",
    ):  # fmt: skip
        made = made.replace(known, "")
    assert not set(made) & set("\\_&%$#{}~^\n<>|`[]*")
    assert "--" not in export.tex(text)


def test_latex_sets_numbers_with_a_minus_and_needs_no_package() -> None:
    sheet = Sheet(
        ("Name", "Difference", "p"), (("a-b_c", "-1.20 ± 0.30", "2.6e-23"), ("[x]", "-1.00 to +2.00", "-")), 1
    )
    assert export.latex(sheet) == (
        "\\begin{tabular}{lrr}\n\\hline\nName & Difference & p \\\\\n\\hline\n"
        "a-b\\_c & $-$1.20 $\\pm$ 0.30 & 2.6e-23 \\\\\n{[}x{]} & $-$1.00 to +2.00 & - \\\\\n\\hline\n\\end{tabular}\n"
    )


@pytest.mark.parametrize("lines", [["one\ntwo", "\\end{document}"]])
def test_comments_stay_comments(lines: list[str]) -> None:
    assert export.latex_comments(lines) == "% one two\n% \\end{document}\n"
    assert export.markdown_lines(lines).count("\n") == 2
