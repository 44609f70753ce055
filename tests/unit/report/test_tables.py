"""Comparisons: right numbers, only between what can be compared, and said honestly."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests

from tests.unit.lab import ARMS, ITEMS, Arm, change_record, make, make_lab, set_right
from unsay.report import tables
from unsay.stats import wilson
from unsay.store import layout, read, write
from unsay.store.read import Entry


def whole(output_dir: Path) -> list[Entry]:
    return [entry for entry in read.find(output_dir) if entry.limit is None]


def test_each_experiment_is_compared_with_the_plain_fine_tuning_of_its_model(tmp_path: Path) -> None:
    found = tables.differences(whole(make_lab(tmp_path)))
    assert [(one.other.name, one.baseline.name) for one in found] == [
        ("EXP-001", "EXP-003"),
        ("EXP-004", "EXP-003"),
        ("EXP-002", "EXP-001"),
    ]
    assert all(one.n == ITEMS and one.family == 3 for one in found)


def test_without_fine_tuning_the_vanilla_run_is_the_baseline(tmp_path: Path) -> None:
    make_lab(tmp_path, (ARMS[0], ARMS[3]))
    (one,) = tables.differences(whole(tmp_path))
    assert (one.baseline.name, one.other.name) == ("EXP-001", "EXP-004")


def test_what_may_take_back_is_compared_with_the_same_weights_where_it_is_banned(tmp_path: Path) -> None:
    """Another training of the same settings is no such control, nor what is decoded otherwise in more than its undo."""
    make(tmp_path, ARMS[2])
    for at, (config, decode, training) in enumerate(
        (("undo", {}, "a"), ("hard", {"undo_context": "rewind"}, "a"), ("banned", {"undo": "ban"}, "a"),
         ("again", {}, "b"), ("sampled", {"do_sample": True}, "a"), ("bias", {"undo_bias": 2.0}, "a"))
    ):  # fmt: skip
        place = make(tmp_path, Arm(f"UNDO-{at}", method="sft", config=config, undo=True))
        record = read.record(place)
        assert record is not None
        spec = {"settings": {**record.spec["settings"], "decode": {"undo": "allow"} | decode}}
        change_record(place, spec=spec, hashes={**record.hashes, "train": training})
    pairs = {(one.baseline.name, one.other.name) for one in tables.differences(whole(tmp_path))}
    assert pairs == {
        *(("EXP-003", f"UNDO-{at}") for at in range(6)),
        *(("UNDO-2", f"UNDO-{at}") for at in (0, 1)),
    }


def test_the_same_weights_are_compared_where_a_seed_is_missing(tmp_path: Path) -> None:
    make(tmp_path, ARMS[2])
    for config, undo, seeds in (("undo", "allow", (1, 2, 3)), ("banned", "ban", (1, 3))):
        for seed in seeds:
            place = make(
                tmp_path, Arm(f"{config}-{seed}", method="sft", config=config, undo=True, seed=seed, seeded=True)
            )
            record = read.record(place)
            assert record is not None
            spec = {"settings": {**record.spec["settings"], "decode": {"undo": undo}}}
            change_record(place, spec=spec, hashes={**record.hashes, "train": f"training {seed}"})
            set_right(place, [item % 2 == 0 for item in range(ITEMS)])
    (one,) = [each for each in tables.differences(whole(tmp_path)) if each.baseline.name.startswith("banned")]
    assert (one.baseline.seeds, one.other.seeds) == ((1, 3), (1, 3))
    assert (one.diff, one.p) == (0, 1)
    assert -(one.low or 0) == one.high == pytest.approx(100 * wilson(0, ITEMS)[1])  # none of these answers differ


def test_the_numbers_agree_with_scipy_and_statsmodels(tmp_path: Path) -> None:
    found = tables.differences(whole(make_lab(tmp_path)))
    expected = [binomtest(one.only_other, one.only_other + one.only_baseline).pvalue for one in found]
    assert [one.p for one in found] == pytest.approx(expected, rel=1e-9)
    assert [one.p_holm for one in found] == pytest.approx(multipletests(expected, method="holm")[1], rel=1e-9)
    for one in found:
        a, b = (side.runs[0].scores[tables.STRICT] for side in (one.baseline, one.other))
        gains = [b[item] - a[item] for item in a]
        mean = sum(gains) / ITEMS
        variance = sum((gain - mean) ** 2 for gain in gains) / (ITEMS - 1)
        assert one.diff == pytest.approx(mean)
        assert one.stderr == pytest.approx((variance / ITEMS) ** 0.5)


def test_the_sign_is_other_minus_baseline(tmp_path: Path) -> None:
    plain, undo = (make(tmp_path, arm) for arm in ARMS[2:4])
    set_right(plain, [item < 100 for item in range(ITEMS)])
    set_right(undo, [item < 110 for item in range(ITEMS)])
    (one,) = tables.differences(whole(tmp_path))
    assert (one.diff, one.only_other, one.only_baseline) == (pytest.approx(5.0), 10, 0)
    assert one.arms == ("undo data in only one",)


def test_other_gold_answers_items_or_definitions_are_not_compared(tmp_path: Path) -> None:
    for change in ("gold", "question", "items", "definition", "none"):
        lab = tmp_path / change
        make(lab, ARMS[2])
        folder = make(lab, ARMS[3])
        path = folder / layout.SCORES
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        if change == "gold":
            lines[0]["label"] = "another answer"
        elif change == "question":
            lines[0]["question"] = "another question"
        elif change == "items":
            lines = [line for line in lines if line["item"] != "3"]
        elif change == "definition":
            metrics = json.loads((folder / layout.METRICS).read_text())
            metrics["metrics"]["exact_match_strict"]["definition"] = "another"
            write.write_json(folder / layout.METRICS, metrics)
        write.write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
        entries = whole(lab)
        assert len(tables.differences(entries)) == (1 if change == "none" else 0), change
        assert len(tables.uncompared(entries)) == (0 if change == "none" else 2), change


def test_what_has_no_scores_per_item_is_named(tmp_path: Path) -> None:
    folder = make(tmp_path, ARMS[0])
    next(folder.glob("samples_*")).unlink()
    (folder / layout.SCORES).unlink()
    ((entry, reason),) = tables.uncompared(whole(tmp_path))
    assert entry.name == "EXP-001"
    assert "per item" in reason


def test_limited_runs_are_never_compared_with_whole_ones(tmp_path: Path) -> None:
    make_lab(tmp_path, (ARMS[2], ARMS[4]))
    assert tables.differences(read.find(tmp_path)) == []


# -- the one sentence -------------------------------------------------------------


def test_the_headline_of_one_null_result(tmp_path: Path) -> None:
    plain, undo = (make(tmp_path, arm) for arm in ARMS[2:4])
    set_right(plain, [item % 2 == 0 for item in range(ITEMS)])
    set_right(undo, [item % 2 == 0 or item == 1 for item in range(ITEMS)])
    sentence = tables.headline(tables.differences(whole(tmp_path)))
    assert sentence == (
        "EM (strict) of lora/train_bt and lora/train does not differ beyond chance: +0.5 ± 0.5 points, p = 1.00."
    )


def test_the_headline_of_one_clear_result(tmp_path: Path) -> None:
    plain, undo = (make(tmp_path, arm) for arm in ARMS[2:4])
    set_right(plain, [item < 150 for item in range(ITEMS)])
    set_right(undo, [item < 100 for item in range(ITEMS)])
    sentence = tables.headline(tables.differences(whole(tmp_path)))
    assert sentence == "EM (strict) of lora/train_bt is 25.0 ± 3.1 points lower than that of lora/train, p < 0.001."


def test_the_headline_separates_what_differs_from_what_does_not(tmp_path: Path) -> None:
    vanilla, plain, undo = (make(tmp_path, arm) for arm in (ARMS[0], *ARMS[2:4]))
    set_right(vanilla, [item < 150 for item in range(ITEMS)])
    set_right(plain, [item < 100 for item in range(ITEMS)])
    set_right(undo, [item < 101 for item in range(ITEMS)])
    sentence = tables.headline(tables.differences(whole(tmp_path)))
    assert sentence == (
        "EM (strict) differs beyond chance for fewshot_8 against lora/train (+25.0 ± 3.1, p < 0.001); "
        "it does not for lora/train_bt against lora/train (+0.5 ± 0.5, p = 1.00); p is Holm-adjusted."
    )


def test_two_equal_runs_do_not_differ(tmp_path: Path) -> None:
    for arm in ARMS[2:4]:
        set_right(make(tmp_path, arm), [True] * ITEMS)
    (one,) = tables.differences(whole(tmp_path))
    assert (one.diff, one.stderr, one.p) == (0.0, 0.0, 1.0)
    assert "does not differ beyond chance: +0.0 ± 0.0" in tables.headline([one])


def test_nothing_to_compare_is_said() -> None:
    assert "nothing is compared here" in tables.headline([])


def seeded(id: str, config: str, seed: int, right: float = 0.5) -> Arm:
    return Arm(id, method="sft", config=config, seed=seed, seeded=True, right=right, undo="bt" in config)


def test_seeds_of_one_experiment_are_compared_as_one(tmp_path: Path) -> None:
    for seed in range(3):
        make(tmp_path, seeded(f"EXP-00{seed + 1}", "lora/train", seed))
        make(tmp_path, seeded(f"EXP-01{seed + 1}", "lora/train_bt", seed, right=0.6))
    (one,) = tables.differences(whole(tmp_path))
    assert (one.baseline.name, one.other.name) == ("EXP-001 (3 seeds)", "EXP-011 (3 seeds)")
    assert [run.name for run in one.other.runs] == ["EXP-011", "EXP-012", "EXP-013"]
    shares = {
        run.name: sum(run.scores[tables.STRICT].values()) / ITEMS
        for side in (one.baseline, one.other)
        for run in side.runs
    }
    expected = sum(shares[f"EXP-01{n}"] - shares[f"EXP-00{n}"] for n in (1, 2, 3)) / 3
    assert one.diff == pytest.approx(expected)
    assert (one.test, one.only_other, one.only_baseline) == ("t test over seeds and questions", None, None)
    assert "lora/train_bt (3 seeds)" in tables.headline([one])
    assert one.arms == ("undo data in only one",)


def test_a_line_of_seeds_has_mean_and_deviation_over_them(tmp_path: Path) -> None:
    for seed in range(3):
        make(tmp_path, seeded(f"EXP-00{seed + 1}", "lora/train", seed))
    make(tmp_path, replace(seeded("EXP-004", "lora/train", 4), status="failed"))
    make(tmp_path, ARMS[0])
    rows = [tables.row(entry) for entry in whole(tmp_path)]
    (line,) = tables.seed_rows(rows)
    values = [row.metrics[tables.STRICT].value or 0 for row in rows if row.seed < 3 and row.method == "sft"]
    assert line.seeds == (0, 1, 2)
    assert line.metrics[tables.STRICT] == (
        pytest.approx(statistics.mean(values)),
        pytest.approx(statistics.stdev(values)),
    )
    assert statistics.stdev(values) > 0


def test_two_results_of_one_seed_are_no_group(tmp_path: Path) -> None:
    make(tmp_path, seeded("EXP-001", "lora/train", 1))
    change_record(make(tmp_path, seeded("EXP-002", "lora/other", 1)), config="lora/train")
    assert tables.seed_rows([tables.row(entry) for entry in whole(tmp_path)]) == []
    (one,) = tables.differences(whole(tmp_path))
    assert (one.baseline.name, one.other.name) == ("EXP-001", "EXP-002")
    assert set(tables.short_names([one]).values()) == {"EXP-001", "EXP-002"}


def test_an_error_of_zero_that_cannot_be_is_left_out_and_said(tmp_path: Path) -> None:
    folder = make(tmp_path, ARMS[0])
    document = json.loads((folder / layout.METRICS).read_text())
    document["metrics"][tables.STRICT]["stderr"] = 0.0
    document["metrics"]["sampled_tokens"]["stderr"] = 0.0
    write.write_json(folder / layout.METRICS, document)
    row = tables.row(whole(tmp_path)[0])
    strict, tokens = row.metrics[tables.STRICT], row.metrics["sampled_tokens"]
    assert (strict.stderr, strict.low, strict.high) == (None, None, None)
    assert "cannot be right" in (strict.reason or "")
    assert tokens.stderr == 0.0, "every answer may have the same number of tokens"


def test_results_older_than_scores_are_read_from_samples(tmp_path: Path) -> None:
    folders = [make(tmp_path, arm) for arm in ARMS[2:4]]
    (new,) = tables.differences(whole(tmp_path))
    (folders[0] / layout.SCORES).unlink()
    (mixed,) = tables.differences(whole(tmp_path))
    (folders[1] / layout.SCORES).unlink()
    (old,) = tables.differences(whole(tmp_path))
    assert new.to_json() == mixed.to_json() == old.to_json()


def test_who_has_no_partner_is_told_how_to_get_one(tmp_path: Path) -> None:
    make(tmp_path, Arm("EXP-001", model="a", method="sft", config="released"))
    make(tmp_path, Arm("EXP-002", model="b", method="sft", config="released"))
    assert tables.differences(whole(tmp_path)) == []
    left = tables.uncompared(whole(tmp_path))
    assert [entry.name for entry, _ in left] == ["EXP-001", "EXP-002"]
    assert all("unsay compare" in reason for _, reason in left)


# -- rows -------------------------------------------------------------------------


def test_undo_measures_are_shown_only_where_an_undo_was_possible(tmp_path: Path) -> None:
    rows = {row.name: row for row in map(tables.row, whole(make_lab(tmp_path)))}
    assert tables.undo_names(rows["EXP-001"]) == ("sampled_tokens",)
    assert tables.undo_names(rows["EXP-004"]) == ("undo_rate_token", "sampled_tokens")


def test_items_of_a_limited_run(tmp_path: Path) -> None:
    make(tmp_path, ARMS[4])
    (entry,) = read.find(tmp_path)
    assert tables.items_of(tables.row(entry)) == (20, ITEMS)
    assert entry.record is not None
    unknown = replace(entry, record=replace(entry.record, items=20))
    assert tables.items_of(tables.row(unknown)) == (20, None)
    told = replace(entry, record=replace(entry.record, items=20, facts={"total": 1319}))
    assert tables.items_of(tables.row(told)) == (20, 1319)


def test_a_row_with_broken_metrics_says_so(tmp_path: Path) -> None:
    folder = make(tmp_path, ARMS[0])
    write.write_text(folder / layout.METRICS, "{")
    (entry,) = read.find(tmp_path)
    row = tables.row(entry)
    assert row.metrics == {}
    assert row.problem is not None
    assert layout.METRICS in row.problem
