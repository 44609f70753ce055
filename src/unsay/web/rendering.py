"""Templates to HTML: every text is escaped, and what would act on the screen is spelled out, wherever it comes from.

render("sample.html", document)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import unsay
from unsay.records import MetricValue
from unsay.report import costs, escape, numbers
from unsay.report.names import COLUMNS, SHORT, label
from unsay.web import figures

PLACE = Path(__file__).parent
LONGEST = 100_000
"""Characters of one text on a page; what is left out is in the .json."""
MOST_TOKENS = 5_000


def render(template: str, document: Mapping[str, Any], **more: Any) -> str:
    """Return a page. Text of the document is safe in it whatever it holds, halves of surrogate pairs too."""
    return _environment().get_template(template).render(**document, document=document, **more)


def static_files() -> dict[str, str]:
    """Return the style sheet, the scripts and the icon by name."""
    return {path.name: path.read_text(encoding="utf-8") for path in sorted((PLACE / "static").iterdir())}


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(PLACE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
        finalize=_spelled,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "metric": lambda value: numbers.of(None if value is None else MetricValue.from_json(value)),
        "interval": numbers.interval,
        "plus_minus": numbers.shown,
        "p_value": numbers.p_value,
        "is_percentage": numbers.is_percentage,
        "duration": costs.duration,
        "middle_out": _middle_out,
        "path": _path,
        "field": _field,
        "flat": _flat,
        "clock": lambda text: None if text is None else str(text)[:19].replace("T", " "),
        "first_part": lambda name: name.partition(".")[0],
    }
    made.globals |= {
        "version": unsay.__version__,
        "query": _query,
        "curve": figures.curve,
        "scatter": figures.scatter,
        "budgets": figures.budgets,
        "most_lines": figures.MOST_LINES,
        "whisker": figures.whisker,
        "most_tokens": MOST_TOKENS,
        "label": label,
        "columns": [(name, SHORT.get(name, label(name))) for name in COLUMNS],
    }
    return made


def _spelled(value: Any) -> Any:
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return escape.terminal(value)
    return "" if value is None else value


def _middle_out(text: str) -> str:
    """Leave out the middle of a very long text, and say so."""
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters left out here; the .json has them …]\n{text[-half:]}"


def _path(name: str) -> str:
    """Return a folder or item name as a part of an address; what is not UTF-8 keeps its bytes."""
    return quote(_bytes(name))


def _field(name: str) -> str:
    """Return a name as a form's field can carry it: percent-encoded where it holds more than plain text, or a `%`."""
    return name if name.isprintable() and "%" not in name else _path(name)


def _query(pairs: Iterable[tuple[str, Any]]) -> str:
    """Return `?…` of what is set; empty where nothing is."""
    given = [(key, "1" if value is True else str(value)) for key, value in pairs if value not in (None, "", False)]
    return "?" + urlencode([(key, _bytes(value)) for key, value in given]) if given else ""


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # not the name of a file: nothing on disk is called so
        return text.encode("utf-8", "replace")


def _flat(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(repr, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
