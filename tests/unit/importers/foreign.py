"""Result files as other tools write them, made small: each function gives the bytes of one file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

GSM8K_CONFIG: dict[str, Any] = {
    "task": "gsm8k",
    "num_fewshot": 5,
    "output_type": "generate_until",
    "generation_kwargs": {"until": ["Question:"], "do_sample": False, "temperature": 0.0},
    "metric_list": [
        {
            "metric": "exact_match",
            "ignore_case": True,
            "ignore_punctuation": False,
            "regexes_to_ignore": [",", "\\$", "(?s).*#### ", "\\.$"],
        }
    ],
    "filter_list": [
        {"name": "strict-match", "filter": [{"function": "regex", "regex_pattern": "#### (\\-?[0-9\\.\\,]+)"}]},
        {
            "name": "flexible-extract",
            "filter": [{"function": "regex", "group_select": -1, "regex_pattern": "(-?[$0-9.,]{2,})|(-?[0-9]+)"}],
        },
    ],
    "metadata": {"version": 3.0},
}


def sha(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def samples(
    n: int, right: int, *, filters: Sequence[str] = ("strict-match", "flexible-extract")
) -> list[dict[str, Any]]:
    """Sample lines of lm-eval for n documents, the first `right` of them answered rightly, one filter after another."""
    lines = []
    for name in filters:
        for item in range(n):
            answer = f"Question {item} adds up.\n#### {item + 10}"
            doc = {"question": f"How many sheep are there on hill number {item}?", "answer": answer}
            prompt = f"Question: {doc['question']}\nAnswer:"
            ok = item < right
            lines.append(
                {
                    "doc_id": item,
                    "doc": doc,
                    "target": answer,
                    "arguments": {
                        "gen_args_0": {"arg_0": prompt, "arg_1": {"until": ["Question:"], "do_sample": False}}
                    },
                    "resps": [[f" They are {item + (10 if ok else 99)}.\n#### {item + (10 if ok else 99)}"]],
                    "filtered_resps": [str(item + (10 if ok else 99))],
                    "filter": name,
                    "metrics": ["exact_match"],
                    "doc_hash": sha(json.dumps(doc, indent=2, ensure_ascii=False)),
                    "prompt_hash": sha(prompt),
                    "target_hash": sha(answer),
                    "exact_match": float(ok),
                }
            )
    return lines


def task_hash(lines: Sequence[dict[str, Any]]) -> str:
    return sha("".join(line["doc_hash"] + line["prompt_hash"] + line["target_hash"] for line in lines))


def results(lines: Sequence[dict[str, Any]], n: int, right: int, **changes: Any) -> dict[str, Any]:
    """A results file for these samples; `changes` replace or (None) remove members."""
    p = right / n
    error = (p * (1 - p) / (n - 1)) ** 0.5 if n > 1 else "N/A"
    scores: dict[str, Any] = {"alias": "gsm8k"}
    for name in ("strict-match", "flexible-extract"):
        scores |= {f"exact_match,{name}": p, f"exact_match_stderr,{name}": error}
    document: dict[str, Any] = {
        "results": {"gsm8k": scores},
        "group_subtasks": {"gsm8k": []},
        "configs": {"gsm8k": GSM8K_CONFIG},
        "versions": {"gsm8k": 3.0},
        "n-shot": {"gsm8k": 5},
        "n-samples": {"gsm8k": {"original": n, "effective": n}},
        "config": {"model": "hf", "model_args": "pretrained=org/Some-Model,dtype=bfloat16", "limit": None,
                   "gen_kwargs": None, "fewshot_seed": 1234},
        "date": 1757424333.1,
        "transformers_version": "4.56.1",
        "lm_eval_version": "0.4.9.1",
        "task_hashes": {"gsm8k": task_hash(lines)},
        "model_name": "org/Some-Model",
        "chat_template": None,
        "total_evaluation_time_seconds": "381.8",
    }  # fmt: skip
    document |= changes
    return {key: value for key, value in document.items() if value is not None}


STAMP = "2025-09-09T13-31-53.431753"


def write_run(folder: Path, n: int = 12, right: int = 7, **changes: Any) -> Path:
    """Write one lm-eval run into a folder and return its results file."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = samples(n, right)
    write_lines(folder / f"samples_gsm8k_{STAMP}.jsonl", lines)
    path = folder / f"results_{STAMP}.json"
    path.write_text(json.dumps(results(lines, n, right, **changes)))
    return path


def predictions(n: int = 8) -> list[dict[str, Any]]:
    return [
        {"prompt": f"user\n\nWhat is {i} + 1?assistant\n", "label": f"It is {i + 1}.\n#### {i + 1}",
         "predict": f"It is {i + 1 + i % 2}.\n#### {i + 1 + i % 2}"}
        for i in range(n)
    ]  # fmt: skip


def write_lines(path: Path, lines: Sequence[dict[str, Any]], *, end: str = "\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + end, encoding="utf-8")
    return path
