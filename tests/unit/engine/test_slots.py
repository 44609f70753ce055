"""Keys and values in slots: whatever was appended and taken back, the logits are those of the survivors read afresh."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import tiny_model
from tests.unit.engine.test_engine import load, options, prompts
from unsay import engine
from unsay.engine import padded
from unsay.engine.slots import CannotTakeOverError, Chunk, Slots, Step, taken_over
from unsay.errors import EvaluationError
from unsay.records import Key
from unsay.settings import Decode
from unsay.undo import EMPTY, Action, UndoTable

SLOTS = 3
CAPACITY = 64
WINDOW = 12
FAMILIES = ("qwen3", "llama", "mistral", "gemma3")


class Pair:
    """A model by itself and the same one with its attention taken over."""

    def __init__(self, folder: Path, family: str) -> None:
        tiny_model(folder, family, window=WINDOW if family in {"mistral", "gemma3"} else None)
        self.plain, self.model = load(folder), load(folder)
        self.top = self.plain.config.vocab_size

    @torch.inference_mode()
    def logits(self, ids: list[int]) -> torch.Tensor:
        result: torch.Tensor = self.plain(torch.tensor([ids])).logits[0, -1]
        return result


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("qwen3"), "qwen3")


ids = st.integers(5, 300)
chunks = st.lists(ids, min_size=1, max_size=20)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.integers(0, SLOTS - 1), chunks),
        st.tuples(st.just("read"), st.integers(0, SLOTS - 1), chunks),
        st.tuples(st.just("write"), ids, ids, ids),
        st.tuples(st.just("mixed"), st.tuples(*[st.one_of(ids, chunks)] * SLOTS)),
        st.tuples(st.just("undo"), st.integers(0, SLOTS - 1), st.integers(1, 30)),
        st.tuples(st.just("copy"), st.integers(0, SLOTS - 1), st.integers(0, SLOTS - 1), st.integers(1, 30)),
    ),
    min_size=4,
    max_size=24,
)


@pytest.mark.parametrize("trunk", [0, 9])
@given(operations=operations)
@settings(max_examples=12, deadline=None)
def test_logits_are_those_of_the_survivors(pair: Pair, trunk: int, operations: list[tuple[Any, ...]]) -> None:
    follow(pair, trunk, operations)


@pytest.mark.slow
@pytest.mark.parametrize("trunk", [0, 9])
@given(operations=operations)
@settings(max_examples=300, deadline=None)
def test_logits_are_those_of_the_survivors_many_times(
    pair: Pair, trunk: int, operations: list[tuple[Any, ...]]
) -> None:
    follow(pair, trunk, operations)


def follow(pair: Pair, trunk: int, operations: list[tuple[Any, ...]]) -> None:
    """Carry the operations out; after each, the logits must be those of what every slot holds."""
    ahead = list(range(7, 7 + trunk))
    with taken_over(pair.model, CAPACITY) as model:
        memory = Slots(model, SLOTS, CAPACITY, Slots.as_trunk(model, ahead, 4) if trunk else None)
        held: list[list[int]] = [[] for _ in range(SLOTS)]
        for name, *arguments in [*operations, ("write", 6, 6, 6)]:
            step, told = Step(), []
            if name == "write":  # one token in every slot at once
                written = [slot for slot in range(SLOTS) if len(held[slot]) < CAPACITY]
                step = Step([(slot, len(held[slot]), arguments[slot]) for slot in written])
                for slot in written:
                    held[slot].append(arguments[slot])
                told = written
            elif name in {"start", "read"}:
                slot, tokens = arguments
                start = 0 if name == "start" else len(held[slot])
                tokens = tokens[: CAPACITY - start]
                if tokens:
                    step, told = Step(chunks=[Chunk(slot, start, tokens)]), [slot]
                    held[slot][start:] = tokens
            elif name == "mixed":  # some slots write a token while others read
                room = {slot: each for slot, each in enumerate(arguments[0]) if len(held[slot]) < CAPACITY}
                reading = {
                    slot: each[: CAPACITY - len(held[slot])] for slot, each in room.items() if isinstance(each, list)
                }
                writing = {slot: each for slot, each in room.items() if slot not in reading}
                step = Step(
                    [(slot, len(held[slot]), token) for slot, token in writing.items()],
                    [Chunk(slot, len(held[slot]), tokens) for slot, tokens in reading.items()],
                )
                for slot, tokens in ({slot: [token] for slot, token in writing.items()} | reading).items():
                    held[slot] += tokens
                told = [*writing, *reading]
            elif name == "undo":  # down to the boundary of the prompt
                slot, count = arguments
                del held[slot][max(0, len(held[slot]) - count) :]
            elif name == "copy":
                source, target, count = arguments
                if source != target and memory.keys:
                    count = min(count, len(held[source]))
                    memory.copy(source, target, count)
                    held[target] = held[source][:count]
            if told:
                for row, slot in zip(memory.forward(step), told, strict=True):
                    torch.testing.assert_close(row, pair.logits(ahead + held[slot]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("slots", [1, 3, 32])
def test_prompts_longer_than_the_window(pair: Pair, slots: int) -> None:
    asked = [prompt * 3 for prompt in prompts(pair.plain)]
    chosen = engine.Options(Decode(max_new_tokens=16), EMPTY, frozenset(), str, slots=slots, chunk=50)
    answers = list(engine.generate(pair.model, requests(asked), chosen))
    assert any(len(prompt) > 3 * WINDOW for prompt in asked)
    for answer in answers:
        assert list(answer.ids) == by_transformers(pair.plain, answer.request.prompt_ids, 16)


def test_what_all_prompts_begin_with_is_read_once(pair: Pair) -> None:
    header = prompts(pair.plain, n=1, seed=5)[0] * 70
    asked = [header[:70] + prompt for prompt in prompts(pair.plain)]
    generator = engine.Engine(pair.model, options(Decode(max_new_tokens=16)))
    for answer in generator.generate(requests(asked)):
        assert list(answer.ids) == by_transformers(pair.plain, answer.request.prompt_ids, 16)
    assert generator.facts["shared_prefix"] == 70
    assert generator.facts["read"] <= 70 + sum(len(prompt) - 70 for prompt in asked)


def test_samples_of_one_prompt_read_it_once(qwen: Pair) -> None:
    first, second = ((tuple(range(start, start + 40))) for start in (10, 60))
    decode = Decode(do_sample=True, max_new_tokens=12)
    asked = [engine.Request(Key("t", at), (first, second)[at % 2], seed=at) for at in range(12)]
    generator = engine.Engine(qwen.model, options(decode, batch_size=4))
    together = {answer.request.key: answer.ids for answer in generator.generate(asked)}
    assert generator.facts["taken_over"] == 10 * 39
    assert generator.facts["read"] == 2 * 40
    for request in asked:
        (alone,) = engine.generate(qwen.model, [request], options(decode))
        assert together[request.key] == alone.ids


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("no memory left"), RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling …")],
)
def test_running_out_of_memory_goes_on_with_fewer_slots(
    qwen: Pair, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    decode = Decode(max_new_tokens=20)
    expected = answers_of(engine.Engine(qwen.model, options(decode, batch_size=8)), prompts(qwen.plain))
    calls, forward = [0], Slots.forward

    def scarce(self: Slots, step: Step) -> torch.Tensor:
        if self.count > 2:
            calls[0] += 1
            if calls[0] > 5:
                raise error
        return forward(self, step)

    monkeypatch.setattr(Slots, "forward", scarce)
    generator = engine.Engine(qwen.model, options(decode, batch_size=8))
    assert answers_of(generator, prompts(qwen.plain)) == expected
    assert generator.facts["slots"] <= 2
    assert generator.facts["out_of_memory"] >= 1


def test_an_answer_that_does_not_fit_alone_is_an_error(qwen: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(self: Slots, step: Step) -> torch.Tensor:
        raise torch.OutOfMemoryError("no memory left")

    with taken_over(qwen.model, CAPACITY):
        pass  # the trial itself still passes
    monkeypatch.setattr(Slots, "forward", none)
    monkeypatch.setattr("unsay.engine.slots._check", lambda *_: None)
    with pytest.raises(EvaluationError, match="lower max_new_tokens"):
        answers_of(engine.Engine(qwen.model, options(Decode())), prompts(qwen.plain))


def test_padded_batches_that_are_too_much_are_halved(qwen: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise CannotTakeOverError("not this one")

    monkeypatch.setattr("unsay.engine.engine.taken_over", refuse)
    decode = Decode(max_new_tokens=20)
    whole = engine.Engine(qwen.model, options(decode, batch_size=8))
    expected = answers_of(whole, prompts(qwen.plain))
    assert whole.facts["engine"] == "padded"
    read, write, calls = padded._Cached.read, padded._Cached.write, [0]

    def scarce(self: Any, tokens: list[int]) -> torch.Tensor:
        calls[0] += 1
        if len(tokens) > 2 and calls[0] > 5:
            raise torch.OutOfMemoryError("no memory left")
        return write(self, tokens)

    monkeypatch.setattr(padded._Cached, "write", scarce)
    halved = engine.Engine(qwen.model, options(decode, batch_size=8))
    assert answers_of(halved, prompts(qwen.plain)) == expected
    assert halved.facts["slots"] <= 2
    assert halved.facts["out_of_memory"] == 2

    def none(self: Any, contexts: list[list[int]]) -> torch.Tensor:
        if len(contexts[0]) > 20:  # the trial before the first answer still passes
            raise torch.OutOfMemoryError("no memory left")
        return read(self, contexts)

    monkeypatch.setattr(padded._Cached, "read", none)
    with pytest.raises(EvaluationError, match="lower max_new_tokens"):
        answers_of(engine.Engine(qwen.model, options(decode)), [tuple(range(5, 40))])


def test_a_model_that_always_undoes_ends(qwen: Pair) -> None:
    pop = 42
    table = UndoTable({pop: Action("pop")}, {pop: "<pop>"})
    decode = Decode(undo_context="rewind", undo_bias=1e4, max_new_tokens=500)
    for answer in engine.generate(qwen.model, requests(prompts(qwen.plain)), options(decode, table)):
        assert answer.finish_reason == "max_visits"
        assert not answer.visible_ids
        assert answer.resolution.counts.undos > 2


def test_models_that_cannot_be_taken_over_run_in_batches_or_alone(tmp_path: Path) -> None:
    import transformers

    small = {"vocab_size": 300, "hidden_size": 32}
    bloom = transformers.BloomConfig(**small, n_layer=2, n_head=4)
    mamba = transformers.MambaConfig(**small, num_hidden_layers=2, state_size=4)
    llama4 = transformers.Llama4TextConfig(
        **small, intermediate_size=32, intermediate_size_mlp=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, attention_chunk_size=16, num_local_experts=2, max_position_embeddings=512,
    )  # fmt: skip
    pop = 42
    table = UndoTable({pop: Action("pop")}, {pop: "<pop>"})
    for config, way in ((bloom, "padded"), (llama4, "padded"), (mamba, "uncached")):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        generator = engine.Engine(model, options(Decode(max_new_tokens=8)))
        asked = prompts(model, n=4)
        got = answers_of(generator, asked)
        assert generator.facts["engine"] == way
        assert generator.facts["why"]
        for prompt in asked:
            assert list(got[prompt]) == greedy(model, prompt, 8)
        rewinding = options(Decode(undo_context="rewind", undo_bias=1.0, max_new_tokens=12), table)
        for answer in engine.generate(model, requests(asked), rewinding):
            assert answer.finish_reason in {"max_steps", "max_visits"}


def test_a_window_that_attention_is_not_told_of_is_noticed() -> None:
    import transformers

    config = transformers.Qwen2MoeConfig(
        vocab_size=300, hidden_size=32, intermediate_size=32, moe_intermediate_size=16, num_hidden_layers=2,
        shared_expert_intermediate_size=16, num_attention_heads=4, num_key_value_heads=2, num_experts=2,
        num_experts_per_tok=1, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    asked = [prompt * 2 for prompt in prompts(model, n=3)]
    generator = engine.Engine(model, options(Decode(max_new_tokens=8)))
    got = answers_of(generator, asked)
    assert "sliding window" in generator.facts["why"]
    for prompt in asked:
        assert list(got[prompt]) == greedy(model, prompt, 8)


def test_positions_that_change_with_the_length_of_a_text() -> None:
    import transformers

    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "rope_theta": 1e4}
    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=256, rope_parameters=rope | {"original_max_position_embeddings": 64, "factor": 4.0},
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    short, crossing, long = (tuple(range(5, 5 + length)) for length in (20, 60, 100))
    generator = engine.Engine(model, options(Decode(max_new_tokens=8)))
    got = answers_of(generator, [short, crossing, long])
    assert generator.facts["engine"] == "uncached"
    for prompt in (short, crossing, long):
        assert list(got[prompt]) == greedy(model, prompt, 8)
    generator = engine.Engine(model, options(Decode(max_new_tokens=8)))
    assert list(answers_of(generator, [short])[short]) == greedy(model, short, 8)
    assert generator.facts["engine"] == "slots"


def test_an_empty_prompt_is_refused_before_anything_is_written(qwen: Pair) -> None:
    generator = engine.Engine(qwen.model, options(Decode()))
    with pytest.raises(EvaluationError, match="empty"):
        next(generator.generate(requests([(5, 6), ()])))


def test_a_model_in_use_says_so(qwen: Pair) -> None:
    answers = engine.generate(qwen.model, requests(prompts(qwen.plain)), options(Decode(max_new_tokens=4)))
    next(answers)
    with pytest.raises(EvaluationError, match="close it first"):
        qwen.model(torch.tensor([[5, 6]]))
    answers.close()  # type: ignore[attr-defined]
    assert torch.isfinite(qwen.model(torch.tensor([[5, 6]])).logits).all()


@pytest.mark.slow
def test_a_hundred_thousand_requests_hold_memory_flat(qwen: Pair) -> None:
    import psutil

    process = psutil.Process()
    asked = [engine.Request(Key("t", at), tuple(range(5, 8 + at % 9))) for at in range(100_000)]
    seen = []
    for done, _ in enumerate(engine.generate(qwen.model, asked, options(Decode(max_new_tokens=3), batch_size=64))):
        if done % 10_000 == 5_000:
            seen.append(process.memory_info().rss)
    assert len(seen) == 10
    assert max(seen[2:]) < seen[1] + 16 * 2**20


def requests(asked: list[tuple[int, ...]]) -> list[engine.Request]:
    return [engine.Request(Key("t", at), prompt) for at, prompt in enumerate(asked)]


def answers_of(generator: engine.Engine, asked: list[tuple[int, ...]]) -> dict[tuple[int, ...], tuple[int, ...]]:
    return {answer.request.prompt_ids: answer.ids for answer in generator.generate(requests(asked))}


def by_transformers(model: Any, prompt: tuple[int, ...], count: int) -> list[int]:
    written = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=count, do_sample=False,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    answer: list[int] = written[0, len(prompt) :].tolist()
    return answer


@torch.inference_mode()
def greedy(model: Any, prompt: tuple[int, ...], count: int) -> list[int]:
    """Without any cache."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]
