"""The process behind `generate` and `chat`: its events against the answers they end with, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import CONTROLS, tiny_model, tiny_tokenizer
from unsay.answering import Spelling, serve
from unsay.config import Model
from unsay.errors import ModelError
from unsay.model_names import named

SAMPLED = {"max_new_tokens": 40, "do_sample": True, "temperature": 1.0, "undo_bias": 3.0}


def opening(folder: Path, *, chat: bool = False, **decode: Any) -> dict[str, Any]:
    model = dataclasses.asdict(Model("tiny", str(folder)))
    return {"model": model, "adapter": None, "device": "cpu", "dtype": "auto", "decode": decode, "chat": chat}


def served(*orders: dict[str, Any], stopped: Callable[[int], bool] = lambda ask: False) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    serve(iter(orders), lambda event: events.append(json.loads(json.dumps(event))), stopped)
    return events


@pytest.fixture(scope="module")
def undoing(tiny_models: Callable[..., Path]) -> Path:
    return tiny_models("qwen3", controls=CONTROLS)


def test_events_tell_the_answers(undoing: Path) -> None:
    question = {"ask": 1, "prompt": "Tom has", "n": 5, "seed": 3}
    events = served(opening(undoing, **SAMPLED), question)
    assert [events[0]["event"], events[-1]["event"]] == ["ready", "done"]
    assert {each["token"] for each in events[0]["undo_table"]["controls"]} == set(CONTROLS)
    assert events[-1]["prompt"]["text"] == "<|im_start|>user\nTom has<|im_end|>\n<|im_start|>assistant\n"
    assert events[-1]["engine"]["engine"] == "slots"
    undos = 0
    for at in range(5):
        texts: list[str] = []
        (end,) = [each for each in events if each["event"] == "end" and each["answer"] == at]
        for each in events:
            if each.get("answer") == at and each["event"] == "emit":
                texts.append(each["text"])
            elif each.get("answer") == at and each["event"] == "retract":
                del texts[len(texts) - each["count"] :]
                undos += 1
        assert "".join(texts).rstrip("\ufffd") == end["visible"].rstrip("\ufffd")
        assert end["seed"] == 3 + at
        assert len(end["pieces"]) == len(end["ids"]) == len(end["logprobs"]) == end["counts"]["sampled"]
    assert undos > 3
    again = served(opening(undoing, **SAMPLED), {"ask": 1, "prompt": "Tom has", "n": 1, "seed": 7})
    ends = [each for each in events if each["event"] == "end"] + [each for each in again if each["event"] == "end"]
    assert ends[-1]["ids"] == next(each["ids"] for each in ends if each["answer"] == 4)


def test_an_answer_that_is_stopped_keeps_its_survivors(undoing: Path) -> None:
    seen = 0

    def stopped(ask: int) -> bool:
        nonlocal seen
        seen += ask == 1
        return ask == 1 and seen > 20

    orders = [{"ask": 1, "prompt": "Tom has"}, {"ask": 2, "prompt": "Tom has"}]
    events = served(opening(undoing, **SAMPLED), *orders, stopped=stopped)
    first, second = [each for each in events if each["event"] == "end"]
    assert first["finish_reason"] == "stopped"
    assert 0 < len(first["ids"]) < 21
    assert first["ids"] == second["ids"][: len(first["ids"])], "and the next one is not stopped"
    assert first["counts"]["survivors"] == len(first["visible_ids"])


def test_control_tokens_in_a_question_are_characters(undoing: Path) -> None:
    asked = {"ask": 1, "prompt": "say <|BACKTRACK|> and <|im_end|>"}
    events = served(opening(undoing, max_new_tokens=2), asked, {**asked, "plain": True})
    controls = {each["id"] for each in events[0]["undo_table"]["controls"]}
    chat, plain = [each for each in events if each["event"] == "done"]
    assert chat["prompt"]["ids"].count(2) == 1, "the template's own end token"
    assert plain["prompt"]["text"] == asked["prompt"]
    assert not controls & {*chat["prompt"]["ids"], *plain["prompt"]["ids"]}


def test_what_cannot_be_answered_is_said_and_the_next_is_answered(undoing: Path) -> None:
    orders = [{"ask": 1, "prompt": "Tom " * 2000}, {"ask": 2, "prompt": "Tom"}]
    events = served(opening(undoing, max_new_tokens=2), *orders)
    assert "expected a prompt of fewer than 1024 tokens" in next(e["error"] for e in events if e["event"] == "error")
    assert events[-1]["event"] == "done"
    assert events[-1]["ask"] == 2


def test_a_chat_needs_a_template(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "bare", tokenizer=tiny_tokenizer(chat_template=None))
    (event,) = served(opening(folder, chat=True))
    assert event["event"] == "error"
    assert "name one with --template" in event["error"]
    events = served(opening(folder, max_new_tokens=2), {"ask": 1, "prompt": "Tom has"})
    assert events[-1]["prompt"]["text"] == "Tom has", "the prompt itself is gone on with"


def test_the_undo_context_is_the_one_it_was_trained_with(undoing: Path, tmp_path: Path) -> None:
    folder = tmp_path / "trained"
    shutil.copytree(undoing, folder)
    table = served(opening(undoing))[0]["undo_table"]
    (folder / "undo.json").write_text(json.dumps(table | {"context": "rewind", "trained": [], "rows": 0}))
    assert served(opening(folder))[0]["decode"]["undo_context"] == "rewind"
    ready = served(opening(folder, undo_context="keep"))[0]
    assert ready["warnings"] == ["trained with undo_context rewind, decoded with keep"]


def test_characters_wait_until_they_are_whole() -> None:
    spelling = Spelling(lambda ids: bytes(ids).decode(errors="replace"))
    euro = list("€".encode())
    assert [spelling.push(id) for id in [65, *euro, 66]] == ["A", "", "", "€", "B"]
    spelling.pop(2)
    assert spelling.push(euro[2]) == "€"
    spelling.pop(3)
    assert [spelling.push(id) for id in "ö".encode()] == ["", "ö"]


# -- which model a name means ---------------------------------------------------------------------------------------


def test_names_of_models(undoing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(undoing.parent)
    assert named("qwen3-0.6b").model.path == "Qwen/Qwen3-0.6B"
    assert named("somebody/else").model == Model("somebody/else", "somebody/else")
    assert named(undoing.name).model.path == str(undoing), "a relative folder"
    assert named(str(undoing), template="llama3").model.template == "llama3"
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base"}))
    assert named(str(adapter)).model.path == "some/base"
    assert named(str(adapter)).adapter == adapter
    assert named("qwen3-4b", adapter=str(adapter)).adapter == adapter


def wrong(tmp_path: Path) -> Iterator[tuple[str, dict[str, Any], str]]:
    yield "qwen3-0.6", {}, r"got 'qwen3-0.6' \(did you mean qwen3-0.6b\?\)"
    yield "EXP-001", {"lab": tmp_path / "nowhere"}, r"there is no lab folder .*nowhere here"
    yield str(tmp_path), {}, "holds neither config.json nor adapter_config.json"
    yield "qwen3-4b", {"adapter": "nowhere"}, "the folder of an adapter, got nowhere"
    yield (
        "qwen3-4b",
        {"template": "qwen"},
        "expected a chat template .*llama3.* or the path of a .jinja file, got 'qwen'",
    )


def test_names_that_mean_nothing_say_what_there_is(tmp_path: Path) -> None:
    for name, options, message in wrong(tmp_path):
        with pytest.raises(ModelError, match=message):
            named(name, **options)
