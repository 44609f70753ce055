"""`unsay init` writes files that load, and takes over LLaMA-Factory trainings without losing a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unsay import config
from unsay.cli import main
from unsay.cli.init import init
from unsay.errors import ConfigError
from unsay.settings import Training, UndoData

TRAIN = """
### model
model_name_or_path: Qwen/Qwen3-0.6B
trust_remote_code: true
### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 16
lora_target: q_proj,v_proj
deepspeed: examples/deepspeed/ds_z3_config.json
### dataset
dataset: own,other
dataset_dir: data
template: qwen3_nothink
cutoff_len: 1024
max_samples: 1000
preprocessing_num_workers: 16
### train
learning_rate: 1e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
bf16: true
val_size: 0.1
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loaded(text: str, folder: Path) -> config.Plan:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "written.yaml").write_text(text, encoding="utf-8")
    return config.load(folder / "written.yaml")


def rows(file: Path, line: dict[str, str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(line) + "\n", encoding="utf-8")


def test_without_anything_it_is_a_plan_of_three(here: Path) -> None:
    plan = loaded(init(None, None, None), here)
    assert [item.id for item in plan.experiments] == ["EXP-001", "EXP-002", "EXP-003"]
    assert {item.model.name for item in plan.experiments} == {"qwen3-0.6b"}


def test_a_hub_model_and_a_file_of_ones_own(here: Path) -> None:
    rows(here / "my data.jsonl", {"instruction": "a", "output": "b"})
    plan = loaded(init("org/My-Model_7B", "my data.jsonl", None), here)
    found = plan.experiments[1]
    assert (found.model.name, found.model.path) == ("my-model_7b", "org/My-Model_7B")
    assert found.dataset.path == str(here / "my data.jsonl")
    assert (found.dataset.name, found.dataset.format, found.dataset.dev_share) == ("my-data", "alpaca", 0.05)


def test_paths_are_written_as_seen_from_the_file(here: Path) -> None:
    for split in ("train", "test"):
        rows(here / "data" / "own" / f"{split}.jsonl", {"question": "a", "answer": "b"})
    (here / "model").mkdir()
    text = init("model", "data/own", None, here / "experiments")
    assert "path: ../model, template: plain" in text
    found = loaded(text, here / "experiments").experiments[1]
    assert found.model.path == str(here / "model")
    assert found.dataset.path == str(here / "data" / "own")
    assert found.dataset.dev_share == 0


def test_a_task_is_evaluated_only(here: Path) -> None:
    plan = loaded(init("qwen3-4b", "minerva_math500", None), here)
    assert [(item.method, item.dataset.task) for item in plan.experiments] == [("vanilla", "minerva_math500")]


def test_missing_data_is_said(here: Path) -> None:
    with pytest.raises(ConfigError, match="missing dataset file"):
        init(None, "nowhere.jsonl", None)


def test_from_llamafactory(here: Path) -> None:
    (here / "train.yaml").write_text(TRAIN)
    rows(here / "data" / "own.jsonl", {"instruction": "a", "output": "b"})
    info = {name: {"file_name": "own.jsonl"} for name in ("own", "other")}
    (here / "data" / "dataset_info.json").write_text(json.dumps(info))
    text = init(None, None, here / "train.yaml")
    plan = loaded(text, here)
    assert [(item.dataset.name, item.config) for item in plan.experiments] == [
        ("own", "lora/my_train"),
        ("own", "lora/my_train_bt"),
        ("other", "lora/my_train"),
        ("other", "lora/my_train_bt"),
    ]
    plain, undo = plan.experiments[:2]
    assert (plain.model.path, plain.model.template, plain.seed) == ("Qwen/Qwen3-0.6B", "qwen3_nothink", 42)
    assert (plain.dataset.path, plain.dataset.dev_share) == (str(here / "data" / "own.jsonl"), 0.1)
    assert plain.settings.training == undo.settings.training == Training(
        lora_rank=16,
        lora_alpha=32,
        lora_target=("q_proj", "v_proj"),
        learning_rate=1e-4,
        warmup_ratio=0.0,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=1,
        cutoff_len=1024,
        max_samples=1000,
        bf16=True,
    )  # fmt: skip
    assert undo.settings.undo == UndoData()
    for left in ("trust_remote_code: true", "deepspeed: examples/deepspeed/ds_z3_config.json", "do_train: true",
                 "preprocessing_num_workers: 16"):  # fmt: skip
        assert f"#   {left}" in text


def test_from_llamafactory_nothing_is_lost(here: Path) -> None:
    (here / "train.yaml").write_text(TRAIN)
    text = init(None, "gsm8k", here / "train.yaml")
    written = [line.split(":")[0] for line in TRAIN.splitlines() if ":" in line]
    renamed = {"model_name_or_path", "stage", "finetuning_type", "dataset_dir", "val_size"}
    assert len(written) > 15
    assert all(key in text for key in written if key not in renamed)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stage: dpo\nmodel_name_or_path: a/b\ndataset: x", "stage 'dpo' cannot be taken over"),
        ("stage: sft\ndataset: x", "expected `model_name_or_path:`"),
        ("model_name_or_path: a/b", "expected `dataset:`"),
        ("model_name_or_path: a/b\ndataset: x\nlora_rank: eight", "3: lora_rank must be a whole number"),
        ("- a", "expected a LLaMA-Factory training YAML"),
        ("a: [", "not YAML"),
    ],
)
def test_from_llamafactory_refuses(here: Path, text: str, expected: str) -> None:
    (here / "train.yaml").write_text(text)
    with pytest.raises(ConfigError, match=expected):
        init(None, None, here / "train.yaml")


def test_the_command_never_overwrites(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "lab/my.yaml", "--model", "unsay-tiny", "--data", "wordproblems"]) == 0
    before = (here / "lab" / "my.yaml").read_text()
    assert config.load(here / "lab" / "my.yaml").experiments
    assert main(["init", "lab/my.yaml"]) == 1
    assert "exists already" in capsys.readouterr().err
    assert (here / "lab" / "my.yaml").read_text() == before


def test_json_is_one_document(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["file"] == "experiments.yaml"
    assert document["text"] == (here / "experiments.yaml").read_text()
