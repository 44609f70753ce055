"""LLaMA-Factory's output folders: predictions, published scores, training logs, adapter and configuration.

One experiment per folder. Per-item scores are rounded to four digits before they are averaged, so mean × items × 10,000
is a whole number; where it is none for the lines that are here, several devices padded their batches and the repeats
were averaged in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unsay import importers
from unsay.importers import (
    UNKNOWN,
    File,
    ForeignError,
    Found,
    Item,
    Options,
    Refused,
    keys_of,
    name_of,
    number,
    shortened,
    whole,
)
from unsay.records import MetricValue, Sample

PREDICTIONS = "generated_predictions.jsonl"
SCORES = {"bleu-4": "bleu4_lf", "rouge-1": "rouge_1_lf", "rouge-2": "rouge_2_lf", "rouge-l": "rouge_l_lf"}
SUMMARIES = ("predict_results.json", "all_results.json", "eval_results.json", "train_results.json")
LOG, STATE, ADAPTER = "trainer_log.jsonl", "trainer_state.json", "adapter_config.json"
NAMES = {PREDICTIONS, *SUMMARIES, LOG, STATE, ADAPTER}
YAML = (".yaml", ".yml")
DIGITS = 10_000
"""A per-item score times this is a whole number."""
DEFAULT_DECODE = {"do_sample": True, "temperature": 0.95, "top_p": 0.7, "top_k": 50, "max_new_tokens": 1024}
"""What LLaMA-Factory does where its configuration says nothing."""
SYMBOLIC = re.compile(r"gsm[-_ ]?symbolic", re.IGNORECASE)


@dataclass(frozen=True)
class LlamaFactory:
    """Predictions and trainings of LLaMA-Factory."""

    def claims(self, file: File) -> bool:
        if file.name in NAMES:
            return True
        if file.path.suffix in YAML:
            return _is_configuration(importers.head(file.path))
        start = importers.head(file.path) if file.path.suffix == ".jsonl" else b""
        return b'"predict"' in start and b'"label"' in start and b'"doc_id"' not in start

    def find(self, files: Sequence[File], options: Options) -> tuple[list[Found], list[Refused]]:
        folders: dict[Path, list[File]] = {}
        refused: list[Refused] = []
        found: list[Found] = []
        for file in files:
            if self.claims(file) or (file.named and _has_both(file.path, options)):
                folders.setdefault(file.folder, []).append(file)
        trained: dict[Path, _Folder] = {}
        read = []
        for place, inside in folders.items():
            folder = _Folder(place)
            for file in inside:
                try:
                    folder.read(file, options)
                except ForeignError as error:
                    refused.append(Refused(file.path, str(error)))
            read.append(folder)
            if folder.adapter or folder.configuration.get("do_train"):
                trained[place] = folder
        for folder in read:
            found += folder.experiments(options, trained)
        return found, refused


# -- one folder -------------------------------------------------------------------


@dataclass
class _Folder:
    """What the files of one output folder say."""

    place: Path
    predictions: list[Path] = field(default_factory=list)
    count: dict[Path, int] = field(default_factory=dict)
    summaries: dict[str, dict[str, Any]] = field(default_factory=dict)
    configuration: dict[str, Any] = field(default_factory=dict)
    adapter: dict[str, Any] = field(default_factory=dict)
    log: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    others: list[Path] = field(default_factory=list)

    def read(self, file: File, options: Options) -> None:
        """Take in one file; raises ForeignError where it is not what its name says."""
        if file.path.suffix in YAML:
            found = importers.yaml_mapping(file.path)
            if len(found) > len(self.configuration):
                self.configuration = found
            self.others.append(file.path)
        elif file.name in SUMMARIES:
            summary = importers.mapping(file.path)
            if not any(number(value) is not None for value in summary.values()):
                raise ForeignError(f"expected numbers such as predict_bleu-4 or train_loss, got {keys_of(summary)}")
            self.summaries[file.name] = summary
            self.others.append(file.path)
        elif file.name == ADAPTER:
            self.adapter = importers.mapping(file.path)
            self.others.append(file.path)
        elif file.name == LOG:
            self.log = _training_log(file.path)
            self.others.append(file.path)
        elif file.name == STATE:
            self.state = _training_state(importers.mapping(file.path))
            self.others.append(file.path)
        else:
            self.count[file.path] = _check_predictions(file.path, options)
            self.predictions.append(file.path)

    def experiments(self, options: Options, trained: Mapping[Path, _Folder]) -> Iterator[Found]:
        """Make an experiment of every predictions file; without one, of the scores or the training alone."""
        if self.predictions:
            for path in self.predictions:
                yield self._predicted(path, options, trained)
        elif any(self._scores(prefix) for prefix in ("predict", "eval")) or self._training_facts():
            yield self._without_predictions(options, trained)

    # -- with predictions ---------------------------------------------------------

    def _predicted(self, path: Path, options: Options, trained: Mapping[Path, _Folder]) -> Found:
        n = self.count[path]
        scores = self._scores("predict")
        warnings = list(self._warnings(trained))
        facts: dict[str, Any] = {"samples": n} | self._facts()
        if scores:
            facts["published"] = dict(scores)
            warnings += list(_padding(scores, n, self._published_count("predict")))
        else:
            warnings.append("no predict_results.json beside the predictions: no published scores to compare with")
        return self._found(
            files=(path, *self.others),
            options=options,
            trained=trained,
            warnings=warnings,
            facts=facts,
            items=_Stream(path, options),
            expected=n,
            exact_match={},
            published=_published(scores, n, "of other rows than those that are here"),
        )

    # -- without ------------------------------------------------------------------

    def _without_predictions(self, options: Options, trained: Mapping[Path, _Folder]) -> Found:
        prefix = "predict" if self._scores("predict") else "eval"
        scores = self._scores(prefix)
        n = self._published_count(prefix)
        if n is not None and not all(_is_mean_of(value, n) for value in scores.values()):
            n = None
        values = _published(scores, n, "no predictions to check it with")
        warnings = list(self._warnings(trained))
        if scores:
            warnings.append("samples missing: published scores cannot be checked, nor exact match computed")
        warnings += self._disagreements()
        status, error = ("completed", None) if scores else self._how_training_ended()
        if not scores:
            warnings.append("a training only: nothing was evaluated on answers")
        return self._found(
            files=tuple(self.others),
            options=options,
            trained=trained,
            warnings=warnings,
            facts=self._facts() | ({"published": dict(scores)} if scores else {}),
            published=values,
            status=status,
            error=error,
        )

    def _found(self, *, files: tuple[Path, ...], options: Options, trained: Mapping[Path, _Folder], warnings: list[str],
               facts: dict[str, Any], **more: Any) -> Found:  # fmt: skip
        where = _place(self.place)
        sets = self._training_sets(trained)
        kind = self.configuration.get("finetuning_type") or ("lora" if self.adapter else where.get("kind", ""))
        undone = any(importers.UNDO_NAME.search(name) for name in (*sets, where.get("config", "")))
        trains = f"train{'_bt' if undone else ''}"
        config = where.get("config") or (
            f"{name_of(kind)}/{trains}" if kind else trains if self._trains() else "predict"
        )
        return Found(
            tool="LLaMA-Factory",
            files=files,
            part=files[0].name,
            model=options.model or self._model(trained) or where.get("model", UNKNOWN),
            dataset=options.dataset or self._dataset() or where.get("dataset", UNKNOWN),
            method="sft" if self._training(trained) is not None or self.adapter else where.get("method", "sft"),
            config=config,
            settings=self._settings(),
            warnings=tuple(warnings),
            facts=facts,
            training=tuple(sets),
            **more,
        )

    # -- what the files say -------------------------------------------------------

    def _scores(self, prefix: str) -> dict[str, float]:
        """Return the published scores; predict_results.json before all_results.json, which later runs rewrite."""
        for name in SUMMARIES:
            summary = self.summaries.get(name, {})
            found = {ours: number(summary.get(f"{prefix}_{theirs}")) for theirs, ours in SCORES.items()}
            scores = {ours: value for ours, value in found.items() if value is not None and 0 <= value <= 100}
            if scores:
                return scores
        return {}

    def _published_count(self, prefix: str) -> int | None:
        """Work out how many items were scored: seconds times items per second, a whole number up to rounding."""
        for name in SUMMARIES:
            summary = self.summaries.get(name, {})
            if f"{prefix}_bleu-4" in summary:
                seconds, speed = (number(summary.get(f"{prefix}_{key}")) for key in ("runtime", "samples_per_second"))
                if seconds and speed and seconds > 0 and 0 < seconds * speed < 1e9:
                    scores = self._scores(prefix).values()
                    about, margin = seconds * speed, min(500.0, seconds * 0.0005 + 1)
                    near = range(max(1, int(about - margin)), int(about + margin) + 2)
                    fitting = [n for n in near if all(_is_mean_of(value, n) for value in scores)]
                    return min(fitting, key=lambda n: abs(n - about)) if fitting else round(about)
        return None

    def _disagreements(self) -> list[str]:
        one, two = self.summaries.get("predict_results.json", {}), self.summaries.get("all_results.json", {})
        different = [key for key in one if key.startswith("predict_") and key in two and one[key] != two[key]]
        scores = [key for key in different if key.removeprefix("predict_") in SCORES]
        if not scores:
            return []
        key = scores[0]
        return [
            f"predict_results.json and all_results.json disagree ({key} {number(one[key])} and {number(two[key])}): "
            "they are of different runs; the first is shown"
        ]

    def _facts(self) -> dict[str, Any]:
        found: dict[str, Any] = dict(self._training_facts())
        base = self.adapter.get("base_model_name_or_path")
        if isinstance(base, str):
            found["base_model"] = shortened(base, 200)
        for theirs, ours in (("r", "lora_rank"), ("lora_alpha", "lora_alpha"), ("peft_type", "peft_type")):
            value = self.adapter.get(theirs)
            if isinstance(value, str | int) and not isinstance(value, bool):
                found[ours] = value if isinstance(value, int) else shortened(value, 40)
        template = self.configuration.get("template")
        if isinstance(template, str):
            found["template"] = shortened(template, 60)
        return found

    def _training_facts(self) -> dict[str, Any]:
        found: dict[str, Any] = {**self.state, **self.log}
        for name in ("eval_results.json", "train_results.json", "all_results.json"):
            for key in ("train_loss", "eval_loss", "train_runtime", "epoch"):
                value = number(self.summaries.get(name, {}).get(key))
                if value is not None:
                    found[key] = value
        return found if any(key in found for key in ("steps", "train_loss", "train_runtime", "eval_loss")) else {}

    def _how_training_ended(self) -> tuple[str, str | None]:
        steps, total = self.log.get("steps"), self.log.get("total_steps")
        if isinstance(steps, int) and isinstance(total, int) and steps < total and not self._has_train_results():
            return "failed", f"the training log ends at step {steps:,} of {total:,}: the training was cut short"
        return "completed", None

    def _has_train_results(self) -> bool:
        return any("train_runtime" in summary for summary in self.summaries.values())

    def _trains(self) -> bool:
        return bool(self.configuration.get("do_train")) or "logged_losses" in self._training_facts()

    def _training(self, trained: Mapping[Path, _Folder]) -> _Folder | None:
        """Return the folder of the training behind a prediction run, where it was found too."""
        if self._trains():
            return self
        path = self.configuration.get("adapter_name_or_path") or self.configuration.get("model_name_or_path")
        if isinstance(path, str):
            parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")][-3:]
            for place, folder in trained.items():
                if parts and list(place.parts[-len(parts) :]) == parts:
                    return folder
        return None

    def _training_sets(self, trained: Mapping[Path, _Folder]) -> list[str]:
        training = self._training(trained)
        return _names(training.configuration.get("dataset")) if training is not None else []

    def _model(self, trained: Mapping[Path, _Folder]) -> str:
        training = self._training(trained)
        for value in (
            self.adapter.get("base_model_name_or_path"),
            self.configuration.get("model_name_or_path"),
            training.adapter.get("base_model_name_or_path") if training else None,
        ):
            if isinstance(value, str) and value.strip() and not value.startswith("/path/to/"):
                return name_of(value)
        return ""

    def _dataset(self) -> str:
        names = _names(self.configuration.get("eval_dataset")) or _names(self.configuration.get("dataset"))
        return shortened("+".join(names))

    def _settings(self) -> dict[str, Any]:
        if not self.configuration:
            return {}
        decode: dict[str, Any] = {}
        if self.configuration.get("do_predict") or self.configuration.get("predict_with_generate"):
            for key, default in DEFAULT_DECODE.items():
                value = self.configuration.get(key, default)
                counted = key in ("max_new_tokens", "top_k")
                decode[key] = value if isinstance(value, bool) else whole(value) if counted else number(value)
            decode = {key: value for key, value in decode.items() if value is not None}
        prompting: dict[str, Any] = {"num_fewshot": 0, "apply_chat_template": True}
        template = self.configuration.get("template")
        if isinstance(template, str):
            prompting["template"] = shortened(template, 60)
        training = {
            key: value
            for key in ("learning_rate", "num_train_epochs", "lora_rank", "per_device_train_batch_size", "cutoff_len",
                        "gradient_accumulation_steps", "lr_scheduler_type", "warmup_ratio")
            if isinstance(value := self.configuration.get(key), str | int | float) and not isinstance(value, bool)
        }  # fmt: skip
        return {"prompting": prompting, "decode": decode} | ({"training": training} if training else {})

    def _warnings(self, trained: Mapping[Path, _Folder]) -> Iterator[str]:
        training_sets = self._training_sets(trained)
        evaluated = _names(self.configuration.get("eval_dataset"))
        predicts = bool(self.predictions) or bool(self._scores("predict"))
        if predicts and evaluated and (both := sorted({*evaluated} & {*training_sets})):
            yield f"evaluated on its own training rows: {shortened(', '.join(both))} is what it was trained on too"
        elif predicts and not evaluated and training_sets and not number(self.configuration.get("val_size")):
            yield (
                f"evaluated on its own training rows: the configuration names no eval_dataset, so predictions are on "
                f"{shortened(', '.join(training_sets))}, the dataset of the training"
            )
        if any(SYMBOLIC.search(name) for name in training_sets):
            yield (
                "GSM-Symbolic used for training: it is an evaluation set made from GSM8K's test questions; nothing "
                "about GSM8K can be concluded from this model"
            )
        decode = self._settings().get("decode", {})
        if predicts and decode.get("do_sample"):
            stated = "" if {"do_sample", "temperature"} & self.configuration.keys() else " (LLaMA-Factory's default)"
            yield f"sampled decoding{stated}: another run of the same model gives other answers"
        elif predicts and not decode:
            yield "how the answers were decoded is unknown; LLaMA-Factory samples them unless told otherwise"


@dataclass(frozen=True)
class _Stream:
    """The items of a predictions file, read anew each time."""

    path: Path
    options: Options

    def __call__(self) -> Iterator[Item]:
        options = self.options
        for at, (_, line) in enumerate(importers.lines(self.path)):
            prompt = line.get("prompt")
            question = line.get("question")
            sample = Sample(
                key=str(at),
                question=question if isinstance(question, str) else "",
                label=options.marked(_as_text(line[options.label])),
                predict=options.marked(_as_text(line[options.predict])),
            )
            yield Item(sample, prompt if isinstance(prompt, str) else "")


# -- files ------------------------------------------------------------------------


def _check_predictions(path: Path, options: Options) -> int:
    """Count the lines; raises ForeignError for the first without prediction and reference."""
    n = 0
    for at, line in importers.lines(path):
        missing = [key for key in (options.predict, options.label) if not _is_text(line.get(key))]
        if missing:
            raise ForeignError(
                f"line {at}: expected texts under the keys {options.predict!r} and {options.label!r}, "
                f"got {keys_of(line)}. "
                "If they have other names, say which: --predict KEY --label KEY"
            )
        n += 1
    if n == 0:
        raise ForeignError("expected at least one prediction, the file is empty")
    return n


def _has_both(path: Path, options: Options) -> bool:
    line = importers.first_line(path)
    return line is not None and options.predict in line and options.label in line


def _is_text(value: object) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else str(value)


def _training_log(path: Path) -> dict[str, Any]:
    """Sum up trainer_log.jsonl: the rate is called lr or learning_rate, numbers may be texts, steps may repeat."""
    found: dict[str, Any] = {}
    losses: list[float] = []
    steps: set[int] = set()
    for at, line in importers.lines(path):
        step, total = whole(line.get("current_steps")), whole(line.get("total_steps"))
        if step is None:
            raise ForeignError(f"line {at}: expected the key current_steps, got {keys_of(line)}")
        steps.add(step)
        found["steps"] = max(step, found.get("steps", 0))
        if total is not None:
            found["total_steps"] = total
        loss, evaluated = number(line.get("loss")), number(line.get("eval_loss"))
        rate = number(line.get("lr", line.get("learning_rate")))
        if loss is not None:
            losses.append(loss)
            found["last_loss"] = loss
        if evaluated is not None:
            found["eval_loss"] = evaluated
        if rate is not None:
            found["peak_learning_rate"] = max(rate, found.get("peak_learning_rate", 0.0))
        epoch = number(line.get("epoch"))
        if epoch is not None:
            found["epoch"] = epoch
        if isinstance(line.get("elapsed_time"), str):
            found["elapsed_time"] = shortened(line["elapsed_time"], 40)
    if not steps:
        raise ForeignError("expected at least one line, the file is empty")
    found["logged_losses"] = len(losses)
    if not losses:  # the log of a prediction run counts batches, not training steps
        return {"predicted_batches": found["steps"]}
    return found


def _training_state(value: dict[str, Any]) -> dict[str, Any]:
    history = value.get("log_history")
    step = whole(value.get("global_step"))
    if not isinstance(history, list) or step is None:
        raise ForeignError(f"expected the keys global_step and log_history, got {keys_of(value)}")
    found: dict[str, Any] = {"steps": step}
    total = whole(value.get("max_steps"))
    if total:
        found["total_steps"] = total
    losses = [loss for entry in history if isinstance(entry, dict) and (loss := number(entry.get("loss"))) is not None]
    if losses:
        found |= {"last_loss": losses[-1], "logged_losses": len(losses)}
    return found


def _is_configuration(start: bytes) -> bool:
    keys = {match[1] for match in re.finditer(rb"(?m)^[ \t]*([a-z_]+)[ \t]*:", start)}
    return b"model_name_or_path" in keys and bool(
        keys & {b"stage", b"finetuning_type", b"template", b"do_train", b"do_predict", b"adapter_name_or_path"}
    )


def _place(folder: Path) -> dict[str, str]:
    """Read `<model>/<dataset>/<vanilla|sft>/<config>` from the end of a path, where it is written like that."""
    parts = folder.parts
    for at in range(len(parts) - 1, 1, -1):
        if parts[at] in ("vanilla", "sft") and at < len(parts) - 1:
            config = "/".join(parts[at + 1 :])
            return {
                "model": name_of(parts[at - 2]),
                "dataset": name_of(parts[at - 1]),
                "method": parts[at],
                "config": shortened(config),
                "kind": parts[at + 1],
            }
    return {}


def _names(value: object) -> list[str]:
    """Return dataset names, written as a list or with commas."""
    listed = value if isinstance(value, list) else str(value).split(",") if isinstance(value, str) else []
    return [name for item in listed[:50] if (name := shortened(" ".join(str(item).split())))]


def _published(scores: Mapping[str, float], n: int | None, why: str) -> dict[str, MetricValue]:
    """Take over published means; items that nobody has give no standard error."""
    counted = f"; {n:,} items" if n is not None else "; number of items unknown"
    reason = f"published by LLaMA-Factory, {why}{counted}; no standard error without items"
    return {name: MetricValue(value, None, None, None, n or 0, "", reason) for name, value in scores.items()}


def _is_mean_of(value: float, n: int) -> bool:
    total = value * n * DIGITS
    return abs(total - round(total)) < max(1e-4, 4e-16 * total)


def _padding(scores: Mapping[str, float], n: int, counted: int | None) -> Iterator[str]:
    """Say when the published means are not of the lines that are here."""
    if all(_is_mean_of(value, n) for value in scores.values()):
        return
    fitting = next((m for m in range(n + 1, n + 65) if all(_is_mean_of(value, m) for value in scores.values())), None)
    more = f" They fit {fitting} rows." if fitting else ""
    rows = f" (it counted about {counted})" if counted and counted != n else ""
    yield (
        f"padding repeats averaged in: the published scores are no mean of {n} items{rows}, as happens on several "
        f"devices, and cannot be recomputed; the scores shown are of the {n} lines.{more}"
    )
