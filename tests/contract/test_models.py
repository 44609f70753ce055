"""Every model family: its undo tokens are single tokens that survive a round trip, its templates render."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests import tiny
from unsay import models
from unsay.errors import ModelError
from unsay.loading import undo_table
from unsay.prompts import Prompter
from unsay.stand_in import bundled_tokenizer
from unsay.undo import ACTION_KINDS

FAMILIES = models.families()
TEMPLATES = models.template_names()


def test_families_and_templates_were_found() -> None:
    assert {"qwen", "llama", "generic"} <= set(FAMILIES)
    assert {"qwen3_nothink", "llama3", "plain"} <= set(TEMPLATES)
    assert sum(not family.model_types for family in FAMILIES.values()) == 1
    served = [kind for family in FAMILIES.values() for kind in family.model_types]
    assert len(served) == len(set(served))


@pytest.mark.parametrize("name", FAMILIES)
def test_undo_is_one_token_that_survives_a_round_trip(name: str) -> None:
    family = FAMILIES[name]
    assert set(family.undo_tokens) == set(ACTION_KINDS)
    for tokenizer in (tiny.tiny_tokenizer(), tiny.llama3_tokenizer()):
        table = undo_table(tokenizer, family, with_undo=True, actions=("pop", "pop_line", "pop_all"))
        assert sorted(action.kind for action in table.actions.values()) == sorted(ACTION_KINDS)
        for id, token in table.names.items():
            assert tokenizer.encode(f"a {token} b", add_special_tokens=False).count(id) == 1
            assert tokenizer.decode([id], skip_special_tokens=False) == token
            assert id not in Prompter(tokenizer, control_ids=table.actions).encode_plain(f"a {token} b").ids


@pytest.mark.parametrize("name", FAMILIES)
def test_a_plain_attention_model_can_rewind(name: str) -> None:
    config = SimpleNamespace(model_type="x", layer_types=["full_attention", "sliding_attention"])
    assert FAMILIES[name].why_no_rewind(config) is None


def test_recurrent_models_say_why_they_cannot_rewind() -> None:
    from transformers import MambaConfig, Qwen3NextConfig, T5Config

    for config in (MambaConfig(), Qwen3NextConfig(), T5Config()):
        assert models.family_of(config.model_type).why_no_rewind(config)


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_render_and_end_an_answer(name: str) -> None:
    prompter = Prompter(tiny.llama3_tokenizer() if name == "llama3" else tiny.tiny_tokenizer(chat_template=None), name)
    question, answer = {"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}
    prompt = prompter.render([question])
    assert prompt.count("1 + 1?") == 1
    assert prompter.render([question, answer], add_generation_prompt=False).startswith(f"{prompt}2")
    assert prompter.end_id in prompter.end_ids


def test_built_in_templates_are_llama_factorys() -> None:
    chat = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    chatml = Prompter(tiny.tiny_tokenizer(chat_template=None), "qwen3_nothink").render(chat)
    assert chatml == "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    llama = Prompter(tiny.llama3_tokenizer(), "llama3").render(chat)
    header = "<|start_header_id|>{}<|end_header_id|>\n\n"
    assert llama == (
        f"<|begin_of_text|>{header.format('system')}S<|eot_id|>{header.format('user')}U<|eot_id|>"
        f"{header.format('assistant')}"
    )
    assert Prompter(tiny.tiny_tokenizer(chat_template=None), "plain").render(chat) == "S\nU\n"


def test_an_unknown_template_names_those_there_are() -> None:
    with pytest.raises(ModelError, match="llama3, plain, qwen3_nothink"):
        models.named_template("chatml2")


SHAPES = {name: shape for family in FAMILIES.values() for name, shape in family.shapes.items()}


def test_shapes_belong_to_the_family_that_has_them() -> None:
    assert len(SHAPES) >= 3
    for family in FAMILIES.values():
        assert all(shape.model_type in family.model_types for shape in family.shapes.values())
    for name, shape in SHAPES.items():
        assert models.known_shape(name) == shape
        assert shape.heads % shape.kv_heads == 0


@pytest.mark.parametrize("kind", ["qwen3", "llama", "mistral"])
def test_a_tokenizer_stands_in_for_the_familys(kind: str) -> None:
    parts = models.family_of(kind).stand_in
    vocabulary = 2_000
    tokenizer = bundled_tokenizer(kind, vocabulary)
    assert vocabulary - 16 <= len(tokenizer) <= vocabulary
    for token in parts.specials:
        assert len(tokenizer.encode(token, add_special_tokens=False)) == 1
    prompter = Prompter(tokenizer)
    assert prompter.tokenizer.convert_ids_to_tokens(prompter.end_id) == parts.end
    question = [{"role": "user", "content": "1 + 1 = ?\n"}]
    encoded = prompter.encode_chat(question)
    assert prompter.text_of(encoded.ids) == encoded.text
    assert encoded.text.count("1 + 1 = ?\n") == 1
    begins = 0 if parts.begin is None else encoded.text.count(parts.begin)
    assert begins == (parts.begin is not None)
    assert len(prompter.encode_chat(question).ids) == len(encoded.ids)
    table = undo_table(tokenizer, models.family_of(kind), with_undo=True)
    assert max(table.actions) < vocabulary, "an undo must fit into the rows the true vocabulary has"


def test_templates_of_our_own_take_a_system_message() -> None:
    chat = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "why not"}]
    for family in FAMILIES.values():
        kind = next(iter(family.model_types), "mistral")
        text = Prompter(bundled_tokenizer(kind, 2_000)).render(chat)
        assert text.index("be brief") < text.index("why not")
