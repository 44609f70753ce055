"""An evaluation of ours against stock lm-eval with its own `hf` model: same prompts, same answers scored, same files.

On real GSM8K questions the token budget is small to keep the test short (the bundled model cannot answer them anyway);
on generated problems the answers are whole, some right and some wrong.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from unsay import config
from unsay.config import Experiment
from unsay.data.source import open_source
from unsay.evaluate.lm_eval_tasks import task_config
from unsay.job import Job
from unsay.store import read
from unsay.worker import carry_out

ITEMS = 20


@dataclass(frozen=True)
class Case:
    dataset: str
    config: str
    chat: bool
    budget: int


CASES = {
    "gsm8k-chat": Case("gsm8k", "fewshot_8", True, 16),
    "gsm8k-plain": Case("gsm8k", "fewshot_8", False, 16),
    "problems": Case("wordproblems", "fewshot_0", True, 192),
}


def experiment_file(folder: Path, gsm8k: Path, case: Case) -> Path:
    file = folder / "gsm8k.yaml"
    experiment = {
        "model": "unsay-tiny",
        "dataset": case.dataset,
        "method": "vanilla",
        "config": case.config,
        "apply_chat_template": case.chat,
        "decode": {"max_new_tokens": case.budget},
    }
    file.write_text(json.dumps({"datasets": {"gsm8k": {"path": str(gsm8k)}}, "experiments": [experiment]}))
    return file


@pytest.fixture(scope="module", params=CASES)
def ours(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, gsm8k: Path) -> Any:
    folder = tmp_path_factory.mktemp("parity")
    case = CASES[request.param]
    plan = config.load(experiment_file(folder, gsm8k, case), output_dir=folder / "outputs", check=True)
    job = Job(plan.experiments[0], plan.output_dir, limit=ITEMS, device="cpu")
    outcome = carry_out(job, lambda event: None)
    assert outcome.status == "completed", outcome.error
    return job, stock(job.experiment, job.output_dir, chat=case.chat)


def stock(experiment: Experiment, output_dir: Path, *, chat: bool) -> dict[str, Any]:
    """Evaluate the same checkpoint with lm-eval's own model, on the same task dict and seed."""
    import lm_eval
    import lm_eval.models
    from lm_eval.tasks import TaskManager

    source = open_source(experiment.dataset, output_dir)
    task = task_config(source, experiment.settings.prompting, experiment.settings.decode)
    results = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": experiment.model.path, "dtype": "float32", "backend": "causal"},
        tasks=[task],
        limit=ITEMS,
        device="cpu",
        batch_size=1,
        apply_chat_template=chat,
        fewshot_as_multiturn=False,
        fewshot_random_seed=1234,
        task_manager=TaskManager(include_defaults=False),
    )
    return dict(results)


def test_prompts_and_scores_equal_stock_lm_eval(ours: Any) -> None:
    job, reference = ours
    theirs = {(line["doc_id"], line["filter"]): line for line in reference["samples"]["gsm8k"]}
    mine = {(line["doc_id"], line["filter"]): line for line in read.samples(job.result_folder)}
    retracted = with_undo(job)
    assert len(mine) == 2 * ITEMS
    assert mine.keys() == theirs.keys()
    for key, line in mine.items():
        assert line["arguments"]["gen_args_0"]["arg_0"] == theirs[key]["arguments"][0][0]
        assert line["arguments"]["gen_args_0"]["arg_1"] == theirs[key]["arguments"][0][1]
        assert line["target"] == theirs[key]["target"]
        assert line["prompt_hash"] == theirs[key]["prompt_hash"]
        assert line["doc_hash"] == theirs[key]["doc_hash"]
        if key[0] not in retracted:
            assert line["exact_match"] == theirs[key]["exact_match"]
    if job.experiment.dataset.name == "wordproblems":
        assert {line["exact_match"] for line in mine.values()} == {0.0, 1.0}


def test_answers_without_undo_equal_stock_lm_eval(ours: Any) -> None:
    job, reference = ours
    theirs = {line["doc_id"]: line["resps"][0][0] for line in reference["samples"]["gsm8k"]}
    retracted = with_undo(job)
    assert len(retracted) <= ITEMS // 2
    for trace in read.traces(job.result_folder):
        if trace.key.doc_id not in retracted:
            assert trace.visible == theirs[trace.key.doc_id]


def with_undo(job: Job) -> set[int]:
    """Return the items where the model took something back: stock lm-eval scores what was taken back, too."""
    return {trace.key.doc_id for trace in read.traces(job.result_folder) if trace.counts.undos}


def test_their_tools_read_our_files(ours: Any, tmp_path: Path) -> None:
    from datasets import load_dataset
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import make_table

    job, _ = ours
    record = read.record(job.result_folder)
    assert record is not None
    results = json.loads((job.result_folder / record.files["results"]).read_text())
    table = make_table(results)
    assert "gsm8k" in table
    assert "exact_match" in table
    assert results["config"]["model"] == "unsay"
    assert results["config"]["limit"] == ITEMS

    samples = load_dataset(
        "json", data_files=str(job.result_folder / record.files["samples"]), cache_dir=str(tmp_path), split="train"
    )
    assert len(samples) == 2 * ITEMS

    source = open_source(job.experiment.dataset, job.output_dir)
    task_dict = task_config(source, job.experiment.settings.prompting, job.experiment.settings.decode)
    task = TaskManager(include_defaults=False).load([task_dict])["tasks"]["gsm8k"]
    for line in samples:
        scored = task.process_results(line["doc"], line["filtered_resps"])
        assert scored["exact_match"] == line["exact_match"]


def test_every_metric_is_there_with_its_error(ours: Any) -> None:
    job, _ = ours
    values = read.metrics(job.result_folder)
    scores = ("exact_match_strict", "exact_match_flexible", "bleu4_lf", "bleu", "rouge_l")
    for name in (*scores, "rouge_1_lf", "rouge_2_lf", "rouge_l_lf"):
        value = values[name]
        assert value.n == ITEMS
        assert value.value is not None
        assert value.stderr is not None or value.reason
        assert value.low is not None
        assert value.low <= value.value <= (value.high or 0)
    assert values["undo_left"].value == 0
    assert values["sampled_tokens"].value is not None


def test_predictions_are_in_llamafactorys_format(ours: Any) -> None:
    job, _ = ours
    lines = [json.loads(line) for line in (job.result_folder / "generated_predictions.jsonl").read_text().splitlines()]
    assert len(lines) == ITEMS
    assert all(set(line) == {"prompt", "predict", "label"} for line in lines)
    assert all("####" in line["label"] for line in lines)
