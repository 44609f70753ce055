"""What the pages of the viewer say, each as HTML and as a document, on a small lab on disk."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.unit.lab import END, TABLE, Arm, change_record, make, set_right
from tests.unit.web.site import document, page, visit
from unsay import metrics, undo
from unsay.metrics.exact_match import ExactMatch
from unsay.records import Beginning, ItemScores, Sample
from unsay.report import compare, tables
from unsay.store import archive, layout, read, write
from unsay.web import pages

UNDO = "qwen3-4b/gsm8k/sft/lora/train_bt"
TRAIN = "qwen3-4b/gsm8k/sft/lora/train"
RUNNING = Arm("EXP-011", method="sft", config="lora/run", status="running")


def names(found: dict[str, list[dict[str, str]]]) -> list[str]:
    return [one["name"] for one in found["experiments"]]


@pytest.mark.parametrize(
    "address",
    [
        "/", "/?status=completed&sort=bleu4_lf", f"/experiments/{UNDO}", f"/samples/{UNDO}", f"/sample/{UNDO}?item=0",
        f"/compare?of={TRAIN}&of={UNDO}", f"/compare?of={TRAIN}&of={UNDO}&item=3",
    ],
)  # fmt: skip
def test_every_page_links_to_itself_as_a_document(client: TestClient, address: str) -> None:
    shown = page(client, address)
    (link,) = [found["href"] for found in shown.all("a") if ".json" in (found["href"] or "")]
    found = document(client, str(link))
    named = [found["name"]] if "name" in found else [one["name"] for one in found.get("experiments") or found["of"]]
    assert all(name in shown.text for name in named)
    assert shown.all("script", src=True) == shown.all("script")
    assert len(shown.all("h1")) == 1


# -- lab overview -------------------------------------------------------------------


def test_the_overview_has_every_experiment_with_its_numbers(lab: Path, client: TestClient) -> None:
    found = document(client, "/index.json")
    every = [entry.name for entry in read.find(lab)]
    assert names(found) == every
    assert found["statuses"] == {"completed": 5, "failed": 1, "pending": 1}
    shown = page(client, "/")
    assert [box["value"] for box in shown.all("input", name="of")] == [one["folder"] for one in found["experiments"]]
    value = found["experiments"][0]["metrics"]["exact_match_strict"]
    assert f"{value['value']:.2f} ± {value['stderr']:.2f}" in shown.text
    assert "first 20 items" in shown.text


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("model=qwen3-0.6b", ["EXP-002"]),
        ("status=failed", ["EXP-010"]),
        ("method=sft&search=backtrack", ["EXP-004"]),
        ("config=lora/low", ["qwen3-4b/gsm8k/sft/lora/low"]),
        ("search=nothing+like+it", []),
    ],
)
def test_the_overview_is_filtered(client: TestClient, query: str, expected: list[str]) -> None:
    assert names(document(client, f"/index.json?{query}")) == expected
    shown = page(client, f"/?{query}").text
    assert all(name in shown for name in expected) if expected else "No experiment is like that" in shown


def test_the_overview_is_sorted_with_what_has_no_value_last(client: TestClient) -> None:
    up = document(client, "/index.json?sort=exact_match_strict")["experiments"]
    down = document(client, "/index.json?sort=exact_match_strict&order=down")["experiments"]
    values = [one["metrics"]["exact_match_strict"]["value"] for one in up if one["metrics"]]
    assert values == sorted(values)
    assert [one["folder"] for one in down[:5]] == [one["folder"] for one in up[:5]][::-1]
    assert not any(one["metrics"] for one in up[5:] + down[5:])
    assert names(document(client, "/index.json?order=down"))[0] == "qwen3-4b/gsm8k/sft/lora/low"
    (heading,) = page(client, "/?sort=model").all("th", aria_sort=True)
    assert heading["aria-sort"] == "ascending"


def test_a_running_experiment_says_how_far_it_is(lab: Path, client: TestClient) -> None:
    folder = make(lab, RUNNING)
    beat = {"stage": "evaluate", "done": 412, "total": 1319, "so_far": {"value": 71.2, "stderr": 2.2}}
    (folder / layout.HEARTBEAT).write_text(json.dumps(beat))
    shown = page(client, "/?status=running")
    assert "evaluate 412/1319" in shown.text
    assert "EM 71.20 ± 2.20 so far" in shown.text
    assert shown.all("form", data_running=True)
    assert not page(client, "/?status=failed").all("form", data_running=True)


def test_a_running_experiment_changed_when_it_last_gave_a_sign_of_life(lab: Path, client: TestClient) -> None:
    folder = make(lab, RUNNING)
    assert names(document(client, "/index.json?sort=changed&order=down"))[-1] != "EXP-011"
    (folder / layout.HEARTBEAT).write_text("{}")
    os.utime(folder / layout.HEARTBEAT, (2_000_000_000, 2_000_000_000))
    found = document(client, "/index.json?sort=changed&order=down")
    assert names(found)[0] == "EXP-011"
    assert datetime.fromisoformat(found["experiments"][0]["changed"]).timestamp() == 2_000_000_000
    assert found["experiments"][1]["changed"] == "2025-10-03T16:58:48+02:00"


def test_a_folder_may_end_like_a_document(lab: Path, client: TestClient) -> None:
    alone, both = "qwen3-4b/gsm8k/sft/mine.json", f"{TRAIN}.json"
    make(lab, Arm("EXP-021", method="sft", config="mine.json"))
    for name in ("experiments", "samples", "sample"):
        assert "EXP-021" in page(client, f"/{name}/{alone}").text
        assert document(client, f"/{name}/{alone}.json")["id"] == "EXP-021"
        assert document(client, f"/{name}/{TRAIN}.json")["id"] == "EXP-003"
    make(lab, Arm("EXP-022", method="sft", config="lora/train.json"))
    page(client, "/")  # now the viewer knows both
    for name in ("experiments", "samples", "sample"):
        assert "EXP-022" in page(client, f"/{name}/{both}").text
        assert document(client, f"/{name}/{both}.json")["id"] == "EXP-022"
        shown = page(client, f"/{name}/{TRAIN}?search=x" if name == "samples" else f"/{name}/{TRAIN}")
        (link,) = [found["href"] for found in shown.all("a") if "json" in (found["href"] or "")]
        assert document(client, str(link))["id"] == "EXP-003"


def test_accuracy_at_matched_tokens_is_drawn_where_it_is_known(lab: Path, client: TestClient) -> None:
    found = document(client, f"/compare.json?of={TRAIN}&of={UNDO}")["matched"]
    assert [one["label"] for one in found["curves"]] == ["EXP-003", "EXP-004"]
    points = found["curves"][0]["points"]
    assert [point["budget"] for point in points] == [64, 128, 256, 512, 1024]
    for address in (f"/compare?of={TRAIN}&of={UNDO}", f"/experiments/{UNDO}"):
        shown = page(client, address)
        assert "Accuracy at matched sampled tokens" in shown.text
        assert f"{points[0]['value']:.2f}" in page(client, f"/experiments/{TRAIN}").text
        assert shown.all("polyline", class_="line line-0")
    for path in (lab / UNDO).glob(layout.TRACES):
        path.unlink()
    without = document(client, f"/experiments/{UNDO}.json")["matched"]
    assert without == {
        "curves": [],
        "without": [{"name": "EXP-004", "reason": "it has no traces: another tool generated its answers"}],
    }


def test_archived_experiments_are_hidden_until_asked_for(lab: Path, client: TestClient) -> None:
    archive.archive(next(entry.folder for entry in read.find(lab) if entry.name == "EXP-001"))
    assert "EXP-001" not in names(document(client, "/index.json"))
    assert names(document(client, "/index.json?archived=only")) == ["EXP-001"]
    assert "EXP-001" in names(document(client, "/index.json?archived=all"))


def test_a_long_list_reads_only_the_experiments_of_its_page(
    lab: Path, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(150):
        make(lab, Arm(f"MANY-{number}", config=f"fewshot_{number + 10}", status="failed"))
    assert document(client, "/index.json?search=MANY-")["pages"] == 2  # reads what is new, once
    for folder in lab.rglob(layout.EXPERIMENT):  # a record that is looked at again is not trusted before two seconds
        for path in (folder, folder.parent):
            os.utime(path, (1_700_000_000, 1_700_000_000))
    document(client, "/index.json")
    read_in_full: list[str] = []
    entry = read.entry
    monkeypatch.setattr(read, "entry", lambda lab, relative: (read_in_full.append(relative), entry(lab, relative))[1])
    found = document(client, "/index.json?search=MANY-&page=2")
    assert names(found) == [f"MANY-{number}" for number in range(pages.ROWS, 150)]
    assert sorted(read_in_full) == sorted(one["folder"] for one in found["experiments"])
    assert page(client, "/?search=MANY-&page=2").all("a", rel="prev", href="/?search=MANY-&page=1")
    assert document(client, "/index.json?search=MANY-&page=999")["page_number"] == 2


def test_an_empty_lab_says_what_to_do(tmp_path: Path) -> None:
    with visit(tmp_path) as client:
        assert "unsay run FILE" in page(client, "/").text


# -- one experiment -----------------------------------------------------------------


def test_an_experiment_shows_settings_metrics_and_warnings(lab: Path, client: TestClient) -> None:
    shown = page(client, f"/experiments/{UNDO}")
    for text in ("max_new_tokens 512", "lora_rank 8", "torch 2.13.0", "node7", "3 of 200 answers"):
        assert text in shown.text
    found = document(client, f"/experiments/{UNDO}.json")
    assert found["record"]["identity"] in shown.text
    assert "Undo tokens (% of sampled)" in shown.text
    assert "Undo tokens (% of sampled)" not in page(client, f"/experiments/{TRAIN}").text
    assert document(client, "/experiments/EXP-004.json") == found


def test_the_loss_curve_is_drawn_from_the_log_that_is_there(lab: Path, client: TestClient) -> None:
    assert not page(client, f"/experiments/{UNDO}").all("polyline", class_="series series-0")
    log = layout.train(lab / UNDO) / layout.TRAINER_LOG
    log.parent.mkdir()
    lines = [{"current_steps": step, "loss": 1 / step} for step in range(1, 60)]
    lines += [{"current_steps": 59, "eval_loss": 0.5}, {"current_steps": 59, "loss": 0.25}]
    log.write_text("\n".join(map(json.dumps, lines)) + '\n{"current_steps": 60, "lo')
    found = document(client, f"/experiments/{UNDO}.json")["curves"]
    assert found == {"training": [[s, 1 / s] for s in range(1, 59)] + [[59, 0.25]], "held out": [[59, 0.5]]}
    shown = page(client, f"/experiments/{UNDO}")
    assert [len(shown.all("polyline", class_=f"series series-{n}")) for n in range(3)] == [1, 1, 0]
    figure = shown.all("svg", class_="figure")[-1]
    assert "training ends at 0.25" in str(figure["aria-label"])


def test_logs_are_shown_without_secrets_and_only_logs(
    lab: Path, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnopqrstuv")
    logs = layout.logs(lab / UNDO)
    logs.mkdir()
    (logs / "1.log").write_text("the first one")
    (logs / "2.log").write_text(f"{'x' * pages.LOG_BYTES}\nlogged in with hf_abcdefghijklmnopqrstuv")
    (logs / "2.job").write_text("what the worker was told")
    (logs / "elsewhere.log").symlink_to("/etc/passwd")
    shown = page(client, f"/experiments/{UNDO}").text
    assert "logged in with [redacted]" in shown
    assert "bytes are left out" in shown
    assert "the first one" in page(client, f"/experiments/{UNDO}?log=1.log").text
    for name in ("../experiment.json", "2.job", "elsewhere.log", "/etc/passwd", "3.log"):
        assert "root:" not in page(client, f"/experiments/{UNDO}?log={name}", 404).text


def test_a_record_that_cannot_be_read_is_shown_as_a_problem_and_left(lab: Path, client: TestClient) -> None:
    broken = lab / UNDO / layout.EXPERIMENT
    broken.write_text("{ not JSON")
    assert "is not JSON" in page(client, "/?status=unreadable").text
    assert "is not JSON" in page(client, f"/experiments/{UNDO}").text
    assert "is not JSON" in page(client, f"/samples/{UNDO}", 422).text
    assert "is not JSON" in document(client, f"/samples/{UNDO}.json", 422)["error"]
    assert broken.read_text() == "{ not JSON"


@pytest.mark.parametrize("place", ["experiments", "samples", "sample"])
@pytest.mark.parametrize("name", ["nothing", "%2e%2e", "%2e%2e/%2e%2e/etc/passwd", "/etc/passwd", "%00", ""])
def test_what_is_not_an_experiment_of_the_lab_is_not_there(client: TestClient, place: str, name: str) -> None:
    answer = client.get(f"/{place}/{name}")
    assert answer.status_code == 404
    assert "root:" not in answer.text


# -- samples ------------------------------------------------------------------------


def test_samples_are_filtered_and_counted(lab: Path, client: TestClient) -> None:
    right = [item % 3 == 0 for item in range(200)]
    set_right(lab / UNDO, right)
    found = document(client, f"/samples/{UNDO}.json")
    assert found["items"] == found["matching"] == 200
    assert found["counts"] == {"right": 67, "wrong": 133, "unscored": 0, "undone": 1, "cut": 0}
    assert found["pages"] == 2
    for query, expected in {
        "outcome=right": [str(item) for item in range(0, 200, 3)],
        "outcome=wrong&search=question+19": ["19", "190", "191", "193", "194", "196", "197", "199"],
        "undone=1": ["0"],
        "search=it+is+150.": ["150"],
        "cut=1": [],
    }.items():
        found = document(client, f"/samples/{UNDO}.json?{query}")
        assert [one["item"] for one in found["samples"]] == expected, query
    shown = page(client, f"/samples/{UNDO}?outcome=right&search=question")
    assert shown.all("a", href=f"/sample/{UNDO}?item=3&search=question&outcome=right")
    assert shown.all("option", value="right", selected=True)


def test_samples_follow_files_that_change(lab: Path, client: TestClient) -> None:
    set_right(lab / TRAIN, [True] * 200)
    assert document(client, f"/samples/{TRAIN}.json")["counts"]["right"] == 200
    set_right(lab / TRAIN, [False] * 200)
    assert document(client, f"/samples/{TRAIN}.json")["counts"]["wrong"] == 200


def test_samples_of_a_running_experiment_are_those_that_are_answered(lab: Path, client: TestClient) -> None:
    change_record(lab / UNDO, status="running")
    found = document(client, f"/samples/{UNDO}.json")
    assert found["counts"] == {"right": 0, "wrong": 0, "unscored": 2, "undone": 1, "cut": 0}
    assert document(client, "/samples/qwen3-4b/gsm8k/sft/lora/low.json")["items"] == 0
    assert "Nothing has been answered yet" in page(client, "/samples/qwen3-4b/gsm8k/sft/lora/low").text


def test_a_broken_file_of_scores_is_named_and_left(lab: Path, client: TestClient) -> None:
    scores = lab / UNDO / layout.SCORES
    scores.write_text('{"schema": 1}\n')
    assert "scores.jsonl:1" in page(client, f"/samples/{UNDO}", 422).text
    assert scores.read_text() == '{"schema": 1}\n'


def test_without_exact_match_another_score_of_right_and_wrong_judges(lab: Path, client: TestClient) -> None:
    assert document(client, f"/samples/{UNDO}.json")["judged_by"] == "exact_match_strict"
    lines = [json.loads(line) for line in (lab / UNDO / layout.SCORES).read_text().splitlines()]
    for at, line in enumerate(lines):
        line["scores"] = {"bleu4_lf": 12.5, "truncated": 0.0, "is_correct": 100.0 * (at < 30)}
    (lab / UNDO / layout.SCORES).write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = document(client, f"/samples/{UNDO}.json")
    assert found["judged_by"] == "is_correct"
    assert found["counts"]["right"] == 30
    assert "right and wrong by is_correct" in page(client, f"/samples/{UNDO}").text


# -- one sample ---------------------------------------------------------------------


def test_a_sample_shows_what_was_taken_back_and_by_which_undo(client: TestClient) -> None:
    found = document(client, f"/sample/{UNDO}.json?item=0")
    assert [(one["kind"], one["taken_at"]) for one in found["tokens"]] == [
        ("taken back", 1),
        ("undo", None),
        ("kept", None),
        ("end", None),
    ]
    shown = page(client, f"/sample/{UNDO}?item=0")
    (struck,) = shown.all("del")
    assert struck["data-at"] == "1"
    assert len(shown.all("del", data_token=True) + shown.all("span", data_token=True)) == 4
    assert "4 tokens sampled, 2 kept, 1 taken back by 1 undo" in shown.text


def test_what_an_answer_was_given_to_begin_with_was_not_sampled(lab: Path, client: TestClient) -> None:
    traces = [replace(trace, beginning=Beginning(3, 1)) for trace in read.traces(lab / UNDO)]
    (lab / UNDO / layout.TRACES).unlink()
    with write.Journal(lab / UNDO / layout.TRACES) as journal:
        for trace in traces:
            journal.append(trace.to_json())
    assert "3 tokens given to begin with, 1 tokens sampled, 2 kept" in page(client, f"/sample/{UNDO}?item=0").text


def test_a_sample_says_why_it_was_scored_so(lab: Path, client: TestClient) -> None:
    set_right(lab / UNDO, [False, True] * 100)
    wrong, right = (document(client, f"/sample/{UNDO}.json?item={item}") for item in (0, 1))
    strict = {one["name"]: one for one in wrong["metrics"]}["exact_match_strict"]
    assert (strict["score"], strict["made_of"]) == (0.0, {"found": "[invalid]", "expected": "0"})
    strict = {one["name"]: one for one in right["metrics"]}["exact_match_strict"]
    assert (strict["score"], strict["made_of"]) == (100.0, {"found": "1", "expected": "1"})
    assert "found 1, expected 1" in page(client, f"/sample/{UNDO}?item=1").text
    assert all(one["definition"] for one in wrong["metrics"])


def test_exact_match_is_explained_with_the_patterns_of_the_experiment(lab: Path, client: TestClient) -> None:
    own = ExactMatch(strict=r"it is (\d+)", flexible=None, ignored=(), gold=r"(\d+)", source="own data")
    folder = lab / UNDO
    facts = {"exact_match": {key: list(value) if key == "ignored" else value for key, value in asdict(own).items()}}
    change_record(folder, facts=facts)
    values = read.read_json(folder / layout.METRICS)
    values["metrics"]["exact_match_strict"]["definition"] = own.definition["exact_match_strict"]
    write.write_json(folder / layout.METRICS, values)
    answers = [{"prompt": "p", "predict": f"So it is {at + at % 2}.", "label": f"it is {at}."} for at in range(200)]
    write.write_bytes(folder / layout.PREDICTIONS, b"".join(map(write.json_line, answers)))
    scores = [ItemScores(str(at), None, "l", {"exact_match_strict": 100.0 * (at % 2 == 0)}) for at in range(200)]
    write.write_bytes(folder / layout.SCORES, b"".join(write.json_line(one.to_json()) for one in scores))
    (folder / layout.TRACES).unlink()
    for item, found in ((6, "6"), (7, "8")):
        (strict,) = document(client, f"/sample/{UNDO}.json?item={item}")["metrics"]
        assert strict["made_of"] == {"found": found, "expected": str(item)}
    change_record(folder, facts={"exact_match": {"strict": "(", "ignored": 3}})  # not what the scores were made with
    (strict,) = document(client, f"/sample/{UNDO}.json?item=7")["metrics"]
    assert strict["made_of"] == {}


def test_every_score_of_ours_is_taken_apart(lab: Path, client: TestClient) -> None:
    """As `unsay run` leaves it: the scores that the metrics give the answers on disk."""
    folder = lab / UNDO
    by_item = {str(one.key.doc_id): one for one in read.traces(folder)}
    samples = []
    for at, line in enumerate(read.predictions(folder)):
        trace = by_item.get(str(at))
        sample = Sample(str(at), "", line["label"], line["predict"])
        if trace is not None:
            told = undo.written(trace, TABLE, frozenset({END}))
            sample = replace(sample, finish_reason=trace.finish_reason, counts=trace.counts, written=told)
        samples.append(sample)
    found = metrics.score(samples)
    lines = [one.to_json() for one in metrics.by_item(samples, found.items)]
    write.write_bytes(folder / layout.SCORES, b"".join(map(write.json_line, lines)))
    values = {name: value.to_json() for name, value in found.values.items()}
    write.write_json(folder / layout.METRICS, {"schema": 1, "n": len(samples), "metrics": values})
    shown = {one["name"]: one["made_of"] for one in document(client, f"/sample/{UNDO}.json?item=0")["metrics"]}
    speaks_for_itself = {
        "sampled_tokens", "undo_per_answer", "episodes_per_answer", "undo_first_position", "underflow_per_answer",
        "undo_left",
    }  # fmt: skip
    assert {name for name, made_of in shown.items() if not made_of} == speaks_for_itself
    assert len(shown) > 15
    assert shown["waste"] == {"taken back": 1, "undo tokens": 1, "of sampled tokens": 4}
    assert "brevity penalty" in page(client, f"/sample/{UNDO}?item=0").text


def test_the_neighbours_of_a_sample_are_those_of_the_filter(lab: Path, client: TestClient) -> None:
    set_right(lab / UNDO, [item % 10 == 0 for item in range(200)])
    shown = page(client, f"/sample/{UNDO}?item=50&outcome=right")
    assert shown.all("a", rel="prev", href=f"/sample/{UNDO}?item=40&outcome=right")
    assert shown.all("a", rel="next", href=f"/sample/{UNDO}?item=60&outcome=right")
    assert shown.all("a", rel="up", href=f"/samples/{UNDO}?outcome=right")
    assert not page(client, f"/sample/{UNDO}?item=190&outcome=right").all("a", rel="next")
    assert "no answer to item" in page(client, f"/sample/{UNDO}?item=200", 404).text


# -- comparison ---------------------------------------------------------------------


def test_a_comparison_is_that_of_unsay_compare(lab: Path, client: TestClient) -> None:
    entries = {entry.name: entry for entry in read.find(lab) if entry.limit is None}
    sides = compare.sides([entries["EXP-003"], entries["EXP-004"]], (), each_seed=True)
    (expected,) = compare.compare(sides, compare.Options())
    (found,) = document(client, f"/compare.json?of={TRAIN}&of={UNDO}")["comparisons"]
    assert found["metrics"] == json.loads(json.dumps([result.to_json() for result in expected.results]))
    strict = next(result for result in expected.results if result.metric == tables.STRICT)
    assert strict.only_other
    shown = page(client, f"/compare?of={TRAIN}&of={UNDO}")
    shown_items = [button["value"] for button in shown.all("button", name="item")]
    judged = [result for result in expected.results if result.only_other is not None]
    lists = [(one.only_other or (), one.only_baseline or (), one.neither or ()) for one in judged]
    assert shown_items == [item for each in lists for items in each for item in items]
    assert "PROTOCOL" not in shown.text
    assert "PROTOCOL" in page(client, f"/compare?of=EXP-001&of={UNDO}").text


def test_an_item_is_shown_side_by_side(client: TestClient) -> None:
    found = document(client, f"/compare.json?of={TRAIN}&of={UNDO}&of=EXP-001&item=3")
    assert [side["name"] for side in found["item"]["sides"]] == ["EXP-003", "EXP-004", "EXP-001"]
    assert len(found["comparisons"]) == 2
    shown = page(client, f"/compare?of={TRAIN}&of={UNDO}&item=3").text
    assert "Question 3?" in shown
    assert "So it is 3." in shown


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("", 422, "expected 2 to 8 experiments"),
        (f"of={UNDO}", 422, "expected 2 to 8 experiments"),
        (f"of={UNDO}&of={UNDO}", 422, "expected 2 to 8 experiments"),
        (f"of={UNDO}&of=nothing", 404, "no experiment has the id"),
        (f"of={UNDO}&of=EXP-010", 422, "EXP-010 is failed"),
        (f"of={UNDO}&of={UNDO}/limit_20", 422, "cannot be compared"),
        (f"of={UNDO}&of={TRAIN}&item=x", 404, "has no answer to item"),
    ],
)
def test_what_cannot_be_compared_is_said(client: TestClient, query: str, status: int, said: str) -> None:
    assert said in page(client, f"/compare?{query}", status).text


def test_a_log_is_shown_as_a_terminal_left_it(lab: Path, client: TestClient) -> None:
    logs = layout.logs(lab / UNDO)
    logs.mkdir(exist_ok=True)
    (logs / "attempt-1.log").write_bytes(b"began\r\n 0/9 |\r 5/9 |\r 9/9 done\nended\r")
    shown = document(client, f"/experiments/{UNDO}.json")["log"]["text"]
    assert shown == "began\r\n 9/9 done\nended\r"
