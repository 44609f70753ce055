"""Masked supervised fine-tuning with LoRA: rows in, an adapter folder out.

The loop is plain PyTorch over transformers and PEFT: a loss on supervised positions only, divided by their weight in
the whole effective batch, so that neither padding nor the size of a micro-batch changes the result. Out of memory, it
goes on with recomputed activations, then with smaller micro-batches. Stopped, it goes on from the newest checkpoint and
ends where it would have ended.

    result = train(rows, model_path="Qwen/Qwen3-0.6B", revision=None, tokenizer=tokenizer, table=table,
                   training=Training(), undo=UndoData(), seed=0, out=Path("train"), device="cuda")

`out` gets the adapter, `undo.json` and the tokenizer where there are control tokens, `trainer_log.jsonl` and
`trainer_state.json` as LLaMA-Factory writes them, `train_results.json` with the figures of the final check, and the
newest checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from unsay.errors import TrainingError
from unsay.loading import UndoFile, find_undo_file, grow, load_model, read_undo_file
from unsay.records import Row
from unsay.settings import Training, UndoData
from unsay.store import layout, write
from unsay.train import gate, lora, rewind, tokens
from unsay.train.collate import Batch, Supervised, collate, order, supervise
from unsay.undo import Mask, UndoTable

Progress = Callable[[int, int, float], None]

CHECKPOINT = "checkpoint-"
STATE = "state.json"


@dataclass(frozen=True)
class TrainResult:
    """What a training left behind. `results` is the content of `train_results.json`."""

    folder: Path
    steps: int
    losses: tuple[float, ...]
    """One per optimiser step, the mean over supervised tokens."""
    results: dict[str, Any]


def train(
    rows: Sequence[Row],
    *,
    model_path: str,
    revision: str | None,
    tokenizer: Any,
    table: UndoTable,
    training: Training,
    undo: UndoData | None,
    seed: int,
    out: Path,
    device: str = "cpu",
    progress: Progress | None = None,
    trust_remote_code: bool = False,
) -> TrainResult:
    """Fine-tune, save, and check what was saved; see the module. Raise TrainingError when the result cannot be trusted.

    `table` holds the control tokens of `tokenizer`. `progress` is called after every optimiser step with the step, the
    number of steps and the loss. A second call with the same arguments goes on from the newest checkpoint in `out`.
    """
    rows = rows if training.max_samples is None else rows[: training.max_samples]
    rows, too_long = _short_enough(rows, training)

    # 1. A fresh base with a row for every token, and the adapter on it.
    base = gate.Base(model_path, revision, device, dtype_of(training, device), trust_remote_code)
    model = load_model(model_path, revision, None, device, base.dtype, trust_remote_code)
    known = _known(model_path, revision, table)
    row_ids = _row_ids(rows, table, undo, known)
    rows_needed = max((id + 1 for id in table.actions), default=0)
    grown = grow(model, rows_needed)
    if undo is not None:
        tokens.initialise(model, tokenizer, table, undo.init, keep=known.trained)
    torch.manual_seed(seed)
    model = lora.attach(model, training, row_ids)
    first_rows = lora.trained_rows(model)

    # 2. The steps.
    rewinds = undo is not None and undo.context == "rewind"
    packed = rewinds and rewind.packs(model, rows, table, gate.TOLERANCE.get(base.dtype, 0.0))
    traces = _traces(rows, table, undo, packed=packed)
    run = _Run(
        traces,
        training,
        seed,
        out,
        device,
        key=_key(traces, training, undo, seed, model_path, revision, table),
        progress=progress,
    )
    run.train(model)

    # 3. What is kept, and whether it is what was trained.
    run.free()
    _save(model, out, tokenizer, table, known, undo, row_ids, rows_needed if grown else 0, base)
    distances = gate.moved(first_rows, lora.trained_rows(model), row_ids)
    required = [id for id in row_ids if any(trace.asks_for(id) for trace in traces)]
    gate.check_moved(
        distances, table, required, ("output", "input") if not rewinds or len(first_rows) < 2 else ("output",)
    )
    probe = gate.choose_probe(rows)
    before = gate.measure(model, probe, row_ids)
    del model
    run.free()
    figures = gate.check(before, out, base, probe, row_ids, table.names)
    figures["rows_moved"] = {table.names[id]: sides for id, sides in distances.items()}

    results = run.results() | {"dtype": base.dtype, "rows_too_long": too_long, "gate": figures}
    if rewinds:
        results["rewind_rows"] = "packed" if packed else "split"
    write.write_json(out / layout.TRAIN_RESULTS, results)
    return TrainResult(out, run.step, tuple(run.losses), results)


# -- before the loop --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trace:
    """One training answer: one row, or several where the context is rewound and rows are split.

    The steps count traces: whether rows are packed or split, the same traces share an effective batch.
    """

    examples: tuple[Supervised, ...]
    length: int
    """Tokens of prompt and answer."""
    answer: int
    """Tokens of the answer, whether they have a loss or not."""

    @property
    def weight(self) -> float:
        return sum(example.weight for example in self.examples)

    @property
    def labels(self) -> int:
        """Tokens with a loss."""
        return sum(len(example.labels()) for example in self.examples)

    def asks_for(self, id: int) -> bool:
        return any(id == label for example in self.examples for _, label, _ in example.labels())


def _short_enough(rows: Sequence[Row], training: Training) -> tuple[list[Row], list[str]]:
    """Return the rows that are not too long, and the ids of those that are."""
    lengths = [len(row.prompt_ids) + len(row.ids) for row in rows]
    short = [row for row, length in zip(rows, lengths, strict=True) if length <= training.cutoff_len]
    if not short:
        raise TrainingError(
            f"expected training rows of at most {training.cutoff_len} tokens, got {len(rows)} rows, the shortest of "
            f"{min(lengths, default=0)}; raise cutoff_len or check the dataset"
        )
    return short, [row.id for row, length in zip(rows, lengths, strict=True) if length > training.cutoff_len]


def _traces(rows: Sequence[Row], table: UndoTable, undo: UndoData | None, *, packed: bool) -> list[Trace]:
    """Return what is trained on."""
    mask: Mask = "errors" if undo is None else undo.mask
    traces: list[Trace] = []
    for row in rows:
        if undo is None or undo.context == "keep":
            examples = [supervise(row, mask)]
        elif packed:
            examples = [rewind.pack(row, table, mask)]
        else:
            examples = rewind.split(row, table, mask)
        traces.append(Trace(tuple(examples), len(row.prompt_ids) + len(row.ids), len(row.ids)))
    traces = [trace for trace in traces if trace.weight]
    if not traces:
        raise TrainingError(
            f"expected tokens to train on, got {len(rows)} rows whose every token is masked; "
            "check the provenance of the rows and the `mask` of the undo settings"
        )
    return traces


def dtype_of(training: Training, device: str) -> str:
    """Return the dtype of the frozen weights. What is trained is always float32."""
    if training.bf16 is None:
        return "bfloat16" if device.startswith("cuda") and torch.cuda.is_bf16_supported() else "float32"
    return "bfloat16" if training.bf16 else "float32"


def _known(model_path: str, revision: str | None, table: UndoTable) -> UndoFile:
    """Return what the base says about control tokens it already knows."""
    file = find_undo_file(model_path, revision)
    return UndoFile(table) if file is None else read_undo_file(file)


def _row_ids(rows: Sequence[Row], table: UndoTable, undo: UndoData | None, known: UndoFile) -> list[int]:
    """Return the control tokens whose rows are trained: those in the data, and those the base has no row for."""
    if undo is None:
        return []
    found = {id for row in rows for id in row.ids if id in table.actions}
    return sorted(found | (set(table.actions) - set(known.trained)))


def _key(
    traces: Sequence[Trace],
    training: Training,
    undo: UndoData | None,
    seed: int,
    model_path: str,
    revision: str | None,
    table: UndoTable,
) -> str:
    """Return a hash of everything a checkpoint depends on."""
    settings = {name: value for name, value in asdict(training).items() if name not in ("logging_steps", "save_steps")}
    init = None if undo is None else undo.init
    digest = hashlib.sha256(
        json.dumps([settings, init, seed, model_path, revision, table.sha256()], sort_keys=True).encode()
    )
    for trace in traces:
        for example in trace.examples:
            digest.update(repr((example.ids, example.targets, example.weights, example.more)).encode())
    return digest.hexdigest()


def _save(
    model: Any,
    out: Path,
    tokenizer: Any,
    table: UndoTable,
    known: UndoFile,
    undo: UndoData | None,
    row_ids: Sequence[int],
    rows: int,
    base: gate.Base,
) -> None:
    lora.save(model, out)
    if not table:
        return
    file = UndoFile(
        table=table,
        context=known.context if undo is None else undo.context,
        trained=tuple(sorted(set(known.trained) | set(row_ids))),
        rows=rows,
        base_model={"path": base.path, "revision": base.revision},
    )
    write.write_json(out / layout.UNDO_TABLE, file.to_json())
    tokenizer.save_pretrained(str(out))


# -- the loop ---------------------------------------------------------------------------------------------------------


@dataclass
class _Run:
    """The state of one training: where it is, what it has seen, and how it writes that down."""

    traces: Sequence[Trace]
    training: Training
    seed: int
    out: Path
    device: str
    key: str
    progress: Progress | None
    step: int = 0
    losses: list[float] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    micro_batch: int = 0
    resumed_from: int = 0
    recompute: bool = False
    """Whether activations are computed again on the way back: slower, the same numbers, less memory."""
    out_of_memory: int = 0
    earlier: float = 0.0
    started: float = 0.0
    optimizer: Any = None
    schedule: Any = None

    def __post_init__(self) -> None:
        training = self.training
        self.micro_batch = training.per_device_train_batch_size
        self.size = training.per_device_train_batch_size * training.gradient_accumulation_steps
        self.steps_per_epoch = math.ceil(len(self.traces) / self.size)
        by_epochs = math.ceil(training.num_train_epochs * self.steps_per_epoch)
        self.total = training.max_steps if training.max_steps > 0 else by_epochs
        self.save_steps = training.save_steps or self.steps_per_epoch
        self.lengths = [trace.length for trace in self.traces]

    # 1. -- the story ----------------------------------------------------------------------------------------------

    def train(self, model: Any) -> None:
        from transformers import get_scheduler

        training = self.training
        self.optimizer = torch.optim.AdamW(
            lora.parameter_groups(model, training.weight_decay), lr=training.learning_rate
        )
        self.schedule = get_scheduler(
            training.lr_scheduler_type,
            self.optimizer,
            num_warmup_steps=math.ceil(self.total * training.warmup_ratio),
            num_training_steps=self.total,
        )
        self.resume(model)
        self.begin_log()
        self.started = time.monotonic()
        model.train()
        if self.recompute:
            _recompute(model)
        for indices in self.remaining():
            rate = self.schedule.get_last_lr()[0]
            loss, norm = self.optimise(model, [self.traces[index] for index in indices])
            self.step += 1
            self.losses.append(loss)
            if self.step % training.logging_steps == 0 or self.step == self.total:
                self.log(rate, norm)
            if self.step % self.save_steps == 0 and self.step < self.total:
                self.checkpoint(model)
            if self.progress is not None:
                self.progress(self.step, self.total, loss)
        self.write_state()

    def remaining(self) -> Iterator[list[int]]:
        """Yield the effective batches from the present step on."""
        while self.step < self.total:
            epoch, done = divmod(self.step, self.steps_per_epoch)
            for indices in order(self.lengths, size=self.size, seed=self.seed, epoch=epoch)[done:]:
                yield indices
                if self.step == self.total:
                    return

    # 2. -- one step -----------------------------------------------------------------------------------------------

    def optimise(self, model: Any, traces: Sequence[Trace]) -> tuple[float, float]:
        """Take one optimiser step; return its loss and the gradient's norm."""
        examples = [example for trace in traces for example in trace.examples]
        total = sum(trace.weight for trace in traces)
        while True:
            torch.manual_seed(_step_seed(self.seed, self.step))
            try:
                loss = sum(
                    self.backward(model, collate(examples[start : start + self.micro_batch]), total)
                    for start in range(0, len(examples), self.micro_batch)
                )
                break
            except torch.OutOfMemoryError as error:
                if self.recompute and self.micro_batch == 1:
                    raise TrainingError(
                        f"expected one row of {max(len(e.ids) for e in examples)} tokens to fit into the memory of "
                        f"{self.device}, got: {error}; lower cutoff_len or take a smaller model"
                    ) from error
            # Outside the handler, so that the failed step's tensors are gone.
            self.out_of_memory += 1
            if self.recompute:
                self.micro_batch = max(self.micro_batch // 2, 1)
            else:
                self.recompute = True
                _recompute(model)
            self.optimizer.zero_grad(set_to_none=True)
            self.free(keep_optimizer=True)
        if not math.isfinite(loss):
            raise TrainingError(
                f"expected a finite loss, got {loss} at step {self.step + 1} of {self.total} (rows "
                f"{', '.join(example.id for example in examples[:4])}, …); lower learning_rate, or set bf16: false"
            )
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.training.max_grad_norm or math.inf)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss, float(norm)

    def backward(self, model: Any, batch: Batch, total: float) -> float:
        """Add a micro-batch's share of the gradient; return its share of the loss."""
        share = (
            batch_loss(model, batch.to(self.device), bf16=dtype_of(self.training, self.device) == "bfloat16") / total
        )
        share.backward()  # type: ignore[no-untyped-call]
        return float(share.detach())

    # 3. -- what is written down -----------------------------------------------------------------------------------

    @property
    def elapsed(self) -> float:
        return self.earlier + time.monotonic() - self.started

    @property
    def epoch(self) -> float:
        return self.step / self.steps_per_epoch

    def begin_log(self) -> None:
        """Start the log, or cut it back to the checkpoint that training goes on from."""
        file = self.out / layout.TRAINER_LOG
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() and self.step else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["current_steps"] <= self.step]
        write.write_text(file, "".join(f"{line}\n" for line in kept))

    def log(self, rate: float, norm: float) -> None:
        since = self.history[-1]["step"] if self.history else 0
        loss = round(math.fsum(self.losses[since:]) / len(self.losses[since:]), 6)
        epoch = round(self.epoch, 4)
        self.history.append({"epoch": epoch, "grad_norm": norm, "learning_rate": rate, "loss": loss, "step": self.step})
        remaining = self.elapsed / max(self.step, 1) * (self.total - self.step)
        line = {
            "current_steps": self.step,
            "total_steps": self.total,
            "loss": loss,
            "lr": rate,
            "epoch": epoch,
            "percentage": round(100 * self.step / self.total, 2),
            "elapsed_time": str(timedelta(seconds=int(self.elapsed))),
            "remaining_time": str(timedelta(seconds=int(remaining))),
        }
        with (self.out / layout.TRAINER_LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.write_state()

    def write_state(self) -> None:
        write.write_json(
            self.out / layout.TRAINER_STATE,
            {
                "epoch": self.epoch,
                "global_step": self.step,
                "max_steps": self.total,
                "num_train_epochs": math.ceil(self.total / self.steps_per_epoch),
                "train_batch_size": self.micro_batch,
                "logging_steps": self.training.logging_steps,
                "save_steps": self.save_steps,
                "log_history": self.history,
            },
        )

    def results(self) -> dict[str, Any]:
        seconds = max(self.elapsed_at_end, 1e-9)
        return {
            "epoch": round(self.epoch, 4),
            "train_loss": math.fsum(self.losses) / len(self.losses),
            "train_runtime": seconds,
            "train_samples_per_second": self.step * self.size / seconds,
            "train_steps_per_second": self.step / seconds,
            "steps": self.step,
            "first_loss": self.losses[0],
            "last_loss": self.losses[-1],
            "rows": len(self.traces),
            "tokens_per_epoch": sum(len(example.ids) for trace in self.traces for example in trace.examples),
            "supervised_tokens_per_epoch": sum(trace.weight for trace in self.traces),
            "trained_token_share": sum(trace.labels for trace in self.traces)
            / sum(trace.answer for trace in self.traces),
            "micro_batch": self.micro_batch,
            "recompute": self.recompute,
            "out_of_memory": self.out_of_memory,
            "resumed_from": self.resumed_from,
        }

    def free(self, *, keep_optimizer: bool = False) -> None:
        """Let go of what only the loop needed."""
        if not keep_optimizer:
            self.elapsed_at_end = self.elapsed
            self.optimizer = self.schedule = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    # 4. -- checkpoints --------------------------------------------------------------------------------------------

    def checkpoint(self, model: Any) -> None:
        """Write everything needed to go on, complete or not at all; the checkpoint before it goes."""
        from safetensors.torch import save_file

        folder = self.out / f"{CHECKPOINT}{self.step}"
        with _complete(folder) as temporary:
            save_file(lora.state(model), str(temporary / "adapter.safetensors"))
            optimizer = self.optimizer.state_dict()
            moments = {f"{at}.{name}": value for at, each in optimizer["state"].items() for name, value in each.items()}
            save_file(moments, str(temporary / "optimizer.safetensors"))
            state = {
                "param_groups": optimizer["param_groups"],
                "schedule": self.schedule.state_dict(),
                "key": self.key,
                "step": self.step,
                "losses": self.losses,
                "history": self.history,
                "micro_batch": self.micro_batch,
                "recompute": self.recompute,
                "out_of_memory": self.out_of_memory,
                "elapsed": self.elapsed,
            }
            (temporary / STATE).write_text(json.dumps(state), encoding="utf-8")
        for other, _ in self.checkpoints():
            if other != folder:
                shutil.rmtree(other)

    def checkpoints(self) -> list[tuple[Path, dict[str, Any]]]:
        """Return the complete checkpoints of this very training, oldest first."""
        found = []
        for file in self.out.glob(f"{CHECKPOINT}*/{STATE}"):
            state = json.loads(file.read_text(encoding="utf-8"))
            if state["key"] == self.key:
                found.append((file.parent, state))
        return sorted(found, key=lambda item: item[1]["step"])

    def resume(self, model: Any) -> None:
        from safetensors.torch import load_file

        found = self.checkpoints()
        if not found:
            return
        folder, state = found[-1]
        lora.restore(model, load_file(str(folder / "adapter.safetensors")))
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in load_file(str(folder / "optimizer.safetensors")).items():
            at, _, name = key.partition(".")
            moments.setdefault(int(at), {})[name] = value
        self.optimizer.load_state_dict({"state": moments, "param_groups": state["param_groups"]})
        self.schedule.load_state_dict(state["schedule"])
        self.step = self.resumed_from = state["step"]
        self.losses, self.history = state["losses"], state["history"]
        self.micro_batch, self.recompute = state["micro_batch"], state["recompute"]
        self.out_of_memory = state["out_of_memory"]
        self.earlier = state["elapsed"]


def batch_loss(model: Any, batch: Batch, *, bf16: bool = False) -> torch.Tensor:
    """Return the weighted sum of the losses at the supervised positions.

    The output layer sees those positions only, which with a large vocabulary is most of the work; whatever a model does
    to its logits afterwards (scaling, capping) still happens.
    """
    head = model.get_output_embeddings()

    def choose(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0][batch.chosen].unsqueeze(0), *inputs[1:])

    hook = head.register_forward_pre_hook(choose)
    try:
        with torch.autocast(batch.input_ids.device.type, torch.bfloat16, enabled=bf16):
            logits = model(**rewind.inputs(model, batch)).logits[0]
    finally:
        hook.remove()
    losses = torch.nn.functional.cross_entropy(batch.at_labels(logits).float(), batch.targets, reduction="none")
    return (losses * batch.weights).sum()


def _recompute(model: Any) -> None:
    """Keep fewer activations. The method's older name is deprecated where the newer one exists."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()


def _step_seed(seed: int, step: int) -> int:
    """Return the seed of a step's dropout, so that a resumed training draws the same."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}".encode()).digest()[:7])


@contextmanager
def _complete(folder: Path) -> Iterator[Path]:
    """Give a folder to fill that gets its name only when it is full."""
    temporary = folder.parent / f".{folder.name}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)
    write.sync_folder(folder.parent)
