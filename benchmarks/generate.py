"""How fast answers are generated, against lm-eval's `hf` model on the same checkpoint, prompts and output lengths.

    python benchmarks/generate.py                     # 0-shot, 8-shot, one shared 8-shot header: about an hour
    python benchmarks/generate.py --settings 0-shot   # one of them
    python benchmarks/generate.py --shape 100m        # 100 million parameters instead of 11
    python benchmarks/generate.py --shards 2          # unsay's answers in parts, a process for each
    python benchmarks/generate.py --rewind            # what taking back costs beyond the tokens written twice

A randomly initialised Qwen3-shaped checkpoint in float32. Questions and shots are GSM8K's (the folder `gsm8k` of
`UNSAY_TEST_DATA`, or shared/data beside the project), or generated problems without it. Every answer is as long as
the gold answer, whatever is written. Sides run by turns in one process, round by
round; medians of the ratios are printed. The answers must be the same, token by token.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils_hf import stop_sequences_criteria
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from unsay import cores, engine
from unsay.backend import Backend
from unsay.datasets import wordproblems
from unsay.definitions import Model
from unsay.evaluate.serving import engine_of
from unsay.evaluate.setup import open_model
from unsay.records import Key
from unsay.settings import Decode
from unsay.undo import EMPTY, Action, UndoTable

SHAPES = {"tiny": (32, 64, 2, 4, 2), "11m": (256, 768, 10, 8, 4), "100m": (640, 1920, 16, 20, 10)}
"""Hidden size, intermediate size, layers, heads, key/value heads; heads have 64 dimensions."""
VOCABULARY = 4096
BATCHES = (8, 16, 32, 64)
STOPS = ("Question:", "</s>", "\n\nQ: ")

Answers = dict[tuple[int, ...], list[int]]
"""What was written, by the prompt's ids."""
Clock = Callable[[], float]
Side = Callable[[], tuple[float, Answers]]
"""Generates all answers; gives the seconds that took, and the answers."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="*", default=["0-shot", "8-shot", "8-shot-shared"])
    parser.add_argument("--shape", choices=SHAPES, default="11m")
    parser.add_argument("--documents", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="*", default=BATCHES, help="lm-eval's batch sizes")
    parser.add_argument("--slots", type=int, help="unsay's; its own choice without it")
    parser.add_argument("--shards", type=int, help="processes that share unsay's answers, as `--option shards=N` does")
    parser.add_argument("--no-default", action="store_true", help="leave lm-eval's default batch size of 1 out")
    parser.add_argument("--vllm", type=Path, help="Python of an environment with vLLM, to run against it too")
    parser.add_argument("--rewind", action="store_true")
    parser.add_argument("--cpu-time", action="store_true", help="seconds of this process's processor, not of the clock")
    options = parser.parse_args()
    if options.cpu_time and (options.shards or options.vllm):
        parser.error("--cpu-time knows this process only: leave it out where others answer (--shards, --vllm)")
    clock = time.process_time if options.cpu_time else time.perf_counter
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(Path(folder), *SHAPES[options.shape])
        if options.rewind:
            rewind(checkpoint, options.documents, options.rounds, options.slots, clock)
            return
        for setting in options.settings:
            against_lm_eval(checkpoint, setting, options, clock)


def write_checkpoint(folder: Path, hidden: int, inner: int, layers: int, heads: int, shared: int) -> Path:
    """Write a random model, and a byte-level tokenizer trained on the training questions and answers."""
    texts = [line[key] for line in lines("train", 8000) for key in ("question", "answer")]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 1, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    backend.train_from_iterator(texts, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|end|>", pad_token="<|end|>", padding_side="left"
    )
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=shared, head_dim=64, max_position_embeddings=8192,
        tie_word_embeddings=True, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.mul_(3.0)  # far from ties between tokens
    print(f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f} M parameters, vocabulary of "
          f"{VOCABULARY:,}, {torch.get_num_threads()} threads\n")  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# -- against lm-eval --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Document:
    """A prompt, and how many tokens its answer has."""

    text: str
    length: int


def lines(split: str, count: int) -> list[dict[str, Any]]:
    """Return GSM8K's questions and answers, or `count` generated ones."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    file = Path(os.environ.get("UNSAY_TEST_DATA", beside)) / "gsm8k" / f"{split}.jsonl"
    if file.is_file():
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return list(wordproblems.generate("train" if split == "train" else "test", count))


def documents(setting: str, count: int, tokenizer: Any) -> list[Document]:
    """Questions with GSM8K's prompt, the shots drawn for each (`8-shot`) or the same for all (`8-shot-shared`)."""
    test, train = lines("test", count), lines("train", 8000)
    rng = random.Random(0)
    found = []
    for line in rng.sample(test, count):
        drawn = [] if setting == "0-shot" else train[:8] if setting == "8-shot-shared" else rng.sample(train, 8)
        shots = "".join(f"Question: {shot['question']}\nAnswer: {shot['answer']}\n\n" for shot in drawn)
        length = len(tokenizer(line["answer"]).input_ids) + 1
        found.append(Document(f"{shots}Question: {line['question']}\nAnswer:", length))
    return found


class OfLength(transformers.StoppingCriteria):  # type: ignore[misc]
    """Ends each row when it has the tokens it shall have."""

    def __init__(self, start: int, lengths: Sequence[int]) -> None:
        self.start, self.lengths = start, torch.tensor(lengths)

    def __call__(self, ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return ids.shape[1] - self.start >= self.lengths


class Peer(HFLM):  # type: ignore[misc]
    """lm-eval's `hf` model as it is, each answer ended at its length, and what it wrote kept."""

    lengths: dict[tuple[int, ...], int]
    answers: Answers

    def _model_generate(self, context: torch.Tensor, max_length: int, stop: list[str], **options: Any) -> Any:
        rows = [tuple(row[mask.bool()].tolist()) for row, mask in zip(context, options["attention_mask"], strict=True)]
        lengths = [self.lengths[row] for row in rows]
        criteria = stop_sequences_criteria(self.tokenizer, stop, context.shape[1], context.shape[0])
        written = self.model.generate(
            input_ids=context,
            max_length=max_length,
            stopping_criteria=[*criteria, OfLength(context.shape[1], lengths)],
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=None,
            use_cache=True,
            do_sample=False,
            attention_mask=options["attention_mask"],
        )
        for row, answer, length in zip(rows, written[:, context.shape[1] :].tolist(), lengths, strict=True):
            self.answers[row] = answer[:length]
        return written


def against_lm_eval(checkpoint: Path, setting: str, options: argparse.Namespace, clock: Clock) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    asked = documents(setting, options.documents, tokenizer)
    ids = [tuple(tokenizer(document.text).input_ids) for document in asked]
    lengths = {prompt: document.length for prompt, document in zip(ids, asked, strict=True)}
    most = max(lengths.values())

    def peer(batch: int) -> tuple[float, Answers]:
        lm = Peer(pretrained=model, tokenizer=tokenizer, batch_size=batch, max_length=8192)
        lm.lengths, lm.answers = lengths, {}
        arguments = {"until": list(STOPS), "max_gen_toks": most, "do_sample": False}
        requests = [Instance("generate_until", {}, (document.text, arguments), at) for at, document in enumerate(asked)]
        begun = clock()
        lm.generate_until(requests, disable_tqdm=True)
        return clock() - begun, lm.answers

    def ours(served: Any = None) -> tuple[float, Answers]:
        begun = clock()
        answers = answer(model, tokenizer, list(lengths.items()), options.slots, served)
        return clock() - begun, answers

    warm_up(model, tokenizer, ids[:2])
    prompts = statistics.mean(map(len, ids))
    print(f"{setting}: {len(ids)} documents, prompts of {prompts:.0f} tokens, answers of "
          f"{statistics.mean(lengths.values()):.0f} (longest {most})")  # fmt: skip
    sides: dict[str, Side] = {"unsay": ours}
    sides |= {f"batch {batch}": lambda batch=batch: peer(batch) for batch in options.batches}
    if not options.no_default:
        sides["batch 1"] = lambda: peer(1)
    with ExitStack() as held:
        if options.shards is not None:
            sides["unsay"] = held.enter_context(in_parts(checkpoint, options, ids, lengths))
        if options.vllm is not None:
            served = held.enter_context(serving(checkpoint, options.vllm, most))
            sides["vLLM"] = lambda: ours(served)
        by_turns(sides, ids, options.rounds)


@contextmanager
def in_parts(
    checkpoint: Path, options: argparse.Namespace, ids: Sequence[tuple[int, ...]], lengths: dict[tuple[int, ...], int]
) -> Iterator[Side]:
    """Start a process for each part, which loads the model once and answers its part whenever it is asked to."""
    started = multiprocessing.get_context("spawn")
    with ExitStack() as held:
        pipes = []
        for part in range(options.shards):
            pipe, theirs = started.Pipe()
            mine = [(prompt, lengths[prompt]) for prompt in ids[part :: options.shards]]
            process = started.Process(
                target=answer_part, args=(theirs, checkpoint, mine, options.slots, cores.share(options.shards))
            )
            process.start()
            theirs.close()
            held.callback(process.join)
            held.callback(pipe.close)
            pipes.append(pipe)
        for pipe in pipes:
            pipe.recv()

        def side() -> tuple[float, Answers]:
            begun = time.perf_counter()
            for pipe in pipes:
                pipe.send(None)
            answers: Answers = {}
            for pipe in pipes:
                answers |= pipe.recv()
            return time.perf_counter() - begun, answers

        yield side


def answer_part(
    pipe: Any, checkpoint: Path, part: Sequence[tuple[tuple[int, ...], int]], slots: int | None, threads: int
) -> None:
    torch.set_num_threads(threads)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    warm_up(model, tokenizer, [prompt for prompt, _ in part[:2]])
    pipe.send(None)
    with suppress(EOFError):
        while True:
            pipe.recv()
            pipe.send(answer(model, tokenizer, part, slots))


def answer(
    model: Any, tokenizer: Any, asked: Sequence[tuple[tuple[int, ...], int]], slots: int | None, served: Any = None
) -> Answers:
    """Answer prompts, each with as many tokens as are asked for, by a new engine or by what is `served`."""
    requests = [
        engine.Request(Key("t", at), prompt, stop=STOPS, max_new_tokens=length)
        for at, (prompt, length) in enumerate(asked)
    ]
    most = max(length for _, length in asked)
    chosen = engine.Options(Decode(max_new_tokens=most), EMPTY, frozenset(), tokenizer.decode, slots=slots)
    generator = served or engine.Engine(model, chosen)
    return {done.request.prompt_ids: list(done.ids) for done in generator.generate(requests)}


def warm_up(model: Any, tokenizer: Any, prompts: Sequence[tuple[int, ...]]) -> None:
    """Let the process compile and choose what it does at its first calls: no side pays for that."""
    answer(model, tokenizer, [(prompt, 3) for prompt in prompts], None)
    model.generate(torch.tensor(prompts[:1]), max_new_tokens=3, do_sample=False, eos_token_id=None)


def by_turns(sides: dict[str, Side], ids: Sequence[tuple[int, ...]], rounds: int) -> None:
    """Run the sides one after another, `rounds` times, and print how long each takes against unsay.

    Ends the benchmark where an answer differs from the one that unsay wrote in the first round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    expected: Answers | None = None
    for at in range(rounds):
        for name, side in sides.items():
            if name == "batch 1" and at:
                continue  # the slowest by far: once
            spent, answers = side()
            seconds[name].append(spent)
            expected = expected or answers
            same = sum(answers[prompt] == expected[prompt] for prompt in ids)
            if same < len(ids):
                raise SystemExit(f"{name}: {len(ids) - same} of {len(ids)} answers differ from unsay's first ones")
    best = min((name for name in sides if name.startswith("batch")), key=lambda name: statistics.median(seconds[name]))
    for name, spent in seconds.items():
        ratios = sorted(one / other for one, other in zip(spent, seconds["unsay"], strict=False))
        print(f"  {name:9} {statistics.median(spent):8.2f} s   unsay is {statistics.median(ratios):5.2f} times as fast "
              f"({ratios[0]:.2f} to {ratios[-1]:.2f}){'   <- its best' * (name == best)}", flush=True)  # fmt: skip
    print()


@contextmanager
def serving(checkpoint: Path, python: Path, most: int) -> Iterator[Any]:
    """Start vLLM on the checkpoint, all requests in flight at once."""
    backend = Backend("vllm", interpreter=str(python), args=("--max-model-len", "4096"))
    opened = open_model(Model("peer", str(checkpoint), template="plain", backend=backend), device="cpu")
    chosen = engine.Options(Decode(max_new_tokens=most), EMPTY, frozenset(), str, slots=256)
    with tempfile.TemporaryDirectory() as folder, engine_of(opened, chosen, Path(folder)) as served:
        yield served


# -- what taking back costs -------------------------------------------------------------------------------------------


def rewind(checkpoint: Path, count: int, rounds: int, slots: int | None, clock: Clock) -> None:
    """Answers that rewind, and answers of the same model without undo, per token that went through the model."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    prompts = [tuple(tokenizer(document.text).input_ids) for document in documents("0-shot", count, tokenizer)]
    table = UndoTable({VOCABULARY - 1: Action("pop")}, {VOCABULARY - 1: "<pop>"})

    def run(decode: Decode, table: UndoTable = table) -> tuple[float, int, int]:
        """Seconds, tokens fed to the model after the prompts, rewinds."""
        requests = [engine.Request(Key("t", at), prompt) for at, prompt in enumerate(prompts)]
        chosen = engine.Options(decode, table, frozenset(), tokenizer.decode, slots=slots)
        begun = clock()
        done = [answer.resolution.counts for answer in engine.generate(model, requests, chosen)]
        seconds = clock() - begun
        rewinds = sum(counts.episodes for counts in done)
        return seconds, sum(counts.sampled for counts in done) + rewinds, rewinds

    rewinding = Decode(undo_context="rewind", max_new_tokens=160, max_visits=10_000)
    low, high = 0.0, 64.0
    for _ in range(8):  # a bias with which about one token in ten begins to take something back
        bias = (low + high) / 2
        _, tokens, rewinds = run(replace(rewinding, max_new_tokens=40, undo_bias=bias))
        low, high = (bias, high) if rewinds < 0.1 * tokens else (low, bias)
    rewinding = replace(rewinding, undo_bias=low)
    ratios, seen = [], (0, 0)
    for _ in range(rounds):
        seconds, tokens, rewinds = run(rewinding)
        plain, plain_tokens, _ = run(Decode(max_new_tokens=round(tokens / count)), EMPTY)
        ratios.append((seconds / tokens) / (plain / plain_tokens))
        seen = tokens, rewinds
    ratios.sort()
    print(f"{count} answers, {seen[0]} tokens through the model with {seen[1]} rewinds among them")
    print(f"a token costs {statistics.median(ratios):.3f} times what it costs without undo "
          f"({ratios[0]:.3f} to {ratios[-1]:.3f})")  # fmt: skip


if __name__ == "__main__":
    main()
