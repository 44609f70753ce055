"""The check at the end of every training: what was saved is what was trained.

The adapter is loaded onto a fresh base, then merged, written out as a plain model and loaded once more; a model trained
whole is loaded, written out and loaded again. After each step the model must give the same logits before and after an
undo, and the control tokens must have the rows they were trained to have; embeddings that were tied must be tied still,
and others not. A row that was never saved, or that training never moved, fails here and not in somebody's evaluation.

    before = measure(model, probe, ids)
    figures = check(before, folder, base, probe, ids)
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unsay.errors import TrainingError
from unsay.loading import Quiet, load_model
from unsay.records import UNDO, Row
from unsay.store import write
from unsay.train import lora
from unsay.train.group import close
from unsay.undo import UndoTable

LONGEST_PROBE = 1024

# Largest |difference| of the logits over their largest |value|. In half precision merging rounds every weight once.
TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 5e-2}


@dataclass(frozen=True)
class Base:
    """Where a fresh base model comes from. `rows` as in `load_model`."""

    path: str
    revision: str | None
    device: str
    dtype: str
    trust_remote_code: bool = False
    rows: int = 0
    bits: int | None = None

    def load(self, adapter: Path | None = None, *, merge: bool = False) -> Any:
        return load_model(
            self.path,
            self.revision,
            adapter,
            self.device,
            self.dtype,
            self.trust_remote_code,
            rows=self.rows,
            bits=self.bits,
            merge=merge,
        )


@dataclass(frozen=True)
class Measured:
    """`logits` (positions, vocabulary) from just before the probe's first undo on; `rows` of the control tokens; and
    whether input and output embeddings are `tied`."""

    logits: torch.Tensor
    rows: Mapping[str, torch.Tensor]
    tied: bool


def choose_probe(rows: Sequence[Row]) -> Row:
    """Return the shortest row with an undo; without any the shortest row."""
    undone = [row for row in rows if UNDO in row.provenance]
    return min(undone or rows, key=lambda row: (len(row.prompt_ids) + len(row.ids), row.id))


def measure(model: Any, probe: Row, ids: Sequence[int]) -> Measured:
    """Run the probe through the model, in evaluation mode."""
    first = probe.provenance.find(UNDO)
    start = len(probe.prompt_ids) + max(first, 0) - 1
    start = max(start, 0)
    cut = max(start + 2 - LONGEST_PROBE, 0)
    sequence = (probe.prompt_ids + probe.ids)[cut : cut + LONGEST_PROBE]
    training = model.training
    model.eval()
    with torch.no_grad():
        inputs = torch.tensor([sequence], device=next(model.parameters()).device)
        logits = model(input_ids=inputs, use_cache=False).logits[0, start - cut :].float().cpu()
    close(model)
    model.train(training)
    tied = bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False))
    return Measured(logits, lora.rows_in_use(model, ids) if ids else {}, tied)


def check(
    before: Measured, folder: Path, base: Base, probe: Row, ids: Sequence[int], names: Mapping[int, str]
) -> dict[str, Any]:
    """Return the figures; raise TrainingError unless the adapter in `folder` gives back what was measured."""
    tolerance = TOLERANCE.get(base.dtype, TOLERANCE["bfloat16"])
    model = base.load(folder)
    reloaded = measure(model, probe, ids)
    figures = {
        "tolerance": tolerance,
        "positions": before.logits.shape[0],
        "reloaded": _difference(before, reloaded, "loading what was saved on a fresh base", tolerance, ids, names),
        "tied": before.tied,
    }
    if base.bits is not None:
        del model
        _free()
        model = base.load(folder, merge=True)
    elif hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    with write.scratch(folder) as temporary, Quiet():
        model.save_pretrained(str(temporary))
        del model
        _free()
        merged = measure(
            load_model(str(temporary), None, None, base.device, base.dtype, base.trust_remote_code), probe, ids
        )
    figures["merged"] = _difference(before, merged, "writing a plain model and loading it", tolerance, ids, names)
    _free()
    return figures


def moved(
    before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor], ids: Sequence[int]
) -> dict[int, dict[str, float]]:
    """Return how far each token's rows went, relative to their first length."""
    distances: dict[int, dict[str, float]] = {id: {} for id in ids}
    for side, first in before.items():
        lengths = first.norm(dim=1).clamp_min(1e-12)
        for id, distance in zip(ids, ((after[side] - first).norm(dim=1) / lengths).tolist(), strict=True):
            distances[id][side] = round(distance, 8)
    return distances


def check_moved(
    distances: Mapping[int, Mapping[str, float]], table: UndoTable, required: Sequence[int], sides: Sequence[str]
) -> None:
    """Raise TrainingError where the row of a token that was trained stayed as it began."""
    for id in required:
        for side in sides:
            if side in distances[id] and distances[id][side] < 1e-7:
                raise TrainingError(
                    f"expected training to move the {side} row of {table.names[id]}, got a change of "
                    f"{distances[id][side]:.1e} of its length; raise the learning rate or the number of steps"
                )


def _difference(
    before: Measured, after: Measured, step: str, tolerance: float, ids: Sequence[int], names: Mapping[int, str]
) -> float:
    if after.tied != before.tied:
        raise TrainingError(
            f"expected {step} to leave the embeddings {'tied' if before.tied else 'untied'}, got the opposite; the "
            "result is not usable: report this with the versions of peft and transformers"
        )
    for side, rows in before.rows.items():
        for index, id in enumerate(ids):
            gap = float((after.rows[side][index] - rows[index]).norm() / rows[index].norm().clamp_min(1e-12))
            if not gap <= 1e-6:
                raise TrainingError(
                    f"expected {step} to keep the {side} row of {names[id]}, got a row that differs by {gap:.1e} of "
                    "its length; the result is not usable: train again, and report this with the versions of peft and "
                    "transformers"
                )
    gap = float((after.logits - before.logits).abs().max() / before.logits.abs().max().clamp_min(1e-12))
    if not gap <= tolerance:
        raise TrainingError(
            f"expected {step} to give the same logits within {tolerance:g}, got a difference of {gap:.1e}; the result "
            "is not usable: train again, and report this with the versions of peft and transformers"
        )
    return gap


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
