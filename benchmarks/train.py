"""How fast training is, against TRL's SFTTrainer, with the same loss at every step, and in how much memory.

    python benchmarks/train.py             # vocabularies of 4,096 and 65,536: about a quarter of an hour
    python benchmarks/train.py --rounds 1 --rows 32 --vocabulary 4096

Both sides train the same LoRA adapter on the same random Qwen3-shaped model (five million weights without embeddings)
in float32, on the same rows of ids and labels: generated word problems, loss on the answer only. One epoch, the same
optimiser, schedule and batches of eight rows. The sides:

    unsay        as experiments run: rows of similar length share a batch, logits at supervised positions only
    trl          SFTTrainer as it comes, but for gradient checkpointing, which is off: it costs time to save memory
    trl, ours    SFTTrainer on unsay's batches in unsay's order; here every step's loss must be unsay's to 1e-4

Each turn is a process of its own, so that its peak memory can be told; sides take turns, ratios are medians over
rounds. Tokens are real ones, without padding. The time is the processor's, for the steps, after one to warm up: with
one thread it does not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BATCH = 8
SEED = 0
SIDES = ("unsay", "trl", "trl, ours")
TOLERANCE = 1e-4
"""How far two losses of one step may be apart: the sides add in another order."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[4096, 65536])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--side", choices=SIDES, help="one turn of one side; what the benchmark starts for itself")
    options = parser.parse_args()
    if options.side:
        print(json.dumps(turn(options.side, options.vocabulary[0], options.rows, options.threads)))
        return
    for vocabulary in options.vocabulary:
        compare(vocabulary, options.rounds, options.rows, options.threads)


def compare(vocabulary: int, rounds: int, rows: int, threads: int) -> None:
    """Let the sides take turns and say what came out; end with an error where a loss differs."""
    turns: list[dict[str, dict[str, Any]]] = []
    for number in range(rounds):
        order = SIDES[number % 3 :] + SIDES[: number % 3]  # nobody is always first
        turns.append({side: start(side, vocabulary, rows, threads) for side in order})
    for each in turns:
        pairs = zip(each["unsay"]["losses"], each["trl, ours"]["losses"], strict=True)
        worst = max(abs(ours - theirs) for ours, theirs in pairs)
        if worst > TOLERANCE:
            raise SystemExit(f"vocabulary {vocabulary}: the losses differ by up to {worst:.1e}")
    first = turns[0]["unsay"]
    print(
        f"vocabulary {vocabulary:,}: {len(first['losses'])} steps of {BATCH} rows, {first['tokens']:,} tokens, "
        f"{first['supervised']:.0%} of them with a loss; every step's loss equal to {TOLERANCE:g}, "
        f"from {first['losses'][0]:.4f} to {first['losses'][-1]:.4f}"
    )
    for side in SIDES:
        speed = statistics.median(each[side]["tokens_per_second"] for each in turns)
        memory = statistics.median(each[side]["memory"] for each in turns)
        ratios = [each["unsay"]["tokens_per_second"] / each[side]["tokens_per_second"] for each in turns]
        against = "" if side == "unsay" else f"; unsay is {spread(ratios)} times as fast"
        print(f"  {side:10} {speed:7,.0f} tokens per second, {memory / 2**20:6,.0f} MiB for the training{against}")


def spread(ratios: Sequence[float]) -> str:
    middle = statistics.median(ratios)
    return f"{middle:.2f}" if len(ratios) == 1 else f"{middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def start(side: str, vocabulary: int, rows: int, threads: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--side", side, "--vocabulary", str(vocabulary), "--rows", str(rows)]
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(
        [*command, "--threads", str(threads)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-4000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


# -- one turn ---------------------------------------------------------------------------------------------------------


def turn(side: str, vocabulary: int, count: int, threads: int) -> dict[str, Any]:
    """Train one epoch and return losses per step, speed, and how much memory was needed on top of the loaded model."""
    import torch

    from unsay.train import lora
    from unsay.train.collate import collate, order
    from unsay.train.loss import batch_loss
    from unsay.train.traces import Trace

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(threads)
    settings = training()
    examples = supervised(count)
    traces = [Trace((example,), example.ids, len(example.ids) + 1, len(example.labels())) for example in examples]
    model = lora.attach(random_model(vocabulary), settings, [])
    model.train()
    longest = max(examples, key=lambda example: len(example.ids))
    batch_loss(model, collate([longest])).backward()  # the libraries' first call is slower than the others
    model.zero_grad(set_to_none=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        if side == "unsay":
            losses, seconds = with_unsay(model, traces, settings, Path(folder))
        else:
            lengths = [trace.length for trace in traces]
            batches = order(lengths, size=BATCH, seed=SEED, epoch=0)
            places = range(count) if side == "trl" else [place for batch in batches for place in batch]
            rows = [labelled(examples[place]) for place in places]
            losses, seconds = with_trl(model, rows, settings, Path(folder), shuffled=side == "trl")
    tokens = sum(trace.length for trace in traces)
    return {
        "losses": losses,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "supervised": sum(trace.labels for trace in traces) / tokens,
        "memory": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024,
    }


def training() -> Any:
    from unsay.settings import Training

    return Training(
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        warmup_ratio=0.0,
        num_train_epochs=1,
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=1,
        logging_steps=1,
        save_steps=10**9,
    )


def supervised(count: int) -> list[Any]:
    """Return rows of the bundled model's tokenizer: the question without a loss, the answer with one."""
    from unsay import loading
    from unsay.datasets import wordproblems
    from unsay.records import Row
    from unsay.train.collate import supervise

    bundled = Path(loading.__file__).parent / "assets" / "unsay-tiny"
    tokenizer = loading.load_tokenizer(str(bundled), None)
    rows = []
    for number, problem in enumerate(wordproblems.generate("train", count)):
        prompt = tokenizer.encode(str(problem["question"]) + "\n")
        answer = tokenizer.encode(str(problem["answer"]))
        rows.append(Row(str(number), tuple(prompt), (*answer, tokenizer.eos_token_id), "c" * (len(answer) + 1)))
    return [supervise(row, "none") for row in rows]


def labelled(example: Any) -> dict[str, list[int]]:
    """Return a row as TRL takes it: a label per token, which TRL compares with the position before."""
    labels = [target if weight else -100 for target, weight in zip(example.targets, example.weights, strict=True)]
    return {"input_ids": [*example.ids, example.targets[-1]], "labels": [-100, *labels]}


def random_model(vocabulary: int) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config

    torch.manual_seed(SEED)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def with_unsay(model: Any, traces: Sequence[Any], settings: Any, out: Path) -> tuple[list[float], float]:
    from unsay.train import lora
    from unsay.train.loop import Loop

    last = 0.0

    def clock(*_: Any) -> None:
        nonlocal last
        last = time.process_time()

    loop = Loop(traces, [], settings, lora, [], SEED, out, "cpu", key="benchmark", progress=clock)
    first = time.process_time()
    loop.train(model)
    return loop.losses, last - first


def with_trl(
    model: Any, rows: Sequence[dict[str, list[int]]], settings: Any, out: Path, *, shuffled: bool
) -> tuple[list[float], float]:
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from unsay import loading

    class Clock(TrainerCallback):  # type: ignore[misc]
        first = last = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.first = self.first or time.process_time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.last = time.process_time()

    clock = Clock()
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(out),
            per_device_train_batch_size=BATCH,
            gradient_accumulation_steps=1,
            num_train_epochs=1,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=settings.max_grad_norm,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            seed=SEED,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            max_length=None,
            disable_tqdm=True,
            train_sampling_strategy="random" if shuffled else "sequential",
        ),
        train_dataset=Dataset.from_list(list(rows)),
        processing_class=loading.load_tokenizer(str(Path(loading.__file__).parent / "assets" / "unsay-tiny"), None),
        callbacks=[clock],
    )
    trainer.train()
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    return losses, clock.last - clock.first


if __name__ == "__main__":
    main()
