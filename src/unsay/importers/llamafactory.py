"""LLaMA-Factory's output folders: predictions, published scores, training logs, adapter and configuration.

One experiment per folder. Per-item scores are rounded to four digits before they are averaged, so mean × items × 10,000
is a whole number; where it is none for the lines that are here, several devices padded their batches and the repeats
were averaged in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
SYMBOLIC = re.compile(r"gsm(?:8k)?[-_ ]?symbolic", re.IGNORECASE)
CHECKPOINT = re.compile(r"checkpoint-\d+")
KINDS = {"lora", "qlora", "full", "freeze", "oft"}
"""Ways of fine-tuning, which LLaMA-Factory's own layout has as folders below the model's."""
STAGES = {"sft", "pt", "rm", "ppo", "dpo", "kto", "orpo", "simpo"}
ACCURACIES = ("predict_accuracy", "eval_accuracy", "eval_rewards/accuracies")
"""Shares that are published besides the scores of texts."""


@dataclass(frozen=True)
class LlamaFactory:
    """Predictions and trainings of LLaMA-Factory."""

    def claims(self, file: File) -> bool:
        if file.name in NAMES:
            return True
        if file.path.suffix in YAML:
            return _is_configuration(importers.head(file.path))
        start = importers.head(file.path) if file.path.suffix == ".jsonl" else b""
        return b'"predict"' in start and b'"label"' in start and b'"resps"' not in start

    def find(self, files: Sequence[File], options: Options) -> tuple[list[Found], list[Refused]]:
        folders: dict[Path, _Folder] = {}
        refused: list[Refused] = []
        loose: list[tuple[File, dict[str, Any]]] = []
        mine = [file for file in files if self.claims(file) or _has_named_keys(file, options)]
        outputs = {file.folder for file in mine if file.path.suffix not in YAML}
        for file in mine:
            try:
                if file.folder in outputs:
                    folders.setdefault(file.folder, _Folder(file.folder)).read(file, options)
                else:
                    loose.append((file, importers.yaml_mapping(file.path)))
            except ForeignError as error:
                refused.append(Refused(file.path, str(error)))
        for file, configuration in loose:
            folder = _nearest(_matching(str(configuration.get("output_dir") or ""), folders.values()), file.folder)
            if folder is not None:
                folder.configurations.append((file.path, configuration))
                folder.others.append(file.path)
            elif file.named:
                refused.append(Refused(file.path, "a configuration, but no output folder of it is among the files"))
        for folder in folders.values():
            folder.give_to_its_training(folders)
        for folder in folders.values():
            folder.find_training(folders)
        return [each for folder in folders.values() for each in folder.experiments(options)], refused


# -- one folder -------------------------------------------------------------------


@dataclass
class _Folder:
    """What the files of one output folder say."""

    place: Path
    predictions: list[Path] = field(default_factory=list)
    count: dict[Path, int] = field(default_factory=dict)
    summaries: dict[str, dict[str, Any]] = field(default_factory=dict)
    configurations: list[tuple[Path, dict[str, Any]]] = field(default_factory=list)
    adapter: dict[str, Any] = field(default_factory=dict)
    log: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    others: list[Path] = field(default_factory=list)
    training: _Folder | None = None
    """The training behind it: itself, or another folder; None where it is not among the files."""
    ambiguous: bool = False
    """Several trainings could be the one behind it."""
    is_checkpoint: bool = False

    def read(self, file: File, options: Options) -> None:
        """Take in one file; raises ForeignError where it is not what its name says."""
        if file.path.suffix in YAML:
            self.configurations.append((file.path, importers.yaml_mapping(file.path)))
        elif file.name in SUMMARIES:
            summary = importers.mapping(file.path)
            if not any(number(value) is not None for value in summary.values()):
                raise ForeignError(f"expected numbers such as predict_bleu-4 or train_loss, got {keys_of(summary)}")
            self.summaries[file.name] = summary
        elif file.name == ADAPTER:
            self.adapter = importers.mapping(file.path)
        elif file.name == LOG:
            self.log = _training_log(file.path)
        elif file.name == STATE:
            self.state = _training_state(importers.mapping(file.path))
        else:
            self.count[file.path] = _check_predictions(file.path, options)
            self.predictions.append(file.path)
            return
        self.others.append(file.path)

    # -- among other folders ------------------------------------------------------

    def give_to_its_training(self, folders: Mapping[Path, _Folder]) -> None:
        """A checkpoint without answers of its own is a part of the training above it, not an experiment."""
        above = folders.get(self.place.parent)
        if CHECKPOINT.fullmatch(self.place.name) and above is not None and not self._evaluates():
            above.others += self.others
            above.adapter = above.adapter or self.adapter
            self.is_checkpoint = True

    def find_training(self, folders: Mapping[Path, _Folder]) -> None:
        """Find the training behind this folder: its own, the one its configuration names, or the one above it."""
        if self._trains():
            self.training = self
            return
        others = [each for each in folders.values() if each is not self and not each.is_checkpoint]
        trained = [each for each in others if each.adapter or each._trains()]
        named = self._predicting().get("adapter_name_or_path") or self._predicting().get("model_name_or_path")
        if isinstance(named, str) and (matching := _matching(named, trained)):
            self.training = _nearest(matching, self.place)
            self.ambiguous = self.training is None
            return
        above = [each for each in trained if each.place in self.place.parents[:4]]
        self.training = max(above, key=lambda each: len(each.place.parts), default=None)

    def _evaluates(self) -> bool:
        return (
            bool(self.predictions)
            or any(self._scores(prefix) for prefix in ("predict", "eval"))
            or bool(self._accuracies())
        )

    def _trains(self) -> bool:
        return bool(self._trained_with()) or "logged_losses" in self._training_facts()

    def _predicting(self) -> dict[str, Any]:
        """The configuration the answers were made with."""
        listed = [each for _, each in self.configurations]
        return next(
            (each for each in listed if each.get("do_predict") or each.get("predict_with_generate")), None
        ) or next((each for each in listed if not each.get("do_train")), {})

    def _trained_with(self) -> dict[str, Any]:
        """The configuration of a training in this folder."""
        return next((each for _, each in self.configurations if each.get("do_train")), {})

    # -- experiments --------------------------------------------------------------

    def experiments(self, options: Options) -> Iterator[Found]:
        """Make an experiment of every predictions file; without one, of the scores or the training alone."""
        if self.is_checkpoint:
            return
        if self.predictions:
            for path in self.predictions:
                yield self._predicted(path, options)
        elif self._evaluates() or self._training_facts():
            yield self._without_predictions(options)

    def _predicted(self, path: Path, options: Options) -> Found:
        n = self.count[path]
        own = path.name == PREDICTIONS
        scores = self._scores("predict") if own else {}
        warnings = list(self._warnings(own))
        facts: dict[str, Any] = {"samples": n} | self._facts()
        if scores:
            facts["published"] = dict(scores)
            warnings += list(_padding(scores, n, self._published_count("predict")))
        elif own:
            warnings.append("no predict_results.json beside the predictions: no published scores to compare with")
        return self._found(
            files=(path, *self.others) if own else (path,),
            tool="LLaMA-Factory" if own else "predictions",
            options=options,
            warnings=warnings,
            facts=facts,
            items=_Stream(path, options),
            expected=n,
            exact_match={},
            texts_as_published=True,
            published=_published(scores, n, "of other rows than those that are here"),
        )

    def _without_predictions(self, options: Options) -> Found:
        prefix = "predict" if self._scores("predict") else "eval"
        scores = self._scores(prefix)
        n = self._published_count(prefix)
        if n is not None and not all(_is_mean_of(value, n) for value in scores.values()):
            n = None
        values = _published(scores, n, "no predictions to check it with") | self._accuracies()
        warnings = list(self._warnings(True))
        status, error = "completed", None
        if values:
            warnings.append("samples missing: published scores cannot be checked, nor exact match computed")
        else:
            status, error = self._how_training_ended()
            warnings.append("a training only: nothing was evaluated on answers")
        warnings += self._disagreements()
        return self._found(
            files=tuple(self.others),
            tool="LLaMA-Factory",
            options=options,
            warnings=warnings,
            facts=self._facts() | ({"published": dict(scores)} if scores else {}),
            published=values,
            status=status,
            error=error,
        )

    def _found(self, *, options: Options, warnings: list[str], files: tuple[Path, ...], **more: Any) -> Found:
        where = _place(self.place)
        sets = self._training_sets()
        trained = self.training is not None or bool(self.adapter)
        kind = str(self._any("finetuning_type") or ("lora" if self.adapter else "") or where.get("kind", ""))
        undone = any(importers.UNDO_NAME.search(name) for name in (*sets, where.get("config", "")))
        trains = f"train{'_bt' if undone else ''}"
        config = f"{name_of(kind)}/{trains}" if kind and trained else trains if trained else "predict"
        training = self.training or self
        seeds = (training._trained_with().get("seed"), self._predicting().get("seed"))
        return Found(
            files=files,
            part=files[0].name,
            model=options.model or self._model() or where.get("model", UNKNOWN),
            dataset=options.dataset or self._dataset() or where.get("dataset", UNKNOWN),
            method=self._method(trained) if trained else where.get("method") or self._untrained(),
            config=where.get("config") or config,
            settings=self._settings(),
            seed=next((seed for value in seeds if (seed := whole(value)) is not None), 0),
            warnings=tuple(warnings),
            training=tuple(sets),
            **more,
        )

    def _method(self, trained: bool) -> str:
        """Return the stage of the training; preference training without a configuration shows in what it logged."""
        training = self.training or self
        stage = str(training._trained_with().get("stage") or self._any("stage") or "sft")
        rewards = any(key.startswith("eval_rewards/") for summary in training.summaries.values() for key in summary)
        return "dpo" if stage == "sft" and rewards else stage if stage in STAGES else "sft"

    def _untrained(self) -> str:
        """Return vanilla for a model named by a hub id and no adapter; nothing is known of a folder."""
        path = self._predicting().get("model_name_or_path")
        by_name = isinstance(path, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", path) and not importers.is_checkpoint(path)
        return "vanilla" if by_name and not self._predicting().get("adapter_name_or_path") else UNKNOWN

    # -- what the files say -------------------------------------------------------

    def _any(self, key: str) -> Any:
        """Return a setting of whichever configuration has it, the training's first."""
        listed = [self._trained_with(), *(each for _, each in self.configurations)]
        return next((each[key] for each in listed if each.get(key) is not None), None)

    def _scores(self, prefix: str) -> dict[str, float]:
        """Return the published scores; predict_results.json before all_results.json, which later runs rewrite."""
        for name in SUMMARIES:
            summary = self.summaries.get(name, {})
            found = {ours: number(summary.get(f"{prefix}_{theirs}")) for theirs, ours in SCORES.items()}
            scores = {ours: value for ours, value in found.items() if value is not None and 0 <= value <= 100}
            if scores:
                return scores
        return {}

    def _accuracies(self) -> dict[str, MetricValue]:
        """Return the published shares, on the scale of 0 to 100."""
        found: dict[str, MetricValue] = {}
        for key in ACCURACIES:
            values = [number(summary.get(key)) for summary in self.summaries.values()]
            value = next((value for value in values if value is not None and 0 <= value <= 1), None)
            if value is not None:
                why = "published by LLaMA-Factory, no answers to check it with"
                found[key] = importers.published(100 * value, None, None, f"LLaMA-Factory {key}", why)
        return found

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
        adapter = self.adapter or (self.training.adapter if self.training is not None else {})
        base = adapter.get("base_model_name_or_path")
        if isinstance(base, str):
            found["base_model"] = shortened(base, 200)
        for theirs, ours in (("r", "lora_rank"), ("lora_alpha", "lora_alpha"), ("peft_type", "peft_type")):
            value = adapter.get(theirs)
            if isinstance(value, str | int) and not isinstance(value, bool):
                found[ours] = value if isinstance(value, int) else shortened(value, 40)
        template = self._any("template")
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
        facts = self._training_facts()
        steps, total = facts.get("steps"), facts.get("total_steps")
        if isinstance(steps, int) and isinstance(total, int) and steps < total and not self._has_train_results():
            return "failed", f"the training log ends at step {steps:,} of {total:,}: the training was cut short"
        return "completed", None

    def _has_train_results(self) -> bool:
        return any("train_runtime" in summary for summary in self.summaries.values())

    def _training_sets(self) -> list[str]:
        return _names(self.training._trained_with().get("dataset")) if self.training is not None else []

    def _evaluated_on(self) -> list[str]:
        """The datasets of the predictions; older versions name them as `dataset` of a run that only predicts."""
        predicting = self._predicting()
        named = _names(predicting.get("eval_dataset"))
        return named or ([] if predicting.get("do_train") else _names(predicting.get("dataset")))

    def _model(self) -> str:
        for value in (
            self.adapter.get("base_model_name_or_path"),
            self.training.adapter.get("base_model_name_or_path") if self.training else None,
            self.training._trained_with().get("model_name_or_path") if self.training else None,
            self._any("model_name_or_path"),
        ):
            if isinstance(value, str) and value.strip() and not value.startswith("/path/to/"):
                return importers.model_name(value)
        return ""

    def _dataset(self) -> str:
        return shortened("+".join(self._evaluated_on() or ([] if self.predictions else self._training_sets())))

    def _settings(self) -> dict[str, Any]:
        if not self.configurations:
            return {}
        predicting = self._predicting()
        decode: dict[str, Any] = {}
        if predicting.get("do_predict") or predicting.get("predict_with_generate"):
            for key, default in DEFAULT_DECODE.items():
                value = predicting.get(key, default)
                counted = key in ("max_new_tokens", "top_k")
                decode[key] = value if isinstance(value, bool) else whole(value) if counted else number(value)
            decode = {key: value for key, value in decode.items() if value is not None}
        prompting: dict[str, Any] = {"num_fewshot": 0, "apply_chat_template": True}
        template = predicting.get("template", self._any("template"))
        if isinstance(template, str):
            prompting["template"] = shortened(template, 60)
        trained_with = self.training._trained_with() if self.training is not None else {}
        training = {
            key: value
            for key in ("learning_rate", "num_train_epochs", "lora_rank", "per_device_train_batch_size", "cutoff_len",
                        "gradient_accumulation_steps", "lr_scheduler_type", "warmup_ratio")
            if isinstance(value := trained_with.get(key), str | int | float) and not isinstance(value, bool)
        }  # fmt: skip
        return {"prompting": prompting, "decode": decode} | ({"training": training} if training else {})

    def _warnings(self, ours: bool) -> Iterator[str]:
        """Say what cannot be verified; `ours`: the answers are LLaMA-Factory's, not just in its format."""
        sets, evaluated = self._training_sets(), self._evaluated_on()
        predicting = self._predicting()
        predicts = bool(self.predictions) or bool(self._scores("predict"))
        if self.ambiguous:
            yield "several trainings could be the one behind these answers: model and training data are not certain"
        if predicts and (both := sorted({*evaluated} & {*sets})):
            yield f"evaluated on its own training rows: {shortened(', '.join(both))} is what it was trained on too"
        elif (
            predicts
            and not evaluated
            and predicting.get("do_train")
            and sets
            and not number(predicting.get("val_size"))
        ):
            yield (
                "evaluated on its own training rows: the configuration names no eval_dataset, so predictions are on "
                f"{shortened(', '.join(sets))}, the dataset of the training"
            )
        paths = (predicting.get("adapter_name_or_path"), predicting.get("model_name_or_path"), str(self.place.name))
        if any(SYMBOLIC.search(name) for name in (*sets, *(path for path in paths if isinstance(path, str)))):
            yield (
                "GSM-Symbolic used for training, by its names: it is an evaluation set made from GSM8K's test "
                "questions; nothing about GSM8K can be concluded from this model"
            )
        decode = self._settings().get("decode", {})
        if predicts and decode.get("do_sample"):
            stated = "" if {"do_sample", "temperature"} & predicting.keys() else " (LLaMA-Factory's default)"
            yield f"sampled decoding{stated}: another run of the same model gives other answers"
        elif predicts and not decode and ours:
            yield "how the answers were decoded is unknown; LLaMA-Factory samples them unless told otherwise"


def _matching(path: str, folders: Iterable[_Folder]) -> list[_Folder]:
    """Return the folders whose path ends like this one, in up to three parts."""
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")][-3:]
    return [folder for folder in folders if parts and list(folder.place.parts[-len(parts) :]) == parts]


def _nearest(folders: Sequence[_Folder], place: Path) -> _Folder | None:
    """Return the folder that shares the longest way with a place; None where two share as much."""

    def shared(folder: _Folder) -> int:
        pairs = zip(folder.place.parts, place.parts, strict=False)
        return next(
            (at for at, (one, other) in enumerate(pairs) if one != other),
            min(len(folder.place.parts), len(place.parts)),
        )

    ranked = sorted(folders, key=shared, reverse=True)
    if not ranked or (len(ranked) > 1 and shared(ranked[0]) == shared(ranked[1])):
        return None
    return ranked[0]


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
        for key in (options.predict, options.label):
            if key not in line:
                raise ForeignError(
                    f"line {at}: expected texts under the keys {options.predict!r} and {options.label!r}, "
                    f"got {keys_of(line)}. If they have other names, say which: --predict KEY --label KEY"
                )
            if not _is_text(line[key]):
                got = "null" if line[key] is None else type(line[key]).__name__
                raise ForeignError(f"line {at}: expected a text under the key {key!r}, got {got}")
        n += 1
    if n == 0:
        raise ForeignError("expected at least one prediction, the file is empty")
    return n


def _has_named_keys(file: File, options: Options) -> bool:
    """Say whether a file has the keys the user named, or was named and has the usual ones."""
    usual = (options.predict, options.label) == (Options().predict, Options().label)
    if (usual and not file.named) or file.path.suffix in YAML or (file.path.suffix == ".json" and not file.named):
        return False
    line = importers.first_line(file.path)
    return line is not None and options.predict in line and options.label in line


def _is_text(value: object) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _as_text(value: object) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))  # a table that was read with numbers has 5.0 for 5
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
    """Read `<model>/<dataset>/<vanilla|sft>/<config>`, or LLaMA-Factory's `<model>/<lora|full>`, from a path."""
    parts = folder.parts
    for at in range(len(parts) - 1, 1, -1):
        if parts[at] in ("vanilla", "sft") and at < len(parts) - 1 and parts[at - 1] not in KINDS:
            return {
                "model": name_of(parts[at - 2]),
                "dataset": name_of(parts[at - 1]),
                "method": parts[at],
                "config": shortened("/".join(parts[at + 1 :])),
                "kind": parts[at + 1],
            }
    for at in range(len(parts) - 1, 1, -1):
        if parts[at] in KINDS and parts[at - 1] not in ("saves", "outputs", "output"):
            return {"model": name_of(parts[at - 1]), "kind": parts[at]}
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
