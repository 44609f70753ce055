"""Open a model for evaluation or training: tokenizer, prompts, undo table, and the weights once they are needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from unsay import augment, identity, loading
from unsay.backend import SERVER, Backend
from unsay.config import Model
from unsay.errors import EvaluationError, ModelError
from unsay.models import family_of
from unsay.prompts import Prompter
from unsay.settings import Decode, UndoData
from unsay.undo import UndoTable


@dataclass(frozen=True)
class Opened:
    """A model ready to be used. `weights` identifies what it computes with, whatever adapter it carries included."""

    tokenizer: Any
    prompter: Prompter
    table: UndoTable
    weights: str
    max_length: int
    """Positions the model has, prompt and answer together."""
    device: str
    dtype: str
    load: Callable[[], Any]
    context: str | None = None
    """The undo context the adapter or the weights were trained with; None where nothing says."""
    model: Model | None = None
    adapter: Path | None = None
    """The adapter on the model's weights, or a whole training's folder."""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def backend(self) -> Backend | None:
        """What generates with this model; None: this process."""
        return None if self.model is None else self.model.backend

    @property
    def template(self) -> str | None:
        """The chat template in force, as Jinja text."""
        return self.prompter.template or self.tokenizer.chat_template

    def visible_text(self, ids: Sequence[int]) -> str:
        """Decode survivors as lm-eval and LLaMA-Factory decode answers: once, other special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def context_warnings(self, decode: Decode) -> tuple[str, ...]:
        """Say so when answers are decoded with another undo context than the model was trained with."""
        if not self.table or self.context is None or decode.undo_context == self.context:
            return ()
        return (f"trained with undo_context {self.context}, decoded with {decode.undo_context}",)


def open_model(
    model: Model,
    *,
    device: str = "auto",
    dtype: str = "auto",
    adapter: Path | None = None,
    undo: UndoData | None = None,
    weights: str | None = None,
) -> Opened:
    """Open a model; with `undo` settings its tokenizer gets the control tokens that training needs.

    `adapter` is a training's folder; the model's own adapter is used otherwise. `weights` overrides the identity of
    the weights (a training is identified by its inputs). Raises ModelError.
    """
    served = model.backend is not None and model.backend.kind == SERVER
    if model.backend is not None and served and adapter is not None:
        raise ModelError(
            f"expected to evaluate what was trained, got model {model.name} from the server at {model.backend.url}, "
            "which has the weights it was started with; use `backend: vllm`, which starts one with the new weights"
        )
    adapter = adapter or (Path(model.adapter) if model.adapter else None)
    config = loading.load_config(model.path, model.revision, model.trust_remote_code)
    tokenizer = loading.load_tokenizer(model.path, model.revision, model.trust_remote_code, adapter=adapter)
    undo_file = loading.find_undo_file(model.path, model.revision, adapter)
    table = loading.undo_table(
        tokenizer,
        family_of(config.model_type),
        undo_file,
        with_undo=undo is not None,
        actions=() if undo is None else augment.load(undo.strategy, undo.options).actions,
    )
    eos_ids = loading.eos_ids(model.path, model.revision, tokenizer, model.trust_remote_code)
    prompter = Prompter(tokenizer, model.template, eos_ids=eos_ids, control_ids=table.actions)
    device, dtype = resolve_device(device, dtype)

    load = partial(
        loading.load_model, model.path, model.revision, adapter, device, dtype, model.trust_remote_code, merge=True
    )

    commit = getattr(config, "_commit_hash", None)
    if served:  # what it computes on, and in which numbers, only it knows
        device = dtype = SERVER
    return Opened(
        tokenizer=tokenizer,
        prompter=prompter,
        table=table,
        weights=weights or weights_of(model, adapter, commit),
        max_length=int(getattr(config.get_text_config(), "max_position_embeddings", None) or 2**31),
        device=device,
        dtype=dtype,
        load=load,
        context=None if undo_file is None else loading.read_undo_file(undo_file).context,
        model=model,
        adapter=adapter,
        facts={"device": device, "dtype": dtype, "revision": commit},
    )


def resolve_device(device: str, dtype: str) -> tuple[str, str]:
    """Turn "auto" into the device and number format there are: bfloat16 on a GPU that has it, else float32."""
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise EvaluationError(f"device {device!r} was asked for, but torch {torch.__version__} finds no GPU here.")
    if dtype == "auto":
        dtype = "bfloat16" if device.startswith("cuda") and torch.cuda.is_bf16_supported() else "float32"
    return device, dtype


def weights_of(model: Model, adapter: Path | None, commit: str | None) -> str:
    """Fingerprint what a model computes with, as it lies here; `commit` is the hub's, where it comes from there."""
    folder = Path(model.path)
    base = identity.weights_fingerprint(folder) if folder.is_dir() else f"{model.path}@{commit or model.revision}"
    return base if adapter is None else identity.sha256_of([base, identity.adapter_fingerprint(adapter)])
