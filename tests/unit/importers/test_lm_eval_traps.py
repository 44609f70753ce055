"""Wrong numbers that lm-eval's files invite: each was made once and is refused here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.importers import foreign
from tests.unit.importers.test_lm_eval import only, take
from unsay.importers import model_name
from unsay.store import read


def one_metric(folder: Path, metric: str, published: Any, logged: list[float], task: str = "mine") -> None:
    """Write a run of a task with one metric of its own, answered in text."""
    lines = foreign.samples(len(logged), 0, filters=("none",))
    for line, value in zip(lines, logged, strict=True):
        del line["exact_match"]
        line |= {"metrics": [metric], metric: value}
    foreign.write_lines(folder / f"samples_{task}_{foreign.STAMP}.jsonl", lines)
    document = foreign.results(lines, len(logged), 0)
    document |= {
        "results": {task: {f"{metric},none": published, f"{metric}_stderr,none": "N/A"}},
        "configs": {task: {"task": task, "num_fewshot": 0, "output_type": "generate_until"}},
        "versions": {task: 1.0},
        "n-samples": {task: {"original": len(logged), "effective": len(logged)}},
        "task_hashes": {task: foreign.task_hash(lines)},
    }
    (folder / f"results_{foreign.STAMP}.json").write_text(json.dumps(document))


def without_samples(folder: Path) -> None:
    next(folder.glob("samples_*")).unlink()


def test_two_models_with_equal_scores_do_not_share_answers(tmp_path: Path) -> None:
    """The hash covers questions and references, and at small n scores coincide."""
    foreign.write_run(tmp_path / "runs" / "a", 12, 6, model_name="A")
    without_samples(foreign.write_run(tmp_path / "runs" / "b", 12, 6, model_name="B").parent)
    _, outcomes = take(tmp_path / "runs", tmp_path / "lab")
    by_folder = {one.found.files[0].parent.name: one for one in outcomes}
    assert by_folder["b"].found.items is None
    assert by_folder["b"].verified == ()
    assert by_folder["a"].verified == ("exact_match_strict", "exact_match_flexible")


def test_what_is_not_a_mean_keeps_its_published_value(tmp_path: Path) -> None:
    """Perplexity is exp of minus the mean of what is logged."""
    one_metric(tmp_path / "run", "perplexity", 6.07, [-1.5, -2.0, -1.9])
    _, values = only(tmp_path / "run", tmp_path / "lab")
    value = values["perplexity,none"]
    assert (value.value, value.stderr) == (6.07, None)
    assert "not the mean of what was logged" in str(value.reason)
    assert value.definition.endswith(", unscaled")
    (entry,) = read.find(tmp_path / "lab")
    assert not any("perplexity,none" in line.scores for line in read.scores(entry.folder))


@pytest.mark.parametrize(
    ("metric", "task", "published", "shown"),
    [
        ("acc", "arc_easy", 0.5, 50.0),
        ("pct_stereotype", "crows_pairs", 0.61, 61.0),
        ("bleu_acc", "truthfulqa_gen", 0.4, 40.0),
        ("exact", "squadv2", 0.6, 0.6),
        ("f1", "squadv2", 0.92, 0.92),
        ("f1", "drop", 0.3, 30.0),
        ("likelihood_diff", "crows_pairs", 0.83, 0.83),
        ("likelihood_diff", "crows_pairs", 1.2, 1.2),
        ("bits_per_byte", "wikitext", 0.7, 0.7),
    ],
)
def test_the_scale_is_told_by_the_name(tmp_path: Path, metric: str, task: str, published: float, shown: float) -> None:
    one_metric(tmp_path / "run", metric, published, [0.0, 1.0, 1.0], task)
    without_samples(tmp_path / "run")
    _, values = only(tmp_path / "run", tmp_path / "lab")
    assert values[f"{metric},none"].value == pytest.approx(shown)
    assert values[f"{metric},none"].definition.endswith(", unscaled") == (shown == published)


def test_no_error_is_made_up_for_what_is_no_share(tmp_path: Path) -> None:
    one_metric(tmp_path / "run", "inst_level_strict_acc", 0.5, [0.5, 0.5, 0.5, 0.5])
    without_samples(tmp_path / "run")
    _, values = only(tmp_path / "run", tmp_path / "lab")
    assert (values["inst_level_strict_acc,none"].stderr, values["inst_level_strict_acc,none"].low) == (None, None)


def test_an_item_without_a_number_leaves_the_published_value(tmp_path: Path) -> None:
    one_metric(tmp_path / "run", "acc", 0.5, [1.0, 0.0, 0.0, 1.0])
    samples = next((tmp_path / "run").glob("samples_*"))
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    lines[1]["acc"] = "n/a"
    foreign.write_lines(samples, lines)
    _, values = only(tmp_path / "run", tmp_path / "lab")
    assert values["acc,none"].value == 50.0
    assert "1 of 4 samples have no number" in str(values["acc,none"].reason)


def test_a_part_of_the_samples_never_replaces_what_was_published(tmp_path: Path) -> None:
    """Even where nothing says how many there were."""
    path = foreign.write_run(tmp_path / "run", 12, 6, **{"n-samples": None, "task_hashes": None})
    samples = next(path.parent.glob("samples_*"))
    foreign.write_lines(samples, [json.loads(line) for line in samples.read_text().splitlines()][:3])
    record, values = only(tmp_path / "run", tmp_path / "lab")
    assert values["exact_match_strict"].value == 50.0
    assert values["bleu4_lf"].value is None
    assert any("3 of an unknown number of samples" in text for text in record.warnings)


def test_another_way_to_find_the_answer_is_another_definition(tmp_path: Path) -> None:
    stock = foreign.write_run(tmp_path / "stock", 12, 6)
    other = foreign.write_run(tmp_path / "other", 12, 6)
    document = json.loads(other.read_text())
    document["configs"]["gsm8k"]["filter_list"][0]["filter"][0]["regex_pattern"] = "boxed{(.+)}"
    other.write_text(json.dumps(document))
    _, first = only(stock.parent, tmp_path / "lab1")
    _, second = only(other.parent, tmp_path / "lab2")
    assert first["exact_match_strict"].definition == "lm-eval gsm8k v3 strict-match"
    assert second["exact_match_strict"].definition != first["exact_match_strict"].definition


def test_the_reference_is_the_target_unless_the_whole_answer_ends_in_it(tmp_path: Path) -> None:
    path = foreign.write_run(tmp_path / "run", 4, 2)
    samples = next(path.parent.glob("samples_*"))
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    for line in lines:
        line["doc"]["answer"] = f"{line['doc_id'] + 10} (sheep)"
        line["target"] = str(line["doc_id"] + 10)
    foreign.write_lines(samples, lines)
    only(tmp_path / "run", tmp_path / "lab")
    (entry,) = read.find(tmp_path / "lab")
    assert [line["label"] for line in read.predictions(entry.folder)] == ["10", "11", "12", "13"]


def test_groups_of_groups_count_their_tasks_together(tmp_path: Path) -> None:
    path = foreign.write_run(tmp_path / "run", 12, 6)
    without_samples(path.parent)
    document = json.loads(path.read_text())
    scores = {"acc,none": 0.5, "acc_stderr,none": 0.01}
    document["results"] = {name: dict(scores) for name in ("all", "half", "t1", "t2", "t3")}
    document["group_subtasks"] = {"all": ["half", "t3"], "half": ["t1", "t2"]}
    document["n-samples"] = {name: {"original": 100, "effective": 50} for name in ("t1", "t2", "t3")}
    document["n-shot"] = {"all": 5}
    path.write_text(json.dumps(document))
    _, outcomes = take(tmp_path / "run", tmp_path / "lab")
    by_name = {one.found.part: read.metrics(tmp_path / "lab" / one.folder)["acc,none"] for one in outcomes}
    assert {name: value.n for name, value in by_name.items()} == {"all": 150, "half": 100, "t1": 50, "t2": 50, "t3": 50}
    assert by_name["all"].stderr == pytest.approx(1.0)  # as published: a group's is no share's
    assert next(one.found.config for one in outcomes if one.found.part == "all") == "fewshot_5"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("Qwen/Qwen3-4B", "Qwen3-4B"),
        ("saves/qwen3/full/sft_seed1/checkpoint-500", "sft_seed1-checkpoint-500"),
        ("/root/.cache/huggingface/hub/models--Qwen--Qwen3-4B/snapshots/" + "1c" * 20, "Qwen3-4B"),
        ("./tuned/merged/", "tuned"),
        ("", "unknown"),
    ],
)
def test_models_are_named_by_what_tells_them_apart(path: str, name: str) -> None:
    assert model_name(path) == name


def test_seeds_of_sampled_runs_are_kept(tmp_path: Path) -> None:
    for seed in (1, 2):
        path = foreign.write_run(tmp_path / "runs" / str(seed), 12, 5 + seed)
        document = json.loads(path.read_text())
        document["config"] |= {"torch_seed": seed, "gen_kwargs": {"do_sample": True, "temperature": 0.7}}
        path.write_text(json.dumps(document))
        samples = next(path.parent.glob("samples_*"))
        lines = [json.loads(line) for line in samples.read_text().splitlines()]
        for line in lines:
            line["arguments"]["gen_args_0"]["arg_1"] |= {"do_sample": True, "temperature": 0.7}
        foreign.write_lines(samples, lines)
    _, outcomes = take(tmp_path / "runs", tmp_path / "lab")
    assert sorted(one.found.seed for one in outcomes) == [1, 2]
