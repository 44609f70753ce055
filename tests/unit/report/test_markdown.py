"""The page: complete, truthful, stable, and harmless whatever the notes contain."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.unit.lab import ARMS, Arm, make, make_lab
from unsay.errors import StoreError
from unsay.report.markdown import END_KEEP, KEEP, write_page
from unsay.store import layout, read, write

GOLDEN = Path(__file__).parent / "golden_page.md"
REFERENCE_HEADINGS = (
    "# Experiments",
    "## Experiment Results",
    "### Metrics Legend",
    "## Experiment Tracking",
    "## Experiment Details",
    "## Status Legend",
    "## Configuration Types",
    "## Results Format",
)
HOSTILE = (
    "a|b `code` <script>alert(1)</script> [x](javascript:alert(1)) ![i](http://e/i.png)\n# heading\r\n- item "
    "<!-- unsay:keep --> \x1b[31mred\x07 \u202etxet\u202c \u200b \ud800 &amp; \\ *bold* _em_ ~~s~~ $x$"
)


def test_the_page_is_the_golden_one(tmp_path: Path) -> None:
    page = write_page(make_lab(tmp_path / "outputs"))
    assert page == tmp_path / "EXPERIMENTS.md"
    assert page.read_text(encoding="utf-8") == GOLDEN.read_text(encoding="utf-8")


def test_every_section_of_the_known_page_is_there_in_its_order() -> None:
    lines = GOLDEN.read_text(encoding="utf-8").split("\n")
    places = [lines.index(heading) for heading in REFERENCE_HEADINGS]
    assert places == sorted(places)


def test_writing_twice_gives_the_same_bytes_and_does_not_touch_the_file(tmp_path: Path) -> None:
    lab = make_lab(tmp_path / "outputs")
    page = write_page(lab)
    before = page.read_bytes(), page.stat().st_mtime_ns
    assert write_page(lab) == page
    assert (page.read_bytes(), page.stat().st_mtime_ns) == before


def test_every_link_leads_to_a_file(tmp_path: Path) -> None:
    lab = tmp_path / "my lab (1)" / "outputs"
    make(lab, Arm("EXP-001", model="a b|c", config="fewshot_8"))
    make(lab, ARMS[3])
    page = write_page(lab)
    links = re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    assert len(links) >= 14
    for link in links:
        assert not link.startswith(("/", "http"))
        assert (page.parent / unquote(link)).is_file(), link


def test_limited_runs_are_not_among_the_results(tmp_path: Path) -> None:
    text = write_page(make_lab(tmp_path / "outputs")).read_text(encoding="utf-8")
    results = text.split("## Experiment Results")[1].split("### ")[0]
    assert results.count("\n| EXP-004 |") == 1
    limited = text.split("### Limited Runs")[1].split("### ")[0]
    assert "| 20 of 200 |" in limited


def test_scores_of_a_run_that_did_not_finish_are_not_shown(tmp_path: Path) -> None:
    folder = make(tmp_path / "outputs", ARMS[0])
    record = read.record(folder)
    assert record is not None
    write.write_json(folder / layout.EXPERIMENT, replace(record, status="failed").to_json())
    text = write_page(tmp_path / "outputs").read_text(encoding="utf-8")
    assert "| EXP-001 | qwen3-4b | gsm8k | vanilla | - | - | - | - |" in text


def test_an_unreadable_experiment_is_on_the_page_with_its_reason(tmp_path: Path) -> None:
    write.write_text(tmp_path / "outputs" / "m" / layout.EXPERIMENT, "{")
    text = write_page(tmp_path / "outputs").read_text(encoding="utf-8")
    assert "### m: cannot be read" in text
    assert "is not JSON" in text


def test_seeds_have_a_table_of_their_own_and_are_compared_together(tmp_path: Path) -> None:
    lab = tmp_path / "outputs"
    make(lab, ARMS[2])
    assert "### Seeds" not in write_page(lab).read_text(encoding="utf-8")
    for seed in range(2):
        make(lab, Arm(f"EXP-02{seed}", "m|x", "sft", "lora/train", seed=seed, seeded=True))
        make(lab, Arm(f"EXP-03{seed}", "m|x", "sft", "lora/train_bt", seed=seed, seeded=True, right=0.7, undo=True))
    text = write_page(lab).read_text(encoding="utf-8")
    seeds = text.split("### Seeds\n")[1].split("\n#")[0]
    assert "mean ± standard deviation over seeds" in seeds
    lines = [line for line in seeds.splitlines() if line.startswith("| EXP")]
    assert [line.split(" | ")[0] for line in lines] == ["| EXP-020, EXP-021", "| EXP-030, EXP-031"]
    assert "| m\\|x | gsm8k | sft | lora/train_bt | 2 | " in lines[1]
    comparisons = text.split("## Comparisons\n")[1].split("\n## ")[0]
    assert "| EXP-030 (2 seeds) | EXP-020 (2 seeds) | +" in comparisons
    assert "t tests that count the chance of trainings" in comparisons
    assert "- EXP-003: no other experiment of its model on these items" in comparisons


# -- what people write stays ------------------------------------------------------


def test_text_between_keep_markers_survives_where_it_stood(tmp_path: Path) -> None:
    lab = make_lab(tmp_path / "outputs")
    page = write_page(lab)
    text = page.read_text(encoding="utf-8")
    ours = "My own words | *as they are*\n\n# not a heading of the page\n<b>bold</b>"
    text = text.replace(f"{KEEP}\n\n{END_KEEP}", f"{KEEP}\n{ours}\n{END_KEEP}")
    title = "### EXP-003: qwen3-4b on gsm8k, sft lora/train\n"
    text = text.replace(title, f"{title}{KEEP}\nabout three\n{END_KEEP}\n")
    text = text.replace("Baseline evaluation", "edited by hand outside the markers")
    page.write_text(text, encoding="utf-8")
    for _ in range(2):
        again = write_page(lab).read_text(encoding="utf-8")
        assert f"{KEEP}\n{ours}\n{END_KEEP}" in again
        assert "edited by hand" not in again
        details = again.split(title)[1].split("\n### ")[0]
        assert f"{KEEP}\nabout three\n{END_KEEP}" in details
        assert again.count(KEEP) == 2


def test_kept_text_of_an_experiment_that_is_gone_moves_below_the_results(tmp_path: Path) -> None:
    lab = make_lab(tmp_path / "outputs", ARMS[:2])
    page = write_page(lab)
    text = page.read_text(encoding="utf-8")
    title = "### EXP-002: qwen3-0.6b on gsm8k, vanilla fewshot_8\n"
    page.write_text(text.replace(title, f"{title}{KEEP}\nlessons\n{END_KEEP}\n"), encoding="utf-8")
    (lab / ARMS[1].folder / layout.EXPERIMENT).unlink()
    results = write_page(lab).read_text(encoding="utf-8").split("### Metrics Legend")[0]
    assert f"{KEEP}\nlessons\n{END_KEEP}" in results


@pytest.mark.parametrize("lines", [[KEEP], [END_KEEP], [KEEP, KEEP, END_KEEP]])
def test_markers_that_do_not_match_stop_the_rewrite(tmp_path: Path, lines: list[str]) -> None:
    lab = make_lab(tmp_path / "outputs", ARMS[:1])
    page = write_page(lab)
    edited = page.read_text(encoding="utf-8") + "\n".join(["words", *lines, "more words"])
    page.write_text(edited, encoding="utf-8")
    with pytest.raises(StoreError, match="keep block"):
        write_page(lab)
    assert page.read_text(encoding="utf-8") == edited


def test_a_page_of_somebody_else_is_not_overwritten(tmp_path: Path) -> None:
    lab = make_lab(tmp_path / "outputs", ARMS[:1])
    page = tmp_path / "EXPERIMENTS.md"
    page.write_text("# My experiments\n")
    with pytest.raises(StoreError, match=r"not written by unsay.*unsay report --page"):
        write_page(lab)
    assert page.read_text() == "# My experiments\n"
    other = write_page(lab, tmp_path / "docs" / "OTHER.md")
    assert "](../outputs/qwen3-4b/" in other.read_text(encoding="utf-8")


def test_a_page_saved_with_windows_line_ends_is_still_ours(tmp_path: Path) -> None:
    lab = make_lab(tmp_path / "outputs", ARMS[:1])
    page = write_page(lab)
    text = page.read_text(encoding="utf-8")
    page.write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
    assert write_page(lab).read_text(encoding="utf-8").replace("\r\n", "\n").lstrip("\ufeff") == text


# -- text we did not write --------------------------------------------------------


def test_hostile_notes_change_nothing_but_their_own_cell(tmp_path: Path) -> None:
    lab = tmp_path / "outputs"
    folder = make(lab, replace(ARMS[5], notes="plain"))
    plain = write_page(lab).read_text(encoding="utf-8")
    record = read.record(folder)
    assert record is not None
    attempts = tuple(replace(attempt, error=HOSTILE) for attempt in record.attempts)
    hostile = replace(record, notes=HOSTILE, warnings=(HOSTILE,), attempts=attempts)
    write.write_json(folder / layout.EXPERIMENT, hostile.to_json())
    text = write_page(lab).read_text(encoding="utf-8")
    assert [line for line in text.split("\n") if line.startswith("#")] == [
        line for line in plain.split("\n") if line.startswith("#")
    ]
    assert text.count(KEEP) == plain.count(KEEP) == 1
    assert "<script" not in text
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e\u200b]", text)
    cells = [re.split(r"(?<!\\)\|", line) for line in text.split("\n") if line.startswith("| EXP-010")]
    assert [len(cell) for cell in cells] == [11, 12]
    assert write_page(lab).read_text(encoding="utf-8") == text
