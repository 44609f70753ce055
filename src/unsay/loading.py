"""Models, adapters and tokenizers from a folder or a hub id, and which of their tokens take tokens back.

Weights come from safetensors only. Nothing heavy is imported before a function needs it. Knows nothing about prompts
(`unsay.prompts`) or about what an undo means (`unsay.undo`).

    tokenizer = load_tokenizer("Qwen/Qwen3-0.6B", None)
    table = undo_table(tokenizer, family_of(load_config(path, None).model_type), with_undo=True)
    model = load_model("Qwen/Qwen3-0.6B", None, adapter=Path("train"), device="cpu", dtype="float32")

`undo.json` lies beside an adapter or beside weights. It is the undo table with these members more:

    context     keep or rewind: what the model saw of a retracted token in training; null where nothing says
    trained     control ids whose embedding rows the weights beside it already know; absent: all of them
    rows        embedding rows the base model must have for these ids, 0 where it has them anyway
    base_model  for an adapter: path and revision of the weights below it

A folder that training wrote holds an adapter, or a whole model where every weight was trained; both are handed over as
`adapter`. `quantization.json` beside an adapter says in how many bits the weights below it were when it was trained.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from unsay.errors import ModelError, UndoError
from unsay.models import Family
from unsay.store import layout
from unsay.undo import ACTION_KINDS, EMPTY, Action, ActionKind, UndoTable

Context = Literal["keep", "rewind"]

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
QUANTIZATION = "quantization.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


@dataclass(frozen=True)
class UndoFile:
    """What `undo.json` says."""

    table: UndoTable
    context: Context | None = None
    trained: tuple[int, ...] = ()
    rows: int = 0
    base_model: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return self.table.to_json() | {
            "context": self.context,
            "trained": list(self.trained),
            "rows": self.rows,
            "base_model": None if self.base_model is None else dict(self.base_model),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> UndoFile:
        table = UndoTable.from_json(value)
        return cls(
            table=table,
            context=value.get("context"),
            trained=tuple(int(id) for id in value.get("trained", table.actions)),
            rows=int(value.get("rows", 0)),
            base_model=value.get("base_model"),
        )


def read_undo_file(file: Path) -> UndoFile:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        return UndoFile.from_json(value if isinstance(value, dict) else {})
    except OSError as error:
        raise ModelError(
            f"expected an undo table at {file}, got {error.strerror}; train again, or copy it back"
        ) from error
    except (ValueError, UndoError) as error:
        raise ModelError(f"{file}: expected an undo table, got: {error}; train again, or copy it back") from error


def find_undo_file(path: str, revision: str | None, adapter: Path | None = None) -> Path | None:
    """Return the `undo.json` beside the adapter, else the one beside the weights, else None."""
    if adapter is not None and (adapter / layout.UNDO_TABLE).is_file():
        return adapter / layout.UNDO_TABLE
    if Path(path).is_dir():
        file = Path(path) / layout.UNDO_TABLE
        return file if file.is_file() else None
    if Path(path).is_absolute():
        return None
    from transformers.utils.hub import cached_file

    found = cached_file(
        path,
        layout.UNDO_TABLE,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return None if found is None else Path(found)


def load_config(path: str, revision: str | None, trust_remote_code: bool = False) -> Any:
    """Return the transformers config of a model."""
    from transformers import AutoConfig

    _check_folder(path, "model")
    with Quiet():
        try:
            return AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
        except Exception as error:
            raise _explain(error, "a model's config.json", path) from error


def load_tokenizer(
    path: str, revision: str | None, trust_remote_code: bool = False, *, adapter: Path | None = None
) -> Any:
    """Return the tokenizer of a model; the one in the adapter's folder where that has one."""
    from transformers import AutoTokenizer

    if adapter is not None and any((adapter / name).is_file() for name in TOKENIZER_FILES):
        path, revision = str(adapter), None
    _check_folder(path, "tokenizer")
    with Quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
        except Exception as error:
            raise _explain(error, "a tokenizer (tokenizer.json)", path) from error
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"expected a fast tokenizer (tokenizer.json) in {path}, got {type(tokenizer).__name__}; "
            "convert it with tokenizers, or take a model that ships tokenizer.json"
        )
    if len(tokenizer) == 0:
        raise ModelError(f"expected a tokenizer in {path}, got one without any token; copy tokenizer.json there")
    return tokenizer


def undo_table(
    tokenizer: Any,
    family: Family,
    table_file: Path | None = None,
    *,
    with_undo: bool = False,
    actions: Sequence[ActionKind] = ("pop",),
) -> UndoTable:
    """Return which ids of this tokenizer take tokens back; the tokenizer learns those it lacks.

    The file decides where there is one: its tokens must have, or get, exactly the ids it names. Otherwise tokens that
    mean undo by their name count. `with_undo` then makes sure that there is one for each of `actions`, taking the
    family's preferred token and adding it where it is missing. A tokenizer without any gives the empty table.
    """
    found: dict[int, Action] = {}
    names: dict[int, str] = {}
    if table_file is not None:
        table = read_undo_file(table_file).table
        for id, token in table.names.items():
            _give(tokenizer, token, id)
            found[id], names[id] = table.actions[id], token
    else:
        vocabulary = tokenizer.get_vocab()
        for kind, candidates in family.undo_tokens.items():
            implied = next((name for name in candidates if name in family.implied and name in vocabulary), None)
            if implied is not None:
                id = _give(tokenizer, implied)
                found[id], names[id] = Action(_kind(kind)), implied
    if with_undo:
        for kind in actions:
            if Action(kind) in found.values():
                continue
            candidates = family.undo_tokens[kind]
            vocabulary = tokenizer.get_vocab()
            token = next((name for name in candidates if name in vocabulary), candidates[0])
            id = _give(tokenizer, token)
            found[id], names[id] = Action(kind), token
    if not found:
        return EMPTY
    needs_lines = any(action.kind == "pop_line" for action in found.values())
    return UndoTable(found, names, newline_ids(tokenizer) - set(found) if needs_lines else frozenset())


def newline_ids(tokenizer: Any) -> frozenset[int]:
    """Return the ids whose text contains a line break."""
    special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    ids = [id for id in tokenizer.get_vocab().values() if id not in special]
    texts = tokenizer.batch_decode([[id] for id in ids], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return frozenset(id for id, text in zip(ids, texts, strict=True) if "\n" in text)


def eos_ids(path: str, revision: str | None, tokenizer: Any, trust_remote_code: bool = False) -> frozenset[int]:
    """Return every id that ends a text, after the tokenizer, the config and the generation config of the model."""
    from transformers import GenerationConfig

    named: list[Any] = [tokenizer.eos_token_id]
    named.append(getattr(load_config(path, revision, trust_remote_code), "eos_token_id", None))
    try:
        with Quiet():
            where: dict[str, Any] = {"revision": revision}
            named.append(GenerationConfig.from_pretrained(path, **where).eos_token_id)
    except (OSError, ValueError):
        pass  # most small models ship none
    flat = [id for item in named for id in (item if isinstance(item, Sequence) else [item])]
    return frozenset(int(id) for id in flat if id is not None)


def load_model(
    path: str,
    revision: str | None,
    adapter: Path | None = None,
    device: str = "cpu",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    *,
    merge: bool = False,
    rows: int = 0,
    bits: int | None = None,
) -> Any:
    """Return a causal language model in evaluation mode, with the adapter on it or (`merge`) folded into its weights.

    `dtype` is a torch dtype's name or "auto" for the one in the files. `rows` is how many embedding rows the vocabulary
    needs: only a model with fewer is resized. `bits` 4 holds the linear layers in four bits, as does an adapter that
    was trained on such weights; merging then gives plain weights, with the values those had.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if adapter is not None and is_whole(adapter):
        path, revision, adapter = str(adapter), None, None
    _check_folder(path, "model")
    kind = dtype if dtype == "auto" else getattr(torch, dtype)
    bits = bits or _adapter_bits(adapter)
    options = {} if bits is None else {"quantization_config": _quantization(bits, kind), "device_map": {"": device}}
    with Quiet():
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(
                path,
                revision=revision,
                dtype=kind,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                **options,
            )
        except Exception as error:
            raise _explain(error, "a causal language model in safetensors format", path) from error
        if bits is None:
            model.to(device)
        elif merge:
            model = _plain(model, kind)
        else:
            _keep_values(model)
        grow(model, max(rows, _adapter_rows(adapter)))
        if adapter is not None:
            model = _with_adapter(model, adapter, merge)
    model.requires_grad_(False)
    model.eval()
    return model


def is_whole(folder: Path) -> bool:
    """Say whether a folder that training wrote holds a whole model instead of an adapter."""
    return (folder / "config.json").is_file() and not (folder / ADAPTER_CONFIG).is_file()


def _adapter_bits(adapter: Path | None) -> int | None:
    if adapter is None or not (adapter / QUANTIZATION).is_file():
        return None
    return int(json.loads((adapter / QUANTIZATION).read_text(encoding="utf-8"))["bits"])


def _quantization(bits: int, dtype: Any) -> Any:
    from transformers import BitsAndBytesConfig

    if bits != 4:
        raise ModelError(f"quantization_bit: expected 4, got {bits}")
    try:
        import bitsandbytes  # noqa: F401
    except Exception as error:  # a build for another machine fails in its own ways
        raise ModelError(
            f"expected bitsandbytes for weights in {bits} bits (quantization_bit), got: {_first_line(error)}; "
            "install it with `pip install bitsandbytes`, or leave quantization_bit out"
        ) from error
    options: dict[str, Any] = {} if isinstance(dtype, str) else {"bnb_4bit_compute_dtype": dtype}
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, **options)


def _keep_values(model: Any) -> None:
    """Keep bitsandbytes from packing its layers anew at their first use on processors with bfloat16 instructions.

    That rounds scales and products to bfloat16, and breaks where a layer is narrower than a block.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _plain(model: Any, dtype: Any) -> Any:
    """Turn weights in few bits into ordinary ones of the same values."""
    model = model.dequantize()
    return model if isinstance(dtype, str) else model.to(dtype)


def grow(model: Any, rows: int) -> bool:
    """Give the model at least `rows` embedding rows; say whether it had to change.

    A new row is the mean of the old ones, the same at every load; `unsay.train.tokens` or an adapter sets what matters.
    """
    import torch

    before = model.get_input_embeddings().weight.shape[0]
    if rows <= before:
        return False
    with Quiet(), torch.no_grad():
        model.resize_token_embeddings(rows, mean_resizing=False)
        for module in (model.get_input_embeddings(), model.get_output_embeddings()):
            if module is not None:
                module.weight[before:] = module.weight[:before].float().mean(0).to(module.weight.dtype)
    return True


def _with_adapter(model: Any, adapter: Path, merge: bool) -> Any:
    from peft import PeftModel

    for name, what in ((ADAPTER_CONFIG, "its settings"), (ADAPTER_WEIGHTS, "its weights in safetensors format")):
        if not (adapter / name).is_file():
            raise ModelError(
                f"expected an adapter with {name} ({what}) in {adapter}, got "
                f"{_listing(adapter)}; give the folder that training wrote, or save the adapter as safetensors"
            )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns about names that transformers deprecated
            model = PeftModel.from_pretrained(model, str(adapter))
    except Exception as error:
        raise ModelError(
            f"expected the adapter in {adapter} to fit the model, got: {_first_line(error)}; "
            "check that `path` names the model the adapter was trained on"
        ) from error
    return model.merge_and_unload() if merge else model


def _adapter_rows(adapter: Path | None) -> int:
    """Return how many embedding rows an adapter expects: after `undo.json`, and after any full embedding it carries."""
    if adapter is None:
        return 0
    rows = 0
    if (adapter / layout.UNDO_TABLE).is_file():
        rows = read_undo_file(adapter / layout.UNDO_TABLE).rows
    if (adapter / ADAPTER_WEIGHTS).is_file():
        from safetensors import safe_open

        with safe_open(adapter / ADAPTER_WEIGHTS, framework="np") as file:
            for key in file.keys():  # noqa: SIM118  (not a mapping)
                if ("embed_tokens" in key or "lm_head" in key) and key.endswith(".weight") and "lora_" not in key:
                    rows = max(rows, file.get_slice(key).get_shape()[0])
    return rows


def _kind(name: str) -> ActionKind:
    assert name in ACTION_KINDS, name
    return cast(ActionKind, name)


def _give(tokenizer: Any, token: str, wanted: int | None = None) -> int:
    """Make `token` one special token of the tokenizer and return its id."""
    from transformers import AddedToken

    known = tokenizer.added_tokens_decoder.get(tokenizer.get_vocab().get(token))
    if known is None or not known.special or known.lstrip or known.rstrip:
        added = AddedToken(token, special=True, normalized=False, lstrip=False, rstrip=False, single_word=False)
        tokenizer.add_tokens([added], special_tokens=True)
    id = int(tokenizer.convert_tokens_to_ids(token))
    if wanted is not None and id != wanted:
        raise ModelError(
            f"expected the control token {token} to have id {wanted}, as it was trained, got {id}; "
            "use the tokenizer that lies beside the adapter"
        )
    ids = tokenizer.encode(token, add_special_tokens=False)
    text = tokenizer.decode([id], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if ids != [id] or text != token:
        raise ModelError(
            f"expected the control token {token} to be one token that decodes to itself, got ids {ids} and text "
            f"{text!r}; choose a tokenizer that supports added special tokens"
        )
    return id


def _check_folder(path: str, what: str) -> None:
    """Refuse a local path that is not there before the hub is asked for it."""
    looks_local = Path(path).is_absolute() or path.startswith((".", "~"))
    if looks_local and not Path(path).is_dir():
        raise ModelError(
            f"expected a {what} folder at {path}, got nothing there; check the path in the experiment file"
        )


def _explain(error: Exception, expected: str, path: str) -> ModelError:
    """Turn what transformers raised into expected, got, what to do next."""
    chain = f"{type(error).__name__} {error} {type(error.__cause__).__name__}".lower()
    if "gated" in chain:
        advice = f"ask for access at https://huggingface.co/{path}, then log in with `hf auth login`"
        got = "a gated repository that this login may not read"
    elif "trust_remote_code" in chain:
        advice = "set `trust_remote_code: true` for this model after reading that code"
        got = "a model that brings its own code"
    elif Path(path).is_dir():
        got = _listing(Path(path))
        advice = "copy the missing file there, or convert the weights to safetensors"
    elif "connect" in chain or "offline" in chain:
        got = "no connection to the hub and no copy in the cache"
        advice = f"run `hf download {path}` where there is a network, or give a local folder"
    else:
        got = _first_line(error)
        advice = "check the hub id and the revision"
    return ModelError(f"expected {expected} at {path}, got {got} ({_first_line(error)}); {advice}")


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _listing(folder: Path) -> str:
    if not folder.is_dir():
        return "no such folder"
    names = sorted(entry.name for entry in folder.iterdir())
    return "an empty folder" if not names else f"only {', '.join(names[:12])}{', …' if len(names) > 12 else ''}"


class Quiet:
    """No progress bars and no advice from the libraries while something is loaded; real errors still raise."""

    LOGGERS: Collection[str] = ("transformers", "peft", "accelerate")

    def __enter__(self) -> None:
        hf_logging = self._hf_logging()
        self.bars = hf_logging.is_progress_bar_enabled()
        hf_logging.disable_progress_bar()
        self.levels = {name: logging.getLogger(name).level for name in self.LOGGERS}
        for name in self.LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        hf_logging = self._hf_logging()
        if self.bars:
            hf_logging.enable_progress_bar()
        for name, level in self.levels.items():
            logging.getLogger(name).setLevel(level)

    @staticmethod
    def _hf_logging() -> Any:
        from transformers.utils import logging as hf_logging

        return hf_logging
