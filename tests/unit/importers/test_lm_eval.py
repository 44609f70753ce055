"""lm-eval's files, every version's way of writing them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.importers import foreign
from unsay import importing
from unsay.importers import Found, Options
from unsay.importing import Collected, Outcome
from unsay.records import ExperimentRecord, MetricValue
from unsay.store import read


def take(folder: Path, lab: Path, options: Options | None = None, **more: Any) -> tuple[Collected, list[Outcome]]:
    given = options or Options()
    collected = importing.collect([folder], given)
    return collected, list(importing.put(lab, collected.found, given, processes=1, **more))


def only(folder: Path, lab: Path, options: Options | None = None) -> tuple[ExperimentRecord, dict[str, MetricValue]]:
    collected, outcomes = take(folder, lab, options)
    assert collected.refused == ()
    assert [one.error for one in outcomes] == [None]
    record = read.record(lab / outcomes[0].folder)
    assert record is not None
    return record, read.metrics(lab / outcomes[0].folder)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lm_eval_version": None},
        {"versions": {"gsm8k": "Yaml"}},
        {"versions": {}},
        {"config": {"model": "hf", "model_args": {"pretrained": "org/Some-Model"}, "limit": None}},
        {"n-samples": None},
        {"group_subtasks": None},
        {"date": "1757424333.1", "total_evaluation_time_seconds": 381.8},
        {"task_hashes": None},
    ],
    ids=repr,
)
def test_a_complete_run_is_checked_and_scored(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = foreign.write_run(tmp_path / "run", 12, 7)
    document = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))
    record, values = only(tmp_path / "run", tmp_path / "lab")
    for name in ("exact_match_strict", "exact_match_flexible"):
        assert values[name].value == pytest.approx(700 / 12)
        assert values[name].n == 12
        assert values[name].stderr == pytest.approx(100 * (7 / 12 * 5 / 12 / 11) ** 0.5)
    if changes.keys() & {"n-samples"}:  # without any count and with the hashes the samples are known to be complete
        assert values["bleu4_lf"].value is not None
    assert record.model == "Some-Model"
    assert record.dataset == "gsm8k"
    assert record.spec["settings"]["prompting"]["num_fewshot"] == 5
    assert record.facts["verified"] == ["exact_match_strict", "exact_match_flexible"]
    lines = list(read.scores(tmp_path / "lab" / next(iter(read.find(tmp_path / "lab"))).relative))
    assert [line.scores["exact_match_strict"] for line in lines] == [100.0] * 7 + [0.0] * 5


def test_what_0_4_12_adds_is_no_metric(tmp_path: Path) -> None:
    path = foreign.write_run(tmp_path / "run")
    document = json.loads(path.read_text())
    document["results"]["gsm8k"] |= {"name": "gsm8k", "sample_len": 12, "sample_count": {"exact_match": 12}}
    path.write_text(json.dumps(document))
    _, values = only(tmp_path / "run", tmp_path / "lab")
    assert not {"name", "sample_len", "sample_count"} & {name.split(",")[0] for name in values}


def test_one_item_has_no_standard_error(tmp_path: Path) -> None:
    foreign.write_run(tmp_path / "run", 1, 1)
    _, values = only(tmp_path / "run", tmp_path / "lab")
    assert (values["exact_match_strict"].value, values["exact_match_strict"].stderr) == (100.0, None)


def test_a_published_error_of_zero_inside_the_range_is_not_believed(tmp_path: Path) -> None:
    path = foreign.write_run(tmp_path / "run", 12, 7)
    document = json.loads(path.read_text())
    document["results"]["gsm8k"]["exact_match_stderr,strict-match"] = 0.0
    path.write_text(json.dumps(document))
    next((tmp_path / "run").glob("samples_*")).unlink()
    _, values = only(tmp_path / "run", tmp_path / "lab")
    assert values["exact_match_strict"].stderr != 0
    assert "cannot be" in str(values["exact_match_strict"].reason)


def test_samples_find_their_results_by_content_not_by_name(tmp_path: Path) -> None:
    """Two runs on the same questions: each gets its own answers, wherever the files lie."""
    for name, right in (("a", 7), ("b", 3)):
        path = foreign.write_run(tmp_path / "runs" / name, 12, right)
        samples = next(path.parent.glob("samples_*"))
        samples.rename(tmp_path / "runs" / f"{'b' if name == 'a' else 'a'}_answers.jsonl")
    collected, outcomes = take(tmp_path / "runs", tmp_path / "lab")
    assert collected.refused == ()
    found = {Path(one.found.files[0]).parent.name: read.metrics(tmp_path / "lab" / one.folder) for one in outcomes}
    assert len(found) == 2
    assert found["a"]["exact_match_strict"].value == pytest.approx(700 / 12)
    assert found["b"]["exact_match_strict"].value == pytest.approx(300 / 12)
    assert not any(one.verified for one in outcomes)  # the values served to find the answers
    assert all(any("misleading name" in text for text in one.warnings) for one in outcomes)


def test_answers_of_another_run_are_not_taken(tmp_path: Path) -> None:
    """Results without samples do not get those of a neighbour on the same questions."""
    foreign.write_run(tmp_path / "runs" / "a", 12, 7)
    lonely = foreign.write_run(tmp_path / "runs" / "b", 12, 3)
    next(lonely.parent.glob("samples_*")).unlink()
    _, outcomes = take(tmp_path / "runs", tmp_path / "lab")
    by_folder = {one.found.files[0].parent.name: one for one in outcomes}
    assert len(by_folder["a"].found.files) == 2
    assert len(by_folder["b"].found.files) == 1
    assert any("samples missing" in text for text in by_folder["b"].warnings)


def test_published_values_that_the_samples_do_not_bring_out_are_named(tmp_path: Path) -> None:
    path = foreign.write_run(tmp_path / "run", 12, 7)
    document = json.loads(path.read_text())
    document["results"]["gsm8k"]["exact_match,strict-match"] = 0.9
    path.write_text(json.dumps(document))
    record, values = only(tmp_path / "run", tmp_path / "lab")
    assert values["exact_match_strict"].value == pytest.approx(700 / 12)
    assert any("published 90, recomputed from the answers 58.33" in text for text in record.warnings)


def test_judgements_that_are_not_those_of_the_definition_are_named(tmp_path: Path) -> None:
    path = foreign.write_run(tmp_path / "run", 12, 7)
    samples = next(path.parent.glob("samples_*"))
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    lines[0]["exact_match"] = 0.0  # answered rightly
    foreign.write_lines(samples, lines)
    record, _ = only(tmp_path / "run", tmp_path / "lab")
    assert any("1 of 12 answers were judged differently" in text for text in record.warnings)


def test_a_pattern_of_a_stranger_is_never_run(tmp_path: Path) -> None:
    """`(a+)+$` takes for ever on the right text; what the tool judged stands instead."""
    path = foreign.write_run(tmp_path / "run", 12, 7)
    document = json.loads(path.read_text())
    document["configs"]["gsm8k"]["filter_list"][0]["filter"][0]["regex_pattern"] = "(.+)+#### x$"
    path.write_text(json.dumps(document))
    record, values = only(tmp_path / "run", tmp_path / "lab")
    assert values["exact_match_strict"].value == pytest.approx(700 / 12)
    assert not any("judged differently" in text for text in record.warnings)


def test_samples_alone_are_scored_and_said_to_be_alone(tmp_path: Path) -> None:
    foreign.write_run(tmp_path / "run", 12, 7).unlink()
    record, values = only(tmp_path / "run", tmp_path / "lab")
    assert values["exact_match_strict"].value == pytest.approx(700 / 12)
    assert record.model == "unknown"
    assert any("no results file of these samples" in text for text in record.warnings)


def test_limited_runs_are_shown_as_such(tmp_path: Path) -> None:
    foreign.write_run(tmp_path / "run", 12, 7, **{"n-samples": {"gsm8k": {"original": 1319, "effective": 12}}})
    record, _ = only(tmp_path / "run", tmp_path / "lab")
    assert (record.limit, record.items) == (12, 1319)


def test_repeated_lines_and_changed_references_are_counted(tmp_path: Path) -> None:
    path = foreign.write_run(tmp_path / "run", 12, 7)
    samples = next(path.parent.glob("samples_*"))
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    lines[3]["target"] = "#### 0"
    foreign.write_lines(samples, [*lines, lines[0]], end="")
    record, _ = only(tmp_path / "run", tmp_path / "lab")
    assert any("1 sample lines repeat a document" in text for text in record.warnings)
    assert any("1 sample lines have another reference than their hash says" in text for text in record.warnings)


def test_sampled_decoding_and_own_shots_are_said(tmp_path: Path) -> None:
    path = foreign.write_run(tmp_path / "run", 12, 7)
    samples = next(path.parent.glob("samples_*"))
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    for line in lines:
        line["arguments"]["gen_args_0"]["arg_1"] |= {"do_sample": True, "temperature": 0.7}
        prompt = line["arguments"]["gen_args_0"]["arg_0"]
        line["arguments"]["gen_args_0"]["arg_0"] = f"{prompt} {line['target']}\n\n{prompt}"
    foreign.write_lines(samples, lines)
    record, _ = only(tmp_path / "run", tmp_path / "lab")
    assert any("sampled decoding" in text for text in record.warnings)
    assert record.facts["prompts"]["own_shots"]["count"] == 12
    assert any("12 of 12 questions stand, answered, among the worked examples" in text for text in record.warnings)


def test_a_chat_is_shown_as_turns(tmp_path: Path) -> None:
    path = foreign.write_run(tmp_path / "run", 4, 2, chat_template="")
    samples = next(path.parent.glob("samples_*"))
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    for line in lines:
        prompt = line["arguments"]["gen_args_0"]["arg_0"]
        line["arguments"]["gen_args_0"]["arg_0"] = [json.dumps([{"role": "user", "content": prompt}])]
    foreign.write_lines(samples, lines)
    record, _ = only(tmp_path / "run", tmp_path / "lab")
    assert record.facts["prompt_0"].startswith("user: Question: How many sheep")
    assert record.spec["settings"]["prompting"]["apply_chat_template"] is True


def test_choices_by_likelihood_have_no_text(tmp_path: Path) -> None:
    lines = [
        {"doc_id": i, "doc": {"question": "Which?", "choices": ["a", "b"]}, "target": 0,
         "arguments": {f"gen_args_{j}": {"arg_0": "Which?", "arg_1": f" {j}"} for j in range(2)},
         "resps": [[["-1.5", "False"]], [["-2.5", "False"]]], "filtered_resps": [["-1.5", "False"], ["-2.5", "False"]],
         "filter": "none", "metrics": ["acc"], "doc_hash": "", "prompt_hash": "", "target_hash": foreign.sha("0"),
         "acc": float(i % 2)}
        for i in range(10)
    ]  # fmt: skip
    foreign.write_lines(tmp_path / "run" / f"samples_arc_{foreign.STAMP}.jsonl", lines)
    document = foreign.results(lines, 10, 5)
    document |= {
        "results": {"arc": {"alias": "arc", "acc,none": 0.5, "acc_stderr,none": 0.1666}},
        "configs": {"arc": {"task": "arc", "num_fewshot": 0}},
        "n-samples": {"arc": {"original": 10, "effective": 10}},
        "task_hashes": {"arc": foreign.task_hash(lines)},
    }
    (tmp_path / "run" / f"results_{foreign.STAMP}.json").write_text(json.dumps(document))
    _, values = only(tmp_path / "run", tmp_path / "lab")
    assert values["acc,none"].value == 50.0
    assert values["bleu"].value is None
    assert "likelihood" in str(values["bleu"].reason)
    assert values["exact_match_strict"].value is None


def test_metrics_with_a_scale_of_their_own_keep_it(tmp_path: Path) -> None:
    path = foreign.write_run(tmp_path / "run", 12, 7)
    document = json.loads(path.read_text())
    scores = {"bits_per_byte,none": 0.7, "bits_per_byte_stderr,none": "N/A", "word_perplexity,none": 12.5}
    document["results"] = {"wikitext": {"alias": "wikitext", "word_perplexity_stderr,none": "N/A"} | scores}
    path.write_text(json.dumps(document))
    next(path.parent.glob("samples_*")).unlink()
    _, values = only(tmp_path / "run", tmp_path / "lab")
    assert values["bits_per_byte,none"].value == 0.7
    assert values["word_perplexity,none"].value == 12.5
    assert values["word_perplexity,none"].stderr is None


def test_more_files_later_make_the_experiment_fuller_under_the_same_id(tmp_path: Path) -> None:
    path = foreign.write_run(tmp_path / "run", 12, 7)
    samples = next(path.parent.glob("samples_*"))
    hidden = samples.rename(tmp_path / "away.jsonl")
    _, first = take(tmp_path / "run", tmp_path / "lab")
    hidden.rename(samples)
    _, second = take(tmp_path / "run", tmp_path / "lab")
    assert [(one.id, one.did) for one in (*first, *second)] == [("EXP-001", "added"), ("EXP-001", "updated")]
    (entry,) = read.find(tmp_path / "lab")
    assert read.metrics(entry.folder)["bleu4_lf"].value is not None
    assert list((entry.folder / "superseded").rglob("metrics.json"))


def found_in(path: Path, options: Options | None = None) -> tuple[Found, ...]:
    return importing.collect([path], options or Options()).found


def test_names_that_contradict_the_contents_are_said(tmp_path: Path) -> None:
    path = foreign.write_run(tmp_path / "phi-3-mini" / "results.json", 12, 7)
    document = json.loads(path.read_text()) | {"model_name": "gpt2"}
    document["config"]["model_args"] = "pretrained=gpt2"
    path.write_text(json.dumps(document))
    record, _ = only(tmp_path / "phi-3-mini", tmp_path / "lab")
    assert record.model == "gpt2"
    assert any("speaks of phi-3, the contents of gpt2" in text for text in record.warnings)
    assert any("a folder is called results.json" in text for text in record.warnings)
