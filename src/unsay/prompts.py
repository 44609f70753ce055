"""Between text and token ids: render a chat, encode it so that user text cannot spell a special token, and back.

A prompt is template text around user text. Special tokens count in the template's part only: a question that spells
`<|im_end|>` or the undo token is encoded as ordinary characters. Where no content spells a special token the ids are
exactly the tokenizer's own. The beginning token is written once. Works with any fast Hugging Face tokenizer handed in;
imports neither torch nor transformers and knows no model, dataset or undo table.

    prompter = Prompter(tokenizer, "qwen3_nothink")
    prompter.encode_chat([{"role": "user", "content": "2 + 2?"}]).ids
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

from unsay import models
from unsay.errors import DataError, ModelError

Message = Mapping[str, str]

# How Qwen and Llama cut text into words. After a line break that no white space follows a new word begins: what takes
# a line break ends with it, and nothing looks back.
_WORDS = tuple(
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{number}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    for number in (r"\p{N}", r"\p{N}{1,3}")
)
_CUTS = ({"String": "\n"}, {"Regex": "\n"}, {"Regex": r"\n"}, *({"Regex": words} for words in _WORDS))
Span = tuple[int, int]


@dataclass(frozen=True)
class Encoded:
    """A prompt as text and as ids. A beginning token that the tokenizer adds is among the ids, not in the text."""

    text: str
    ids: tuple[int, ...]


class Prompter:
    """Renders and encodes with one tokenizer and one chat template.

    `template` is None for the model's own, a built-in name (`qwen3_nothink`, `llama3`, `plain`) or the path of a .jinja
    file. `eos_ids` are the ids that end a text after the model's configs, `control_ids` those that must never come out
    of user text.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: str | None = None,
        *,
        eos_ids: Collection[int] = (),
        control_ids: Collection[int] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.template = None if template is None else _template_text(template)
        self.control_ids = frozenset(control_ids)
        self._eos_ids = frozenset(eos_ids)
        added = tokenizer.added_tokens_decoder
        self._special = {token.content: (id, token) for id, token in added.items() if token.special}
        self._special_ids = frozenset(id for id, _ in self._special.values())
        # What text may never become. The token for unknown characters is special, but text does become it.
        self._forbidden = (self._special_ids - {tokenizer.unk_token_id}) | self.control_ids
        # Longest first: the tokenizer, too, takes the longest of the special tokens that start at one place.
        longest_first = sorted((name for name in self._special if name), key=len, reverse=True)
        self._special_re = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._heads = {name[:end] for name in longest_first for end in range(1, len(name))}
        self._tails = {name[start:] for name in longest_first for start in range(1, len(name))}
        self._longest = max(map(len, longest_first), default=0)
        self._pieces: dict[int, str] = {}

    # -- text ---------------------------------------------------------------------------------------------------------

    @property
    def has_template(self) -> bool:
        return self.template is not None or self.tokenizer.chat_template is not None

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        enable_thinking: bool = False,
        **kwargs: Any,
    ) -> str:
        """Return the chat as text, character by character what the tokenizer's `apply_chat_template` returns.

        A template that refuses a system message gets the chat without it, as in lm-eval.
        """
        from jinja2 import TemplateError

        if not self.has_template:
            raise ModelError(
                "expected a model with a chat template, got one without; write `template:` with one of "
                f"{', '.join(models.template_names())} or the path of a .jinja file"
            )
        options: dict[str, Any] = {
            "tokenize": False,
            "add_generation_prompt": add_generation_prompt,
            "enable_thinking": enable_thinking,
            **kwargs,
        }
        if self.template is not None:
            options["chat_template"] = self.template
        chat = [dict(message) for message in messages]
        try:
            return str(self.tokenizer.apply_chat_template(chat, **options))
        except TemplateError as error:
            without = [message for message in chat if message.get("role") != "system"]
            if without == chat or not without:
                raise _refused(error) from error
            try:
                return str(self.tokenizer.apply_chat_template(without, **options))
            except TemplateError as again:
                raise _refused(again) from again

    # -- text to ids --------------------------------------------------------------------------------------------------

    def encode_chat(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        enable_thinking: bool = False,
        **kwargs: Any,
    ) -> Encoded:
        """Return the rendered chat and its ids; special tokens come from the template only."""
        options = {"add_generation_prompt": add_generation_prompt, "enable_thinking": enable_thinking, **kwargs}
        text = self.render(messages, **options)
        contents = [message["content"] for message in messages]
        for content in contents:
            if not isinstance(content, str):
                raise DataError(f"expected message contents as text, got {type(content).__name__}: {content!r:.80}")
        if any(self._may_spell_special(content) for content in contents):
            ids = self._encode_guarded(text, messages, options)
        else:
            ids = self._encode(text, split=False)
        self._check_controls(ids, messages, options, text)
        begin = self._begin_ids
        return Encoded(text, ids if ids[: len(begin)] == begin else begin + ids)

    def encode_plain(self, text: str) -> Encoded:
        """Return the ids of a prompt without a template: all of it is user text, after the beginning token if any."""
        return Encoded(text, self._begin_ids + self._encode_text(text))

    def encode_answer(self, text: str) -> tuple[tuple[int, ...], tuple[Span, ...]]:
        """Return the ids of an answer, without any special token, and the characters each id stands for."""
        backend = self._backend(split=True)
        if backend is not None:
            encoded = backend.encode(text, add_special_tokens=False)
            ids, spans = tuple(encoded.ids), tuple(encoded.offsets)
        else:
            options = {"add_special_tokens": False, "split_special_tokens": True, "return_offsets_mapping": True}
            slow = self.tokenizer(text, **options)
            ids, spans = (
                tuple(slow["input_ids"]),
                tuple((int(start), int(end)) for start, end in slow["offset_mapping"]),
            )
        self._check_text_ids(ids, text)
        return ids, spans

    def encode_text(self, text: str) -> tuple[int, ...]:
        """Return the ids alone, as `encode_answer` gives them."""
        return self._encode_text(text)

    @cached_property
    def lines_apart(self) -> bool:
        """Whether nothing before a line changes its ids, as long as it does not begin with white space.

        True only where the tokenizer's own description shows it: text is cut at line breaks before all else.
        """
        if not self._is_plain:
            return False
        state = self._state()
        cutter = state.get("pre_tokenizer") or {}
        steps = cutter.get("pretokenizers") or [cutter]
        first = steps[0]
        cuts = (first.get("type"), first.get("behavior"), first.get("invert")) == ("Split", "Isolated", False)
        within = all(
            step.get("type") in ("Split", "ByteLevel", "Digits") and not step.get("add_prefix_space") for step in steps
        )
        across = [
            token for token in state["added_tokens"] if token["lstrip"] or token["rstrip"] or "\n" in token["content"]
        ]
        plain = (state.get("normalizer") or {}).get("type") in (None, "NFC")
        is_bpe = state["model"].get("type") == "BPE" and not state["model"].get("dropout")
        return cuts and within and first.get("pattern") in _CUTS and plain and is_bpe and not across

    @cached_property
    def end_id(self) -> int:
        """The id that ends an answer: what the template writes after an assistant's content, else the end of text."""
        if self.has_template:
            chat = [{"role": "user", "content": "zqaqz"}, {"role": "assistant", "content": "zqbqz"}]
            tail = self.render(chat, add_generation_prompt=False).rpartition("zqbqz")[2].lstrip()
            ends = [token for token in self.tokenizer.get_added_vocab() if tail.startswith(token)]
            if ends:
                return int(self.tokenizer.convert_tokens_to_ids(max(ends, key=len)))
        if self.tokenizer.eos_token_id is None:
            raise ModelError(
                "expected a tokenizer with an end token, got one whose template writes none after an answer and that "
                "has no eos_token; set eos_token in tokenizer_config.json or choose another `template:`"
            )
        return int(self.tokenizer.eos_token_id)

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Every id that ends a generation."""
        eos = self.tokenizer.eos_token_id
        return self._eos_ids | {self.end_id} | (frozenset() if eos is None else {int(eos)})

    def agrees_with(self, other: Prompter) -> bool:
        """Say whether both give plain text the same ids; one may have control tokens that the other has not."""
        mine, theirs = self._state(), other._state()
        found = [{token["content"]: token for token in each["added_tokens"]} for each in (mine, theirs)]
        alike = all(
            found[0][name] == found[1][name] if name in found[0] and name in found[1] else token["special"]
            for each in found
            for name, token in each.items()
        )
        return alike and all(mine.get(part) == theirs.get(part) for part in ("normalizer", "pre_tokenizer", "model"))

    # -- ids to text --------------------------------------------------------------------------------------------------

    def text_of(self, ids: Iterable[int]) -> str:
        """Decode ids once, special tokens included."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Return the display text of each id on its own; part of a character shows as U+FFFD."""
        return [self._piece(id) for id in ids]

    @cached_property
    def ordinary_ids(self) -> tuple[int, ...]:
        """Every id that plain text can contain: no special, added or control token, no spare row."""
        added = set(self.tokenizer.added_tokens_decoder) | self.control_ids
        return tuple(sorted(id for id in self.tokenizer.get_vocab().values() if id not in added))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of everything that decides how this tokenizer turns text into ids."""
        return hashlib.sha256(json.dumps(self._state(), sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.tokenizer.backend_tokenizer.to_str())
        state.pop("truncation", None)
        state.pop("padding", None)
        return state

    def _piece(self, id: int) -> str:
        piece = self._pieces.get(id)
        if piece is None:
            token = self.tokenizer.convert_ids_to_tokens(id)
            if token is None:
                piece = f"<|id {id}|>"  # a spare row of the embedding
            elif "▁" in token and id not in self.tokenizer.added_tokens_decoder:
                piece = token.replace("▁", " ")  # decoding one such token alone would lose its space
            else:
                piece = self.text_of([id])
            self._pieces[id] = piece
        return piece

    # -- how user text is kept apart ----------------------------------------------------------------------------------

    @cached_property
    def _begin_ids(self) -> tuple[int, ...]:
        """What the tokenizer itself writes before a text."""
        bare = self._encode("a", split=False)
        full = tuple(self.tokenizer.encode("a", add_special_tokens=True))
        for start in range(len(full) - len(bare) + 1):
            if full[start : start + len(bare)] == bare:
                return full[:start]
        return ()

    @cached_property
    def _is_plain(self) -> bool:
        """Whether transformers only hands texts to the tokenizer below it, which several Python layers then cost."""
        kind = type(self.tokenizer)
        own = ("__call__", "encode", "_encode_plus")
        home = "transformers.tokenization_utils_"
        return all(str(getattr(getattr(kind, name, None), "__module__", "")).startswith(home) for name in own)

    def _backend(self, *, split: bool) -> Any | None:
        """Return the tokenizer below transformers', set as transformers sets it before every text; None without."""
        if not self._is_plain:
            return None
        backend = self.tokenizer.backend_tokenizer
        if backend.truncation is not None:
            backend.no_truncation()
        if backend.padding is not None:
            backend.no_padding()
        if backend.encode_special_tokens != split:
            backend.encode_special_tokens = split
        return backend

    def _encode(self, text: str, *, split: bool) -> tuple[int, ...]:
        backend = self._backend(split=split)
        if backend is not None:  # without the places of the ids in the text, which take their time
            return tuple(backend.encode_batch_fast([text], add_special_tokens=False)[0].ids)
        return tuple(self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=split))

    def _encode_text(self, text: str) -> tuple[int, ...]:
        ids = self._encode(text, split=True)
        self._check_text_ids(ids, text)
        return ids

    def _check_text_ids(self, ids: Collection[int], text: str) -> None:
        """Refuse a special or control id that came out of text: this tokenizer cannot tell the two apart."""
        found = self._forbidden.intersection(ids)
        if found:
            names = ", ".join(sorted(self._piece(id) for id in found))
            raise DataError(
                f"expected ordinary tokens from user text, got the special token {names} in {_shorten(text)}; "
                "remove it from the text, or use a tokenizer that can encode it as characters"
            )

    def _check_controls(
        self, ids: Sequence[int], messages: Sequence[Message], options: Mapping[str, Any], text: str
    ) -> None:
        """Refuse a control id that the template does not write by itself.

        A template can make one out of a message: by changing its text, by writing its role or another of its fields.
        """
        found = Counter(id for id in ids if id in self.control_ids)
        if found:
            harmless = self.render([{"role": message["role"], "content": "x"} for message in messages], **options)
            found -= Counter(id for id in self._encode(harmless, split=False) if id in self.control_ids)
            self._check_text_ids(found, text)

    def _may_spell_special(self, content: str) -> bool:
        """Say whether a content spells a special token, or could complete one together with its neighbours."""
        if self._special_re.search(content):
            return True
        for text in {content, content.strip()}:
            for size in range(1, min(self._longest, len(text) + 1)):
                if text[-size:] in self._heads or text[:size] in self._tails:
                    return True
        return False

    def _encode_guarded(self, text: str, messages: Sequence[Message], options: Mapping[str, Any]) -> tuple[int, ...]:
        """Encode a rendered chat with special tokens recognised outside the messages' contents only."""
        key = next(mark for n in count(1) if (mark := "zq" * n) not in text)
        marked = [{**message, "content": f"{key}{index}{key}"} for index, message in enumerate(messages)]
        pattern = re.compile(f"{key}(\\d+){key}")
        try:
            marked_text = self.render(marked, **options)
        except (DataError, ModelError):
            marked_text = ""
        literals, order = _split_marked(pattern, marked_text)
        spans = _locate(text, literals, [messages[index]["content"] for index in order])
        if spans is None:
            spelled = next((content for m in messages if self._special_re.search(content := m["content"])), None)
            if spelled is None:
                return self._encode(text, split=False)
            raise DataError(
                "expected a chat template that writes message contents unchanged, got one that rewrites this one, "
                f"which spells a special token: {_shorten(spelled)}; remove it, or set `template:`"
            )
        marked_spans = [match.span() for match in pattern.finditer(marked_text)]
        plain = self._encode(marked_text, split=False)
        for lead in ("", "\n"):
            # The segments must add up to what the tokenizer does in one go. SentencePiece tokenizers put a space before
            # the first segment only; encoding the others behind a line break, which is then removed, avoids it.
            if self._encode_segments(marked_text, marked_spans, lead) == plain:
                return self._encode_segments(text, spans, lead)
        raise DataError(
            "expected a tokenizer that encodes a text cut at its special tokens as it encodes the whole, got one that "
            f"does not, for a question that spells a special token: {_shorten(text)}; remove that from the text"
        )

    def _encode_segments(self, text: str, spans: Sequence[Span], lead: str) -> tuple[int, ...]:
        """Encode text with the special tokens outside `spans` as such and everything between them as characters."""
        ids: list[int] = []
        start, after = 0, None
        edges = [0, *(edge for span in spans for edge in span), len(text)]
        for begin, end in zip(edges[::2], edges[1::2], strict=True):
            for match in self._special_re.finditer(text, begin, end):
                id, token = self._special[match.group()]
                ids += self._encode_segment(text[start : match.start()], after, token, lead)
                ids.append(id)
                start, after = match.end(), token
        ids += self._encode_segment(text[start:], after, None, lead)
        return tuple(ids)

    def _encode_segment(self, text: str, after: Any, before: Any, lead: str) -> tuple[int, ...]:
        if after is not None and after.rstrip:
            text = text.lstrip()
        if before is not None and before.lstrip:
            text = text.rstrip()
        if not text:
            return ()
        if after is None or not lead:
            return self._encode_text(text)
        head = self._encode(lead, split=True)
        ids = self._encode_text(lead + text)
        return ids[len(head) :] if ids[: len(head)] == head else self._encode_text(text)


def _split_marked(pattern: re.Pattern[str], text: str) -> tuple[list[str], list[int]]:
    """Return the template's text around the marks, and which message each mark stands for."""
    parts = pattern.split(text)
    return parts[::2], [int(part) for part in parts[1::2]]


def _locate(text: str, literals: Sequence[str], contents: Sequence[str]) -> list[Span] | None:
    """Return where each content lies in `text`, whose other parts are `literals`; None where they do not add up.

    A template may strip a content. The search goes depth first; two ways differ in white space only.
    """
    if not text.startswith(literals[0]):
        return None
    stack: list[tuple[list[Span], int]] = [([], len(literals[0]))]
    while stack:
        spans, place = stack.pop()
        if len(spans) == len(contents):
            if place == len(text):
                return spans
            continue
        content, literal = contents[len(spans)], literals[len(spans) + 1]
        last = len(spans) + 1 == len(contents)
        for variant in dict.fromkeys((content.strip(), content.lstrip(), content.rstrip(), content)):
            end = place + len(variant)
            if not text.startswith(variant, place) or not text.startswith(literal, end):
                continue
            if not last or end + len(literal) == len(text):
                stack.append(([*spans, (place, end)], end + len(literal)))
    return None


def _template_text(template: str) -> str:
    if template.endswith((".jinja", ".jinja2")):
        try:
            return Path(template).read_text(encoding="utf-8")
        except OSError as error:
            raise ModelError(
                f"template: expected a Jinja file at {template}, got {error.strerror}; check the path"
            ) from error
    return models.named_template(template)


def _refused(error: Exception) -> ModelError:
    return ModelError(
        f"expected a chat template that accepts these messages, got its refusal: {error}; "
        "set `template:` or change the roles of the messages"
    )


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 200 else f"{text[:120]} … {text[-60:]}")
