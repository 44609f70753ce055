"""Pairs of texts of every kind that scorers stumble over, the same ones every time: `pairs(2000)`."""

from __future__ import annotations

import random
from collections.abc import Callable

CHINESE = (
    "我们今天去学校。你好吗？不！“是的”，他说……南京市长江大桥的鸭子每天下十六个蛋；（全角）【括号】：１２３％、《书》"
)
SCRIPTS = (
    CHINESE,
    "باعت سارة ثلاث بيضات، كم بقي؟ ١٢٣",
    "उसने तीन अंडे बेचे। कितने बचे? ४५६",
    "Ölçü naïve Straße İıſẞ Ωμέγα привет Сколько",
    "東京タワーへ行きましたか？はい。カタカナ한국어",
    "😀👩‍👩‍👧🇩🇪👍🏽✨é\u0301",
    "\0\x01\x07\x1b\x1c\x1f\x7f\x85\u00a0\u200b\u200d\u2028\u2029\u3000\ufeff\t\v\f\r\n",
    "+#&._%-=<>$,*/()[]{}|~^`'\"\\@!?;:",
)
VOCABULARY = """
She sells 16 eggs per day, so 9 * 2 = $<<9*2=18>>18 1,000.50 -3.5% C++ c# AT&T T恤 卡拉OK IC卡 don't farmer’s 10:30
x+y=z a_b-c 3.14.15 50% C++11 #18 .... ...... ....... … …… ……” 。” ？” ?” ? ! ？ ……。 "Why?" U.S.A. e.g. 1/2 №5 ½
"""
WORDS = VOCABULARY.split()
BREAKS = (
    "\n",
    "\n\n",
    "\n \n",
    "\r\n",
    "\r\n\r\n",
    " \n",
    "\n\t",
    "\r",
    "\n\u3000\n",
    "?\n",
    "。\n",
    "？ \n\n",
    "\n\n\n",
)
STEPS = (
    "{a} {name} has {n} eggs and {m} ducks.",
    "So {name} makes {n} * {m} = $<<{n}*{m}={p}>>{p} every day.",
    "{n}/{m} = <<{n}/{m}={p}>>{p} cups, or {n}.5%!",
    "How many are left? {p} are left.",
    "他每天卖{n}个鸡蛋，一共得到{p}元。",
)


def pairs(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Make (predict, label) pairs: corners first, then drawn ones; half are edits of one another."""
    rng = random.Random(seed)
    made = [(a, b) for a in CORNERS for b in CORNERS][: count // 4]
    while len(made) < count:
        label = _text(rng)
        made.append((_edited(rng, label) if rng.random() < 0.5 else _text(rng), label))
    return made


CORNERS = (
    *("", " ", "\n", "\0", "a", "ab", "abc", "我", "？", "?\n", "\n?", "……", "......", " ......”x", "\n\na"),
    *("a\n \nb", "a\r\n\r\nb", "😀", "18", "#### 18", "\ud800", "？”。“", "a" * 50),
)


def _text(rng: random.Random) -> str:
    kind: Callable[[random.Random], str] = rng.choices(
        (_of_script, _of_scripts, _of_words, _of_steps, _repeated, _anything), (2, 2, 4, 5, 1, 1)
    )[0]
    return kind(rng)


def _of_script(rng: random.Random) -> str:
    return "".join(rng.choices(rng.choice(SCRIPTS) + " \n", k=rng.randrange(60)))


def _of_scripts(rng: random.Random) -> str:
    return "".join(_of_script(rng)[:12] for _ in range(rng.randrange(8)))


def _of_words(rng: random.Random) -> str:
    return "".join(
        rng.choice(WORDS) + (rng.choice(BREAKS) if rng.random() < 0.15 else rng.choice(("", " ", " ", " ")))
        for _ in range(rng.randrange(60))
    )


def _of_steps(rng: random.Random) -> str:
    lines = []
    for _ in range(rng.randrange(1, 7)):
        n, m = rng.randrange(100), rng.randrange(1, 30)
        name = rng.choice(("Janet", "Tom", "小明", "Ana"))
        lines.append(rng.choice(STEPS).format(a=rng.choice(("Now", "")), name=name, n=n, m=m, p=n * m))
    end = rng.choice(("#### {}", "The answer is {}.", "#### ${:,}.00", "####{}", "#### -{} eggs", "答案是{}。", ""))
    return rng.choice(("\n", "\n", "\r\n", " ")).join([*lines, end.format(rng.randrange(5000))])


def _repeated(rng: random.Random) -> str:
    return (rng.choice(WORDS) + rng.choice((" ", "", "\n"))) * rng.randrange(1, 80)


def _anything(rng: random.Random) -> str:
    return "".join(
        chr(rng.choice((rng.randrange(0x80), rng.randrange(0xD800), rng.randrange(0x110000))))
        for _ in range(rng.randrange(30))
    )


def _edited(rng: random.Random, text: str) -> str:
    for _ in range(rng.randrange(1, 5)):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.randrange(12))
        put = rng.choice((text[end : end + 9], rng.choice(WORDS), rng.choice(BREAKS), str(rng.randrange(100)), ""))
        text = text[:start] + put + text[end:]
    return text


def long_pairs(seed: int = 0) -> list[tuple[str, str]]:
    """Make a few pairs of texts of 10,000 characters and more."""
    rng = random.Random(seed)

    def text(script: str) -> str:
        return "".join(rng.choices(script + " \n", k=10_500))

    english = " ".join(rng.choices(WORDS, k=2_500))
    return [
        (text(CHINESE), text(CHINESE)),
        (english, " ".join(rng.choices(WORDS, k=2_600))),
        (english, english[:6_000] + "18 " + english[6_100:]),
        (text("ab"), text("abc")),
        (text("".join(SCRIPTS)), "eggs"),
    ]
