"""`unsay report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unsay.cli import _lab, _tables

if TYPE_CHECKING:
    from unsay.report import tables


def command(
    output_dir: _lab.OutputDir = _lab.DEFAULT,
    page: Annotated[Path | None, typer.Option(help="Write here instead of EXPERIMENTS.md beside the lab.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write one HTML file with tables and figures instead, for any browser.")
    ] = None,
    study: Annotated[
        Path | None, typer.Option(help="Write a page that says whether undo helps instead, and its figure beside it.")
    ] = None,
    hashes: Annotated[
        bool, typer.Option("--hashes", help="Print a hash of every experiment's answers and weights, to compare runs.")
    ] = False,
    format: _tables.Format = None,
    output: _tables.Output = None,
    as_json: _lab.Json = False,
) -> None:
    """Write EXPERIMENTS.md; text between its keep markers stays. Or give its results as a table with --format."""
    from unsay.report import markdown, tables
    from unsay.store import read

    wanted = _tables.wanted(format, output, as_json)
    if wanted not in (None, _tables.JSON) and page is not None:
        raise typer.BadParameter("expected --page for the page or --output for a table, got both", param_hint="--page")
    if html is not None and (page is not None or wanted not in (None, _tables.JSON)):
        raise typer.BadParameter("expected one of --html, --page and a table, got two of them", param_hint="--html")
    if study is not None and (html is not None or page is not None or wanted not in (None, _tables.JSON)):
        raise typer.BadParameter("expected one of --study, --html, --page and a table, got two", param_hint="--study")
    if hashes and (any(place is not None for place in (study, html, page)) or wanted not in (None, _tables.JSON)):
        raise typer.BadParameter("expected --hashes alone or with --json, got another output", param_hint="--hashes")
    lab = _lab.existing(output_dir)
    if hashes:
        _print_hashes(lab, as_json=wanted == _tables.JSON)
        return
    if study is not None:
        _write_study(lab, study, as_json=wanted == _tables.JSON)
        return
    if html is not None:
        _write_html(lab, html, as_json=wanted == _tables.JSON)
        return
    if wanted not in (None, _tables.JSON):
        shown = [tables.row(entry) for entry in read.find(lab) if not entry.archived]
        _tables.give(_table(shown, str(wanted)), output)
        return
    written = markdown.write_page(lab, page)
    entries = [entry for entry in read.find(lab) if not entry.archived]
    whole = [entry for entry in entries if entry.limit is None]
    found = tables.differences(whole)
    if wanted == _tables.JSON:
        rows = [tables.row(entry) for entry in entries]
        document = {
            "schema": 1,
            "page": str(written),
            "experiments": [row.to_json() for row in rows],
            "seeds": [row.to_json() for row in tables.seed_rows([row for row in rows if row.entry.limit is None])],
            "headline": tables.headline(found),
            "differences": [one.to_json() for one in found],
        }
        _tables.give(_tables.json_text(document), output)
        return
    from unsay.report.escape import terminal

    limited = len(entries) - len(whole)
    also = f" and {limited} limited runs" if limited else ""
    print(terminal(f"{len(whole)} experiments{also} in {written}"))
    if found:
        print(terminal(tables.headline(found)))


def _write_study(lab: Path, file: Path, *, as_json: bool) -> None:
    from unsay.report import study, study_page
    from unsay.report.escape import terminal
    from unsay.store import read

    found = study.studies(study.entries_of(read.find(lab)))
    figures = study_page.write_page(found, file)
    if as_json:
        document = {"schema": 1, "page": str(file), "figures": [str(place) for place in figures]}
        _lab.print_json(document | {"studies": [one.to_json() for one in found]})
        return
    for one in found:
        if len(found) > 1:
            print(terminal(f"{one.model} on {one.dataset}"))
        for ask, answer in one.conclusion():
            print(terminal(f"{ask} {answer}"))
    print(terminal(f"The page is {file}"))


def _print_hashes(lab: Path, *, as_json: bool) -> None:
    from unsay.report import digests
    from unsay.report.escape import terminal
    from unsay.store import read

    found = digests.lines(entry for entry in read.find(lab) if not entry.archived)
    if as_json:
        _lab.print_json({"schema": 1, "hashes": [vars(each) for each in found]})
        return
    for each in found:
        print(terminal(each.text))


def _write_html(lab: Path, file: Path, *, as_json: bool) -> None:
    from unsay.report.escape import terminal
    from unsay.web import standalone

    written = standalone.write_report(lab, file)
    if as_json:
        _lab.print_json({"schema": 1, "html": str(written)})
    else:
        print(terminal(str(written)))


def _table(rows: list[tables.Row], wanted: str) -> str:
    from unsay.report import export, sheets

    if wanted == "csv":
        return export.csv(sheets.result_records(rows), header=("id",))
    table = sheets.results(rows)
    return export.latex(table) if wanted == "latex" else export.markdown(table)
