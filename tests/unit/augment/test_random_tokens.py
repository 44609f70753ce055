from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from tests.encodings import BYTES, LINE, POP
from unsay.augment import Vocabulary
from unsay.augment.random_tokens import RandomTokens
from unsay.errors import ConfigError
from unsay.undo import resolve

ANSWER = BYTES.answer("abcd")
VOCABULARY = BYTES.vocabulary(POP)


def test_the_shape_of_a_trace() -> None:
    places: Counter[int] = Counter()
    sizes: Counter[int] = Counter()
    for seed in range(4000):
        trace = RandomTokens(min_errors=0).apply(ANSWER, VOCABULARY, random.Random(seed))
        if trace is None:
            sizes[0] += 1
            continue
        size = trace.provenance.count("e")
        place = trace.provenance.index("e")
        rest = ANSWER.ids[place:]
        assert trace.provenance == "c" * place + "e" * size + "u" * size + "k" * bool(rest) + "c" * len(rest[1:])
        assert trace.ids[:place] == ANSWER.ids[:place]
        assert trace.ids[place + size : place + 2 * size] == (POP,) * size
        assert trace.ids[place + 2 * size :] == rest
        assert trace.ids[place] != (*ANSWER.ids, None)[place]
        places[place] += 1
        sizes[size] += 1
    # Uniform over 0 to 9 mistakes and over the places before each token and before the end token.
    assert sorted(sizes) == list(range(10))
    assert all(abs(count - 400) < 100 for count in sizes.values())
    assert sorted(places) == list(range(5))
    assert all(abs(count - 720) < 130 for count in places.values())


def test_every_answer_gets_a_mistake_by_default() -> None:
    sizes = Counter(size(RandomTokens(), seed) for seed in range(900))
    assert sorted(sizes) == list(range(1, 10))
    assert all(abs(count - 100) < 45 for count in sizes.values())


def size(strategy: RandomTokens, seed: int) -> int:
    trace = strategy.apply(ANSWER, VOCABULARY, random.Random(seed))
    return 0 if trace is None else trace.provenance.count("e")


def test_the_geometric_law_halves() -> None:
    sizes = Counter(size(RandomTokens(law="geometric", max_errors=4), seed) for seed in range(1600))
    assert all(abs(sizes[n] - expected) < 90 for n, expected in ((1, 800), (2, 400), (3, 200), (4, 200)))


def test_more_places() -> None:
    answer = BYTES.answer("abcd" * 50)
    traces = [RandomTokens(2, rate=0.2).apply(answer, VOCABULARY, random.Random(seed)) for seed in range(40)]
    places = [trace.provenance.count("uk") + trace.provenance.endswith("u") for trace in traces if trace is not None]
    assert len(places) == 40
    assert abs(sum(places) / 40 - 41) < 5
    assert all(resolve(trace.ids, VOCABULARY.table).visible_ids == answer.ids for trace in traces if trace is not None)


def test_a_mistake_inside_a_mistake() -> None:
    traces = [RandomTokens(4, depth=3).apply(ANSWER, VOCABULARY, random.Random(seed)) for seed in range(400)]
    letters = [trace.provenance for trace in traces if trace is not None]
    nested = [text for text in letters if re.search(r"eu+e", text)]
    assert 100 < len(nested) < 250
    assert any(re.search(r"eu+e+u+e", text) or re.search(r"e+u+e*(u+)e", text) for text in nested)
    assert not any(re.search(r"eu+e", shape) for shape in provenances(RandomTokens(4)))
    for trace in traces:
        assert trace is not None
        assert trace.provenance.count("e") == trace.provenance.count("u")
        assert resolve(trace.ids, VOCABULARY.table).visible_ids == ANSWER.ids


def provenances(strategy: RandomTokens) -> list[str]:
    traces = [strategy.apply(ANSWER, VOCABULARY, random.Random(seed)) for seed in range(100)]
    return [trace.provenance for trace in traces if trace is not None]


def test_the_first_mistake_differs_from_the_right_token() -> None:
    vocabulary = Vocabulary(VOCABULARY.table, [ord("a"), ord("z")], BYTES.encode)
    traces = [RandomTokens(1).apply(BYTES.answer("a"), vocabulary, random.Random(seed)) for seed in range(50)]
    first = {trace.ids[0] for trace in traces if trace is not None and trace.provenance.startswith("e")}
    assert first == {ord("z")}


def test_nothing_to_draw_from_is_refused() -> None:
    vocabulary = Vocabulary(VOCABULARY.table, [ord("a")], BYTES.encode)
    seed = next(seed for seed in range(99) if (rng := random.Random(seed)).randint(1, 1) and not rng.randint(0, 1))
    with pytest.raises(ConfigError, match="two ordinary ids"):
        RandomTokens(1).apply(BYTES.answer("a"), vocabulary, random.Random(seed))


def test_it_needs_a_control_token_that_pops_one() -> None:
    with pytest.raises(ConfigError, match="pops one"):
        RandomTokens().apply(ANSWER, BYTES.vocabulary(LINE), random.Random(0))


def test_options_must_make_sense() -> None:
    with pytest.raises(ConfigError, match="max_errors"):
        RandomTokens(max_errors=0)
    with pytest.raises(ConfigError) as caught:
        RandomTokens(min_errors=10, law="normal", rate=1.5, depth=0)  # type: ignore[arg-type]
    assert len(caught.value.mistakes) == 4
