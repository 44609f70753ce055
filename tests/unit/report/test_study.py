"""The page that says whether undo helps: every arm is found by its settings, every sentence follows from a test."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.unit.lab import Arm, change_record, make, write_items
from unsay import cli, stats
from unsay.errors import StoreError
from unsay.records import Counts, Key, Trace
from unsay.report import study, study_figure, study_page
from unsay.report.study import Line
from unsay.store import layout, read, write

N = 200
Right = Callable[[int], bool]


def experiment(
    lab: Path,
    config: str,
    right: Right,
    *,
    seed: int = 1,
    method: str = "sft",
    model: str = "tiny",
    train: str | None = None,
    undo: bool = False,
    decode: Mapping[str, Any] | None = None,
    scores: Mapping[str, Callable[[int], float]] | None = None,
    tokens: int = 20,
) -> Path:
    """Write one finished experiment: which items it has right, what it recorded, one trace per item."""
    arm = Arm(f"{config}-{model}-{seed}", model=model, method=method, config=config, seed=seed, seeded=True, undo=undo)
    place = make(lab, arm)
    record = read.record(place)
    assert record is not None
    settings = {**record.spec["settings"], "decode": {"undo_context": "keep", **(decode or {})}}
    hashes = {"eval": f"{config}{seed}"} | ({"train": f"{train or config}{seed}"} if method == "sft" else {})
    change_record(place, spec={"settings": settings}, hashes=hashes, limit=None)
    outcomes = [right(item) for item in range(N)]
    write_items(place, outcomes)
    lines = list(read.scores(place))
    for item, line in enumerate(lines):
        more = {name: score(item) for name, score in (scores or {}).items()}
        lines[item] = replace(line, scores=line.scores | more)
    write.write_bytes(place / layout.SCORES, b"".join(write.json_line(line.to_json()) for line in lines))
    (place / layout.TRACES).unlink()
    with write.Journal(place / layout.TRACES) as journal:
        for item, is_right in enumerate(outcomes):
            text = f"#### {item}" if is_right else "#### no"
            ids, pieces = tuple(range(tokens)), (text, *[""] * (tokens - 1))
            counts = Counts(tokens, tokens, 0, 0, 0, 0, (), (), None)
            journal.append(Trace(Key("gsm8k", item), "p", "e", 0, ids, pieces, ids, text, "stop", counts).to_json())
    return place


def drawn(name: str, share: float) -> Right:
    rng = random.Random(name)
    outcomes = [rng.random() < share for _ in range(N)]
    return outcomes.__getitem__


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """Undo changes nothing about accuracy and doubles recovery; five votes beat one answer."""
    for seed in (1, 2, 3):
        plain = drawn(f"plain {seed}", 0.5)
        experiment(tmp_path, "sft", plain, seed=seed)
        undo = drawn(f"undo {seed}", 0.5)
        experiment(tmp_path, "slip", undo, seed=seed, train="slip", undo=True)
        banned = {"undo": "ban"}
        same: Right = lambda item, undo=undo: undo(item) != (item % 50 == 0)  # noqa: E731
        experiment(tmp_path, "slip-banned", same, seed=seed, train="slip", undo=True, decode=banned)
        plant = {"plant": "arithmetic_slip"}
        reaction = {"planted_detection": lambda item: 100.0 * (item % 2), "undo_chance": lambda item: 50.0 + item % 7}
        recovers: Right = lambda item, seed=seed: (item + seed) % 4 == 0  # noqa: E731
        experiment(
            tmp_path, "slip-planted", recovers, seed=seed, train="slip", undo=True, decode=plant, scores=reaction
        )
        hardly: Right = lambda item, seed=seed: (item + seed) % 8 == 0  # noqa: E731
        experiment(
            tmp_path, "slip-planted-banned", hardly, seed=seed, train="slip", undo=True, decode=plant | banned,
            scores=reaction,
        )  # fmt: skip
        twins = {
            "planted_false_undo": lambda item: 100.0 * (item % 10 == 0),
            "undo_chance": lambda item: 1.0 + item % 7,
        }
        twin = plant | {"plant_twin": True}
        experiment(tmp_path, "slip-twin", plain, seed=seed, train="slip", undo=True, decode=twin, scores=twins)
        for vote in range(1, 6):
            experiment(
                tmp_path, "vote", drawn(f"vote {seed} {vote}", 0.75), seed=vote, method="vanilla",
                model=f"sft-tiny-{seed}", decode={"do_sample": True},
            )  # fmt: skip
    return tmp_path


def by_name(lines: tuple[Line, ...]) -> dict[str, Line]:
    return {line.other: line for line in lines}


def test_every_arm_is_found_by_its_settings(lab: Path) -> None:
    found = study.study(read.find(lab))
    assert {line.other for line in found.accuracy} == {"slip (3 seeds)", "slip-banned (3 seeds)"}
    assert {line.baseline for line in found.accuracy} == {"sft (3 seeds)"}
    assert [(line.baseline, line.other) for line in found.counterfactual] == [
        ("slip-banned (3 seeds)", "slip (3 seeds)")
    ]
    assert [(line.baseline, line.other) for line in found.recovery] == [
        ("slip-planted-banned (3 seeds)", "slip-planted (3 seeds)")
    ]
    (reaction,) = found.reactions
    assert (reaction.name, reaction.plant, reaction.n) == ("slip-planted (3 seeds)", "arithmetic_slip", N)
    assert reaction.rates["planted_detection"] == 50.0
    assert reaction.rates["exact_match_strict"] == 25.0
    assert reaction.false_undo == 10.0
    assert reaction.auroc is not None
    assert reaction.auroc.value == 1.0
    assert found.left_out == ()


def test_fixed_and_broken_are_what_was_made(lab: Path) -> None:
    (line,) = study.study(read.find(lab)).counterfactual
    flipped = [item for item in range(N) if item % 50 == 0]
    right = [drawn(f"undo {seed}", 0.5)(item) for seed in (1, 2, 3) for item in flipped]
    assert line.fixed == pytest.approx(100 * sum(right) / (3 * N))
    assert line.broken == pytest.approx(100 * (len(right) - sum(right)) / (3 * N))
    assert line.diff == pytest.approx(line.fixed - line.broken)
    assert line.after - line.before == pytest.approx(line.diff)


def test_the_baseline_is_trained_like_the_arms_with_undo(tmp_path: Path) -> None:
    recipes = {"a-longer": {"max_steps": 9}, "plain": {"max_steps": 8}, "slip": {"max_steps": 8}}
    for config, recipe in recipes.items():
        place = experiment(tmp_path, config, drawn(config, 0.5), undo=config == "slip")
        record = read.record(place)
        assert record is not None
        change_record(place, spec={"settings": {**record.spec["settings"], "training": recipe}})
    found = study.study(read.find(tmp_path))
    assert {(line.baseline, line.other) for line in found.accuracy} == {("plain", "a-longer"), ("plain", "slip")}


def test_a_correction_in_words_is_judged_behind_a_mistake_too(tmp_path: Path) -> None:
    experiment(tmp_path, "sft", drawn("a", 0.5))
    decode = {"plant": "arithmetic_slip", "undo": "ban"}
    scores = {"planted_detection": lambda _: 0.0, "undo_chance": lambda _: 1.0}
    experiment(tmp_path, "words-planted", lambda item: item % 2 == 0, undo=True, decode=decode, scores=scores)
    (reaction,) = study.study(read.find(tmp_path)).reactions
    assert (reaction.name, reaction.rates["exact_match_strict"]) == ("words-planted", 50.0)


def test_the_same_trainings_are_paired_seed_by_seed(tmp_path: Path) -> None:
    """Trainings that differ by far, and an undo that helps each of them a little: the little is seen."""
    for seed, share in ((1, 0.2), (2, 0.5), (3, 0.8)):
        base = drawn(f"base {seed}", share)
        better: Right = lambda item, base=base: base(item) or item % 25 == 0  # noqa: E731
        experiment(tmp_path, "sft", drawn(f"plain {seed}", share), seed=seed)
        experiment(tmp_path, "slip", better, seed=seed, train="slip", undo=True)
        experiment(tmp_path, "slip-banned", base, seed=seed, train="slip", undo=True, decode={"undo": "ban"})
    found = study.study(read.find(tmp_path))
    (undo,) = found.counterfactual
    assert undo.test == "hierarchical bootstrap, paired by training"
    assert undo.diff == pytest.approx(undo.fixed)
    assert undo.beyond_chance
    assert undo.low is not None
    assert undo.low > 0
    assert not any(line.beyond_chance for line in found.accuracy)


def test_the_conclusion_says_what_the_tests_say(lab: Path) -> None:
    found = study.study(read.find(lab))
    assert not any(line.beyond_chance for line in (*found.accuracy, *found.counterfactual))
    (recovery,) = found.recovery
    assert recovery.beyond_chance
    assert recovery.diff == pytest.approx(12.5)
    said = {sentence.split(",")[0]: sentence for sentence in found.conclusion()}
    assert "no difference beyond chance for" in said["Accuracy"]
    assert "slip (3 seeds) (" in said["Accuracy"]
    assert "could have gone unseen" in said["Accuracy"]
    assert "higher for slip-planted (3 seeds) (+12.5 points, p < 0.001)" in said["Recovery from a planted mistake"]
    assert "lower for slip (3 seeds)" in said["At 128 sampled tokens per question"]


def test_votes_are_taken_per_model_and_averaged(lab: Path) -> None:
    found = study.study(read.find(lab))
    vote = next(each for each in found.budgets if each.name.startswith("vote"))
    assert vote.name == "vote, majority of up to 5 (3 models)"
    values = [point.value for point in vote.points]
    # A wrong answer here is one that cannot be read and has no vote: one right answer is enough.
    assert values[0] == pytest.approx(100 * (1 - 0.25**3), abs=2)  # 64 tokens: three answers of 20
    assert values[1] == values[-1] == pytest.approx(100 * (1 - 0.25**5), abs=1)
    assert [point.tokens for point in vote.points] == [60.0, 100.0, 100.0, 100.0, 100.0]
    assert dict(found.at_budget)[64][0].baseline == vote.name


def test_answers_are_paired_by_question_whatever_order_they_ended_in(lab: Path) -> None:
    before = study.study(read.find(lab)).at_budget
    for at, traces in enumerate(sorted(lab.rglob(layout.TRACES))):
        lines = traces.read_bytes().splitlines(keepends=True)
        random.Random(at).shuffle(lines)
        write.write_bytes(traces, b"".join(lines))
    assert study.study(read.find(lab)).at_budget == before


def test_single_seeds_are_tested_by_mcnemar(tmp_path: Path) -> None:
    one, other = drawn("a", 0.5), drawn("b", 0.6)
    experiment(tmp_path, "sft", one)
    experiment(tmp_path, "slip", other, undo=True)
    (line,) = study.study(read.find(tmp_path)).accuracy
    gained = sum(other(item) > one(item) for item in range(N))
    lost = sum(one(item) > other(item) for item in range(N))
    assert line.p == line.p_holm == stats.mcnemar(gained, lost).p
    assert (line.fixed, line.broken) == (100 * gained / N, 100 * lost / N)


def test_other_questions_are_left_out_with_the_reason(lab: Path) -> None:
    make(lab, Arm("OTHER", model="other", right=0.5, limit=20))
    found = study.study(read.find(lab))
    assert [reason for name, reason in found.left_out if name == "OTHER"] == ["scored on other items than the rest"]


def test_without_a_baseline_it_says_what_is_missing(tmp_path: Path) -> None:
    experiment(tmp_path, "slip", drawn("a", 0.5), undo=True)
    with pytest.raises(StoreError, match="expected a finished fine-tuning without undo data"):
        study.study(read.find(tmp_path))


def test_the_page_holds_every_table_and_the_hashes(lab: Path) -> None:
    page = study_page.markdown(study.study(read.find(lab)))
    for heading in (
        "# Does undo help?", "## Conclusion", "## Accuracy, paired", "## Undo allowed against undo banned",
        "## Recovery from a planted mistake", "## Behind a planted mistake", "## Accuracy at matched sampled tokens",
        "## What the answers did", "## The answers themselves",
    ):  # fmt: skip
        assert heading in page
    assert page.index("## Conclusion") < page.index("## Accuracy, paired")
    assert "`slip-twin3`" in page


def test_names_cannot_act_on_the_page(tmp_path: Path) -> None:
    experiment(tmp_path, "sft", drawn("a", 0.5))
    place = experiment(tmp_path, "evil", drawn("b", 0.5), undo=True)
    change_record(place, config="<script>|x")
    found = study.study(read.find(tmp_path))
    page = study_page.markdown(found)
    figure = study_figure.svg(found.budgets)
    assert "<script>" not in figure
    ElementTree.fromstring(figure)
    assert "<script>" not in page
    assert "&lt;script&gt;\\|x" in page


def test_the_command_writes_the_page(lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "STUDY.md"
    assert cli.main(["report", "--output-dir", str(lab), "--study", str(page)]) == 0
    assert "Recovery from a planted mistake" in capsys.readouterr().out
    assert page.read_text().startswith("# Does undo help?\n")
    assert "](STUDY.svg)" in page.read_text()
    figure = ElementTree.fromstring((tmp_path / "STUDY.svg").read_text())
    names = [each.text for each in figure.iter("{http://www.w3.org/2000/svg}text")]
    assert {"sft (3 seeds)", "slip (3 seeds)", "vote, majority of up to 5 (3 models)"} <= set(names)
    assert "slip-banned (3 seeds)" not in names
    assert len(list(figure.iter("{http://www.w3.org/2000/svg}polyline"))) == 3
    assert cli.main(["report", "--output-dir", str(lab), "--study", str(page), "--json"]) == 0
    assert '"conclusion"' in capsys.readouterr().out
    assert cli.main(["report", "--output-dir", str(lab), "--study", str(page), "--html", "x.html"]) == 2
