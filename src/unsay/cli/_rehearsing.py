"""What `unsay run --rehearse` shows: how each experiment went in small, and what the true run will want."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from unsay.cli import _lab
from unsay.cli._running import Progress
from unsay.config import Experiment, Plan
from unsay.estimate import ASSUMPTIONS, GPU
from unsay.rehearsal import Rehearsal, Rehearsed, Stage, rehearse, size
from unsay.report.escape import line
from unsay.runner import Options

UNKNOWN = "unknown, as is how many questions there are"


def rehearse_and_show(
    plan: Plan, chosen: Sequence[Experiment], options: Options, *, name: str, as_json: bool
) -> Rehearsal:
    """Rehearse with progress on standard error, then print how it went (or one JSON document)."""
    with Progress() as progress:
        found = rehearse(plan, chosen, options, progress, name=name)
    if as_json:
        _lab.print_json(found.to_json())
        return found
    for text in _lines(found):
        print(text)
    print(f"The rehearsal's page is {found.page}; nothing of it counts as a result.", file=sys.stderr)
    return found


def _lines(found: Rehearsal) -> Iterator[str]:
    for each in found.experiments:
        yield f"{each.id}  {line(each.experiment.title)}"
        for label, value in _described(each):
            yield f"    {label:<12}{line(value)}"
    yield from _part("What stood in:", _named(found, [(each.id, each.notes) for each in found.experiments]))
    yield from _part("To know:", _named(found, [(each.id, each.warnings) for each in found.experiments]))
    yield from _part("What would stop the true run on this machine:", found.findings)
    yield from _part(f"The estimates are for one {GPU.name}, and assume:", ASSUMPTIONS)
    yield ""
    yield _total(found)


def _part(heading: str, texts: Sequence[str]) -> Iterator[str]:
    if texts:
        yield from ("", heading)
        yield from (f"    {line(text)}" for text in texts)


def _named(found: Rehearsal, said: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """Return each text once, with the experiments it was said of unless those are all."""
    ids: dict[str, list[str]] = {}
    for id, texts in said:
        for text in texts:
            ids.setdefault(text, []).append(id)
    return [text if len(of) == len(found.experiments) else f"{text} ({', '.join(of)})" for text, of in ids.items()]


def _described(each: Rehearsed) -> Iterator[tuple[str, str]]:
    yield "rehearsed", ", ".join(map(_stage, each.stages))
    if each.error is not None:
        yield "failed", each.error
    if each.advice is not None:
        yield "what to do", each.advice
    if each.estimate is not None:
        found = each.estimate
        fallback = f" (with recomputed activations and single rows {size(found.least_to_train)})"
        train = [f"{size(found.memory['train'])} to train{fallback}"] if "train" in found.memory else []
        yield "GPU memory", ", ".join([*train, f"{size(found.memory['evaluate'])} to evaluate"])
        yield "time", ", ".join(f"at most {_hours(found.hours[stage])} to {stage}" for stage in found.hours) or UNKNOWN
        yield "disk", ", ".join(f"{what} {size(count)}" for what, count in found.disk.items() if count)


def _stage(stage: Stage) -> str:
    took = "" if stage.seconds is None else f" ({stage.seconds:.0f} s)"
    return f"{stage.name} {stage.status}{took}"


def _total(found: Rehearsal) -> str:
    failed = sum(not each.ok for each in found.experiments)
    went = "every stage works" if not failed else f"{failed} of {len(found.experiments)} experiments failed"
    hours = UNKNOWN if found.hours is None else f"at most {_hours(found.hours)}, one after another"
    downloads = f" and {size(found.downloads)} of downloads" if found.downloads else ""
    return (
        f"Rehearsed in {found.seconds:.0f} s: {went}. The true run: {hours}; {size(found.disk)} of disk "
        f"({size(found.free)} are free){downloads}."
    )


def _hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{max(60 * hours, 1):.0f} min"
