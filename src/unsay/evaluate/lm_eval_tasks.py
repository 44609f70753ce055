"""How a dataset becomes an lm-eval task: one full configuration, given as a dict, never found in an index.

lm-eval's default task manager reads every YAML file it ships (tens of seconds); here the one file that defines the
task is found by name, loaded with lm-eval's own loader and pointed at local data where the data is local.

    task = task_config(source, prompting, decode)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unsay import lm_eval_files
from unsay.data.source import Source
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
        config |= {
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {split: str(path) for split, path in source.files.items()}},
        }
        if "train" not in source.files:  # shots come from the split that is scored, lm-eval skips the item itself
            config |= {"training_split": None, "fewshot_split": "test"}
    if config.get("repeats", 1) != 1:
        raise EvaluationError(
            f"task {config['task']!r} asks {config['repeats']} answers per question; expected one. Choose another task."
        )
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


def load_task(name: str) -> dict[str, Any]:
    """Load lm-eval's own configuration of a task, includes resolved.

    Raises EvaluationError when the installed lm-eval has no such task, when the task's own code does not load, or when
    it generates no text.
    """
    from lm_eval.tasks._yaml_loader import load_yaml

    path = _find(name)
    try:
        config = dict(load_yaml(path, resolve_func=True))
    except Exception as error:  # whatever a task's own Python file does when it is imported
        raise EvaluationError(
            f"task {name!r}: expected {path.name} and its code to load, got {type(error).__name__}: {error}. "
            "Install what it asks for (`pip install 'lm-eval[math]'` for most tasks with formulas), or choose another."
        ) from error
    if config.get("output_type") != "generate_until":
        raise EvaluationError(
            f"task {name!r} scores {config.get('output_type')!r}; expected a task that generates text "
            "(output_type: generate_until). Choose another task."
        )
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
    from lm_eval.utils import apply_template

    template = question_template(source)
    docs = [{"question": example.question, "answer": example.answer} for example in examples]
    if callable(template):
        return [str(template(doc)) for doc in docs]
    return [str(doc[template]) if template in doc else str(apply_template(template, doc)) for doc in docs]
