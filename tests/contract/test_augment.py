"""Every file of `unsay/augment` keeps the contract of that folder, on three tokenizers and on real answers."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

import unsay.augment
from tests.encodings import ACTIONS, ANSWER, BYTES, ENCODINGS, END, LINE, POP, Encoding, gsm8k
from unsay import catalog
from unsay.augment import Source, Strategy, Vocabulary, apply_strategy, load
from unsay.errors import ConfigError
from unsay.records import CORRECTION, ERROR, UNDO
from unsay.undo import EMPTY, check_row, resolve

STRATEGIES = catalog.names("augment")


def test_some_were_found() -> None:
    files = {path.stem for path in Path(unsay.augment.__file__).parent.glob("[!_]*.py")}
    assert {"random_tokens", "arithmetic_slip"} <= files <= set(STRATEGIES)


@pytest.fixture(params=STRATEGIES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def strategy(name: str) -> Strategy:
    return load(name)


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
    answer = encoding.answer(ANSWER)
    with_undo = 0
    for index in range(60):
        source = Source(f"train-{index}", (1, 2), answer, END)
        row = apply_strategy(name, strategy, source, vocabulary, seed=index)
        check_row(row, answer.ids, vocabulary.table, {END})
        assert encoding.decode(resolve(row.ids, vocabulary.table, {END}).visible_ids) == ANSWER
        assert (ERROR in row.provenance) == (UNDO in row.provenance) == (CORRECTION in row.provenance)
        with_undo += UNDO in row.provenance
    assert with_undo or encoding.name == "crossing"


def test_same_seed_same_trace(name: str, strategy: Strategy) -> None:
    vocabulary = BYTES.vocabulary()
    sources = [Source(f"train-{index}", (), BYTES.answer(ANSWER), END) for index in range(40)]
    rows = [apply_strategy(name, strategy, source, vocabulary, seed=3) for source in sources]
    again = [apply_strategy(name, strategy, source, vocabulary, seed=3) for source in reversed(sources)]
    other = [apply_strategy(name, strategy, source, vocabulary, seed=4) for source in sources]
    assert rows == again[::-1]
    assert rows != other
    assert len({row.ids for row in rows}) > 1, "rows with the same answer must not all get the same mistake"


@pytest.mark.parametrize("text", ["", "4", "#### 4", "no steps\nhere", "\n\n", "<<", "é 😀 <<1/0=0>>0"])
def test_answers_with_little_in_them(name: str, strategy: Strategy, text: str) -> None:
    for seed in range(20):
        apply_strategy(name, strategy, Source("train-1", (), BYTES.answer(text), END), BYTES.vocabulary(), seed=seed)


def test_every_table_is_used_or_refused(name: str, strategy: Strategy) -> None:
    outcomes: Counter[str] = Counter()
    for controls in ((), (POP,), (LINE,), (POP, LINE), tuple(ACTIONS)):
        full = BYTES.vocabulary()
        table = BYTES.table(*controls) if controls else EMPTY
        vocabulary = Vocabulary(table, full.sampleable, full.encode)
        try:
            apply_strategy(name, strategy, Source("train-1", (), BYTES.answer(ANSWER), END), vocabulary, seed=1)
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
    sources = [Source(f"train-{index}", (), BYTES.answer(ANSWER), END) for index in range(40)]
    rows = [apply_strategy(name, strategy, source, vocabulary, seed=0) for source in sources]
    assert any(UNDO in row.provenance for row in rows)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=repr)
def test_real_answers(name: str, strategy: Strategy, encoding: Encoding) -> None:
    vocabulary = encoding.vocabulary()
    with_undo = 0
    for index, line in enumerate(gsm8k("train", limit=300)):
        source = Source(f"train-{index}", (), encoding.answer(line["answer"]), END)
        row = apply_strategy(name, strategy, source, vocabulary, seed=0)
        assert encoding.decode(resolve(row.ids, vocabulary.table, {END}).visible_ids) == line["answer"]
        with_undo += UNDO in row.provenance
    assert with_undo > 100
