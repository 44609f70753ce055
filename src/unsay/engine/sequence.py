"""One answer while it is being written: its trace, its survivors, its budgets and what it must not repeat.

A sequence goes on by `take`: it records a sampled token, or forgets retracted ones. It knows nothing about tensors or
the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from unsay.engine.options import Event, Observer
from unsay.records import Beginning, Key
from unsay.settings import Decode
from unsay.undo import Resolution, UndoStack, UndoTable, resolve


@dataclass(frozen=True)
class Request:
    """One prompt to answer. `seed` seeds this answer alone, so that it does not depend on its neighbours.

    `max_new_tokens` is a smaller budget than the run's. `given` is what the answer begins with, whatever the model
    would have written: those ids are fed one by one like sampled ones, and may be taken back like them.
    """

    key: Key
    prompt_ids: tuple[int, ...]
    seed: int = 0
    stop: tuple[str, ...] = ()
    max_new_tokens: int | None = None
    given: tuple[int, ...] = ()
    beginning: Beginning | None = None
    """What `given` is."""


@dataclass(frozen=True)
class Finished:
    """One finished answer. `visible` is the text of the survivors, cut before a stop string."""

    request: Request
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """The model's own, before bans, temperature and filters, one per sampled id."""
    visible_ids: tuple[int, ...]
    visible: str
    finish_reason: str
    resolution: Resolution
    sampler_logprobs: tuple[float, ...] = ()
    """Those of the distribution that was drawn from, where ids were drawn."""
    stop_in_raw: bool = False
    """Whether a stop string lies in all that was sampled, undos left out, and not in what survived."""
    undo_logprobs: tuple[float, ...] = ()
    """Of an answer that was given its beginning: the log-probability of any control token at each id behind that."""

    @property
    def trajectory_logprob(self) -> float:
        """The model's log-probability of everything that was sampled; not that of the visible text."""
        return math.fsum(self.logprobs)

    @property
    def survivor_logprob(self) -> float:
        """The sum over the survivors alone, each as it was sampled; nor is that the visible text's log-probability."""
        return math.fsum(self.logprobs[position] for position in self.resolution.positions)


@dataclass(frozen=True)
class Choice:
    """One sampled token; `logprob` is the model's own, `sampled` that of the distribution it was drawn from.

    `undo` is the model's own log-probability of any control token in its place, where that is asked for.
    """

    token: int
    logprob: float
    sampled: float | None = None
    undo: float | None = None


@dataclass(frozen=True)
class Rules:
    """What every sequence of one run shares."""

    decode: Decode
    table: UndoTable
    end_ids: frozenset[int]
    text_of: Callable[[Sequence[int]], str]
    max_context: int
    observe: Observer | None = None
    _ends: dict[tuple[tuple[str, ...], int], bool] = field(default_factory=dict)

    def may_end(self, id: int, stop: tuple[str, ...]) -> bool:
        """Say whether a text that ends with this id may end with one of the stop strings: most never do."""
        if (stop, id) not in self._ends:
            last = {each[-1] for each in stop}
            text = self.text_of([id])
            # A part of a character reads as U+FFFD by itself; white space may be left out at the beginning of a text.
            possible = any(char in text for char in last) or "\ufffd" in text or any(map(str.isspace, last))
            self._ends[stop, id] = possible
        return self._ends[stop, id]


@dataclass
class Ban:
    """After `path` was written again below its node, `token` must not follow once more."""

    path: tuple[int, ...]
    token: int


@dataclass
class WritingSequence:
    """The state of one answer. `context` is what the model has been, or must be, fed."""

    request: Request
    rules: Rules
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str | None = None
    needs_prefill: bool = True
    """Whether the model has to be taken back to `context` before it goes on."""
    sampler_logprobs: list[float] = field(default_factory=list)
    undo_logprobs: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stack = UndoStack(self.rules.table)
        self.context: list[int] = list(self.request.prompt_ids)
        self._bans: dict[int, list[Ban]] = {}  # stack height -> bans that live on that node
        self._visits: dict[int, int] = {}  # stack height -> rewinds to that node
        self._survivor_logprobs: list[float] = []
        self._in_undo_run = False
        self._num_undos = 0
        self._num_rewinds = 0
        self._settled = 0
        self._stop_window = 4 * max((len(stop) for stop in self.request.stop), default=0) + 8
        allowed, asked = self.rules.decode.max_new_tokens, self.request.max_new_tokens
        self._max_steps = allowed if asked is None else min(allowed, asked)
        if len(self.context) >= self.rules.max_context:
            self.finish_reason = "max_context"

    @property
    def draw(self) -> str:
        """What the seed of the next token is made from: the request's seed, and where the answer is.

        A token that was drawn and thrown away by a rewind is not drawn with the same numbers again: those have just
        decided against an undo.
        """
        place = f"{self.request.seed},{len(self.ids)}"
        return f"{place},{self._num_rewinds}" if self._num_rewinds else place

    @property
    def given(self) -> int | None:
        """The id that comes next whatever the model says; None where the model chooses."""
        at = len(self.ids)
        return self.request.given[at] if at < len(self.request.given) else None

    @property
    def rewinds(self) -> bool:
        return self.rules.decode.undo_context == "rewind"

    def banned(self) -> set[int]:
        """Return the ids that must not be sampled next: undos with nothing to pop, and what was just taken back."""
        banned: set[int] = set()
        if self.rules.decode.undo == "ban" or not self.stack.survivors:
            banned.update(self.rules.table.actions)
        if self._in_undo_run:
            return banned  # the run of undos may go on; what follows it is chosen after the rewind
        survivors = self.stack.survivors
        for height, bans in self._bans.items():
            for ban in bans:
                if height + len(ban.path) == len(survivors) and list(ban.path) == survivors[height:]:
                    banned.add(ban.token)
        return banned

    def wants_rewind(self, token: int) -> bool:
        """Say whether `token` ends a run of undos, so that it must be chosen again from the survivors' context."""
        return self._in_undo_run and not self.rules.table.is_control(token)

    def take(self, choice: Choice | None) -> None:
        """Go on with what was chosen: a token, or a rewind before it, or the end where nothing could be chosen."""
        before = len(self.ids), len(self.stack)
        if choice is None:
            self.finish_reason = "banned"
        elif self.wants_rewind(choice.token):
            self.rewind()
        else:
            self.append(choice)
        if self.rules.observe is not None:
            self._tell(self.rules.observe, *before)

    def append(self, choice: Choice) -> None:
        """Record a sampled token; afterwards `finish_reason` is set if the answer ended."""
        token, logprob = choice.token, choice.logprob
        self.ids.append(token)
        self.logprobs.append(logprob)
        if choice.sampled is not None:
            self.sampler_logprobs.append(choice.sampled)
        if choice.undo is not None and len(self.ids) > len(self.request.given):
            self.undo_logprobs.append(choice.undo)
        self.context.append(token)
        if token in self.rules.end_ids:
            self.finish_reason = "eos"
            return
        if self.rules.table.is_control(token):
            self._retract(token)
        else:
            self.stack.push(token)
            self._survivor_logprobs.append(logprob)
            if self._at_stop():
                self.finish_reason = "stop"
                return
        self.finish_reason = self._budget()

    def rewind(self) -> None:
        """Forget what was taken back: from here on the model has seen the prompt and the survivors only."""
        self.context = [*self.request.prompt_ids, *self.stack.survivors]
        self._in_undo_run = False
        self._num_rewinds += 1
        self.needs_prefill = True
        height = len(self.stack.survivors)
        self._visits[height] = self._visits.get(height, 0) + 1
        if self._visits[height] > self.rules.decode.max_visits:
            self.finish_reason = "max_visits"

    def finished(self) -> Finished:
        """Return the finished answer; raises ValueError while it is still being written."""
        if self.finish_reason is None:
            raise ValueError("the sequence is still being written")
        resolution = resolve(self.ids, self.rules.table, self.rules.end_ids)
        survivors = list(resolution.visible_ids)
        visible = self.rules.text_of(survivors)
        cut = min((at for stop in self.request.stop if (at := visible.find(stop)) >= 0), default=None)
        if cut is not None:
            visible = visible[:cut]
            while survivors and len(self.rules.text_of(survivors)) > cut:
                survivors.pop()
        raw = False
        if self.request.stop and cut is None and resolution.counts.undos:
            written = self.rules.text_of(self._written(self.ids))
            raw = any(stop in written for stop in self.request.stop)
        return Finished(
            self.request,
            tuple(self.ids),
            tuple(self.logprobs),
            tuple(survivors),
            visible,
            self.finish_reason,
            resolution,
            tuple(self.sampler_logprobs),
            raw,
            tuple(self.undo_logprobs),
        )

    @property
    def settled(self) -> int:
        """How many of the first survivors nothing can take back any more; never fewer than before."""
        height, decode, actions = len(self.stack), self.rules.decode, self.rules.table.actions.values()
        if self.finish_reason is not None or decode.undo == "ban" or not actions:
            return height
        if any(action.kind != "pop" for action in actions):
            return 0
        undos = self._max_steps - len(self.ids)
        if decode.max_undos is not None:
            undos = min(undos, decode.max_undos - self._num_undos)
        return max(0, height - undos * max(action.count for action in actions))

    def _tell(self, observe: Observer, sampled: int, height: int) -> None:
        """Tell what became of the answer since it had so many sampled tokens and survivors."""
        for token in self.ids[sampled:]:
            if self.rules.table.is_control(token):
                observe(Event(self.request.key, "retract", token, height - len(self.stack)))
            elif token not in self.rules.end_ids:
                observe(Event(self.request.key, "emit", token))
        if self.settled > self._settled:
            self._settled = self.settled
            observe(Event(self.request.key, "commit", count=self._settled))

    def _retract(self, token: int) -> None:
        self._num_undos += 1
        before = list(self.stack.survivors)
        self.stack.push(token)
        height = len(self.stack.survivors)
        removed = before[height:]
        if not removed:
            return
        removed_logprobs = self._survivor_logprobs[height:]
        del self._survivor_logprobs[height:]
        if not self.rewinds:
            return
        self._in_undo_run = True
        # Bans and visit counts live on the stack node and die with it.
        self._bans = {at: bans for at, bans in self._bans.items() if at <= height}
        self._visits = {at: count for at, count in self._visits.items() if at <= height}
        # A retracted line usually begins right: ban its least certain token where it stood, not its first one.
        worst = min(range(len(removed)), key=removed_logprobs.__getitem__)
        self._bans.setdefault(height, []).append(Ban(tuple(removed[:worst]), removed[worst]))

    def _at_stop(self) -> bool:
        stops = self.request.stop
        if not stops or not self.rules.may_end(self.ids[-1], stops):
            return False
        # A match must involve the newest token, so the text of the last few tokens is enough to find it.
        if self.rules.decode.stop_on == "raw":
            tail = self.rules.text_of(self._written(self.ids)[-self._stop_window :])
        else:
            tail = self.rules.text_of(self.stack.survivors[-self._stop_window :])
        return any(stop in tail for stop in stops)

    def _written(self, ids: Sequence[int]) -> list[int]:
        return [id for id in ids if not self.rules.table.is_control(id)]

    def _budget(self) -> str | None:
        decode = self.rules.decode
        if len(self.ids) >= self._max_steps:
            return "max_steps"
        if decode.max_survivors is not None and len(self.stack.survivors) >= decode.max_survivors:
            return "max_survivors"
        if decode.max_undos is not None and self._num_undos >= decode.max_undos:
            return "max_undos"
        if len(self.context) >= self.rules.max_context:
            return "max_context"
        return None
