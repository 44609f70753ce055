"""Laws of undo, on generated traces and on generated training rows: 100 cases of each, 10,000 with the slow tests
(1,000 for each of the strategies)."""

from __future__ import annotations

import dataclasses
import inspect
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.encodings import ACTIONS, BYTES, END, LINE, NAMES, POP, POP_2, RESET
from unsay import catalog
from unsay.augment import Answer, Candidate, Source, Strategy, apply_strategy, load
from unsay.augment.arithmetic_slip import ArithmeticSlip
from unsay.augment.future_step import FutureStep
from unsay.augment.random_tokens import RandomTokens
from unsay.augment.splice import Splice
from unsay.errors import ConfigError, UndoError
from unsay.records import CLEAN, CORRECTION, ERROR, UNDO, Row
from unsay.undo import (
    EMPTY,
    Mask,
    Traces,
    UndoStack,
    UndoTable,
    check_row,
    loss_weights,
    replay,
    resolve,
    resolve_chat,
    resolve_many,
    resolve_messages,
    status,
)


def law(many: int = 10_000, **drawn: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a test of a law that holds for everything drawn, so many times with the slow tests; other parameters are
    pytest's."""

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        @pytest.mark.parametrize("cases", [100, pytest.param(many, marks=pytest.mark.slow)])
        def test(cases: int, **fixed: Any) -> None:
            @settings(max_examples=cases, deadline=None, suppress_health_check=[HealthCheck.too_slow])
            @given(**drawn)
            def holds(**values: Any) -> None:
                check(**values, **fixed)

            holds()

        names = ["cases", *(name for name in inspect.signature(check).parameters if name not in drawn)]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        test.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])  # type: ignore[attr-defined]
        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate


NEWLINE = 2
TABLE = UndoTable(ACTIONS, NAMES, frozenset({NEWLINE}))
EOS = frozenset({END})

ordinary = st.integers(0, 4)
traces = st.lists(st.one_of(ordinary, st.sampled_from(sorted(ACTIONS)), st.just(NEWLINE), st.just(END)), max_size=40)
plain_traces = st.lists(ordinary, max_size=40)


def slow_resolve(ids: list[int]) -> list[int]:
    """Resolve by the rules as they are written, one survivor at a time."""
    if END in ids:
        ids = ids[: ids.index(END)]
    survivors: list[int] = []
    for id in ids:
        if id not in ACTIONS:
            survivors.append(id)
            continue
        action = ACTIONS[id]
        if action.kind == "pop":
            for _ in range(action.count):
                survivors[-1:] = []
        elif action.kind == "pop_all":
            survivors = []
        elif survivors:
            survivors.pop()
            while survivors and survivors[-1] != NEWLINE:
                survivors.pop()
    return survivors


@law(trace=traces)
def test_resolving_equals_the_rules_as_written(trace: list[int]) -> None:
    assert list(resolve(trace, TABLE, EOS).visible_ids) == slow_resolve(trace)


@law(trace=traces)
def test_resolving_twice_changes_nothing(trace: list[int]) -> None:
    once = resolve(trace, TABLE, EOS).visible_ids
    assert resolve(once, TABLE, EOS).visible_ids == once


@law(trace=plain_traces)
def test_a_trace_without_undo_is_itself(trace: list[int]) -> None:
    resolution = resolve(trace, TABLE, EOS)
    assert list(resolution.visible_ids) == trace
    assert list(resolution.positions) == list(range(len(trace)))
    assert resolution.counts.episodes == 0
    assert resolution.counts.first_undo is None


@law(trace=traces)
def test_positions_point_at_the_survivors(trace: list[int]) -> None:
    resolution = resolve(trace, TABLE, EOS)
    assert [trace[position] for position in resolution.positions] == list(resolution.visible_ids)
    assert sorted(resolution.positions) == list(resolution.positions)


@law(trace=traces)
def test_replaying_token_by_token_equals_resolving_at_once(trace: list[int]) -> None:
    stack = UndoStack(TABLE)
    alive: set[int] = set()
    for step in replay(trace, TABLE, EOS):
        if step.kind == "end":
            break
        assert stack.push(step.id) == len(step.popped)
        assert set(step.popped) <= alive
        alive -= set(step.popped)
        if step.kind == "emit":
            alive.add(step.index)
        assert len(alive) == step.depth == len(stack)
        assert (step.kind == "underflow") == (TABLE.is_control(step.id) and not step.popped)
    resolution = resolve(trace, TABLE, EOS)
    assert tuple(sorted(alive)) == resolution.positions == tuple(stack.positions)
    assert tuple(stack.survivors) == resolution.visible_ids


@law(trace=traces)
def test_every_sampled_token_is_accounted_for(trace: list[int]) -> None:
    counts = resolve(trace, TABLE, EOS).counts
    assert counts.sampled == counts.survivors + counts.popped + counts.undos + counts.underflows
    assert counts.sampled == len(list(replay(trace, TABLE, EOS)))
    assert counts.survivors == sum(status(trace, TABLE, EOS))
    assert sum(counts.run_lengths) == counts.undos + counts.underflows
    assert counts.episodes == len(counts.run_lengths) == len(counts.depths)
    assert counts.undo_left == 0


tables = st.sampled_from(
    [
        TABLE,
        EMPTY,
        *(UndoTable({id: ACTIONS[id]}, {id: NAMES[id]}, frozenset({NEWLINE})) for id in ACTIONS),
        UndoTable({POP: ACTIONS[POP], POP_2: ACTIONS[POP_2]}, {POP: NAMES[POP], POP_2: NAMES[POP_2]}),
    ]
)


@law(files=st.lists(traces, max_size=12), table=tables, eos=st.sampled_from([EOS, frozenset(), frozenset({END, 4})]))
def test_resolving_many_equals_resolving_each(files: list[list[int]], table: UndoTable, eos: frozenset[int]) -> None:
    many = resolve_many(files, table, eos)
    assert list(many) == [resolve(trace, table, eos) for trace in files]
    alive = [status(trace, table, eos) for trace in files]
    assert many.alive.tolist() == [survives for trace in alive for survives in trace]
    assert (many.sampled == many.survivors + many.popped + many.undos + many.underflows).all()


@law(files=st.lists(traces, max_size=20), size=st.integers(1, 60))
def test_resolving_many_does_not_depend_on_the_parts_it_is_done_in(files: list[list[int]], size: int) -> None:
    whole = list(resolve_many(Traces.of(files), TABLE, EOS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unsay.undo.BLOCK", size)
        assert list(resolve_many(files, TABLE, EOS)) == whole


@law(messages=st.lists(traces, max_size=4), texts=st.lists(plain_traces, min_size=5, max_size=5))
def test_a_chat_is_resolved_message_by_message(messages: list[list[int]], texts: list[list[int]]) -> None:
    """The history is what is left when the stream is rewritten from survivors; resolving it again changes nothing."""
    stream, history, spans = list(texts[0]), list(texts[0]), []
    for message, text in zip(messages, texts[1:], strict=False):
        spans.append((len(stream), len(stream) + len(message)))
        stream += [*message, *text]
        ended = [END] if END in message else []
        history += [*slow_resolve(message), *ended, *text]
    chat = resolve_chat(stream, spans, TABLE, EOS)
    assert list(chat.history_ids) == history
    assert chat.messages == resolve_messages(messages, TABLE, EOS)
    assert not any(TABLE.is_control(id) for id in chat.history_ids)
    again = [(start, start + len(slow_resolve(message))) for start, message in _starts(messages, texts)]
    assert resolve_chat(history, again, TABLE, EOS).history_ids == chat.history_ids


def _starts(messages: list[list[int]], texts: list[list[int]]) -> list[tuple[int, list[int]]]:
    """Return where each message begins once the ones before it are resolved."""
    found, place = [], len(texts[0])
    for message, text in zip(messages, texts[1:], strict=False):
        found.append((place, message))
        place += len(slow_resolve(message)) + (END in message) + len(text)
    return found


@law(before=plain_traces, control=st.sampled_from(sorted(ACTIONS)), after=plain_traces, message=traces)
def test_a_control_id_outside_the_assistants_messages_is_refused(
    before: list[int], control: int, after: list[int], message: list[int]
) -> None:
    stream = [*before, control, *after, *message]
    with pytest.raises(UndoError, match=f"at place {len(before)} of the chat"):
        resolve_chat(stream, [(len(before) + 1 + len(after), len(stream))], TABLE, EOS)


@law(trace=traces, rest=traces)
def test_an_ended_trace_does_not_care_what_follows(trace: list[int], rest: list[int]) -> None:
    assert resolve([*trace, END, *rest], TABLE, EOS) == resolve([*trace, END], TABLE, EOS)


@st.composite
def answers(draw: st.DrawFn) -> str:
    """Answers with calculation steps, some of them malformed."""
    number = st.sampled_from(["0", "3", "12", "0.5", ".25", "1,250", "48"])
    lines = []
    for _ in range(draw(st.integers(0, 5))):
        left, right = draw(number), draw(number)
        step = draw(
            st.sampled_from(["<<{0}+{1}={2}>>{2}", "${0} = $<<{0}*{1}={2}>>{2}.", "<<{0}/{1}={2}>>", "<<{0}={1}"])
        )
        lines.append(step.format(left, right, draw(number)))
    return draw(st.sampled_from(["\n", "\n\n", " ", "\r\n"])).join(
        [*lines, draw(st.sampled_from(["", "#### 7", "é\n"]))]
    )


def strategy_of(name: str) -> Strategy:
    """Return the strategy with its defaults; one that learns from other answers is given them by `answer_of`."""
    fields = {field.name for field in dataclasses.fields(catalog.plugin("augment", name))}  # type: ignore[arg-type]
    return load(name, {"candidates": "candidates.jsonl"} if "candidates" in fields else {})


NAMED: list[tuple[str, Strategy]] = [
    *((name, strategy_of(name)) for name in catalog.names("augment")),
    ("random_tokens", RandomTokens(max_errors=2)),
    ("random_tokens", RandomTokens(rate=0.3, depth=3)),
    ("arithmetic_slip", ArithmeticSlip(rate=0.7)),
    ("arithmetic_slip", ArithmeticSlip(rate=1, carry=1, undo="line")),
    ("arithmetic_slip", ArithmeticSlip(rate=1, carry=0.5, undo="token", max_errors_per_answer=9)),
    ("arithmetic_slip", ArithmeticSlip(rate=1, carry=0.5, depth=3)),
    ("arithmetic_slip", ArithmeticSlip(rate=1, undo="token", depth=3)),
    ("future_step", FutureStep(rate=1, depth=3)),
    ("future_step", FutureStep(rate=1, undo="token", depth=3)),
    ("splice", Splice(Path("candidates.jsonl"), rate=1, depth=3)),
    ("splice", Splice(Path("candidates.jsonl"), rate=1, undo="token", depth=3)),
]
strategies = st.sampled_from(NAMED)


def answer_of(text: str, others: list[str]) -> Answer:
    """Return an answer on ids, beside other answers to its question."""
    candidates = tuple(Candidate(BYTES.encode(other), correct=False) for other in others)
    return dataclasses.replace(BYTES.answer(text), candidates=candidates)


controls = st.sampled_from([(POP, LINE), (POP, LINE, RESET), tuple(ACTIONS)])


def check_letters_and_loss(row: Row, clean: tuple[int, ...], table: UndoTable) -> None:
    """The trace resolves to the answer; a token has a loss if and only if nothing takes it back."""
    check_row(row, clean, table, EOS)
    assert resolve(row.ids, table, EOS).visible_ids == clean
    alive = status(row.ids, table, EOS)
    weights = loss_weights(row.provenance, "errors")
    for id, survives, weight in zip(row.ids, alive, weights, strict=True):
        assert (weight == 0.0) == (not survives and not table.is_control(id))
    for mask in get_args(Mask):
        erased = [
            weight
            for weight, letter in zip(loss_weights(row.provenance, mask), row.provenance, strict=True)
            if letter == ERROR
        ]
        assert mask == "none" or not any(erased)


@pytest.mark.parametrize("named", NAMED, ids=str)
@law(
    many=1_000,
    text=answers(),
    others=st.lists(answers(), max_size=3),
    controls=controls,
    seed=st.integers(0, 2**32),
    row_id=st.text(max_size=4),
)
def test_a_training_trace_resolves_to_its_answer_and_never_trains_on_a_mistake(
    named: tuple[str, Strategy], text: str, others: list[str], controls: tuple[int, ...], seed: int, row_id: str
) -> None:
    answer = answer_of(text, others)
    vocabulary = BYTES.vocabulary(*controls)
    try:
        row = apply_strategy(*named, Source(row_id, (7,), answer, END), vocabulary, seed=seed)
    except UndoError as refusal:  # a row it cannot use, which must be named
        if not str(refusal).startswith(f"row {row_id}: "):
            raise
        return
    except ConfigError:  # a strategy that needs a control token this table has not
        assert set(controls) != set(ACTIONS)
        return
    check_letters_and_loss(row, answer.ids, vocabulary.table)


@st.composite
def nested_rows(draw: st.DrawFn) -> tuple[Row, tuple[int, ...]]:
    """Rows whose mistakes hold mistakes, which are taken back before the mistake around them is."""
    clean = tuple(draw(st.lists(st.integers(0, 4), max_size=8)))
    ids: list[int] = []
    letters: list[str] = []

    def mistake(level: int, right: int | None) -> None:
        """Write tokens that end up taken back; the first differs from the right one."""
        size = draw(st.integers(1, 3))
        for number in range(size):
            if level and draw(st.booleans()):
                mistake(level - 1, None if number else right)
            ids.append(draw(st.sampled_from([id for id in range(5) if number or id != right])))
            letters.append(ERROR)
        ids.extend([POP] * size)
        letters.extend([UNDO] * size)

    for right in (*clean, END):
        undone = draw(st.booleans())
        if undone:
            mistake(2, right)
        ids.append(right)
        letters.append(CORRECTION if undone else CLEAN)
    return Row("nested", (), tuple(ids), "".join(letters)), clean


@law(made=nested_rows())
def test_nested_mistakes_resolve_and_have_no_loss(made: tuple[Row, tuple[int, ...]]) -> None:
    check_letters_and_loss(*made, TABLE)


@law(made=nested_rows(), place=st.integers(0, 200), letter=st.sampled_from([CLEAN, CORRECTION, ERROR, UNDO]))
def test_a_wrong_letter_is_refused(made: tuple[Row, tuple[int, ...]], place: int, letter: str) -> None:
    """No row whose letters would put a loss on a mistake, or take it from a survivor, gets past the check."""
    row, clean = made
    place %= len(row.ids)
    harmless = {CLEAN, CORRECTION}
    if letter == row.provenance[place] or {letter, row.provenance[place]} == harmless:
        return
    wrong = Row(row.id, row.prompt_ids, row.ids, row.provenance[:place] + letter + row.provenance[place + 1 :])
    with pytest.raises(UndoError, match="expected provenance"):
        check_row(wrong, clean, TABLE, EOS)


@law(
    texts=st.lists(answers(), min_size=2, max_size=5),
    named=strategies,
    seed=st.integers(0, 100),
    shuffle=st.integers(0, 100),
)
def test_the_same_seed_gives_the_same_trace_in_any_order(
    texts: list[str], named: tuple[str, Strategy], seed: int, shuffle: int
) -> None:
    vocabulary = BYTES.vocabulary()
    sources = [Source(str(index), (), answer_of(text, texts), END) for index, text in enumerate(texts)]

    def row_of(source: Source) -> Row | str:
        try:
            return apply_strategy(*named, source, vocabulary, seed=seed)
        except UndoError as refusal:
            return str(refusal)

    first = {source.id: row_of(source) for source in sources}
    random.Random(shuffle).shuffle(sources)
    assert {source.id: row_of(source) for source in sources} == first
