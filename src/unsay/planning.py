"""What a plan will do, as plain rows for `unsay run --dry-run` and its `--json`. Nothing is loaded or written.

for row in plan_lines(plan):
    print(row["id"], row["folder"], row["optimiser_steps"])
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from unsay.config import Dataset, Experiment, Plan
from unsay.preflight import split_files
from unsay.settings import Settings, Training
from unsay.store import layout


def plan_lines(plan: Plan) -> list[dict[str, Any]]:
    """Return one row per experiment, in the order of the file: what it uses, where it writes, how long it trains.

    `changed` holds the settings that differ from unsay's defaults. `train_rows` and `optimiser_steps` are None where
    the dataset is not local; rows that turn out too long are refused later, so they are upper bounds.
    """
    return [_row(experiment, plan.output_dir) for experiment in plan.experiments]


def changed(settings: Settings) -> dict[str, Any]:
    """Return the settings that differ from the defaults, by dotted name."""
    found: dict[str, Any] = {}
    for section in ("prompting", "decode", "training", "undo"):
        part = getattr(settings, section)
        if part is None:
            continue
        default = type(part)()
        for item in dataclasses.fields(part):
            value = getattr(part, item.name)
            # Where there is undo data, its strategy is worth reading even if it is the default one.
            if value != getattr(default, item.name) or (section, item.name) == ("undo", "strategy"):
                found[f"{section}.{item.name}"] = value
    return found


def decoding(settings: Settings) -> str:
    """Return in words how answers are generated."""
    decode = settings.decode
    words = ["greedy"]
    if decode.do_sample:
        words = [f"sampled, temperature {decode.temperature:g}"]
        words += [f"top_p {decode.top_p:g}"] if decode.top_p < 1 else []
        words += [f"top_k {decode.top_k}"] if decode.top_k else []
    words.append(f"{decode.max_new_tokens} new tokens")
    if decode.undo == "ban":
        words.append("undo banned")
    elif decode.undo_context == "rewind":
        words.append("undo rewinds the context")
    return ", ".join(words)


def optimiser_steps(training: Training, rows: int) -> int:
    """Return how many steps training takes on so many rows (one device)."""
    if training.max_steps > 0:
        return training.max_steps
    if training.val_size:
        rows -= max(1, round(training.val_size * rows))
    batches = math.ceil(rows / training.per_device_train_batch_size)
    per_epoch = max(1, math.ceil(batches / training.gradient_accumulation_steps))
    return math.ceil(training.num_train_epochs * per_epoch)


def train_rows(dataset: Dataset, limit: int | None = None) -> int | None:
    """Count the training questions of a local dataset; None where that needs a download."""
    if not dataset.is_local:
        return None
    place = Path(dataset.path or "")
    file = place if place.is_file() else next((f for f in split_files(place) if f.stem == "train"), None)
    if file is None:
        return None
    try:
        with file.open(encoding="utf-8-sig") as lines:
            count = len(json.load(lines)) if file.suffix == ".json" else sum(1 for line in lines if line.strip())
    except (OSError, ValueError, TypeError):
        return None
    count = round(count * (1 - dataset.dev_share))
    return count if limit is None else min(count, limit)


def _row(experiment: Experiment, output_dir: Path) -> dict[str, Any]:
    settings, model, dataset = experiment.settings, experiment.model, experiment.dataset
    training = settings.training
    rows = None if training is None else train_rows(dataset, training.max_samples)
    train_folder = None if experiment.train_folder is None else output_dir / experiment.train_folder
    adapter = model.adapter
    if model.experiment is not None:
        adapter = str(layout.train(output_dir / model.experiment))
    return {
        "id": experiment.id,
        "title": experiment.title,
        "model": model.name,
        "model_path": model.path,
        "revision": model.revision,
        "adapter": adapter,
        "template": model.template,
        "dataset": dataset.name,
        "dataset_path": dataset.path,
        "task": dataset.task,
        "format": dataset.format,
        "method": experiment.method,
        "config": experiment.config,
        "seed": experiment.seed,
        "folder": str(output_dir / experiment.folder),
        "train_folder": None if train_folder is None else str(train_folder),
        "changed": changed(settings),
        "decoding": decoding(settings),
        "train_rows": rows,
        "optimiser_steps": None
        if training is None or (rows is None and training.max_steps < 1)
        else optimiser_steps(training, rows or 0),
        "line": experiment.line,
        "notes": experiment.notes,
    }
