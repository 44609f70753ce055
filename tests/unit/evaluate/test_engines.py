"""Which answers were generated how, over several runs, whatever was told and whatever was not."""

from __future__ import annotations

from pathlib import Path

from unsay.evaluate.engines import Engines

SLOW = {"engine": "slots", "threads": 1, "steps": 10}
FAST = {"engine": "slots", "threads": 4, "steps": 3}


def engines(folder: Path, eval_hash: str = "e") -> Engines:
    return Engines(folder, eval_hash, asked={"batch_size": 2})


def test_what_was_written_down_is_known_to_the_next_run(tmp_path: Path) -> None:
    first = engines(tmp_path)
    assert (first.facts, first.changes(0), first.remark(0)) == ({}, [], ())
    first.begin(0, SLOW)
    first.begin(0, SLOW | {"steps": 40})  # the same stretch, when it ended
    assert engines(tmp_path).facts == SLOW | {"steps": 40, "batch_size": 2}
    assert engines(tmp_path, "another").facts == {}


def test_how_far_it_got_is_no_change(tmp_path: Path) -> None:
    engines(tmp_path).begin(0, SLOW)
    later = engines(tmp_path)
    later.begin(3, SLOW | {"steps": 2})
    assert later.otherwise(3) == []
    assert later.changes(8) == []


def test_changes_are_told_with_the_answers_of_each_kind(tmp_path: Path) -> None:
    for answers, facts in ((0, SLOW), (2, SLOW), (5, FAST)):
        found = engines(tmp_path)
        found.begin(answers, facts)
    assert found.otherwise(5) == [0, 1, 2, 3, 4]
    assert found.changes(8) == [{"answers": 5, "threads": 1}, {"answers": 3, "threads": 4}]
    assert found.remark(8)[0].endswith(
        "5 with threads 1; 3 with threads 4; how many would come out differently was not counted"
    )
    found.note_check(5, [7])
    again = engines(tmp_path)
    assert again.checked == {"items": 5, "differ": [7]}
    assert "of 5 earlier ones generated once more, 1 came out differently" in again.remark(8)[0]


def test_only_what_was_generated_otherwise_is_generated_again(tmp_path: Path) -> None:
    for answers, facts in ((0, FAST), (2, SLOW), (5, FAST)):
        found = engines(tmp_path)
        found.begin(answers, facts)
    assert found.otherwise(5) == [2, 3, 4]


def test_answers_from_before_anything_was_written_down(tmp_path: Path) -> None:
    found = engines(tmp_path)
    found.begin(4, FAST)
    assert found.otherwise(4) == []
    assert found.changes(8) == []
