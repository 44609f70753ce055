"""The best value of a column is marked where it is known to be best; what cannot be compared is said."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.lab import ITEMS, Arm, change_record, make, make_lab, set_right
from unsay import stats
from unsay.records import MetricValue
from unsay.report import best, tables
from unsay.report.best import Standing
from unsay.report.markdown import write_page
from unsay.report.names import BLEU, FLEXIBLE, STRICT
from unsay.store import layout, read, write


def standing(lab: Path) -> Standing:
    rows = [row for row in map(tables.row, read.find(lab)) if row.entry.limit is None]
    return best.standing(rows, tables.same_items([row.entry for row in rows]))


def marked(lab: Path, metric: str = STRICT) -> list[str]:
    found = standing(lab)
    return [entry.name for entry in read.find(lab) if found.is_best(entry, metric)]


def two(lab: Path, first: list[bool], second: list[bool]) -> tuple[Path, Path]:
    folders = make(lab, Arm("EXP-001", "a")), make(lab, Arm("EXP-002", "b"))
    for folder, right in zip(folders, (first, second), strict=True):
        set_right(folder, right)
    return folders


def metrics(folder: Path, change: dict[str, MetricValue]) -> None:
    values = read.metrics(folder) | change
    document = {"schema": 1, "n": ITEMS, "metrics": {name: value.to_json() for name, value in values.items()}}
    write.write_json(folder / layout.METRICS, document)


def test_the_best_is_marked_only_beyond_chance(tmp_path: Path) -> None:
    # 4 columns are tested: McNemar's p has to be below 0.05 / 4 here
    two(tmp_path / "clear", [True] * 111 + [False] * 89, [True] * 100 + [False] * 100)
    assert stats.mcnemar(11, 0).p < 0.05 / 4
    assert marked(tmp_path / "clear") == marked(tmp_path / "clear", FLEXIBLE) == ["EXP-001"]
    two(tmp_path / "close", [True] * 106 + [False] * 94, [True] * 100 + [False] * 100)
    assert 0.05 / 4 < stats.mcnemar(6, 0).p < 0.05
    assert marked(tmp_path / "close") == []
    two(tmp_path / "equal", [True, False] * 100, [True, False] * 100)
    assert standing(tmp_path / "equal").marked == frozenset()
    assert marked(make_lab(tmp_path / "all")) == ["EXP-001"]


def test_it_has_to_be_better_than_every_other_one_not_than_the_next_value_only(tmp_path: Path) -> None:
    base = [True] * 100 + [False] * 100
    two(tmp_path, [True] * 115 + [False] * 85, base)
    assert marked(tmp_path) == ["EXP-001"]
    # one right answer less than the second one, but on wholly different items
    set_right(make(tmp_path, Arm("EXP-003", "c")), [False] * 101 + [True] * 99)
    assert marked(tmp_path) == []


def test_equal_systems_are_rarely_marked() -> None:
    """Two systems that are equally good, and one that is far worse: at most one time in twenty one is called best."""
    draw = random.Random(0)
    marks = 0
    for _ in range(400):
        runs = [[draw.random() < share for _ in range(120)] for share in (0.5, 0.5, 0.2)]
        first, *others = sorted(runs, key=sum, reverse=True)
        ps = [stats.mcnemar(*stats.discordant(first, other)).p for other in others]
        marks += max(ps) < 0.05
    assert 0 < marks <= 20


def test_no_pairing_has_a_larger_p_than_the_bound() -> None:
    draw = random.Random(1)
    for _ in range(300):
        n = draw.randint(2, 80)
        a, b = sorted((draw.randint(0, n), draw.randint(0, n)), reverse=True)
        one, two = [1.0] * a + [0.0] * (n - a), [1.0] * b + [0.0] * (n - b)
        draw.shuffle(one)
        draw.shuffle(two)
        assert stats.mcnemar(*stats.discordant(one, two)).p <= best._least_agreement(a, b, n) + 1e-12
        paired, errors = stats.paired_difference(one, two), [stats.mean(each).stderr for each in (one, two)]
        assert paired.stderr is not None
        assert paired.stderr <= sum(error or 0.0 for error in errors) + 1e-12


def test_scores_that_are_no_right_and_wrong_are_bootstrapped(tmp_path: Path) -> None:
    folders = two(tmp_path, [True] * 100 + [False] * 100, [True] * 100 + [False] * 100)
    lines = (folders[0] / layout.SCORES).read_text().splitlines()
    better = [json.loads(line) for line in lines]
    for line in better:
        line["scores"][BLEU] += 4.0  # the spread over items is 17 points; the pairs differ by 4 each
    write.write_bytes(folders[1] / layout.SCORES, b"".join(map(write.json_line, better)))
    metrics(folders[1], {BLEU: replace(read.metrics(folders[0])[BLEU], value=38.08, stderr=1.2)})
    assert marked(tmp_path, BLEU) == ["EXP-002"]
    assert marked(tmp_path) == []


def test_other_items_definitions_and_protocols_are_said_at_the_table(tmp_path: Path) -> None:
    lab = tmp_path / "outputs"
    clear = [True] * 150 + [False] * 50, [True] * 100 + [False] * 100
    _, folder = two(lab, *clear)
    other = make(lab, Arm("EXP-003", "c"))
    set_right(other, [True] * 180)
    assert marked(lab) == ["EXP-001"], "another set of items is no rival"
    value = read.metrics(folder)[STRICT]
    metrics(folder, {STRICT: replace(value, definition="another scorer v2")})
    assert marked(lab) == []
    assert marked(lab, FLEXIBLE) == ["EXP-001"]
    record = read.record(other)
    assert record is not None
    settings = record.spec["settings"]
    change_record(other, spec={"settings": settings | {"decode": settings["decode"] | {"max_new_tokens": 64}}})
    page = write_page(lab).read_text(encoding="utf-8")
    table = page.split("## Experiment Results")[1].split("###")[0]
    said = "only comparable within each of EXP-001, EXP-002 (200 items); EXP-003 (180 items)."
    assert f"- gsm8k: not scored on the same items, so {said}" in table
    assert "EM (strict) is not defined alike" in table
    assert "another scorer v2 in EXP-002" in table
    assert "max_new_tokens 256, but 64 in EXP-003" in table
    assert "**75.00 ± " in table
    assert "adjusted (Holm)" in page.split("### Metrics Legend")[1]


def test_seeds_are_one_value_and_marked_together(tmp_path: Path) -> None:
    lab = tmp_path / "outputs"
    for seed in range(3):
        for at, config in enumerate(("lora/train", "lora/train_bt")):
            arm = Arm(f"EXP-{at}{seed}", method="sft", config=config, seed=seed, seeded=True)
            right = 100 + 50 * at + seed
            set_right(make(lab, arm), [True] * right + [False] * (ITEMS - right))
    page = write_page(lab).read_text(encoding="utf-8")
    assert "**" not in page.split("## Experiment Results")[1].split("###")[0]
    (line,) = [line for line in page.split("### Seeds")[1].split("\n#")[0].splitlines() if line.startswith("| EXP-10")]
    assert "| **75.50 ± 0.50** |" in line


@pytest.mark.parametrize(("gap", "expected"), [(30, ["EXP-001"]), (12, [])])
def test_without_scores_per_item_the_standard_errors_decide(tmp_path: Path, gap: int, expected: list[str]) -> None:
    lab = tmp_path / "outputs"
    _, folder = two(lab, [True] * (100 + gap) + [False] * (100 - gap), [True] * 100 + [False] * 100)
    for path in (folder / layout.SCORES, *folder.glob("samples_*")):
        path.unlink()
    assert marked(lab) == expected
    table = write_page(lab).read_text(encoding="utf-8").split("###")[0]
    assert "gsm8k: without scores per item, so that it is not known whether the items are the same: EXP-002." in table
