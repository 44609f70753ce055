"""ROUGE-L must equal the rouge-score library."""

from __future__ import annotations

import warnings

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.metrics.varied_pairs import long_pairs, pairs
from unsay.metrics.rouge_l import rouge_l

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from rouge_score.rouge_scorer import RougeScorer

SCORER = RougeScorer(["rougeL"], use_stemmer=False)
TEXTS = st.one_of(
    st.text(max_size=15),
    st.text(alphabet="ab c", max_size=60),
    st.text(alphabet="aB1 İKſ我😀\n-_.", max_size=40),
    st.lists(st.sampled_from(["eggs", "Eggs", "18", "day,", "running"]), max_size=30).map(" ".join),
)


@settings(max_examples=250, deadline=None)
@given(TEXTS, TEXTS)
@example("", "")
@example("a", "a")
@example("我们", "我们")
@example("a b " * 300, "b a c " * 200)
def test_it_equals_rouge_score(predict: str, label: str) -> None:
    assert rouge_l(predict, label) == SCORER.score(label, predict)["rougeL"].fmeasure * 100


def test_it_equals_rouge_score_on_varied_pairs() -> None:
    varied = [*pairs(3000), long_pairs()[4]]
    assert [rouge_l(*pair) for pair in varied] == [
        SCORER.score(label, predict)["rougeL"].fmeasure * 100 for predict, label in varied
    ]
