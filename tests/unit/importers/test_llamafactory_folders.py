"""Which training is behind which predictions, over the folders people have."""

from __future__ import annotations

import json
from pathlib import Path

from tests.unit.importers import foreign
from tests.unit.importers.test_lm_eval import only, take
from unsay.importers import Options
from unsay.store import read

YAML = "model_name_or_path: Qwen/Qwen3-4B\nstage: sft\nfinetuning_type: lora\ntemplate: qwen\n"


def project(place: Path, name: str, model: str, data: str) -> None:
    """Write a training and a prediction that names it by a relative path."""
    train = place / name / "saves" / "qwen" / "lora" / "sft"
    train.mkdir(parents=True)
    (train / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": model}))
    own = YAML.replace("Qwen/Qwen3-4B", model)
    (train / "train.yaml").write_text(own + f"do_train: true\ndataset: {data}\nseed: 7\n")
    lines = [{**line, "prompt": f"{name} {line['prompt']}"} for line in foreign.predictions()]
    foreign.write_lines(place / name / "out" / "generated_predictions.jsonl", lines)
    (place / name / "out" / "predict.yaml").write_text(
        own + f"do_predict: true\nadapter_name_or_path: saves/qwen/lora/sft\neval_dataset: {data}\n"
    )


def test_a_relative_path_means_the_training_of_the_same_project(tmp_path: Path) -> None:
    project(tmp_path / "all", "a", "org/Model-A", "data_a")
    project(tmp_path / "all", "b", "org/Model-B", "data_b")
    _, outcomes = take(tmp_path / "all", tmp_path / "lab")
    predicted = {one.found.model: one for one in outcomes if one.found.items is not None}
    assert set(predicted) == {"Model-A", "Model-B"}
    for letter, one in zip("ab", (predicted["Model-A"], predicted["Model-B"]), strict=True):
        assert any(f"own training rows: data_{letter}" in text for text in one.warnings)
        assert one.found.seed == 7


def test_several_trainings_that_fit_are_said_and_none_is_taken(tmp_path: Path) -> None:
    project(tmp_path / "all", "a", "org/Model-A", "data_a")
    project(tmp_path / "all", "b", "org/Model-B", "data_b")
    elsewhere = tmp_path / "all" / "c" / "out"
    elsewhere.parent.mkdir()
    (tmp_path / "all" / "a" / "out").rename(elsewhere)
    _, outcomes = take(tmp_path / "all", tmp_path / "lab")
    (one,) = [one for one in outcomes if one.found.files[0].parent == elsewhere]
    assert any("several trainings could be" in text for text in one.warnings)
    assert not any("own training rows" in text for text in one.warnings)


def test_a_run_that_only_predicts_names_its_data_as_dataset(tmp_path: Path) -> None:
    """As older versions have it: no claim that it was trained on that."""
    project(tmp_path / "all", "a", "org/Model-A", "gsm8k_train")
    configuration = tmp_path / "all" / "a" / "out" / "predict.yaml"
    configuration.write_text(configuration.read_text().replace("eval_dataset: gsm8k_train", "dataset: gsm8k_test"))
    _, outcomes = take(tmp_path / "all", tmp_path / "lab")
    (one,) = [one for one in outcomes if one.found.items is not None]
    assert one.found.dataset == "gsm8k_test"
    assert not any("own training rows" in text for text in one.warnings)


def test_the_configuration_that_predicts_tells_how_it_was_decoded(tmp_path: Path) -> None:
    foreign.write_lines(tmp_path / "run" / "generated_predictions.jsonl", foreign.predictions())
    more = "".join(f"logging_{i}: {i}\n" for i in range(9))
    (tmp_path / "run" / "train.yaml").write_text(YAML + "do_train: true\ndataset: gsm8k_train\n" + more)
    predicts = "do_predict: true\neval_dataset: gsm8k_test\ndo_sample: false\n"
    (tmp_path / "run" / "predict.yaml").write_text(YAML + predicts)
    record, _ = only(tmp_path / "run", tmp_path / "lab")
    assert record.dataset == "gsm8k_test"
    assert record.spec["settings"]["decode"]["do_sample"] is False
    assert not any("own training rows" in text for text in record.warnings)


def test_a_configuration_elsewhere_is_found_by_its_output_folder(tmp_path: Path) -> None:
    predictions = tmp_path / "all" / "saves" / "q" / "predict" / "generated_predictions.jsonl"
    foreign.write_lines(predictions, foreign.predictions())
    (tmp_path / "all" / "examples").mkdir()
    for name, output in (("mine", "saves/q/predict"), ("other", "saves/none")):
        (tmp_path / "all" / "examples" / f"{name}.yaml").write_text(
            YAML + f"do_predict: true\neval_dataset: data_{name}\noutput_dir: {output}\n"
        )
    record, _ = only(tmp_path / "all", tmp_path / "lab")
    assert (record.model, record.dataset) == ("Qwen3-4B", "data_mine")


def test_checkpoints_belong_to_their_training(tmp_path: Path) -> None:
    train = tmp_path / "saves" / "llama3-8b" / "lora" / "sft"

    def state(folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        content = {"global_step": step, "max_steps": 20, "log_history": [{"loss": 1.0}]}
        (folder / "trainer_state.json").write_text(json.dumps(content))

    for step in (10, 20):
        state(train / f"checkpoint-{step}", step)
    state(train, 20)
    (train / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/Llama-3-8B"}))
    foreign.write_lines(train / "checkpoint-20" / "predict" / "generated_predictions.jsonl", foreign.predictions())
    collected, outcomes = take(tmp_path / "saves", tmp_path / "lab")
    assert collected.refused == ()
    found = sorted((one.found.model, one.found.dataset, one.found.items is None) for one in outcomes)
    assert found == [("Llama-3-8B", "unknown", False), ("Llama-3-8B", "unknown", True)]


def test_an_aborted_training_shows_in_its_state_too(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    state = {"global_step": 50, "max_steps": 500, "log_history": [{"loss": 1.0}]}
    (tmp_path / "run" / "trainer_state.json").write_text(json.dumps(state))
    record, _ = only(tmp_path / "run", tmp_path / "lab")
    assert record.status == "failed"


def test_null_is_named_as_null(tmp_path: Path) -> None:
    lines = foreign.predictions(4)
    lines[2]["predict"] = None
    path = foreign.write_lines(tmp_path / "run" / "generated_predictions.jsonl", lines)
    collected, _ = take(path, tmp_path / "lab")
    assert collected.refused[0].reason == "line 3: expected a text under the key 'predict', got null"


def test_named_keys_count_while_walking_too(tmp_path: Path) -> None:
    lines = [{"ref": line["label"], "out": line["predict"]} for line in foreign.predictions(8)]
    foreign.write_lines(tmp_path / "run" / "answers.jsonl", lines)
    _, values = only(tmp_path / "run", tmp_path / "lab", Options(predict="out", label="ref"))
    assert values["exact_match_strict"].value == 50.0


def test_originals_that_moved_are_found_again(tmp_path: Path) -> None:
    foreign.write_lines(tmp_path / "one" / "generated_predictions.jsonl", foreign.predictions())
    only(tmp_path / "one", tmp_path / "lab")
    (tmp_path / "one").rename(tmp_path / "two")
    _, outcomes = take(tmp_path / "two", tmp_path / "lab")
    assert [one.did for one in outcomes] == ["updated"]
    (entry,) = read.find(tmp_path / "lab")
    assert entry.record is not None
    assert entry.record.imported is not None
    assert [Path(each["path"]).parent.name for each in entry.record.imported["files"]] == ["two"]
