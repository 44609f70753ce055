"""TRL's own trainer loads what is exported for it, and takes its step on exactly these ids and labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.train.test_sft import Setting
from unsay.data.export import NO_LOSS, trl, write_file


def test_one_step_of_sft_trainer(tiny_models: Callable[..., Path], tmp_path: Path) -> None:
    import torch
    from datasets import load_dataset
    from torch.nn.functional import cross_entropy
    from trl import SFTConfig, SFTTrainer

    from unsay.loading import load_model

    setting = Setting(tiny_models())
    write_file(tmp_path / "rows.jsonl", trl(setting.rows, "errors"))
    exported = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    model = load_model(setting.path, None).requires_grad_(True)
    with torch.no_grad():
        losses = []
        for line in exported:
            logits = model(input_ids=torch.tensor([line["input_ids"]])).logits[0, :-1]
            losses.append(
                cross_entropy(logits, torch.tensor(line["labels"][1:]), ignore_index=NO_LOSS, reduction="sum")
            )
    supervised = sum(label != NO_LOSS for line in exported for label in line["labels"][1:])
    seen: list[dict[str, Any]] = []

    class Watched(SFTTrainer):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: dict[str, Any], *rest: Any, **options: Any) -> Any:
            seen.append({name: inputs[name].tolist() for name in ("input_ids", "labels")})
            return super().compute_loss(model, inputs, *rest, **options)

    trainer = Watched(
        model=model,
        args=SFTConfig(
            output_dir=str(tmp_path / "out"),
            per_device_train_batch_size=len(exported),
            max_steps=1,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            max_length=None,
            disable_tqdm=True,
        ),
        train_dataset=load_dataset("json", data_files=str(tmp_path / "rows.jsonl"), split="train"),
        processing_class=setting.tokenizer,
    )
    before = model.get_input_embeddings().weight.detach().clone()
    trainer.train()
    assert not torch.equal(before, model.get_input_embeddings().weight)
    (batch,) = seen
    rows = zip(batch["input_ids"], batch["labels"], strict=True)
    # Padding, which has no loss, stands behind.
    got = sorted((ids[:length], labels[:length]) for ids, labels in rows for length in [_length(labels)])
    assert got == sorted((line["input_ids"], line["labels"]) for line in exported)
    logged = next(line["loss"] for line in trainer.state.log_history if "loss" in line)
    assert logged == pytest.approx(float(sum(losses)) / supervised, rel=1e-4)
    control = setting.table.control("pop")
    assert all(control in labels for labels in batch["labels"]), "taking back is learnt"


def _length(labels: list[int]) -> int:
    """A row ends with its end token, which has a loss."""
    return max(at for at, label in enumerate(labels) if label != NO_LOSS) + 1
