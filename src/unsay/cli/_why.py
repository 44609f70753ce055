"""`unsay status --why`: an explanation in sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unsay.cli import _lab

if TYPE_CHECKING:
    from unsay.why import Change, Explanation

_FILES = {
    "model.content": "the files of the model",
    "model.adapter": "the files of the adapter",
    "dataset.content": "the files of the data set",
    "dataset.task": "the task",
    "format": "the version of what is compared",
}
_NEVER = (
    "What changes no number never makes a new result: device, --batch-size, executor, processes, how the effective "
    "batch is split, logging and checkpoints."
)


def why(output_dir: Path, name: str, file: Path | None, *, as_json: bool) -> None:
    """Print why a run would skip an experiment, go on with it or make a new result."""
    from unsay import config
    from unsay.report.escape import line
    from unsay.why import explain

    plan = None if file is None else config.load(file, output_dir=output_dir.absolute())
    found = explain(_lab.pick(output_dir, name), plan)
    if as_json:
        _lab.print_json(found.to_json())
        return
    for text in sentences(found, file):
        print(line(text))


def sentences(found: Explanation, file: Path | None) -> Iterator[str]:
    record = found.record
    ended = f", last written {record.end}" if record.end else ""
    yield f"{found.entry.name} ({found.entry.relative}) is {record.status}{ended}; identity {record.identity[:12]}."
    if file is not None:
        yield from _of_the_file(found, str(file))
    else:
        yield from (f"  {_name(name)}: {_value(value)}" for name, value in _settings(found))
        yield "With --file FILE it is compared with what a run of that file would do."
    if file is None or found.changes:
        yield _NEVER
        dtype = record.facts.get("dtype")
        if dtype:
            yield f"It was computed in {dtype}: a run with another --dtype makes a new result, and so does --force."
    for each in found.earlier:
        what = "the rest of an earlier result" if each.record is None else f"an earlier result, {each.record.status}"
        when = f" {each.record.end}" if each.record is not None and each.record.end else ""
        yield f"superseded/{each.folder.name}: {what}{when}; it has {', '.join(each.names)}."
        if each.changes is not None:
            yield from _listed(each.changes, "then", "now") or ["  The same settings: it was run again with --force."]


def _of_the_file(found: Explanation, file: str) -> Iterator[str]:
    from unsay import why

    old = f"superseded/{found.record.identity[:12]}/"
    meaning = {
        why.SKIP: f"A run of {file} skips it: everything that counts for its numbers is as it was.",
        why.COMPLETE: f"A run of {file} makes files again that are gone; nothing that counts for its numbers differs.",
        why.RESUME: f"A run of {file} goes on where it stopped: everything that counts for its numbers is as it was.",
        why.START: f"A run of {file} starts it: it was never tried.",
        why.RUNNING: f"It is at work now; a run of {file} leaves it to its process.",
        why.NEW: f"A run of {file} makes a new result; this one is kept in {old}. What counts for its numbers differs:",
    }
    if found.outcome in meaning:
        yield meaning[found.outcome]
        if found.outcome in (why.NEW, why.RUNNING):
            yield from _listed(found.changes, "on disk", "in the file")
        if found.outcome == why.NEW and not found.changes:
            yield "  nothing of its settings: its record names another identity, as of another version of unsay"
        if found.outcome == why.NEW and found.keeps_training is not None:
            yield (
                "Only how it decodes differs: its training stays, answers are generated and scored again."
                if found.keeps_training
                else "It is trained again, unless its rows and its training come out with the hashes they had."
            )
        return
    if found.wanted is None:
        yield f"{file} has none of this model, data set and method; a run of it changes nothing here."
        return
    if found.wanted.id == found.record.id:
        yield (
            f"{file} has another experiment of this id, {found.wanted.folder}. A run refuses one id for two; give it "
            "another one. It differs in:"
        )
    else:
        yield (
            f"{file} has no such experiment; a run of it changes nothing here. Most like it is {found.wanted.folder}, "
            "an experiment of its own, which differs in:"
        )
    yield from _listed(found.changes, "here", "there") or ["  nothing but its name"]


def _settings(found: Explanation) -> list[tuple[str, Any]]:
    from unsay.report.differing import flat

    return [(name, value) for name, value in flat(found.record.spec).items() if value is not None]


def _listed(changes: Sequence[Change], before: str, now: str) -> list[str]:
    return [
        f"  {_name(change.name)}: {_value(change.before)} {before}, {_value(change.now)} {now}" for change in changes
    ]


def _name(name: str) -> str:
    return _FILES.get(name, name.removeprefix("settings."))


def _value(value: Any) -> str:
    if value is None:
        return "not set"
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{28,}\b", r"\1…", value if isinstance(value, str) else repr(value))
