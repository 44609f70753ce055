"""BLEU-4 and ROUGE under LLaMA-Factory's names must equal LLaMA-Factory's formulas in every digit."""

from __future__ import annotations

import random
import warnings

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unsay.metrics.bleu4_lf import PAIRS_AT_ONCE, Bleu4LF, sentence_bleu
from unsay.metrics.rouge_lf import RougeLF, rouge
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
    return (*rouge(predict, label), *sentence_bleu([(predict, label)]))


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
def test_pairs_scored_together_do_not_touch_each_other(pairs: list[tuple[str, str]]) -> None:
    assert sentence_bleu(pairs) == [sentence_bleu([pair])[0] for pair in pairs]


def test_more_pairs_than_one_batch() -> None:
    rng = random.Random(0)
    pairs = [tuple("".join(rng.choices("abc ", k=rng.randrange(30))) for _ in "ab") for _ in range(PAIRS_AT_ONCE + 77)]
    assert sentence_bleu(pairs) == [llamafactory(*pair)[3] for pair in pairs]


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
    pairs = [("abcde", "abcd"), (text, text[2:] + "ab"), (text[: different // 2], text), ("", text)]
    smoothing = SmoothingFunction().method3
    expected = [round(100 * nltk_bleu([list(b)], list(a), smoothing_function=smoothing), 4) for a, b in pairs]
    assert sentence_bleu(pairs) == expected


def test_words_added_to_the_shared_jieba_do_not_change_a_score() -> None:
    before = rouge("小明在饭店", "小明在饭馆")
    jieba.add_word("小明在饭店")
    try:
        assert rouge("小明在饭店", "小明在饭馆") == before
    finally:
        jieba.del_word("小明在饭店")


def test_one_sample_has_no_error() -> None:
    values = Bleu4LF().summarise([Sample("0", "", "abcd", "abce")]) | RougeLF().summarise([Sample("0", "", "a", "b")])
    assert all(value.stderr is None and value.reason for value in values.values())
    assert values["rouge_l_lf"].value == 0.0
