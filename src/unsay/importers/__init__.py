"""The contract of an importer: results that another tool wrote, read as experiments. One file per tool or format.

An importer is handed every file that was found and says which experiments they are. It reads, never writes; what it
cannot use it refuses, file by file, with the reason. Contents decide: names of files and folders only where contents
say nothing. Knows nothing about the lab, scores or pages.

    found, refused = Importer().find(files, options)
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from unsay import stats
from unsay.errors import DataError
from unsay.records import MetricValue, Sample, short_hash

LONGEST_LINE = 16 * 2**20
"""Bytes of one line of a JSON Lines file; a longer one is refused (parsed it can take twenty times the memory)."""
LARGEST_DOCUMENT = 24 * 2**20
"""Bytes of a file that is one JSON or YAML document."""
LARGEST_YAML, DEEPEST_YAML = 2**18, 50
"""Bytes and nesting of a YAML document, which is read slowly."""
LARGEST_NUMBER = 1e100
"""Beyond it nothing is a score, and sums of squares overflow."""
SHORTEST_ROW = 12
"""Characters of a text that tells training rows apart; shorter ones (`Yes`, `3: Business`) stand in many."""
SNIFFED = 64 * 2**10

UNKNOWN = "unknown"
NAME_LENGTH = 100
UNDO_TOKEN = re.compile(
    r"<\|?\s*/?(?:back[ _-]?track|undo|unsay|reset|rewind|erase|delete)[\w-]*\s*\|?>", re.IGNORECASE
)
"""How a token that takes text back is spelled, here and in other work."""
UNDO_NAME = re.compile(r"back[-_ ]?track|(?:^|[^a-z0-9])(?:bt|undo)(?:$|[^a-z0-9])", re.IGNORECASE)
"""In a name of a model, dataset or config: it was trained on answers that are taken back."""


@dataclass(frozen=True)
class Options:
    """What the user said about the files, for what they do not say themselves.

    `marker` stands before the final answer where that is not `####`; `undo_token` is a spelling of the token that
    takes text back, besides the usual ones; `predict` and `label` are keys of a predictions file.
    """

    marker: str | None = None
    model: str | None = None
    dataset: str | None = None
    undo_token: str | None = None
    predict: str = "predict"
    label: str = "label"
    trained_on: frozenset[str] = frozenset()
    """`short_hash` of the texts of the rows a model was trained on, where the user has them: see `texts_of`."""

    def marked(self, text: str) -> str:
        """Put GSM8K's `#### ` where the marker begins a line."""
        if not self.marker:
            return text
        return re.sub(rf"(?m)^{re.escape(self.marker)}[ \t]*", "#### ", text)

    def has_undo(self, text: str) -> bool:
        """Say whether a token that takes text back is spelled out in a text."""
        return UNDO_TOKEN.search(text) is not None or (bool(self.undo_token) and str(self.undo_token) in text)


@dataclass(frozen=True)
class File:
    """A regular file that was found. `named` tells one the user named from one met below a folder."""

    path: Path
    named: bool = False

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def folder(self) -> Path:
        return self.path.parent


@dataclass(frozen=True)
class Refused:
    """A file (or a part of one) that was not imported, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Item:
    """One answer of an imported run. `scores` are the tool's own, per metric, on the 0-100 scale where it has one."""

    sample: Sample
    prompt: str = ""
    """As it was logged; empty where it was not."""
    scores: Mapping[str, float] = field(default_factory=dict)
    rendered: bool = True
    """False for a chat before its template."""


@dataclass(frozen=True)
class Found:
    """One experiment that another tool carried out.

    `files` are its originals, the one that identifies it first; `part` says which of several experiments in the same
    files. `published` are the tool's summary values under the names of metrics.json. `items` streams the answers, None
    without any; `expected` is how many there should be. `settings` has the keys of a native experiment as far as they
    are known. `exact_match` are options of that metric; None where the task's own reading of an answer is not known.
    """

    tool: str
    files: tuple[Path, ...]
    part: str
    model: str
    dataset: str
    method: str
    config: str
    published: Mapping[str, MetricValue] = field(default_factory=dict)
    items: Callable[[], Iterator[Item]] | None = None
    expected: int | None = None
    limit: int | None = None
    exact_match: Mapping[str, Any] | None = None
    exact_match_reason: str = "the task's way to find the final answer is not known"
    text_reason: str | None = None
    """Why BLEU and ROUGE say nothing here (the references are no texts); None where they do."""
    texts_as_published: bool = False
    """BLEU and ROUGE are what the tool itself publishes, whatever the references are."""
    item_definitions: Mapping[str, str] = field(default_factory=dict)
    """Definition of every metric in `Item.scores`; an empty one is that of the metric of this name here."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    hardware: Mapping[str, Any] = field(default_factory=dict)
    start: str | None = None
    end: str | None = None
    seed: int = 0
    status: str = "completed"
    error: str | None = None
    warnings: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    training: tuple[str, ...] = ()
    """Names of the training datasets, where known."""
    bos: str | None = None
    partial: bool = False
    """Answers are missing, however many there are: published values stand."""
    circular: bool = False
    """The published values were used to find the answers, which then cannot confirm them."""


class Importer(Protocol):
    """What every importer file provides."""

    def find(self, files: Sequence[File], options: Options) -> tuple[list[Found], list[Refused]]:
        """Say which experiments these files are. Never raises for what is in a file."""

    def claims(self, file: File) -> bool:
        """Say whether a file is of this kind, from its name or its first bytes; cheap, never raises."""


def of_each(
    files: Sequence[File], claims: Callable[[File], bool], make: Callable[[Path], list[Found]]
) -> tuple[list[Found], list[Refused]]:
    """Make experiments of every claimed file by itself; one that raises ForeignError is refused."""
    found: list[Found] = []
    refused: list[Refused] = []
    for file in files:
        if claims(file):
            try:
                found += make(file.path)
            except ForeignError as error:
                refused.append(Refused(file.path, str(error)))
    return found, refused


# -- reading foreign files --------------------------------------------------------


class ForeignError(DataError):
    """A foreign file cannot be used; the message says what was expected and what came."""


def regular(path: Path) -> bool:
    """Say whether a path is a regular file (not a pipe, which would never end)."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def document(path: Path) -> Any:
    """Read a file that is one JSON document. Raises ForeignError for one that is too large, broken or ambiguous."""
    data = _whole(path)
    try:
        return json.loads(_text(data), object_pairs_hook=_without_duplicates)
    except RecursionError:
        raise ForeignError("expected JSON, got brackets nested too deeply") from None
    except ForeignError:
        raise
    except ValueError as error:
        raise ForeignError(f"expected JSON, got what cannot be read: {_short(error)}") from None


def mapping(path: Path) -> dict[str, Any]:
    """Read a JSON document that is an object."""
    value = document(path)
    if not isinstance(value, dict):
        raise ForeignError(f"expected a JSON object, got {_kind(value)}")
    return value


def yaml_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML document that is a mapping, plain values only and no aliases (which can grow without bound)."""
    import yaml

    text = _text(_whole(path, LARGEST_YAML))
    flow = (yaml.FlowSequenceStartToken, yaml.FlowMappingStartToken)
    block = (yaml.BlockSequenceStartToken, yaml.BlockMappingStartToken)
    closes = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)
    depth = 0
    try:
        # One token at a time: what is nested too deeply is not read to its end.
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            if isinstance(token, yaml.AliasToken):
                raise ForeignError("expected YAML without aliases (*name); write the value out")
            depth += isinstance(token, flow + block)
            depth -= isinstance(token, closes)
            if depth > DEEPEST_YAML:
                raise ForeignError(f"expected YAML nested at most {DEEPEST_YAML} deep, got more")
        value = yaml.safe_load(text)
    except RecursionError:
        raise ForeignError("expected YAML, got brackets nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        raise ForeignError(f"expected YAML, got what cannot be read: {_short(error)}") from None
    if not isinstance(value, dict):
        raise ForeignError(f"expected a YAML mapping, got {_kind(value)}")
    return {str(key): item for key, item in value.items()}


def lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and object of each line of a JSON Lines file, one in memory at a time.

    Blank lines are passed over. Raises ForeignError at the first line that is too long or no JSON object.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while raw := file.readline(LONGEST_LINE + 1):
                number += 1
                if len(raw) > LONGEST_LINE:
                    raise ForeignError(f"line {number}: expected at most {LONGEST_LINE // 2**20} MiB, it is longer")
                if number == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                if raw.strip():
                    yield number, _line(number, raw)
    except OSError as error:
        raise ForeignError(f"cannot be read: {error.strerror or error}") from None


def first_line(path: Path) -> dict[str, Any] | None:
    """Return the first object of a JSON Lines file; None where there is none."""
    try:
        return next((line for _, line in lines(path)), None)
    except ForeignError:
        return None


def head(path: Path) -> bytes:
    """Return the first bytes of a file, for telling what it is."""
    try:
        with path.open("rb") as file:
            return file.read(SNIFFED)
    except OSError:
        return b""


def texts_of(path: Path) -> frozenset[str]:
    """Return `short_hash` of every text of a dataset (JSON Lines or a JSON list) long enough to tell rows apart.

    Raises ForeignError where it is neither.
    """
    rows: Iterator[Any] | list[Any]
    if path.suffix == ".json" and isinstance(listed := document(path), list):
        rows = listed
    else:
        rows = (line for _, line in lines(path))
    found = frozenset(short_hash(text) for row in rows for text in _texts(row) if len(text) >= SHORTEST_ROW)
    if not found:
        raise ForeignError(f"{path}: expected rows with questions or answers as texts, got none")
    return found


def _texts(value: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list) and depth < 4:
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner, depth + 1)


def sha256(path: Path) -> tuple[str, int]:
    """Return checksum and size of a file."""
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
                size += len(block)
    except OSError as error:
        raise ForeignError(f"cannot be read: {error.strerror or error}") from None
    return digest.hexdigest(), size


def _whole(path: Path, largest: int | None = None) -> bytes:
    largest = LARGEST_DOCUMENT if largest is None else largest
    try:
        with path.open("rb") as file:
            data = file.read(largest + 1)
    except OSError as error:
        raise ForeignError(f"cannot be read: {error.strerror or error}") from None
    if len(data) > largest:
        raise ForeignError(f"expected at most {largest // 2**20} MiB, the file is larger")
    return data


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ForeignError(f"expected UTF-8 text, got other bytes at position {error.start}") from None


def _line(number: int, raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw.decode("utf-8"))
    except RecursionError:
        raise ForeignError(f"line {number}: expected JSON, got brackets nested too deeply") from None
    except UnicodeDecodeError:
        raise ForeignError(f"line {number}: expected UTF-8 text, got other bytes") from None
    except ValueError as error:
        raise ForeignError(f"line {number}: expected JSON, got what cannot be read: {_short(error)}") from None
    if not isinstance(value, dict):
        raise ForeignError(f"line {number}: expected a JSON object, got {_kind(value)}")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ForeignError(f"expected each key once, got {shortened(twice, 60)!r} twice: which value is meant?")
    return found


def _kind(value: object) -> str:
    kinds = {
        list: "a list",
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        dict: "an object",
    }
    return "nothing" if value is None else kinds.get(type(value), type(value).__name__)


def _short(error: Exception) -> str:
    return shortened(" ".join(str(error).split()), 160)


# -- values in foreign files ------------------------------------------------------


def shortened(text: str, length: int = NAME_LENGTH) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def name_of(value: object, otherwise: str = UNKNOWN) -> str:
    """Return a name as one line of bounded length; of a path or hub id the last part."""
    text = " ".join(str(value).split()) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
    text = text.rstrip("/\\").replace("\\", "/").split("/")[-1]
    return shortened(text) or otherwise


def keys_of(line: Mapping[str, Any]) -> str:
    """Name the keys of an object, for a message."""
    names = [shortened(" ".join(str(key).split()), 40) for key in list(line)[:12]]
    return f"the keys {', '.join(names)}" if names else "no keys"


def number(value: object) -> float | None:
    """Return a number of at most 1e100, also one that was written as a text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if abs(found) <= LARGEST_NUMBER else None


def whole(value: object) -> int | None:
    """Return a whole number of at least 0 and at most 2**53; None for anything else."""
    found = number(value)
    return int(found) if found is not None and 0 <= found <= 2**53 and found == int(found) else None


def published(
    value: float,
    stderr: float | None,
    n: int | None,
    definition: str,
    why: str,
    *,
    bounded: bool = True,
    share: bool = False,
) -> MetricValue:
    """Make a metric value of a published one (0-100 where `bounded`): it could not be recomputed, `why` says so.

    A `share` of right answers gets Wilson's interval and, where none was published, its standard error; other values
    keep the published error and the normal interval. An empty `definition` stands for that of the metric of this name.
    """
    reasons = [why]
    low = high = None
    right = value * (n or 0) / 100
    if share and n and abs(right - round(right)) < 1e-6 and 0 <= value <= 100:
        estimate = stats.proportion(round(right), n)
        low, high = (None if end is None else 100 * end for end in (estimate.low, estimate.high))
        if stderr is None and estimate.stderr is not None:
            stderr = 100 * estimate.stderr
    if stderr is not None and stderr < 0:
        stderr = None
    if stderr == 0 and bounded and 0 < value < 100:
        stderr = None
        reasons.append("its published standard error of 0 cannot be")
    if low is None and stderr is not None:
        low, high = value - 1.959964 * stderr, value + 1.959964 * stderr
        if bounded:
            low, high = max(0.0, low), min(100.0, high)
    if n is None:
        reasons.append("number of items unknown")
    if stderr is None and n != 1:
        reasons.append("no standard error without items")
    return MetricValue(value, stderr, low, high, n or 0, definition, "; ".join(reasons))


_NO_NAME = re.compile(r"checkpoint-\d+|[0-9a-f]{40}|snapshots|final|merged|best|last|model|hf|output|outputs|saves")
_CHECKPOINT = re.compile(
    r"(?:^|/)(?:checkpoint-\d+|[^/]*(?:sft|dpo|lora|finetun|fine-tun)[^/]*|saves|merged)(?:/|$)", re.IGNORECASE
)


def model_name(path: str) -> str:
    """Return the name of a model from its hub id or folder; of `…/run/checkpoint-500` both parts."""
    parts = [part for part in str(path).replace("\\", "/").split("/") if part not in ("", ".", "..")]
    cached = next((part for part in parts if part.startswith("models--")), None)
    if cached is not None:
        return name_of(cached.split("--")[-1])
    named = next((part for part in reversed(parts) if not _NO_NAME.fullmatch(part)), parts[-1] if parts else "")
    step = next((part for part in reversed(parts) if re.fullmatch(r"checkpoint-\d+", part)), "")
    return name_of(f"{named}-{step}" if step and step != named else named)


def is_checkpoint(path: str) -> bool:
    """Say whether a path looks like somebody's training, of which the name says nothing certain."""
    return _CHECKPOINT.search(str(path).replace("\\", "/")) is not None


def place_names(path: Path, above: int = 6) -> list[str]:
    """Return the names of the folders above a file, the nearest first."""
    return [part for part in reversed(path.parent.parts[-above:]) if part not in (os.sep, "")]
