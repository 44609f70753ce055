"""What an undo token means: resolve a trace, replay it step by step, say which tokens a loss may use.

This is the only place that knows what an undo removes; data building, the loss mask, the decoder, scoring and the
viewer all call it. It works on token ids and knows nothing about tokenizers, models or files.

    resolve([5, 6, UNDO, 7], table).visible_ids     # (5, 7)

The rules, with their edge cases:

* A trace is everything sampled after the prompt. A table maps control ids to actions: pop 1, pop k, pop the line, pop
  all. Every other id is ordinary and goes onto the stack of survivors.
* An undo pops survivors only. Controls never enter the stack, so an undo cannot be undone.
* An undo at the very start, or more undos than there are survivors, is an *underflow*: it is counted and does nothing.
  The prompt is below the stack and cannot be reached.
* A pop k with fewer than k survivors takes what is there and counts as effective; pop line and pop all underflow only
  on an empty stack.
* Pop line takes the newest survivor whatever it is, then goes on until the newest survivor contains a line break or
  nothing is left. So a final line break falls with the line it ends, and the line break before that line stays. A token
  that holds a line break and more text counts as a line break: ids are never split.
* An undo may be the last token of a trace; the trace is then simply unfinished.
* The first end token is final: it is never undone, whatever follows it is dropped before anything is counted.
* In a chat every assistant message is a trace of its own: an undo never reaches an earlier message, and the history
  that the next message is written from holds survivors. A control id anywhere else in a chat is an error.

Every trace satisfies `sampled == survivors + popped + undos + underflows` (see `unsay.records.Counts`).

`resolve` is for one trace, `resolve_many` for files of them: numpy, the same answers, several times as fast.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args

from unsay.errors import UndoError
from unsay.records import CLEAN, CORRECTION, ERROR, PROVENANCE, SCHEMA, UNDO, Counts, Row, Trace, Written

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.int64]
    Flags = NDArray[np.bool_]

ActionKind = Literal["pop", "pop_line", "pop_all"]
StepKind = Literal["emit", "undo", "underflow", "end"]
Mask = Literal["errors", "repeats", "before_undo", "none"]

ACTION_KINDS: tuple[str, ...] = get_args(ActionKind)

BLOCK = 1 << 18
"""Tokens that `resolve_many` looks at together: what bounds its memory beside the result."""
MASKS: tuple[str, ...] = get_args(Mask)


@dataclass(frozen=True)
class Action:
    """What one control token does. `count` is the number of survivors a `pop` takes; the other kinds have none."""

    kind: ActionKind
    count: int = 1

    def __post_init__(self) -> None:
        if self.kind not in ACTION_KINDS:
            raise UndoError(f"expected an undo action ({', '.join(ACTION_KINDS)}), got {self.kind!r}")
        if self.count < 1 or (self.kind != "pop" and self.count != 1):
            raise UndoError(f"expected a count of 1 or more for 'pop' and 1 otherwise, got {self.count}")


@dataclass(frozen=True)
class UndoTable:
    """Which ids are control tokens and what each of them does; saved as `undo.json`.

    `newline_ids` are the ordinary ids whose text contains a line break; only pop line asks for them. The mappings are
    copied on the way in and must not be changed afterwards.
    """

    actions: Mapping[int, Action]
    names: Mapping[int, str]
    newline_ids: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if set(self.actions) != set(self.names):
            raise UndoError(
                f"expected one token string per control id, got ids {sorted(self.actions)} and names for "
                f"{sorted(self.names)}"
            )
        if both := sorted(self.newline_ids & set(self.actions)):
            raise UndoError(f"expected line breaks to be ordinary tokens, got control ids {both} among newline_ids")
        object.__setattr__(self, "actions", {id: self.actions[id] for id in sorted(self.actions)})
        object.__setattr__(self, "names", {id: self.names[id] for id in sorted(self.names)})
        object.__setattr__(self, "newline_ids", frozenset(self.newline_ids))

    def __hash__(self) -> int:
        return hash(self.sha256())

    def __bool__(self) -> bool:
        """Say whether there is any control token at all."""
        return bool(self.actions)

    def is_control(self, id: int) -> bool:
        return id in self.actions

    def control(self, kind: ActionKind, count: int = 1) -> int | None:
        """Return the (lowest) control id with this action, or None when the table has none."""
        wanted = Action(kind, count)
        return next((id for id, action in self.actions.items() if action == wanted), None)

    def within(self, rows: int) -> UndoTable:
        """Return the table without the control tokens that a model of so many rows cannot sample."""
        kept = {id: action for id, action in self.actions.items() if id < rows}
        return UndoTable(kept, {id: self.names[id] for id in kept}, self.newline_ids)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "controls": [
                {"id": id, "token": self.names[id], "kind": action.kind, "count": action.count}
                for id, action in self.actions.items()
            ],
            "newline_ids": sorted(self.newline_ids),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> UndoTable:
        if value.get("schema") != SCHEMA:
            raise UndoError(
                f"expected an undo table with schema {SCHEMA}, got schema {value.get('schema')!r}; "
                "it was written by another release of unsay: use that one, or train again"
            )
        try:
            controls = value["controls"]
            return cls(
                {int(control["id"]): Action(control["kind"], int(control["count"])) for control in controls},
                {int(control["id"]): str(control["token"]) for control in controls},
                frozenset(int(id) for id in value["newline_ids"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UndoError(
                "expected an undo table with 'controls' (id, token, kind, count) and 'newline_ids', "
                f"got one that is broken at {error}; copy undo.json again from where it was trained"
            ) from error

    def sha256(self) -> str:
        """Hash everything in the table: two tables with one hash resolve every trace alike."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


EMPTY = UndoTable({}, {})
"""No undo: every trace is its own visible text."""


class UndoStack:
    """The survivors of a trace while it is being written. Knows no end token: the caller stops pushing.

    `survivors` are the surviving ids, `positions` the index in the trace of each of them; read both, change neither.
    """

    __slots__ = ("positions", "pushed", "survivors", "table")

    def __init__(self, table: UndoTable) -> None:
        self.table = table
        self.survivors: list[int] = []
        self.positions: list[int] = []
        self.pushed = 0

    def __len__(self) -> int:
        return len(self.survivors)

    def pops(self, id: int) -> int:
        """Count the survivors that pushing `id` would take; 0 for an ordinary id and for an underflow."""
        action = self.table.actions.get(id)
        if action is None:
            return 0
        depth = len(self.survivors)
        if action.kind == "pop":
            return min(action.count, depth)
        if action.kind == "pop_all" or depth == 0:
            return depth
        keep, survivors, breaks = depth - 1, self.survivors, self.table.newline_ids
        while keep and survivors[keep - 1] not in breaks:
            keep -= 1
        return depth - keep

    def extend(self, ids: Sequence[int]) -> None:
        """Take the next ids of the trace, none of them a control token."""
        self.survivors += ids
        self.positions += range(self.pushed, self.pushed + len(ids))
        self.pushed += len(ids)

    def push(self, id: int) -> int:
        """Take the next id of the trace; return how many survivors it popped."""
        if id in self.table.actions:
            popped = self.pops(id)
            if popped:
                del self.survivors[-popped:]
                del self.positions[-popped:]
        else:
            popped = 0
            self.survivors.append(id)
            self.positions.append(self.pushed)
        self.pushed += 1
        return popped


@dataclass(frozen=True, slots=True)
class Step:
    """One id of a trace and what it did. `popped` are indices in the trace, newest first; `depth` is the new height."""

    index: int
    id: int
    kind: StepKind
    popped: tuple[int, ...]
    depth: int


@dataclass(frozen=True)
class Resolution:
    """What is left of a trace. `visible_ids` exclude the end token; `positions` are their indices in the trace."""

    visible_ids: tuple[int, ...]
    positions: tuple[int, ...]
    counts: Counts
    ended: bool


def replay(ids: Sequence[int], table: UndoTable, eos_ids: Collection[int] = frozenset()) -> Iterator[Step]:
    """Yield what each id did, up to and including the first end token.

    `depth` counts survivors without the end token.
    """
    _refuse_overlap(table, eos_ids)
    stack = UndoStack(table)
    for index, id in enumerate(ids):
        if id in eos_ids:
            yield Step(index, id, "end", (), len(stack))
            return
        if not table.is_control(id):
            stack.push(id)
            yield Step(index, id, "emit", (), len(stack))
            continue
        reach = stack.pops(id)
        popped = tuple(reversed(stack.positions[-reach:])) if reach else ()
        stack.push(id)
        yield Step(index, id, "undo" if popped else "underflow", popped, len(stack))


def resolve(ids: Sequence[int], table: UndoTable, eos_ids: Collection[int] = frozenset()) -> Resolution:
    """Return what survives of a trace, and count what happened.

    Raise UndoError when an end token is also a control token.
    """
    _refuse_overlap(table, eos_ids)
    stack = UndoStack(table)
    popped = undos = underflows = run = 0
    run_lengths: list[int] = []
    depths: list[int] = []
    first_undo: int | None = None
    ended = False
    for index, id in enumerate(ids):
        if id in eos_ids:
            ended = True
            break
        taken = stack.push(id)
        if table.is_control(id):
            first_undo = index if first_undo is None else first_undo
            popped += taken
            undos += taken > 0
            underflows += taken == 0
            run += 1
        elif run:
            # The survivor just pushed is not part of the height the episode ended at.
            run_lengths.append(run)
            depths.append(len(stack) - 1)
            run = 0
    if run:
        run_lengths.append(run)
        depths.append(len(stack))
    counts = Counts(
        sampled=stack.pushed + ended,
        survivors=len(stack) + ended,
        popped=popped,
        undos=undos,
        underflows=underflows,
        episodes=len(run_lengths),
        run_lengths=tuple(run_lengths),
        depths=tuple(depths),
        first_undo=first_undo,
        undo_left=sum(table.is_control(id) for id in stack.survivors),
    )
    return Resolution(tuple(stack.survivors), tuple(stack.positions), counts, ended)


def written(trace: Trace, table: UndoTable, eos_ids: Collection[int] = frozenset()) -> Written:
    """Return an answer token by token, with what every control token took back: what measures of a trace look at."""
    stack = UndoStack(table)
    takes: list[int | None] = []
    for id in trace.ids:
        if id in eos_ids:
            break
        taken = stack.push(id)
        takes.append(taken if table.is_control(id) else None)
    size = len(takes)
    chance = math.exp(trace.undo_logprobs[0]) if trace.undo_logprobs else None
    return Written(trace.pieces[:size], trace.ids[:size], tuple(takes), trace.beginning, chance)


def status(ids: Sequence[int], table: UndoTable, eos_ids: Collection[int] = frozenset()) -> list[bool]:
    """Say for each id of the trace whether it survives.

    True for survivors and for the end token; False for what was taken back, for every control token and for whatever
    follows the end token. `replay` tells these apart.
    """
    resolution = resolve(ids, table, eos_ids)
    alive = [False] * len(ids)
    for position in resolution.positions:
        alive[position] = True
    if resolution.ended:
        alive[resolution.counts.sampled - 1] = True
    return alive


# -- chats --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chat:
    """A chat after every undo: what the next message is written from, and what became of each assistant message."""

    history_ids: tuple[int, ...]
    messages: tuple[Resolution, ...]


def resolve_messages(
    messages: Iterable[Sequence[int]], table: UndoTable, eos_ids: Collection[int] = frozenset()
) -> tuple[Resolution, ...]:
    """Resolve the assistant messages of a chat, each by itself."""
    return tuple(resolve(ids, table, eos_ids) for ids in messages)


def resolve_chat(
    ids: Sequence[int],
    spans: Sequence[tuple[int, int]],
    table: UndoTable,
    eos_ids: Collection[int] = frozenset(),
) -> Chat:
    """Resolve a whole chat given as one stream of ids, `spans` (first, behind the last) being its assistant messages.

    A message's end token stays in the history; what follows it inside the span does not. Raise UndoError for spans that
    overlap or leave the stream, and for a control id outside them: user text must not take anything back.
    """
    history: list[int] = []
    messages: list[Resolution] = []
    place = 0
    for start, end in [*spans, (len(ids), len(ids))]:
        if not place <= start <= end <= len(ids):
            raise UndoError(
                f"expected the spans of a chat of {len(ids)} tokens in order, got ({start}, {end}) behind place {place}"
            )
        between = ids[place:start]
        found = next((at for at, id in enumerate(between, place) if table.is_control(id)), None)
        if found is not None:
            raise UndoError(
                f"expected control tokens in assistant messages only, got {table.names[ids[found]]!r} at place {found} "
                "of the chat; encode user text without special tokens, or give the spans of all assistant messages"
            )
        history += between
        if len(messages) < len(spans):
            message = resolve(ids[start:end], table, eos_ids)
            history += message.visible_ids
            history += [ids[start + message.counts.sampled - 1]] if message.ended else []
            messages.append(message)
        place = end
    return Chat(tuple(history), tuple(messages))


# -- many traces at once ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Traces:
    """Many traces behind each other: trace i is `ids[starts[i]:starts[i + 1]]`."""

    ids: Numbers  # (tokens,)
    starts: Numbers  # (traces + 1,), from 0 to the number of tokens

    @classmethod
    def of(cls, traces: Sequence[Sequence[int]]) -> Traces:
        import numpy as np

        starts = np.zeros(len(traces) + 1, dtype=np.int64)
        np.cumsum([len(trace) for trace in traces], out=starts[1:])
        return cls(np.fromiter(chain.from_iterable(traces), dtype=np.int64, count=int(starts[-1])), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1


@dataclass(frozen=True, eq=False)
class Resolutions(Sequence[Resolution]):
    """What is left of many traces: element i equals `resolve` of trace i. The arrays have one entry per token or trace.

    `alive` is `status`: true for survivors and end tokens. `first_undo` is -1 where there is none. Runs of undos are
    listed behind each other, those of trace i at `run_starts[i]:run_starts[i + 1]`.
    """

    traces: Traces
    alive: Flags  # (tokens,)
    ended: Flags  # (traces,), as all below but the runs
    sampled: Numbers
    survivors: Numbers
    popped: Numbers
    undos: Numbers
    underflows: Numbers
    first_undo: Numbers
    run_starts: Numbers  # (traces + 1,)
    run_lengths: Numbers  # (runs,)
    depths: Numbers  # (runs,)

    def __len__(self) -> int:
        return len(self.traces)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        start, ended = int(self.traces.starts[at]), bool(self.ended[at])
        sampled = int(self.sampled[at])
        positions = self.alive[start : start + sampled - ended].nonzero()[0]
        runs = slice(self.run_starts[at], self.run_starts[at + 1])
        first = int(self.first_undo[at])
        counts = Counts(
            sampled=sampled,
            survivors=int(self.survivors[at]),
            popped=int(self.popped[at]),
            undos=int(self.undos[at]),
            underflows=int(self.underflows[at]),
            episodes=len(self.run_lengths[runs]),
            run_lengths=tuple(self.run_lengths[runs].tolist()),
            depths=tuple(self.depths[runs].tolist()),
            first_undo=None if first < 0 else first,
        )
        visible = self.traces.ids[start + positions].tolist()
        return Resolution(tuple(visible), tuple(positions.tolist()), counts, ended)


def resolve_many(
    traces: Traces | Sequence[Sequence[int]], table: UndoTable, eos_ids: Collection[int] = frozenset()
) -> Resolutions:
    """Resolve many traces at once; the result's elements equal `resolve` of each trace.

    All that has to be found is how high the stack is after every token. A survivor is then an ordinary token whose
    height nothing later goes below. Raise UndoError when an end token is also a control token.
    """
    _refuse_overlap(table, eos_ids)
    if not isinstance(traces, Traces):
        traces = Traces.of(traces)
    return _joined(traces, [_resolve_block(block, table, eos_ids) for block in _blocks(traces)])


def _blocks(traces: Traces) -> Iterator[Traces]:
    """Yield the traces in parts of about `BLOCK` tokens, at least one trace each; one part where there are none."""
    import numpy as np

    first = 0
    while True:
        behind = int(np.searchsorted(traces.starts, traces.starts[first] + BLOCK, side="right")) - 1
        behind = min(max(behind, first + 1), len(traces))
        starts = traces.starts[first : behind + 1]
        yield Traces(traces.ids[starts[0] : starts[-1]], starts - starts[0])
        if behind == len(traces):
            return
        first = behind


def _joined(traces: Traces, blocks: Sequence[Resolutions]) -> Resolutions:
    import numpy as np

    names = [field.name for field in fields(Resolutions) if field.name not in ("traces", "run_starts")]
    arrays = {name: np.concatenate([getattr(block, name) for block in blocks]) for name in names}
    runs = np.concatenate([np.diff(block.run_starts) for block in blocks])
    return Resolutions(traces, run_starts=np.concatenate([[0], np.cumsum(runs)]), **arrays)


def _resolve_block(traces: Traces, table: UndoTable, eos_ids: Collection[int]) -> Resolutions:
    import numpy as np

    ids, starts = traces.ids, traces.starts
    places = np.arange(len(ids))
    owner = np.repeat(np.arange(len(traces)), np.diff(starts))  # whose token each is

    # 1. Where each trace ends: at its first end token, which is not part of `length`.
    length, ended = np.diff(starts), np.zeros(len(traces), dtype=bool)
    ends = np.flatnonzero(_among(ids, eos_ids))
    owners, first = np.unique(owner[ends], return_index=True)
    length[owners], ended[owners] = ends[first] - starts[owners], True
    stops = starts[:-1] + length
    counted = places < stops[owner]

    # 2. The height after every token, and who survives: nothing from there on may be lower.
    controls = _among(ids, table.actions) & counted
    height = _heights(traces, owner, counted, table)
    longest = len(ids) + 1
    lowest = np.minimum.accumulate((height + owner * longest)[::-1])[::-1] - owner * longest
    alive = (lowest == height) & counted & ~controls
    alive[stops[ended]] = True

    # 3. What every control token did, added up per trace.
    occupied = starts[:-1][np.diff(starts) > 0]
    before = np.zeros(len(ids), dtype=np.int64)
    before[1:] = height[:-1]
    before[occupied] = 0
    undo_places = np.flatnonzero(controls)
    taken = before[undo_places] - height[undo_places]
    undo_owner = owner[undo_places]

    def total(values: Any) -> Numbers:
        return np.bincount(undo_owner, weights=values, minlength=len(traces)).astype(np.int64)

    # 4. Runs of undos: a run begins behind an ordinary token or at the start of its trace.
    begins = controls.copy()
    begins[1:] &= ~controls[:-1]
    begins[occupied] = controls[occupied]
    run_begins = np.flatnonzero(begins)
    run_lengths = np.diff(np.append(np.searchsorted(undo_places, run_begins), len(undo_places)))
    run_starts = np.searchsorted(run_begins, starts)
    has_run = np.diff(run_starts) > 0
    first_undo = np.full(len(traces), -1, dtype=np.int64)
    first_undo[has_run] = run_begins[run_starts[:-1][has_run]] - starts[:-1][has_run]
    return Resolutions(
        traces,
        alive,
        ended,
        sampled=length + ended,
        survivors=np.bincount(owner[alive], minlength=len(traces)),
        popped=total(taken),
        undos=total(taken > 0),
        underflows=total(taken == 0),
        first_undo=first_undo,
        run_starts=run_starts,
        run_lengths=run_lengths,
        depths=height[run_begins + run_lengths - 1],
    )


def _among(ids: Numbers, wanted: Collection[int]) -> Flags:
    import numpy as np

    if len(wanted) > 8:
        return np.isin(ids, np.fromiter(wanted, dtype=np.int64, count=len(wanted)))
    found = np.zeros(len(ids), dtype=bool)
    for id in wanted:
        found |= ids == id
    return found


def _heights(traces: Traces, owner: Numbers, counted: Flags, table: UndoTable) -> Numbers:
    """Return the stack's height after every token; one that does not count leaves it as it is."""
    import numpy as np

    ids = traces.ids
    everything = len(ids) + 1
    move = np.ones(len(ids), dtype=np.int64)
    lines = np.zeros(len(ids), dtype=bool)
    for id, action in table.actions.items():
        here = ids == id
        move[here] = {"pop": -min(action.count, everything), "pop_all": -everything, "pop_line": 0}[action.kind]
        if action.kind == "pop_line":
            lines |= here & counted
    move[~counted] = 0
    if lines.any():
        _measure_lines(traces, owner, move, lines, _among(ids, table.newline_ids))
    # A walk that cannot go below the floor is the free walk less the lowest it would have been below zero.
    walk = np.cumsum(move)
    walk -= np.concatenate([[0], walk])[traces.starts[:-1]][owner]
    depth = int(-walk.min(initial=0)) + 1
    below = np.minimum.accumulate(np.minimum(walk, 0) - owner * depth) + owner * depth
    return np.asarray(walk - below)


def _measure_lines(traces: Traces, owner: Numbers, move: Numbers, lines: Flags, breaks: Flags) -> None:
    """Write into `move` how far each undo of a line goes down, walking all traces that have one side by side."""
    import numpy as np

    some = np.unique(owner[lines])
    length = np.diff(traces.starts)[some]
    some, length = some[np.argsort(-length, kind="stable")], np.sort(length)[::-1]
    starts, count = traces.starts[some], len(some)
    height = np.zeros(count, dtype=np.int64)
    # below[i, h]: how high trace i reaches up to the newest line break among its first h survivors; 0 without any.
    below = np.zeros((count, int(length[0]) + 1), dtype=np.int32)
    row = np.arange(count)
    for step in range(int(length[0])):
        count = int(np.searchsorted(-length, -step))  # the longer ones are still walking
        at = starts[:count] + step
        moves = move[at]
        undone = np.flatnonzero(lines[at] & (height[:count] > 0))
        if len(undone):
            moves[undone] = below[undone, height[undone] - 1] - height[undone]
            move[at[undone]] = moves[undone]
        top = np.maximum(height[:count] + moves, 0)
        pushed = moves == 1
        line = np.where(breaks[at], top, below[row[:count], np.maximum(top - 1, 0)])
        below[row[:count][pushed], top[pushed]] = line[pushed]
        height[:count] = top


def loss_weights(provenance: str, mask: Mask) -> list[float]:
    """Return one loss weight per token of a row's answer.

    `errors` gives 0 to every token that is taken back and 1 to the rest (undo, correction and end token included);
    `none` gives 1 to all. `repeats` is `errors` with long runs of undos held down: the first undo of a run has weight
    1, those that repeat it share another 1. `before_undo` is `errors` without a loss on anything before the first undo;
    a row without undo keeps its whole loss. What is a mistake comes from provenance, never from counting undos:
    counting is wrong as soon as an undo is followed by a survivor that is undone later.
    """
    if unknown := sorted(set(provenance) - set(PROVENANCE)):
        raise UndoError(f"expected provenance letters {', '.join(PROVENANCE)}, got {', '.join(unknown)}")
    if mask not in MASKS:
        raise UndoError(f"expected a mask ({', '.join(MASKS)}), got {mask!r}")
    if mask == "none":
        return [1.0] * len(provenance)
    weights = [0.0 if letter == ERROR else 1.0 for letter in provenance]
    if mask == "before_undo":
        first = max(provenance.find(UNDO), 0)
        weights[:first] = [0.0] * first
    if mask == "repeats":
        for run in re.finditer(f"{UNDO}{UNDO}+", provenance):
            repeats = run.end() - run.start() - 1
            weights[run.start() + 1 : run.end()] = [1.0 / repeats] * repeats
    return weights


def check_row(row: Row, clean_ids: Sequence[int], table: UndoTable, eos_ids: Collection[int]) -> None:
    """Raise UndoError, naming the row, unless its trace is a right answer with mistakes that are all taken back.

    `clean_ids` is the gold answer without its end token. Checked: one letter per token; exactly one end token, at the
    end; no control token in the prompt or the gold answer; no underflow; the trace resolves to the gold answer; letters
    agree with what happens to each token (a control is `u`, a token that is taken back is `e`, a survivor is `c` or
    `k`); no right token is called a mistake. The last rule reads: what a run of pops takes back starts with a token
    that differs from the right one at that place; what a pop line or pop all takes back differs somewhere, as a wrong
    line may begin like the right one. Below an earlier mistake there is no right token, so nothing is checked there.
    """
    _Check(row, clean_ids, table, eos_ids).run()


class _Check:
    """One call of `check_row`."""

    def __init__(self, row: Row, clean_ids: Sequence[int], table: UndoTable, eos_ids: Collection[int]) -> None:
        self.row = row
        self.clean_ids = tuple(clean_ids)
        self.table = table
        self.eos_ids = eos_ids

    def refuse(self, reason: str) -> NoReturn:
        raise UndoError(f"row {self.row.id}: {reason}")

    def run(self) -> None:
        self.check_shape()
        # The end token is the last id and stays out of the stack. Whole runs of ids between controls go at once:
        # a build checks every row, and most of a row is ordinary.
        self.controls = places(self.row.ids, self.table.actions)
        stack = UndoStack(self.table)
        done = 0
        for at in self.controls:
            stack.extend(self.row.ids[done:at])
            if not stack.push(self.row.ids[at]):
                self.refuse("expected every undo to take something back, got one with nothing left to take")
            done = at + 1
        stack.extend(self.row.ids[done:-1])
        visible_ids = tuple(stack.survivors)
        if visible_ids != self.clean_ids:
            self.refuse(
                f"expected the trace to resolve to the {len(self.clean_ids)} tokens of the clean answer, "
                f"got {_difference(visible_ids, self.clean_ids)}"
            )
        self.check_letters(stack.positions)
        self.check_mistakes()

    def check_shape(self) -> None:
        row = self.row
        if len(row.provenance) != len(row.ids):
            self.refuse(f"expected one provenance letter per token, got {len(row.provenance)} for {len(row.ids)}")
        for place, ids in (("prompt", row.prompt_ids), ("gold answer", self.clean_ids)):
            if not self.table.actions.keys().isdisjoint(ids):
                found = next(id for id in ids if self.table.is_control(id))
                self.refuse(
                    f"expected no control token in the {place}, got {self.table.names[found]!r}; "
                    "encode user text without special tokens"
                )
        ends = places(row.ids, self.eos_ids)
        _refuse_overlap(self.table, self.eos_ids)
        if ends != [len(row.ids) - 1]:
            self.refuse(f"expected one end token, at index {len(row.ids) - 1}, got end tokens at {ends}")

    def check_letters(self, surviving: Sequence[int]) -> None:
        letters = [ERROR] * len(self.row.ids)
        for at in (*surviving, len(letters) - 1):
            letters[at] = CLEAN
        for at in self.controls:
            letters[at] = UNDO
        # A correction is a survivor of another name; a control or a mistake is not.
        if self.row.provenance.replace(CORRECTION, CLEAN) == "".join(letters):
            return
        for at, (expected, letter) in enumerate(zip(letters, self.row.provenance, strict=True)):
            if letter != expected and (expected, letter) != (CLEAN, CORRECTION):
                allowed = f"{CLEAN} or {CORRECTION}" if expected == CLEAN else expected
                self.refuse(f"expected provenance {allowed} for token {at} (id {self.row.ids[at]}), got {letter!r}")

    def check_mistakes(self) -> None:
        right = (*self.clean_ids, self.row.ids[-1])
        stack = UndoStack(self.table)
        agreed = 0  # survivors, counted from the start, that equal the right answer
        before: list[int] = []  # survivors at the start of the running episode
        exact = True  # whether the episode consists of counted pops only
        done = 0
        for at in (*self.controls, len(self.row.ids)):
            run = self.row.ids[done:at]
            if run:
                depth = len(stack)
                if done:  # an episode ends here
                    if depth <= agreed:
                        self.check_episode(before[depth:], right[depth:], exact, depth)
                    agreed = min(agreed, depth)
                if agreed == depth:
                    agreed += _num_common(run, right[depth : depth + len(run)])
                stack.extend(run)
                before, exact = list(stack.survivors), True
            if at < len(self.row.ids):
                exact = exact and self.table.actions[self.row.ids[at]].kind == "pop"
                stack.push(self.row.ids[at])
            done = at + 1

    def check_episode(self, taken: list[int], right: tuple[int, ...], exact: bool, depth: int) -> None:
        compared = 1 if exact else len(taken)
        if tuple(taken[:compared]) == right[:compared]:
            what = "the first token taken back" if exact else "the line taken back"
            self.refuse(f"expected {what} at place {depth} to differ from the right one, got the same")


def places(ids: Sequence[int], wanted: Collection[int]) -> list[int]:
    """Return where in `ids` one of `wanted` stands, in order."""
    found: list[int] = []
    for id in wanted:  # few against many: looking for each takes less than asking every id
        at = -1
        for _ in range(ids.count(id)):
            at = ids.index(id, at + 1)
            found.append(at)
    found.sort()
    return found


def _refuse_overlap(table: UndoTable, eos_ids: Collection[int]) -> None:
    if both := [id for id in eos_ids if table.is_control(id)]:
        raise UndoError(f"expected end tokens and control tokens to differ, got {sorted(both)} as both")


def _num_common(left: Sequence[int], right: Sequence[int]) -> int:
    if left == right:
        return len(left)
    pairs = enumerate(zip(left, right, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(left), len(right)))


def _difference(got: Sequence[int], expected: Sequence[int]) -> str:
    for index, (left, right) in enumerate(zip(got, expected, strict=False)):
        if left != right:
            return f"id {left} instead of {right} at place {index}"
    return f"{len(got)} tokens"
