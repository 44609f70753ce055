"""Answers that are given their beginning: it comes as it is, may be taken back, and changes nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.tiny import tiny_model
from tests.unit.engine.test_engine import load, options, prompts
from unsay import engine
from unsay.records import Key
from unsay.settings import Decode
from unsay.undo import Action, UndoTable

POP = 7
TABLE = UndoTable({POP: Action("pop")}, {POP: "<pop>"})
GIVEN = (50, 60, 70, 80)


@pytest.fixture(scope="module", params=["qwen3", "gpt2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One whose keys and values go into slots, and one that is run in padded batches."""
    return load(tiny_model(tmp_path_factory.mktemp(request.param), request.param))


def generate(model: Any, decode: Decode, **request: Any) -> list[engine.Finished]:
    asked = [engine.Request(Key("t", at), ids, seed=at, **request) for at, ids in enumerate(prompts(model))]
    found = engine.generate(model, asked, options(decode, TABLE))
    return sorted(found, key=lambda each: each.request.key.doc_id)


@pytest.mark.parametrize("sampled", [False, True])
def test_behind_what_is_given_the_model_goes_on_as_behind_a_prompt(model: Any, sampled: bool) -> None:
    decode = Decode(max_new_tokens=16, undo="ban", do_sample=sampled)
    for answer in generate(model, decode, given=GIVEN):
        assert answer.ids[:4] == GIVEN
        assert len(answer.ids) == len(answer.logprobs) == 16 or answer.finish_reason == "eos"
        if sampled:
            assert answer.sampler_logprobs[:4] == (0.0,) * 4
            continue
        longer = engine.Request(Key("t", 0), (*answer.request.prompt_ids, *GIVEN))
        (alone,) = engine.generate(model, [longer], options(Decode(max_new_tokens=12, undo="ban"), TABLE))
        assert answer.ids[4:] == alone.ids
        assert answer.logprobs[4:] == pytest.approx(alone.logprobs, abs=1e-4)


@torch.inference_mode()
def test_log_probabilities_are_the_model_s_own(model: Any) -> None:
    for answer in generate(model, Decode(max_new_tokens=9, undo_bias=3.0), given=GIVEN):
        ids = [*answer.request.prompt_ids, *answer.ids]
        start = len(answer.request.prompt_ids) - 1
        own = torch.log_softmax(model(torch.tensor([ids])).logits[0, start:-1].float(), dim=-1)
        assert answer.logprobs == pytest.approx(own[range(len(answer.ids)), list(answer.ids)].tolist(), abs=1e-3)
        assert answer.undo_logprobs == pytest.approx(own[4:, POP].tolist(), abs=1e-3)


@pytest.mark.parametrize("context", ["keep", "rewind"])
def test_what_is_given_can_be_taken_back(model: Any, context: str) -> None:
    decode = Decode(max_new_tokens=20, undo_context=context, undo_bias=1e4, max_undos=6)
    for answer in generate(model, decode, given=GIVEN):
        assert answer.ids[:8] == (*GIVEN, POP, POP, POP, POP)
        assert len(answer.undo_logprobs) == len(answer.ids) - 4


def test_without_a_beginning_nothing_is_told_of_undo(model: Any) -> None:
    assert all(answer.undo_logprobs == () for answer in generate(model, Decode(max_new_tokens=6)))
