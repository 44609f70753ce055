"""Published scores of other people's systems must come out again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from unsay import stats
from unsay.metrics import load, score
from unsay.records import Sample

SYSTEMS = {"6b_finetuning": 286, "6b_verification": 515, "175b_finetuning": 458, "175b_verification": 742}


def read_lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def gsm8k_systems(real_data: Path) -> dict[str, list[tuple[Sample, bool]]]:
    lines = read_lines(real_data / "acceptance" / "gsm8k-model-solutions" / "example_model_solutions.jsonl")

    def marked(text: str) -> str:
        return text.replace("\nA: ", "\n#### ")

    return {
        system: [
            (
                Sample(str(i), "", marked(str(line["ground_truth"])), marked(line[system]["solution"])),  # type: ignore[index]
                bool(line[system]["is_correct"]),  # type: ignore[index]
            )
            for i, line in enumerate(lines)
        ]
        for system in SYSTEMS
    }


@pytest.mark.parametrize("system", SYSTEMS)
def test_exact_match_of_four_released_systems(system: str, gsm8k_systems: dict[str, list[tuple[Sample, bool]]]) -> None:
    samples = [sample for sample, _ in gsm8k_systems[system]]
    published = [100.0 * correct for _, correct in gsm8k_systems[system]]
    assert len(samples) == 1319
    metric = load("exact_match")
    items = metric.items(samples)
    assert items["exact_match_strict"] == published
    assert items["exact_match_flexible"] == published
    for value in metric.summarise(metric.measure(samples)).values():
        assert value.value == pytest.approx(100 * SYSTEMS[system] / 1319)
        p = SYSTEMS[system] / 1319
        assert value.stderr == pytest.approx(100 * (p * (1 - p) / 1318) ** 0.5)


def test_paired_statistics_of_two_released_systems(gsm8k_systems: dict[str, list[tuple[Sample, bool]]]) -> None:
    a, b = (
        [100.0 * correct for _, correct in gsm8k_systems[system]] for system in ("6b_verification", "175b_finetuning")
    )
    found = stats.paired_difference(a, b)
    assert found.diff is not None
    assert found.stderr is not None
    assert round(found.diff, 2) == 4.32
    assert round(found.stderr, 3) == 1.436
    assert stats.discordant(a, b) == (209, 152)
    assert round(stats.mcnemar(*stats.discordant(a, b)).p, 5) == 0.00315
    spread = stats.bootstrap(np.array([a, b]).T, lambda totals: (totals[:, 0] - totals[:, 1]) / 1319, resamples=10_000)
    assert spread.value == pytest.approx(found.diff)
    assert spread.low == pytest.approx(1.4, abs=0.15)
    assert spread.high == pytest.approx(7.1, abs=0.15)
    assert spread.stderr == pytest.approx(1.436, abs=0.05)


def test_llamafactory_scores_of_7600_predictions(real_data: Path) -> None:
    folder = real_data / "acceptance" / "llamafactory" / "agnews-llama3.1-8b-sft"
    lines = read_lines(folder / "generated_predictions.jsonl")
    published = json.loads((folder / "predict_results.json").read_text())
    samples = [Sample(str(i), "", str(line["label"]), str(line["predict"])) for i, line in enumerate(lines)]
    assert len(samples) == 7600
    values = score(samples, [load("bleu4_lf"), load("rouge_lf")]).values
    assert {name: value.value for name, value in values.items()} == {
        "bleu4_lf": published["predict_bleu-4"],
        "rouge_1_lf": published["predict_rouge-1"],
        "rouge_2_lf": published["predict_rouge-2"],
        "rouge_l_lf": published["predict_rouge-l"],
    }
    assert values["bleu4_lf"].value == 95.83096180263159
