"""The page that says whether undo helps: every arm is found by its settings, every sentence follows from a test."""

from __future__ import annotations

import json
import random
import shutil
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
from unsay.report import digests, results, study, study_figure, study_page
from unsay.report.study import Study
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
    of: Path | None = None,
) -> Path:
    """Write one finished experiment: which items it has right, what it recorded, one trace per item.

    `of` is the folder of the experiment whose training answers, where the model is one.
    """
    arm = Arm(f"{config}-{model}-{seed}", model=model, method=method, config=config, seed=seed, seeded=True, undo=undo)
    place = make(lab, arm)
    record = read.record(place)
    assert record is not None
    settings = {**record.spec["settings"], "decode": {"undo_context": "keep", **(decode or {})}}
    hashes = {"eval": f"{config}{seed}"} | ({"train": f"{train or config}{seed}"} if method == "sft" else {})
    spec: dict[str, Any] = {"settings": settings}
    if of is not None and (source := read.record(of)) is not None:
        spec["model"] = {"experiment": source.identity}
    change_record(place, spec=spec, hashes=hashes, limit=None, identity=f"identity of {place}")
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
        trained = experiment(tmp_path, "sft", plain, seed=seed)
        undo = drawn(f"undo {seed}", 0.5)
        experiment(tmp_path, "slip", undo, seed=seed, train="slip", undo=True)
        banned = {"undo": "ban"}
        same: Right = lambda item, undo=undo: undo(item) != (item % 50 == 0)  # noqa: E731
        experiment(tmp_path, "slip-banned", same, seed=seed, train="slip", undo=True, decode=banned)
        plant = {"plant": "arithmetic_slip"}
        reaction = {
            "planted_detection": lambda item: 100.0 * (item % 2),
            "undo_chance": lambda item, at=10 * seed: at + 5.0 + item % 3,
        }
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
            # Each training has a scale of its own: areas of all of them together would be smaller than 1.
            "undo_chance": lambda item, at=10 * seed: at + item % 3,
        }
        twin = plant | {"plant_twin": True}
        experiment(tmp_path, "slip-twin", plain, seed=seed, train="slip", undo=True, decode=twin, scores=twins)
        for vote in range(1, 6):
            experiment(
                tmp_path, "vote", drawn(f"vote {seed} {vote}", 0.75), seed=vote, method="vanilla",
                model=f"tiny+sft-tiny-{seed}", decode={"do_sample": True}, of=trained,
            )  # fmt: skip
    return tmp_path


def only(lab: Path) -> Study:
    (found,) = study.studies(read.find(lab))
    return found


def settings_of(place: Path, **parts: Any) -> None:
    """Change parts of the settings that an experiment recorded."""
    record = read.record(place)
    assert record is not None
    change_record(place, spec=record.spec | {"settings": {**record.spec["settings"], **parts}})


def test_every_arm_is_found_by_its_settings(lab: Path) -> None:
    found = only(lab)
    assert {line.other for line in found.lines("accuracy")} == {"slip (3 seeds)", "slip-banned (3 seeds)"}
    assert {line.baseline for line in found.lines("accuracy")} == {"sft (3 seeds)"}
    assert [(line.baseline, line.other) for line in found.lines("counterfactual")] == [
        ("slip-banned (3 seeds)", "slip (3 seeds)")
    ]
    assert [(line.baseline, line.other) for line in found.lines("recovery")] == [
        ("slip-planted-banned (3 seeds)", "slip-planted (3 seeds)")
    ]
    (reaction,) = found.reactions
    assert (reaction.name, reaction.plant, reaction.n) == ("slip-planted (3 seeds)", "arithmetic_slip", N)
    assert reaction.rates["planted_detection"].value == pytest.approx(50.0)
    assert reaction.right.value == pytest.approx(25.0)
    assert reaction.false_undo.value == pytest.approx(10.0)
    assert reaction.auroc.value == 1.0
    for rate in (*reaction.rates.values(), reaction.false_undo):
        assert rate.value is None or (rate.low or 0) < rate.value < (rate.high or 0)
    assert found.left_out == ()


def test_fixed_and_broken_are_what_was_made(lab: Path) -> None:
    (line,) = only(lab).lines("counterfactual")
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
        settings_of(place, training=recipe)
    found = only(tmp_path)
    assert {(line.baseline, line.other) for line in found.lines("accuracy")} == {
        ("plain", "a-longer"),
        ("plain", "slip"),
    }


def test_a_correction_in_words_is_judged_behind_a_mistake_too(tmp_path: Path) -> None:
    experiment(tmp_path, "sft", drawn("a", 0.5))
    decode = {"plant": "arithmetic_slip", "undo": "ban"}
    scores = {"planted_detection": lambda _: 0.0, "undo_chance": lambda _: 1.0}
    experiment(tmp_path, "words-planted", lambda item: item % 2 == 0, undo=True, decode=decode, scores=scores)
    (reaction,) = only(tmp_path).reactions
    assert (reaction.name, reaction.right.value) == ("words-planted", 50.0)
    assert not reaction.rates  # with undo banned there is nothing to notice with


def test_the_same_trainings_are_paired_seed_by_seed(tmp_path: Path) -> None:
    """Trainings that differ by far, and an undo that helps each of them a little: the little is seen."""
    for seed, share in ((1, 0.2), (2, 0.5), (3, 0.8)):
        some = drawn(f"base {seed}", share)
        base: Right = lambda item, some=some: some(item) and item % 10 != 0  # noqa: E731
        better: Right = lambda item, base=base: base(item) or item % 10 == 0  # noqa: E731
        experiment(tmp_path, "sft", drawn(f"plain {seed}", share), seed=seed)
        experiment(tmp_path, "slip", better, seed=seed, train="slip", undo=True)
        experiment(tmp_path, "slip-banned", base, seed=seed, train="slip", undo=True, decode={"undo": "ban"})
    found = only(tmp_path)
    (undo,) = found.lines("counterfactual")
    assert undo.test == results.SAME_TRAINING
    assert undo.diff == pytest.approx(undo.fixed)
    assert undo.beyond_chance
    assert undo.low is not None
    assert undo.low > 0
    assert not any(line.beyond_chance for line in found.lines("accuracy"))


def test_what_holds_for_these_trainings_is_told_from_what_holds_for_others(tmp_path: Path) -> None:
    """One training of three loses by its undo: so do these weights, and another training may not."""
    for seed, every in ((1, 0), (2, 8), (3, 0)):
        base = drawn(f"base {seed}", 0.9)
        worse: Right = lambda item, base=base, every=every: base(item) and not (every and item % every == 0)  # noqa: E731
        experiment(tmp_path, "sft", drawn(f"plain {seed}", 0.9), seed=seed)
        experiment(tmp_path, "slip", worse, seed=seed, train="slip", undo=True)
        experiment(tmp_path, "slip-banned", base, seed=seed, train="slip", undo=True, decode={"undo": "ban"})
    (question,) = [each for each in only(tmp_path).questions if each.key == "counterfactual"]
    (line,) = question.lines
    lost = sum(drawn("base 2", 0.9)(item) for item in range(0, N, 8))
    assert line.p_these == line.p_these_holm == pytest.approx(2.0 ** (1 - lost))
    assert not line.beyond_chance
    assert question.answer().startswith("Nothing beyond chance")
    assert question.answer_these().startswith("Of these trainings themselves: lower for slip (3 seeds) (-")
    assert all(each.p_these is None for each in only(tmp_path).lines("accuracy"))


def test_undo_that_changes_nothing_could_still_change_a_little(tmp_path: Path) -> None:
    for seed in (1, 2):
        right = drawn(f"{seed}", 0.5)
        experiment(tmp_path, "sft", drawn(f"plain {seed}", 0.5), seed=seed)
        experiment(tmp_path, "slip", right, seed=seed, train="slip", undo=True)
        experiment(tmp_path, "slip-banned", right, seed=seed, train="slip", undo=True, decode={"undo": "ban"})
    (question,) = [each for each in only(tmp_path).questions if each.key == "counterfactual"]
    (line,) = question.lines
    assert (line.diff, line.p, line.p_these) == (0, 1, 1)
    assert line.high == -(line.low or 0) == pytest.approx(100 * stats.wilson(0, N)[1])
    assert line.smallest is None  # a t test over two seeds would not find what McNemar's would
    assert "Where fewer than 10 answers differ" in question.answer()


def test_the_same_trainings_are_compared_where_a_seed_is_missing(lab: Path) -> None:
    """A banned decoding and a twin of fewer seeds: the seeds that both have are compared, the others are not lost."""
    for config in ("slip-banned", "slip-twin"):
        shutil.rmtree(next(lab.glob(f"tiny/gsm8k/sft/{config}/seed_2")))
    found = only(lab)
    for key in ("counterfactual", "notice"):
        (line,) = found.lines(key)
        assert line.seeds == (2, 2)
        assert line.test == results.SAME_TRAINING
        assert len(line.by_seed) == 2
    assert {line.seeds for line in found.lines("budget") if "banned" in line.baseline} == {(2, 2)}
    assert {line.seeds for line in found.lines("budget") if "sft" in line.baseline} == {(3, 3)}
    assert found.reactions[0].auroc.value == 1.0


def test_mistakes_are_noticed_more_often_than_their_twins(lab: Path) -> None:
    (line,) = only(lab).lines("notice")
    assert (line.baseline, line.other) == ("slip-twin (3 seeds)", "slip-planted (3 seeds)")
    assert (line.before, line.after, line.n) == (10, 50, N)
    assert (line.fixed, line.broken) == (50, 10)  # odd items, and every tenth, which is even


def test_plain_fine_tuning_is_planted_as_a_control(lab: Path) -> None:
    """A base model may take back what its fine-tuning never taught: that stands against training with undo."""
    reaction = {"planted_detection": lambda item: 100.0 * (item % 4 == 0), "undo_chance": lambda item: 10.0 + item % 7}
    plant = {"plant": "arithmetic_slip"}
    for seed in (1, 2, 3):
        rarely: Right = lambda item, seed=seed: (item + seed) % 20 == 0  # noqa: E731
        experiment(lab, "sft-planted", rarely, seed=seed, train="sft", decode=plant, scores=reaction)
        never: Right = lambda item: False  # noqa: E731
        banned = plant | {"undo": "ban"}
        experiment(lab, "sft-planted-banned", never, seed=seed, train="sft", decode=banned, scores=reaction)
    found = only(lab)
    (taught,) = found.lines("taught")
    assert (taught.baseline, taught.other) == ("sft-planted (3 seeds)", "slip-planted (3 seeds)")
    assert (taught.before, taught.after) == (5, 25)
    assert taught.test == results.OVER_SEEDS
    pairs = {(line.baseline, line.other) for line in found.lines("recovery")}
    assert pairs == {
        ("slip-planted-banned (3 seeds)", "slip-planted (3 seeds)"),
        ("sft-planted-banned (3 seeds)", "sft-planted (3 seeds)"),
    }
    assert {each.name for each in found.reactions} == {"slip-planted (3 seeds)", "sft-planted (3 seeds)"}
    assert len(found.lines("counterfactual")) == 1
    assert {line.other for line in found.lines("budget")} == {"slip (3 seeds)"}


def test_the_conclusion_says_what_the_tests_say(lab: Path) -> None:
    found = only(lab)
    assert not any(line.beyond_chance for line in (*found.lines("accuracy"), *found.lines("counterfactual")))
    (recovery,) = found.lines("recovery")
    assert recovery.beyond_chance
    assert recovery.diff == pytest.approx(12.5)
    said = {question.key: question.answer() for question in found.questions}
    assert said["accuracy"].startswith("Nothing beyond chance in 2 comparisons; the largest difference seen is slip")
    assert "points could have gone unseen" in said["accuracy"]
    assert said["recovery"].startswith("Higher for slip-planted (3 seeds) (+12.5 points, p ")
    assert "Lower for slip (3 seeds) against vote" in said["budget"]
    assert said["tokens"].startswith("Not asked: ")


def test_votes_are_taken_per_model_and_averaged(lab: Path) -> None:
    found = only(lab)
    vote = next(each for each in found.budgets if each.name.startswith("vote"))
    assert vote.name == "vote, majority of up to 5 (3 models)"
    values = [point.value for point in vote.points]
    # A wrong answer here is one that cannot be read and has no vote: one right answer is enough.
    assert values[0] == pytest.approx(100 * (1 - 0.25**3), abs=2)  # 64 tokens: three answers of 20
    assert values[1] == values[-1] == pytest.approx(100 * (1 - 0.25**5), abs=1)
    assert [point.tokens for point in vote.points] == [60.0, 100.0, 100.0, 100.0, 100.0]
    lines = [line for line in found.lines("budget") if line.baseline == vote.name]
    assert [line.budget for line in lines] == [64, 128]  # from there on nothing changes: no further tests
    assert vote.most == 5


def test_answers_are_paired_by_question_whatever_order_they_ended_in(lab: Path) -> None:
    before = only(lab).lines("budget")
    for at, traces in enumerate(sorted(lab.rglob(layout.TRACES))):
        lines = traces.read_bytes().splitlines(keepends=True)
        random.Random(at).shuffle(lines)
        write.write_bytes(traces, b"".join(lines))
    assert only(lab).lines("budget") == before


def test_single_seeds_are_tested_by_mcnemar(tmp_path: Path) -> None:
    one, other = drawn("a", 0.5), drawn("b", 0.6)
    experiment(tmp_path, "sft", one)
    experiment(tmp_path, "slip", other, undo=True)
    (line,) = only(tmp_path).lines("accuracy")
    gained = sum(other(item) > one(item) for item in range(N))
    lost = sum(one(item) > other(item) for item in range(N))
    assert line.p == line.p_holm == stats.mcnemar(gained, lost).p
    assert (line.fixed, line.broken) == (100 * gained / N, 100 * lost / N)


def test_other_questions_are_left_out_with_the_reason(lab: Path) -> None:
    make(lab, Arm("OTHER", model="tiny", right=0.5, limit=20))
    found = only(lab)
    assert [reason for name, reason in found.left_out if name == "OTHER"] == ["scored on other items than the rest"]


def test_without_a_baseline_it_says_what_is_missing(tmp_path: Path) -> None:
    experiment(tmp_path, "slip", drawn("a", 0.5), undo=True)
    with pytest.raises(StoreError, match="expected a finished fine-tuning without undo data"):
        only(tmp_path)


def test_the_page_holds_every_table_and_the_hashes(lab: Path) -> None:
    found = only(lab)
    page = study_page.markdown([found])
    for heading in (
        "# Does undo help?", "## Conclusion", "## Accuracy", "## Undo allowed against banned, same weights",
        "## Recovery from a planted mistake", "## Behind a planted mistake", "## Accuracy at matched sampled tokens",
        "## What the answers did", "## What was produced",
    ):  # fmt: skip
        assert heading in page
    assert page.index("## Conclusion") < page.index("## Accuracy\n")
    for line in digests.lines(read.find(lab)):
        assert line.text in page.splitlines()
        assert line.answers is not None


def test_names_cannot_act_on_the_page(tmp_path: Path) -> None:
    experiment(tmp_path, "sft", drawn("a", 0.5))
    place = experiment(tmp_path, "evil", drawn("b", 0.5), undo=True)
    change_record(place, config="<script>|x")
    found = only(tmp_path)
    page = study_page.markdown([found])
    figure = study_figure.svg(found.budgets)
    assert "<script>" not in figure
    ElementTree.fromstring(figure)
    assert "<script>" not in page
    assert "&lt;script&gt;\\|x" in page


def test_the_command_writes_the_page(lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "STUDY.md"
    assert cli.main(["report", "--output-dir", str(lab), "--study", str(page)]) == 0
    assert "Higher for slip-planted (3 seeds)" in capsys.readouterr().out
    assert page.read_text().splitlines()[:2] == [study_page._FIRST_LINE, "# Does undo help?"]
    assert "](STUDY.svg)" in page.read_text()
    figure = ElementTree.fromstring((tmp_path / "STUDY.svg").read_text())
    names = [each.text for each in figure.iter("{http://www.w3.org/2000/svg}text")]
    assert {"sft (3 seeds)", "slip (3 seeds)", "slip-banned (3 seeds)", "vote, majority of up to 5 (3 models)"} <= {
        *names
    }
    assert len(list(figure.iter("{http://www.w3.org/2000/svg}polyline"))) == 4
    assert cli.main(["report", "--output-dir", str(lab), "--study", str(page), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["studies"][0]["questions"][0]["key"] == "accuracy"
    assert cli.main(["report", "--output-dir", str(lab), "--study", str(page), "--html", "x.html"]) == 2


def small(lab: Path, **more: Any) -> None:
    """Three arms of single seeds: as quick as a study can be."""
    experiment(lab, "sft", drawn("a", 0.5), **more)
    experiment(lab, "slip", drawn("b", 0.5), undo=True, **more)
    experiment(lab, "slip-banned", drawn("c", 0.5), undo=True, train="slip", decode={"undo": "ban"}, **more)


@pytest.mark.parametrize("name", ["STUDY.md", "STUDY.svg"])
def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    small(tmp_path)
    foreign = tmp_path / name
    foreign.write_text("# My notes\n")
    command = ["report", "--output-dir", str(tmp_path), "--study", str(tmp_path / "STUDY.md")]
    assert cli.main(command) != 0
    assert f"{name} was not written by" in " ".join(capsys.readouterr().err.split())
    assert foreign.read_text() == "# My notes\n"
    assert not [each for each in tmp_path.glob("STUDY.*") if each != foreign]
    foreign.unlink()
    assert cli.main(command) == 0
    assert cli.main(command) == 0  # its own are written again


@pytest.mark.parametrize("name", ["STUDY.svg", "STUDY", "STUDY.html"])
def test_a_page_is_called_md(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    small(tmp_path)
    assert cli.main(["report", "--output-dir", str(tmp_path), "--study", str(tmp_path / name)]) != 0
    assert "ends in .md" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.glob("STUDY*"))


def test_models_have_studies_of_their_own(tmp_path: Path) -> None:
    """Arms of one model never meet the fine-tuning of another; a vote belongs to the training it samples from."""
    for model in ("small", "large"):
        small(tmp_path, model=model)
        source = next(tmp_path.glob(f"{model}/gsm8k/sft/sft/seed_1"))
        for vote in (1, 2, 3):
            experiment(
                tmp_path, "vote", drawn(f"{model} {vote}", 0.7), seed=vote, method="vanilla", model=f"{model}+SFT",
                decode={"do_sample": True}, of=source,
            )  # fmt: skip
    experiment(tmp_path, "other", drawn("d", 0.5), model="third", undo=True)
    found = study.studies(read.find(tmp_path))
    assert {each.model for each in found} == {"small", "large"}
    for each in found:
        names = {entry["experiments"][0] for entry in (arm.side.to_json() for arm in each.arms)}
        assert all(each.model in name for name in names)
        assert [arm.source is not None for arm in each.arms if arm.is_sampled] == [True]
        assert {line.baseline for line in each.lines("budget")} == {"sft", "slip-banned", "vote, majority of up to 3"}
    (left_out,) = found[0].left_out
    assert "no finished fine-tuning of third" in left_out[1]
    page = study_page.markdown(found)
    assert "## small on gsm8k" in page
    assert "## large on gsm8k" in page


def test_another_definition_is_refused_and_other_prompts_are_said(tmp_path: Path) -> None:
    small(tmp_path)
    place = experiment(tmp_path, "newer", drawn("d", 0.5), undo=True)
    metrics = read.read_json(place / layout.METRICS)
    metrics["metrics"]["exact_match_strict"]["definition"] = "another one"
    write.write_json(place / layout.METRICS, metrics)
    shots = experiment(tmp_path, "shots", drawn("e", 0.5), undo=True)
    settings_of(shots, prompting={"num_fewshot": 5, "fewshot_seed": 1234})
    found = only(tmp_path)
    assert [name for name, reason in found.left_out if "'another one'" in reason] == ["newer-tiny-1"]
    assert not any(line.other == "newer" for line in found.lines("accuracy"))
    assert any("shots against sft: num_fewshot 5 instead of 0" in text for text in found.cautions)
    assert not any("undo ban" in text for text in found.cautions)
    page = study_page.markdown([found])
    assert page.index("fewshot 5 instead of 0") < page.index("## Accuracy\n")


def test_two_results_of_one_seed_are_no_two_seeds(tmp_path: Path) -> None:
    small(tmp_path)
    first = next(tmp_path.glob("tiny/gsm8k/sft/slip/seed_1"))
    shutil.copytree(first, tmp_path / "again" / "seed_1")
    change_record(tmp_path / "again" / "seed_1", id="AGAIN")
    found = only(tmp_path)
    assert all(line.seeds == (1, 1) for line in found.lines("accuracy"))
    assert {line.other for line in found.lines("accuracy")} == {"slip (slip-tiny-1)", "slip (AGAIN)", "slip-banned"}


def test_words_and_a_training_on_as_many_tokens_are_found_by_their_settings(tmp_path: Path) -> None:
    undo = {"strategy": "arithmetic_slip", "mask": "errors"}
    arms: dict[str, tuple[dict[str, int], dict[str, Any] | None]] = {
        "x1": ({"max_steps": 80, "lora_rank": 8}, None),
        "x2": ({"max_steps": 89, "lora_rank": 8}, None),
        "x3": ({"max_steps": 80, "lora_rank": 8}, undo),
        "x4": ({"max_steps": 80, "lora_rank": 8}, undo | {"say": "words"}),
        "x5": ({"max_steps": 80, "lora_rank": 8}, undo | {"strategy": "random_tokens"}),
        "x6": ({"max_steps": 80, "lora_rank": 8}, undo),
    }
    for config, (recipe, mistakes) in arms.items():
        banned = {"undo": "ban"} if config in ("x4", "x6") else {}
        train = "x3" if config == "x6" else None
        place = experiment(tmp_path, config, drawn(config, 0.5), undo=mistakes is not None, decode=banned, train=train)
        settings_of(place, training=recipe, undo=mistakes)
    found = only(tmp_path)
    pairs = {key: {(line.baseline, line.other) for line in found.lines(key)} for key in ("tokens", "words", "budget")}
    assert pairs["tokens"] == {("x2", "x3"), ("x2", "x5")}
    assert pairs["words"] == {("x4", "x3"), ("x4", "x6")}
    assert pairs["budget"] == {("x1", "x3"), ("x4", "x3"), ("x6", "x3"), ("x1", "x5")}


def test_what_could_have_been_seen_is_at_the_level_of_the_family(tmp_path: Path) -> None:
    small(tmp_path)
    lines = only(tmp_path).lines("accuracy")
    assert len(lines) == 2
    for line in lines:
        ((stderr, _),) = line.errors
        assert line.smallest == pytest.approx(stats.smallest_difference(stderr, alpha=0.05 / 2))


def test_all_budgets_are_one_family(lab: Path) -> None:
    lines = only(lab).lines("budget")
    assert len({line.budget for line in lines}) > 1
    assert [line.p_holm for line in lines] == list(stats.holm([line.p for line in lines]))


def test_seeds_that_only_differ_among_themselves_are_no_finding(tmp_path: Path) -> None:
    """All three seeds better, by 1 to 9 points, on weights of their own: three trainings show no more than that."""
    for seed, share in ((1, 0.01), (2, 0.05), (3, 0.09)):
        base = drawn(f"base {seed}", 0.5)
        better: Right = lambda item, base=base, share=share: base(item) or item < share * N  # noqa: E731
        experiment(tmp_path, "sft", base, seed=seed)
        experiment(tmp_path, "slip", better, seed=seed, train="slip", undo=True)
        experiment(tmp_path, "slip-banned", base, seed=seed, train="slip", undo=True, decode={"undo": "ban"})
    (line,) = only(tmp_path).lines("counterfactual")
    assert len(line.by_seed) == 3
    assert all(each > 0 for each in line.by_seed)
    assert line.p > 0.05
    page = study_page.markdown([only(tmp_path)])
    assert ", ".join(f"{each:+.1f}" for each in line.by_seed) in page
    assert "3 seeds say little" in page
