"""BLEU must be sacreBLEU's, and its bootstrap must score resamples as sacreBLEU would."""

from __future__ import annotations

import random

import numpy as np
import pytest
import sacrebleu
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.metrics.varied_pairs import long_pairs, pairs
from unsay.errors import ConfigError
from unsay.metrics import bleu
from unsay.metrics.bleu import Bleu, corpus_bleu
from unsay.records import MetricValue, Sample

TEXTS = st.one_of(
    st.text(max_size=12),
    st.text(alphabet="ab .,", max_size=30),
    st.lists(st.sampled_from(["eggs", "are", "the", "duck's", "1,000.5", "鸭子", "😀", "."]), max_size=12).map(
        " ".join
    ),
)


def samples_of(pairs: list[tuple[str, str]]) -> list[Sample]:
    return [Sample(str(i), "", label, predict) for i, (predict, label) in enumerate(pairs)]


def summary(samples: list[Sample], metric: Bleu = Bleu()) -> MetricValue:  # noqa: B008
    return metric.summarise(metric.measure(samples))["bleu"]


def library(pairs: list[tuple[str, str]]) -> float:
    predictions, labels = [predict for predict, _ in pairs], [label for _, label in pairs]
    return float(sacrebleu.corpus_bleu(predictions, [labels], force=True).score)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6))
@example([("", "")])
@example([("a", "a")])
@example([("", "a b c")])
@example([("a b c d e", "")])
@example([("a b c d e", "a b c d e f")])
def test_it_equals_sacrebleu(pairs: list[tuple[str, str]]) -> None:
    samples = samples_of(pairs)
    expected = library(pairs)
    assert summary(samples, Bleu(resamples=10)).value == expected
    vectorised = corpus_bleu(Bleu().counts(samples).sum(axis=0, keepdims=True))[0]
    assert vectorised == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_resamples_score_as_sacrebleu_would() -> None:
    rng = random.Random(0)
    words = ["eggs", "are", "sold", "for", "the", "duck", "."]
    pairs = [tuple(" ".join(rng.choices(words, k=rng.randrange(1, 12))) for _ in "ab") for _ in range(40)]
    rows = Bleu().counts(samples_of(pairs))
    draws = np.random.default_rng(3).integers(0, 40, size=(50, 40))
    scored = corpus_bleu(rows[draws].sum(axis=1))
    assert scored == pytest.approx([library([pairs[i] for i in draw]) for draw in draws], rel=1e-12)


def test_error_and_interval_come_from_a_seeded_bootstrap() -> None:
    pairs = [("the duck lays eggs today .", f"the duck lays {n} eggs today .") for n in range(30)] + [("no", "yes")] * 9
    value = summary(samples_of(pairs))
    assert value.value is not None
    assert value.low is not None
    assert value.high is not None
    assert value.stderr is not None
    assert value.low < value.value < value.high
    assert 0 < value.stderr < 20
    assert summary(samples_of(pairs)) == value
    assert summary(samples_of(pairs), Bleu(seed=1)).stderr != value.stderr


def test_the_definition_is_sacrebleus_signature() -> None:
    metric = sacrebleu.BLEU()
    metric.corpus_score(["a"], [["a"]])
    assert Bleu().definition["bleu"] == f"sacreBLEU {metric.get_signature()}"
    assert "tok:char" in Bleu(tokenize="char").definition["bleu"]


def test_an_unknown_tokenizer_is_refused() -> None:
    with pytest.raises(ConfigError, match="13a"):
        Bleu(tokenize="no such").measure([])


@pytest.mark.parametrize("tokenize", ["13a", "intl", "zh", "char", "none"])
def test_counts_equal_sacrebleus_on_varied_pairs(tokenize: str) -> None:
    varied = [*pairs(2500 if tokenize == "13a" else 500), *JOINED, *long_pairs()]
    scorer = sacrebleu.BLEU(tokenize=tokenize, effective_order=True)
    expected = [scorer.sentence_score(predict, [label]) for predict, label in varied]
    rows = Bleu(tokenize=tokenize).counts(samples_of(varied))
    assert rows.tolist() == [[found.sys_len, found.ref_len, *found.counts, *found.totals] for found in expected]


JOINED = [
    ("a-\nb c", "ab c"),
    ("a <skip<skipped>ped> &amp;quot;x&quot; b", 'a <skipped> &quot;x" b'),
    ("so 1,000.5-3 = 5 .,", "so 1,000.5 - 3 = 5 ., "),
    ("end-\n", "end-"),
    ("\u3000, . .5,\t-3\x1c.", ", .. 5"),
]


def test_the_corpus_equals_sacrebleus_on_varied_pairs() -> None:
    for seed in range(5):
        varied = pairs(2000, seed)[seed * 100 :]
        value = summary(samples_of(varied), Bleu(resamples=2))
        metric = sacrebleu.BLEU(force=True)
        expected = metric.corpus_score([predict for predict, _ in varied], [[label for _, label in varied]])
        assert value.value == expected.score
        assert value.definition == f"sacreBLEU {metric.get_signature()}"


def test_forgetting_words_between_batches_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    varied = samples_of(pairs(1500))
    expected = Bleu().counts(varied).tolist()
    monkeypatch.setattr(bleu, "MOST_WORDS", 10)
    assert Bleu().counts(varied).tolist() == expected


def test_a_pair_too_long_to_number_is_counted_by_sacrebleu(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = samples_of([("the duck lays eggs", "the duck lays an egg")])
    expected = Bleu().counts(pair).tolist()
    monkeypatch.setattr(bleu, "LONGEST_NUMBERED", 10)
    assert Bleu().counts(pair).tolist() == expected
