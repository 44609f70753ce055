"""What `run` and `demo` share: progress while experiments run, the table and the sentence after them."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unsay.cli import _lab
from unsay.config import Experiment, Plan
from unsay.job import Event
from unsay.report.escape import line
from unsay.runner import Ended, Options, job_of, run
from unsay.store import layout

if TYPE_CHECKING:
    from rich.progress import TaskID

_WORDS = {
    ("queued", True): "left to another run",
    ("skipped", False): "finished already, skipped",
    ("skipped", True): "finished by another run, skipped",
    ("failed", True): "failed in another run",
    ("cancelled", True): "left alone",
}
_UNITS = {"data": "rows", "train": "steps", "evaluate": "answers"}


def run_and_show(plan: Plan, chosen: Sequence[Experiment], options: Options, *, as_json: bool) -> list[Ended]:
    """Carry out experiments with progress on standard error, then print the lab's table (or one JSON document)."""
    with Progress() as progress:
        ended = run(plan, chosen, options, progress)
    if as_json:
        _lab.print_json(_document(plan, ended))
    else:
        _print_results(plan, ended, options.limit)
    return ended


def show_plan(plan: Plan, chosen: Sequence[Experiment], options: Options, *, as_json: bool) -> None:
    """Print what a run would do, with every resolved path."""
    from unsay.planning import plan_lines

    wanted = {experiment.folder: experiment for experiment in chosen}
    rows = []
    for experiment, row in zip(plan.experiments, plan_lines(plan), strict=True):
        if experiment.folder in wanted:
            job = job_of(plan, experiment, options)
            rows.append(row | {"result_folder": str(job.result_folder), "finished": job.is_done()})
    if as_json:
        _lab.print_json({"schema": 1, "file": str(plan.file), "output_dir": str(plan.output_dir), "experiments": rows})
        return
    for row in rows:
        print(
            f"{row['id'] or '(new)'}  {line(row['title'])}{'  [finished, will be skipped]' if row['finished'] else ''}"
        )
        for label, value in _described(row):
            print(f"    {label:<12}{line(value)}")


def _described(row: dict[str, Any]) -> list[tuple[str, str]]:
    changed = ", ".join(f"{name}={value}" for name, value in row["changed"].items()) or "none"
    training = None
    if row["train_folder"] is not None:
        steps, rows = row["optimiser_steps"], row["train_rows"]
        counted = f"{steps} steps" if steps else "steps known once the data is there"
        training = f"{layout.train(Path(row['train_folder']))} ({counted}{f', {rows} rows' if rows else ''})"
    values = [
        ("model", row["model_path"] + (f" @ {row['revision']}" if row["revision"] else "")),
        ("adapter", row["adapter"]),
        ("template", row["template"] or "the model's own"),
        ("dataset", row["dataset_path"] or row["task"] or f"{row['dataset']} (generated)"),
        ("method", f"{row['method']} {row['config']}, seed {row['seed']}"),
        ("training", training),
        ("decoding", row["decoding"]),
        ("settings", f"other than the defaults: {changed}"),
        ("results", row["result_folder"]),
    ]
    return [(label, str(value)) for label, value in values if value]


class Progress:
    """Shows a run: bars on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._console = Console(stderr=True, markup=False, highlight=False, emoji=False)
        self._live = self._console.is_terminal
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        self._bars = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self._console)
        self._bar: dict[str, TaskID] = {}
        """The bar of each experiment that is at work, by its folder."""
        self._said: dict[str, float] = {}

    def __enter__(self) -> Progress:
        if self._live:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._bars.stop()

    def started(self, experiment: Experiment) -> None:
        self._say(f"{experiment.id}  {experiment.title} on {experiment.dataset.name} ({experiment.folder})")

    def event(self, experiment: Experiment, event: Event) -> None:
        if event["event"] == "stage":
            self._close(experiment)
            if self._live:
                self._bar[experiment.folder] = self._bars.add_task(f"{experiment.id}  {event['stage']}", total=None)
            else:
                self._say(f"{experiment.id}  {event['stage']}")
        elif event["event"] == "progress":
            self._progress(experiment, event)

    def later(self, experiment: Experiment, why: str) -> None:
        self._close(experiment)
        self._say(f"{experiment.id}  {why}; comes later")

    def ended(self, ended: Ended) -> None:
        self._close(ended.experiment)
        words = _WORDS.get((ended.status, ended.elsewhere), ended.status)
        words += f" ({ended.where})" if ended.where else ""
        error = "" if ended.error is None else f": {ended.error}"
        self._say(f"{ended.experiment.id}  {words}{error}" + (f" (log: {ended.log})" if error and ended.log else ""))

    def _progress(self, experiment: Experiment, event: Event) -> None:
        done, total = event["done"], event["total"]
        loss = f", loss {event['loss']:.3f}" if event.get("loss") is not None else ""
        bar = self._bar.get(experiment.folder)
        if bar is not None:
            self._bars.update(bar, completed=done, total=total, description=f"{experiment.id}  {event['stage']}{loss}")
        elif done == total or time.monotonic() - self._said.get(experiment.folder, 0.0) > 10.0:
            self._said[experiment.folder] = time.monotonic()
            unit = _UNITS.get(event["stage"], "")
            self._say(f"{experiment.id}  {event['stage']} {done}/{total} {unit}{loss}")

    def _close(self, experiment: Experiment) -> None:
        bar = self._bar.pop(experiment.folder, None)
        if bar is not None:
            self._bars.remove_task(bar)

    def _say(self, text: str) -> None:
        self._console.print(line(text), soft_wrap=True)


def _document(plan: Plan, ended: Sequence[Ended]) -> dict[str, Any]:
    from unsay.report import tables
    from unsay.store import read

    outcomes = {plan.output_dir / each.experiment.folder: each for each in ended}
    rows = []
    for entry in read.find(plan.output_dir):
        each = outcomes.get(entry.folder) or outcomes.get(entry.folder.parent)
        if each is not None:
            rows.append(tables.row(entry).to_json() | _outcome(each))
    return {"schema": 1, "output_dir": str(plan.output_dir), "experiments": rows}


def _outcome(ended: Ended) -> dict[str, Any]:
    return {
        "outcome": ended.status,
        "outcome_job": ended.where or None,
        "outcome_error": ended.error,
        "outcome_elsewhere": ended.elsewhere,
    }


def _print_results(plan: Plan, ended: Sequence[Ended], limit: int | None) -> None:
    from unsay.report import tables, terminal
    from unsay.store import read

    folders = {plan.output_dir / each.experiment.folder for each in ended}
    entries = [
        entry
        for entry in read.find(plan.output_dir)
        if (entry.folder.parent if entry.limit is not None else entry.folder) in folders and entry.limit == limit
    ]
    console = terminal.console()
    console.print(terminal.experiments([tables.row(entry) for entry in entries]))
    found = tables.differences(entries)
    if found:
        console.print(terminal.differences(found))
        console.print(line(tables.headline(found)))
    print(f"The experiment page is {layout.page(plan.output_dir)}", file=sys.stderr)
