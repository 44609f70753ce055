"""Train the bundled tokenizer and model from scratch and write src/unsay/assets/unsay-tiny.

The run is sized in tokens and seeded, so it does not depend on how fast the machine is. Text comes from the `pretrain`
split of `unsay.datasets.wordproblems` only. Half of the documents contain retries: a wrong line, the undo token, the
right line, with the wrong tokens masked from the loss.

    python scripts/make_tiny_model.py                          # about half an hour on two idle cores
    python scripts/make_tiny_model.py --tokens 300_000 --out /tmp/smoke
"""

import argparse
import json
import platform
import random
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import tokenizers
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from unsay.datasets.wordproblems import generate
from unsay.loading import UndoFile
from unsay.undo import Action, ActionKind, UndoTable, resolve

ASSETS = Path(__file__).resolve().parents[1] / "src" / "unsay" / "assets" / "unsay-tiny"
SEED = 0
THREADS = 2
TOKENS = 26_214_400
VOCABULARY = 560

END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
POP, POP_LINE, POP_ALL = "<|BACKTRACK|>", "<|BACKTRACK_LINE|>", "<|RESET|>"
CONTROL = [END_OF_TEXT, START, END, POP, POP_LINE, POP_ALL, *(f"<|reserved_{i}|>" for i in range(10))]
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# Some everyday words, so that other English takes a few tokens less; the problems alone do not fill the vocabulary.
WORDS = (
    "the of and to in is for that on was are each day days week hour hours minutes year old money much left per out "
    "his her they their them he she it be this from will all number first then if one two three four five six ten "
    "time cost price school house work people children friends dog water food red blue"
)

# -- tokenizer --------------------------------------------------------------------------------------------------------


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE in which every digit and every line break stands alone."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n"), "isolated"),
            pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=CONTROL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    records = generate("pretrain", 20_000, seed=SEED, steps=(1, 5))
    corpus = [block(record) for record in records] + [f"system\nuser\nassistant\n {WORDS}"] * 500
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=END_OF_TEXT,
        eos_token=END,
        extra_special_tokens=[token for token in CONTROL if token not in (END_OF_TEXT, END)],
        model_max_length=8192,
        clean_up_tokenization_spaces=False,
        chat_template=TEMPLATE,
    )


# -- documents: lists of (text, loss weight), cut only where the tokenizer cuts too -----------------------------------

Piece = tuple[str, float]
QUESTION_WEIGHT = 0.1  # a question is mostly random draws: little to learn, much noise
RETRY_RATE = 0.3  # per line, in the documents that have retries
POP_SHARE = 0.15  # of the retries, those that take single tokens back
STEP_WEIGHTS = (30, 32, 28, 6, 4)  # how often a problem has one to five steps
LINE = re.compile(r"(?P<head>.*?)(?P<a>\d+)(?P<op>[-+*/])(?P<b>\d+)=<<.*>>(?P<c>\d+)(?P<tail>.*)")


def prompt(record: dict[str, str]) -> str:
    """Return the question as lm-eval's gsm8k task asks it."""
    return f"Question: {record['question']}\nAnswer:"


def block(record: dict[str, str]) -> str:
    """Return question and answer as they stand among few-shot examples."""
    return f"{prompt(record)} {record['answer']}"


def write_line(head: str, a: int, op: str, b: int, c: int, tail: str) -> str:
    """Return one answer line with its calculator annotation."""
    return f"{head}{a}{op}{b}=<<{a}{op}{b}={c}>>{c}{tail}"


def slip(value: int, rng: random.Random) -> int:
    """Return a wrong result near the right one."""
    return rng.choice([wrong for d in (1, 2, 3, 10, 20) for wrong in (value - d, value + d) if wrong > 0])


def plan_error(record: dict[str, str], index: int, rng: random.Random) -> str | None:
    """Return line `index` of the answer with a wrong operand or a wrong name, or None where none can be found.

    The statement is false in every order of the steps: what it claims differs from what is true of its subject.
    """
    lines = record["answer"].split("\n")
    match = LINE.fullmatch(lines[index])
    assert match
    head, op, tail = match["head"], match["op"], match["tail"]
    a, b, c = int(match["a"]), int(match["b"]), int(match["c"])
    if rng.random() < 0.3 and (names := _other_names(record, head, c)):
        return write_line(f"{rng.choice(names)} has ", a, op, b, c, tail)
    results = [int(found) for found in re.findall(r">>(\d+)", record["answer"])]
    numbers = {int(found) for found in re.findall(r"\d+", record["question"])} | set(results[:index])
    if head.startswith("The total"):
        numbers -= set(results)  # a sum of other prices would be a legal step
    choices = [(n, b) for n in numbers - {a}] + [(a, n) for n in numbers - {b}]
    rng.shuffle(choices)
    for x, y in choices:
        if op == "/" and x % y:
            continue
        wrong = {"+": x + y, "-": x - y, "*": x * y, "/": x // y}[op]
        if 0 < wrong <= 400 and wrong != c:
            return write_line(head, x, op, y, wrong, tail)
    return None


def _other_names(record: dict[str, str], head: str, value: int) -> list[str]:
    """List the people of a comparison chain of whom it would be wrong to say that they have `value`."""
    question = record["question"]
    if not re.fullmatch(r"\w+ has ", head) or "have now" in question:
        return []
    known = re.findall(r"(\w+) has (\d+) \w+\.", question) + re.findall(r"(\w+) has .*>>(\d+)", record["answer"])
    return sorted(name for name, has in known if int(has) != value)


def answer(record: dict[str, str], lead: str, rng: random.Random, *, retries: bool) -> Iterator[Piece]:
    """Yield an answer; `lead` is what stands before its first line. Wrong tokens carry no loss."""
    for index, line in enumerate(record["answer"].split("\n")):
        text = (lead if index == 0 else "") + line
        if index:
            yield "\n", 1.0
        match = LINE.fullmatch(text)
        if not match or not retries or rng.random() >= RETRY_RATE:
            yield text, 1.0
        elif rng.random() < POP_SHARE:
            before, after = text.split(">>")[0], text.split(">>")[1]
            wrong = str(slip(int(match["c"]), rng))
            yield before.removesuffix(match["c"]), 1.0
            yield wrong, 0.0
            yield POP * len(wrong), 1.0
            yield f"{match['c']}>>{after}", 1.0
        else:
            yield lead * (index == 0) + wrong_line(record, index, rng), 0.0
            yield POP_LINE, 1.0
            yield text, 1.0


def wrong_line(record: dict[str, str], index: int, rng: random.Random) -> str:
    """Return line `index` of the answer with an arithmetic slip or a plan error."""
    line = record["answer"].split("\n")[index]
    if rng.random() < 0.5 and (wrong := plan_error(record, index, rng)):
        return wrong
    match = LINE.fullmatch(line)
    assert match
    a, b, c = int(match["a"]), int(match["b"]), int(match["c"])
    return write_line(match["head"], a, match["op"], b, slip(c, rng), match["tail"])


@dataclass
class Source:
    """Draws documents; a problem is drawn once in the whole run."""

    rng: random.Random

    def __post_init__(self) -> None:
        self.pools = [generate("pretrain", 10**9, seed=SEED, steps=(n, n)) for n in range(1, 6)]

    def record(self) -> dict[str, str]:
        """Draw a problem, mostly a short one: fine-tuning, on three to five steps, should have something to add."""
        return next(self.rng.choices(self.pools, STEP_WEIGHTS)[0])

    def plain(self, length: int) -> list[Piece]:
        """Several problems as plain text; enough of them that a long row is one document."""
        retries = self.rng.random() < 0.5
        count = self.rng.randint(9, 16) if length > 1024 else self.rng.randint(1, 5)
        pieces: list[Piece] = []
        for number in range(count):
            record = self.record()
            pieces.append((("\n\n" if number else "") + prompt(record), QUESTION_WEIGHT))
            pieces += answer(record, " ", self.rng, retries=retries)
        return [*pieces, (END_OF_TEXT, 1.0)]

    def chat(self, length: int, shots: int = 0) -> list[Piece]:
        """One chat turn, few-shot examples folded into the user's message."""
        record = self.record()
        asked = "\n\n".join([*(block(self.record()) for _ in range(shots)), prompt(record)])
        retries = self.rng.random() < 0.5
        pieces = [(f"{START}user\n{asked}{END}\n{START}assistant\n", 0.0)]
        return [*pieces, *answer(record, "", self.rng, retries=retries), (END, 1.0)]

    def few_shot_chat(self, length: int) -> list[Piece]:
        """A chat turn with as many examples as fit."""
        return self.chat(length, self.rng.randint(3, 10) if length > 1024 else self.rng.randint(1, 2))

    def drill(self, length: int) -> list[Piece]:
        """Lines of arithmetic in the notation of the answers."""
        retries = self.rng.random() < 0.5
        pieces: list[Piece] = []
        for _ in range(self.rng.randint(8, 20)):
            a, op, b, c = self.sum()
            asked = f"{a}{op}{b}=<<{a}{op}{b}="
            if retries and self.rng.random() < RETRY_RATE:
                wrong = slip(c, self.rng)
                pieces += [(f"{asked}{wrong}>>{wrong}", 0.0), (POP_LINE, 1.0)]
            pieces += [(asked, QUESTION_WEIGHT), (f"{c}>>{c}\n", 1.0)]
        return [*pieces, (END_OF_TEXT, 1.0)]

    def sum(self) -> tuple[int, str, int, int]:
        """Draw two numbers and an operator with a result of at most 200."""
        op = self.rng.choice("++--**/")
        if op == "*":
            b = self.rng.randint(2, 15)
            a = self.rng.randint(2, 200 // b)
            return a, op, b, a * b
        if op == "/":
            c = self.rng.randint(1, 100)
            return 2 * c, op, 2, c
        a, b = sorted((self.rng.randint(1, 199), self.rng.choice((self.rng.randint(1, 40), self.rng.randint(1, 199)))))
        if op == "-":
            return b + (a == b), op, a, b + (a == b) - a
        a = min(a, 200 - b)
        return (a, op, b, a + b) if self.rng.random() < 0.5 else (b, op, a, a + b)


# Rows of one length: how many fill a step, and which share of them holds which kind of document (a method of Source).
# A row starts with a document.
SHAPES: dict[int, tuple[int, dict[str, int]]] = {
    256: (32, {"plain": 40, "chat": 42, "drill": 18}),
    512: (16, {"plain": 75, "few_shot_chat": 15, "drill": 10}),
    2048: (4, {"plain": 70, "few_shot_chat": 30}),
}
STEP_TOKENS = 8192
EARLY, LATE = (256, 512), (2048, 256, 512)  # row lengths in turn, before and during the last stage
LAST_STAGE = 0.35  # share of the steps; the learning rate falls meanwhile


def rows(
    source: Source, encode: Callable[[list[str]], list[list[int]]], length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids (rows, length + 1) and the loss weight of each id."""
    count, shares = SHAPES[length]
    all_ids, all_weights = [], []
    for kind in source.rng.choices(list(shares), list(shares.values()), k=count):
        ids: list[int] = []
        weights: list[float] = []
        while len(ids) <= length:
            pieces: list[Piece] = getattr(source, kind)(length)
            for found, (_, weight) in zip(encode([text for text, _ in pieces]), pieces, strict=True):
                ids += found
                weights += [weight] * len(found)
        all_ids.append(ids[: length + 1])
        all_weights.append(weights[: length + 1])
    return torch.tensor(all_ids), torch.tensor(all_weights)


# -- training ---------------------------------------------------------------------------------------------------------


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Return the untrained model, float32."""
    torch.manual_seed(SEED)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=5,
        intermediate_size=384,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        tie_word_embeddings=True,
        max_position_embeddings=8192,
        rope_theta=10_000.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        dtype="float32",
    )
    return Qwen3ForCausalLM(config)


class Muon(torch.optim.Optimizer):
    """Muon (https://kellerjordan.github.io/posts/muon/) as in torch.optim, all matrices of a shape at once, in float32.

    torch's works in bfloat16, one matrix after another: a third of a step where a processor has no arithmetic for it.
    """

    MOMENTUM, DECAY, TURNS = 0.95, 0.01, 5
    A, B, C = 3.4445, -4.7750, 2.0315  # of the quintic Newton-Schulz iteration

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[torch.Size, list[torch.Tensor]] = {}
            for parameter in group["params"]:
                shapes.setdefault(parameter.shape, []).append(parameter)
            for (rows, columns), alike in shapes.items():
                gradients = torch.stack([parameter.grad for parameter in alike if parameter.grad is not None])
                momentum = self.state[alike[0]].setdefault("momentum", torch.zeros_like(gradients))
                momentum.lerp_(gradients, 1 - self.MOMENTUM)
                update = self._orthogonal(gradients.lerp(momentum, self.MOMENTUM))
                rate = group["lr"] * max(1.0, rows / columns) ** 0.5
                torch._foreach_mul_(alike, 1 - group["lr"] * self.DECAY)
                torch._foreach_add_(alike, list(update.unbind()), alpha=-rate)

    def _orthogonal(self, matrices: torch.Tensor) -> torch.Tensor:
        """Return the nearest matrices (n, rows, columns) with singular values around one."""
        tall = matrices.shape[1] > matrices.shape[2]
        x = matrices.mT if tall else matrices
        x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
        for _ in range(self.TURNS):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=self.B, alpha=self.C), x, beta=self.A)
        return x.mT if tall else x


def make_optimizers(model: Qwen3ForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the embedding and the norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        # Two, so that both threads have one to step.
        *(Muon(half, {"lr": 0.01}) for half in (matrices[::2], matrices[1::2])),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def learning_rate(step: int, steps: int) -> float:
    """Warm up for 100 steps, hold, then fall to zero over the last stage."""
    return min(1.0, (step + 1) / 100, (steps - step) / (LAST_STAGE * steps))


def gradients(model: Qwen3ForCausalLM, ids: torch.Tensor, weights: torch.Tensor, total: float) -> list[torch.Tensor]:
    """Return the loss of some rows, as a share of a batch whose weights add up to `total`, and its gradients."""
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits  # (rows, length, vocabulary)
    losses = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    loss = (losses * weights[:, 1:].flatten()).sum() / total
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


def train(tokenizer: PreTrainedTokenizerFast, tokens: int, checkpoints: Path | None) -> Qwen3ForCausalLM:
    """Train for about `tokens` tokens and return the model."""
    model = make_model(tokenizer)
    model.train()
    optimizers = make_optimizers(model)
    base_rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    source = Source(random.Random(SEED))
    steps = tokens // STEP_TOKENS
    started = time.monotonic()

    def encode(texts: list[str]) -> list[list[int]]:
        return [found.ids for found in tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    # Every batch is computed in two halves, each on one thread: they meet once a step and not within every operation,
    # which on a busy machine is three times as fast, and the result does not depend on the number of cores.
    torch.set_num_threads(1)
    with ThreadPoolExecutor(THREADS, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for step in range(steps):
            turns = LATE if step >= (1 - LAST_STAGE) * steps else EARLY
            ids, weights = rows(source, encode, turns[step % len(turns)])
            total = float(weights[:, 1:].sum())
            halves = pool.map(gradients, repeat(model), ids.chunk(2), weights.chunk(2), repeat(total))
            loss, *grads = (one + two for one, two in zip(*halves, strict=True))
            for parameter, gradient in zip(model.parameters(), grads, strict=True):
                parameter.grad = gradient
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, rate in zip(optimizers, base_rates, strict=True):
                optimizer.param_groups[0]["lr"] = rate * learning_rate(step, steps)
            list(pool.map(lambda optimizer: optimizer.step(), optimizers))
            if step % 20 == 0:
                seconds = time.monotonic() - started
                print(f"step {step}/{steps} rows of {ids.shape[1] - 1} loss {loss:.4f} {seconds:.0f} s", flush=True)
            if checkpoints and step and step % 300 == 0:
                save(model, tokenizer, checkpoints / f"step-{step}")
    torch.set_num_threads(THREADS)
    return model.eval()


def undo_table(tokenizer: PreTrainedTokenizerFast) -> UndoTable:
    """Say what the control tokens of this tokenizer do."""
    kinds: dict[str, ActionKind] = {POP: "pop", POP_LINE: "pop_line", POP_ALL: "pop_all"}
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in kinds}
    newline = tokenizer.encode("\n")[0]
    return UndoTable(
        {ids[name]: Action(kind) for name, kind in kinds.items()},
        {id: name for name, id in ids.items()},
        frozenset({newline}),
    )


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write everything from_pretrained needs."""
    config = model.config
    model.generation_config = transformers.GenerationConfig(
        do_sample=False, eos_token_id=[config.eos_token_id, config.pad_token_id], pad_token_id=config.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder, save_jinja_files=False)
    # The name that every transformers release maps to "just read tokenizer.json".
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    # Fine-tuning keeps the rows of the undo tokens: they are pretrained, with retracted tokens left in the context.
    table = undo_table(tokenizer)
    undo = UndoFile(table, context="keep", trained=tuple(table.actions))
    (folder / "undo.json").write_text(json.dumps(undo.to_json(), indent=2) + "\n", encoding="utf-8")


# -- evaluation -------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def exact_match(folder: Path, *, shots: int, chat: bool, steps: tuple[int, int], n: int = 200) -> float:
    """Return the strict exact match, in percent, of greedy answers to `n` development problems."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    table, ends = undo_table(tokenizer), set(model.generation_config.eos_token_id)
    examples = "".join(block(record) + "\n\n" for record in generate("train", shots, seed=SEED, steps=steps))
    records = list(generate("dev", n, seed=SEED, steps=steps))
    correct = 0
    for start in range(0, n, 50):
        batch = records[start : start + 50]
        prompts = [examples + prompt(record) for record in batch]
        if chat:
            prompts = [f"{START}user\n{text}{END}\n{START}assistant\n" for text in prompts]
        inputs = tokenizer(prompts, padding=True, return_tensors="pt")
        # Plain text goes on with the next question: stop there, as lm-eval's task does.
        stops = {} if chat else {"stop_strings": ["Question:"], "tokenizer": tokenizer}
        out = model.generate(**inputs, max_new_tokens=320, do_sample=False, **stops)
        for record, ids in zip(batch, out[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
            visible = resolve(ids, table, ends).visible_ids
            found = re.search(r"#### (-?\d+)", tokenizer.decode(visible))
            correct += bool(found) and found[1] == record["answer"].split("#### ")[1]
    return 100 * correct / n


def figures(folder: Path) -> dict[str, float]:
    """Measure what the model card reports."""
    found = {}
    for shots, chat in ((0, True), (3, False), (3, True), (8, False), (8, True)):
        for steps in ((3, 5), (1, 2)):
            name = f"{shots}-shot {'chat' if chat else 'plain text'} | {steps[0]}-{steps[1]}"
            found[name] = exact_match(folder, shots=shots, chat=chat, steps=steps)
            print(name, found[name], flush=True)
    return found


def write_card(folder: Path, found: dict[str, float], tokens: int, wall: float, processor: float) -> None:
    """Write the model card; `wall` and `processor` are what training took, in seconds."""
    table = "\n".join(f"| {name} | {value:.1f} |" for name, value in found.items())
    size = (folder / "model.safetensors").stat().st_size
    parameters = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(folder).parameters())
    weights = " : ".join(map(str, STEP_WEIGHTS))
    versions = ", ".join(
        f"{name} {version}"
        for name, version in (
            ("Python", platform.python_version()),
            ("torch", torch.__version__),
            ("transformers", transformers.__version__),
            ("tokenizers", tokenizers.__version__),
            (platform.system(), platform.machine()),
        )
    )
    (folder / "README.md").write_text(
        f"""---
license: apache-2.0
library_name: transformers
language: en
---

# unsay-tiny

A language model of {parameters:,} parameters for the demo and the tests of `unsay`. It was pretrained from scratch on
generated word problems in GSM8K's format and knows undo tokens from pretraining; it knows nothing else. Real GSM8K is
out of its distribution: on real questions it checks plumbing, not accuracy.

- **Architecture**: Qwen3, 5 layers, width 128, 4 heads and 2 key-value heads of 32, tied embeddings, float32,
  {size / 1e6:.1f} MB; 8192 positions, trained on rows of up to 2048 tokens.
- **Tokenizer**: byte-level BPE of {VOCABULARY} tokens; every digit and every line break is its own token.
- **Undo tokens**: `{POP}` takes back one token, `{POP_LINE}` the last line, `{POP_ALL}` the whole
  answer (not trained); ten `<|reserved_N|>` rows are spare.
- **Prompts**: `Question: …\\nAnswer:` as plain text, with examples before it, or as one chat turn (ChatML).

## Accuracy

Strict exact match of `#### N`, percent of 200 development problems, greedy, undo tokens applied; the standard error is
at most 3.5 points.

| prompt | steps | exact match |
|---|---|---|
{table}

## Training data

Problems come from `unsay.datasets.wordproblems`, split `pretrain`, which shares no problem with `train`, `dev` and
`test`: half comparison chains with shuffled sentences, a quarter stories, a quarter shopping; one to five steps with
weights {weights}. Documents are plain text with several problems, chats with no or several examples, and
arithmetic drills. Half of the documents have retries, in {RETRY_RATE:.0%} of their lines: a wrong line, then
`{POP_LINE}`, then the right line; {POP_SHARE:.0%} of the retries take back single tokens with `{POP}`. Wrong tokens
carry no loss. All text is generated; no outside data was used.

## Training run

`python scripts/make_tiny_model.py`: seed {SEED}, {tokens:,} tokens in steps of {STEP_TOKENS:,}, {processor / 60:.0f}
minutes of processor time and {wall / 60:.0f} minutes of wall time on {THREADS} threads, float32, Muon (0.01)
and AdamW (0.003).
{versions}.
""",
        encoding="utf-8",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="how many tokens to train on")
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder to write")
    parser.add_argument("--checkpoints", type=Path, help="also write a checkpoint every 300 steps into this folder")
    arguments = parser.parse_args()
    tokenizer = make_tokenizer()
    started, started_processor = time.monotonic(), time.process_time()
    model = train(tokenizer, arguments.tokens, arguments.checkpoints)
    wall, processor = time.monotonic() - started, time.process_time() - started_processor
    save(model, tokenizer, arguments.out)
    trained = arguments.tokens // STEP_TOKENS * STEP_TOKENS
    write_card(arguments.out, figures(arguments.out), trained, wall, processor)


if __name__ == "__main__":
    main()
