"""Labs to be broken: the demo's four experiments in small, run by processes that start at once and can be killed.

The processes are forked from one that has imported everything: importing takes longer than all the work.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from unsay.datasets import wordproblems
from unsay.store import layout, read

ITEMS = 8
STEPS = 6
SLOTS = 2

_IMPORTED = [
    "torch", "transformers", "peft", "lm_eval", "lm_eval.models", "lm_eval.tasks", "lm_eval.loggers", "accelerate",
    "datasets", "matplotlib.figure", "unsay.cli.run", "unsay.runner", "unsay.methods.sft", "unsay.methods.vanilla",
    "unsay.executors.inline", "unsay.train.sft", "unsay.metrics", "tests.crash",
]  # fmt: skip


def make_lab(folder: Path, *, experiments: int = 4, **settings: Any) -> Path:
    """Write data and the experiment file; `settings` go over those of the trainings."""
    (folder / "data").mkdir(parents=True)
    for split, count in (("train", 40), ("test", ITEMS)):
        rows = wordproblems.generate(split, count)
        (folder / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = {
        "lora_rank": 4, "learning_rate": 4.0e-3, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1,
        "max_steps": STEPS, "save_steps": 1, "logging_steps": 1, "decode": {"max_new_tokens": 16}, **settings,
    }  # fmt: skip
    undo = {"strategy": "arithmetic_slip", "rate": 0.3, "min_errors_per_answer": 0, "clean_share": 0.3}
    base = {"model": "unsay-tiny", "dataset": "own"}
    sft = base | {"method": "sft"}
    document = {
        "datasets": {"own": {"path": "./data"}},
        "configs": {"lora/train": train, "lora/train_bt": {"undo": undo}},
        "experiments": [
            base | {"id": "EXP-001", "method": "vanilla", "config": "fewshot_8", "decode": {"max_new_tokens": 16}},
            sft | {"id": "EXP-002", "config": "lora/train"},
            sft | {"id": "EXP-003", "config": "lora/train_bt"},
            sft | {"id": "EXP-004", "config": "lora/train_bt_unmasked"},
        ][:experiments],
    }
    (folder / "lab.yaml").write_text(json.dumps(document, indent=1))  # JSON is YAML
    return folder


class Nursery:
    """Starts `unsay` in process groups of their own."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_IMPORTED)
        self._started: list[ForkServerProcess] = []

    def start(self, folder: Path, *arguments: str, inside: Callable[[], None] | None = None) -> ForkServerProcess:
        """Run a command in `folder`; its output goes to output.txt there. `inside` is called in the process first."""
        process = self._context.Process(target=_run, args=(folder, arguments, inside))
        process.start()
        self._started.append(process)
        return process

    def end(self) -> None:
        for process in self._started:
            kill(process)


def run_arguments(executor: str = "inline") -> tuple[str, ...]:
    return ("run", "lab.yaml", "--device", "cpu", "--batch-size", str(SLOTS), "--executor", executor)


def _run(folder: Path, arguments: tuple[str, ...], inside: Callable[[], None] | None) -> None:
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests themselves run under nohup
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, target)
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    import torch

    from unsay import cli

    torch.set_num_threads(1)
    if inside is not None:
        inside()
    code = cli.main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def kill(process: ForkServerProcess) -> None:
    """Kill a process and everything it started."""
    with suppress(ProcessLookupError, PermissionError):
        assert process.pid is not None
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def complete_lines(path: Path) -> bytes:
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1]


def folders(lab: Path) -> dict[str, Path]:
    """Return the folders of the experiments by their ids."""
    return {entry.name: entry.folder for entry in read.find(lab / "outputs")}


# -- equal to an undisturbed run ----------------------------------------------------------------------------------

_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d[:-]\d\d[:-]\d\d(\.\d+)?(%2B|[+-])?(\d\d:?\d\d)?")
_LOG = re.compile(r", \[log\]\([^)]*\)")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")


def normalised_page(lab: Path) -> list[str]:
    """Return the page without what a kill may change: times, dates, the lines about attempts, the last one's log."""
    lines = (lab / layout.PAGE).read_text(encoding="utf-8").split("\n")
    kept = [line for line in lines if not line.startswith(("- **Last attempt**", "- **Took**"))]
    return [_DAY.sub("DATE", _MOMENT.sub("TIME", _LOG.sub("", line))) for line in kept]


def results(lab: Path, *ids: str) -> dict[str, bytes]:
    """Return what the experiments (all, unless some are named) found, byte by byte; times in file names aside."""
    found = {}
    for id, folder in folders(lab).items():
        if ids and id not in ids:
            continue
        record = read.record(folder)
        assert record is not None
        assert record.status == "completed", (id, record.attempts[-1].error)
        samples = read.samples_file(folder, record)
        assert samples is not None
        for name, path in {
            "metrics": folder / layout.METRICS,
            "samples": samples,
            "scores": folder / layout.SCORES,
            "predictions": folder / layout.PREDICTIONS,
        }.items():
            found[f"{id} {name}"] = path.read_bytes()
    return found


def wait_for(condition: Callable[[], object], process: ForkServerProcess, patience: float = 120.0) -> bool:
    """Wait until something is so; say whether it was before the process ended."""
    deadline = time.monotonic() + patience
    while not condition():
        if not process.is_alive():
            return False
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.002)
    return True
