"""`unsay report --html`: one file that has everything, loads nothing, and is never written over what is not ours."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.lab import ARMS, Arm, change_record, make, make_lab
from tests.unit.web.site import Page
from tests.unit.web.test_hostile import ACTING, HOSTILE
from unsay import cli
from unsay.records import Beginning
from unsay.report import compare, tables
from unsay.store import archive, layout, read, write
from unsay.web import standalone

UNDO = "qwen3-4b/gsm8k/sft/lora/train_bt"


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    found = make_lab(tmp_path / "outputs")
    log = layout.train(found / UNDO) / layout.TRAINER_LOG
    log.parent.mkdir()
    log.write_text("".join(json.dumps({"current_steps": step, "loss": 1 / step}) + "\n" for step in range(1, 30)))
    return found


def report(lab: Path) -> Page:
    return Page(standalone.render(standalone.document(lab)))


def is_self_contained(shown: Page) -> None:
    """Assert that a file asks for nothing, runs only our script, and its policy says the same."""
    assert not {"link", "img", "iframe", "object", "embed", "base", "form", "b", "template"} & {
        t for t, _ in shown.elements
    }
    for _, attributes in shown.elements:
        assert not [
            name for name in attributes if name.startswith("on") or name in ("style", "src", "srcset", "action")
        ]
        address = attributes.get("href")
        assert address is None or address.startswith("#"), address
    assert "url(" not in shown.html
    assert "@import" not in shown.html
    (policy,) = shown.all("meta", http_equiv="Content-Security-Policy")
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", shown.html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}';" in str(policy["content"])
    assert str(policy["content"]).startswith("default-src 'none'; ")
    assert not ACTING & set(shown.html)


def test_the_report_has_every_experiment_every_number_and_every_figure(lab: Path) -> None:
    shown = report(lab)
    is_self_contained(shown)
    entries = read.find(lab)
    for entry in entries:
        assert entry.name in shown.text
        for value in tables.row(entry).metrics.values():
            assert value.definition in shown.text
    assert tables.headline(tables.differences([entry for entry in entries if entry.limit is None])) in shown.text
    assert (
        len(shown.all("svg", class_="figure")) == 3
    )  # the loss of one training, accuracy at matched tokens and by tokens
    assert len(shown.all("svg", class_="whisker")) > 20
    assert "comparable with nothing above" in shown.text
    assert len(shown.all("details", id=True)) == len(entries)
    anchors = {found["id"] for found in shown.all("details", id=True)}
    assert {str(link["href"])[1:] for link in shown.all("a") if link["href"] != "#main"} <= anchors


def test_the_matrix_is_that_of_the_comparisons_adjusted_for_all_pairs(lab: Path) -> None:
    (matrix,) = standalone.document(lab)["matrices"]
    assert matrix["names"] == ["EXP-001", "EXP-002", "EXP-003", "EXP-004"]
    chosen = [entry for entry in read.find(lab) if entry.name in matrix["names"] and entry.limit is None]
    sides = compare.sides(chosen, (), each_seed=True)
    found = compare.compare(sides, compare.Options((tables.STRICT,), all_pairs=True))
    assert len(found) == 6
    for one in found:
        a, b = (matrix["names"].index(side.name) for side in (one.other, one.baseline))
        (result,) = one.results
        assert matrix["cells"][a][b]["diff"] == pytest.approx(result.diff)
        assert matrix["cells"][b][a]["diff"] == pytest.approx(-(result.diff or 0))
        assert matrix["cells"][a][b]["p_holm"] == matrix["cells"][b][a]["p_holm"] == pytest.approx(result.p_holm)
    assert [matrix["cells"][at][at] for at in range(4)] == [None] * 4


def test_experiments_on_other_items_are_not_in_one_matrix(tmp_path: Path) -> None:
    lab = make_lab(tmp_path / "outputs", ARMS[:5])
    for number in range(2):
        folder = make(lab, Arm(f"EXP-1{number}", config=f"fewshot_{number}"))
        change_record(folder, dataset="other")
    found = standalone.document(lab)["matrices"]
    assert [matrix["names"] for matrix in found] == [["EXP-001", "EXP-002", "EXP-003", "EXP-004"], ["EXP-10", "EXP-11"]]


def test_answers_that_were_given_their_beginning_are_compared_with_their_like_only(tmp_path: Path) -> None:
    lab = make_lab(tmp_path / "outputs", ARMS[:4])
    for name, decode in {
        "planted": {"plant": "arithmetic_slip"},
        "planted-banned": {"plant": "arithmetic_slip", "undo": "ban"},
        "twin": {"plant": "arithmetic_slip", "plant_twin": True},
    }.items():
        folder = make(lab, Arm(name, method="sft", config=f"lora/{name}", undo=True))
        change_record(folder, spec={"settings": {"decode": decode}})
        traces = list(read.traces(folder))
        given = Beginning(1, 0, "plant_twin" in decode)
        (folder / layout.TRACES).unlink()
        with write.Journal(folder / layout.TRACES) as journal:
            for each in traces:
                journal.append(replace(each, beginning=given).to_json())
    found = standalone.document(lab)
    plain = ["EXP-001", "EXP-002", "EXP-003", "EXP-004"]
    assert [matrix["names"] for matrix in found["matrices"]] == [plain, ["planted", "planted-banned"]]
    alone = standalone.document(make_lab(tmp_path / "plain", ARMS[:4]))
    assert found["matrices"][0]["cells"] == alone["matrices"][0]["cells"]  # the family of tests did not grow
    (drawn,) = found["matched"].values()
    assert [curve["label"] for curve in drawn["curves"]] == plain
    assert [one["name"] for one in drawn["without"]] == ["planted", "planted-banned", "twin"]
    kinds = ["with a mistake", "with a mistake", "the right one"]
    reasons = [f"its answers were given their beginning ({kind}), which was not sampled" for kind in kinds]
    assert [one["reason"] for one in drawn["without"]] == reasons
    assert [name for name, *_ in found["tokens"]["gsm8k"]] == plain


def test_more_than_a_matrix_can_show_are_left_out_and_counted(tmp_path: Path) -> None:
    most = standalone.MOST_IN_MATRIX
    lab = make_lab(tmp_path / "outputs", tuple(Arm(f"EXP-{n:03}", config=f"fewshot_{n}") for n in range(most + 3)))
    (matrix,) = standalone.document(lab)["matrices"]
    assert (len(matrix["names"]), matrix["left_out"]) == (most, 3)
    assert "3 more experiments are left out" in report(lab).text


def test_archived_experiments_and_secrets_are_not_in_it(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnopqrstuv")
    change_record(lab / UNDO, notes="with hf_abcdefghijklmnopqrstuv")
    archive.archive(next(entry.folder for entry in read.find(lab) if entry.name == "EXP-002"))
    shown = report(lab)
    assert "with [redacted]" in shown.text
    assert "EXP-002" not in shown.text


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_texts_are_text(lab: Path, name: str) -> None:
    text = HOSTILE[name]
    change_record(lab / UNDO, id=f"EXP {text}", model=text, config=text, notes=text, warnings=(text,))
    is_self_contained(report(lab))


def test_the_command_writes_the_same_file_again(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = lab.parent / "report.html"
    command = ["report", "-o", str(lab), "--html", str(file)]
    assert cli.main(command) == 0
    assert str(file) in capsys.readouterr().out
    first = file.read_bytes()
    assert cli.main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "html": str(file)}
    assert file.read_bytes() == first
    assert not (lab.parent / layout.PAGE).exists()


def test_a_file_that_is_not_ours_is_left(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = lab.parent / "thesis.html"
    file.write_text("<!doctype html><p>my thesis")
    assert cli.main(["report", "-o", str(lab), "--html", str(file)]) == 1
    assert "it was left as it is" in capsys.readouterr().err
    assert file.read_text() == "<!doctype html><p>my thesis"
    assert cli.main(["report", "-o", str(lab), "--html", str(file), "--format", "csv"]) == 2
    assert cli.main(["report", "-o", str(lab), "--html", str(file), "--page", "x.md"]) == 2


def test_an_empty_lab_has_a_report(tmp_path: Path) -> None:
    shown = report(tmp_path)
    is_self_contained(shown)
    assert "No experiment yet" in shown.text
