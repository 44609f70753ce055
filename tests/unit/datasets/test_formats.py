"""Each format reads its lines as the tools that invented it do, and says what is wrong with a line it cannot read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from unsay import catalog
from unsay.errors import DataError


def read(name: str, line: Mapping[str, Any], **columns: str) -> tuple[str, str]:
    example = catalog.plugin("datasets", name)(**columns).example(line, "mine/train/6")
    assert example.id == "mine/train/6"
    return example.question, example.answer


def turns(*said: tuple[str, str], role: str = "role", content: str = "content") -> list[dict[str, str]]:
    return [{role: who, content: text} for who, text in said]


QUESTION, ANSWER = "Wie viele Äpfel? 🍎", "Zwei.\n#### 2"
SYSTEM = "Answer briefly."

READ: list[tuple[str, dict[str, Any], dict[str, str], str]] = [
    ("gsm8k", {"question": QUESTION, "answer": ANSWER, "level": 3}, {}, QUESTION),
    ("gsm8k", {"q": QUESTION, "a": ANSWER}, {"question": "q", "answer": "a"}, QUESTION),
    ("alpaca", {"instruction": QUESTION, "output": ANSWER}, {}, QUESTION),
    ("alpaca", {"instruction": QUESTION, "input": "", "output": ANSWER, "history": []}, {}, QUESTION),
    ("alpaca", {"instruction": QUESTION, "input": None, "output": ANSWER}, {}, QUESTION),
    ("alpaca", {"instruction": "Add.", "input": "1, 1", "output": ANSWER}, {}, "Add.\n1, 1"),
    ("alpaca", {"instruction": "Add.", "output": ANSWER, "system": SYSTEM}, {}, f"{SYSTEM}\nAdd."),
    ("alpaca", {"ask": QUESTION, "say": ANSWER}, {"prompt": "ask", "response": "say"}, QUESTION),
    (
        "sharegpt",
        {"conversations": turns(("human", QUESTION), ("gpt", ANSWER), role="from", content="value")},
        {},
        QUESTION,
    ),
    (
        "sharegpt",
        {"chat": turns(("user", QUESTION), ("assistant", ANSWER))},
        {"messages": "chat", "role_tag": "role", "content_tag": "content"},
        QUESTION,
    ),
    ("messages", {"messages": turns(("user", QUESTION), ("assistant", ANSWER))}, {}, QUESTION),
    (
        "messages",
        {"messages": turns(("system", SYSTEM), ("user", QUESTION), ("assistant", ANSWER))},
        {},
        f"{SYSTEM}\n\n{QUESTION}",
    ),
    ("messages", {"messages": turns(("system", ""), ("user", QUESTION), ("assistant", ANSWER))}, {}, QUESTION),
    ("prompt_completion", {"prompt": QUESTION, "completion": ANSWER}, {}, QUESTION),
    (
        "prompt_completion",
        {"prompt": turns(("user", QUESTION)), "completion": turns(("assistant", ANSWER))},
        {},
        QUESTION,
    ),
]


@pytest.mark.parametrize(("name", "line", "columns", "question"), READ)
def test_a_line_is_read(name: str, line: dict[str, Any], columns: dict[str, str], question: str) -> None:
    assert read(name, line, **columns) == (question, ANSWER)


REFUSED: list[tuple[str, dict[str, Any], list[str]]] = [
    ("gsm8k", {"Question": "?", "answer": "4"}, ["column 'question'", "columns here: Question, answer", "`columns:`"]),
    ("gsm8k", {"question": "?", "answer": 4}, ["column 'answer'", "got int"]),
    ("gsm8k", {"question": " \n", "answer": "4"}, ["column 'question'", "got blank text"]),
    ("gsm8k", {}, ["columns here: none"]),
    ("gsm8k", {"question": "half a character: \ud83d", "answer": "4"}, ["column 'question'", "half a character"]),
    ("alpaca", {"instruction": "a", "output": ""}, ["column 'output'"]),
    ("alpaca", {"instruction": "a", "output": "b", "history": [["a", "b"]]}, ["'history'", "Split"]),
    ("sharegpt", {"messages": turns(("user", "a"), ("assistant", "b"))}, ["list of messages", "NoneType"]),
    ("sharegpt", {"conversations": turns(("human", "a"), role="from", content="value")}, ["got ['human']"]),
    ("messages", {"messages": "hello"}, ["list of messages", "got str"]),
    ("messages", {"messages": ["hello"]}, ["list of messages"]),
    ("messages", {"messages": turns(("user", "a"), ("assistant", "b"), ("user", "c"))}, ["one user message", "Split"]),
    ("messages", {"messages": turns(("user", "a"), ("assistant", " "))}, ["one assistant message"]),
    ("messages", {"messages": turns(("user", "a"), ("tool", "b"))}, ["got ['user', 'tool']"]),
    (
        "messages",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, *turns(("assistant", "b"))]},
        ["content of every message", "got list"],
    ),
    ("messages", {"messages": turns(("user", "a\ud83d"), ("assistant", "b"))}, ["half a character"]),
    (
        "prompt_completion",
        {"prompt": "a", "completion": turns(("assistant", "b"))},
        ["column 'completion'", "got list"],
    ),
    ("prompt_completion", {"prompt": turns(("user", "a")), "completion": []}, ["got ['user']"]),
]


@pytest.mark.parametrize(("name", "line", "parts"), REFUSED)
def test_a_wrong_line_is_refused_with_its_name(name: str, line: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        read(name, line)
    assert str(caught.value).startswith("mine/train/6: expected ")
    for part in parts:
        assert part in str(caught.value)
    str(caught.value).encode()  # can be printed
