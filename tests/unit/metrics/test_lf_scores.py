"""BLEU-4 and ROUGE under LLaMA-Factory's names must equal LLaMA-Factory's formulas in every digit."""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.metrics.varied_pairs import long_pairs, pairs
from unsay.metrics import rouge_lf, score
from unsay.metrics.bleu4_lf import Bleu4LF, sentence_bleu
from unsay.metrics.rouge_lf import RougeLF, rouge
from unsay.ngrams import PAIRS_AT_ONCE
from unsay.records import Sample

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import jieba
    from nltk.translate.bleu_score import SmoothingFunction
    from nltk.translate.bleu_score import sentence_bleu as nltk_bleu
    from rouge_chinese import Rouge

CHINESE = "我们今天去学校。你好吗？不！“是的”，他说……南京市长江大桥的鸭子每天下十六个蛋"
ALPHABETS = (
    "ab c.d\n",
    "aA1 .,?!%$-_=+#&<>*\n\r\t",
    CHINESE + " \n?.”’…！",
    "é ñŁß\u3000\u00a0\u2028\x1c\x85\0ab\n",
    "😀👩‍👩‍👧🇩🇪 ok\n",
    "…. ”’?。\n ",
)
TEXTS = st.one_of(
    st.text(max_size=12),
    *(st.text(alphabet=alphabet, max_size=40) for alphabet in ALPHABETS),
    st.lists(
        st.sampled_from(["", " ", "She has 18 eggs.", "她有十八个鸡蛋。", "......", "？ ”", "\t"]), max_size=6
    ).map("\n".join),
)


def llamafactory(predict: str, label: str) -> tuple[float, float, float, float]:
    """LLaMA-Factory's ComputeSimilarity for one pair: ROUGE-1, ROUGE-2, ROUGE-L, BLEU-4."""
    hypothesis = list(jieba.cut(predict))
    reference = list(jieba.cut(label))
    if len(" ".join(hypothesis).split()) == 0 or len(" ".join(reference).split()) == 0:
        result = {"rouge-1": {"f": 0.0}, "rouge-2": {"f": 0.0}, "rouge-l": {"f": 0.0}}
    else:
        result = Rouge().get_scores(" ".join(hypothesis), " ".join(reference))[0]
    bleu = nltk_bleu([list(label)], list(predict), smoothing_function=SmoothingFunction().method3)
    rouges = (round(result[name]["f"] * 100, 4) for name in ("rouge-1", "rouge-2", "rouge-l"))
    return (*rouges, round(bleu * 100, 4))


def ours(predict: str, label: str) -> tuple[float, ...]:
    return together([(predict, label)])[0]


def together(pairs: list[tuple[str, str]]) -> list[tuple[float, ...]]:
    return [(*rouges, bleu) for rouges, bleu in zip(rouge(pairs).tolist(), sentence_bleu(pairs), strict=True)]


@settings(max_examples=300, deadline=None)
@given(TEXTS, TEXTS)
@example("", "")
@example("a", "a")
@example("ab", "ab")
@example("abc", "abcd")
@example("😀", "😀😀")
@example("a\n \nb\x00", "a\n \n\x00b")
def test_every_digit_equals_llamafactory(predict: str, label: str) -> None:
    assert ours(predict, label) == llamafactory(predict, label)


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.integers(0, 40), st.integers(0, 40), TEXTS)
def test_every_digit_equals_llamafactory_on_similar_texts(text: str, start: int, end: int, put_in: str) -> None:
    changed = text[:start] + put_in + text[end:]
    assert ours(changed, text) == llamafactory(changed, text)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=20))
def test_pairs_scored_together_do_not_touch_each_other(drawn: list[tuple[str, str]]) -> None:
    assert together(drawn) == [ours(*pair) for pair in drawn]


def test_every_digit_equals_llamafactory_on_varied_pairs() -> None:
    varied = pairs(3000)
    assert len(varied) == 3000
    assert together(varied) == [llamafactory(*pair) for pair in varied]


def test_very_long_texts_of_every_kind() -> None:
    """rouge-chinese's table of a pair this long takes gigabytes, so its subsequence is found row by row here."""
    long = long_pairs()
    assert all(max(len(predict), len(label)) >= 10_000 for predict, label in long)
    expected = []
    for predict, label in long:
        tokens = [" ".join(jieba.cut(text)) for text in (predict, label)]
        found = Rouge(metrics=["rouge-1", "rouge-2"]).get_scores(*tokens)[0]
        sides = [[w for s in Rouge().cut_sent(text) if s for w in " ".join(s.split()).split(" ")] for text in tokens]
        common = subsequence_by_rows(*sides)
        precision, recall = common / len(sides[0]), common / len(sides[1])
        rouge_l = round(2.0 * ((precision * recall) / (precision + recall + 1e-8)) * 100, 4)
        bleu = nltk_bleu([list(label)], list(predict), smoothing_function=SmoothingFunction().method3)
        scores = (round(found[name]["f"] * 100, 4) for name in ("rouge-1", "rouge-2"))
        expected.append((*scores, rouge_l, round(bleu * 100, 4)))
    assert together(long) == expected


def subsequence_by_rows(a: list[str], b: list[str]) -> int:
    """Fill the textbook's table of the longest common subsequence, keeping one row of it."""
    numbers = {word: number for number, word in enumerate({*a, *b})}
    others = np.array([numbers[word] for word in b])
    row = np.zeros(len(b) + 1, dtype=np.int64)
    for word in a:
        row[1:] = np.maximum.accumulate(np.maximum(row[1:], row[:-1] + (others == numbers[word])))
    return int(row[-1])


def test_forgetting_words_between_batches_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    varied = pairs(1200, seed=3)
    expected = together(varied)
    monkeypatch.setattr(rouge_lf, "MOST_WORDS", 10)
    assert together(varied) == expected


def test_a_pair_too_long_to_number_is_compared_word_by_word(monkeypatch: pytest.MonkeyPatch) -> None:
    varied = pairs(300, seed=4)
    expected = together(varied)
    monkeypatch.setattr(rouge_lf, "LONGEST_NUMBERED", -1)
    assert [ours(*pair) for pair in varied] == expected


def test_jieba_has_the_words_that_its_fast_path_takes_care_of() -> None:
    jieba.initialize()
    plain = [word for word, freq in jieba.dt.FREQ.items() if freq and len(word) > 1 and word.isascii()]
    assert plain
    assert not [word for word in plain if rouge_lf.PLAIN.fullmatch(word)]


def test_jieba_cuts_plain_characters_between_pieces_one_by_one() -> None:
    between = [chr(code) for code in range(0x20, 0x7F) if not rouge_lf.PIECES.match(chr(code))] + ["\t", "\n"]
    rng = random.Random(5)
    for text in ["".join(between), *("".join(rng.choices(between, k=rng.randrange(1, 9))) for _ in range(2000))]:
        assert rouge_lf.BETWEEN.fullmatch(text)
        assert list(jieba.cut(text)) == list(text)
    assert not rouge_lf.BETWEEN.search("\r")  # before a line break it is one with it


def test_more_pairs_than_one_batch() -> None:
    rng = random.Random(0)
    many = [tuple("".join(rng.choices("abc ", k=rng.randrange(30))) for _ in "ab") for _ in range(PAIRS_AT_ONCE + 77)]
    assert together(many) == [llamafactory(*pair) for pair in many]


def test_very_long_texts() -> None:
    rng = random.Random(1)
    words = ["eggs", "day", "=", "16", "<<16-3=13>>13", "鸭子", "。", "\n", "?", "sells"]
    long, longer = (" ".join(rng.choices(words, k=k)) for k in (250, 400))
    assert ours(long, longer) == llamafactory(long, longer)
    assert ours(long, "eggs") == llamafactory(long, "eggs")


def test_one_piece_longer_than_what_is_remembered() -> None:
    piece = "南京市长江大桥和鸭子" * 20
    assert ours(piece, piece[3:] + "a" * 90) == llamafactory(piece, piece[3:] + "a" * 90)


@pytest.mark.parametrize("different", [3000, 33_000])
def test_more_characters_than_a_key_holds(different: int) -> None:
    text = "".join(chr(code) for code in range(0x100, 0x100 + different) if not 0xD800 <= code < 0xE000)
    many = [("abcde", "abcd"), (text, text[2:] + "ab"), (text[: different // 2], text), ("", text)]
    smoothing = SmoothingFunction().method3
    expected = [round(100 * nltk_bleu([list(b)], list(a), smoothing_function=smoothing), 4) for a, b in many]
    assert sentence_bleu(many) == expected


def test_words_added_to_the_shared_jieba_do_not_change_a_score() -> None:
    before = ours("小明在饭店", "小明在饭馆")
    jieba.add_word("小明在饭店")
    try:
        assert ours("小明在饭店", "小明在饭馆") == before
    finally:
        jieba.del_word("小明在饭店")


def test_one_sample_has_no_error() -> None:
    values = score([Sample("0", "", "a b", "c a")], [Bleu4LF(), RougeLF()]).values
    assert all(value.stderr is None and value.reason for value in values.values())
    assert values["rouge_l_lf"].value == 50.0
