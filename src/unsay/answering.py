"""A model that answers prompts while somebody watches: the process behind `unsay generate` and `unsay chat`.

    python -m unsay.answering      # orders as JSON lines on standard input, events as JSON lines on standard output

The first line opens a model: `model` (a `config.Model` as JSON), `adapter` (a folder or null), `device`, `dtype`,
`decode` (what differs from `settings.Decode`; `undo_context` null: as the model was trained) and `chat` (whether it
needs a chat template). Every further line asks: `ask` (a number), `prompt` (a text) or `messages`, `plain` (no chat
template), `n` answers, `seed` of the first. `{"stop": number}` ends what was asked there; when standard input closes,
the process ends at once.

Events: `ready` once, with what is being run. While an answer is written, `emit` (an id survives for now; `text` is
what it adds to the display), `retract` (control token `id` took the newest `count` back) and `commit` (the first
`count` survivors are final), each with the number of the `answer`. `end` holds the whole answer, `done` closes what was
asked. `error` says what is wrong with an order, and the next one is read.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unsay import engine
from unsay.config import Model
from unsay.errors import EvaluationError, ModelError, UnsayError
from unsay.evaluate.setup import Opened, open_model
from unsay.prompts import Encoded
from unsay.records import Key
from unsay.settings import Decode
from unsay.undo import resolve

Report = Callable[[dict[str, Any]], None]

PART = "\ufffd"
"""What part of a character decodes to."""
BACK = 4
"""Tokens before a new one that are decoded with it: what a tokenizer writes may depend on them."""


class StoppedError(Exception):
    """Whoever asked wants no more of this answer."""


@dataclass
class Spelling:
    """The text of survivors, token by token, while they come and go; part of a character waits for the rest of it."""

    text_of: Callable[[Sequence[int]], str]
    ids: list[int] = field(default_factory=list)
    whole: list[bool] = field(default_factory=list)

    def push(self, id: int) -> str:
        """Take a token; return what it adds to the text."""
        waiting = len(self.ids)
        while waiting and not self.whole[waiting - 1]:
            waiting -= 1
        start = max(0, waiting - BACK)
        before = self.text_of(self.ids[start:waiting])
        self.ids.append(id)
        after = self.text_of(self.ids[start:])
        self.whole.append(not after.endswith(PART))
        return after[len(before) :] if self.whole[-1] else ""

    def pop(self, count: int) -> None:
        if count:
            del self.ids[-count:], self.whole[-count:]


@dataclass
class Writing:
    """One answer so far, as its events told it."""

    seed: int
    spelling: Spelling
    ids: list[int] = field(default_factory=list)


@dataclass
class Answering:
    """An opened model and how it answers. `stopped` says whether the question with this number was taken back."""

    opened: Opened
    decode: Decode
    report: Report
    stopped: Callable[[int], bool] = lambda ask: False

    def __post_init__(self) -> None:
        self.model = self.opened.load()
        self.facts: dict[str, Any] = {}

    def answer(self, order: Mapping[str, Any]) -> None:
        """Answer one order, telling events; raises DataError, ModelError or EvaluationError for what cannot be."""
        ask, first, count = int(order["ask"]), int(order.get("seed", 0)), int(order.get("n", 1))
        prompt = self.encode(order)
        room = self.opened.max_length
        if len(prompt.ids) >= room:
            raise EvaluationError(
                f"expected a prompt of fewer than {room} tokens, which is all this model can see, got "
                f"{len(prompt.ids)}; shorten it, or begin a new chat"
            )
        requests = [
            engine.Request(Key("answer", ask, 0, at), prompt.ids, first + at, tuple(self.decode.stop or ()))
            for at in range(count)
        ]
        writing = [Writing(request.seed, Spelling(self.opened.visible_text)) for request in requests]
        ended: set[int] = set()
        options = engine.Options(
            decode=self.decode,
            table=self.opened.table,
            end_ids=self.opened.prompter.end_ids,
            text_of=self.opened.visible_text,
            pad_id=self.opened.prompter.end_id,
            slots=count,
            observe=lambda event: self._observed(event, writing),
        )
        generator = engine.Engine(self.model, options)
        try:
            for finished in generator.generate(requests):
                at = finished.request.key.repeat
                ended.add(at)
                self.report({"event": "end", "answer": at, **self._finished(finished)})
        except StoppedError:
            for at, each in enumerate(writing):
                if at not in ended:
                    self.report({"event": "end", "answer": at, **self._unfinished(each)})
        self.facts = generator.facts
        shown = {"text": prompt.text, "ids": list(prompt.ids)}
        self.report({"event": "done", "ask": ask, "prompt": shown, "engine": self.facts})

    def encode(self, order: Mapping[str, Any]) -> Encoded:
        """Return the prompt of an order: a chat where the model has a template and the order wants it."""
        prompter = self.opened.prompter
        messages = order.get("messages")
        if messages is None:
            if order.get("plain") or not prompter.has_template:
                return prompter.encode_plain(order["prompt"])
            messages = [{"role": "user", "content": order["prompt"]}]
        return prompter.encode_chat(messages)

    def _observed(self, event: engine.Event, writing: Sequence[Writing]) -> None:
        if self.stopped(event.key.doc_id):
            raise StoppedError
        at = event.key.repeat
        each = writing[at]
        told: dict[str, Any] = {"event": event.kind, "answer": at}
        if event.kind == "commit":
            self.report(told | {"count": event.count})
            return
        assert event.id is not None
        each.ids.append(event.id)
        if event.kind == "emit":
            self.report(told | {"id": event.id, "text": each.spelling.push(event.id)})
        else:
            each.spelling.pop(event.count)
            token = self.opened.table.names[event.id]
            self.report(told | {"id": event.id, "token": token, "count": event.count})

    def _finished(self, finished: engine.Finished) -> dict[str, Any]:
        return {
            "seed": finished.request.seed,
            "ids": list(finished.ids),
            "pieces": self.opened.prompter.pieces(finished.ids),
            "visible_ids": list(finished.visible_ids),
            "visible": finished.visible,
            "finish_reason": finished.finish_reason,
            "counts": finished.resolution.counts.to_json(),
            "logprobs": [round(value, 5) for value in finished.logprobs],
        }

    def _unfinished(self, writing: Writing) -> dict[str, Any]:
        return {
            "seed": writing.seed,
            "ids": list(writing.ids),
            "pieces": self.opened.prompter.pieces(writing.ids),
            "visible_ids": list(writing.spelling.ids),
            "visible": self.opened.visible_text(writing.spelling.ids).removesuffix(PART),
            "finish_reason": "stopped",
            "counts": resolve(writing.ids, self.opened.table).counts.to_json(),
        }


def opened_for(order: Mapping[str, Any]) -> tuple[Opened, Decode]:
    """Open the model of the first order, and say how it will decode. Raises ModelError."""
    adapter = order.get("adapter")
    opened = open_model(
        Model(**order["model"]),
        device=order.get("device", "auto"),
        dtype=order.get("dtype", "auto"),
        adapter=None if adapter is None else Path(adapter),
    )
    if order.get("chat") and not opened.prompter.has_template:
        raise ModelError(
            f"expected a model with a chat template, got {order['model']['name']}, which has none; name one with "
            "--template (qwen3_nothink, llama3, plain or a .jinja file), or use `unsay generate`"
        )
    written = {name: value for name, value in order.get("decode", {}).items() if value is not None}
    if "stop" in written:
        written["stop"] = tuple(written["stop"])
    written.setdefault("undo_context", opened.context or "keep")
    return opened, Decode(**written)


def serve(orders: Iterator[Mapping[str, Any]], report: Report, stopped: Callable[[int], bool]) -> None:
    """Open the model of the first order and answer the others; what is wrong with one is told, never raised."""
    answering: Answering | None = None
    for order in orders:
        try:
            if answering is None:
                opened, decode = opened_for(order)
                answering = Answering(opened, decode, report, stopped)
                report(
                    {
                        "event": "ready",
                        "model": order["model"]["name"],
                        "decode": dataclasses.asdict(decode),
                        "chat_template": opened.prompter.has_template,
                        "undo_table": opened.table.to_json(),
                        "facts": opened.facts,
                        "warnings": list(opened.context_warnings(decode)),
                    }
                )
            else:
                answering.answer(order)
        except UnsayError as error:
            report({"event": "error", "error": str(error)})
            if answering is None:
                return


@contextmanager
def _events() -> Iterator[Report]:
    """Keep standard output for events alone: whatever libraries print goes to standard error."""
    descriptor = os.dup(1)
    os.dup2(2, 1)

    def report(event: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):
            os.write(descriptor, json.dumps(event).encode() + b"\n")

    try:
        yield report
    finally:
        os.close(descriptor)


def main() -> int:
    orders: queue.Queue[Mapping[str, Any]] = queue.Queue()
    stopped: set[int] = set()

    def listen() -> None:
        for line in sys.stdin:
            order = json.loads(line)
            if "stop" in order:
                stopped.add(int(order["stop"]))
            else:
                orders.put(order)
        os._exit(0)  # nobody is listening any more

    threading.Thread(target=listen, daemon=True).start()
    with _events() as report:
        serve(iter(orders.get, None), report, stopped.__contains__)
    return 1


if __name__ == "__main__":
    sys.exit(main())
