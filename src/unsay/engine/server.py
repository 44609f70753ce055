"""Generate answers on an OpenAI-compatible server: the engine's interface, its bookkeeping, another machine's model.

    ServerEngine(options, Connection("http://127.0.0.1:8000/v1")).generate(requests)

The server gets ids and must give ids back (`/v1/completions` with `return_token_ids`: vLLM does). What an answer is -
budgets, stop strings on the survivors, bans, visits, finish reasons - is `WritingSequence`'s, as in the local engine:
every id that comes back is taken by it in turn, and what it does not take is thrown away. So an answer is written in
one request where nothing is taken back, and in a few more where something is:

* A run of undos (rewind) ends the request (`stop_token_ids`). One token is asked for behind it; if that is no further
  undo, the next request holds the prompt and the survivors. A server's prefix cache makes that cheap.
* Bans hold for one place, `logit_bias` for a whole request. So a token for which something is banned is asked for
  alone, with a bias of -100, and the rest without. Greedily that is done only where a banned token was chosen, or is
  known to be.
* `undo: ban` and `undo_bias` hold everywhere and go along with every request.

What a server cannot guarantee: a bias of -100 loses against a lead of more than 100 in the logits; a banned token that
comes back all the same ends the answer (`banned`). Log-probabilities are what the server says they are (vLLM: the
model's own, before bias and temperature); those of the distribution that was drawn from are not there. Draws depend on
the seed of the answer, as everywhere, but are not those of the local engine. In low precision, and where the server
computes answers in changing company, greedy answers can part at near ties.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from unsay.engine.connection import Connection, RefusedError
from unsay.engine.options import Options
from unsay.engine.sequence import Choice, Finished, Request, Rules, WritingSequence
from unsay.errors import ServerError
from unsay.records import Key

IN_FLIGHT = 64
"""Answers asked for at a time where nothing else is asked for: the server batches them."""
BIAS = 100.0
"""The largest bias the interface knows."""
_ORDINARY = -1
"""An id that no control token has."""
NEEDED = (
    "unsay needs a completions endpoint that takes token ids and gives them back (`return_token_ids`), as vLLM's does; "
    "`transformers serve`, for one, has none"
)


@dataclass(frozen=True)
class _Ask:
    """One request: where the sequence stood, what was forbidden, how many tokens may come."""

    tokens: int
    biased: frozenset[int] = frozenset()
    """Forbidden for the one token that is asked for."""


@dataclass(frozen=True)
class _Answer:
    """What came back; `reason` is the server's finish reason."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    reason: str | None


class ServerEngine:
    """A served model and how it generates. `facts` says what served it, and what that took."""

    def __init__(
        self, options: Options, connection: Connection, *, model: str | None = None, max_context: int = 2**31
    ) -> None:
        """`model` is what the server calls it (None: it has one only), `max_context` the positions the model has.

        Raises ServerError for a bias on undo that no server takes.
        """
        decode = options.decode
        if abs(decode.undo_bias) > BIAS:
            raise ServerError(
                f"expected an undo_bias between -{BIAS:g} and {BIAS:g}, got {decode.undo_bias:g}: servers take no "
                "larger one; use that, `undo: ban`, or the local engine"
            )
        self.options = options
        self.connection = connection
        self.model = model
        self.rules = Rules(decode, options.table, options.end_ids, options.text_of, max_context, options.observe)
        self.controls = frozenset(options.table.actions)
        self.always: frozenset[int] = self.controls if decode.undo == "ban" else frozenset()
        self._refused: set[Key] = set()
        """Answers whose model undoes where there is nothing to take back: there it is asked for one token at a time."""
        self.facts: dict[str, Any] = {"engine": "server", "requests": 0, "tokens": 0, "thrown_away": 0, "retries": 0}

    def generate(self, requests: Iterable[Request]) -> Iterator[Finished]:
        """Yield every request's answer in the order the answers end.

        Raises ServerError when the server is not there, has another model, or gives no ids or log-probabilities.
        """
        waiting: deque[WritingSequence] = deque()
        for sequence in (WritingSequence(request, self.rules) for request in requests):
            if sequence.finish_reason is None:
                waiting.append(sequence)
            else:  # a prompt without room for an answer
                yield sequence.finished()
        if not waiting:
            return
        count = min(len(waiting), self.options.slots or IN_FLIGHT)
        self.facts |= {"in_flight": count}
        flying: dict[Future[_Answer], tuple[WritingSequence, _Ask]] = {}
        pool = ThreadPoolExecutor(count, thread_name_prefix="unsay-server")
        try:
            self._look(waiting)
            while waiting or flying:
                while waiting and len(flying) < count:
                    self._send(pool, flying, waiting.popleft())
                done, _ = wait(flying, return_when=FIRST_COMPLETED)
                for future in done:
                    sequence, ask = flying.pop(future)
                    self._take(sequence, ask, future.result())
                    if sequence.finish_reason is None:
                        self._send(pool, flying, sequence)
                    else:
                        yield sequence.finished()
        finally:
            if flying:
                self.connection.close()
            pool.shutdown(cancel_futures=True)
            self.connection.rest()
            self.facts["retries"] = self.connection.retries

    # 1. -- what to ask for ----------------------------------------------------------------------------------------

    def _send(
        self,
        pool: ThreadPoolExecutor,
        flying: dict[Future[_Answer], tuple[WritingSequence, _Ask]],
        sequence: WritingSequence,
    ) -> None:
        sequence.needs_prefill = False
        ask = self._ask(sequence)
        self.facts["requests"] += 1
        flying[pool.submit(self._complete, self._body(sequence, ask))] = sequence, ask

    def _ask(self, sequence: WritingSequence) -> _Ask:
        """Decide how much to ask for: one token alone where something is banned that is to be expected there."""
        banned = frozenset(sequence.banned()) - self.always
        undos = self.options.decode.do_sample or sequence.request.key in self._refused
        if banned and (undos or banned - self.controls):
            return _Ask(1, banned)
        # Behind an undo one token shows whether the run goes on.
        return _Ask(1 if sequence.wants_rewind(_ORDINARY) else self._room(sequence))

    def _room(self, sequence: WritingSequence) -> int:
        """Return how many tokens there may be until a budget has to be looked at again; at least one."""
        decode, asked = self.options.decode, sequence.request.max_new_tokens
        steps = decode.max_new_tokens if asked is None else min(decode.max_new_tokens, asked)
        room = min(steps - len(sequence.ids), self.rules.max_context - len(sequence.context))
        if decode.max_survivors is not None:
            room = min(room, decode.max_survivors - len(sequence.stack))
        return max(room, 1)

    def _body(self, sequence: WritingSequence, ask: _Ask) -> dict[str, Any]:
        decode = self.options.decode
        bias = dict.fromkeys(self.controls, decode.undo_bias) if decode.undo_bias else {}
        bias |= dict.fromkeys(self.always | ask.biased, -BIAS)
        stops = self.options.end_ids | (self.controls if decode.undo_context == "rewind" else frozenset())
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": list(sequence.context),
            "max_tokens": ask.tokens,
            "temperature": decode.temperature if decode.do_sample else 0.0,
            "logprobs": 1,
            "return_token_ids": True,
            "stop_token_ids": sorted(stops),
            # End at our end tokens only; and whatever the model's generation config has for the rest, we do not want.
            "ignore_eos": True,
            "add_special_tokens": False,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "min_p": 0.0,
            "top_p": decode.top_p if decode.do_sample else 1.0,
            "top_k": (decode.top_k if decode.do_sample else 0) or -1,
        }
        if bias:
            body["logit_bias"] = {str(id): value for id, value in sorted(bias.items())}
        if sequence.request.stop:
            # A hint that saves tokens: whether the answer ends there is decided here, on its survivors.
            body["stop"] = list(sequence.request.stop)
        if decode.do_sample:
            body["seed"] = _seed(sequence)
        return body

    # 2. -- what came back -----------------------------------------------------------------------------------------

    def _take(self, sequence: WritingSequence, ask: _Ask, answer: _Answer) -> None:
        """Let the sequence take what came back, up to where it may not: at a token that is banned there."""
        self.facts["tokens"] += len(answer.ids)
        draws = self.options.decode.do_sample
        for at, choice in enumerate(map(Choice, answer.ids, answer.logprobs)):
            banned = sequence.banned()
            if choice.token in banned and choice.token not in self.always | ask.biased:
                self.facts["thrown_away"] += len(answer.ids) - at
                self._refused.add(sequence.request.key)
                return
            if draws and at and not banned <= self.always:
                # A draw counts only from what was allowed, whether or not it hit something forbidden.
                self.facts["thrown_away"] += len(answer.ids) - at
                return
            sequence.take(None if choice.token in banned else choice)
            if sequence.finish_reason is not None or sequence.needs_prefill:
                self.facts["thrown_away"] += len(answer.ids) - at - 1
                return
        self._check_end(sequence, ask, answer)

    def _check_end(self, sequence: WritingSequence, ask: _Ask, answer: _Answer) -> None:
        """Raise ServerError when an answer that is to go on ended without saying at what."""
        expected = self.controls if sequence.rewinds else frozenset()
        short = len(answer.ids) < ask.tokens and answer.ids[-1] not in expected
        if short and (answer.reason != "stop" or not sequence.request.stop):
            raise ServerError(
                f"expected the server at {self.connection.url} to write {ask.tokens} tokens or to end with one of "
                f"{sorted(self.options.end_ids | expected)}, got {len(answer.ids)} tokens, the last one "
                f"{answer.ids[-1]}, and the finish reason {answer.reason!r}. {NEEDED}"
            )

    def _complete(self, body: Mapping[str, Any]) -> _Answer:
        """Send one request; runs in a thread of its own and knows nothing about the sequence."""
        return self._read(self.connection.post("completions", body), body)

    def _read(self, value: Any, body: Mapping[str, Any]) -> _Answer:
        where = f"the server at {self.connection.url}"
        try:
            (choice,) = value["choices"]
            ids, reason = choice.get("token_ids"), choice.get("finish_reason")
            found = (choice.get("logprobs") or {}).get("token_logprobs")
        except (TypeError, ValueError, LookupError, AttributeError):
            raise ServerError(f"expected a completion from {where}, got {str(value)[:200]}. {NEEDED}") from None
        if not _whole_numbers(ids):
            raise ServerError(f"expected {where} to return the ids of an answer, got its text alone. {NEEDED}")
        if not ids:
            raise ServerError(
                f"expected {where} to write at least one token, got none (finish reason {reason!r}). {NEEDED}"
            )
        read = choice.get("prompt_token_ids")
        if read is not None and list(read) != body["prompt"]:
            raise ServerError(
                f"expected {where} to read the {len(body['prompt'])} ids of the prompt as they are, got "
                f"{len(read)} ids; it must not add or cut tokens"
            )
        if not isinstance(found, list) or len(found) != len(ids) or not all(map(_is_number, found)):
            raise ServerError(
                f"expected {where} to return a log-probability for each of {len(ids)} tokens, got "
                f"{len(found) if isinstance(found, list) else 'none'}; start it without switching them off"
            )
        return _Answer(tuple(ids), tuple(found), reason)

    # 3. -- is it the right server ---------------------------------------------------------------------------------

    def _look(self, sequences: deque[WritingSequence]) -> None:
        """Find the model on the server, and try with one token whether it can be used."""
        cards = self._cards()
        card: Mapping[str, Any] = {}
        if cards is not None:
            names = f"at {self.connection.url}, got: {', '.join(sorted(cards)[:20]) or 'none'}"
            if self.model is None and len(cards) != 1:
                raise ServerError(f"expected one model {names}; name one with `model:`")
            self.model = self.model or next(iter(cards))
            if self.model not in cards:
                raise ServerError(f"expected the model {self.model!r} {names}; name one that is there")
            card = cards[self.model]
        first = sequences[0]
        trial = self._body(first, _Ask(1)) | {"prompt": list(first.context[:1])}
        try:
            self._read(self.connection.post("completions", trial), trial)
        except RefusedError as error:
            raise ServerError(f"{error}. {NEEDED}") from None
        served = card.get("max_model_len")
        longest = max(len(each.context) + self._room(each) for each in sequences)
        if isinstance(served, int) and longest > served:
            raise ServerError(
                f"expected a server with room for {longest} tokens, prompt and answer together, got "
                f"{self.connection.url} with {served}; start it with a larger --max-model-len, or lower max_new_tokens"
            )
        self.facts |= {"server": self._version(), "model": self.model, "max_context": served}

    def _cards(self) -> dict[str, Mapping[str, Any]] | None:
        """Return what the server says of each of its models; None where it cannot list them and one was named."""
        try:
            listing = self.connection.get("models")
        except ServerError as error:
            # `transformers serve` fails like that; what it is then shows when it is asked for an answer.
            if self.model is None or "HTTP 5" not in str(error):
                raise
            return None
        found = listing.get("data") if isinstance(listing, dict) else None
        cards = [card for card in found or [] if isinstance(card, dict) and "id" in card]
        return {str(card["id"]): card for card in cards}

    def _version(self) -> str | None:
        """Return the server's name and version as far as it tells."""
        with contextlib.suppress(ServerError):
            value = self.connection.get_beside("version")
            if isinstance(value, dict) and isinstance(value.get("version"), str):
                return str(value["version"])
        return None


def _whole_numbers(ids: Any) -> bool:
    return isinstance(ids, list) and all(isinstance(id, int) and not isinstance(id, bool) for id in ids)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _seed(sequence: WritingSequence) -> int:
    """Return the seed of a request: a function of the answer's own seed and of how much of it is written."""
    digest = hashlib.sha256(sequence.draw.encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1
