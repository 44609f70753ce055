"""What training saves is what it trained: tied or not, with a spare row or without, LoRA or whole, for two families.

Five steps; a fresh base with what was saved; then a plain model, written out, loaded by transformers and by lm-eval.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.unit.train.test_sft import FAST, Setting
from unsay.errors import ModelError, TrainingError
from unsay.loading import is_whole, load_config, load_model, load_tokenizer, undo_table
from unsay.models import family_of
from unsay.train import full, gate, sft

Folders = Callable[..., Path]

FIVE = replace(FAST, max_steps=5, save_steps=100)
MATRIX = list(product(("qwen3", "llama"), (True, False), (16, 0), ("lora", "full")))


def tied(model: Any) -> bool:
    same = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert same == model.config.tie_word_embeddings
    return same


def logits(model: Any, row: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([row.prompt_ids + row.ids])).logits[0].float()


@pytest.mark.parametrize(("family", "tie", "spare", "tuning"), MATRIX)
def test_what_is_saved_is_what_was_trained(
    family: str,
    tie: bool,
    spare: int,
    tuning: str,
    tiny_models: Folders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setting = Setting(tiny_models(family, tie=tie, spare_rows=spare))
    first = load_model(setting.path, None)
    probe = gate.choose_probe(setting.rows)
    undo = probe.ids.index(setting.table.control("pop")) + len(probe.prompt_ids)
    trained: list[torch.Tensor] = []
    measure = gate.measure

    def keep(model: Any, *rest: Any) -> gate.Measured:
        if not trained:
            trained.append(logits(model.eval(), probe))
        return measure(model, *rest)

    monkeypatch.setattr(gate, "measure", keep)
    result = setting.train(tmp_path / "out", replace(FIVE, finetuning_type=tuning))  # type: ignore[arg-type]
    (token,) = setting.table.names.values()
    assert min(result.results["gate"]["rows_moved"][token].values()) > 1e-3
    assert set(result.results["gate"]["rows_moved"][token]) == ({"input"} if tie else {"input", "output"})
    assert is_whole(tmp_path / "out") == (tuning == "full")

    def same(model: Any) -> None:
        seen = logits(model, probe)
        for place in (undo - 1, undo):  # what is said before the undo, and after it
            assert (seen[place] - trained[0][place]).abs().max() <= 1e-4 * trained[0].abs().max()
        assert (seen - trained[0]).abs().max() <= 1e-4 * trained[0].abs().max()

    reloaded = load_model(setting.path, None, tmp_path / "out")
    same(reloaded)
    merged = load_model(setting.path, None, tmp_path / "out", merge=True)
    assert tied(merged) == tied(first) == tie
    same(merged)
    merged.save_pretrained(tmp_path / "merged")
    tokenizer = load_tokenizer(setting.path, None, adapter=tmp_path / "out")
    tokenizer.save_pretrained(tmp_path / "merged")

    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert tied(plain) == tie
    same(plain)
    grown = max(first.get_input_embeddings().weight.shape[0], max(setting.table.actions) + 1)
    assert plain.get_input_embeddings().weight.shape[0] == grown

    from lm_eval.models.huggingface import HFLM

    judged = HFLM(pretrained=str(tmp_path / "merged"), device="cpu", dtype="float32", batch_size=1)
    same(judged.model)
    assert judged.tokenizer.convert_tokens_to_ids(token) == next(iter(setting.table.actions))


@pytest.fixture
def setting(tiny_models: Folders) -> Setting:
    return Setting(tiny_models(tie=False))


def test_every_weight_moves_and_the_rest_of_the_folder_is_a_model(setting: Setting, tmp_path: Path) -> None:
    setting.train(tmp_path, replace(FIVE, finetuning_type="full"))
    before, after = load_model(setting.path, None), load_model(str(tmp_path), None)
    after_parameters = dict(after.named_parameters())
    for name, parameter in before.named_parameters():
        assert not torch.equal(parameter, after_parameters[name]), name
    tokenizer = load_tokenizer(str(tmp_path), None)
    family = family_of(load_config(str(tmp_path), None).model_type)
    assert undo_table(tokenizer, family, tmp_path / "undo.json") == setting.table


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_the_row_has_its_own_learning_rate_and_no_weight_decay(tuning: str, setting: Setting, tmp_path: Path) -> None:
    """One step of Adam moves every weight by its rate, whatever the gradient: so rates can be read from the weights."""
    one = replace(
        FIVE,
        finetuning_type=tuning,  # type: ignore[arg-type]
        max_steps=1,
        lr_scheduler_type="constant",
        learning_rate=1e-4,
        weight_decay=5.0,
        max_grad_norm=1e9,
    )
    folders = {rate: tmp_path / str(rate) for rate in (None, 1e-4, 1e-2)}
    for rate, folder in folders.items():
        setting.train(folder, replace(one, row_learning_rate=rate))
    ids = list(setting.table.actions)
    first = load_model(setting.path, None)
    sft.tokens.initialise(first, setting.tokenizer, setting.table, "description")
    rows = {rate: load_model(setting.path, None, folder, merge=True) for rate, folder in folders.items()}
    for get in ("get_input_embeddings", "get_output_embeddings"):
        start = getattr(first, get)().weight[ids]
        moved = {rate: (getattr(model, get)().weight[ids] - start).abs() for rate, model in rows.items()}
        assert torch.equal(moved[None], moved[1e-4])
        assert moved[None].max() == pytest.approx(1e-4, rel=1e-2)
        assert moved[1e-2].max() == pytest.approx(1e-2, rel=1e-2)
        other = [id for id in range(40) if id not in ids]
        ordinary = {rate: getattr(model, get)().weight[other] for rate, model in rows.items()}
        assert torch.equal(ordinary[None], ordinary[1e-2])


@pytest.mark.parametrize("tie", [True, False])
def test_a_stopped_whole_training_ends_where_it_would_have_ended(
    tie: bool, tiny_models: Folders, tmp_path: Path
) -> None:
    setting = Setting(tiny_models(tie=tie))
    training = replace(FAST, finetuning_type="full", row_learning_rate=2e-2, weight_decay=0.1)
    whole = setting.train(tmp_path / "whole", training)

    class StopError(Exception):
        pass

    def stop(step: int, total: int, loss: float) -> None:
        if step == 5:
            raise StopError

    with pytest.raises(StopError):
        setting.train(tmp_path / "cut", training, progress=stop)
    resumed = setting.train(tmp_path / "cut", training)
    assert resumed.results["resumed_from"] == 4
    assert resumed.losses == whole.losses
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_whole_model_whose_row_was_lost_is_caught(setting: Setting, tmp_path: Path) -> None:
    setting.train(tmp_path, replace(FIVE, finetuning_type="full"))
    ids = list(setting.table.actions)
    probe = gate.choose_probe(setting.rows)
    base = gate.Base(setting.path, None, "cpu", "float32")
    before = gate.measure(load_model(str(tmp_path), None), probe, ids)
    gate.check(before, tmp_path, base, probe, ids, setting.table.names)
    broken = load_model(str(tmp_path), None)
    with torch.no_grad():
        broken.get_input_embeddings().weight[ids] *= 1.01
    full.save(broken, tmp_path)
    with pytest.raises(TrainingError, match="fresh base to keep the input row of"):
        gate.check(before, tmp_path, base, probe, ids, setting.table.names)


def test_embeddings_that_were_untied_on_the_way_are_caught(tiny_models: Folders, tmp_path: Path) -> None:
    setting = Setting(tiny_models(tie=True))
    setting.train(tmp_path, replace(FIVE, finetuning_type="full"))
    ids = list(setting.table.actions)
    probe = gate.choose_probe(setting.rows)
    before = gate.measure(load_model(str(tmp_path), None), probe, ids)
    untied = load_model(str(tmp_path), None)
    untied.config.tie_word_embeddings = False
    untied.lm_head.weight = torch.nn.Parameter(untied.lm_head.weight.clone())
    full.save(untied, tmp_path)
    with pytest.raises(TrainingError, match="leave the embeddings tied, got the opposite"):
        gate.check(before, tmp_path, gate.Base(setting.path, None, "cpu", "float32"), probe, ids, setting.table.names)


# -- four bits --------------------------------------------------------------------


@pytest.mark.parametrize("tie", [True, False])
def test_weights_in_four_bits_train_and_merge_into_the_values_they_stood_for(
    tie: bool, tiny_models: Folders, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    setting = Setting(tiny_models(tie=tie, hidden=64))
    result = setting.train(tmp_path, replace(FIVE, quantization_bit=4))
    assert result.results["gate"]["merged"] <= 1e-4
    held = load_model(setting.path, None, tmp_path)
    assert any(type(module).__name__ == "Linear4bit" for module in held.modules())
    merged = load_model(setting.path, None, tmp_path, merge=True)
    assert not any("4bit" in type(module).__name__ for module in merged.modules())
    probe = gate.choose_probe(setting.rows)
    expected = logits(held, probe)
    assert (logits(merged, probe) - expected).abs().max() <= 1e-4 * expected.abs().max()
    # The weights in four bits are not the model's own: merging into those would be another model.
    (tmp_path / "quantization.json").unlink()
    other = logits(load_model(setting.path, None, tmp_path, merge=True), probe)
    assert (other - expected).abs().max() > 1e-2 * expected.abs().max()


def test_without_bitsandbytes_four_bits_are_refused(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ModelError, match="pip install bitsandbytes"):
        setting.train(tmp_path, replace(FIVE, quantization_bit=4))


# -- how fast ---------------------------------------------------------------------


@pytest.mark.slow
def test_the_benchmark_runs_and_every_loss_is_equal() -> None:
    """Three processes, each importing torch, and one of them TRL."""
    pytest.importorskip("trl")
    benchmark = Path(__file__).parents[3] / "benchmarks" / "train.py"
    command = [sys.executable, str(benchmark), "--rounds", "1", "--rows", "16", "--vocabulary", "2048"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "every step's loss equal" in done.stdout
    assert done.stdout.count("tokens per second") == 3
