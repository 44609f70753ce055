"""Settings as they are written in an experiment file: typed, checked, laid over each other, turned into `Settings`.

A patch maps dotted names (`training.learning_rate`, `decode.undo_context`, `undo.strategy`, `undo.options.rate`) to
values with their lines. Configs, experiment lines and matrix entries are all patches; a later one goes over an earlier
one. Knows nothing about models, datasets or folders.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from unsay import catalog
from unsay.errors import ConfigError, UnsayError
from unsay.located import Located
from unsay.settings import Decode, Prompting, Settings, Training, UndoData

Say = Callable[[int, str], None]
"""Takes a line and a mistake."""


@dataclass(frozen=True)
class Written:
    """One setting of a patch: its value (a `Located` for options of a strategy not yet known) and its line."""

    value: Any
    line: int


Patch = dict[str, Written]

NO_UNDO = "undo"
"""The key of a patch that says `undo: null`: whatever undo data came before is gone."""

DECODE_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "greedy": {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 0},
    # What LLaMA-Factory's prediction does when its YAML says nothing.
    "llamafactory": {"do_sample": True, "temperature": 0.95, "top_p": 0.7, "top_k": 50, "max_new_tokens": 1024},
}

SCHEDULERS = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
)
"""transformers' schedules that need nothing but a number of warm-up steps."""

VANILLA = "vanilla"
SFT = "sft"
# An evaluation of a model as it is answers in lm-eval's usual length; a trained model spells its steps and its undos.
METHOD_DEFAULTS: Mapping[str, Mapping[str, Any]] = {VANILLA: {"decode.max_new_tokens": 256}}

_SECTIONS: Mapping[str, type] = {"prompting": Prompting, "training": Training, "decode": Decode, "undo": UndoData}
_KINDS: Mapping[str, Any] = {
    f"{section}.{name}": kind
    for section, owner in _SECTIONS.items()
    for name, kind in typing.get_type_hints(owner).items()
    if (section, name) != ("undo", "options")
}
_FLAT = {key.split(".")[1]: key for key in _KINDS if key.startswith(("prompting.", "training."))}
_INNER = {
    section: {key.split(".")[1]: key for key in _KINDS if key.startswith(f"{section}.")}
    for section in ("decode", "undo")
}

SETTING_KEYS = (*_FLAT, "decode", "undo")
"""Settings that may stand on an experiment line, in a matrix entry or in a config."""

_AT_LEAST_ONE = (lambda value: value >= 1, "at least 1")
_NOT_NEGATIVE = (lambda value: value >= 0, "at least 0")
_POSITIVE = (lambda value: value > 0, "above 0")
_SHARE = (lambda value: 0 <= value <= 1, "between 0 and 1")
_LIMITS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "prompting.num_fewshot": _NOT_NEGATIVE,
    "prompting.fewshot_seed": _NOT_NEGATIVE,
    "decode.max_new_tokens": _AT_LEAST_ONE,
    "decode.temperature": (lambda value: value > 0, "above 0 (for greedy decoding write `do_sample: false`)"),
    "decode.top_p": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "decode.top_k": _NOT_NEGATIVE,
    "decode.max_survivors": _AT_LEAST_ONE,
    "decode.max_undos": (lambda value: value >= 1, "at least 1 (to have none write `undo: ban`)"),
    "decode.max_visits": _AT_LEAST_ONE,
    "undo.clean_share": _SHARE,
    "training.lora_rank": _AT_LEAST_ONE,
    "training.lora_alpha": _AT_LEAST_ONE,
    "training.lora_dropout": (lambda value: 0 <= value < 1, "at least 0 and below 1"),
    "training.learning_rate": _POSITIVE,
    "training.row_learning_rate": _POSITIVE,
    "training.warmup_ratio": _SHARE,
    "training.weight_decay": _NOT_NEGATIVE,
    "training.max_grad_norm": _POSITIVE,
    "training.num_train_epochs": _POSITIVE,
    "training.max_steps": (lambda value: value == -1 or value >= 1, "at least 1, or -1 to go by `num_train_epochs`"),
    "training.per_device_train_batch_size": _AT_LEAST_ONE,
    "training.gradient_accumulation_steps": _AT_LEAST_ONE,
    "training.cutoff_len": _AT_LEAST_ONE,
    "training.max_samples": _AT_LEAST_ONE,
    "training.logging_steps": _AT_LEAST_ONE,
    "training.save_steps": _NOT_NEGATIVE,
    "training.val_size": (lambda value: 0 <= value < 1, "a share, at least 0 and below 1"),
    "training.eval_steps": _NOT_NEGATIVE,
}


def read(entries: Mapping[str, Located], say: Say) -> Patch:
    """Return the settings among the entries of a mapping; keys that are no settings are the caller's."""
    patch: Patch = {}
    for name, node in entries.items():
        if name in _FLAT:
            _put(patch, _FLAT[name], node, say)
        elif name == "decode":
            _read_decode(patch, node, say)
        elif name == "undo":
            _read_undo(patch, node, say)
    return patch


def misplaced(key: str) -> str | None:
    """Return what to say of a key that exists, but belongs inside `decode:` or `undo:`."""
    homes = [f"`{section}: {{{key}: …}}`" for section, inner in _INNER.items() if key in inner]
    return f"{key!r} is written inside: {' or '.join(homes)}" if homes else None


def merge(base: Patch, over: Patch) -> Patch:
    """Lay one patch over another. A new strategy starts without the earlier strategy's options."""
    kept = dict(base)
    if NO_UNDO in over:
        kept = {key: value for key, value in kept.items() if not key.startswith("undo.")}
    if any(key.startswith("undo.") for key in over):
        kept.pop(NO_UNDO, None)
    strategy = over.get("undo.strategy")
    if strategy is not None and "undo.strategy" in kept and kept["undo.strategy"].value != strategy.value:
        kept = {key: value for key, value in kept.items() if not key.startswith("undo.options.")}
    return {**kept, **over}


def compose(patch: Patch, method: str, folder: Path, say: Say, *, trained: str | None = None) -> Settings:
    """Return complete settings. Reports what does not go together; files in options are relative to `folder`.

    `trained` is the context mode a model was trained in, if any: what it decodes in unless a setting says otherwise.
    """
    values = {key: Written(value, 0) for key, value in METHOD_DEFAULTS.get(method, {}).items()} | patch
    if trained is not None:
        values.setdefault("decode.undo_context", Written(trained, 0))
    prompting = Prompting(**_section(values, "prompting"))
    decode = Decode(**_section(values, "decode"))
    if method == VANILLA:
        _refuse_training(patch, say)
        return _checked(Settings(prompting, decode), values, say)
    undo = _undo_data(values, folder, say)
    if undo is not None and "decode.undo_context" not in values:
        # A model decodes as it was trained unless the other way is asked for by name.
        decode = dataclasses.replace(decode, undo_context=undo.context)
    if prompting.num_fewshot:
        line = values["prompting.num_fewshot"].line
        say(line, f"num_fewshot is {prompting.num_fewshot}, but {method} prompts have 0 shots; remove it")
    if not prompting.apply_chat_template:
        say(
            values["prompting.apply_chat_template"].line,
            f"apply_chat_template is false, but {method} trains and answers in the model's chat template; remove it",
        )
    return _checked(Settings(prompting, decode, Training(**_section(values, "training")), undo), values, say)


def coerce(node: Located, kind: Any) -> Any:
    """Return a node's value as a Python type; ValueError says what was expected. Numbers may be written as text."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return node.plain()
    if origin in (typing.Union, types.UnionType):
        return _coerce_union(node, arguments)
    if origin is Literal:
        text = "" if isinstance(node.value, dict | list) else node.text
        for choice in arguments:
            if node.value == choice or text == str(choice):
                return choice
        raise ValueError(f"must be one of {', '.join(map(str, arguments))}{_suggestion(text, arguments)}")
    if origin in (tuple, list) or kind in (tuple, list):
        if not isinstance(node.value, list):
            raise ValueError("must be a list")
        return tuple(coerce(item, arguments[0] if arguments else Any) for item in node.value)
    if origin is dict or kind is dict:
        if not isinstance(node.value, dict):
            raise ValueError("must be a mapping")
        return {key: coerce(item, arguments[1] if arguments else Any) for key, item in node.value.items()}
    return _coerce_scalar(node, kind)


def _coerce_union(node: Located, kinds: tuple[Any, ...]) -> Any:
    if node.value is None and types.NoneType in kinds:
        return None
    problems = []
    for kind in kinds:
        if kind is types.NoneType:
            continue
        try:
            return coerce(node, kind)
        except ValueError as error:
            problems.append(str(error).removeprefix("must be "))
    raise ValueError(f"must be {' or '.join(problems)}")


def _coerce_scalar(node: Located, kind: Any) -> Any:
    value = node.value
    if kind is types.NoneType:
        if value is None:
            return None
        raise ValueError("must be null")
    if value is None or isinstance(value, dict | list):
        raise ValueError(f"must be {_SCALARS.get(kind, 'a single value')}")
    if kind in (str, Path):
        if not node.text.strip():
            raise ValueError("must not be empty")
        return node.text
    if kind is bool:
        if isinstance(value, bool):
            return value
        raise ValueError("must be true or false")
    if kind in (int, float):
        number = _number(value)
        if number is not None and kind is float:
            return float(number)
        if number is not None and number == int(number):
            return int(number)
    raise ValueError(f"must be {_SCALARS.get(kind, getattr(kind, '__name__', str(kind)))}")


_SCALARS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", Path: "a path"}


def _number(value: Any) -> int | float | None:
    # YAML 1.1 reads 1e-4 as text, as it wants 1.0e-4.
    if isinstance(value, str):
        try:
            value = float(value) if not value.strip().lstrip("+-").isdecimal() else int(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if isinstance(value, int) or math.isfinite(value) else None


def _put(patch: Patch, key: str, node: Located, say: Say) -> None:
    name = key.split(".")[-1]
    try:
        value = coerce(node, _KINDS[key])
    except ValueError as error:
        say(node.line, f"{name} {error}; got {node.described()}")
        return
    limit = _LIMITS.get(key)
    if limit is not None and value is not None and not limit[0](value):
        say(node.line, f"{name} must be {limit[1]}; got {value}")
        return
    if key == "training.lr_scheduler_type" and value not in SCHEDULERS:
        say(node.line, catalog.unknown("lr_scheduler_type", value, SCHEDULERS))
        return
    if key == "training.lora_target" and value != "all":
        value = (value,) if isinstance(value, str) else value
        if not value:
            say(node.line, "lora_target must name at least one module, or be `all`")
            return
    patch[key] = Written(value, node.line)


def _read_decode(patch: Patch, node: Located, say: Say) -> None:
    if isinstance(node.value, str):
        preset = DECODE_PRESETS.get(node.value)
        if preset is None:
            say(node.line, catalog.unknown("decode", node.value, DECODE_PRESETS) + "; or write a mapping")
            return
        patch |= {f"decode.{name}": Written(value, node.line) for name, value in preset.items()}
    elif isinstance(node.value, dict):
        for name, item in node.value.items():
            key = _INNER["decode"].get(name)
            if key is None:
                say(item.line, catalog.unknown("key in decode:", name, _INNER["decode"]))
            else:
                _put(patch, key, item, say)
    else:
        say(node.line, f"decode must be a mapping or one of {', '.join(DECODE_PRESETS)}; got {node.described()}")


def _read_undo(patch: Patch, node: Located, say: Say) -> None:
    if node.value is None:
        patch[NO_UNDO] = Written(None, node.line)
    elif isinstance(node.value, str):
        _put_strategy(patch, node, say)
    elif isinstance(node.value, dict):
        for name, item in node.value.items():
            key = _INNER["undo"].get(name)
            if key == "undo.strategy":
                _put_strategy(patch, item, say)
            elif key is not None:
                _put(patch, key, item, say)
            else:  # an option of the strategy: which one is known once all patches are laid over each other
                patch[f"undo.options.{name}"] = Written(item, item.line)
        # An empty mapping asks for undo data with every default.
        if not node.value:
            patch["undo.strategy"] = Written(UndoData().strategy, node.line)
    else:
        say(node.line, f"undo must be a mapping, the name of a strategy, or null; got {node.described()}")


def _put_strategy(patch: Patch, node: Located, say: Say) -> None:
    known = catalog.names("augment")
    if node.text in known and isinstance(node.value, str):
        patch["undo.strategy"] = Written(node.text, node.line)
    else:
        say(node.line, catalog.unknown("undo strategy", node.text or node.described(), known))


def _section(values: Patch, section: str) -> dict[str, Any]:
    return {key.split(".")[1]: item.value for key, item in values.items() if key.startswith(f"{section}.")}


def _undo_data(values: Patch, folder: Path, say: Say) -> UndoData | None:
    written = {key: item for key, item in values.items() if key.startswith("undo.")}
    if not written:
        return None
    plain = {key.split(".")[1]: item.value for key, item in written.items() if not key.startswith("undo.options.")}
    undo = UndoData(**plain)
    nodes = {key.removeprefix("undo.options."): item for key, item in written.items() if ".options." in key}
    line = max(item.line for item in written.values())
    if "undo.strategy" not in written and undo.strategy not in catalog.names("augment"):
        say(line, catalog.unknown("undo strategy", undo.strategy, catalog.names("augment")))
        return undo
    return dataclasses.replace(undo, options=_options(undo.strategy, nodes, line, folder, say))


def _options(strategy: str, nodes: Mapping[str, Written], line: int, folder: Path, say: Say) -> dict[str, Any]:
    """Return the options that differ from the strategy's own defaults."""
    try:
        owner = catalog.plugin("augment", strategy)
    except UnsayError as error:
        say(line, str(error))
        return {}
    fields = {item.name: item for item in dataclasses.fields(owner) if item.init}
    what = f"undo: (strategy {strategy})"
    options = {
        name: value
        for name, value in plugin_options(owner, nodes, folder, say, what=what, beside=tuple(_INNER["undo"])).items()
        if value != _default(fields[name])
    }
    missing = [name for name, owned in fields.items() if name not in nodes and _default(owned) is dataclasses.MISSING]
    for name in missing:
        say(line, f"strategy {strategy} needs `{name}:`")
    if not missing:
        try:
            owner(**options)
        except ConfigError as error:
            for mistake in error.mistakes:
                say(line, mistake)
    return options


def plugin_options(
    owner: type, nodes: Mapping[str, Written], folder: Path, say: Say, *, what: str, beside: Sequence[str] = ()
) -> dict[str, Any]:
    """Return a plug-in's options as they were written, each as its field's type; files are relative to `folder`.

    `what` names the mapping they stand in, `beside` the keys that it may have besides; `nodes` hold `Located`s.
    """
    fields = {item.name for item in dataclasses.fields(owner) if item.init}
    kinds = typing.get_type_hints(owner)
    options: dict[str, Any] = {}
    for name, item in nodes.items():
        if name not in fields:
            say(item.line, catalog.unknown(f"key in {what}", name, [*beside, *fields]))
            continue
        try:
            value = coerce(item.value, kinds[name])
        except ValueError as error:
            say(item.line, f"{name} {error}; got {item.value.described()}")
            continue
        if Path in (kinds[name], *typing.get_args(kinds[name])) and value is not None:
            value = str((folder / Path(value).expanduser()).resolve())
        options[name] = value
    return options


def _default(item: dataclasses.Field[Any]) -> Any:
    if item.default_factory is not dataclasses.MISSING:
        return item.default_factory()
    return item.default


def _refuse_training(patch: Patch, say: Say) -> None:
    for key, item in patch.items():
        if key.startswith(("training.", "undo.")):
            name = "undo" if key.startswith("undo.") else key.split(".")[1]
            say(item.line, f"{name} is a training setting, but method vanilla does not train; use method: sft")


def _checked(settings: Settings, values: Patch, say: Say) -> Settings:
    training = settings.training
    if training is not None and training.finetuning_type == "full" and training.quantization_bit is not None:
        line = values["training.quantization_bit"].line
        say(line, "quantization_bit freezes the weights, but finetuning_type full trains them; remove one of the two")
    for name in ("eval_steps", "load_best_model_at_end"):
        if training is not None and not training.val_size and getattr(training, name):
            say(
                values[f"training.{name}"].line,
                f"{name} needs rows to measure the loss on; write `val_size: 0.05` beside it",
            )
    decode = settings.decode
    if not decode.do_sample:
        for name in ("temperature", "top_p", "top_k"):
            if getattr(decode, name) != getattr(Decode(), name):
                line = values[f"decode.{name}"].line
                say(line, f"{name} does nothing while decoding is greedy; write `do_sample: true` beside it")
    if decode.plant is not None:
        _check_plant(decode.plant, values["decode.plant"].line, say)
    if decode.plant_twin and decode.plant is None:
        say(values["decode.plant_twin"].line, "plant_twin needs a mistake to be the twin of; write `plant:` beside it")
    undo = settings.undo
    if undo is not None and undo.say == "words" and undo.context == "rewind":
        say(values["undo.say"].line, "what is taken back in words stays in the context; remove `context: rewind`")
    if undo is not None and undo.say == "words" and undo.mask == "repeats":
        say(values["undo.say"].line, "mask repeats weighs undo tokens, and words are none; use another mask")
    return settings


def _check_plant(strategy: str, line: int, say: Say) -> None:
    if strategy not in catalog.names("augment"):
        say(line, catalog.unknown("undo strategy", strategy, catalog.names("augment")))
        return
    try:
        catalog.plugin("augment", strategy)()
    except ConfigError:
        say(line, f"plant takes a strategy that needs no options of its own, as arithmetic_slip; got {strategy}")


def _suggestion(text: str, choices: Iterable[Any]) -> str:
    close = catalog.nearest(text, [str(choice) for choice in choices])
    return f"; did you mean {close!r}?" if close else ""
