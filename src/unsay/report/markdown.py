"""EXPERIMENTS.md: every experiment of a lab on one page, written from what is on disk.

The page belongs to unsay (its first line says so) except for what stands between keep markers, which survives every
rewrite where it stood. The same lab gives the same bytes.

    write_page(Path("outputs"))     # writes EXPERIMENTS.md beside it
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from unsay.errors import StoreError
from unsay.records import Attempt, ExperimentRecord, MetricValue
from unsay.report import best, costs, numbers, prompt, tables
from unsay.report.best import Standing
from unsay.report.escape import html, shortened
from unsay.report.escape import markdown as esc
from unsay.report.names import COLUMNS, in_order, label
from unsay.report.tables import Difference, Row, SameItems, SeedRow
from unsay.store import layout, read, write
from unsay.store.read import Entry

MARKER = "<!-- unsay:page"
KEEP, END_KEEP = "<!-- unsay:keep -->", "<!-- /unsay:keep -->"
_FIRST_LINE = f"{MARKER} schema=1: written by `unsay report`; only text between keep markers survives a rewrite -->"
_EMPTY_KEEP = [KEEP, "", END_KEEP]
_RESULTS = "## Experiment Results"

_HEADER = "| Experiment ID | Model | Dataset | Method | EM (strict) | EM (flex) | BLEU | ROUGE-L | Notes |"
_OWN = "Task's own metrics"
_TRACKING = (
    "| Experiment ID | Model | Dataset | Method | Config | Status | Start Date | End Date | Results | Notes |",
    "|---------------|-------|---------|--------|--------|--------|------------|----------|---------|-------|",
)
_DIFFERENCES = (
    "| Experiment | Against | EM (strict), difference | 95 % interval "
    "| Only this one right | Only the other right | p | p (Holm) |"
)
_SEEDS = "| Experiments | Model | Dataset | Method | Config | Seeds | EM (strict) | EM (flex) | BLEU | ROUGE-L |"
_METHODS = {"vanilla": "vanilla (the model as it is)", "sft": "sft (supervised fine-tuning)"}


@dataclass
class _Section:
    """One heading and what stands below it, up to the next heading of any level."""

    heading: str
    lines: list[str] = field(default_factory=list)


# -- the page ---------------------------------------------------------------------


def write_page(output_dir: Path, page: Path | None = None) -> Path:
    """Write the page of a lab folder and return its path; an unchanged page is not touched.

    Raises StoreError when there is a page that unsay did not write, or one whose keep markers do not match.
    """
    target = layout.page(output_dir.absolute()) if page is None else page.absolute()
    existing = _existing(target)
    text = render(read.find(output_dir.absolute()), existing, output_dir, page=target)
    if text != existing:
        write.write_text(target, text)
    return target


def render(entries: Sequence[Entry], existing_text: str | None, output_dir: Path, *, page: Path | None = None) -> str:
    """Return the page as text. Links are relative to the folder of `page` (beside `output_dir` unless given)."""
    place = (layout.page(output_dir.absolute()) if page is None else page).parent
    kept = _kept(existing_text) if existing_text and existing_text.strip() else []
    rows = [tables.row(entry) for entry in entries if not entry.archived]
    archived = sum(entry.archived and entry.limit is None for entry in entries)
    whole = [row for row in rows if row.entry.limit is None]
    limited = [row for row in rows if row.entry.limit is not None]
    same = tables.same_items([row.entry for row in whole])
    found = best.standing(whole, same)
    sections = [
        _Section("# Experiments"),
        _Section(_RESULTS, _results(whole, archived, found)),
        *([_Section("### Seeds", _seeds(seeds, found))] if (seeds := tables.seed_rows(whole)) else []),
        *([_Section("### Limited Runs", _limited(limited))] if limited else []),
        _Section("### Metrics Legend", _legend(rows, found)),
        _Section("## Comparisons", _comparisons(same)),
        _Section("## Experiment Tracking", _tracking(whole, place)),
        _Section("## Experiment Details"),
        *(_Section(_title(row), _details(row, place)) for row in rows),
        _Section("## Status Legend", list(_STATUS_LEGEND)),
        _Section("## Configuration Types", _configurations(rows)),
        _Section("## Results Format", list(_RESULTS_FORMAT)),
    ]
    _put_back(sections, kept)
    lines = [line for section in sections for line in (section.heading, *section.lines, "")]
    return "\n".join([_FIRST_LINE, "", *lines]).rstrip("\n") + "\n"


def _existing(target: Path) -> str | None:
    try:
        text = target.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"cannot read {target} ({error}); it was left as it is. Repair it or move it away.") from error
    if text.strip() and MARKER not in text.split("\n", 1)[0]:
        raise StoreError(
            f"{target} was not written by unsay (its first line has no `{MARKER}` marker), so it was left as it is. "
            f"Move it away, or write elsewhere: unsay report --page {target.with_name('OTHER.md')}"
        )
    return text


# -- what survives a rewrite ------------------------------------------------------


def _kept(text: str) -> list[tuple[str, list[str]]]:
    """Return the keep blocks with their markers, each with the heading it stood below."""
    blocks: list[tuple[str, list[str]]] = []
    heading, block, opened = "", None, 0
    for number, line in enumerate(text.split("\n"), 1):
        mark = line.strip()
        if block is not None and mark == KEEP:
            raise StoreError(f"line {number} of the page opens a keep block inside the one of line {opened}. {_CLOSE}")
        if block is not None:
            block.append(line)
            if mark == END_KEEP:
                blocks.append((heading, block))
                block = None
        elif mark == KEEP:
            block, opened = [line], number
        elif mark == END_KEEP:
            raise StoreError(f"line {number} of the page closes a keep block that was never opened. {_CLOSE}")
        elif line.startswith("#"):
            heading = line
    if block is not None:
        raise StoreError(f"the keep block opened in line {opened} of the page is never closed. {_CLOSE}")
    return blocks


_CLOSE = f"Each `{KEEP}` needs one `{END_KEEP}` on a line of its own; correct the page and run the command again."


def _put_back(sections: list[_Section], kept: Iterable[tuple[str, list[str]]]) -> None:
    """Put every block at the end of the section it stood in; of an experiment that is gone, below the results."""
    by_heading = {section.heading: section for section in reversed(sections)}
    by_name = {section.heading.split(":")[0]: section for section in reversed(sections)}
    results = by_heading[_RESULTS]
    for heading, block in kept:
        section = by_heading.get(heading) or by_name.get(heading.split(":")[0]) or results
        section.lines += ["", *block]
    if KEEP not in results.lines:
        results.lines += ["", *_EMPTY_KEEP]


# -- results ----------------------------------------------------------------------


def _results(rows: Sequence[Row], archived: int, found: Standing) -> list[str]:
    hidden = ["", f"Archived and not shown: {archived} (`unsay status --archived`)."] if archived else []
    if not rows:
        return hidden or ["", "No experiment yet. `unsay run FILE` starts the experiments of a file."]
    header = _header(rows)
    lines = ["", header, _ruler(header), *(_result_row(row, header, found=found) for row in rows)]
    notes = [f"- {esc(text)}" for text in found.notes]
    if found.short_legend is not None:
        notes.insert(0, f"- {esc(found.short_legend)}")
    return [*lines, *(["", *notes] if notes else []), *hidden]


def _header(rows: Sequence[Row]) -> str:
    """Return the columns of the results: with a task's own metrics only where a row has no other."""
    return _HEADER.replace("| Notes", f"| {_OWN} | Notes") if any(map(tables.own_metrics, rows)) else _HEADER


def _limited(rows: Sequence[Row]) -> list[str]:
    header = _header(rows).replace("| EM (strict)", "| Items | EM (strict)")
    lines = [
        "",
        "Trial runs on the first items only: not results of the whole test set, and comparable with nothing above.",
        "",
        header,
        _ruler(header),
    ]
    for row in rows:
        lines.append(_result_row(row, header, esc(_n_of_total(row))))
    return lines


def _n_of_total(row: Row) -> str:
    scored, total = tables.items_of(row)
    return f"{scored or row.entry.limit} of {total if total is not None else '?'}"


def _result_row(row: Row, header: str, *items: str, found: Standing | None = None) -> str:
    values = [
        _marked(numbers.of(row.metric(name)), found is not None and found.is_best(row.entry, name)) for name in COLUMNS
    ]
    values += [esc(tables.own_metrics(row)) or "-"] if _OWN in header else []
    return _line([esc(row.name), esc(row.model), esc(row.dataset), esc(row.method), *items, *values, _notes(row)])


def _marked(text: str, is_best: bool) -> str:
    return f"**{text}**" if is_best else text


def _notes(row: Row) -> str:
    if row.problem and row.entry.record is None:
        return "cannot be read, see the details"
    return esc(row.notes)


def _seeds(rows: Sequence[SeedRow], found: Standing) -> list[str]:
    lines = [
        "",
        "Experiments that finished with several seeds: mean ± standard deviation over seeds. That is the noise of "
        "training and sampling, not the standard error of the table above.",
        "",
        _SEEDS,
        _ruler(_SEEDS),
    ]
    for row in rows:
        record = row.record
        cells = [", ".join(entry.name for entry in row.entries), record.model, record.dataset, record.method]
        values = [
            _marked(numbers.shown(*row.metrics.get(name, (None, None))), found.is_best(row.entries, name))
            for name in COLUMNS
        ]
        lines.append(_line([*map(esc, [*cells, record.config]), str(len(row.seeds)), *values]))
    return lines


def _legend(rows: Sequence[Row], standing: Standing) -> list[str]:
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for name, value in row.metrics.items():
            found.setdefault(name, {})[value.definition] = None
    lines = [
        "",
        "Scores are on a scale of 0 to 100 and read value ± standard error, with items as the unit of chance. They are "
        "of the visible text: what a model took back does not count. `-` means not computed; the details say why.",
        "",
        "- **EM (strict)**: share of answers whose final answer, from the `#### answer` line, equals the gold one.",
        "- **EM (flex)**: the same with the last number of the answer taken as its final answer.",
        "- **BLEU**: LLaMA-Factory's BLEU-4 (mean over answers, on characters). It follows accuracy only loosely.",
        "- **ROUGE-L**: LLaMA-Factory's ROUGE-L (mean over answers, longest common subsequence of words).",
    ]
    if standing.legend is not None:
        lines += ["", esc(standing.legend)]
    if found:
        lines += ["", "Definitions behind the numbers of this page:", ""]
        for name in in_order(found):
            lines.append(f"- **{esc(label(name))}**, {_code(name)}: " + "; or ".join(map(esc, found[name])))
    return lines


# -- comparisons ------------------------------------------------------------------


def _comparisons(same: SameItems) -> list[str]:
    found, left = tables.compared_in(same)
    lines = ["", esc(tables.headline(found))]
    if found:
        header = _DIFFERENCES
        lines += [
            "",
            "Paired on the same items: the experiment minus the one it stands against, in points ± standard error of "
            f"the paired difference; p is McNemar's exact test{_of_seeds(found)}, then adjusted for all comparisons on "
            f"the same items. Below {tables.ALPHA} counts as beyond chance. `unsay compare` has every metric, and the "
            "items that were gained and lost.",
            "",
            header,
            _ruler(header),
            *(_difference_row(one) for one in found),
        ]
        notes = [_difference_note(one) for one in found]
        lines += ["", *notes]
    if left:
        lines += ["", "Not compared:", ""]
        lines += [f"- {esc(entry.name)}: {esc(reason)}" for entry, reason in left]
    return lines


def _of_seeds(found: Sequence[Difference]) -> str:
    if not any(one.baseline.is_group or one.other.is_group for one in found):
        return ""
    return " (with several seeds: t tests that count the chance of trainings and of questions)"


def _difference_row(one: Difference) -> str:
    size = numbers.shown(one.diff, one.stderr, signed=True)
    interval = numbers.interval(one.low, one.high, signed=True)
    p, adjusted = numbers.p_value(one.p), numbers.p_value(one.p_holm)
    if one.beyond_chance:
        adjusted = f"**{adjusted}**"
    counts = [numbers.NOTHING if count is None else str(count) for count in (one.only_other, one.only_baseline)]
    return _line([esc(one.other.name), esc(one.baseline.name), size, interval, *counts, p, adjusted])


def _difference_note(one: Difference) -> str:
    arms = ", ".join(one.arms) if one.arms else "nothing in the settings"
    text = f"- {esc(one.other.name)} against {esc(one.baseline.name)} ({one.n} items): what differs is {esc(arms)}."
    if one.smallest is not None:
        finds = f"finds a true difference of {one.smallest:.1f} points four times in five"
        text += f" By itself (p below 0.05, not adjusted) this pair {finds}."
    return text


# -- tracking ---------------------------------------------------------------------


def _tracking(rows: Sequence[Row], place: Path) -> list[str]:
    if not rows:
        return ["", "No experiment yet."]
    lines = ["", *_TRACKING]
    for row in rows:
        record = row.entry.record
        files = tables.result_files(row.entry)
        first = next(iter(tables.originals(record)), None)
        kind = first or next((kind for kind in ("results", "predictions") if kind in files), None)
        link = _link(kind, files[kind], place) if kind else "-"
        start, end = (_date(record.start), _date(record.end)) if record else ("-", "-")
        cells = [esc(row.name), esc(row.model), esc(row.dataset), esc(row.method), esc(row.config)]
        lines.append(_line([*cells, row.shown_status, start, end, link, _notes(row)]))
    return lines


def _moment(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None


def _date(text: str | None) -> str:
    moment = _moment(text)
    return moment.date().isoformat() if moment else "-"


def _clock(text: str | None) -> str:
    moment = _moment(text)
    return moment.isoformat(sep=" ", timespec="seconds") if moment else "-"


# -- details ----------------------------------------------------------------------


def _title(row: Row) -> str:
    limit = f", {_n_of_total(row)} items" if row.entry.limit is not None else ""
    if row.entry.record is None:
        return f"### {esc(row.name)}: cannot be read"
    return f"### {esc(row.name)}: {esc(row.model)} on {esc(row.dataset)}, {esc(row.method)} {esc(row.config)}{limit}"


def _details(row: Row, place: Path) -> list[str]:
    record = row.entry.record
    if record is None:
        return ["", f"- **Folder**: {esc(row.entry.relative)}", f"- **Problem**: {esc(row.problem or '')}"]
    facts = [
        ("Model", esc(row.model)),
        ("Dataset", esc(row.dataset)),
        ("Method", esc(_METHODS.get(row.method, row.method)) + (", on answers with undo" if _undone(record) else "")),
        ("Configuration", esc(row.config)),
        ("Seed", str(row.seed) if record.imported is None or row.seed else ""),
        ("Status", row.shown_status),
        ("Items", _n_of_total(row) if row.entry.limit is not None else str(tables.items_of(row)[0] or "")),
        ("Start", _clock(record.start)),
        ("End", _clock(record.end)),
        *_settings(record),
        ("Recorded", _listed({k: v for k, v in record.facts.items() if _short(v) and k != "prompt_0"})),
        ("Prompts", esc("; ".join(prompt.counts(record)))),
        ("Made by", esc(str(record.imported.get("tool"))) if record.imported is not None else ""),
        ("Last attempt", _attempt(record.attempts, elsewhere=record.imported is not None)),
        ("Took", esc("; ".join(costs.lines(row.entry)))),
        ("Error", esc(shortened(row.error, 600)) if row.error else ""),
        ("Problem", esc(row.problem) if row.problem else ""),
        *(("Warning", esc(warning)) for warning in record.warnings),
        ("Notes", esc(row.notes)),
        ("Files", ", ".join(_link(kind, path, place) for kind, path in tables.result_files(row.entry).items())),
        ("Hashes", ", ".join(f"{esc(name)} {_code(value)}" for name, value in record.hashes.items())),
        ("Identity", _code(record.identity)),
    ]
    lines = ["", *(f"- **{name}**: {text}" for name, text in facts if text)]
    if row.metrics:
        undo = tables.undo_names(row)
        hidden = {name for name, value in row.metrics.items() if value.definition.startswith("unsay undo")} - {*undo}
        shown = [name for name in in_order(row.metrics) if name not in hidden]
        lines += ["", "| Metric | Value | 95 % interval | Items | Remark |", "|---|---|---|---|---|"]
        lines += [_metric_row(name, row.metrics[name]) for name in shown]
    return lines + _first_prompt(row.entry)


def _first_prompt(entry: Entry) -> list[str]:
    """Return a folded block with the first prompt, in which nothing is Markdown, a heading or a keep marker."""
    first = prompt.first_prompt(entry)
    if first is None:
        return []
    text = html(first.shown_text())
    return [
        "",
        f"<details><summary>Prompt 0: {esc(first.size)}</summary>",
        "",
        f"<pre>{text}</pre>",
        "",
        f"Ids: {esc(first.shown_ids())}",
        "",
        "</details>",
    ]


def _metric_row(name: str, value: MetricValue) -> str:
    interval = numbers.interval(value.low, value.high)
    return _line([esc(label(name)), numbers.of(value), interval, str(value.n), esc(value.reason or "")])


def _undone(record: ExperimentRecord) -> bool:
    return record.method != "vanilla" and tables.has_undo_data(record)


def _settings(record: ExperimentRecord) -> list[tuple[str, str]]:
    settings = record.spec.get("settings")
    if not isinstance(settings, dict):
        return []
    parts = (("Prompting", "prompting"), ("Decoding", "decode"), ("Training", "training"), ("Undo data", "undo"))
    return [(label, _listed(tables.flat(settings[key]))) for label, key in parts if isinstance(settings.get(key), dict)]


def _listed(values: dict[str, Any]) -> str:
    def shown(value: Any) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, list):
            return " ".join(map(repr, value)) or "none"
        return f"{value:g}" if isinstance(value, float) else str(value)

    return ", ".join(f"{esc(name)} {esc(shown(value))}" for name, value in values.items() if value not in (None, {}))


def _short(value: Any) -> bool:
    return isinstance(value, bool | int | float) or (isinstance(value, str) and 0 < len(value) <= 80)


def _attempt(attempts: Sequence[Attempt], *, elsewhere: bool) -> str:
    if not attempts:
        return ""
    last = attempts[-1]
    place = "" if elsewhere else f"on {esc(last.host)}"
    parts = [f"{len(attempts)} of {len(attempts)}" if len(attempts) > 1 else "", place]
    parts.append(_listed(last.hardware))
    parts += [f"{esc(stage)} {seconds:.0f} s" for stage, seconds in last.timings.items()]
    parts.append(_listed(dict(last.versions)))
    return "; ".join(part for part in parts if part)


# -- pieces -----------------------------------------------------------------------


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _ruler(header: str) -> str:
    return "|" + "|".join("-" * len(cell) for cell in header.strip("|").split("|")) + "|"


def _link(label: str, path: Path, place: Path) -> str:
    target = Path(os.path.relpath(path.absolute(), place)).as_posix()
    return f"[{esc(label)}]({quote(target.encode('utf-8', 'surrogateescape'))})"


def _code(text: str) -> str:
    """Return a hash or name as a code span, or escaped where it holds more than letters, digits, `-` and `_`."""
    return f"`{text}`" if re.fullmatch(r"[\w-]+", text, re.ASCII) else esc(text)


def _configurations(rows: Sequence[Row]) -> list[str]:
    used = {row.config for row in rows}
    lines = [
        "",
        "- **vanilla**: the model as it is, prompted and scored.",
        "- **sft**: fine-tuned on the training split first, then prompted without shots and scored.",
        "- **fewshot_N**: N worked examples stand before the question.",
        "- **lora/…**: fine-tuning of low-rank adapters (LoRA); the base weights stay as they are.",
        "- **full/…**: fine-tuning of every weight.",
        "- **…/train**: trained on the gold answers.",
        "- **…/train_bt**: trained on gold answers with mistakes that are taken back by undo tokens; no loss on the "
        "mistakes. With **_unmasked** the loss is on the mistakes too.",
        "- **+…** after a name: what was set differently from that configuration.",
    ]
    others = sorted(c for c in used if c and not c.startswith(("fewshot_", "lora/train", "full/train")))
    if others:
        lines.append(f"- Defined in experiment files, or by what was imported: {', '.join(map(esc, others))}.")
    return lines


_STATUS_LEGEND = (
    "",
    "- **pending**: planned, not started.",
    "- **running**: at work now. *stale* beside it: it says so, but its process is gone; *lost contact*: it runs on "
    "another machine that has given no sign of life lately. Running it again resumes both.",
    "- **completed**: everything was scored and written.",
    "- **failed**: it ended with an error, shown in its details.",
    "- **cancelled**: it was stopped on request; what it finished is kept.",
)
_RESULTS_FORMAT = (
    "",
    "- **experiment.json**: settings, identity, status, attempts, versions, warnings.",
    "- **metrics.json**: every metric with its error, interval, number of items and definition.",
    "- **results_\\*.json**, **samples_\\*.jsonl**: scores and scored answers in lm-eval's formats.",
    "- **generated_predictions.jsonl**: prompt, prediction and gold answer, in LLaMA-Factory's format.",
    "- **traces.jsonl**, **prompts.jsonl**: every sampled token, also those that were taken back, and every prompt.",
    "- **train/**, **data/**: the adapter with its training log, and the rows it was trained on.",
)
