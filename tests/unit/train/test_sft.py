"""Training on tiny real models: it learns, resumes, repeats itself, and its final check catches a lost row."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3ForCausalLM

from tests import tiny
from unsay.errors import ModelError, TrainingError
from unsay.loading import (
    find_undo_file,
    load_config,
    load_model,
    load_tokenizer,
    read_undo_file,
    undo_table,
)
from unsay.models import family_of
from unsay.prompts import Prompter
from unsay.records import Row
from unsay.settings import Training, UndoData
from unsay.train import gate, loop, lora, sft
from unsay.train.collate import collate
from unsay.undo import EMPTY, UndoTable, resolve

FAST = Training(
    learning_rate=1e-2,
    max_steps=6,
    warmup_ratio=0.0,
    per_device_train_batch_size=2,
    gradient_accumulation_steps=2,
    logging_steps=2,
    save_steps=2,
)
UNDO = UndoData()
Folders = Callable[..., Path]


class Setting:
    """A tiny model, its undo token, and eight rows with a planted mistake each."""

    def __init__(self, folder: Path, *, with_undo: bool = True) -> None:
        self.path = str(folder)
        self.tokenizer = load_tokenizer(self.path, None)
        family = family_of(load_config(self.path, None).model_type)
        self.table = undo_table(self.tokenizer, family, find_undo_file(self.path, None), with_undo=with_undo)
        self.prompter = Prompter(self.tokenizer, control_ids=self.table.actions)
        self.rows = [self.row(number) for number in range(8)]

    def row(self, number: int) -> Row:
        question = {"role": "user", "content": f"Tom has {number} apples and buys 2 more."}
        prompt = self.prompter.encode_chat([question]).ids
        answer = self.prompter.encode_answer(f"He has {number} + 2 = {number + 2} apples.\n#### {number + 2}")[0]
        undo = self.table.control("pop")
        if undo is None:
            return Row(f"r{number}", prompt, (*answer, self.prompter.end_id), "c" * (len(answer) + 1))
        wrong = self.prompter.encode_answer(" pages")[0]
        place = 3
        ids = (*answer[:place], *wrong, *[undo] * len(wrong), *answer[place:], self.prompter.end_id)
        letters = "c" * place + "e" * len(wrong) + "u" * len(wrong) + "k" + "c" * (len(answer) - place)
        assert resolve(ids, self.table, {self.prompter.end_id}).visible_ids == answer
        return Row(f"r{number}", prompt, ids, letters)

    def train(
        self, out: Path, training: Training = FAST, undo: UndoData | None = UNDO, **options: Any
    ) -> sft.TrainResult:
        arguments: dict[str, Any] = {
            "model_path": self.path,
            "revision": None,
            "tokenizer": self.tokenizer,
            "table": self.table,
            "training": training,
            "undo": undo,
            "seed": 0,
            "out": out,
        }
        return sft.train(options.pop("rows", self.rows), **(arguments | options))


@pytest.fixture(scope="module")
def setting(tiny_models: Folders) -> Setting:
    return Setting(tiny_models())


@pytest.fixture(scope="module")
def trained(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> sft.TrainResult:
    return setting.train(tmp_path_factory.mktemp("trained"))


def test_the_loss_falls_on_eight_rows(setting: Setting, tmp_path: Path) -> None:
    result = setting.train(tmp_path, replace(FAST, max_steps=30, learning_rate=3e-2))
    assert result.losses[-1] < 0.75 * result.losses[0]


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("family", ["qwen3", "llama", "gemma3", "gpt2"])
def test_the_row_moves_and_survives_saving_and_merging(
    family: str, tie: bool, tiny_models: Folders, tmp_path: Path
) -> None:
    setting = Setting(tiny_models(family, tie=tie))
    result = setting.train(tmp_path)
    figures = result.results["gate"]
    (token,) = setting.table.names.values()
    assert set(figures["rows_moved"][token]) == ({"input"} if tie else {"input", "output"})
    assert min(figures["rows_moved"][token].values()) > 1e-3
    assert figures["reloaded"] <= 1e-6
    assert figures["merged"] <= figures["tolerance"] == 1e-4
    assert read_undo_file(tmp_path / "undo.json").table == setting.table


def test_a_training_of_one_step_moves_the_row(tiny_models: Folders, tmp_path: Path) -> None:
    setting = Setting(tiny_models())
    result = setting.train(tmp_path, replace(FAST, max_steps=1, warmup_ratio=0.1))
    (token,) = setting.table.names.values()
    assert min(result.results["gate"]["rows_moved"][token].values()) > 0


@pytest.mark.parametrize("tie", [True, False])
def test_a_vocabulary_without_spare_rows_grows_and_is_found_again(
    tie: bool, tiny_models: Folders, tmp_path: Path
) -> None:
    setting = Setting(tiny_models(tie=tie, spare_rows=0))
    before = load_model(setting.path, None).get_input_embeddings().weight.shape[0]
    result = setting.train(tmp_path)
    assert result.results["gate"]["merged"] <= 1e-4
    merged = load_model(setting.path, None, tmp_path, merge=True)
    assert merged.get_input_embeddings().weight.shape[0] == before + 1 == read_undo_file(tmp_path / "undo.json").rows
    tokenizer = load_tokenizer(setting.path, None, adapter=tmp_path)
    assert undo_table(tokenizer, family_of("qwen3"), tmp_path / "undo.json") == setting.table


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("side", ["embed_tokens", "lm_head"])
def test_the_check_catches_a_lost_row(tie: bool, side: str, tiny_models: Folders, tmp_path: Path) -> None:
    setting = Setting(tiny_models(tie=tie))
    setting.train(tmp_path)
    ids = list(setting.table.actions)
    base = gate.Base(setting.path, None, "cpu", "float32")
    probe = gate.choose_probe(setting.rows)
    before = gate.measure(load_model(setting.path, None, tmp_path), probe, ids)
    gate.check(before, tmp_path, base, probe, ids, setting.table.names)

    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    found = [name for name in tensors if side in name]
    assert bool(found) == (not tie or side == "embed_tokens")
    if not found:
        return
    untrained = load_model(setting.path, None).get_parameter(
        "model.embed_tokens.weight" if side == "embed_tokens" else "lm_head.weight"
    )
    save_file(tensors | {found[0]: untrained[ids].detach().clone()}, file, {"format": "pt"})
    with pytest.raises(TrainingError, match=r"fresh base to keep the (input|output) row of"):
        gate.check(before, tmp_path, base, probe, ids, setting.table.names)


def test_the_check_catches_a_damaged_matrix(setting: Setting, trained: sft.TrainResult, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(trained.folder, folder)
    probe = gate.choose_probe(setting.rows)
    before = gate.measure(load_model(setting.path, None, folder), probe, [])
    tensors = load_file(folder / "adapter_model.safetensors")
    name = next(name for name in tensors if "lora_B" in name)
    save_file(tensors | {name: tensors[name] * 1.5}, folder / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(TrainingError, match="same logits"):
        gate.check(before, folder, gate.Base(setting.path, None, "cpu", "float32"), probe, [], {})


def test_a_row_that_did_not_move_fails(setting: Setting, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"expected training to move the input row of <\|BACKTRACK\|>"):
        setting.train(tmp_path, replace(FAST, learning_rate=0.0))


def test_training_twice_gives_the_same(setting: Setting, trained: sft.TrainResult, tmp_path: Path) -> None:
    again = setting.train(tmp_path)
    assert again.losses == trained.losses
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (trained.folder, tmp_path))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert setting.train(tmp_path / "other", seed=1).losses != trained.losses


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_stopped_training_ends_where_it_would_have_ended(setting: Setting, tmp_path: Path, dropout: float) -> None:
    training = replace(FAST, lora_dropout=dropout)
    whole = setting.train(tmp_path / "whole", training)

    class StopError(Exception):
        pass

    def stop(step: int, total: int, loss: float) -> None:
        if step == 5:
            raise StopError

    with pytest.raises(StopError):
        setting.train(tmp_path / "cut", training, progress=stop)
    (tmp_path / "cut" / ".checkpoint-6.partial").mkdir()  # a checkpoint that was being written
    (tmp_path / "cut" / "checkpoint-6").mkdir()  # a folder that is no checkpoint
    seen: list[int] = []
    resumed = setting.train(tmp_path / "cut", training, progress=lambda step, total, loss: seen.append(step))

    assert seen == [5, 6]
    assert resumed.results["resumed_from"] == 4
    assert resumed.losses == whole.losses
    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    logs = [(tmp_path / name / "trainer_log.jsonl").read_text().splitlines() for name in ("whole", "cut")]
    whole_log, cut_log = ([json.loads(line)["loss"] for line in log] for log in logs)
    assert whole_log == cut_log


def test_a_checkpoint_that_is_damaged_is_named_and_one_that_lost_a_file_is_none(
    setting: Setting, trained: sft.TrainResult, tmp_path: Path
) -> None:
    training = replace(FAST, max_steps=2, save_steps=1)
    setting.train(tmp_path / "out", training)
    (checkpoint,) = (tmp_path / "out").glob("checkpoint-*")
    weights = checkpoint / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with pytest.raises(TrainingError, match=f"go on from in {weights}, got: .*move its folder away"):
        setting.train(tmp_path / "out", training)
    assert weights.read_bytes() == whole[:100]
    weights.unlink()
    assert setting.train(tmp_path / "out", training).results["resumed_from"] == 0


def test_a_checkpoint_of_other_settings_is_not_used(setting: Setting, trained: sft.TrainResult, tmp_path: Path) -> None:
    shutil.copytree(trained.folder, tmp_path / "out")
    other = setting.train(tmp_path / "out", replace(FAST, learning_rate=5e-3))
    assert other.results["resumed_from"] == 0


def test_micro_batches_do_not_change_the_result(setting: Setting, trained: sft.TrainResult, tmp_path: Path) -> None:
    other = setting.train(tmp_path, replace(FAST, per_device_train_batch_size=4, gradient_accumulation_steps=1))
    assert other.losses == pytest.approx(trained.losses, rel=1e-4)


def test_running_out_of_memory_goes_on_smaller(
    setting: Setting, trained: sft.TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits(monkeypatch, rows=1)
    result = setting.train(tmp_path, replace(FAST, per_device_train_batch_size=4, gradient_accumulation_steps=1))
    assert result.losses == pytest.approx(trained.losses, rel=1e-4)
    assert (result.results["micro_batch"], result.results["gradient_accumulation"]) == (1, 4)
    assert result.results["out_of_memory"] == [
        {"step": 0, "micro_batch": 2, "accumulation": 2, "recompute": False},
        {"step": 0, "micro_batch": 1, "accumulation": 4, "recompute": False},
    ]


def fits(monkeypatch: pytest.MonkeyPatch, *, rows: int, activations: bool = True) -> None:
    """Make the model itself run out of memory: above so many rows, or as long as it keeps its activations."""
    forward = Qwen3ForCausalLM.forward

    def short(self: Any, input_ids: torch.Tensor, **rest: Any) -> Any:
        keeps = not self.is_activation_checkpointing
        if input_ids.shape[0] > rows or (keeps and not activations and torch.is_grad_enabled()):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, input_ids=input_ids, **rest)

    monkeypatch.setattr(Qwen3ForCausalLM, "forward", short)


def test_one_row_that_does_not_fit_keeps_fewer_activations(
    setting: Setting, trained: sft.TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits(monkeypatch, rows=1, activations=False)
    result = setting.train(tmp_path)
    assert result.losses == pytest.approx(trained.losses, rel=1e-4)
    assert (result.results["micro_batch"], result.results["recompute"]) == (1, True)
    assert [event["recompute"] for event in result.results["out_of_memory"]] == [False, True]


def test_one_row_that_never_fits_is_said(setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits(monkeypatch, rows=0)
    monkeypatch.setattr(sft.gate, "measure", lambda *arguments: None)
    with pytest.raises(TrainingError, match=r"one row of \d+ tokens to fit into the memory of cpu, got: CUDA out of"):
        setting.train(tmp_path)


def test_the_largest_batch_that_fits_is_found(
    setting: Setting, trained: sft.TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits(monkeypatch, rows=2)
    training = replace(FAST, per_device_train_batch_size=1, gradient_accumulation_steps=4, auto_find_batch_size=True)
    result = setting.train(tmp_path, training)
    assert result.losses == pytest.approx(trained.losses, rel=1e-4)
    assert (result.results["micro_batch"], result.results["gradient_accumulation"]) == (2, 2)
    assert len(result.results["out_of_memory"]) == 1


def test_computing_activations_again_changes_no_number(
    setting: Setting, trained: sft.TrainResult, tmp_path: Path
) -> None:
    result = setting.train(tmp_path, replace(FAST, gradient_checkpointing=True))
    assert result.losses == pytest.approx(trained.losses, rel=1e-5)
    assert result.results["recompute"]
    assert result.results["out_of_memory"] == []


def test_a_loss_that_is_not_a_number_stops_training(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.batch_loss
    monkeypatch.setattr(loop, "batch_loss", lambda *args, **options: real(*args, **options) * float("nan"))
    with pytest.raises(TrainingError, match="finite loss, got nan at step 1 of 6"):
        setting.train(tmp_path)


def test_nothing_to_train_on_is_refused(setting: Setting, tmp_path: Path) -> None:
    masked = [replace(row, provenance="e" * len(row.ids)) for row in setting.rows]
    with pytest.raises(TrainingError, match="every token is masked"):
        setting.train(tmp_path, rows=masked)
    with pytest.raises(TrainingError, match="cutoff_len"):
        setting.train(tmp_path, replace(FAST, cutoff_len=10))


def test_the_log_is_llama_factorys(trained: sft.TrainResult) -> None:
    lines = [json.loads(line) for line in (trained.folder / "trainer_log.jsonl").read_text().splitlines()]
    assert [line["current_steps"] for line in lines] == [2, 4, 6]
    assert set(lines[0]) == {
        "current_steps", "total_steps", "loss", "lr", "epoch", "percentage", "elapsed_time", "remaining_time",
    }  # fmt: skip
    assert lines[-1]["percentage"] == 100.0
    assert lines[0]["loss"] == pytest.approx(sum(trained.losses[:2]) / 2, abs=1e-6)
    state = json.loads((trained.folder / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"]] == [2, 4, 6]
    assert state["global_step"] == state["max_steps"] == 6
    results = json.loads((trained.folder / "train_results.json").read_text())
    assert results["train_loss"] == pytest.approx(sum(trained.losses) / 6)
    assert [path.name for path in trained.folder.glob("checkpoint-*")] == ["checkpoint-4"]


def test_training_without_undo_leaves_every_row_alone(tiny_models: Folders, tmp_path: Path) -> None:
    setting = Setting(tiny_models(), with_undo=False)
    assert setting.table == EMPTY
    result = setting.train(tmp_path, undo=None)
    assert result.results["gate"]["rows_moved"] == {}
    assert not (tmp_path / "undo.json").exists()
    assert not any("token_adapter" in name for name in load_file(tmp_path / "adapter_model.safetensors"))


@pytest.mark.parametrize("tie", [True, False])
def test_training_for_rewinding_moves_the_row(tie: bool, tiny_models: Folders, tmp_path: Path) -> None:
    setting = Setting(tiny_models(tie=tie))
    result = setting.train(tmp_path, undo=UndoData(context="rewind"))
    assert read_undo_file(tmp_path / "undo.json").context == "rewind"
    assert result.results["rewind_rows"] == "packed"
    assert result.results["rows"] == len(setting.rows)
    (sides,) = result.results["gate"]["rows_moved"].values()
    assert sides["input" if tie else "output"] > 1e-3


def test_packed_and_split_rows_train_alike(setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undo = UndoData(context="rewind")
    packed = setting.train(tmp_path / "packed", undo=undo)
    monkeypatch.setattr(sft.rewind, "packs", lambda *arguments: False)
    split = setting.train(tmp_path / "split", undo=undo)
    assert (packed.results["rewind_rows"], split.results["rewind_rows"]) == ("packed", "split")
    assert packed.results["tokens_per_epoch"] < split.results["tokens_per_epoch"]
    assert packed.losses == pytest.approx(split.losses, rel=1e-5)
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (packed.folder, split.folder))
    assert all(torch.allclose(first[name], second[name], atol=1e-4) for name in first)


def test_the_share_of_trained_tokens_is_recorded(setting: Setting, tmp_path: Path) -> None:
    row = setting.rows[0]
    for mask, trained in (("errors", "cuk"), ("none", "ceuk")):
        result = setting.train(tmp_path / mask, replace(FAST, max_steps=1), UndoData(mask=mask), rows=[row])
        expected = sum(letter in trained for letter in row.provenance) / len(row.ids)
        assert result.results["trained_token_share"] == pytest.approx(expected)


def test_rows_the_base_already_knows_are_kept(tiny_models: Folders, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_models(controls=tiny.CONTROLS), folder)
    tokenizer = load_tokenizer(str(folder), None)
    table = undo_table(tokenizer, family_of("qwen3"))
    assert len(table.actions) == 3

    def first_rows() -> torch.Tensor:
        """What the rows are when training starts: a learning rate of nothing stops at the check."""
        rows: list[torch.Tensor] = []
        real = lora.attach

        def attach(model: Any, *rest: Any) -> Any:
            rows.append(model.get_input_embeddings().weight[list(table.actions)].clone())
            return real(model, *rest)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lora, "attach", attach)
            Setting(folder).train(tmp_path / "out", replace(FAST, max_steps=1))
        shutil.rmtree(tmp_path / "out")
        return rows[0]

    original = load_model(str(folder), None).get_input_embeddings().weight[list(table.actions)]
    assert not torch.equal(first_rows(), original)
    (folder / "undo.json").write_text(json.dumps(table.to_json() | {"context": "keep"}))
    assert torch.equal(first_rows(), original)


def test_an_adapter_without_safetensors_is_refused(setting: Setting, trained: sft.TrainResult, tmp_path: Path) -> None:
    shutil.copytree(trained.folder, tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors"):
        load_model(setting.path, None, tmp_path / "adapter")


def test_an_adapter_of_another_model_is_refused(trained: sft.TrainResult, tiny_models: Folders) -> None:
    with pytest.raises(ModelError, match="trained on"):
        load_model(str(tiny_models(hidden=48)), None, trained.folder)


def test_unknown_lora_targets_are_refused(setting: Setting, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="lora_target"):
        setting.train(tmp_path, replace(FAST, lora_target="no_such_layer"))
    names = setting.train(tmp_path, replace(FAST, lora_target="q_proj,v_proj")).folder / "adapter_config.json"
    assert set(json.loads(names.read_text())["target_modules"]) == {"q_proj", "v_proj"}


def test_the_loss_is_that_of_the_whole_logits(setting: Setting) -> None:
    model = load_model(setting.path, None)
    rows = [replace(row, prompt_ids=row.prompt_ids[place:]) for place, row in enumerate(setting.rows)]
    traces = sft._traces(rows, setting.table, UndoData(), packed=False)
    batch = collate([example for trace in traces for example in trace.examples])
    present = torch.arange(batch.input_ids.shape[1]) < torch.tensor([len(t.examples[0].ids) for t in traces])[:, None]
    assert not present.all()
    logits = model(input_ids=batch.input_ids, attention_mask=present.long()).logits
    expected = torch.nn.functional.cross_entropy(logits[batch.chosen], batch.targets, reduction="sum")
    assert torch.allclose(loop.batch_loss(model, batch), expected, rtol=1e-5)
    assert torch.isfinite(expected)


def test_no_weight_decay_on_the_row(setting: Setting) -> None:
    model = load_model(setting.path, None)
    groups = lora.parameter_groups(
        lora.attach(model, FAST, list(setting.table.actions)), replace(FAST, weight_decay=0.1)
    )
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert [tuple(parameter.shape) for parameter in groups[1]["params"]] == [(1, 32)]
    assert isinstance(setting.table, UndoTable)
