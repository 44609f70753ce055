"""The engine against transformers' own `generate` and against the slow generator, on tiny real models."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import slow_generator
from tests.tiny import tiny_model
from unsay import engine
from unsay.records import Key
from unsay.settings import Decode
from unsay.undo import EMPTY, Action, UndoTable, resolve

FAMILIES = ("qwen3", "llama", "mistral", "gemma3")


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load(tiny_model(tmp_path_factory.mktemp(request.param), request.param))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load(tiny_model(tmp_path_factory.mktemp("qwen3"), "qwen3"))


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


def prompts(model: Any, n: int = 7, seed: int = 0) -> list[tuple[int, ...]]:
    rng = random.Random(seed)
    top = model.config.vocab_size - 20
    return [tuple(rng.randrange(5, top) for _ in range(rng.randint(1, 40))) for _ in range(n)]


def options(
    decode: Decode, table: UndoTable = EMPTY, end_ids: Sequence[int] = (), batch_size: int = 3
) -> engine.Options:
    return engine.Options(
        decode, table, frozenset(end_ids), lambda ids: "".join(f"<{id}>" for id in ids), 0, batch_size
    )


def run(model: Any, asked: Sequence[tuple[int, ...]], chosen: engine.Options, **request: Any) -> list[engine.Finished]:
    requests = [engine.Request(Key("t", at), prompt, **request) for at, prompt in enumerate(asked)]
    return sorted(engine.generate(model, requests, chosen), key=lambda finished: finished.request.key.doc_id)


def frequent(model: Any, rank: int = 0) -> list[int]:
    """Return tokens this model likes to write, so that undos really happen when they are made controls."""
    written = [id for finished in run(model, prompts(model), options(Decode(max_new_tokens=24))) for id in finished.ids]
    ordered = sorted(set(written), key=lambda id: (-written.count(id), id))
    return ordered[rank:]


def table_of(model: Any) -> UndoTable:
    """Return a table whose pop-1, pop-line and pop-all tokens are ones the model writes by itself."""
    newline, *pops = frequent(model)[:7]
    line, reset = pops.pop(), frequent(model)[12]
    actions = {id: Action("pop") for id in pops} | {line: Action("pop_line"), reset: Action("pop_all")}
    return UndoTable(actions, {id: f"<{id}>" for id in actions}, frozenset({newline}))


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_greedy_equals_transformers_generate(model: Any, batch_size: int) -> None:
    end = frequent(model)[6]
    decode = Decode(max_new_tokens=24)
    got = run(model, prompts(model), options(decode, end_ids=[end], batch_size=batch_size))
    for prompt, finished in zip(prompts(model), got, strict=True):
        expected = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=24, do_sample=False,
            eos_token_id=end, pad_token_id=0,
        )[0, len(prompt) :].tolist()  # fmt: skip
        assert list(finished.ids) == expected
        assert finished.finish_reason == ("eos" if expected[-1] == end else "max_steps")


@pytest.mark.parametrize("context", ["keep", "rewind"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_undo_equals_the_slow_generator(model: Any, context: Any, batch_size: int) -> None:
    table = table_of(model)
    decode = Decode(undo_context=context, max_new_tokens=32, max_visits=3, max_undos=14)
    got = run(model, prompts(model), options(decode, table, batch_size=batch_size))
    for prompt, finished in zip(prompts(model), got, strict=True):
        trace, reason = slow_generator.generate(model, prompt, decode, table)
        assert (list(finished.ids), finished.finish_reason) == (trace, reason)
        assert finished.visible_ids == resolve(trace, table).visible_ids
    counts = [finished.resolution.counts for finished in got]
    assert sum(count.undos for count in counts) > 5, "the test is worth nothing without undos"
    assert all(count.underflows == 0 for count in counts), "an undo with nothing to take back is banned"


def test_banning_undo_leaves_none(qwen: Any) -> None:
    table = table_of(qwen)
    for finished in run(qwen, prompts(qwen), options(Decode(undo="ban", max_new_tokens=20), table)):
        assert not set(finished.ids) & set(table.actions)


def test_rewind_never_writes_the_same_mistake_again(qwen: Any) -> None:
    """Greedy decoding from the same state would repeat the popped token for ever."""
    pop = frequent(qwen)[1]
    table = UndoTable({pop: Action("pop")}, {pop: "<pop>"})
    decode = Decode(undo_context="rewind", max_new_tokens=200, max_visits=1000)
    for finished in run(qwen, prompts(qwen), options(decode, table)):
        tried: dict[tuple[int, ...], set[int]] = {}
        stack: list[int] = []
        for id, following in zip(finished.ids, [*finished.ids[1:], None], strict=True):
            if id == pop:
                popped = stack.pop()
                if following != pop:
                    tried.setdefault(tuple(stack), set()).add(popped)
            else:
                assert id not in tried.get(tuple(stack), set())
                stack.append(id)
        assert finished.finish_reason in {"max_steps", "banned"}


def test_a_sampled_answer_does_not_depend_on_its_neighbours(qwen: Any) -> None:
    decode = Decode(do_sample=True, temperature=0.9, top_p=0.9, top_k=50, max_new_tokens=16)
    asked = [engine.Request(Key("t", at), prompt, seed=at) for at, prompt in enumerate(prompts(qwen))]
    together = {each.request.key: each.ids for each in engine.generate(qwen, asked, options(decode, batch_size=8))}
    alone = {each.request.key: each.ids for each in engine.generate(qwen, asked, options(decode, batch_size=1))}
    assert together == alone
    assert len(set(together.values())) > 1


def test_a_stop_string_ends_the_answer_and_is_cut(qwen: Any) -> None:
    plain = run(qwen, prompts(qwen)[:1], options(Decode(max_new_tokens=24)))[0]
    stop = "".join(f"<{id}>" for id in plain.ids[4:6])[1:-1]  # lies across two tokens and begins inside one
    finished = run(qwen, prompts(qwen)[:1], options(Decode(max_new_tokens=24)), stop=(stop,))[0]
    assert finished.finish_reason == "stop"
    assert finished.visible == plain.visible[: plain.visible.index(stop)]
    assert finished.ids == plain.ids[: len(finished.ids)]


def test_a_stop_string_in_retracted_text_does_not_end_the_answer(qwen: Any) -> None:
    table = table_of(qwen)
    decode = Decode(max_new_tokens=32)
    for prompt in prompts(qwen):
        trace, _ = slow_generator.generate(qwen, prompt, decode, table)
        resolution = resolve(trace, table)
        retracted = set(trace) - set(resolution.visible_ids) - set(table.actions)
        for id in retracted:
            at = trace.index(id)
            if at + 1 < len(trace) and trace[at + 1] in table.actions:
                stop = f"<{id}><{trace[at + 2]}>" if at + 2 < len(trace) else "<none>"
                if stop not in "".join(f"<{each}>" for each in resolution.visible_ids):
                    finished = run(qwen, [prompt], options(decode, table), stop=(stop,))[0]
                    assert finished.finish_reason != "stop"
                    return
    pytest.fail("no retracted token to test with")


def test_budgets_name_what_ended_the_answer(qwen: Any) -> None:
    table = table_of(qwen)
    asked = prompts(qwen, n=4)
    by_undos = run(qwen, asked, options(Decode(max_new_tokens=64, max_undos=1), table))
    assert {each.finish_reason for each in by_undos} >= {"max_undos"}
    assert all(each.resolution.counts.undos <= 1 for each in by_undos)
    by_survivors = run(qwen, asked, options(Decode(max_new_tokens=64, max_survivors=5)))
    assert {each.finish_reason for each in by_survivors} == {"max_survivors"}
    assert {len(each.visible_ids) for each in by_survivors} == {5}
    long = [tuple([7] * qwen.config.max_position_embeddings)]
    assert run(qwen, long, options(Decode()))[0].finish_reason == "max_context"


def test_nothing_left_but_undo_ends_the_answer(qwen: Any) -> None:
    """With the whole vocabulary but one token made of undos, the first retraction leaves nothing to write."""
    only = frequent(qwen)[0]
    size = qwen.config.vocab_size
    table = UndoTable(
        {id: Action("pop") for id in range(size) if id != only}, {id: str(id) for id in range(size) if id != only}
    )
    reasons = {
        each.finish_reason
        for each in run(qwen, prompts(qwen), options(Decode(undo_context="rewind", max_new_tokens=400), table))
    }
    assert "banned" in reasons


def test_logits_that_are_not_numbers_are_an_error(tmp_path: Path) -> None:
    from unsay.errors import EvaluationError

    broken = load(tiny_model(tmp_path, "qwen3"))
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    with pytest.raises(EvaluationError, match="not numbers"):
        run(broken, prompts(broken), options(Decode()))
