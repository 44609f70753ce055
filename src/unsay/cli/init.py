"""Write an experiment file to start from: for a model and a dataset, or from a LLaMA-Factory training YAML."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from unsay.located import Located

DEFAULT_MODEL = "qwen3-0.6b"
DEFAULT_DATA = "gsm8k"

# What LLaMA-Factory and transformers do where the YAML is silent and unsay's own default is another.
LLAMAFACTORY_DEFAULTS: Mapping[str, Any] = {
    "learning_rate": 5.0e-5,
    "lr_scheduler_type": "linear",
    "warmup_ratio": 0.0,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
}
LLAMAFACTORY_SEED = 42
_TAKEN = (
    "model_name_or_path",
    "adapter_name_or_path",
    "template",
    "dataset",
    "dataset_dir",
    "val_size",
    "seed",
    "stage",
)


def command(
    file: Annotated[Path, typer.Argument(help="The file to write; it must not exist yet.")] = Path("experiments.yaml"),
    model: Annotated[str | None, typer.Option(help=f"A built-in name, a hub id or a folder ({DEFAULT_MODEL}).")] = None,
    data: Annotated[
        str | None, typer.Option(help=f"A built-in name, a folder, a .jsonl file, an lm-eval task ({DEFAULT_DATA}).")
    ] = None,
    source: Annotated[Path | None, typer.Option("--from", help="A LLaMA-Factory training YAML.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Write an experiment file to start from."""
    import sys

    from unsay.errors import ConfigError

    text = init(model, data, source, file.parent, str(file))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        raise ConfigError(f"{file} exists already and was left as it is; name another file: unsay init FILE") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror or error}") from None
    if json:
        from json import dumps

        print(dumps({"schema": 1, "file": str(file), "text": text}, indent=2))
    else:
        print(f"wrote {file}; next: unsay run {file} --dry-run", file=sys.stderr)


def init(
    model: str | None, data: str | None, source: Path | None, folder: Path = Path(), name: str = "experiments.yaml"
) -> str:
    """Return the text of an experiment file that will lie in `folder`; paths are given as seen from here."""
    if source is not None:
        return _from_llamafactory(source, model, data, folder, name)
    model_name, model_lines = _model(model or DEFAULT_MODEL, folder)
    dataset_name, dataset_lines, trains = _dataset(data or DEFAULT_DATA, folder)
    lines = [f"  - {{id: EXP-001, model: {model_name}, dataset: {dataset_name}, method: vanilla, config: fewshot_8}}"]
    if trains:
        lines += [
            f"  - {{id: EXP-002, model: {model_name}, dataset: {dataset_name}, method: sft, config: lora/train}}",
            f"  - {{id: EXP-003, model: {model_name}, dataset: {dataset_name}, method: sft, config: lora/train_bt}}",
        ]
    return "\n".join(
        [
            f"# unsay run {name}",
            "#",
            f"# Paths are relative to this file. `unsay run {name} --dry-run` shows what would be done.",
            "",
            "output_dir: outputs          # relative to where the command is run",
            "",
            *model_lines,
            *dataset_lines,
            "# Settings under a name of your own. Built in: fewshot_<n>, lora/train, lora/train_bt and",
            "# lora/train_bt_unmasked.",
            "configs:",
            "  # lora/low: {base: lora/train, learning_rate: 1.0e-5, num_train_epochs: 1}",
            "  # lora/slips: {base: lora/train_bt, undo: {strategy: arithmetic_slip}}",
            "  # rewind: {train_as: lora/train_bt, decode: {undo_context: rewind}}  # same training, decoded otherwise",
            "",
            "# One line is one experiment. A setting on a line becomes part of its folder: lora/train+lr3e-4.",
            "experiments:",
            *lines,
            "",
            "# One experiment for each combination of the lists.",
            "# matrix:",
            f"#   - {{model: {model_name}, dataset: {dataset_name}, method: sft, config: lora/train, "
            "learning_rate: [1.0e-4, 3.0e-4], seed: [1, 2, 3]}",
            "",
        ]
    )


def _model(given: str, folder: Path, more: Mapping[str, Any] | None = None) -> tuple[str, list[str]]:
    """Return the name to use for a model and the lines that define it."""
    from unsay import definitions

    if given in definitions.builtin().models and not more:
        return given, ["# Built in: " + ", ".join(definitions.builtin().models) + "; your own go here.", "models:", ""]
    name = _slug(given)
    entry = {"path": _place(given, folder), **(more or {})}
    place = Path(given).expanduser()
    if place.is_dir() and "template" not in entry and not _has_template(place):
        entry["template"] = "plain"
    return name, [
        "# A hub id or a folder. Also: adapter (a folder), template (qwen3_nothink, llama3, plain or a .jinja file),",
        "# revision (a commit of the hub).",
        "models:",
        f"  {name}: {_flow(entry)}",
        "",
    ]


def _dataset(given: str, folder: Path) -> tuple[str, list[str], bool]:
    """Return the name to use for a dataset, the lines that define it, and whether one can train on it."""
    from unsay import definitions
    from unsay.errors import ConfigError

    known = definitions.builtin().datasets
    if given in known:
        return given, ["# Built in: " + ", ".join(known) + "; your own go here.", "datasets:", ""], True
    place = Path(given).expanduser()
    head = [
        "# A folder with train.jsonl and test.jsonl, one .jsonl file, a hub id, or `task:` for any lm-eval task (for",
        f"# evaluation only). Formats: {', '.join(definitions.formats())}. `columns:` names columns that are called",
        '# otherwise, `answer: "#### (.+)"` finds the final answer.',
        "datasets:",
    ]
    name = _slug(given)
    if place.exists():
        entry: dict[str, Any] = {"path": _place(given, folder)}
        has_test = any((place / f"{split}.{end}").is_file() for split in ("test", "dev") for end in ("jsonl", "json"))
        if not has_test:
            entry["dev_share"] = 0.05
        comment = "" if has_test else "       # dev_share: kept out of training, to evaluate on"
        return name, [*head, f"  {name}: {_flow(entry)}{comment}", ""], True
    if given.startswith((".", "/", "~")) or given.endswith((".jsonl", ".json")):
        raise ConfigError(f"missing dataset file: there is no {place.absolute()}")
    if "/" in given:
        entry = {"path": given, "format": "alpaca"}
        return name, [*head, f"  {name}: {_flow(entry)}       # check the format", ""], True
    return name, [*head, f"  {name}: {{task: {given}}}", ""], False


# -- LLaMA-Factory ----------------------------------------------------------------


def _from_llamafactory(source: Path, model: str | None, data: str | None, folder: Path, name: str) -> str:
    from unsay import definitions
    from unsay.errors import ConfigError

    entries = _read(source)
    stage = _text(entries, "stage") or "sft"
    if stage != "sft":
        raise ConfigError(f"{source}:{entries['stage'].line}: stage {stage!r} cannot be taken over; unsay trains sft")
    base = model or _text(entries, "model_name_or_path")
    if base is None:
        raise ConfigError(f"{source}:1: expected `model_name_or_path:`, found none; name the model with --model")
    left: list[str] = []
    more: dict[str, Any] = {}
    adapter = _text(entries, "adapter_name_or_path")
    if adapter:
        left.append(f"adapter_name_or_path: {adapter}   (going on from an adapter: merge it into the model first)")
    template = _text(entries, "template")
    if template:
        if template in definitions.templates():
            more["template"] = template
        else:
            left.append(
                f"template: {template}   (the model's own chat template is used; a .jinja file goes under models)"
            )
    settings = _settings(entries, source)
    model_name, model_lines = _model(base, folder, more)
    config = f"lora/{_slug(source.stem)}"
    if config in definitions.builtin().configs:
        config = f"lora/my_{_slug(source.stem)}"
    names, dataset_lines = _datasets(entries, data, source, folder, left)
    seed = _text(entries, "seed") or str(LLAMAFACTORY_SEED)
    for key, node in entries.items():
        if key not in _TAKEN and key not in settings:
            left.append(f"{key}: {_inline(node.plain())}")
    return "\n".join(
        [
            f"# unsay run {name}",
            "#",
            f"# Taken from {source.name}, a LLaMA-Factory training. Paths are relative to this file.",
            "",
            "output_dir: outputs          # relative to where the command is run",
            "",
            *model_lines,
            *dataset_lines,
            "configs:",
            f"  {config}:",
            "    base: lora/train",
            *[
                f"    {key}: {_inline(value)}" + ("" if key in entries else "       # LLaMA-Factory's default")
                for key, value in settings.items()
            ],
            "    # decode: llamafactory       # predict as LLaMA-Factory does (sampled); the default is greedy",
            f"  {config}_bt: {{base: {config}, undo: {{strategy: random_tokens}}}}",
            "",
            "experiments:",
            *[
                f"  - {{model: {model_name}, dataset: {dataset}, method: sft, config: {which}, seed: {seed}}}"
                for dataset in names
                for which in (config, f"{config}_bt")
            ],
            *(["", f"# Not taken over from {source.name}:"] if left else []),
            *[f"#   {_one_line(item)}" for item in left],
            "",
        ]
    )


def _read(source: Path) -> dict[str, Located]:
    from unsay import located
    from unsay.errors import ConfigError

    try:
        root, mistakes = located.read(source.read_text(encoding="utf-8-sig"), str(source))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: cannot be read: {error}") from None
    if not mistakes and not isinstance(root.value, dict):
        mistakes.append(f"{source}:1: expected a LLaMA-Factory training YAML, got {root.described()}")
    if mistakes:
        raise ConfigError(mistakes)
    return root.mapping()


def _settings(entries: Mapping[str, Located], source: Path) -> dict[str, Any]:
    """Return the training settings of a LLaMA-Factory YAML, its silent defaults included."""
    import dataclasses
    import typing

    from unsay import overrides
    from unsay.errors import ConfigError
    from unsay.settings import Training

    kinds = typing.get_type_hints(Training)
    found: dict[str, Any] = {}
    mistakes: list[str] = []
    for item in dataclasses.fields(Training):
        node = entries.get(item.name) if item.name not in _TAKEN else None
        if node is None or node.value is None:
            if item.name in LLAMAFACTORY_DEFAULTS:
                found[item.name] = LLAMAFACTORY_DEFAULTS[item.name]
            continue
        try:
            value = overrides.coerce(node, kinds[item.name])
        except ValueError as error:
            mistakes.append(f"{source}:{node.line}: {item.name} {error}; got {node.described()}")
            continue
        if item.name == "lora_target" and isinstance(value, str) and value != "all":
            value = tuple(part.strip() for part in value.split(",") if part.strip())
        if item.name == "save_steps" and value < 0:
            continue
        found[item.name] = list(value) if isinstance(value, tuple) else value
    if mistakes:
        raise ConfigError(mistakes)
    if "lora_rank" in found and "lora_alpha" not in found:
        found["lora_alpha"] = 2 * found["lora_rank"]  # LLaMA-Factory's rule
    return found


def _datasets(
    entries: Mapping[str, Located], data: str | None, source: Path, folder: Path, left: list[str]
) -> tuple[list[str], list[str]]:
    if data is not None:
        name, lines, _ = _dataset(data, folder)
        if "dataset" in entries:
            left.append(f"dataset: {_inline(entries['dataset'].plain())}   (--data was given)")
        return [name], lines
    written = entries["dataset"].plain() if "dataset" in entries else None
    names = [part.strip() for part in (written if isinstance(written, list) else str(written or "").split(","))]
    names = [name for name in names if name]
    if not names:
        from unsay.errors import ConfigError

        raise ConfigError(f"{source}:1: expected `dataset:`, found none; name the data with --data")
    share = entries["val_size"].value if "val_size" in entries else None
    if not (isinstance(share, float) and 0 < share < 1):
        if share:
            left.append(f"val_size: {share}   (a share of the questions goes under dev_share)")
        share = 0.05
    directory = _text(entries, "dataset_dir") or "data"
    # LLaMA-Factory takes it from where it is started; beside the YAML is the next best guess.
    beside = source.parent / directory
    if not Path(directory).is_dir() and beside.is_dir():
        directory = str(beside)
    path = _place(directory, folder)
    path = path if path.startswith((".", "/", "~")) else f"./{path}"
    entry = {"path": path, "format": "dataset_info", "dev_share": share}
    lines = ["# dev_share: kept out of training, to evaluate on.", "datasets:"]
    if len(names) > 1:
        lines[0:0] = ["# LLaMA-Factory mixes these into one training; here each is an experiment of its own."]
    return names, [*lines, *[f"  {name}: {_flow(entry)}" for name in names], ""]


# -- small parts --------------------------------------------------------------------


def _text(entries: Mapping[str, Located], key: str) -> str | None:
    node = entries.get(key)
    return None if node is None or node.value is None or isinstance(node.value, dict | list) else node.text


def _slug(given: str) -> str:
    """Return a short name that can be a folder: the last part of an id or path, in lower case."""
    tail = re.split(r"[/\\]", given.rstrip("/\\"))[-1].removesuffix(".jsonl").removesuffix(".json")
    name = re.sub(r"[^a-z0-9._-]+", "-", tail.casefold()).strip("-._")
    return name[:64] or "mine"


def _place(given: str, folder: Path) -> str:
    """Return a path as seen from the file's folder; what is not there stays as it is (a hub id)."""
    place = Path(given).expanduser()
    if not place.exists() or place.is_absolute() or given.startswith("~"):
        return given
    relative = Path(os.path.relpath(place, folder)).as_posix()
    return relative if relative.startswith("..") else f"./{relative}"


def _has_template(folder: Path) -> bool:
    from unsay.preflight import has_chat_template

    return has_chat_template(folder)


def _inline(value: Any) -> str:
    """Return a value as YAML that can stand inside a flow mapping."""
    import yaml

    text = yaml.safe_dump([value], default_flow_style=True, width=10**6, allow_unicode=True)
    return text.strip()[1:-1]


def _flow(entry: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{key}: {_inline(value)}" for key, value in entry.items()) + "}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
