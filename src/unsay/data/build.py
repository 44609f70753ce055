"""Examples × strategy × tokenizer → training rows on disk, with the list of what was refused and a manifest.

Rows are ids with the origin of every token; text is never tokenised twice. Knows no tokenizer (it is handed two
encoding functions) and imports no heavy library. The same examples, settings and seed give the same bytes.

    manifest = build(examples, encoding, settings.undo, cutoff_len=2048, seed=0, folder=folder, leaks=[Leaks(test)])
    rows = load_rows(folder)

Writes `data/train.jsonl`, `data/refused.jsonl`, `data/pieces.json` (the text of every id, so that no reader needs a
tokenizer) and, last, `data/manifest.json` below the folder: rows without a manifest that names their hash are an
interrupted build and are not loaded. More processes build the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

from unsay.augment import Answer, NoMistakeError, Source, Strategy, Vocabulary, apply_strategy, derive_rng, load
from unsay.data.candidates import Candidates, read_candidates
from unsay.data.leaks import Leaks
from unsay.data.words import in_words
from unsay.errors import ConfigError, DataError, StoreError, UndoError
from unsay.records import CLEAN, CORRECTION, ERROR, SCHEMA, UNDO, Example, Row
from unsay.settings import UndoData
from unsay.store import layout, schema, write
from unsay.undo import EMPTY, Mask, check_row, loss_weights

_KINDS = {CLEAN: "clean", ERROR: "error", UNDO: "undo", CORRECTION: "correction"}


@dataclass(frozen=True)
class Encoding:
    """What building needs of a tokenizer and a template.

    `prompt` gives the ids the evaluation prompt has, too; `answer` the gold answer's ids with their place in the text,
    no special tokens. Both may raise DataError or UndoError for an example, which is then refused. `vocabulary` is None
    when the model has no undo token. `tokenizer` is the fingerprint that a file of candidates must name, `pieces` gives
    the display text of ids.
    """

    prompt: Callable[[Example], tuple[int, ...]]
    answer: Callable[[str], Answer]
    end_id: int
    vocabulary: Vocabulary | None = None
    tokenizer: str = ""
    pieces: Callable[[Iterable[int]], list[str]] | None = None


@dataclass(frozen=True)
class Manifest:
    """What is in the rows, and what they were made from."""

    rows: int
    refused: int
    rows_with_undo: int
    tokens: dict[str, int]
    """Prompt, clean, error, undo and correction tokens, and the `supervised` ones among them: those with a loss."""
    shares: dict[str, float]
    """The same over all tokens."""
    longest: int
    """Tokens of the longest row, prompt and answer together."""
    refusals: dict[str, int]
    """How many rows were refused for which kind of reason."""
    settings: dict[str, Any]
    facts: dict[str, Any]
    rows_sha256: str

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA} | asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Manifest:
        return cls(**{key: item for key, item in value.items() if key != "schema"})


class _RowError(Exception):
    """One example that gives no row; `kind` is what the manifest counts."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def build(
    examples: Iterable[Example],
    encoding: Encoding,
    undo: UndoData | None,
    *,
    cutoff_len: int,
    seed: int,
    folder: Path,
    leaks: Sequence[Leaks] = (),
    facts: Mapping[str, Any] | None = None,
    processes: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Manifest:
    """Build the rows of `examples`, in their order, and write them below `folder`.

    `undo` None makes plain rows. Refused and listed with their reason: rows longer than `cutoff_len` (they are not
    cut), rows that are evaluated on (found by one of `leaks`), rows in which the strategy finds no place for a mistake,
    and rows that break a rule of undo. `facts` goes into the manifest
    as it is; `progress` is called with the number of examples done. Raise DataError when two examples have one id or
    when no row is left, ConfigError when the strategy does not fit the undo table.
    """
    strategy = _strategy(encoding, undo)
    builder = _Builder(
        encoding,
        undo,
        strategy,
        _candidates(encoding, strategy),
        tuple(leaks),
        cutoff_len,
        seed,
    )
    rows: list[_Made] = []
    refused: list[dict[str, Any]] = []
    refusals: Counter[str] = Counter()
    for done, (id, outcome) in enumerate(_outcomes(builder, _unique(examples), processes), 1):
        if isinstance(outcome, _Made):
            rows.append(outcome)
        else:
            refusals[outcome.kind] += 1
            refused.append({"schema": SCHEMA, "id": id, "kind": outcome.kind, "reason": outcome.reason})
        if progress is not None:
            progress(done)
    if not rows:
        raise DataError(_nothing_left(refused))
    place = layout.data(folder)
    content = b"".join(row.line for row in rows)
    tokens = {name: sum(row.tokens[name] for row in rows) for name in ("prompt", *_KINDS.values(), "supervised")}
    total = sum(tokens[kind] for kind in ("prompt", *_KINDS.values()))
    found = builder.candidates
    manifest = Manifest(
        rows=len(rows),
        refused=len(refused),
        rows_with_undo=sum(row.tokens["undo"] > 0 for row in rows),
        tokens=tokens,
        shares={kind: round(count / total, 6) for kind, count in tokens.items()},
        longest=max(row.length for row in rows),
        refusals=dict(sorted(refusals.items())),
        settings={
            "undo": asdict(undo) if undo else None,
            "strategy": _options(strategy),
            "undo_table": encoding.vocabulary.table.sha256() if encoding.vocabulary else None,
            "end_id": encoding.end_id,
            "cutoff_len": cutoff_len,
            "seed": seed,
        }
        | ({} if found is None else {"candidates": found.facts()}),
        facts=dict(facts or {}),
        rows_sha256=hashlib.sha256(content).hexdigest(),
    )
    write.write_bytes(place / layout.ROWS, content)
    write.write_bytes(place / layout.REFUSED, b"".join(map(_line, refused)))
    if encoding.pieces is not None:
        ids = sorted(set().union(*(row.ids for row in rows)))
        texts = dict(zip(map(str, ids), encoding.pieces(ids), strict=True))
        table = encoding.vocabulary.table.to_json() if encoding.vocabulary else None
        write.write_json(
            place / layout.PIECES,
            {"schema": SCHEMA, "tokenizer": encoding.tokenizer, "undo_table": table, "pieces": texts},
        )
    write.write_json(place / layout.MANIFEST, manifest.to_json())
    return manifest


def load_manifest(folder: Path) -> Manifest:
    """Read what `build` wrote below `folder`; raise DataError when there is no finished build."""
    path = layout.data(folder) / layout.MANIFEST
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"expected a finished build of training data, found no {path}; build it again") from error
    except ValueError as error:
        raise DataError(f"expected JSON in {path}, got: {error}; build the data again") from error
    if not isinstance(value, dict) or "schema" not in value:
        raise DataError(f"expected {path} to hold a JSON object with its schema; build the data again")
    try:
        return Manifest.from_json(schema.current(value, path))
    except StoreError as error:
        raise DataError(str(error)) from error


def load_rows(folder: Path) -> list[Row]:
    """Read the rows `build` wrote below `folder`; raise DataError unless they are the ones its manifest names."""
    manifest = load_manifest(folder)
    path = layout.data(folder) / layout.ROWS
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"expected training rows in {path}, found no such file; build the data again") from error
    if hashlib.sha256(content).hexdigest() != manifest.rows_sha256:
        raise DataError(f"expected {path} to be the file its manifest names, got another content; build the data again")
    return [Row.from_json(schema.current(json.loads(line), path)) for line in content.splitlines()]


def _strategy(encoding: Encoding, undo: UndoData | None) -> Strategy | None:
    if undo is None:
        return None
    if encoding.vocabulary is None or not encoding.vocabulary.table:
        raise ConfigError(f"the undo strategy {undo.strategy!r} needs a model with an undo token; this one has none")
    if not 0 <= undo.clean_share <= 1:
        raise ConfigError(f"expected clean_share between 0 and 1, got {undo.clean_share}")
    return load(undo.strategy, undo.options)


def _options(strategy: Strategy | None) -> dict[str, Any] | None:
    """Return every option of a strategy, defaults included: an old build keeps the value it was made with."""
    if strategy is None:
        return None
    kind: Any = strategy
    return {field.name: getattr(kind, field.name) for field in fields(kind)}


def _candidates(encoding: Encoding, strategy: Strategy | None) -> Candidates | None:
    """Read the file of other answers that a strategy asks for."""
    path = getattr(strategy, "candidates", None)
    return None if path is None else read_candidates(Path(path), tokenizer=encoding.tokenizer)


def _unique(examples: Iterable[Example]) -> Iterator[Example]:
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise DataError(f"expected every example to have its own id, got {example.id!r} twice")
        seen.add(example.id)
        yield example


@dataclass(frozen=True)
class _Made:
    """A row as it is written, and what the manifest counts of it: a row made elsewhere travels as bytes."""

    line: bytes
    tokens: dict[str, int]
    ids: frozenset[int]
    """Every id that occurs in it."""

    @property
    def length(self) -> int:
        return sum(self.tokens.values()) - self.tokens["supervised"]

    @classmethod
    def of(cls, row: Row, mask: Mask) -> _Made:
        weights = loss_weights(row.provenance, mask)
        tokens = {
            "prompt": len(row.prompt_ids),
            **{kind: row.provenance.count(letter) for letter, kind in _KINDS.items()},
            "supervised": len(weights) - weights.count(0.0),
        }
        return cls(_line(row.to_json()), tokens, frozenset(row.prompt_ids).union(row.ids))


@dataclass(frozen=True)
class _Refusal:
    kind: str
    reason: str


@dataclass(frozen=True)
class _Builder:
    """Makes the row of one example, from nothing but that example and what is fixed for the whole build."""

    encoding: Encoding
    undo: UndoData | None
    strategy: Strategy | None
    candidates: Candidates | None
    leaks: tuple[Leaks, ...]
    cutoff_len: int
    seed: int

    def outcome(self, example: Example) -> tuple[str, _Made | _Refusal]:
        try:
            return example.id, _Made.of(self.row(example), self.undo.mask if self.undo else "none")
        except _RowError as error:
            return example.id, _Refusal(error.kind, str(error))

    def row(self, example: Example) -> Row:
        for leaks in self.leaks:
            if (leak := leaks.found(example)) is not None:
                raise _RowError("leak", f"expected a row that is not evaluated on, got {leak}")
        row = self.traced(self.source(example))
        if (length := len(row.prompt_ids) + len(row.ids)) > self.cutoff_len:
            raise _RowError("too_long", f"expected at most {self.cutoff_len} tokens (cutoff_len), got {length}")
        return row

    def source(self, example: Example) -> Source:
        encoding = self.encoding
        try:
            answer = encoding.answer(example.answer)
            if self.candidates is not None:
                answer = replace(answer, candidates=self.candidates.answers.get(example.id, ()))
            source = Source(example.id, encoding.prompt(example), answer, encoding.end_id)
        except (DataError, UndoError) as error:
            raise _RowError("encoding", str(error)) from error
        if not source.answer.ids:
            raise _RowError("empty", "expected an answer of at least one token, got none")
        return source

    def traced(self, source: Source) -> Row:
        undo, vocabulary = self.undo, self.encoding.vocabulary
        try:
            # The share has its own random state: changing it leaves the mistakes of the other rows as they are.
            share = 1.0 if undo is None else undo.clean_share
            clean = share == 1.0 or (share > 0 and derive_rng(self.seed, source.id, "clean_share").random() < share)
            if undo is not None and self.strategy is not None and vocabulary is not None and not clean:
                row = apply_strategy(undo.strategy, self.strategy, source, vocabulary, seed=self.seed)
                return in_words(row, vocabulary) if undo.say == "words" else row
            row = source.plain()
            check_row(row, source.answer.ids, vocabulary.table if vocabulary else EMPTY, {source.end_id})
            return row
        except NoMistakeError as error:
            raise _RowError("no_mistake", str(error)) from error
        except UndoError as error:
            raise _RowError("undo", str(error)) from error


_EXAMPLES_AT_ONCE = 32
_inherited: list[_Builder] = []
"""What a forked process builds with: it has its parent's tokenizer and functions, which cannot be sent."""


def _outcomes(builder: _Builder, examples: Iterator[Example], processes: int) -> Iterator[tuple[str, _Made | _Refusal]]:
    """Yield what becomes of each example, in order; in this process where others cannot be forked."""
    if processes <= 1 or sys.platform != "linux":
        yield from map(builder.outcome, examples)
        return
    _inherited.append(builder)
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("fork"), initializer=_one_thread)
    try:
        parts = iter(lambda: list(islice(examples, _EXAMPLES_AT_ONCE)), [])
        waiting = deque(pool.submit(_inherited_outcomes, part) for part in islice(parts, 2 * processes))
        while waiting:
            yield from waiting.popleft().result()
            waiting.extend(pool.submit(_inherited_outcomes, part) for part in islice(parts, 1))
    except BrokenProcessPool as error:
        raise DataError(
            f"expected {processes} processes to build rows, but one was ended from outside, perhaps for want of "
            "memory; build with fewer (--processes 1)"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
        _inherited.pop()


def _inherited_outcomes(examples: Sequence[Example]) -> list[tuple[str, _Made | _Refusal]]:
    return [_inherited[-1].outcome(example) for example in examples]


def _one_thread() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _line(value: Mapping[str, Any]) -> bytes:
    return _encode(value).encode() + b"\n"


def _nothing_left(refused: Sequence[Mapping[str, Any]]) -> str:
    if not refused:
        return "expected at least one training example, got none; check the dataset's path and split"
    first = refused[0]
    return f"expected at least one training row, but all {len(refused)} were refused; {first['id']}: {first['reason']}"
