"""Results of other tools become experiments of a lab: found, read, scored again where their answers are there.

The originals are never touched; a record names them with their checksums. What was published and cannot be recomputed
is kept with the reason; what cannot be verified is said per experiment. Importing the same files again adds nothing.

    collected = collect([Path("saves")], Options())
    for outcome in put(Path("outputs"), collected.found, Options()):
        print(outcome.id, outcome.did)
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unsay import catalog, metrics, prompt_checks, scoring, stats
from unsay.errors import StoreError, UnsayError
from unsay.handkept_page import Row, files_of
from unsay.identity import sha256_of
from unsay.importers import (
    UNKNOWN,
    File,
    ForeignError,
    Found,
    Importer,
    Item,
    Options,
    Refused,
    keys_of,
    place_names,
    regular,
    sha256,
    shortened,
)
from unsay.metrics.exact_match import FLEXIBLE, STRICT
from unsay.prompt_checks import PromptFacts
from unsay.records import Attempt, ExperimentRecord, ItemScores, MetricValue, Sample, next_id
from unsay.store import layout, read, write
from unsay.store.read import Entry

FORMAT = 1
"""Version of what is taken over from foreign files: raised, everything imported again replaces what was there."""
TEXTS_PREFIX = ("bleu", "rouge")
FINAL = re.compile(r"####|^\s*-?[$0-9.,]+\s*$")
"""A reference with a final answer that GSM8K's exact match can find, or that is nothing but one."""
PASSED_OVER = {".git", ".venv", "node_modules", "__pycache__", layout.SUPERSEDED}
FAMILIES = (
    "bloom", "deepseek", "falcon", "gemma", "glm", "gpt2", "gpt-2", "granite", "llama", "mistral", "mixtral", "olmo",
    "opt", "phi", "pythia", "qwen", "smollm", "t5", "tinyllama", "vicuna", "yi",
)  # fmt: skip
_FAMILY = re.compile(rf"(?<![a-z])({'|'.join(map(re.escape, FAMILIES))})(?![a-z])")
_TOOL_NAMES = re.compile(r"llama[-_ .]?(?:factory|cpp|board)|llamafactory")

Progress = Callable[[str, int, int | None], None]
"""Called with what is being read, how many of its answers were scored, and of how many."""


@dataclass(frozen=True)
class Collected:
    """What the files under some paths are: experiments, and files that were refused."""

    found: tuple[Found, ...]
    refused: tuple[Refused, ...]
    files: int


@dataclass(frozen=True)
class Outcome:
    """What became of one experiment: `did` is added, updated, unchanged or refused."""

    found: Found
    did: str
    id: str = ""
    folder: str = ""
    error: str | None = None
    warnings: tuple[str, ...] = ()
    verified: tuple[str, ...] = ()


# -- finding ----------------------------------------------------------------------


def collect(paths: Sequence[Path], options: Options) -> Collected:
    """Find the experiments in files and folders (walked whole); never raises for what is in a file.

    Raises StoreError where a path does not exist.
    """
    files = list(dict.fromkeys(_files(paths)))
    found: list[Found] = []
    refused: list[Refused] = []
    claimed: set[Path] = set()
    for name in catalog.names("importers"):
        importer: Importer = catalog.plugin("importers", name)()
        here, not_here = importer.find(files, options)
        found += here
        refused += not_here
        claimed |= {file.path for file in files if importer.claims(file)}
    settled = {path for each in found for path in each.files} | {each.path for each in refused}
    for file in files:
        if file.path in settled or not (file.named or file.path in claimed):
            continue
        if file.path in claimed and not file.named and file.name == "adapter_config.json":
            continue  # an adapter is no result; it only says more about one beside it
        refused.append(Refused(file.path, _what_is_wrong(file)))
    return Collected(tuple(found), tuple(refused), len(files))


def _files(paths: Iterable[Path]) -> Iterator[File]:
    for path in paths:
        place = path.absolute()
        if place.is_dir():
            yield from _walk(place)
        elif regular(place):
            yield File(place, named=True)
        else:
            kind = "is neither a file nor a folder" if place.exists() else "does not exist"
            raise StoreError(f"{path} {kind}. Name results of lm-eval or LLaMA-Factory, or a folder with some.")


def _walk(folder: Path) -> Iterator[File]:
    for place, folders, names in os.walk(folder):
        if layout.EXPERIMENT in names:  # one of this tool's own
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if name not in PASSED_OVER)
        for name in sorted(names):
            path = Path(place, name)
            if path.suffix in (".json", ".jsonl", ".yaml", ".yml") and regular(path):
                yield File(path)


def _what_is_wrong(file: File) -> str:
    wanted = (
        "expected lm-eval's results or samples, LLaMA-Factory's predictions, scores or logs, or a list of solutions"
    )
    from unsay.importers import document, first_line

    try:
        value = first_line(file.path) if file.path.suffix == ".jsonl" else document(file.path)
    except ForeignError as error:
        return str(error)
    got = keys_of(value) if isinstance(value, dict) else "something else"
    return f"{wanted}, got {got}"


# -- taking over ------------------------------------------------------------------


def put(
    output_dir: Path,
    found: Sequence[Found],
    options: Options,
    *,
    page: Sequence[Row] = (),
    processes: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Outcome]:
    """Write every experiment into the lab, one after the other; one that fails does not stop the next.

    `page` are the rows of a hand-kept page: they give ids, notes and names to the experiments whose files they link.
    """
    lab = output_dir.absolute()
    lab.mkdir(parents=True, exist_ok=True)
    tell = progress or (lambda name, done, total: None)
    with write.lock(lab, wait=60.0):
        entries = [entry for entry in read.find(lab) if entry.record is not None]
        placed = _Placed(lab, entries, page)
        seen: set[str] = set()
        for each in found:
            try:
                originals = [_original(path) for path in each.files]
                identity = _identity(each, originals, options)
                if identity in seen:
                    yield Outcome(each, "unchanged", *placed.where(identity))
                    continue
                seen.add(identity)
                yield placed.take_over(each, originals, identity, options, processes, tell)
            except UnsayError as error:
                yield Outcome(each, "refused", error=str(error))


def _original(path: Path) -> dict[str, Any]:
    checksum, size = sha256(path)
    return {"path": os.fsdecode(os.fsencode(path)), "bytes": size, "sha256": checksum}


def _identity(found: Found, originals: Sequence[Mapping[str, Any]], options: Options) -> str:
    return sha256_of(
        {
            "import": FORMAT,
            "tool": found.tool,
            "part": found.part,
            "files": sorted(str(each["sha256"]) for each in originals),
            "options": {key: value for key, value in dataclasses.asdict(options).items() if value is not None},
        }
    )


@dataclass
class _Placed:
    """Where imported experiments are in a lab, under its lock."""

    lab: Path
    entries: list[Entry]
    page: Sequence[Row]
    by_identity: dict[str, Entry] = field(init=False)

    def __post_init__(self) -> None:
        self.by_identity = {
            entry.record.identity: entry for entry in self.entries if entry.record and entry.record.imported
        }

    def where(self, identity: str) -> tuple[str, str]:
        entry = self.by_identity.get(identity)
        return (entry.record.id if entry.record else "", entry.relative) if entry else ("", "")

    def take_over(
        self,
        found: Found,
        originals: Sequence[Mapping[str, Any]],
        identity: str,
        options: Options,
        processes: int | None,
        tell: Progress,
    ) -> Outcome:
        row = self._row(found)
        known = self.by_identity.get(identity)
        if known is not None and known.record is not None and known.record.status == found.status:
            return Outcome(found, "unchanged", known.record.id, known.relative)
        earlier = known or self._earlier(found, row)
        found, noted = _with_row(found, row)
        id, notes = (row.id, row.notes) if row is not None else ("", "")
        if earlier is not None and earlier.record is not None:
            id, notes = earlier.record.id, notes or earlier.record.notes
        self._refuse_taken(id, earlier)
        id = id or next_id(entry.record.id for entry in self.entries if entry.record)
        folder = earlier.folder if earlier is not None else self.lab / _place(found, identity)
        with write.lock(folder):
            if earlier is not None and earlier.record is not None and (folder / layout.EXPERIMENT).exists():
                write.set_aside(folder, earlier.record)
            record = _started(found, originals, identity, id, notes)
            write.write_json(folder / layout.EXPERIMENT, record.to_json())
            try:
                record, verified = _write(folder, record, found, options, noted, processes, tell)
            except BaseException as error:
                record = replace(record, status="failed", attempts=(replace(record.attempts[0], error=str(error)),))
                write.write_json(folder / layout.EXPERIMENT, record.to_json())
                raise
            finally:
                entry = Entry(folder, folder.relative_to(self.lab).as_posix(), record)
                self.entries = [each for each in self.entries if each.folder != folder] + [entry]
                self.by_identity[identity] = entry
        did = "added" if earlier is None else "updated"
        return Outcome(found, did, id, entry.relative, warnings=record.warnings, verified=verified)

    def _row(self, found: Found) -> Row | None:
        """Return the line of the page that links one of the files: of the page given, or of one taken over earlier."""
        return next((row for row in self.page if files_of(row, found.files)), None)

    def _earlier(self, found: Found, row: Row | None) -> Entry | None:
        """Return what was imported before from the same place, or stands on the page for it."""
        for entry in self.entries:
            record = entry.record
            imported = record.imported if record is not None else None
            if record is None or imported is None:
                continue
            originals: list[dict[str, Any]] = imported.get("files") or [{}]
            if imported.get("part") == found.part and originals[0].get("path") == str(found.files[0]):
                return entry
            if imported.get("tool") == "page" and found.tool != "page":
                kept = Row.from_json(record.facts.get("page"))
                if kept is not None and ((row is not None and row.id == record.id) or files_of(kept, found.files)):
                    return entry
        return None

    def _refuse_taken(self, id: str, earlier: Entry | None) -> None:
        for entry in self.entries:
            if id and entry.record and entry.record.id == id and (earlier is None or entry.folder != earlier.folder):
                raise StoreError(
                    f"id {id} of the page belongs to {entry.relative} in this lab; give one of them another id "
                    "(edit the page, or import into another lab with --output-dir)"
                )


def _place(found: Found, identity: str) -> str:
    parts = [found.model, found.dataset, found.method, *found.config.split("/")]
    slugs = [re.sub(r"[^A-Za-z0-9._+-]+", "-", part).strip("-.")[:60] or "unknown" for part in parts[:8]]
    return "/".join([layout.IMPORTED, *slugs[:-1], f"{slugs[-1]}-{identity[:8]}"])


def _with_row(found: Found, row: Row | None) -> tuple[Found, tuple[str, ...]]:
    """Name an experiment as the hand-kept page does, and say where page and files contradict each other."""
    if row is None or found.tool == "page":
        return found, ()
    said = list(row.contradictions(found.start))
    if row.model and found.model != UNKNOWN and not _same_model(row.model, found.model):
        said.append(f"misleading name: the page says model {row.model}, the files say {found.model}; the files count")
    elif row.model:
        found = replace(found, model=row.model)
    for name in ("dataset", "method", "config"):
        if getattr(row, name):
            found = replace(found, **{name: getattr(row, name)})
    return replace(found, facts={**found.facts, "page": row.to_json()}), tuple(said)


def _same_model(one: str, other: str) -> bool:
    first, second = (re.sub(r"[^a-z0-9]", "", name.casefold()) for name in (one, other))
    return first in second or second in first


def _started(
    found: Found, originals: Sequence[Mapping[str, Any]], identity: str, id: str, notes: str
) -> ExperimentRecord:
    owner = write.owner()
    now = datetime.now(UTC).astimezone().isoformat(timespec="seconds")
    return ExperimentRecord(
        id=id,
        model=found.model,
        dataset=found.dataset,
        method=found.method,
        config=found.config,
        seed=found.seed,
        status="running",
        identity=identity,
        spec={"settings": dict(found.settings)} if found.settings else {},
        notes=notes,
        limit=found.limit,
        attempts=(Attempt(now, owner["host"], owner["pid"], owner["boot_id"]),),
        imported={"tool": found.tool, "part": found.part, "files": [dict(each) for each in originals]},
    )


# -- one experiment ---------------------------------------------------------------


@dataclass
class _Look:
    """What a first pass over the answers shows."""

    n: int = 0
    with_final: int = 0
    labels_with_undo: int = 0
    answers_with_undo: int = 0
    prompt_0: str = ""
    report: prompt_checks.PromptReport | None = None


def _write(
    folder: Path,
    record: ExperimentRecord,
    found: Found,
    options: Options,
    noted: Sequence[str],
    processes: int | None,
    tell: Progress,
) -> tuple[ExperimentRecord, tuple[str, ...]]:
    warnings = [*noted, *found.warnings, *_misleading(found)]
    facts: dict[str, Any] = dict(found.facts)
    values: dict[str, MetricValue] = {}
    files: dict[str, str] = {}
    look = _Look()
    if found.items is not None:
        look = _look(found, options)
        warnings += list(_warned(found, look, options))
        facts["prompts"] = look.report.to_json() if look.report else None
        if look.prompt_0:
            facts["prompt_0"] = shortened(look.prompt_0, 20_000)
        with ExitStack() as stack:
            predictions = stack.enter_context(write.writing(folder / layout.PREDICTIONS))
            scores = stack.enter_context(write.writing(folder / layout.SCORES))

            def keep(item: Item, scored: ItemScores) -> None:
                sample = item.sample
                line = {"prompt": item.prompt or sample.question, "predict": sample.predict, "label": sample.label}
                predictions.write(write.json_line(line))
                scores.write(write.json_line(scored.to_json()))

            scored = _score(found, look, keep, processes, tell, warnings)
        files = {"predictions": layout.PREDICTIONS, "scores": layout.SCORES}
        if found.expected is None or look.n == found.expected:
            values = scored
    elif "samples missing" not in " ".join(warnings) and found.published and found.tool != "page":
        warnings.append("samples missing: the published values cannot be checked")
    values, verified = _merged(values, found, look, warnings)
    facts["verified"] = list(verified)
    if values:
        write.write_json(
            folder / layout.METRICS,
            {"schema": 1, "n": look.n, "metrics": {name: value.to_json() for name, value in values.items()}},
        )
        files["metrics"] = layout.METRICS
    total = facts.pop("total", None)
    attempt = Attempt(
        found.start or "", UNKNOWN, 0, "", found.end, "imported", found.error,
        hardware=dict(found.hardware), versions=dict(found.versions),
    )  # fmt: skip
    done = replace(
        record,
        model=found.model,
        dataset=found.dataset,
        method=found.method,
        config=found.config,
        status=found.status,
        items=total if isinstance(total, int) else found.expected,
        start=found.start,
        end=found.end or found.start,
        attempts=(attempt,),
        warnings=tuple(dict.fromkeys(warnings)),
        files=files,
        facts=facts,
    )
    write.write_json(folder / layout.EXPERIMENT, done.to_json())
    return done, verified


def _look(found: Found, options: Options) -> _Look:
    """Read all answers once: count, prompts, and whether references and answers can be scored."""
    look = _Look()
    assert found.items is not None
    shots = found.settings.get("prompting", {}).get("num_fewshot")
    rendered = not found.settings.get("prompting", {}).get("apply_chat_template")

    def facts() -> Iterator[PromptFacts]:
        assert found.items is not None
        for item in found.items():
            sample = item.sample
            look.n += 1
            look.with_final += FINAL.search(sample.label) is not None
            look.labels_with_undo += options.has_undo(sample.label)
            look.answers_with_undo += options.has_undo(sample.predict)
            look.prompt_0 = look.prompt_0 or item.prompt
            yield PromptFacts(
                text=item.prompt or None,
                question=sample.question or None,
                finish_reason=sample.finish_reason,
                rendered=rendered or item.rendered,
                shots=shots if isinstance(shots, int) else None,
            )

    texts = (*prompt_checks.BOS_TEXTS, *([found.bos] if found.bos else []))
    look.report = prompt_checks.check(facts(), bos_texts=texts)
    return look


def _warned(found: Found, look: _Look, options: Options) -> Iterator[str]:
    if look.report is not None:
        yield from look.report.warnings()
    if look.labels_with_undo:
        yield (
            f"labels that contain undo: {look.labels_with_undo} of {look.n} references have tokens that take text back "
            "in them; scores against them are of no use"
        )
    if look.answers_with_undo:
        yield (
            f"{look.answers_with_undo} of {look.n} answers have tokens that take text back spelled out; without token "
            "ids they cannot be resolved, so what was taken back is scored too"
        )
    names = (found.model, found.config, *found.training)
    if any(map(_takes_back, names)) and not look.answers_with_undo and not any("undo" in w for w in found.warnings):
        yield (
            "undo tokens lost: the names say that the model was trained to take tokens back, but none is left in the "
            "answers; whether and what it took back cannot be told"
        )
    if found.dataset.casefold().startswith("gsm8k") and look.n == 7473:
        yield "evaluated on its own training rows, it seems: 7,473 answers, which is the size of GSM8K's training split"


def _takes_back(name: str) -> bool:
    from unsay.importers import UNDO_NAME

    return UNDO_NAME.search(name) is not None


def _misleading(found: Found) -> Iterator[str]:
    """Compare the names around the files with what is in them."""
    said = {"".join(_FAMILY.findall(_TOOL_NAMES.sub("", text.casefold()))) for text in _model_words(found)}
    inside = " ".join(_model_words(found)).casefold()
    for place in place_names(found.files[0], 4):
        if place.endswith((".json", ".jsonl")):
            yield f"misleading name: a folder is called {shortened(place, 80)}"
    if not any(said):
        return
    for name in (found.files[0].name, *place_names(found.files[0], 4)):
        other = [word for word in _FAMILY.findall(_TOOL_NAMES.sub("", name.casefold())) if word not in inside]
        if other:
            yield (
                f"misleading name: {shortened(name, 80)} speaks of {other[0]}, the contents of "
                f"{shortened(_model_words(found)[0], 80)}; the contents count"
            )
            return


def _model_words(found: Found) -> list[str]:
    facts = [found.facts.get(key) for key in ("model_path", "base_model", "adapter")]
    return [text for text in (*facts, found.model) if isinstance(text, str) and text]


# -- scoring ----------------------------------------------------------------------


@dataclass(frozen=True)
class Scored:
    """Every metric of one experiment in a file, and what a reader of the numbers should know."""

    found: Found
    n: int
    values: Mapping[str, MetricValue]
    warnings: tuple[str, ...]
    verified: tuple[str, ...]


def score(
    found: Found,
    options: Options,
    *,
    keep: Callable[[Item, ItemScores], None] = lambda item, scored: None,
    processes: int | None = None,
    progress: Progress | None = None,
) -> Scored:
    """Score the answers of one experiment without a lab; `keep` gets every answer with its scores.

    Raises ForeignError where there are no answers.
    """
    if found.items is None:
        raise ForeignError(
            f"{found.files[0]} holds published values but no answers to score; `unsay import` keeps them"
        )
    look = _look(found, options)
    warnings = [*found.warnings, *_warned(found, look, options)]
    values = _score(found, look, keep, processes, progress or (lambda name, done, total: None), warnings)
    verified: tuple[str, ...] = ()
    if found.expected is None or look.n == found.expected:
        values, verified = _merged(values, found, look, warnings)
    return Scored(found, look.n, values, tuple(dict.fromkeys(warnings)), verified)


def _score(
    found: Found,
    look: _Look,
    keep: Callable[[Item, ItemScores], None],
    processes: int | None,
    tell: Progress,
    warnings: list[str],
) -> dict[str, MetricValue]:
    """Score every answer, hand each with its scores to `keep`, and sum up; the tool's own judgements come along."""
    assert found.items is not None
    measures = metrics.load_all({"exact_match": dict(found.exact_match or {})})
    skipped = _skipped(found, look)
    waiting: deque[Item] = deque()
    columns: dict[str, array[float]] = {}
    differing = {STRICT: 0, FLEXIBLE: 0}
    done = 0

    def samples() -> Iterator[Sample]:
        assert found.items is not None
        for item in found.items():
            waiting.append(item)
            yield item.sample

    def on_scored(chunk: Sequence[Sample], items: metrics.Items) -> None:
        nonlocal done
        for line in metrics.by_item(chunk, items):
            item = waiting.popleft()
            own = {name: score for name, score in line.scores.items() if name not in skipped}
            for name, score in item.scores.items():
                if name in own and own[name] != score:
                    differing[name] = differing.get(name, 0) + 1
                own[name] = score
            for name in found.item_definitions:
                columns.setdefault(name, array("d")).append(item.scores.get(name, math.nan))
            keep(item, replace(line, scores=own))
        done += len(chunk)
        tell(found.part, done, look.n)

    result = scoring.score_stream(samples(), measures, processes=processes, on_scored=on_scored)
    values = dict(result.values)
    for name, reason in skipped.items():
        if name in values:
            values[name] = metrics.missing(values[name].definition, reason)
    for name, column in columns.items():
        judged = [None if math.isnan(score) else score for score in column]
        if any(score is not None for score in judged):
            values[name] = _of_tool(judged, found.item_definitions[name])
    for name, count in differing.items():
        if count:
            warnings.append(
                f"{name}: {count} of {look.n} answers were judged differently by {found.tool} than by the definition "
                "it names; its own judgements are shown"
            )
    return values


def _skipped(found: Found, look: _Look) -> dict[str, str]:
    """Say which metrics would be numbers without a meaning here, and why."""
    reasons: dict[str, str] = {}
    if found.exact_match is None:
        reasons = dict.fromkeys((STRICT, FLEXIBLE), found.exact_match_reason)
    elif not found.exact_match and look.with_final < look.n:
        reason = (
            f"{look.n - look.with_final} of {look.n} references have no final answer after `####`; if another marker "
            "stands before it, name it with --marker"
        )
        reasons = dict.fromkeys((STRICT, FLEXIBLE), reason)
    if found.text_reason is not None:
        names = [name for measure in metrics.load_all() for name in measure.names]
        reasons |= {name: found.text_reason for name in names if name.startswith(TEXTS_PREFIX)}
        if found.exact_match is None or "likelihood" in found.text_reason:
            reasons |= dict.fromkeys((STRICT, FLEXIBLE), found.text_reason)
    return reasons


def _of_tool(scores: Sequence[float | None], definition: str) -> MetricValue:
    """Sum up the tool's own judgements of every answer."""
    known = [score for score in scores if score is not None]
    if all(score in (0.0, 100.0) for score in known):
        return metrics.share(known, definition)
    if all(0 <= score <= 100 for score in known):
        return metrics.averaged(known, definition)
    return metrics.from_estimate(stats.mean(known), definition, (-math.inf, None))


def _merged(
    computed: Mapping[str, MetricValue], found: Found, look: _Look, warnings: list[str]
) -> tuple[dict[str, MetricValue], tuple[str, ...]]:
    """Put computed and published values together: computed ones count, differences are said, the rest is explained."""
    values = dict(computed)
    verified = []
    padded = any(text.startswith("padding repeats") for text in warnings)
    for name, stated in found.published.items():
        mine = values.get(name)
        if mine is None or mine.value is None:
            definition = stated.definition or _definitions().get(name, name)
            values[name] = replace(stated, definition=definition)
        elif stated.value is not None and math.isclose(mine.value, stated.value, rel_tol=1e-12, abs_tol=1e-9):
            verified.append(name)
        elif stated.value is not None and not padded:
            warnings.append(f"{name}: published {stated.value:.10g}, recomputed from the answers {mine.value:.10g}")
    if not values:
        return {}, ()
    if found.items is not None and found.expected is not None and look.n != found.expected:
        why = f"{look.n} of {found.expected} answers are here"
    else:
        why = "the files hold no answers"
    for name, definition in _definitions().items():
        if name not in values:
            reason = found.text_reason if found.text_reason and name.startswith(TEXTS_PREFIX) else why
            if found.exact_match is None and name in (STRICT, FLEXIBLE) and found.tool.startswith("lm-eval"):
                reason = "the task does not define it"
            values[name] = metrics.missing(definition, reason)
    return values, tuple(verified)


def _definitions() -> dict[str, str]:
    return {name: measure.definition[name] for measure in metrics.load_all() for name in measure.names}
