"""The hand-kept page: ids, notes and numbers are taken over, wrong dates are named, files give more than the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.importers import foreign
from unsay import cli, handkept_page
from unsay.importers import ForeignError
from unsay.records import ExperimentRecord, MetricValue
from unsay.store import read

PAGE = """# Experiments

| Experiment ID | Model | Dataset | Method | EM (strict) | EM (flex) | BLEU | ROUGE-L | Notes |
|---------------|-------|---------|--------|-------------|-----------|------|---------|-------|
| EXP-001 | some-model | gsm8k | vanilla | 79.30 ± 1.12 | 83.09 ± 1.03 | - | - | Baseline \\| first |
| EXP-003 | some-model | gsm8k | sft | - | - | 49.76 | 59.07 | SFT with LoRA training |

## Experiment Tracking Template

| Experiment ID | Model | Dataset | Method | Config | Status | Start Date | End Date | Results | Notes |
|---------------|-------|---------|--------|--------|--------|------------|----------|---------|-------|
| EXP-001 | some-model | gsm8k | vanilla | fewshot_8 | completed | 2025-01-03 | 2025-01-03 | [results]({first}) | x |
| EXP-003 | some-model | gsm8k | sft | lora/train | completed | 2025-01-03 | 2025-01-03 | [p]({third}) | - |
""".replace("{first}", f"outputs/m/results_{foreign.STAMP}.json").replace("{third}", "outputs/s/predictions.jsonl")


def records(lab: Path) -> dict[str, tuple[ExperimentRecord, dict[str, MetricValue]]]:
    return {entry.record.id: (entry.record, read.metrics(entry.folder)) for entry in read.find(lab) if entry.record}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.md").write_text(PAGE)
    return tmp_path


def test_the_page_alone_keeps_its_numbers_unchecked(place: Path) -> None:
    assert cli.main(["import", "--page", "old.md", "-o", "lab"]) == 0
    found = records(place / "lab")
    first, values = found["EXP-001"]
    assert (first.notes, first.config, first.status) == ("Baseline | first", "fewshot_8", "completed")
    assert any(
        "wrong date: the page says start 2025-01-03, the files say 2025-09-09" in text for text in first.warnings
    )
    assert first.start == "2025-09-09"
    assert (values["exact_match_strict"].value, values["exact_match_strict"].n) == (79.3, 1319)
    assert values["exact_match_strict"].stderr == pytest.approx(1.116, abs=0.001)
    assert "not checked" in str(values["exact_match_strict"].reason)
    third, values = found["EXP-003"]
    assert values["bleu4_lf"].value == 49.76
    assert values["bleu4_lf"].stderr is None
    assert values["exact_match_strict"].value is None
    assert any("date not certain" in text for text in third.warnings)
    assert third.start is None


def test_files_the_page_links_give_the_numbers_and_the_page_gives_the_names(place: Path) -> None:
    foreign.write_run(place / "outputs" / "m", 12, 7)
    assert cli.main(["import", "outputs", "--page", "old.md", "-o", "lab"]) == 0
    found = records(place / "lab")
    assert set(found) == {"EXP-001", "EXP-003"}
    record, values = found["EXP-001"]
    assert values["exact_match_strict"].value == pytest.approx(700 / 12)
    assert (record.model, record.config, record.notes) == ("some-model", "fewshot_8", "Baseline | first")
    assert any("wrong date" in text for text in record.warnings)
    assert any("the page says 79.3" in text for text in record.warnings)


def test_files_that_come_later_take_the_place_of_the_pages_numbers(place: Path) -> None:
    foreign.write_run(place / "outputs" / "m", 12, 7)
    assert cli.main(["import", "--page", "old.md", "-o", "lab"]) == 0
    assert cli.main(["import", "outputs", "-o", "lab"]) == 0
    found = records(place / "lab")
    assert set(found) == {"EXP-001", "EXP-003"}
    record, values = found["EXP-001"]
    assert values["exact_match_strict"].value == pytest.approx(700 / 12)
    assert record.notes == "Baseline | first"
    assert record.imported is not None
    assert record.imported["tool"].startswith("lm-eval")


def test_a_page_that_comes_later_names_what_is_there(place: Path) -> None:
    foreign.write_run(place / "outputs" / "m", 12, 7)
    (place / "old.md").write_text((place / "old.md").read_text().replace("EXP-001", "BASE-7"))
    assert cli.main(["import", "outputs", "-o", "lab"]) == 0  # becomes EXP-001
    for _ in range(2):
        assert cli.main(["import", "outputs", "--page", "old.md", "-o", "lab"]) == 0
        found = records(place / "lab")
        assert set(found) == {"BASE-7", "EXP-003"}
        record, values = found["BASE-7"]
        assert (record.notes, record.config) == ("Baseline | first", "fewshot_8")
        assert values["exact_match_strict"].value == pytest.approx(700 / 12)
        assert any("the page says 79.3" in text for text in record.warnings)


def test_an_id_that_is_taken_is_refused_and_nothing_is_overwritten(place: Path) -> None:
    foreign.write_run(place / "other", 12, 3)
    assert cli.main(["import", "other", "-o", "lab"]) == 0  # becomes EXP-001
    before = records(place / "lab")["EXP-001"]
    assert cli.main(["import", "--page", "old.md", "-o", "lab"]) == 1
    found = records(place / "lab")
    assert found["EXP-001"] == before
    assert set(found) == {"EXP-001", "EXP-003"}


def test_twice_adds_nothing(place: Path) -> None:
    assert cli.main(["import", "--page", "old.md", "-o", "lab"]) == 0
    before = {path: path.read_bytes() for path in (place / "lab").rglob("*.json")}
    assert cli.main(["import", "--page", "old.md", "-o", "lab"]) == 0
    assert {path: path.read_bytes() for path in (place / "lab").rglob("*.json")} == before


@pytest.mark.parametrize(
    "text", ["", "nothing here", "| a | b |\n|---|---|\n| 1 | 2 |", "| Experiment ID |\n|--|\n| |"]
)
def test_a_page_without_experiments_is_refused(place: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "old.md").write_text(text)
    with pytest.raises(ForeignError, match="Experiment ID"):
        handkept_page.read_page(place / "old.md")
    assert cli.main(["import", "--page", "old.md", "-o", "lab"]) == 1
    assert "expected a table" in capsys.readouterr().err


def test_rows_survive_json() -> None:
    row = handkept_page.Row("EXP-1", links=("a/b.json",), values={"bleu": (1.5, None), "x": (2.0, 0.5)})
    assert handkept_page.Row.from_json(json.loads(json.dumps(row.to_json()))) == row
    assert handkept_page.Row.from_json({"id": 3}) is None


@pytest.mark.parametrize(
    ("cell", "value"),
    [("79.30 ± 1.12", (79.3, 1.12)), ("79.3%", (79.3, None)), ("79,3", (79.3, None)), ("**79.3** (±1.1)", (79.3, 1.1))],
)
def test_values_are_read_as_people_write_them(place: Path, cell: str, value: tuple[float, float | None]) -> None:
    (place / "old.md").write_text(f"| ID | BLEU |\n|---|---|\n| A | {cell} |\n")
    assert handkept_page.read_page(place / "old.md")[0].values == {"bleu4_lf": value}


@pytest.mark.parametrize("cell", ["1e2", "103.2", "-5", "about 80", "80/100", "9" * 400])
def test_values_that_cannot_be_are_named(place: Path, cell: str) -> None:
    (place / "old.md").write_text(f"| ID | BLEU |\n|---|---|\n| A | {cell} |\n")
    (row,) = handkept_page.read_page(place / "old.md")
    assert row.values == {}
    assert "which is no score between 0 and 100" in row.doubts[0]


def test_what_a_page_says_twice_is_named(place: Path) -> None:
    (place / "old.md").write_text("| ID | Model | BLEU |\n|---|---|---|\n| A | one | 5 |\n| A | two | 6 |\n")
    (row,) = handkept_page.read_page(place / "old.md")
    assert (row.model, row.values["bleu4_lf"][0]) == ("one", 5.0)
    assert [text.split(":")[0] for text in row.doubts] == ["model", "bleu"]


@pytest.mark.parametrize("day", ["03.01.2025", "2025-13-45", "2025/02/30", "2099-01-01"])
def test_days_that_have_not_been_are_named(day: str) -> None:
    assert any("no day that has been" in text for text in handkept_page.Row("A", start=day).contradictions())


def test_the_page_that_stands_where_ours_would_be_is_left_and_said(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign.write_run(place / "outputs" / "m", 12, 7)
    (place / "old.md").rename(place / "EXPERIMENTS.md")
    before = (place / "EXPERIMENTS.md").read_bytes()
    assert cli.main(["import", "outputs", "--page", "EXPERIMENTS.md"]) == 0
    out, err = capsys.readouterr()
    assert "EXP-001" in out
    assert "wrong date" in out
    assert "but the page was not written" in err
    assert (place / "EXPERIMENTS.md").read_bytes() == before
    assert cli.main(["report", "--page", "NEW.md"]) == 0
    assert "EXP-003" in (place / "NEW.md").read_text()
