"""The readable suffix of a result folder: what differs from the named config.

    lora/train with learning_rate 3e-4 and lora_rank 16     ->  lora/train+lr3e-4+r16

Each setting that differs becomes `+<short name><value>`, in the order of `SHORT`; numbers follow the name directly,
words after a dash. A strategy's option is `+o.<option>-<value>`. Two different settings never give the same suffix:
values that are no plain lower-case word or number carry a hash, and so does a suffix that had to be shortened. Folder
names stay safe on every file system, those that ignore case included.
"""

from __future__ import annotations

import dataclasses
import re
from decimal import Decimal
from typing import Any

from unsay.identity import sha256_of
from unsay.settings import Settings, UndoData

SHORT = {
    "prompting.num_fewshot": "shots",
    "prompting.apply_chat_template": "chat",
    "prompting.fewshot_as_multiturn": "multiturn",
    "prompting.fewshot_seed": "shotseed",
    "prompting.enable_thinking": "think",
    "training.finetuning_type": "tuning",
    "training.quantization_bit": "bits",
    "training.learning_rate": "lr",
    "training.row_learning_rate": "rowlr",
    "training.lora_rank": "r",
    "training.lora_alpha": "alpha",
    "training.lora_dropout": "drop",
    "training.lora_target": "target",
    "training.num_train_epochs": "ep",
    "training.max_steps": "steps",
    "training.per_device_train_batch_size": "bs",
    "training.gradient_accumulation_steps": "acc",
    "training.auto_find_batch_size": "autobs",
    "training.gradient_checkpointing": "recompute",
    "training.curriculum": "curriculum",
    "training.lr_scheduler_type": "sched",
    "training.warmup_ratio": "warm",
    "training.weight_decay": "wd",
    "training.max_grad_norm": "clip",
    "training.cutoff_len": "cut",
    "training.max_samples": "n",
    "training.bf16": "bf",
    "training.logging_steps": "log",
    "training.save_steps": "save",
    "training.val_size": "val",
    "training.eval_steps": "eval",
    "training.load_best_model_at_end": "best",
    "training.report_to": "report",
    "undo.strategy": "strategy",
    "undo.clean_share": "clean",
    "undo.mask": "mask",
    "undo.init": "init",
    "undo.context": "trainctx",
    "undo.say": "say",
    "decode.undo_context": "ctx",
    "decode.undo": "undo",
    "decode.max_new_tokens": "new",
    "decode.do_sample": "sample",
    "decode.temperature": "temp",
    "decode.top_p": "topp",
    "decode.top_k": "topk",
    "decode.max_survivors": "survivors",
    "decode.max_undos": "undos",
    "decode.max_visits": "visits",
    "decode.undo_bias": "bias",
    "decode.stop_on": "stopon",
    "decode.stop": "stop",
    "decode.plant": "plant",
    "decode.plant_twin": "twin",
}
"""Short names, letters only, so that a number after one cannot be read as part of it."""

LONGEST = 96
_HASH = "h-"


def suffix(named: Settings, settings: Settings, *, decode: bool = True) -> str:
    """Return how `settings` differ from those of the named config, "" when they do not.

    `decode=False` leaves out how answers are generated: the name of the training alone.
    """
    before, after = _flat(named), _flat(settings)
    if named.undo is None and settings.undo is not None:
        # Undo data where there was none: always name the strategy, the rest only where it is not the default.
        before |= _flat(dataclasses.replace(named, undo=UndoData()))
        del before["undo.strategy"]
    if named.decode.undo_context == (named.undo.context if named.undo else "keep") and settings.undo is not None:
        # A model decodes as it was trained, so only decoding in the other way is a difference of its own.
        before["decode.undo_context"] = settings.undo.context
    tokens = []
    for key, short in SHORT.items():
        if not decode and key.startswith("decode."):
            continue
        if key in after and (key not in before or before[key] != after[key]):
            tokens.append(short + _value(after[key]))
    tokens += [
        f"o.{key.removeprefix('undo.options.')}{_dashed(after.get(key, _DEFAULT))}"
        for key in sorted({*before, *after})
        if key.startswith("undo.options.") and before.get(key, _DEFAULT) != after.get(key, _DEFAULT)
    ]
    if named.undo is not None and settings.undo is None:
        tokens.append("noundo")
    whole = "".join(f"+{token}" for token in tokens)
    if len(whole) <= LONGEST:
        return whole
    kept = ""
    for token in tokens:
        if len(kept) + len(token) + 1 > LONGEST - 14:
            break
        kept += f"+{token}"
    return f"{kept}+{_HASH}{sha256_of(whole)[:12]}"


class _DefaultMarker:
    """Stands for an option left at its strategy's default."""


_DEFAULT = _DefaultMarker()


def _flat(settings: Settings) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for section in ("prompting", "training", "decode", "undo"):
        part = getattr(settings, section)
        if part is None:
            continue
        for item in dataclasses.fields(part):
            if item.name != "options":
                values[f"{section}.{item.name}"] = getattr(part, item.name)
    if settings.undo is not None:
        values |= {f"undo.options.{name}": value for name, value in settings.undo.options.items()}
    return values


def _value(value: Any) -> str:
    """Return a value as it follows a short name: digits at once, everything else after a dash."""
    text = _number(value)
    return text if text is not None else _dashed(value)


def _dashed(value: Any) -> str:
    if isinstance(value, _DefaultMarker):
        return "-default"
    if value is None:
        return "-none"
    if isinstance(value, bool):
        return "-on" if value else "-off"
    text = _number(value)
    if text is not None:
        return f"-{text}"
    if isinstance(value, str) and _is_plain(value):
        return f"-{value}"
    shown = value if isinstance(value, str) else "_".join(map(str, value)) if isinstance(value, list | tuple) else ""
    shown = re.sub(r"[^a-z0-9]+", "_", shown.casefold())[:24].strip("_")
    return f"-{shown}-{sha256_of(value)[:8]}"


def _is_plain(text: str) -> bool:
    reserved = {"none", "on", "off", "default", "inf", "nan"}
    return re.fullmatch(r"[a-z]([a-z0-9_]{0,30}[a-z0-9])?", text) is not None and text not in reserved


def _number(value: Any) -> str | None:
    """Return the one spelling of a number: 8, 0.05, 3e-4."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int):
        return str(value)
    number = Decimal(repr(value)).normalize()
    if number == 0:
        return "0"
    if -2 <= number.adjusted() <= 6:
        return f"{number:f}"
    digits = "".join(map(str, number.as_tuple().digits))
    mantissa = digits[0] + ("." + digits[1:] if len(digits) > 1 else "")
    return f"{'-' if number < 0 else ''}{mantissa}e{number.adjusted()}"
