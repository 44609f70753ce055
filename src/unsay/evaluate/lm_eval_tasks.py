"""How a dataset becomes an lm-eval task: one full configuration, given as a dict, never found in an index.

lm-eval's default task manager reads every YAML file it ships (tens of seconds); here the one file that defines the
task is found by name, loaded with lm-eval's own loader and pointed at local data where the data is local.

    task = task_config(source, prompting, decode)
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unsay import lm_eval_files
from unsay.data.source import Source, read_jsonl
from unsay.errors import EvaluationError
from unsay.records import Example
from unsay.settings import Decode, Prompting

FINAL = "final"
"""Column of the final answer of own data, cut out of the gold answer when its lines were written."""

WHOLE = r"(?s)\A\s*(.*?)\s*\Z"
"""The whole answer without the white space around it."""

FLEXIBLE = r"(-?[$0-9.,]{2,})|(-?[0-9]+)"
"""lm-eval's pattern for the last number of an answer (its gsm8k task, `flexible-extract`)."""


def task_config(source: Source, prompting: Prompting, decode: Decode) -> dict[str, Any]:
    """Return the full lm-eval configuration of a dataset's evaluation, budget and shots included."""
    config = load_task(source.task) if source.task else plain_task(source)
    if source.files:
        config |= _on_files(config, source.files)
    elif source.hub and config.get("dataset_path") != source.hub:
        config |= {"dataset_path": source.hub, "dataset_name": None, "dataset_kwargs": None}
    if config.get("repeats", 1) != 1:
        raise EvaluationError(
            f"task {config['task']!r} asks {config['repeats']} answers per question; expected one. Choose another task."
        )
    _check_shots(config, prompting.num_fewshot)
    config["num_fewshot"] = prompting.num_fewshot
    generation = dict(config.get("generation_kwargs") or {})
    generation["max_gen_toks"] = decode.max_new_tokens
    if decode.stop is not None:
        generation["until"] = list(decode.stop)
    if decode.do_sample:
        generation |= {"do_sample": True, "temperature": decode.temperature, "top_p": decode.top_p}
        if decode.top_k:
            generation["top_k"] = decode.top_k
    else:
        generation |= {"do_sample": False, "temperature": 0.0}
    config["generation_kwargs"] = generation
    return config


def check_lines(config: Mapping[str, Any], source: Source) -> None:
    """Raise EvaluationError where a task cannot read the lines it is given as they are."""
    from lm_eval.tasks import TaskManager

    try:
        for task in TaskManager(include_defaults=False).load([copy.deepcopy(dict(config))])["tasks"].values():
            for doc in task.eval_docs:
                task.doc_to_text(doc)
                task.doc_to_target(doc)
    except Exception as error:  # whatever a task's own code does with a line
        file = source.files["test"]
        columns = ", ".join(next((row for _, row in read_jsonl(file)), {}))
        raise EvaluationError(
            f"task {config['task']!r} cannot read the lines of {file}: {type(error).__name__}: {error}. Expected the "
            f"columns that the task's code names, with one kind of value each; the first line has {columns or 'none'}."
        ) from error


def _on_files(config: Mapping[str, Any], files: Mapping[str, Path]) -> dict[str, Any]:
    """Return what points a task at local files: its own names of the splits stay, and its shots where it brings them.

    Without a training file shots come from the split that is scored; lm-eval leaves the item itself out of them.
    """
    if config.get("custom_dataset") is not None:
        raise EvaluationError(f"task {config['task']!r} makes its own data. Leave out `path:`, or choose another task.")
    scored = config.get("test_split") or config.get("validation_split")
    if scored is None:
        raise EvaluationError(
            f"task {config['task']!r} names no split that is scored (test_split or validation_split). "
            "Choose another task, or write one into its file."
        )
    fewshot = dict(config.get("fewshot_config") or {})
    training = config.get("training_split") or ("train" if scored != "train" else "training")
    names = {"train": training, "dev": "dev", "test": scored}
    data_files = {names[split]: str(path) for split, path in files.items()}
    shots = fewshot.get("split") or config.get("fewshot_split")
    if fewshot.get("samples") is None and shots not in data_files:
        shots = training if "train" in files else scored
    if "split" in fewshot:
        fewshot["split"] = shots
    return {
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": data_files},
        "test_split": scored,
        **_changed(config, "validation_split", None if config.get("validation_split") not in data_files else ...),
        **_changed(config, "training_split", training if "train" in files else None),
        **_changed(config, "fewshot_split", shots),
        **_changed(config, "fewshot_config", fewshot or None),
    }


def _changed(config: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    return {} if value is ... or config.get(key) == value else {key: value}


def _check_shots(config: Mapping[str, Any], wanted: int) -> None:
    """Raise EvaluationError where a task brings its worked examples itself, and fewer than are asked for."""
    samples = (config.get("fewshot_config") or {}).get("samples")
    there = samples() if callable(samples) else samples
    if isinstance(there, list) and wanted > len(there):
        raise EvaluationError(
            f"task {config['task']!r} brings {len(there)} worked examples; expected at most that many in a prompt, got "
            f"num_fewshot {wanted}. Use config fewshot_{len(there)}."
        )


def aggregations(config: Mapping[str, Any]) -> dict[str, str]:
    """Return how lm-eval sums up each metric that a task lists, `mean` or another aggregation's name."""
    from lm_eval.api.metrics import mean
    from lm_eval.api.registry import get_metric_aggregation

    found = {}
    for each in config.get("metric_list") or [{"metric": "exact_match"}]:
        metric = each["metric"]
        name = getattr(metric, "__name__", str(metric))
        how = each["aggregation"] if "aggregation" in each else get_metric_aggregation(name)
        called = str(getattr(how, "__name__", how))
        found[name] = "mean" if how in (mean, "mean") else called if called != "mean" else "a mean of its own"
    return found


def asked(config: Mapping[str, Any], doc: Mapping[str, Any]) -> str | None:
    """Return the question as the task asks it of a document, with whatever passage belongs to it; None if no text."""
    template = config.get("doc_to_text")
    if template is None or config.get("use_prompt") is not None:
        return None
    text = _rendered(template, doc)
    return text if isinstance(text, str) else None


def _rendered(template: Any, doc: Mapping[str, Any]) -> Any:
    from lm_eval.utils import apply_template

    if callable(template):
        return template(doc)
    return doc[template] if template in doc else apply_template(template, doc)


def load_task(name: str) -> dict[str, Any]:
    """Load lm-eval's own configuration of a task, includes resolved.

    Raises EvaluationError when the installed lm-eval has no such task, when the task's own code does not load, or when
    it does anything but generate text.
    """
    from lm_eval.tasks._yaml_loader import load_yaml

    path = _find(name)
    try:
        config = dict(load_yaml(path, resolve_func=True))
    except Exception as error:  # whatever a task's own Python file does when it is imported
        raise EvaluationError(
            f"task {name!r}: expected {path.name} and its code to load, got {type(error).__name__}: {error}. "
            "Install what it asks for (`pip install 'unsay[math]'` for most tasks with formulas), or choose another."
        ) from error
    if not isinstance(config.get("task"), str):
        raise EvaluationError(f"{path}: expected one task with its name behind `task:`, got {config.get('task')!r}.")
    config.setdefault("output_type", "generate_until")  # as in lm-eval
    if config["output_type"] != "generate_until":
        raise EvaluationError(
            f"task {name!r} scores {config['output_type']!r}; expected a task that generates text "
            "(output_type: generate_until). Choose another task."
        )
    refused = {
        "unsafe_code": "runs the model's code on this machine",
        "doc_to_image": "shows pictures",
        "doc_to_audio": "plays sounds",
    }
    for key, what in refused.items():
        if config.get(key):
            raise EvaluationError(f"task {name!r} {what}; expected one of text alone. Choose another task.")
    return config


def plain_task(source: Source) -> dict[str, Any]:
    """Return the configuration for data of the user's own: question in, answer out.

    With an `answer:` pattern its first group is extracted from answer and reference alike (strict), and the last
    number of the answer is the flexible reading; without one the whole text has to match.
    """
    readings: dict[str, dict[str, Any]] = {"strict-match": {"regex_pattern": source.answer or WHOLE}}
    if source.answer is not None:
        readings["flexible-extract"] = {"regex_pattern": FLEXIBLE, "group_select": -1}
    filters = [
        {"name": name, "filter": [{"function": "regex"} | reading, {"function": "take_first"}]}
        for name, reading in readings.items()
    ]
    return {
        "task": re.sub(r"[^A-Za-z0-9_-]", "_", source.name),
        "output_type": "generate_until",
        "training_split": "train",
        "fewshot_split": "train",
        "test_split": "test",
        # Names of columns, not templates: lm-eval reads a rendered answer such as `[1, 2]` as a list.
        "doc_to_text": "question",
        "doc_to_target": FINAL,
        "fewshot_config": {"sampler": "default", "doc_to_target": "answer"},
        "metric_list": [
            {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "ignore_case": True}
        ],
        "filter_list": filters,
        "generation_kwargs": {"until": [], "do_sample": False},
        "metadata": {"version": 1.0},
    }


def _find(name: str) -> Path:
    import lm_eval.tasks

    if name.endswith(lm_eval_files.TASK_FILES) and Path(name).is_file():
        return Path(name)
    found = lm_eval_files.find_task(Path(lm_eval.tasks.__file__).parent, name)
    if found is not None:
        return found
    raise EvaluationError(
        f"lm-eval has no task {name!r}. Expected the name of one of its tasks; list them with `lm_eval ls tasks`."
    )


def question_template(source: Source) -> Any:
    """Return the task's doc_to_text: how a question becomes the user turn, zero-shot.

    Raises EvaluationError for a task that also writes a description before it.
    """
    config = load_task(source.task) if source.task else plain_task(source)
    if config.get("description"):
        raise EvaluationError(
            f"task {config['task']!r} puts a description before each question, which training does not write. "
            "Evaluate on it with method vanilla, or train on a dataset without one."
        )
    return config["doc_to_text"]


def question_prompts(source: Source, examples: Sequence[Example]) -> list[str]:
    """Return the user turn that evaluation would show for each training example.

    It is the task's own doc_to_text, rendered by lm-eval, so that training and evaluation cannot drift apart.
    """
    template = question_template(source)
    docs = [{"question": example.question, "answer": example.answer} for example in examples]
    return [str(_rendered(template, doc)) for doc in docs]
