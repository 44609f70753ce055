"""How long a large lab takes to list: it is made first, then `unsay status` is measured as a process of its own.

    python benchmarks/lab.py                       # 10,000 experiments of 1,319 answers each, in a temporary folder
    python benchmarks/lab.py --folder big --keep   # the same in a folder that stays, to try other commands on

Every experiment has a record and metrics of its own. The files with a line per answer (samples, traces, prompts,
scores, predictions: 10 MB) are written once and have as many names as there are experiments, so that the lab shows
100 GB and takes 0.2. Processor time is user and system time of the whole process, memory its highest resident size.
"""

from __future__ import annotations

import argparse
import errno
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from unsay.records import Attempt, Counts, ExperimentRecord, ItemScores, Key, MetricValue, Prompt, Trace, short_hash
from unsay.settings import Decode, Prompting, Training
from unsay.store import layout, write

EXPERIMENTS, ITEMS = 10_000, 1_319
MODELS = ("qwen3-4b", "qwen3-0.6b", "llama-3.2-3b", "mine-1", "mine-2")
DATASETS = ("gsm8k", "math500")
SEEDS = 10
SAMPLES = "samples_gsm8k_2026-01-01T00-00-00.000000.jsonl"
START = datetime(2026, 1, 1, tzinfo=UTC)
MEASURED = """
import sys, time
from unsay import cli
code = cli.main(sys.argv[1:])
spent = time.process_time()
peak = next((line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")), "0")
print(f"@ {spent} {int(peak) * 1024}", file=sys.stderr)
sys.exit(code)
"""


@dataclass(frozen=True)
class Spent:
    """What one process took: seconds of the processor, seconds on the clock, bytes at most; and what it printed."""

    processor: float
    clock: float
    peak: int
    printed: str

    def __str__(self) -> str:
        return f"{self.processor:.2f} s of the processor, {self.clock:.2f} s, {self.peak / 2**20:.0f} MiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=EXPERIMENTS)
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="make the lab here")
    parser.add_argument("--keep", action="store_true", help="leave the lab where it is")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="unsay-lab-"))
    lab = folder / "outputs"
    try:
        began = time.monotonic()
        make(lab, options.experiments, options.items)
        print(f"made {options.experiments} experiments of {options.items} answers in {time.monotonic() - began:.0f} s")
        measure(lab, options.experiments, options.rounds)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)


# -- the lab --------------------------------------------------------------------------------------------------------


def make(lab: Path, experiments: int, items: int) -> None:
    """Write a lab of so many finished experiments."""
    prepared = lab.parent / "prepared"
    prepare(prepared, items)
    for number in range(experiments):
        add(lab, number, items, prepared)


def add(lab: Path, number: int, items: int, prepared: Path) -> Path:
    """Write one finished experiment."""
    record = record_of(number, items)
    parts = (record.model, record.dataset, record.method, record.config, f"seed_{record.seed}")
    folder = lab.joinpath(*parts)
    folder.mkdir(parents=True)
    (folder / layout.EXPERIMENT).write_text(json.dumps(record.to_json(), indent=2) + "\n")
    (folder / layout.METRICS).write_text(json.dumps(metrics_of(number, items), indent=2) + "\n")
    for file in prepared.iterdir():
        link(file, folder / file.name)
    return folder


def link(file: Path, name: Path) -> None:
    """Give a file another name; where it has as many as its file system allows, go on with a copy."""
    try:
        name.hardlink_to(file)
    except OSError as error:
        if error.errno not in (errno.EMLINK, errno.EPERM, errno.EXDEV):
            raise
        shutil.copy(file, name)
        file.unlink()
        file.hardlink_to(name)


def record_of(number: int, items: int) -> ExperimentRecord:
    each, seed = divmod(number, SEEDS)
    model, dataset = MODELS[each % len(MODELS)], DATASETS[each // len(MODELS) % len(DATASETS)]
    setting = each // (len(MODELS) * len(DATASETS))
    training = replace(Training(), learning_rate=1e-5 * (setting + 1))
    start = START + timedelta(minutes=number)
    end = start + timedelta(minutes=20)
    failed = number % 50 == 49
    attempt = Attempt(
        start.isoformat(),
        "node7",
        4000 + number,
        "6f1d9b0e-0000-4000-8000-000000000000",
        end.isoformat(),
        "failed" if failed else "completed",
        "out of disk" if failed else None,
        hardware={"platform": "Linux-6.1-x86_64", "cpus": 64, "device": "cuda", "dtype": "auto", "batch_size": None},
        versions=dict.fromkeys(("python", "unsay", "torch", "transformers", "peft", "datasets", "lm_eval"), "1.2.3"),
        timings={"data": 12.5, "train": 900.25, "evaluate": 287.125},
    )
    settings = {
        "prompting": asdict(Prompting()),
        "decode": asdict(Decode()),
        "training": asdict(training),
        "undo": None,
    }
    return ExperimentRecord(
        id=f"EXP-{number + 1:03d}",
        model=model,
        dataset=dataset,
        method="sft",
        config=f"lora/train+lr{training.learning_rate:g}",
        seed=seed,
        status="failed" if failed else "completed",
        identity=f"{number:064x}",
        spec={"format": 1, "model": {"hub": f"someone/{model}"}, "settings": settings, "seed": seed},
        hashes=dict.fromkeys(("data", "train", "eval"), f"{number:064x}"),
        notes="the best of this sweep so far" if number % 97 == 0 else "",
        items=items,
        start=start.isoformat(),
        end=end.isoformat(),
        attempts=(attempt,),
        files={"samples": SAMPLES, "predictions": layout.PREDICTIONS},
        facts={"dtype": "bfloat16", "scored": items, "prompt_0": "Question: how many apples are left? " * 40},
    )


def metrics_of(number: int, items: int) -> dict[str, Any]:
    names = {
        "exact_match_strict": "lm-eval gsm8k v3 strict-match",
        "exact_match_flexible": "lm-eval gsm8k v3 flexible-extract",
        "bleu4_lf": "LLaMA-Factory predict_bleu-4 v1",
        "rouge_1_lf": "LLaMA-Factory predict_rouge-1 v1",
        "rouge_2_lf": "LLaMA-Factory predict_rouge-2 v1",
        "rouge_l_lf": "LLaMA-Factory predict_rouge-l v1",
        **{f"undo_{at}": "unsay undo v1: something that is counted" for at in range(14)},
    }
    value = 40 + number % 4000 / 100
    found = MetricValue(value, 1.25, value - 2.45, value + 2.45, items, "")
    metrics = {name: replace(found, definition=definition).to_json() for name, definition in names.items()}
    return {"schema": 1, "n": items, "metrics": metrics}


def prepare(folder: Path, items: int) -> None:
    """Write the files that have a line per answer."""
    folder.mkdir(parents=True, exist_ok=True)
    answer = "Tom has 12 apples and buys 7 more, so he has 12 + 7 = 19 apples. " * 4
    ids = tuple(range(100, 220))
    pieces = tuple(f" w{id}" for id in ids)
    counts = Counts(len(ids), len(ids), 0, 0, 0, 0, (), (), None)
    lines: dict[str, list[bytes]] = {}
    for item in range(items):
        question, label = f"Question {item}: how many apples does Tom have now?", f"So it is {item}.\n#### {item}"
        key = Key("gsm8k", item)
        trace = Trace(key, "0" * 64, "1" * 64, item, ids, pieces, ids, answer, "eos", counts, (-0.125,) * len(ids))
        scores = {"exact_match_strict": 100.0 * (item % 3 == 0), "exact_match_flexible": 100.0, "bleu4_lf": 34.5}
        doc = {"question": question, "answer": label}
        sample = {"doc_id": item, "doc": doc, "target": label, "resps": [[answer]], "exact_match": float(item % 3 == 0)}
        scored = ItemScores(str(item), short_hash(question), short_hash(label), scores)
        written = {
            layout.TRACES: [write.seal(trace.to_json())],
            layout.PROMPTS: [write.seal(Prompt(key, question * 8, ids, pieces, "0" * 64).to_json())],
            layout.SCORES: [write.json_line(scored.to_json())],
            layout.PREDICTIONS: [write.json_line({"prompt": question, "predict": answer, "label": label})],
            SAMPLES: [write.json_line(sample | {"filter": name}) for name in ("strict-match", "flexible-extract")],
        }
        for name, found in written.items():
            lines.setdefault(name, []).extend(found)
    for name, found in lines.items():
        (folder / name).write_bytes(b"".join(found))


# -- the measurements -----------------------------------------------------------------------------------------------


def measure(lab: Path, experiments: int, rounds: int) -> None:
    index = lab / layout.INDEX
    index.unlink(missing_ok=True)
    print(f"no index:        {run('status', '-o', str(lab))}; it is {index.stat().st_size / 2**20:.1f} MiB now")
    time.sleep(2.5)  # what was written just now is read again
    run("status", "-o", str(lab))
    several = [run("status", "-o", str(lab)) for _ in range(rounds)]
    shown = sum(line.startswith("EXP-") for line in several[0].printed.splitlines())
    processor = [each.processor for each in several]
    print(f"warm, {shown} shown:  {statistics.median(processor):.2f} s of the processor ({min(processor):.2f} to "
          f"{max(processor):.2f}), {several[-1].peak / 2**20:.0f} MiB")  # fmt: skip
    print(f"one model:       {run('status', '-o', str(lab), '--model', MODELS[1])}")
    added = add(lab, experiments, 0, lab.parent / "prepared")
    one = run("status", "-o", str(lab))
    assert f"EXP-{experiments + 1:03d}" in one.printed, "the new result is not in the table"
    print(f"one result more: {one}")
    shutil.rmtree(added)
    print(f"--json, all:     {run('status', '-o', str(lab), '--json')}")


def run(*arguments: str) -> Spent:
    """Run a command in a process of its own."""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", MEASURED, *arguments], capture_output=True, text=True, check=True)
    processor, peak = done.stderr.rpartition("@ ")[2].split()
    return Spent(float(processor), time.monotonic() - began, int(peak), done.stdout)


if __name__ == "__main__":
    main()
