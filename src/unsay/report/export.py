r"""Tables for other programs: Markdown, CSV and LaTeX, each with the text of others escaped for it.

markdown(sheet)     # | a | b |
latex(sheet)        # \begin{tabular}…, needs no package
"""

from __future__ import annotations

import csv as _csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from unsay.report import escape
from unsay.report.sheets import Sheet

_LATEX = {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    **{char: "\\" + char for char in "_&%$#{}"},
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\`{}",
    # a bracket or star after the end of a row would be taken as an option of it
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    # signs of our own that plain LaTeX reads only in mathematics
    "±": r"$\pm$",
    "…": r"\ldots{}",
}
# What a spreadsheet would calculate: also in full width, which some take for the same.
_FORMULA = tuple("=+-@＝＋－＠\t\r\n")


def markdown(sheet: Sheet) -> str:
    """Return a Markdown table."""
    rows = [[escape.markdown(cell) for cell in row] for row in (sheet.header, *sheet.rows)]
    ruler = ["---" if at < sheet.words else "---:" for at in range(len(sheet.header))]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in (rows[0], ruler, *rows[1:]))


def markdown_lines(lines: Sequence[str]) -> str:
    """Return lines of plain text as a Markdown list."""
    return "".join(f"- {escape.markdown(each)}\n" for each in lines)


def latex(sheet: Sheet) -> str:
    """Return a LaTeX tabular."""
    columns = "l" * sheet.words + "r" * (len(sheet.header) - sheet.words)
    head, *rows = (
        " & ".join(tex(cell) if at < sheet.words or number == 0 else _tex_number(cell) for at, cell in enumerate(cells))
        for number, cells in enumerate((sheet.header, *sheet.rows))
    )
    body = "".join(f"{row} \\\\\n" for row in rows)
    return f"\\begin{{tabular}}{{{columns}}}\n\\hline\n{head} \\\\\n\\hline\n{body}\\hline\n\\end{{tabular}}\n"


def latex_comments(lines: Sequence[str]) -> str:
    """Return lines of plain text as LaTeX comments."""
    return "".join(f"% {escape.line(each)}\n" for each in lines)


def tex(text: str) -> str:
    """Escape text for LaTeX, on one line."""
    escaped = "".join(_LATEX.get(char, char) for char in escape.line(text))
    return re.sub(r"([-'])(?=\1)", r"\1{}", escaped)  # two of these would become one other sign


def csv(records: Sequence[Mapping[str, Any]], header: Sequence[str] = ()) -> str:
    """Return records as CSV with a header; a text that a spreadsheet would calculate gets an apostrophe before it."""
    names = list(records[0]) if records else list(header)
    text = io.StringIO()
    writer = _csv.writer(text, lineterminator="\n")
    writer.writerow(_cell(name) for name in names)
    for record in records:
        writer.writerow(_cell(record[name]) for name in names)
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        text = escape.line(value)
        return f"'{text}" if text.startswith(_FORMULA) else text
    return repr(value) if isinstance(value, float) else str(value)


def _tex_number(text: str) -> str:
    r"""Set a number with a true minus: `-1.20 ± 0.30` becomes `$-$1.20 $\pm$ 0.30`."""
    return re.sub(r"(?<![\w.])-(?=\d)", "$-$", tex(text))
