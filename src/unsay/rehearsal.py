"""A whole plan in small, before the true one: every stage for real, on tiny random models of the same architecture.

    found = rehearse(plan, plan.experiments, Options(), watcher)
    print(found.ok, found.experiments[0].stages, found.experiments[0].estimate)

Every experiment runs on 8 questions and takes 2 training steps, from data to page, through the executor and the methods
of a true run, in a lab of its own: `.rehearsal` below the lab folder, which nothing else reads and the next rehearsal
replaces. What came out then says what the true run will want. Nothing is downloaded: questions of the hub that are not
in the local cache are replaced by generated ones, and what is replaced is said. Imports nothing heavy.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from unsay import catalog, models, preflight, runner
from unsay.backend import SERVER
from unsay.config import Dataset, Experiment, Model, Plan
from unsay.errors import UnsayError
from unsay.estimate import ASSUMPTIONS, BATCH, GPU, Estimate, Load, estimate, parameters
from unsay.job import Event
from unsay.models import Shape
from unsay.planning import train_rows
from unsay.records import SCHEMA, Row
from unsay.runner import Ended, Options, Watcher
from unsay.settings import Settings
from unsay.store import layout, read, write

ITEMS = 8
STEPS = 2
NEW_TOKENS = 16
TINY = 64 * 1024**2
"""Bytes of weights up to which a model rehearses for itself."""

STAGES = ("open", "data", "train", "evaluate", "page")
"""`open`: the model, its tokenizer and the dataset."""
GENERATED, GSM8K = "wordproblems", "gsm8k"
SIZES = {"openai/gsm8k": (7473, 1319)}
"""Training and test questions of datasets on the hub."""


@dataclass(frozen=True)
class Stage:
    """One stage of one experiment: `status` is ok, failed or not reached."""

    name: str
    status: str
    seconds: float | None = None


@dataclass(frozen=True)
class Rehearsed:
    """How one experiment went. `notes` say what stood in for what; `warnings` what the true run will run into."""

    id: str
    experiment: Experiment
    stages: tuple[Stage, ...]
    error: str | None = None
    advice: str | None = None
    log: Path | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    estimate: Estimate | None = None
    rough: bool = False
    """Whether the token counts behind the estimate are another tokenizer's, or of other questions."""

    @property
    def ok(self) -> bool:
        return all(stage.status == "ok" for stage in self.stages)

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "title": self.experiment.title,
            "folder": self.experiment.folder,
            "line": self.experiment.line,
            "ok": self.ok,
            "stages": [{"stage": each.name, "status": each.status, "seconds": each.seconds} for each in self.stages],
            "error": self.error,
            "advice": self.advice,
            "log": None if self.log is None else str(self.log),
            "notes": list(self.notes),
            "warnings": list(self.warnings),
            "estimate": None if self.estimate is None else self.estimate.to_json(),
            "estimate_is_rough": self.rough,
        }


@dataclass(frozen=True)
class Rehearsal:
    """How a plan went. `findings` are what would stop the true run on this machine before it begins."""

    plan: Plan
    folder: Path
    findings: tuple[str, ...]
    experiments: tuple[Rehearsed, ...]
    seconds: float
    free: int
    """Free bytes where the true results go."""

    @property
    def ok(self) -> bool:
        return not self.findings and all(each.ok for each in self.experiments)

    @property
    def page(self) -> Path:
        return layout.page(_lab(self.folder))

    @property
    def disk(self) -> int:
        """Bytes that stay on disk after the true run and the most that is there for a moment, downloads once."""
        found = [each.estimate for each in self.experiments if each.estimate is not None]
        passing = ("checkpoints", "merged for the check", "download")
        kept = sum(size for each in found for what, size in each.disk.items() if what not in passing)
        return kept + max((sum(each.disk.get(what, 0) for what in passing[:2]) for each in found), default=0)

    @property
    def downloads(self) -> int:
        sizes = {
            each.experiment.model.path: each.estimate.disk["download"] for each in self.experiments if each.estimate
        }
        return sum(sizes.values())

    @property
    def hours(self) -> float | None:
        found = [each.estimate for each in self.experiments]
        if any(each is None or not each.hours for each in found):
            return None
        return sum(sum(each.hours.values()) for each in found if each is not None)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "file": str(self.plan.file),
            "folder": str(self.folder),
            "page": str(self.page),
            "ok": self.ok,
            "seconds": round(self.seconds, 1),
            "findings": list(self.findings),
            "experiments": [each.to_json() for each in self.experiments],
            "total": {
                "hours_at_most": None if self.hours is None else round(self.hours, 3),
                "disk_bytes": self.disk,
                "download_bytes": self.downloads,
                "free_bytes": self.free,
            },
            "gpu": GPU.name,
            "assumptions": list(ASSUMPTIONS),
        }


def rehearse(
    plan: Plan, chosen: Sequence[Experiment], options: Options, watcher: Watcher, *, name: str | None = None
) -> Rehearsal:
    """Rehearse experiments of a plan, in its order; one that fails does not stop the next.

    `name` is what to call the plan's file in messages. The report is also written beside the rehearsal's page.
    """
    began = time.monotonic()
    folder = plan.output_dir / layout.REHEARSAL
    with write.lock(folder):
        _clear(folder)
        findings = preflight.check(dataclasses.replace(plan, experiments=tuple(chosen)), name=name)
        stage = _Stage(plan, folder, chosen)
        played = stage.cast()
        seen = _Seen(watcher)
        error = None
        try:
            with _offline():
                runner.run(stage.plan, played, _small(options), seen)
        except UnsayError as problem:  # nothing of one experiment: the page, or a folder that cannot be written
            error = str(problem)
        found = [stage.outcome(each, seen, options, error) for each in chosen]
        free = shutil.disk_usage(preflight.existing(plan.output_dir)).free
        result = Rehearsal(plan, folder, tuple(findings), tuple(found), time.monotonic() - began, free)
        if result.disk > free:
            room = f"{plan.output_dir}: the true run wants about {size(result.disk)}, {size(free)} are free; make room"
            result = dataclasses.replace(result, findings=(*result.findings, room))
        write.write_json(folder / layout.REHEARSAL_REPORT, result.to_json())
    return result


def size(count: float) -> str:
    """Write a number of bytes as people read it."""
    return f"{count / 1024**3:.1f} GiB" if count >= 0.05 * 1024**3 else f"{max(count, 1) / 1024**2:.0f} MiB"


def _lab(folder: Path) -> Path:
    # A folder deeper, as the page lies beside the lab folder: it must not become the true one.
    return folder / "outputs"


def _small(options: Options) -> Options:
    device = "cpu" if options.device == "auto" else options.device
    return dataclasses.replace(
        options,
        limit=ITEMS,
        force=False,
        device=device,
        batch_size=min(ITEMS, options.batch_size or ITEMS),
        rehearsal=True,
    )


def _clear(folder: Path) -> None:
    """Remove what the last rehearsal left; the claims stay."""
    for item in folder.iterdir():
        if item.name.startswith(layout.CLAIM_PREFIX):
            continue
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item)
        else:
            item.unlink()


@contextmanager
def _offline() -> Iterator[None]:
    """Keep the processes that are started from asking the hub."""
    names = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# -- who plays whom -----------------------------------------------------------------------------------------------


@dataclass
class _Part:
    """What plays a model: the tiny one, what the true one looks like, and what to say about it."""

    model: Model
    shape: Shape | None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    own_tokenizer: bool = True
    download: int = 0
    error: str | None = None


class _Stage:
    """The plan of the rehearsal, and what stands in for what in it."""

    def __init__(self, plan: Plan, folder: Path, chosen: Sequence[Experiment]) -> None:
        self.true_plan = plan
        self.folder = folder
        self.chosen = list(chosen)
        self.parts: dict[Model, _Part] = {}
        self.data: dict[str, tuple[Dataset, list[str]]] = {}
        self.plan = dataclasses.replace(plan, output_dir=_lab(folder), experiments=())

    def cast(self) -> list[Experiment]:
        """Make what stands in; return the experiments that can be played."""
        trained = {experiment.folder for experiment in self.chosen if experiment.train_folder is not None}
        orders: list[dict[str, Any]] = []
        for model in dict.fromkeys(each.model for each in self.chosen):
            self.parts[model] = self._part(model, trained, orders)
        self._build(orders)
        played = []
        for experiment in self.chosen:
            if experiment.dataset.name not in self.data:
                self.data[experiment.dataset.name] = self._dataset(experiment.dataset)
            if self.parts[experiment.model].error is None:
                played.append(self._small(experiment))
        self.plan = dataclasses.replace(self.plan, experiments=tuple(played))
        return played

    def _small(self, experiment: Experiment) -> Experiment:
        part = self.parts[experiment.model]
        return dataclasses.replace(
            experiment,
            id=runner.known_id(self.true_plan.output_dir, experiment),
            model=part.model,
            dataset=self.data[experiment.dataset.name][0],
            settings=small_settings(experiment.settings, own_tokenizer=part.own_tokenizer),
        )

    # -- models -------------------------------------------------------------------

    def _part(self, model: Model, trained: set[str], orders: list[dict[str, Any]]) -> _Part:
        """Decide what plays a model; one that has to be made is ordered."""
        in_plan = model.experiment in trained
        plain = dataclasses.replace(model, experiment=model.experiment if in_plan else None, experiment_identity=None)
        folder = Path(model.path)
        if model.is_local and 0 < _weights(folder) <= TINY:
            return _Part(
                plain if in_plan else model,
                _local_shape(folder),
                [f"{model.name}: the model itself, as small as it is"],
            )
        config = folder / "config.json" if model.is_local else _cached(model.path, model.revision, "config.json")
        local = model.is_local or _cached(model.path, model.revision, "tokenizer.json") is not None
        shape = _local_shape(config.parent) if config is not None else None
        shape = shape or models.known_shape(model.path)
        made = self.folder / "models" / re.sub(r"[^A-Za-z0-9._-]", "_", model.name) / str(len(orders))
        stand_in = dataclasses.replace(plain, path=str(made), revision=None, adapter=None, trust_remote_code=False)
        if model.backend is not None and model.backend.kind == SERVER:
            stand_in = dataclasses.replace(stand_in, backend=None)
        part = _Part(stand_in, shape, own_tokenizer=local and config is not None)
        if model.adapter is not None or (model.experiment is not None and not in_plan):
            part.notes.append(f"{model.name}: without its adapter, which fits the true weights only")
        if model.backend is not None and stand_in.backend is None:
            part.notes.append(
                f"{model.name}: generated here, as the server at {model.backend.url} has the true weights"
            )
        if not model.is_local and not preflight.is_cached(model.path, revision=model.revision):
            part.download = 0 if shape is None else 2 * parameters(shape)
            gated = ", and it is gated: access shows only when it is asked for" if preflight.needs_token(model) else ""
            part.warnings.append(
                f"{model.path} is not in the local cache{gated}; `hf download {model.path} config.json` tries it"
            )
        if not part.own_tokenizer and shape is None:
            part.error = (
                f"nothing on this machine says what {model.path} looks like; "
                f"`hf download {model.path} config.json tokenizer.json tokenizer_config.json` is enough for a rehearsal"
            )
            return part
        orders.append(
            {
                "folder": str(made),
                "path": model.path,
                "revision": model.revision,
                "local": part.own_tokenizer,
                "shape": None if shape is None else dataclasses.asdict(shape),
                "adapter": model.adapter,
            }
        )
        return part

    def _build(self, orders: list[dict[str, Any]]) -> None:
        """Have the models made, in one process, and note how they are."""
        if not orders:
            return
        file = self.folder / "models" / "order.json"
        write.write_text(file, json.dumps(orders))
        command = [sys.executable, "-m", "unsay.stand_in", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        answers = {answer["folder"]: answer for line in done.stdout.splitlines() if (answer := _answer(line))}
        for part in self.parts.values():
            if not any(order["folder"] == part.model.path for order in orders):
                continue
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            answer = answers.get(part.model.path, {"error": f"the process that makes it ended: {last}"})
            part.error = answer.get("error")
            if part.error is not None:
                continue
            whose = "its own tokenizer" if part.own_tokenizer else "the bundled tokenizer and a template of our own"
            rough = "" if part.own_tokenizer else "; prompt lengths are estimates, likely too long"
            small = f"a random {answer['type']} of {answer['layers']} layers and {answer['rows']:,} tokens"
            part.notes.insert(0, f"{part.model.name}: {small}, {whose}{rough}")

    # -- data ---------------------------------------------------------------------

    def _dataset(self, dataset: Dataset) -> tuple[Dataset, list[str]]:
        """Return what plays a dataset: itself where its questions are here, generated ones in GSM8K's format else."""
        if dataset.is_local or dataset.path is None or preflight.is_cached(dataset.path, "datasets"):
            return dataset, []
        if dataset.task not in (None, GSM8K):
            return dataset, []  # only the task's code knows the columns it wants: it has to find its own
        folder = self.folder / "data" / dataset.name
        catalog.load("datasets", GENERATED).write(folder, train=64, dev=8, test=64)
        made = Dataset(dataset.name, path=str(folder), task=dataset.task, format=GSM8K)
        note = f"{dataset.name}: generated questions in GSM8K's format, as {dataset.path} is not in the local cache"
        unseen = "; whether its columns and answers are as the file says could not be looked at"
        return made, [note + (unseen if dataset.columns or dataset.answer else "")]

    # -- afterwards ---------------------------------------------------------------

    def outcome(self, experiment: Experiment, seen: _Seen, options: Options, error: str | None) -> Rehearsed:
        part = self.parts[experiment.model]
        data_notes = self.data[experiment.dataset.name][1]
        small = self._small(experiment)
        id = next((each.id for folder, each in seen.experiments.items() if folder == experiment.folder), None)
        id = id or small.id or "(new)"
        notes = (*part.notes, *data_notes, *_replaced(experiment.settings, small.settings))
        names = [name for name in STAGES if experiment.train_folder is not None or name not in ("data", "train")]
        if part.error is not None:
            advice = "nothing of it was tried"
            return Rehearsed(id, experiment, _stages(names, {}, "open"), part.error, advice, None, notes)
        ended = seen.ended_as.get(experiment.folder)
        timings = {"open": None, **seen.timings.get(experiment.folder, {})}
        result = layout.limited(self.plan.output_dir / experiment.folder, ITEMS)
        if ended is None or ended.status not in ("completed", "skipped"):
            failed = seen.current.get(experiment.folder, "open")
            message = error or (ended.error if ended else None) or "it was not reached"
            advice = _advice(experiment, ended)
            return Rehearsed(
                id, experiment, _stages(names, timings, failed), message, advice, ended.log if ended else None, notes,
                tuple(part.warnings),
            )  # fmt: skip
        wrong = error or self._page_without(id)
        stages = _stages(names, {**timings, "page": None}, "page" if wrong else None)
        load = self._load(experiment, part, result, options)
        warnings = (*part.warnings, *_record_warnings(result), *self._foreseen(experiment, part, load))
        return Rehearsed(
            id, experiment, stages, wrong, None, None, notes, warnings,
            estimate=None if part.shape is None else estimate(part.shape, experiment.settings, load),
            rough=not part.own_tokenizer or bool(data_notes),
        )  # fmt: skip

    def _page_without(self, id: str) -> str | None:
        page = layout.page(self.plan.output_dir)
        text = page.read_text(encoding="utf-8") if page.is_file() else ""
        return None if id in text else f"the page {page} does not show {id}"

    def _load(self, experiment: Experiment, part: _Part, result: Path, options: Options) -> Load:
        """Measure what the rehearsal left, for as many questions as there really are."""
        prompts = [len(prompt.ids) for prompt in read.prompts(result)]
        sampled = sum(len(trace.ids) for trace in read.traces(result))
        traces = (result / layout.TRACES).stat().st_size
        files = sum(file.stat().st_size for file in result.iterdir() if layout.is_result_name(file.name))
        rows = _rows(self.plan.output_dir / (experiment.train_folder or "")) if experiment.train_folder else []
        training = experiment.settings.training
        train, test = counts(experiment.dataset)
        if train is not None and training is not None and training.max_samples is not None:
            train = min(train, training.max_samples)
        lengths = [len(row.prompt_ids) + len(row.ids) for row, _ in rows]
        undo = experiment.settings.undo
        return Load(
            items=test,
            prompt_tokens=round(sum(prompts) / len(prompts)),
            longest_prompt=max(prompts),
            batch_size=options.batch_size or BATCH,
            train_rows=train,
            row_tokens=round(sum(lengths) / len(lengths)) if lengths else 0,
            longest_row=max(lengths, default=0),
            answer_tokens=round(sum(len(row.ids) for row, _ in rows) / len(rows)) if rows else 0,
            control_tokens=0 if undo is None else 1,
            answer_bytes=(files - traces) / len(prompts),
            token_bytes=traces / max(sampled, 1),
            row_bytes=sum(count for _, count in rows) / len(rows) if rows else 0.0,
            download=part.download,
        )

    def _foreseen(self, experiment: Experiment, part: _Part, load: Load) -> Iterator[str]:
        """Yield what the small run could not show."""
        settings = experiment.settings
        if part.shape is None:
            yield "no estimate: not a plain decoder, or a mixture of experts"
            return
        room = part.shape.max_length - settings.decode.max_new_tokens
        if load.longest_prompt > room:
            yield (
                f"a prompt of {load.longest_prompt} tokens and {settings.decode.max_new_tokens} new ones do not fit "
                f"into the model's {part.shape.max_length}; the prompt's beginning would be cut"
            )
        if settings.training is not None:
            refused = _refused(self.plan.output_dir / (experiment.train_folder or ""))
            if refused:
                yield f"{len(refused)} of {ITEMS} training rows were refused, the first one because: {refused[0]}"
        least = estimate(part.shape, settings, load).least
        if least > GPU.memory:
            yield f"about {size(least)} of GPU memory is more than one {GPU.name} has; take a smaller model or batch"


def small_settings(settings: Settings, *, own_tokenizer: bool = True) -> Settings:
    """Return the settings of the rehearsal: the same kinds of work, a handful of each."""
    decode = dataclasses.replace(settings.decode, max_new_tokens=min(settings.decode.max_new_tokens, NEW_TOKENS))
    training, undo = settings.training, settings.undo
    if training is not None:
        changes: dict[str, Any] = {
            "max_samples": min(training.max_samples or ITEMS, ITEMS),
            "max_steps": STEPS,
            "per_device_train_batch_size": min(training.per_device_train_batch_size, 2),
            "gradient_accumulation_steps": 1,
            "logging_steps": 1,
            "save_steps": 1,
        }
        if getattr(training, "val_size", 0.0):
            changes["val_size"] = 0.25  # of eight rows a smaller share is none
            changes["eval_steps"] = 1
        if getattr(training, "report_to", "none") != "none":
            changes["report_to"] = "none"  # what is rehearsed is not worth a curve
        training = dataclasses.replace(training, **changes)
    if undo is not None and "candidates" in undo.options and not own_tokenizer:
        undo = dataclasses.replace(undo, strategy="random_tokens", options={})  # the candidates are other ids
    return dataclasses.replace(settings, decode=decode, training=training, undo=undo)


def counts(dataset: Dataset) -> tuple[int | None, int | None]:
    """Return how many questions there are to train on and to score; None where only the hub knows."""
    if dataset.path is None:
        if dataset.format is None:
            return None, None
        sizes = inspect.signature(catalog.load("datasets", dataset.format).write).parameters
        return int(sizes["train"].default), int(sizes["test"].default)
    if not dataset.is_local:
        return SIZES.get(dataset.path, (None, None))
    train, place = train_rows(dataset), Path(dataset.path)
    files = {file.stem: file for file in preflight.split_files(place)} if place.is_dir() else {}
    scored = files.get("test") or files.get("dev")
    if dataset.dev_share or scored is None:
        whole = train_rows(dataclasses.replace(dataset, dev_share=0.0))
        share = dataset.dev_share or 1.0
        return train, None if whole is None else round(whole * share)
    return train, train_rows(dataclasses.replace(dataset, path=str(scored), dev_share=0.0))


def _replaced(settings: Settings, small: Settings) -> Iterator[str]:
    if settings.undo is not None and small.undo is not None and settings.undo.strategy != small.undo.strategy:
        yield f"{small.undo.strategy} for {settings.undo.strategy}, whose candidates are another tokenizer's ids"


class _Seen:
    """Passes events on and remembers how far each experiment came."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher
        self.experiments: dict[str, Experiment] = {}
        self.timings: dict[str, dict[str, float | None]] = {}
        self.ended_as: dict[str, Ended] = {}
        self.current: dict[str, str] = {}
        self._since = 0.0

    def started(self, experiment: Experiment) -> None:
        self.experiments[experiment.folder] = experiment
        self.timings[experiment.folder] = {}
        self._since = time.monotonic()
        self.watcher.started(experiment)

    def event(self, experiment: Experiment, event: Event) -> None:
        if event["event"] == "stage":
            self._close(experiment)
            self.current[experiment.folder] = event["stage"]
        self.watcher.event(experiment, event)

    def later(self, experiment: Experiment, why: str) -> None:
        self.watcher.later(experiment, why)

    def ended(self, ended: Ended) -> None:
        self._close(ended.experiment)
        if ended.status == "completed":
            self.current.pop(ended.experiment.folder, None)
        self.experiments[ended.experiment.folder] = ended.experiment
        self.ended_as[ended.experiment.folder] = ended
        self.watcher.ended(ended)

    def _close(self, experiment: Experiment) -> None:
        stage, now = self.current.get(experiment.folder, "open"), time.monotonic()
        self.timings.setdefault(experiment.folder, {})[stage] = round(now - self._since, 1)
        self._since = now


def _stages(names: Sequence[str], timings: Mapping[str, float | None], failed: str | None) -> tuple[Stage, ...]:
    """Return the stages in order: those before the failed one are ok, those behind it were not reached."""
    stages = []
    status = "ok"
    for name in names:
        if name == failed:
            status = "failed"
        stages.append(Stage(name, status, timings.get(name) if status != "not reached" else None))
        if status == "failed":
            status = "not reached"
    return tuple(stages)


def _advice(experiment: Experiment, ended: Ended | None) -> str:
    """Say what to do about a failure whose message may be a library's."""
    if ended is None:
        return "run the rehearsal again"
    where = f"; the whole of it is in {ended.log}" if ended.log else ""
    if experiment.dataset.path is None and experiment.dataset.task is not None:
        return f"a task's questions must be here: give them as `path:`, or run it once with a network{where}"
    return f"the true run would fail in the same way{where}"


def _record_warnings(result: Path) -> tuple[str, ...]:
    """Return what the evaluation warned of, less what comes from how short the answers may be here."""
    record = read.record(result)
    warnings = () if record is None else record.warnings
    return tuple(each for each in warnings if "cut by a limit" not in each)


# -- what is on this machine --------------------------------------------------------------------------------------


def _answer(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and "folder" in value else None


def _weights(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder.is_dir() else 0


def _local_shape(folder: Path) -> Shape | None:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return models.shape_of(config) if isinstance(config, dict) else None


def _cached(hub_id: str, revision: str | None, name: str) -> Path | None:
    """Return a file of a model's newest snapshot in the hub's local cache."""
    snapshots = preflight.hub_cache() / f"models--{hub_id.replace('/', '--')}" / "snapshots"
    found = sorted(snapshots.glob(f"*/{name}"), key=lambda file: file.stat().st_mtime)
    exact = [file for file in found if revision is not None and file.parent.name == revision]
    return next(iter(exact or found[::-1]), None)


def _rows(folder: Path) -> list[tuple[Row, int]]:
    """Return the training rows of the rehearsal and the bytes each takes."""
    file = layout.data(folder) / layout.ROWS
    if not file.is_file():
        return []
    with file.open("rb") as lines:
        return [(Row.from_json(json.loads(line)), len(line)) for line in islice(lines, ITEMS) if line.strip()]


def _refused(folder: Path) -> list[str]:
    file = layout.data(folder) / layout.REFUSED
    if not file.is_file():
        return []
    return [str(json.loads(line).get("reason")) for line in file.read_text(encoding="utf-8").splitlines() if line]
