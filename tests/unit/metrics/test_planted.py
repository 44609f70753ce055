"""Planted mistakes: worked by hand, by law, and on a simulated model whose detection and AUROC are known."""

from __future__ import annotations

import math
import random
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.metrics.traces import BREAK, UNDO, UNDO_LINE, sample
from unsay import stats
from unsay.metrics.planted import Planted
from unsay.records import Beginning, Sample

MISTAKE = [5, 6, BREAK, 7, 8]  # the last two ids are wrong
PLANTED, TWIN = Beginning(5, 3), Beginning(5, 3, twin=True)
REACTIONS = ("planted_detection", "planted_exact", "planted_over", "planted_under")


def values(*samples: Sample) -> dict[str, float | None]:
    return {name: value.value for name, value in Planted().summarise(Planted().measure(samples)).items()}


def goes_on(*ids: int, beginning: Beginning = PLANTED, chance: float = 0.5) -> Sample:
    return sample([*MISTAKE, *ids], beginning=beginning, undo_logprobs=[math.log(chance)])


@pytest.mark.parametrize(
    ("ids", "reaction"),
    [
        ((UNDO_LINE, 9), "planted_exact"),
        ((UNDO, UNDO, 9), "planted_exact"),
        ((11, 12, UNDO, UNDO, UNDO, UNDO, 9), "planted_exact"),
        ((UNDO, 9), "planted_under"),
        ((11, UNDO, UNDO, 9), "planted_under"),
        ((UNDO, UNDO, UNDO, 9), "planted_over"),
        ((UNDO_LINE, UNDO_LINE), "planted_over"),
        ((9, 10, 11), None),
        ((1, 2, 3, 4, 5, 6, 7, UNDO), "planted_under"),  # the eighth token
        ((1, 2, 3, 4, 5, 6, 7, 8, UNDO), None),  # the ninth
        ((), None),
    ],
)
def test_the_first_reaction_counts(ids: tuple[int, ...], reaction: str | None) -> None:
    found = values(goes_on(*ids))
    assert {name for name in REACTIONS[1:] if found[name] == 100.0} == ({reaction} if reaction else set())
    assert found["planted_detection"] == (100.0 if reaction else 0.0)
    assert found["planted_false_undo"] is None


def test_a_twin_shows_false_undos_only() -> None:
    found = values(goes_on(UNDO, 9, beginning=TWIN), goes_on(9, 10, beginning=TWIN))
    assert found["planted_false_undo"] == 50.0
    assert all(found[name] is None for name in REACTIONS)


def test_answers_that_were_given_nothing_are_left_out() -> None:
    found = Planted().summarise(Planted().measure([sample([5, UNDO]), goes_on(UNDO_LINE)]))
    assert (found["planted_exact"].value, found["planted_exact"].n) == (100.0, 1)
    alone = Planted().summarise(Planted().measure([sample([5, UNDO])]))
    assert alone["planted_exact"].reason == "no answer begins with a planted mistake"


@given(st.lists(st.sampled_from([1, 2, BREAK, UNDO, UNDO_LINE]), max_size=20))
def test_the_three_kinds_of_reaction_make_up_detection(ids: list[int]) -> None:
    items = Planted().items([goes_on(*ids)])
    detection, *kinds = (items[name][0] for name in REACTIONS)
    assert detection == sum(kind or 0.0 for kind in kinds)


@given(st.integers(1, 30), st.integers(0, 3))
def test_a_wider_window_finds_no_less(window: int, later: int) -> None:
    answer = goes_on(*range(10, 10 + window + later - 1), UNDO)
    narrow = Planted(window).items([answer])["planted_detection"][0]
    wide = Planted(window + later).items([answer])["planted_detection"][0]
    assert wide == 100.0
    assert narrow == (100.0 if later == 0 else 0.0)


@pytest.mark.parametrize(("detection", "false"), [(0.9, 0.05), (0.4, 0.4), (0.05, 0.5)])
def test_a_simulated_model_of_known_detection_and_false_alarms(detection: float, false: float) -> None:
    """A model that undoes where z + d exceeds a threshold: detection, false undos and AUROC follow from d."""
    n = 1500
    normal = NormalDist()
    threshold = normal.inv_cdf(1 - false)
    shift = threshold - normal.inv_cdf(1 - detection)
    rng = random.Random(f"planted {detection} {false}")
    answers: dict[Beginning, list[Sample]] = {PLANTED: [], TWIN: []}
    for _ in range(n):
        for beginning, mean in ((PLANTED, shift), (TWIN, 0.0)):
            z = rng.gauss(mean, 1)
            chance = normal.cdf(z)
            ids = (UNDO_LINE, 9) if z > threshold else (9, 10)
            answers[beginning].append(goes_on(*ids, beginning=beginning, chance=min(max(chance, 1e-9), 1.0)))
    planted, twins = Planted().items(answers[PLANTED]), Planted().items(answers[TWIN])
    for found, rate in ((planted["planted_detection"], detection), (twins["planted_false_undo"], false)):
        share = sum(score or 0.0 for score in found) / n
        assert share == pytest.approx(100 * rate, abs=4 * 100 * (rate * (1 - rate) / n) ** 0.5)
    scores = [[score or 0.0 for score in found["undo_chance"]] for found in (planted, twins)]
    area = stats.auroc(*scores)
    assert area.value is not None
    assert area.stderr is not None
    assert area.value == pytest.approx(normal.cdf(shift / math.sqrt(2)), abs=4 * area.stderr)


def test_a_simulated_model_that_takes_back_too_much_and_too_little_at_known_rates() -> None:
    """It writes some tokens first, then takes them and so many of the two wrong ids back, or one more, or nothing."""
    n = 2000
    rates = {"planted_under": 0.2, "planted_exact": 0.45, "planted_over": 0.1, None: 0.25}
    depth = {"planted_under": 1, "planted_exact": 2, "planted_over": 3}
    rng = random.Random("planted kinds")
    answers = []
    for drawn in rng.choices(list(rates), list(rates.values()), k=n):
        written = rng.randint(0, 4)
        undone = [] if drawn is None else [UNDO] * (written + depth[drawn])
        answers.append(goes_on(*range(10, 10 + written), *undone, 9))
    found = values(*answers)
    for name, rate in rates.items():
        if name is not None:
            assert found[name] == pytest.approx(100 * rate, abs=4 * 100 * (rate * (1 - rate) / n) ** 0.5)
    assert found["planted_detection"] == pytest.approx(75, abs=4)
