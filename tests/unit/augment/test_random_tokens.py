from __future__ import annotations

import random
from collections import Counter

import pytest

from tests.encodings import BYTES, LINE, POP
from unsay.augment import Vocabulary
from unsay.augment.random_tokens import RandomTokens
from unsay.errors import ConfigError

ANSWER = BYTES.answer("abcd")
VOCABULARY = BYTES.vocabulary(POP)


def test_the_shape_of_a_trace() -> None:
    places: Counter[int] = Counter()
    sizes: Counter[int] = Counter()
    for seed in range(4000):
        trace = RandomTokens().apply(ANSWER, VOCABULARY, random.Random(seed))
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


def test_the_first_mistake_differs_from_the_right_token() -> None:
    vocabulary = Vocabulary(VOCABULARY.table, [ord("a"), ord("z")], BYTES.encode)
    traces = [RandomTokens(1).apply(BYTES.answer("a"), vocabulary, random.Random(seed)) for seed in range(50)]
    first = {trace.ids[0] for trace in traces if trace is not None and trace.provenance.startswith("e")}
    assert first == {ord("z")}


def test_nothing_to_draw_from_is_refused() -> None:
    vocabulary = Vocabulary(VOCABULARY.table, [ord("a")], BYTES.encode)
    seed = next(seed for seed in range(99) if (rng := random.Random(seed)).randint(0, 1) and not rng.randint(0, 1))
    with pytest.raises(ConfigError, match="two ordinary ids"):
        RandomTokens(1).apply(BYTES.answer("a"), vocabulary, random.Random(seed))


def test_it_needs_a_control_token_that_pops_one() -> None:
    with pytest.raises(ConfigError, match="pops one"):
        RandomTokens().apply(ANSWER, BYTES.vocabulary(LINE), random.Random(0))


def test_max_errors_must_make_sense() -> None:
    with pytest.raises(ConfigError, match="max_errors"):
        RandomTokens(max_errors=0)
