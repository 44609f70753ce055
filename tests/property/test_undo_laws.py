"""Laws of undo, on generated traces and on generated training rows."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from tests.encodings import ACTIONS, BYTES, END, LINE, NAMES, POP
from unsay.augment import Source, apply_strategy
from unsay.augment.arithmetic_slip import ArithmeticSlip
from unsay.augment.random_tokens import RandomTokens
from unsay.undo import UndoStack, UndoTable, check_row, loss_weights, replay, resolve, status

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


@given(traces)
def test_resolving_equals_the_rules_as_written(trace: list[int]) -> None:
    assert list(resolve(trace, TABLE, EOS).visible_ids) == slow_resolve(trace)


@given(traces)
def test_resolving_twice_changes_nothing(trace: list[int]) -> None:
    once = resolve(trace, TABLE, EOS).visible_ids
    assert resolve(once, TABLE, EOS).visible_ids == once


@given(plain_traces)
def test_a_trace_without_undo_is_itself(trace: list[int]) -> None:
    resolution = resolve(trace, TABLE, EOS)
    assert list(resolution.visible_ids) == trace
    assert list(resolution.positions) == list(range(len(trace)))
    assert resolution.counts.episodes == 0
    assert resolution.counts.first_undo is None


@given(traces)
def test_positions_point_at_the_survivors(trace: list[int]) -> None:
    resolution = resolve(trace, TABLE, EOS)
    assert [trace[position] for position in resolution.positions] == list(resolution.visible_ids)
    assert sorted(resolution.positions) == list(resolution.positions)


@given(traces)
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


@given(traces)
def test_every_sampled_token_is_accounted_for(trace: list[int]) -> None:
    counts = resolve(trace, TABLE, EOS).counts
    assert counts.sampled == counts.survivors + counts.popped + counts.undos + counts.underflows
    assert counts.sampled == len(list(replay(trace, TABLE, EOS)))
    assert counts.survivors == sum(status(trace, TABLE, EOS))
    assert sum(counts.run_lengths) == counts.undos + counts.underflows
    assert counts.episodes == len(counts.run_lengths) == len(counts.depths)
    assert counts.undo_left == 0


@given(traces, traces)
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


strategies = st.sampled_from(
    [
        RandomTokens(),
        RandomTokens(max_errors=2),
        ArithmeticSlip(rate=0.7),
        ArithmeticSlip(rate=1, carry=1, undo="line"),
        ArithmeticSlip(rate=1, carry=0.5, undo="token", max_errors_per_answer=9),
    ]
)


@given(answers(), strategies, st.integers(0, 2**32), st.text(max_size=4))
def test_a_training_trace_resolves_to_its_answer_and_never_trains_on_a_mistake(
    text: str, strategy: RandomTokens | ArithmeticSlip, seed: int, row_id: str
) -> None:
    answer = BYTES.answer(text)
    vocabulary = BYTES.vocabulary(POP, LINE)
    source = Source(row_id, (7,), answer, END)
    row = apply_strategy("law", strategy, source, vocabulary, seed=seed)
    check_row(row, answer.ids, vocabulary.table, EOS)
    assert resolve(row.ids, vocabulary.table, EOS).visible_ids == answer.ids
    alive = status(row.ids, vocabulary.table, EOS)
    weights = loss_weights(row.provenance, "errors")
    for id, survives, weight in zip(row.ids, alive, weights, strict=True):
        assert (weight == 0.0) == (not survives and not vocabulary.table.is_control(id))


@given(st.lists(answers(), min_size=2, max_size=5), strategies, st.integers(0, 100), st.randoms())
def test_the_same_seed_gives_the_same_trace_in_any_order(
    texts: list[str], strategy: RandomTokens | ArithmeticSlip, seed: int, shuffle: random.Random
) -> None:
    vocabulary = BYTES.vocabulary(POP, LINE)
    sources = [Source(str(index), (), BYTES.answer(text), END) for index, text in enumerate(texts)]
    first = {source.id: apply_strategy("law", strategy, source, vocabulary, seed=seed) for source in sources}
    shuffle.shuffle(sources)
    assert {source.id: apply_strategy("law", strategy, source, vocabulary, seed=seed) for source in sources} == first
