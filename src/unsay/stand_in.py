"""Tiny random models that take the place of large ones in a rehearsal: the same architecture, vocabulary and template.

    python -m unsay.stand_in order.json       # a JSON line per model on standard output

An order is a list of objects: `folder` to write; `path` and `revision` of the true model; `local`, whether its files
may be read; `shape`, a `models.Shape` as JSON, where no file may be; `adapter`, the folder of an adapter or null. What
is local gives its own config, tokenizer, template and undo table. Otherwise the family file gives shape, special tokens
and template, and the bundled model the tokenizer, with as many ids as the true vocabulary. Nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unsay import loading, models
from unsay.errors import ModelError, UnsayError
from unsay.store import layout

LAYERS, HEAD_DIM, HEADS = 2, 16, 4
INTERMEDIATE = 128
BUNDLED = Path(__file__).parent / "assets" / "unsay-tiny"

# Sizes that configs of many architectures have, and what they are here.
_EXPERTS = {"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2}
_WIDTHS = {"moe_intermediate_size": 64, "shared_expert_intermediate_size": 64, "max_window_layers": LAYERS}


def build(order: Mapping[str, Any]) -> dict[str, Any]:
    """Write one stand-in; return what it is."""
    folder = Path(order["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    if order["local"]:
        config = loading.load_config(order["path"], order["revision"])
        tokenizer = loading.load_tokenizer(order["path"], order["revision"], adapter=_path(order["adapter"]))
        undo = loading.find_undo_file(order["path"], order["revision"], _path(order["adapter"]))
        if undo is not None:
            shutil.copyfile(undo, folder / layout.UNDO_TABLE)
    else:
        config = _config(models.Shape(**order["shape"]))
        tokenizer = bundled_tokenizer(config.model_type, config.vocab_size)
        config.eos_token_id, config.bos_token_id = tokenizer.eos_token_id, tokenizer.bos_token_id
    tokenizer.save_pretrained(str(folder))
    rows = _write(config, folder)
    return {"folder": str(folder), "type": config.model_type, "rows": rows, "layers": LAYERS}


def bundled_tokenizer(model_type: str, vocabulary: int) -> Any:
    """Return the bundled tokenizer with the special tokens and the template of a family, padded to its vocabulary.

    The padding is ids that no text becomes but that a strategy may draw and a model may sample, as the true vocabulary
    has them.
    """
    from tokenizers import AddedToken, Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    parts = models.family_of(model_type).stand_in
    source = json.loads((BUNDLED / "tokenizer.json").read_text(encoding="utf-8"))
    kept = {token["content"] for token in source["added_tokens"]}
    words = {word: id for word, id in source["model"]["vocab"].items() if word not in kept}
    ordered = sorted(words, key=words.__getitem__)
    missing = vocabulary - len(ordered) - len(parts.specials) - 16  # rows to spare for control tokens
    ordered += [f"<filler {number}>" for number in range(max(missing, 0))]
    source["model"]["vocab"] = {word: id for id, word in enumerate(ordered)}
    source["added_tokens"] = []
    backend = Tokenizer.from_str(json.dumps(source))
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in parts.specials])
    if parts.begin is not None:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{parts.begin} $A", special_tokens=[(parts.begin, backend.token_to_id(parts.begin))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=parts.end, pad_token=parts.specials[0], bos_token=parts.begin
    )
    tokenizer.chat_template = parts.template
    return tokenizer


def _config(shape: models.Shape) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(
        shape.model_type,
        vocab_size=shape.vocabulary,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        max_position_embeddings=shape.max_length,
        tie_word_embeddings=shape.tied,
        pad_token_id=None,
    )


def _write(config: Any, folder: Path) -> int:
    """Write random weights for a config made small; return the rows of its embedding."""
    import torch
    from transformers import AutoModelForCausalLM

    text = config.get_text_config()
    groups = max(text.num_attention_heads // (getattr(text, "num_key_value_heads", None) or 1), 1)
    heads = max(HEADS, groups)
    sizes: dict[str, Any] = {
        "num_hidden_layers": LAYERS,
        "num_attention_heads": heads,
        "num_key_value_heads": max(heads // groups, 1),
        "head_dim": HEAD_DIM,
        "hidden_size": heads * HEAD_DIM,
        "intermediate_size": INTERMEDIATE,
        **_EXPERTS,
        **_WIDTHS,
    }
    for name, size in sizes.items():
        if getattr(text, name, None) is not None:
            setattr(text, name, size)
    kinds = getattr(text, "layer_types", None)
    if kinds:  # one layer of each kind, where there are two
        text.layer_types = [kinds[0], next((kind for kind in kinds if kind != kinds[0]), kinds[0])]
    torch.manual_seed(0)
    with loading.Quiet():
        try:
            model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            model.save_pretrained(str(folder))
        except Exception as error:
            raise ModelError(
                f"expected a model of type {config.model_type} that can be made small, got: {error}; "
                "this one cannot be rehearsed, run it with --limit 8 where its weights fit"
            ) from error
    return int(model.get_input_embeddings().weight.shape[0])


def _path(written: str | None) -> Path | None:
    return None if written is None else Path(written)


def main() -> int:
    os.environ["HF_HUB_OFFLINE"] = "1"  # before anything reads it: a rehearsal asks nobody
    for order in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        try:
            answer = build(order)
        except UnsayError as error:
            answer = {"folder": order["folder"], "error": str(error)}
        except Exception as error:
            answer = {"folder": order["folder"], "error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
