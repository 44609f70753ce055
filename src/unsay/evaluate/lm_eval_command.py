"""lm-eval's own command line with our engine in it, as the model `unsay`: any task, scored or generated.

    python -m unsay.evaluate.lm_eval_command run --model unsay --model_args pretrained=EXP-004 --tasks arc_easy

What is generated is the visible text. What is scored by likelihood has the control tokens masked out and the rest
renormalised, as a text cannot contain them; the probability they took is in the results file, per task, under
`config.undo.mass`. In a Python program `register()` does the same for `lm_eval.simple_evaluate(model="unsay", …)`.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import inspect
import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance

from unsay import engine
from unsay.engine.likelihood import Likelihood, likelihoods
from unsay.errors import EvaluationError, UnsayError
from unsay.evaluate.lm_eval_model import PromptingLM
from unsay.evaluate.setup import open_model
from unsay.model_names import named
from unsay.records import Key
from unsay.redaction import redact
from unsay.settings import Decode

NAME = "unsay"
MAX_GEN_TOKS = 256
"""Tokens of an answer where a task says nothing: lm-eval's own number."""
# Settings of transformers' `generate` that are nothing but its defaults.
_NEUTRAL: Mapping[str, Any] = {"num_beams": 1, "num_return_sequences": 1, "repetition_penalty": 1.0, "use_cache": True}

_log = logging.getLogger("lm_eval.unsay")


@dataclass
class Mass:
    """Probability of the control tokens at the positions that were scored."""

    positions: int = 0
    total: float = 0.0
    largest: float = 0.0

    def add(self, masses: Sequence[float]) -> None:
        self.positions += len(masses)
        self.total += sum(masses)
        self.largest = max([self.largest, *masses])

    def to_json(self) -> dict[str, Any]:
        mean = self.total / self.positions if self.positions else None
        return {"positions": self.positions, "mean": mean, "max": self.largest if self.positions else None}


class CommandLM(PromptingLM):
    """Our engine as a model of lm-eval's command line.

    `pretrained` is what `unsay generate` takes: a built-in name, a hub id, a folder, or a finished experiment of the
    lab `output_dir`. `adapter` (or `peft`) is a folder, `template` a chat template's name or file. `undo_context` keep
    or rewind (None: as it was trained), `undo` allow or ban, and the other settings of `decode:` in an experiment file
    say how answers are generated; lm-eval's own generation settings say the rest. `batch_size` is how many answers are
    written, or texts read, at a time; None or "auto": what suits the device. Raises EvaluationError or ModelError.
    """

    def __init__(
        self,
        pretrained: str,
        adapter: str | None = None,
        peft: str | None = None,
        template: str | None = None,
        revision: str | None = None,
        output_dir: str = "outputs",
        device: str | None = None,
        dtype: str = "auto",
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        max_length: int | None = None,
        trust_remote_code: bool = False,
        enable_thinking: bool | None = None,
        seed: int = 0,
        undo_context: str | None = None,
        undo: str = "allow",
        undo_bias: float = 0.0,
        max_undos: int | None = None,
        max_survivors: int | None = None,
        max_visits: int = 4,
        stop_on: str = "survivors",
        **unknown: Any,
    ) -> None:
        if unknown:
            raise EvaluationError(_unknown_argument(unknown))
        found = named(str(pretrained), Path(output_dir), adapter=adapter or peft, template=template)
        changed: dict[str, Any] = {"trust_remote_code": bool(trust_remote_code)}
        if revision is not None:
            changed["revision"] = revision
        model = dataclasses.replace(found.model, **changed)
        self.opened = open_model(model, device=device or "auto", dtype=dtype or "auto", adapter=found.adapter)
        # Where nothing is said lm-eval leaves the switch to the template, and templates that have it think.
        super().__init__(
            self.opened.prompter, chat=False, enable_thinking=True if enable_thinking is None else enable_thinking
        )
        self.enable_thinking = enable_thinking
        self.decode = _decode(
            undo_context=undo_context or self.opened.context or "keep",
            undo=undo,
            undo_bias=float(undo_bias),
            max_undos=max_undos,
            max_survivors=max_survivors,
            max_visits=max_visits,
            stop_on=stop_on,
        )
        for warning in self.opened.context_warnings(self.decode):
            _log.warning(warning)
        self.slots = _slots(batch_size, max_batch_size)
        self.seed = int(seed)
        self.max_length = min(max_length or self.opened.max_length, self.opened.max_length)
        self.model = self.opened.load()
        self._device = self.model.device
        self.masses: dict[str, Mass] = {}
        self.counted: Counter[str] = Counter()
        self.facts: dict[str, Any] = {}

    # -- what lm-eval asks about the model ----------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int | None:
        return self.tokenizer.eos_token_id  # type: ignore[no-any-return]

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has no context: as in lm-eval's own model."""
        for id in (self.tokenizer.bos_token_id, self.eot_token_id):
            if id is not None:
                return int(id)
        return self.prompter.end_id

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        self._chat = self._chat or bool(chat_template)
        return super().chat_template(chat_template)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        self._chat = True
        return super().apply_chat_template(chat_history, add_generation_prompt)

    def get_model_info(self) -> dict[str, Any]:
        """Return what lm-eval puts into `config` of the results file."""
        opened = self.opened
        return {
            "model_num_parameters": self.model.num_parameters(),
            "model_dtype": str(self.model.dtype),
            "model_revision": opened.facts.get("revision"),
            "undo": {
                "controls": {name: id for id, name in opened.table.names.items()},
                "decode": {
                    name: getattr(self.decode, name)
                    for name in (
                        "undo_context",
                        "undo",
                        "undo_bias",
                        "max_undos",
                        "max_survivors",
                        "max_visits",
                        "stop_on",
                    )
                },
                "mass": {task: mass.to_json() for task, mass in self.masses.items()},
                "answers": dict(self.counted),
                "engine": self.facts,
            },
        }

    # -- generation ---------------------------------------------------------------------------------------------------

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return the visible text of every answer."""
        runs: dict[Decode, dict[Key, tuple[int, engine.Request]]] = {}
        repeats: Counter[tuple[str, int, int]] = Counter()
        for at, request in enumerate(requests):
            text, settings = request.args
            decode, stop, most = _generation(settings, self.decode)
            room = self.max_length - most
            if room <= 0:
                raise EvaluationError(
                    f"expected fewer new tokens than the {self.max_length} positions of the model, got max_gen_toks "
                    f"{most}; give less: --gen_kwargs max_gen_toks={self.max_length // 2}"
                )
            place = (str(request.task_name), int(request.doc_id or 0), int(request.idx))
            key = Key(*place, repeats[place])
            repeats[place] += 1
            ids = self._encode(text).ids[-room:] or (self.prefix_token_id,)
            asked = engine.Request(key, ids, _seed(self.seed, key), stop, max_new_tokens=most)
            runs.setdefault(decode, {})[key] = at, asked
        texts = [""] * len(requests)
        bar = _bar("Running generate_until requests", len(requests), disable_tqdm)
        for decode, keyed in runs.items():
            most = max(request.max_new_tokens or 0 for _, request in keyed.values())
            options = engine.Options(
                decode=dataclasses.replace(decode, max_new_tokens=most),
                table=self.opened.table,
                end_ids=self.prompter.end_ids,
                text_of=self.opened.visible_text,
                pad_id=self.prompter.end_id,
                slots=self.slots,
            )
            generator = engine.Engine(self.model, options)
            for finished in generator.generate([request for _, request in keyed.values()]):
                at, _ = keyed[finished.request.key]
                texts[at] = finished.visible
                counts = finished.resolution.counts
                self.counted.update(
                    answers=1,
                    with_undo=int(counts.undos > 0),
                    undos=counts.undos,
                    popped=counts.popped,
                    sampled=counts.sampled,
                    stops_in_retracted=int(finished.stop_in_raw),
                )
                self.cache_hook.add_partial("generate_until", requests[at].args, finished.visible)
                bar.update(1)
            self.facts = dict(generator.facts)
        bar.close()
        return texts

    # -- likelihood ---------------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return (sum of log-probabilities, whether greedy decoding would write it) of every continuation."""
        if self.enable_thinking:
            raise EvaluationError(
                "expected enable_thinking=False for a task scored by likelihood, got True; leave it out"
            )
        pairs = [self._pair(*request.args) for request in requests]
        tasks = [str(request.task_name) for request in requests]
        found = self._likelihoods(pairs, tasks, "Running loglikelihood requests", disable_tqdm)
        answers = [(each.logprob, each.is_greedy) for each in found]
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return answers

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of every whole text, in windows as lm-eval cuts them."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        owners: list[int] = []
        pairs: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        for at, request in enumerate(requests):
            (text,) = request.args
            windows = get_rolling_token_windows(
                token_list=list(self.prompter.encode_plain(text).ids),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for context, continuation in map(make_disjoint_window, windows):
                owners.append(at)
                pairs.append((tuple(context), tuple(continuation)))
        tasks = [str(requests[at].task_name) for at in owners]
        totals = [0.0] * len(requests)
        found = self._likelihoods(pairs, tasks, "Running loglikelihood_rolling requests", disable_tqdm)
        for at, each in zip(owners, found, strict=True):
            totals[at] += each.logprob
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def _likelihoods(
        self,
        pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
        tasks: Sequence[str],
        label: str,
        disable_tqdm: bool,
    ) -> list[Likelihood]:
        cut = [self._cut(context, continuation) for context, continuation in pairs]
        found: dict[int, Likelihood] = {}
        bar = _bar(label, len(cut), disable_tqdm)
        for at, each in likelihoods(self.model, cut, controls=self.opened.table.actions, slots=self.slots):
            found[at] = each
            if self.opened.table:
                self.masses.setdefault(tasks[at], Mass()).add(each.masses)
            bar.update(1)
        bar.close()
        for task in dict.fromkeys(tasks) if self.opened.table else ():
            mass = self.masses[task].to_json()
            _log.warning(
                f"{task}: the control tokens, masked out, took {mass['mean']:.3g} of the probability on average and "
                f"{mass['max']:.3g} at most, at {mass['positions']} scored positions"
            )
        return [found[at] for at in range(len(cut))]

    def _cut(self, context: tuple[int, ...], continuation: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Cut a context on the left where both together are longer than the model can see, as lm-eval does."""
        if len(continuation) > self.max_length:
            raise EvaluationError(
                f"expected continuations of at most {self.max_length} tokens, got one of {len(continuation)}; "
                "the task needs a model that sees more"
            )
        over = len(context) + len(continuation) - (self.max_length + 1)
        return (context[over:], continuation) if over > 0 else (context, continuation)

    def _pair(self, context: str, continuation: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Encode a context and what follows it, cut where lm-eval cuts them; neither can spell a control token."""
        if context == "":
            ids = self.prompter.encode_answer(continuation)[0]
            first = self.prefix_token_id
            return (ids[:1], ids[1:]) if ids[:1] == (first,) else ((first,), ids)
        head, spaces = context.rstrip(), context[len(context.rstrip()) :]
        if not self._chat:
            start = self.prompter.encode_plain(head).ids
            whole = self.prompter.encode_plain(context + continuation).ids
            return start or (self.prefix_token_id,), whole[len(start) :]
        return self._chat_pair(context, head, spaces + continuation)

    def _chat_pair(self, context: str, head: str, continuation: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Encode a rendered chat and what follows it.

        Both are encoded in one go, as lm-eval does, where nothing in them spells a special token: that is where the
        chat's ids are what the tokenizer makes of it. Elsewhere each is encoded by itself.
        """
        chat = self._encode(context).ids
        own = tuple(self.tokenizer.encode(context, add_special_tokens=False))
        begin = chat[: len(chat) - len(own)]
        after, _ = self.prompter.encode_answer(continuation)
        if chat == begin + own and tuple(self.tokenizer.encode(continuation, add_special_tokens=False)) == after:
            whole = tuple(self.tokenizer.encode(head + continuation, add_special_tokens=False))
            start = tuple(self.tokenizer.encode(head, add_special_tokens=False))
            return begin + start, whole[len(start) :]
        return chat, self.prompter.encode_answer(continuation[len(context) - len(head) :])[0]


def register() -> None:
    """Make `unsay` a model of lm-eval in this process; doing it again changes nothing."""
    import lm_eval.models  # noqa: F401  (registers its own models, which would be missing later)
    from lm_eval.api.registry import model_registry

    model_registry.register(NAME, target=CommandLM)


def _unknown_argument(unknown: Mapping[str, Any]) -> str:
    known = [name for name in inspect.signature(CommandLM).parameters if name != "unknown"]
    first = next(iter(unknown))
    near = difflib.get_close_matches(first, known, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"expected model_args of {', '.join(known)}; got {', '.join(unknown)}{hint}"


def _decode(**written: Any) -> Decode:
    for name, allowed in {
        "undo_context": ("keep", "rewind"),
        "undo": ("allow", "ban"),
        "stop_on": ("survivors", "raw"),
    }.items():
        if written[name] not in allowed:
            raise EvaluationError(f"model_args {name}: expected {' or '.join(allowed)}, got {written[name]!r}")
    return Decode(**written)


def _slots(batch_size: int | str | None, most: int | None) -> int | None:
    if batch_size is None or str(batch_size).startswith("auto"):
        return most if batch_size is not None else None
    try:
        return max(1, int(batch_size))
    except ValueError:
        raise EvaluationError(f"batch_size: expected a number or auto, got {batch_size!r}") from None


def _generation(settings: Mapping[str, Any], decode: Decode) -> tuple[Decode, tuple[str, ...], int]:
    """Return how a request is decoded, its stop strings, and its budget of new tokens."""
    from lm_eval.models.utils import normalize_gen_kwargs

    found = dict(normalize_gen_kwargs(dict(settings), MAX_GEN_TOKS))
    stop, most = found.pop("until"), int(found.pop("max_gen_toks"))
    sampled, temperature = bool(found.pop("do_sample", False)), float(found.pop("temperature", 0.0) or 0.0)
    given = settings.get("temperature")
    top_p, top_k = float(found.pop("top_p", None) or 1.0), int(found.pop("top_k", None) or 0)
    wrong = {name: value for name, value in found.items() if value is not None and value != _NEUTRAL.get(name)}
    if wrong:
        raise EvaluationError(
            "expected generation settings of until, max_gen_toks, do_sample, temperature, top_p and top_k, got "
            f"{', '.join(f'{name}={value}' for name, value in wrong.items())}; this model cannot do that"
        )
    if sampled and not (given is not None and float(given) == 0.0):
        decode = dataclasses.replace(
            decode, do_sample=True, temperature=temperature if given is not None else 1.0, top_p=top_p, top_k=top_k
        )
    return decode, tuple(each for each in stop if each), most


def _seed(seed: int, key: Key) -> int:
    """Return the seed of one answer: a function of the run's seed and the item, never of its place in a batch."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{key.to_json()}".encode()).digest()[:4], "big")


def _bar(label: str, total: int, disable: bool) -> Any:
    from tqdm import tqdm  # type: ignore[import-untyped]

    return tqdm(total=total, desc=label, disable=disable)


def _with_model(arguments: Sequence[str]) -> list[str]:
    """Name our model where a run names none: lm-eval itself would take its `hf`."""
    first = arguments[0] if arguments else ""
    options = [each.partition("=")[0] for each in arguments]
    named_already = {"--model", "-M", "--config", "-C", "--help", "-h"} & set(options)
    if not (first == "run" or first.startswith("-")) or named_already:
        return list(arguments)
    at = 1 if first == "run" else 0
    return [*arguments[:at], "--model", NAME, *arguments[at:]]


def main(arguments: Sequence[str]) -> int:
    """Run lm-eval's command line; returns its exit code."""
    register()
    from lm_eval.__main__ import cli_evaluate

    sys.argv = ["unsay lm-eval", *_with_model(arguments)]
    try:
        cli_evaluate()
    except UnsayError as error:
        print(f"error: {redact(str(error))}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
