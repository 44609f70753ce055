"""Every example of the repository loads and plans without anything being there; the GSM8K one is the known page."""

# One bad file, or one row of the page, per line: long lines read best here.
# ruff: noqa: E501

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from unsay import config, planning
from unsay.settings import Training

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_every_example_loads_and_says_how_to_run_it() -> None:
    found = sorted(EXAMPLES.glob("*.yaml"))
    assert found
    for file in found:
        assert config.load(file).experiments
        assert file.read_text(encoding="utf-8").startswith(f"# unsay run examples/{file.name}\n")


def test_the_gsm8k_example_is_the_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    plan = config.load(EXAMPLES / "gsm8k.yaml")
    assert plan.output_dir == tmp_path / "outputs"
    rows = [(item.id, f"outputs/{item.folder}", item.title, item.notes) for item in plan.experiments]
    assert rows[:6] == [
        ("EXP-001", "outputs/qwen3-4b/gsm8k/vanilla/lm_eval/fewshot_8", "Qwen3-4B Vanilla Evaluation", "Baseline evaluation"),
        ("EXP-002", "outputs/qwen3-0.6b/gsm8k/vanilla/lm_eval/fewshot_8", "Qwen3-0.6B Vanilla Evaluation", "Smaller model comparison"),
        ("EXP-003", "outputs/qwen3-4b/gsm8k/sft/lora/train", "Qwen3-4B SFT with LoRA", "SFT with LoRA training"),
        ("EXP-004", "outputs/qwen3-4b/gsm8k/sft/lora/train_bt", "Qwen3-4B SFT with LoRA + Backtrack", "SFT with LoRA + backtrack"),
        ("EXP-005", "outputs/llama-3.2-3b/gsm8k/vanilla/lm_eval/fewshot_8", "Llama-3.2-3B-Instruct Vanilla Evaluation", "Llama baseline"),
        ("EXP-006", "outputs/qwen3-0.6b/gsm8k/sft/lora/train_bt", "Qwen3-0.6B SFT with LoRA + Backtrack", "SFT with LoRA + backtrack (0.6B)"),
    ]  # fmt: skip
    assert [item.id for item in plan.experiments[6:]] == ["EXP-007", "EXP-008"]
    masks = [item.settings.undo.mask for item in plan.experiments if item.settings.undo]
    assert masks == ["errors", "errors", "none", "none"]


def test_planning_rows_are_json_and_complete(tmp_path: Path) -> None:
    rows = planning.plan_lines(config.load(EXAMPLES / "gsm8k.yaml", output_dir=tmp_path))
    json.dumps(rows)
    assert rows[0]["changed"] == {"prompting.num_fewshot": 8, "decode.max_new_tokens": 256}
    assert rows[0]["decoding"] == "greedy, 256 new tokens"
    assert rows[3]["folder"] == str(tmp_path / "qwen3-4b/gsm8k/sft/lora/train_bt")
    assert (rows[3]["optimiser_steps"], rows[3]["train_rows"]) == (None, None)
    assert list(tmp_path.iterdir()) == []


def test_steps_are_counted_where_the_data_is_local(tmp_path: Path) -> None:
    for split, count in (("train", 100), ("test", 3)):
        (tmp_path / f"{split}.jsonl").write_text('{"question": "a", "answer": "b"}\n' * count)
    file = tmp_path / "lab.yaml"
    file.write_text(
        "datasets: {gsm8k: {path: .}}\n"
        "experiments: [{model: qwen3-4b, dataset: gsm8k, method: sft, config: lora/train_bt, max_samples: 70}]\n"
    )
    (row,) = planning.plan_lines(config.load(file, output_dir=tmp_path / "outputs"))
    assert (row["train_rows"], row["optimiser_steps"]) == (70, 9)
    assert row["changed"] == {"training.max_samples": 70, "undo.strategy": "random_tokens"}
    assert planning.optimiser_steps(Training(), 7473) == 702
    assert planning.optimiser_steps(Training(max_steps=80), 7473) == 80
    assert planning.optimiser_steps(Training(val_size=0.1), 7473) == 633
    assert planning.optimiser_steps(Training(num_train_epochs=0.5), 3) == 1


def test_planning_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pathlib import Path; from unsay import config, planning, preflight\n"
        f"plan = config.load(Path({str(EXAMPLES / 'gsm8k.yaml')!r})); planning.plan_lines(plan); preflight.check(plan)\n"
        "heavy = {'torch', 'transformers', 'lm_eval', 'scipy', 'numpy', 'datasets', 'huggingface_hub', 'peft'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
