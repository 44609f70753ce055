"""Estimates: the counts are exact, the formulas move the right way, the sums can be done by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from unsay import models
from unsay.estimate import ASSUMPTIONS, GIB, GPU, Load, estimate, lora_parameters, parameters
from unsay.models import Shape
from unsay.settings import Decode, Prompting, Settings, Training, UndoData

KNOWN = {name: shape for family in models.families().values() for name, shape in family.shapes.items()}
QWEN = KNOWN["Qwen/Qwen3-4B"]
LOAD = Load(
    items=1319, prompt_tokens=1000, longest_prompt=1400, batch_size=32, train_rows=7473, row_tokens=250,
    longest_row=500, answer_tokens=120, control_tokens=1, answer_bytes=5000.0, token_bytes=30.0, row_bytes=1000.0,
)  # fmt: skip
VANILLA = Settings(Prompting(), Decode(max_new_tokens=256))
SFT = Settings(Prompting(), Decode(), Training(), UndoData())


def config_of(shape: Shape) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(
        shape.model_type, vocab_size=shape.vocabulary, hidden_size=shape.hidden, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=shape.head_dim,
        intermediate_size=shape.intermediate, tie_word_embeddings=shape.tied, pad_token_id=None,
    )  # fmt: skip


def weightless(shape: Shape) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config_of(shape))


def test_the_models_one_can_name_are_described() -> None:
    from unsay import definitions

    hub = {model.path for model in definitions.builtin().models.values() if not model.is_local}
    assert hub <= KNOWN.keys()
    assert len(hub) >= 3


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_counted_exactly(name: str, tied: bool) -> None:
    shape = replace(KNOWN[name], tied=tied)
    assert parameters(shape) == sum(parameter.numel() for parameter in weightless(shape).parameters())


def test_the_families_others_have_are_counted_exactly() -> None:
    small = {"layers": 3, "hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "intermediate": 96}
    for kind in ("qwen2", "qwen3", "llama", "mistral"):
        shape = Shape(kind, vocabulary=300, tied=False, max_length=99, **small)  # type: ignore[arg-type]
        config = config_of(shape)
        found = models.shape_of(config.to_dict())
        assert found is not None
        assert parameters(found) == sum(parameter.numel() for parameter in weightless(shape).parameters())
        assert replace(found, qk_norm=False, qkv_bias=False, max_length=99) == shape


@pytest.mark.parametrize("target", ["all", "q_proj,v_proj", ("down_proj",)])
def test_adapters_are_counted_exactly(target: str | tuple[str, ...]) -> None:
    from unsay.train.lora import attach

    shape = Shape("qwen3", 2, 64, 4, 2, 16, 96, 300, tied=True, max_length=99, qk_norm=True)
    training = Training(lora_rank=4, lora_target=target)
    from transformers import AutoModelForCausalLM

    adapted = attach(AutoModelForCausalLM.from_config(config_of(shape)), training, ())
    trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert lora_parameters(shape, training) == trained


def test_a_config_that_is_no_plain_decoder_has_no_shape() -> None:
    assert models.shape_of({"model_type": "mamba"}) is None
    assert models.shape_of({**config_of(QWEN).to_dict(), "num_experts": 8}) is None
    assert models.shape_of({"text_config": config_of(QWEN).to_dict()}) == replace(QWEN, max_length=32768)


def test_memory_to_evaluate_by_hand() -> None:
    cache = 2 * 2 * 36 * 8 * 128 * 32 * (1400 + 256)
    prefill = 2 * (4 * 2560 + 2 * (2 * 32 + 2 * 8) * 128 + 3 * 9728) * 32 * 1400
    assert estimate(QWEN, VANILLA, LOAD).memory == {"evaluate": 2 * 4_022_468_096 + cache + prefill + GIB}


def test_time_to_train_by_hand() -> None:
    """Three epochs of 234 steps of 32 rows; two forward and two backward operations per weight and token."""
    linear = 36 * (2560 * 128 * (2 * 32 + 2 * 8) + 3 * 2560 * 9728)
    per_token = 2 * 2 * linear + 2 * 4 * 36 * 32 * 128 * 250
    per_row = 250 * per_token + 2 * 2 * 120 * 151_936 * 2560
    working = 3 * 234 * 32 * per_row / (0.35 * GPU.rate)
    starting = 3 * 234 * 8 * 36 * 4.0e-3
    assert estimate(QWEN, SFT, LOAD).hours["train"] == pytest.approx(max(working, starting) / 3600)


@pytest.mark.parametrize(
    ("settings", "load"),
    [
        (SFT, {"longest_row": 1000}),
        (SFT, {"longest_prompt": 9000}),
        (replace(SFT, training=Training(lora_rank=64)), {}),
        (replace(SFT, decode=Decode(max_new_tokens=4096)), {}),
        (replace(SFT, training=Training(per_device_train_batch_size=16)), {}),
    ],
)
def test_more_work_takes_more_memory(settings: Settings, load: dict[str, int]) -> None:
    before, after = estimate(QWEN, SFT, LOAD).memory, estimate(QWEN, settings, replace(LOAD, **load)).memory
    assert sum(after.values()) > sum(before.values())
    assert all(after[stage] >= before[stage] for stage in before)


def test_what_nobody_knows_is_left_out() -> None:
    found = estimate(QWEN, SFT, replace(LOAD, items=None, train_rows=None))
    assert found.hours == {}
    assert "results" not in found.disk
    assert "training rows" not in found.disk
    assert found.memory.keys() == {"train", "evaluate"}
    assert found.to_json()["parameters"] == 4_022_468_096


def test_the_small_model_fits_where_the_readme_says() -> None:
    """Qwen3-4B fits on 24 GB with the settings of the built-in configs."""
    found = estimate(QWEN, SFT, LOAD)
    assert found.least_to_train < 20e9 < 24e9 < found.memory["train"] < 32e9
    assert len(ASSUMPTIONS) >= 6


@pytest.mark.parametrize(
    "shape",
    [
        Shape("qwen3", 1, 256, 8, 2, 64, 768, 300, tied=True, max_length=999, qk_norm=True),
        Shape("qwen3", 1, 320, 4, 1, 128, 1216, 300, tied=True, max_length=999, qk_norm=True),
        Shape("llama", 1, 384, 6, 2, 64, 1024, 300, tied=True, max_length=999),
    ],
)
def test_activations_are_what_a_layer_keeps(shape: Shape) -> None:
    """What autograd saves for the way back, counted; the formula has up to a quarter to spare."""
    kept = [saved_bytes(replace(shape, layers=layers), tokens=400) for layers in (1, 3)]
    per_layer = (kept[1] - kept[0]) / 2 / 400
    small, large = (estimate(shape, SFT, replace(LOAD, longest_row=row, answer_tokens=0)) for row in (1000, 2000))
    formula = (large.memory["train"] - small.memory["train"]) / (4 * 1000) - 2 * shape.hidden
    assert 0.75 * formula < per_layer < formula


def saved_bytes(shape: Shape, tokens: int) -> int:
    import torch
    from transformers import AutoModelForCausalLM

    from unsay.train.lora import attach

    model = AutoModelForCausalLM.from_config(config_of(shape), dtype=torch.bfloat16)
    model.requires_grad_(False)
    model = attach(model, Training(), ()).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.arange(tokens)[None] % shape.vocabulary
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, logits_to_keep=1)
    assert output.logits.requires_grad
    return sum(kept.values())
