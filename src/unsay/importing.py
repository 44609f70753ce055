"""Results of other tools become experiments of a lab: found, read, scored again where their answers are there.

The originals are never touched; a record names them with their checksums. What was published and cannot be recomputed
is kept with the reason; what cannot be verified is said per experiment. Importing the same files again adds nothing.

    collected = collect([Path("saves")], Options())
    for outcome in put(Path("outputs"), collected.found, Options()):
        print(outcome.id, outcome.did)
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unsay import catalog
from unsay.errors import StoreError, UnsayError
from unsay.foreign_scores import Look, Progress, complete, look_at, merged, score_items, warnings_of
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
    document,
    keys_of,
    lines,
    place_names,
    regular,
    sha256,
    shortened,
    yaml_mapping,
)
from unsay.records import Attempt, ExperimentRecord, ItemScores, MetricValue, next_id
from unsay.store import claims, layout, read, write
from unsay.store.read import Entry

FORMAT = 1
"""Version of what is taken over from foreign files: raised, everything imported again replaces what was there."""
PASSED_OVER = {".git", ".venv", "node_modules", "__pycache__", layout.SUPERSEDED}
FAMILIES = (
    *("bloom", "deepseek", "falcon", "gemma", "gpt-?2", "granite", "llama", "mistral", "mixtral", "olmo", "pythia"),
    *("qwen", "smollm", "tinyllama", "vicuna", r"(?:glm|opt|phi|t5|yi)[-_]?\d"),
)
"""Model families as they stand in names; short words count only with a number, as they name folders too."""
_FAMILY = re.compile(rf"(?<![a-z])({'|'.join(FAMILIES)})(?![a-z])")
_TOOL_NAMES = re.compile(r"llama[-_ .]?(?:factory|cpp|board)|llamafactory")


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
    record: ExperimentRecord | None = None
    """As it now is in the lab."""


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
        if not file.named and (file.name == "adapter_config.json" or file.path.suffix in (".yaml", ".yml")):
            continue  # no result by itself; it only says more about one
        refused.append(Refused(file.path, _what_is_wrong(file)))
    once = {each.path: each for each in reversed(refused)}
    return Collected(tuple(found), tuple(each for each in refused if once[each.path] is each), len(files))


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
        "expected lm-eval's results or samples, LLaMA-Factory's predictions, scores, logs or configuration, or JSON "
        "Lines with answers and references"
    )
    hint = ". If answer and reference have other names, say which: --predict KEY --label KEY"
    try:
        if file.path.suffix in (".yaml", ".yml"):
            value: Any = yaml_mapping(file.path)
        elif file.path.suffix == ".json":
            value, hint = document(file.path), ""
        else:
            value = next((line for _, line in lines(file.path)), {})
    except ForeignError as error:
        return f"{wanted}; {error}"
    return f"{wanted}, got {keys_of(value) if isinstance(value, dict) else 'something else'}{hint}"


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
                    yield placed.unchanged(each, identity, originals)
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
            "options": {
                key: sorted(value) if isinstance(value, frozenset) else value
                for key, value in vars(options).items()
                if value
            },
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

    def unchanged(self, found: Found, identity: str, originals: Sequence[Mapping[str, Any]]) -> Outcome:
        """Return what is there already; originals that moved are found again."""
        entry = self.by_identity[identity]
        record = entry.record
        assert record is not None
        assert record.imported is not None
        listed: list[dict[str, Any]] = record.imported.get("files") or []
        moved = not all(Path(str(each.get("path"))).is_file() for each in listed)
        if moved and {each.get("path") for each in listed} != {each["path"] for each in originals}:
            record = replace(record, imported={**record.imported, "files": [dict(each) for each in originals]})
            with write.lock(entry.folder):
                write.write_json(entry.folder / layout.EXPERIMENT, record.to_json())
            self._remember(replace(entry, record=record))
            return Outcome(found, "updated", record.id, entry.relative, warnings=record.warnings, record=record)
        return Outcome(found, "unchanged", record.id, entry.relative, warnings=record.warnings, record=record)

    def _remember(self, entry: Entry) -> None:
        self.entries = [each for each in self.entries if each.folder != entry.folder] + [entry]
        if entry.record is not None:
            self.by_identity[entry.record.identity] = entry

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
            if row is None or found.tool == "page" or known.record.facts.get("page") == row.to_json():
                return self.unchanged(found, identity, originals)
            return self._name(known, known.record, found, row)
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
                self._remember(entry)
        did = "added" if earlier is None else "updated"
        return Outcome(found, did, id, entry.relative, warnings=record.warnings, verified=verified, record=record)

    def _name(self, known: Entry, record: ExperimentRecord, found: Found, row: Row) -> Outcome:
        """Give an experiment that is there already what a hand-kept page says of it: id, notes, names."""
        self._refuse_taken(row.id, known)
        found, noted = _with_row(found, row)
        differing = _page_differs(found, read.metrics(known.folder))
        named = replace(
            record,
            id=row.id,
            notes=record.notes or row.notes,
            model=found.model,
            dataset=found.dataset,
            method=found.method,
            config=found.config,
            facts={**record.facts, "page": row.to_json()},
            warnings=tuple(dict.fromkeys([*noted, *record.warnings, *differing])),
        )
        with write.lock(known.folder):
            write.write_json(known.folder / layout.EXPERIMENT, named.to_json())
        self._remember(replace(known, record=named))
        return Outcome(found, "updated", row.id, known.relative, warnings=named.warnings, record=named)

    def _row(self, found: Found) -> Row | None:
        """Return the line of the page that is about this experiment: of this page or an earlier one."""
        rows = [*self.page, *(row for entry in self.entries if (row := _row_of(entry)) is not None)]
        if found.tool == "page":
            return next((row for row in rows if row.id == found.part), None)
        return next((row for row in rows if files_of(row, found.files)), None)

    def _earlier(self, found: Found, row: Row | None) -> Entry | None:
        """Return what was imported before from the same place, or stands in the lab with the page's numbers only."""
        for entry in self.entries:
            imported = entry.record.imported if entry.record is not None else None
            if imported is not None:
                originals: list[dict[str, Any]] = imported.get("files") or [{}]
                same = imported.get("part") == found.part and originals[0].get("path") == str(found.files[0])
                kept = _row_of(entry)
                if same or (kept is not None and row is not None and kept.id == row.id):
                    return entry
        return None

    def _refuse_taken(self, id: str, earlier: Entry | None) -> None:
        for entry in self.entries:
            if id and entry.record and entry.record.id == id and (earlier is None or entry.folder != earlier.folder):
                raise StoreError(
                    f"id {id} of the page belongs to {entry.relative} in this lab; give one of them another id "
                    "(edit the page, or import into another lab with --output-dir)"
                )


def _row_of(entry: Entry) -> Row | None:
    """Return the line of the page behind an experiment that has nothing but the page's numbers."""
    record = entry.record
    if record is None or record.imported is None or record.imported.get("tool") != "page":
        return None
    return Row.from_json(record.facts.get("page"))


def _place(found: Found, identity: str) -> str:
    parts = [found.model, found.dataset, found.method, *found.config.split("/")]
    slugs = [re.sub(r"[^A-Za-z0-9._+-]+", "-", part).strip("-.")[:60] or "unknown" for part in parts[:8]]
    return "/".join([layout.IMPORTED, *slugs[:-1], f"{slugs[-1]}-{identity[:8]}"])


def _with_row(found: Found, row: Row | None) -> tuple[Found, tuple[str, ...]]:
    """Name an experiment as the hand-kept page does, and say where page and files contradict each other."""
    if row is None or found.tool == "page":
        return found, ()
    said = [*row.doubts, *row.contradictions(found.start)]
    if row.model and found.model != UNKNOWN and not _same_model(row.model, found.model):
        said.append(f"misleading name: the page says model {row.model}, the files say {found.model}; the files count")
    elif row.model:
        found = replace(found, model=row.model)
    for name in ("dataset", "method", "config"):
        if getattr(row, name):
            found = replace(found, **{name: getattr(row, name)})
    return replace(found, facts={**found.facts, "page": row.to_json()}), tuple(said)


def _page_differs(found: Found, values: Mapping[str, MetricValue]) -> Iterator[str]:
    """Say where the numbers of the hand-kept page are not those of the files."""
    row = Row.from_json(found.facts.get("page")) if found.tool != "page" else None
    for name, (stated, _) in row.values.items() if row is not None else ():
        mine = values[name].value if name in values else None
        if mine is None:
            yield f"{name}: the page says {stated:g}, the files give no value"
        elif abs(mine - stated) > 0.0051:
            yield f"{name}: the page says {stated:g}, the files give {mine:.2f}"


def _same_model(one: str, other: str) -> bool:
    first, second = (re.sub(r"[^a-z0-9]", "", name.casefold()) for name in (one, other))
    return first in second or second in first


def _started(
    found: Found, originals: Sequence[Mapping[str, Any]], identity: str, id: str, notes: str
) -> ExperimentRecord:
    owner = claims.me()
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
        attempts=(Attempt(now, owner.host, owner.pid, owner.boot_id),),
        imported={"tool": found.tool, "part": found.part, "files": [dict(each) for each in originals]},
    )


# -- one experiment ---------------------------------------------------------------


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
    look = Look()
    if found.items is not None:
        look = look_at(found, options)
        warnings += list(warnings_of(found, look, options))
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

            scored = score_items(found, look, keep, processes, tell, warnings)
        files = {"predictions": layout.PREDICTIONS, "scores": layout.SCORES}
        if complete(found, look):
            values = scored
    elif "samples missing" not in " ".join(warnings) and found.published and found.tool != "page":
        warnings.append("samples missing: the published values cannot be checked")
    values, verified = merged(values, found, look, warnings)
    warnings += list(_page_differs(found, values))
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
