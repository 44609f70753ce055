"""Every file of `unsay/augment` keeps the contract of that folder, on three tokenizers and on real answers."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path

import pytest

import unsay.augment
from tests.encodings import ACTIONS, ANSWER, BYTES, ENCODINGS, END, LINE, POP, RESET, Encoding, gsm8k
from unsay import catalog
from unsay.augment import Answer, Candidate, Source, Strategy, Vocabulary, apply_strategy, load
from unsay.errors import ConfigError, UndoError
from unsay.records import CORRECTION, ERROR, UNDO, Row
from unsay.undo import EMPTY, UndoStack, check_row, resolve

STRATEGIES = catalog.names("augment")
FROM_CANDIDATES = ("own_samples", "splice")
OPTIONS = {name: {"candidates": "handed over by the test", "max_span": 512} for name in FROM_CANDIDATES}
OTHERS = (
    "Natalia sold 48*2 = <<48*2=96>>96 clips in May.\nNatalia sold 48+96 = <<48+96=144>>144 clips.\n#### 144",
    "She sold 24 in May.\nNatalia sold 48+24 = <<48+24=72>>72 clips altogether in April and May.\n#### 73",
)
"""Wrong answers to the question that `ANSWER` answers."""


def with_candidates(encoding: Encoding, text: str, others: tuple[str, ...] = OTHERS) -> Answer:
    candidates = tuple(Candidate(encoding.encode(other), correct=False) for other in others)
    return dataclasses.replace(encoding.answer(text), candidates=candidates)


def built(name: str, strategy: Strategy, source: Source, vocabulary: Vocabulary, seed: int) -> Row | None:
    """Return the row, or None where the strategy refuses it, as it must: with the row's name."""
    try:
        return apply_strategy(name, strategy, source, vocabulary, seed=seed)
    except UndoError as error:
        reason = str(error)
    assert reason.startswith(f"row {source.id}: expected")
    return None


def test_some_were_found() -> None:
    files = {path.stem for path in Path(unsay.augment.__file__).parent.glob("[!_]*.py")}
    known = {"random_tokens", "arithmetic_slip", "splice", "future_step", "own_samples", "reset"}
    assert known <= files <= set(STRATEGIES)


@pytest.fixture(params=STRATEGIES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def strategy(name: str) -> Strategy:
    return load(name, OPTIONS.get(name))


def test_one_frozen_dataclass_with_a_docstring(name: str) -> None:
    kind = catalog.plugin("augment", name)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert catalog.summary("augment", name)
    assert all(field.default is not dataclasses.MISSING for field in dataclasses.fields(kind))  # type: ignore[arg-type]


def test_unknown_options_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="no_such_option"):
        load(name, {"no_such_option": 1})


@pytest.mark.parametrize("encoding", ENCODINGS, ids=repr)
def test_traces_may_be_trained_on(name: str, strategy: Strategy, encoding: Encoding) -> None:
    vocabulary = encoding.vocabulary()
    answer = with_candidates(encoding, ANSWER)
    with_undo = 0
    for index in range(60):
        source = Source(f"train-{index}", (1, 2), answer, END)
        row = built(name, strategy, source, vocabulary, index)
        if row is None:
            assert encoding.name == "crossing"
            continue
        check_row(row, answer.ids, vocabulary.table, {END})
        assert encoding.decode(resolve(row.ids, vocabulary.table, {END}).visible_ids) == ANSWER
        assert (ERROR in row.provenance) == (UNDO in row.provenance) == (CORRECTION in row.provenance)
        with_undo += UNDO in row.provenance
    assert with_undo == 60 or encoding.name == "crossing", "by default every answer gets a mistake"


def test_same_seed_same_trace(name: str, strategy: Strategy) -> None:
    vocabulary = BYTES.vocabulary()
    sources = [Source(f"train-{index}", (), with_candidates(BYTES, ANSWER), END) for index in range(40)]
    rows = [apply_strategy(name, strategy, source, vocabulary, seed=3) for source in sources]
    again = [apply_strategy(name, strategy, source, vocabulary, seed=3) for source in reversed(sources)]
    other = [apply_strategy(name, strategy, source, vocabulary, seed=4) for source in sources]
    assert rows == again[::-1]
    assert rows != other
    assert len({row.ids for row in rows}) > 1, "rows with the same answer must not all get the same mistake"


@pytest.mark.parametrize("text", ["", "4", "#### 4", "no steps\nhere", "\n\n", "<<", "é 😀 <<1/0=0>>0"])
def test_answers_with_little_in_them(name: str, strategy: Strategy, text: str) -> None:
    for seed in range(20):
        built(name, strategy, Source("train-1", (), with_candidates(BYTES, text), END), BYTES.vocabulary(), seed)
        built(name, strategy, Source("train-1", (), BYTES.answer(text), END), BYTES.vocabulary(), seed)


def test_every_table_is_used_or_refused(name: str, strategy: Strategy) -> None:
    outcomes: Counter[str] = Counter()
    for controls in ((), (POP,), (LINE,), (RESET,), (POP, LINE), tuple(ACTIONS)):
        full = BYTES.vocabulary()
        table = BYTES.table(*controls) if controls else EMPTY
        vocabulary = Vocabulary(table, full.sampleable, full.encode)
        try:
            apply_strategy(
                name, strategy, Source("train-1", (), with_candidates(BYTES, ANSWER), END), vocabulary, seed=1
            )
            outcomes["used"] += 1
        except ConfigError as error:
            outcomes["refused" if name in str(error) else "refused without its name"] += 1
    assert outcomes["used"]
    assert outcomes["refused"], "without any control token there is nothing to undo with"
    assert not outcomes["refused without its name"]


def test_the_actions_it_asks_for_are_enough(name: str, strategy: Strategy) -> None:
    assert strategy.actions
    controls = [id for id, action in ACTIONS.items() if action.count == 1 and action.kind in strategy.actions]
    vocabulary = BYTES.vocabulary(*controls)
    sources = [Source(f"train-{index}", (), with_candidates(BYTES, ANSWER), END) for index in range(40)]
    rows = [apply_strategy(name, strategy, source, vocabulary, seed=0) for source in sources]
    assert any(UNDO in row.provenance for row in rows)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=repr)
def test_real_answers(name: str, strategy: Strategy, encoding: Encoding) -> None:
    vocabulary = encoding.vocabulary()
    lines = gsm8k("train", limit=300)
    with_undo = refused = 0
    for index, line in enumerate(lines):
        answer = with_candidates(encoding, line["answer"], (lines[index - 1]["answer"],))
        row = built(name, strategy, Source(f"train-{index}", (), answer, END), vocabulary, 0)
        if row is None:
            refused += 1
            continue
        assert encoding.decode(resolve(row.ids, vocabulary.table, {END}).visible_ids) == line["answer"]
        with_undo += UNDO in row.provenance
    assert with_undo + refused == 300
    assert refused <= (150 if encoding.name == "crossing" else 9)


@pytest.mark.parametrize("name", FROM_CANDIDATES)
def test_candidates_are_needed(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} needs `candidates:`.*--sample"):
        load(name)


NESTING = [
    name
    for name in STRATEGIES
    if "depth" in {field.name for field in dataclasses.fields(catalog.plugin("augment", name))}
]  # type: ignore[arg-type]


@pytest.mark.parametrize("undo", ["line", "token"])
@pytest.mark.parametrize("name", NESTING)
def test_mistakes_inside_mistakes_are_taken_back_first(name: str, undo: str) -> None:
    """Between two tokens that a later undo takes back stands one that an earlier undo takes back: e…e u e…u."""
    given = OPTIONS.get(name, {}) | ({} if name == "random_tokens" else {"undo": undo})
    strategy = load(name, given | {"depth": 3})
    vocabulary = BYTES.vocabulary(
        *[id for id, action in ACTIONS.items() if action.count == 1 and action.kind in strategy.actions]
    )
    answer = with_candidates(BYTES, ANSWER)
    nested = 0
    for seed in range(60):
        row = apply_strategy(name, strategy, Source("train-1", (), answer, END), vocabulary, seed=seed)
        held = re.findall("ue+u", row.provenance)
        nested += bool(held)
        stack = UndoStack(vocabulary.table)
        for id in row.ids[:-1]:
            stack.push(id)
        assert tuple(stack.survivors) == answer.ids
    assert nested > 10
    flat = [
        apply_strategy(name, load(name, given), Source("train-1", (), answer, END), vocabulary, seed=seed)
        for seed in range(60)
    ]
    assert not any(re.search("ue+u", row.provenance) for row in flat)


def test_depth_is_found_where_a_mistake_can_hold_another() -> None:
    assert {"random_tokens", "arithmetic_slip", "future_step", "splice"} <= set(NESTING)


@pytest.mark.parametrize("name", [name for name in NESTING if name != "random_tokens"])
def test_depth_needs_a_control_token_that_pops_one(name: str) -> None:
    strategy = load(name, OPTIONS.get(name, {}) | {"depth": 2})
    with pytest.raises(ConfigError, match=f"{name} with depth: 2 needs a control token that pops one token"):
        apply_strategy(
            name, strategy, Source("train-1", (), with_candidates(BYTES, ANSWER), END), BYTES.vocabulary(LINE), seed=0
        )
    with pytest.raises(ConfigError, match="depth of 1 or more"):
        load(name, OPTIONS.get(name, {}) | {"depth": 0})
