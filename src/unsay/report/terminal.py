"""Tables and traces for a terminal. Text from models, notes and errors is spelled out, never interpreted.

console().print(experiments(rows))
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from unsay.records import MetricValue
from unsay.report import numbers, tables
from unsay.report.escape import line, shortened, terminal
from unsay.report.names import COLUMNS, SHORT, label
from unsay.report.tables import Difference, Row

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from unsay.report.compare import Comparison
    from unsay.report.sheets import Sheet
    from unsay.report.trace import Token

_STATUS_STYLES = {"completed": "green", "running": "cyan", "failed": "red", "unreadable": "red", "cancelled": "yellow"}
_PIPED_WIDTH = 10_000
_GAP = 3
"""Columns of the terminal between two columns of a table."""


def console(*, stderr: bool = False) -> Console:
    """Return a console that reads no markup; piped output is wide and plain."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPED_WIDTH
    return Console(file=stream, markup=False, highlight=False, emoji=False, width=width)


def experiments(rows: Sequence[Row]) -> Table:
    """Lay out one line per experiment; columns nobody has a value for are left out."""
    from rich.text import Text

    columns = ["ID", "Model", "Dataset", "Method", "Config"]
    if any(row.entry.limit is not None for row in rows):
        columns.append("Items")
    columns.append("Status")
    shown = [name for name in COLUMNS if any(row.metric(name) for row in rows)]
    columns += [SHORT.get(name, label(name)) for name in shown]
    own = any(map(tables.own_metrics, rows))
    notes = any(row.notes for row in rows)
    more = [name for name, there in (("Own metrics", own), ("Notes", notes)) if there]
    table = _table([*columns, *more], right=len(shown), after=len(columns) - len(shown))
    for row in rows:
        cells = [row.name, row.model, row.dataset, row.method, config_of(row)]
        if "Items" in columns:
            cells.append(_items(row))
        styled = [Text(line(cell)) for cell in cells]
        log = row.log or row.output
        linked = f" link {log.absolute().as_uri()}" if log is not None else ""
        styled.append(Text(line(status_of(row)), style=_STATUS_STYLES.get(row.status, "default") + linked))
        styled += [Text(numbers.of(row.metric(name))) for name in shown]
        if own:
            styled.append(Text(line(tables.own_metrics(row))))
        if notes:
            styled.append(Text(line(shortened(row.notes, 60))))
        table.add_row(*styled)
    return table


def status_of(row: Row) -> str:
    """Say the status, with how far a running experiment is and why a broken one is."""
    if row.problem and row.entry.record is None:
        return f"unreadable: {shortened(row.problem, 80)}"
    text = row.shown_status
    if row.progress is not None:
        done, total = row.progress.done, row.progress.total
        counted = f"{done}/{total}" if total is not None else str(done)
        text += f" {'training ' if row.progress.stage == 'train' else ''}{counted}"
        if row.progress.value is not None:
            text += f", EM {numbers.shown(row.progress.value, row.progress.stderr, digits=1)} so far"
    if row.error:
        text += f": {shortened(line(row.error), 80)}"
    return text


def config_of(row: Row) -> str:
    seeded = f"/seed_{row.seed}"
    return row.config + (seeded if row.entry.relative.endswith(seeded) or f"{seeded}/" in row.entry.relative else "")


def metrics(row: Row, names: Iterable[str]) -> Table:
    """Lay out the metrics of one experiment."""
    return values({name: row.metrics[name] for name in names})


def values(found: Mapping[str, MetricValue]) -> Table:
    """Lay out metrics, each with its interval, number of items and definition."""
    from rich.text import Text

    table = _table(["Metric", "Value", "95 % interval", "Items", "Definition"], right=3, after=1)
    for name, value in found.items():
        interval = numbers.interval(value.low, value.high)
        said = f"{value.definition} ({value.reason})" if value.reason else value.definition
        cells = [label(name), numbers.of(value), interval, str(value.n), said]
        table.add_row(*(Text(line(cell)) for cell in cells))
    return table


def differences(found: Sequence[Difference]) -> Table:
    """Lay out paired comparisons."""
    from rich.text import Text

    names = tables.short_names(found)
    table = _table(["Experiment", "Against", "Difference", "95 % interval", "p (Holm)"], right=3, after=2)
    for one in found:
        size = numbers.shown(one.diff, one.stderr, signed=True)
        interval = numbers.interval(one.low, one.high, signed=True)
        cells = [names[id(one.other)], names[id(one.baseline)], size, interval, numbers.p_value(one.p_holm)]
        table.add_row(*(Text(line(cell), style="bold" if one.beyond_chance else "") for cell in cells))
    return table


def comparison(one: Comparison, *, width: int, items: bool = False) -> Iterator[Table | Text]:
    """Lay out one comparison: what differs, both sides, the differences, the items gained and lost.

    A table that is wider than `width` is cut into several, each with the names of the metrics.
    """
    from rich.text import Text

    from unsay.report import sheets

    yield Text(line(sheets.title(one)), style="bold")
    for kind, text in sheets.context(one):
        yield Text(line(f"{kind}: {text}"), style="bold yellow" if sheets.is_loud(kind) else "dim")
    for whole in (sheets.levels(one), sheets.changes(one)):
        for part in fitting(whole, width):
            yield Text()
            yield sheet(part, bold=[at for at, result in enumerate(one.results) if result.beyond_chance])
    yield Text()
    if not items:
        yield from (Text(line(text)) for text in sheets.gained_and_lost(one))
        return
    for heading, lines in sheets.all_items(one):
        yield Text(line(heading), style="bold")
        yield from (Text(f"  {line(each)}") for each in lines)


def fitting(found: Sheet, width: int) -> list[Sheet]:
    """Cut a table between its columns of numbers, so that every part fits; all parts have the columns of words."""
    from rich.cells import cell_len

    from unsay.report.sheets import Sheet

    columns = list(zip(found.header, *found.rows, strict=True))
    needed = [max(cell_len(line(cell)) for cell in column) + _GAP for column in columns]
    words = min(sum(needed[: found.words]), max(20 * found.words, width // 3))  # words wrap, numbers do not
    parts: list[list[int]] = [[]]
    for at in range(found.words, len(columns)):
        if parts[-1] and words + sum(needed[place] for place in parts[-1]) + needed[at] > width:
            parts.append([])
        parts[-1].append(at)
    kept = [[*range(found.words), *part] for part in parts]
    return [
        Sheet(
            tuple(found.header[at] for at in part),
            tuple(tuple(row[at] for at in part) for row in found.rows),
            found.words,
        )
        for part in kept
    ]


def sheet(found: Sheet, bold: Sequence[int] = ()) -> Table:
    """Lay out a table of plain cells."""
    from rich.text import Text

    table = _table([*map(line, found.header)], right=len(found.header) - found.words, after=found.words)
    for at, row in enumerate(found.rows):
        table.add_row(*(Text(line(cell), style="bold" if at in bold else "") for cell in row))
    return table


def trace(tokens: Iterable[Token], *, styled: bool) -> Text:
    """Return a trace as text: what was taken back struck through, or as `[-…-]` where styles do not show."""
    from rich.text import Text

    text = Text()
    struck = False
    for token in tokens:
        piece = terminal(token.piece)
        taken = token.kind in ("taken back", "dropped")
        if not styled and taken != struck:
            text.append("[-" if taken else "-]")
        struck = taken
        if taken:
            text.append(piece, style="strike red" if styled else "")
        elif token.kind in ("undo", "underflow"):
            text.append(piece, style="magenta" if styled else "")
        elif token.kind == "end":
            text.append(piece, style="dim" if styled else "")
        else:
            text.append(piece)
    if struck and not styled:
        text.append("-]")
    return text


def _items(row: Row) -> str:
    scored, total = tables.items_of(row)
    if row.entry.limit is None:
        return str(scored) if scored else "-"
    return f"{scored or row.entry.limit} of {total if total is not None else '?'}"


def _table(columns: Sequence[str], *, right: int, after: int) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for at, name in enumerate(columns):
        number = after <= at < after + right
        table.add_column(name, justify="right" if number else "left", no_wrap=number, overflow="fold")
    return table
