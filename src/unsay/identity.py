"""What makes two results the same result: canonical JSON, content fingerprints, and the hashes built from them.

Only what can change a number is hashed; where an experiment ran and how fast is not. Nothing is loaded or downloaded:
a hub model or dataset counts by its id and revision, a local one by the content of the files that are used.

    identity(experiment)                  # sha256 over spec(experiment)
    fingerprint(Path("my.jsonl"))         # 'sha256:…'
"""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from unsay import catalog
from unsay.errors import DataError
from unsay.lm_eval_files import TASK_FILES

if TYPE_CHECKING:
    from unsay.config import Dataset, Experiment, Model
    from unsay.settings import Decode, Prompting, Training, UndoData

FORMAT = 1
"""Version of what is hashed; raised when the same settings start to mean something else."""

WHOLE_FILE_LIMIT = 256 * 1024**2
"""Larger files are fingerprinted by their size and a sample of their content."""
SAMPLED_BLOCKS = 64
BLOCK = 64 * 1024

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
)
WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model*.bin.index.json")
MODEL_FILES = ("config.json", "generation_config.json", "undo.json", *TOKENIZER_FILES, *WEIGHT_FILES)
# A tokenizer in an adapter's folder goes over the model's; a training of every weight leaves a whole model there.
ADAPTER_FILES = (
    "config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "quantization.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "undo.json",
    *TOKENIZER_FILES,
)
DATASET_FILES = tuple(f"{split}.{end}" for split in ("train", "dev", "test") for end in ("jsonl", "json"))

# Training settings that decide where, how fast or how chattily, not what comes out. The two batch settings count by
# their product: running out of memory halves one and doubles the other.
_NOT_NUMBERS = (
    "logging_steps",
    "save_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "auto_find_batch_size",
    "gradient_checkpointing",
    "report_to",
)
# Settings that came later, with the value that means what trainings did before: at that value they are left out, so
# that finished experiments stay finished.
_LATER: Mapping[str, Any] = {
    "finetuning_type": "lora",
    "quantization_bit": None,
    "row_learning_rate": None,
    "curriculum": "none",
    "val_size": 0.0,
    "eval_steps": 0,
    "load_best_model_at_end": False,
}
_SHAPE = ("strategy", "options", "clean_share", "say")
# The same for options of a strategy.
_LATER_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    name: {"depth": 1} for name in ("arithmetic_slip", "future_step", "splice")
}
_LATER_DECODE: Mapping[str, Any] = {"undo_bias": 0.0, "stop_on": "survivors", "plant": None, "plant_twin": False}
_LATER_UNDO: Mapping[str, Any] = {"say": "tokens"}


def canonical_json(obj: object) -> str:
    """Return the one JSON text of a value: keys sorted, no spaces, dataclasses and tuples as plain JSON."""
    return json.dumps(_plain(obj), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_of(obj: object) -> str:
    """Return the hex sha256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(obj).encode("utf-8", "surrogatepass")).hexdigest()


def fingerprint(path: Path, keep: Callable[[str], bool] | None = None) -> str:
    """Return a content hash of a file or folder; names and content count, times and places do not.

    A folder's hidden entries are skipped; `keep` selects by the path relative to the folder. The prefix says what was
    read: `sha256:` all bytes of a file, `sampled-sha256:` size and 64 evenly spaced blocks of a file above 256 MiB,
    `tree-sha256:` and `tree-sampled-sha256:` the same for a folder.
    """
    if path.is_file():
        return _fingerprint_file(path)
    if not path.is_dir():
        raise DataError(f"cannot fingerprint {path}: there is no such file or folder")
    parts = {name: _fingerprint_file(path / name) for name in _tree(path) if keep is None or keep(name)}
    sampled = any(part.startswith("sampled-") for part in parts.values())
    return f"tree-{'sampled-' if sampled else ''}sha256:{sha256_of(parts)}"


def model_fingerprint(folder: Path, *, code: bool = False) -> str:
    """Fingerprint a model folder: config, tokenizer and weights, whatever else lies there; `code` adds its Python."""
    return _fingerprint_named(folder, (*MODEL_FILES, "*.py") if code else MODEL_FILES)


def tokenizer_fingerprint(folder: Path) -> str:
    """Fingerprint the tokenizer files of a model folder."""
    return _fingerprint_named(folder, TOKENIZER_FILES)


def weights_fingerprint(folder: Path) -> str:
    """Fingerprint config and weights of a model folder."""
    return _fingerprint_named(folder, ("config.json", *WEIGHT_FILES))


def adapter_fingerprint(folder: Path) -> str:
    """Fingerprint an adapter folder."""
    return _fingerprint_named(folder, ADAPTER_FILES)


def spec(experiment: Experiment) -> dict[str, Any]:
    """Return everything that can change an experiment's numbers, ready for JSON."""
    settings = experiment.settings
    return {
        "format": FORMAT,
        "model": _model_spec(experiment.model),
        "dataset": _dataset_spec(experiment.dataset),
        "method": experiment.method,
        "settings": {
            "prompting": _plain(settings.prompting),
            "decode": decode_numbers(settings.decode),
            "training": None if settings.training is None else training_numbers(settings.training),
            "undo": _undo_spec(settings.undo),
        },
        "seed": experiment.seed,
    }


def identity(experiment: Experiment) -> str:
    """Return the sha256 of an experiment's spec: a different one means a different result."""
    return sha256_of(spec(experiment))


def decode_numbers(decode: Decode) -> dict[str, Any]:
    """Return the settings that decide how an answer is sampled."""
    plain: dict[str, Any] = _plain(decode)
    return {key: value for key, value in plain.items() if not (key in _LATER_DECODE and value == _LATER_DECODE[key])}


def training_numbers(training: Training) -> dict[str, Any]:
    """Return the training settings that change what is learnt; batch and accumulation count by their product."""
    kept = {
        key: value
        for key, value in dataclasses.asdict(training).items()
        if key not in _NOT_NUMBERS and not (key in _LATER and value == _LATER[key])
    }
    kept["train_batch_size"] = training.per_device_train_batch_size * training.gradient_accumulation_steps
    plain: dict[str, Any] = _plain(kept)
    return plain


def data_hash(
    *,
    dataset: str,
    format: str | None,
    columns: Mapping[str, str],
    template: str,
    doc_to_text: str,
    undo: UndoData | None,
    undo_table: str,
    tokenizer: str,
    cutoff_len: int,
    max_samples: int | None,
    seed: int,
    leaked: Sequence[str] = (),
) -> str:
    """Hash what decides the training rows.

    `dataset` and `tokenizer` are content fingerprints, `template` and `doc_to_text` identify how a prompt is
    rendered (the template's text or its hash), `undo_table` is the table's sha256. Of `undo` only what shapes rows
    counts: strategy, options and clean share. `leaked` are the ids of training examples that another dataset's
    evaluation split takes out; it is left out where there are none.
    """
    whole = _undo_spec(undo)
    shape = None if whole is None else {key: whole[key] for key in _SHAPE if key in whole}
    return sha256_of(
        {
            "format_version": FORMAT,
            "dataset": dataset,
            "format": format,
            "columns": columns,
            "template": template,
            "doc_to_text": doc_to_text,
            "undo": shape,
            "undo_table": undo_table,
            "tokenizer": tokenizer,
            "cutoff_len": cutoff_len,
            "max_samples": max_samples,
            "seed": seed,
        }
        | ({"leaked": list(leaked)} if leaked else {})
    )


def train_hash(*, data: str, weights: str, training: Training, undo: UndoData | None, seed: int, dtype: str) -> str:
    """Hash what decides the trained weights: the data hash, the base weights, the settings that change numbers.

    `weights` is the fingerprint of a local folder, or `<hub id>@<commit>`; `dtype` the number format in use.
    """
    handling = None if undo is None else {"mask": undo.mask, "init": undo.init, "context": undo.context}
    return sha256_of(
        {
            "format_version": FORMAT,
            "data": data,
            "weights": weights,
            "training": training_numbers(training),
            "undo": handling,
            "seed": seed,
            "dtype": dtype,
        }
    )


def eval_hash(
    *,
    weights: str,
    template: str,
    prompts: Sequence[str],
    prompting: Prompting,
    decode: Decode,
    undo_table: str,
    end_ids: Iterable[int],
    seed: int,
    dtype: str,
) -> str:
    """Hash what decides the sampled answers.

    `weights` is a train hash or the identifier of untrained weights, `prompts` one hash per item, in document order,
    over its prompt ids and stop strings. The seed counts only where sampling draws; `dtype` is the number format.
    """
    return sha256_of(
        {
            "format_version": FORMAT,
            "weights": weights,
            "template": template,
            "prompts": sha256_of(list(prompts)),
            "prompting": prompting,
            "decode": decode_numbers(decode),
            "undo_table": undo_table,
            "end_ids": sorted(end_ids),
            "seed": seed if decode.do_sample else None,
            "dtype": dtype,
        }
    )


def _model_spec(model: Model) -> dict[str, Any]:
    folder = Path(model.path)
    value: dict[str, Any] = {"template": _template_spec(model.template)}
    if folder.is_absolute():
        value["content"] = model_fingerprint(folder, code=model.trust_remote_code)
    else:
        value |= {"hub": model.path, "revision": model.revision}
    if model.trust_remote_code:
        value["trust_remote_code"] = True
    if model.adapter is not None:
        value["adapter"] = adapter_fingerprint(Path(model.adapter))
    if model.experiment is not None:
        value["experiment"] = model.experiment_identity or model.experiment
    return value


def _undo_spec(undo: UndoData | None) -> dict[str, Any] | None:
    """Return the undo settings, the strategy's defaults written out: with another default a row would be another.

    An option that is a file counts by its content.
    """
    if undo is None:
        return None
    fields = dataclasses.fields(catalog.plugin("augment", undo.strategy))
    defaults = {
        item.name: item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        for item in fields
        if item.name not in undo.options
    }
    options = {
        key: fingerprint(Path(value)) if isinstance(value, str) and Path(value).is_absolute() else value
        for key, value in {**defaults, **undo.options}.items()
        if _LATER_OPTIONS.get(undo.strategy, {}).get(key, ...) != value
    }
    plain: dict[str, Any] = _plain(dataclasses.replace(undo, options=options))
    return {key: value for key, value in plain.items() if not (key in _LATER_UNDO and value == _LATER_UNDO[key])}


def _template_spec(template: str | None) -> str | None:
    if template is not None and Path(template).is_absolute():
        return fingerprint(Path(template))
    return template


def _dataset_spec(dataset: Dataset) -> dict[str, Any]:
    value: dict[str, Any] = {
        "task": dataset.task,
        "format": dataset.format,
        "columns": dict(dataset.columns),
        "answer": dataset.answer,
        "dev_share": dataset.dev_share,
    }
    if dataset.task is not None and dataset.task.endswith(TASK_FILES):
        value["task"] = task_fingerprint(Path(dataset.task))
    if dataset.path is None:
        value["name"] = dataset.name
        version = _generated_version(dataset)
        if version is not None:
            value["version"] = version
    elif Path(dataset.path).is_absolute():
        value["content"] = dataset_fingerprint(Path(dataset.path))
    else:
        value["hub"] = dataset.path
    return value


def dataset_fingerprint(path: Path) -> str:
    """Fingerprint a local dataset: the file, or the files of the folder that are named after a split."""
    if path.is_file():
        return fingerprint(path)
    return fingerprint(path, lambda name: name in DATASET_FILES)


def task_fingerprint(file: Path) -> str:
    """Fingerprint an lm-eval task of one's own: its file, what that includes, and the Python beside it."""
    parts = {"": fingerprint(file)}
    waiting = [file]
    while waiting:
        including = waiting.pop()
        for name in _included(including):
            place = including.parent / name
            key = os.path.relpath(place, file.parent).replace(os.sep, "/")
            if key not in parts and place.is_file():
                parts[key] = fingerprint(place)
                waiting.append(place)
    parts |= {path.name: fingerprint(path) for path in file.parent.glob("*.py") if path.is_file()}
    return f"task-sha256:{sha256_of(parts)}"


def _included(file: Path) -> list[str]:
    try:
        # Builds texts, lists and mappings, nothing else: safe_load refuses the tags that tasks have.
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (OSError, ValueError, yaml.YAMLError):
        return []
    names = content.get("include", []) if isinstance(content, dict) else []
    return [name for name in (names if isinstance(names, list) else [names]) if isinstance(name, str) and name]


def _generated_version(dataset: Dataset) -> int | None:
    """Return the version of the code that generates a dataset; None for one that is not generated."""
    if dataset.format is None or dataset.format not in catalog.names("datasets"):
        return None
    return getattr(catalog.load("datasets", dataset.format), "VERSION", None)


def _fingerprint_named(folder: Path, patterns: Iterable[str]) -> str:
    patterns = tuple(patterns)
    return fingerprint(folder, lambda name: any(_matches(name, pattern) for pattern in patterns))


def _matches(name: str, pattern: str) -> bool:
    return "/" not in name and fnmatch.fnmatchcase(name, pattern)


def _tree(folder: Path) -> list[str]:
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = (Path(place, name) for name in files if not name.startswith("."))
        found += [path.relative_to(folder).as_posix() for path in inside if path.is_file()]
    return sorted(found)


def _fingerprint_file(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if size <= WHOLE_FILE_LIMIT:
            while block := file.read(1024 * 1024):
                digest.update(block)
            return f"sha256:{digest.hexdigest()}"
        digest.update(str(size).encode())
        for index in range(SAMPLED_BLOCKS):
            # The first block starts the file, the last one ends it.
            file.seek((size - BLOCK) * index // (SAMPLED_BLOCKS - 1))
            digest.update(file.read(BLOCK))
    return f"sampled-sha256:{digest.hexdigest()}"


def _plain(obj: Any) -> Any:
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return _plain(dataclasses.asdict(obj))
    if isinstance(obj, Mapping):
        return {str(key): _plain(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_plain(item) for item in obj]
    if isinstance(obj, set | frozenset):
        return sorted((_plain(item) for item in obj), key=canonical_json)
    if obj is None or isinstance(obj, str | int | float | bool):
        return obj
    raise TypeError(f"{type(obj).__name__} has no canonical JSON: {obj!r}")
