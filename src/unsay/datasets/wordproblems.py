"""Generated grade-school word problems in GSM8K's format, one to five steps, with a solver that reads the English.

Three kinds are drawn: comparison chains with shuffled sentences (half), stories that change one amount (a quarter) and
shopping (a quarter). Every problem belongs to exactly one split, decided by a hash of its facts, so splits share no
problem whatever the sizes and seeds. The module knows nothing about tokens, models or undo.

    for record in generate("test", 600):
        print(record["question"], record["answer"])
"""

import hashlib
import json
import os
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

__all__ = ["SPLITS", "VERSION", "generate", "solve", "write"]

VERSION = 1
"""Raised when the same seed starts to give other problems."""

NAMES = (
    "Tom", "Ben", "Mia", "Ana", "Sam", "Leo", "Eva", "Max", "Zoe", "Ivy", "Kai", "Amy", "Jon", "Lia", "Omar", "Rosa",
)  # fmt: skip
FEMALE = frozenset({"Mia", "Ana", "Eva", "Zoe", "Ivy", "Amy", "Lia", "Rosa"})
ITEMS = (
    "apples", "books", "cards", "coins", "shells", "stamps", "pens", "beads", "eggs", "cups", "toys", "stones",
)  # fmt: skip
GOODS = ("pens", "books", "cups", "toys", "hats", "cakes", "lamps", "bags")
LARGEST_NUMBER = 40
LARGEST_RESULT = 200
BILLS = (10, 20, 50, 100, 200)

# Which part of the hash range, in percent, each split owns. `pretrain` is what the bundled model was trained on.
SPLITS = {"pretrain": range(70), "train": range(70, 85), "dev": range(85, 91), "test": range(91, 100)}


@dataclass(frozen=True)
class Problem:
    """One problem before it is written out: its facts decide the split, its text is what a model sees."""

    facts: tuple[object, ...]
    question: str
    lines: tuple[str, ...]
    result: int

    def bucket(self) -> int:
        """Return the problem's place in the hash range, 0 to 99."""
        digest = hashlib.blake2b(json.dumps(self.facts).encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % 100

    def record(self) -> dict[str, str]:
        """Return the problem as a GSM8K record."""
        return {"question": self.question, "answer": "\n".join((*self.lines, f"#### {self.result}"))}


class _OutOfRangeError(Exception):
    """A drawn problem left the allowed numbers; another one is drawn."""


def _compute(left: int, operator: str, right: int) -> int:
    """Apply one operator to whole numbers; refuse what leaves the range or does not divide."""
    if operator == "/" and left % right:
        raise _OutOfRangeError
    result = {"+": left + right, "-": left - right, "*": left * right, "/": left // right}[operator]
    if not 0 < result <= LARGEST_RESULT:
        raise _OutOfRangeError
    return result


def _step(left: int, operator: str, right: int) -> tuple[str, int]:
    """Return a step in GSM8K's calculator notation, and its result."""
    result = _compute(left, operator, right)
    equation = f"{left}{operator}{right}="
    return f"{equation}<<{equation}{result}>>{result}", result


# -- comparison chains ------------------------------------------------------------------------------------------------


def _draw_relation(rng: random.Random, value: int) -> tuple[str, str, int]:
    """Draw how the next person compares with one who has `value`: the words, the operator and its number."""
    word = rng.choice(("more", "more", "fewer", "fewer", "times", "twice", "half"))
    if word == "more":
        return word, "+", rng.randint(2, LARGEST_NUMBER)
    if word == "fewer":
        return word, "-", rng.randint(2, min(LARGEST_NUMBER, max(2, value - 1)))
    if word == "times":
        return word, "*", rng.randint(3, 6)
    return word, "*" if word == "twice" else "/", 2


def _relation_sentence(name: str, other: str, item: str, word: str, number: int) -> str:
    if word in ("more", "fewer"):
        return f"{name} has {number} {word} {item} than {other}."
    times = f"{number} times" if word == "times" else word
    return f"{name} has {times} as many {item} as {other}."


def _draw_chain(rng: random.Random, steps: int) -> Problem:
    together = steps > 1 and rng.random() < 0.4
    relations = steps - together
    people = rng.sample(NAMES, relations + 1)
    item = rng.choice(ITEMS)
    value = rng.randint(2, LARGEST_NUMBER)
    sentences = [f"{people[0]} has {value} {item}."]
    facts: list[object] = ["chain", item, people[0], value]
    lines, values = [], [value]
    for other, name in pairwise(people):
        word, operator, number = _draw_relation(rng, value)
        sentences.append(_relation_sentence(name, other, item, word, number))
        facts += [name, operator, number]
        step, value = _step(value, operator, number)
        lines.append(f"{name} has {step} {item}.")
        values.append(value)
    last = people[-1]
    ask = f"How many {item} does {last} have?"
    if together:
        index = rng.randrange(relations)
        step, value = _step(values[index], "+", value)
        lines.append(f"{people[index]} and {last} have {step} {item}.")
        facts += ["together", index]
        ask = f"How many {item} do {people[index]} and {last} have together?"
    rng.shuffle(sentences)
    return Problem(tuple(facts), " ".join((*sentences, ask)), tuple(lines), value)


# -- stories ----------------------------------------------------------------------------------------------------------

_GAINS = ("buys", "finds", "wins")
_LOSSES = ("loses", "sells", "uses")


def _draw_story(rng: random.Random, steps: int) -> Problem:
    name, friend = rng.sample(NAMES, 2)
    item = rng.choice(ITEMS)
    pronoun = "She" if name in FEMALE else "He"
    value = rng.randint(2, LARGEST_NUMBER)
    sentences = [f"{name} has {value} {item}."]
    facts: list[object] = ["story", name, item, value]
    lines: list[str] = []
    while len(lines) < steps:
        kind = rng.choice(("gain", "loss", "give", "half") + ("boxes",) * (2 if steps - len(lines) > 1 else 0))
        number = rng.randint(2, LARGEST_NUMBER)
        if kind == "boxes":
            boxes, number = rng.randint(2, 6), rng.randint(2, 12)
            step, total = _step(boxes, "*", number)
            sentences.append(f"{pronoun} buys {boxes} boxes with {number} {item} each.")
            lines.append(f"The boxes have {step} {item}.")
            facts += [kind, boxes]
            operator, operand = "+", total
        elif kind == "half":
            sentences.append(f"{pronoun} gives half of the {item} to {friend}.")
            operator, operand = "/", 2
        elif kind == "give":
            sentences.append(f"{pronoun} gives {number} {item} to {friend}.")
            operator, operand = "-", number
        else:
            sentences.append(f"{pronoun} {rng.choice(_GAINS if kind == 'gain' else _LOSSES)} {number} {item}.")
            operator, operand = "+" if kind == "gain" else "-", number
        facts += [operator, operand]
        step, value = _step(value, operator, operand)
        lines.append(f"{name} has {step} {item}.")
    ask = f"How many {item} does {name} have now?"
    return Problem(tuple(facts), " ".join((*sentences, ask)), tuple(lines), value)


# -- shopping ---------------------------------------------------------------------------------------------------------

# Steps -> how many kinds of goods are bought, whether a coupon is used, whether change is asked for.
_BASKETS = {
    1: ((1, False, False),),
    2: ((1, True, False), (1, False, True)),
    3: ((2, False, False), (1, True, True)),
    4: ((2, True, False), (2, False, True)),
    5: ((3, False, False), (2, True, True)),
}


def _draw_shopping(rng: random.Random, steps: int) -> Problem:
    kinds, coupon, change = rng.choice(_BASKETS[steps])
    name = rng.choice(NAMES)
    pronoun = "She" if name in FEMALE else "He"
    goods = rng.sample(GOODS, kinds)
    wants, lines, costs = [], [], []
    basket = []
    for item in goods:
        count, price = rng.randint(2, 9), rng.randint(2, 15)
        step, cost = _step(count, "*", price)
        wants.append(f"{count} {item} at ${price} each")
        lines.append(f"The {item} cost {step} dollars.")
        costs.append(cost)
        basket.append((item, count, price))
    facts: list[object] = ["shopping", name, *sorted(basket)]  # the same basket in another order is the same problem
    total = costs[0]
    for cost in costs[1:]:
        step, total = _step(total, "+", cost)
        lines.append(f"The total is {step} dollars.")
    sentences = [f"{name} buys {' and '.join(wants)}."]
    ask = f"How many dollars does {name} pay?"
    if coupon:
        off = rng.randint(2, 20)
        step, total = _step(total, "-", off)
        sentences.append(f"A coupon takes ${off} off.")
        lines.append(f"With the coupon it is {step} dollars.")
        facts += ["coupon", off]
    if change:
        bill = rng.choice([bill for bill in BILLS if bill > total] or [0])
        step, total = _step(bill, "-", total)
        sentences.append(f"{pronoun} pays with ${bill}.")
        lines.append(f"The change is {step} dollars.")
        facts += ["change", bill]
        ask = f"How many dollars does {name} get back?"
    return Problem(tuple(facts), " ".join((*sentences, ask)), tuple(lines), total)


# -- splits -----------------------------------------------------------------------------------------------------------

_KINDS: tuple[Callable[[random.Random, int], Problem], ...] = (_draw_chain, _draw_chain, _draw_story, _draw_shopping)


def _draw(rng: random.Random, steps: tuple[int, int]) -> Problem:
    """Draw kind and length first, then until the numbers fit: rejection must not shift their shares."""
    draw, length = rng.choice(_KINDS), rng.randint(*steps)
    while True:
        try:
            return draw(rng, length)
        except _OutOfRangeError:
            continue


def generate(split: str, n: int, *, seed: int = 0, steps: tuple[int, int] = (3, 5)) -> Iterator[dict[str, str]]:
    """Yield `n` different problems of one split as GSM8K records, each with `steps[0]` to `steps[1]` steps.

    The same arguments give the same problems; a smaller `n` gives the first of them.
    """
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}: choose one of {', '.join(SPLITS)}")
    if not 1 <= steps[0] <= steps[1] <= 5:
        raise ValueError(f"steps are 1 to 5, smaller number first, not {steps}")
    rng = random.Random(f"{split} {seed} {steps}")
    seen: set[str] = set()
    misses = 0
    while len(seen) < n:
        problem = _draw(rng, steps)
        key = json.dumps(problem.facts)
        if problem.bucket() not in SPLITS[split] or key in seen:
            misses += 1
            if misses > 10_000:
                raise ValueError(f"there are not {n} different problems in split {split!r} with {steps} steps")
            continue
        misses = 0
        seen.add(key)
        yield problem.record()


def write(folder: Path, *, train: int = 2000, dev: int = 200, test: int = 600, seed: int = 0) -> None:
    """Write train.jsonl, dev.jsonl and test.jsonl into `folder`; a file that already has this content is left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, n in {"train": train, "dev": dev, "test": test}.items():
        content = "".join(json.dumps(record) + "\n" for record in generate(split, n, seed=seed))
        path = folder / f"{split}.jsonl"
        if path.exists() and path.read_text(encoding="utf-8") == content:
            continue
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        beside.write_text(content, encoding="utf-8")
        beside.replace(path)


# -- the solver: reads the English and shares nothing with the code above ----------------------------------------------


def solve(question: str) -> int:
    """Return the answer of a problem from its text alone; refuse a sentence that is not understood."""
    *sentences, ask = re.findall(r"[^.?]+[.?]", question)
    sentences = [sentence.strip() for sentence in sentences]
    if "dollars" in ask:
        return _solve_shopping(sentences)
    if ask.endswith("have now?"):
        return _solve_story(sentences)
    return _solve_chain(sentences, ask)


def _solve_chain(sentences: list[str], ask: str) -> int:
    known: dict[str, int] = {}
    waiting = list(sentences)
    while waiting:
        left = [sentence for sentence in waiting if not _learn(sentence, known)]
        if len(left) == len(waiting):
            raise ValueError(f"cannot be worked out: {left}")
        waiting = left
    return sum(known[name] for name in re.findall(r"[A-Z][a-z]+", ask.replace("How", "")))


def _learn(sentence: str, known: dict[str, int]) -> bool:
    """Add what a comparison says to `known`; return False while it compares with somebody unknown."""
    if match := re.fullmatch(r"(\w+) has (\d+) \w+\.", sentence):
        known[match[1]] = int(match[2])
        return True
    match = re.fullmatch(
        r"(\w+) has (?:(\d+) (more|fewer) \w+ than|(?:(\d+) times|(twice)|(half)) as many \w+ as) (\w+)\.", sentence
    )
    if match is None:
        raise ValueError(f"not a comparison: {sentence!r}")
    name, difference, direction, factor, twice, half, other = match.groups()
    if other not in known:
        return False
    if direction:
        known[name] = known[other] + (int(difference) if direction == "more" else -int(difference))
    elif half:
        known[name] = known[other] // 2
    else:
        known[name] = known[other] * (2 if twice else int(factor))
    return True


def _solve_story(sentences: list[str]) -> int:
    amount = 0
    for sentence in sentences:
        numbers = [int(number) for number in re.findall(r"\d+", sentence)]
        verb = sentence.split()[1]
        if "boxes with" in sentence:
            amount += numbers[0] * numbers[1]
        elif "gives half" in sentence:
            amount //= 2
        elif verb in ("has", "buys", "finds", "wins"):
            amount += numbers[0]
        elif verb in ("gives", "loses", "sells", "uses"):
            amount -= numbers[0]
        else:
            raise ValueError(f"not an event: {sentence!r}")
    return amount


def _solve_shopping(sentences: list[str]) -> int:
    text = " ".join(sentences)
    bill = sum(int(count) * int(price) for count, price in re.findall(r"(\d+) \w+ at \$(\d+) each", text))
    if off := re.search(r"coupon takes \$(\d+) off", text):
        bill -= int(off[1])
    if paid := re.search(r"pays with \$(\d+)\.", text):
        return int(paid[1]) - bill
    return bill
