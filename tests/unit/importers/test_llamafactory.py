"""LLaMA-Factory's folders: predictions in every shape, scores, trainings, and what they cannot show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.importers import foreign
from tests.unit.importers.test_lm_eval import only, take
from unsay import cli, metrics
from unsay.importers import Options
from unsay.records import Sample
from unsay.store import read

YAML = "model_name_or_path: Qwen/Qwen3-4B\nstage: sft\nfinetuning_type: lora\ntemplate: qwen\n"


def published(lines: list[dict[str, Any]], **more: Any) -> str:
    values = metrics.score(
        [Sample(str(i), "", line["label"], line["predict"]) for i, line in enumerate(lines)],
        [metrics.load("bleu4_lf"), metrics.load("rouge_lf")],
    ).values
    names = {"bleu4_lf": "bleu-4", "rouge_1_lf": "rouge-1", "rouge_2_lf": "rouge-2", "rouge_l_lf": "rouge-l"}
    return json.dumps({f"predict_{names[name]}": value.value for name, value in values.items()} | more)


@pytest.mark.parametrize(
    "order", [("prompt", "predict", "label"), ("label", "extra", "predict", "prompt"), ("predict", "label")]
)
def test_predictions_in_any_order_with_extra_keys(tmp_path: Path, order: tuple[str, ...]) -> None:
    lines = [{key: line.get(key, {"more": 1}) for key in order} for line in foreign.predictions(8)]
    foreign.write_lines(tmp_path / "run" / "generated_predictions.jsonl", lines)
    (tmp_path / "run" / "predict_results.json").write_text(published(lines))
    record, values = only(tmp_path / "run", tmp_path / "lab")
    assert values["exact_match_strict"].value == 50.0
    assert record.facts["verified"] == ["bleu4_lf", "rouge_1_lf", "rouge_2_lf", "rouge_l_lf"]


def test_other_keys_are_taken_when_named(tmp_path: Path) -> None:
    lines = [{"ref": line["label"], "out": line["predict"]} for line in foreign.predictions(8)]
    path = foreign.write_lines(tmp_path / "answers.jsonl", lines)
    collected, _ = take(path, tmp_path / "lab")
    assert "got the keys ref, out" in collected.refused[0].reason
    _, values = only(path, tmp_path / "lab", Options(predict="out", label="ref"))
    assert values["exact_match_strict"].value == 50.0


def test_padding_repeats_are_found(tmp_path: Path) -> None:
    lines = foreign.predictions(7)
    foreign.write_lines(tmp_path / "run" / "generated_predictions.jsonl", lines)
    (tmp_path / "run" / "predict_results.json").write_text(published([*lines, lines[1]]))
    record, values = only(tmp_path / "run", tmp_path / "lab")
    (said,) = [text for text in record.warnings if "padding repeats averaged in" in text]
    assert "They fit 8 rows" in said
    mean = float(
        np.mean(metrics.load("bleu4_lf").items([Sample("", "", x["label"], x["predict"]) for x in lines])["bleu4_lf"])
    )
    assert values["bleu4_lf"].value == mean


def test_scores_of_other_predictions_are_named(tmp_path: Path) -> None:
    lines = foreign.predictions(8)
    foreign.write_lines(tmp_path / "run" / "generated_predictions.jsonl", lines)
    (tmp_path / "run" / "predict_results.json").write_text(json.dumps({"predict_bleu-4": 12.5}))
    record, _ = only(tmp_path / "run", tmp_path / "lab")
    assert any("bleu4_lf: published 12.5, recomputed from the answers" in text for text in record.warnings)


@pytest.mark.parametrize(
    ("more", "own"),
    [
        ("dataset: gsm8k_train\ndo_train: true\ndo_predict: true\neval_dataset: gsm8k_train\n", True),
        ("dataset: gsm8k_train\ndo_train: true\ndo_predict: true\n", True),
        ("dataset: gsm8k_train\ndo_train: true\ndo_predict: true\neval_dataset: gsm8k_test\n", False),
        ("dataset: gsm8k_train\ndo_train: true\ndo_predict: true\nval_size: 0.1\n", False),
    ],
)
def test_evaluated_on_its_own_training_rows(tmp_path: Path, more: str, own: bool) -> None:
    foreign.write_lines(tmp_path / "run" / "generated_predictions.jsonl", foreign.predictions())
    (tmp_path / "run" / "train.yaml").write_text(YAML + more)
    record, _ = only(tmp_path / "run", tmp_path / "lab")
    assert any("evaluated on its own training rows" in text for text in record.warnings) == own


def test_the_training_behind_a_prediction_is_found_in_another_folder(tmp_path: Path) -> None:
    train, predict = tmp_path / "saves" / "q" / "lora", tmp_path / "saves" / "q" / "predict"
    train.mkdir(parents=True)
    (train / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "Qwen/Qwen3-4B", "r": 8}))
    (train / "train.yaml").write_text(YAML + "do_train: true\ndataset: gsm_symbolic_bt\n")
    (train / "train_results.json").write_text(json.dumps({"train_loss": "0.5", "train_runtime": 10}))
    foreign.write_lines(predict / "generated_predictions.jsonl", foreign.predictions())
    (predict / "predict.yaml").write_text(
        YAML
        + "do_predict: true\nadapter_name_or_path: saves/q/lora\neval_dataset: gsm_symbolic_bt\n"
        + "temperature: 0.0\ndo_sample: false\n"
    )
    _, outcomes = take(tmp_path / "saves", tmp_path / "lab")
    (one,) = [one for one in outcomes if one.found.items is not None]
    said = " / ".join(one.warnings)
    assert "evaluated on its own training rows" in said
    assert "GSM-Symbolic used for training" in said
    assert "undo tokens lost" in said
    assert "sampled decoding" not in said
    assert one.found.config == "lora/train_bt"


def test_labels_with_undo_are_counted(tmp_path: Path) -> None:
    lines = foreign.predictions(8)
    lines[2]["label"] = "It is 4<|BACKTRACK|>3.\n#### 3"
    lines[3]["predict"] = "It is 9[undo]4.\n#### 4"
    foreign.write_lines(tmp_path / "run" / "generated_predictions.jsonl", lines)
    record, _ = only(tmp_path / "run", tmp_path / "lab", Options(undo_token="[undo]"))
    assert any("labels that contain undo: 1 of 8" in text for text in record.warnings)
    assert any("1 of 8 answers have tokens that take text back spelled out" in text for text in record.warnings)


def test_a_log_that_goes_back_and_forth(tmp_path: Path) -> None:
    lines = [
        {"current_steps": "10", "total_steps": "30", "loss": "2.5", "learning_rate": "1e-4", "epoch": "0.1"},
        {"current_steps": 20, "total_steps": 30, "loss": 1.5, "lr": 2e-4},
        {"current_steps": 20, "total_steps": 30, "eval_loss": 1.25},
        {"current_steps": 10, "total_steps": 30, "loss": 2.0, "lr": 1e-4},
    ]
    foreign.write_lines(tmp_path / "run" / "trainer_log.jsonl", lines, end="")
    record, values = only(tmp_path / "run", tmp_path / "lab")
    assert not values
    assert record.status == "failed"
    assert record.facts["peak_learning_rate"] == 2e-4
    assert (record.facts["steps"], record.facts["eval_loss"], record.facts["last_loss"]) == (20, 1.25, 2.0)


def test_the_layout_of_the_folders_names_what_contents_do_not(tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "qwen3-4b" / "gsm8k" / "sft" / "lora" / "train_bt"
    foreign.write_lines(folder / "generated_predictions.jsonl", foreign.predictions())
    record, _ = only(tmp_path / "outputs", tmp_path / "lab")
    assert (record.model, record.dataset, record.method, record.config) == ("qwen3-4b", "gsm8k", "sft", "lora/train_bt")
    assert any("undo tokens lost" in text for text in record.warnings)


@pytest.mark.parametrize("shape", ["json", "jsonl"])
def test_training_data_that_is_at_hand_shows_rows_that_were_evaluated_on(tmp_path: Path, shape: str) -> None:
    """As with predictions on the training split that no configuration names."""
    lines = foreign.predictions(8)
    foreign.write_lines(tmp_path / "run" / "generated_predictions.jsonl", lines)
    rows = [
        {"conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": x["label"]}]} for x in lines[:5]
    ]
    data = tmp_path / f"train.{shape}"
    data.write_text(json.dumps(rows) if shape == "json" else "".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["import", str(tmp_path / "run"), "-o", str(tmp_path / "lab")]
    assert cli.main([*arguments, "--trained-on", str(data)]) == 0
    (entry,) = read.find(tmp_path / "lab")
    assert entry.record is not None
    assert any("5 of 8 items is in the training data" in text for text in entry.record.warnings)
