"""`unsay export`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unsay.cli import _lab

if TYPE_CHECKING:
    from unsay.config import Model


class _Dtype(StrEnum):
    AUTO = "auto"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


def command(
    experiment: Annotated[str, typer.Argument(metavar="ID", help="A finished sft experiment: its id or folder.")],
    folder: Annotated[Path, typer.Argument(help="The folder to write; it must not be there yet.")],
    dtype: Annotated[
        _Dtype, typer.Option(help="Number format of the weights; auto: that of the base model's files.")
    ] = _Dtype.AUTO,
    output_dir: _lab.OutputDir = _lab.DEFAULT,
    as_json: _lab.Json = False,
) -> None:
    """Write a trained model as a plain one: merged safetensors, tokenizer, undo.json."""
    from unsay import config
    from unsay.errors import StoreError
    from unsay.store import layout, shared, write

    if os.path.lexists(folder):
        raise StoreError(f"{folder} is there already, and nothing is written over; name a folder that is not there yet")
    lab = _lab.existing(output_dir)
    entry = _lab.pick(lab, experiment)
    training = shared.training_folder(entry.folder, lab)
    with write.lock(training, shared=True):
        model = config.trained_model(entry.folder, lab)
        written = _written(model, layout.train(training), folder, dtype.value)
    if as_json:
        _lab.print_json({"schema": 1, "id": entry.name, "folder": str(folder), "base_model": model.path, **written})
        return
    controls = ", ".join(f"{name} is id {id}" for name, id in written["controls"].items())
    print(f"{entry.name} as a plain model ({written['type']}, {written['dtype']}) in {folder}")
    if controls:
        _lab.say(f"It takes tokens back ({controls}): resolve its ids with undo.json before making text of them.")


def _written(model: Model, adapter: Path, folder: Path, dtype: str) -> dict[str, Any]:
    """Let a process of its own, which may load weights, write the model beside the folder; then give it its name."""
    from unsay.errors import StoreError
    from unsay.store import layout, write

    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=layout.TEMPORARY_PREFIX, dir=folder.parent))
    try:
        order = beside / "order.json"
        order.write_text(
            json.dumps(
                {"model": asdict(model), "adapter": str(adapter), "folder": str(beside / "model"), "dtype": dtype}
            )
        )
        (beside / "model").mkdir()
        command = [sys.executable, "-m", "unsay.merge", str(order)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        answer = json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {}
        if done.returncode or "error" in answer:
            reason = answer.get("error", f"the process that writes it ended with code {done.returncode}")
            raise StoreError(f"{folder} was not written: {reason}")
        if os.path.lexists(folder):
            raise StoreError(f"{folder} has appeared meanwhile, and nothing is written over; name another folder")
        (beside / "model").rename(folder)
        write.sync_folder(folder.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return dict(answer)
