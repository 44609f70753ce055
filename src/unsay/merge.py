"""One plain model out of a finished training: its adapter folded into the weights, for tools that know no adapters.

    python -m unsay.merge order.json       # a JSON line on standard output

An order has `model` (a `config.Model` as JSON), `adapter` (the folder of the training), `folder` (an empty one to write
into) and `dtype` (`auto`: the number format of the base model's files). The folder gets safetensors, the tokenizer with
the chat template that was trained with, every end token in `generation_config.json`, and `undo.json`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from unsay import loading
from unsay.config import Model
from unsay.errors import UnsayError
from unsay.evaluate.setup import open_model
from unsay.store import layout, write


def build(order: Mapping[str, Any]) -> dict[str, Any]:
    """Write the model; return what it is. Raises ModelError when base model or adapter cannot be loaded."""
    folder, adapter, base = Path(order["folder"]), Path(order["adapter"]), Model(**order["model"])
    opened = open_model(base, device="cpu", dtype="float32", adapter=adapter)
    model = loading.load_model(
        base.path, base.revision, adapter, "cpu", order["dtype"], base.trust_remote_code, merge=True
    )
    end_ids = sorted(opened.prompter.end_ids)
    model.generation_config.eos_token_id = end_ids[0] if len(end_ids) == 1 else end_ids
    with loading.Quiet():
        model.save_pretrained(str(folder))
        opened.tokenizer.chat_template = opened.template
        opened.tokenizer.save_pretrained(str(folder))
    undo = loading.find_undo_file(base.path, base.revision, adapter)
    if opened.table:
        known = loading.UndoFile(opened.table, trained=tuple(opened.table.actions))
        found = known if undo is None else loading.read_undo_file(undo)
        # The rows are in the weights now: nothing has to be added to them, and no other model lies below.
        merged = replace(found, rows=0, base_model=None)
        write.write_json(folder / layout.UNDO_TABLE, merged.to_json())
    return {
        "type": model.config.model_type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "rows": int(model.get_input_embeddings().weight.shape[0]),
        "controls": {name: id for id, name in opened.table.names.items()},
    }


def main() -> int:
    try:
        answer = build(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    except UnsayError as error:
        answer = {"error": str(error)}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main())
