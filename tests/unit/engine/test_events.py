"""What an observer is told: enough to know the survivors at every moment, and what can no longer be taken back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unsay import engine
from unsay.records import Key
from unsay.settings import Decode
from unsay.undo import EMPTY, Action, UndoTable


@pytest.fixture(scope="module")
def model(tiny_models: Callable[..., Path]) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_models("qwen3")).eval()


def told(model: Any, decode: Decode, table: UndoTable, **request: Any) -> tuple[list[engine.Event], Any]:
    events: list[engine.Event] = []
    options = engine.Options(decode, table, frozenset({7}), lambda ids: " ".join(map(str, ids)), observe=events.append)
    (finished,) = engine.generate(model, [engine.Request(Key("t", 4), (20, 30, 40), **request)], options)
    assert {event.key for event in events} <= {Key("t", 4)}
    return events, finished


def table(*actions: Action) -> UndoTable:
    ids = range(50, 50 + len(actions))
    return UndoTable(dict(zip(ids, actions, strict=True)), {id: f"<{id}>" for id in ids}, frozenset({60}))


@pytest.mark.parametrize("context", ["keep", "rewind"])
@pytest.mark.parametrize(
    "actions", [(Action("pop"),), (Action("pop", 3),), (Action("pop"), Action("pop_all"), Action("pop_line"))]
)
def test_events_give_the_survivors(model: Any, actions: tuple[Action, ...], context: Any) -> None:
    undos = 0
    for seed in range(3):
        decode = Decode(undo_context=context, max_new_tokens=40, do_sample=True, undo_bias=5.0)
        events, finished = told(model, decode, table(*actions), seed=seed)
        survivors: list[int] = []
        final: list[int] = []
        for event in events:
            assert survivors[: len(final)] == final, "what was final is gone"
            if event.kind == "emit":
                assert event.id is not None
                survivors.append(event.id)
            elif event.kind == "retract":
                undos += 1
                assert event.count <= len(survivors)
                del survivors[len(survivors) - event.count :]
            else:
                assert event.count > len(final)
                final = survivors[: event.count]
        assert tuple(survivors) == finished.visible_ids
        assert final == survivors, "at the end everything is final"
        sampled = sum(event.kind != "commit" for event in events)
        assert sampled + (finished.ids[-1:] == (7,)) == len(finished.ids)
    assert undos > 10


def commits(events: list[engine.Event]) -> list[tuple[int, int]]:
    """Return (tokens told so far, survivors final) at every commit."""
    return [
        (sum(each.kind != "commit" for each in events[:at]), event.count)
        for at, event in enumerate(events)
        if event.kind == "commit"
    ]


def test_nothing_waits_where_nothing_can_be_taken_back(model: Any) -> None:
    for decode, used in (
        (Decode(max_new_tokens=8), EMPTY),
        (Decode(max_new_tokens=8, undo="ban"), table(Action("pop_all"))),
    ):
        events, _ = told(model, decode, used)
        assert commits(events) == [(n, n) for n in range(1, 9)]


def test_a_token_is_final_once_the_undos_left_cannot_reach_it(model: Any) -> None:
    """Ten tokens at most: after six, four undos are left, which leave two survivors alone."""
    decode = Decode(max_new_tokens=10, undo_bias=-100.0)
    assert commits(told(model, decode, table(Action("pop")))[0]) == [(6, 2), (7, 4), (8, 6), (9, 8), (10, 10)]
    assert commits(told(model, decode, table(Action("pop", 3)))[0]) == [(8, 2), (9, 6), (10, 10)]
    assert commits(told(model, decode, table(Action("pop_all")))[0]) == [(10, 10)]


def test_what_an_observer_raises_ends_the_generation(model: Any) -> None:
    class EnoughError(Exception):
        pass

    def observe(event: engine.Event) -> None:
        raise EnoughError

    options = engine.Options(Decode(), EMPTY, frozenset(), str, observe=observe)
    before = model.config._attn_implementation
    with pytest.raises(EnoughError):
        list(engine.generate(model, [engine.Request(Key("t", 0), (1, 2))], options))
    assert model.config._attn_implementation == before
