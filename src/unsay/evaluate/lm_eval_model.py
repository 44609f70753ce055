"""Our decoding as an lm-eval model: prompts are rendered and encoded here, answers come from the caller.

lm-eval hands over rendered text; what the user wrote inside it must not become a control token, so the messages
behind every rendered chat prompt are remembered until its ids are made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from unsay.errors import EvaluationError
from unsay.prompts import Encoded, Prompter
from unsay.records import Key


@dataclass(frozen=True)
class PromptItem:
    """One generation request of lm-eval, encoded."""

    key: Key
    prompt: Encoded
    stop: tuple[str, ...]
    label: str
    """The gold answer."""


Respond = Callable[[Sequence[PromptItem]], Sequence[str]]


class PromptingLM(LM):  # type: ignore[misc]
    """What our lm-eval models share: how prompts are rendered and encoded.

    `chat` says whether lm-eval was told to apply the chat template.
    """

    def __init__(self, prompter: Prompter, *, chat: bool, enable_thinking: bool = False) -> None:
        super().__init__()
        self.prompter = prompter
        self.tokenizer = prompter.tokenizer  # lm-eval records facts about it in the results file
        self._chat = chat
        self._options: dict[str, Any] = {"enable_thinking": enable_thinking}
        self._rendered: dict[str, tuple[list[dict[str, str]], dict[str, Any]]] = {}

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return (self.prompter.template or self.tokenizer.chat_template) if chat_template else ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        # An answer that lm-eval begins itself is an assistant message to go on with, as in its own models.
        ending = {"add_generation_prompt": add_generation_prompt, "continue_final_message": not add_generation_prompt}
        options = self._options | ending
        text = self.prompter.render(chat_history, **options)
        self._rendered[text] = [dict(message) for message in chat_history], options
        return text

    def _encode(self, text: str) -> Encoded:
        if not self._chat:
            return self.prompter.encode_plain(text)
        if text not in self._rendered:
            raise EvaluationError(
                "expected chat prompts as the chat template made them, got one that the task changed afterwards. "
                "Choose another task, or set apply_chat_template: false."
            )
        messages, options = self._rendered[text]
        return self.prompter.encode_chat(messages, **options)


class UnsayLM(PromptingLM):
    """An lm-eval model that encodes prompts and asks `respond` for all answers at once, in lm-eval's order."""

    def __init__(self, prompter: Prompter, respond: Respond, *, chat: bool, enable_thinking: bool = False) -> None:
        super().__init__(prompter, chat=chat, enable_thinking=enable_thinking)
        self._respond = respond

    def generate_until(self, requests: list[Instance]) -> list[str]:
        repeats: Counter[tuple[str, int, int]] = Counter()
        items: list[PromptItem] = []
        for request in requests:
            text, generation = request.args
            place = (str(request.task_name), int(request.doc_id or 0), int(request.idx))
            key = Key(*place, repeats[place])
            items.append(PromptItem(key, self._encode(text), _stops(generation), str(request.doc.get("answer", ""))))
            repeats[place] += 1
        return list(self._respond(items))

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise EvaluationError(_GENERATES_ONLY)

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise EvaluationError(_GENERATES_ONLY)


_GENERATES_ONLY = "this model answers generation requests only. Choose a task whose output_type is generate_until."


def _stops(generation: dict[str, Any]) -> tuple[str, ...]:
    until = generation.get("until") or []
    return tuple(stop for stop in ([until] if isinstance(until, str) else until) if stop)
