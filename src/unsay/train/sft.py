"""Masked supervised fine-tuning: rows in, a folder with an adapter or a whole model out.

What is trained on and how it is checked stands here; the steps are in `unsay.train.loop`.

    result = train(rows, model_path="Qwen/Qwen3-0.6B", revision=None, tokenizer=tokenizer, table=table,
                   training=Training(), undo=UndoData(), seed=0, out=Path("train"), device="cuda")

`out` gets the adapter or the model, `undo.json` and the tokenizer where there are control tokens, `trainer_log.jsonl`
and `trainer_state.json` as LLaMA-Factory writes them, `train_results.json` with the figures of the final check, the
loss curve where matplotlib is installed, and the newest checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from unsay.errors import TrainingError
from unsay.loading import QUANTIZATION, UndoFile, find_undo_file, grow, load_model, read_undo_file
from unsay.records import SCHEMA, UNDO, Row
from unsay.settings import Training, UndoData
from unsay.store import layout, write
from unsay.train import full, gate, lora, rewind, tokens
from unsay.train.collate import supervise
from unsay.train.group import ALONE, Group
from unsay.train.loop import Loop, Progress
from unsay.train.traces import Trace, hold_out
from unsay.undo import Mask, UndoTable


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
    group: Group = ALONE,
    memory: Mapping[str, Any] | None = None,
    count: Callable[[int], None] | None = None,
) -> TrainResult:
    """Fine-tune, save, and check what was saved; see the module. Raise TrainingError when the result cannot be trusted.

    `table` holds the control tokens of `tokenizer`. `progress` is called after every optimiser step with the step, the
    number of steps and the loss, `count` before it with the tokens of the step. A second call with the same arguments
    goes on from the newest checkpoint in `out`.

    In a `group` of processes each one calls this; the first writes and checks, and only it has `results` to return.
    Where a sharded one runs out of memory, StartAgainError says with which `memory` to call this in new processes.
    """
    rows = rows if training.max_samples is None else rows[: training.max_samples]
    rows, too_long = _short_enough(rows, training)

    # 1. A fresh base with a row for every token, and what adapts.
    tuning = full if training.finetuning_type == "full" else lora
    base = gate.Base(
        model_path,
        revision,
        device,
        "float32" if tuning is full else dtype_of(training, device),
        trust_remote_code,
        bits=training.quantization_bit,
    )
    model = load_model(
        model_path, revision, None, device, base.dtype, trust_remote_code, bits=training.quantization_bit
    )
    _check_positions(model, rows)
    known = _known(model_path, revision, table)
    row_ids = _row_ids(rows, table, undo, known)
    rows_needed = max((id + 1 for id in table.actions), default=0)
    grown = grow(model, rows_needed)
    if undo is not None:
        tokens.initialise(model, tokenizer, table, undo.init, keep=known.trained)
    torch.manual_seed(seed)
    model = tuning.attach(model, training, row_ids)
    first_rows = tuning.trained_rows(model, row_ids)

    # 2. The steps.
    rewinds = undo is not None and undo.context == "rewind"
    packed = rewinds and rewind.packs(model, rows, table, gate.TOLERANCE.get(base.dtype, 0.0))
    traces, held_out = hold_out(_traces(rows, table, undo, packed=packed), training.val_size, seed)
    loop = Loop(
        traces,
        held_out,
        training,
        tuning,
        row_ids,
        seed,
        out,
        device,
        key=_key(traces, training, undo, seed, model_path, revision, table),
        bf16=dtype_of(training, device) == "bfloat16",
        progress=progress,
        count=count,
        group=group,
        memory=memory or {},
    )
    group.take(model)
    loop.train(model)

    # 3. What is kept, and whether it is what was trained.
    loop.end()
    tuning.save(model, out, group)
    whole = tuning is full
    if group.first:
        rows_kept = rows_needed if grown and not whole else 0
        _save_beside(out, tokenizer, table, known, undo, row_ids, rows_kept, base, whole)
    distances = gate.moved(first_rows, tuning.trained_rows(model, row_ids), row_ids)
    required = [id for id in row_ids if any(trace.asks_for(id) for trace in traces)]
    gate.check_moved(
        distances, table, required, ("output", "input") if not rewinds or len(first_rows) < 2 else ("output",)
    )
    probe = gate.choose_probe(rows)
    before = gate.measure(model, probe, row_ids)
    del model
    if not group.first:
        return TrainResult(out, loop.step, tuple(loop.losses), {})
    figures = gate.check(before, out, base, probe, row_ids, table.names)
    figures["rows_moved"] = {table.names[id]: sides for id, sides in distances.items()}

    results = loop.results() | {"dtype": base.dtype, "rows_too_long": too_long, "gate": figures}
    if rewinds:
        results["rewind_rows"] = "packed" if packed else "split"
    write.write_json(out / layout.TRAIN_RESULTS, results)
    return TrainResult(out, loop.step, tuple(loop.losses), results)


# -- before the loop --------------------------------------------------------------------------------------------------


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


def _check_positions(model: Any, rows: Sequence[Row]) -> None:
    """Raise TrainingError for a row that does not fit into the model's context."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 0
    longest = max(rows, key=lambda row: len(row.prompt_ids) + len(row.ids))
    length = len(longest.prompt_ids) + len(longest.ids)
    if 0 < positions < length:
        raise TrainingError(
            f"expected rows of at most {positions} tokens, the positions this model has, got {length} in row "
            f"{longest.id}; set cutoff_len: {positions}"
        )


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
        depth = max(map(len, re.findall(f"{UNDO}+", row.provenance)), default=0)
        length = len(row.prompt_ids) + len(row.ids)
        traces.append(Trace(tuple(examples), row.prompt_ids, length, len(row.ids), depth))
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


# What a training may be stopped and gone on with otherwise: where, how fast and how chattily it goes.
_SPLIT = (
    "auto_find_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "logging_steps",
    "per_device_train_batch_size", "report_to", "save_steps",
)  # fmt: skip


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
    settings = {name: value for name, value in asdict(training).items() if name not in _SPLIT}
    size = training.per_device_train_batch_size * training.gradient_accumulation_steps
    init = None if undo is None else undo.init
    digest = hashlib.sha256(
        json.dumps([settings, size, init, seed, model_path, revision, table.sha256()], sort_keys=True).encode()
    )
    for trace in traces:
        for example in trace.examples:
            digest.update(repr((example.ids, example.targets, example.weights, example.more)).encode())
    return digest.hexdigest()


def _save_beside(
    out: Path,
    tokenizer: Any,
    table: UndoTable,
    known: UndoFile,
    undo: UndoData | None,
    row_ids: Sequence[int],
    rows: int,
    base: gate.Base,
    whole: bool,
) -> None:
    """Write what lies beside the weights: how they are to be loaded, and what their control tokens mean."""
    if whole or table:
        with write.filling(out) as beside:
            tokenizer.save_pretrained(str(beside))
    if base.bits is not None:
        write.write_json(out / QUANTIZATION, {"schema": SCHEMA, "bits": base.bits})
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
