"""The experiment file: what a good one means, and one clear message for every kind of bad one."""

# One bad file, or one row of the page, per line: long lines read best here.
# ruff: noqa: E501

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unsay import catalog, config, definitions, lm_eval_files, overrides, preflight
from unsay.config import Plan
from unsay.errors import ConfigError
from unsay.settings import Decode, Prompting, Settings, Training, UndoData
from unsay.suffix import SHORT, suffix

Load = Callable[..., Plan]
Bad = Callable[..., list[str]]

VANILLA = "{model: qwen3-0.6b, dataset: gsm8k, method: vanilla, config: fewshot_8}"
SFT = "{model: qwen3-0.6b, dataset: gsm8k, method: sft, config: lora/train}"


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Return a function that writes an experiment file and loads it."""

    def write_and_load(text: str, **options: Any) -> Plan:
        file = tmp_path / "lab.yaml"
        file.write_text(textwrap.dedent(text), encoding="utf-8")
        return config.load(file, **{"output_dir": tmp_path / "outputs", **options})

    return write_and_load


@pytest.fixture
def bad(load: Load, tmp_path: Path) -> Bad:
    """Return a function that gives the mistakes of an experiment file, as `line: message`."""

    def mistakes(text: str, **options: Any) -> list[str]:
        with pytest.raises(ConfigError) as raised:
            load(text, **options)
        start = f"{tmp_path / 'lab.yaml'}:"
        assert all(mistake.startswith(start) for mistake in raised.value.mistakes), raised.value.mistakes
        return [mistake.removeprefix(start) for mistake in raised.value.mistakes]

    return mistakes


def line(*settings: str) -> str:
    return "experiments: [" + SFT[:-1] + "".join(f", {each}" for each in settings) + "}]"


def rows(*texts: str, name: str = "rows.jsonl", at: Path) -> Path:
    file = at / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    return file


ALPACA = '{"instruction": "2+2?", "output": "#### 4"}'
GSM8K = '{"question": "2+2?", "answer": "4\\n#### 4"}'


# -- good files -------------------------------------------------------------------


def test_the_whole_documented_example(load: Load, tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "my-qwen").mkdir(parents=True)
    (tmp_path / "saves" / "lora").mkdir(parents=True)
    rows(ALPACA, at=tmp_path, name="my.jsonl")
    plan = load(
        """
        # unsay run gsm8k.yaml
        output_dir: outputs
        models:
          mine: {path: ./checkpoints/my-qwen, adapter: ./saves/lora, template: qwen3_nothink}
        datasets:
          gsm8k: {path: openai/gsm8k}
          notes: {path: my.jsonl, format: alpaca, columns: {prompt: instruction, response: output}, answer: "#### (.+)", dev_share: 0.05}
          math500: {task: minerva_math500}
        configs:
          lora/low: {base: lora/train, learning_rate: 1.0e-5}
          rewind: {train_as: lora/train_bt, decode: {undo_context: rewind}}
        experiments:
          - {id: EXP-001, model: qwen3-4b, dataset: gsm8k, method: vanilla, config: fewshot_8, notes: Baseline evaluation}
          - {id: EXP-004, model: qwen3-4b, dataset: gsm8k, method: sft, config: lora/train_bt}
          - {model: EXP-004, dataset: math500, method: vanilla, config: fewshot_0}
          - {model: mine, dataset: notes, method: vanilla, config: fewshot_0}
          - {model: qwen3-0.6b, dataset: notes, method: sft, config: lora/low}
          - {model: qwen3-4b, dataset: gsm8k, method: sft, config: rewind}
        matrix:
          - {model: [qwen3-0.6b, qwen3-4b], dataset: gsm8k, method: sft, config: lora/train, learning_rate: [1.0e-4, 3.0e-4], seed: [1, 2, 3]}
        """,
        output_dir=None,
    )
    assert plan.output_dir == Path.cwd() / "outputs"
    first, trained, again, mine, low, rewind, *matrix = plan.experiments
    assert first.folder == "qwen3-4b/gsm8k/vanilla/lm_eval/fewshot_8"
    assert (first.id, first.notes, first.seed, first.train_folder) == ("EXP-001", "Baseline evaluation", 0, None)
    assert first.settings == Settings(Prompting(num_fewshot=8), Decode(max_new_tokens=256))
    assert first.title == "Qwen3-4B Vanilla Evaluation"
    assert trained.folder == trained.train_folder == "qwen3-4b/gsm8k/sft/lora/train_bt"
    assert trained.settings == Settings(Prompting(), Decode(), Training(), UndoData())
    assert trained.title == "Qwen3-4B SFT with LoRA + Backtrack"
    assert again.model.experiment == trained.train_folder
    assert again.model.path == "Qwen/Qwen3-4B"
    assert again.folder == "qwen3-4b+EXP-004/math500/vanilla/lm_eval/fewshot_0"
    assert mine.model.path == str(tmp_path / "checkpoints" / "my-qwen")
    assert mine.model.adapter == str(tmp_path / "saves" / "lora")
    assert mine.dataset.path == str(tmp_path / "my.jsonl")
    assert (mine.dataset.format, mine.dataset.answer, mine.dataset.dev_share) == ("alpaca", "#### (.+)", 0.05)
    assert low.settings.training == Training(learning_rate=1e-5)
    assert low.folder == "qwen3-0.6b/notes/sft/lora/low"
    assert rewind.folder == "qwen3-4b/gsm8k/sft/rewind"
    assert rewind.train_folder == trained.folder
    assert rewind.settings == dataclasses.replace(trained.settings, decode=Decode(undo_context="rewind"))
    assert len(matrix) == 12
    assert {item.folder for item in matrix} >= {
        "qwen3-0.6b/gsm8k/sft/lora/train/seed_1",
        "qwen3-4b/gsm8k/sft/lora/train+lr3e-4/seed_3",
    }
    assert all(item.id is None and item.seed_written for item in matrix)


def test_builtin_settings_are_the_documented_ones(load: Load) -> None:
    found = load(f"experiments: [{SFT}]").experiments[0].settings
    training = found.training
    assert training is not None
    assert (training.lora_rank, training.lora_alpha, training.lora_target) == (8, 16, "all")
    assert (training.learning_rate, training.lr_scheduler_type, training.warmup_ratio) == (1e-4, "cosine", 0.1)
    assert (training.num_train_epochs, training.cutoff_len, training.bf16) == (3.0, 2048, None)
    assert (training.per_device_train_batch_size, training.gradient_accumulation_steps) == (4, 8)
    assert (found.decode.max_new_tokens, found.decode.do_sample) == (512, False)
    unmasked = load(
        "experiments: [{model: unsay-tiny, dataset: wordproblems, method: sft, config: lora/train_bt_unmasked}]"
    )
    assert unmasked.experiments[0].settings.undo == UndoData(mask="none")
    assert unmasked.experiments[0].title.endswith("(unmasked)")


def test_any_number_of_shots(load: Load) -> None:
    plan = load(
        "matrix: [{model: qwen3-4b, dataset: gsm8k, method: vanilla, config: [fewshot_0, fewshot_5, fewshot_12]}]"
    )
    assert [item.settings.prompting.num_fewshot for item in plan.experiments] == [0, 5, 12]
    assert {item.settings.decode.max_new_tokens for item in plan.experiments} == {256}


def test_llamafactory_decoding(load: Load) -> None:
    decode = load(line("decode: llamafactory")).experiments[0].settings.decode
    assert decode == Decode(do_sample=True, temperature=0.95, top_p=0.7, top_k=50, max_new_tokens=1024)
    back = load(
        "configs: {a: {base: lora/train, decode: llamafactory}, b: {base: a, decode: greedy}}\n"
        "experiments: [{model: qwen3-4b, dataset: gsm8k, method: sft, config: b}]"
    )
    assert back.experiments[0].settings.decode == Decode(max_new_tokens=1024)


def test_numbers_written_as_yaml_text_are_numbers(load: Load) -> None:
    training = (
        load(line("learning_rate: 1e-4", "max_steps: 1e3", 'num_train_epochs: "2"')).experiments[0].settings.training
    )
    assert training == Training(max_steps=1000, num_train_epochs=2.0)


def test_names_that_yaml_takes_for_something_else(load: Load, tmp_path: Path) -> None:
    plan = load(
        """
        models: {no: {path: org/a, revision: 0123456}, 7: {path: org/b}}
        experiments:
          - {id: 007, model: no, dataset: gsm8k, method: vanilla, config: fewshot_8, notes: 2025-10-03}
          - {id: 1.0, model: 7, dataset: gsm8k, method: vanilla, config: fewshot_8, notes: yes}
        """
    )
    assert [(item.id, item.model.name, item.notes) for item in plan.experiments] == [
        ("007", "no", "2025-10-03"),
        ("1.0", "7", "yes"),
    ]
    assert plan.experiments[0].model.revision == "0123456"


def test_anchors_and_merge_keys(load: Load) -> None:
    plan = load(
        """
        experiments:
          - &base {model: qwen3-4b, dataset: gsm8k, method: sft, config: lora/train}
          - {<<: *base, config: lora/train_bt}
        """
    )
    assert [item.config for item in plan.experiments] == ["lora/train", "lora/train_bt"]


def test_a_file_of_a_builtin_name_goes_over_it(load: Load, tmp_path: Path) -> None:
    rows(GSM8K, at=tmp_path / "data", name="train.jsonl")
    rows(GSM8K, at=tmp_path / "data", name="test.jsonl")
    plan = load(
        f"""
        models: {{qwen3-0.6b: {{template: plain}}}}
        datasets: {{gsm8k: {{path: data}}}}
        configs: {{lora/train: {{learning_rate: 5e-5}}}}
        experiments: [{SFT}]
        """
    )
    found = plan.experiments[0]
    assert (found.model.path, found.model.template) == ("Qwen/Qwen3-0.6B", "plain")
    assert (found.dataset.path, found.dataset.task, found.dataset.format) == (str(tmp_path / "data"), "gsm8k", "gsm8k")
    assert found.settings.training == Training(learning_rate=5e-5)
    assert found.config == "lora/train"


def test_generated_problems_need_no_path(load: Load) -> None:
    dataset = (
        load("experiments: [{model: unsay-tiny, dataset: wordproblems, method: sft, config: lora/train}]")
        .experiments[0]
        .dataset
    )
    assert (dataset.path, dataset.format) == (None, "wordproblems")


@pytest.mark.parametrize(
    ("text", "format"),
    [
        (GSM8K, "gsm8k"),
        (ALPACA, "alpaca"),
        ('{"conversations": []}', "sharegpt"),
        ('{"messages": []}', "messages"),
        ('{"prompt": "a", "completion": "b"}', "prompt_completion"),
    ],
)
def test_the_format_is_told_from_the_first_line(load: Load, tmp_path: Path, text: str, format: str) -> None:
    rows(text, at=tmp_path)
    plan = load(f"datasets: {{d: {{path: rows.jsonl, dev_share: 0.5}}}}\nexperiments: [{SFT.replace('gsm8k', 'd')}]")
    assert plan.experiments[0].dataset.format == format


def test_dataset_info_says_where_and_how(load: Load, tmp_path: Path) -> None:
    rows('{"q": "a", "a": "b"}', at=tmp_path / "data", name="own.jsonl")
    info = {
        "own": {"file_name": "own.jsonl", "columns": {"prompt": "q", "response": "a"}},
        "chat": {
            "file_name": "own.jsonl",
            "formatting": "sharegpt",
            "columns": {"messages": "m"},
            "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user"},
        },
    }
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(info))
    text = "datasets: {own: {path: data, dev_share: 0.1}, chat: {path: data, format: dataset_info, dev_share: 0.1}}\n"
    plan = load(text + "matrix: [{model: qwen3-4b, dataset: [own, chat], method: sft, config: lora/train}]")
    own, chat = (item.dataset for item in plan.experiments)
    assert (own.path, own.format) == (str(tmp_path / "data" / "own.jsonl"), "alpaca")
    assert own.columns == {"prompt": "q", "response": "a"}
    assert (chat.format, chat.columns) == ("sharegpt", {"messages": "m", "role_tag": "role", "content_tag": "content"})


def test_matrix_axes_inside_decode_and_undo(load: Load) -> None:
    plan = load(
        """
        matrix:
          - {model: qwen3-4b, dataset: gsm8k, method: sft, config: lora/train_bt,
             undo: {max_errors: [3, 5], mask: [errors, none]}, decode: {undo_context: [keep, rewind]},
             lora_target: [all, [q_proj, v_proj]]}
        """
    )
    assert len(plan.experiments) == 16
    assert len({item.folder for item in plan.experiments}) == 16
    assert len({item.train_folder for item in plan.experiments}) == 8
    targets = {item.settings.training.lora_target for item in plan.experiments if item.settings.training}
    assert targets == {"all", ("q_proj", "v_proj")}


def test_another_decoding_on_a_line_shares_the_training(load: Load) -> None:
    found = load(line("learning_rate: 3e-4", "decode: {max_new_tokens: 64}")).experiments[0]
    assert found.folder == "qwen3-0.6b/gsm8k/sft/lora/train+lr3e-4+new64"
    assert found.train_folder == "qwen3-0.6b/gsm8k/sft/lora/train+lr3e-4"


def test_decoding_follows_the_trained_context_unless_told_otherwise(load: Load) -> None:
    followed = load(line("undo: {context: rewind}")).experiments[0]
    assert followed.settings.decode.undo_context == "rewind"
    assert followed.train_folder == followed.folder
    other = load(line("undo: {context: rewind}", "decode: {undo_context: keep}")).experiments[0]
    assert other.settings.decode.undo_context == "keep"
    assert other.train_folder == followed.folder != other.folder


def test_undo_can_be_named_emptied_and_removed(load: Load) -> None:
    plan = load(
        f"""
        configs: {{none: {{base: lora/train_bt, undo: null}}}}
        experiments:
          - {SFT[:-1]}, undo: random_tokens}}
          - {SFT[:-1]}, undo: {{}}, seed: 1}}
          - {SFT.replace("lora/train", "none")}
          - {SFT.replace("lora/train", "lora/train_bt")[:-1]}, undo: null}}
        """
    )
    assert [item.settings.undo for item in plan.experiments] == [UndoData(), UndoData(), None, None]
    assert plan.experiments[-1].config == "lora/train_bt+noundo"


def test_a_new_strategy_starts_without_the_old_options(load: Load) -> None:
    other = next(name for name in catalog.names("augment") if name == "arithmetic_slip")
    text = f"""
        configs:
          few: {{base: lora/train_bt, undo: {{max_errors: 2, clean_share: 0.5}}}}
          slip: {{base: few, undo: {{strategy: {other}}}}}
        matrix: [{{model: qwen3-4b, dataset: gsm8k, method: sft, config: [few, slip]}}]
        """
    few, slip = (item.settings.undo for item in load(text).experiments)
    assert few == UndoData(options={"max_errors": 2}, clean_share=0.5)
    assert slip == UndoData(strategy=other, clean_share=0.5)


def test_options_at_their_default_are_not_kept(load: Load) -> None:
    assert load(line("undo: {max_errors: 9}")).experiments[0].settings.undo == UndoData()


def test_output_dir_is_relative_to_the_current_directory(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    text = f"output_dir: results\nexperiments: [{VANILLA}]"
    assert load(text, output_dir=None).output_dir == tmp_path / "cwd" / "results"
    assert load(text, output_dir=Path("other")).output_dir == tmp_path / "cwd" / "other"


def test_loading_touches_nothing(load: Load, tmp_path: Path) -> None:
    load(f"experiments: [{VANILLA}]")
    assert [item.name for item in tmp_path.iterdir()] == ["lab.yaml"]


# -- trained experiments as models ------------------------------------------------


def test_a_trained_experiment_by_its_folder(load: Load) -> None:
    plan = load(
        f"""
        experiments:
          - {SFT}
          - {{model: qwen3-0.6b/gsm8k/sft/lora/train, dataset: gsm8k, method: vanilla, config: fewshot_0}}
        """
    )
    assert plan.experiments[1].model.name == "qwen3-0.6b+gsm8k_sft_lora_train"
    assert plan.experiments[1].model.experiment == "qwen3-0.6b/gsm8k/sft/lora/train"


def test_a_trained_experiment_brings_its_context(load: Load) -> None:
    plan = load(
        f"""
        experiments:
          - {SFT[:-1]}, id: A, undo: {{context: rewind}}}}
          - {{model: A, dataset: gsm8k, method: vanilla, config: fewshot_0}}
        """
    )
    assert plan.experiments[1].settings.decode.undo_context == "rewind"
    assert plan.experiments[1].config == "fewshot_0"


def finished(folder: Path, **record: Any) -> None:
    (folder / "train").mkdir(parents=True)
    plain = {"schema": 1, "id": "EXP-009", "model": "qwen3-4b", "status": "completed", "identity": "abc", **record}
    (folder / "experiment.json").write_text(json.dumps(plain))
    (folder / "train" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "Qwen/Qwen3-4B"}))
    (folder / "train" / "undo.json").write_text(json.dumps({"context": "rewind", "base_model": None}))


def test_a_finished_experiment_on_disk(load: Load, tmp_path: Path, bad: Bad) -> None:
    folder = "qwen3-4b/gsm8k/sft/lora/train_bt"
    finished(tmp_path / "outputs" / folder)
    text = "experiments: [{model: EXP-009, dataset: gsm8k, method: vanilla, config: fewshot_0}]"
    found = load(text).experiments[0]
    assert (found.model.name, found.model.path) == ("qwen3-4b+EXP-009", "Qwen/Qwen3-4B")
    assert (found.model.experiment, found.model.experiment_identity) == (folder, "abc")
    assert found.settings.decode.undo_context == "rewind"
    assert load(text.replace("EXP-009", str(tmp_path / "outputs" / folder))).experiments == (found,)
    shutil.rmtree(tmp_path / "outputs")
    finished(tmp_path / "outputs" / folder, status="failed")
    assert re.search(r"1: EXP-009 is failed, not completed; run it first", *bad(text))


def test_a_finished_experiment_keeps_the_template_it_was_trained_with(load: Load, tmp_path: Path, bad: Bad) -> None:
    place = tmp_path / "outputs" / "mine" / "gsm8k" / "sft" / "lora" / "train"
    text = "experiments: [{model: EXP-009, dataset: gsm8k, method: vanilla, config: fewshot_0}]"
    for name in (
        "mine",
        "qwen3-4b",
    ):  # known only to the file it was trained from; a built-in name with another template
        finished(place, model=name, spec={"model": {"template": "sha256:0123"}})
        assert re.search(r"1: EXP-009 was trained with a .jinja file .*define its model in this file", *bad(text))
        (tmp_path / "own.jinja").write_text("x")
        own = f"models: {{{name}: {{path: Qwen/Qwen3-4B, template: own.jinja}}}}\n{text}"
        assert load(own).experiments[0].model.template == str(tmp_path / "own.jinja")
        shutil.rmtree(place)
        finished(place, model=name, spec={"model": {"template": "qwen3_nothink"}})
        assert load(text).experiments[0].model.template == "qwen3_nothink"
        shutil.rmtree(place)


# -- bad files: one clear message each --------------------------------------------

ONE_MISTAKE = {
    "empty": ("", r"1: the file is empty"),
    "only a comment": ("# nothing\n", r"1: the file is empty"),
    "nothing to do": ("output_dir: x", r"1: nothing to do: write at least one line under `experiments:`"),
    "a list": ("- a\n- b", r"1: an experiment file must be a mapping.*got a list"),
    "a word": ("hello", r"1: an experiment file must be a mapping.*got 'hello'"),
    "no YAML": ("experiments: [", r"\d+: not YAML: "),
    "a tab": ("experiments:\n\t- a", r"2: not YAML: "),
    "two documents": ("a: 1\n---\nb: 2", r"2: not YAML: .*but found another document"),
    "code": ("experiments: !!python/object/apply:os.system [ls]", r"1: not YAML: the tag .*python/object/apply:os.system is not allowed"),
    "duplicate key": (f"experiments: [{VANILLA}]\nexperiments: []", r"2: duplicate key 'experiments'; first .* line 1"),
    "duplicate key in a line": (f"experiments: [{VANILLA[:-1]}, model: a}}]", r"1: duplicate key 'model'"),
    "itself": (f"experiments: [{VANILLA}]\nmodels: &a {{b: *a}}", r"2: not YAML: a value contains itself"),
    "unknown part": (f"experiment: []\nmatrix: [{VANILLA}]", r"1: unknown key .* 'experiment'; did you mean 'experiments'"),
    "unknown key": (line("learning_rat: 1"), r"1: unknown key in an experiment 'learning_rat'; did you mean 'learning_rate'"),
    "misplaced key": (line("temperature: 0.5"), r"1: 'temperature' is written inside: `decode: \{temperature: …\}`"),
    "unknown decode key": (line("decode: {max_new_token: 1}"), r"did you mean 'max_new_tokens'"),
    "unknown decode name": (line("decode: llama_factory"), r"1: unknown decode 'llama_factory'; did you mean 'llamafactory'"),
    "decode a number": (line("decode: 3"), r"1: decode must be a mapping or one of greedy, llamafactory; got 3"),
    "unknown strategy": (line("undo: {strategy: random_token}"), r"1: unknown undo strategy .* mean 'random_tokens'"),
    "unknown option": (line("undo: {max_error: 3}"), r"1: unknown key in undo: \(strategy random_tokens\) .*'max_errors'"),
    "option of another type": (line("undo: {max_errors: many}"), r"1: max_errors must be a whole number; got 'many'"),
    "undo a number": (line("undo: 3"), r"1: undo must be a mapping, the name of a strategy, or null; got 3"),
    "unknown choice": (line("undo: {mask: error}"), r"1: mask must be one of errors, repeats, before_undo, none; did you mean 'errors'\?; got"),
    "frozen and trained": (line("finetuning_type: full, quantization_bit: 4"), r"1: quantization_bit freezes the weights"),
    "eight bits": (line("quantization_bit: 8"), r"1: quantization_bit must be one of 4"),
    "best of nothing": (line("load_best_model_at_end: true"), r"1: load_best_model_at_end needs rows .* `val_size: 0.05`"),
    "everything held out": (line("val_size: 1"), r"1: val_size must be a share, at least 0 and below 1; got 1.0"),
    "text for a number": (line("learning_rate: fast"), r"1: learning_rate must be a number; got 'fast'"),
    "fraction for a whole": (line("lora_rank: 8.5"), r"1: lora_rank must be a whole number; got 8.5"),
    "true for a number": (line("lora_rank: true"), r"1: lora_rank must be a whole number; got true"),
    "infinite": (line("learning_rate: .inf"), r"1: learning_rate must be a number; got .inf"),
    "text for true": (line("bf16: maybe"), r"1: bf16 must be true or false; got 'maybe'"),
    "null for a number": (line("lora_rank: null"), r"1: lora_rank must be a whole number; got nothing"),
    "list outside the matrix": (line("learning_rate: [1e-4, 2e-4]"), r"1: learning_rate must be a number; got a list"),
    "negative rate": (line("learning_rate: -1e-4"), r"1: learning_rate must be above 0; got -0.0001"),
    "share above one": (line("warmup_ratio: 10"), r"1: warmup_ratio must be between 0 and 1; got 10"),
    "no steps": (line("max_steps: 0"), r"1: max_steps must be at least 1, or -1"),
    "unknown schedule": (line("lr_scheduler_type: cosin"), r"1: unknown lr_scheduler_type 'cosin'; did you mean 'cosine'"),
    "zero temperature": (line("decode: {do_sample: true, temperature: 0}"), r"1: temperature must be above 0 \(for greedy"),
    "temperature and greedy": (line("decode: {temperature: 0.7}"), r"1: temperature does nothing while .* greedy"),
    "shots in sft": (line("num_fewshot: 4"), r"1: num_fewshot is 4, but sft prompts have 0 shots"),
    "no chat template in sft": (line("apply_chat_template: false"), r"1: apply_chat_template is false, but sft trains .* in the model's chat template"),
    "bad seed": (line("seed: -1"), r"1: seed must be between 0 and 4294967295; got -1"),
    "text seed": (line("seed: one"), r"1: seed must be a whole number; got 'one'"),
    "bad id": (line("id: EXP/1"), r"1: id 'EXP/1' must be letters, digits"),
    "missing parts": ("experiments: [{model: qwen3-4b}]", r"1: this experiment needs `dataset:`, `method:`, `config:`"),
    "line is a word": ("experiments: [qwen3-4b]", r"1: a line of experiments must be a mapping; got 'qwen3-4b'"),
    "experiments a mapping": ("experiments: {a: 1}", r"1: experiments must be a list of lines"),
    "unknown model": (f"experiments: [{VANILLA.replace('qwen3-0.6b', 'qwen-4b')}]", r"1: unknown model 'qwen-4b'; did you mean"),
    "unknown dataset": (f"experiments: [{VANILLA.replace('gsm8k', 'gsm8')}]", r"1: unknown dataset 'gsm8'; did you mean 'gsm8k'"),
    "unknown method": (f"experiments: [{VANILLA.replace('vanilla', 'vanila')}]", r"1: unknown method 'vanila'; did you mean 'vanilla'"),
    "unknown config": (f"experiments: [{VANILLA.replace('fewshot_8', 'fewshots')}]", r"1: unknown config 'fewshots'; did you mean 'fewshot_"),
    "config of another method": (f"experiments: [{VANILLA.replace('vanilla', 'sft')}]", r"1: config 'fewshot_8' is for method vanilla, .* for sft there are: full/train, full/train_bt, lora/train,"),
    "training in vanilla": (f"experiments: [{VANILLA[:-1]}, learning_rate: 1e-4}}]", r"1: learning_rate is a training setting, but method vanilla"),
    "undo in vanilla": (f"experiments: [{VANILLA[:-1]}, undo: random_tokens}}]", r"1: undo is a training setting, but method vanilla"),
    "id twice": (f"experiments:\n- {VANILLA[:-1]}, id: A}}\n- {SFT[:-1]}, id: A}}", r"3: id 'A' is already used on line 2"),
    "path twice": (f"experiments:\n- {SFT}\n- {SFT}", r"3: the experiment on line 2 already has the folder"),
    "path twice by default": (f"experiments:\n- {SFT}\n- {SFT[:-1]}, lora_rank: 8}}", r"3: the experiment on line 2 already"),
    "id in a matrix": (f"matrix: [{SFT[:-1]}, id: A}}]", r"1: a matrix entry is many experiments and takes no `id:`"),
    "empty axis": (f"experiments: [{VANILLA}]\nmatrix: [{SFT[:-1]}, seed: []}}]", r"2: seed is an empty list"),
    "greedy seeds": (f"matrix: [{VANILLA[:-1]}, seed: [1, 2]}}]", r"1: greedy vanilla gives the same answers with every seed"),
    "sft on a task": (f"datasets: {{t: {{task: x}}}}\nexperiments: [{SFT.replace('gsm8k', 't')}]", r"2: dataset 't' is an lm-eval task, for evaluation only"),
    "missing dataset": (f"datasets:\n  d: {{path: d.jsonl}}\nexperiments: [{SFT.replace('gsm8k', 'd')}]", r"2: missing dataset file: there is no .*/d.jsonl"),
    "not a hub id": (f"datasets: {{d: {{path: some where}}}}\nexperiments: [{VANILLA}]", r"1: dataset file 'some where' is neither there"),
    "hub data without format": (f"datasets: {{d: {{path: a/b}}}}\nexperiments: [{VANILLA}]", r"1: dataset 'd' is on the hub: .* `format:`"),
    "missing task file": (f"datasets:\n  d: {{task: ./t.yaml}}\nexperiments: [{VANILLA.replace('gsm8k', 'd')}]", r"2: missing task file: there is no /.*/t.yaml"),
    "unknown format": (f"datasets: {{d: {{path: a/b, format: alpca}}}}\nexperiments: [{VANILLA}]", r"unknown format 'alpca'; did you mean 'alpaca'"),
    "format without path": (f"datasets: {{d: {{format: alpaca}}}}\nexperiments: [{VANILLA}]", r"1: format 'alpaca' needs `path:`"),
    "unknown column": (f"datasets: {{d: {{path: a/b, format: alpaca, columns: {{promt: x}}}}}}\nexperiments: [{VANILLA}]", r"did you mean 'prompt'"),
    "answer no regex": (f"datasets: {{d: {{task: t, answer: '(a'}}}}\nexperiments: [{VANILLA}]", r"1: answer is not a regular expression"),
    "answer without group": (f"datasets: {{d: {{task: t, answer: 'a'}}}}\nexperiments: [{VANILLA}]", r"1: answer needs a group"),
    "empty dataset": (f"datasets: {{d: {{}}}}\nexperiments: [{VANILLA}]", r"1: dataset 'd' needs `path:`, or `task:`"),
    "model without path": (f"models: {{m: {{template: plain}}}}\nexperiments: [{VANILLA}]", r"1: model 'm' needs `path:`"),
    "missing model folder": (f"models: {{m: {{path: ./m}}}}\nexperiments: [{VANILLA}]", r"1: missing model folder: there is no .*/m"),
    "missing adapter": (f"models: {{m: {{path: a/b, adapter: x}}}}\nexperiments: [{VANILLA}]", r"1: missing adapter folder: there is no"),
    "unknown template": (f"models: {{m: {{path: a/b, template: lama3}}}}\nexperiments: [{VANILLA}]", r"unknown template 'lama3'; did you mean 'llama3'"),
    "missing template": (f"models: {{m: {{path: a/b, template: x.jinja}}}}\nexperiments: [{VANILLA}]", r"1: missing template file"),
    "unpinned code": (f"models: {{m: {{path: a/b, trust_remote_code: true}}}}\nexperiments: [{VANILLA}]", r"1: trust_remote_code runs code from the hub: pin it"),
    "name no folder": (f"models: {{../m: {{path: a/b}}}}\nexperiments: [{VANILLA}]", r"1: '../m' cannot be a folder's name"),
    "config like a seed": (f"configs: {{a/seed_1: {{}}}}\nexperiments: [{VANILLA}]", r"1: 'a/seed_1' cannot be a folder's name"),
    "config around another": (f"configs: {{lora: {{}}}}\nexperiments: [{VANILLA}]", r"1: config 'lora' would be a folder around config 'lora/"),
    "unknown base": (f"configs: {{a: {{base: lora/trian}}}}\nexperiments: [{VANILLA}]", r"1: base: unknown config 'lora/trian'; did you mean 'lora/train'"),
    "circle": (f"configs: {{a: {{base: b}}, b: {{base: a}}}}\nexperiments: [{VANILLA}]", r"1: config '.' inherits from itself: "),
    "base and train_as": (f"configs: {{a: {{base: lora/train, train_as: lora/train}}}}\nexperiments: [{VANILLA}]", r"1: config 'a' has both base and train_as"),
    "train_as with training": (f"configs: {{a: {{train_as: lora/train, lora_rank: 4}}}}\nexperiments: [{VANILLA}]", r"can only set decode:; remove 'lora_rank'"),
    "wrong value in unused config": (f"configs: {{a: {{base: lora/train, lora_rank: x}}}}\nexperiments: [{VANILLA}]", r"1: lora_rank must be a whole number"),
    "model below": (f"experiments:\n- {VANILLA.replace('qwen3-0.6b', 'A')}\n- {SFT[:-1]}, id: A}}", r"2: A stands below this line, on line 3"),
    "untrained as model": (f"experiments:\n- {VANILLA[:-1]}, id: A}}\n- {VANILLA.replace('qwen3-0.6b', 'A')}", r"3: A trains nothing"),
    "training a trained": (f"experiments:\n- {SFT[:-1]}, id: A}}\n- {SFT.replace('qwen3-0.6b', 'A')}", r"3: sft on a model that has an adapter already"),
    "matrix too large": (f"experiments: [{VANILLA}]\nmatrix: [{SFT[:-1]}, seed: {list(range(200))}, lora_rank: {list(range(1, 200))}}}]", r"2: this matrix entry makes 39,800"),
}  # fmt: skip


@pytest.mark.parametrize("name", ONE_MISTAKE)
def test_one_mistake_one_message(bad: Bad, name: str) -> None:
    text, expected = ONE_MISTAKE[name]
    found = bad(text)
    circle = name == "circle"  # each of the two is reported where it stands
    assert len(found) == (2 if circle else 1), found
    assert re.search(expected, found[0]), found[0]


def test_all_mistakes_at_once_in_the_order_of_the_file(bad: Bad) -> None:
    found = bad(
        f"""
        outputdir: x
        models:
          m: {{path: ./nowhere}}
        datasets:
          d: {{path: none.jsonl}}
        configs:
          c: {{base: lora/train, lora_rank: eight}}
        experiments:
          - {{model: m, dataset: d, method: sft, config: c}}
          - {SFT[:-1]}, learning_rat: 1}}
          - {VANILLA.replace("gsm8k", "gms8k")}
        matrix:
          - {SFT[:-1]}, seed: [1, x]}}
        """
    )
    assert [int(mistake.split(":")[0]) for mistake in found] == [2, 4, 6, 8, 11, 12, 14]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        config.load(tmp_path / "nothing.yaml")
    with pytest.raises(ConfigError, match="this is a folder"):
        config.load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"notes: caf\xe9")
    with pytest.raises(ConfigError, match="UTF-8"):
        config.load(tmp_path / "latin.yaml")


def test_aliases_of_aliases_end(bad: Bad) -> None:
    text = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
    assert "aliases" in bad(text)[0]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_any_text_loads_or_says_why(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.mktemp("any") / "lab.yaml"
    file.write_text(text, encoding="utf-8", errors="ignore")
    with pytest.raises(ConfigError):
        config.load(file)


# -- suffixes ---------------------------------------------------------------------

words = st.text("abcXYZ0189_-+.é ", min_size=1, max_size=12)
floats = st.floats(1e-9, 1e9, allow_nan=False) | st.sampled_from([1e-4, 3e-4, 0.1, 1.0, 9.9999999e-4])
small = st.integers(1, 300)

trainings = st.builds(
    Training,
    lora_rank=small,
    lora_target=st.just("all") | st.lists(words, min_size=1, max_size=3).map(tuple),
    learning_rate=floats,
    weight_decay=floats,
    num_train_epochs=floats,
    max_steps=st.just(-1) | small,
    lr_scheduler_type=st.sampled_from(overrides.SCHEDULERS),
    max_samples=st.none() | small,
    bf16=st.sampled_from([None, True, False]),
    finetuning_type=st.sampled_from(["lora", "full"]),
    row_learning_rate=st.none() | floats,
    val_size=st.sampled_from([0.0, 0.1]),
    report_to=st.sampled_from(["none", "tensorboard", "tensorboard,wandb"]),
)
undos = st.none() | st.builds(
    UndoData,
    strategy=st.sampled_from(["random_tokens", "splice"]),
    options=st.dictionaries(
        st.sampled_from(["max_errors", "rate", "r"]), small | floats | words | st.booleans() | st.none(), max_size=2
    ),
    clean_share=st.sampled_from([0.0, 0.5]),
    mask=st.sampled_from(["errors", "repeats", "before_undo", "none"]),
    context=st.sampled_from(["keep", "rewind"]),
)
decodes = st.builds(
    Decode,
    undo_context=st.sampled_from(["keep", "rewind"]),
    undo=st.sampled_from(["allow", "ban"]),
    max_new_tokens=small,
    temperature=floats,
    max_undos=st.none() | st.integers(0, 9),
    stop=st.none() | st.lists(words, max_size=3).map(tuple),
)
all_settings = st.builds(
    Settings, prompting=st.just(Prompting()), decode=decodes | st.just(Decode()), training=trainings, undo=undos
)


@settings(max_examples=300, deadline=None)
@given(all_settings, all_settings, all_settings)
def test_different_settings_have_different_suffixes(named: Settings, one: Settings, other: Settings) -> None:
    first, second = suffix(named, one), suffix(named, other)
    assert (first.casefold() == second.casefold()) == (one == other)
    assert suffix(named, named) == ""


@settings(max_examples=200, deadline=None)
@given(all_settings, all_settings)
def test_suffixes_are_safe_and_short(named: Settings, changed: Settings) -> None:
    text = suffix(named, changed)
    assert re.fullmatch(r"(\+[a-z0-9_.-]+)*", text)
    assert len(text) <= 120
    assert not text.endswith(".")


@settings(max_examples=200, deadline=None)
@given(all_settings, trainings)
def test_one_changed_number_is_told_apart(named: Settings, training: Training) -> None:
    other = dataclasses.replace(training, learning_rate=training.learning_rate * (1 + 1e-12))
    one = suffix(named, dataclasses.replace(named, training=training))
    two = suffix(named, dataclasses.replace(named, training=other))
    assert (one == two) == (training == other)


def test_every_setting_has_a_short_name_of_letters() -> None:
    sections = {"prompting": Prompting, "training": Training, "decode": Decode, "undo": UndoData}
    fields = {f"{name}.{item.name}" for name, owner in sections.items() for item in dataclasses.fields(owner)}
    assert set(SHORT) == fields - {"undo.options"}
    assert len(set(SHORT.values())) == len(SHORT)
    assert all(re.fullmatch("[a-z]+", short) for short in SHORT.values())


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("learning_rate: 3.0e-4", "+lr3e-4"),
        ("learning_rate: 0.00015", "+lr1.5e-4"),
        ("learning_rate: 0.05", "+lr0.05"),
        ("lora_rank: 16", "+r16"),
        ("max_steps: 80", "+steps80"),
        ("per_device_train_batch_size: 16", "+bs16"),
        ("num_train_epochs: 1", "+ep1"),
        ("bf16: false", "+bf-off"),
        ("lora_target: [q_proj]", "+target-q_proj-"),
        ("undo: arithmetic_slip", "+strategy-arithmetic_slip"),
        ("undo: {max_errors: 3}", "+strategy-random_tokens+o.max_errors-3"),
        ("decode: {undo_context: rewind}", "+ctx-rewind"),
        ("decode: {undo: ban}", "+undo-ban"),
    ],
)
def test_suffixes_read_well(load: Load, written: str, expected: str) -> None:
    assert load(line(written)).experiments[0].config.startswith(f"lora/train{expected}")


@settings(max_examples=60, deadline=None)
@given(all_settings, st.integers(0, 2**32 - 1), st.none() | words)
def test_json_round_trip(chosen: Settings, seed: int, notes: str | None) -> None:
    experiment = config.Experiment(
        id=notes,
        model=config.Model("m", "org/m", revision=notes),
        dataset=config.Dataset("d", columns={"a": "b"}),
        method="sft",
        config="c",
        settings=chosen,
        seed=seed,
        seed_written=bool(seed),
        notes=notes or "",
        folder="f",
        train_folder=notes,
        line=1,
        title="t",
    )
    assert config.experiment_from_json(json.loads(json.dumps(config.experiment_to_json(experiment)))) == experiment


# -- on this machine --------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "qwen3"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    (folder / "model.safetensors").write_text("")
    return folder


LOCAL = """
models: {m: {path: ./model}}
datasets: {d: {path: ./data, format: gsm8k}}
experiments:
  - {model: m, dataset: d, method: sft, config: lora/train}
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows(GSM8K, at=tmp_path / "data", name="train.jsonl")
    rows(GSM8K, GSM8K, at=tmp_path / "data", name="test.jsonl")
    return tmp_path / "data"


def test_a_sound_local_plan_passes(load: Load, model: Path, data: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    load(LOCAL)
    load(LOCAL, check=True)
    assert sorted(path for path in tmp_path.rglob("*") if path.name != "lab.yaml") == before


def test_model_folders_are_looked_at(bad: Bad, model: Path, data: Path) -> None:
    (model / "tokenizer.json").unlink()
    assert re.search("5: model folder without tokenizer: .*/model has none of tokenizer.json", *bad(LOCAL, check=True))
    (model / "tokenizer.json").write_text("{}")
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_text("")
    assert re.search("5: model folder without weights in safetensors format: .*convert", *bad(LOCAL, check=True))
    (model / "model.safetensors.index.json").write_text('{"weight_map": {"a": "part-1.safetensors"}}')
    assert re.search("5: model folder with missing weights: .* lacks part-1.safetensors", *bad(LOCAL, check=True))
    (model / "config.json").unlink()
    assert len(bad(LOCAL, check=True)) == 2


def test_training_needs_a_chat_template(bad: Bad, load: Load, model: Path, data: Path) -> None:
    (model / "tokenizer_config.json").write_text("{}")
    assert re.search("5: model 'm' has no chat template, which sft needs; .*`template:`", *bad(LOCAL, check=True))
    load(LOCAL.replace("sft", "vanilla").replace("lora/train", "fewshot_0"), check=True)
    load(LOCAL.replace("./model}", "./model, template: plain}"), check=True)
    (model / "chat_template.jinja").write_text("x")
    load(LOCAL, check=True)


def test_every_line_of_a_dataset_is_read(bad: Bad, model: Path, data: Path) -> None:
    rows(GSM8K, "no json", "[]", '{"question": "x"}', GSM8K, "{}", at=data, name="train.jsonl")
    found = bad(LOCAL, check=True)
    assert len(found) == 4
    assert re.search(r"train.jsonl:2: expected one JSON object per line", found[0])
    assert re.search(r"train.jsonl:3: expected one JSON object", found[1])
    assert re.search(r"train.jsonl:4: expected text in column 'answer'", found[2])
    assert re.search(r"train.jsonl has 1 more", found[3])
    rows(at=data, name="train.jsonl")
    assert re.search("train.jsonl is empty", *bad(LOCAL, check=True))


def test_the_answer_pattern_has_to_fit(bad: Bad, model: Path, data: Path) -> None:
    text = LOCAL.replace("format: gsm8k", "format: gsm8k, answer: 'A: (.+)'")
    assert "answer pattern 'A: (.+)' is not in the gold answer" in bad(text, check=True)[0]


def test_a_folder_without_splits(bad: Bad, model: Path, tmp_path: Path) -> None:
    rows(GSM8K, at=tmp_path / "data", name="other.jsonl")
    text = LOCAL.replace("sft", "vanilla").replace("lora/train", "fewshot_0")
    assert re.search("expected train.jsonl and test.jsonl in .*, found other.jsonl", *bad(text, check=True))


def test_sft_needs_something_to_evaluate_on(bad: Bad, load: Load, tmp_path: Path, model: Path) -> None:
    rows(GSM8K, at=tmp_path)
    text = LOCAL.replace("./data", "./rows.jsonl")
    assert re.search("nothing to evaluate on but its training questions; .*dev_share", *bad(text))
    load(text.replace("format: gsm8k", "dev_share: 0.5"))


def test_an_output_folder_that_cannot_be_made(bad: Bad, load: Load, model: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert re.search(
        "output folder .* cannot be made: .*/file is a file",
        *bad(LOCAL, check=True, output_dir=tmp_path / "file" / "x"),
    )


def test_an_output_folder_without_permission(
    bad: Bad, model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight.os, "access", lambda *_: False)
    assert re.search("cannot be written: no permission", *bad(LOCAL, check=True))


def test_gated_models_and_the_offline_switch(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_TOKEN_PATH",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HF_DATASETS_OFFLINE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(preflight, "_download_size", lambda hub_id: 0)
    plan = load(f"experiments: [{VANILLA.replace('qwen3-0.6b', 'llama-3.2-3b')}]")
    model = plan.experiments[0].model
    assert preflight.needs_token(model)
    (mistake,) = preflight.check(plan)
    assert "is gated and this machine is not logged in" in mistake
    assert "HF_TOKEN" in mistake
    assert "huggingface-cli login" in mistake
    assert preflight.check(plan, access=False) == []
    monkeypatch.setenv("HF_TOKEN", "x")
    assert preflight.check(plan) == []
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = preflight.check(plan)
    assert len(found) == 2
    assert all("the hub is switched off" in mistake for mistake in found)
    assert preflight.check(plan, access=False) == []
    for kind, name in (("models", "meta-llama--Llama-3.2-3B-Instruct"), ("datasets", "openai--gsm8k")):
        (tmp_path / "hf" / "hub" / f"{kind}--{name}" / "snapshots" / "abc").mkdir(parents=True)
    assert preflight.check(plan) == []


def test_too_little_space_for_downloads(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 3 * 1024**3))
    found = preflight.check(load(f"experiments: [{VANILLA.replace('qwen3-0.6b', 'qwen3-4b')}]"))
    assert len(found) == 1
    assert "the models to download need about 7.5 GiB" in found[0]


def test_checks_and_mistakes_come_together(bad: Bad, model: Path, data: Path) -> None:
    (model / "tokenizer.json").unlink()
    found = bad(LOCAL + "  - {model: m, dataset: d, method: sft, config: lora/low}\n", check=True)
    assert [int(mistake.split(":")[0]) for mistake in found] == [5, 6]


def test_a_missing_model_is_reported_once_beside_wrong_lines(bad: Bad, model: Path, data: Path) -> None:
    rows("no json", at=data, name="train.jsonl")
    text = LOCAL.replace("{m: {path: ./model}}", "{m: {path: ./model}, x: {path: ./nowhere}}")
    other = "  - {model: x, dataset: d, method: sft, config: lora/train}\n"
    found = bad(text + other, check=True)
    assert [mistake.split(":")[0] for mistake in found] == ["2", "5"]
    assert "missing model folder" in found[0]
    assert "train.jsonl:1" in found[1]


def test_columns_that_are_wrong_are_reported_once(bad: Bad, model: Path, data: Path) -> None:
    assert len(bad(LOCAL.replace("format: gsm8k", "format: gsm8k, columns: {promt: x}"), check=True)) == 1
    assert len(bad(LOCAL.replace("format: gsm8k", "format: gsm"), check=True)) == 1


# -- lm-eval's tasks --------------------------------------------------------------

TASK = "datasets: {{d: {{task: {}}}}}\nexperiments: [{{model: qwen3-0.6b, dataset: d, method: vanilla, config: fewshot_0}}]"


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that holds lm-eval's tasks, with one of them."""
    folder = tmp_path / "lm_eval" / "tasks"
    (folder / "maths").mkdir(parents=True)
    (folder / "maths" / "any.yaml").write_text("task: sums_hard\n")
    monkeypatch.setattr(lm_eval_files, "tasks_folder", lambda: folder)
    return folder


def test_a_misspelt_task_is_found_before_any_work(load: Load, tasks: Path) -> None:
    assert preflight.check(load(TASK.format("sums_hard")), access=False) == []
    (mistake,) = preflight.check(load(TASK.format("sum_hard")), access=False)
    assert "lab.yaml:2: dataset 'd': lm-eval has no task 'sum_hard'; did you mean 'sums_hard'?" in mistake
    for name in ("../maths", "'*'", "/maths", "'[a'"):
        assert "lm-eval has no task" in preflight.check(load(TASK.format(name)), access=False)[0]


def test_the_task_of_gsm8k_is_not_searched_for(load: Load, tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_eval_files, "find_task", lambda *_: pytest.fail("searched"))
    assert preflight.check(load(f"experiments: [{VANILLA}]"), access=False) == []


def test_without_lm_eval_only_a_real_run_is_refused(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_eval_files, "tasks_folder", lambda: None)
    plan = load(TASK.format("sums"))
    assert preflight.check(plan, access=False) == []
    assert any("pip install 'unsay[train]'" in mistake for mistake in preflight.check(plan))


def test_looking_for_tasks_imports_no_lm_eval() -> None:
    code = "import sys; from unsay import lm_eval_files as f; print(f.find_task(f.tasks_folder(), 'gsm8k').name); print('lm_eval' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(Path(preflight.__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "gsm8k.yaml\nFalse\n", done.stderr


def test_a_task_file_is_relative_to_the_experiment_file(load: Load, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("task: mine\n")
    plan = load(TASK.format("./my.yaml"))
    assert plan.experiments[0].dataset.task == str(tmp_path / "my.yaml")
    assert preflight.check(plan, access=False) == []


def test_a_task_with_formulas_names_the_extra_it_needs(
    load: Load, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tasks / "maths" / "any.yaml").write_text("include: _base\ntask: sums_hard\n")
    (tasks / "maths" / "_base").write_text("process_results: !function utils.score\ninclude: any.yaml\n")
    (tasks / "maths" / "utils.py").write_text(
        "try:\n    from math_verify import parse\nexcept ImportError:\n    raise\n"
    )
    (tasks / "maths" / "other.py").write_text("import antlr4\n")
    (tasks / "mine.yaml").write_text("include: maths/any.yaml\ntask: mine\n")
    there: set[str] = set()
    monkeypatch.setattr(lm_eval_files, "_installed", lambda name: name in there)
    for task in ("sums_hard", str(tasks / "mine.yaml")):
        there.clear()
        (mistake,) = preflight.check(load(TASK.format(task)), access=False)
        assert mistake.endswith("needs math_verify, which is not installed; `pip install 'unsay[math]'`")
        there.add("math_verify")
        assert preflight.check(load(TASK.format(task)), access=False) == []


def test_lm_evals_tasks_with_formulas_are_known_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = lm_eval_files.tasks_folder()
    assert folder is not None
    files = {name: lm_eval_files.find_task(folder, name) for name in ("minerva_math500", "gsm8k")}
    monkeypatch.setattr(lm_eval_files, "_installed", lambda name: False)
    assert {name: file and lm_eval_files.missing_math(file) for name, file in files.items()} == {
        "minerva_math500": "math_verify",
        "gsm8k": None,
    }


LINES = "datasets: {{d: {{task: sums_hard, path: ./own.jsonl{}}}}}\nexperiments: [{{model: qwen3-0.6b, dataset: d, method: {}}}]"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Return a file whose columns are none of our formats'."""
    file = tmp_path / "own.jsonl"
    file.write_text('{"problem": "2?", "solution": "2"}\n')
    return file


def test_local_lines_reach_another_task_unchanged(load: Load, tasks: Path, own: Path) -> None:
    plan = load(LINES.format("", "vanilla, config: fewshot_0"))
    dataset = plan.experiments[0].dataset
    assert (dataset.path, dataset.format, dataset.task, dataset.is_the_tasks) == (str(own), None, "sums_hard", True)
    assert preflight.check(plan, access=False) == []
    own.write_text('{"problem": "2?"}\nnonsense\n[]\n')
    assert [mistake.split(": ", 2)[2] for mistake in preflight.check(plan, access=False)] == [
        f"{own}:2: expected one JSON object per line, got Expecting value: line 1 column 1 (char 0)",
        f"{own}:3: expected one JSON object per line",
    ]
    own.write_text("\n")
    assert preflight.check(plan, access=False)[0].endswith("own.jsonl is empty")


def test_a_written_format_still_converts_for_a_task(load: Load, bad: Bad, tasks: Path, own: Path) -> None:
    own.write_text('{"question": "2?", "answer": "2"}\n')
    plan = load(LINES.format(", format: gsm8k", "vanilla, config: fewshot_0"))
    assert (plan.experiments[0].dataset.format, plan.experiments[0].dataset.is_the_tasks) == ("gsm8k", False)
    plan = load(LINES.format(", dev_share: 0.5", "vanilla, config: fewshot_0"))
    assert plan.experiments[0].dataset.format == "gsm8k"


def test_lines_of_a_task_are_not_trained_on(bad: Bad, tasks: Path, own: Path) -> None:
    (mistake,) = bad(LINES.format("", "sft, config: lora/train"))
    assert (
        "gives its lines to an lm-eval task as they are, for evaluation only; sft needs one with `format:`" in mistake
    )


def test_builtin_names_are_sound() -> None:
    known = definitions.builtin()
    assert set(known.models) == {"qwen3-4b", "qwen3-0.6b", "llama-3.2-3b", "unsay-tiny"}
    assert set(known.datasets) == {"gsm8k", "wordproblems"}
    assert known.models["unsay-tiny"].path.endswith("unsay/assets/unsay-tiny")
    assert definitions.templates() == ("llama3", "plain", "qwen3_nothink")


# -- planted mistakes, and words --------------------------------------------------

UNDO = "model: qwen3-0.6b, dataset: gsm8k, method: sft, config: lora/train_bt"


def test_a_planted_mistake_is_a_decoding_and_shares_the_training(load: Load) -> None:
    plan = load(f"experiments: [{{{UNDO}}}, {{{UNDO}, decode: {{plant: future_step, plant_twin: true}}}}]")
    plain, planted = plan.experiments
    assert planted.config == "lora/train_bt+plant-future_step+twin-on"
    assert planted.train_folder == plain.train_folder
    assert config.experiment_from_json(config.experiment_to_json(planted)) == planted


def test_corrections_in_words_are_a_training_of_their_own(load: Load) -> None:
    (words,) = load(f"experiments: [{{{UNDO}, undo: {{say: words}}}}]").experiments
    assert words.config == "lora/train_bt+say-words"
    assert words.train_folder == words.folder


@pytest.mark.parametrize(
    ("line", "mistake"),
    [
        ("decode: {plant: arithmetic_slips}", "did you mean 'arithmetic_slip'"),
        ("decode: {plant: own_samples}", "plant takes a strategy that needs no options of its own"),
        ("decode: {plant_twin: true}", "plant_twin needs a mistake to be the twin of"),
        ("undo: {say: words, context: rewind}", "stays in the context; remove `context: rewind`"),
        ("undo: {say: words, mask: repeats}", "mask repeats weighs undo tokens, and words are none"),
        ("undo: {say: word}", "say must be one of tokens, words"),
    ],
)
def test_mistakes_about_planted_mistakes_and_words(bad: Bad, line: str, mistake: str) -> None:
    assert mistake in bad(f"experiments: [{{{UNDO}, {line}}}]")[0]
