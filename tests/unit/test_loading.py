"""Loading: the undo table of a tokenizer, adapters with their ids, and errors that say what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tiny
from unsay import loading
from unsay.errors import ModelError
from unsay.models import family_of
from unsay.undo import EMPTY, Action, UndoTable

Folders = Callable[..., Path]
QWEN, LLAMA, GENERIC = family_of("qwen3"), family_of("llama"), family_of("gpt2")


def test_a_tokenizer_without_undo_tokens_has_the_empty_table() -> None:
    for tokenizer, family in ((tiny.tiny_tokenizer(), QWEN), (tiny.llama3_tokenizer(), LLAMA)):
        before = len(tokenizer)
        assert loading.undo_table(tokenizer, family) == EMPTY
        assert len(tokenizer) == before


def test_a_missing_token_is_added_as_a_special_one() -> None:
    tokenizer = tiny.tiny_tokenizer()
    table = loading.undo_table(tokenizer, GENERIC, with_undo=True)
    (id,) = table.actions
    assert (table.names[id], table.actions[id], id) == ("<|BACKTRACK|>", Action("pop"), len(tokenizer) - 1)
    assert tokenizer.added_tokens_decoder[id].special
    assert id not in tokenizer.encode("a<|BACKTRACK|>b", split_special_tokens=True)
    assert loading.undo_table(tokenizer, GENERIC) == table


def test_llama_takes_a_reserved_token() -> None:
    tokenizer = tiny.llama3_tokenizer()
    before = len(tokenizer)
    table = loading.undo_table(tokenizer, LLAMA, with_undo=True, actions=("pop", "pop_line"))
    assert list(table.names.values()) == ["<|reserved_special_token_0|>", "<|reserved_special_token_1|>"]
    assert len(tokenizer) == before


def test_tokens_that_mean_undo_by_name_need_no_file() -> None:
    tokenizer = tiny.tiny_tokenizer((*tiny.SPECIALS, *tiny.CONTROLS))
    table = loading.undo_table(tokenizer, QWEN)
    assert [action.kind for action in table.actions.values()] == ["pop", "pop_line", "pop_all"]
    assert {tokenizer.decode([id]) for id in table.newline_ids} == {"\n"}


def test_a_token_that_was_added_as_an_ordinary_one_becomes_special() -> None:
    from transformers import AddedToken

    tokenizer = tiny.tiny_tokenizer()
    tokenizer.add_tokens([AddedToken("<|BACKTRACK|>", special=False)])
    (id,) = loading.undo_table(tokenizer, QWEN).actions
    assert id not in tokenizer.encode("a<|BACKTRACK|>b", split_special_tokens=True)


def test_the_file_decides_over_names_and_ids(tmp_path: Path) -> None:
    file = tmp_path / "undo.json"
    tokenizer = tiny.tiny_tokenizer()
    written = loading.UndoFile(
        UndoTable({len(tokenizer): Action("pop", 2)}, {len(tokenizer): "<|TWO|>"}), "rewind", (len(tokenizer),), 7
    )
    file.write_text(json.dumps(written.to_json()), encoding="utf-8")
    assert loading.read_undo_file(file) == written
    assert loading.undo_table(tokenizer, QWEN, file) == written.table
    other = tiny.tiny_tokenizer()
    other.add_tokens(["<|first|>"], special_tokens=True)
    with pytest.raises(ModelError, match=r"<\|TWO\|> to have id 400"):
        loading.undo_table(other, QWEN, file)


def test_a_bare_table_is_a_file_whose_rows_are_all_trained(tmp_path: Path) -> None:
    table = UndoTable({5: Action("pop")}, {5: "<|BACKTRACK|>"})
    (tmp_path / "undo.json").write_text(json.dumps(table.to_json()), encoding="utf-8")
    found = loading.read_undo_file(tmp_path / "undo.json")
    assert (found.table, found.trained, found.context) == (table, (5,), None)
    assert loading.find_undo_file(str(tmp_path), None) == tmp_path / "undo.json"
    assert loading.find_undo_file(str(tmp_path / "other"), None) is None


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 9}', '{"schema": 1, "controls": [{}], "newline_ids": []}'])
def test_a_broken_table_says_so(tmp_path: Path, text: str) -> None:
    (tmp_path / "undo.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=r"undo\.json: expected an undo table"):
        loading.read_undo_file(tmp_path / "undo.json")


def test_a_model_loads_for_evaluation(tiny_models: Folders) -> None:
    model = loading.load_model(str(tiny_models()), None, dtype="bfloat16")
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {str(parameter.dtype) for parameter in model.parameters()} == {"torch.bfloat16"}


def test_end_ids_come_from_every_place_that_names_one(tiny_models: Folders, tmp_path: Path) -> None:
    folder = tiny.tiny_model(tmp_path)
    (folder / "generation_config.json").write_text('{"eos_token_id": [0, 2]}', encoding="utf-8")
    assert loading.eos_ids(str(folder), None, loading.load_tokenizer(str(folder), None)) == {0, 2}


def test_weights_must_be_safetensors(tmp_path: Path) -> None:
    import torch

    folder = tiny.tiny_model(tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        loading.load_model(str(folder), None)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere")
    for load in (loading.load_tokenizer, loading.load_config, loading.load_model):
        with pytest.raises(ModelError, match="got nothing there"):
            load(missing, None)
        with pytest.raises(ModelError, match="an empty folder"):
            load(str(tmp_path), None)


def test_hub_errors_say_what_to_do() -> None:
    gated = OSError("You are trying to access a gated repo.")
    assert "hf auth login" in str(loading._explain(gated, "a model", "meta-llama/Llama-3.2-3B-Instruct"))
    offline = OSError("We couldn't connect to 'https://huggingface.co'")
    assert "hf download some/model" in str(loading._explain(offline, "a model", "some/model"))
    code = ValueError("requires you to execute the code; set the option `trust_remote_code=True`")
    assert "trust_remote_code: true" in str(loading._explain(code, "a model", "some/model"))
    unknown = OSError("some/model is not a valid model identifier")
    assert "check the hub id" in str(loading._explain(unknown, "a model", "some/model"))
