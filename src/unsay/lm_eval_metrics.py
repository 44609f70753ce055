"""What lm-eval's metrics are: on which scale, summed up how, and by which way of finding an answer.

Told from names and task configurations, never from the values of a run: two runs of one task must get one definition.

    scale("acc_norm", "arc_easy")       # 100.0: a fraction, shown as a percentage
    scale("perplexity", "lambada")      # 1.0: kept as it is
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

SHARES = frozenset(
    {
        *("exact_match", "acc", "acc_norm", "acc_bytes", "acc_mutual_info", "em", "math_verify", "pct_stereotype"),
        *("contains", "prompt_level_strict_acc", "prompt_level_loose_acc"),
    }
)
"""Right or wrong per item, averaged; also every other name that ends in `_acc`."""
FRACTIONS = frozenset({"f1", "acc_all", "inst_level_strict_acc", "inst_level_loose_acc"})
"""Between 0 and 1, but not right or wrong per item, or not a plain average."""
PERCENT_TASKS = ("squad",)
"""Tasks that state f1 and em as percentages themselves."""
UNSCALED = ", unscaled"
"""Ends the definition of a value that is kept on lm-eval's own scale."""


def is_share(metric: str, task: str) -> bool:
    """Say whether a metric is right or wrong for each item, and their mean."""
    known = metric in SHARES or (metric.endswith("_acc") and metric not in FRACTIONS)
    return known and not _in_percent(metric, task)


def scale(metric: str, task: str, values: Iterable[float] = ()) -> float:
    """Return what lm-eval's value is multiplied with for the scale of 0 to 100; 1 keeps it, on a scale of its own.

    `values` only contradict the name: what lies outside of 0 to 1 is no fraction, whatever it is called.
    """
    fraction = is_share(metric, task) or metric in FRACTIONS or metric.startswith("pass@")
    return 100.0 if fraction and not _in_percent(metric, task) and all(0 <= value <= 1 for value in values) else 1.0


def definition(source: str, metric: str, filter: str, config: Mapping[str, Any] | None, scale: float) -> str:
    """Return the definition of a task's metric: task and version (`source`), metric, filter, how answers are cut."""
    unscaled = "" if scale == 100.0 else UNSCALED
    return f"{source} {metric},{filter}{extraction(filter, config)}{unscaled}"


def extraction(filter: str, config: Mapping[str, Any] | None) -> str:
    """Name how a filter finds the answer: nothing for `none`, else a hash of its steps: others compare unequal."""
    if filter == "none":
        return ""
    listed = (config or {}).get("filter_list")
    filters = [each for each in listed if isinstance(each, Mapping)] if isinstance(listed, list | tuple) else []
    steps = next((each.get("filter") for each in filters if each.get("name") == filter), None)
    if not isinstance(steps, list | tuple):
        return " (how answers are cut is not known)"
    plain = [
        {key: value for key, value in step.items() if isinstance(value, str | int | float | bool | None)}
        for step in steps
        if isinstance(step, Mapping)
    ]
    text = json.dumps(plain, sort_keys=True, ensure_ascii=True, default=str)
    return f" (filter {hashlib.sha256(text.encode()).hexdigest()[:8]})"


def reference(doc: Mapping[str, Any], target: str) -> str:
    """Return the reference as a text: the whole gold answer where the target is what stands behind its `####`."""
    answer = doc.get("answer")
    if isinstance(answer, str) and "####" in answer and answer.rstrip().endswith(target.strip()):
        return answer
    return target


def _in_percent(metric: str, task: str) -> bool:
    return metric in ("f1", "em", "exact") and any(word in task.casefold() for word in PERCENT_TASKS)
