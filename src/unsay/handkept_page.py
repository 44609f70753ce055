"""The experiment page that people keep by hand: its tables read back, and its dates held against the files it links.

The page is never changed. Where the linked files are at hand too, it only gives their experiments ids, names and notes;
an experiment without files keeps the page's numbers, marked as not checked.

    rows = read_page(Path("EXPERIMENTS.md"))
    rows[0].values["exact_match_strict"]      # (79.3, 1.12)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from unsay import importers
from unsay.importers import UNKNOWN, Found, shortened
from unsay.records import STATUSES, MetricValue

LARGEST_PAGE = 4 * 2**20
MOST_ROWS = 10_000
LONGEST_LINE = 20_000
"""Characters of a line of the page; what follows is not read."""
GSM8K_TEST = 1319
"""Questions in GSM8K's test split."""
COLUMNS = {
    "experiment id": "id", "id": "id", "model": "model", "dataset": "dataset", "method": "method", "config": "config",
    "configuration": "config", "status": "status", "start date": "start", "end date": "end", "results": "links",
    "predictions": "links", "samples": "links", "notes": "notes",
}  # fmt: skip
METRICS = {
    "em (strict)": "exact_match_strict", "em (flex)": "exact_match_flexible", "bleu": "bleu4_lf",
    "bleu-4": "bleu4_lf", "rouge-1": "rouge_1_lf", "rouge-2": "rouge_2_lf", "rouge-l": "rouge_l_lf",
}  # fmt: skip
"""The page's columns; its BLEU and ROUGE are LLaMA-Factory's."""
_LINK = re.compile(r"\[[^\[\]]{0,300}\]\(([^()\s]{1,1000})\)")
_VALUE = re.compile(
    r"(-?\d{1,12}(?:[.,]\d{1,12})?)\s*%?(?:\s*\(?\s*(?:±|\+/-|\+-)\s*(\d{1,12}(?:[.,]\d{1,12})?)\s*%?\s*\)?)?"
)
_NOTHING = {"", "-", "–", "—", "n/a", "na", "tbd", "?"}
"""Cells that say that there is no value."""
_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)")


@dataclass(frozen=True)
class Row:
    """One experiment of the page; `values` are value and error (None where there is none) per metric."""

    id: str
    model: str = ""
    dataset: str = ""
    method: str = ""
    config: str = ""
    status: str = ""
    start: str = ""
    end: str = ""
    notes: str = ""
    links: tuple[str, ...] = ()
    values: Mapping[str, tuple[float, float | None]] = field(default_factory=dict)

    doubts: tuple[str, ...] = ()
    """Cells that cannot be read, and what the page says twice in different ways."""

    def to_json(self) -> dict[str, Any]:
        return {
            **vars(self),
            "links": list(self.links),
            "doubts": list(self.doubts),
            "values": {name: list(v) for name, v in self.values.items()},
        }

    @classmethod
    def from_json(cls, value: Any) -> Row | None:
        """Read what `to_json` wrote; None for anything else."""
        try:
            values = {
                str(name): (float(v[0]), None if v[1] is None else float(v[1])) for name, v in value["values"].items()
            }
            texts = {key: str(value[key]) for key in ("id", "model", "dataset", "method", "config", "status", "start",
                                                      "end", "notes")}  # fmt: skip
            doubts = tuple(map(str, value.get("doubts", ())))
            return cls(**texts, links=tuple(map(str, value["links"])), values=values, doubts=doubts)
        except (TypeError, KeyError, ValueError, AttributeError, IndexError):
            return None

    def linked_dates(self) -> set[date]:
        """Return the dates that the names of the linked files carry."""
        return {found for link in self.links if (found := _date(link.rsplit("/", 1)[-1])) is not None}

    def contradictions(self, started: str | None = None) -> Iterator[str]:
        """Say where the page's dates are not those of the files: `started` is what a file itself says."""
        known = self.linked_dates() | ({day} if (day := _date(started or "")) is not None else set())
        for name, text in (("start", self.start), ("end", self.end)):
            stated = _date(text)
            if text and (stated is None or stated > date.today()):
                yield f"wrong date: the page says {name} {shortened(text, 40)}, which is no day that has been"
                continue
            if stated is not None and known and min(abs((stated - day).days) for day in known) > 1:
                files = ", ".join(sorted(day.isoformat() for day in known))
                yield f"wrong date: the page says {name} {stated}, the files say {files}"


def read_page(path: Path) -> list[Row]:
    """Read the experiments of a page in the order of their ids' first appearance.

    Raises ForeignError where it is no text or has no table of experiments.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_PAGE + 1)
    except OSError as error:
        raise importers.ForeignError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(data) > LARGEST_PAGE:
        raise importers.ForeignError(f"{path}: expected a page of at most {LARGEST_PAGE // 2**20} MiB, it is larger")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise importers.ForeignError(
            f"{path}: expected UTF-8 text, got other bytes at position {error.start}"
        ) from None
    rows: dict[str, Row] = {}
    header: list[str] = []
    section = ""
    for whole_line in text.splitlines():
        line = whole_line[:LONGEST_LINE]
        cells = _cells(line)
        if cells is None:
            header = []
            section = _detail(line, section, rows)
        elif not header:
            header = [cell.casefold() for cell in cells]
        elif not all(re.fullmatch(r":?-+:?", cell) for cell in cells) and len(rows) < MOST_ROWS:
            _take(header, cells, rows)
    if not rows:
        raise importers.ForeignError(
            f"{path}: expected a table with a column `Experiment ID`, as in an experiment page; found none"
        )
    return list(rows.values())


def files_of(row: Row, files: Iterable[Path]) -> list[Path]:
    """Return the files that a row links: by the whole path below some folder, which no two experiments share."""
    found = []
    for file in files:
        parts = file.parts
        for link in row.links:
            wanted = [part for part in link.split("/") if part not in ("", ".", "..")]
            if wanted and list(parts[-len(wanted) :]) == wanted:
                found.append(file)
                break
    return found


def experiments(page: Path, rows: Sequence[Row], found: Sequence[Found]) -> list[Found]:
    """Return an experiment for every row of which no file was found: the page's numbers, unchecked."""
    doubtful = any(True for row in rows for _ in row.contradictions())
    with_files = {row.id for row in rows for each in found if files_of(row, each.files)}
    return [_from_page(page, row, doubtful) for row in rows if row.id not in with_files]


def _from_page(page: Path, row: Row, doubtful: bool) -> Found:
    warnings = [*row.doubts, *row.contradictions()]
    if not any("date" in text for text in warnings) and doubtful and (row.start or row.end):
        warnings.append(
            f"date not certain: the page says {row.start or row.end}, no file shows it, and others there are wrong"
        )
    if row.values:
        linked = f" ({row.links[0]} was not among the files)" if row.links else ""
        warnings.append(f"samples missing: the numbers are the page's and cannot be checked{shortened(linked, 300)}")
    days = row.linked_dates()
    day = min(days).isoformat() if days else None
    start = day or ("" if any("date" in text for text in warnings) else row.start)
    values = {}
    for name, (value, error) in row.values.items():
        values[name], fact = _value(row, value, error)
        warnings += fact
    if row.status and row.status not in STATUSES:
        warnings.append(f"the page's status is {shortened(row.status, 40)!r}, which is none of {', '.join(STATUSES)}")
    return Found(
        tool="page",
        files=(page,),
        part=row.id,
        model=row.model or UNKNOWN,
        dataset=row.dataset or UNKNOWN,
        method=row.method or UNKNOWN,
        config=row.config or UNKNOWN,
        published=values,
        start=start or None,
        end=day or start or None,
        status="completed" if values else row.status if row.status in ("failed", "cancelled", "pending") else "pending",
        warnings=tuple(dict.fromkeys(warnings)),
        facts={"page": row.to_json()},
    )


def _value(row: Row, value: float, error: float | None) -> tuple[MetricValue, list[str]]:
    """Take over a number of the page. Where value and error fit a share of GSM8K's test questions, that gives n."""
    why = "as on the page, not checked"
    if row.dataset.casefold() == "gsm8k" and error is not None:
        right = round(value * GSM8K_TEST / 100)
        p = right / GSM8K_TEST
        fits = 0 <= p <= 1 and abs(100 * p - value) < 0.006
        if fits and abs(100 * (p * (1 - p) / (GSM8K_TEST - 1)) ** 0.5 - error) < 0.006:
            made = importers.published(
                100 * p, None, GSM8K_TEST, "", f"{why}; it fits {right:,} of {GSM8K_TEST:,}", share=True
            )
            return replace(made, value=value), []
    if error == 0 and 0 < value < 100:
        return importers.published(value, None, None, "", why), ["a standard error of 0 on the page cannot be"]
    return importers.published(value, error, None, "", why, bounded=0 <= value <= 100), []


# -- Markdown ---------------------------------------------------------------------


def _cells(line: str) -> list[str] | None:
    """Split a row of a Markdown table; None for other lines."""
    stripped = line.strip()
    if not stripped.startswith("|") or len(stripped) < 2:
        return None
    inner = stripped[1:-1] if stripped.endswith("|") and not stripped.endswith("\\|") else stripped[1:]
    return [cell.replace("\\|", "|").strip() for cell in re.split(r"(?<!\\)\|", inner)]


def _take(header: Sequence[str], cells: Sequence[str], rows: dict[str, Row]) -> None:
    """Add what one row of a table says about an experiment to what is known of it."""
    given = dict(zip(header, cells, strict=False))
    id = _plain(given.get("experiment id", given.get("id", "")))
    if not id or len(id) > 60:
        return
    row = rows.get(id, Row(id))
    changes: dict[str, Any] = {}
    values = dict(row.values)
    links = list(row.links)
    doubts = list(row.doubts)
    for name, cell in given.items():
        key = COLUMNS.get(name)
        links += [_target(match) for match in _LINK.findall(cell)][:20]
        text = shortened(_plain(cell), 300)
        if text.casefold() in _NOTHING or key in ("id", "links"):
            continue
        if name in METRICS:
            found = _number(text)
            if found is None:
                doubts.append(f"{name}: the page says {shortened(text, 40)!r}, which is no score between 0 and 100")
            elif values.setdefault(METRICS[name], found) != found:
                doubts.append(f"{name}: the page says both {values[METRICS[name]][0]:g} and {found[0]:g} for this id")
        elif key is not None and not getattr(row, key):
            changes[key] = text
        elif key not in (None, "notes", "status") and getattr(row, str(key)) != text:
            said = shortened(getattr(row, str(key)), 60)
            doubts.append(f"{key}: the page says both {said!r} and {shortened(text, 60)!r} for this id")
    changes |= {"links": tuple(dict.fromkeys(links)), "doubts": tuple(dict.fromkeys(doubts))[:20]}
    rows[id] = replace(row, **changes, values=values)


def _number(text: str) -> tuple[float, float | None] | None:
    """Read `79.30 ± 1.12`, `79.3 %`, `79,3 (±1,1)`; None for anything else or beyond 0 to 100."""
    match = _VALUE.fullmatch(text)
    if match is None:
        return None
    value, error = (None if part is None else float(part.replace(",", ".")) for part in match.groups())
    return (value, error) if value is not None and 0 <= value <= 100 else None


def _detail(line: str, section: str, rows: dict[str, Row]) -> str:
    """Take links from the details: `### EXP-001: title`, then `- **Results**: [View](path)`. Returns the section."""
    if line.startswith("#"):
        return line.lstrip("#").strip().partition(":")[0].strip()
    if section in rows and (targets := _LINK.findall(line)):
        row = rows[section]
        links = dict.fromkeys([*row.links, *map(_target, targets[:20])])
        rows[section] = replace(row, links=tuple(links))
    return section


def _plain(cell: str) -> str:
    """Drop the marks of bold, code and links."""
    return re.sub(r"[*`]", "", re.sub(r"\[([^\[\]]{0,300})\]\([^()]{0,1000}\)", r"\1", cell)).strip()


def _target(link: str) -> str:
    return shortened(unquote(link), 1000)


def _date(text: str) -> date | None:
    match = _DATE.search(text)
    try:
        return date(int(match[1]), int(match[2]), int(match[3])) if match else None
    except ValueError:
        return None
