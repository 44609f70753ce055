"""A small fabricated lab on disk, made with the package's own dataclasses and writers."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unsay.records import (
    Attempt,
    Counts,
    ExperimentRecord,
    ItemScores,
    Key,
    MetricValue,
    Prompt,
    Trace,
    short_hash,
)
from unsay.store import layout, read, write
from unsay.undo import Action, UndoTable

UNDO, END = 9, 2
TABLE = UndoTable({UNDO: Action("pop")}, {UNDO: "<|BACKTRACK|>"})
ITEMS = 200


@dataclass(frozen=True)
class Arm:
    """One experiment of the fabricated lab; `right` is its share of right answers."""

    id: str
    model: str = "qwen3-4b"
    method: str = "vanilla"
    config: str = "fewshot_8"
    right: float = 0.5
    undo: bool = False
    notes: str = ""
    limit: int | None = None
    status: str = "completed"
    seed: int = 0
    seeded: bool = False
    """The seed was written: it has a folder of its own, and other answers."""

    @property
    def folder(self) -> str:
        harness = f"{layout.HARNESS}/" if self.method == "vanilla" else ""
        seed = f"/seed_{self.seed}" if self.seeded else ""
        limited = f"/{layout.LIMIT_PREFIX}{self.limit}" if self.limit else ""
        return f"{self.model}/gsm8k/{self.method}/{harness}{self.config}{seed}{limited}"


ARMS = (
    Arm("EXP-001", notes="Baseline evaluation", right=0.75),
    Arm("EXP-002", model="qwen3-0.6b", notes="Smaller model comparison", right=0.3),
    Arm("EXP-003", method="sft", config="lora/train", notes="SFT with LoRA training", right=0.5),
    Arm("EXP-004", method="sft", config="lora/train_bt", notes="SFT with LoRA + backtrack", right=0.52, undo=True),
    Arm("EXP-004", method="sft", config="lora/train_bt", right=0.5, undo=True, limit=20),
    Arm("EXP-010", method="sft", config="lora/train+lr3e-4", status="failed"),
    Arm("", method="sft", config="lora/low", status="pending"),
)


def make_lab(output_dir: Path, arms: tuple[Arm, ...] = ARMS) -> Path:
    for arm in arms:
        make(output_dir, arm)
    return output_dir


def make(output_dir: Path, arm: Arm) -> Path:
    folder = output_dir / arm.folder
    folder.mkdir(parents=True)
    record = record_of(arm)
    if arm.status == "completed":
        scores = _scores(arm)
        name = "samples_gsm8k_2025-10-03T16-58-48.072096.jsonl"
        write.write_bytes(folder / name, b"".join(_samples(scores)))
        write.write_json(folder / "results_2025-10-03T16-58-48.072096.json", {"results": {}})
        write_items(folder, scores)
        write.write_json(folder / layout.METRICS, {"schema": 1, "n": len(scores), "metrics": _metrics(arm, scores)})
        record = replace(record, files={"samples": name, "predictions": layout.PREDICTIONS})
        make_traces(folder)
    write.write_json(folder / layout.EXPERIMENT, record.to_json())
    return folder


def write_items(folder: Path, right: list[bool]) -> None:
    """Write scores.jsonl and generated_predictions.jsonl of answers that are right or wrong."""
    lines, answers = [], []
    apart = 0.0
    spread = random.Random(repr(right))
    for item, is_right in enumerate(right):
        apart = -apart if item % 2 else round(spread.uniform(-30, 30), 2)  # pairs balance: the means are known
        scores = {
            "exact_match_strict": 100.0 * is_right,
            "exact_match_flexible": 100.0 * is_right,
            "bleu4_lf": 34.08 + apart,
            "sampled_tokens": 120.0 + apart,
        }
        question, label = f"Question {item}?", f"So it is {item}.\n#### {item}"
        lines.append(ItemScores(str(item), short_hash(question), short_hash(label), scores).to_json())
        answers.append({"prompt": question, "predict": label if is_right else "#### no", "label": label})
    for name, content in ((layout.SCORES, lines), (layout.PREDICTIONS, answers)):
        write.write_bytes(folder / name, b"".join(map(write.json_line, content)))


def set_right(folder: Path, right: list[bool]) -> None:
    """Replace the answers of a fabricated experiment, on disk in all places that hold them."""
    write_items(folder, right)
    (path,) = folder.glob("samples_*")
    write.write_bytes(path, b"".join(_samples(right)))
    write.write_json(folder / layout.METRICS, {"schema": 1, "n": len(right), "metrics": _metrics(Arm(""), right)})


def change_record(folder: Path, **changes: Any) -> None:
    record = read.record(folder)
    assert record is not None
    write.write_json(folder / layout.EXPERIMENT, replace(record, **changes).to_json())


def record_of(arm: Arm) -> ExperimentRecord:
    attempt = Attempt("2025-10-03T16:29:12+02:00", "node7", 4242, "boot", versions={"torch": "2.13.0"})
    if arm.status == "failed":
        attempt = replace(attempt, ended="2025-10-03T16:30:00+02:00", outcome="failed", error="out of disk")
    sft = arm.method == "sft"
    settings = {
        "prompting": {"num_fewshot": 0 if sft else 8, "fewshot_seed": 1234},
        "decode": {"undo_context": "keep", "max_new_tokens": 512 if sft else 256, "do_sample": False, "stop": None},
        "training": {"lora_rank": 8, "learning_rate": 1.0e-4} if sft else None,
        "undo": {"strategy": "random_tokens", "mask": "errors"} if arm.undo else None,
    }
    started = arm.status != "pending"
    return ExperimentRecord(
        id=arm.id,
        model=arm.model,
        dataset="gsm8k",
        method=arm.method,
        config=arm.config,
        seed=arm.seed,
        status=arm.status,
        identity="0123456789abcdef" * 4,
        spec={"settings": settings},
        hashes={"eval": "fedcba"},
        notes=arm.notes,
        limit=arm.limit,
        items=ITEMS,
        start="2025-10-03T16:29:12+02:00" if started else None,
        end="2025-10-03T16:58:48+02:00" if arm.status in ("completed", "failed") else None,
        attempts=(attempt,) if started else (),
        warnings=("3 of 200 answers were cut by a limit",) if arm.undo else (),
        facts={"undo_table": (TABLE if arm.undo else UndoTable({}, {})).to_json(), "dtype": "bfloat16"},
    )


def make_traces(folder: Path) -> None:
    """Two answers: `4` after a retracted `5`, and one without any undo."""
    pieces = {5: " 5", 4: " 4", UNDO: "<|BACKTRACK|>", END: "<|end|>", 7: "7\x1b[2J"}
    with write.Journal(folder / layout.TRACES) as traces, write.Journal(folder / layout.PROMPTS) as prompts:
        for item, ids in enumerate(((5, UNDO, 4, END), (7, END))):
            key = Key("gsm8k", item)
            undos = ids.count(UNDO)
            counts = Counts(
                len(ids), len(ids) - 2 * undos, undos, undos, 0, undos, (1,) * undos, (0,) * undos, 1 if undos else None
            )
            visible = ids[-2:-1]
            text = "".join(pieces[id] for id in visible)
            trace = Trace(key, "p", "e", 0, ids, tuple(pieces[id] for id in ids), visible, text, "eos", counts)
            traces.append(trace.to_json())
            prompts.append(Prompt(key, f"Question {item}?", (1,), ("Q",), "p").to_json())


def _scores(arm: Arm) -> list[bool]:
    # One draw per item, shared by all arms: systems agree on easy and hard items, as they do in life.
    items = arm.limit or ITEMS
    own = random.Random(repr((arm.model, arm.method, arm.config, *([arm.seed] if arm.seeded else []))))
    ease = random.Random(0)
    return [0.7 * ease.random() + 0.3 * own.random() < arm.right for _ in range(items)]


def _samples(scores: list[bool]) -> list[bytes]:
    lines: list[dict[str, Any]] = []
    for name in ("strict-match", "flexible-extract"):
        for item, right in enumerate(scores):
            doc = {"question": f"Question {item}?", "answer": f"So it is {item}.\n#### {item}"}
            lines.append(
                {
                    "doc_id": item,
                    "doc": doc,
                    "target": doc["answer"],
                    "arguments": {"gen_args_0": {"arg_0": doc["question"]}},
                    "resps": [["4"]],
                    "filter": name,
                    "exact_match": float(right),
                }
            )
    return [json.dumps(line).encode() + b"\n" for line in lines]


def _metrics(arm: Arm, scores: list[bool]) -> dict[str, Any]:
    n = len(scores)
    p = sum(scores) / n
    error = 100 * (p * (1 - p) / max(1, n - 1)) ** 0.5
    value = 100 * p
    exact = MetricValue(value, error, value - 2 * error, value + 2 * error, n, "lm-eval gsm8k v3 strict-match")
    rate = 1.5 if arm.undo else 0.0
    found = {
        "exact_match_strict": exact,
        "exact_match_flexible": replace(exact, definition="lm-eval gsm8k v3 flexible-extract"),
        "bleu4_lf": MetricValue(34.08, 0.5, 33.1, 35.06, n, "LLaMA-Factory predict_bleu-4 v1"),
        "rouge_l_lf": MetricValue(39.27, 0.4, 38.5, 40.05, n, "LLaMA-Factory predict_rouge-l v1"),
        "bleu": MetricValue(None, None, None, None, 0, "sacreBLEU", "too few items"),
        "undo_rate_token": MetricValue(rate, 0.1, 1.3, 1.7, n, "unsay undo v1: % of sampled tokens"),
        "sampled_tokens": MetricValue(120.0, 2.0, 116.0, 124.0, n, "unsay undo v1: sampled tokens per answer"),
    }
    return {name: value.to_json() for name, value in found.items()}
