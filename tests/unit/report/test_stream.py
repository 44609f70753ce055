"""Answers on a screen: struck through and gone, hostile text, long answers, pipes."""

from __future__ import annotations

import io
import random
from collections.abc import Iterable
from typing import Any

import pytest

from tests.screen import Screen
from unsay.report.stream import Live, Plain


def emit(text: str) -> dict[str, Any]:
    return {"event": "emit", "answer": 0, "id": 1, "text": text}


def retract(count: int, token: str = "<U>") -> dict[str, Any]:
    return {"event": "retract", "answer": 0, "id": 2, "token": token, "count": count}


def commit(count: int) -> dict[str, Any]:
    return {"event": "commit", "answer": 0, "count": count}


def end(visible: str) -> dict[str, Any]:
    return {"event": "end", "answer": 0, "visible": visible, "finish_reason": "eos"}


def live(screen: Screen, events: Iterable[dict[str, Any]], **options: Any) -> list[float]:
    waits: list[float] = []
    options = {"width": 40, "height": 1000, "colour": True} | options
    view = Live(screen, wait=waits.append, **options)  # type: ignore[arg-type]
    for event in events:
        view.take(event)
    view.close()
    return waits


def test_what_is_taken_back_is_struck_through_and_goes() -> None:
    screen = Screen()
    events = [emit("48 / 2 ="), emit(" 2"), emit("6"), retract(1), retract(1), emit(" 24"), end("48 / 2 = 24")]
    waits = live(screen, events)
    assert screen.text == "48 / 2 = 24"
    assert screen.struck == ["6", " 26"]
    assert len(waits) == 1, "it stays for a moment once, after the last of a run of undos"


def test_an_undo_that_ends_an_answer_goes_too() -> None:
    screen = Screen()
    live(screen, [emit("a"), emit("b"), retract(1), retract(5), end("a")])
    assert screen.text == "a"


def test_it_can_stay() -> None:
    screen = Screen()
    waits = live(screen, [emit("a"), emit("b"), retract(1), emit("c"), end("ac")], keep=True)
    assert screen.text == "ab<U>c"
    assert set(screen.struck) == {"b"}
    assert not waits


HOSTILE = "\x1b[31mred\x1b]0;title\x07\r\x08\x9b2J\u202eevil\x1b[9m"


@pytest.mark.parametrize("keep", [False, True])
def test_hostile_text_is_spelled_out(keep: bool) -> None:
    """The screen fails on any sequence but our own; none of the model's gets through, split over tokens or not."""
    screen, pipe = Screen(), io.StringIO()
    events = [*map(emit, HOSTILE), retract(2, "\x1b[2J<U>"), emit("\x1b"), emit("[2Jx"), emit("\ty")]
    visible = HOSTILE[:-2] + "\x1b[2Jx\ty"
    live(screen, [*events, end(visible)], keep=keep, width=200)
    assert "␛[31mred␛]0;title␇␍␈⟨U+009B⟩2J⟨U+202E⟩evil␛[" in screen.text
    assert screen.text.endswith("␛[2Jx    y")
    plain = Plain(pipe, keep=keep)
    for event in [*events, end(visible)]:
        plain.take(event)
    plain.close()
    assert "\x1b" not in pipe.getvalue()
    assert pipe.getvalue().endswith("␛[2Jx\ty\n")
    assert ("[-" in pipe.getvalue()) == keep


def wrapped(screen: Screen) -> str:
    """Return the words of the screen: rows end where the width is used up."""
    return " ".join(screen.text.split())


def test_long_lines_wrap_between_words_and_unwrap_again() -> None:
    screen = Screen()
    words = [emit(f"word{n} ") for n in range(30)]
    live(screen, [*words, retract(25), emit("and so on"), end("word0 word1 word2 word3 word4 and so on")])
    assert screen.text == "word0 word1 word2 word3 word4 and so on"
    screen = Screen()
    live(screen, [*words, end("".join(event["text"] for event in words))])
    assert all(len(row) < 40 for row in screen.rows)
    assert all(word.startswith("word") for word in wrapped(screen).split())


def test_wide_characters_count_twice() -> None:
    screen = Screen()
    live(screen, [emit("数" * 30), end("数" * 30)], width=21)
    assert screen.rows[:3] == ["数" * 10] * 3


def test_random_answers_end_as_they_are() -> None:
    rng = random.Random(0)
    for _ in range(120):
        screen = Screen()
        survivors: list[str] = []
        events = []
        for _ in range(rng.randint(1, 60)):
            if rng.random() < 0.3:
                count = rng.randint(0, min(9, len(survivors)))
                del survivors[len(survivors) - count :]
                events.append(retract(count))
            else:
                text = rng.choice(["a", " bc", "\n", "", "é", " longer-word", "\n\n", "  "])
                survivors.append(text)
                events.append(emit(text))
        live(screen, [*events, end("".join(survivors))], width=rng.choice([11, 17, 40]))
        assert screen.text.replace("\n", "").replace(" ", "") == "".join("".join(survivors).split())


def test_what_has_left_the_screen_is_said_to_be_taken_back() -> None:
    """The screen fails where the cursor is moved above its top."""
    screen = Screen(height=6)
    lines = [emit(f"line {n}\n") for n in range(20)]
    live(screen, [*lines, retract(18), emit("again"), end("line 0\nline 1\nagain")], height=6)
    assert screen.rows[:3] == ["line 0", "line 1", "line 2"]
    assert screen.text.endswith("(what is above was taken back from here on)\nagain")
    assert {"line 19", "line 18"} <= set(screen.struck)


def test_a_stop_string_is_cut_in_the_end() -> None:
    screen = Screen()
    live(screen, [emit("so"), emit(" it is"), emit(" 4\n\nQ"), end("so it is 4")])
    assert screen.text == "so it is 4"


def plain(events: Iterable[dict[str, Any]], **options: Any) -> list[str]:
    """Return what a pipe holds after every event."""
    out = io.StringIO()
    view = Plain(out, **options)
    seen = []
    for event in events:
        view.take(event)
        seen.append(out.getvalue())
    view.close()
    return [*seen, out.getvalue()]


def test_a_pipe_gets_what_is_final() -> None:
    events = [emit("a"), commit(1), emit("b"), retract(1), emit("c"), commit(2), end("ac")]
    assert plain(events) == ["", "a", "a", "a", "a", "ac", "ac", "ac\n"]
    assert plain([emit("a"), emit("b"), retract(2), emit("c"), end("c")]) == ["", "", "", "", "c", "c\n"]


def test_a_pipe_waits_for_what_may_be_a_stop_string() -> None:
    texts = ["so", " it is", " 4", "\n", "\nQ: and so on"]
    events = [event for at, text in enumerate(texts) for event in (emit(text), commit(at + 1))]
    shown = plain([*events, end("so it is 4")], stop=["\n\nQ:"])
    assert shown[1::2] == ["", "", "so it", "so it i", "so it is", "so it is 4\n"]
    for at in range(len(shown) - 1):
        assert "so it is 4".startswith(shown[at])


def test_a_pipe_marks_what_was_taken_back_where_it_is_kept() -> None:
    assert plain([emit("a"), commit(1), emit("b"), retract(1), emit("c"), end("ac")], keep=True)[-1] == "a[-b-]<U>c\n"
