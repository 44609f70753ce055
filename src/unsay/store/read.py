"""Reading a lab folder: what experiments there are, how far each got, and one thing of one experiment at a time.

Three costs, three kinds of function: `find` reads only the records; `progress` counts lines without parsing them;
`traces`, `prompts` and `samples` parse. Nothing here writes, and nothing on disk makes `find` fail.

    for entry in read.find(Path("outputs")):
        print(entry.name, entry.problem or entry.record.status)
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

from unsay.errors import StoreError
from unsay.records import STATUSES, Attempt, ExperimentRecord, ItemScores, MetricValue, Prompt, Trace
from unsay.store import layout, schema
from unsay.store.claims import LOST_AFTER, boot_id, hostname
from unsay.store.write import is_sealed

_LIMITED = re.compile(re.escape(layout.LIMIT_PREFIX) + r"(\d+)")
# Folders of an experiment that hold no further experiments; only skipped where there is an experiment.json, because
# a config may be called `train`.
_INNER = {layout.TRAIN, layout.DATA, layout.LOGS}


@dataclass(frozen=True)
class Entry:
    """One experiment folder (or one `limit_<n>` folder below it); `problem` says why `record` is missing.

    `archived` ones are hidden from lists and the page; a limited run is where its experiment is.
    """

    folder: Path
    relative: str
    record: ExperimentRecord | None
    problem: str | None = None
    archived: bool = False

    @property
    def limit(self) -> int | None:
        """Items the run was limited to; None for a whole run."""
        if self.record is not None and self.record.limit is not None:
            return self.record.limit
        return limit_of(self.folder.name)

    @property
    def name(self) -> str:
        """The experiment's id; its folder until it has one."""
        return (self.record.id if self.record else "") or self.relative


class Named(Protocol):
    """What `pick` can choose among."""

    @property
    def name(self) -> str: ...

    @property
    def relative(self) -> str: ...

    @property
    def folder(self) -> Path: ...

    @property
    def limit(self) -> int | None: ...


@dataclass(frozen=True)
class Inside:
    """What one folder of a lab holds: a record, a mark that hides it, and the folders that may hold more experiments.

    `linked` says whether one of those is a symbolic link.
    """

    experiment: bool
    archived: bool
    below: tuple[str, ...]
    linked: bool


@dataclass(frozen=True)
class Progress:
    """How far a running experiment is: `stage` is train or evaluate, `total` None while unknown.

    `value` and `stderr` are the strict exact match of the answers finished so far, on the 0-100 scale.
    """

    stage: str
    done: int
    total: int | None
    value: float | None = None
    stderr: float | None = None


# -- lines and files --------------------------------------------------------------


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the complete, checksummed lines of a journal, without their checksum; a missing file has none.

    A torn tail ends the file. A damaged line before that is passed over: its item counts as not done.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for raw in file:
            if is_sealed(raw):
                line = json.loads(raw)
                del line["crc32"]
                yield schema.current(line, path)


def read_json(path: Path) -> Any:
    """Read one JSON file, in today's schema where it has one; StoreError says which one is not JSON, and was left."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is not JSON ({error}); it was left as it is. Repair it or move it away.") from error
    return schema.current(value, path) if isinstance(value, dict) else value


def record(folder: Path) -> ExperimentRecord | None:
    """Read a folder's experiment.json; None where there is none, StoreError where it cannot be understood."""
    path = folder / layout.EXPERIMENT
    if not path.exists():
        return None
    value = read_json(path)
    if not isinstance(value, dict):
        raise StoreError(f"{path} holds no JSON object; it was left as it is. Repair it or move it away.")
    try:
        found = ExperimentRecord.from_json(value)
    except (TypeError, KeyError, AttributeError) as error:
        raise StoreError(f"{path} does not describe an experiment ({error}); it was left as it is.") from error
    wrong = _wrong_fields(found)
    if wrong:
        raise StoreError(f"{path} does not describe an experiment ({', '.join(wrong)}); it was left as it is.")
    return found


def _wrong_fields(found: ExperimentRecord) -> list[str]:
    kinds: dict[str, type | tuple[type, ...]] = {
        **dict.fromkeys(("id", "model", "dataset", "method", "config", "status", "identity", "notes"), str),
        **dict.fromkeys(("spec", "hashes", "files", "facts"), dict),
        **dict.fromkeys(("start", "end"), (str, type(None))),
        **dict.fromkeys(("limit", "items"), (int, type(None))),
        "seed": int,
    }
    wrong = [
        f"{name} is {getattr(found, name)!r}"
        for name, kind in kinds.items()
        if not isinstance(getattr(found, name), kind) and not (name == "id" and found.id is None)
    ]
    if isinstance(found.status, str) and found.status not in STATUSES:
        wrong.append(f"status is {found.status!r}, expected one of {', '.join(STATUSES)}")
    strings = {
        "warnings": found.warnings,
        "hashes": found.hashes.values() if isinstance(found.hashes, dict) else (),
        "files": found.files.values() if isinstance(found.files, dict) else (),
    }
    wrong += [f"{name} holds {v!r}" for name, values in strings.items() for v in values if not isinstance(v, str)]
    return wrong + [mistake for attempt in found.attempts for mistake in _wrong_in_attempt(attempt)]


def _wrong_in_attempt(attempt: Attempt) -> list[str]:
    kinds: dict[str, type | tuple[type, ...]] = {
        **dict.fromkeys(("started", "host", "boot_id"), str),
        **dict.fromkeys(("ended", "outcome", "error", "log"), (str, type(None))),
        **dict.fromkeys(("hardware", "versions", "timings", "usage", "code"), dict),
        "pid": int,
    }
    wrong = [name for name, kind in kinds.items() if not isinstance(getattr(attempt, name), kind)]
    if "timings" not in wrong and not all(isinstance(value, int | float) for value in attempt.timings.values()):
        wrong.append("timings")
    return [f"{name} of an attempt is {getattr(attempt, name)!r}" for name in wrong]


def traces(folder: Path) -> Iterator[Trace]:
    """Yield every trace in the order written; after a resumed run the last one of a key is the one that counts."""
    return map(Trace.from_json, read_lines(folder / layout.TRACES))


def prompts(folder: Path) -> Iterator[Prompt]:
    return map(Prompt.from_json, read_lines(folder / layout.PROMPTS))


def scores(folder: Path) -> Iterator[ItemScores]:
    """Yield the scores of every item, in the order of generated_predictions.jsonl; nothing where there is no file."""
    path = folder / layout.SCORES
    for number, line in _json_lines(path):
        try:
            yield ItemScores.from_json(schema.current(line, path))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(
                f"{path}:{number} holds no scores of an item ({error!r}); it was left as it is."
            ) from error


def predictions(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield prompt, predict and label of every item, in the order of scores.jsonl; nothing where there is no file."""
    return (line for _, line in _json_lines(folder / layout.PREDICTIONS))


def metrics(folder: Path) -> dict[str, MetricValue]:
    """Read metrics.json (`{"schema": 1, "metrics": {name: …}}`); empty where there is none."""
    path = folder / layout.METRICS
    if not path.exists():
        return {}
    value = read_json(path)
    inner = value.get("metrics", value) if isinstance(value, dict) else None
    if not isinstance(inner, dict):
        raise StoreError(f"{path} holds no metrics; it was left as it is. Repair it or move it away.")
    found = {}
    for name, item in inner.items():
        if isinstance(item, dict) and "value" in item:
            found[str(name)] = _metric(path, str(name), item)
    return found


def _metric(path: Path, name: str, item: dict[str, Any]) -> MetricValue:
    numbers: dict[str, float | None] = {}
    for key in ("value", "stderr", "low", "high"):
        number = item.get(key)
        if number is not None and (isinstance(number, bool) or not isinstance(number, int | float)):
            raise StoreError(f"{path}: {key} of {name} is {number!r}, expected a number; it was left as it is.")
        numbers[key] = number if number is not None and math.isfinite(number) else None
    n, reason = item.get("n"), item.get("reason")
    return MetricValue(
        **numbers,
        n=n if isinstance(n, int) else 0,
        definition=str(item.get("definition") or name),
        reason=None if reason is None else str(reason),
    )


def named_file(folder: Path, record: ExperimentRecord | None, kind: str) -> Path | None:
    """Return the file a record names for `kind`, where it is in the folder itself."""
    name = record.files.get(kind, "") if record else ""
    return folder / name if name and Path(name).name == name and (folder / name).is_file() else None


def samples_file(folder: Path, record: ExperimentRecord | None = None) -> Path | None:
    """Return lm-eval's sample file: the one the record names, else the newest by name."""
    named = named_file(folder, record, "samples")
    if named is not None:
        return named
    found = sorted(folder.glob("samples_*.jsonl"), key=lambda path: path.stem[-26:])
    return found[-1] if found else None


def samples(folder: Path, record: ExperimentRecord | None = None) -> Iterator[dict[str, Any]]:
    """Yield the lines of lm-eval's sample file: one per filter and item."""
    path = samples_file(folder, record)
    if path is not None:
        yield from (line for _, line in _json_lines(path))


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number and object of a JSON Lines file; a missing file has none, StoreError where a line is broken."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.strip():
                continue
            try:
                line = json.loads(raw)
            except (ValueError, RecursionError) as error:
                raise StoreError(f"{path}:{number} is not JSON ({error}); it was left as it is.") from error
            if isinstance(line, dict):
                yield number, line


# -- finding experiments ----------------------------------------------------------


def find(output_dir: Path) -> list[Entry]:
    """Return every experiment below a lab folder, whole runs and limited ones, in the order of the page.

    An experiment.json that cannot be understood becomes an entry with its `problem`; so does an unreadable folder.
    """
    entries: list[Entry] = []
    _walk(output_dir, output_dir, entries, set(), within_archived=False)
    return sorted(entries, key=order)


def entry(output_dir: Path, relative: str) -> Entry:
    """Return one experiment of a lab by its folder; one without a record is an entry with a `problem`."""
    folder = output_dir / relative
    inner = limit_of(folder.name) is not None
    archived = any((place / layout.ARCHIVED).exists() for place in (folder, *((folder.parent,) if inner else ())))
    return _entry(folder, relative, archived)


def limit_of(name: str) -> int | None:
    """Return the limit of a `limit_<n>` folder; None for any other name."""
    match = _LIMITED.fullmatch(name)
    return int(match[1]) if match else None


def inside(folder: Path | str) -> Inside:
    """Look into one folder of a lab; raises OSError where it cannot be listed."""
    with os.scandir(folder) as items:
        found = sorted(items, key=lambda item: item.name)
    names = {item.name for item in found}
    experiment = layout.EXPERIMENT in names
    skipped = {layout.SUPERSEDED, *(_INNER if experiment else ())}
    below = [item for item in found if item.name not in skipped and not item.name.startswith(".") and item.is_dir()]
    return Inside(
        experiment,
        experiment and layout.ARCHIVED in names,
        tuple(item.name for item in below),
        any(item.is_symlink() for item in below),
    )


N = TypeVar("N", bound=Named)


def pick(entries: Sequence[N], name: str) -> N:
    """Return the experiment with this id, folder (relative or a path) or unique part of its folder name."""
    wanted = name.rstrip("/")
    exact = [entry for entry in entries if wanted in (entry.name, entry.relative, str(entry.folder))]
    if not exact:
        exact = [entry for entry in entries if wanted.casefold() in (entry.name.casefold(), entry.relative.casefold())]
    if not exact:
        absolute = Path(name).absolute()
        exact = [entry for entry in entries if entry.folder.absolute() == absolute]
    whole = [entry for entry in exact if entry.limit is None] or exact
    if len(whole) == 1 or (whole and whole[0].limit is not None):
        return whole[-1]
    if whole:
        places = ", ".join(entry.relative for entry in whole)
        raise StoreError(f"{name!r} is the id of more than one experiment: {places}. Give the folder instead.")
    import difflib

    names = [entry.name for entry in entries]
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.4)
    known = (
        f"Did you mean {', '.join(near)}?"
        if near
        else f"There are {len(entries)} experiments; `unsay status` lists them."
    )
    raise StoreError(f"no experiment has the id or folder {name!r}. {known}")


def _walk(folder: Path, root: Path, entries: list[Entry], seen: set[tuple[int, int]], *, within_archived: bool) -> None:
    relative = folder.relative_to(root).as_posix()
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            return  # a symbolic link back up
        seen.add((status.st_dev, status.st_ino))
        found = inside(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        entries.append(Entry(folder, relative, None, cannot_list(error)))
        return
    archived = found.archived or (within_archived and limit_of(folder.name) is not None)
    if found.experiment:
        entries.append(_entry(folder, relative, archived))
    for name in found.below:
        _walk(folder / name, root, entries, seen, within_archived=archived)


def cannot_list(error: OSError) -> str:
    return f"cannot read this folder: {error.strerror or error}"


def _entry(folder: Path, relative: str, archived: bool) -> Entry:
    try:
        found = record(folder)
        problem = None if found is not None else f"{folder / layout.EXPERIMENT} is gone"
    except StoreError as error:
        found, problem = None, str(error)
    return Entry(folder, relative, found, problem, archived)


def natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts EXP-2 before EXP-10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", text)
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)


def order(entry: Named) -> tuple[Any, ...]:
    """Sort key of the page: by id, a limited run after its experiment, those without an id last."""
    identified = entry.name != entry.relative
    return (not identified, natural(entry.name), entry.limit is not None, entry.limit or 0, natural(entry.relative))


# -- how far ----------------------------------------------------------------------


def progress(folder: Path) -> Progress | None:
    """Read how far a running experiment is from its heartbeat file; None where it has not said anything yet."""
    beat = heartbeat(folder)
    try:
        so_far = beat.get("so_far") or {}
        return Progress(beat["stage"], int(beat["done"]), beat["total"], so_far.get("value"), so_far.get("stderr"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def heartbeat(folder: Path) -> dict[str, Any]:
    """Read the last sign of life of a run; empty where there is none."""
    try:
        beat = json.loads((folder / layout.HEARTBEAT).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return beat if isinstance(beat, dict) else {}


def last_sign(folder: Path) -> float | None:
    """Return when a run last gave a sign of life, in seconds since 1970; None where it never did."""
    try:
        return (folder / layout.HEARTBEAT).stat().st_mtime
    except OSError:
        return None


def liveness(record: ExperimentRecord, folder: Path | None = None) -> str | None:
    """Say whether a record that claims to be running still is: None, `stale` (its process is gone) or `lost contact`.

    On another machine only signs of life in the folder can be seen: the heartbeat file, else the newest result file.
    """
    if record.status != "running":
        return None
    if not record.attempts:
        return "stale"
    attempt = record.attempts[-1]
    if attempt.host == hostname():
        if attempt.boot_id == boot_id():
            return None if _is_alive(attempt.pid, attempt.started) else "stale"
        return None if _silent_for(folder) < LOST_AFTER else "stale"  # restarted, or another machine of this name
    if folder is None:
        return None
    return "lost contact" if _silent_for(folder) > LOST_AFTER else None


def _is_alive(pid: int, since: str) -> bool:
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        # Process ids are used again: the one that wrote `since` cannot have started after it.
        return bool(process.create_time() <= datetime.fromisoformat(since).timestamp() + 5.0)
    except psutil.NoSuchProcess:
        return False
    except (psutil.AccessDenied, ValueError):
        return True


def _silent_for(folder: Path | None) -> float:
    """Seconds since the last sign of life in a folder; infinite when there is none."""
    if folder is None:
        return float("inf")
    heartbeat = folder / layout.HEARTBEAT
    signs = [heartbeat] if heartbeat.exists() else [folder / layout.TRACES, folder / layout.EXPERIMENT]
    times = []
    for path in signs:
        try:
            times.append(path.stat().st_mtime)
        except OSError:
            continue
    return max(0.0, time.time() - max(times)) if times else float("inf")
