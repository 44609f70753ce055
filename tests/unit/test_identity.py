"""What counts as the same result: canonical JSON, content fingerprints and the hashes."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsay import config, identity
from unsay.config import Dataset, Experiment, Model
from unsay.datasets import wordproblems
from unsay.errors import DataError
from unsay.settings import Decode, Prompting, Settings, Training, UndoData

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@given(json_values)
def test_canonical_json_reads_back(value: Any) -> None:
    assert json.loads(identity.canonical_json(value)) == value


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_order_of_keys_does_not_count(value: dict[str, int]) -> None:
    assert identity.sha256_of(value) == identity.sha256_of(dict(reversed(value.items())))


def test_canonical_json_of_dataclasses_and_refusals() -> None:
    assert identity.canonical_json(Prompting()) == identity.canonical_json(dataclasses.asdict(Prompting()))
    assert identity.canonical_json({"a": (1, 2)}) == '{"a":[1,2]}'
    with pytest.raises(TypeError, match="no canonical JSON"):
        identity.canonical_json({"a": object()})
    with pytest.raises(ValueError, match="Out of range"):
        identity.canonical_json(float("nan"))


def test_fingerprint_follows_content_not_time(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("one")
    before = identity.fingerprint(file)
    assert before.startswith("sha256:")
    os.utime(file, (1, 1))
    assert identity.fingerprint(file) == before
    file.write_text("two")
    assert identity.fingerprint(file) != before
    with pytest.raises(DataError, match="no such file"):
        identity.fingerprint(tmp_path / "nothing")


def test_fingerprint_of_a_folder(tmp_path: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / place / "inner").mkdir(parents=True)
        (tmp_path / place / "x").write_text("1")
        (tmp_path / place / "inner" / "y").write_text("2")
    (tmp_path / "b" / ".cache").mkdir()
    (tmp_path / "b" / ".cache" / "z").write_text("3")
    assert identity.fingerprint(tmp_path / "a") == identity.fingerprint(tmp_path / "b")
    (tmp_path / "b" / "x").rename(tmp_path / "b" / "w")
    assert identity.fingerprint(tmp_path / "a") != identity.fingerprint(tmp_path / "b")


def test_large_files_are_sampled_from_first_to_last_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "WHOLE_FILE_LIMIT", 4096)
    monkeypatch.setattr(identity, "BLOCK", 16)
    file = tmp_path / "big"
    content = bytearray(os.urandom(10_000))
    file.write_bytes(content)
    before = identity.fingerprint(file)
    assert before.startswith("sampled-sha256:")
    assert identity.fingerprint(tmp_path).startswith("tree-sampled-sha256:")
    for index in (0, len(content) - 1):
        changed = bytearray(content)
        changed[index] ^= 1
        file.write_bytes(changed)
        assert identity.fingerprint(file) != before
    file.write_bytes(content + b"x")
    assert identity.fingerprint(file) != before


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text(name)
    return folder


def test_only_the_files_of_a_model_count(model_folder: Path) -> None:
    before = identity.model_fingerprint(model_folder)
    tokenizer, weights = identity.tokenizer_fingerprint(model_folder), identity.weights_fingerprint(model_folder)
    for name in ("README.md", "optimizer.pt", "trainer_state.json", "modeling.py"):
        (model_folder / name).write_text("x")
    (model_folder / "checkpoint-3").mkdir()
    (model_folder / "checkpoint-3" / "model.safetensors").write_text("x")
    assert identity.model_fingerprint(model_folder) == before
    assert identity.model_fingerprint(model_folder, code=True) != before
    (model_folder / "tokenizer.json").write_text("other")
    assert identity.model_fingerprint(model_folder) != before
    assert identity.tokenizer_fingerprint(model_folder) != tokenizer
    assert identity.weights_fingerprint(model_folder) == weights


def experiment(**changes: Any) -> Experiment:
    base = Experiment(
        id="EXP-001",
        model=Model("m", "org/m"),
        dataset=Dataset("d", "org/d", task="gsm8k", format="gsm8k"),
        method="sft",
        config="lora/train",
        settings=Settings(Prompting(), Decode(), Training(), UndoData()),
        seed=0,
        seed_written=False,
        notes="",
        folder="m/d/sft/lora/train",
        train_folder="m/d/sft/lora/train",
        line=3,
        title="M SFT with LoRA",
    )
    return dataclasses.replace(base, **changes)


def test_names_and_places_are_no_part_of_the_identity() -> None:
    same = experiment(
        id="OTHER",
        model=Model("renamed", "org/m"),
        config="x",
        folder="y",
        train_folder="z",
        line=9,
        title="t",
        notes="n",
    )
    assert identity.identity(same) == identity.identity(experiment())
    json.dumps(identity.spec(experiment()))


def test_batch_counts_by_product_and_logging_not_at_all() -> None:
    def of(**changes: Any) -> str:
        return identity.identity(experiment(settings=Settings(Prompting(), Decode(), Training(**changes), UndoData())))

    assert of(per_device_train_batch_size=2, gradient_accumulation_steps=16) == of()
    assert of(logging_steps=1, save_steps=7) == of()
    assert of(per_device_train_batch_size=2) != of()
    assert of(learning_rate=2e-4) != of()


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"method": "vanilla"},
        {"model": Model("m", "org/other")},
        {"model": Model("m", "org/m", revision="abc")},
        {"model": Model("m", "org/m", template="plain")},
        {"model": Model("m", "org/m", experiment="a", experiment_identity="1")},
        {"dataset": Dataset("d", "org/other", task="gsm8k", format="gsm8k")},
        {"dataset": Dataset("d", "org/d", task="gsm8k", format="gsm8k", dev_share=0.1)},
        {"settings": Settings(Prompting(), Decode(undo="ban"), Training(), UndoData())},
        {"settings": Settings(Prompting(), Decode(), Training(), UndoData(mask="none"))},
        {"settings": Settings(Prompting(), Decode(), Training(), UndoData(options={"max_errors": 3}))},
    ],
)
def test_what_changes_numbers_changes_the_identity(changes: dict[str, Any]) -> None:
    assert identity.identity(experiment(**changes)) != identity.identity(experiment())


def test_local_inputs_count_by_content(tmp_path: Path, model_folder: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.jsonl").write_text("{}")
    moved = tmp_path / "moved"

    def of(model: Path, dataset: Path) -> str:
        return identity.identity(experiment(model=Model("m", str(model)), dataset=Dataset("d", str(dataset))))

    before = of(model_folder, data)
    (data / "notes.txt").write_text("not used")
    model_folder.rename(moved)
    assert of(moved, data) == before
    (data / "train.jsonl").write_text('{"a": 1}')
    assert of(moved, data) != before


def test_the_tokenizer_of_an_adapter_counts(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    seen = {identity.adapter_fingerprint(tmp_path)}
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / name).write_text(name)
        seen.add(identity.adapter_fingerprint(tmp_path))
    assert len(seen) == 4
    (tmp_path / "README.md").write_text("x")
    assert identity.adapter_fingerprint(tmp_path) in seen


def test_a_task_file_counts_by_content(tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    task = folder / "my.yaml"

    def of() -> str:
        return identity.identity(experiment(dataset=Dataset("d", task=str(task))))

    task.write_text("include: base\ntask: mine\ndoc_to_text: !function own.text\n")
    (folder / "base").write_text("dataset_path: json\ninclude: my.yaml\n")
    (folder / "own.py").write_text("1")
    before = of()
    (folder / "notes.txt").write_text("not used")
    folder = folder.rename(tmp_path / "moved")
    task = folder / "my.yaml"
    assert of() == before
    seen = {before}
    for name, text in (("my.yaml", "include: [base]\ntask: other\n"), ("own.py", "2"), ("base", "x: 1")):
        (folder / name).write_text(text)
        seen.add(of())
    assert len(seen) == 4
    task.unlink()
    with pytest.raises(DataError, match="no such file"):
        of()


def test_generated_problems_count_by_their_version(monkeypatch: pytest.MonkeyPatch) -> None:
    generated = experiment(dataset=Dataset("w", format="wordproblems"))
    before = identity.identity(generated)
    monkeypatch.setattr(wordproblems, "VERSION", wordproblems.VERSION + 1)
    assert identity.identity(generated) != before


def test_candidates_of_a_strategy_count_by_content(tmp_path: Path) -> None:
    file = tmp_path / "candidates.jsonl"
    file.write_text("1")

    def of(path: Path) -> str:
        undo = UndoData(options={"candidates": str(path)})
        return identity.identity(experiment(settings=Settings(Prompting(), Decode(), Training(), undo)))

    before = of(file)
    assert of(file.rename(tmp_path / "renamed.jsonl")) == before
    (tmp_path / "renamed.jsonl").write_text("2")
    assert of(tmp_path / "renamed.jsonl") != before


DATA: dict[str, Any] = {
    "dataset": "sha256:d",
    "format": "gsm8k",
    "columns": {},
    "template": "t",
    "doc_to_text": "q",
    "undo": UndoData(),
    "undo_table": "u",
    "tokenizer": "k",
    "cutoff_len": 2048,
    "max_samples": None,
    "seed": 0,
}


@pytest.mark.parametrize("name", sorted(DATA))
def test_every_argument_of_the_data_hash_counts(name: str) -> None:
    other = {"columns": {"a": "b"}, "undo": None, "cutoff_len": 1, "max_samples": 1, "seed": 1}.get(name, "other")
    assert identity.data_hash(**DATA) != identity.data_hash(**{**DATA, name: other})


def test_masking_is_a_matter_of_training_not_of_data() -> None:
    masked, unmasked = UndoData(), UndoData(mask="none", init="mean", context="rewind")
    assert identity.data_hash(**{**DATA, "undo": masked}) == identity.data_hash(**{**DATA, "undo": unmasked})
    common: dict[str, Any] = {"data": "d", "weights": "w", "training": Training(), "seed": 0, "dtype": "float32"}
    hashes = {identity.train_hash(undo=undo, **common) for undo in (None, masked, unmasked)}
    assert len(hashes) == 3
    smaller = Training(per_device_train_batch_size=1, gradient_accumulation_steps=32, logging_steps=1)
    assert identity.train_hash(undo=masked, **{**common, "training": smaller}) == identity.train_hash(
        undo=masked, **common
    )


def test_a_setting_that_came_later_counts_once_it_is_set() -> None:
    """Finished experiments from before it stay finished."""
    assert set(identity.training_numbers(Training())) == {
        "lora_rank", "lora_alpha", "lora_dropout", "lora_target", "learning_rate", "lr_scheduler_type", "warmup_ratio",
        "weight_decay", "max_grad_norm", "num_train_epochs", "max_steps", "cutoff_len", "max_samples", "bf16",
        "train_batch_size",
    }  # fmt: skip
    changes: tuple[dict[str, Any], ...] = (
        {"finetuning_type": "full"},
        {"quantization_bit": 4},
        {"row_learning_rate": 1e-4},
        {"curriculum": "depth"},
        {"val_size": 0.1},
        {"val_size": 0.1, "eval_steps": 5},
        {"val_size": 0.1, "load_best_model_at_end": True},
    )
    common: dict[str, Any] = {"data": "d", "weights": "w", "undo": None, "seed": 0, "dtype": "float32"}
    hashes = {identity.train_hash(training=Training(**change), **common) for change in ({}, *changes)}
    assert len(hashes) == 1 + len(changes)
    how = Training(gradient_checkpointing=True, auto_find_batch_size=True, report_to="tensorboard")
    assert identity.train_hash(training=how, **common) == identity.train_hash(training=Training(), **common)


def test_planted_mistakes_and_words_count_once_they_are_asked_for() -> None:
    """Experiments from before them keep their identity."""
    assert not {"plant", "plant_twin"} & identity.decode_numbers(Decode()).keys()
    planted = [
        Decode(plant="future_step"),
        Decode(plant="arithmetic_slip"),
        Decode(plant="arithmetic_slip", plant_twin=True),
    ]
    assert len({json.dumps(identity.decode_numbers(each)) for each in (Decode(), *planted)}) == 4
    common: dict[str, Any] = {
        "dataset": "d", "format": None, "columns": {}, "template": "t", "doc_to_text": "q", "undo_table": "u",
        "tokenizer": "k", "cutoff_len": 9, "max_samples": None, "seed": 0,
    }  # fmt: skip
    plain = experiment()
    undo = UndoData("arithmetic_slip")
    settings = dataclasses.replace(plain.settings, undo=undo)
    assert "say" not in identity.spec(dataclasses.replace(plain, settings=settings))["settings"]["undo"]
    words = dataclasses.replace(undo, say="words")
    assert identity.data_hash(undo=undo, **common) != identity.data_hash(undo=words, **common)


def test_seed_counts_for_evaluation_only_where_sampling_draws() -> None:
    common: dict[str, Any] = {
        "weights": "w",
        "template": "t",
        "prompts": ["a", "b"],
        "prompting": Prompting(),
        "undo_table": "u",
        "end_ids": [1, 2],
        "dtype": "float32",
    }
    greedy, sampled = Decode(), Decode(do_sample=True)
    assert identity.eval_hash(decode=greedy, seed=0, **common) == identity.eval_hash(decode=greedy, seed=1, **common)
    assert identity.eval_hash(decode=sampled, seed=0, **common) != identity.eval_hash(decode=sampled, seed=1, **common)
    other = {**common, "prompts": ["b", "a"]}
    assert identity.eval_hash(decode=greedy, seed=0, **common) != identity.eval_hash(decode=greedy, seed=0, **other)


def test_round_trip_keeps_the_identity() -> None:
    copy = config.experiment_from_json(json.loads(json.dumps(config.experiment_to_json(experiment()))))
    assert copy == experiment()
    assert identity.identity(copy) == identity.identity(experiment())
