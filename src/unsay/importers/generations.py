"""One JSON document with a list `samples` of questions, gold answers and generated texts, as evaluation scripts write.

The summary beside it (`metrics`) is kept as published. Judgements (`correct`) become the metric `accuracy`. The
references are final answers only, so BLEU and ROUGE say nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unsay import importers
from unsay.importers import File, ForeignError, Found, Item, Options, Refused, number, shortened, whole
from unsay.records import Sample

QUESTIONS = ("question", "prompt", "problem")
REFERENCES = ("gold_answer", "reference", "target", "answer", "label")
ANSWERS = ("generated_text", "generation", "response", "output", "predict", "prediction")


@dataclass(frozen=True)
class Generations:
    """One JSON document with a list of samples, as many evaluation scripts write."""

    def claims(self, file: File) -> bool:
        start = importers.head(file.path) if file.path.suffix == ".json" else b""
        return b'"samples"' in start and b'"results"' not in start and any(f'"{k}"'.encode() in start for k in ANSWERS)

    def find(self, files: Sequence[File], options: Options) -> tuple[list[Found], list[Refused]]:
        return importers.of_each(files, self.claims, lambda path: [_experiment(path, importers.mapping(path), options)])


def _experiment(path: Path, document: Mapping[str, Any], options: Options) -> Found:
    listed = document.get("samples")
    if not isinstance(listed, list) or not listed:
        raise ForeignError(f"expected a list `samples`, got {importers.keys_of(document)}")
    samples = [_sample(at, entry) for at, entry in enumerate(listed)]
    summary = document.get("metrics")
    summary = summary if isinstance(summary, dict) else {}
    config = summary.get("config", document.get("config"))
    config = config if isinstance(config, dict) else {}
    model_path = str(config.get("model_path") or config.get("model") or "")
    length = whole(config.get("max_new_tokens"))
    judged = [entry["correct"] for entry in listed if isinstance(entry.get("correct"), bool)]
    accuracy = number(summary.get("accuracy"))
    warnings: list[str] = []
    if accuracy is not None and len(judged) == len(listed) and abs(accuracy - sum(judged) / len(judged)) > 1e-9:
        warnings.append(f"accuracy: published {accuracy}, but {sum(judged)} of {len(judged)} samples are judged right")
    undone = [whole(entry.get("num_backtracks")) for entry in listed]
    if importers.UNDO_NAME.search(model_path) and not any(options.has_undo(sample["answer"]) for sample in samples):
        counted = "" if None in undone else f" (the file counts {sum(n or 0 for n in undone)} of them)"
        warnings.append(
            "undo tokens lost: the model was trained to take tokens back, but none is left in the texts"
            f"{counted}; whether and what it took back cannot be told"
        )
    cut = [
        length is not None and (tokens := whole(entry.get("tokens_generated"))) is not None and tokens >= length
        for entry in listed
    ]
    known = length is not None and all(whole(entry.get("tokens_generated")) is not None for entry in listed)
    for sample, ended in zip(samples, cut, strict=True):
        sample["finish"] = ("max_steps" if ended else "eos") if known else None
    decode = _decoding(config, str(summary.get("mode") or ""), length)
    if decode.get("do_sample"):
        warnings.append("sampled decoding: another run of the same model gives other answers")
    return Found(
        tool="evaluation script (JSON with samples)",
        files=(path,),
        part="samples",
        model=options.model or importers.name_of(model_path),
        dataset=options.dataset or importers.UNKNOWN,
        method="sft" if importers.UNDO_NAME.search(model_path) else "vanilla",
        config=importers.name_of(summary.get("mode"), "generated"),
        items=_Stream(tuple(samples), options),
        expected=len(samples),
        exact_match={},
        item_definitions={"accuracy": "judgement published with the answers"} if judged else {},
        settings={"decode": decode} if decode else {},
        seed=whole(config.get("seed")) or 0,
        warnings=tuple(warnings),
        facts={
            "samples": len(samples),
            "published": {
                shortened(str(key), 60): value
                for key, value in summary.items()
                if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            },
        }
        | ({"model_path": shortened(model_path, 200)} if model_path else {}),
    )


def _decoding(config: Mapping[str, Any], mode: str, length: int | None) -> dict[str, Any]:
    found: dict[str, Any] = {} if length is None else {"max_new_tokens": length}
    temperature = number(config.get("temperature"))
    if mode == "greedy" or temperature == 0:
        found["do_sample"] = False
    elif temperature:
        found |= {"do_sample": True, "temperature": temperature}
    return found


def _sample(at: int, entry: object) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise ForeignError(f"sample {at}: expected an object, got {type(entry).__name__}")
    answer = next((entry[key] for key in ANSWERS if isinstance(entry.get(key), str)), None)
    reference = next((entry[key] for key in REFERENCES if isinstance(entry.get(key), str | int | float)), None)
    question = next((entry[key] for key in QUESTIONS if isinstance(entry.get(key), str)), None)
    if answer is None or reference is None or question is None:
        raise ForeignError(
            f"sample {at}: expected a question, a reference ({', '.join(REFERENCES)}) and an answer "
            f"({', '.join(ANSWERS)}), got {importers.keys_of(entry)}"
        )
    return {"question": question, "reference": str(reference), "answer": answer, "correct": entry.get("correct")}


@dataclass(frozen=True)
class _Stream:
    """The samples of a document that is small enough to be in memory."""

    samples: tuple[dict[str, Any], ...]
    options: Options

    def __call__(self) -> Iterator[Item]:
        for at, sample in enumerate(self.samples):
            correct = sample["correct"]
            yield Item(
                Sample(
                    key=str(at),
                    question=sample["question"],
                    label=self.options.marked(sample["reference"]),
                    predict=self.options.marked(sample["answer"]),
                    finish_reason=sample["finish"],
                ),
                scores={"accuracy": 100.0 * correct} if isinstance(correct, bool) else {},
            )
