"""What strategies share: mistakes at places of an answer, which of them are made, and what takes them back.

edits = choose(len(steps), slip, rate=0.3, least=1, most=3, rng=rng, missing="no step")
assemble(answer.ids, edits)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from unsay.augment import Answer, Augmented, NoMistakeError
from unsay.errors import ConfigError
from unsay.records import CLEAN, CORRECTION, ERROR, UNDO
from unsay.undo import ActionKind, UndoStack, UndoTable

Unit = Literal["auto", "line", "token"]
"""A mistake is taken back by pop line, or token by token; `auto` is by line where a token for that exists."""


@dataclass(frozen=True)
class Edit:
    """Write `written` before the answer's id `place`; its ids up to `redone` are the correction."""

    place: int
    written: tuple[int, ...]
    letters: str
    redone: int

    def is_apart(self, other: Edit) -> bool:
        """Say whether both fit into one trace."""
        return self.place != other.place and (self.redone <= other.place or other.redone <= self.place)


def mistake(place: int, errors: Sequence[int], undos: Sequence[int], redone: int) -> Edit:
    return Edit(place, (*errors, *undos), ERROR * len(errors) + UNDO * len(undos), redone)


def assemble(ids: Sequence[int], edits: Sequence[Edit]) -> Augmented | None:
    """Return the trace of an answer with these mistakes, in the order of their places; None without any."""
    if not edits:
        return None
    trace: list[int] = []
    letters: list[str] = []
    done = 0
    for edit in edits:
        trace += ids[done : edit.place]
        trace += edit.written
        trace += ids[edit.place : edit.redone]
        letters += (CLEAN * (edit.place - done), edit.letters, CORRECTION * (edit.redone - edit.place))
        done = edit.redone
    trace += ids[done:]
    return Augmented(tuple(trace), "".join(letters) + CLEAN * (len(ids) - done))


def choose(
    count: int,
    make: Callable[[int], Edit | None],
    *,
    rate: float,
    least: int,
    most: int,
    rng: random.Random,
    missing: str,
) -> list[Edit]:
    """Return the mistakes of one answer that has `count` occasions, sorted by place.

    Each occasion is taken with chance `rate`, first to last, until there are `most`. Where that gives fewer than
    `least`, others are tried at random. `make` returns None for one that cannot be used. Raise NoMistakeError,
    with `missing` as what came, when there are fewer than `least` in the end.
    """
    chosen: dict[int, Edit] = {}

    def add(index: int) -> None:
        edit = make(index)
        if edit is not None and all(edit.is_apart(other) for other in chosen.values()):
            chosen[index] = edit

    for index in range(count):
        if len(chosen) == most:
            break
        if rng.random() < rate:
            add(index)
    if len(chosen) < least:
        others = [index for index in range(count) if index not in chosen]
        rng.shuffle(others)
        for index in others:
            if len(chosen) == least:
                break
            add(index)
    if len(chosen) < least:
        places = "place" if least == 1 else "places"
        got = missing if not chosen else f"{len(chosen)}"
        raise NoMistakeError(f"expected at least {least} {places} for a mistake, got {got}")
    return sorted(chosen.values(), key=lambda edit: edit.place)


def control_of(strategy: str, undo: Unit, table: UndoTable) -> tuple[Unit, int]:
    """Return what a mistake is taken back by, `line` or `token`, and the control id for it; raise ConfigError."""
    line, token = table.control("pop_line"), table.control("pop")
    if undo != "token" and line is not None:
        return "line", line
    if undo != "line" and token is not None:
        return "token", token
    needed = {"auto": "pops a line or one token", "line": "pops a line", "token": "pops one token"}[undo]
    raise ConfigError(f"{strategy} with undo: {undo} needs a control token that {needed}; there is none")


def actions_of(undo: Unit, depth: int = 1) -> tuple[ActionKind, ...]:
    """Return what control tokens must do: what lies inside a mistake is taken back token by token."""
    if undo == "line":
        return ("pop_line",) if depth == 1 else ("pop_line", "pop")
    return ("pop",)


def wrong_line(ids: Sequence[int], place: int, errors: Sequence[int], redone: int, undos: Sequence[int],
               table: UndoTable) -> Edit | None:  # fmt: skip
    """Return whole wrong lines, written at `place` and taken back by `undos`; None where those take back other ids.

    Lines that only begin like the right ones, and stop there, are no mistake.
    """
    if not errors or holds_control(errors, table) or ids[place : place + len(errors)] == tuple(errors):
        return None
    stack = UndoStack(table)
    # One survivor before the place shows whether the first line of the mistake begins a line there.
    stack.extend((*ids[max(place - 1, 0) : place], *errors))
    popped = [stack.push(id) for id in undos]
    return mistake(place, errors, undos, redone) if all(popped) and sum(popped) == len(errors) else None


def wrong_tokens(ids: Sequence[int], place: int, errors: Sequence[int], redone: int, pop: int,
                 table: UndoTable) -> Edit | None:  # fmt: skip
    """Return wrong ids, written from the first that differs from the right one on and taken back one by one."""
    common = num_common(errors, ids[place : place + len(errors)])
    place, errors = place + common, errors[common:]
    if not errors or holds_control(errors, table):
        return None
    return mistake(place, errors, (pop,) * len(errors), max(redone, min(place + 1, len(ids))))


def holds_control(ids: Sequence[int], table: UndoTable) -> bool:
    return not table.actions.keys().isdisjoint(ids)


def num_common(left: Sequence[int], right: Sequence[int]) -> int:
    """Count the ids in which two sequences agree from the start."""
    shorter = min(len(left), len(right))
    return next((at for at, (one, other) in enumerate(zip(left, right, strict=False)) if one != other), shorter)


# -- mistakes inside mistakes ---------------------------------------------------------


Inside = Callable[[Sequence[int]], tuple[int, Sequence[int]] | None]
"""Says of the ids of a mistake before which of them another one begins, and its ids; None for none."""


def inner_pop(strategy: str, depth: int, table: UndoTable) -> int | None:
    """Return the control id that takes back what lies inside a mistake; None without depth. Raise ConfigError."""
    if depth == 1:
        return None
    pop = table.control("pop")
    if pop is None:
        raise ConfigError(f"{strategy} with depth: {depth} needs a control token that pops one token; there is none")
    return pop


def nest(edit: Edit, ids: Sequence[int], inside: Inside, depth: int, pop: int, rng: random.Random) -> Edit:
    """Return the mistake, with chance one half per level with another one inside: begun after the first of its ids,
    taken back token by token before it goes on.

    `depth` counts levels, the mistake itself included; `ids` is the answer. What is written too much differs from
    what comes after it, in the mistake and, while that still agrees with it, in the answer.
    """
    size = edit.letters.count(ERROR)
    errors, undos = edit.written[:size], edit.written[size:]
    written, letters = _nested(errors, ids[edit.place :], inside, depth, pop, rng)
    return Edit(edit.place, (*written, *undos), letters + UNDO * len(undos), edit.redone)


def _nested(errors: Sequence[int], right: Sequence[int], inside: Inside, depth: int, pop: int,
            rng: random.Random) -> tuple[Sequence[int], str]:  # fmt: skip
    if depth == 1 or len(errors) < 2 or rng.random() >= 0.5 or (found := inside(errors)) is None:
        return errors, ERROR * len(errors)
    at, inner = found
    common = num_common(inner, errors[at:])
    at, inner = at + common, inner[common:]
    is_right = errors[:at] == tuple(right[:at]) and inner[:1] == tuple(right[at : at + 1])
    if not 0 < at < len(errors) or not inner or is_right:
        return errors, ERROR * len(errors)
    written, letters = _nested(inner, (), inside, depth - 1, pop, rng)
    ids = (*errors[:at], *written, *[pop] * len(inner), *errors[at:])
    return ids, ERROR * at + letters + UNDO * len(inner) + ERROR * (len(errors) - at)


@dataclass(frozen=True)
class Line:
    """A line of an answer in ids: `begin` to `end`, its line break not among them unless it shares an id with text."""

    begin: int
    end: int


def lines_of(answer: Answer) -> list[Line]:
    """Return the lines of an answer that have text and whose first character begins an id."""
    found = []
    place = 0
    for text in answer.text.split("\n"):
        if text.strip():
            begin = answer.boundary(place)
            if begin is not None:
                found.append(Line(begin, answer.reach(place + len(text.rstrip("\r")))))
        place += len(text) + 1
    return found


def check_options(
    strategy: object,
    *,
    shares: Sequence[str] = (),
    at_least: Mapping[str, int] | None = None,
    extra: Sequence[str] = (),
) -> None:
    """Raise ConfigError for options outside their range, all of them at once; `extra` are mistakes already found.

    Checked where the strategy has them, too: `undo`, and that `max_errors_per_answer` is not below the minimum.
    """
    mistakes = [
        f"expected {name} between 0 and 1, got {value!r}"
        for name in shares
        if not 0 <= (value := getattr(strategy, name)) <= 1
    ]
    if (undo := getattr(strategy, "undo", "auto")) not in get_args(Unit):
        mistakes.append(f"expected undo to be {', '.join(get_args(Unit))}, got {undo!r}")
    limits = dict(at_least or {})
    if hasattr(strategy, "max_errors_per_answer"):
        limits |= {"max_errors_per_answer": 1, "min_errors_per_answer": 0}
    mistakes += [
        f"expected {name} of {low} or more, got {value}"
        for name, low in limits.items()
        if (value := getattr(strategy, name)) < low
    ]
    least, most = (getattr(strategy, f"{end}_errors_per_answer", 1) for end in ("min", "max"))
    if least > most >= 1:
        mistakes.append(f"expected min_errors_per_answer of at most max_errors_per_answer ({most}), got {least}")
    mistakes += extra
    if mistakes:
        raise ConfigError(mistakes)
