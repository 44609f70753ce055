"""Tasks other than GSM8K, from experiment file to metrics: lm-eval's own with formulas, and one of the user's own.

The bundled model answers generated word problems, some of them right, so the scores are neither all 0 nor all 100.
"""

from __future__ import annotations

import json
import re
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml

from unsay import config
from unsay.datasets.wordproblems import generate
from unsay.job import Job
from unsay.records import ExperimentRecord
from unsay.store import layout, read
from unsay.worker import carry_out

ITEMS = 10


def problems() -> list[dict[str, str]]:
    rows = []
    for line in islice(generate("test", ITEMS), ITEMS):
        final = re.findall(r"#### (.+)", line["answer"])[-1]
        rows.append({"problem": line["question"], "solution": f"So it is $\\boxed{{{final}}}$.", "answer": final})
    return [*rows, rows[0]]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(folder: Path, dataset: dict[str, Any], budget: int, **line: Any) -> tuple[Job, ExperimentRecord]:
    """Carry out one vanilla experiment of the bundled model on a dataset."""
    experiment = {"model": "unsay-tiny", "dataset": "d", "method": "vanilla", "config": "fewshot_0"} | line
    experiment["decode"] = {"max_new_tokens": budget}
    (folder / "lab.yaml").write_text(yaml.safe_dump({"datasets": {"d": dataset}, "experiments": [experiment]}))
    plan = config.load(folder / "lab.yaml", output_dir=folder / "outputs", check=True)
    job = Job(plan.experiments[0], plan.output_dir, device="cpu")
    outcome = carry_out(job, lambda event: None)
    assert outcome.status == "completed", outcome.error
    record = read.record(job.result_folder)
    assert record is not None
    return job, record


def results(job: Job, record: ExperimentRecord, task: str) -> dict[str, Any]:
    value = json.loads((job.result_folder / record.files["results"]).read_text(encoding="utf-8"))
    return dict(value["results"][task])


@pytest.fixture(scope="module")
def math500(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, ExperimentRecord]:
    folder = tmp_path_factory.mktemp("math500")
    write_lines(folder / "math500" / "test.jsonl", problems())
    return run(folder, {"task": "minerva_math500", "path": "./math500"}, budget=160)


def test_math500_from_a_folder_has_its_own_metrics(math500: Any) -> None:
    job, record = math500
    theirs, ours = results(job, record, "minerva_math500"), read.metrics(job.result_folder)
    for key in ("exact_match,none", "math_verify,none"):
        assert ours[key].value == pytest.approx(100 * theirs[key])
        assert ours[key].n == ITEMS + 1
        assert ours[key].definition == f"lm-eval minerva_math500 v3.1 {key}"
    verified = ours["math_verify,none"]
    assert verified.value is not None
    assert 0 < verified.value < 100  # the two ways to score do differ
    assert ours["exact_match,none"].value == 0
    assert verified.stderr == pytest.approx(100 * theirs["math_verify_stderr,none"])


def test_math500_says_why_it_has_no_exact_match_of_ours(math500: Any) -> None:
    job, _ = math500
    ours = read.metrics(job.result_folder)
    for name in ("exact_match_strict", "exact_match_flexible"):
        assert (ours[name].value, ours[name].reason) == (None, "minerva_math500 scores answers with code of its own")


def test_math500s_lines_reached_the_task_as_they_are(math500: Any) -> None:
    job, record = math500
    lines = list(read.samples(job.result_folder, record))
    assert [line["doc"]["problem"] for line in lines] == [row["problem"] for row in problems()]
    assert lines[0]["arguments"]["gen_args_0"]["arg_0"].count(f"Problem:\n{problems()[0]['problem']}\n\nSolution:") == 1
    assert {line["label"] for line in read.predictions(job.result_folder)} == {row["answer"] for row in problems()}


def test_every_item_has_its_scores(math500: Any) -> None:
    job, record = math500
    logged = {str(line["doc_id"]): 100.0 * line["math_verify"] for line in read.samples(job.result_folder, record)}
    scores = {line.item: line.scores for line in read.scores(job.result_folder)}
    assert {item: found["math_verify,none"] for item, found in scores.items()} == logged
    assert all("exact_match,none" in found and "exact_match_strict" not in found for found in scores.values())


def test_prompts_are_counted(math500: Any) -> None:
    job, record = math500
    found = record.facts["prompts"]
    cut = sum(trace.finish_reason == "max_steps" for trace in read.traces(job.result_folder))
    assert {name: value["count"] for name, value in found.items() if name != "n"} == {
        "answers_cut": cut, "prompts_cut": 0, "doubled_bos": 0, "own_shots": 0, "duplicated": 1,
    }  # fmt: skip
    assert all(value["of"] == ITEMS + 1 for name, value in found.items() if name != "n")
    asked_before = f"1 of {ITEMS + 1} questions had been asked before: an item that is there twice counts twice"
    assert asked_before in record.warnings
    assert record.facts["prompt_0"].startswith("<|im_start|>user\nProblem:\n")


def test_real_math500_problems_with_the_tasks_worked_examples(tmp_path: Path, data_folder: Path) -> None:
    samples = data_folder / "acceptance" / "lm_eval" / "math500-nt512"
    with next(samples.glob("samples_*.jsonl")).open(encoding="utf-8") as file:
        docs = [json.loads(line)["doc"] for line in islice(file, 3)]
    write_lines(tmp_path / "math500.jsonl", docs)
    dataset = {"task": "minerva_math500", "path": "./math500.jsonl"}
    job, record = run(tmp_path, dataset, budget=8, config="fewshot_4")
    ours = read.metrics(job.result_folder)
    assert {"exact_match,none", "math_verify,none"} <= set(ours)
    prompts = list(read.prompts(job.result_folder))
    assert [prompt.text.count("\n\nSolution:") for prompt in prompts] == [5, 5, 5]
    assert record.facts["prompts"]["own_shots"] == {"count": 0, "of": 3}


TASK = """
task: my_problems
dataset_path: nowhere/at_all
test_split: validation
doc_to_text: "Question: {{text}}\\nAnswer:"
doc_to_target: final
process_docs: !function mine.named
generation_kwargs: {until: ["Question:"]}
filter_list:
  - {name: strict-match, filter: [{function: regex, regex_pattern: "#### (.+)"}, {function: take_first}]}
  - {name: whole, filter: [{function: take_first}]}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_punctuation: true}
  - {metric: !function mine.share_of_digits, aggregation: mean, higher_is_better: true}
  - {metric: !function mine.length, aggregation: median, higher_is_better: false}
metadata: {version: 2.0}
"""
CODE = """
def named(dataset):
    return dataset.map(lambda doc: {"text": doc["problem"]})

def share_of_digits(references, predictions, **options):
    return sum(char.isdigit() for char in predictions[0]) / max(1, len(predictions[0]))

def length(references, predictions, **options):
    return len(predictions[0])
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, ExperimentRecord]:
    folder = tmp_path_factory.mktemp("mine")
    (folder / "tasks").mkdir()
    (folder / "tasks" / "mine.yaml").write_text(TASK)
    (folder / "tasks" / "mine.py").write_text(CODE)
    rows = [{"problem": row["problem"], "final": f"{row['answer']}."} for row in problems()[:ITEMS]]
    write_lines(folder / "own.jsonl", rows)
    return run(folder, {"task": "./tasks/mine.yaml", "path": "./own.jsonl"}, budget=160, config="fewshot_2")


def test_a_task_of_ones_own_has_all_its_metrics(mine: Any) -> None:
    job, record = mine
    theirs, ours = results(job, record, "my_problems"), read.metrics(job.result_folder)
    metrics = ("exact_match", "share_of_digits", "length")
    keys = {f"{metric},{filter}" for metric in metrics for filter in ("strict-match", "whole")}
    assert {name for name in ours if "," in name} == keys
    for key in keys:
        scale = 100 if key.startswith("exact_match") else 1  # other names are not known to be fractions
        assert ours[key].value == pytest.approx(scale * theirs[key])
    strict = ours["exact_match,strict-match"]
    assert strict.value is not None
    assert strict.value > 0  # full stops do not count
    assert (strict.low, strict.stderr) != (None, None)
    length = ours["length,whole"]
    assert length.low is None
    assert re.fullmatch(r"lm-eval my_problems v2 length,whole \(filter [0-9a-f]{8}\), unscaled", length.definition)
    assert length.reason == "lm-eval sums it up by median: no interval"


def test_exact_match_that_ours_cannot_follow_is_left_to_the_task(mine: Any) -> None:
    """Without that, the first answer that differs in a full stop would fail the run."""
    job, _ = mine
    strict = read.metrics(job.result_folder)["exact_match_strict"]
    assert strict.value is None
    assert strict.reason == "my_problems sets ignore_punctuation for exact match, which unsay does not compute"


def test_shots_come_from_the_scored_lines_and_never_show_the_question_itself(mine: Any) -> None:
    job, record = mine
    assert record.facts["prompts"]["own_shots"] == {"count": 0, "of": ITEMS}
    texts = [prompt.text for prompt in read.prompts(job.result_folder)]
    assert [text.count("Question:") for text in texts] == [3] * ITEMS
    assert (job.result_folder / layout.SCORES).stat().st_size
