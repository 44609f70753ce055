"""Build training rows without training, look at them, write them for other trainers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unsay.cli import _lab

if TYPE_CHECKING:
    from unsay.config import Experiment, Plan
    from unsay.executors import Helpers, Helping
    from unsay.job import Event, Job, Report
    from unsay.placement import Placement
    from unsay.records import Row
    from unsay.report.trace import Token
    from unsay.store.rows import Pieces

app = typer.Typer(rich_markup_mode=None, add_completion=False, no_args_is_help=True, help=__doc__)

_LETTERS = {"c": "clean", "e": "error", "u": "undo", "k": "correction"}


class _Target(StrEnum):
    TRL = "trl"
    LLAMAFACTORY = "llamafactory"


class _Style(StrEnum):
    ALPACA = "alpaca"
    SHAREGPT = "sharegpt"


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise typer.BadParameter(f"{value!r} is not auto, cpu, mps, cuda or cuda:N (such as cuda:1).")
    return value


@app.command("build")
def build(
    file: Annotated[Path, typer.Argument(help="The experiment file (YAML).")],
    ids: Annotated[list[str] | None, typer.Argument(help="Ids or folders; all that train when none is given.")] = None,
    sample: Annotated[
        int | None,
        typer.Option(min=1, help="First ask the model N times per question and write the `candidates:` file."),
    ] = None,
    sample_from: Annotated[
        str | None,
        typer.Option(help="With --sample: ask this model instead, by name, or a finished training, by id or folder."),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes that build rows; the rows are the same.")] = 1,
    force: Annotated[
        bool, typer.Option("--force", help="Build again what is there; the old rows are kept aside.")
    ] = False,
    output_dir: Annotated[Path | None, typer.Option(help="The lab folder, instead of the file's own.")] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, mps, cuda or cuda:N, for --sample.", callback=_device)
    ] = "auto",
    batch_size: Annotated[
        int | None, typer.Option(help="Answers generated at a time, for --sample; as many as suit the device.", min=1)
    ] = None,
    executor: Annotated[
        str | None, typer.Option(help="Where --sample's answers are generated: local or ray, or a profile (FILE.yaml).")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="One option of the executor, KEY=VALUE, such as shards=4; repeatable.")
    ] = None,
    as_json: _lab.Json = False,
) -> None:
    """Build the training rows of an experiment file's experiments, without training."""
    from unsay import config, placement, preflight, runner
    from unsay.errors import ConfigError

    if sample_from is not None and sample is None:
        raise typer.BadParameter("--sample-from names whom to ask; say how often, with --sample N.")

    def check(plan: Plan) -> list[str]:
        try:
            chosen = runner.choose(plan, ids or [])
        except ConfigError:  # an unknown id; said below, once the file itself has no mistakes
            chosen = []
        if sample is not None:  # what is sampled need not be there yet
            chosen = [replace(each, settings=replace(each.settings, undo=None)) for each in chosen]
        return preflight.check(replace(plan, experiments=tuple(chosen)), name=str(file))

    plan = config.load(file, output_dir=output_dir, check=check)
    chosen = _that_train(runner.choose(plan, ids or []), named=bool(ids))
    sampler = None if sample_from is None else config.find_model(plan, sample_from)
    options = runner.Options(force=force, device=device, batch_size=batch_size)
    placed = placement.choose(plan.placement, executor, option or [])
    helping = None
    if sample is not None:
        helping = _helping(placed, [runner.job_of(plan, each, options) for each in chosen], named=executor is not None)
    chosen = runner.register(plan, chosen)
    built = []
    for experiment in chosen:
        asked = {"sample": sample, "sampler": sampler, "processes": processes}
        with _Helped(helping, runner.job_of(plan, experiment, options), _told(experiment)) as helped:
            found = _prepare(helped.job, helped.report, asked)
        built.append({"id": experiment.id, **found})
        if not as_json:
            _say_built(experiment, found)
    if as_json:
        _lab.print_json({"schema": 1, "built": built})


def _helping(placed: Placement, jobs: list[Job], *, named: bool) -> Helping | None:
    """Return the executor that helps with answers; None where this process generates them alone."""
    from unsay.errors import ConfigError
    from unsay.executors import Helping

    executor = placed.executor()
    if not isinstance(executor, Helping):
        if named:
            raise typer.BadParameter(f"{placed.name} gives no helpers; use local or ray.", param_hint="--executor")
        return None
    mistakes = executor.check(jobs)
    if mistakes:
        raise ConfigError(mistakes)
    return executor


class _Helped:
    """A job whose answers an executor's helpers generate, too, for as long as the block lasts."""

    def __init__(self, executor: Helping | None, job: Job, report: Report) -> None:
        self._executor = executor
        self._report = report
        self._helpers: Helpers | None = None
        self.job = job
        if executor is not None:
            self.job = executor.divided(job)

    def __enter__(self) -> _Helped:
        return self

    def __exit__(self, *_: object) -> None:
        if self._helpers is not None:
            self._helpers.stop()

    def report(self, event: Event) -> None:
        from unsay.errors import ExecutorError

        if event["event"] == "shards" and self._executor is not None:
            self._helpers = self._executor.helpers(self.job, Path(event["folder"]), event["helpers"])
        elif event["event"] == "waiting" and self._helpers is not None:
            why = [] if self.job.takes_part else self._helpers.failed()
            if why:
                raise ExecutorError(f"no helper is left to generate answers: {why[0]}. Run the command again to go on.")
        else:
            self._report(event)


def _that_train(chosen: list[Experiment], *, named: bool) -> list[Experiment]:
    """Return the experiments with rows of their own: one per training."""
    from unsay.errors import ConfigError

    without = [each for each in chosen if each.settings.training is None]
    if without and (named or len(without) == len(chosen)):
        raise ConfigError(
            [f"{each.id or each.folder}: method {each.method} trains on nothing, there are no rows" for each in without]
        )
    first: dict[str, Experiment] = {}
    for each in chosen:
        if each.settings.training is not None:
            first.setdefault(each.train_folder or each.folder, each)
    return list(first.values())


def _prepare(job: Job, report: Report, asked: Mapping[str, Any]) -> dict[str, Any]:
    from contextlib import ExitStack

    from unsay import catalog
    from unsay.errors import ConfigError
    from unsay.store import write

    method = catalog.plugin("methods", job.experiment.method)()
    if not hasattr(method, "prepare"):
        raise ConfigError(f"method {job.experiment.method} builds no rows of its own")
    with ExitStack() as locks:
        sampler = asked["sampler"]
        read_from = () if sampler is None or sampler.experiment is None else (job.output_dir / sampler.experiment,)
        for folder in job.written_folders:
            locks.enter_context(write.lock(folder))
        for folder in {*job.read_folders, *read_from} - {*job.written_folders}:
            locks.enter_context(write.lock(folder, shared=True))
        return dict(method.prepare(job, report, **asked))


def _told(experiment: Experiment) -> Report:
    """Return a reporter that says on standard error what is being done, at most every ten seconds."""
    import time

    said = [time.monotonic()]

    def report(event: Mapping[str, Any]) -> None:
        if event["event"] == "stage":
            _lab.say(f"{experiment.id}  {event['stage']}")
        elif event["event"] == "progress" and time.monotonic() - said[0] > 10.0:
            said[0] = time.monotonic()
            _lab.say(f"{experiment.id}  {event['stage']} {event['done']}/{event['total']}")

    return report


def _say_built(experiment: Experiment, found: Mapping[str, Any]) -> None:
    from unsay.report.escape import line

    refusals = ", ".join(f"{count} {kind}" for kind, count in found["refusals"].items())
    print(
        line(
            f"{experiment.id}  {found['rows']} rows, {found['rows_with_undo']} with undo, {found['refused']} refused"
            + (f" ({refusals})" if refusals else "")
            + f"  {found['folder']}"
            + ("" if found["built"] else "  (there already)")
        )
    )
    if "sampled" in found:
        print(line(f"{experiment.id}  answers of the model: {found['sampled']}"))


@app.command("inspect")
def inspect(
    experiment: Annotated[str, typer.Argument(metavar="ID|FOLDER", help="Experiment id, or a folder with rows.")],
    row: Annotated[str | None, typer.Argument(metavar="[ROW]", help="Number of one row, from 0, or its id.")] = None,
    refused: Annotated[
        bool, typer.Option("--refused", help="List the rows that were refused, with the reason.")
    ] = False,
    output_dir: _lab.OutputDir = _lab.DEFAULT,
    as_json: _lab.Json = False,
) -> None:
    """Show what rows hold: counts and shares, or one row with what was taken back struck through."""
    from unsay.store import rows

    folder = _folder(experiment, output_dir)
    if refused:
        listed = list(rows.refused(folder))
        if as_json:
            _lab.print_json({"schema": 1, "folder": str(folder), "refused": listed})
        else:
            _print_refused(listed)
    elif row is None:
        manifest = rows.manifest(folder)
        if as_json:
            _lab.print_json({**manifest, "folder": str(folder)})
        else:
            _print_manifest(folder, manifest)
    else:
        number, found = _row(folder, row)
        shown = _tokens(found, rows.pieces(folder))
        if as_json:
            _lab.print_json(
                {
                    "schema": 1,
                    "folder": str(folder),
                    "row": number,
                    **found.to_json(),
                    "tokens": [asdict(token) for token in shown],
                },
                data=True,
            )
        else:
            _print_row(number, found, shown, rows.pieces(folder))


def _folder(experiment: str, output_dir: Path) -> Path:
    from unsay.store import rows, shared

    place = Path(experiment)
    if place.is_dir():
        return rows.find(place.absolute())
    lab = _lab.existing(output_dir)
    return rows.find(shared.training_folder(_lab.pick(lab, experiment).folder, lab))


def _row(folder: Path, wanted: str) -> tuple[int, Row]:
    from unsay.errors import StoreError
    from unsay.store import rows

    last, first_id = -1, ""
    for number, row in enumerate(rows.read(folder)):
        if wanted in (str(number), row.id):
            return number, row
        last, first_id = number, first_id or row.id
    reasons = [line for line in rows.refused(folder) if line.get("id") == wanted]
    if reasons:
        raise StoreError(f"row {wanted} was refused: {reasons[0].get('reason')}")
    raise StoreError(f"there is no row {wanted!r} in {folder}; rows are 0 to {last}, or ids such as {first_id!r}")


def _tokens(row: Row, pieces: Pieces) -> list[Token]:
    """Say what becomes of every token, from its letter: the letters were checked when the row was built."""
    from unsay.report.trace import Token, TokenKind

    kinds: dict[str, TokenKind] = {"c": "kept", "k": "kept", "e": "taken back", "u": "undo"}
    last = len(row.ids) - 1
    return [
        Token(at, id, pieces.of(id), "end" if at == last else kinds[letter])
        for at, (id, letter) in enumerate(zip(row.ids, row.provenance, strict=True))
    ]


def _print_row(number: int, row: Row, shown: list[Token], pieces: Pieces) -> None:
    from unsay.report import terminal
    from unsay.report.escape import line
    from unsay.report.escape import terminal as safe

    console = terminal.console()
    styled = console.is_terminal and not console.no_color
    console.print(f"row {number}: {line(row.id)}", style="bold")
    console.print("\nprompt", style="bold cyan")
    console.print(safe("".join(pieces.of(id) for id in row.prompt_ids)), soft_wrap=True)
    console.print("\nanswer" + ("" if styled else "  ([-…-] is taken back)"), style="bold cyan")
    console.print(terminal.trace(shown, styled=styled), soft_wrap=True)
    console.print("\nids, with where each came from", style="bold cyan")
    console.print(" ".join(f"{id}{letter}" for id, letter in zip(row.ids, row.provenance, strict=True)), soft_wrap=True)
    counts = ", ".join(f"{row.provenance.count(letter)} {kind} ({letter})" for letter, kind in _LETTERS.items())
    console.print(f"\ntokens: {len(row.prompt_ids)} prompt, {counts}", soft_wrap=True)


def _print_refused(listed: list[dict[str, Any]]) -> None:
    from unsay.report import terminal
    from unsay.report.escape import line

    console = terminal.console()
    for each in listed:
        console.print(line(f"{each.get('id')}  {each.get('kind')}  {each.get('reason')}"), soft_wrap=True)
    console.print(f"{len(listed)} refused")


def _print_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    from unsay.report import terminal
    from unsay.report.escape import line

    console = terminal.console()
    for name, text in _facts(folder, manifest):
        console.print(f"{name:<11} {line(text)}", soft_wrap=True)
    tokens, shares = manifest["tokens"], manifest["shares"]
    console.print(f"\n{'tokens':<11} {'count':>10} {'share':>8}", style="bold")
    for name, count in tokens.items():
        console.print(f"{line(str(name)):<11} {count:>10} {100 * shares[name]:>6.2f} %")


def _facts(folder: Path, manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    settings, facts = manifest["settings"], manifest["facts"]
    undo = settings.get("undo")
    yield "folder", str(folder)
    yield (
        "rows",
        f"{manifest['rows']}, {manifest['rows_with_undo']} of them with undo, the longest {manifest['longest']} tokens",
    )
    refusals = ", ".join(f"{count} {kind}" for kind, count in manifest["refusals"].items())
    yield "refused", f"{manifest['refused']}" + (f": {refusals}; --refused lists them" if refusals else "")
    if undo is None:
        yield "strategy", "none: plain answers"
    else:
        options = ", ".join(f"{name}={value}" for name, value in (settings.get("strategy") or {}).items())
        yield "strategy", f"{undo['strategy']} ({options})"
        yield "clean share", str(undo["clean_share"])
        yield "mask", str(undo["mask"])
    if candidates := settings.get("candidates"):
        yield "candidates", ", ".join(f"{name} {value}" for name, value in candidates.items())
    yield "seed", str(settings["seed"])
    if compared := facts.get("compared_with"):
        yield "compared", ", ".join(f"{count} evaluation items of {name}" for name, count in compared.items())
    for name, reason in (facts.get("not_compared_with") or {}).items():
        yield "unread", f"the evaluation items of {name}: {reason}"
    yield "tokenizer", str(facts.get("tokenizer", "-"))
    yield "undo table", str(settings.get("undo_table") or "-")
    yield "data hash", str(facts.get("data_hash", "-"))
    yield "rows hash", str(manifest["rows_sha256"])


@app.command("export")
def export(
    experiment: Annotated[str, typer.Argument(metavar="ID|FOLDER", help="Experiment id, or a folder with rows.")],
    file: Annotated[Path, typer.Argument(help="The file to write, JSON Lines.")],
    to: Annotated[_Target, typer.Option("--to", help="The trainer: trl takes ids, llamafactory takes text.")],
    style: Annotated[_Style, typer.Option(help="LLaMA-Factory's format.")] = _Style.ALPACA,
    output_dir: _lab.OutputDir = _lab.DEFAULT,
    as_json: _lab.Json = False,
) -> None:
    """Write rows for another trainer: ids, or text where it becomes the same ids again."""
    from unsay import catalog

    folder = _folder(experiment, output_dir)
    found = catalog.plugin("methods", "sft")().export(folder, file, to=to.value, style=style.value)
    if as_json:
        _lab.print_json({"schema": 1, "folder": str(folder), "to": to.value, **found})
        return
    refused = f"; {found['refused']} refused, listed in {found['refused_file']}" if found["refused"] else ""
    print(f"{found['rows']} rows in {found['file']}{refused}")
    if to is _Target.LLAMAFACTORY:
        _lab.say("LLaMA-Factory has no mask within an answer: it trains on mistakes, too.")
