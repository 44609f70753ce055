"""Broken, torn, huge and hostile files: each is refused in a sentence, and the rest is imported."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.unit.importers import foreign
from tests.unit.importers.test_lm_eval import take
from unsay import cli, importers, importing
from unsay.importers import Options
from unsay.store import read

NAMES = ("results_x.json", "samples_gsm8k_x.jsonl", "generated_predictions.jsonl", "all_results.json",
         "trainer_log.jsonl", "trainer_state.json", "adapter_config.json", "train.yaml", "answers.jsonl")  # fmt: skip
BROKEN = {
    "empty": b"",
    "binary": bytes(range(256)) * 4,
    "torn": b'{"predict": "a", "lab',
    "no object": b"[1, 2]\n",
    "deep": b"[" * 200_000,
    "deep object": b'{"a":' * 100_000,
    "UTF-16": '{"predict": "a", "label": "b"}'.encode("utf-16"),
    "invalid UTF-8": b'{"predict": "\xff", "label": "b"}\n',
    "huge number": b'{"predict": ' + b"9" * 6000 + b"}",
    "aliases": b"model_name_or_path: x\nstage: sft\na: &a [x, x]\nb: [*a, *a]\n",
    "NUL": b"\0" * 100,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_refused_and_the_rest_is_imported(tmp_path: Path, name: str, kind: str) -> None:
    foreign.write_run(tmp_path / "runs" / "good")
    (tmp_path / "runs" / name).write_bytes(BROKEN[kind])
    collected, outcomes = take(tmp_path / "runs", tmp_path / "lab")
    assert [one.did for one in outcomes] == ["added"]
    assert len(collected.refused) <= 1
    for refused in collected.refused:
        assert refused.path.name == name
        assert len(refused.reason) < 500
    named = importing.collect([tmp_path / "runs" / name], Options())
    assert not named.found
    assert [each.path.name for each in named.refused] == [name]


@pytest.mark.parametrize("prefix", [b"\xef\xbb\xbf", b"\r\n", b"\n\n  \n"])
def test_marks_and_line_ends_of_other_systems_are_no_mistake(tmp_path: Path, prefix: bytes) -> None:
    text = "\r\n".join(json.dumps(line) for line in foreign.predictions(8))
    (tmp_path / "generated_predictions.jsonl").write_bytes(prefix + text.encode())
    collected, outcomes = take(tmp_path / "generated_predictions.jsonl", tmp_path / "lab")
    assert collected.refused == ()
    assert read.metrics(tmp_path / "lab" / outcomes[0].folder)["exact_match_strict"].value == 50.0


def test_a_line_that_is_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importers, "LONGEST_LINE", 1000)
    lines = foreign.predictions(4)
    lines[2]["predict"] = "x" * 2000
    foreign.write_lines(tmp_path / "generated_predictions.jsonl", lines)
    collected, _ = take(tmp_path, tmp_path / "lab")
    assert "line 3: expected at most" in collected.refused[0].reason


def test_a_document_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign.write_run(tmp_path / "runs")
    monkeypatch.setattr(importers, "LARGEST_DOCUMENT", 1000)
    collected, outcomes = take(tmp_path / "runs", tmp_path / "lab")
    assert "the file is larger" in collected.refused[0].reason
    assert [one.found.part for one in outcomes] == ["gsm8k"]  # the samples alone


def test_a_key_that_is_there_twice_is_ambiguous(tmp_path: Path) -> None:
    path = foreign.write_run(tmp_path / "runs")
    path.write_text(path.read_text().replace('"versions"', '"results": {}, "versions"', 1))
    collected, _ = take(tmp_path / "runs", tmp_path / "lab")
    assert "got 'results' twice" in collected.refused[0].reason


def test_pipes_links_and_folders_in_the_way_are_passed_over(tmp_path: Path) -> None:
    foreign.write_run(tmp_path / "runs" / "good")
    os.mkfifo(tmp_path / "runs" / "results_pipe.json")
    (tmp_path / "runs" / "loop").symlink_to(tmp_path / "runs")
    (tmp_path / "runs" / "gone.json").symlink_to(tmp_path / "nowhere")
    (tmp_path / "runs" / "samples_folder.jsonl").mkdir()
    collected, outcomes = take(tmp_path / "runs", tmp_path / "lab")
    assert collected.refused == ()
    assert [one.did for one in outcomes] == ["added"]


@pytest.mark.parametrize(
    "name", ["../../x", "a\x1b[31m/b", "<script>alert(1)</script>", "|x|`y`", "‮evil", "x" * 5000, "\ud800"]
)
def test_hostile_names_stay_in_the_lab_and_do_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = foreign.write_run(tmp_path / "runs")
    document = json.loads(path.read_text())
    document["config"]["model_args"] = {"pretrained": name}
    document["model_name"] = name
    document["configs"]["gsm8k"]["metadata"]["version"] = name
    document["results"]["gsm8k"][f"{name},strict-match"] = 0.5
    document["lm_eval_version"] = name
    path.write_text(json.dumps(document))
    assert cli.main(["import", "runs"]) == 0
    (entry,) = read.find(tmp_path / "outputs")
    assert entry.folder.resolve().is_relative_to((tmp_path / "outputs" / "imported").resolve())
    assert not set(tmp_path.iterdir()) - {tmp_path / each for each in ("runs", "outputs", "EXPERIMENTS.md")}
    out = "".join(capsys.readouterr()) + (tmp_path / "EXPERIMENTS.md").read_text()
    assert "\x1b" not in out
    assert "‮" not in out
    assert "<script>" not in (tmp_path / "EXPERIMENTS.md").read_text()


def test_hostile_answers_are_scored_as_text(tmp_path: Path) -> None:
    answers = ["<script>", "\x1b]0;x\x07", "\ud800 lone", "‮", "\0", "a" * 300_000, "#### " * 5000, "{{7*7}}", "=cmd()"]
    lines = [{"prompt": text, "predict": text, "label": f"#### {i}"} for i, text in enumerate(answers)]
    path = tmp_path / "generated_predictions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    collected, outcomes = take(tmp_path, tmp_path / "lab")
    assert collected.refused == ()
    folder = tmp_path / "lab" / outcomes[0].folder
    assert [line["predict"] for line in read.predictions(folder)] == answers
    assert read.metrics(folder)["exact_match_strict"].n == len(answers)


def test_a_path_that_is_not_there_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["import", str(tmp_path / "nowhere"), "-o", str(tmp_path / "lab")]) == 1
    assert "does not exist" in capsys.readouterr().err
    assert not (tmp_path / "lab").exists()


def test_a_folder_of_our_own_results_is_left_alone(tmp_path: Path) -> None:
    foreign.write_run(tmp_path / "runs")
    take(tmp_path / "runs", tmp_path / "lab")
    collected, _ = take(tmp_path / "lab", tmp_path / "other")
    assert (collected.found, collected.refused) == ((), ())


def test_an_original_that_changed_meanwhile_updates_its_experiment(tmp_path: Path) -> None:
    path = foreign.write_lines(tmp_path / "run" / "generated_predictions.jsonl", foreign.predictions(4))
    take(tmp_path / "run", tmp_path / "lab")
    foreign.write_lines(path, foreign.predictions(8))
    _, outcomes = take(tmp_path / "run", tmp_path / "lab")
    assert [(one.id, one.did) for one in outcomes] == [("EXP-001", "updated")]
    (entry,) = read.find(tmp_path / "lab")
    assert read.metrics(entry.folder)["exact_match_strict"].n == 8


@pytest.mark.parametrize("copies", [3])
def test_the_same_file_in_several_places_is_one_experiment(tmp_path: Path, copies: int) -> None:
    for at in range(copies):
        foreign.write_run(tmp_path / "runs" / f"copy{at}")
    _, outcomes = take(tmp_path / "runs", tmp_path / "lab")
    assert [one.did for one in outcomes] == ["added", *["unchanged"] * (copies - 1)]
    assert len(read.find(tmp_path / "lab")) == 1
