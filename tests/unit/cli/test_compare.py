"""`unsay compare`: right numbers, refusals where they would mean nothing, and everything said that one must know."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from markdown_it import MarkdownIt
from rich.console import Console

import unsay
from tests.unit.lab import ARMS, ITEMS, Arm, change_record, make, set_right
from unsay import cli, stats
from unsay.metrics.bleu import Bleu
from unsay.records import Sample
from unsay.report import sheets, terminal
from unsay.report.compare import Options, sides
from unsay.report.compare import compare as compared
from unsay.store import layout, read, write

STRICT, FLEXIBLE = "exact_match_strict", "exact_match_flexible"
HOSTILE = "a_b&c%d$e#f{g}h~i^j\\k|l<m>[n]*o*`p`--q\x1b[31m\u202er"
Compare = Callable[..., tuple[int, str, str]]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "outputs"


@pytest.fixture
def pair(lab: Path) -> tuple[Path, Path]:
    """EXP-003 and EXP-004: the same model fine-tuned without and with undo."""
    return make(lab, ARMS[2]), make(lab, ARMS[3])


@pytest.fixture
def compare(lab: Path, capsys: pytest.CaptureFixture[str]) -> Compare:
    def run(*words: str) -> tuple[int, str, str]:
        code = cli.main(["compare", *words])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def document(compare: Compare) -> Callable[..., dict[str, Any]]:
    """Return the one comparison of two experiments."""

    def run(*words: str) -> dict[str, Any]:
        code, out, err = compare(*words, "--json")
        assert code == 0, err
        found = json.loads(out)
        assert found["schema"] == 1
        (one,) = found["comparisons"]
        return dict(one)

    return run


def metric(one: dict[str, Any], name: str = STRICT) -> dict[str, Any]:
    return next(each for each in one["metrics"] if each["metric"] == name)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / layout.SCORES).read_text().splitlines()]


def write_lines(folder: Path, lines: list[dict[str, Any]]) -> None:
    write.write_bytes(folder / layout.SCORES, b"".join(map(write.json_line, lines)))


def change_metrics(folder: Path, name: str, **changes: Any) -> None:
    found = json.loads((folder / layout.METRICS).read_text())
    found["metrics"][name] |= changes
    write.write_json(folder / layout.METRICS, found)


# -- numbers ----------------------------------------------------------------------


def test_the_difference_is_the_other_minus_the_baseline(pair: tuple[Path, Path], document: Any, compare: Any) -> None:
    set_right(pair[0], [item < 100 for item in range(ITEMS)])
    set_right(pair[1], [2 <= item < 110 for item in range(ITEMS)])
    one = document("EXP-003", "EXP-004")
    strict = metric(one)
    assert one["difference"] == "EXP-004 minus EXP-003"
    assert (strict["diff"], strict["only_other"], strict["only_baseline"]) == (pytest.approx(4.0), 10, 2)
    assert strict["neither"] == ITEMS - 110
    assert strict["items"]["only_other"] == [str(item) for item in range(100, 110)]
    assert strict["items"]["only_baseline"] == ["0", "1"]
    assert metric(document("EXP-004", "EXP-003"))["diff"] == pytest.approx(-4.0)
    _, out, _ = compare("EXP-003", "EXP-004")
    assert "EXP-004 minus EXP-003" in out
    assert "EM (strict), gained 10: 100, 101, 102" in out
    assert "EM (strict), lost 2: 0, 1" in out


def test_what_can_be_found_is_at_the_level_of_the_family(
    pair: tuple[Path, Path], lab: Path, document: Any, compare: Compare
) -> None:
    """One of two comparisons has to be below 0.025 to count, so what it finds has to be larger."""
    make(lab, ARMS[0])
    one = metric(json.loads(compare("EXP-003", "EXP-004", "EXP-001", "--json")[1])["comparisons"][0])
    alone = metric(document("EXP-003", "EXP-004"))
    assert (one["family"], alone["family"]) == (2, 1)
    levels = scipy.stats.norm.ppf([1 - 0.05 / 4, 0.8]).sum(), scipy.stats.norm.ppf([0.975, 0.8]).sum()
    assert one["smallest"] / alone["smallest"] == pytest.approx(levels[0] / levels[1])


def test_every_number_is_scipys(pair: tuple[Path, Path], document: Any) -> None:
    one = document("EXP-003", "EXP-004", "--equivalence", "9")
    for name in (STRICT, "bleu4_lf"):
        a, b = (np.array([line["scores"][name] for line in lines_of(folder)]) for folder in pair)
        found, gains = metric(one, name), b - a
        assert found["n"] == ITEMS
        assert found["diff"] == pytest.approx(gains.mean(), abs=1e-9)
        assert found["stderr"] == pytest.approx(scipy.stats.sem(gains))
        low, high = scipy.stats.norm.interval(0.95, loc=gains.mean(), scale=scipy.stats.sem(gains))
        assert (found["low"], found["high"]) == pytest.approx((low, high))
        assert (found["bootstrap_low"], found["bootstrap_high"]) == pytest.approx((low, high), abs=0.35)
        assert found["smallest"] == pytest.approx(scipy.stats.sem(gains) * (scipy.stats.norm.ppf([0.975, 0.8]).sum()))
        sides = [scipy.stats.norm.sf((9 + sign * gains.mean()) / scipy.stats.sem(gains)) for sign in (1, -1)]
        assert found["equivalence"]["p"] == pytest.approx(max(sides))
        for level, scores in ((found["baseline"], a), (found["other"], b)):
            assert level["value"] == pytest.approx(scores.mean())
            assert level["stderr"] == pytest.approx(scipy.stats.sem(scores))
    strict, bleu = metric(one), metric(one, "bleu4_lf")
    n = strict["only_other"] + strict["only_baseline"]
    assert strict["p"] == pytest.approx(scipy.stats.binomtest(strict["only_other"], n).pvalue, rel=1e-9)
    right = sum(line["scores"][STRICT] for line in lines_of(pair[1])) / 100
    wilson = scipy.stats.binomtest(int(right), ITEMS).proportion_ci(method="wilson")
    assert (strict["other"]["low"], strict["other"]["high"]) == pytest.approx((100 * wilson.low, 100 * wilson.high))
    assert (bleu["test"], bleu["only_other"], bleu["items"]) == ("paired bootstrap", None, None)
    assert bleu["p"] > 0.8


def test_a_number_does_not_depend_on_the_other_metrics(pair: tuple[Path, Path], document: Any) -> None:
    alone = document("EXP-003", "EXP-004", "--metric", "bleu4_lf")
    assert [each["metric"] for each in alone["metrics"]] == ["bleu4_lf"]
    assert metric(alone, "bleu4_lf") == metric(document("EXP-003", "EXP-004"), "bleu4_lf")


def test_corpus_bleu_is_resampled_on_its_counts(pair: tuple[Path, Path], document: Any) -> None:
    for folder in pair:
        answers = list(read.predictions(folder))
        samples = [Sample(str(at), "", line["label"], line["predict"]) for at, line in enumerate(answers)]
        value = Bleu().summarise(Bleu().measure(samples))["bleu"]
        change_metrics(folder, "bleu", **{"reason": None, **value.to_json()})
    found = metric(document("EXP-003", "EXP-004"), "bleu")
    values = [read.metrics(folder)["bleu"].value or 0 for folder in pair]
    assert [found["baseline"]["value"], found["other"]["value"]] == pytest.approx(values)
    assert found["diff"] == pytest.approx(values[1] - values[0])
    assert found["low"] < found["diff"] < found["high"]
    change_metrics(pair[0], "bleu", value=values[0] + 1)
    one = document("EXP-003", "EXP-004")
    reasons = {each["metric"]: each["reason"] for each in one["not_compared"]}
    assert "its predictions give" in reasons["bleu"]


def test_p_is_adjusted_for_the_comparisons_of_one_metric(lab: Path, pair: Any, compare: Any) -> None:
    make(lab, ARMS[0])
    _, out, _ = compare("EXP-003", "EXP-004", "EXP-001", "--json")
    found = json.loads(out)["comparisons"]
    assert [one["difference"] for one in found] == ["EXP-004 minus EXP-003", "EXP-001 minus EXP-003"]
    p_values = [metric(one)["p"] for one in found]
    assert [metric(one)["p_holm"] for one in found] == pytest.approx([max(p_values), 2 * min(p_values)])
    assert all(metric(one)["family"] == 2 for one in found)
    _, out, _ = compare("EXP-003", "EXP-004", "EXP-001", "--all-pairs", "--json")
    assert [one["difference"] for one in json.loads(out)["comparisons"]] == [
        "EXP-004 minus EXP-003",
        "EXP-001 minus EXP-003",
        "EXP-001 minus EXP-004",
    ]


def test_equivalence_is_not_the_absence_of_a_difference(pair: tuple[Path, Path], compare: Any) -> None:
    for folder in pair:
        set_right(folder, [item % 2 == 0 for item in range(ITEMS)])
    line = lines_of(pair[1])
    for item in (1, 3):
        line[item]["scores"][STRICT] = 100.0
    write_lines(pair[1], line)
    _, out, _ = compare("EXP-003", "EXP-004", "--equivalence", "5", "--metric", STRICT)
    assert re.search(r"EM \(strict\) .* yes, p = ", out)
    _, out, _ = compare("EXP-003", "EXP-004", "--equivalence", "1.5", "--metric", STRICT)
    assert re.search(r"EM \(strict\) .* no, p = ", out)
    assert "No is not evidence of a difference" in out
    assert compare("EXP-003", "EXP-004", "--equivalence", "0")[0] == 2


def test_one_item_has_a_difference_and_no_error(pair: tuple[Path, Path], document: Any, compare: Any) -> None:
    for folder, right in zip(pair, (False, True), strict=True):
        set_right(folder, [right])
    found = metric(document("EXP-003", "EXP-004"))
    assert (found["n"], found["diff"], found["stderr"], found["smallest"]) == (1, 100.0, None, None)
    assert found["p"] == 1.0
    code, out, _ = compare("EXP-003", "EXP-004", "--equivalence", "2")
    assert code == 0
    assert "nan" not in out


@pytest.fixture(scope="module")
def released(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a lab with the four systems that GSM8K's authors released, imported from their file."""
    source = data_folder / "acceptance" / "gsm8k-model-solutions"
    if not source.is_dir():
        pytest.skip(f"needs {source}")
    lab = tmp_path_factory.mktemp("released") / "outputs"
    words = ["import", str(source), "--marker", "A:", "--output-dir", str(lab), "--processes", "1"]
    assert cli.main(words) == 0
    return lab


def test_the_released_systems_differ_as_is_known(released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = {entry.record.model: entry.name for entry in read.find(released) if entry.record is not None}
    correct = {"6b_finetuning": 286, "6b_verification": 515, "175b_finetuning": 458, "175b_verification": 742}
    assert ids.keys() == correct.keys()
    capsys.readouterr()
    words = ["compare", ids["175b_finetuning"], ids["6b_verification"], ids["6b_finetuning"], ids["175b_verification"]]
    assert cli.main([*words, "--output-dir", str(released), "--json"]) == 0
    first, *others = json.loads(capsys.readouterr().out)["comparisons"]
    found = metric(first)
    assert found["n"] == 1319
    assert found["diff"] == pytest.approx(4.32, abs=0.005)
    assert found["stderr"] == pytest.approx(1.436, abs=0.0005)
    assert (found["only_other"], found["only_baseline"]) == (209, 152)
    assert found["p"] == pytest.approx(0.00315, abs=0.000005)
    assert (found["bootstrap_low"], found["bootstrap_high"]) == pytest.approx((1.4, 7.1), abs=0.1)
    assert metric(first, FLEXIBLE)["diff"] == found["diff"]
    for one in (first, *others):
        other = one["other"]["model"]
        assert metric(one)["other"]["value"] == pytest.approx(100 * correct[other] / 1319)
        assert metric(one)["family"] == 3
    assert "unknown: " in first["protocol"][0]


def test_a_count_is_no_percentage(pair: tuple[Path, Path], document: Any) -> None:
    """Scores of 0 and 100 of a metric that counts are neither right nor wrong, and its interval has no upper end."""
    for folder, high in zip(pair, (100.0, 300.0), strict=True):
        lines = lines_of(folder)
        for line in lines:
            line["scores"]["sampled_tokens"] = high * (int(line["item"]) % 2)
        write_lines(folder, lines)
    found = metric(document("EXP-003", "EXP-004", "--equivalence", "5"), "sampled_tokens")
    assert found["diff"] == pytest.approx(100.0)
    assert (found["test"], found["only_other"], found["equivalence"]) == ("paired bootstrap", None, None)
    assert found["other"]["high"] > 150
    assert "average 50" not in str(found["remarks"])
    assert found["remarks"] == ["mean over answers; on the page it is a ratio of sums"]


def test_an_answer_that_was_scored_several_times_counts_once(pair: tuple[Path, Path], document: Any) -> None:
    lines = lines_of(pair[1])
    again = [line | {"scores": {STRICT: 100.0 - line["scores"][STRICT]}} for line in lines[:50]]
    write_lines(pair[1], lines + again)
    found = metric(document("EXP-003", "EXP-004"))
    assert found["n"] == ITEMS
    assert (found["test"], found["only_other"]) == ("paired bootstrap", None)


# -- refused ----------------------------------------------------------------------


def test_other_items_and_references_are_refused(pair: tuple[Path, Path], compare: Any) -> None:
    lines = lines_of(pair[1])
    for change, said in (
        ({"label": "0" * 16}, "expected the same references, got other references for 1 of 200 items"),
        ({"question": "0" * 16}, "expected the same questions, got other questions for 1 of 200 items"),
        ({"item": "another"}, "199 of them in both"),
    ):
        write_lines(pair[1], [*lines[:-1], lines[-1] | change])
        code, out, err = compare("EXP-003", "EXP-004")
        assert (code, out) == (1, "")
        assert said in err
        assert "--intersect to compare on the 199 that agree" in err


def test_a_metric_with_another_definition_is_left_out_and_the_others_are_compared(
    pair: tuple[Path, Path], document: Any, compare: Any
) -> None:
    change_metrics(pair[1], STRICT, definition="lm-eval gsm8k v2 strict-match")
    one = document("EXP-003", "EXP-004")
    assert FLEXIBLE in [each["metric"] for each in one["metrics"]]
    assert STRICT not in [each["metric"] for each in one["metrics"]]
    reasons = {each["metric"]: each["reason"] for each in one["not_compared"]}
    assert "v3 strict-match' in EXP-003" in reasons[STRICT]
    assert "v2 strict-match' in EXP-004" in reasons[STRICT]
    code, out, err = compare("EXP-003", "EXP-004", "--metric", STRICT)
    assert (code, out) == (1, "")
    assert "no metric that could be compared item by item" in err
    assert "expected one definition" in err


def test_results_without_scores_per_item_are_refused(pair: tuple[Path, Path], compare: Any) -> None:
    (pair[1] / layout.SCORES).unlink()
    assert compare("EXP-003", "EXP-004")[0] == 0, "the samples of lm-eval are there"
    next(pair[1].glob("samples_*")).unlink()
    code, _, err = compare("EXP-003", "EXP-004")
    assert code == 1
    assert "EXP-004 has no scores per item" in err
    assert "Run it again, or import it" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["EXP-003", "EXP-003"], "two different experiments"),
        (["EXP-003"], "two different experiments"),
        (["EXP-003", "EXP-010"], "EXP-010 is failed, expected a completed experiment"),
        (["EXP-003", "EXP-999"], "no experiment has the id or folder"),
        (["EXP-003", "EXP-004", "--metric", "exact_match_strickt"], "Did you mean exact_match_strict"),
    ],
)
def test_what_cannot_be_compared_says_why(lab: Path, pair: Any, compare: Any, words: list[str], said: str) -> None:
    make(lab, ARMS[5])
    code, out, err = compare(*words)
    assert (code, out) == (1, "")
    assert said in err
    assert "Traceback" not in err


# -- on the items that agree ------------------------------------------------------


def test_intersect_compares_what_agrees_and_lists_the_rest(
    pair: tuple[Path, Path], document: Any, compare: Any
) -> None:
    lines = lines_of(pair[1])
    lines[0]["label"] = "0" * 16
    lines[1]["question"] = "0" * 16
    lines[2]["question"] = None  # unknown is no disagreement
    write_lines(pair[1], [*lines[:150], lines[199] | {"item": "another"}])
    one = document("EXP-003", "EXP-004", "--intersect")
    assert one["n"] == metric(one)["n"] == 148
    assert one["left_out"]["other"] == ["0", "1", "another"]
    assert one["left_out"]["baseline"] == ["0", "1", *map(str, range(150, 200))]
    _, out, _ = compare("EXP-003", "EXP-004", "--intersect")
    assert "LEFT OUT: compared on 148 items that agree in both; left out: 52 of EXP-003, 3 of EXP-004" in out
    assert "the questions of EXP-004 are not known (1 items)" in out


def test_no_item_in_common_is_refused_with_and_without_intersect(pair: tuple[Path, Path], compare: Any) -> None:
    write_lines(pair[1], [line | {"item": f"q{line['item']}"} for line in lines_of(pair[1])])
    for words in ([], ["--intersect"]):
        code, out, err = compare("EXP-003", "EXP-004", *words)
        assert (code, out) == (1, "")
        assert "No item agrees" in err


def test_a_limited_run_is_said_loudly_and_needs_intersect(lab: Path, pair: Any, document: Any, compare: Any) -> None:
    make(lab, ARMS[4])
    folder = ARMS[4].folder
    assert compare("EXP-003", folder)[0] == 1
    one = document("EXP-003", folder, "--intersect")
    assert one["n"] == 20
    assert one["limited"] == ["EXP-004 is a limited run: 20 of 200 items, not a result of the whole set"]
    _, out, _ = compare("EXP-003", folder, "--intersect")
    assert out.splitlines()[1].startswith("LIMITED: EXP-004 is a limited run: 20 of 200")
    _, _, err = compare("EXP-003", folder, "--intersect", "--format", "csv")
    assert "LIMITED" in err, "a table of numbers has no place for it"


def test_scores_of_a_part_of_the_items_are_said_loudly(pair: tuple[Path, Path], document: Any) -> None:
    for folder in pair:
        write_lines(folder, lines_of(folder)[:3])
    assert document("EXP-003", "EXP-004")["limited"] == [
        "EXP-003 has the scores of 3 of 200 items only",
        "EXP-004 has the scores of 3 of 200 items only",
    ]


# -- what differs -----------------------------------------------------------------


def test_another_protocol_is_said_first_and_strict_refuses_it(lab: Path, pair: Any, compare: Any) -> None:
    make(lab, ARMS[0])
    code, out, _ = compare("EXP-003", "EXP-001")
    assert code == 0
    assert "PROTOCOL: differs: num_fewshot 8 instead of 0" in out
    assert "PROTOCOL: differs: max_new_tokens 256 instead of 512" in out
    assert out.index("PROTOCOL") < out.index("EM (strict)")
    code, out, err = compare("EXP-003", "EXP-001", "--strict")
    assert (code, out) == (1, "")
    assert "num_fewshot 8 instead of 0" in err
    code, out, _ = compare("EXP-003", "EXP-004", "--strict")
    assert code == 0
    assert "PROTOCOL" not in out
    assert "settings: undo data in only one" in out


def test_another_model_is_the_subject_and_no_reason_to_refuse(lab: Path, compare: Any) -> None:
    make(lab, ARMS[0])
    make(lab, ARMS[1])
    code, out, _ = compare("EXP-001", "EXP-002", "--strict")
    assert code == 0
    assert "settings: model qwen3-0.6b instead of qwen3-4b" in out


def test_other_prompts_under_the_same_settings_are_noticed(pair: tuple[Path, Path], document: Any) -> None:
    answers = [line | {"prompt": f"Now: {line['prompt']}"} for line in read.predictions(pair[1])]
    write.write_bytes(pair[1] / layout.PREDICTIONS, b"".join(map(write.json_line, answers)))
    assert document("EXP-003", "EXP-004")["protocol"] == ["differs: the prompt of 200 of 200 items"]
    record = read.record(pair[1])
    assert record is not None
    settings = json.loads(json.dumps(record.spec["settings"]))
    settings["decode"]["max_new_tokens"] = 64
    change_record(pair[1], spec={"settings": settings})
    assert document("EXP-003", "EXP-004")["protocol"] == [
        "differs: max_new_tokens 64 instead of 512",
        "differs: the prompt of 200 of 200 items",
    ]


def test_what_an_import_does_not_know_is_unknown_and_not_different(pair: tuple[Path, Path], document: Any) -> None:
    settings = {"prompting": {"num_fewshot": 0}, "decode": {"do_sample": False, "max_new_tokens": 512}}
    change_record(
        pair[1],
        imported={"tool": "LLaMA-Factory", "files": [], "part": "x"},
        spec={"settings": settings},
        warnings=("the template is not known",),
    )
    one = document("EXP-003", "EXP-004")
    assert one["protocol"] == ["unknown: stop, apply_chat_template of the other"]
    assert "tool LLaMA-Factory instead of unknown" in one["versions"]
    assert {"experiment": "EXP-004", "warning": "the template is not known"} in one["warnings"]
    assert one["settings"] == []


def test_other_versions_and_data_are_said(pair: tuple[Path, Path], document: Any) -> None:
    record = read.record(pair[1])
    assert record is not None
    attempt = replace(record.attempts[-1], versions={"torch": "2.14.0"})
    change_record(pair[1], attempts=(attempt,), dataset="gsm8k-copy", spec=record.spec | {"dataset": {"revision": "b"}})
    one = document("EXP-003", "EXP-004")
    assert one["versions"] == ["torch 2.14.0 instead of 2.13.0"]
    assert one["data"] == ["dataset gsm8k-copy instead of gsm8k", "dataset.revision b instead of None"]


# -- seeds ------------------------------------------------------------------------


@pytest.fixture
def seeds(lab: Path) -> Path:
    for seed in range(3):
        right = 0.4 + 0.1 * seed
        make(lab, Arm(f"EXP-10{seed}", method="sft", config="lora/train", seed=seed, seeded=True, right=right))
        make(lab, Arm(f"EXP-20{seed}", method="sft", config="lora/train_bt", seed=seed, seeded=True, right=right + 0.1))
    return lab


@pytest.mark.parametrize(
    "words",
    [
        ["EXP-100", "EXP-200"],
        ["EXP-102", "EXP-101", "EXP-201"],
        ["qwen3-4b/gsm8k/sft/lora/train", "outputs/qwen3-4b/gsm8k/sft/lora/train_bt/"],
    ],
)
def test_the_seeds_of_an_experiment_are_one_side(seeds: Path, document: Any, words: list[str]) -> None:
    one = document(*words)
    assert one["baseline"]["experiments"] == ["EXP-100", "EXP-101", "EXP-102"]
    assert one["other"]["seeds"] == [0, 1, 2]
    found = metric(one)
    means = {
        name: [
            np.mean([line["scores"][STRICT] for line in lines_of(seeds / folder)]) for folder in one[name]["folders"]
        ]
        for name in ("baseline", "other")
    }
    for name, values in means.items():
        assert found[name]["value"] == pytest.approx(np.mean(values))
        assert found[name]["sd"] == pytest.approx(np.std(values, ddof=1))
        assert found[name]["seeds"] == 3
    assert found["diff"] == pytest.approx(np.mean(means["other"]) - np.mean(means["baseline"]))
    assert found["low"] < found["diff"] < found["high"]
    assert (found["test"], found["only_other"]) == ("t test over seeds and questions", None)
    assert one["protocol"] == []


def test_seeds_that_decode_the_same_trainings_are_paired_by_them(seeds: Path, document: Any) -> None:
    def answer_of(config: str, training: str) -> None:
        for folder in one[config]["folders"]:
            record = read.record(seeds / folder)
            assert record is not None
            change_record(seeds / folder, hashes=record.hashes | {"train": f"{training} {record.seed}"})

    one = document("EXP-100", "EXP-200")
    apart = {found["metric"]: found for found in one["metrics"]}
    answer_of("baseline", "the one")
    answer_of("other", "the other")
    assert metric(document("EXP-100", "EXP-200"))["test"] == "t test over seeds and questions"
    answer_of("other", "the one")
    together = {found["metric"]: found for found in document("EXP-100", "EXP-200")["metrics"]}
    assert {found["test"] for found in together.values()} == {"t test over seeds and questions, paired by training"}
    assert all(together[name]["diff"] == pytest.approx(apart[name]["diff"]) for name in apart)
    assert any(together[name]["p"] != apart[name]["p"] for name in apart)


def test_a_single_training_has_the_chance_of_the_other_seeds(seeds: Path, document: Any) -> None:
    folder = make(seeds, Arm("EXP-300", method="sft", config="lora/other"))
    trained = metric(document("EXP-300", "EXP-200"))
    change_record(folder, method="vanilla")
    as_it_is = metric(document("EXP-300", "EXP-200"))
    assert trained["diff"] == as_it_is["diff"]
    assert trained["stderr"] > as_it_is["stderr"]


def test_what_little_seeds_know_is_counted(seeds: Path, document: Any) -> None:
    """Degrees of freedom stand beside the errors; the wider one of both intervals counts."""
    found = metric(document("EXP-100", "EXP-200"))
    halves = [
        error["stderr"] * stats.student_quantile(0.975, math.inf if error["df"] is None else error["df"])
        for error in found["errors"]
    ]
    assert len(halves) == 2
    assert (found["high"] - found["low"]) / 2 == pytest.approx(max(halves))
    assert max(halves) > 2.5 * found["stderr"]
    assert (found["bootstrap_low"], found["bootstrap_high"]) == (None, None)


def test_seeds_can_be_taken_one_by_one(seeds: Path, document: Any, compare: Any) -> None:
    one = document("EXP-100", "EXP-101", "--each-seed")
    assert one["difference"] == "EXP-101 minus EXP-100"
    assert metric(one)["test"] == "exact McNemar"
    code, _, err = compare("EXP-100", "EXP-101")
    assert code == 1
    assert "seeds 0, 1, 2 of one" in err
    assert "--each-seed" in err


def test_a_group_against_a_single_run_has_no_noise_of_seeds_on_one_side(seeds: Path, compare: Any) -> None:
    make(seeds, ARMS[0])
    code, out, _ = compare("EXP-001", "EXP-100", "-m", STRICT)
    assert code == 0
    assert "EXP-100 (3 seeds) minus EXP-001" in out
    assert re.search(r"83\.50 ± 2\.63 .* ± \d+\.\d\d \(3 seeds\)", out)
    assert "sd over seeds" in out


def test_seeds_that_are_not_set_up_alike_are_said(seeds: Path, document: Any) -> None:
    folder = seeds / "qwen3-4b/gsm8k/sft/lora/train/seed_1"
    record = read.record(folder)
    assert record is not None
    settings = json.loads(json.dumps(record.spec["settings"]))
    settings["training"]["lora_rank"] = 16
    change_record(folder, spec={"settings": settings})
    assert document("EXP-100", "EXP-200")["protocol"] == [
        "the seeds of EXP-100 (3 seeds) are not set up alike: another training in EXP-101"
    ]


def test_seeds_of_other_versions_are_said(seeds: Path, document: Any) -> None:
    folder = seeds / "qwen3-4b/gsm8k/sft/lora/train_bt/seed_2"
    record = read.record(folder)
    assert record is not None
    change_record(folder, attempts=(replace(record.attempts[-1], versions={"torch": "2.14.0"}),))
    assert document("EXP-100", "EXP-200")["versions"] == [
        "torch 2.14.0 instead of 2.13.0 among the seeds of EXP-200 (3 seeds), in EXP-202"
    ]


# -- formats ----------------------------------------------------------------------


def test_items_are_listed_with_the_last_line_of_their_question(pair: tuple[Path, Path], compare: Any) -> None:
    set_right(pair[0], [item < 100 for item in range(ITEMS)])
    set_right(pair[1], [item < 120 for item in range(ITEMS)])
    for folder in pair:
        next(folder.glob("samples_*")).unlink()
    answers = [line | {"prompt": f"Shots\n\n{line['prompt']} \x1b[2J\n"} for line in read.predictions(pair[1])]
    write.write_bytes(pair[1] / layout.PREDICTIONS, b"".join(map(write.json_line, answers)))
    _, out, _ = compare("EXP-003", "EXP-004", "--metric", STRICT, "--items")
    assert "EM (strict), gained 20 (only EXP-004 right)" in out
    assert "  119: Question 119? ␛[2J" in out
    assert "EM (strict), both wrong 80 (neither right)" in out
    assert "\x1b" not in out


@pytest.mark.parametrize("width", [60, 80, 120, 400])
def test_tables_are_cut_to_the_terminal_and_lose_nothing(pair: tuple[Path, Path], lab: Path, width: int) -> None:
    entries = read.find(lab)
    (one,) = compared(sides(entries, entries), Options())
    whole = sheets.changes(one)
    parts = terminal.fitting(whole, width)
    assert [name for part in parts for name in part.header[1:]] == list(whole.header[1:])
    assert len(parts) == 1 or width < 150
    for part in parts:
        console = Console(file=io.StringIO(), width=width)
        console.print(terminal.sheet(part))
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        assert all(len(line) <= width for line in shown.splitlines())
        assert all(cell in shown for row in part.rows for cell in row[1:])


def test_csv_has_a_record_per_pair_and_metric_and_no_formulas(pair: tuple[Path, Path], compare: Any) -> None:
    change_record(pair[0], id="=cmd|'/c calc'!A0")
    change_metrics(pair[0], STRICT, definition="+1\n@x")
    change_metrics(pair[1], STRICT, definition="+1\n@x")
    _, out, _ = compare("=cmd|'/c calc'!A0", "EXP-004", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["metric"] for row in rows] == [STRICT, FLEXIBLE, "bleu4_lf", "sampled_tokens"]
    assert {row["baseline"] for row in rows} == {"'=cmd|'/c calc'!A0"}
    assert rows[0]["definition"] == "'+1 @x"
    assert float(rows[0]["diff"]) == pytest.approx(8.5)
    assert rows[0]["p"] == repr(scipy.stats.binomtest(8, 33).pvalue) or float(rows[0]["p"]) == pytest.approx(
        0.00455, abs=1e-5
    )


def test_hostile_names_stay_text_in_every_format(lab: Path, pair: Any, compare: Any) -> None:
    change_record(pair[0], id=HOSTILE, model=HOSTILE)
    code, out, _ = compare(HOSTILE, "EXP-004")
    assert code == 0
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", out)

    _, out, _ = compare(HOSTILE, "EXP-004", "--format", "latex")
    table = [line for line in out.splitlines() if not line.startswith("%")]
    escaped = (
        r"a\_b\&c\%d\$e\#f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}k\textbar{}l\textless{}m"
        r"\textgreater{}{[}n{]}{*}o{*}\`{}p\`{}-{}-q␛{[}31m⟨U+202E⟩r"
    )
    assert sum(escaped in line for line in table) == 4
    assert len([line for line in table if line.endswith("\\\\")]) == 5
    assert len({len(re.findall(r"(?<!\\)&", line)) for line in table if line.endswith("\\\\")}) == 1
    assert all(line.startswith("% ") for line in out.splitlines() if line not in table)

    _, out, _ = compare(HOSTILE, "EXP-004", "--format", "markdown")
    html = MarkdownIt("commonmark").enable(["table"]).render(out)
    cells = re.findall(r"<td>(.*?)</td>", html)
    shown = "a_b&amp;c%d$e#f{g}h~i^j\\k|l&lt;m&gt;[n]*o*`p`--q␛[31m⟨U+202E⟩r"
    assert cells.count(shown) == 4
    assert "<code>" not in html
    assert "<em>" not in html


def test_output_says_the_format_by_its_name(lab: Path, pair: Any, compare: Any) -> None:
    for name, start in (("a.md", "- EXP-004"), ("a.csv", "other,baseline"), ("a.tex", "% EXP"), ("a.json", "{")):
        code, out, err = compare("EXP-003", "EXP-004", "--output", name)
        assert (code, out, err.strip().splitlines()[-1]) == (0, "", name)
        assert Path(name).read_text(encoding="utf-8").startswith(start)
    assert compare("EXP-003", "EXP-004", "--output", "a.txt")[0] == 2
    assert compare("EXP-003", "EXP-004", "--json", "--format", "csv")[0] == 2


def test_a_comparison_is_the_same_every_time(pair: tuple[Path, Path], compare: Any) -> None:
    assert compare("EXP-003", "EXP-004", "--json") == compare("EXP-003", "EXP-004", "--json")


def test_the_results_table_in_every_format(lab: Path, pair: Any, capsys: pytest.CaptureFixture[str]) -> None:
    change_record(pair[0], notes="=1+1", model="a_b")
    make(lab, ARMS[4])
    assert cli.main(["report", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["id"], row["limit"], row["items"]) for row in rows] == [
        ("EXP-003", "", "200"), ("EXP-004", "", "200"), ("EXP-004", "20", "20"),
    ]  # fmt: skip
    assert (rows[0]["notes"], rows[0]["model"]) == ("'=1+1", "a_b")
    assert float(rows[0][STRICT]) == 45.5
    assert float(rows[0][f"{STRICT}_stderr"]) == pytest.approx(3.53, abs=0.005)
    assert cli.main(["report", "--format", "latex"]) == 0
    out = capsys.readouterr().out
    assert r"EXP-003 & a\_b & gsm8k & sft & lora/train & 0 & 45.50 $\pm$ 3.53" in out
    assert out.count("EXP-004") == 1, "limited runs are no results"
    assert cli.main(["report", "--output", "table.md"]) == 0
    assert "| EXP-003 | a_b |" in Path("table.md").read_text(encoding="utf-8")
    assert not (lab.parent / layout.PAGE).exists(), "a table was asked for, not the page"


# -- starting up ------------------------------------------------------------------


def test_a_comparison_of_many_items_is_light_and_quick(lab: Path) -> None:
    """Two runs of GSM8K's size with 10,000 resamples; twice the two seconds it may take, for busy machines."""
    for arm in ARMS[2:4]:
        set_right(make(lab, arm), [(item * len(arm.config)) % 7 < 4 for item in range(1319)])
    code = (
        "import sys, time; from unsay.cli import main; start = time.process_time(); code = main(sys.argv[1:]); "
        "print(time.process_time() - start, file=sys.stderr); "
        "print([n for n in ('torch', 'transformers', 'scipy', 'lm_eval') if n in sys.modules], file=sys.stderr)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(unsay.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, "compare", "EXP-003", "EXP-004"]
    done = subprocess.run(command, cwd=lab.parent, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "1319" in done.stdout
    seconds, heavy = done.stderr.strip().splitlines()[-2:]
    assert float(seconds) < 4
    assert heavy == "[]"
